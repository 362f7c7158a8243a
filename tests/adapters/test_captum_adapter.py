"""Captum's signatures over our engine: equal to Captum where Captum is right, and right where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import captum.attr
import pytest
import torch
from captum.metrics import infidelity, sensitivity_max
from oracles import attribution, state_digest
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit
from attribkit.adapters import captum as ours

RULES = {"GuidedBackprop": "guided", "Deconvolution": "deconvnet"}
NEURON = {"NeuronGuidedBackprop": "guided", "NeuronDeconvolution": "deconvnet"}

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor . did not already require gradients:UserWarning")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Plain(nn.Module):
    """Everything as a module, each ReLU once: what Captum is made for. Takes a second input and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(2, 6, 3), nn.ReLU()
        self.norm, self.pool = nn.BatchNorm2d(6), nn.MaxPool2d(2)
        self.conv2, self.relu2 = nn.Conv2d(6, 5, 3), nn.ReLU()
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor, y: Tensor | None = None, scale: float = 1.0) -> Tensor:
        x = x if y is None else x + 2 * y
        x = self.pool(self.norm(self.relu1(self.conv1(x)))) * scale
        return self.head(self.relu2(self.conv2(x)).mean((2, 3)))


class Functional(Plain):
    """The same with the last ReLU called as a function, as in densenet121."""

    def forward(self, x: Tensor, y: Tensor | None = None, scale: float = 1.0) -> Tensor:
        x = self.pool(self.norm(self.relu1(self.conv1(x))))
        return self.head(F.relu(self.conv2(x)).mean((2, 3)))


class ManyClasses(Plain):
    """Logits with a second dimension, for targets that are tuples."""

    def forward(self, x: Tensor, y: Tensor | None = None, scale: float = 1.0) -> Tensor:
        return super().forward(x).unflatten(1, (2, 2))


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 2, 12, 12)


def assert_same(found: Any, expected: Any) -> None:
    """Equal to float rounding and not zero, in a tuple where the other is one."""
    assert isinstance(found, tuple) == isinstance(expected, tuple)
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    for one, other in pairs:
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("target", [1, [0, 3, 1], torch.tensor([2, 2, 0])])
def test_equal_to_captum_where_every_relu_is_a_module(name: str, target: Any) -> None:
    """For each form of target."""
    model, x = Plain().eval(), images()
    found = getattr(ours, name)(model).attribute(x, target)
    assert_same(found, getattr(captum.attr, name)(model).attribute(x, target))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("target", [(1, 0), [(0, 1), (1, 1), (0, 0)]])
def test_targets_that_are_tuples(name: str, target: Any) -> None:
    """For outputs of more than one dimension."""
    model, x = ManyClasses().eval(), images()
    found = getattr(ours, name)(model).attribute(x, target=target)
    assert_same(found, getattr(captum.attr, name)(model).attribute(x, target=target))


@pytest.mark.parametrize("name", RULES)
def test_several_inputs_and_arguments(name: str) -> None:
    """A tuple of inputs gives a tuple of maps, and other arguments reach the model."""
    model, inputs = Plain().eval(), (images(), images())
    call = {"inputs": inputs, "target": 2, "additional_forward_args": (0.5,)}
    found = getattr(ours, name)(model).attribute(**call)
    assert_same(found, getattr(captum.attr, name)(model).attribute(**call))
    assert len(found) == 2


SELECTORS = {
    "a logit": ("head", 3),
    "a unit": ("conv2", (4, 1, 2)),
    "a slice": ("conv2", (slice(0, 2), 1, 1)),
    "a function": ("relu1", lambda output: output[:, 0].sum((1, 2))),
}


@pytest.mark.parametrize("name", NEURON)
@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("at_input", [False, True])
def test_neurons_equal_to_captum(name: str, selector: str, at_input: bool) -> None:
    """For each form of selector, at a layer's output and its input."""
    model, x = Plain().eval(), images()
    layer, which = SELECTORS[selector]
    if at_input and selector == "a logit":
        which = 2
    call = {"neuron_selector": which, "attribute_to_neuron_input": at_input, "additional_forward_args": (None, 0.5)}
    module = model.get_submodule(layer)
    found = getattr(ours, name)(model, module).attribute(x, **call)
    assert_same(found, getattr(captum.attr, name)(model, module).attribute(x, **call))


def test_guided_grad_cam_equal_to_captum() -> None:
    """Grad-CAM is Captum's own, the guided map is ours."""
    model, x = Plain().eval(), images()
    found = ours.GuidedGradCam(model, model.conv2).attribute(x, 1, interpolate_mode="bilinear")
    expected = captum.attr.GuidedGradCam(model, model.conv2).attribute(x, 1, interpolate_mode="bilinear")
    assert_same(found, expected)


