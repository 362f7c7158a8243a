"""The model is never changed: not by anything that looks at it, and not by what goes wrong meanwhile."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from oracles import state_digest
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torture import SHARE, Tried, times

import attribkit

SMALL = re.compile(
    r"(tiny|nano|pico|femto|atto|micro|mini|small|_xx?s|resnet_?(10|14|18|26|34|50)|resnext50|_[ab][01]$|lite0|_00[2468]|400mf"
    r"|fbnet|mnasnet|mixnet_s|ghostnet_|hardcore|lcnet|squeezenet|shufflenet|googlenet|alexnet|vgg11|densenet121|mobile|dla34|res2net50"
    r"|inception_v3|cspresnet50|darknet|edgenext|levit|repvgg|selecsls|spnas|poolformer_s12|pit_ti|coat_)"
)
LARGE = re.compile(
    r"mobilenetv5|_dinov[23]|lingbot|repvgg_[bd]|darknet53|skresnext|huge|giant|large|_base|base_|1[0-9][0-9]|[2-9][0-9][0-9]d?(_|$)|quantized|clip|gemma|sam|_[lbh]_|_b[3-8]"
)
CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


def architectures(count: int) -> list[str]:
    """Some of both libraries, the same every time; large ones would take the time of ten others."""
    names = [f"torchvision:{name}" for name in torchvision.models.list_models(module=torchvision.models)]
    names += [f"timm:{name}" for name in timm.list_models()]
    small = [name for name in names if SMALL.search(name) and not LARGE.search(name)]
    return random.Random(0).sample(small, count)


@pytest.mark.parametrize("name", architectures(times(200)))
def test_looking_at_a_model_leaves_it_as_it_was(name: str, tried: Tried) -> None:
    """Every tensor with its place, version and gradient, every mode, hook and attribute."""
    torch.manual_seed(0)
    loaded = attribkit.load(name, weights="none")
    model = loaded.model.train()
    images = loaded.preprocess(CAT)[None]
    before = state_digest(model)
    try:
        net = attribkit.rewrite(model, "guided", activations="all")
    except attribkit.AttribkitError:
        net = None
    assert state_digest(model) == before
    for look in () if net is None else LOOKS.values():
        with contextlib.suppress(attribkit.AttribkitError):  # refused, and that is all that happened
            look(loaded, images)
        assert state_digest(model) == before, look
    tried("architectures that were rewritten, explained, recorded, covered", 1)


def last_convolution(model: nn.Module) -> str:
    """Or whatever is last."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return names[-1] if names else [name for name, _ in model.named_modules()][-1]


LOOKS: dict[str, Callable[[Any, Tensor], object]] = {
    "class": lambda loaded, x: attribkit.explain(loaded, x, method=["guided", "deconvnet"], activations="all"),
    "layer": lambda loaded, x: attribkit.explain(loaded, x, layer=last_convolution(loaded.model), activations="all"),
    "switches": lambda loaded, x: attribkit.record_switches(loaded.model, x),
    "occlusion": lambda loaded, x: attribkit.occlude(loaded, x, window=112, stride=112, fill=0),
}


class Net(nn.Module):
    """Held and called activations, in place and not, pools, a norm, a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.pool, self.conv, self.head = nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.norm(self.stem(x))))
        x = torch.relu(x + self.conv(x))
        return self.head(nn.functional.max_pool2d(x, 2).mean((2, 3)))


class Stop(TorchDispatchMode):
    """Raises at an operation of torch, counted from one."""

    def __init__(self, at: int, error: BaseException | None) -> None:
        super().__init__()
        self.at, self.error, self.seen = at, error, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        if self.error is not None and self.seen == self.at:
            raise self.error
        return function(*args, **(kwargs or {}))


def explained(model: nn.Module, images: Tensor) -> list[Tensor]:
    results = attribkit.explain(model, images, method=["guided", "deconvnet", "backprop"], layer="conv", at=(2, 2))
    return [result.values for result in results.values()]


@pytest.mark.parametrize(
    "error", [RuntimeError("out of the blue"), KeyboardInterrupt(), torch.OutOfMemoryError("full")]
)
def test_what_is_thrown_at_any_operation_leaves_model_and_library_as_they_were(
    error: BaseException, tried: Tried
) -> None:
    """In the passes of a first explanation, and in those of a later one; the next is right again.

    An error while receptive fields are looked for may be passed over: the whole image is explained then, as rightly.
    """
    torch.manual_seed(0)
    model, images = Net(), torch.randn(2, 3, 12, 12)
    expected = explained(model, images)
    with Stop(0, None) as counted:
        explained(model, images)
        attribkit.explain(fresh(model), images)
    before, count = state_digest(model), 0
    for at in range(1, counted.seen + 1, max(1, round(1 / SHARE))):
        for victim in (model, fresh(model)):
            own = state_digest(victim)
            with Stop(at, error) as stop, contextlib.suppress(type(error), attribkit.AttribkitError):
                while stop.seen < at:
                    found = explained(victim, images)
                for one, other in zip(found, expected, strict=True):
                    torch.testing.assert_close(one, other)
                assert not isinstance(error, KeyboardInterrupt)
            assert state_digest(victim) == own
            assert all(map(torch.equal, explained(victim, images), expected))
            count += 1
    assert state_digest(model) == before
    tried(f"{type(error).__name__} thrown at an operation of a pass", count)


def fresh(model: Net) -> Net:
    """The same again, of which nothing is known yet."""
    other = Net()
    other.load_state_dict(model.state_dict())
    return other
