"""`rewrite`: a network that runs backwards by another rule, beside a model that is left as it was.

*Shadow* a copy of the model's structure, *swap* and *lift* its activations and pools, and *look back* at the first
finished graph for what neither of these saw.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from attribkit.engine import lookback, rules
from attribkit.engine.autograd import eager
from attribkit.engine.lift import Lift, described, is_swapped, run_under, swap
from attribkit.engine.lookback import Look
from attribkit.engine.plan import (
    CannotRewrite,
    NeedsGates,
    NothingToRewrite,
    PartlyRewritten,
    Plan,
    Refused,
    Site,
    plan_of,
)
from attribkit.engine.pooling import Pool
from attribkit.engine.rules import AnyRule, Relay, RuleByPart, RuleLike
from attribkit.engine.shadow import NAME, TAKEN, Taken, held_modules, shadow
from attribkit.engine.switches import Switches, network_of
from attribkit.engine.torch_private import is_exporting, is_traced
from attribkit.errors import BadType, BadValue, NotSupported


def rewrite(
    model: nn.Module | Callable[..., Any],
    rule: RuleLike = "guided",
    *,
    activations: Literal["rectifiers", "all"] = "rectifiers",
    switches: str | Switches = "own",
    overlap: Literal["add", "overwrite"] = "add",
    replay: Literal["down", "both"] = "down",
    norms: Literal["rule", "bypass", "gradient"] = "rule",
    strict: bool = False,
) -> Rewritten:
    """A network that computes what `model` computes, and runs backwards by `rule`.

        net = attribkit.rewrite(model, "guided")
        net(x.requires_grad_())[0, 281].backward()      # x.grad is guided backprop

    Args:
        model: The network, or a function of tensors. It is not changed, and its weights are shared.
        rule: "backprop", "deconvnet", "guided", a `Rule`, or a function of `(signal, gate)`. A mapping from patterns to
            these gives each site the rule of the first pattern that its name fits, and backprop to the rest.
        activations: "all" swaps the smooth ones (GELU, SiLU...) too.
        switches: How a signal passes max-pools: "own", recorded `Switches`, "uniform", "center" or "corner".
        overlap: Where windows of a pool overlap, signals "add" up, or the last one is kept ("overwrite").
        replay: "both" makes the forward pass follow the switches as well.
        norms: Whether local response normalisation is bypassed: by the deconvnet only ("rule"), always ("bypass") or
            never ("gradient").
        strict: Refuse a model of which an activation would be left alone, sigmoids that gate channels aside.

    Returns:
        The rewritten network: an `nn.Module` in eval mode.

    Raises:
        CannotRewrite: The model has no faithful copy, or hides what it computes in a way that cannot be followed.
        NothingToRewrite: The rule has nothing to act on. The first forward pass finds this out.
        PartlyRewritten: `strict` is not met; also found out by the first forward pass with a gradient.
    """
    plan = plan_of(rules.resolve(rule), activations, switches, overlap, replay, norms)
    return rewrite_by(model, replace(plan, strict=strict))


def rewrite_by(model: nn.Module | Callable[..., Any], plan: Plan) -> Rewritten:
    """`rewrite` by a plan."""
    if isinstance(model, nn.Module):
        model = shadow(model)
        swap(held_modules(model), plan)
        if isinstance(plan.switches, Switches):
            plan.switches.check_network(model)
    elif not callable(model):
        raise BadType(f"rewrite takes an nn.Module or a function of tensors, not {type(model).__name__}")
    return Rewritten(model, plan)


class Rewritten(nn.Module):
    """A network under a rule: an ordinary module that stays in eval mode. `rewrite` makes it."""

    _attribkit_rewritten = True

    def __init__(self, model: nn.Module | Callable[..., Any], plan: Plan) -> None:
        super().__init__()
        self.model = model
        self.plan = plan
        self._met: dict[str, Site] = {}
        self._known_to_change = False  # whether the rule was seen to have something to act on
        self._keeps_gates = False  # for gradients that the model itself takes in its forward pass
        self._looks: dict[tuple[str, ...], Look] = {}  # what graphs showed, by the sites that were met
        self._parameters_known = sum(1 for _ in self.parameters())
        self._modules_known = tuple(self._swapped_modules())
        self._has_modules_to_swap = any(self._changes(site) for site in self._modules_known)
        self.training = False  # as the shadow is already

    @property
    def sites(self) -> list[Site]:
        """Every site in the order of the last forward pass; then what only its graph shows, and modules not called."""
        return [*self._met.values(), *self._look.hidden, *(s for s in self._modules_known if s.name not in self._met)]

    @property
    def _look(self) -> Look:
        """What the graph showed beside the sites that were met last."""
        return self._looks.get(tuple(self._met), Look())

    def _swapped_modules(self) -> Iterator[Site]:
        """The sites of modules, which are known without a call."""
        for module in held_modules(self.model) if isinstance(self.model, nn.Module) else ():
            description = described(module) if is_swapped(module) else None
            if description is not None:
                yield Site(module.__dict__[NAME], *description, "module", 0, self.plan.swaps(description[1]))

    @property
    def rule(self) -> AnyRule:
        """The rule that this network follows."""
        return self.plan.rule

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self._compiled(args, kwargs)
        if is_traced(args):
            raise self._no_trace("a trace")
        lift = self._lift(args, kwargs)
        output = self.run(lift, args, kwargs)
        self._look_back(lift, output)
        self._require_known_parts()
        self._require_something_to_swap()
        self._require_all_swapped()
        if isinstance(self.plan.switches, Switches):
            self.plan.switches.check_all_used(lift.pools)
        return output

    def forward_to(self, layer: str, *args: Any, call: int = 0, lift: Lift | None = None) -> Any:
        """Run the network as far as a layer.

        Args:
            layer: The path of a module.
            *args: What the model is called with.
            call: Which call of the module, the first being 0; -1 is the last.
            lift: The lift under which to run, where it is to be looked at afterwards.

        Returns:
            The layer's output at that call; the forward pass stops there.

        Raises:
            BadValue: The model has no such layer, or does not call it so often.
        """
        lift = lift or self._lift(args, {})
        outputs: list[Any] = []
        thread = threading.get_ident()

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if threading.get_ident() != thread:
                return  # another thread runs the same net
            outputs.append(output)
            if len(outputs) == call + 1:
                raise Stop

        handle = self.model.get_submodule(layer).register_forward_hook(keep)  # type: ignore[union-attr]
        try:
            self.run(lift, args, {})
        finally:
            handle.remove()
        if not -len(outputs) <= call < len(outputs):
            times = f"is called {len(outputs)} times" if outputs else "was never reached: forward does not call it"
            raise BadValue(f"the layer {layer!r} {times}")
        self._look_back(lift, outputs[call])
        self._require_something_anywhere(args)
        self._require_all_swapped()
        return outputs[call]

    def __prepare_scriptable__(self) -> NoReturn:
        raise self._no_trace("a script")

    def _no_trace(self, kind: str) -> NotSupported:
        return NotSupported(f"{kind} does not keep the {self.rule.name} rule: call the rewritten network as it is")

    def train(self, mode: bool = True) -> Rewritten:
        """Stays in eval mode: a gate of a net with dropout or batch statistics explains nothing."""
        return self

    def extra_repr(self) -> str:
        swapped = sum(site.swapped for site in self.sites)
        return f"rule={self.rule.name}, {swapped} of {len(self.sites)} sites swapped"

    # ---------------------------------------------------------------------------------------------- one forward pass

    def _lift(self, args: Any, kwargs: Any) -> Lift:
        """A lift for a forward pass on these."""
        return Lift(self.plan, follow=_have_gradient([*args, *kwargs.values()]))

    def run(self, lift: Lift, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A forward pass under a lift, to its end or to a `Stop`."""
        taken: Taken | None = getattr(self.model, TAKEN, None)
        if taken is not None:
            taken.again()
            lift.shared = taken.parameters
        lift.detaches = not isinstance(self.model, nn.Module)
        if self._keeps_gates:
            lift.begin(keeps_gates=True)
        output = None
        try:
            output = run_under(lift, self.model, args, kwargs)
        except (Stop, Refused):
            pass
        except NeedsGates:
            self._keeps_gates = True
            return self.run(lift, args, kwargs)
        finally:
            self._note(lift)
        if lift.failed is not None:
            # The model's frames go: in one of them torch's checkpointing (2.8) would keep watching what is saved.
            raise lift.failed.with_traceback(None)
        return output

    def _note(self, lift: Lift) -> None:
        known = sum(1 for _ in self.parameters()) if not self._met else self._parameters_known
        if known != self._parameters_known:
            raise CannotRewrite("the model makes parameters at its first call: call it once before you rewrite it")
        self._met = lift.sites

    def _look_back(self, lift: Lift, output: Any) -> None:
        """See, once for each set of sites, what the graph shows beside them."""
        met = tuple(lift.sites)
        if lift.follow and not self.rule.is_gradient and not self.plan.probes and met not in self._looks:
            self._looks[met] = lookback.look_back(output, lift.sites.values(), lift.comparisons)
        lift.comparisons.clear()
        for name in self._looks[met].unreached if lift.follow and met in self._looks else ():
            lift.sites[name] = replace(lift.sites[name], swapped=False)

    def _compiled(self, args: Any, kwargs: Any) -> Any:
        lift = Lift(self.plan)
        lift.detaches = not isinstance(self.model, nn.Module)
        with lift:
            output = self.model(*args, **kwargs)
        if not (self.rule.is_gradient or self._has_modules_to_swap or lift.changed):
            raise NothingToRewrite(f"the {self.rule.name} rule finds no rectifier in this model")
        if is_exporting():
            raise NotSupported(f"an export does not keep the {self.rule.name} rule: rewrite the exported model instead")
        return output

    # --------------------------------------------------------------------------------------------- what is refused

    def _require_something_to_swap(self) -> None:
        if self.rule.is_gradient or any(self._changes(site) for site in self._met.values()):
            return
        met = [*self._met.values(), *self._look.hidden]
        seen = {site.op for site in self.sites if site.kind not in ("pool", "norm")}
        bent = [site for site in met if site.kind in self.plan.kinds]
        aside = {site.op for site in bent if site.how != "graph"}
        beyond = {site.op for site in bent if site.how == "graph"}
        helps = "smooth" not in self.plan.kinds and any(map(self._is_smooth, met))
        raise NothingToRewrite(
            f"the {self.rule.name} rule finds no rectifier in this model"
            + (f" that the image passes through ({', '.join(sorted(aside))} elsewhere)" if aside else "")
            + (f" that it can reach (its graph shows {', '.join(sorted(beyond))})" if beyond else "")
            + f"; activations seen: {', '.join(sorted(seen)) or 'none'}"
            + ('; activations="all" swaps the smooth ones too' if helps else "")
        )

    def _is_smooth(self, site: Site) -> bool:
        """Whether a site would follow the rule with `activations="all"`, as far as its graph shows."""
        return site.kind == "smooth" and site.how != "graph" and site.name not in self._look.unreached

    def _require_something_anywhere(self, args: tuple[Any, ...]) -> None:
        """What the rule is for may all lie above a layer, if not nowhere: the network is run to its end to see."""
        if self._known_to_change or self.plan.probes:
            return
        met, gradient = self._met, self.rule.is_gradient
        changes = gradient or self._has_modules_to_swap or any(self._changes(site) for site in met.values())
        if not changes or any(self._unknown_parts()):
            with torch.no_grad():
                self.run(Lift(self.plan), args, {})
            self._require_known_parts()
            self._require_something_to_swap()
            self._met = met
        self._known_to_change = True

    def _changes(self, site: Site) -> bool:
        """Whether the rule does at this site what the chain rule would not."""
        return site.follows and not self.rule.at(site.name).is_gradient

    def _require_all_swapped(self) -> None:
        if not self.plan.strict or self.rule.is_gradient:
            return
        met = [site for site in self.sites if site.kind not in ("pool", "norm") and site.op not in GATES]
        # A rectifier that is not swapped, but for what the graph shows, is one that the image does not pass.
        left = [site for site in met if not site.swapped and (site.kind != "rectifier" or site.how == "graph")]
        if left:
            named = ", ".join(f"{site.name} ({site.op})" for site in left[:3]) + (", ..." if len(left) > 3 else "")
            raise PartlyRewritten(
                f"the {self.rule.name} rule leaves {len(left)} of {len(met)} activations alone: {named}"
                + ('; activations="all" swaps the smooth ones too' if any(map(self._is_smooth, left)) else "")
            )

    def _unknown_parts(self) -> Iterator[str]:
        """The patterns of rules by part that fit no site, as far as sites are known."""
        names = [site.name for site in self.sites]
        for rule in self.rule.rules if isinstance(self.rule, Relay) else (self.rule,):
            yield from rule.unused(names) if isinstance(rule, RuleByPart) else ()

    def _require_known_parts(self) -> None:
        for pattern in self._unknown_parts():
            names = [site.name for site in self.sites]
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise BadValue(f"no site matches the pattern {pattern!r} of the rule; the nearest: {', '.join(near)}")


