"""Switches from a file that is not as we write it: each is a `SwitchMismatch` that says what is wrong where."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from oracles import Windows, adaptive_windows, attribution, mixed_signal, pool_windows, whole_plane
from torch import Tensor, nn
from torch.nn import functional as F
from ways_checks import is_right
from ways_harness import built, in_double_precision

import attribkit
from attribkit import Switches, SwitchMismatch

FORMAT = "attribkit.switches/1"


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with in_double_precision():
        yield


class Two(nn.Module):
    """Two pools, of which the second one's windows overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 1), nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(self.conv(x))))


def pictures(*size: int) -> Tensor:
    return torch.randn(size or (1, 3, 8, 8), generator=torch.Generator().manual_seed(1))


def written(path: Path, indices: dict[str, Tensor], planes: Any) -> Path:
    """A file as `Switches.save` writes it, of anything at all."""
    text = planes if isinstance(planes, str) else json.dumps(planes)
    path.write_bytes(safetensors.torch.save(indices, {FORMAT: text}))
    return path


def recorded() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a good file for `Two` holds."""
    switches = attribkit.record_switches(built(Two), pictures())
    return {name: index.clone() for name, index in switches.indices.items()}, dict(switches.planes)


def used(path: Path, model: nn.Module | None = None, x: Tensor | None = None) -> Tensor:
    """Load a file, replay it, and bring a signal down: somewhere on this way a bad one is found out."""
    switches = Switches.load(path)
    image = (pictures() if x is None else x).clone().requires_grad_()
    net = attribkit.rewrite(model or built(Two), "backprop", switches=switches)
    mixed_signal(net(image)).backward()
    assert image.grad is not None
    return image.grad


def refusal(path: Path, *options: Any) -> str:
    """What a bad file's error says, in one line of a reasonable length."""
    with pytest.raises(SwitchMismatch) as caught:
        used(path, *options)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 1000
    return said


def test_a_good_file_replays_as_the_chain_rule(tmp_path: Path) -> None:
    """The file that the others are a variation of is taken, and gives autograd's gradient."""
    found = used(written(tmp_path / "cat", *recorded()))
    assert is_right(found, attribution(built(Two), pictures(), mixed_signal, "backprop"))


# Indices of another kind ------------------------------------------------------------------------------------

KINDS = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.int16, torch.complex64]


