"""What is installed is what is in the checkout, brings nothing that a server lacks, and needs no folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from torture import Tried

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
FOLDERS = ("attribkit/", "adapters/", "cli/", "reference_models/")
RUN = "from attribkit.cli.main import main; main()"


def python(code: str, *words: object, folder: Path, **environment: str) -> str:
    """What a new process prints, which must end well."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=folder,
        env=kept | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked() -> list[str]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
    return listed.stdout.strip("\0").split("\0")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no trace of the build is left in the checkout."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in tracked():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    return built / python(BUILD, built, folder=source).splitlines()[-1]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_has_every_file_of_the_library_and_no_other(installed: Path, tried: Tried) -> None:
    expected = {
        name if name.startswith("attribkit/") else f"attribkit/{name}"
        for name in tracked()
        if name.startswith(FOLDERS) and (ROOT / name).is_file() and not name.endswith(".md")
    }
    found = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith("attribkit-")} == expected
    tried("files of the library that are in the wheel", len(expected))


def test_it_brings_no_library_that_draws_on_a_screen(installed: Path) -> None:
    (metadata,) = installed.glob("*.dist-info/METADATA")
    needed = Parser().parsestr(metadata.read_text()).get_all("Requires-Dist") or []
    plain = {each.partition(";")[0].strip(" >=<.0123456789").lower() for each in needed if "extra ==" not in each}
    assert plain & {"opencv-python", "opencv-contrib-python", "matplotlib", "pyqt5", "pyside6"} == set()
    assert "opencv-python-headless" in plain


@pytest.mark.parametrize(
    "words",
    [
        ("explain", ROOT / "examples" / "cat.jpg", "--model", "all_cnn_c", "--format", "png,npz,json,html"),
        ("filters", "model_a"),
        ("occlude", ROOT / "examples" / "cat.jpg", "--model", "model_a", "--window", "16", "--stride", "16"),
    ],
    ids=lambda words: words[0],
)
def test_it_runs_as_installed_where_the_home_folder_cannot_be_written(
    words: tuple[object, ...], installed: Path, tmp_path: Path, tried: Tried
) -> None:
    """And nothing is written but what is asked for."""
    before = {path: path.stat().st_mtime_ns for path in installed.rglob("*")}
    home = "/dev/null/nobody"  # where not even root can make a folder
    where = "import attribkit; print(attribkit.__file__)"
    environment = {"PYTHONPATH": str(installed), "HOME": home}
    assert python(where, folder=tmp_path, **environment).strip() == str(installed / "attribkit" / "__init__.py")
    python(RUN, *words, "--out", "results", folder=tmp_path, **environment)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert any((tmp_path / "results").iterdir())
    assert {path: path.stat().st_mtime_ns for path in installed.rglob("*")} == before
    tried("commands of the installed wheel that ran without a home folder", 1)