GATES = {"sigmoid", "hardsigmoid", "glu"}  # which weigh channels: no rectifiers, left alone by design


class Stop(BaseException):
    """Ends a forward pass; no `Exception`, which a model may catch."""


def _have_gradient(inputs: Collection[Any]) -> bool:
    """Whether autograd follows these, so that it shows what does not depend on them."""
    if not torch.is_grad_enabled() or not eager():
        return False
    return any(tensor.requires_grad for tensor in lookback.tensors_in(list(inputs)))


def record_switches(model: nn.Module | Callable[..., Any], images: Tensor, sites: list[str] | None = None) -> Switches:
    """Record the switches of a model's max-pools on some images.

    Args:
        model: The network. It is not changed.
        images: N x C x H x W. They are not changed either.
        sites: Record only these pools; the forward pass stops after the last of them.

    Returns:
        The switches of each pool by the name of its site.

    Raises:
        BadValue: There is no max-pool, or none with a name in `sites`.
    """
    net = rewrite_by(model, plan_of(rules.BACKPROP))
    wanted = None if sites is None else set(sites)
    indices: dict[str, Tensor] = {}
    planes: dict[str, tuple[int, ...]] = {}

    def record(site: str, pool: Pool, x: Tensor) -> None:
        if wanted is None or site in wanted:
            indices[site], planes[site] = pool.forward(x)[1], pool.plane(x)
            if indices.keys() == wanted:
                raise Stop

    with torch.no_grad():
        net.run(Lift(net.plan, record), (images.clone(),), {})
    missing = [site for site in sites or () if site not in indices]
    if missing or not indices:
        raise BadValue(
            f"no max-pool named {missing[0]!r} was called" if missing else "this model has no max-pool to record"
        )
    network = network_of(net.model) if isinstance(net.model, nn.Module) else ""
    return Switches(indices, planes, network)
