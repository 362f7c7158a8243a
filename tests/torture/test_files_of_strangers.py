"""What comes from strangers runs nothing, breaks nothing and is refused in one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from commands import Command
from PIL import Image
from torch import nn
from torture import Tried, times

import attribkit
from attribkit.adapters.images import ImageError, decode_image
from attribkit.adapters.weights import WeightsError, read_weights

MARK = "was-run"


class Evil:
    """Asks whoever unpickles it to call something."""

    def __init__(self, *asked: Any) -> None:
        self.asked = asked

    def __reduce__(self) -> Any:
        return self.asked


class EvilState:
    """Calls something when its state is set."""

    def __reduce__(self) -> Any:
        return (dict, (), None, None, iter([("a", Evil(os.system, (f"touch {MARK}",)))]))


PICKLES: dict[str, bytes] = {
    "a command": pickle.dumps({"state_dict": Evil(os.system, (f"touch {MARK}",))}, 2),
    "an open file": pickle.dumps(Evil(open, (MARK, "w")), 2),
    "eval": pickle.dumps([Evil(eval, (f"open('{MARK}', 'w')",))], 4),
    "exec": pickle.dumps({"model": Evil(exec, (f"open('{MARK}', 'w')",))}, 4),
    "while items are set": pickle.dumps(EvilState(), 2),
    "a class by its old name": f"(S'touch {MARK}'\nios\nsystem\n.".encode(),
    "a class and its arguments": f"(cos\nsystem\nS'touch {MARK}'\no.".encode(),
    "through getattr": f"cbuiltins\ngetattr\n(cos\nS'system'\ntR(S'touch {MARK}'\ntR.".encode(),
    "after an import": f"cimportlib\nimport_module\n(S'os'\ntR0cos\nsystem\n(S'touch {MARK}'\ntR.".encode(),
    "torch's own loader": pickle.dumps(Evil(torch.load, ("x.pth",), {"weights_only": False}), 2),
}


def zipped(data: bytes) -> bytes:
    """As torch writes checkpoints today."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()


def legacy(data: bytes) -> bytes:
    """As torch wrote them before: a magic number, a version, what the machine is like, and the object."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    return b"".join(pickle.dumps(part, 2) for part in head) + data + pickle.dumps([], 2)


def tarred(data: bytes) -> bytes:
    """As it did before that."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in (("pickle", data), ("storages", pickle.dumps(0, 2)), ("tensors", pickle.dumps(0, 2))):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "zip": zipped,
    "legacy": legacy,
    "tar": tarred,
    "safetensors": lambda data: struct.pack("<Q", len(data)) + b"{" + data,
}


@pytest.mark.parametrize("form", PICKLES)
def test_a_pickle_is_never_run(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Tried) -> None:
    """Not in any container, under any name."""
    monkeypatch.chdir(tmp_path)
    count = 0
    for container, packed in CONTAINERS.items():
        for name in ("w.pth", "w.pt", "w.bin", "w.safetensors"):
            Path(name).write_bytes(packed(PICKLES[form]))
            with pytest.raises(WeightsError) as caught:
                read_weights(name)
            assert "\n" not in str(caught.value), container
            assert not Path(MARK).exists()
            count += 1
    tried("malicious pickles in five containers under four names: run", count)


def test_the_command_refuses_one_in_a_line(run: Command, tmp_path: Path, tried: Tried) -> None:
    torch.save({"state_dict": Evil(os.system, (f"touch {MARK}",))}, tmp_path / "evil.pth")
    done = run("layers", "torchvision:resnet18", "--weights", "evil.pth")
    assert done.code == 1
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert "holds more than tensors" in done.err
    assert not (tmp_path / MARK).exists()
    tried("malicious checkpoints given to a command", 1)


def headers(draw: random.Random) -> Iterator[tuple[dict[str, Any] | bytes, int]]:
    """Of safetensors that lie: about places, sizes, types."""
    far = draw.choice([2**31, 2**40, 2**63 - 1, 2**64])
    start, length = draw.randrange(64), draw.randrange(64)
    kinds = ["F32", "F64", "I64", "BOOL", "X9", "", 7, None]
    entry = {"dtype": draw.choice(kinds), "shape": [draw.choice([0, 1, 4, -1, far, "4"])], "data_offsets": [0, 16]}
    yield {"a": entry}, 16
    yield {"a": {"dtype": "F32", "shape": [4], "data_offsets": [start, start + far]}}, 16
    yield {name: {"dtype": "F32", "shape": [4], "data_offsets": [start, start + 16]} for name in "ab"}, 64
    yield {"a": {"dtype": "F32", "shape": [length], "data_offsets": [length, start]}}, 64
    yield bytes(draw.randrange(256) for _ in range(length)), 16


def test_safetensors_that_lie_are_refused(tmp_path: Path, tried: Tried) -> None:
    """About places that overlap, sizes that are huge or negative, and what a header may hold."""
    draw, count, path = random.Random(0), 0, tmp_path / "w.safetensors"
    good = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    for _ in range(times(2000)):
        for header, length in headers(draw):
            text = header if isinstance(header, bytes) else json.dumps(header).encode()
            claimed = draw.choice([len(text), len(text), len(text), 2**40, 2**64 - 1, 0])
            path.write_bytes(struct.pack("<Q", claimed) + text + bytes(length))
            if text == good and claimed == len(text):
                continue
            try:
                state = read_weights(path)
            except WeightsError as error:
                assert "\n" not in str(error)  # noqa: PT017 (what else comes out fails the test)
            else:  # by chance it says the truth
                assert sum(tensor.numel() * tensor.element_size() for tensor in state.values()) <= length
            count += 1
    tried("safetensors with lying headers: read as more than is there", count)


