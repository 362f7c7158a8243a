"""The command line as a person uses it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from commands import Command, Done
from PIL import Image

import attribkit
from attribkit.cli import options
from attribkit.reference_models.architectures import build
from attribkit.reference_models.normalisation import Normalisation
from attribkit.reference_models.trained import Trained, save

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights as training writes it; small, and the same every time."""
    path = tmp_path_factory.mktemp("weights") / "strided.safetensors"
    torch.manual_seed(0)
    net = build("strided_cnn_c").eval()
    half = Normalisation(torch.full((3,), 0.5), torch.full((3,), 0.25))
    save(path, Trained(net, half, {"architecture": "strided_cnn_c", "channels": 3, "classes": LABELS}))
    return path


@pytest.fixture
def explain(run: Command, weights: Path, tmp_path: Path) -> Command:
    shutil.copy(CAT, tmp_path / "cat.jpg")
    return lambda *words: run("explain", *words, "--model", "strided_cnn_c", "--weights", weights)


def files(folder: Path) -> dict[str, bytes]:
    """Results, without the records of what is done."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".done" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# explain


def test_it_says_what_it_chose_and_where_the_picture_is(explain: Command, tmp_path: Path) -> None:
    done = explain("cat.jpg", "--layer", "conv4")
    assert (done.code, done.err) == (0, "")
    assert "conv4, channel" in done.out
    assert done.out.count("(the strongest unit)") == 1
    assert "sees rows" in done.out
    assert "sites swapped" in done.out
    assert "attribkit-out/cat.conv4.png" in done.out
    picture = cv2.imread(str(tmp_path / "attribkit-out" / "cat.conv4.png"))
    assert picture is not None
    assert picture.shape[1] > 4 * 200  # the picture and three maps, large enough to be seen


def test_the_json_document_holds_what_the_library_gives(explain: Command, weights: Path) -> None:
    done = explain("cat.jpg", "--layer", "conv4", "--channel", "5,7", "--method", "guided", "--json", "--format", "npz")
    document = json.loads(done.out)
    loaded = attribkit.load("strided_cnn_c", weights)
    image = loaded.preprocess("cat.jpg")[None]
    expected = attribkit.explain(loaded.model, image, "guided", layer="conv4", channels=[5, 7])
    (explained,) = document["explained"]
    assert [unit["channel"] for unit in explained["units"]] == [5, 7]
    assert [tuple(unit["box"]) for unit in explained["units"]] == [unit.box for unit in expected.units]
    assert explained["files"] == ["attribkit-out/cat.conv4-5,7.guided.npz"]
    found = attribkit.Attribution.load(explained["files"][0])
    assert torch.equal(found.values, expected.values)
    assert document["failed"] == []


def test_without_a_layer_the_predicted_class_is_explained_or_the_one_named(explain: Command) -> None:
    assert ", the predicted one" in explain("cat.jpg").out
    assert "class 3 (cat):" in explain("cat.jpg", "--class", "cat").out
    assert "class 5 (dog):" in explain("cat.jpg", "--class", "5").out
    wrong = explain("cat.jpg", "--class", "tru")
    assert (wrong.code, wrong.out) == (1, "")
    assert wrong.err.endswith("no class is called 'tru'; the nearest:\n     9  truck\n")


def test_a_repeated_option_takes_all_that_it_is_given(explain: Command) -> None:
    """As commas do; the last alone was taken once."""
    apart = ("--layer", "conv3", "--layer", "conv7", "--channel", "1", "--channel", "2", "-f", "npz", "-f", "json")
    at_once = ("--layer", "conv3,conv7", "--channel", "1,2", "-f", "npz,json")
    rules = (("--method", "guided", "--method", "backprop"), ("--method", "guided,backprop"))
    one, other = (json.loads(explain("cat.jpg", *words, "--json").out) for words in zip_words((apart, at_once), rules))
    made = [[answer.pop("files") for answer in document["explained"]] for document in (one, other)]
    assert one == other
    assert [[len(files) for files in each] for each in made] == [[4, 4], [4, 4]]
    classes = json.loads(explain("cat.jpg", "--class", "cat", "--class", "dog,9", "--json").out)["explained"][0][
        "units"
    ]
    assert [unit["label"] for unit in classes] == ["cat", "dog", "truck"]


def zip_words(*pairs: tuple[tuple[str, ...], tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The first words of every pair, then the second words."""
    return [sum(words, ()) for words in zip(*pairs, strict=True)]


