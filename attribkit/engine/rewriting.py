"""`rewrite`: a network that runs backwards by another rule, beside a model that is left as it was.

Three steps. *Shadow*: a structural copy that shares every tensor with the model. *Swap*: activation, max-pool and
LRN modules of the copy get the rule's `forward`. *Lift*: activations and pools that are called as functions are
caught by a `TorchFunctionMode` while the copy runs, and named after the module that called them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from attribkit.engine import activations, linear, pooling, rules
from attribkit.engine.activations import Activation
from attribkit.engine.autograd import Quick, transformed
from attribkit.engine.codescan import mentions
from attribkit.engine.pooling import Pool
from attribkit.engine.rules import Relay, Rule, RuleFunction
from attribkit.engine.switches import Switches
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

    `how` is "module" or "function"; `calls` counts the last forward pass; `swapped` is False where the site keeps
    its plain gradient, or where the image does not pass.
    """

    name: str
    op: str
    kind: str
    how: Literal["module", "function"]
    calls: int
    swapped: bool

    @property
    def follows(self) -> bool:
        """Whether the rule itself is at work here: at pools and norms it is not."""
        return self.swapped and self.kind in ("rectifier", "smooth")


@dataclass(frozen=True)
class Norm:
    """A local response normalisation."""

    op = "local_response_norm"
    kind = "norm"


Call = Activation | Pool | Norm


@dataclass(frozen=True)
class Plan:
    """Everything that was asked of a rewrite."""

    rule: Rule | Relay
    kinds: frozenset[str]
    switches: str | Switches
    overlap: str
    conditions_forward: bool
    norms: str
    strict: bool = False

    def swaps(self, call: Call) -> bool:
        """Whether a site of this sort follows the rule."""
        return call.kind in ("pool", "norm") or call.kind in self.kinds


# --------------------------------------------------------------------------------------------------------- rewrite


