"""Switches: what is recorded, how it is replayed, saved and loaded, against plain loops over windows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import (
    Windows,
    adaptive_windows,
    max_pool_switches,
    mixed_signal,
    pool_backwards,
    pool_windows,
    state_digest,
    whole_plane,
)
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit
from attribkit import Switches, SwitchMismatch, record_switches


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Pooling(nn.Module):
    """A pool, and nothing else, held under the name "pool" or called as a function."""

    def __init__(self, pool: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


@dataclasses.dataclass(frozen=True)
class Case:
    """A pool, the planes that it is given, and the windows of the plane of image n and channel c."""

    pool: Callable[[Tensor], Any]
    size: tuple[int, ...]
    windows: Callable[[int, int], Windows]

    def images(self, seed: int = 0, batch: int = 2) -> Tensor:
        return noise(batch, 3, *self.size, seed=seed)

    def looped(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and switches of every window."""
        planes = [[max_pool_switches(x[n, c], self.windows(n, c)) for c in range(3)] for n in range(len(x))]
        values, indices = (torch.stack([torch.stack([p[i] for p in row]) for row in planes]) for i in (0, 1))
        return values, indices

    def down(self, signal: Tensor, how: str, indices: Tensor | None = None) -> Tensor:
        """A signal on the pool's outputs, brought down window by window."""
        batch = range(len(signal))
        if indices is not None:
            indices = indices.expand(signal.shape)
        return torch.stack(
            [
                torch.stack(
                    [
                        pool_backwards(
                            signal[n, c], self.windows(n, c), how, None if indices is None else indices[n, c]
                        )
                        for c in range(3)
                    ]
                )
                for n in batch
            ]
        )

    def like_switches(self, tensor: Tensor) -> Tensor:
        """The same with every dimension that the pool has dropped, as switches have it."""
        outputs = self.windows(0, 0).output_size
        return tensor.reshape(*tensor.shape[:2], *outputs)


def plain(size: tuple[int, ...], *settings: Any, **more: Any) -> Callable[[int, int], Windows]:
    windows = pool_windows(size, *settings, **more)
    return lambda n, c: windows


def adaptive(size: tuple[int, ...], outputs: tuple[int, ...]) -> Callable[[int, int], Windows]:
    windows = adaptive_windows(size, outputs)
    return lambda n, c: windows


def over_rows(size: tuple[int, int]) -> Windows:
    """One window for each column, over all its rows."""
    return Windows(size, [[list(range(size[0]))], [[column] for column in range(size[1])]])


def over_columns(size: tuple[int, int]) -> Windows:
    """One window for each row, over all its columns."""
    return Windows(size, [[[row] for row in range(size[0])], [list(range(size[1]))]])


SAMPLES_2D = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SAMPLES_3D = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def fractional(
    size: tuple[int, ...], kernel: tuple[int, ...], outputs: tuple[int, ...], samples: Tensor
) -> Callable[[int, int], Windows]:
    """The windows of Graham's fractional pooling, each sample shifting the windows of one dimension of one plane.

    Of n outputs, number i begins at int((i + u) * a) - int(u * a), a = (size - kernel) / (n - 1), and the last at
    the end. torch takes the samples of two dimensions columns first, those of three in order.
    """

    def windows(n: int, c: int) -> Windows:
        shifts = samples[n % len(samples), c].tolist()
        shifts = shifts[::-1] if len(size) == 2 else shifts
        along = []
        for length, k, count, u in zip(size, kernel, outputs, shifts, strict=True):
            alpha = (length - k) / (count - 1)
            starts = [int((i + u) * alpha) - int(u * alpha) for i in range(count - 1)] + [length - k]
            along.append([list(range(start, start + k)) for start in starts])
        return Windows(size, along)

    return windows


