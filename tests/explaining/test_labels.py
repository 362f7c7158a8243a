"""A class by its name: the one that is meant, or a list of those that may be."""

from __future__ import annotations

import pytest
import torch
from timm.data import ImageNetInfo
from torch import nn
from torchvision.models._meta import _IMAGENET_CATEGORIES as SHORT

import attribkit
from attribkit.errors import BadValue
from attribkit.explaining.labels import class_number

LONG = ImageNetInfo().label_descriptions()


@pytest.mark.parametrize(
    ("text", "labels", "number"),
    [
        ("lion", LONG, 291),  # a synonym, exactly
        ("King of Beasts", LONG, 291),
        ("lion, king of beasts, Panthera leo", LONG, 291),
        ("tiger  cat", LONG, 282),
        ("tiger_cat", SHORT, 282),
        ("tiger", SHORT, 292),  # not "tiger shark", of which it is a word
        ("crane", SHORT, 517),  # there the bird is called "crane bird"
        ("tailed lemur", LONG, 383),  # words of one label only
    ],
)
def test_a_name_means_its_own_class(text: str, labels: list[str], number: int) -> None:
    assert class_number(text, labels) == number


@pytest.mark.parametrize(
    ("text", "labels", "numbers"),
    [
        ("cat", LONG, [281, 282, 283, 284, 285, 383, 387]),  # and not "catamaran"
        ("crane", LONG, [134, 517]),  # two labels of that name
        ("lynx", ["Lynx", "lynx "], [0, 1]),
    ],
)
def test_several_classes_of_a_name_are_listed(text: str, labels: list[str], numbers: list[int]) -> None:
    """One per line, with its number."""
    with pytest.raises(BadValue, match=f"names {len(numbers)} classes; give the number of one") as raised:
        class_number(text, labels)
    lines = str(raised.value).splitlines()[1:]
    assert lines == [f"  {number:>4}  {labels[number]}" for number in numbers]


def test_a_long_list_is_cut_and_says_so() -> None:
    with pytest.raises(BadValue, match=r"  and 88 more$"):
        class_number("kind", [f"kind {i}" for i in range(100)])


@pytest.mark.parametrize(
    ("text", "near"),
    [("tabbi", "281  tabby"), ("dogsle", "537  dogsled"), ("", "give its number"), ("@", "give its number")],
)
def test_no_class_of_a_name_is_an_error_with_the_nearest(text: str, near: str) -> None:
    """A beginning is no name: "dog" once explained the dogsled."""
    with pytest.raises(BadValue, match=f"no class is called '{text}'") as raised:
        class_number(text, LONG)
    assert near in str(raised.value)


def test_names_are_targets() -> None:
    """One, one per image, or several of every image, as numbers are."""
    loaded = attribkit.load("all_cnn_c")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    named = [attribkit.explain(loaded, x, target="cat"), attribkit.explain(loaded, x, targets=["cat", "dog"])]
    numbered = [attribkit.explain(loaded, x, target=3), attribkit.explain(loaded, x, targets=[3, 5])]
    for one, other in zip(named, numbered, strict=True):
        assert one.units == other.units
        assert torch.equal(one.values, other.values)
    assert [unit.channel for unit in attribkit.explain(loaded, x, target=["ship", 2]).units] == [8, 2]
    with pytest.raises(BadValue, match="the names of the classes are not known: give the number of 'cat'"):
        attribkit.explain(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), x, target="cat")
