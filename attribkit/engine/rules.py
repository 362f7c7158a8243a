"""The rules by which a signal passes an activation on its way down.

At an activation `y = f(x)` the signal `R` from above becomes

    rule        gate: times f'(x)    rectify: through f's own rectifier    for a ReLU
    backprop    yes                  no                                    (x > 0) R
    deconvnet   no                   yes                                   (R > 0) R
    guided      yes                  yes                                   (x > 0) (R > 0) R

A rule is those two booleans. A rule of your own is a function of `(signal, gate)`, and a rule may differ from part to
part of a network:

    attribkit.rewrite(model, lambda signal, gate: signal.abs() * gate)
    attribkit.rewrite(model, {"features.[0-4].*": "backprop", "*": "guided"})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from attribkit.errors import BadType, BadValue

RuleFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """What an activation does with a signal: two booleans, or a function that replaces them.

        attribkit.Rule("mine", function=lambda signal, gate: signal.abs() * gate)

    Args:
        name: What results and errors call it.
        gate: Whether the signal is multiplied by the activation's derivative.
        rectify: Whether the signal passes through the activation's own rectifier.
        function: From the signal above an activation and its gate to the signal below. It replaces both booleans.
    """

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

    def at(self, site: str) -> Rule:
        """The rule at a site: this one."""
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
        """Pass a signal down through one activation.

        Args:
            signal: The signal above the activation.
            gate: The activation's derivative at its input; None where the rule keeps none.
            rectifier: The activation's own rectifier.

        Returns:
            The signal below the activation.
        """
        if self.function is not None:
            assert gate is not None, "a rule with a function keeps its gates"
            below = self.function(signal, gate.to(signal.dtype))
            if not isinstance(below, Tensor) or below.shape != signal.shape:
                what = f"a tensor of {tuple(below.shape)}" if isinstance(below, Tensor) else repr(below)
                raise BadType(f"the rule {self.name!r} gave {what} for a signal of {tuple(signal.shape)}")
            return below
        if self.rectify:
            signal = rectifier(signal)
        return signal if gate is None else signal * gate


BACKPROP = Rule("backprop", gate=True, rectify=False)
DECONVNET = Rule("deconvnet", gate=False, rectify=True)
GUIDED = Rule("guided", gate=True, rectify=True)

OPEN = Rule("open", gate=False, rectify=False)  # for probing: stops nothing

RULES = {rule.name: rule for rule in (BACKPROP, DECONVNET, GUIDED)}


@dataclass(frozen=True)
class RuleByPart:
    """A rule for each part of a network: a site gets that of the first pattern that its name fits, else backprop."""

    parts: tuple[tuple[str, Rule], ...]

    @property
    def name(self) -> str:
        return ", ".join(f"{pattern}: {rule.name}" for pattern, rule in self.parts)

    @property
    def gate(self) -> bool:
        return any(rule.gate for _, rule in self.parts)

    @property
    def is_gradient(self) -> bool:
        return all(rule.is_gradient for _, rule in self.parts)

    @property
    def current(self) -> RuleByPart:
        return self

    def at(self, site: str) -> Rule:
        """The rule of the first pattern that the site's name fits."""
        return next((rule for pattern, rule in self.parts if fnmatchcase(site, pattern)), BACKPROP)

    def unused(self, sites: Sequence[str]) -> list[str]:
        """The patterns that none of these names fits."""
        return [pattern for pattern, _ in self.parts if not any(fnmatchcase(site, pattern) for site in sites)]


class Relay:
    """Several rules over one forward pass: `current` says which of them the next backward pass follows."""

    def __init__(self, rules: Sequence[Rule | RuleByPart]) -> None:
        self.rules = tuple(rules)
        self.name = "+".join(rule.name for rule in rules)
        self.gate = any(rule.gate for rule in rules)
        self.is_gradient = all(rule.is_gradient for rule in rules)
        self.current = rules[0]

    def at(self, site: str) -> RelayAt:
        """The relay as it is seen from one site."""
        return RelayAt(self, site)


class RelayAt:
    """A relay at one site, where each of its rules by part is a plain rule."""

    def __init__(self, relay: Relay, site: str) -> None:
        self.relay = relay
        self.site = site
        self.gate = any(rule.at(site).gate for rule in relay.rules)
        self.is_gradient = all(rule.at(site).is_gradient for rule in relay.rules)

    @property
    def current(self) -> Rule:
        """The rule that the next backward pass follows here."""
        return self.relay.current.at(self.site)


AnyRule = Rule | RuleByPart | Relay
RuleLike = str | Rule | RuleFunction | Mapping[str, "str | Rule | RuleFunction"]


def resolve(rule: RuleLike | RuleByPart) -> Rule | RuleByPart:
    """The rule that a name, a `Rule`, a function of `(signal, gate)` or a mapping from patterns to these means."""
    if isinstance(rule, RuleByPart):
        return rule
    if not isinstance(rule, Mapping):
        return resolve_one(rule)
    if not rule:
        raise BadValue("a rule by part is a mapping of at least one pattern, such as {'features.*': 'guided'}")
    return RuleByPart(tuple((pattern, resolve_one(part)) for pattern, part in rule.items()))


def resolve_one(rule: str | Rule | RuleFunction) -> Rule:
    """The rule that a name, a `Rule` or a function of `(signal, gate)` stands for."""
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, str):
        if rule not in RULES:
            raise BadValue(f"no rule is called {rule!r}; choose one of {', '.join(RULES)} or pass a Rule")
        return RULES[rule]
    if callable(rule):
        return Rule(getattr(rule, "__name__", type(rule).__name__), function=rule)
    raise BadType(f"a rule is a name, a Rule, a function of (signal, gate) or a mapping, not {type(rule).__name__}")
