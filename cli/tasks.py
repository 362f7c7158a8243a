"""Tasks to time, each beside its floor, which is the arithmetic that cannot be saved, and beside Captum's way to it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn

from attribkit import Explainer, load
from attribkit.cli.comparison import quietly
from attribkit.cli.measuring import Ratio, Work, ratio, seconds_in_turns
from attribkit.engine.rewriting import rewrite
from attribkit.errors import BadValue
from attribkit.explaining.passes import gradient
from attribkit.studies.data import PictureSet
from attribkit.studies.survey import Survey
from attribkit.verify.checking import largest_difference
from attribkit.verify.referee import plain_copy

OURS, FLOOR, CAPTUM, EXACT = "attribkit", "floor", "Captum", "exact"
METHODS = ("backprop", "deconvnet", "guided")


@dataclass(frozen=True)
class Timed:
    """What a task took: ours over its floor, and over that of other tools which have a way; medians with quartiles.

    `off_by` is how far a map is from one in double precision, as a share of the largest value.
    """

    task: str
    floor: str
    milliseconds: float
    off_by: float | None
    by_floor: Ratio
    by_captum: Ratio | None
    by_others: Mapping[str, Ratio]


@dataclass(frozen=True)
class Task:
    """Ways to the same maps. `floor` says what the second of them is; one that is `EXACT` is not timed."""

    name: str
    floor: str
    ways: Callable[[], Mapping[str, Work]]
    captum_once: int = 1  # how many of what Captum does in one turn make the whole task

    def timed(self, rounds: int) -> Timed:
        """Take turns; everything runs once before, to warm up."""
        ways = dict(self.ways())
        exact = ways.pop(EXACT, None)
        off_by = None if exact is None else largest_difference(_values(ways[OURS]()), _values(exact()))
        for way in ways.values():
            way()
        taken = seconds_in_turns(ways, rounds, torch.device("cpu"))
        taken[CAPTUM] = [self.captum_once * seconds for seconds in taken.get(CAPTUM, [])]
        by_captum = ratio(taken, OURS, CAPTUM) if CAPTUM in ways else None
        by_others = {name: ratio(taken, OURS, name) for name in ways if name not in (OURS, FLOOR, CAPTUM)}
        middle = 1000 * sorted(taken[OURS])[rounds // 2]
        by_floor = ratio(taken, OURS, FLOOR)
        return Timed(self.name, self.floor, round(middle, 2), off_by, by_floor, by_captum, by_others)


def _values(result: Any) -> Tensor:
    return result.values


def network(name: str) -> nn.Module:
    """With random weights, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return load(name, "none").model.eval()


def noise(count: int = 1, side: int = 224) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def one_map(name: str, **options: Any) -> Mapping[str, Work]:
    """A class, beside its plain gradient."""
    model, x = network(name), noise()
    explainer, theirs = Explainer(model, "guided", **options), captum.attr.GuidedBackprop(plain_copy(model))
    return {
        OURS: lambda: explainer(x, target=1),
        EXACT: lambda: Explainer(copy.deepcopy(model).double(), "guided")(x.double(), target=1),
        FLOOR: lambda: gradient(lambda images: model(images)[:, 1].sum(), x),
        CAPTUM: quietly(lambda: theirs.attribute(x.clone().requires_grad_(), target=1)),
        **{name: way(plain_copy(model), x) for name, way in OTHERS.items() if find_spec(name.replace("-", "_"))},
    }


def by_zennit(model: nn.Module, x: Tensor) -> Work:
    """A guided map of a class."""
    from zennit.attribution import Gradient
    from zennit.composites import GuidedBackprop

    def work() -> object:
        with Gradient(model=model, composite=GuidedBackprop()) as attributor:
            return attributor(x.clone(), lambda output: torch.eye(output.shape[1])[[1]])[1]

    return work


def by_grad_cam(model: nn.Module, x: Tensor) -> Work:
    """A guided map of a class."""
    from pytorch_grad_cam import GuidedBackpropReLUModel

    theirs = GuidedBackpropReLUModel(model=model, device="cpu")
    return lambda: theirs(x.clone(), target_category=1)


OTHERS = {"zennit": by_zennit, "pytorch-grad-cam": by_grad_cam}
"""Tools that may be installed; each is right where every activation is an `nn.ReLU`."""


def units(name: str, layer: str, channels: list[int], at: tuple[int, int]) -> Mapping[str, Work]:
    """Some of a layer at a place, beside one plain gradient of the layer; by Captum the first of them."""
    model, x = network(name), noise()
    explainer = Explainer(model, "guided", layer=layer)
    copy = plain_copy(model)
    theirs = captum.attr.NeuronGuidedBackprop(copy, copy.get_submodule(layer))
    truncated = rewrite(model, "backprop")
    first = (channels[0], *at)
    place = (slice(None), *first)
    return {
        OURS: lambda: explainer(x, channels=channels, at=at),
        FLOOR: lambda: gradient(lambda images: truncated.forward_to(layer, images)[place].sum(), x),
        CAPTUM: quietly(lambda: theirs.attribute(x.clone().requires_grad_(), neuron_selector=first)),
    }


