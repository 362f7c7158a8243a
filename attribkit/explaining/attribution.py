"""The result of an explanation: maps, what each of them explains, and how they were made."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attribkit.errors import BadValue
from attribkit.explaining.drawing import Inputs, drawn, grid, paged
from attribkit.explaining.manifest import FORMAT, array, as_json, as_safetensors, plain, read, summary, tupled, versions
from attribkit.files import compressed_npz, write_whole

if TYPE_CHECKING:
    from PIL.Image import Image

    from attribkit.engine.plan import Site
    from attribkit.units import Unit

Box = tuple[int, int, int, int]

_WRITTEN = ".png, .html, .npz, .safetensors or .json"
_UNITS_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Attribution:
    """Maps of input pixels, one for each unit that was explained, with everything needed to read them.

        a = attribkit.explain(model, images, method="guided")
        a.values[0]         # the first map, C x H x W
        a.units[0]          # what it explains
        a.save("cat.png")   # or .html, .npz, .safetensors, .json

    Printing it says which method, which units, and at how many of the model's sites the rule acts: a site
    that was left alone is always named. In a notebook it shows its maps.

    Attributes:
        values: The maps, units x C x H x W.
        units: What each map explains, in the same order.
        method: The name of the rule.
        model: The model's name, or that of its class.
        sites: Every activation, max-pool and norm, and what the rule did there.
        settings: The other options of the explanation.
        about: Where it comes from, as far as it was said: the image, the weights, the command.
        inputs: What the network saw, where it is a loaded model; files do not hold it.
    """

    values: Tensor
    units: tuple[Unit, ...]
    method: str
    model: str
    sites: tuple[Site, ...]
    settings: Mapping[str, Any]
    about: Mapping[str, str] = field(default_factory=dict)
    inputs: Inputs | None = None

    def __post_init__(self) -> None:
        if self.values.ndim == 0 or len(self.values) != len(self.units):
            shape = tuple(self.values.shape)
            raise BadValue(f"{len(self.units)} units need one map each, but the values have the shape {shape}")

    def __len__(self) -> int:
        """How many maps there are."""
        return len(self.units)

    def __getitem__(self, which: int | slice) -> Attribution:
        """The maps of some units, as a result of their own."""
        rows = range(len(self.units))[which]
        some = [rows] if isinstance(rows, int) else list(rows)
        return replace(self, values=self.values[some], units=tuple(self.units[row] for row in some))

    def __iter__(self) -> Iterator[Attribution]:
        """Each map, as a result of its own."""
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """The values, for numpy and what is built on it."""
        return np.asarray(array(self.values), dtype=dtype)

    def __repr__(self) -> str:
        maps = f"{len(self.values)} map{'s' * (len(self.values) != 1)} of "
        maps += "x".join(map(str, self.values.shape[1:]))
        if self.values.device.type != "cpu":
            maps += f" on {self.values.device}"
        parts = [maps, *filter(None, [self._units_in_words()]), self.sites_in_words]
        return f"Attribution({self.method}, {self.model}: {'; '.join(parts)})"

    def _units_in_words(self) -> str:
        several = len({unit.image for unit in self.units}) > 1
        shown = [_unit_in_words(unit, several) for unit in self.units[:_UNITS_SHOWN]]
        rest = len(self.units) - len(shown)
        return ", ".join(shown) + (f" and {rest} more" if rest else "")

    @property
    def sites_in_words(self) -> str:
        """At how many sites the rule acts and which were left alone, as one line."""
        met = [site for site in self.sites if site.calls]
        left = Counter(site.op for site in met if not site.swapped)
        words = f"{len(met) - left.total()} of {len(met)} sites swapped"
        if left:
            kinds = ", ".join(f"{count} {op}" for op, count in left.most_common())
            words += f", left alone: {kinds}"
        if len(met) < len(self.sites):
            words += f", not reached: {len(self.sites) - len(met)}"
        return "; ".join(filter(None, [words, self.note]))

    @property
    def note(self) -> str | None:
        """A warning for the reader: below the layer that was explained, the rule met nothing to act on."""
        met = [site for site in self.sites if site.calls]
        if self.method == "backprop" or any(site.follows for site in met):
            return None
        # The deconvnet passes by norms, and so is no plain gradient even then.
        same = "" if any(site.kind == "norm" for site in met) else ": the map is the same as backprop's"
        return f"no rectifier lies below for the rule to act on{same}"

    def of_image(self, number: int) -> Attribution:
        """The maps of one image of the batch, as if it had been alone.

        Args:
            number: The image's number in the batch, from 0.

        Returns:
            A result with the units of this image only.
        """
        rows = [row for row, unit in enumerate(self.units) if unit.image == number]
        units = tuple(replace(self.units[row], image=0) for row in rows)
        inputs = self.inputs and self.inputs.of_image(number)
        return replace(self, values=self.values[rows], units=units, inputs=inputs)

    def save(
        self, path: str | os.PathLike[str], *, view: str = "classic", crop: bool = False, picture: Any = None
    ) -> None:
        """Write a file, whole or not at all, in the format that its ending names.

        - `.png`: a panel with the picture and words, where the picture is known; otherwise the map, or all of them.
          More than a few have a tile each.
        - `.html`: a page with all of them over their pictures, to explore in a browser.
        - `.npz`, `.safetensors`: the values with the manifest, to be loaded again.
        - `.json`: the manifest (method, model, units, sites, note, settings, versions) and the smallest, largest
          and mean value of each map.

        The same content gives the same bytes.

        Args:
            path: The file; its folder is made if it is missing.
            view: How a `.png` shows maps: "signed", "absolute", "positive" or "classic" (see
                `attribkit.report.pictures.picture`). The other formats ignore it.
            crop: Leave out of `.npz` and `.safetensors` what no unit sees. It is zero, and `load` puts it back.
            picture: For a `.png` or a page, what the network saw: H x W x 3 bytes, or a list of one per image. Of
                what `attribkit.load` gave, it is known.

        Raises:
            BadValue: The ending is none of these, or a map cannot be drawn.
            FileError: The file cannot be written.
        """
        write_whole(path, self.encoded(path, view=view, crop=crop, picture=picture))

    def encoded(
        self, path: str | os.PathLike[str], *, view: str = "classic", crop: bool = False, picture: Any = None
    ) -> bytes:
        """What `save` would write.

        Args:
            path: The file's name; its ending names the format.
            view: How a `.png` shows maps.
            crop: Leave out of arrays what no unit sees.
            picture: What the network saw.

        Returns:
            The bytes of the file.

        Raises:
            BadValue: The ending is none of those that `save` takes, or a map cannot be drawn.
        """
        ending = Path(path).suffix.lower()
        if ending not in (".png", ".html", ".npz", ".safetensors", ".json"):
            raise BadValue(f"{path}: a result is saved as {_WRITTEN}: give the file one of these endings")
        if ending == ".png":
            return self._png(view, picture)
        if ending == ".html":
            return self.page(picture=picture).encode()
        if ending == ".json":
            return f"{as_json(self.manifest(), indent=2)}\n".encode()
        seen = self._seen() if crop else None
        values = self.values if seen is None else self.values[..., seen[0] : seen[2], seen[1] : seen[3]]
        manifest = as_json(self.manifest() | ({} if seen is None else {"crop": seen}))
        if ending == ".npz":
            return compressed_npz(values=array(values), manifest=np.array(manifest))
        return as_safetensors(values, manifest)

    def _seen(self) -> Box | None:
        """The smallest box that holds all that any unit sees; None where a unit sees the whole image."""
        boxes = [unit.box for unit in self.units if unit.box is not None and len(unit.box) == 4]
        if len(boxes) < len(self.units) or not boxes:
            return None
        height, width = self.values.shape[-2:]
        tops, lefts, bottoms, rights = zip(*boxes, strict=True)
        top, left, bottom, right = (
            max(0, min(tops)),
            max(0, min(lefts)),
            min(height, max(bottoms)),
            min(width, max(rights)),
        )
        if self.values.count_nonzero() != self.values[..., top:bottom, left:right].count_nonzero():
            raise BadValue("a map reaches beyond what its unit sees, so that it cannot be cropped: leave out crop")
        return top, left, bottom, right

    def picture(self, *, view: str = "classic") -> Image:
        """The map as a picture, or a grid of all of them.

        Args:
            view: "classic", "signed", "absolute" or "positive" (see `attribkit.report.pictures.picture`).

        Returns:
            A PIL image, which matplotlib's `imshow` takes, too.

        Raises:
            BadValue: A map cannot be drawn.
        """
        from PIL import Image

        return Image.fromarray(grid(array(self.values), view))

    def panel(self, *, view: str = "classic", picture: Any = None) -> Image:
        """What a `.png` shows: each map beside the picture, with words, where the picture is known.

        Args:
            view: How maps are shown (see `save`).
            picture: What the network saw (see `save`).

        Returns:
            A PIL image.

        Raises:
            BadValue: A map cannot be drawn, or the picture does not fit it.
        """
        from PIL import Image

        return Image.fromarray(drawn(self, array(self.values), view, picture))

    def page(self, *, picture: Any = None) -> str:
        """A page on which the maps are explored, in one HTML document that needs no network.

        Args:
            picture: What the network saw (see `save`).

        Returns:
            What a `.html` file holds.

        Raises:
            BadValue: No picture is known, or a map cannot be drawn.
        """
        return paged(self, array(self.values), picture)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows beside the words; nothing where the maps are none of pictures."""
        try:
            return self._png("classic")
        except BadValue:
            return None

    def manifest(self) -> dict[str, Any]:
        """Everything but the pixels, in plain types.

        Returns:
            What `.json` holds and the other formats carry along.
        """
        return {
            "format": FORMAT,
            "method": self.method,
            "model": self.model,
            "settings": plain(self.settings, "settings"),
            "about": dict(self.about),
            "shape": list(self.values.shape),
            "dtype": str(self.values.dtype).removeprefix("torch."),
            "units": [plain(asdict(unit), "unit") for unit in self.units],
            "sites": [plain(asdict(site), "site") for site in self.sites],
            "note": self.note,
            "maps": [plain(summary(values), "map") for values in array(self.values)],
            "versions": versions(),
        }

    def _png(self, view: str, picture: Any = None) -> bytes:
        from attribkit.report import pictures

        return pictures.encode_png(drawn(self, array(self.values), view, picture))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attribution:
        """Read what `save` wrote as `.npz` or `.safetensors`.

        Args:
            path: The file.

        Returns:
            The result; its values are on the CPU.

        Raises:
            BadValue: The file was not written by `save`, or has another format.
            OSError: The file cannot be read.
        """
        from attribkit.engine.plan import Site
        from attribkit.units import Unit

        values, manifest = read(Path(path))
        return cls(
            values=values.to(getattr(torch, manifest["dtype"])),
            units=tuple(Unit(**tupled(unit) | {"activation": float(unit["activation"])}) for unit in manifest["units"]),
            method=manifest["method"],
            model=manifest["model"],
            sites=tuple(Site(**tupled(site)) for site in manifest["sites"]),
            settings=manifest["settings"],
            about=manifest.get("about", {}),
        )


def _unit_in_words(unit: Unit, several_images: bool) -> str:
    position = f"@{unit.where}" if unit.position is not None else ""
    image = f"image {unit.image}: " if several_images else ""
    return f"{image}{unit.layer or 'output'}[{unit.channel}]{position}={unit.activation:.3g}"