@pytest.mark.parametrize(("name", "rule"), RULES.items())
def test_functional_relus_follow_the_rule_which_captum_passes_over(name: str, rule: str) -> None:
    """Ours equals the oracle; Captum's differs from it, without a word."""
    model, x = Functional().eval(), images()
    right = attribution(model, x, lambda output: output[:, 1].sum(), rule)
    assert_same(getattr(ours, name)(model).attribute(x, 1), right)
    captums = getattr(captum.attr, name)(model).attribute(x, 1)
    assert (captums - right).abs().max() > 0.05 * right.abs().max()


@pytest.mark.parametrize(("name", "rule"), RULES.items())
def test_relu6_follows_the_rule_which_captum_passes_over(name: str, rule: str) -> None:
    """With ReLU6 alone, as in mobilenet_v2, Captum's map is the plain gradient."""
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU6(), nn.Conv2d(5, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = images()
    right = attribution(model, x, lambda output: output[:, 1].sum(), rule)
    assert_same(getattr(ours, name)(model).attribute(x, 1), right)
    captums = getattr(captum.attr, name)(model).attribute(x, 1)
    assert_same(captums, captum.attr.Saliency(model).attribute(x, 1, abs=False))


def test_a_neuron_behind_a_functional_relu() -> None:
    """The rule acts above the layer where the neuron is, too."""
    model, x = Functional().eval(), images()
    found = ours.NeuronGuidedBackprop(model, model.head).attribute(x, 1)
    assert_same(found, attribution(model, x, lambda output: output[:, 1].sum(), "guided"))


def test_captums_tools_take_our_classes() -> None:
    """NoiseTunnel, the metrics and `isinstance`."""
    model, x = Plain().eval(), images(1)
    method = ours.GuidedBackprop(model)
    assert isinstance(method, captum.attr.GradientAttribution)
    assert isinstance(ours.NeuronDeconvolution(model, model.conv2), captum.attr.NeuronAttribution)
    assert isinstance(ours.GuidedGradCam(model, model.conv2), captum.attr.GradientAttribution)
    still = captum.attr.NoiseTunnel(method).attribute(x, nt_samples=2, stdevs=0.0, target=1)
    maps = method.attribute(x, 1)
    assert_same(still, maps)
    assert sensitivity_max(method.attribute, x, target=1).item() > 0

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.01 * torch.randn_like(inputs)
        return noise, inputs - noise

    assert infidelity(model, perturb, x, maps, target=1).item() > 0


def test_model_and_inputs_stay_as_they_were() -> None:
    """No hook, no gradient, no mode; and a model in training mode is explained in eval mode."""
    model, x = Plain(), images()
    before = state_digest(model)
    maps = ours.GuidedBackprop(model).attribute(x, 1)
    ours.NeuronDeconvolution(model, model.conv2).attribute(x, (0, 0, 0))
    assert state_digest(model) == before
    assert (x.requires_grad, x.grad) == (False, None)
    assert model.training
    assert_same(maps, ours.GuidedBackprop(model.eval()).attribute(x, 1))


def test_a_wrapped_model_is_unwrapped() -> None:
    """As `rewrite` does; layers are found inside."""
    model, x = Plain().eval(), images()
    found = ours.NeuronGuidedBackprop(nn.DataParallel(model), model.conv2).attribute(x, (0, 0, 0))
    assert_same(found, ours.NeuronGuidedBackprop(model, model.conv2).attribute(x, (0, 0, 0)))


def test_what_cannot_be_done_is_refused() -> None:
    """No rectifier, a layer of another model, no module at all."""
    x = images()
    with pytest.raises(attribkit.NothingToRewrite):
        ours.GuidedBackprop(nn.Conv2d(2, 1, 12)).attribute(x, (0, 0, 0))
    with pytest.raises(ValueError, match="the layer Conv2d is not a part of the model Plain"):
        ours.NeuronGuidedBackprop(Plain(), nn.Conv2d(2, 1, 1)).attribute(x, 0)
    with pytest.raises(TypeError, match=r"GuidedBackprop takes an nn\.Module, not function"):
        ours.GuidedBackprop(lambda x: x)  # type: ignore[arg-type]


@pytest.mark.parametrize("strides", [None, 3, (3, 4, 3), (3, 6, 6)])
def test_occlusion_is_captums(strides: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For windows that end inside or overhang, by windows and not by whole images."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1))
    net = nn.Sequential(*layers, nn.Flatten()).double().eval()
    images = torch.randn(2, 3, 15, 13).double()
    options: dict[str, Any] = {"strides": strides, "target": [1, 2], "baselines": 0.3}
    expected = captum.attr.Occlusion(net).attribute(images, (3, 6, 6), **options)
    monkeypatch.setattr(captum.attr.Occlusion, "attribute", None)  # which ours falls back to
    (mine,) = ours.Occlusion(net).attribute((images,), ((3, 6, 6),), **options)
    atol = 1e-6 * float(expected.abs().max())  # Captum adds up in single precision
    torch.testing.assert_close(mine, expected.double(), rtol=0, atol=atol)