def three_methods(name: str) -> Mapping[str, Work]:
    """Together, beside one after the other."""
    model, x = network(name), noise()
    together, each = Explainer(model, METHODS), [Explainer(model, method) for method in METHODS]
    return {OURS: lambda: together(x, target=1), FLOOR: lambda: [explainer(x, target=1) for explainer in each]}


def a_batch(name: str, count: int) -> Mapping[str, Work]:
    """Beside what one would write by hand around the rewritten network."""
    model, x = network(name), noise(count)
    explainer, net = Explainer(model, "guided"), rewrite(model, "guided")

    def by_hand() -> Tensor:
        images = x.clone().requires_grad_()
        return torch.autograd.grad(net(images)[:, 1].sum(), images)[0]

    return {OURS: lambda: explainer(x, target=1), FLOOR: by_hand}


def a_large_photograph(side: int) -> Mapping[str, Work]:
    """One unit of it, beside the same unit of a small one."""
    model = network("all_cnn_c")
    explainer = Explainer(model, "guided", layer="conv6")
    large, small = noise(side=side), noise()
    return {
        OURS: lambda: explainer(large, channel=3, at=(20, 20)),
        FLOOR: lambda: explainer(small, channel=3, at=(20, 20)),
    }


def a_pass_over_images(count: int, precision: str | None = None) -> Mapping[str, Work]:
    """What a gallery of vgg16's features.10 does first, beside these layers alone; by Captum the layer's outputs."""
    model, x = network("vgg16"), noise(count)
    pictures = PictureSet([str(number) for number in range(count)], "noise", x.__getitem__)
    survey = Survey(model, pictures, ("features.10",), "max", keep=36, precision=precision)
    whole = plain_copy(model)
    layers = whole.get_submodule("features")[:11]  # type: ignore[index]
    theirs = captum.attr.LayerActivation(whole, whole.get_submodule("features.10"))

    def alone() -> Tensor:
        with torch.inference_mode():
            return torch.cat([layers(one[None]).amax((2, 3)) for one in x])

    def by_captum() -> Tensor:
        with torch.inference_mode():
            return torch.cat([theirs.attribute(one[None]).amax((2, 3)) for one in x])

    return {OURS: lambda: list(survey.done([0])), FLOOR: alone, CAPTUM: by_captum}


def tasks() -> Iterator[Task]:
    """All of them, from the smallest question to the largest."""
    for name in ("resnet18", "vgg16", "resnet50", "densenet121", "mobilenet_v2", "hrnet_w18_small"):
        yield Task(f"one map of {name}", "plain gradient", partial(one_map, name))
        yield Task(f"one fast map of {name}", "plain gradient", partial(one_map, name, fast=True))
        coarse = partial(one_map, name, fast=True, precision="bfloat16")
        yield Task(f"one fast bfloat16 map of {name}", "plain gradient", coarse)
    vgg, resnet = ("vgg16", "features.10"), ("resnet50", "layer3.2")
    yield Task("one unit of vgg16 features.10", "gradient of the layer", partial(units, *vgg, [5], (28, 28)))
    yield Task("one unit of resnet50 layer3.2", "gradient of the layer", partial(units, *resnet, [5], (7, 7)))
    many, some = partial(units, *vgg, [*range(64)], (28, 28)), partial(units, *resnet, [*range(16)], (7, 7))
    yield Task("64 units of vgg16 features.10", "gradient of the layer", many, 64)
    yield Task("16 units of resnet50 layer3.2", "gradient of the layer", some, 16)
    yield Task("16 images of a gallery's pass, vgg16 features.10", "its layers alone", partial(a_pass_over_images, 16))
    coarse = partial(a_pass_over_images, 16, "bfloat16")
    yield Task("the same in bfloat16", "its layers alone", coarse)
    yield Task("three methods, resnet18", "one after another", partial(three_methods, "resnet18"))
    yield Task("one image, resnet50", "rewritten by hand", partial(a_batch, "resnet50", 1))
    yield Task("eight images, resnet50", "rewritten by hand", partial(a_batch, "resnet50", 8))
    yield Task("a unit of All-CNN-C, 2000 px", "the same at 224 px", partial(a_large_photograph, 2000))


def chosen(names: list[str]) -> list[Task]:
    """Those whose names hold any of the words; all of them for "all"."""
    found = [task for task in tasks() if any(name == "all" or name in task.name for name in names)]
    if not found:
        raise BadValue(f"there is no task of {', '.join(names)}: there are {', '.join(task.name for task in tasks())}")
    return found
