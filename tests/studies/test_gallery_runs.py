"""The folder of a gallery: what stops it costs a shard, what is not its own is refused, nothing is done twice."""

from __future__ import annotations

import fcntl
import os
import signal
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from studied import Inputs, folder, inputs, net, packed
from torch import Tensor

import attribkit
from attribkit.adapters.images import decode_image
from attribkit.errors import AttribkitError
from attribkit.studies.packed import decoded


def make(out: Path, seconds: float) -> None:
    """A gallery there, of data that is slow to read."""
    attribkit.gallery(net(), Inputs(inputs(2600), seconds=seconds), layer="relu2", top=3, out=out)


def made(out: Path, seconds: float = 0.0) -> BaseProcess:
    """A process that makes a gallery there."""
    context = get_context("forkserver")  # which imports torch once for all of them
    context.set_forkserver_preload(["studied", "attribkit.studies.gallery"])
    process = context.Process(target=make, args=(out, seconds))
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join()
    return process.exitcode


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Killed each time another shard is there; the shards that are there are not made again."""
    assert ended(made(tmp_path / "whole")) == 0
    out = tmp_path / "killed"
    for shards in (1, 3):
        running = made(out, seconds=0.001)
        while len(list((out / "shards").glob("*.npz"))) < shards:
            assert running.is_alive()
            running.join(0.01)
        running.kill()
        assert ended(running) == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in (out / "shards").glob("*.npz")}
    assert 3 <= len(before) < 6
    assert ended(made(out)) == 0
    assert files(out) == files(tmp_path / "whole")
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in (out / "shards").glob("*.npz")}.items()


class Never(Inputs):
    """Data that is not read any more."""

    def __getitem__(self, number: int) -> Tensor:
        raise AssertionError("read again")


def run(data: Any, out: Path, **options: Any) -> attribkit.Gallery:
    return attribkit.gallery(net(), data, layer="relu2", out=out, **options)


class Counted(Inputs):
    """Data that knows how often it was read."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self.read = 0

    def __getitem__(self, number: int) -> Tensor:
        self.read += 1
        return self.images[number]


def test_a_finished_run_reads_nothing(tmp_path: Path) -> None:
    """And other channels, another method or a larger top read no more than the winners."""
    data = Counted(inputs(700))
    first = run(data, tmp_path / "out", channels=[0, 1], top=3)
    data.read = 0
    again = run(data, tmp_path / "out", channels=[0, 1], top=3)
    assert data.read == 0
    assert (again.image == first.image).all()
    other = run(data, tmp_path / "out", channels=[1, 2], top=5, method="deconvnet", switches="uniform")
    assert 0 < data.read <= 20
    assert (other.image[0, :3] == first.image[1]).all()
    assert (other.image == run(data, tmp_path / "new", channels=[1, 2], top=5).image).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer": "conv1"}, "layer relu2, not conv1"),
        ({"score": "mean"}, "score max, not mean"),
        ({"data": Inputs(inputs(21))}, "data 20 images"),
        ({"loaded": torch.nn.Sequential(net())}, "model Net"),
        ({"top": 50}, "winners kept"),
    ],
)
def test_a_folder_of_another_gallery_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """In one line that says what differs; with force it is started again."""
    out = tmp_path / "out"
    run(Inputs(inputs(20)), out, top=2)
    before = files(out)
    asked: dict[str, Any] = {"loaded": net(), "data": Inputs(inputs(20)), "layer": "relu2", "top": 2, **change}
    if "loaded" in change:
        asked["layer"] = "0.relu2"
    with pytest.raises(AttribkitError, match=words) as raised:
        attribkit.gallery(asked.pop("loaded"), asked.pop("data"), out=out, **asked)
    assert "\n" not in str(raised.value)
    assert files(out) == before


