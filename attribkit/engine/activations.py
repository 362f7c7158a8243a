"""What counts as an activation: how each is recognised, its gate and its rectifier.

An activation is an *op* (a row of `OPS`) with its constants. `from_function` and `from_module` turn a call or a
module into an `Activation`; `apply` runs it forwards as torch does, and backwards by a rule.

The functions in `OPS` are ATen operators and not those of `torch.nn.functional`: the lift watches the latter, and
must not see the library's own calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribkit.engine.autograd import Quick, transformed
from attribkit.engine.rules import Relay, Rule
from attribkit.errors import BadType, BadValue, NotSupported

aten = torch.ops.aten


# ------------------------------------------------------------------ what the rules need to know of each function


def _relu(signal: Tensor, *constants: Any) -> Tensor:
    return aten.relu.default(signal)


@dataclass(frozen=True)
class Op:
    """One activation function.

    `keep(x, y, *constants)` is the part of the forward pass that its gate needs, a byte an element at the most; None
    keeps x itself. `derivative(kept, like, *constants)` is f'(x), in the type of `like`.
    `one_sided` marks functions that fall before they rise (GELU): to a rule that rectifies, their negative side is
    closed. `inplace` is for functions whose gate can be told from their output.
    """

    kind: str
    forward: Callable[..., Tensor]
    derivative: Callable[..., Tensor]
    keep: Callable[..., Tensor] | None = None
    rectifier: Callable[..., Tensor] = _relu
    one_sided: bool = False
    inplace: Callable[..., Tensor] | None = None


def _mask(mask: Tensor, like: Tensor, *constants: Any) -> Tensor:
    # torch turns int8 into floats several times faster than bool.
    return mask.view(torch.int8).to(like.dtype)


def _is_positive(x: Tensor, y: Tensor, *constants: Any) -> Tensor:
    return x > 0


def _is_nonzero(x: Tensor, y: Tensor) -> Tensor:
    return y.bool()  # which for a ReLU says the same as x > 0, and faster


def _inside(x: Tensor, y: Tensor, low: float, high: float) -> Tensor:
    return (x > low) & (x < high)


def _inside_or_on_the_bounds(x: Tensor, y: Tensor, low: float, high: float | None) -> Tensor:
    """Where clamp passes a gradient: unlike hardtanh it does so on its bounds."""
    return x >= low if high is None else (x >= low) & (x <= high)


def _leaky_derivative(mask: Tensor, like: Tensor, slope: float) -> Tensor:
    return torch.where(mask, like.new_ones(()), slope)


def _prelu_derivative(mask: Tensor, like: Tensor, weight: Tensor) -> Tensor:
    if weight.numel() > 1:
        weight = weight.reshape(-1, *[1] * (mask.dim() - 2))
    return torch.where(mask, like.new_ones(()), weight.to(like.dtype))


def _sign(x: Tensor, y: Tensor, zero: Tensor) -> Tensor:
    return torch.sign(x).to(torch.int8)


def _half_at_zero(sign: Tensor, like: Tensor, zero: Tensor) -> Tensor:
    """torch splits the gradient of a maximum evenly where the two are equal."""
    return (sign.to(like.dtype) + 1) / 2


def _from_backward(backward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """f'(x), out of torch's own backward kernel of f."""
    return lambda x, like, *constants: backward(torch.ones_like(x), x, *constants)


def _silu_derivative(x: Tensor, like: Tensor) -> Tensor:
    """By arithmetic, since torch's kernel cannot be differentiated again; and so for Mish."""
    gate = aten.sigmoid.default(x)
    return gate * (1 + x * (1 - gate))


def _mish_derivative(x: Tensor, like: Tensor) -> Tensor:
    inner = aten.tanh.default(aten.softplus.default(x))
    return inner + x * aten.sigmoid.default(x) * (1 - inner * inner)


def _gelu(x: Tensor, approximate: str) -> Tensor:
    return aten.gelu.default(x, approximate=approximate)


def _gelu_derivative(x: Tensor, like: Tensor, approximate: str) -> Tensor:
    return aten.gelu_backward.default(torch.ones_like(x), x, approximate=approximate)


