"""What is planted in a series of checkpoints is found, and the winners are those of brute force at each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import studied
import torch
from oracles import attribution
from studied import Inputs, Net
from torch import Tensor, nn

import attribkit
from attribkit import Checkpoint
from attribkit.errors import AttribkitError
from attribkit.studies import folder

IMAGES = 30


def series(numbers: Sequence[int], made: Callable[[int], nn.Module]) -> list[Checkpoint]:
    return [Checkpoint(number, f"epoch-{number}.pt", partial(made, number)) for number in numbers]


def changing(number: int) -> Net:
    """Weights that go their way a little further with each number; channel 3 of conv2 is dead at number 5."""
    net = studied.net()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.02 * number * torch.randn(parameter.shape, generator=generator)
        if number == 5:
            net.conv2.bias[3] = -1000
    return net


def strongest(net: nn.Module, layer: str, images: Tensor) -> np.ndarray[Any, Any]:
    """For each image and channel (value, row, column) of the first strongest unit, each image alone."""
    kept: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.append(o[0].detach().clone()))
    with torch.no_grad():
        for image in images:
            net(image[None].clone())
    handle.remove()
    found = np.zeros((len(images), len(kept[0]), 3))
    for image, maps in enumerate(kept):
        for channel, plane in enumerate(maps.numpy()):
            row, column = min(np.argwhere(plane == plane.max()).tolist())
            found[image, channel] = plane.max(), row, column
    return found


@pytest.fixture(scope="module")
def images() -> Tensor:
    return studied.inputs(IMAGES)


NUMBERS = (1, 2, 5, 10)


@pytest.fixture(scope="module")
def evolution(images: Tensor) -> attribkit.Evolution:
    backwards = series(NUMBERS, changing)[::-1]  # they are put in order
    return attribkit.evolve(backwards, Inputs(images, [n % 2 for n in range(IMAGES)]), layer=["relu2", "conv1"])


@pytest.mark.parametrize("layer", ["relu2", "conv1"])
def test_winners_are_those_of_brute_force_at_every_checkpoint(
    evolution: attribkit.Evolution, images: Tensor, layer: str
) -> None:
    """Image, value, position; nobody where a channel fires on nothing; changes from one checkpoint to the next."""
    film = evolution.films[layer]
    assert evolution.numbers == NUMBERS
    expected = np.full(film.image.shape, -1)
    for column, number in enumerate(NUMBERS):
        found = strongest(changing(number), layer, images)
        for row, channel in enumerate(film.channels):
            image = int(found[:, channel, 0].argmax())
            value, *position = found[image, channel]
            assert film.fires[row, column] == pytest.approx((found[:, channel, 0] > 0).mean())
            if value > 0:
                expected[row, column] = image
                assert film.value[row, column] == pytest.approx(value, abs=1e-5)
                assert film.position[row, column].tolist() == position
    assert film.image.tolist() == expected.tolist()
    for column in range(1, len(NUMBERS)):
        assert film.changed[:, column].tolist() == (expected[:, column] != expected[:, column - 1]).tolist()
    assert not film.changed[:, 0].any()
    assert (expected[3, 2] == -1) == (layer == "relu2")
    assert film.changed.any()


@pytest.mark.parametrize("layer", ["relu2", "conv1"])
def test_settling_is_that_of_brute_force(evolution: attribkit.Evolution, images: Tensor, layer: str) -> None:
    """Correlations of all images' scores, and what the nine strongest images have in common."""
    settling = evolution.films[layer].settling
    scores = [strongest(changing(number), layer, images)[..., 0] for number in NUMBERS]
    best = [[set(np.argsort(-of, kind="stable")[:9]) & set(np.flatnonzero(of > 0)) for of in s.T] for s in scores]
    for step in range(len(NUMBERS) - 1):
        for channel in range(scores[0].shape[1]):
            old, new, last = (scores[at][:, channel] for at in (step, step + 1, -1))
            sets = best[step][channel], best[step + 1][channel]
            both = len(sets[0] & sets[1]) / max(map(len, sets))
            assert settling.kept[channel, step] == pytest.approx(both)
            for measured, other in ((settling.cosine, new), (settling.last, last)):
                if np.ptp(old) and np.ptp(other):
                    assert measured[channel, step] == pytest.approx(np.corrcoef(old, other)[0, 1], abs=1e-4)
                else:
                    assert np.isnan(measured[channel, step])


