"""The library's own second opinion, beside the tests' oracle."""

from __future__ import annotations

import pytest
import torch
from nets import IN_PLACE_ON_VIEWS, NETS
from oracles import attribution, mixed_signal, state_digest

from attribkit.engine.rules import RULES
from attribkit.verify.referee import NotJudged, refereed


@pytest.mark.parametrize("name", NETS)
def test_it_finds_what_the_oracle_finds(name: str) -> None:
    """Every way of writing a rectifier, under every rule; and the model stays as it was."""
    model, x = NETS[name]()
    model(x)  # what is made lazily is made
    before = state_digest(model)
    for rule in RULES.values():
        if rule.bypasses_norms and "norm" in name.lower():
            continue
        expected = attribution(model, x, mixed_signal, rule.name)
        torch.testing.assert_close(refereed(model, x, mixed_signal, rule), expected, rtol=0, atol=1e-12)
    assert state_digest(model) == before


@pytest.mark.parametrize("name", IN_PLACE_ON_VIEWS)
def test_it_gives_no_verdict_on_a_hidden_node(name: str) -> None:
    model, x = IN_PLACE_ON_VIEWS[name][0]()
    with pytest.raises(NotJudged, match="in place into a view"):
        refereed(model, x, mixed_signal, RULES["guided"])
