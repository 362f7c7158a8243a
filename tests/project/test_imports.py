"""attribkit brings torch and little else, the command its help at once; imports go round in no circle and never up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import import_graph
import pytest
from import_graph import Graph

import attribkit

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "attribkit": "attribkit",
    "adapters": "attribkit.adapters",
    "cli": "attribkit.cli",
    "reference_models": "attribkit.reference_models",
    "benchmarks": "",
    "examples": "examples",
}

# What is imported where it is used, and not before.
LATE = ("PIL", "captum", "click", "cv2", "jinja2", "ray", "rich", "safetensors", "timm", "torchvision")

# What attribkit never imports, not even inside a function.
FOREIGN = ("captum", "timm", "torchvision")

# From the ground up: a package imports those that stand before it, or beside it in the same line.
STOREYS = (
    ("attribkit", "attribkit.errors", "attribkit.files", "attribkit.identity", "attribkit.units"),
    ("attribkit.engine",),
    ("attribkit.report", "attribkit.structure"),
    ("attribkit.explaining",),
    ("attribkit.metrics", "attribkit.studies", "attribkit.verify"),
    ("attribkit.adapters",),
    ("attribkit.reference_models", "attribkit.reference_models.training"),
    ("attribkit.reference_models.switch_study",),
    ("attribkit.cli",),
)

PROBE = """
import sys
import attribkit
lazy = {"LoadedModel", "checkpoints", "list_models", "load"}  # these are for models of torchvision and timm
used = [getattr(attribkit, name) for name in attribkit.__all__ if name not in lazy]
print(*sorted(set(sys.argv[1:]) & set(sys.modules)))
"""


# At run time


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
    assert loaded_by_import(ROOT) == []


def test_help_is_there_before_torch_and_numpy() -> None:
    """`attribkit --help`, and that of a command."""
    for words in (["--help"], ["explain", "--help"]):
        probe = "import sys\nfrom attribkit.cli.main import main\n"
        probe += "try: main()\nfinally: print('loaded:', *{'torch', 'numpy', 'cv2', 'timm'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert "Usage: attribkit" in done.stdout
        assert done.stdout.splitlines()[-1] == "loaded:"


def copy_of_the_library(folder: Path) -> Path:
    return Path(shutil.copytree(ROOT / "attribkit", folder / "attribkit"))


@pytest.mark.parametrize("planted", ["import timm", "def f():\n    from torchvision import models\nf()"])
def test_a_planted_import_is_found(tmp_path: Path, planted: str) -> None:
    """The test above would see an import: in a copy of the package that has one more, it does."""
    copied = copy_of_the_library(tmp_path)
    assert loaded_by_import(tmp_path) == []
    # Packages of the same names, empty, so that the test needs neither of them.
    for name in ("timm", "torchvision"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("models = None\n", encoding="utf-8")
    with (copied / "engine" / "rules.py").open("a", encoding="utf-8") as file:
        file.write(f"\n{planted}\n")
    assert loaded_by_import(tmp_path) == ["timm" if "timm" in planted else "torchvision"]


WITHOUT_FOREIGN = """
import sys
sys.modules.update(dict.fromkeys(("captum", "timm", "torchvision")))  # to import one of them is an error now
import torch
import attribkit
from attribkit.verify.checking import check

torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 12, 3, stride=2), torch.nn.BatchNorm2d(12), torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2),
    torch.nn.Conv2d(12, 12, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
).eval()
images = torch.randn(12, 3, 32, 32)
attribkit.explain(net, images[:1], method="guided", layer="4").save("map.png")
attribkit.strides_to_pools(attribkit.fold_batch_norm(net))
assert check(net, images[:1]).right
cases = attribkit.Cases(net, images, torch.arange(12), steps=2)
for metric in attribkit.metrics.METRICS:
    attribkit.evaluate(attribkit.rewrite(net, "guided"), metric, cases)
maps = attribkit.metrics.random_maps(images)
attribkit.metrics.structural_similarity(maps, maps)
"""


def test_the_library_works_where_no_model_zoo_can_be_imported(tmp_path: Path) -> None:
    """A map that is saved, changes of structure, the check, every metric."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FOREIGN], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "map.png").is_file()