def test_tiles_are_maps_of_the_checkpoint_that_they_stand_for(evolution: attribkit.Evolution, images: Tensor) -> None:
    """By the oracle, on the network of that moment; none for a dead channel."""
    film = evolution.films["relu2"]
    for column, number in enumerate(NUMBERS):
        net = changing(number)
        seen: list[Tensor] = []
        net.relu2.register_forward_hook(lambda m, i, o, seen=seen: seen.append(o))
        tile = film.tiles[0][column]
        assert tile is not None
        y, x = film.position[0, column]
        image = images[film.image[0, column]][None]
        whole = attribution(net, image, lambda _, seen=seen, y=y, x=x: seen[-1][0, 0, y, x], "guided")[0].numpy()
        top, left, bottom, right = tile.box
        assert np.abs(whole[:, top:bottom, left:right] - tile.map).max() <= 1e-5 * np.abs(whole).max()
        assert tile.patch.shape == (bottom - top, right - left, 3)
    assert film.tiles[3][2] is None


# What is planted


CHANGES = 10


def planted(number: int) -> nn.Module:
    """From number 10 on, channel 2 looks for another pattern than before; the others stay what they are."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU()).eval()
    with torch.no_grad():
        net[0].weight[2] = patterns()[int(number >= CHANGES)]
    return net


def patterns() -> Tensor:
    return torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(1)).sign()


def with_patterns() -> Inputs:
    """Faint noise; image 5 has the first pattern in it, image 9 the second."""
    images = 0.1 * studied.inputs(20)
    images[5, :, 4:7, 8:11], images[9, :, 1:4, 2:5] = patterns()
    return Inputs(images)


def test_a_winner_that_jumps_at_a_known_checkpoint_is_found() -> None:
    film = attribkit.evolve(series((1, 2, 5, 10, 20), planted), with_patterns(), layer="1").films["1"]
    assert film.image[2].tolist() == [5, 5, 5, 9, 9]
    assert film.position[2].tolist() == [[4, 8]] * 3 + [[1, 2]] * 2
    assert np.argwhere(film.changed).tolist() == [[2, 3]]
    assert [film.settled(row) for row in range(6)] == [0, 0, 3, 0, 0, 0]
    alike = np.ones((6, 4))
    assert film.settling.cosine[2, 2] < 0.9
    alike[2, 2] = film.settling.cosine[2, 2]
    np.testing.assert_allclose(film.settling.cosine, alike)


def test_a_layer_that_changes_at_a_known_checkpoint_is_told_from_one_that_does_not() -> None:
    """All of the second layer is another from number 5 on; the first one never changes."""

    def made(number: int) -> nn.Module:
        net, other = studied.net(), studied.net()
        with torch.no_grad():
            other.conv2.weight.copy_(torch.randn(other.conv2.weight.shape, generator=torch.Generator().manual_seed(2)))
        return other if number >= 5 else net

    data = Inputs(studied.inputs(200))
    films = attribkit.evolve(series((1, 2, 5, 10), made), data, layer=["relu1", "relu2"]).films
    first, second = (films[layer].settling.medians() for layer in ("relu1", "relu2"))
    assert first == {name: [pytest.approx(1)] * 3 for name in ("cosine", "last", "kept")}
    assert second["cosine"] == [pytest.approx(1), pytest.approx(0, abs=0.5), pytest.approx(1)]
    assert second["last"] == [pytest.approx(0, abs=0.5)] * 2 + [pytest.approx(1)]
    assert second["kept"][1] < 0.4
    assert (second["kept"][0], second["kept"][2]) == (1, 1)
    assert films["relu2"].changed[:, 2].any()
    assert not films["relu2"].changed[:, [1, 3]].any()


# Kept parts


class Counted(Inputs):
    """Data that knows how often it was read."""

    read = 0

    def __getitem__(self, number: int) -> Tensor:
        Counted.read += 1
        return self.images[number]


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of the second checkpoint; what is there is not looked at again."""
    data, asked = Counted(studied.inputs(600)), {"layer": "relu2", "channels": [0, 3]}
    whole = attribkit.evolve(series(NUMBERS, changing), data, out=tmp_path / "whole", **asked)
    all_reads, Counted.read = Counted.read, 0
    write, written = folder.RunFolder.write, [0]

    def stopping(*args: Any) -> None:
        written[0] += 1
        if written[0] == 5:
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patched:
        patched.setattr(folder.RunFolder, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            attribkit.evolve(series(NUMBERS, changing), data, out=tmp_path / "stopped", **asked)
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == ["000001", "000002"]
    Counted.read = 0
    again = attribkit.evolve(series(NUMBERS, changing), data, out=tmp_path / "stopped", **asked)
    assert Counted.read < all_reads - 600
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    for path, evolution in (("a.npz", whole), ("b.npz", again)):
        evolution.save(tmp_path / path)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_other_channels_need_no_second_pass(tmp_path: Path) -> None:
    data = Counted(studied.inputs(300))
    attribkit.evolve(series(NUMBERS, changing), data, layer="relu2", channels=[0], out=tmp_path)
    Counted.read = 0
    attribkit.evolve(series(NUMBERS, changing), data, layer="relu2", channels=[1], method="backprop", out=tmp_path)
    assert 0 < Counted.read < 100


def test_it_is_saved_whole(evolution: attribkit.Evolution, tmp_path: Path) -> None:
    evolution.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        for layer, film in evolution.films.items():
            np.testing.assert_array_equal(arrays[f"{layer}/image"], film.image)
            np.testing.assert_array_equal(arrays[f"{layer}/cosine"], film.settling.cosine)
            tile = film.tiles[1][0]
            assert tile is not None
            np.testing.assert_array_equal(arrays[f"{layer}/map.1.1"], tile.map)
            np.testing.assert_array_equal(arrays[f"{layer}/patch.1.1"], tile.patch)
    with pytest.raises(AttribkitError, match=r"saved as \.npz"):
        evolution.save(tmp_path / "a.png")


# What does not fit


def wide(number: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4 + number, 3), nn.ReLU()).eval()