def _elu_derivative(x: Tensor, like: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    return aten.elu_backward.default(torch.ones_like(x), alpha, scale, input_scale, False, x)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * aten.sigmoid.default(1.702 * x)


def _quick_gelu_derivative(x: Tensor, like: Tensor) -> Tensor:
    gate = aten.sigmoid.default(1.702 * x)
    return gate * (1 + 1.702 * x * (1 - gate))


def _smooth(forward: Any, derivative: Callable[..., Tensor], one_sided: bool = False) -> Op:
    return Op("smooth", forward, derivative, one_sided=one_sided)


OPS: dict[str, Op] = {
    "relu": Op("rectifier", aten.relu.default, _mask, _is_nonzero, inplace=aten.relu_.default),
    "relu6": Op("rectifier", aten.hardtanh.default, _mask, _inside, inplace=aten.hardtanh_.default),
    "hardtanh": Op("rectifier", aten.hardtanh.default, _mask, _inside, inplace=aten.hardtanh_.default),
    "clamp": Op("rectifier", aten.clamp.default, _mask, _inside_or_on_the_bounds),
    "threshold": Op("rectifier", aten.threshold.default, _mask, lambda x, y, at, value: x > at),
    "maximum": Op("rectifier", aten.maximum.default, _half_at_zero, _sign),
    "leaky_relu": Op("rectifier", aten.leaky_relu.default, _leaky_derivative, _is_positive, aten.leaky_relu.default),
    "prelu": Op("rectifier", aten.prelu.default, _prelu_derivative, _is_positive, aten.prelu.default),
    "gelu": _smooth(_gelu, _gelu_derivative, one_sided=True),
    "silu": _smooth(aten.silu.default, _silu_derivative, one_sided=True),
    "mish": _smooth(aten.mish.default, _mish_derivative, one_sided=True),
    "hardswish": _smooth(aten.hardswish.default, _from_backward(aten.hardswish_backward.default), one_sided=True),
    "quick_gelu": _smooth(_quick_gelu, _quick_gelu_derivative, one_sided=True),
    # The same by arithmetic, as timm has them: the last bit differs from torch's own.
    "swish": _smooth(lambda x: x * aten.sigmoid.default(x), _silu_derivative, one_sided=True),
    "mish_by_parts": _smooth(
        lambda x: x * aten.tanh.default(aten.softplus.default(x)),
        _mish_derivative,
        one_sided=True,
    ),
    "hardswish_by_parts": _smooth(
        lambda x: x * (aten.hardtanh.default(x + 3.0, 0.0, 6.0) / 6.0),
        _from_backward(aten.hardswish_backward.default),
        one_sided=True,
    ),
    "elu": _smooth(aten.elu.default, _elu_derivative),
    "softplus": _smooth(aten.softplus.default, _from_backward(aten.softplus_backward.default)),
}

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


# ------------------------------------------------------------------------------- one activation, applied by a rule


@dataclass(frozen=True)
class Activation:
    """One activation with its constants. An op without a row in `OPS` is seen, named and left alone."""

    op: str
    constants: tuple[Any, ...] = ()
    inplace: bool = False

    @property
    def kind(self) -> str:
        return OPS[self.op].kind if self.op in OPS else "other"

    def apply(self, x: Tensor, rule: Rule | Relay) -> Tensor:
        """The activation of x; a gradient that comes back passes by the rule."""
        op = OPS[self.op]
        if not self.inplace:
            return _Activate.run(x, self.op, rule, False, *self.constants)
        if op.inplace is not None and not transformed():
            return _Activate.run(x, self.op, rule, True, *self.constants)
        # What is written in place must not be what the gate of a smooth function is computed from.
        source = x.clone() if op.keep is None else x
        return x.copy_(_Activate.run(source, self.op, rule, False, *self.constants))


class _Activate(Quick):
    @staticmethod
    def forward(x: Tensor, name: str, rule: Rule | Relay, inplace: bool, *constants: Any) -> Tensor:
        if not inplace:
            return OPS[name].forward(x, *constants)
        OPS[name].inplace(x, *constants)  # type: ignore[misc]
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.name, ctx.rule, inplace, *constants = inputs
        op, kept = OPS[ctx.name], None
        if ctx.rule.gate:
            kept = x if op.keep is None else op.keep(x, output, *constants)
        if inplace:
            ctx.mark_dirty(x)
        # At most one constant is a tensor (the slopes of a PReLU), and then it is the only one.
        tensors = [c for c in constants if isinstance(c, Tensor)]
        ctx.constants = () if tensors else constants
        ctx.count = len(constants)
        ctx.save_for_backward(kept, *tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, signal: Tensor | None) -> tuple[Tensor | None, ...]:
        nothing = (None,) * (3 + ctx.count)
        if signal is None:
            return None, *nothing
        kept, *tensors = ctx.saved_tensors
        constants = (*ctx.constants, *tensors)
        op, rule = OPS[ctx.name], ctx.rule.current
        if op.derivative is _mask and rule.gate and rule.function is None:
            return _through_mask(signal, kept, rule.rectify), *nothing
        gate = None
        if rule.gate:
            gate = op.derivative(kept, signal, *constants)
            if op.one_sided and not rule.is_gradient:
                gate = gate * (kept > 0)
        return rule.down(signal, gate, lambda s: op.rectifier(s, *constants)), *nothing


def _through_mask(signal: Tensor, mask: Tensor, rectify: bool) -> Tensor:
    """`Rule.down` for a gate of zeros and ones, writing in place where that is allowed."""
    mask = mask.view(torch.int8)  # which torch turns into floats several times faster than bool
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or transformed():
        below = signal * mask
        return aten.relu.default(below) if rectify else below
    with torch._C.DisableTorchFunction():  # or a lift that is at work takes these for sites
        # One new tensor and not two: large ones are what a backward pass spends its time on beside convolutions.
        below = torch.empty_like(signal).copy_(mask).mul_(signal)
        return below.relu_() if rectify else below


# --------------------------------------------------------------------------- how a call or a module is recognised

Recognised = tuple[Tensor, Activation] | None


def _clamp(input: Tensor, min: Any = None, max: Any = None, *, out: Any = None, inplace: bool = False) -> Recognised:
    if isinstance(min, Tensor) or isinstance(max, Tensor) or min != 0 or out is not None:
        return None
    return input, Activation("clamp", (min, max), inplace)


def _clamp_min(input: Tensor, min: Any, *, out: Any = None, inplace: bool = False) -> Recognised:
    return _clamp(input, min, out=out, inplace=inplace)


def _maximum(input: Tensor, other: Any = None, *args: Any, **kwargs: Any) -> Recognised:
    """A maximum with a constant zero. The zero may stand first."""
    if args or kwargs or not isinstance(other, Tensor):
        return None
    if torch.compiler.is_compiling() and not (input.requires_grad and other.requires_grad):
        raise NotSupported("whether a maximum is a ReLU hangs on its values: call the net uncompiled")
    for x, zero in ((input, other), (other, input)):
        if zero.dim() <= x.dim() and not zero.requires_grad and zero.is_floating_point() and not zero.any():
            return x, Activation("maximum", (zero,))
    return None


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Recognised:
    if min_val != 0:
        return input, Activation("hardtanh(below zero)")
    return input, Activation("hardtanh", (min_val, max_val), inplace)


def _threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Recognised:
    if value != 0:
        return input, Activation("threshold(not to zero)")
    return input, Activation("threshold", (threshold, value), inplace)


def _rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Recognised:
    if training:
        return input, Activation("rrelu(training)")
    return input, Activation("leaky_relu", ((lower + upper) / 2,), inplace)


def _elu(
    input: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0, inplace: bool = False
) -> Recognised:
    return input, Activation("elu", (alpha, scale, input_scale), inplace)


def _plain(op: str, *constants: Any, inplace: bool = False) -> Callable[..., Recognised]:
    """A function whose only other argument is `inplace`."""

    def recognise(input: Tensor, inplace: bool = inplace) -> Recognised:
        return input, Activation(op, constants, inplace)

    return recognise


def _seen(op: str) -> Callable[..., Recognised]:
    """A function that no rule is defined for."""
    return lambda input, *args, **kwargs: (input, Activation(op))


def _inplace(recognise: Callable[..., Recognised]) -> Callable[..., Recognised]:
    return lambda *args, **kwargs: recognise(*args, **kwargs, inplace=True)


def _leaky(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Recognised:
    return input, Activation("leaky_relu", (negative_slope,), inplace)


FUNCTIONS: dict[Any, Callable[..., Recognised]] = {
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), _plain("relu")),
    **dict.fromkeys((torch.relu_, Tensor.relu_), _plain("relu", inplace=True)),
    F.relu6: _plain("relu6", 0.0, 6.0),
    F.hardtanh: _hardtanh,
    F.hardtanh_: _inplace(_hardtanh),
    F.leaky_relu: _leaky,
    F.leaky_relu_: _inplace(_leaky),
    F.rrelu: _rrelu,
    torch.rrelu: _rrelu,
    F.rrelu_: _inplace(_rrelu),
    **dict.fromkeys(
        (F.prelu, torch.prelu, Tensor.prelu), lambda input, weight: (input, Activation("prelu", (weight,)))
    ),
    F.threshold: _threshold,
    torch.threshold: _threshold,
    torch.threshold_: _inplace(_threshold),  # which is F.threshold_
    **dict.fromkeys((torch.clamp, torch.clip, Tensor.clamp, Tensor.clip), _clamp),
    **dict.fromkeys((torch.clamp_, torch.clip_, Tensor.clamp_, Tensor.clip_), _inplace(_clamp)),
    **dict.fromkeys((torch.clamp_min, Tensor.clamp_min), _clamp_min),
    **dict.fromkeys((torch.clamp_min_, Tensor.clamp_min_), _inplace(_clamp_min)),
    **dict.fromkeys((torch.maximum, Tensor.maximum, torch.max, Tensor.max), _maximum),
    F.gelu: lambda input, approximate="none": (input, Activation("gelu", (approximate,))),
    F.silu: _plain("silu"),
    F.mish: _plain("mish"),
    F.hardswish: _plain("hardswish"),
    F.elu: lambda input, alpha=1.0, inplace=False: _elu(input, alpha, inplace=inplace),
    F.elu_: lambda input, alpha=1.0: _elu(input, alpha, inplace=True),
    **dict.fromkeys(
        (F.celu, torch.celu),
        lambda input, alpha=1.0, inplace=False: _elu(input, alpha, 1.0, 1.0 / alpha, inplace),
    ),
    torch.celu_: lambda input, alpha=1.0: _elu(input, alpha, 1.0, 1.0 / alpha, inplace=True),
    **dict.fromkeys(
        (F.selu, torch.selu), lambda input, inplace=False: _elu(input, SELU_ALPHA, SELU_SCALE, 1.0, inplace)
    ),
    torch.selu_: lambda input: _elu(input, SELU_ALPHA, SELU_SCALE, 1.0, inplace=True),
    F.softplus: lambda input, beta=1.0, threshold=20.0: (input, Activation("softplus", (beta, threshold))),
    **{
        function: _seen(name)
        for name, functions in {
            "sigmoid": (torch.sigmoid, Tensor.sigmoid, F.sigmoid, Tensor.sigmoid_),
            "tanh": (torch.tanh, Tensor.tanh, F.tanh, Tensor.tanh_),
            "hardsigmoid": (F.hardsigmoid,),
            "logsigmoid": (F.logsigmoid,),
            "softsign": (F.softsign,),
            "tanhshrink": (F.tanhshrink,),
            "softshrink": (F.softshrink,),
            "hardshrink": (F.hardshrink, torch.hardshrink, Tensor.hardshrink),
            "glu": (F.glu,),
        }.items()
        for function in functions
    },
}


