"""Weights are made random layer by layer as said; start signals converge where they must."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from slow_metrics import noise, slow_cosine, undefined
from torch import Tensor, nn

import attribkit
from attribkit import metrics


class Small(nn.Module):
    """Four layers, with a norm before the first, between and after, and a dropout that counts for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0 = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.block = nn.Sequential(
            nn.ReLU(), nn.Conv2d(8, 40, 3, groups=4), nn.GroupNorm(2, 40), nn.PReLU(), nn.Dropout()
        )
        self.conv3 = nn.ConvTranspose2d(40, 6, 2)
        self.head = nn.Linear(6, 50)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.norm1(self.conv1(self.norm0(x))))
        return self.head(torch.relu(self.conv3(x)).mean((2, 3)))


def learnt() -> Small:
    """With every number of it changed from what a constructor gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = Small()
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 5)
    return net


LAYERS = {
    "head": {"head.weight", "head.bias"},
    "conv3": {"conv3.weight", "conv3.bias"},
    "block.1": {"block.1.weight", "block.1.bias", "block.2.weight", "block.2.bias", "block.3.weight"},
    "conv1": {"conv1.weight"}
    | {f"norm{n}.{name}" for n in (0, 1) for name in ("weight", "bias", "running_mean", "running_var")},
}


def changed(one: nn.Module, other: nn.Module) -> set[str]:
    theirs = other.state_dict()
    return {name for name, value in one.state_dict().items() if not torch.equal(value, theirs[name])}


def test_a_cascade_loses_one_layer_after_the_other() -> None:
    """From the top, norms with the layer before them; each copy keeps what was drawn before; the model is untouched."""
    net = learnt()
    before = copy.deepcopy(net.state_dict())
    copies = list(metrics.cascade(net))
    assert [name for name, _ in copies] == list(LAYERS)
    lost: set[str] = set()
    previous: nn.Module = net
    for name, made in copies:
        assert changed(previous, made) - {"norm0.num_batches_tracked"} == LAYERS[name]
        lost |= LAYERS[name]
        assert changed(net, made) == lost
        previous = made
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    shared = {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for _, m in copies for p in m.parameters()}
    assert not shared
    assert len({p.data_ptr() for _, made in copies for p in made.parameters()}) == 4 * len(list(net.parameters()))


def test_what_a_cascade_draws_is_hes() -> None:
    """Mean zero and variance 2 / fan-in, biases zero, norms as new; drawn from the seed and from nothing else."""
    net = learnt()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        state = torch.get_rng_state()
        *_, (_, made) = metrics.cascade(net, seed=5)
        assert torch.equal(torch.get_rng_state(), state)
    found = made.state_dict()
    for name, fan_in in (("conv1", 27), ("block.1", 18), ("head", 6)):
        weight = found[f"{name}.weight"]
        assert abs(float(weight.mean())) < 4 * math.sqrt(2 / fan_in / weight.numel())
        assert float(weight.var()) == pytest.approx(2 / fan_in, rel=6 / math.sqrt(weight.numel()))
    assert not any(float(found[name].abs().sum()) for name in ("head.bias", "conv3.bias", "block.1.bias", "norm0.bias"))
    assert bool((found["norm1.weight"] == 1).all())
    assert bool((found["norm1.running_var"] == 1).all())
    assert bool((found["block.3.weight"] == 0.25).all())
    *_, (_, again) = metrics.cascade(net, seed=5)
    *_, (_, other) = metrics.cascade(net, seed=6)
    assert changed(made, again) == set()
    assert changed(made, other) == {f"{name}.weight" for name in LAYERS}


@pytest.mark.parametrize(("share", "count"), [(1 / 3, 1), (0.5, 2), (0.01, 1), (0.7, 3), (1, 4)])
def test_the_upper_share_is_a_step_of_the_cascade(share: float, count: int) -> None:
    """The copy that has lost so many layers, rounded and at least one."""
    net = learnt()
    made = metrics.with_upper_layers_random(net, share, seed=2)
    steps = list(metrics.cascade(net, seed=2))
    assert changed(made, steps[count - 1][1]) == set()
    assert made is not net


def test_parameters_that_stay_are_named() -> None:
    """A parameter of no layer, and a weight that is computed, are warned of; no layer at all is an error."""
    net = nn.Sequential(
        nn.Embedding(4, 3), nn.Linear(3, 3), torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    )
    with pytest.warns(UserWarning, match=r"these keep their parameters: 0 \(Embedding\), 2 \(Param.*, 2\.param"):
        (name, made), *rest = metrics.cascade(net)
    assert (name, rest) == ("1", [])
    assert changed(net, made) == {"1.weight", "1.bias"}
    with pytest.raises(ValueError, match="Sequential has no convolution and no linear module to make random"):
        next(metrics.cascade(nn.Sequential(nn.ReLU())))


def test_randomisation_and_class_move_a_gradient() -> None:
    """On a small net: backprop of other weights, and of another logit, is another map; else the same."""
    net, images = learnt().double().eval(), noise(2, 3, 14, 14)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(noise(*parameter.shape, seed=7) / 3)
    maps, same, other = (attribkit.explain(net, images, "backprop", target=t).values for t in (3, 3, 5))
    assert metrics.cosine_similarity(maps, same).tolist() == pytest.approx([1, 1])
    assert bool((metrics.cosine_similarity(maps, other) < 0.9).all())
    random = attribkit.explain(metrics.with_upper_layers_random(net), images, "backprop", target=3).values
    assert bool((metrics.rank_similarity(maps, random) < 0.99).all())


def test_start_signals_converge_in_a_net_of_one_path_only() -> None:
    """Through one positive channel every signal gives the same map; through many of both signs they differ."""
    images = noise(2, 3, 6, 6)
    narrow = nn.Conv2d(3, 1, 6, bias=False).double()
    funnel = nn.Sequential(narrow, nn.Conv2d(1, 9, 1, bias=False).double())
    maps = metrics.maps_of_random_signals(funnel, images, count=6)
    assert maps.shape == (2, 6, 3, 6, 6)
    assert (metrics.cosine_similarity(maps[:, 0], maps[:, 1]).abs() - 1).abs().max() < 1e-9
    positive = torch.einsum("ns,chw->nschw", noise(2, 6).abs(), noise(3, 6, 6))
    assert metrics.signal_convergence(positive).tolist() == pytest.approx([1, 1])
    wide = metrics.signal_convergence(noise(3, 9, 3, 30, 30))
    assert wide.tolist() == pytest.approx([0] * 3, abs=0.05)


def test_maps_of_random_signals_are_autograds() -> None:
    """Each is the signal's product with the Jacobian; all images have the same signals; nothing else is touched."""
    net, images = nn.Conv2d(2, 3, 2).double(), noise(2, 2, 4, 4)
    maps = metrics.maps_of_random_signals(net, images, count=3, seed=4)
    one, same = metrics.maps_of_random_signals(net, images[:1].expand(2, -1, -1, -1), count=1, seed=4)[:, 0]
    assert torch.equal(one, same)
    torch.testing.assert_close(one, maps[0, 0])
    generator = torch.Generator().manual_seed(4)
    for s in range(3):
        signal = torch.randn(3, 3, 3, generator=generator).double().numpy()
        expected = np.zeros((2, 4, 4))
        for k, y, x in np.ndindex(3, 3, 3):
            expected[:, y : y + 2, x : x + 2] += signal[k, y, x] * net.weight[k].detach().numpy()
        torch.testing.assert_close(maps[1, s].numpy(), expected)
    assert net.weight.grad is None
    assert not images.requires_grad


def test_signal_convergence_is_that_of_a_loop_without_the_zero_maps() -> None:
    """The mean over pairs of signals; pairs with a zero map do not count, and with one map left there is none."""
    maps = noise(3, 4, 2, 3, 3)
    maps[1, 2] = 0
    maps[2, :3] = 0
    found = metrics.signal_convergence(maps)
    for n in range(2):
        kept = [one for one in maps[n].numpy() if one.any()]
        pairs = [slow_cosine(a, b) for i, a in enumerate(kept) for b in kept[:i]]
        assert float(found[n]) == pytest.approx(sum(pairs) / len(pairs))
    assert undefined(found) == [False, False, True]