@pytest.mark.parametrize(
    ("numbers", "made", "asked", "words"),
    [
        ((1,), changing, {}, "at least two checkpoints, and 1 was given"),
        ((1, 1), changing, {}, "the same number: 1, 1"),
        ((1, 2), wide, {"layer": "1"}, r"epoch-2\.pt: 1 has 6 channels where others have 5"),
        ((1, 2), lambda number: "net", {}, r"epoch-1\.pt: a checkpoint loads a network"),
        ((1, 2), changing, {"channels": [8]}, "there is no 8"),
        ((1, 2), changing, {"layer": "conv9"}, "no layer 'conv9'"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(
    numbers: Sequence[int], made: Any, asked: dict[str, Any], words: str, images: Tensor
) -> None:
    with pytest.raises(AttribkitError, match=words) as raised:
        attribkit.evolve(series(numbers, made), Inputs(images), **{"layer": "relu2", **asked})
    assert "\n" not in str(raised.value)


def test_images_that_go_missing_meanwhile_are_noticed(images: Tensor) -> None:
    """A picture that one checkpoint was shown and another was not."""

    class Failing(Inputs):
        asked = 0

        def __getitem__(self, number: int) -> Tensor:
            self.asked += number == 7
            if number == 7 and self.asked > 1:
                raise OSError("gone")
            return self.images[number]

    with pytest.raises(AttribkitError, match=r"epoch-2\.pt was not shown the images that others were"):
        attribkit.evolve(series((1, 2), planted), Failing(images), layer="1", channels=[2])
