"""Why a network cannot take images, said of the images: torch speaks of weights and kernels that nobody asked about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from attribkit.errors import AttribkitError, BadType, BadValue

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TOO_SMALL = ("greater than actual input size", "output size is too small", "non-zero size", "should be greater than")
_OTHER_SIZE = ("shapes cannot be multiplied", "size of tensor a", "normalized_shape", "doesn't match model")


@contextmanager
def said_of_images(model: Any, images: Tensor) -> Iterator[None]:
    """Run a network; where it fails on images that do not fit it, say how they do not, and what to do."""
    try:
        yield
    except AttribkitError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        why = _misfit(model, images, str(error)) if isinstance(model, nn.Module) else None
        if why is None:
            raise
        kind = BadType if ".to(" in why else BadValue
        raise kind(f"{why} ({type(error).__name__}: {' '.join(str(error).split())})") from error


def _misfit(model: nn.Module, images: Tensor, said: str) -> str | None:
    """What is wrong with images, as far as it can be seen; None where they seem to be all right."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    types, devices = {weight.dtype for weight in weights}, {weight.device for weight in weights}
    if len(devices) == 1 and images.device not in devices:
        device = next(iter(devices))
        return f"images are on {images.device} and the model is on {device}: write images.to({str(device)!r})"
    if len(types) == 1 and images.dtype not in types:
        wanted = next(iter(types))
        return f"images are of {images.dtype} and the model's weights of {wanted}: write images.to({wanted})"
    return _wrong_channels(model, images) or _wrong_size(images, said.lower())


def _wrong_channels(model: nn.Module, images: Tensor) -> str | None:
    first = next((module for module in model.modules() if isinstance(module, _CONVOLUTIONS)), None)
    if first is None or images.dim() != first.weight.dim() or images.shape[1] == first.in_channels:
        return None
    takes, shape = first.in_channels, "x".join(map(str, images.shape))
    if images.shape[-1] == takes:
        return f"images of {shape} have their {takes} channels last: write images.movedim(-1, 1)"
    grey = "; write images.expand(-1, 3, -1, -1) for grey ones" if (images.shape[1], takes) == (1, 3) else ""
    return f"images of {shape} do not have the {takes} channels that the network takes{grey}"


def _wrong_size(images: Tensor, said: str) -> str | None:
    size = "x".join(map(str, images.shape[2:]))
    if any(words in said for words in _TOO_SMALL):
        return f"images of {size} are too small for this network: give it larger ones"
    if any(words in said for words in _OTHER_SIZE):
        return f"the network is made for images of another size than {size}: resize them"
    return None
