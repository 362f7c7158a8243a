"""What results follow from, as digests: a network's weights, what it computes with them, and the code."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of an object in a description, another one in every run


def digest_of_network(model: nn.Module) -> str:
    """The same for the same network with the same weights."""
    return hashlib.sha256(f"{digest_of_structure(model)} {digest_of_weights(model)}".encode()).hexdigest()[:16]


def digest_of_weights(model: nn.Module) -> str:
    """The same for the same tensors under the same names, on whatever device."""
    hashed = hashlib.sha256()
    state: Mapping[str, Any] = model.state_dict()
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def digest_of_structure(model: nn.Module) -> str:
    """The same for the same modules, and the same sources of their classes."""
    hashed = hashlib.sha256(_ADDRESS.sub("", repr(model)).encode("utf-8", "backslashreplace"))
    modules = {type(module).__module__ for module in model.modules()}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in modules}
    for source in sorted(Path(file).read_bytes() for file in files if file and Path(file).is_file()):
        hashed.update(f"{len(source)}\n".encode() + source)
    return hashed.hexdigest()


def digest_of_code(root: Path, places: Iterable[str] = (".",)) -> str:
    """The same for the same sources in files and folders under `root`, wherever that lies."""
    hashed = hashlib.sha256()
    for place in places:
        path = root / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            source = file.read_bytes()
            hashed.update(f"{file.relative_to(root).as_posix()} {len(source)}\n".encode() + source)
    return hashed.hexdigest()


LIBRARY = Path(__file__).parent