def from_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recognised:
    """The tensor and the activation of a function call; None where the call is no activation."""
    recognise = FUNCTIONS.get(function)
    if recognise is None:
        return None
    recognised = recognise(*args, **kwargs)
    return recognised if recognised is not None and recognised[0].is_floating_point() else None


def _scalar(op: str, *names: str) -> Callable[[Any], Activation]:
    """A module whose constants are its attributes `names`."""
    return lambda m: Activation(op, tuple(getattr(m, n) for n in names), getattr(m, "inplace", False))


def _of_call(recognise: Callable[..., Recognised], *names: str) -> Callable[[Any], Activation]:
    """A module that makes the same distinctions as its function."""

    def describe(m: Any) -> Activation:
        recognised = recognise(None, *(getattr(m, n) for n in names), inplace=m.inplace)
        assert recognised is not None
        return recognised[1]

    return describe


MODULES: dict[type[nn.Module], Callable[[Any], Activation]] = {
    nn.ReLU: _scalar("relu"),
    nn.ReLU6: lambda m: Activation("relu6", (0.0, 6.0), m.inplace),
    nn.Hardtanh: _of_call(_hardtanh, "min_val", "max_val"),
    nn.LeakyReLU: _scalar("leaky_relu", "negative_slope"),
    nn.RReLU: _of_call(_rrelu, "lower", "upper"),
    nn.PReLU: _scalar("prelu", "weight"),
    nn.Threshold: _of_call(_threshold, "threshold", "value"),
    nn.GELU: _scalar("gelu", "approximate"),
    nn.SiLU: _scalar("silu"),
    nn.Mish: _scalar("mish"),
    nn.Hardswish: _scalar("hardswish"),
    nn.ELU: lambda m: Activation("elu", (m.alpha, 1.0, 1.0), m.inplace),
    nn.CELU: lambda m: Activation("elu", (m.alpha, 1.0, 1.0 / m.alpha), m.inplace),
    nn.SELU: lambda m: Activation("elu", (SELU_ALPHA, SELU_SCALE, 1.0), m.inplace),
    nn.Softplus: _scalar("softplus", "beta", "threshold"),
    **{
        module: _scalar(module.__name__.lower())
        for module in (nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink)
    },
    **{module: _scalar(module.__name__.lower()) for module in (nn.Softshrink, nn.Hardshrink, nn.GLU)},
}

