"""Switches: which cell each max-pool took its value from, recorded to be replayed.

switches = attribkit.record_switches(model, images)
switches.save("cat.safetensors")
net = attribkit.rewrite(model, "deconvnet", switches=attribkit.Switches.load("cat.safetensors"))
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from attribkit.errors import BadValue
from attribkit.files import write_whole

FORMAT = "attribkit.switches/1"


class SwitchMismatch(BadValue):
    """Switches that do not fit the pools of a network."""


@dataclass(frozen=True, eq=False)
class Switches:
    """For each pool site the flat indices into its unpadded input plane, and that plane's size."""

    indices: Mapping[str, Tensor]
    planes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        sites = ", ".join(f"{name}: {tuple(index.shape)}" for name, index in self.indices.items())
        return f"Switches({sites})"

    def at(self, site: str, plane: tuple[int, ...], like: Tensor) -> Tensor:
        """The indices for a site whose pool reduces `plane` to the shape of `like`."""
        if site not in self.indices:
            near = difflib.get_close_matches(site, self.indices, n=3) or list(self.indices)[:3]
            raise SwitchMismatch(f"no switches for the pool {site!r}; they were recorded for {', '.join(near)}")
        indices = self.indices[site]
        if self.planes.get(site, plane) != plane:
            raise SwitchMismatch(
                f"the switches of {site!r} point into a plane of {_by(self.planes[site])}, "
                f"but its input is {_by(plane)}: record them on images of the same size"
            )
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < math.prod(plane):
            raise SwitchMismatch(f"the switches of {site!r} point outside of its plane of {_by(plane)}")
        recorded, wanted = tuple(indices.shape), tuple(like.shape)
        if recorded[1:] != wanted[1:] or recorded[0] not in (1, wanted[0]):
            raise SwitchMismatch(
                f"the switches of {site!r} are {_by(recorded)}, but the pool gives {_by(wanted)}; "
                "a batch of one fits any batch, otherwise the sizes must be equal"
            )
        return indices.to(like.device).expand(wanted)

    def check_all_used(self, used: set[str]) -> None:
        """Raise unless every site was met in a whole forward pass."""
        unused = [name for name in self.indices if name not in used]
        if unused:
            raise SwitchMismatch(f"the network has no pool {unused[0]!r}, for which there are switches")

    def to(self, device: torch.device | str) -> Switches:
        """The same switches on another device."""
        return Switches({name: index.to(device) for name, index in self.indices.items()}, self.planes)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        import safetensors.torch

        tensors = {name: index.cpu().contiguous() for name, index in self.indices.items()}
        # One entry only: safetensors writes several in no fixed order, and the same content should be the same bytes.
        write_whole(Path(path), safetensors.torch.save(tensors, {FORMAT: json.dumps(dict(self.planes))}))

    @classmethod
    def load(cls, path: str | Path) -> Switches:
        """Read what `save` wrote."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                indices = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise SwitchMismatch(f"{path} is not a safetensors file: {error}") from error
        if FORMAT not in metadata:
            raise SwitchMismatch(f"{path} holds no switches; make some with attribkit.record_switches(...).save(...)")
        try:
            planes = {name: tuple(map(int, plane)) for name, plane in json.loads(metadata[FORMAT]).items()}
            return cls({name: indices[name] for name in planes}, planes)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SwitchMismatch(f"{path} holds switches that contradict themselves: {error!r}") from error


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
