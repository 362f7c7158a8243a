"""Weight files in the shapes that are found in the wild."""

from __future__ import annotations

import argparse
import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from attribkit.adapters.weights import WeightsError, load_weights, read_weights


def net() -> nn.Sequential:
    """A net with a batch norm, whose counter is the odd one out in state dicts."""
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), head=nn.Linear(4, 2)))


def state(fill: float = 0.5) -> dict[str, Tensor]:
    """Weights that are told apart by their value."""
    return {
        key: torch.full_like(tensor, fill) if tensor.is_floating_point() else tensor
        for key, tensor in net().state_dict().items()
    }


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def assert_filled(model: nn.Module, fill: float = 0.5) -> None:
    """Every weight of the model has the value."""
    assert all(bool((tensor == fill).all()) for tensor in model.state_dict().values() if tensor.is_floating_point())


SHAPES: dict[str, Any] = {
    "bare": state(),
    "ordered": OrderedDict(state()),
    "state_dict": {"epoch": 3, "state_dict": state(), "optimizer": {"state": {}, "param_groups": []}},
    "model": {"model": state(), "args": argparse.Namespace(lr=0.1), "scaler": None},
    "model_state_dict": {"model_state_dict": state(), "loss": 0.25},
    "nested": {"model": {"state_dict": state()}},
    "DataParallel": prefixed("module.", state()),
    "compiled": prefixed("_orig_mod.", state()),
    "compiled and parallel": {"state_dict": prefixed("module._orig_mod.", state())},
    "parallel and compiled": {"state_dict": prefixed("_orig_mod.module.", state())},
    "a part compiled": {key.replace("conv.", "conv._orig_mod."): tensor for key, tensor in state().items()},
    "timm's EMA": {"state_dict": state(7.0), "state_dict_ema": state()},
    "torchvision's EMA": {
        "model": state(7.0),
        "model_ema": {"n_averaged": torch.tensor(5), **prefixed("module.", state())},
    },
    "EMA not kept": {"state_dict": state(), "state_dict_ema": None},
    "half precision": {key: tensor.half() for key, tensor in state().items()},
    "without counters": {key: tensor for key, tensor in state().items() if "num_batches" not in key},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_in_every_shape_fill_the_model(shape: str, zipped: bool, tmp_path: Path) -> None:
    """Of averaged and plain weights, the averaged ones."""
    torch.save(SHAPES[shape], tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    model = net()
    load_weights(model, tmp_path / "w.pth")
    assert_filled(model)


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    """Whatever the file is called."""
    for name in ("w.safetensors", "w.bin"):
        save_file(prefixed("module.", state()), tmp_path / name)
        model = net()
        load_weights(model, str(tmp_path / name))
        assert_filled(model)


def test_counters_that_the_model_has_not_are_passed_over(tmp_path: Path) -> None:
    """Frozen batch norms keep none, and a forward pass in eval mode reads none."""
    torch.save({**state(), "frozen.num_batches_tracked": torch.tensor(3)}, tmp_path / "w.pth")
    model = net()
    load_weights(model, tmp_path / "w.pth")
    assert_filled(model)


def test_a_model_whose_own_part_is_called_module_keeps_the_name(tmp_path: Path) -> None:
    """Its keys begin with what is a prefix elsewhere."""
    model = nn.Sequential(OrderedDict(module=nn.Linear(2, 1)))
    torch.save({key: torch.ones_like(tensor) for key, tensor in model.state_dict().items()}, tmp_path / "w.pth")
    load_weights(model, tmp_path / "w.pth")
    assert_filled(model, 1.0)


def without(*keys: str, **more: Tensor) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state().items() if key not in keys} | more


MISFITS = {
    "missing": (without("head.bias", "conv.bias"), r"2 missing \(conv\.bias, head\.bias\)$"),
    "unknown": (without(extra=torch.ones(1)), r"1 unknown to the model \(extra\)$"),
    "many": (prefixed("x.", state()), r"8 missing \(conv\.weight, .*, \.\.\.\), 8 unknown to the model \(x\.conv"),
    "another size": (
        without() | {"head.weight": torch.ones(5, 4)},
        r"1 of another shape \(head\.weight is 5x4 and should be 2x4\); .* classes=N$",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_what_does_not_fit_is_listed_and_nothing_is_loaded(kind: str, tmp_path: Path) -> None:
    """The first three and how many, in one line that begins with the file."""
    content, message = MISFITS[kind]
    torch.save(content, tmp_path / "w.pth")
    model = net()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(model, tmp_path / "w.pth")
    assert str(caught.value).startswith(f"{tmp_path / 'w.pth'} does not fit Sequential: ")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


class Evil:
    """Would write a file if anybody unpickled it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("was-run", "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_not_opened(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused in one line, and nothing has run."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="holds more than tensors") as caught:
        read_weights("w.pth")
    assert "\n" not in str(caught.value)
    assert not Path("was-run").exists()


def whole_checkpoint() -> bytes:
    """The bytes of a checkpoint in torch's current format."""
    buffer = io.BytesIO()
    torch.save(state(), buffer)
    return buffer.getvalue()


BAD_FILES = {
    "empty": b"",
    "text": b"hello, these are no weights at all",
    "cut checkpoint": whole_checkpoint()[:1000],
    "cut safetensors": (200).to_bytes(8, "little") + b'{"a":{"dtype":"F32"',
    "a pickled number": pickle.dumps(3, protocol=2),
    "a page": b"<!DOCTYPE html><html>404</html>",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_damaged_files_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    """The line names the file."""
    (tmp_path / "w.pth").write_bytes(BAD_FILES[kind])
    with pytest.raises(WeightsError) as caught:
        read_weights(tmp_path / "w.pth")
    assert str(caught.value).startswith(str(tmp_path / "w.pth"))
    assert "\n" not in str(caught.value)


def test_files_without_a_state_dict(tmp_path: Path) -> None:
    """A list of tensors, an optimizer's state, and no file at all."""
    for content in ([torch.ones(1)], {"optimizer": {"lr": 1}}, torch.ones(3)):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match="holds no state dict"):
            read_weights(tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"^there is no weight file defalt; weights are 'default', 'none' or a file$"
    ):
        read_weights("defalt")
