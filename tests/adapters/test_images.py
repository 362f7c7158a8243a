"""Every kind of image is read as a person would see it, or refused in one line."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from attribkit.adapters.images import FirstFrameOnly, ImageError, decode_image, read_image, to_rgb

Array = npt.NDArray[Any]

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (40, 60, 3), np.uint8)
GREY = RGB[..., 0]
ALPHA = RANDOM.integers(0, 256, (40, 60), np.uint8)
ON_WHITE = np.rint(RGB * (ALPHA[..., None] / 255) + 255 - ALPHA[..., None])
GREY_ON_WHITE = np.rint(GREY * (ALPHA / 255) + 255 - ALPHA)[..., None].repeat(3, 2)
FEW_COLOURS = Image.fromarray(RGB).quantize(16)


def encoded(picture: Array | Image.Image, form: str, mode: str | None = None, **options: Any) -> bytes:
    """The bytes of a file, written by Pillow."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, form, **options)
    return buffer.getvalue()


def with_opencv(picture: Array, ending: str) -> bytes:
    """The same by OpenCV, which writes colours of 16 bits."""
    return cv2.imencode(ending, picture[..., [2, 1, 0, *range(3, picture.shape[2])]])[1].tobytes()


def assert_reads(data: bytes, expected: Array, tolerance: float = 0) -> None:
    """The decoded picture is of bytes, RGB, and as expected."""
    found = decode_image(data, "it")
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_formats_give_every_pixel(form: str) -> None:
    """In RGB, not in OpenCV's BGR."""
    assert_reads(encoded(RGB, form, **({"lossless": True} if form == "WEBP" else {})), RGB)


def test_grey_becomes_three_equal_channels() -> None:
    """Of 8 bits and of one."""
    assert_reads(encoded(GREY, "PNG"), GREY[..., None].repeat(3, 2))
    assert_reads(encoded(GREY > 128, "PNG"), 255 * (GREY > 128)[..., None].repeat(3, 2))


def test_sixteen_bits_are_scaled_and_not_cut() -> None:
    """65535 is 255, and what lies between is rounded: cutting off eight bits would be too dark by up to one."""
    wide = RANDOM.integers(0, 65536, (40, 60, 3)).astype(np.uint16)
    wide[0, :2] = [[65535] * 3, [0] * 3]
    assert_reads(with_opencv(wide, ".png"), np.rint(wide / 257))
    assert_reads(encoded(wide[..., 0], "PNG"), np.rint(wide[..., :1] / 257).repeat(3, 2))
    assert_reads(encoded(wide[..., 0], "TIFF"), np.rint(wide[..., :1] / 257).repeat(3, 2))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_lies_on_white(form: str) -> None:
    """Half transparent black is grey; libtiff's multiplied colours are not multiplied again."""
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    assert_reads(encoded(np.dstack([RGB, ALPHA]), form, **options), ON_WHITE, tolerance=1)


def test_transparency_of_other_kinds() -> None:
    """Grey with alpha, 16 bits with alpha, a transparent colour of a palette or of RGB."""
    assert_reads(encoded(Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), "PNG"), GREY_ON_WHITE, tolerance=1)
    assert_reads(with_opencv(np.dstack([RGB, ALPHA]).astype(np.uint16) * 257, ".png"), ON_WHITE, tolerance=1)
    indices, colours = np.array(FEW_COLOURS), np.array(FEW_COLOURS.convert("RGB"))
    expected = np.where(indices[..., None] == 3, 255, colours)
    assert_reads(encoded(FEW_COLOURS, "PNG", transparency=3), expected)
    assert_reads(encoded(FEW_COLOURS, "GIF", transparency=3), expected)
    one = tuple(int(value) for value in RGB[2, 3])
    expected = np.where((one == RGB).all(2, keepdims=True), 255, RGB)
    assert_reads(encoded(RGB, "PNG", transparency=one), expected)


def test_palettes() -> None:
    """In three formats."""
    for form in ("PNG", "GIF", "BMP"):
        assert_reads(encoded(FEW_COLOURS, form), np.array(FEW_COLOURS.convert("RGB")))