@pytest.mark.parametrize("zipped", [True, False])
def test_spoiled_checkpoints_are_refused_or_read(zipped: bool, tmp_path: Path, tried: Tried) -> None:
    """Of either format; what is read has tensors and nothing else."""
    file, draw, path, count = io.BytesIO(), random.Random(0), tmp_path / "w.pth", 0
    torch.save({"a": torch.ones(4), "b": torch.zeros(2, 3)}, file, _use_new_zipfile_serialization=zipped)
    for _ in range(times(20_000)):
        path.write_bytes(changed(file.getvalue(), draw))
        try:
            state = read_weights(path)
        except WeightsError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
        count += 1
    tried("spoiled checkpoints: anything but tensors or our own error", count)


def pooled() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2))


def test_switches_that_point_elsewhere_are_refused(tmp_path: Path, tried: Tried) -> None:
    """Every index of a file is in its own window, or the file is refused: never a wrong map."""
    model, images = pooled(), torch.randn(1, 3, 18, 18, generator=torch.Generator().manual_seed(0))
    attribkit.record_switches(model, images).save(tmp_path / "good.safetensors")
    with safetensors.safe_open(tmp_path / "good.safetensors", "pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = attribkit.explain(model, images, method="deconvnet", layer="5", at=(0, 0)).values
    draw, count = random.Random(0), 0
    path = tmp_path / "bad.safetensors"
    for _ in range(times(3000)):
        name = draw.choice(list(tensors))
        wrong = spoiled(tensors[name].clone(), draw)
        if wrong.dtype == tensors[name].dtype and torch.equal(wrong, tensors[name]):
            continue
        path.write_bytes(safetensors.torch.save(tensors | {name: wrong}, about))
        try:
            switches = attribkit.Switches.load(path)
            found = attribkit.explain(model, images, method="deconvnet", layer="5", at=(0, 0), switches=switches)
        except attribkit.AttribkitError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:  # another place in the same window is another switch, and a switch nonetheless
            assert wrong.shape == tensors[name].shape
            assert found.values.shape == expected.shape
            assert in_their_windows(wrong, 2, 16 if name == "2" else 6)
        count += 1
    tried("files of switches that were spoiled: used outside of their windows", count)


def spoiled(index: torch.Tensor, draw: random.Random) -> torch.Tensor:
    place = draw.randrange(index.numel())
    what = draw.randrange(6)
    if what == 0:
        return index.float().fill_(float("nan"))
    if what == 1:
        return index[..., :-1].contiguous()
    if what == 2:
        return index.to(torch.int32) if draw.random() < 0.5 else index.to(torch.uint8)
    index.view(-1)[place] = draw.choice([-1, -(2**63), 2**62, 10**6, draw.randrange(300), draw.randrange(300)])
    return index


def in_their_windows(index: torch.Tensor, size: int, side: int) -> bool:
    rows, columns = index // side, index % side
    height, width = index.shape[-2:]
    own_row = torch.arange(height)[:, None] * size
    own_column = torch.arange(width)[None] * size
    inside = (rows >= own_row) & (rows < own_row + size) & (columns >= own_column) & (columns < own_column + size)
    return bool((inside & (index >= 0)).all())


def pictures() -> dict[str, bytes]:
    """Small ones of every format, with metadata."""
    random_picture = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    made = {}
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"):
        file, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6
        picture = Image.fromarray(random_picture)
        options = {"exif": exif.tobytes()} if form in ("PNG", "JPEG", "WEBP", "TIFF") else {}
        picture.save(file, form, **options)
        made[form] = file.getvalue()
    return made


@pytest.mark.filterwarnings("ignore::attribkit.adapters.images.FirstFrameOnly")
@pytest.mark.parametrize("form", pictures())
def test_spoiled_pictures_are_refused_or_read(form: str, tried: Tried) -> None:
    """Cut at each byte; bytes changed, put in and taken out. Nothing but our own error, and no memory to speak of."""
    whole, draw, count = pictures()[form], random.Random(0), 0
    decode_image(whole, "it")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in [*(whole[:length] for length in range(0, len(whole), max(1, len(whole) // times(len(whole)))))]:
        count += read_or_refused(data)
    for _ in range(times(50_000)):
        count += read_or_refused(changed(whole, draw))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kilobytes: a picture at the limit
    tried("spoiled pictures: anything but a picture or our own error", count)


def changed(whole: bytes, draw: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(draw.choice([1, 1, 1, 2, 5, 20])):
        place, what = draw.randrange(len(data)), draw.randrange(5)
        if what < 3:
            data[place] = draw.choice([0, 255, 127, 128, draw.randrange(256)])
        elif what == 3:
            data[place:place] = bytes(draw.randrange(256) for _ in range(draw.choice([1, 4, 64])))
        elif len(data) > 8:
            del data[place : place + draw.choice([1, 4, 64])]
            data = data or bytearray(b"x")
    return bytes(data)


def read_or_refused(data: bytes) -> int:
    try:
        picture = decode_image(data, "it")
    except ImageError as error:
        assert str(error).startswith("it ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
    return 1
