"""The checkpoints of a run or a folder: which files, in which order, and one clear line where one has no place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import attribkit
from attribkit.errors import AttribkitError

NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return "./net.py:build"


def saved(path: Path, value: float) -> Path:
    """Weights that are all of this value."""
    path.parent.mkdir(exist_ok=True)
    state = {"0.weight": torch.full((4, 3, 3, 3), value), "0.bias": torch.zeros(4)}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    elif path.suffix == ".ckpt":  # as a training script writes it
        torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, path)
    else:
        torch.save(state, path)
    return path


def loaded(found: list[attribkit.Checkpoint]) -> list[tuple[int, str, float]]:
    """Number, name and the value of the weights."""
    every: list[tuple[int, str, Any]] = [(each.number, each.name, each.load()) for each in found]
    return [(number, name, float(of.model[0].weight.detach().mean())) for number, name, of in every]


def test_files_come_in_the_order_of_their_numbers(tmp_path: Path, model: str) -> None:
    """Of every kind; 10 comes after 9, whatever other numbers the names have; a log is not meant."""
    names = ("net18-epoch10-acc0.91.pth", "net18-epoch9-acc0.93.safetensors", "net18-epoch100-acc0.90.ckpt")
    for name, value in zip(names, (10.0, 9.0, 100.0), strict=True):
        saved(tmp_path / "run" / name, value)
    (tmp_path / "run" / "log.txt").write_text("words")
    expected = [(9, names[1], 9.0), (10, names[0], 10.0), (100, names[2], 100.0)]
    assert loaded(attribkit.checkpoints("run", model)) == expected
    assert loaded(attribkit.checkpoints(tmp_path / "run" / "net18*0*", model)) == expected
    assert loaded(attribkit.checkpoints("run/*epoch1*", model)) == expected[1:]


def of_a_run(folder: Path, **changes: Any) -> None:
    """A folder as `attribkit train strided_cnn_c --epochs 5 --keep-epochs 1,2` leaves it, but for the weights."""
    folder.mkdir()
    for name in (
        "epoch-001.safetensors",
        "epoch-002.safetensors",
        "strided_cnn_c.safetensors",
        "checkpoint.pt",
        "lock",
    ):
        (folder / name).touch()
    described: dict[str, Any] = {"model": "strided_cnn_c", "recipe": {"epochs": 5}, **changes}
    (folder / "run.json").write_text(json.dumps(described))


def test_a_run_has_its_kept_epochs_and_the_last_one(tmp_path: Path) -> None:
    """And not the file from which training goes on; the last one once, where it was kept as well."""
    of_a_run(tmp_path / "run")
    found = attribkit.checkpoints(tmp_path / "run")
    names = ["epoch-001.safetensors", "epoch-002.safetensors", "strided_cnn_c.safetensors"]
    assert [(each.number, each.name) for each in found] == list(zip((1, 2, 5), names, strict=True))
    (tmp_path / "run" / "epoch-005.safetensors").touch()
    assert [each.name for each in attribkit.checkpoints(tmp_path / "run")][2:] == ["epoch-005.safetensors"]


def nothing(tmp_path: Path) -> None:
    pass


def one(tmp_path: Path) -> None:
    saved(tmp_path / "run" / "epoch-1.pt", 1)


def without_number(tmp_path: Path) -> None:
    for name in ("epoch-1.pt", "epoch-2.pt", "best.pt"):
        saved(tmp_path / "run" / name, 1)


def twice(tmp_path: Path) -> None:
    for name in ("epoch-1.pt", "epoch-2.pt", "epoch-2-ema.pt"):
        saved(tmp_path / "run" / name, 1)


def unfinished(tmp_path: Path) -> None:
    of_a_run(tmp_path / "run")
    for file in (tmp_path / "run").glob("*.safetensors"):
        file.unlink()


def damaged(tmp_path: Path) -> None:
    of_a_run(tmp_path / "run", recipe=7)


@pytest.mark.parametrize(
    ("path", "made", "words"),
    [
        ("run", nothing, "run does not exist"),
        ("net.py", nothing, "is a file: give its folder, or a pattern"),
        ("run/*.pt", nothing, "holds 0 checkpoints, and two are needed"),
        ("run", one, "holds 1 checkpoint, and two are needed"),
        ("run", without_number, "best.pt has no number that says when it was made"),
        ("run", twice, "epoch-2-ema.pt and epoch-2.pt both have the number 2"),
        ("run", unfinished, "holds 0 checkpoints, and two are needed: train with --keep-epochs"),
        ("run", damaged, "run.json is not what attribkit train writes"),
    ],
)
def test_what_cannot_be_put_in_order_is_one_clear_line(
    tmp_path: Path, model: str, path: str, made: Callable[[Path], None], words: str
) -> None:
    made(tmp_path)
    with pytest.raises(AttribkitError, match=words) as raised:
        attribkit.checkpoints(path, None if (tmp_path / path / "run.json").exists() else model)
    assert "\n" not in str(raised.value)


def test_a_folder_needs_a_model(tmp_path: Path) -> None:
    for number in (1, 2):
        saved(tmp_path / "run" / f"{number}.pt", number)
    with pytest.raises(AttribkitError, match="does not say of which network"):
        attribkit.checkpoints(tmp_path / "run")


def test_a_file_that_does_not_fit_is_named_before_any_work(tmp_path: Path, model: str) -> None:
    """No image is read for those that fit."""
    for number in (1, 2):
        saved(tmp_path / "run" / f"{number}.pt", number)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "run" / "3.pt")
    with pytest.raises(AttribkitError, match=r"run/3\.pt does not fit Sequential"):
        attribkit.evolve(attribkit.checkpoints("run", model), "no data", layer="1")


def test_a_file_is_not_run(tmp_path: Path, model: str) -> None:
    """A pickle that would do something is refused, by its name."""
    saved(tmp_path / "run" / "1.pt", 1)

    class Harmful:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "harm").touch, ())

    torch.save({"0.weight": Harmful()}, tmp_path / "run" / "2.pt")
    with pytest.raises(AttribkitError, match=r"2\.pt is not a weight file, or holds more than tensors"):
        attribkit.checkpoints("run", model)[1].load()
    assert not (tmp_path / "harm").exists()
