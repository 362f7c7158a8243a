"""What counts as an activation: the calls and the modules, each with its constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribkit.engine.autograd import eager
from attribkit.engine.classes import nearest
from attribkit.engine.gates import OPS, SELU_ALPHA, SELU_SCALE, Activation, Op, rectified
from attribkit.engine.torch_private import NN
from attribkit.errors import BadType, BadValue, NotSupported

aten = torch.ops.aten

Recognised = tuple[Tensor, Activation] | None


def _clamp(input: Tensor, min: Any = None, max: Any = None, *, out: Any = None, inplace: bool = False) -> Recognised:
    if isinstance(min, Tensor) or isinstance(max, Tensor) or min != 0 or out is not None:
        return None
    return input, Activation("clamp", (min, max), inplace)


def _clamp_min(input: Tensor, min: Any, *, out: Any = None, inplace: bool = False) -> Recognised:
    return _clamp(input, min, out=out, inplace=inplace)


def _maximum(input: Tensor, other: Any = None, *args: Any, **kwargs: Any) -> Recognised:
    """A maximum with a constant zero, which stands behind; `masks` knows the other."""
    if args or kwargs or not isinstance(other, Tensor):
        return None
    if not eager() and not (input.requires_grad and other.requires_grad):
        raise NotSupported("whether a maximum is a ReLU depends on its values: call the net without torch.compile")
    if not input.is_floating_point() or other.dim() > input.dim() or other.requires_grad or other.is_complex():
        return None
    is_zero = other.is_meta or not other.any()  # on the meta device what may be a rectifier is taken for one
    return (input, Activation("maximum", (other,))) if is_zero else None


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


def _named(name: str) -> tuple[Any, ...]:
    """An operator below torch's functions by all the ways that lead to it."""
    packet = getattr(aten, name)
    below = (getattr(NN, name),) if hasattr(NN, name) else ()
    return packet, packet.default, *below


OPERATORS: dict[Any, Callable[..., Recognised]] = {
    **dict.fromkeys(_named("relu"), _plain("relu")),
    **dict.fromkeys(_named("relu_"), _plain("relu", inplace=True)),
    NN.relu6: _plain("relu6", 0.0, 6.0),
    NN.relu6_: _plain("relu6", 0.0, 6.0, inplace=True),
    **dict.fromkeys(_named("hardtanh"), _hardtanh),
    **dict.fromkeys(_named("hardtanh_"), _inplace(_hardtanh)),
    **dict.fromkeys(_named("leaky_relu"), _leaky),
    **dict.fromkeys(_named("leaky_relu_"), _inplace(_leaky)),
    **dict.fromkeys(_named("threshold"), _threshold),
    **dict.fromkeys(_named("threshold_"), _inplace(_threshold)),
    **dict.fromkeys(_named("clamp"), _clamp),
    **dict.fromkeys(_named("clamp_"), _inplace(_clamp)),
    **dict.fromkeys(_named("clamp_min"), _clamp_min),
    **dict.fromkeys(_named("clamp_min_"), _inplace(_clamp_min)),
    **dict.fromkeys(_named("prelu"), lambda input, weight: (input, Activation("prelu", (weight,)))),
    **dict.fromkeys(_named("maximum"), _maximum),
    **dict.fromkeys(_named("silu"), _plain("silu")),
    **dict.fromkeys(_named("silu_"), _plain("silu", inplace=True)),
    **dict.fromkeys(_named("mish"), _plain("mish")),
    **dict.fromkeys(_named("hardswish"), _plain("hardswish")),
    **dict.fromkeys(_named("elu"), _elu),
    **dict.fromkeys(_named("elu_"), _inplace(_elu)),
    **dict.fromkeys(_named("gelu"), lambda input, approximate="none": (input, Activation("gelu", (approximate,)))),
    **dict.fromkeys(
        _named("softplus"), lambda input, beta=1, threshold=20: (input, Activation("softplus", (beta, threshold)))
    ),
}

FUNCTIONS: dict[Any, Callable[..., Recognised]] = {
    **OPERATORS,  # first: some are the very same objects as functions of torch, which say more exactly what they take
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

EXTREMES = {torch.maximum, Tensor.maximum, torch.max, Tensor.max, torch.minimum, Tensor.minimum, torch.min, Tensor.min}


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
    "transformers.activations.QuickGELUActivation": lambda m: Activation("quick_gelu"),
    "timm.layers.activations.HardSigmoid": lambda m: Activation("hardsigmoid"),
    "timm.layers.activations.HardMish": lambda m: Activation("hardmish"),
    "timm.layers.activations_me.HardMishMe": lambda m: Activation("hardmish"),
}


def from_module(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recognised:
    """The tensor and the activation of a call of a module; None for other modules."""
    describe = _description_of(type(module))
    return None if describe is None else (args[0] if args else kwargs["input"], describe(module))


def describe(module: nn.Module) -> tuple[str, str] | None:
    """Op and kind of a module that is an activation; None for others."""
    describe = _description_of(type(module))
    if describe is None:
        return None
    activation = describe(module)
    return activation.op, activation.kind


def _description_of(kind: type[nn.Module]) -> Callable[[Any], Activation] | None:
    """What describes the activation modules of a class, also of a subclass that keeps `forward`."""
    arithmetic = ARITHMETIC.get(f"{kind.__module__}.{kind.__qualname__}")
    known = nearest(kind, MODULES)
    return arithmetic or (None if known is None else MODULES[known])


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

    It holds for all networks that are rewritten afterwards, and for subclasses that keep `forward`.

    Args:
        module: The class. Its `forward` takes one tensor and works element by element; it runs as it is.
        kind: "rectifier" is always swapped, "smooth" with `activations="all"` only.
        derivative: `derivative(module, x)` is the gate; without it, autograd finds it.
        rectifier: `rectifier(module, signal)` is what the deconvnet and guided backprop put a signal through; without
            it, a ReLU.
        falls_first: Whether the function falls before it rises, as GELU does: where x < 0 its gate counts as closed.

    Raises:
        BadType: `module` is not a class of modules.
        BadValue: `kind` is neither of the two, or another activation has the same name.
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
        rectifier=lambda signal, m: rectifier(m, signal) if rectifier else rectified(signal),
        falls_first=falls_first,
    )
    MODULES[module] = lambda m: Activation(name, (m,))


def _forward_out_of_place(x: Tensor, module: nn.Module) -> Tensor:
    version = x._version
    y: Tensor = type(module).forward(module, x)  # and not the instance's, which is ours
    if x._version != version:
        raise BadValue(f"{type(module).__name__} writes into its input, which its gate is computed from: use a copy")
    return y


def _derivative_by_autograd(module: nn.Module, x: Tensor) -> Tensor:
    """f'(x) of a function that works element by element."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = type(module).forward(module, x)
        if y.shape != x.shape:
            raise BadValue(
                f"{type(module).__name__} is not an activation: it turns {tuple(x.shape)} into {tuple(y.shape)}"
            )
        return torch.autograd.grad(y.sum(), x)[0]