@pytest.mark.parametrize("site", ["first", "second"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_indices_of_another_type_are_refused(tmp_path: Path, kind: torch.dtype, site: str) -> None:
    """The site is named, and the type that its indices have."""
    indices, planes = recorded()
    indices[site] = indices[site].to(kind)
    said = refusal(written(tmp_path / "cat", indices, planes))
    assert site in said
    assert str(kind).removeprefix("torch.") in said


@pytest.mark.parametrize(
    "kind", [torch.int8, torch.uint8, torch.int32, torch.uint16, torch.uint32, torch.uint64], ids=str
)
def test_indices_of_other_integers_are_taken_or_refused(tmp_path: Path, kind: torch.dtype) -> None:
    """They are numbers of the same cells: the same map, or a line that names site and type."""
    indices, planes = recorded()
    indices["second"] = indices["second"].to(kind)
    path = written(tmp_path / "cat", indices, planes)
    try:
        found = used(path)
    except SwitchMismatch as error:
        assert "second" in str(error)  # noqa: PT017 (either way is fine)
        assert str(kind).removeprefix("torch.") in str(error)  # noqa: PT017
    else:
        assert is_right(found, attribution(built(Two), pictures(), mixed_signal, "backprop"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.5])
def test_indices_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    """NaN and infinities, too, are floats."""
    indices, planes = recorded()
    indices["first"] = torch.full_like(indices["first"], value, dtype=torch.float32)
    assert "first" in refusal(written(tmp_path / "cat", indices, planes))


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "a single number": lambda index: index.flatten()[0],
    "a row": lambda index: index.flatten(),
    "no batch": lambda index: index[0],
    "one dimension more": lambda index: index[None],
    "one row less": lambda index: index[..., :-1, :].contiguous(),
    "one row more": lambda index: torch.cat([index, index[..., :1, :]], -2),
    "no images": lambda index: index[:0],
    "nothing": lambda index: index.flatten()[:0],
    "no channels": lambda index: index[:, :0],
    "one channel": lambda index: index[:, :1].contiguous(),
    "transposed dimensions": lambda index: index.permute(0, 2, 3, 1).contiguous(),
    "two images for one": lambda index: torch.cat([index, index]),
}


@pytest.mark.parametrize("site", ["first", "second"])
@pytest.mark.parametrize("form", FORMS)
def test_indices_of_another_form_are_refused(tmp_path: Path, form: str, site: str) -> None:
    """The site that does not fit is named."""
    indices, planes = recorded()
    indices[site] = FORMS[form](indices[site])
    assert site in refusal(written(tmp_path / "cat", indices, planes))


# Indices elsewhere ------------------------------------------------------------------------------------------

ELSEWHERE: dict[str, Callable[[Tensor], Tensor]] = {
    "negative": lambda index: index.neg() - 1,
    "one negative": lambda index: index.clone().index_fill_(-1, torch.tensor([0]), -1),
    "minus one for the last cell": lambda index: index.clone().index_put_([torch.tensor(-1)] * 4, torch.tensor(-1)),
    "beyond the plane": lambda index: index + 64,
    "far beyond": lambda index: index + 2**40,
    "the greatest": lambda index: torch.full_like(index, 2**63 - 1),
    "the least": lambda index: torch.full_like(index, -(2**63)),
    "all zero": torch.zeros_like,
    "flipped": lambda index: index.flip(-1),
    "turned upside down": lambda index: index.flip(-2),
    "rows exchanged with columns": lambda index: index.mT.contiguous(),
    "shuffled": lambda index: index.flatten()[torch.randperm(index.numel())].view_as(index),
    "rolled": lambda index: index.roll(1, -1),
    "shifted by a row": lambda index: (index + 16) % 64,
    "counted within the window": lambda index: index % 4,
    "one of them elsewhere": lambda index: index.clone().index_put_([torch.tensor(0)] * 4, torch.tensor(63)),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_indices_outside_of_their_own_windows_are_refused(tmp_path: Path, name: str) -> None:
    """Inside of the plane or not: an output's switch lies in its window, or the file is not of this pool."""
    indices, planes = recorded()
    indices["first"] = ELSEWHERE[name](indices["first"])
    assert "first" in refusal(written(tmp_path / "cat", indices, planes))


PLANE = (9, 8)
POOLS: dict[str, tuple[Callable[[], nn.Module], Windows, tuple[int, ...]]] = {
    "a pool": (lambda: nn.MaxPool2d(2), pool_windows(PLANE, (2, 2), (2, 2)), PLANE),
    "an overlapping pool": (lambda: nn.MaxPool2d(3, 2), pool_windows(PLANE, (3, 3), (2, 2)), PLANE),
    "a padded pool": (lambda: nn.MaxPool2d(3, 2, 1), pool_windows(PLANE, (3, 3), (2, 2), (1, 1)), PLANE),
    "a pool of stride 1": (lambda: nn.MaxPool2d(2, 1), pool_windows(PLANE, (2, 2), (1, 1)), PLANE),
    "a pool in ceil mode": (
        lambda: nn.MaxPool2d(2, ceil_mode=True),
        pool_windows(PLANE, (2, 2), (2, 2), ceil_mode=True),
        PLANE,
    ),
    "a dilated pool": (
        lambda: nn.MaxPool2d(2, 2, dilation=2),
        pool_windows(PLANE, (2, 2), (2, 2), dilation=(2, 2)),
        PLANE,
    ),
    "an oblong pool": (lambda: nn.MaxPool2d((3, 1), (1, 2)), pool_windows(PLANE, (3, 1), (1, 2)), PLANE),
    "an adaptive pool": (lambda: nn.AdaptiveMaxPool2d((3, 3)), adaptive_windows(PLANE, (3, 3)), PLANE),
    "a pool along rows": (lambda: nn.MaxPool1d(3, 2), pool_windows((9,), (3,), (2,)), (9,)),
    "a pool of volumes": (lambda: nn.MaxPool3d(2), pool_windows((4, 4, 4), (2, 2, 2), (2, 2, 2)), (4, 4, 4)),
}


def outcome(path: Path, model: nn.Module, x: Tensor, index: Tensor, plane: tuple[int, ...]) -> Tensor:
    return used(written(path, {"0": index}, {"0": list(plane)}), model, x)


@pytest.mark.parametrize("name", POOLS)
def test_every_kind_of_pool_knows_its_windows(tmp_path: Path, name: str) -> None:
    """A cell of the window is taken, whichever it is; a cell beside it is refused."""
    make, windows, plane = POOLS[name]
    model, x = nn.Sequential(make()), pictures(1, 2, *plane)
    good = attribkit.record_switches(model, x).indices["0"]
    generator = torch.Generator().manual_seed(0)
    for position, window in enumerate(windows.in_reading_order()):
        cells = windows.cells(window)
        others = [cell for cell in range(math.prod(plane)) if cell not in cells]
        index = good.clone()
        index.view(2, -1)[1, position] = cells[int(torch.randint(len(cells), (), generator=generator))]
        outcome(tmp_path / "cat", model, x, index, plane)
        index.view(2, -1)[1, position] = others[int(torch.randint(len(others), (), generator=generator))]
        with pytest.raises(SwitchMismatch, match="'0'"):
            outcome(tmp_path / "cat", model, x, index, plane)


def test_an_amax_takes_every_cell_of_its_plane(tmp_path: Path) -> None:
    """The window of a maximum over the plane is the plane."""

    class Most(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.amax((2, 3))

    windows = whole_plane(PLANE)
    for cell in windows.cells(next(windows.in_reading_order())):
        path = written(tmp_path / "cat", {"#amax": torch.full((1, 2, 1, 1), cell)}, {"#amax": PLANE})
        used(path, Most(), pictures(1, 2, *PLANE))
    path = written(tmp_path / "cat", {"#amax": torch.full((1, 2, 1, 1), 72)}, {"#amax": PLANE})
    assert "#amax" in refusal(path, Most(), pictures(1, 2, *PLANE))


def test_switches_made_by_hand_are_looked_at_as_well() -> None:
    """What comes from no file is checked where it is first used."""
    indices, planes = recorded()
    for spoilt in (indices["first"].flip(-1), indices["first"].double(), indices["first"].bool()):
        with pytest.raises(SwitchMismatch, match="first"):
            replayed({**indices, "first": spoilt}, planes)


def replayed(indices: dict[str, Tensor], planes: dict[str, Any]) -> Tensor:
    return attribkit.rewrite(built(Two), "backprop", switches=Switches(indices, planes))(pictures())


# What is said about them ------------------------------------------------------------------------------------

SOME = '{"first": [8, 8], "second": %s}'
METADATA: dict[str, str] = {
    "nested too deeply": "[" * 100_000 + "]" * 100_000,
    "nested too deeply, in a dict": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a plane nested too deeply": SOME % ("[" * 100_000 + "]" * 100_000),
    "an infinite plane": SOME % "[Infinity, 4]",
    "a plane less than infinite": SOME % "[-Infinity, 4]",
    "a plane that is no number": SOME % "[NaN, 4]",
    "a plane too large for a float": SOME % "[1e999, 4]",
    "a plane of a number too long": SOME % f"[{'9' * 5000}, 4]",
    "a huge plane": SOME % "[1e300, 4]",
    "a negative plane": SOME % "[-4, -4]",
    "an empty plane": SOME % "[]",
    "a plane of nothing": SOME % "[0, 0]",
    "a plane of fractions": SOME % "[4.5, 4]",
    "a plane of words": SOME % '["four", 4]',
    "a plane of null": SOME % "[null, 4]",
    "a plane that is null": SOME % "null",
    "a plane that is a number": SOME % "4",
    "a plane that is a dict": SOME % '{"4": 4}',
    "a plane of lists": SOME % "[[4], [4]]",
    "one dimension more": SOME % "[1, 4, 4]",
    "one dimension less": SOME % "[16]",
    "another plane": SOME % "[5, 4]",
    "a transposed plane of another form": SOME % "[2, 8]",
    "no JSON": "first: 8x8",
    "half of it": '{"first": [8, 8], "sec',
    "a list": '[["first", [8, 8]]]',
    "a word": '"first"',
    "a number": "8",
    "null": "null",
    "empty": "",
    "another site": SOME.replace("second", "third") % "[4, 4]",
    "a site too many": '{"first": [8, 8], "second": [4, 4], "third": [4, 4]}',
    "a site less": '{"first": [8, 8]}',
    "no site": "{}",
    "a lone surrogate": '{"\\ud800": [8, 8]}',
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_say_anything_else_are_refused(tmp_path: Path, name: str) -> None:
    """A plane that is none, a site that is not there, no JSON: the file or the site is named."""
    indices, _ = recorded()
    said = refusal(written(tmp_path / "cat", indices, METADATA[name]))
    assert any(word in said for word in ("cat", "first", "second", "third"))


# What cannot be read at all has no sites to name.
PLANES = [name for name in METADATA if "plane" in name and not re.search("nested|too long", name)]


@pytest.mark.parametrize("name", PLANES)
def test_a_plane_that_is_none_is_said_of_its_site(tmp_path: Path, name: str) -> None:
    """Not only the file is named, but the pool whose plane it is."""
    indices, _ = recorded()
    assert "second" in refusal(written(tmp_path / "cat", indices, METADATA[name]))


@pytest.mark.parametrize("plane", ["[4.0, 4.0]", '["4", "4"]', '"44"'])
def test_planes_that_might_be_meant_well(tmp_path: Path, plane: str) -> None:
    """They give the right map or are refused; nothing else."""
    path = written(tmp_path / "cat", recorded()[0], SOME % plane)
    try:
        found = used(path)
    except SwitchMismatch as error:
        assert "second" in str(error)  # noqa: PT017 (either way is fine)
    else:
        assert is_right(found, attribution(built(Two), pictures(), mixed_signal, "backprop"))


# The file itself --------------------------------------------------------------------------------------------


def test_a_tensor_too_many_is_refused_or_passed_over(tmp_path: Path) -> None:
    """A tensor of no site changes nothing."""
    indices, planes = recorded()
    path = written(tmp_path / "cat", {**indices, "more": torch.zeros(1)}, planes)
    try:
        found = used(path)
    except SwitchMismatch as error:
        assert "more" in str(error)  # noqa: PT017 (either way is fine)
    else:
        assert is_right(found, attribution(built(Two), pictures(), mixed_signal, "backprop"))


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "only a header": lambda content: content[:8],
    "a header of 2**63 bytes": lambda content: (2**63).to_bytes(8, "little") + content[8:],
    "a header without end": lambda content: (2**40).to_bytes(8, "little") + content[8:],
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"switches of a cat, as it seems",
    "a pickle": lambda content: b"\x80\x04]\x94." * 10,
}


@pytest.mark.parametrize("name", BYTES)
def test_a_file_that_is_none_of_safetensors_is_refused(tmp_path: Path, name: str) -> None:
    """Whatever the bytes are, the file is named."""
    path = written(tmp_path / "cat", *recorded())
    path.write_bytes(BYTES[name](path.read_bytes()))
    assert "cat" in refusal(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """And neither is what is not there; both are errors of ours that are `OSError` or `ValueError`, too."""
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises((OSError, ValueError)) as caught:
            Switches.load(path)
        assert isinstance(caught.value, attribkit.AttribkitError)
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)
