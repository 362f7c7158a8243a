"""What was asked of a rewrite (`Plan`), one call that it acts on (`Passage`), and what is reported of it (`Site`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from torch import Tensor

from attribkit.engine import rules
from attribkit.engine.rules import AnyRule, Relay, RelayAt, Rule, RuleByPart
from attribkit.engine.switches import Switches
from attribkit.engine.unpooling import SCHEMES
from attribkit.errors import BadType, BadValue, NotSupported


class NothingToRewrite(BadValue):
    """A rule found no activation to act on: the result would be a plain gradient under another name."""


class PartlyRewritten(BadValue):
    """`strict=True` was asked for, and some activations would keep their plain gradient."""


class CannotRewrite(BadType):
    """A model that has no faithful copy to rewrite."""


@dataclass(frozen=True)
class Site:
    """A place where a signal may change on its way down, and what the rule does there.

    Attributes:
        name: The module's path; for a function, the path of the module that calls it, `#` and the function's name.
        op: What it is: "relu", "gelu", "max_pool2d", ...
        kind: "rectifier", "smooth", "other", "pool" or "norm".
        how: "module" or "function"; "graph" for what only the finished graph shows.
        calls: How often the last forward pass called it.
        swapped: False where the site keeps its plain gradient, or where the image does not pass.
    """

    name: str
    op: str
    kind: str
    how: Literal["module", "function", "graph"]
    calls: int
    swapped: bool

    @property
    def follows(self) -> bool:
        """Whether the rule itself is at work here: at pools and norms it is not."""
        return self.swapped and self.kind in ("rectifier", "smooth")


class Call(Protocol):
    """One call of an activation, a pool or a norm, recognised from a module or a function."""

    @property
    def op(self) -> str: ...

    @property
    def kind(self) -> str: ...

    def apply(self, x: Tensor, original: Any, here: Passage) -> Any:
        """What the call gives, so that a signal goes back as the plan wants it; `original()` is torch's own way."""


@dataclass(frozen=True)
class Plan:
    """Everything that was asked of a rewrite."""

    rule: AnyRule
    kinds: frozenset[str]
    switches: str | Switches
    overlap: str
    conditions_forward: bool
    norms: str
    strict: bool = False

    def swaps(self, kind: str) -> bool:
        """Whether sites of this kind follow the plan."""
        return kind in ("pool", "norm") or kind in self.kinds

    @property
    def probes(self) -> bool:
        """Whether this plan finds out where units look, and lets every signal pass."""
        return "other" in self.kinds


class Run:
    """One forward pass: while it is under way, a gradient that the model itself asks for obeys the chain rule.

    For that, what the rule would have no need of has to be kept; `NeedsGates` is raised where it was not.
    """

    def __init__(self, keeps_gates: bool = False) -> None:
        self.under_way = True
        self.keeps_gates = keeps_gates


class Refused(BaseException):
    """An error of ours on its way out of a forward pass: models catch exceptions, and torch's operators TypeErrors."""


class NeedsGates(BaseException):
    """The model takes a gradient of its own, and the forward pass has to begin anew. No `Exception` that it catches."""


class Passage:
    """One call of a site: the plan, the rule at this place, and the forward pass that it belongs to.

    `site` is its name in reports, None for a function under torch.compile; `pool` its name among switches, None where
    calls are not counted.
    """

    def __init__(self, plan: Plan, site: str | None, pool: str | None = None, run: Run | None = None) -> None:
        if site is None and isinstance(plan.rule, RuleByPart):
            raise NotSupported("a rule by part needs the names of sites, which functions lack under torch.compile")
        self.plan = plan
        self.site = site
        self.pool = pool
        self.run = run
        self.rule: Rule | Relay | RelayAt = plan.rule if site is None else plan.rule.at(site)  # type: ignore[assignment]

    @property
    def keeps_gates(self) -> bool:
        """Whether gates, and the switches of this very image, are kept, for whoever may need them."""
        return self.rule.gate or (self.run is not None and self.run.keeps_gates)

    @property
    def within_forward(self) -> bool:
        """Whether the signal is one that the model, and no probe, sends down during its own forward pass."""
        if self.run is None or not self.run.under_way or self.plan.probes:
            return False
        if not self.run.keeps_gates:
            raise NeedsGates
        return True

    @property
    def rule_now(self) -> Rule:
        """The rule for a signal that goes down at this moment."""
        return rules.BACKPROP if self.within_forward else self.rule.current  # type: ignore[return-value]


KINDS = {"rectifiers": frozenset({"rectifier"}), "all": frozenset({"rectifier", "smooth"})}


def plan_of(
    rule: AnyRule,
    activations: str = "rectifiers",
    switches: str | Switches = "own",
    overlap: str = "add",
    replay: str = "down",
    norms: str = "rule",
) -> Plan:
    """The options of `rewrite`, checked."""
    _choose("activations", activations, tuple(KINDS))
    _choose("overlap", overlap, ("add", "overwrite"))
    _choose("replay", replay, ("down", "both"))
    _choose("norms", norms, ("rule", "bypass", "gradient"))
    if not isinstance(switches, Switches):
        _choose("switches", switches, ("own", *SCHEMES), "or Switches; read a file with Switches.load(path)")
    return Plan(rule, KINDS[activations], switches, overlap, replay == "both", norms)


def probing_plan() -> Plan:
    """A plan that lets every signal pass to wherever it can matter: sigmoids and their like are swapped too."""
    return replace(plan_of(rules.OPEN, switches="uniform", norms="bypass"), kinds=KINDS["all"] | {"other"})


def _choose(name: str, value: Any, choices: tuple[str, ...], more: str = "") -> None:
    if not isinstance(value, str) or value not in choices:
        raise BadValue(f"{name} is one of {', '.join(map(repr, choices))} {more}".rstrip() + f", not {value!r}")