# In the sources


def foreign_imports(folder: Path) -> list[str]:
    """Imports of `FOREIGN` anywhere in the files of a folder, with the file."""
    return [
        f"{path.relative_to(folder)}: {name}"
        for path in sorted(folder.rglob("*.py"))
        for name in import_graph.imported(path)
        if name.partition(".")[0] in FOREIGN
    ]


def test_no_source_of_the_library_imports_a_model_zoo() -> None:
    """Not even inside a function that no test calls."""
    assert foreign_imports(ROOT / "attribkit") == []


@pytest.mark.parametrize(
    "planted",
    [
        "def never_called():\n    from torchvision.transforms import functional\n",
        "if TYPE_CHECKING:\n    import timm.layers\n",
        "def never_called():\n    return importlib.import_module('captum')\n",
    ],
)
def test_a_planted_import_is_found_in_the_source(tmp_path: Path, planted: str) -> None:
    with (copy_of_the_library(tmp_path) / "metrics" / "maps.py").open("a", encoding="utf-8") as file:
        file.write(f"\n\n{planted}")
    (line,) = foreign_imports(tmp_path / "attribkit")
    assert line.startswith("metrics/maps.py: ")


def graph_of(root: Path) -> Graph:
    homes = {f"attribkit.{name}": f"{home}.{name}" for name, home in attribkit._HOME_OF.items()}
    files = import_graph.graph(import_graph.modules(root, FOLDERS), homes)
    files["attribkit"] = set()  # its names are lazy: it imports what it is asked for
    return files


def circle(graph: Graph) -> list[str]:
    """One of its circles; nothing where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def upward(packages: Graph) -> list[str]:
    """Imports by a package of one that stands above it."""
    storey = {name: number for number, names in enumerate(STOREYS) for name in names}
    return [
        f"{name} imports {target}"
        for name, targets in packages.items()
        for target in targets
        if name in storey and storey.get(target, len(STOREYS)) > storey[name]
    ]


def test_imports_go_round_in_no_circle() -> None:
    """Neither between files nor between packages."""
    files = graph_of(ROOT)
    assert circle(files) == []
    assert circle(import_graph.packages(files)) == []


def test_no_import_goes_up() -> None:
    """And every package has its storey."""
    packages = import_graph.packages(graph_of(ROOT))
    assert upward(packages) == []
    known = {name for names in STOREYS for name in names}
    assert {name for name in packages if name.split(".")[0] == "attribkit"} <= known


def test_what_the_graph_sees(tmp_path: Path) -> None:
    """An import in a function, one for the type checker, a lazy name and an attribute of `attribkit`."""
    (tmp_path / "attribkit" / "report").mkdir(parents=True)
    for name, source in {
        "__init__": "",
        "errors": "def late():\n    from attribkit.report import page\n",
        "files": "if TYPE_CHECKING:\n    from attribkit.errors import BadValue\n",
        "report/__init__": "",
        "report/page": "import attribkit\nattribkit.rewrite\n",
        "report/panel": "from attribkit import rewrite\nfrom attribkit.report.page import x\n",
        "rewriting": "import_module('attribkit.files')\n",
    }.items():
        (tmp_path / "attribkit" / f"{name}.py").write_text(source)
    named = import_graph.modules(tmp_path, FOLDERS)
    files = import_graph.graph(named, {"attribkit.rewrite": "attribkit.rewriting.rewrite"})
    assert files == {
        "attribkit": set(),
        "attribkit.errors": {"attribkit.report.page"},
        "attribkit.files": {"attribkit.errors"},
        "attribkit.report": set(),
        "attribkit.report.page": {"attribkit", "attribkit.rewriting"},
        "attribkit.report.panel": {"attribkit.rewriting", "attribkit.report.page"},
        "attribkit.rewriting": {"attribkit.files"},
    }
    assert set(circle(files)) == {f"attribkit.{name}" for name in ("errors", "files", "report.page", "rewriting")}
    packages = import_graph.packages(files)
    assert packages["attribkit.report"] == {"attribkit", "attribkit.rewriting"}
    assert upward(packages) == [
        "attribkit.errors imports attribkit.report",
        "attribkit.report imports attribkit.rewriting",
    ]
