"""What is private in torch may be gone in its next release, so one file asks for it: no other does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("attribkit", "adapters", "cli", "reference_models")
ALLOWED = "attribkit/engine/torch_private.py"


def private_uses(source: str) -> list[str]:
    """Every name of torch's that begins with an underscore, as the source writes it."""
    tree = ast.parse(source)
    torch_names = dict(_names_of_torch(tree))
    full_names = [*_imported(tree), *_attributes(tree, torch_names)]
    return [name for name in full_names if name.split(".")[0] == "torch" and any(map(_is_private, name.split(".")))]


def _is_private(word: str) -> bool:
    return word.startswith("_") and not word.endswith("__")


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (word.value for word in node.args if isinstance(word, ast.Constant))


def _names_of_torch(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What a file calls torch and its parts, with their full names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((a.asname, a.name) if a.asname else (a.name.split(".")[0],) * 2 for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((a.asname or a.name, f"{node.module}.{a.name}") for a in node.names)


def _attributes(tree: ast.AST, known: dict[str, str]) -> Iterator[str]:
    """Chains of attributes that begin at an imported name, and `getattr` with the attribute spelled out."""
    for node in ast.walk(tree):
        owner: ast.expr | None = None
        if isinstance(node, ast.Attribute):
            owner, word = node.value, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            owner, word = node.args[0], ast.unparse(node.args[1]).strip("'\"")
        if owner is not None and _is_private(word):
            first, _, rest = ast.unparse(owner).partition(".")
            yield ".".join(part for part in (known.get(first, first), rest, word) if part)


def test_one_file_alone_uses_what_is_private_in_torch() -> None:
    """Outside of `engine/torch_private.py` no import, attribute or `getattr` names a private part of torch."""
    sources = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    uses = {str(path.relative_to(ROOT)): private_uses(path.read_text("utf-8")) for path in sources}
    assert uses.pop(ALLOWED), "the file that is allowed to uses nothing private: is it still the one?"
    assert {name: found for name, found in uses.items() if found} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\nwith torch._C.DisableTorchFunction(): pass", "torch._C"),
        ("import torch\ntorch.overrides._get_current_function_mode_stack()", "torch.overrides._get_current"),
        ("import torch._dynamo", "torch._dynamo"),
        ("from torch.nn.modules.conv import _ConvNd", "torch.nn.modules.conv._ConvNd"),
        ("from torch._functorch import pyfunctorch", "torch._functorch"),
        ("import torch.nn.functional as F\nF._verify_batch_size([1])", "torch.nn.functional._verify"),
        ("from torch import nn\nnn.modules.conv._ConvNd", "torch.nn.modules.conv._ConvNd"),
        ("from torch import Tensor\nTensor._make_subclass(Tensor, x)", "torch.Tensor._make_subclass"),
        ("import torch\ngetattr(torch, '_C')", "torch._C"),
        ("from importlib import import_module\nimport_module('torch._C')", "torch._C"),
        ("def late():\n    import torch\n    return torch.\\\n        _C", "torch._C"),
    ],
)
def test_a_planted_use_is_found(source: str, found: str) -> None:
    """The check sees each way to write one."""
    assert any(use.startswith(found) for use in private_uses(source)), private_uses(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.__version__, torch.relu_(x)",
        "from captum._utils import common",
        "import torch\nclass A(torch.nn.Module):\n    def forward(self, x): return self._helper(x)",
    ],
)
def test_what_is_public_or_not_of_torch_is_left_alone(source: str) -> None:
    """Dunders, in-place functions, other packages' parts and our own names are no private uses."""
    assert private_uses(source) == []
