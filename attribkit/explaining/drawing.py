"""Results as pictures: a panel with words where the picture is known that the network saw, and plain maps otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from attribkit.errors import BadValue

if TYPE_CHECKING:
    from attribkit.report.pictures import Picture
    from attribkit.report.shown import Shown
    from attribkit.units import Unit

FEW = 6
"""So many units have a panel each; more have a tile."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a loaded model was shown, as far as a picture needs it.

    Attributes:
        images: A copy of its input, N x C x H x W.
        undo: From an image to the picture that the network saw.
        labels: The names of its classes.
    """

    images: Tensor
    undo: Callable[[Tensor], Picture]
    labels: Sequence[str] = ()

    @classmethod
    def of(cls, model: Any, images: Tensor) -> Inputs | None:
        """Those of a loaded model; None for a bare network, of whose images nothing is known."""
        undo = getattr(getattr(model, "preprocess", None), "undo", None)
        if undo is None or images.dim() != 4:
            return None
        return cls(images.detach().clone(), undo, getattr(model, "known_labels", ()))

    def of_image(self, number: int) -> Inputs:
        """Those of one image alone."""
        return Inputs(self.images[number : number + 1], self.undo, self.labels)


class Result(Protocol):
    """What is drawn: an `Attribution`, as far as it matters here."""

    @property
    def units(self) -> tuple[Unit, ...]: ...
    @property
    def method(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def about(self) -> Mapping[str, str]: ...
    @property
    def inputs(self) -> Inputs | None: ...
    @property
    def sites_in_words(self) -> str: ...


def drawn(result: Result, values: npt.NDArray[Any], view: str, given: Any = None) -> Picture:
    """A result as a picture.

    Args:
        result: What is drawn.
        values: Its maps, units x C x H x W.
        view: How maps are shown.
        given: The picture that the network saw, or one for each image; without it, that of a loaded model.

    Returns:
        A panel for each of a few units, or a tile for each of many; without any picture the maps alone.

    Raises:
        BadValue: A map cannot be drawn, or a picture does not fit it.
    """
    from attribkit.report import layout, many, panel

    _check(values)
    shown = _shown(result, values, given)
    if shown is None and len(values) <= FEW:
        return grid(values, view)
    foot = _foot(result)
    if shown is not None and len(shown) <= FEW:
        return layout.drawn(layout.below([panel.layout(each, view, foot=foot) for each in shown]))
    maps = [_seen(each, view) for each in shown] if shown else _plain(values, view)
    captions = [_caption(result, unit) for unit in result.units]
    return layout.drawn(many.tiles(maps, captions, [panel.COLOURS[view], *foot]))


def paged(result: Result, values: npt.NDArray[Any], given: Any = None) -> str:
    """A result as a page.

    Args:
        result: What is shown.
        values: Its maps, units x C x H x W.
        given: The picture that the network saw, or one for each image; without it, that of a loaded model.

    Returns:
        The HTML document.

    Raises:
        BadValue: No picture is known, a map cannot be drawn, or a picture does not fit it.
    """
    from attribkit.explaining.manifest import versions
    from attribkit.report.page import page

    _check(values)
    shown = _shown(result, values, given)
    if shown is None:
        raise BadValue("a page shows maps over their picture: give picture=, or explain what attribkit.load gives")
    return page(shown, {"model": result.model, **result.about, **versions()}).decode()


def grid(values: npt.NDArray[Any], view: str) -> Picture:
    """The map, or a grid of all of them."""
    from attribkit.report import pictures

    _check(values)
    maps = _plain(values, view)
    return maps[0] if len(maps) == 1 else pictures.grid(maps)


def _plain(values: npt.NDArray[Any], view: str) -> list[Picture]:
    from attribkit.report import pictures

    return [pictures.picture(each, view) for each in values]


def _check(values: npt.NDArray[Any]) -> None:
    if values.ndim != 4 or not len(values):
        raise BadValue(f"a picture needs maps of C x H x W, but these values have the shape {values.shape}")
    for index, each in enumerate(values):
        if not np.isfinite(each).all():
            raise BadValue(f"map {index} holds NaN or infinite values and cannot be drawn; save it as .npz")


def _pictures(result: Result, given: Any) -> dict[int, Picture] | None:
    """The picture of each image; None where none is known."""
    images = sorted({unit.image for unit in result.units})
    if given is not None:
        return dict(zip(images, _given(given, len(images)), strict=True))
    inputs = result.inputs
    return None if inputs is None else {image: inputs.undo(inputs.images[image]) for image in images}


def _shown(result: Result, values: npt.NDArray[Any], given: Any) -> list[Shown] | None:
    """Each unit with its picture; None where no picture is known."""
    from attribkit.report.shown import Shown

    inputs = result.inputs
    pictures = _pictures(result, given)
    if pictures is None:
        return None
    return [
        Shown(
            name=_name(result, unit),
            picture=pictures[unit.image],
            maps={result.method: each.astype(np.float32)},
            unit=unit,
            label=_label(unit, inputs.labels if inputs else ()),
            sites={result.method: result.sites_in_words},
        )
        for unit, each in zip(result.units, values, strict=True)
    ]


def _given(given: Any, images: int) -> list[Picture]:
    """One picture for each image, as bytes."""
    several = given if isinstance(given, list | tuple) else [given]
    pictures = [np.asarray(each) for each in several]
    for each in pictures:
        if each.dtype != np.uint8 or each.ndim != 3 or each.shape[2] != 3:
            raise BadValue(f"picture= takes H x W x 3 bytes, what the network saw, not {each.shape} of {each.dtype}")
    if len(pictures) != images:
        raise BadValue(f"{len(pictures)} pictures do not fit {images} images: give a list of one per image")
    return pictures


def _seen(shown: Shown, view: str) -> Picture:
    """The map of what the unit sees."""
    from attribkit.report import pictures

    top, left, bottom, right = shown.window
    (values,) = shown.maps.values()
    return pictures.picture(values[:, top:bottom, left:right], view)


def _name(result: Result, unit: Unit) -> str:
    if "image" in result.about:
        return Path(result.about["image"]).name
    return f"image {unit.image}" if len({each.image for each in result.units}) > 1 else result.model


def _label(unit: Unit, labels: Sequence[str]) -> str:
    return labels[unit.channel] if unit.layer is None and unit.channel < len(labels) else ""


def _caption(result: Result, unit: Unit) -> list[str]:
    """A unit in few words: they stand below a tile."""
    several = len({each.image for each in result.units}) > 1
    place = f"at {unit.where}" if unit.position is not None else "everywhere"
    label = _label(unit, result.inputs.labels if result.inputs else ()).partition(",")[0]
    what = f"{unit.layer}, {unit.channel}" if unit.layer else label or f"class {unit.channel}"
    where = f"{place}: {unit.activation:.3g}" if unit.layer else f"{unit.activation:.3g}"
    return [*([f"image {unit.image}"] if several else []), what, where]


def _foot(result: Result) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in result.settings.items() if name == "switches")
    return [f"{result.model}, {result.method}; {settings}".rstrip("; ")]