def rewrite(
    model: nn.Module | Callable[..., Any],
    rule: str | Rule | RuleFunction = "guided",
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

    `model` is not changed, and its weights are shared. `rule` is "backprop", "deconvnet", "guided", a `Rule` or a
    function of `(signal, gate)`. `activations="all"` swaps the smooth ones (GELU, SiLU...) too. `switches` says how
    a signal passes max-pools: "own", recorded `Switches`, "uniform", "center" or "corner"; where windows overlap,
    signals add up or overwrite each other; `replay="both"` makes the forward pass follow the switches as well.
    `norms` says whether LRN is bypassed: by the deconvnet only ("rule"), always or never. `strict` refuses a model of
    which an activation would be left alone, sigmoids that gate channels aside.
    """
    plan = plan_of(rules.resolve(rule), activations, switches, overlap, replay, norms)
    net = rewrite_by(model, replace(plan, strict=strict))
    net.check_early()
    return net


KINDS = {"rectifiers": frozenset({"rectifier"}), "all": frozenset({"rectifier", "smooth"})}


def plan_of(
    rule: Rule | Relay,
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
        _choose("switches", switches, ("own", *pooling.SCHEMES), "or Switches; read a file with Switches.load(path)")
    return Plan(rule, KINDS[activations], switches, overlap, replay == "both", norms)


def probing_plan() -> Plan:
    """A plan that lets every signal pass to wherever it can matter: sigmoids and their like are swapped too."""
    return replace(plan_of(rules.OPEN, switches="uniform", norms="bypass"), kinds=KINDS["all"] | {"other"})


def _choose(name: str, value: Any, choices: tuple[str, ...], more: str = "") -> None:
    if value not in choices:
        raise BadValue(f"{name} is one of {', '.join(map(repr, choices))} {more}".rstrip() + f", not {value!r}")


def rewrite_by(model: nn.Module | Callable[..., Any], plan: Plan) -> Rewritten:
    """`rewrite` by a plan."""
    if isinstance(model, nn.Module):
        model = shadow(model)
        swap(model, plan)
    elif not callable(model):
        raise BadType(f"rewrite takes an nn.Module or a function of tensors, not {type(model).__name__}")
    return Rewritten(model, plan)


class Rewritten(nn.Module):
    """A network under a rule: an ordinary module that stays in eval mode. `sites` says what the rule does where."""

    def __init__(self, model: nn.Module | Callable[..., Any], plan: Plan) -> None:
        super().__init__()
        self.model = model
        self.plan = plan
        self._seen: dict[str, Site] = {}
        self._parameters_known = sum(1 for _ in self.parameters())
        super().train(False)

    @property
    def sites(self) -> list[Site]:
        """Every site in the order of the last forward pass; those of modules that it did not call come last."""
        seen = dict(self._seen)
        for name, module in self.model.named_modules() if isinstance(self.model, nn.Module) else ():
            if isinstance(module, Swapped) and name not in seen:
                op, kind, swapped = module.description()
                seen[name] = Site(name, op, kind, "module", 0, swapped)
        return list(seen.values())

    @property
    def rule(self) -> Rule | Relay:
        """The rule that this network follows."""
        return self.plan.rule

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            with Lift(self.plan):
                return self.model(*args, **kwargs)
        lift = Lift(self.plan, follow=_have_gradient([*args, *kwargs.values()]))
        with lift:
            output = self.model(*args, **kwargs)
        self._note(lift)
        self._require_something_to_swap(self._seen.values())
        self._require_all_swapped()
        if isinstance(self.plan.switches, Switches):
            self.plan.switches.check_all_used(lift.pools)
        return output

    def forward_to(self, layer: str, *args: Any, lift: Lift | None = None) -> Any:
        """The output of the module `layer`; the forward pass stops there."""
        module = self.model.get_submodule(layer)  # type: ignore[union-attr]
        handle = module.register_forward_hook(_stop)
        lift = lift or Lift(self.plan, follow=_have_gradient(args))
        try:
            with lift:
                self.model(*args)
        except _Stop as stop:
            return stop.output
        finally:
            handle.remove()
            self._note(lift)
        raise BadValue(f"the layer {layer!r} was never reached: forward does not call it")

    def train(self, mode: bool = True) -> Rewritten:
        """Stays in eval mode: a gate of a net with dropout or batch statistics explains nothing."""
        return self

    def extra_repr(self) -> str:
        swapped = sum(site.swapped for site in self.sites)
        return f"rule={self.rule.name}, {swapped} of {len(self.sites)} sites swapped"

    def _note(self, lift: Lift) -> None:
        known = sum(1 for _ in self.parameters()) if not self._seen else self._parameters_known
        if known != self._parameters_known:
            raise CannotRewrite("the model makes parameters at its first call: call it once before you rewrite it")
        self._seen = lift.sites

    def check_early(self) -> None:
        """Raise where the code alone shows it: no forward pass will meet a rectifier, or `strict` is not met."""
        model = self.model
        if self.rule.is_gradient or not isinstance(model, nn.Module):
            return
        if not mentions(model, activations.names_in_code(self.plan.kinds)):
            seen = mentions(model, activations.names_in_code({"rectifier", "smooth"}))
            self._require_something_to_swap(self.sites, seen)
        self._require_all_swapped()

    def _require_something_to_swap(self, sites: Collection[Site], mentioned: Collection[str] = ()) -> None:
        if self.rule.is_gradient or any(site.follows for site in sites):
            return
        seen = {site.op for site in self.sites if site.kind not in ("pool", "norm")} | set(mentioned)
        aside = {site.op for site in sites if site.kind in self.plan.kinds}
        raise NothingToRewrite(
            f"the {self.rule.name} rule finds no rectifier in this model"
            + (f" that the image passes ({', '.join(sorted(aside))} elsewhere)" if aside else "")
            + f"; activations seen: {', '.join(sorted(seen)) or 'none'}"
            + ('; activations="all" swaps the smooth ones too' if "smooth" not in self.plan.kinds else "")
        )

    def _require_all_swapped(self) -> None:
        if not self.plan.strict or self.rule.is_gradient:
            return
        met = [site for site in self.sites if site.kind not in ("pool", "norm") and site.op not in GATES]
        left = [site for site in met if not site.swapped and site.kind != "rectifier"]  # which the image does not pass
        if left:
            named = ", ".join(f"{site.name} ({site.op})" for site in left[:3]) + (", ..." if len(left) > 3 else "")
            raise PartlyRewritten(
                f"the {self.rule.name} rule leaves {len(left)} of {len(met)} activations alone: {named}"
                + ('; activations="all" swaps the smooth ones too' if any(s.kind == "smooth" for s in left) else "")
            )


GATES = {"sigmoid", "hardsigmoid", "glu"}  # which weigh channels: no rectifiers, left alone by design


def _have_gradient(inputs: Collection[Any]) -> bool:
    """Whether autograd follows these, so that what does not depend on them can be told."""
    if not torch.is_grad_enabled() or transformed():
        return False
    return any(isinstance(x, Tensor) and x.requires_grad for x in inputs)


class _Stop(Exception):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def _stop(module: nn.Module, args: Any, output: Any) -> None:
    raise _Stop(output)


# ---------------------------------------------------------------------------------------------------------- shadow


def shadow(model: nn.Module) -> nn.Module:
    """A copy of a model's structure, in eval mode, whose tensors are the model's own."""
    model = unwrapped(model)
    _refuse_what_cannot_be_copied(model)
    memo: dict[int, Any] = {id(b): b for b in model.buffers() if not b.is_inference()}
    memo |= {id(p): nn.Parameter(_alias(p), requires_grad=False) for p in model.parameters()}
    for wrapper in list(model.modules()):
        if (inner := unwrapped(wrapper)) is not wrapper:
            memo[id(wrapper)] = copy.deepcopy(inner, memo)
    try:
        with _Aliasing():
            copied = copy.deepcopy(model, memo)
    except TypeError as error:
        raise CannotRewrite(f"{type(model).__name__} holds something that cannot be copied: {error}") from error
    for name, module in copied.named_modules():
        module.__dict__[NAME] = name
    return copied.eval()


NAME = "_attribkit_name"


class _Aliasing(TorchFunctionMode):
    """While a model is copied, tensors that it holds as plain attributes are shared and not copied."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            return _alias(args[0])
        return func(*args, **(kwargs or {}))


def _alias(tensor: Tensor) -> Tensor:
    """The same storage, without a graph; a copy of what was made in inference mode, which no graph may hold."""
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel, torch.compile and our own `Rewritten`."""
    while True:
        if isinstance(model, Rewritten) and isinstance(model.model, nn.Module):
            model = model.model
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return model


def _refuse_what_cannot_be_copied(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise CannotRewrite(f"{where} is TorchScript, whose activations cannot be reached: pass the eager model")
        if ".quantized" in type(module).__module__ or any(t.is_quantized for t in module.buffers(recurse=False)):
            raise CannotRewrite(f"{where} is quantized and has no gradient: pass the float model")
        if any(nn.parameter.is_lazy(t) for t in (*module._parameters.values(), *module._buffers.values())):
            raise CannotRewrite(f"{where} is still lazy: call the model once, so that its parameters have shapes")


# ------------------------------------------------------------------------------------------------------------ swap


class Swapped(nn.Module):
    """What a swapped module's class becomes: it keeps everything but its `forward`."""

    swapped_from: type[nn.Module]
    plan: Plan

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        lift = None if torch.compiler.is_compiling() else Lift.watching()
        if lift is None:
            return _run(self.plan, self.recognise(args), args, lambda: self.original(*args, **kwargs), None)
        with torch._C.DisableTorchFunction():  # what the module does within is no site of its own
            name = self.__dict__[NAME]
            return lift.at(name, "module", self.recognise(args), args, lambda: self.original(*args, **kwargs))

    def as_it_was(self) -> nn.Module:
        """The module of its old class, with the very same contents: methods of its own are there again."""
        twin = object.__new__(self.swapped_from)
        object.__setattr__(twin, "__dict__", self.__dict__)
        return twin

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """What the module did before."""
        return self.as_it_was().forward(*args, **kwargs)

    def recognise(self, args: tuple[Any, ...]) -> Call:
        """The activation, pool or norm that the module is when called with these."""
        found = activations.from_module(self.as_it_was())
        if found is not None:
            return found
        if issubclass(self.swapped_from, nn.LocalResponseNorm):
            return Norm()
        return pooling.from_module(self, self.swapped_from, args[0])

    def description(self) -> tuple[str, str, bool]:
        """Op, kind, swapped, without a call."""
        found = activations.from_module(self.as_it_was())
        if found is not None:
            return found.op, found.kind, self.plan.swaps(found)
        if issubclass(self.swapped_from, nn.LocalResponseNorm):
            return Norm.op, Norm.kind, True
        known = pooling.module_type(self.swapped_from)
        assert known is not None
        return known.__name__.lower().replace("maxpool", "_max_pool").lstrip("_"), Pool.kind, True


def swap(model: nn.Module, plan: Plan) -> None:
    """Give every activation, max-pool and LRN module of a shadow the rule's `forward`, and linear ones a lean one."""
    for module in model.modules():
        if isinstance(module, Swapped):
            module.plan = plan
        elif type(module) in linear.MODULES:
            module.__class__ = linear.MODULES[type(module)]
        elif (
            activations.from_module(module) is not None
            or pooling.module_type(type(module)) is not None
            or type(module).forward is nn.LocalResponseNorm.forward
        ):
            kind = type(module)
            module.__class__ = Swapped
            module.__dict__.update(swapped_from=kind, plan=plan)


# ------------------------------------------------------------------------------------------------------------ lift


class Lift(TorchFunctionMode):
    """Catches activations and pools while a shadow runs, and writes down the sites that it meets."""

    def __init__(
        self, plan: Plan, record: Callable[[str, Pool, Tensor], None] | None = None, *, follow: bool = False
    ) -> None:
        super().__init__()
        self.plan = plan
        self.record = record
        self.follow = follow  # autograd follows the image: what needs no gradient is not on its way
        self.sites: dict[str, Site] = {}
        self.pools: set[str] = set()
        self.counts: dict[str, int] = {}

    @staticmethod
    def watching() -> Lift | None:
        """The lift under which this thread runs a net; the innermost one of several."""
        modes = reversed(_get_current_function_mode_stack())
        return next((mode for mode in modes if isinstance(mode, Lift)), None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in WATCHED:
            return func(*args, **kwargs)
        if func in linear.FUNCTIONS:
            lean = None if torch.compiler.is_compiling() else linear.without_input(func, args, kwargs)
            return func(*args, **kwargs) if lean is None else lean
        found = recognise(func, args, kwargs)
        if found is None and "other" in self.plan.kinds and func in EXTREMES and _are_tensors(args):
            return args[0] + args[1]  # while probing, what wins must not hide what loses
        if found is None:
            return func(*args, **kwargs)
        x, call = found
        if torch.compiler.is_compiling():
            return _run(self.plan, call, (x,), lambda: func(*args, **kwargs), None)
        name = f"{_caller()}#{call.op}"
        return self.at(name, "function", call, (x,), lambda: func(*args, **kwargs))

    def at(self, name: str, how: Any, call: Call, args: Any, original: Callable[[], Any]) -> Any:
        """Run one site under the rule, and write it down."""
        count = self.counts[name] = self.counts.get(name, 0) + 1
        indexed = name if count == 1 else f"{name}:{count - 1}"
        site = name if how == "module" else indexed
        calls = count if how == "module" else 1
        aside = self.follow and torch.is_grad_enabled() and not args[0].requires_grad
        before = calls > 1 and self.sites[site].swapped
        swapped = before or (self.plan.swaps(call) and not aside)
        self.sites[site] = Site(site, call.op, call.kind, how, calls, swapped)
        if isinstance(call, Pool):
            self.pools.add(indexed)
            if self.record is not None:
                self.record(indexed, call, args[0])
        return _run(self.plan, call, args, original, indexed)


EXTREMES = {torch.maximum, Tensor.maximum, torch.max, Tensor.max, torch.minimum, Tensor.minimum, torch.min, Tensor.min}


def _are_tensors(args: tuple[Any, ...]) -> bool:
    return len(args) == 2 and all(isinstance(a, Tensor) and a.is_floating_point() for a in args)


WATCHED = EXTREMES | {F.local_response_norm, *activations.FUNCTIONS, *pooling.FUNCTIONS, *linear.FUNCTIONS}


def recognise(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Call] | None:
    """The tensor and the activation, pool or norm of a function call."""
    if func is F.local_response_norm:
        return args[0] if args else kwargs["input"], Norm()
    return activations.from_function(func, args, kwargs) or pooling.from_function(func, args, kwargs)


def _run(plan: Plan, call: Call, args: Any, original: Callable[[], Any], site: str | None) -> Any:
    """One site under the rule; `site` is its name among switches, None where calls are not counted."""
    if not plan.swaps(call):
        return original()
    x = args[0]
    if isinstance(call, Activation) and call.kind != "other":
        return call.apply(x, plan.rule)
    if isinstance(call, Activation):
        y = original()
        return _Fork.run(x, y, plan) if y.shape == x.shape else y
    if isinstance(call, Norm):
        return _Fork.run(x, original(), plan)
    if call.op == "amax" and plan.switches == "own":
        return original()  # autograd shares the signal among equal maxima, as it should
    indices, how = None, plan.switches
    if isinstance(plan.switches, Switches):
        if site is None:
            raise NotSupported("switches are replayed by the order of calls: call the net uncompiled")
        how = "switches"
        with torch.no_grad():
            like = call.forward(x.detach())[0]
        indices = plan.switches.at(site, call.plane(x), like)
    return call.apply(x, str(how), indices, plan.overlap, plan.conditions_forward)


class _Fork(Quick):
    """A step whose signal goes down through it, or past it, as the rule in force wants it."""

    @staticmethod
    def forward(x: Tensor, normed: Tensor, plan: Plan) -> Tensor:
        return normed.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.plan = inputs[2]

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        norms = ctx.plan.norms
        bypass = ctx.plan.rule.current.bypasses_norms if norms == "rule" else norms == "bypass"
        return (signal, None, None) if bypass else (None, signal, None)


def _caller() -> str:
    """The name of the innermost module of the shadow whose `forward` is running."""
    frame: FrameType | None = sys._getframe(2)
    name: str | None = None
    while frame is not None and frame.f_code is not Rewritten.forward.__code__:
        if frame.f_code.co_filename.endswith(CHECKPOINT):
            raise CannotRewrite(
                "gradient checkpointing computes activations again where the rule cannot follow: "
                "turn it off, for timm by model.set_grad_checkpointing(False)"
            )
        if name is None and frame.f_code.co_varnames:
            owner = frame.f_locals.get(frame.f_code.co_varnames[0])
            name = owner.__dict__.get(NAME) if isinstance(owner, nn.Module) else None
        frame = frame.f_back
    return name or ""


CHECKPOINT = "torch/utils/checkpoint.py"


def record_switches(model: nn.Module | Callable[..., Any], images: Tensor, sites: list[str] | None = None) -> Switches:
    """The switches of every max-pool of `model` on these images, or of `sites` only.

    With `sites` the forward pass stops after the last of them.
    """
    plan = plan_of(rules.BACKPROP)
    net = rewrite_by(model, plan)
    wanted = None if sites is None else set(sites)
    indices: dict[str, Tensor] = {}
    planes: dict[str, tuple[int, ...]] = {}

    def record(site: str, pool: Pool, x: Tensor) -> None:
        if wanted is None or site in wanted:
            indices[site], planes[site] = pool.forward(x)[1], pool.plane(x)
            if indices.keys() == wanted:
                raise _Stop(None)

    with torch.no_grad():
        try:
            with Lift(plan, record):
                net.model(images)
        except _Stop:
            pass
    missing = [site for site in sites or () if site not in indices]
    if missing or not indices:
        raise BadValue(f"no max-pool {missing[0]!r} was called" if missing else "this model has no max-pool to record")
    return Switches(indices, planes)
