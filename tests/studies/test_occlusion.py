"""Occlusion in windows gives what a plain loop over covered images gives, and says where it ran whole images."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit
from attribkit.explaining.watching import inside, watched
from attribkit.studies import incremental
from attribkit.studies.folded import Readers, folded
from attribkit.studies.incremental_windows import Kernel, blocks

IN_WINDOWS = "only what a window changes was computed again"


def plain_loop(
    model: nn.Module, images: Tensor, corners: list[tuple[int, int]], window: int, fill: Tensor, layer: str
) -> tuple[Tensor, Tensor]:
    """Logits and the strongest feature map's sum, one covered image per forward pass; nothing of the library."""
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, a, output: seen.append(output.clone()))
    logits, sums = [], []
    with torch.no_grad():
        for image in images:
            model(image[None])
            channel = int(seen[-1][0].flatten(1).sum(1).argmax())
            for top, left in corners:
                covered = image.clone()
                for y in range(max(0, top), min(image.shape[1], top + window)):
                    for x in range(max(0, left), min(image.shape[2], left + window)):
                        covered[:, y, x] = fill[:, y, x]
                logits.append(model(covered[None])[0])
                sums.append(seen[-1][0, channel].sum())
    handle.remove()
    return torch.stack(logits), torch.stack(sums)


class OddPadding(nn.Module):
    """Dilation, padding of every kind, groups, pools in ceil mode, branches, views, writes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=(4, 1), dilation=(2, 1))
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, padding=1, dilation=1, ceil_mode=True)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
        self.narrow = nn.Conv2d(8, 8, (1, 3), padding="same")
        self.skipping = nn.Conv2d(16, 12, 1, stride=2)
        self.layer = nn.Conv2d(12, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, 0:1] * 1.5, x[:, 1:]], 1)
        x = self.pool(F.relu_(self.norm(self.stem(F.pad(x, (1, 2, 0, 3))))))
        left, right = self.grouped(x).chunk(2, 1)
        x = torch.cat([left, right, x + torch.sigmoid(self.narrow(x))], 1)
        x = x.view(len(x), 2, 8, *x.shape[2:]).transpose(1, 2).reshape(len(x), 16, *x.shape[2:])
        x = F.avg_pool2d(F.relu6(x), 2, 1, padding=1)
        x = self.skipping(x)
        x += 0.5
        return self.head(F.elu(self.layer(x)).mean((2, 3)))


def seeded(make: Callable[[], nn.Module], double: bool = True) -> nn.Module:
    torch.manual_seed(0)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # as training leaves them
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.double() if double else net


def vgg16() -> nn.Module:
    """With a small classifier in the place of its large one, which sees no windows any more."""
    net = torchvision.models.vgg16(weights=None, init_weights=False)
    net.classifier = nn.Linear(512 * 7 * 7, 10)
    return net


def googlenet() -> nn.Module:
    return torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=False, transform_input=True)


NETS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "vgg16": (vgg16, "features.21", 64),
    "resnet18": (lambda: torchvision.models.resnet18(weights=None), "layer3", 80),
    "googlenet": (googlenet, "inception4a", 64),
    "squeezenet1_1": (lambda: torchvision.models.squeezenet1_1(weights=None), "features.9", 80),
    "efficientnet_lite0": (lambda: timm.create_model("tf_efficientnet_lite0"), "blocks.3", 80),
    "densenet121": (lambda: torchvision.models.densenet121(weights=None), "features.denseblock2", 64),
    "odd padding": (OddPadding, "layer", 61),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("edge", ["inside", "overhang"])
def test_windows_give_what_the_plain_loop_gives(name: str, edge: Any) -> None:
    """In double precision to 1e-9 of the largest effect: probability, activity and the best class."""
    if edge == "overhang" and name != "odd padding":
        pytest.skip("the edge is the same for all")
    make, layer, size = NETS[name]
    net = seeded(make)
    images = torch.randn(1, 3, size, size + 3, generator=torch.Generator().manual_seed(1)).double()
    fill = torch.full((3, size, size + 3), 0.25).double()
    result = attribkit.occlude(net, images, window=17, stride=27, fill=0.25, layer=layer, target=3, edge=edge)
    assert result.computed.startswith(IN_WINDOWS)
    corners = [(top, left) for top in result.rows for left in result.columns]
    logits, sums = plain_loop(net, images, corners, 17, fill, layer)
    chances = logits.softmax(1)[:, 3].numpy()
    for mine, plain, clean in (
        (result.probability, chances, result.clean[0, 0]),
        (result.activity, sums.numpy(), result.clean[0, 1]),
    ):
        assert np.abs(plain - clean).max() > 0
        atol = 1e-9 * np.abs(plain - clean).max() + 1e-14 * abs(clean)  # some random networks hardly care
        np.testing.assert_allclose(mine.ravel(), plain, rtol=0, atol=atol)
    assert result.best.ravel().tolist() == logits.argmax(1).tolist()


def test_in_single_precision_the_difference_is_rounding() -> None:
    """To 1e-5 of the largest effect of covering the image."""
    net = seeded(OddPadding, double=False)
    images = torch.randn(2, 3, 61, 61, generator=torch.Generator().manual_seed(1)) * 4
    result = attribkit.occlude(net, images, window=25, stride=12, fill="mean", layer="layer")
    corners = [(top, left) for top in result.rows for left in result.columns]
    for number, image in enumerate(images):
        fill = image.mean((1, 2), keepdim=True).expand_as(image)
        _, sums = plain_loop(net, image[None], corners, 25, fill, "layer")
        effect = np.abs(sums.numpy() - result.clean[number, 1]).max()
        np.testing.assert_allclose(result.activity[number].ravel(), sums.numpy(), rtol=0, atol=1e-5 * effect)


class Known(nn.Module):
    """Its class hangs on 4 x 4 pixels, and on nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        strength = self.map(x)[:, 0, 20:24, 8:12].mean((1, 2)) * 10
        return torch.stack([strength, 5 - strength], 1)


