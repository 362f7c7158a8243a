"""Switches: which cell each max-pool took its value from, recorded to be replayed.

switches = attribkit.record_switches(model, images)
switches.save("cat.safetensors")
net = attribkit.rewrite(model, "deconvnet", switches=attribkit.Switches.load("cat.safetensors"))
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from attribkit.engine.unpooling import Windows
from attribkit.errors import BadValue, FileError
from attribkit.files import write_whole

FORMAT = "attribkit.switches/2"
WITHOUT_NETWORK = "attribkit.switches/1"  # what was written before files said which network they are of


class SwitchMismatch(BadValue):
    """Switches that do not fit the pools of a network."""


@dataclass(frozen=True, eq=False)
class Switches:
    """Which cell each max-pool took its value from; `record_switches` makes them.

    Attributes:
        indices: For each pool site, flat positions in its unpadded input plane.
        planes: For each pool site, the size of that plane.
        network: The one that they were recorded on; where it is not known, any network may replay them.
    """

    indices: Mapping[str, Tensor]
    planes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    network: str = ""
    _checked: set[tuple[str, str]] = field(default_factory=set, repr=False)  # the pools that they were seen to fit

    def __repr__(self) -> str:
        sites = ", ".join(f"{name}: {tuple(index.shape)}" for name, index in self.indices.items())
        return f"Switches({sites})"

    def __post_init__(self) -> None:
        for site, indices in self.indices.items():
            if indices.dtype not in (torch.int64, torch.int32):
                kind = str(indices.dtype).removeprefix("torch.")
                raise SwitchMismatch(
                    f"the switches of {site!r} are {kind}: indices are int64, as torch's pools return them"
                )
            if site in self.planes and not all(size > 0 for size in self.planes[site]):
                raise SwitchMismatch(f"the switches of {site!r} point into a plane of {_by(self.planes[site])}")

    def at(self, site: str, pool: Windows, x: Tensor, like: Tensor) -> Tensor:
        """The indices for a site whose pool makes something of the shape of `like` of x."""
        if site not in self.indices:
            near = difflib.get_close_matches(site, self.indices, n=3) or list(self.indices)[:3]
            raise SwitchMismatch(f"no switches for the pool {site!r}; they were recorded for {', '.join(near)}")
        indices, plane = self.indices[site], pool.plane(x)
        if self.planes.get(site, plane) != plane:
            raise SwitchMismatch(
                f"the switches of {site!r} point into a plane of {_by(self.planes[site])}, "
                f"but its input is {_by(plane)}: record them on images of the same size"
            )
        recorded, wanted = tuple(indices.shape), tuple(like.shape)
        if recorded[1:] != wanted[1:] or recorded[0] not in (1, wanted[0]):
            raise SwitchMismatch(
                f"the switches of {site!r} are {_by(recorded)}, but the pool gives {_by(wanted)}; "
                "a batch of one fits any batch, otherwise the sizes must be equal"
            )
        if (site, pool.op) not in self._checked:
            self._check_windows(site, pool, plane)
            self._checked.add((site, pool.op))
        return indices.to(like.device, torch.int64).expand(wanted)

    def _check_windows(self, site: str, pool: Windows, plane: tuple[int, ...]) -> None:
        """Raise unless every index lies in the window that it was chosen from."""
        indices = self.indices[site]
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < math.prod(plane):
            raise SwitchMismatch(f"the switches of {site!r} point outside its plane of {_by(plane)}")
        indices = indices[None] if indices.dim() == pool.rank + 1 else indices  # those of one image, without a batch
        for d, size in enumerate(plane):
            outputs = indices.shape[d - pool.rank]
            cells = pool.cells(d, size, outputs, indices.device)
            # Fractional windows differ from image to image, which a recording of one does not have to know.
            if cells.dim() > 2 and cells.shape[0] != indices.shape[0]:
                continue
            cells = cells.reshape(*cells.shape[:-2], *[1] * (pool.rank - 1), *cells.shape[-2:])
            place = (indices // math.prod(plane[d + 1 :])) % size
            if not (place.movedim(d - pool.rank, -1)[..., None] == cells).any(-1).all():
                raise SwitchMismatch(
                    f"the switches of {site!r} point outside their windows: they belong to another pool, or are damaged"
                )

    def check_network(self, model: object) -> None:
        """Raise where they are known to be another network's, though its pools might fit."""
        other = network_of(model) if self.network and isinstance(model, nn.Module) else self.network
        if other.split()[-1:] != self.network.split()[-1:]:
            raise SwitchMismatch(
                f"the switches were recorded on {self.network}, and this network is {other}; to replay them "
                "anyway, pass Switches(switches.indices, switches.planes)"
            )

    def check_all_used(self, used: set[str]) -> None:
        """Raise unless every site was met in a whole forward pass."""
        unused = [name for name in self.indices if name not in used]
        if unused:
            raise SwitchMismatch(f"there are switches for the pool {unused[0]!r}, which the network does not have")

    def to(self, device: torch.device | str) -> Switches:
        """Move the switches to another device.

        Args:
            device: Where the indices are to be.

        Returns:
            The same switches, on that device.
        """
        return Switches({name: index.to(device) for name, index in self.indices.items()}, self.planes, self.network)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all.

        Args:
            path: The file.

        Raises:
            FileError: It cannot be written.
        """
        import safetensors.torch

        tensors = {name: index.cpu().contiguous() for name, index in self.indices.items()}
        # One entry only: safetensors writes several in no fixed order, and the same content should be the same bytes.
        about = json.dumps({"network": self.network, "planes": dict(self.planes)})
        write_whole(Path(path), safetensors.torch.save(tensors, {FORMAT: about}))

    @classmethod
    def load(cls, path: str | Path) -> Switches:
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The switches.

        Raises:
            FileError: There is no such file.
            SwitchMismatch: It is not a file of switches, or is damaged.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileError(f"there is no file {path}; make one with attribkit.record_switches(...).save(...)")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                indices = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise SwitchMismatch(f"{path} is not a safetensors file: {error}") from error
        if not metadata.keys() & {FORMAT, WITHOUT_NETWORK}:
            raise SwitchMismatch(f"{path} holds no switches; make some with attribkit.record_switches(...).save(...)")
        try:
            known = FORMAT in metadata
            about = json.loads(metadata[FORMAT if known else WITHOUT_NETWORK])
            planes = {name: _plane(name, plane) for name, plane in (about["planes"] if known else about).items()}
            network = str(about["network"]) if known else ""
            return cls({name: indices[name] for name in planes}, planes, network)
        except SwitchMismatch as error:
            raise SwitchMismatch(f"{path}: {error}") from error
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise SwitchMismatch(f"{path} holds switches that contradict themselves: {error!r}") from error


def network_of(model: nn.Module) -> str:
    """What distinguishes architectures: the names and shapes of its weights, after its class for a person.

    Vectors do not count: a network whose batch norms were folded into its convolutions has the same pools.
    """
    shapes = [(name, tuple(weight.shape)) for name, weight in model.named_parameters() if weight.dim() > 1]
    return f"{type(model).__name__} {hashlib.sha256(repr(shapes).encode()).hexdigest()[:8]}"


def _plane(site: str, sizes: object) -> tuple[int, ...]:
    """The sizes of a plane, as a file has them."""
    if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        raise SwitchMismatch(f"the switches of {site!r} point into a plane of {str(sizes)[:60]}, which is not a size")
    return tuple(sizes)


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