CASES: dict[str, Case] = {
    "1d": Case(nn.MaxPool1d(2), (9,), plain((9,), [2])),
    "1d padded, overlapping, ceil": Case(
        nn.MaxPool1d(3, 2, 1, ceil_mode=True), (10,), plain((10,), [3], [2], [1], ceil_mode=True)
    ),
    "1d dilated": Case(nn.MaxPool1d(3, 1, 0, 2), (9,), plain((9,), [3], [1], [0], [2])),
    "2d": Case(nn.MaxPool2d(2), (6, 7), plain((6, 7), [2, 2])),
    "2d padded, overlapping": Case(nn.MaxPool2d(3, 2, 1), (6, 7), plain((6, 7), [3, 3], [2, 2], [1, 1])),
    "2d ceil": Case(nn.MaxPool2d(3, 2, ceil_mode=True), (6, 8), plain((6, 8), [3, 3], [2, 2], ceil_mode=True)),
    "2d padded, ceil": Case(
        nn.MaxPool2d(2, 2, 1, ceil_mode=True), (5, 6), plain((5, 6), [2, 2], [2, 2], [1, 1], ceil_mode=True)
    ),
    "2d stride 1": Case(nn.MaxPool2d(3, 1, 1), (5, 6), plain((5, 6), [3, 3], [1, 1], [1, 1])),
    "2d uneven, dilated": Case(
        nn.MaxPool2d((2, 3), (1, 2), (1, 0), (2, 1)), (6, 7), plain((6, 7), [2, 3], [1, 2], [1, 0], [2, 1])
    ),
    "2d gaps": Case(nn.MaxPool2d(2, 3), (8, 8), plain((8, 8), [2, 2], [3, 3])),
    "3d": Case(nn.MaxPool3d(2), (4, 5, 4), plain((4, 5, 4), [2, 2, 2])),
    "3d padded, overlapping, ceil": Case(
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1), ceil_mode=True),
        (2, 5, 6),
        plain((2, 5, 6), [1, 3, 3], [1, 2, 2], [0, 1, 1], ceil_mode=True),
    ),
    "adaptive 1d": Case(nn.AdaptiveMaxPool1d(4), (9,), adaptive((9,), (4,))),
    "adaptive 2d": Case(nn.AdaptiveMaxPool2d((3, None)), (7, 5), adaptive((7, 5), (3, 5))),
    "adaptive 2d, more than there is": Case(nn.AdaptiveMaxPool2d((5, 2)), (3, 7), adaptive((3, 7), (5, 2))),
    "adaptive 3d": Case(nn.AdaptiveMaxPool3d((1, 2, 3)), (3, 5, 4), adaptive((3, 5, 4), (1, 2, 3))),
    "fractional 2d": Case(
        nn.FractionalMaxPool2d((2, 3), output_size=(4, 3), _random_samples=SAMPLES_2D),
        (9, 8),
        fractional((9, 8), (2, 3), (4, 3), SAMPLES_2D),
    ),
    "fractional 3d": Case(
        nn.FractionalMaxPool3d((2, 3, 2), output_size=(3, 3, 4), _random_samples=SAMPLES_3D),
        (7, 8, 9),
        fractional((7, 8, 9), (2, 3, 2), (3, 3, 4), SAMPLES_3D),
    ),
    "F.fractional 2d": Case(
        lambda x: F.fractional_max_pool2d(x, 2, output_ratio=(0.5, 0.5), _random_samples=SAMPLES_2D),
        (9, 8),
        fractional((9, 8), (2, 2), (4, 4), SAMPLES_2D),
    ),
    "F.fractional 3d": Case(
        lambda x: F.fractional_max_pool3d(x, (2, 3, 2), (3, 3, 4), _random_samples=SAMPLES_3D),
        (7, 8, 9),
        fractional((7, 8, 9), (2, 3, 2), (3, 3, 4), SAMPLES_3D),
    ),
    "F.fractional 3d and indices": Case(
        lambda x: F.fractional_max_pool3d(x, 2, (3, 3, 4), return_indices=True, _random_samples=SAMPLES_3D)[0],
        (7, 8, 9),
        fractional((7, 8, 9), (2, 2, 2), (3, 3, 4), SAMPLES_3D),
    ),
    "F.max_pool1d": Case(lambda x: F.max_pool1d(x, 3, 2, 1), (9,), plain((9,), [3], [2], [1])),
    "F.max_pool2d": Case(lambda x: F.max_pool2d(x, 3, 2, 1), (6, 7), plain((6, 7), [3, 3], [2, 2], [1, 1])),
    "torch.max_pool2d": Case(lambda x: torch.max_pool2d(x, 3, 2, 1), (6, 7), plain((6, 7), [3, 3], [2, 2], [1, 1])),
    "F.max_pool2d, everything by keyword": Case(
        lambda x: F.max_pool2d(
            input=x, kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=True, return_indices=False
        ),
        (6, 7),
        plain((6, 7), [3, 3], [2, 2], [1, 1], ceil_mode=True),
    ),
    "F.max_pool3d": Case(lambda x: F.max_pool3d(x, 2, 1), (3, 4, 3), plain((3, 4, 3), [2, 2, 2], [1, 1, 1])),
    "F.adaptive_max_pool1d": Case(lambda x: F.adaptive_max_pool1d(x, 4), (9,), adaptive((9,), (4,))),
    "F.max_pool2d, lists of one number": Case(lambda x: F.max_pool2d(x, (2,), [2]), (6, 7), plain((6, 7), [2, 2])),
    "F.max_pool2d, an empty stride": Case(lambda x: F.max_pool2d(x, 2, ()), (7, 7), plain((7, 7), [2, 2])),
    "torch.max_pool2d, an empty stride": Case(lambda x: torch.max_pool2d(x, 2, []), (7, 7), plain((7, 7), [2, 2])),
    "torch.max_pool2d, the rest by default": Case(lambda x: torch.max_pool2d(x, 2), (7, 7), plain((7, 7), [2, 2])),
    "F.max_pool2d_with_indices": Case(lambda x: F.max_pool2d_with_indices(x, 2)[0], (7, 6), plain((7, 6), [2, 2])),
    "F.adaptive_max_pool2d and indices": Case(
        lambda x: F.adaptive_max_pool2d(x, (3, 2), True)[0], (7, 5), adaptive((7, 5), (3, 2))
    ),
    "F.adaptive_max_pool2d_with_indices": Case(
        lambda x: F.adaptive_max_pool2d_with_indices(x, (3, 2))[0], (7, 5), adaptive((7, 5), (3, 2))
    ),
    "torch.adaptive_max_pool1d": Case(lambda x: torch.adaptive_max_pool1d(x, 4)[0], (9,), adaptive((9,), (4,))),
    "F.fractional_max_pool2d_with_indices": Case(
        lambda x: F.fractional_max_pool2d_with_indices(x, 2, (4, 3), _random_samples=SAMPLES_2D)[0],
        (9, 8),
        fractional((9, 8), (2, 2), (4, 3), SAMPLES_2D),
    ),
    "amax of columns": Case(lambda x: x.amax(3), (4, 5), lambda n, c: over_columns((4, 5))),
    "amax of volumes": Case(lambda x: x.amax((2, 3, 4)), (3, 4, 2), lambda n, c: whole_plane((3, 4, 2))),
    "amax": Case(lambda x: x.amax((2, 3)), (4, 5), lambda n, c: whole_plane((4, 5))),
    "amax of rows": Case(lambda x: torch.amax(x, 2, keepdim=True), (4, 5), lambda n, c: over_rows((4, 5))),
    "max of rows": Case(lambda x: x.max(dim=-2)[0], (4, 5), lambda n, c: over_rows((4, 5))),
    "max of rows, False by place": Case(lambda x: x.max(2, False)[0], (4, 5), lambda n, c: over_rows((4, 5))),
    "max of rows, by NumPy's names": Case(
        lambda x: x.max(axis=2, keepdims=True)[0], (4, 5), lambda n, c: over_rows((4, 5))
    ),
    "amax, by NumPy's names": Case(
        lambda x: torch.amax(x=x, axis=(2, 3), keepdims=True), (4, 5), lambda n, c: whole_plane((4, 5))
    ),
    "torch.max of rows": Case(lambda x: torch.max(x, 2, True).values, (4, 5), lambda n, c: over_rows((4, 5))),
}


