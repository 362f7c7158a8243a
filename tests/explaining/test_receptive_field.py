"""Receptive fields against two slow answers: pixels changed one line at a time, and the arithmetic of windows."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from oracles import copied, state_digest
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import attribkit
from attribkit import receptive_field
from attribkit.explaining.windows import ReceptiveField, Window

Span = tuple[int, int]


# What is expected --------------------------------------------------------------------------------------------


def seen_by_force(model: nn.Module, layer: str, shape: Sequence[int]) -> list[Callable[[Sequence[int]], Span]]:
    """For each dimension the lines of pixels that change a unit: the first, and the one after the last.

    On a copy of the model whose weights are all positive, an image of ones gets one line of twos, for every line.
    """
    model = copied(model).double().eval()
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                fan_in = max(1, parameter[0].numel())
                parameter.copy_((parameter != 0) / fan_in if name == "weight" and parameter.dim() > 1 else parameter)
            if getattr(module, "bias", None) is not None and isinstance(module, nn.modules.conv._ConvNd):
                module.bias.zero_()
    kept: list[Tensor] = []
    model.get_submodule(layer).register_forward_hook(lambda m, args, output: kept.append(output.detach().clone()))

    def output(image: Tensor) -> Tensor:
        kept.clear()
        model(image)
        return kept[0]

    ones = torch.ones(shape, dtype=torch.float64)
    before, changed = output(ones), []
    for dim in range(2, len(shape)):
        lines = []
        for line in range(shape[dim]):
            image = ones.clone()
            image.select(dim, line).fill_(2)
            lines.append(((output(image) - before).abs() > 1e-13).any(1)[0])
        changed.append(torch.stack(lines))

    def along(dim: int) -> Callable[[Sequence[int]], Span]:
        def span(position: Sequence[int]) -> Span:
            lines = changed[dim][(slice(None), *position)].nonzero().flatten().tolist()
            return (lines[0], lines[-1] + 1) if lines else (0, 0)

        return span

    return [along(dim) for dim in range(len(shape) - 2)]


def windows_by_arithmetic(layers: Sequence[nn.Module], size: Sequence[int]) -> list[Callable[[int], Span]]:
    """For each dimension the window of unit i of a stack, by kernels, strides, paddings and dilations."""

    def along(dim: int) -> Callable[[int], Span]:
        jump, start, reach = 1, 0, 1

        def of(value: Any) -> int:
            return value[dim] if isinstance(value, tuple) else value

        for layer in layers:
            if hasattr(layer, "kernel_size"):
                dilation = of(getattr(layer, "dilation", 1))
                reach += jump * dilation * (of(layer.kernel_size) - 1)
                start -= jump * of(layer.padding)
                jump *= of(layer.stride)
        return lambda i: (max(0, start + i * jump), min(size[dim], start + i * jump + reach))

    return [along(dim) for dim in range(len(size))]


def spans_of(box: Sequence[int]) -> list[Span]:
    """A box, starts first and then ends, as one span a dimension."""
    half = len(box) // 2
    return list(zip(box[:half], box[half:], strict=True))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


def pictures(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def plane_of(model: nn.Module, images: Tensor, layer: str) -> tuple[int, ...]:
    kept: list[Tensor] = []
    model = copied(model).eval()
    model.get_submodule(layer).register_forward_hook(lambda m, args, output: kept.append(output))
    model(images)
    return tuple(kept[0].shape[2:])


def positions_of(plane: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(int(i) for i in row) for row in torch.ones(*plane).nonzero()]


# Plain stacks ------------------------------------------------------------------------------------------------


def conv(channels: int, made: int, *args: Any, **options: Any) -> list[nn.Module]:
    return [nn.Conv2d(channels, made, *args, **options), nn.ReLU()]


STACKS: dict[str, Callable[[], list[nn.Module]]] = {
    "one": lambda: conv(1, 2, 3),
    "padded": lambda: [*conv(1, 2, 3, padding=1), *conv(2, 3, 5, padding=2)],
    "unpadded": lambda: [*conv(1, 2, 3), *conv(2, 3, 4), *conv(3, 1, 2)],
    "strides": lambda: [*conv(1, 2, 3, 2, 1), *conv(2, 2, 3, 2, 1), *conv(2, 1, 3, padding=1)],
    "stride 3": lambda: [*conv(1, 2, 3, 3), *conv(2, 2, 3, padding=1)],
    "even": lambda: [*conv(1, 2, 2, padding=1), *conv(2, 2, 4, 2, 1)],
    "uneven": lambda: [*conv(1, 2, (1, 4), (1, 2), (0, 1)), *conv(2, 2, (3, 2), (2, 1))],
    "dilated": lambda: [*conv(1, 2, 3, padding=1), *conv(2, 2, 3, padding=2, dilation=2)],
    "dilated twice": lambda: [*conv(1, 2, 3, padding=2, dilation=2), *conv(2, 2, 3, padding=3, dilation=3)],
    "pools": lambda: [*conv(1, 2, 3, padding=1), nn.MaxPool2d(2), *conv(2, 2, 3, padding=1), nn.MaxPool2d(2)],
    "overlapping pools": lambda: [*conv(1, 2, 3, padding=1), nn.MaxPool2d(3, 2, 1), *conv(2, 2, 3, padding=1)],
    "ceil mode": lambda: [*conv(1, 2, 3, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True), *conv(2, 2, 3, padding=1)],
    "dilated pool": lambda: [*conv(1, 2, 3, padding=1), nn.MaxPool2d(3, 1, 1, 2), *conv(2, 2, 1)],
    "average": lambda: [*conv(1, 2, 3, padding=1), nn.AvgPool2d(3, 2, 1), *conv(2, 2, 3, padding=1)],
    "normed": lambda: [nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.LocalResponseNorm(3), *conv(4, 2, 3)],
    "smooth": lambda: [nn.Conv2d(1, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 3), nn.Sigmoid()],
}


@pytest.mark.parametrize("size", [(32, 32), (25, 31), (24, 30)], ids=str)
@pytest.mark.parametrize("name", STACKS)
def test_boxes_of_plain_stacks(name: str, size: tuple[int, int]) -> None:
    """Every unit's box is its window by arithmetic, clipped at the image, and holds every pixel that changes it."""
    layers = STACKS[name]()
    model, images = seeded(lambda: nn.Sequential(*layers)), pictures(1, 1, *size)
    layer = str(len(layers) - 1)
    field = receptive_field(model, layer, images)
    window, force = windows_by_arithmetic(layers, size), seen_by_force(model, layer, images.shape)
    for position in positions_of(plane_of(model, images, layer)):
        spans = spans_of(field.box(position))
        assert spans == [window[d](i) for d, i in enumerate(position)]
        for (start, stop), (first, end) in zip(spans, (along(position) for along in force), strict=True):
            assert start <= first
            assert end <= stop


