"""The table of `make zoo` as tests, one for each architecture."""

from __future__ import annotations

import pytest
from zoo import ZOO, Entry, examine


@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
def test_every_rule_on_a_real_architecture(entry: Entry) -> None:
    assert not list(examine(entry).problems())


def test_the_zoo_has_no_architecture_twice() -> None:
    assert len({entry.name for entry in ZOO}) == len(ZOO) >= 25