# Modules that compute their activation by arithmetic, which the lift cannot see; named, so that nothing is imported.
ARITHMETIC: dict[str, Callable[[Any], Activation]] = {
    "timm.layers.activations.Swish": _scalar("swish"),
    "timm.layers.activations.Mish": lambda m: Activation("mish_by_parts"),
    "timm.layers.activations.HardSwish": _scalar("hardswish_by_parts"),
    "timm.layers.activations.QuickGELU": lambda m: Activation("quick_gelu"),
    "timm.layers.activations.HardSigmoid": lambda m: Activation("hardsigmoid"),
    "timm.layers.activations.HardMish": lambda m: Activation("hardmish"),
    "timm.layers.activations_me.HardMishMe": lambda m: Activation("hardmish"),
}


def from_module(module: nn.Module) -> Activation | None:
    """The activation that a module is, also when it is of a subclass that keeps `forward`; None for others."""
    kind = type(module)
    describe = ARITHMETIC.get(f"{kind.__module__}.{kind.__qualname__}")
    if describe is None:
        known = next((k for k in kind.__mro__ if k in MODULES), None)
        if known is None or kind.forward is not known.forward:
            return None
        describe = MODULES[known]
    return describe(module)


def register_activation(
    module: type[nn.Module],
    kind: Literal["rectifier", "smooth"],
    *,
    derivative: Callable[[Any, Tensor], Tensor] | None = None,
    rectifier: Callable[[Any, Tensor], Tensor] | None = None,
    falls_first: bool = False,
) -> None:
    """Let the rules act on an activation module of your own as they act on torch's.

        attribkit.register_activation(SquaredReLU, "rectifier")

    Its `forward` takes one tensor and works element by element; it runs as it is. `kind` says whether it is swapped
    always ("rectifier") or with `activations="all"` ("smooth"). `derivative(module, x)` is its gate, by default found
    by autograd; `rectifier(module, signal)` is what the deconvnet and guided backprop put a signal through, by default
    a ReLU. `falls_first` is for functions like GELU, which fall before they rise: where x < 0 their gate counts as
    closed. Registering holds for all networks that are rewritten afterwards, and for subclasses that keep `forward`.
    """
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise BadType(f"register_activation takes a class of modules, not {module!r}")
    if kind not in ("rectifier", "smooth"):
        raise BadValue(f"kind is 'rectifier' or 'smooth', not {kind!r}")
    name = module.__name__
    if name in OPS and module not in MODULES:
        raise BadValue(f"an activation is already called {name!r}: give the class another name")
    OPS[name] = Op(
        kind,
        _forward_out_of_place,
        lambda x, like, m: derivative(m, x) if derivative else _derivative_by_autograd(m, x),
        rectifier=lambda signal, m: rectifier(m, signal) if rectifier else _relu(signal),
        one_sided=falls_first,
    )
    MODULES[module] = lambda m: Activation(name, (m,))


def _forward_out_of_place(x: Tensor, module: nn.Module) -> Tensor:
    version = x._version
    y: Tensor = module.forward(x)
    if x._version != version:
        raise BadValue(f"{type(module).__name__} writes into its input, which its gate is computed from: use a copy")
    return y


def _derivative_by_autograd(module: nn.Module, x: Tensor) -> Tensor:
    """f'(x) of a function that works element by element."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = module.forward(x)
        if y.shape != x.shape:
            raise BadValue(f"{type(module).__name__} is no activation: {tuple(x.shape)} becomes {tuple(y.shape)}")
        return torch.autograd.grad(y.sum(), x)[0]


def names_in_code(kinds: Collection[str]) -> frozenset[str]:
    """What a call of an activation of these kinds, or a module of it made on the spot, looks like in code."""
    parts = {"relu", "clamp", "clip", "threshold", "max", "hardtanh"} if "rectifier" in kinds else set()
    parts |= {"gelu", "silu", "mish", "swish", "elu", "softplus"} if "smooth" in kinds else set()
    names = {known.__name__ for known in (*FUNCTIONS, *MODULES)}
    return frozenset(name for name in names if any(part in name.lower() for part in parts))