def down(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    image = x.clone().requires_grad_()
    return torch.autograd.grad(mixed_signal(net(image)), image)[0]


def signal_on(output: Tensor) -> Tensor:
    """The signal that `mixed_signal` sends to an output."""
    leaf = output.detach().requires_grad_()
    return torch.autograd.grad(mixed_signal(leaf), leaf)[0]


def rounded(x: Tensor) -> Tensor:
    """Values with many equal ones among them."""
    return x.round()


# Recording --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepare", [lambda x: x, rounded], ids=["", "equal values"])
@pytest.mark.parametrize("name", CASES)
def test_recorded_switches_are_where_the_maximum_of_each_window_lies(name: str, prepare: Any) -> None:
    """Flat positions in the unpadded plane, of equal values the first, and the output is the original's."""
    case = CASES[name]
    model, x = Pooling(case.pool), prepare(case.images())
    values, indices = case.looped(x)
    assert torch.equal(case.like_switches(model(x)), values)
    switches = record_switches(model, x)
    ((site, recorded),) = switches.indices.items()
    assert (site == "pool") == isinstance(case.pool, nn.Module)  # held under that name, and swapped
    assert recorded.dtype == torch.int64
    assert torch.equal(recorded, indices)
    assert list(switches.planes.values()) == [case.size]


@pytest.mark.parametrize("name", CASES)
def test_replaying_ones_own_switches_is_own_and_autograd(name: str) -> None:
    """Three ways to the same gradient: replayed, "own", and autograd's; the forward pass is bit for bit the same."""
    case = CASES[name]
    model, x = Pooling(case.pool), case.images()
    expected = case.down(case.like_switches(signal_on(model(x))), "switches", case.looped(x)[1])
    torch.testing.assert_close(down(model, x), expected, rtol=0, atol=1e-14)
    for switches in ("own", record_switches(model, x)):
        net = attribkit.rewrite(model, "backprop", switches=switches)
        assert torch.equal(net(x), model(x))
        torch.testing.assert_close(down(net, x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("make", [lambda: Pooling(lambda x: x.amax((2, 3))), lambda: Pooling(nn.MaxPool2d(3, 1, 1))])
def test_own_is_autograd_also_where_values_are_equal(make: Callable[[], nn.Module]) -> None:
    """amax shares its signal among equal maxima, a max-pool gives it to the first: "own" does as torch does."""
    model, x = make(), rounded(noise(2, 3, 6, 6))
    net = attribkit.rewrite(model, "backprop")
    torch.testing.assert_close(down(net, x), down(model, x), rtol=0, atol=1e-14)


def test_recording_leaves_the_model_and_the_images_alone() -> None:
    """State and mode stay; images that need a gradient get none, and switches carry none."""
    model, x = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2)).double(), noise(2, 3, 6, 6)
    before = state_digest(model)
    image = x.clone().requires_grad_()
    switches = record_switches(model, image)
    assert state_digest(model) == before
    assert image.grad is None
    assert torch.equal(image, x)
    assert not any(index.requires_grad for index in switches.indices.values())


# Replaying --------------------------------------------------------------------------------------------------


SAMPLED = [name for name in CASES if "fractional" in name]
"""Pools whose random samples are those of two images."""


@pytest.mark.parametrize(
    ("name", "batch"),
    [(name, batch) for name in CASES for batch in (2, 1) if batch == 2 or name not in SAMPLED],
)
def test_another_images_switches(name: str, batch: int) -> None:
    """The signal goes where another image's maxima lay; one image's switches serve every image of a batch."""
    case = CASES[name]
    model, x, other = Pooling(case.pool), case.images(), case.images(seed=7, batch=batch)
    net = attribkit.rewrite(model, "backprop", switches=record_switches(model, other))
    assert torch.equal(net(x), model(x))
    expected = case.down(case.like_switches(signal_on(model(x))), "switches", case.looped(other)[1])
    torch.testing.assert_close(down(net, x), expected, rtol=0, atol=1e-14)
    assert not torch.allclose(expected, down(model, x))


OVER_DIMENSIONS = [name for name in CASES if name.startswith(("amax", "max", "torch.max of"))]
"""Maxima over dimensions, whose windows never overlap."""


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, how) for name in CASES for how in ("uniform", "center", "corner")]
    + [(name, "overwrite") for name in CASES if name not in OVER_DIMENSIONS],
)
def test_ways_down_without_switches(name: str, how: str) -> None:
    """Spread over the window, to its center, to its corner; or own switches of which the last window wins."""
    case = CASES[name]
    model, x = Pooling(case.pool), case.images()
    options = {"overlap": "overwrite"} if how == "overwrite" else {"switches": how}
    net = attribkit.rewrite(model, "backprop", **options)
    assert torch.equal(net(x), model(x))
    indices = case.looped(x)[1] if how == "overwrite" else None
    expected = case.down(case.like_switches(signal_on(model(x))), how, indices)
    torch.testing.assert_close(down(net, x), expected, rtol=0, atol=1e-14)