def test_random_weights_name_no_classes(run: Command) -> None:
    """They would say "photocopier 93%" with ImageNet's labels."""
    words = ("explain", CAT, "--model", "torchvision:squeezenet1_1", "--weights", "none", "--method", "guided")
    lines = run(*words).out.splitlines()
    assert lines[0] == "cat.jpg: the network's weights are random"
    assert re.fullmatch(r"  class \d+, the predicted one: .*", lines[1])
    document = json.loads(run(*words, "--json").out)
    assert (document["explained"][0]["likeliest"], document["explained"][0]["units"][0]["label"]) == ("", None)


def test_maps_of_a_class_that_hardly_depend_on_it_come_with_one_caution(explain: Command, tmp_path: Path) -> None:
    """Said at the end, whatever the number of images; not for a layer's unit, nor for plain backprop."""
    (tmp_path / "dog.jpg").write_bytes((tmp_path / "cat.jpg").read_bytes())
    caution = "caution: guided and deconvnet maps hardly depend on the class: docs/metrics.md has figures"
    done = explain("cat.jpg", "dog.jpg", "--class", "cat")
    assert (done.out.count(caution), done.out.splitlines()[-1]) == (1, caution)
    assert "caution:" not in explain("cat.jpg", "--layer", "conv4").out
    assert "caution:" not in explain("cat.jpg", "--method", "backprop").out
    json.loads(explain("cat.jpg", "--json").out)


