"""The rules by which a signal passes an activation on its way down.

At an activation `y = f(x)` the signal `R` from above becomes

    rule        gate: times f'(x)    rectify: through f's own rectifier    for a ReLU
    backprop    yes                  no                                    (x > 0) R
    deconvnet   no                   yes                                   (R > 0) R
    guided      yes                  yes                                   (x > 0) (R > 0) R

A rule is those two booleans. A rule of your own is a function of `(signal, gate)`:

    attribkit.rewrite(model, lambda signal, gate: signal.abs() * gate)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from attribkit.errors import BadType, BadValue

RuleFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """Two booleans, or a function of `(signal, gate)` that replaces them."""

    name: str
    gate: bool = True
    rectify: bool = False
    function: RuleFunction | None = None

    def __post_init__(self) -> None:
        if self.function is not None:  # which is given every gate, and rectifies if it wants to
            object.__setattr__(self, "gate", True)
            object.__setattr__(self, "rectify", False)

    @property
    def current(self) -> Rule:
        """The rule in force while a signal goes down: this one."""
        return self

    @property
    def bypasses_norms(self) -> bool:
        """Whether local response normalisation is skipped on the way down, as the deconvnet does."""
        return self.function is None and self.rectify and not self.gate

    @property
    def is_gradient(self) -> bool:
        """Whether this rule is the chain rule itself."""
        return self.function is None and self.gate and not self.rectify

    def down(self, signal: Tensor, gate: Tensor | None, rectifier: Callable[[Tensor], Tensor]) -> Tensor:
        """The signal below an activation, from the signal above it."""
        if self.function is not None:
            assert gate is not None, "a rule with a function keeps its gates"
            return self.function(signal, gate.to(signal.dtype))
        if self.rectify:
            signal = rectifier(signal)
        return signal if gate is None else signal * gate


BACKPROP = Rule("backprop", gate=True, rectify=False)
DECONVNET = Rule("deconvnet", gate=False, rectify=True)
GUIDED = Rule("guided", gate=True, rectify=True)

OPEN = Rule("open", gate=False, rectify=False)  # for probing: stops nothing

RULES = {rule.name: rule for rule in (BACKPROP, DECONVNET, GUIDED)}


class Relay:
    """Several rules over one forward pass: `current` says which of them the next backward pass follows."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.name = "+".join(rule.name for rule in rules)
        self.gate = any(rule.gate for rule in rules)
        self.is_gradient = all(rule.is_gradient for rule in rules)
        self.current = rules[0]


def resolve(rule: str | Rule | RuleFunction) -> Rule:
    """The rule that a name, a `Rule` or a function of `(signal, gate)` stands for."""
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, str):
        if rule not in RULES:
            raise BadValue(f"no rule is called {rule!r}; choose one of {', '.join(RULES)} or pass a Rule")
        return RULES[rule]
    if callable(rule):
        return Rule(getattr(rule, "__name__", type(rule).__name__), function=rule)
    raise BadType(f"a rule is a name, a Rule or a function of (signal, gate), not {type(rule).__name__}")