def test_a_planted_place_is_found() -> None:
    """Windows that cover all of it take the class away, those beside it nothing."""
    images = torch.ones(1, 3, 32, 32)
    result = attribkit.occlude(Known(), images, window=8, stride=4, fill=0.0, target=0)
    inside = np.array([[top <= 20 and top + 8 >= 24 and left <= 8 and left + 8 >= 12 for left in result.columns]
                       for top in result.rows])  # fmt: skip
    assert (result.best[0] == 1).tolist() == inside.tolist()
    assert (np.isclose(result.probability[0], result.clean[0, 0])).tolist() == (~inside).tolist()
    effect = result.effect((32, 32), kind="probability")
    assert np.unravel_index(effect.argmax(), effect.shape) in [(y, x) for y in range(20, 24) for x in range(8, 12)]


def test_the_two_edges() -> None:
    """Inside, the last window ends at the edge; overhanging, it is where the stride says, and cut off."""
    images = torch.ones(1, 3, 30, 30)
    inside = attribkit.occlude(Known(), images, window=8, stride=5, fill=0.0)
    over = attribkit.occlude(Known(), images, window=8, stride=5, fill=0.0, edge="overhang")
    assert (inside.rows, over.rows) == ((0, 5, 10, 15, 20, 22), (0, 5, 10, 15, 20, 25))


class Excited(nn.Module):
    """Squeeze and excitation, after which nothing is the same anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        return self.second(x).amax((2, 3))


class WritesIntoAView(Excited):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x.select(1, 1).mul_(2)
        return self.second(x).amax((2, 3))


class LooksAtSwitches(Excited):
    def forward(self, x: Tensor) -> Tensor:
        values, cells = F.max_pool2d(self.first(x), 2, return_indices=True)
        return self.second(values + 1e-3 * cells).amax((2, 3))


class OfVolumes(Excited):
    """Looks at its channels as at a volume."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(1, 1, (3, 3, 3), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.volume(self.first(x)[:, None])[:, 0]).amax((2, 3))