def test_overwriting_is_by_the_last_window_also_with_recorded_switches() -> None:
    """With `overlap="overwrite"` replayed signals replace one another too, in reading order."""
    case = CASES["2d stride 1"]
    model, x, other = Pooling(case.pool), case.images(), case.images(seed=7, batch=1)
    net = attribkit.rewrite(model, "backprop", switches=record_switches(model, other), overlap="overwrite")
    expected = case.down(signal_on(model(x)), "overwrite", case.looped(other)[1])
    torch.testing.assert_close(down(net, x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_replay_both_takes_the_values_at_the_switches_too(name: str) -> None:
    """The forward pass takes what lies at the switches, and the signal goes back to where it was taken."""
    case = CASES[name]
    model, x, other = Pooling(case.pool), case.images(), case.images(seed=7)
    net = attribkit.rewrite(model, "backprop", switches=record_switches(model, other), replay="both")
    indices = case.looped(other)[1]
    values = x.flatten(2).gather(2, indices.flatten(2)).reshape(model(x).shape)
    assert torch.equal(net(x), values)
    assert not torch.equal(values, model(x))
    expected = case.down(case.like_switches(signal_on(values)), "switches", indices)
    torch.testing.assert_close(down(net, x), expected, rtol=0, atol=1e-14)


def test_fractional_windows_of_an_image_without_a_batch_are_checked() -> None:
    """Its own switches fit; those that point outside of their windows are refused."""
    pool, x = nn.FractionalMaxPool2d(2, output_size=3, _random_samples=SAMPLES_2D[:1]), noise(3, 9, 9)
    switches = attribkit.record_switches(pool, x)
    attribkit.rewrite(pool, "backprop", switches=switches)(x)
    (site, indices), planes = next(iter(switches.indices.items())), switches.planes
    with pytest.raises(SwitchMismatch, match="outside their windows"):
        attribkit.rewrite(pool, "backprop", switches=Switches({site: indices.flip(-1)}, planes))(x)


def test_one_images_fractional_windows_serve_images_of_other_windows() -> None:
    """The windows of another image lie elsewhere, in each channel: the signal goes where they were recorded."""
    one, two = (
        Pooling(nn.FractionalMaxPool2d((2, 3), output_size=(4, 3), _random_samples=samples))
        for samples in (SAMPLES_2D[1:].flip(1), SAMPLES_2D)
    )
    x, switches = noise(2, 3, 9, 8), record_switches(one, noise(1, 3, 9, 8, seed=7))
    signal = signal_on(two(x)).flatten(2)
    expected = torch.zeros(2, 3, 72, dtype=x.dtype)
    expected.scatter_add_(2, switches.indices["pool"].flatten(2).expand(signal.shape), signal)
    net = attribkit.rewrite(two, "backprop", switches=switches)
    assert torch.equal(net(x), two(x))
    torch.testing.assert_close(down(net, x).flatten(2), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("scheme", ["uniform", "center", "corner"])
@pytest.mark.parametrize(
    "name", ["2d padded, overlapping", "1d dilated", "adaptive 2d", "fractional 3d", "amax of rows"]
)
def test_replay_both_without_switches_is_the_linear_map_of_its_gradient(name: str, scheme: str) -> None:
    """A fixed scheme conditions the forward pass as well: what goes down is the transpose of what went up."""
    case = CASES[name]
    model, x = Pooling(case.pool), case.images()
    net = attribkit.rewrite(model, "backprop", switches=scheme, replay="both")
    signal = signal_on(model(x))
    expected = case.down(case.like_switches(signal), scheme)
    torch.testing.assert_close(down(net, x), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close((net(x) * signal).sum(), (x * expected).sum(), rtol=1e-12, atol=0)


def test_replay_both_with_own_switches_changes_nothing() -> None:
    """One's own maxima are where the values come from anyway."""
    model, x = Pooling(nn.MaxPool2d(3, 2, 1)), noise(2, 3, 6, 7)
    net = attribkit.rewrite(model, "backprop", replay="both")
    assert torch.equal(net(x), model(x))
    assert torch.equal(down(net, x), down(model, x))


@pytest.mark.parametrize(
    ("pool", "size"),
    [
        (nn.FractionalMaxPool2d(2, output_size=(3, 4)), (2, 3, 9, 10)),
        (nn.FractionalMaxPool2d(2, output_size=(3, 4)), (3, 9, 10)),
        (nn.FractionalMaxPool2d(2, output_ratio=(0.5, 0.7)), (2, 3, 9, 10)),
        (nn.FractionalMaxPool3d(2, output_size=3), (2, 3, 7, 8, 9)),
        (nn.FractionalMaxPool3d(2, output_size=3), (2, 7, 8, 9)),
        (lambda x: F.fractional_max_pool2d(x, (2, 3), output_ratio=(0.6, 0.4)), (2, 3, 9, 10)),
        (lambda x: F.fractional_max_pool2d(x, 2, output_size=3, return_indices=True)[0], (2, 3, 9, 10)),
        (lambda x: F.fractional_max_pool3d(x, 2, output_ratio=(0.5, 0.4, 0.6)), (2, 3, 7, 8, 9)),
        (lambda x: F.fractional_max_pool3d(x, 2, output_size=3, return_indices=True)[0], (2, 3, 7, 8, 9)),
    ],
)
def test_random_windows_are_the_same_under_one_seed(pool: Callable[[Tensor], Tensor], size: tuple[int, ...]) -> None:
    """A fractional pool without samples draws as the original does: one seed, the same bits and the same gradient."""
    model, x = Pooling(pool), noise(*size)
    net = attribkit.rewrite(model, "backprop")
    with torch.random.fork_rng(devices=[]):
        results = []
        for one in (model, net):
            torch.manual_seed(3)
            results.append((one(x), down(one, x), torch.rand(())))
    assert all(torch.equal(found, expected) for found, expected in zip(*results, strict=True))


# Where the sites are ----------------------------------------------------------------------------------------


class ManyPools(nn.Module):
    """A pool called twice, functions in the model and in a part of it, and a module that may not be reached."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.last = nn.MaxPool2d(3, 2, 1), nn.Identity()
        self.inner = Pooling(lambda x: F.max_pool2d(F.max_pool2d(x, 2, 1), 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.pool(self.pool(x)))
        return self.last(F.max_pool2d(x, 2))


SITES = ["pool", "pool:1", "inner#max_pool2d", "inner#max_pool2d:1", "#max_pool2d"]
SIZE = (2, 3, 20, 20)


def test_every_call_of_a_pool_has_a_name() -> None:
    """A module called twice records `pool` and `pool:1`, functions are named after the module that calls them."""
    model, x = ManyPools(), noise(*SIZE)
    switches = record_switches(model, x)
    assert list(switches.indices) == SITES
    assert list(switches.planes.values()) == [(20, 20), (10, 10), (5, 5), (4, 4), (3, 3)]
    assert all(name in repr(switches) for name in SITES)
    net = attribkit.rewrite(model, "backprop", switches=switches)
    assert torch.equal(down(net, x), down(model, x))
    assert [(site.name, site.calls) for site in net.sites if site.kind == "pool"] == [
        ("pool", 2),
        *((name, 1) for name in SITES[2:]),
    ]


@pytest.mark.parametrize("asked", [["pool"], ["pool:1", "pool"], ["inner#max_pool2d", "pool"], ["#max_pool2d"]])
def test_recording_stops_after_the_last_pool_asked_for(asked: list[str]) -> None:
    """Only these are recorded; what comes after the last of them is never run."""
    model, x = ManyPools(), noise(*SIZE)
    whole = record_switches(model, x)

    def unreached(module: nn.Module, inputs: Any) -> None:
        raise AssertionError("recording has gone on")

    after = model.inner if asked[0].startswith("pool") else model.last
    after.register_forward_pre_hook(unreached)
    switches = record_switches(model, x, sites=asked)
    assert sorted(switches.indices) == sorted(asked)
    assert all(torch.equal(switches.indices[name], whole.indices[name]) for name in asked)


def test_a_site_asked_for_twice_is_recorded_once() -> None:
    """Repeating a name changes nothing, also not where the recording stops."""

    def unreached(module: nn.Module, inputs: Any) -> None:
        raise AssertionError("recording has gone on")

    model = ManyPools()
    model.inner.register_forward_pre_hook(unreached)
    assert list(record_switches(model, noise(*SIZE), sites=["pool", "pool"]).indices) == ["pool"]


@pytest.mark.parametrize("unknown", ["pool:2", "pools", "inner", ""])
def test_an_unknown_site_is_an_error(unknown: str) -> None:
    """The message names the site that there is not."""
    with pytest.raises(ValueError, match=f"no max-pool named {unknown!r} was called"):
        record_switches(ManyPools(), noise(*SIZE), sites=["pool", unknown])


def test_some_switches_are_replayed_only_where_they_are_all_there() -> None:
    """Switches of some sites do not fit a net that has more: the first that is missing is named."""
    model, x = ManyPools(), noise(*SIZE)
    switches = record_switches(model, x, sites=["pool"])
    with pytest.raises(SwitchMismatch, match=r"no switches for the pool 'pool:1'; they were recorded for pool"):
        attribkit.rewrite(model, "backprop", switches=switches)(x)


def test_a_model_without_pools_has_no_switches() -> None:
    """Nothing to record is an error, and so is a maximum over channels, which is no pool."""
    for model in (nn.ReLU(), Pooling(lambda x: x.amax(1)), Pooling(lambda x: x.max()), Pooling(nn.AvgPool2d(2))):
        with pytest.raises(ValueError, match="no max-pool to record"):
            record_switches(model, noise(2, 3, 4, 4))


@pytest.mark.parametrize(
    ("maximum", "size"),
    [
        (lambda x: x.amax((1, 2, 3)), (2, 3, 4, 5)),
        (lambda x: x.amax(1), (2, 3, 4, 5)),
        (lambda x: x.amax((4, 5)), (2, 3, 2, 2, 4, 5)),
        (lambda x: x.amax(1), (6, 7)),
    ],
)
def test_a_maximum_over_channels_or_of_more_than_volumes_is_no_pool(maximum: Any, size: tuple[int, ...]) -> None:
    """It stays torch's, whatever the switches."""
    model, x = Pooling(lambda x: maximum(x.relu())), noise(*size)
    net = attribkit.rewrite(model, "backprop", switches="uniform")
    assert torch.equal(down(net, x), down(model, x))
    assert [site.kind for site in net.sites] == ["rectifier"]


def test_a_plain_function_can_be_recorded() -> None:
    """A function of tensors has sites without a module's name."""
    switches = record_switches(lambda x: F.max_pool2d(F.max_pool2d(x, 2), 2), noise(2, 3, 8, 8))
    assert list(switches.indices) == ["#max_pool2d", "#max_pool2d:1"]


class SegNet(nn.Module):
    """Pools that hand on their indices, which unpools put to use."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, one = self.down(x)
        second, two = F.max_pool2d(F.relu(first), 2, return_indices=True)
        back = F.max_unpool2d(2 * second, two, 2, output_size=first.shape)
        return self.up(back + first, one, output_size=x.shape), first.flatten(2).max(2)[1].double()


@pytest.mark.parametrize("switches", ["own", "center", "recorded"])
def test_pools_that_return_indices_return_them(switches: str) -> None:
    """The indices handed on are the forward pass's own, whatever way the signal takes down; own is autograd."""
    model, x = SegNet(), noise(2, 3, 9, 8)
    net = attribkit.rewrite(
        model,
        "backprop",
        switches=record_switches(model, noise(2, 3, 9, 8, seed=1)) if switches == "recorded" else switches,
    )
    for found, expected in zip(net(x), model(x), strict=True):
        assert torch.equal(found, expected)
    assert torch.allclose(down(net, x), down(model, x)) == (switches == "own")


# Switches by themselves -------------------------------------------------------------------------------------


def test_switches_cannot_be_changed() -> None:
    """What was recorded stays what it is; other switches are made of it."""
    switches = some_switches()
    for name in ("indices", "planes", "network"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(switches, name, getattr(switches, name))


def test_switches_are_equal_to_themselves_only() -> None:
    """Tensors have no single answer to whether they are equal; so switches can be keys and members of a set."""
    switches = some_switches()
    other = Switches(switches.indices, switches.planes)
    assert switches == switches
    assert switches != other
    assert len({switches, other, switches}) == 2


def test_switches_made_by_hand_may_leave_out_the_planes() -> None:
    """Then those of the images are taken."""
    x = noise(2, 3, 6, 6)
    for planes in ({}, {"another": (6, 6)}):
        switches = Switches({"pool": torch.zeros(1, 3, 1, 1, dtype=torch.int64)}, planes)
        found = down(attribkit.rewrite(Pooling(nn.MaxPool2d(6)), "backprop", switches=switches), x)
        assert found[..., 0, 0].all()
        assert not found.flatten(2)[..., 1:].any()


@pytest.mark.parametrize(("plane", "words"), [((4, 0), "4x0"), ((0,), "0"), ((-1, 4), "-1x4")])
def test_a_plane_without_cells_is_refused(plane: tuple[int, ...], words: str) -> None:
    """In switches made by hand, too; one cell is enough."""
    indices = torch.zeros(1, 1, *[1] * len(plane), dtype=torch.int64)
    with pytest.raises(SwitchMismatch, match=f"switches of 'pool' point into a plane of {words}$"):
        Switches({"pool": indices}, {"pool": plane})
    assert Switches({"pool": indices}, {"pool": (1,) * len(plane)}).planes == {"pool": (1,) * len(plane)}


# Saving and loading -----------------------------------------------------------------------------------------


def some_switches() -> Switches:
    return Switches(
        {"блок.пул": torch.arange(8).reshape(1, 2, 2, 2), "池:1": torch.ones(1, 2, 1, dtype=torch.int64)},
        {"блок.пул": (4, 4), "池:1": (3,)},
    )


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    """Names in any script, order, positions and planes come back; a folder is made where there is none."""
    switches, path = some_switches(), tmp_path / "näher" / "猫.safetensors"
    switches.save(path)
    for place in (path, str(path)):
        loaded = Switches.load(place)
        assert list(loaded.indices) == list(switches.indices)
        assert loaded.planes == switches.planes
        for name, index in switches.indices.items():
            assert loaded.indices[name].dtype == torch.int64
            assert torch.equal(loaded.indices[name], index)


def test_switches_can_be_moved_to_a_device() -> None:
    """Indices move and keep their planes; replaying takes them to wherever the signal is."""
    switches = some_switches()
    moved = switches.to("meta")
    assert {index.device.type for index in moved.indices.values()} == {"meta"}
    assert {index.device.type for index in switches.indices.values()} == {"cpu"}
    assert moved.planes == switches.planes


def test_a_file_replays_like_what_was_saved(tmp_path: Path) -> None:
    """Recorded, saved, loaded, replayed: the same gradient as without the file."""
    model, x = ManyPools(), noise(*SIZE)
    switches = record_switches(model, noise(*SIZE, seed=5))
    switches.save(tmp_path / "other.safetensors")
    loaded = Switches.load(tmp_path / "other.safetensors")
    expected = down(attribkit.rewrite(model, "backprop", switches=switches), x)
    assert torch.equal(down(attribkit.rewrite(model, "backprop", switches=loaded), x), expected)


def test_the_same_switches_are_the_same_bytes(tmp_path: Path) -> None:
    """Saving twice gives equal files, however the tensors lie in memory."""
    switches = some_switches()
    switches.save(tmp_path / "first")
    strided = {name: index.repeat(2, 1, *[1] * (index.dim() - 2))[::2] for name, index in switches.indices.items()}
    others = [some_switches(), Switches(strided, switches.planes), Switches.load(tmp_path / "first")]
    for other in others:
        other.save(tmp_path / "other")
        assert (tmp_path / "other").read_bytes() == (tmp_path / "first").read_bytes()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fails in the middle the old file stays, and nothing is left beside it."""
    path = tmp_path / "cat.safetensors"
    some_switches().save(path)
    before = path.read_bytes()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        Switches({"pool": torch.zeros(1, 1, 1, dtype=torch.int64)}, {"pool": (3,)}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_of_switches_is_refused(tmp_path: Path) -> None:
    """Another format, another program's tensors, and a file cut short are each said to be what they are."""
    import safetensors.torch

    path = tmp_path / "cat.safetensors"
    path.write_bytes(b"\x89PNG and so on, long enough to look like something")
    with pytest.raises(SwitchMismatch, match=r"cat\.safetensors is not a safetensors file"):
        Switches.load(path)
    path.write_bytes(safetensors.torch.save({"weight": torch.zeros(3)}, {"format": "pt"}))
    with pytest.raises(SwitchMismatch, match=r"cat\.safetensors holds no switches.*record_switches"):
        Switches.load(path)
    some_switches().save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(SwitchMismatch, match=r"cat\.safetensors"):
        Switches.load(path)
    path.write_bytes(b"")
    with pytest.raises(SwitchMismatch, match=r"cat\.safetensors"):
        Switches.load(path)
    with pytest.raises(attribkit.AttribkitError, match=r"there is no file .*dog"):
        Switches.load(tmp_path / "dog.safetensors")


def test_a_file_from_before_files_named_their_network_is_read(tmp_path: Path) -> None:
    """Any network may replay it."""
    import safetensors.torch

    path = tmp_path / "old.safetensors"
    path.write_bytes(safetensors.torch.save({"pool": torch.zeros(1, 1, 2, 2).long()}, {OLDER: '{"pool": [4, 4]}'}))
    loaded = Switches.load(path)
    assert (loaded.planes, loaded.network) == ({"pool": (4, 4)}, "")


def file_of_a_plane(path: Path, plane: object) -> Path:
    """A file of the switches of one pool, which point into that plane."""
    import safetensors.torch

    about = json.dumps({"network": "", "planes": {"pool": plane}})
    path.write_bytes(safetensors.torch.save({"pool": torch.zeros(1, 1, 1, 1, dtype=torch.int64)}, {NEWER: about}))
    return path


def test_a_plane_of_one_cell_comes_out_of_a_file(tmp_path: Path) -> None:
    """And replays."""
    switches = Switches.load(file_of_a_plane(tmp_path / "cat.safetensors", [1, 1]))
    assert switches.planes == {"pool": (1, 1)}
    net, x = attribkit.rewrite(Pooling(nn.MaxPool2d(1)), "backprop", switches=switches), noise(2, 1, 1, 1)
    assert torch.equal(down(net, x), signal_on(x))


@pytest.mark.parametrize("plane", ["4x4", 4, {"4": 4}, [4, 0], [4, -1], [4.0, 4.0], [True, True], [[4], 4], [None]])
def test_a_plane_that_is_no_size_is_named(tmp_path: Path, plane: object) -> None:
    """With the file, the pool and what stands there."""
    path = file_of_a_plane(tmp_path / "cat.safetensors", plane)
    with pytest.raises(SwitchMismatch) as caught:
        Switches.load(path)
    assert str(caught.value) == f"{path}: the switches of 'pool' point into a plane of {plane}, which is not a size"


def test_a_plane_that_would_fill_the_screen_is_cut_off(tmp_path: Path) -> None:
    """After sixty letters."""
    path = file_of_a_plane(tmp_path / "cat.safetensors", "0123456789" * 1000)
    with pytest.raises(SwitchMismatch) as caught:
        Switches.load(path)
    assert str(caught.value).endswith(f" into a plane of {'0123456789' * 6}, which is not a size")


OLDER, NEWER = "attribkit.switches/1", "attribkit.switches/2"


@pytest.mark.parametrize(
    ("format", "about"),
    [
        (OLDER, "no json"),
        (OLDER, '{"pool": 3}'),
        (OLDER, '{"dog": [4, 4]}'),
        (OLDER, "[1]"),
        (NEWER, '{"pool": [4, 4]}'),
        (NEWER, '{"planes": {"pool": [4, 4]}}'),
        (NEWER, '{"planes": [1], "network": ""}'),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, format: str, about: str) -> None:
    """Our mark on tensors that do not go with it is no file of switches either."""
    import safetensors.torch

    path = tmp_path / "cat.safetensors"
    tensors = {"pool": torch.zeros(1, 1, 2, 2, dtype=torch.int64)}
    path.write_bytes(safetensors.torch.save(tensors, {format: about}))
    with pytest.raises(SwitchMismatch, match=r"cat\.safetensors"):
        Switches.load(path)


# Switches that do not fit -----------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self, stride: int = 2, second: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.MaxPool2d(2, stride), second or nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def mismatch(recorded_on: nn.Module, images: Tensor, model: nn.Module, x: Tensor) -> str:
    """The message when switches of one model and its images meet another."""
    net = attribkit.rewrite(model, "backprop", switches=record_switches(recorded_on, images))
    with pytest.raises(SwitchMismatch) as caught:
        net(x)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_switches_of_another_network_are_refused_though_its_pools_fit(tmp_path: Path) -> None:
    """They know which one they are of; in a file, too."""
    one, other = (
        nn.Sequential(nn.Conv2d(3, 4, size, padding=size // 2), nn.ReLU(), nn.MaxPool2d(2)) for size in (3, 5)
    )
    x = noise(1, 3, 8, 8).float()
    switches = record_switches(one, x)
    switches.save(tmp_path / "one.safetensors")
    for recorded in (switches, switches.to("cpu"), Switches.load(tmp_path / "one.safetensors")):
        attribkit.rewrite(one, "deconvnet", switches=recorded)(x)
        with pytest.raises(SwitchMismatch, match=r"recorded on Sequential .{8}, and this network is Sequential .{8};"):
            attribkit.rewrite(other, "deconvnet", switches=recorded)
    attribkit.rewrite(other, "deconvnet", switches=Switches(switches.indices, switches.planes))(x)


def test_other_weights_and_wrappers_are_the_same_network() -> None:
    """Fine-tuned weights, folded norms and DataParallel do not make it another."""
    make = lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)).eval()  # noqa: E731
    x = noise(1, 3, 8, 8).float()
    switches = record_switches(make(), x)
    for model in (make(), attribkit.fold_batch_norm(make()), nn.DataParallel(make())):
        attribkit.rewrite(model, "deconvnet", switches=switches)(x)


def ending_in(*last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), *last)


def test_networks_whose_linear_layers_alone_differ_are_not_the_same() -> None:
    """Fewer classes, or one more layer; the same layers with other weights are."""
    x = noise(1, 3, 8, 8).float()
    switches = record_switches(ending_in(nn.Linear(64, 5)), x)
    attribkit.rewrite(ending_in(nn.Linear(64, 5)), "deconvnet", switches=switches)(x)
    for other in (ending_in(nn.Linear(64, 4)), ending_in(nn.Linear(64, 5), nn.Linear(5, 5)), ending_in()):
        with pytest.raises(SwitchMismatch, match="recorded on Sequential"):
            attribkit.rewrite(other, "deconvnet", switches=switches)


class Scaled(nn.Module):
    """Weights of a shape, by which images are multiplied."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale, self.relu, self.pool = nn.Parameter(torch.ones(shape)), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(x * self.scale))


def test_vectors_and_single_numbers_do_not_make_it_another_network() -> None:
    """Folding takes some away; matrices are never folded away."""
    x = noise(1, 3, 8, 8).float()
    switches = record_switches(Scaled(), x)
    attribkit.rewrite(Scaled(8), "deconvnet", switches=switches)(x)
    with pytest.raises(SwitchMismatch, match="recorded on Scaled"):
        attribkit.rewrite(Scaled(8, 8), "deconvnet", switches=switches)
    without = Scaled()
    without.scale.requires_grad_(False)
    del without.scale
    without.scale = torch.ones(())
    attribkit.rewrite(without, "deconvnet", switches=switches)(x)


def test_images_of_another_size_do_not_fit() -> None:
    """The first site whose plane differs is named, with both sizes, also where the output would be as large."""
    assert mismatch(Two(), noise(1, 3, 8, 8), Two(), noise(2, 3, 12, 8)) == (
        "the switches of 'first' point into a plane of 8x8, but its input is 12x8: "
        "record them on images of the same size"
    )
    assert "'first' point into a plane of 9x8" in mismatch(Two(), noise(1, 3, 9, 8), Two(), noise(1, 3, 8, 8))


def test_the_first_pool_of_another_shape_is_named() -> None:
    """The sites before the one that differs fit, and are not blamed."""
    says = mismatch(Two(), noise(1, 3, 8, 8), Two(second=nn.MaxPool2d(2, 1)), noise(1, 3, 8, 8))
    assert says.startswith("the switches of 'second' are 1x3x2x2, but the pool gives 1x3x3x3")


def test_pools_of_another_stride_do_not_fit() -> None:
    """A stride that gives another number of outputs is seen at its own site."""
    assert mismatch(Two(), noise(1, 3, 8, 8), Two(stride=1), noise(1, 3, 8, 8)).startswith(
        "the switches of 'first' are 1x3x4x4, but the pool gives 1x3x7x7"
    )


def test_another_number_of_channels_does_not_fit() -> None:
    """Channels are counted too."""
    assert "'first' are 1x3x4x4, but the pool gives 1x4x4x4" in mismatch(
        Two(), noise(1, 3, 8, 8), Two(), noise(1, 4, 8, 8)
    )


@pytest.mark.parametrize(("recorded", "given"), [(2, 3), (3, 2), (2, 1)])
def test_another_number_of_images_does_not_fit(recorded: int, given: int) -> None:
    """Only a batch of one fits any batch, and the message says so."""
    says = mismatch(Two(), noise(recorded, 3, 8, 8), Two(), noise(given, 3, 8, 8))
    assert says.startswith(f"the switches of 'first' are {recorded}x3x4x4, but the pool gives {given}x3x4x4")
    assert "a batch of one fits any batch" in says


def test_a_pool_without_switches_is_named() -> None:
    """A site that was not recorded is named with the nearest that were."""
    says = mismatch(nn.ModuleDict({"x": nn.MaxPool2d(2)})["x"], noise(1, 3, 8, 8), Two(), noise(1, 3, 8, 8))
    assert "no switches for the pool 'first'" in says
    more = Two(second=nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(1)))
    assert "no switches for the pool 'second.0'; they were recorded for second" in mismatch(
        Two(), noise(1, 3, 8, 8), more, noise(1, 3, 8, 8)
    )


@pytest.mark.parametrize(
    ("recorded", "listed"),
    [
        ("pool1 pool2 pool3 pool4 pool5", "pool5, pool4, pool3"),  # all as near, and the last names come first
        ("stem neck head tail", "stem, neck, head"),
        ("stem pools neck head", "pools"),
    ],
)
def test_three_names_are_listed_for_a_pool_without_switches(recorded: str, listed: str) -> None:
    """The nearest; where none is near, the first."""
    switches = Switches({name: torch.zeros(1, 3, 4, 4, dtype=torch.int64) for name in recorded.split()})
    with pytest.raises(SwitchMismatch) as caught:
        attribkit.rewrite(Pooling(nn.MaxPool2d(2)), "backprop", switches=switches)(noise(1, 3, 8, 8))
    assert str(caught.value) == f"no switches for the pool 'pool'; they were recorded for {listed}"


def test_switches_without_a_pool_are_named() -> None:
    """Switches for a pool that the network never calls are an error, not passed over."""
    less = Two(second=nn.Identity())
    assert mismatch(Two(), noise(1, 3, 8, 8), less, noise(1, 3, 8, 8)) == (
        "there are switches for the pool 'second', which the network does not have"
    )


@pytest.mark.parametrize("wrong", [-1, 64, 10**6])
def test_switches_that_point_outside_the_plane_are_refused(wrong: int) -> None:
    """A position that is none is found before it reaches torch, where it would end a CUDA context."""
    model, x = Pooling(nn.MaxPool2d(2)), noise(1, 3, 8, 8)
    indices = record_switches(model, x).indices["pool"].clone()
    indices[0, 1, 2, 3] = wrong
    with pytest.raises(SwitchMismatch, match="'pool'"):
        down(attribkit.rewrite(model, "backprop", switches=Switches({"pool": indices}, {"pool": (8, 8)})), x)


@pytest.mark.parametrize("batch", [2, 1])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: nn.MaxPool2d(2),
        lambda n: nn.AdaptiveMaxPool2d(3),
        lambda n: nn.FractionalMaxPool2d(2, output_size=(4, 3), _random_samples=SAMPLES_2D[:n]),
    ],
    ids=["plain", "adaptive", "fractional"],
)
def test_switches_that_point_outside_their_windows_are_refused(make: Callable[[int], nn.Module], batch: int) -> None:
    """Though inside the plane: one index, that of the first window of a channel, is the last cell."""
    model, x = Pooling(make(batch)), noise(batch, 3, 9, 8)
    indices = record_switches(model, x).indices["pool"].clone()
    indices[-1, 1, 0, 0] = 9 * 8 - 1
    with pytest.raises(SwitchMismatch, match="the switches of 'pool' point outside their windows"):
        attribkit.rewrite(model, "backprop", switches=Switches({"pool": indices}, {"pool": (9, 8)}))(x)


@pytest.mark.parametrize("scheme", ["uniform", "center", "corner"])
def test_a_window_that_lies_in_the_padding_alone(scheme: str) -> None:
    """A dilated window may have no cell inside: it sends its signal nowhere."""
    net = attribkit.rewrite(nn.MaxPool2d(2, stride=1, padding=1, dilation=3), "backprop", switches=scheme)
    x = noise(1, 1, 2, 2).requires_grad_()
    net(x).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
