"""The oracles themselves: against numbers worked out by hand, and against torch where it has the answer."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nets import IN_PLACE_ON_VIEWS, NETS, POOLS, SMOOTH_NETS, random_nets
from oracles import (
    adaptive_windows,
    attribution,
    copied,
    max_pool_switches,
    mixed_signal,
    pool_backwards,
    pool_windows,
    state_digest,
    switches_of,
    tensors_in,
    whole_plane,
)
from torch import Tensor, nn
from torch.nn import functional as F

ALL_NETS = {**NETS, **SMOOTH_NETS}
RULES = ("backprop", "deconvnet", "guided")


class Function(nn.Module):
    """A function of a vector as a model."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def down(function, x: list[float], signal: list[float], rule: str, activations="rectifiers") -> list[float]:
    """What the oracle brings down through a function of a vector when `signal` comes from above."""
    weights = torch.tensor(signal, dtype=torch.float64)
    inputs = torch.tensor(x, dtype=torch.float64)
    return attribution(Function(function), inputs, lambda y: (y * weights).sum(), rule, activations).tolist()


# The signal [1, -2, 3, -4] meets the inputs [1, 1, -1, -1]: every pair of signs.
BY_HAND = {
    "relu": (F.relu, [1, -2, 0, 0], [1, 0, 3, 0], [1, 0, 0, 0]),
    "relu6": (lambda x: F.relu6(7 * x), [0, 0, 0, 0], [7, 0, 21, 0], [0, 0, 0, 0]),
    "leaky_relu": (
        lambda x: F.leaky_relu(x, 0.5),
        [1, -2, 1.5, -2],
        [1, -1, 3, -2],
        [1, -1, 1.5, -1],
    ),
    "rrelu": (lambda x: F.rrelu(x, 0.25, 0.75), [1, -2, 1.5, -2], [1, -1, 3, -2], [1, -1, 1.5, -1]),
    "prelu": (
        lambda x: F.prelu(x, x.new_tensor([-0.5])),
        [1, -2, -1.5, 2],
        [1, 1, 3, 2],
        [1, 1, -1.5, -1],
    ),
    "threshold": (lambda x: F.threshold(x, 0.5, 0), [1, -2, 0, 0], [1, 0, 3, 0], [1, 0, 0, 0]),
    "clamp": (lambda x: x.clamp(min=0), [1, -2, 0, 0], [1, 0, 3, 0], [1, 0, 0, 0]),
    "clamp with a tensor": (lambda x: x.clamp(x.new_zeros(())), [1, -2, 0, 0], [1, 0, 3, 0], [1, 0, 0, 0]),
    "clamp_min": (lambda x: x.clamp_min(0), [1, -2, 0, 0], [1, 0, 3, 0], [1, 0, 0, 0]),
    "maximum": (lambda x: torch.maximum(x, x.new_zeros(())), [1, -2, 0, 0], [1, 0, 3, 0], [1, 0, 0, 0]),
    "maximum, zero first": (lambda x: torch.max(0 * x.data, x), [1, -2, 0, 0], [1, 0, 3, 0], [1, 0, 0, 0]),
    "relu squared": (lambda x: F.relu(2 * x) ** 2, [8, -16, 0, 0], [8, 0, 0, 0], [8, 0, 0, 0]),
    "relu of relu": (lambda x: F.relu(-F.relu(x)), [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]),
    "relu of minus x": (lambda x: F.relu(-x), [0, 0, -3, 4], [-1, 0, -3, 0], [0, 0, -3, 0]),
    "x + relu": (lambda x: x + F.relu(x), [2, -4, 3, -4], [2, -2, 6, -4], [2, -2, 3, -4]),
    "in place": (lambda x: (2 * x).relu_(), [2, -4, 0, 0], [2, 0, 6, 0], [2, 0, 0, 0]),
    "no rectifier: clamp(min=0.5)": (lambda x: x.clamp(min=0.5), [1, -2, 0, 0], [1, -2, 0, 0], [1, -2, 0, 0]),
    "no rectifier: hardtanh": (lambda x: F.hardtanh(x, -3, 3), *[[1, -2, 3, -4]] * 3),
    "no rectifier: maxout": (lambda x: torch.maximum(x, 0 * x), [1, -2, 0, 0], [1, -2, 0, 0], [1, -2, 0, 0]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_rules_by_hand(name: str) -> None:
    function, *expected = BY_HAND[name]
    for rule, numbers in zip(RULES, expected, strict=True):
        assert down(function, [1, 1, -1, -1], [1, -2, 3, -4], rule) == numbers, rule


@pytest.mark.parametrize("name", SMOOTH_NETS)
def test_smooth_functions_are_left_alone_unless_asked_for(name: str) -> None:
    model, x = SMOOTH_NETS[name]()
    plain = attribution(model, x, mixed_signal, "backprop")
    for rule in RULES:
        assert torch.equal(attribution(model, x, mixed_signal, rule), plain)
    assert torch.equal(attribution(model, x, mixed_signal, "backprop", "all"), plain)


@pytest.mark.parametrize("function", [F.silu, F.gelu, F.mish, F.hardswish])
def test_smooth_functions_by_hand(function) -> None:
    open_gate = torch.func.grad(function)(torch.tensor(1.0, dtype=torch.float64)).item()
    assert down(function, [1, 1, -1, -1], [1, -2, 3, -4], "guided", "all") == [open_gate, 0, 0, 0]
    assert down(function, [1, 1, -1, -1], [1, -2, 3, -4], "deconvnet", "all") == [1, 0, 3, 0]


@pytest.mark.parametrize("function", [F.elu, F.celu, F.selu, F.softplus])
def test_monotone_functions_keep_their_gate_below_zero(function) -> None:
    at = [torch.func.grad(function)(torch.tensor(x, dtype=torch.float64)).item() for x in (1.0, -1.0)]
    assert down(function, [1, 1, -1, -1], [1, -2, 3, -4], "guided", "all") == pytest.approx([at[0], 0, 3 * at[1], 0])
    assert down(function, [1, 1, -1, -1], [1, -2, 3, -4], "deconvnet", "all") == [1, 0, 3, 0]


def test_two_layers_with_the_numbers_written_out() -> None:
    """h = relu(W x), y = V relu(U h), with x = (1, 2): h = relu(3, -1) = (3, 0), U h = (3, 6)."""
    w = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    u = torch.tensor([[1.0, 1.0], [2.0, -3.0]])
    v = torch.tensor([1.0, -1.0])
    model = Function(lambda x: v @ F.relu(u @ F.relu(w @ x)))
    x = torch.tensor([1.0, 2.0])
    # v = (1, -1). backprop: U'v = (-1, 4), gated (-1, 0), W' of it (-1, -1)
    # deconvnet: (1, 0), U' of it (1, 1), rectified (1, 1), W' of it (2, 0); guided: gated (1, 0), so (1, 1)
    for rule, expected in zip(RULES, ([-1, -1], [2, 0], [1, 1]), strict=True):
        assert attribution(model, x, lambda y: y, rule).tolist() == expected


def test_a_response_norm_is_bypassed_by_the_deconvnet_alone() -> None:
    x = torch.rand(1, 5, 2, 2, dtype=torch.float64)
    norm = nn.LocalResponseNorm(3, alpha=2.0)
    assert torch.equal(attribution(norm, x, lambda y: y.sum(), "deconvnet"), torch.ones_like(x))
    plain = attribution(norm, x, lambda y: y.sum(), "backprop")
    assert not torch.allclose(plain, torch.ones_like(x))
    assert torch.equal(attribution(norm, x, lambda y: y.sum(), "guided"), plain)


@pytest.mark.parametrize("name", ALL_NETS)
def test_every_net_tells_the_rules_apart(name: str) -> None:
    model, x = ALL_NETS[name]()
    maps = [attribution(model, x, mixed_signal, rule, "all") for rule in RULES]
    for one, other in itertools.combinations(maps, 2):
        assert (one - other).abs().max() > 1e-3 * other.abs().max() > 0


@pytest.mark.parametrize("name", ALL_NETS)
def test_backprop_is_autograd_and_builders_repeat_themselves(name: str) -> None:
    (model, x), (again, same_x) = ALL_NETS[name](), ALL_NETS[name]()
    before = state_digest(model)
    found = attribution(model, x, mixed_signal, "backprop")
    assert state_digest(model) == before
    assert torch.equal(x, same_x)
    (expected,) = torch.autograd.grad(mixed_signal(again.eval()(same_x.requires_grad_())), same_x)
    assert torch.equal(found, expected)


@settings(deadline=None, max_examples=20)
@given(random_nets())
def test_random_nets_run_and_repeat_themselves(build) -> None:
    (model, x), (again, same_x) = build(), build()
    assert torch.equal(model.eval()(x), again.eval()(same_x))
    assert all(attribution(model, x, mixed_signal, rule).isfinite().all() for rule in RULES)


@pytest.mark.parametrize("name", IN_PLACE_ON_VIEWS)
def test_what_is_written_into_a_view_is_refused_and_has_a_twin(name: str) -> None:
    (writing, x), (plain, _) = (build() for build in IN_PLACE_ON_VIEWS[name])
    assert torch.equal(writing(x), plain(x))
    with pytest.raises(NotImplementedError, match="view"):
        attribution(writing, x, mixed_signal, "guided")
    assert attribution(plain, x, mixed_signal, "guided").abs().max() > 0


# Pools ------------------------------------------------------------------------------------------------------


@st.composite
def pool_cases(draw: st.DrawFn) -> tuple[tuple[int, ...], dict]:
    """The size of a plane of one to three dimensions and a pool's settings that fit it."""
    dims = draw(st.integers(1, 3))

    def one_each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    size, kernel, stride, dilation = one_each(3, 7), one_each(1, 3), one_each(1, 3), one_each(1, 2)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    assume(all(s + 2 * p > d * (k - 1) for s, k, p, d in zip(size, kernel, padding, dilation, strict=True)))
    return size, {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": draw(st.booleans()),
    }


@settings(deadline=None, max_examples=60)
@given(pool_cases(), st.integers(0, 99))
def test_looped_pools_equal_torch(case, seed: int) -> None:
    size, options = case
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 9, (2, 2, *size), generator=generator, dtype=torch.float64).requires_grad_()
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(size) - 1]
    expected, expected_indices = pool(x, **options, return_indices=True)
    windows = pool_windows(size, *options.values())
    values, indices = max_pool_switches(x.detach(), windows)
    assert torch.equal(values, expected)
    assert torch.equal(indices, expected_indices)
    signal = torch.randn(values.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(expected, x, signal)
    torch.testing.assert_close(pool_backwards(signal, windows, "switches", indices), gradient)


@pytest.mark.parametrize(("size", "output_size"), [((7,), (3,)), ((5, 8), (2, 3)), ((3, 4, 5), (2, 4, 3))])
def test_looped_adaptive_pools_equal_torch(size: tuple[int, ...], output_size: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *size)
    pool = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[len(size) - 1]
    expected = pool(x, output_size, return_indices=True)
    values, indices = max_pool_switches(x, adaptive_windows(size, output_size))
    assert torch.equal(values, expected[0])
    assert torch.equal(indices, expected[1])


def test_the_maximum_of_a_plane() -> None:
    x = torch.randn(2, 3, 4, 5)
    values, indices = max_pool_switches(x, whole_plane((4, 5)))
    assert torch.equal(values, x.amax((2, 3), keepdim=True))
    assert torch.equal(indices.flatten(), x.flatten(2).argmax(2).flatten())


# Five cells, windows of three with stride 2 and one cell of padding: {0 1}, {1 2 3}, {3 4}.
WAYS = {
    "switches": [0, 6 + 60, 0, 600, 0],
    "overwrite": [0, 60, 0, 600, 0],
    "uniform": [3, 3 + 20, 20, 20 + 300, 300],
    "center": [6, 0, 60, 600, 0],
    "corner": [6, 60, 0, 600, 0],
}


@pytest.mark.parametrize("how", WAYS)
def test_ways_back_by_hand(how: str) -> None:
    windows = pool_windows((5,), (3,), (2,), (1,))
    assert windows.along == [[[0, 1], [1, 2, 3], [3, 4]]]
    signal, indices = torch.tensor([[6.0, 60.0, 600.0]]), torch.tensor([[1, 1, 3]])
    assert pool_backwards(signal, windows, how, indices).tolist() == [WAYS[how]]


def test_the_center_of_a_plane_is_taken_in_each_dimension() -> None:
    windows = pool_windows((4, 4), (3, 4), (1, 4))
    signal = torch.tensor([[1.0], [2.0]])
    expected = torch.zeros(4, 4)
    expected[1, 1], expected[2, 1] = 1.0, 2.0
    assert torch.equal(pool_backwards(signal, windows, "center"), expected)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("rule", ["backprop", "guided"])
def test_replaying_a_nets_own_switches_changes_nothing(name: str, rule: str) -> None:
    model, x = NETS[name]()
    switches = switches_of(model, x, mixed_signal)
    assert len(switches) == 1
    torch.testing.assert_close(
        attribution(model, x, mixed_signal, rule, pools=switches),
        attribution(model, x, mixed_signal, rule),
    )


@pytest.mark.parametrize("name", POOLS)
def test_without_switches_a_deconvnet_does_not_see_the_image(name: str) -> None:
    model, x = NETS[name]()
    for how in ("uniform", "center", "corner"):
        images = (x, x.flip(0, 3) - 1)
        maps = [attribution(model, image, mixed_signal, "deconvnet", pools=how) for image in images]
        torch.testing.assert_close(*maps)
        assert maps[0].abs().max() > 0


# The digest -------------------------------------------------------------------------------------------------


def digested_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


DISTURBANCES = {
    "a parameter": lambda m: m[0].weight.data.add_(1),
    "a write that changes nothing": lambda m: m[1].running_var.add_(0),
    "an equal parameter": lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.detach().clone())),
    "a buffer": lambda m: m[1].running_mean.add_(1),
    "a gradient": lambda m: setattr(m[0].weight, "grad", torch.ones_like(m[0].weight)),
    "requires_grad": lambda m: m[0].bias.requires_grad_(False),
    "a mode": lambda m: m[1].eval(),
    "a class": lambda m: setattr(m[2], "__class__", nn.ReLU6),
    "a module": lambda m: setattr(m, "2", nn.ReLU()),
    "an attribute": lambda m: setattr(m[2], "note", 1),
    "a forward hook": lambda m: m[2].register_forward_hook(lambda *_: None),
    "a backward hook": lambda m: m[2].register_full_backward_hook(lambda *_: None),
    "a hook on a parameter": lambda m: m[0].weight.register_hook(lambda g: g),
}


@pytest.mark.parametrize("name", DISTURBANCES)
def test_the_digest_sees(name: str) -> None:
    model = digested_net()
    before = state_digest(model)
    assert state_digest(model) == before
    DISTURBANCES[name](model)
    assert state_digest(model) != before


def test_the_digest_does_not_see_a_use_that_leaves_no_trace() -> None:
    model = digested_net().eval()
    before = state_digest(model)
    with model[2].register_forward_hook(lambda *_: None):
        copy.deepcopy(model)(torch.randn(1, 3, 5, 5))
    assert state_digest(model) == before


def test_tensors_of_any_output() -> None:
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    assert [t.numel() for t in tensors_in({"x": (a, "word"), "y": [b, {"z": c}]})] == [1, 2, 3]
    assert copied(nn.Identity()) is not None