class Remembers(Excited):
    """Gives windows something else than it gives whole images."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x if type(x) is Tensor else x * 2).amax((2, 3))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Excited, f"{IN_WINDOWS}; everything from mean on"),
        (WritesIntoAView, "whole images were run: it writes into a view"),
        (LooksAtSwitches, "whole images were run: it looks at which cell of a max-pool won"),
        (OfVolumes, IN_WINDOWS),
        (Remembers, "whole images were run: windows gave something else than whole images"),
    ],
)
def test_what_cannot_be_followed_is_right_and_said(kind: Callable[[], nn.Module], told: str) -> None:
    net = seeded(kind)
    images = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(1)).double()
    result = attribkit.occlude(net, images, window=6, stride=6, fill=0, layer="first", target=1)
    assert result.computed.startswith(told)
    corners = [(top, left) for top in result.rows for left in result.columns]
    logits, sums = plain_loop(net, images, corners, 6, torch.zeros(3, 24, 24).double(), "first")
    np.testing.assert_allclose(result.probability.ravel(), logits.softmax(1)[:, 1].numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.activity.ravel(), sums.numpy(), rtol=0, atol=1e-9)


def test_memory_that_runs_out_makes_batches_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of windows and of whole images."""
    run = incremental.Runner.run

    def short_of_memory(self: Any, net: Any, images: Tensor, look: Any) -> Any:
        if len(images) > 2:
            raise torch.OutOfMemoryError("no more")
        return run(self, net, images, look)

    images = torch.randn(1, 3, 24, 24).double()
    net = seeded(Excited)
    expected = attribkit.occlude(net, images, window=6, stride=6, fill=0)
    monkeypatch.setattr(incremental.Runner, "run", short_of_memory)
    np.testing.assert_allclose(attribkit.occlude(net, images, 6, 6, 0).activity, expected.activity, rtol=1e-12)


def test_fills() -> None:
    """Grey is what the model gets for a grey picture; blur keeps a flat image, noise is the same every time."""
    loaded = attribkit.load("all_cnn_c")
    image = loaded.preprocess(np.full((32, 32, 3), 200, np.uint8))[None]
    grey = loaded.preprocess(np.full((32, 32, 3), 128, np.uint8))
    options: dict[str, Any] = {"window": 16, "stride": 16, "layer": "conv3"}
    by_name = attribkit.occlude(loaded, image, fill="grey", **options)
    by_tensor = attribkit.occlude(loaded, image, fill=grey, **options)
    assert by_name.probability.tolist() == by_tensor.probability.tolist()
    flat = attribkit.occlude(loaded, image, fill="blur", **options)
    np.testing.assert_allclose(flat.probability, flat.clean[0, 0], rtol=1e-4)
    noise = [attribkit.occlude(loaded, torch.rand_like(image) * 0 + image, fill="noise", **options) for _ in "ab"]
    assert noise[0].probability.tolist() == noise[1].probability.tolist()


