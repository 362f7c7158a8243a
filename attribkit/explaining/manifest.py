"""A result's values and its manifest, everything but the pixels, as files hold them."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attribkit.errors import BadType, BadValue, FileError

FORMAT = "attribkit.attribution/1"


def array(values: Tensor) -> npt.NDArray[Any]:
    """As numpy knows it: a type that numpy lacks (bfloat16) becomes float32, which holds all its values."""
    values = values.detach().cpu()
    try:
        return values.numpy()
    except TypeError:
        return values.float().numpy()


def summary(values: npt.NDArray[Any]) -> dict[str, float]:
    """A map in three numbers."""
    if not values.size:
        return {}
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean(dtype=np.float64)),
    }


def versions() -> dict[str, str]:
    """Of what made a result."""
    # Asked for by name and late: attribkit/__init__.py may be importing this very module.
    ours = getattr(importlib.import_module("attribkit"), "__version__", "unknown")
    return {"attribkit": ours, "torch": str(torch.__version__)}


def plain(value: Any, where: str) -> Any:
    """`value` of JSON's types alone. JSON has no NaN and no infinity: they become their names."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise BadType(f"{where} is a {type(value).__name__}, which cannot be written as JSON")


def as_json(manifest: dict[str, Any], indent: int | None = None) -> str:
    """A manifest as text."""
    text = json.dumps(manifest, ensure_ascii=False, indent=indent)
    # Letters of every script stay readable. Half a surrogate pair, as Python makes of a file name that is not
    # UTF-8, has no bytes of its own; its escape is the very one that JSON uses.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_safetensors(values: Tensor, manifest: str) -> bytes:
    """Both as the bytes of a .safetensors file."""
    import safetensors.torch

    # One key only: the format keeps no order among several, and the bytes would vary.
    return safetensors.torch.save({"values": values.detach().cpu().contiguous()}, {"manifest": manifest})


def read(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """Both from a .npz or .safetensors file."""
    if path.suffix.lower() not in (".npz", ".safetensors"):
        raise BadValue(f"{path}: a result is loaded from .npz or .safetensors")
    if not path.is_file():
        raise FileError(f"there is no file {path}; a result is written by its save()")
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        values, text = arrays.get("values"), str(arrays.get("manifest", "{}"))
    else:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            values = file.get_tensor("values") if "values" in set(file.keys()) else None
            text = (file.metadata() or {}).get("manifest", "{}")
    manifest = json.loads(text)
    if values is None or manifest.get("format") != FORMAT:
        raise BadValue(f"{path} was not written by Attribution.save")
    return _whole(torch.as_tensor(values), manifest), manifest


def _whole(values: Tensor, manifest: dict[str, Any]) -> Tensor:
    """The values with what was left out of them, which is zero."""
    if "crop" not in manifest:
        return values
    top, left, bottom, right = manifest["crop"]
    whole = values.new_zeros(manifest["shape"])
    whole[..., top:bottom, left:right] = values
    return whole


def tupled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
