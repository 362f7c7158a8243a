"""attribkit brings torch and little else, and the command its help at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# What is imported where it is used, and not before.
LATE = ("PIL", "captum", "click", "cv2", "jinja2", "ray", "rich", "safetensors", "timm", "torchvision")

PROBE = """
import sys
import attribkit
lazy = {"LoadedModel", "list_models", "load"}  # these are for models of torchvision and timm
used = [getattr(attribkit, name) for name in attribkit.__all__ if name not in lazy]
print(*sorted(set(sys.argv[1:]) & set(sys.modules)))
"""


def loaded_by_import(folder: Path) -> list[str]:
    """Those of `LATE` that a fresh interpreter holds after `import attribkit`, found in `folder` first."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{PROBE}", *LATE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_library_loads_no_model_zoo_and_no_tool() -> None:
    """Whatever of it is used, neither those nor anything that only saving, drawing or a command needs."""
    assert loaded_by_import(Path(__file__).parents[2]) == []


def test_help_is_there_before_torch_and_numpy() -> None:
    """`attribkit --help`, and that of a command."""
    for words in (["--help"], ["explain", "--help"]):
        probe = "import sys\nfrom attribkit.cli.main import main\n"
        probe += "try: main()\nfinally: print('loaded:', *{'torch', 'numpy', 'cv2', 'timm'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert "Usage: attribkit" in done.stdout
        assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("planted", ["import timm", "def f():\n    from torchvision import models\nf()"])
def test_a_planted_import_is_found(tmp_path: Path, planted: str) -> None:
    """The test above would see an import: in a copy of the package that has one more, it does."""
    package = Path(__file__).parents[2] / "attribkit"
    copied = tmp_path / "attribkit"
    copied.mkdir()
    for source in package.rglob("*.py"):
        (target := copied / source.relative_to(package)).parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    assert loaded_by_import(tmp_path) == []
    # Packages of the same names, empty, so that the test needs neither of them.
    for name in ("timm", "torchvision"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("models = None\n", encoding="utf-8")
    with (copied / "engine" / "rules.py").open("a", encoding="utf-8") as file:
        file.write(f"\n{planted}\n")
    assert loaded_by_import(tmp_path) == ["timm" if "timm" in planted else "torchvision"]
