"""Many images: a run that is stopped, broken or given again loses nothing and does nothing twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from commands import Command

import attribkit
from attribkit.cli import answers, results

FORMATS = "png,npz,html"
NET = (
    "import torch\nfrom torch import nn\n"
    "def build():\n"
    "    torch.manual_seed(0)\n"
    "    convs = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU()\n"
    "    parts = *convs, nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
    "    return nn.Sequential(*parts)\n"
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty pictures in two folders with the same names, two of them broken, and a network."""
    (tmp_path / "net.py").write_text(NET)
    for folder in ("a", "b"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for number in range(20):
            colours = np.random.default_rng([number, folder == "b"]).integers(256, size=(20, 20, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "photos" / folder / f"{number:02}.png"), colours)
    (tmp_path / "photos" / "a" / "03.png").write_bytes(b"no picture")
    (tmp_path / "photos" / "b" / "17.png").write_bytes(b"")
    return tmp_path / "photos"


@pytest.fixture
def explain(run: Command, photos: Path) -> Command:
    return lambda *words: run("explain", *words, "--model", "./net.py:build", "--method", "guided", "--size", 20)


def written(out: Path) -> dict[str, bytes]:
    """Results, without the records of what is done; the page's foot has the command, in which folders differ."""
    paths = [path for path in out.rglob("*") if path.is_file() and ".done" not in path.parts]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def test_a_folder_of_folders_is_explained_under_its_own_names(explain: Command, photos: Path) -> None:
    """Equal names do not meet; each broken image is named, and the exit code says so."""
    done = explain("photos", "--recursive", "--out", "out", "--json")
    document = json.loads(done.out)
    assert done.code == 1
    assert done.err.startswith("attribkit: 2 of 40 images failed: ")
    assert [failure["image"] for failure in document["failed"]] == ["photos/a/03.png", "photos/b/17.png"]
    assert (len(document["explained"]), document["stopped"]) == (38, False)
    expected = {f"{folder}/{number:02}.png" for folder in "ab" for number in range(20)} - {"a/03.png", "b/17.png"}
    assert set(written(photos.parent / "out")) == expected
    assert "photos is a folder without images: --recursive looks in its folders, too" in explain("photos").err


def test_results_inside_the_folder_are_no_images_of_it(explain: Command, photos: Path) -> None:
    words = ("photos", "--recursive", "--out", "photos/results", "--json")
    first, again = json.loads(explain(*words).out), json.loads(explain(*words).out)
    assert first == again


def test_all_failed_is_said_differently(explain: Command, photos: Path) -> None:
    done = explain("photos/a/03.png", "photos/b/17.png")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("attribkit: all 2 images failed: photos/a/03.png is not an image; ")
    assert not (photos.parent / "attribkit-out").exists()


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each question to the network was about."""
    sizes: list[int] = []
    honest = attribkit.Explainer.explained

    def counting(self: attribkit.Explainer[Any], images: Any, *rest: Any) -> Any:
        sizes.append(len(images))
        return honest(self, images, *rest)

    monkeypatch.setattr(attribkit.Explainer, "explained", counting)
    return sizes


def test_a_second_run_explains_nothing_and_says_the_same(explain: Command, photos: Path, explained: list[int]) -> None:
    words = ("photos", "-r", "--format", FORMATS, "--out", "out", "--json")
    first = explain(*words)
    before, count = written(photos.parent / "out"), len(explained)
    again = explain(*words)
    assert (again.out, again.err, again.code) == (first.out, first.err, first.code)
    assert len(explained) == count
    assert written(photos.parent / "out") == before
    assert explain(*words, "--force").out == first.out
    assert len(explained) == 2 * count


def test_what_is_gone_or_changed_is_done_again_and_nothing_else(
    explain: Command, photos: Path, explained: list[int]
) -> None:
    words = ("photos", "-r", "--format", FORMATS, "--out", "out")
    explain(*words)
    before = written(photos.parent / "out")
    (photos.parent / "out" / "b" / "05.png").unlink()
    shutil.copy(photos / "a" / "00.png", photos / "b" / "19.png")  # another picture of this name
    explained.clear()
    explain(*words)
    after = written(photos.parent / "out")
    assert len(explained) == 2  # the groups of the two
    assert {name for name in after if after[name] != before.get(name)} == {
        "explain-2.html",
        "b/19-2.png",
        "b/19.guided-2.npz",
    }
    assert before.keys() <= after.keys()


def test_other_questions_do_not_count_as_done(explain: Command, photos: Path) -> None:
    image = str(photos / "a" / "00.png")
    assert "done before" not in explain(image).out
    assert "done before" in explain(image).out
    assert "done before" not in explain(image, "--layer", "0").out
    assert "done before" in explain(image, "--layer", "0").out
    assert "done before" not in explain(image, "--view", "signed").out


def test_an_interrupt_leaves_the_page_and_the_document_of_what_is_complete(
    explain: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = explain("photos/a", "--format", FORMATS, "--out", "out")
    expected = written(photos.parent / "out")
    shutil.rmtree(photos.parent / "out")
    add, made = results.Files.add, []

    def interrupted(self: results.Files, *args: Any) -> Any:
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(args)
        return add(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(results.Files, "add", interrupted)
        done = explain("photos/a", "--format", FORMATS, "--out", "out", "--json")
    document = json.loads(done.out)
    assert done.code == 130
    assert "stopped: 5 of 20 images are complete, in out; the same command goes on from there" in done.err
    assert (document["stopped"], len(document["explained"])) == (True, 5)
    page = (photos.parent / "out" / "explain.html").read_text()
    assert "05.png" in page
    assert "06.png" not in page
    (photos.parent / "out" / "explain.html").unlink()
    assert explain("photos/a", "--format", FORMATS, "--out", "out").code == undisturbed.code
    assert written(photos.parent / "out") == expected


def test_killed_twice_a_run_ends_as_if_nothing_had_happened(run: Command, explain: Command, photos: Path) -> None:
    """SIGKILL while it writes; the last run says what an undisturbed one says, and each image has its results once."""
    words = ["photos", "--recursive", "--format", FORMATS, "--out", "out", "--json"]
    undisturbed = explain(*words)
    expected = written(photos.parent / "out")
    shutil.rmtree(photos.parent / "out")
    command = ["explain", *words, "--model", "./net.py:build", "--method", "guided", "--size", "20"]
    for count in (7, 21):
        killed = subprocess.run(
            [sys.executable, "-c", _KILLED_AFTER.format(count=count, words=["attribkit", *command])],
            check=False,
            cwd=photos.parent,
            capture_output=True,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert len(list((photos.parent / "out" / ".done").glob("*.json"))) < 38
    done = explain(*words)
    assert (done.out, done.err, done.code) == (undisturbed.out, undisturbed.err, undisturbed.code)
    assert written(photos.parent / "out") == expected
    assert not list((photos.parent / "out").rglob("*.part"))


# A command that kills itself in the middle of writing its n-th file, or record.
_KILLED_AFTER = """
import os, signal, sys
from attribkit import files
from attribkit.cli.main import main
honest, seen = files.os.replace, []
def replace(*paths):
    seen.append(paths)
    if len(seen) == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return honest(*paths)
files.os.replace = replace
sys.argv = {words!r}
main()
"""


def test_a_full_disk_says_where_and_how_many_are_complete(explain: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from attribkit import files

    honest, count = files.os.fsync, []

    def full(descriptor: int) -> None:
        count.append(descriptor)
        if len(count) > 6:
            raise OSError(28, os.strerror(28))
        honest(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    done = explain("photos/a", "--out", "out")
    assert done.code == 1
    assert done.err.endswith("cannot be written: No space left on device; 3 of 20 images are complete, in out\n")


def test_names_by_a_template(explain: Command, photos: Path) -> None:
    words = ("photos/a/00.png", "--layer", "0,2", "--channel", "1,2", "--out", "out")
    explain(*words, "--names", "{layer}/{image} {asked}")
    assert set(written(photos.parent / "out")) == {"0/00 1,2.png", "2/00 1,2.png"}
    explain(*words, "--names", "one", "--force")
    assert {"one.png", "one-2.png"} < set(written(photos.parent / "out"))  # none is lost, not even by force
    for wrong in ("{unit}", "{image", "../{image}", "/x/{image}", ""):
        assert explain(*words, "--names", wrong).code == 2


@pytest.mark.parametrize(
    ("words", "channels"),
    [
        (["--channel", "0-2,7"], [0, 1, 2, 7]),
        (["--channel", "all"], list(range(8))),
        (["--channel", "all", "--at", "all"], list(range(8))),
    ],
)
def test_channels_by_spans_and_all(explain: Command, words: list[str], channels: list[int]) -> None:
    done = explain("photos/a/00.png", "--layer", "2", "--json", *words)
    assert [unit["channel"] for unit in json.loads(done.out)["explained"][0]["units"]] == channels


def test_the_strongest_channels_come_in_their_order(explain: Command, photos: Path) -> None:
    done = explain("photos/a/00.png", "photos/a/01.png", "--layer", "3", "--json", "--channel", "max:3")
    loaded = attribkit.load(f"{photos.parent}/net.py:build")
    for number, entry in enumerate(json.loads(done.out)["explained"]):
        x = loaded.preprocess(photos / "a" / f"0{number}.png", 20)[None]
        strengths = loaded.model[:4](x).amax((0, 2, 3)).tolist()
        expected = sorted(range(8), key=lambda channel: -strengths[channel])[:3]
        assert [unit["channel"] for unit in entry["units"]] == expected
    assert explain("photos/a/00.png", "--layer", "3", "--channel", "max:9").code == 1
    assert explain("photos/a/00.png", "--layer", "3", "--channel", "max:x").code == 2


def test_layers_by_a_pattern(explain: Command) -> None:
    entries = json.loads(explain("photos/a/00.png", "--layer", "[02]", "--json").out)["explained"]
    assert [entry["layer"] for entry in entries] == ["0", "2"]
    none = explain("photos/a/00.png", "--layer", "conv*")
    assert (none.code, none.out) == (1, "")
    assert "--layer conv* fits no layer: attribkit layers" in none.err


def test_arrays_without_what_no_unit_sees_are_read_back_whole(explain: Command, photos: Path) -> None:
    words = ("photos/a/00.png", "--layer", "2", "--channel", "1,2", "--at", "3,4", "--format", "npz,safetensors")
    explain(*words, "--out", "whole")
    explain(*words, "--out", "part", "--crop")
    for name in ("00.2-1,2.at-3,4.guided.npz", "00.2-1,2.at-3,4.guided.safetensors"):
        whole, part = (attribkit.Attribution.load(photos.parent / out / name) for out in ("whole", "part"))
        assert whole.values.equal(part.values)
        assert whole.units == part.units
    assert np.load(photos.parent / "part" / "00.2-1,2.at-3,4.guided.npz")["values"].shape == (2, 3, 5, 5)


def test_sites_are_said_once(explain: Command) -> None:
    document = json.loads(explain("photos/a", "--json").out)
    assert len(document["sites"]) == 1
    assert {site["name"] for site in document["sites"][0]} == {"1", "3"}
    assert {entry["sites"]["guided"] for entry in document["explained"]} == {0}


def test_quiet_is_quiet(explain: Command, photos: Path) -> None:
    done = explain("photos/a/00.png", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert set(written(photos.parent / "attribkit-out")) == {"00.png"}


@pytest.mark.parametrize("out", ["-", "lion.pdf", "lion.jpg", "lion.csv"])
def test_an_out_that_is_no_folder_and_no_format_is_refused(explain: Command, photos: Path, out: str) -> None:
    done = explain("photos/a/00.png", "--out", out)
    assert done.code == 2
    assert f"--out {out}" in done.err
    assert not (photos.parent / out).exists()


def test_a_reader_that_goes_away_ends_it_without_a_word(photos: Path) -> None:
    """As `attribkit explain ... | head -1` does."""
    command = [sys.executable, "-u", "-m", "attribkit.cli.main", "explain", "photos/a", "--model", "./net.py:build"]
    command += ["--method", "guided", "--size", "20"]
    process = subprocess.Popen(command, cwd=photos.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_memory_is_not_kept_for_images_that_are_done(explain: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more answers are there at a time than images in two groups, whatever their number."""
    import gc
    import weakref

    alive: list[weakref.ref[answers.Answer]] = []
    most: list[int] = []
    add = results.Files.add

    def counted(self: results.Files, key: str, of_image: list[answers.Answer]) -> Any:
        gc.collect()
        alive.extend(map(weakref.ref, of_image))
        most.append(sum(reference() is not None for reference in alive))
        return add(self, key, of_image)

    monkeypatch.setattr(results.Files, "add", counted)
    assert explain("photos", "-r", "--format", FORMATS).code == 1
    assert max(most) <= 2 * answers.Respondent.IMAGES < 38


def test_another_network_under_the_same_name_is_explained_anew(explain: Command, photos: Path) -> None:
    """Its weights may be the same: what changed is what `forward` does."""
    words = ("photos/a/00.png", "--layer", "2", "--json", "--out", "out")
    before = json.loads(explain(*words).out)
    net = photos.parent / "net.py"
    net.write_text(NET.replace("nn.Conv2d(8, 8, 3, 2)", "nn.Conv2d(8, 8, 3, 1)"))
    after = json.loads(explain(*words).out)
    assert after["explained"][0]["units"] != before["explained"][0]["units"]
    assert explain(*words[:-3], "--out", "out").out.count("done before") == 1


@pytest.mark.parametrize("option", ["--switches", "--usual"])
def test_a_file_that_changed_counts(run: Command, photos: Path, option: str) -> None:
    """Under the same name: the switches that are replayed, and what is usual."""
    model = ("--model", "model_c", "--weights", "none")
    words = ("explain", "photos/a/00.png", *model, "--layer", "conv4", "--method", "deconvnet", "--format", "npz")

    def write(number: int) -> str:
        if option == "--switches":
            assert run("switches", photos / "a" / f"0{number}.png", *model, "--out", "known.safetensors").code == 0
            return "known.safetensors"
        means = np.zeros(192)
        means[:] = np.arange(192) * (-1) ** number * 100
        facts = np.array(json.dumps({"layer": "conv4"}))
        np.savez(photos.parent / "usual.npz", facts=facts, channels=np.arange(192), mean=means)
        return "usual.npz"

    results = []
    for number in (1, 2, 2):
        done = run(*words, option, write(number))
        assert done.code == 0, done.err
        results.append(done.out)
    assert ["done before" in out for out in results] == [False, False, True]
