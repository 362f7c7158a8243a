"""Every way that people write a network: the rule's map, or said; the model's own code must not notice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ways_calls
import ways_code
import ways_holdings
import ways_originals
import ways_parts
import ways_smooth
import ways_subclasses
import ways_unreached
from ways_checks import RULES, check
from ways_harness import Way, in_double_precision

SECTIONS = [
    ways_code,
    ways_subclasses,
    ways_calls,
    ways_unreached,
    ways_parts,
    ways_smooth,
    ways_originals,
    ways_holdings,
]
ALL = {f"{file.ways.section}: {way.name}": way for file in SECTIONS for way in file.ways.all.values()}


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """Nets and what their forward makes are float64, so that a map's last digits can be compared."""
    with in_double_precision():
        yield


# dynamo looks at every input's gradient, also where there can be none
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("way", ALL.values(), ids=ALL)
def test_way(way: Way, rule: str) -> None:
    """The way's map is the oracle's, or it is said or refused as the way expects; the original stays as it was."""
    check(way, rule)
