"""The files of trained reference models: safetensors that say how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.errors import BadValue
from attribkit.files import write_whole
from attribkit.reference_models.architectures import build
from attribkit.reference_models.normalisation import Normalisation

_KEY = "attribkit"
FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Trained:
    """A trained network, what its images go through first, and how it was made.

    Attributes:
        net: The network.
        normalisation: From pictures to its inputs.
        facts: How it was made: model, recipe, seed, data, versions.
    """

    net: nn.Module
    normalisation: Normalisation
    facts: Mapping[str, Any]


def bundled(name: str) -> Path | None:
    """Find the weights that come with the package.

    Args:
        name: The architecture.

    Returns:
        Their file; None where there are none.
    """
    path = FOLDER / f"{name}.safetensors"
    return path if path.is_file() else None


def save(path: Path, trained: Trained, dtype: torch.dtype = torch.float32) -> None:
    """Write a trained network as safetensors, whole or not at all.

    Args:
        path: The file.
        trained: The network.
        dtype: The type in which weights are stored.
    """
    import safetensors.torch

    held = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in trained.net.state_dict().items()}
    held |= {name: tensor.cpu().contiguous() for name, tensor in trained.normalisation.tensors().items()}
    text = json.dumps(dict(trained.facts), ensure_ascii=False, sort_keys=True)
    write_whole(path, safetensors.torch.save(held, {_KEY: text}))


def load(path: Path, name: str | None = None) -> Trained:
    """Read what `save` wrote.

    Args:
        path: The file.
        name: The architecture that it must be of; without it, any.

    Returns:
        The trained network, as float32.

    Raises:
        BadValue: The file was not written by `attribkit train`, or is of another architecture.
    """
    tensors, facts = _read(path)
    made = str(facts["architecture"])
    if name is not None and made != name:
        raise BadValue(f"{path} holds weights of {made}, not of {name}: load it as {made}")
    net = build(made, len(facts["classes"]), int(facts["channels"])).eval()
    weights = {key: tensor.float() for key, tensor in tensors.items() if not key.startswith("normalisation.")}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise BadValue(f"{path} does not fit {made}: {' '.join(str(error).split())}") from error
    return Trained(net, Normalisation.of(tensors), facts)


def facts(path: Path) -> dict[str, Any]:
    """Read how the weights in a file were made.

    Args:
        path: The file.

    Returns:
        Model, recipe, seed, data, versions.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise BadValue(f"{path} cannot be read as safetensors: {error}") from error
    if text is None or "normalisation.mean" not in tensors:
        raise BadValue(f"{path} was not written by attribkit train")
    return tensors, json.loads(text)