def test_cmyk_has_the_colours_that_pillow_gives_it() -> None:
    """Inks of a JPEG are stored inverted; a TIFF's fourth ink is not alpha."""
    jpeg = encoded(RGB, "JPEG", "CMYK", quality=95)
    assert_reads(jpeg, np.array(Image.open(io.BytesIO(jpeg)).convert("RGB")), tolerance=2)
    assert_reads(encoded(RGB, "TIFF", "CMYK"), RGB, tolerance=1)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(form: str, orientation: int) -> None:
    """All eight ways that EXIF knows, in the formats that carry it, as Pillow turns them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    quarters = RGB[:2, :2].repeat(24, axis=0).repeat(32, axis=1)
    options: dict[str, Any] = {"tiffinfo": exif} if form == "TIFF" else {"exif": exif}
    options |= {"JPEG": {"subsampling": 0, "quality": 100}, "WEBP": {"lossless": True}}.get(form, {})
    turned = {
        1: quarters,
        2: quarters[:, ::-1],
        3: quarters[::-1, ::-1],
        4: quarters[::-1],
        5: quarters.swapaxes(0, 1),
        6: np.rot90(quarters, -1),
        7: quarters[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(quarters),
    }
    assert_reads(encoded(quarters, form, **options), turned[orientation], tolerance=3)


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_read_and_said(form: str) -> None:
    """With a warning that names the file."""
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
    with pytest.warns(FirstFrameOnly, match=r"^it has several frames"):
        assert_reads(data, np.array(frames[0]))


def test_one_pixel() -> None:
    """Is a picture."""
    assert_reads(encoded(RGB[:1, :1].copy(), "PNG"), RGB[:1, :1])


@pytest.mark.parametrize(
    "name", ["-rf.png", "--help", "кошка.png", "猫 🐈.png", "a b\tc.png", "no_ending", "wrong.jpg"]
)
def test_names_of_any_kind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any script, dashes, spaces; the content decides what a file is."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(encoded(RGB, "PNG"))
    assert np.array_equal(read_image(name), RGB)
    assert np.array_equal(read_image(tmp_path / name), RGB)


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes with this size in its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


JPEG = encoded(RGB, "JPEG")
CUT = {
    form: encoded(RGB, form, **({"lossless": True} if form == "WEBP" else {}))
    for form in ("PNG", "WEBP", "BMP", "TIFF")
} | {"GIF": encoded(FEW_COLOURS, "GIF")}
DAMAGED = encoded(RGB, "PNG")

BAD = {
    "empty": (b"", r"^it is empty$"),
    "text": (b"hello", r"^it is not an image$"),
    "cut JPEG": (JPEG[: len(JPEG) // 2], r"cut off"),
    "JPEG without its last two bytes": (JPEG[:-2], r"cut off"),
    "progressive JPEG cut late": (encoded(RGB, "JPEG", progressive=True)[:-100], r"cut off"),
    "JPEG header alone": (JPEG[:200], r"cut off|damaged|not an image"),
    **{f"cut {form}": (data[: len(data) // 2], r"damaged|cut off|not an image") for form, data in CUT.items()},
    "flipped byte": (DAMAGED[:300] + bytes([DAMAGED[300] ^ 1]) + DAMAGED[301:], r"damaged"),
    "huge": (png_that_claims(60000, 60000), r"more than 134,217,728 pixels: make it smaller"),
    "just too large": (png_that_claims(12000, 12000), r"^it is 12000 x 12000, more than"),
    "float TIFF": (encoded(GREY.astype(np.float32), "TIFF"), r"of type float32, of unknown range"),
    "icon": (encoded(Image.fromarray(RGB[:32, :32]), "ICO"), r"save it as PNG"),
    "transparent grey": (encoded(GREY, "PNG", transparency=64), r"transparency is not read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused_in_one_line(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The line names the file; neither OpenCV nor libpng adds one of its own."""
    data, message = BAD[kind]
    with pytest.raises(ImageError, match=message) as caught:
        decode_image(data, "it")
    assert str(caught.value).startswith("it ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture() -> None:
    """A cut JPEG whose EXIF data hold a whole JPEG is cut all the same."""
    exif = Image.Exif()
    exif[0x927C] = encoded(RGB[:8, :8].copy(), "JPEG")
    whole = encoded(RGB, "JPEG", exif=exif)
    assert whole.count(b"\xff\xd9") == 2
    assert decode_image(whole, "it").shape == RGB.shape
    with pytest.raises(ImageError, match="cut off"):
        decode_image(whole[:-100], "it")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    """A folder, and nothing at all."""
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "none.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    """Is refused, not taken for empty."""
    (tmp_path / "x.png").write_bytes(encoded(RGB, "PNG"))
    (tmp_path / "x.png").chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        read_image(tmp_path / "x.png")


MEMORY = """
import resource, sys
from attribkit.adapters.images import ImageError, decode_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_image(sys.stdin.buffer.read(), "it")
except ImageError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
@pytest.mark.parametrize("side", [12000, 60000])
def test_a_claimed_size_takes_no_memory(side: int) -> None:
    """A few bytes that claim to be gigabytes are refused before anything of that size is made."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], input=png_that_claims(side, side), capture_output=True, check=True
    )
    assert int(done.stdout) < 20_000  # kilobytes


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_pillow_images_of_every_mode(mode: str) -> None:
    """Give the same as the file that they are saved to."""
    image = Image.fromarray(GREY.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(ALPHA))
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    assert np.abs(to_rgb(image).astype(int) - decode_image(data, "it")).max() <= 1


def test_pillow_images_are_turned_upright() -> None:
    """As the same file is when it is read by its path."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(RGB, "PNG", exif=exif)
    assert np.array_equal(to_rgb(Image.open(io.BytesIO(data))), decode_image(data, "it"))


@pytest.mark.parametrize(
    "wrong", [RGB / 255, GREY, RGB[None], RGB.transpose(2, 0, 1), np.dstack([RGB, ALPHA]), None, [1]]
)
def test_other_things_are_no_pictures(wrong: Any) -> None:
    """An array is height x width x 3 bytes: the line says so, and what was given."""
    with pytest.raises(ImageError, match="height x width x 3 uint8, not"):
        to_rgb(wrong)