@pytest.mark.parametrize("name", ["padded", "unpadded", "strides", "pools", "even", "ceil mode"])
def test_boxes_hold_no_pixel_too_many(name: str) -> None:
    """Where windows have no holes, at every corner and edge, what changes a unit is its box exactly."""
    layers = STACKS[name]()
    model, images = seeded(lambda: nn.Sequential(*layers)), pictures(1, 1, 25, 33)
    layer = str(len(layers) - 1)
    field, force = receptive_field(model, layer, images), seen_by_force(model, layer, images.shape)
    for position in positions_of(plane_of(model, images, layer)):
        assert spans_of(field.box(position)) == [along(position) for along in force]


@pytest.mark.parametrize("name", STACKS)
def test_every_layer_of_a_stack(name: str) -> None:
    """Each layer has a field of its own; an activation's is that of the layer under it."""
    layers = STACKS[name]()
    model, images = seeded(lambda: nn.Sequential(*layers)), pictures(1, 1, 32, 32)
    for index in range(len(layers)):
        window = windows_by_arithmetic(layers[: index + 1], (32, 32))
        field = receptive_field(model, str(index), images)
        rows, columns = plane_of(model, images, str(index))
        for position in ((0, 0), (rows // 2, columns // 3), (rows - 1, columns - 1), (1, columns - 2)):
            assert spans_of(field.box(position)) == [window[d](i) for d, i in enumerate(position)]


def test_boxes_are_clipped_at_the_border() -> None:
    """In numbers: three padded 3x3 convolutions see 7 pixels, and 4 at the corner."""
    model = seeded(
        lambda: nn.Sequential(*conv(1, 2, 3, padding=1), *conv(2, 2, 3, padding=1), *conv(2, 2, 3, padding=1))
    )
    field = receptive_field(model, "4", pictures(1, 1, 20, 30))
    assert field.box((0, 0)) == (0, 0, 4, 4)
    assert field.box((10, 1)) == (7, 0, 14, 5)
    assert field.box((10, 15)) == (7, 12, 14, 19)
    assert field.box((19, 29)) == (16, 26, 20, 30)
    assert field.box(None) == (0, 0, 20, 30)


def test_lines_and_volumes() -> None:
    """Nets over one and three dimensions have windows in each."""
    line = seeded(lambda: nn.Sequential(nn.Conv1d(2, 3, 5, 2), nn.ReLU(), nn.MaxPool1d(3, 2), nn.Conv1d(3, 2, 3)))
    field = receptive_field(line, "3", pictures(1, 2, 80))
    assert field.box((0,)) == (0, 17)
    assert field.box((5,)) == (20, 37)
    solid = seeded(lambda: nn.Sequential(nn.Conv3d(1, 2, (1, 3, 5), padding=(0, 1, 2)), nn.ReLU()))
    assert receptive_field(solid, "0", pictures(1, 1, 8, 9, 16)).box((3, 0, 7)) == (3, 0, 5, 4, 2, 10)


def test_a_net_without_activations_has_windows() -> None:
    """There need be nothing to rewrite for a unit to see something."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.Conv2d(2, 2, 3)))
    assert receptive_field(model, "2", pictures(1, 1, 30, 30)).box((5, 5)) == (10, 10, 18, 18)


def test_gates_do_not_narrow_a_field() -> None:
    """What is shut for one image is not for another: ReLUs, dead ones too, hide nothing from the probe."""

    def make() -> nn.Module:
        net = nn.Sequential(*conv(1, 3, 3, padding=1), *conv(3, 3, 3, padding=1), *conv(3, 3, 3, padding=1))
        with torch.no_grad():
            for index in (0, 2):
                net[index].bias.fill_(-100)  # type: ignore[union-attr,operator]
        return net

    assert receptive_field(seeded(make), "5", pictures(1, 1, 24, 24)).box((10, 10)) == (7, 7, 14, 14)


def test_opposite_paths_do_not_hide_each_other() -> None:
    """Channels whose kernels cancel each other in a sum are seen all the same."""

    def make() -> nn.Module:
        net = nn.Sequential(nn.Conv2d(1, 2, 5, padding=2), nn.ReLU(), nn.Conv2d(2, 2, 1))
        with torch.no_grad():
            net[0].weight[1] = -net[0].weight[0]  # type: ignore[index]
        return net

    assert receptive_field(seeded(make), "0", pictures(1, 1, 24, 24)).box((10, 10)) == (8, 8, 13, 13)


class Branches(nn.Module):
    """A narrow branch beside a wide one, an identity around both, and a stride that they share."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, 2, 1)
        self.narrow, self.wide = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 5, padding=2)
        self.after = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.after(torch.cat([x + self.narrow(x), F.relu(self.wide(x))], 1))


def test_branches() -> None:
    """The window of branches that meet is that of the widest."""
    model, images = seeded(Branches), pictures(1, 1, 41, 33)
    for layer in ("stem", "narrow", "wide", "after"):
        field, force = receptive_field(model, layer, images), seen_by_force(model, layer, images.shape)
        for position in positions_of(plane_of(model, images, layer)):
            assert spans_of(field.box(position)) == [along(position) for along in force]


# Random stacks -----------------------------------------------------------------------------------------------


@st.composite
def random_layers(draw: st.DrawFn) -> list[nn.Module]:
    """Convolutions and pools in a row."""
    layers: list[nn.Module] = [nn.ReLU()]
    for _ in range(draw(st.integers(1, 4))):
        kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 3))
        dilation = draw(st.integers(1, 2))
        if draw(st.booleans()):
            layers += [nn.Conv2d(1, 1, kernel, stride, draw(st.integers(0, 3)), dilation), nn.ReLU()]
        else:
            ceil_mode = draw(st.booleans())
            layers.append(
                nn.MaxPool2d(kernel, stride, draw(st.integers(0, kernel // 2)), dilation, ceil_mode=ceil_mode)
            )
    return layers


@settings(deadline=None, max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
@given(layers=random_layers(), size=st.tuples(st.integers(8, 36), st.integers(8, 36)))
def test_boxes_of_random_stacks(layers: list[nn.Module], size: tuple[int, int]) -> None:
    """A box holds every pixel that changes its unit; each side is that of its window or the image's edge."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight)
    model, images, last = nn.Sequential(*layers).double(), pictures(1, 1, *size), str(len(layers) - 1)
    try:
        plane = plane_of(model, images, last)
    except RuntimeError:  # nothing is left of an image this small
        assume(False)
    field, force = receptive_field(model, last, images), seen_by_force(model, last, images.shape)
    window = windows_by_arithmetic(layers, size)
    for position in positions_of(plane):
        for d, (start, stop) in enumerate(spans_of(field.box(position))):
            first, end = force[d](position)
            if first < end:  # a unit may see padding alone
                assert start <= first
                assert end <= stop
            nominal = window[d](position[d])
            assert start == 0 or nominal[0] <= start
            assert stop == size[d] or stop <= nominal[1]


def test_the_larger_of_two_branches() -> None:
    """Of maximum(a, b) both are seen, whichever wins on the pixels that are probed."""

    class Maxout(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow, self.wide, self.relu = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 5, padding=2), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(torch.maximum(1.5 + self.narrow(x), self.wide(x)))

    assert receptive_field(seeded(Maxout), "relu", pictures(1, 1, 24, 24)).box((10, 10)) == (8, 8, 13, 13)


# Nets that see everything ------------------------------------------------------------------------------------


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean((2, 3), keepdim=True)


class Excite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean((2, 3))))[..., None, None]


class HardExcite(Excite):
    """A gate that is wide open, and flat, on all but the darkest images."""

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(9 * self.fc(x.mean((2, 3))))[..., None, None]


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return F.scaled_dot_product_attention(tokens, tokens, tokens).mT.reshape(x.shape)


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x).abs()


class Mirrored(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip((2, 3))


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(2, 3)


class Rolled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.roll(5, 3)


class RunningSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(2)


class Windows(nn.Module):
    """Means over blocks of 4x4, put back: what windowed attention does."""

    def forward(self, x: Tensor) -> Tensor:
        return x + F.interpolate(F.avg_pool2d(x, 4), scale_factor=4)


GLOBAL: dict[str, Callable[[], nn.Module]] = {
    "centred": Centred,
    "squeeze-excite": Excite,
    "squeeze-excite, hard": HardExcite,
    "instance norm": lambda: nn.InstanceNorm2d(2),
    "group norm": lambda: nn.GroupNorm(1, 2),
    "attention": Attention,
    "spectrum": Spectrum,
}
UNEVEN: dict[str, Callable[[], nn.Module]] = {
    "mirrored": Mirrored,
    "transposed": Transposed,
    "rolled": Rolled,
    "running sum": RunningSum,
    "windows": Windows,
    "adaptive": lambda: nn.AdaptiveAvgPool2d(7),
    "upsampled": lambda: nn.Upsample(scale_factor=2),
    "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "transposed convolution": lambda: nn.ConvTranspose2d(2, 2, 4, 2, 1),
    "circular": lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
}


def around(module: nn.Module) -> nn.Module:
    return nn.Sequential(*conv(1, 2, 3, padding=1), module, *conv(2, 2, 3, padding=1))


@pytest.mark.parametrize("name", GLOBAL)
def test_global_nets_see_all(name: str) -> None:
    """Above an operation over the whole plane, every unit's box is the image, and no crop will do; below it not."""
    model, images = seeded(lambda: around(GLOBAL[name]())), pictures(1, 1, 24, 28)
    for layer in ("2", "3", "4"):
        field = receptive_field(model, layer, images)
        for position in ((0, 0), (12, 3), (23, 27)):
            assert field.box(position) == (0, 0, 24, 28)
        assert not field.worth_cropping()
    assert receptive_field(model, "1", images).box((12, 3)) == (11, 2, 14, 5)


@pytest.mark.parametrize("size", [(24, 24), (24, 32), (32, 20)], ids=str)
@pytest.mark.parametrize("name", UNEVEN)
def test_uneven_nets_see_at_least_what_they_see(name: str, size: tuple[int, int]) -> None:
    """Where windows do not move with the unit, its box still holds every pixel that changes it."""
    model, images = seeded(lambda: around(UNEVEN[name]())), pictures(1, 1, *size)
    field, force = receptive_field(model, "3", images), seen_by_force(model, "3", images.shape)
    for position in positions_of(plane_of(model, images, "3")):
        for (start, stop), along in zip(spans_of(field.box(position)), force, strict=True):
            first, end = along(position)
            assert start <= first
            assert end <= stop


@pytest.mark.parametrize("layer", [None, "3", "4"])
def test_outputs_without_positions_see_all(layer: str | None) -> None:
    """The model's output, a linear layer and a flattened map see the whole image."""
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    )
    field = receptive_field(model, layer, pictures(1, 1, 20, 30))
    assert field.box(None) == (0, 0, 20, 30)
    assert not field.worth_cropping()


# Models that change ------------------------------------------------------------------------------------------


class Growing(nn.Module):
    """A 1x1 path, and beside it a 5x5 branch that is worth nothing at first."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 5, padding=2)
        self.relu, self.shift = nn.ReLU(), Shift(0)
        self.register_buffer("share", torch.ones(1))
        self.uses_wide = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.shift(self.narrow(x) + (self.share * self.wide(x) if self.uses_wide else 0))
        return self.relu(x)


class Shift(nn.Module):
    """Adds the pixel `by` rows below; it says nothing of itself when printed."""

    def __init__(self, by: int) -> None:
        super().__init__()
        self.by, self.config = by, {"by": 0}

    def forward(self, x: Tensor) -> Tensor:
        by = self.by + self.config["by"]
        return x + F.pad(x[:, :, by:], (0, 0, 0, by)) if by else x


def without_wide(how: str) -> nn.Module:
    model = seeded(Growing)
    with torch.no_grad():
        if how == "weights":
            model.wide.weight.zero_()  # type: ignore[union-attr,operator]
        elif how == "buffer":
            model.share.zero_()  # type: ignore[union-attr,operator]
        elif how == "flag":
            model.uses_wide = False  # type: ignore[assignment]
        elif how == "mask":
            prune.custom_from_mask(model.wide, "weight", torch.zeros(2, 1, 5, 5))
    return model


def fill_in_place(model: Any) -> None:
    with torch.no_grad():
        model.wide.weight.fill_(0.1)


def fill_data(model: Any) -> None:
    model.wide.weight.data.fill_(0.1)


def fill_by_init(model: Any) -> None:
    nn.init.constant_(model.wide.weight, 0.1)


def set_data(model: Any) -> None:
    model.wide.weight.data = torch.full((2, 1, 5, 5), 0.1, dtype=torch.float64)


def set_parameter(model: Any) -> None:
    model.wide.weight = nn.Parameter(torch.full((2, 1, 5, 5), 0.1, dtype=torch.float64))


def load(model: Any) -> None:
    model.load_state_dict(seeded(Growing).state_dict())


def train(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.wide(torch.ones(1, 1, 9, 9, dtype=torch.float64)).sum().backward()
    optimizer.step()


def train_fused(model: Any) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 0.1, fused=True)
    model.wide(torch.ones(1, 1, 9, 9, dtype=torch.float64)).sum().backward()
    optimizer.step()


def replace_layer(model: Any) -> None:
    model.wide = nn.Conv2d(1, 2, 5, padding=2).double()


def set_buffer(model: Any) -> None:
    model.share = torch.ones(1, dtype=torch.float64)


def fill_buffer(model: Any) -> None:
    model.share.fill_(1)


def set_flag(model: Any) -> None:
    model.uses_wide = True


def unmask(model: Any) -> None:
    model.wide.weight_mask.fill_(1)


def unprune(model: Any) -> None:
    model.wide.weight_mask.fill_(1)
    prune.remove(model.wide, "weight")


CHANGES: list[tuple[str, Callable[[Any], None]]] = [
    *(
        ("weights", change)
        for change in (fill_in_place, fill_data, fill_by_init, set_data, set_parameter, load, train, train_fused)
    ),
    ("weights", replace_layer),
    ("buffer", set_buffer),
    ("buffer", fill_buffer),
    ("flag", set_flag),
    ("mask", unmask),
    ("mask", unprune),
]


@pytest.mark.parametrize(("how", "change"), CHANGES, ids=[f"{how}, {change.__name__}" for how, change in CHANGES])
def test_a_branch_that_gets_weights(how: str, change: Callable[[Any], None]) -> None:
    """A branch that was worth nothing when the field was found counts once it is worth something; one whose weights
    alone are zero counts from the start."""
    model, images = without_wide(how), pictures(1, 1, 24, 24)
    before = (8, 8, 13, 13) if how == "weights" else (10, 10, 11, 11)
    assert receptive_field(model, "relu", images).box((10, 10)) == before
    change(model)
    assert receptive_field(model, "relu", images).box((10, 10)) == (8, 8, 13, 13)


def test_a_mask_that_moves() -> None:
    """A mask that keeps as many weights as before, but others, moves the field."""
    model, images = seeded(Growing), pictures(1, 1, 24, 24)
    mask = torch.zeros(2, 1, 5, 5)
    mask[:, :, 2, 2] = 1
    prune.custom_from_mask(model.wide, "weight", mask)
    assert receptive_field(model, "relu", images).box((10, 10)) == (10, 10, 11, 11)
    model.wide.weight_mask.copy_(torch.eye(5).flip(0) * torch.tensor([1, 0, 0, 0, 0]))  # type: ignore[operator,union-attr]
    assert receptive_field(model, "relu", images).box((10, 10)) == (10, 8, 13, 11)


def a_setting_in_a_dict(model: Any) -> None:
    model.shift.config["by"] = 6


def wider_convolution(model: Any) -> None:
    model.wide = nn.Conv2d(1, 2, 7, padding=3).double()


def dilated_convolution(model: Any) -> None:
    model.wide.dilation, model.wide.padding = (2, 2), (4, 4)


def another_shift(model: Any) -> None:
    model.shift = Shift(6)


def another_setting(model: Any) -> None:
    model.shift.by = 6


def a_hook(model: Any) -> None:
    model.narrow.register_forward_hook(lambda m, args, output: F.avg_pool2d(output, 7, 1, 3))


@pytest.mark.parametrize(
    ("change", "box"),
    [
        (wider_convolution, (7, 7, 14, 14)),
        (dilated_convolution, (6, 6, 15, 15)),
        (another_shift, (8, 8, 19, 13)),
        (another_setting, (8, 8, 19, 13)),
        (a_setting_in_a_dict, (8, 8, 19, 13)),
        (a_hook, (7, 7, 14, 14)),
    ],
)
def test_a_structure_that_changes(change: Callable[[Any], None], box: tuple[int, ...]) -> None:
    """A layer that is replaced or set otherwise has another field, whether or not it prints otherwise."""
    model, images = seeded(Growing), pictures(1, 1, 24, 24)
    assert receptive_field(model, "relu", images).box((10, 10)) == (8, 8, 13, 13)
    change(model)
    top, left, bottom, right = receptive_field(model, "relu", images).box((10, 10))
    assert top <= box[0]
    assert left <= box[1]
    assert bottom >= box[2]
    assert right >= box[3]


def test_a_field_is_found_once() -> None:
    """As long as the model stays as it is, also in another mode, no pass is made for what is known."""
    model, images = seeded(Growing), pictures(2, 1, 24, 24)
    passes: list[int] = []
    model.narrow.register_forward_hook(lambda *_: passes.append(1))  # type: ignore[union-attr,operator]
    first = receptive_field(model, "relu", images)
    assert passes
    passes.clear()
    model.eval()
    assert receptive_field(model, "relu", images * 2) == first
    assert receptive_field(model, "relu", images[:1]) == first
    assert not passes
    receptive_field(model, "relu", images[:, :, 4:])
    assert passes


def test_each_model_has_its_own_field() -> None:
    """Two models that print alike and share nothing are not taken for each other."""
    narrow, wide, images = without_wide("buffer"), seeded(Growing), pictures(1, 1, 24, 24)
    assert repr(narrow) == repr(wide)
    assert receptive_field(narrow, "relu", images).box((10, 10)) == (10, 10, 11, 11)
    assert receptive_field(wide, "relu", images).box((10, 10)) == (8, 8, 13, 13)


def test_what_is_known_of_a_model_goes_with_it() -> None:
    """A model of which a field is known is no less forgotten by its owner."""
    model = seeded(Growing)
    receptive_field(model, "relu", pictures(1, 1, 24, 24))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_probing_leaves_everything_as_it_was() -> None:
    """The model, the images, torch's global generator and the grad mode."""
    model, images = seeded(Growing), pictures(1, 1, 24, 24).requires_grad_()
    before, state, kept = state_digest(model), torch.get_rng_state(), images.detach().clone()
    with torch.no_grad():
        receptive_field(model, "relu", images)
        assert not torch.is_grad_enabled()
    assert state_digest(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, kept)
    assert images.grad is None


def test_a_layer_that_is_not_there() -> None:
    """The public function tells an unknown layer as explain does."""
    with pytest.raises(ValueError, match=r"no layer 'rely' in Growing; the nearest: relu"):
        receptive_field(seeded(Growing), "rely", pictures(1, 1, 24, 24))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types(dtype: torch.dtype) -> None:
    """The field hangs on the structure, not on the type that the model computes in."""
    model, images = seeded(Growing).to(dtype), pictures(1, 1, 24, 24).to(dtype)
    assert receptive_field(model, "relu", images).box((10, 0)) == (8, 0, 13, 3)


# Windows and crops -------------------------------------------------------------------------------------------


def test_a_crop_begins_on_the_stride() -> None:
    """A crop holds the box, and begins where a unit would: the grids of all layers below stay aligned."""
    window = Window(size=100, stride=4, before=6, after=9)
    assert [window.box(i) for i in (0, 1, 5, 24)] == [(0, 9), (0, 13), (14, 29), (90, 100)]
    assert [window.crop(i) for i in (0, 1, 5, 24)] == [(0, 9), (0, 13), (12, 29), (88, 100)]
    field = ReceptiveField((window, Window(size=50)), exact_on_crops=True)
    crop = field.crop((5, 7))
    assert crop.position == (2, 7)
    assert crop.shape == (17, 50)
    assert torch.arange(100 * 50).reshape(1, 100, 50)[crop.pixels].flatten()[[0, -1]].tolist() == [600, 28 * 50 + 49]
    assert field.box((5, 7)) == (14, 0, 29, 50)


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_no_crop_is_longer_than_the_longest(stride: int) -> None:
    """What `longest` says bounds every crop."""
    window = Window(size=90, stride=stride, before=11, after=14)
    lengths = [stop - start for start, stop in map(window.crop, range(90 // stride))]
    assert max(lengths) <= window.longest()
    assert window.longest() <= 11 + 14 + stride


@pytest.mark.parametrize(("reach", "exact", "worth"), [(20, True, True), (20, False, False), (95, True, False)])
def test_when_a_crop_is_worth_it(reach: int, exact: bool, worth: bool) -> None:
    """Where it is exact and spares at least half of the pixels."""
    windows = (Window(100, 1, reach // 2, reach - reach // 2),) * 2
    assert ReceptiveField(windows, exact).worth_cropping() is worth


@pytest.mark.parametrize(
    ("make", "exact"),
    [
        (lambda: nn.Sequential(*conv(1, 2, 3, padding=1), nn.MaxPool2d(2), *conv(2, 2, 3, padding=1)), True),
        (Branches, True),
        (lambda: around(Centred()), False),
        (lambda: around(Mirrored()), False),
        (lambda: around(nn.AdaptiveAvgPool2d(12)), False),
    ],
    ids=["stack", "branches", "centred", "mirrored", "adaptive"],
)
def test_where_crops_save_arithmetic(make: Callable[[], nn.Module], exact: bool) -> None:
    """A crop is worth it for local nets in large images, never for those that see all, nor in small images."""
    model = seeded(make)
    layer = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)][-1]
    assert receptive_field(model, layer, pictures(1, 1, 48, 48)).worth_cropping() is exact
    small = receptive_field(model, layer, pictures(1, 1, 12, 12))
    assert not small.worth_cropping() or math.prod(window.longest() for window in small.windows) <= 72


def test_the_package_has_it() -> None:
    """receptive_field is one of the package's own names."""
    assert attribkit.receptive_field is receptive_field