def test_force_starts_again(tmp_path: Path) -> None:
    run(Inputs(inputs(20)), tmp_path, top=2)
    assert (run(Inputs(inputs(40)), tmp_path, top=2, force=True).image >= 20).any()


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    run(Inputs(inputs(20)), tmp_path, top=2)
    with open(tmp_path / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AttribkitError, match="another process"):
            run(Inputs(inputs(20)), tmp_path, top=2)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(AttribkitError, match="something else"):
        run(Inputs(inputs(20)), tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_data_that_changed_is_noticed(tmp_path: Path) -> None:
    """By the winners, which are looked at again, where its names are the same."""
    images = inputs(20)
    run(Inputs(images), tmp_path, channels=[0], top=2)
    with pytest.raises(AttribkitError, match="has changed; start it again with force"):
        run(Inputs(images.flip(0) * 2), tmp_path, channels=[0, 1, 2, 3], top=2)


class Shrinking(Inputs):
    """It loses images while it is read."""

    def __len__(self) -> int:
        self.asked = getattr(self, "asked", 0) + 1
        return 20 if self.asked < 3 else 19


def test_data_of_changing_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AttribkitError, match="had 20 images and now has 19"):
        run(Shrinking(inputs(20)), tmp_path)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said in one line, and the run goes on where it was."""
    data, real = Inputs(inputs(1500)), os.replace

    def full(old: Any, new: Any) -> None:
        if str(new).endswith("00002.npz"):
            raise OSError(28, "No space left on device")
        real(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(AttribkitError, match=r"00002\.npz cannot be written: No space left"):
            run(data, tmp_path / "full", top=2)
    assert not list((tmp_path / "full").rglob(".*.part"))
    assert len(list((tmp_path / "full" / "shards").iterdir())) == 2
    run(data, tmp_path / "full", top=2)
    run(data, tmp_path / "whole", top=2)
    assert files(tmp_path / "full") == files(tmp_path / "whole")


# Data


@pytest.fixture(scope="module")
def loaded() -> Any:
    return attribkit.load("all_cnn_c", weights="none")


def test_a_folder_a_pattern_and_a_broken_image(tmp_path: Path, loaded: Any) -> None:
    """Names say where an image is; one that cannot be read is listed, and the others go on."""
    data = folder(tmp_path / "data", 9)
    (data / "odd" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    found = attribkit.gallery(loaded, data, layer="conv2", top=2, channels=[0, 5])
    assert found.names[0] == "even/000.jpg"
    ((number, why),) = found.unreadable
    assert found.names[number] == "odd/broken.jpg"
    assert "broken.jpg" in why
    assert number not in found.image
    assert set(found.statistics.classes[0]) <= {"even", "odd"}
    some = attribkit.gallery(loaded, data / "even" / "*.jpg", layer="conv2", top=2, channels=[0])
    assert some.names == ["000.jpg", "002.jpg", "004.jpg", "006.jpg", "008.jpg"]
    assert some.statistics.classes == ({},)


def test_a_packed_file(tmp_path: Path, loaded: Any) -> None:
    data = packed(tmp_path / "small.npz", 12)
    found = attribkit.gallery(loaded, data, layer="conv2", top=3, channels=[0])
    assert found.names[3] == "small-03"
    assert sum(found.statistics.classes[0].values()) == 3
    patches = found.projections(0)
    assert len(patches) == 3
    held = np.load(data)
    first = patches[0]
    start, end = held["offsets"][first.place.image : first.place.image + 2]
    picture = decode_image(held["jpeg"][start:end].tobytes(), "it")
    top, left, bottom, right = first.box
    assert (picture[top:bottom, left:right] == first.patch).all()


@pytest.mark.parametrize("kind", ["colour", "grey", "fine", "turned"])
def test_packed_pictures_are_decoded_as_others_are(kind: str) -> None:
    """The quick way and the careful one give the same pixels."""
    picture = np.random.default_rng(1).integers(0, 256, (19, 30, 3), np.uint8)
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111] if kind == "fine" else []
    data = cv2.imencode(".jpg", picture[..., 0] if kind == "grey" else picture, options)[1].tobytes()
    if kind == "turned":
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
        data = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    careful = decode_image(data, "it")
    assert careful.shape == ((30, 19, 3) if kind == "turned" else (19, 30, 3))
    assert (decoded(np.frombuffer(data, np.uint8), "it") == careful).all()


def bad(tmp_path: Path, kind: str) -> tuple[Any, dict[str, Any]]:
    """Data and options that cannot be used."""
    (tmp_path / "empty").mkdir()
    whole = packed(tmp_path / "whole.npz", 6)
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:500])
    (tmp_path / "file").write_text("words")
    held = dict(np.load(whole))
    np.savez(tmp_path / "classes.npz", **(held | {"labels": held["labels"] + 5}))
    np.savez(tmp_path / "offsets.npz", **(held | {"offsets": held["offsets"] * 2}))
    np.savez(tmp_path / "broken.npz", **(held | {"jpeg": held["jpeg"] * 0}))
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "empty": (tmp_path / "empty", {}),
        "absent": (tmp_path / "absent", {}),
        "pattern": (tmp_path / "*.jpg", {}),
        "cut": (tmp_path / "cut.npz", {}),
        "labels": (packed(tmp_path / "labels.npz", 6, labels=5), {}),
        "classes": (tmp_path / "classes.npz", {}),
        "offsets": (tmp_path / "offsets.npz", {}),
        "broken": (tmp_path / "broken.npz", {}),
        "nothing": ([], {}),
        "kind": (7, {}),
        "layer": (whole, {"layer": "conv99"}),
        "channel": (whole, {"channels": [96]}),
        "none": (whole, {"channels": []}),
        "top": (whole, {"top": 0}),
        "score": (whole, {"score": "median"}),
        "method": (whole, {"method": "grad-cam"}),
        "switches": (whole, {"switches": "none"}),
        "file": (whole, {"out": tmp_path / "file"}),
        "targets": (Inputs(inputs(4), [0, 1]), {}),
        "shape": ([torch.zeros(24)], {}),
    }
    return cases[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "is a folder without images"),
        ("absent", "does not exist"),
        ("pattern", "nothing matches"),
        ("cut", "not a packed file of images, or is cut short"),
        ("labels", "6 images and 5 labels"),
        ("classes", "labels outside its 2 classes"),
        ("offsets", "offsets that do not lie in"),
        ("broken", "none of the 6 images can be read: .*image 0 is not an image"),
        ("nothing", "the data set has no images"),
        ("kind", "a path or a map-style Dataset"),
        ("layer", "no layer 'conv99'"),
        ("channel", "has 96 channels, 0 to 95; there is no 96"),
        ("none", "there is none asked for"),
        ("top", "at least one image"),
        ("score", "max, mean, sum"),
        ("method", "grad-cam"),
        ("switches", "'none'"),
        ("file", "is a file: a gallery is a folder"),
        ("targets", "4 images and 2 labels"),
        ("shape", "a float tensor of C x H x W"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, loaded: Any, kind: str, words: str) -> None:
    data, options = bad(tmp_path, kind)
    with pytest.raises(AttribkitError, match=words) as raised:
        attribkit.gallery(loaded, data, **{"layer": "conv1", **options})
    assert "\n" not in str(raised.value)


def test_values_without_an_order_are_refused() -> None:
    broken = net()
    with torch.no_grad():
        broken.conv2.bias[0] = float("nan")
    with pytest.raises(AttribkitError, match="NaN"):
        attribkit.gallery(broken, Inputs(inputs(4)), layer="conv2")
