"""Sets of images: read whole and rightly, or refused in a line."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from attribkit.adapters.images import ENDINGS, ORIENTATION, ImageError
from attribkit.reference_models.data import DataError, read

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data" / "cifar10_jpeg.npz"


def noise(count: int, seed: int = 0, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(count, side, side, 3), dtype=np.uint8)


def smooth(count: int) -> np.ndarray:
    """Pictures that a JPEG keeps nearly as they are: one colour each, reddish, so that swapped channels show."""
    return np.stack([np.full((32, 32, 3), (200, 5 * index, 20), np.uint8) for index in range(count)])


def packed(path: Path, pictures: np.ndarray, **changes: object) -> Path:
    files = [cv2.imencode(".jpg", picture[..., ::-1])[1] for picture in pictures]
    held = {
        "jpeg": np.concatenate(files),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": np.arange(len(files)) % 2,
        "is_train": np.arange(len(files)) < len(files) - 2,
        "classes": np.array(["cat", "dog"]),
    }
    np.savez(path, **{**held, **changes})
    return path


def test_a_packed_file_gives_its_pictures_in_order_and_red_first(tmp_path: Path) -> None:
    pictures = smooth(8)
    data = read(packed(tmp_path / "few.npz", pictures))
    assert (len(data.train), len(data.test), data.classes) == (6, 2, ("cat", "dog"))
    together = torch.cat([data.train.images, data.test.images])
    assert (together.int() - torch.from_numpy(pictures).int()).abs().max() <= 3
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_the_digest_tells_sets_apart(tmp_path: Path) -> None:
    one, other = smooth(8), smooth(8)
    other[3, 0, 0] = 255
    digests = [read(packed(tmp_path / f"{name}.npz", pictures)).digest for name, pictures in zip("ab", (one, other))]  # noqa: B905
    assert digests[0] != digests[1]
    assert read(tmp_path / "a.npz").digest == digests[0]


def official(folder: Path, monkeypatch: pytest.MonkeyPatch, *, archived: bool) -> np.ndarray:
    """CIFAR-10's archive in its own form with a few images in it, and torchvision made to expect it."""
    pictures = noise(7)
    base = folder / "cifar-10-batches-py"
    base.mkdir(parents=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for index, name in enumerate(names):
        rows = pictures[index : index + 1 if index < 5 else 7].transpose(0, 3, 1, 2).reshape(-1, 3072)
        (base / name).write_bytes(pickle.dumps({"data": rows, "labels": [index] * len(rows)}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {n}" for n in range(10)]}))
    md5 = datasets.utils.calculate_md5
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, md5(base / name)] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [[names[5], md5(base / names[5])]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(base / "batches.meta")}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    if archived:
        with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
            archive.add(base, "cifar-10-batches-py")
        monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(folder / "cifar-10-python.tar.gz"))
        for path in base.iterdir():
            path.unlink()
        base.rmdir()
    return pictures


@pytest.mark.parametrize("archived", [False, True])
def test_the_official_archive_packed_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archived: bool) -> None:
    pictures = official(tmp_path, monkeypatch, archived=archived)
    data = read(tmp_path)
    assert data.source == "CIFAR-10"
    assert torch.equal(data.train.images, torch.from_numpy(pictures[:5]))
    assert torch.equal(data.test.images, torch.from_numpy(pictures[5:]))
    assert data.test.labels.tolist() == [5, 5]
    assert data.classes[3] == "class 3"


def test_a_truncated_archive_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official(tmp_path, monkeypatch, archived=True)
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-500])
    monkeypatch.setattr(datasets.utils, "_urlretrieve", _no_network)
    with pytest.raises(DataError, match="does not hold a whole CIFAR10 archive"):
        read(tmp_path)


def _no_network(*_: object, **__: object) -> None:
    raise OSError("no network in tests")


def test_an_image_folder(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 1)):
        for name in ("bird", "ape"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index, picture in enumerate(noise(count, side=40)):
                cv2.imwrite(str(folder / f"{index}.png"), picture[..., ::-1])
    data = read(tmp_path)
    assert data.classes == ("ape", "bird")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(data.train.images[:3], torch.from_numpy(noise(3, side=40)))
    cv2.imwrite(str(tmp_path / "train" / "bird" / "9.png"), noise(1, side=50)[0])
    with pytest.raises(DataError, match=r"9\.png is 50x50, the images before it 40x40: make them one size first"):
        read(tmp_path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_image_folder_is_read_as_every_command_reads(tmp_path: Path, ending: str) -> None:
    """Of the same endings, upright and on white, by the one reader; what is damaged is named."""
    for split in ("train", "test"):
        (tmp_path / split / "ape").mkdir(parents=True)
        Image.new("RGB", (8, 8), (200, 100, 0)).save(tmp_path / split / "ape" / f"one{ending}")
    clear = Image.new("RGBA", (8, 8), (200, 100, 0, 0))
    clear.save(tmp_path / "train" / "ape" / "two.png")
    turned = Image.new("RGB", (8, 8), (0, 0, 0))
    turned.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned by a quarter
    turned.save(tmp_path / "train" / "ape" / "zzz.jpg", exif=exif)
    (tmp_path / "train" / "ape" / "notes.txt").write_text("no image")
    images = read(tmp_path).train.images
    assert len(images) == 3
    assert torch.equal(images[1], torch.full((8, 8, 3), 255, dtype=torch.uint8))
    assert images[2, :, 4:].min() > 250
    assert images[2, :, :4].max() < 5
    (tmp_path / "train" / "ape" / f"three{ending}").write_bytes(b"no image")
    with pytest.raises(ImageError, match=rf"three\{ending} is not an image"):
        read(tmp_path)


def test_what_is_no_data_is_refused_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist: --data takes"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds neither: --data takes the folder of the CIFAR-10"):
        read(tmp_path)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match="not a packed file of images"):
        read(tmp_path / "text.npz")


def test_a_packed_file_that_is_cut_short_or_wrong_is_refused(tmp_path: Path) -> None:
    whole = packed(tmp_path / "whole.npz", smooth(8)).read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a packed file of images, or is cut short"):
        read(tmp_path / "half.npz")
    with pytest.raises(DataError, match="labels outside its 2 classes"):
        read(packed(tmp_path / "labels.npz", smooth(8), labels=np.full(8, 2)))
    with pytest.raises(DataError, match="8 images for 5 labels"):
        read(packed(tmp_path / "fewer.npz", smooth(8), labels=np.zeros(5, int)))
    with pytest.raises(ImageError, match=r"noise\.npz: image 0 is not an image"):
        read(packed(tmp_path / "noise.npz", smooth(8), jpeg=np.zeros(10**5, np.uint8)))
    with pytest.raises(DataError, match="no images to test"):
        read(packed(tmp_path / "train.npz", smooth(8), is_train=np.ones(8, bool)))


@pytest.mark.skipif(not SHARED.is_file(), reason="the packed CIFAR-10 is not beside the checkout")
def test_the_packed_cifar_10_is_all_there() -> None:
    data = read(SHARED)
    assert (len(data.train), len(data.test), len(data.classes)) == (50_000, 10_000, 10)
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    assert data.source == "CIFAR-10 (JPEG)"