def test_the_same_command_twice_gives_the_same_bytes(explain: Command, tmp_path: Path) -> None:
    words = ("cat.jpg", "--layer", "conv3,conv7", "--format", "png,html,npz,json,safetensors", "--out", "out")
    first = explain(*words, "--json")
    one = files(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    again = explain(*words, "--json")
    assert len(one) == 2 * (1 + 3 * 3) + 1
    assert files(tmp_path / "out") == one
    assert again.out == first.out


def test_random_weights_are_the_same_every_time(run: Command, tmp_path: Path) -> None:
    for _ in range(2):
        run("explain", CAT, "--model", "strided_cnn_c", "--weights", "none", "--out", "out")
    assert list(files(tmp_path / "out")) == ["cat.png"]  # other bytes would have got a name of their own


def test_out_can_name_the_one_file(explain: Command, tmp_path: Path) -> None:
    assert explain("cat.jpg", "--out", "map.npz", "--method", "guided").code == 0
    assert (tmp_path / "map.npz").is_file()
    assert explain("cat.jpg", "--out", "page.html").code == 0
    assert (tmp_path / "page.html").is_file()
    several = explain("cat.jpg", "--out", "maps.npz")
    assert several.code == 2
    assert "is one file, but 3 are to be written: give a folder" in several.err
    other = explain("cat.jpg", "--out", "map.png", "--format", "npz")
    assert other.code == 2
    assert "--out map.png names one png file" in other.err


def test_many_images_by_folder_and_pattern_each_with_files_of_its_own(explain: Command, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(CAT, tmp_path / folder / "cat.jpg")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    done = explain("a", "b/*.jpg", "--method", "guided")
    assert done.code == 0
    assert sorted(files(tmp_path / "attribkit-out")) == ["cat-2.png", "cat.png"]
    assert "nothing matches c/*.jpg" in explain("c/*.jpg").err
    (tmp_path / "empty").mkdir()
    assert "empty is a folder without images" in explain("empty").err


def test_a_bad_image_among_good_ones_is_named_and_the_others_are_explained(explain: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    done = explain("bad.png", "cat.jpg", "--json")
    assert done.code == 1
    document = json.loads(done.out)
    assert [failure["image"] for failure in document["failed"]] == ["bad.png"]
    assert [entry["image"] for entry in document["explained"]] == ["cat.jpg"]
    assert "1 of 2 images failed: bad.png is empty" in done.err


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each question to an explainer was about."""
    sizes: list[int] = []
    honest = attribkit.Explainer.explained

    def counting(self: attribkit.Explainer[Any], images: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(images))
        return honest(self, images, *rest)

    monkeypatch.setattr(attribkit.Explainer, "explained", counting)
    return sizes


def seven_pictures(folder: Path) -> list[str]:
    """Pictures that differ, one that cannot be read among them."""
    names = [f"{number}.png" for number in range(7)]
    for number, name in enumerate(names):
        colours = np.random.default_rng(number).integers(256, size=(40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), colours)
    (folder / "3.png").write_bytes(b"no picture")
    return names


@pytest.mark.parametrize("words", [[], ["--layer", "conv4,conv7"], ["--layer", "conv3", "--channel", "5,1"]], ids=str)
def test_images_of_one_size_are_explained_together_as_if_each_were_alone(
    explain: Command, tmp_path: Path, batches: list[int], words: list[str]
) -> None:
    names = seven_pictures(tmp_path)
    together = explain(*names, *words, "--format", "npz", "--json", "--out", "together")
    layers = 2 if "conv4,conv7" in words else 1
    assert batches == [6] * layers
    document = json.loads(together.out)
    assert [entry["image"] for entry in document["explained"]] == [
        n for n in names if n != "3.png" for _ in range(layers)
    ]
    assert [entry["image"] for entry in document["failed"]] == ["3.png"]
    alone = [explain(name, *words, "--format", "npz", "--json", "--out", "alone") for name in names if name != "3.png"]
    entries = [entry for done in alone for entry in json.loads(done.out)["explained"]]
    for entry, other in zip(document["explained"], entries, strict=True):
        assert entry["likeliest"] == other["likeliest"] != ""
        assert [(u["image"], u["channel"], u["position"]) for u in entry["units"]] == [
            (0, u["channel"], u["position"]) for u in other["units"]
        ]
    assert files(tmp_path / "together").keys() == files(tmp_path / "alone").keys()
    for path in (tmp_path / "together").glob("*.npz"):
        found, expected = (attribkit.Attribution.load(tmp_path / at / path.name) for at in ("together", "alone"))
        assert found.values.shape == expected.values.shape
        torch.testing.assert_close(
            found.values, expected.values, rtol=0, atol=1e-5 * float(expected.values.abs().max())
        )


def test_a_batch_is_of_one_size_and_no_larger_than_it_should_be(
    run: Command, tmp_path: Path, batches: list[int]
) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    names = [name for name in seven_pictures(tmp_path) if name != "3.png"]
    for words, expected in (
        (names * 3, [16, 2]),
        (["--size", "300", *names], [4, 2]),
        (["--size", "700", *names], [1] * 6),
    ):
        batches.clear()
        assert run("explain", *words, "--model", "./net.py:build", "--method", "guided").code == 0
        assert batches == expected


@pytest.mark.parametrize(
    ("words", "passes"), [([], 1), (["--layer", "conv2"], 1), (["--layer", "conv1,conv2,conv7"], 2)], ids=str
)
def test_nothing_is_run_twice(
    explain: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], passes: int
) -> None:
    """A class costs one forward pass. So do layers of which a crop will do: it says what the network says, and all of
    them look for their units in it; a layer that sees much costs its own."""
    sizes: list[tuple[int, ...]] = []
    honest = options.loaded

    def counted(*args: Any) -> Any:
        loaded = honest(*args)
        loaded.model.conv1.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape)))
        return loaded

    monkeypatch.setattr(options, "loaded", counted)
    names = [name for name in seven_pictures(tmp_path) if name != "3.png"]
    assert explain(*names, *words, "--method", "guided").code == 0
    assert sizes.count((6, 3, 32, 32)) == passes


def test_options_of_the_library_are_offered(explain: Command, tmp_path: Path) -> None:
    """overlap, replay, norms, precision and fast say in the manifest that they were asked for."""
    words = ("--overlap", "overwrite", "--replay", "both", "--norms", "gradient", "--precision", "bfloat16", "--fast")
    done = explain("cat.jpg", *words, "--switches", "center", "--method", "guided", "--out", "map.npz")
    assert (done.code, done.err) == (0, "")
    found = attribkit.Attribution.load(tmp_path / "map.npz")
    assert found.settings == {
        "switches": "center",
        "activations": "rectifiers",
        "overlap": "overwrite",
        "replay": "both",
        "norms": "gradient",
        "precision": "bfloat16",
        "fast": True,
    }
    assert explain("cat.jpg", "--precision", "float8").code == 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--layer", "conv44"], 1, "no layer 'conv44' in Sequential; the nearest: conv4"),
        (["--layer", "conv4", "--channel", "999"], 1, "the layer 'conv4' has 192 channels, 0 to 191; there is no 999"),
        (["--layer", "conv4", "--at", "50,50"], 1, "no position (50, 50) in a map of 8x8"),
        (["--layer", "conv4", "--at", "x"], 2, "--at takes whole numbers separated by commas, not 'x'"),
        (["--layer", "conv4", "--class", "3"], 2, "give one of them"),
        (["--channel", "3"], 2, "--channel belongs to --layer"),
        (["--method", "magic"], 2, "--method takes guided, deconvnet, backprop, not 'magic'"),
        (["--format", "bmp"], 2, "--format takes png, svg, html, npz, safetensors, json, not 'bmp'"),
        (["--switches", "none.safetensors"], 1, "none.safetensors"),
        (["--size", "0"], 2, "'--size'"),
        (["--channel", "5-2", "--layer", "conv4"], 2, "--channel takes numbers and spans such as 0-95,104, not '5-2'"),
        (["--channel", "max:0", "--layer", "conv4"], 2, "max:K asks for the K strongest"),
        (["--usual", "none.npz"], 2, "--channel belongs to --layer"),
        (["--usual", "none.npz", "--layer", "conv4"], 1, "none.npz is no npz that attribkit gallery has written"),
        (["--class", "10"], 1, "the model has 10 outputs, 0 to 9; there is no 10"),
        (["--view", "grey"], 2, "'--view'"),
        (["--names", "{name}"], 2, "--names takes a template of {image}, {layer}, {asked}, {model}, not '{name}'"),
        (["--out", "map.svgz", "--out", "map.jpg"], 2, "--out map.jpg is no folder"),
        (["--layers", "conv4"], 2, "--layers"),
        (["--device", "toaster"], 2, "--device 'toaster': torch knows no such device"),
    ],
)
def test_what_is_asked_wrongly_is_told_in_a_line(explain: Command, words: list[str], code: int, told: str) -> None:
    done = explain("cat.jpg", *words)
    assert (done.code, done.out) == (code, "")
    assert told in done.err
    assert "Traceback" not in done.err


def test_debug_shows_where_an_error_comes_from(run: Command) -> None:
    with pytest.raises(ValueError, match="no model 'nonesuch'"):
        run("explain", CAT, "--model", "nonesuch", "--debug")
    assert run("explain", CAT, "--model", "nonesuch").code == 1


# Images, each by the shell


def picture(path: Path, mode: str = "RGB", **options: object) -> Path:
    colours = np.random.default_rng(0).integers(256, size=(48, 40, 3), dtype=np.uint8)
    Image.fromarray(colours).convert(mode).save(path, **options)
    return path


def sixteen_bits(path: Path) -> Path:
    cv2.imwrite(str(path), np.random.default_rng(0).integers(2**16, size=(40, 40, 3)).astype(np.uint16))
    return path


def turned(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(path, exif=exif)


def animated(path: Path) -> Path:
    frames = [Image.fromarray(np.full((40, 40, 3), shade, np.uint8)) for shade in (20, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def one_pixel(path: Path) -> Path:
    Image.new("RGB", (1, 1), (200, 10, 10)).save(path)
    return path


def cut(path: Path) -> Path:
    picture(path)
    path.write_bytes(path.read_bytes()[:-600])
    return path


def bytes_of(content: bytes):
    def make(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return make


def huge(path: Path) -> Path:
    """A PNG of a few bytes that says it is 60,000 x 60,000."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


GOOD = {
    "plain.jpg": picture,
    "turned.jpg": turned,
    "alpha.png": lambda path: picture(path, "RGBA"),
    "sixteen.png": sixteen_bits,
    "grey.png": lambda path: picture(path, "L"),
    "cmyk.jpg": lambda path: picture(path, "CMYK"),
    "palette.png": lambda path: picture(path, "P"),
    "animated.gif": animated,
    "small.webp": picture,
    "one pixel.png": one_pixel,
    "猫 и кот.png": picture,
    "-dash.png": picture,
    "bitmap.bmp": picture,
}

BAD = {
    "empty.png": (bytes_of(b""), "empty.png is empty"),
    "text.png": (bytes_of(b"hello"), "text.png is not an image"),
    "cut.jpg": (cut, "cut.jpg is cut off"),
    "cut.png": (cut, "cut.png is damaged or cut off"),
    "missing.png": (lambda path: path, "missing.png cannot be read: No such file"),
    "folder": (folder, "folder is a folder without images"),
    "huge.png": (huge, "huge.png has more than 134,217,728 pixels"),
}


def shell(at: Path, weights: Path, *words: str, given: bytes | None = None) -> Done:
    command = [sys.executable, "-m", "attribkit.cli.main", "explain", "--model", "strided_cnn_c"]
    command += ["--weights", str(weights), "--method", "guided", "--out", "out", *words]
    done = subprocess.run(command, check=False, capture_output=True, cwd=at, input=given)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("name", sorted(GOOD.keys() - {"animated.gif"}))
def test_a_good_image_is_explained(tmp_path: Path, run: Command, weights: Path, name: str) -> None:
    GOOD[name](tmp_path / name)
    model = ("--model", "strided_cnn_c", "--weights", weights, "--method", "guided")
    done = run("explain", *model, "--out", "out", "--", name)
    assert done.code == 0, done.err
    assert list(files(tmp_path / "out")) == [f"{Path(name).stem}.png"]


def test_of_an_animation_the_first_picture_is_explained_and_this_is_said(tmp_path: Path, weights: Path) -> None:
    GOOD["animated.gif"](tmp_path / "animated.gif")
    done = shell(tmp_path, weights, "--", "animated.gif")
    assert (done.code, done.err) == (0, "attribkit: animated.gif has several frames; the first is read\n")
    assert list(files(tmp_path / "out")) == ["animated.png"]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_in_a_line(tmp_path: Path, weights: Path, name: str) -> None:
    make, told = BAD[name]
    make(tmp_path / name)
    done = shell(tmp_path, weights, name)
    assert (done.code, done.out) == (1, "")
    assert told in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_image_comes_from_standard_input(tmp_path: Path, weights: Path) -> None:
    done = shell(tmp_path, weights, "-", given=CAT.read_bytes())
    assert done.code == 0, done.err
    assert list(files(tmp_path / "out")) == ["stdin.png"]


# The other commands


def test_models_are_searched(run: Command) -> None:
    found = run("models", "*cnn_c")
    assert set(found.out.split()) >= {"reference:all_cnn_c", "reference:convpool_cnn_c"}
    assert json.loads(run("models", "reference:zf", "--json").out) == ["reference:zfnet"]
    assert run("models", "nonesuch").code == 1


def test_models_whose_weights_are_here(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of packages, and of libraries once they were fetched: nothing is fetched to find out."""
    import torchvision

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    bundled = json.loads(run("models", "reference:*", "--here", "--json").out)
    variants = ("model", "strided_cnn", "convpool_cnn", "all_cnn")
    names = [f"{variant}_{base}" for base in "abc" for variant in variants]
    assert bundled == [f"reference:{name}" for name in (*names, "all_cnn_c_pooled")]
    assert run("models", "torchvision:resnet18", "--here").code == 1
    file = Path(torchvision.models.ResNet18_Weights.DEFAULT.url).name
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / file).touch()
    assert run("models", "torchvision:resnet*", "--here").out.split() == ["torchvision:resnet18"]


def test_layers_are_listed_with_what_they_see(run: Command) -> None:
    document = json.loads(run("layers", "all_cnn_c", "--json").out)
    rows = {row["name"]: row for row in document["layers"]}
    assert rows["conv2"]["sees"] == [5, 5]
    assert rows["conv3"]["stride"] == [2, 2]
    assert rows["relu4"]["sites"] == [{"op": "relu", "calls": 1, "swapped": True}]
    words = run("layers", "all_cnn_c").out
    assert "conv9" in words
    assert "192x16x16" in words


def test_switches_are_recorded_and_replayed(run: Command, tmp_path: Path) -> None:
    model = ("--model", "model_c", "--weights", "none")
    done = run("switches", CAT, *model, "--out", "cat.safetensors")
    assert done.out.splitlines() == ["pool1: 96x16x16", "pool2: 192x8x8", "cat.safetensors"]
    noise = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "other.png"), noise)
    words = ("--method", "deconvnet", "--format", "npz", *model)
    own = run("explain", "other.png", *words, "--out", "own")
    other = run("explain", "other.png", *words, "--out", "cats", "--switches", "cat.safetensors")
    assert own.code == other.code == 0
    maps = [attribkit.Attribution.load(tmp_path / at / "other.deconvnet.npz").values for at in ("own", "cats")]
    assert not torch.equal(*maps)
    refused = run("explain", "other.png", "--size", "64", *words, "--switches", "cat.safetensors")
    assert refused.code == 1
    assert "pool1" in refused.err
    assert "no max-pool" in run("switches", CAT, "--model", "all_cnn_c", "-w", "none", "-o", "no.safetensors").err


def test_several_ways_with_switches_are_compared(run: Command, tmp_path: Path) -> None:
    """Columns of one rule stand together, and each equals what it is when asked for alone."""
    words = ("explain", CAT, "--model", "model_c", "--method", "guided,deconvnet", "--layer", "conv4", "--format")
    assert run("switches", CAT, "--model", "model_c", "--out", "own cat.safetensors").code == 0
    done = run(*words, "npz,png,html", "--switches", "own,uniform,own cat.safetensors", "--out", "all")
    assert done.code == 0, done.err
    columns = re.findall(r"cat\.conv4\.([\w. ]+?)\.npz", done.out)
    assert columns == [f"{rule}.{way}" for rule in ("guided", "deconvnet") for way in ("own", "uniform", "own cat")]
    for way in ("own", "uniform"):
        assert run(*words, "npz", "--switches", way, "--out", way).code == 0
    for rule in ("guided", "deconvnet"):
        for way in ("own", "uniform", "own cat"):
            together = attribkit.Attribution.load(tmp_path / "all" / f"cat.conv4.{rule}.{way}.npz")
            alone = attribkit.Attribution.load(tmp_path / way.removesuffix(" cat") / f"cat.conv4.{rule}.npz")
            assert together.units == alone.units
            assert torch.allclose(together.values, alone.values, atol=1e-5 * float(alone.values.abs().max()))
    page = (tmp_path / "all" / "explain.html").read_text()
    assert re.findall(r'data-method="([^"]+)"', page) == [
        f"{rule}, {way}"
        for rule in ("guided", "deconvnet")
        for way in ("own switches", "without switches (uniform)", "switches of own cat")
    ]
    height, width = cv2.imread(str(tmp_path / "all" / "cat.conv4.png")).shape[:2]
    assert height > width / 2  # a row for each rule


def test_without_a_max_pool_switches_change_nothing_and_this_is_said(run: Command) -> None:
    words = ("explain", CAT, "--model", "all_cnn_c", "-w", "none", "--layer", "conv2", "--switches")
    note = "note: no max-pool lies below, so that switches change nothing"
    assert note in run(*words, "own,uniform").out
    assert note in run(*words, "center").out
    assert note not in run(*words, "own").out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--switches", "own,uniform", "--replay", "both"], "give one way"),
        (["--switches", ","], "--switches takes own"),
        (["--switches", "a/x.safetensors,b/x.safetensors"], "different names"),
    ],
)
def test_ways_that_cannot_be_compared_are_refused(run: Command, tmp_path: Path, words: list[str], why: str) -> None:
    for folder in ("a", "b"):
        done = run("switches", CAT, "--model", "model_c", "-w", "none", "--out", f"{folder}/x.safetensors")
        assert done.code == 0
    done = run("explain", CAT, "--model", "model_c", "-w", "none", *words)
    assert done.code == 2
    assert why in done.err


def test_check_says_right_or_why_not(run: Command) -> None:
    right = run("check", "model_c")
    assert right.code == 0
    assert "follow the rules: 7 relu (module), 2 max_pool2d (module)" in right.out
    assert right.out.splitlines()[-1] == "right"
    document = json.loads(run("check", "model_c", "--json").out)
    assert document["right"] is True
    assert {finding["holds"] for finding in document["findings"]} == {True}
    assert len(document["findings"]) == 9
    refused = run("check", "timm:test_vit")
    assert refused.code == 1
    assert 'activations="all"' in refused.err


def test_what_needs_no_weights_goes_without_also_for_a_function_of_ones_own(run: Command, tmp_path: Path) -> None:
    net = "from torch import nn\ndef build(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())\n"
    (tmp_path / "net.py").write_text(net)
    assert run("check", "./net.py:build").out.splitlines()[-1] == "right"
    assert "Conv2d" in run("layers", "./net.py:build").out


def test_a_model_without_parameters_is_explained(run: Command, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    done = run("explain", CAT, "--model", "./net.py:build")
    assert (done.code, done.err) == (0, "")


def test_check_finds_what_is_wrong(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from attribkit.verify import checking

    honest = checking.rewrite
    swap = {"guided": "backprop", "backprop": "guided"}

    def crooked(model: torch.nn.Module, method: str, **options: object) -> torch.nn.Module:
        return honest(model, swap.get(method, method), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(checking, "rewrite", crooked)
    wrong = run("check", "model_c")
    assert wrong.code == 1
    assert "NO  backprop equals torch's own gradient" in wrong.out
    assert "NO  guided equals its rule" in wrong.out
    assert "ok  deconvnet equals its rule" in wrong.out
    assert "not handled rightly" in wrong.err


def test_check_says_what_it_cannot_judge(run: Command) -> None:
    """The deconvnet passes by LRN, which autograd's graph does not show."""
    done = run("check", "zfnet", "--json")
    findings = {finding["promise"]: finding for finding in json.loads(done.out)["findings"]}
    finding = findings["deconvnet equals its rule applied to torch's own graph"]
    assert finding["holds"] is None
    assert "local_response_norm" in finding["seen"]


# Completion


def completed(*words: str) -> list[str]:
    environment = {
        **os.environ,
        "_ATTRIBKIT_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["attribkit", *words]),
        "COMP_CWORD": str(len(words)),
    }
    command = [sys.executable, "-m", "attribkit.cli.main"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_tab_completes_models_and_layers() -> None:
    assert completed("expl") == ["explain"]
    models = completed("explain", "--model", "res")
    assert {"resnet18", "resnet50", "res2net50_26w_4s"} <= set(models)
    assert completed("explain", "--model", "all_cnn_c", "--layer", "conv") == [f"conv{n}" for n in range(1, 10)]


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_script(name: str) -> None:
    environment = {**os.environ, "_ATTRIBKIT_COMPLETE": f"{name}_source"}
    command = [sys.executable, "-m", "attribkit.cli.main"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert "_ATTRIBKIT_COMPLETE" in done.stdout, done.stderr