def test_it_is_saved_whole_and_loaded_again(tmp_path: Path) -> None:
    images = torch.randn(2, 3, 24, 24).double()
    result = attribkit.occlude(seeded(Excited), images, window=6, stride=6, fill=0, layer="first")
    result.save(tmp_path / "a.npz")
    again = attribkit.Occlusion.load(tmp_path / "a.npz")
    for name, value in result.__dict__.items():
        np.testing.assert_equal(getattr(again, name), value)
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(b"no file")
    with pytest.raises(attribkit.AttribkitError, match="no occlusion"):
        attribkit.Occlusion.load(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 40}, "larger than the image"),
        ({"stride": 0}, "stride=0"),
        ({"fill": "green"}, "'green' is not one of"),
        ({"fill": torch.zeros(5)}, "does not fit"),
        ({"edge": "around"}, "neither"),
        ({"layer": "none"}, "no layer 'none'"),
        ({"target": 9}, "there is no 9"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(attribkit.AttribkitError, match=message):
        attribkit.occlude(seeded(Excited), torch.zeros(1, 3, 24, 24).double(), **{"window": 6, **options})


def test_the_model_stays_as_it_is() -> None:
    """Its mode, its hooks and the layout of its parameters."""
    net = seeded(OddPadding).train()
    before = {name: (value.clone(), value.stride()) for name, value in net.state_dict().items()}
    attribkit.occlude(net, torch.randn(1, 3, 61, 61).double(), layer="layer")
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert value.stride() == before[name][1]


class TwoReaders(nn.Module):
    """What a convolution gives is read by a batch norm, and by something else as well, after it or before."""

    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)
        self.writes = writes

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.writes:
            x += 1
        return self.head(F.relu(self.norm(x) + x).mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (OddPadding, "stem"),  # whose batch norm could be folded into it
        (OddPadding, "norm"),
        (lambda: TwoReaders(writes=False), "norm"),
        (lambda: TwoReaders(writes=True), "norm"),
    ],
)
def test_batch_norms_are_folded_only_where_nothing_else_is_changed(make: Callable[[], nn.Module], layer: str) -> None:
    net = seeded(make)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    image = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(2)).double()
    result = attribkit.occlude(net, image, window=15, stride=12, fill=0.0, layer=layer, target=1)
    corners = [(top, left) for top in result.rows for left in result.columns]
    logits, sums = plain_loop(net, image, corners, 15, torch.zeros(3, 40, 40).double(), layer)
    assert result.computed.startswith(IN_WINDOWS)
    np.testing.assert_allclose(result.probability.ravel(), logits.softmax(1)[:, 1].numpy(), rtol=1e-12)
    np.testing.assert_allclose(result.activity.ravel(), sums.numpy(), rtol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_images_stay_as_they_are() -> None:
    """Also where the first layer writes into what it gets."""
    net = seeded(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 3)))
    image = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)).double()
    before = image.clone()
    attribkit.occlude(net, image, window=4, stride=4, fill=0.0)
    assert torch.equal(image, before)


@pytest.mark.parametrize("kernel", [(3, 1, 1, 1), (7, 2, 3, 1), (3, 1, 2, 2), (1, 2, 0, 1), (2, 2, 0, 1), (5, 1, 4, 1)])
def test_what_padding_saves(kernel: tuple[int, int, int, int]) -> None:
    """Counted by a convolution of ones, which gives how many cells each output has to multiply."""
    size, stride, padding, dilation = kernel
    ones = F.conv1d(torch.ones(1, 1, 13), torch.ones(1, 1, size), None, stride, padding, dilation)
    assert Kernel(*kernel).multiplied(13, ones.shape[2]) == pytest.approx(float(ones.sum()) / size)


def test_blocks_have_each_window_once_and_those_at_both_ends_together() -> None:
    found = blocks(13, 5, 7)
    assert sorted(itertools.chain(*found)) == [(row, column) for row in range(13) for column in range(5)]
    assert {row for row, _ in found[0]} == {0, 12, 1, 11, 2, 10}
    assert max(map(len, found)) <= 7 * 7


def test_batch_norms_are_folded_where_they_can_be() -> None:
    """All twenty of resnet18."""
    net = torchvision.models.resnet18(weights=None).eval()
    called: list[str] = []
    readers = Readers(inside(net))
    with watched(readers.known.items(), readers.look), torch.no_grad():
        net(torch.zeros(1, 3, 64, 64))
    lean = folded(net, readers.pairs())
    for name, module in lean.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.forward(5) == 5:  # type: ignore[arg-type]
            called.append(name)
    assert len(called) == 20
