"""A second pair of eyes: what the swap and the lift did not see shows in the graph of a finished forward pass.

Operators below torch's functions, other threads, compiled and exported parts, somebody's own `autograd.Function`, a
ReLU by arithmetic: each is a node of autograd's graph. The graph is walked once, from the output to the image; what
would rectify or bend a signal and is not ours, and what hides what it does, becomes a site that was left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from attribkit.engine.autograd import Quick
from attribkit.engine.plan import Passage, Site
from attribkit.engine.torch_private import storage_of

HIDDEN = "hidden"


@dataclass(frozen=True)
class Look:
    """What a graph shows: sites beside those that were met, and which of these no signal from the output reaches."""

    hidden: tuple[Site, ...] = ()
    unreached: frozenset[str] = frozenset()


def look_back(output: Any, met: Collection[Site], comparisons: Collection[Tensor]) -> Look:
    """Walk the graph of `output`, and hold it against the sites that were `met`."""
    nodes = list(_nodes(output))
    shown = Counter(filter(None, (_description(node, comparisons) for node in nodes)))
    aside = {s.name for s in met if not s.swapped and s.op in SMOOTH.values() and (s.op, s.kind) not in shown}
    for site in met:
        if not site.swapped and (site.op, site.kind) in shown:  # known already; a GELU under "rectifiers" is one
            shown[site.op, site.kind] -= site.calls
    hidden = [Site(f"graph#{op}", op, kind, "graph", count, False) for (op, kind), count in shown.items() if count > 0]
    return Look(tuple(hidden), _unreached(nodes, met, aside))


def _unreached(nodes: Collection[Any], met: Collection[Site], aside: Collection[str]) -> frozenset[str]:
    """Activations whose outcome was detached or dropped, and those `aside`, which no node of torch's stands for."""
    if not nodes or any("Vmapped" in _name(node) or "CopySlices" in _name(node) for node in nodes):
        return frozenset()  # all detached is another error; such nodes hide which sites they stand for
    here = [getattr(node, "here", None) for node in nodes if isinstance(node, FunctionCtx)]
    reached = {passage.site for passage in here if isinstance(passage, Passage)}
    return frozenset(aside) | {site.name for site in met if site.follows and site.name not in reached}


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a model's output, whatever holds them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, (list, tuple, set)):
        for inner in value:
            yield from tensors_in(inner)
    elif hasattr(value, "__dict__") and not isinstance(value, (type, torch.nn.Module)):
        yield from tensors_in(vars(value))


def _nodes(output: Any) -> Iterator[Any]:
    seen: set[Any] = set()
    waiting = [tensor.grad_fn for tensor in tensors_in(output)]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [above for above, _ in node.next_functions]


def _name(node: Any) -> str:
    """What a node is called; that of somebody's Function may have any attribute, also one that is called `name`."""
    if isinstance(node, FunctionCtx):
        return type(node).__name__.removesuffix("Backward")
    return str(node.name())


def _kind(node: Any) -> str:
    """What a node of torch's stands for: "Mul" for a `MulBackward0`."""
    return _name(node).partition("Backward")[0]


def _description(node: Any, comparisons: Collection[Tensor]) -> tuple[str, str] | None:
    """Op and kind of a node that a rule would change, or that hides what it does; None for others."""
    name = _name(node)
    if isinstance(node, FunctionCtx):
        return None if name.removeprefix("Vmapped") in {*Quick.names, *HOOKS} else (name, HIDDEN)
    if "jit::" in name or "Graph" in name:
        return "torch.jit", HIDDEN
    kind = _kind(node)
    if kind in SMOOTH:
        return SMOOTH[kind], "smooth"
    if kind in RECTIFIERS and RECTIFIERS[kind](node):
        return _OPS.get(kind, kind.lower()), "rectifier"
    if kind in MASKING and any(is_mask(saved, comparisons) for saved in _saved(node)):
        return f"{MASKING[kind]} by a comparison", "rectifier"
    if kind in ORDERING and _orders_a_constant(node):
        return f"{kind.lower()} with a constant", "rectifier"
    if kind in JOINING and _joins_its_own_source(node, JOINING[kind]):
        return "arithmetic that bends", "rectifier"
    if kind == "Mul" and _joins_its_own_source(node, _BENT):
        return "product with a function of itself", "smooth"
    return None


HOOKS = {"BackwardHookFunction"}  # of torch's modules, which pass everything on


SMOOTH = {
    "Gelu": "gelu",
    "Silu": "silu",
    "Mish": "mish",
    "Hardswish": "hardswish",
    "Elu": "elu",
    "Softplus": "softplus",
}


def _always(node: Any) -> bool:
    return True


def _is_zero(value: Any) -> bool:
    return value is not None and not bool(torch.as_tensor(value).any())


def _has_constant_zero(node: Any) -> bool:
    """A maximum of the image's signal and a constant zero."""
    sides = [side for side, (above, _) in enumerate(node.next_functions) if above is not None]
    return len(sides) == 1 and _is_zero(node._saved_other if sides == [0] else node._saved_self)


def _clips(node: Any) -> bool:
    """Whether numbers lay outside of what a quantized type holds."""
    return node._saved_mask.is_meta or not bool(node._saved_mask.all())


RECTIFIERS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "PreluKernel", "RreluWithNoise", "Threshold", "Sign"), _always),
    "Hardtanh": lambda node: _is_zero(node._saved_min_val),
    "Clamp": lambda node: _is_zero(node._saved_min) or _is_zero(node._saved_max),
    "ClampMin": lambda node: _is_zero(node._saved_min),
    "ClampMax": lambda node: _is_zero(node._saved_max),
    **dict.fromkeys(("Maximum", "Minimum", "Fmax", "Fmin"), _has_constant_zero),
    **dict.fromkeys(("FakeQuantizePerTensorAffineCachemask", "FakeQuantizePerChannelAffineCachemask"), _clips),
}
_OPS = {
    "LeakyRelu": "leaky_relu",
    "PreluKernel": "prelu",
    "RreluWithNoise": "rrelu",
    "ClampMin": "clamp",
    "FakeQuantizePerTensorAffineCachemask": "fake_quantize_per_tensor_affine",
    "FakeQuantizePerChannelAffineCachemask": "fake_quantize_per_channel_affine",
}

MASKING = {
    **dict.fromkeys(("Mul", "Addcmul", "Bmm"), "product"),
    "Div": "quotient",
    "Gather": "gather",
    "IndexAdd": "index_add",
    "IndexCopy": "index_copy",
    "IndexFill": "index_fill",
    **dict.fromkeys(("IndexPut", "IndexPutImpl"), "index_put"),
    "Lerp": "lerp",
    "MaskedFill": "masked_fill",
    "MaskedScatter": "masked_scatter",
    "Put": "put",
    "Scatter": "scatter",
    "Where": "where",
}
_SAVED = ("other", "self", "condition", "mask", "index", "indices", "tensor1", "tensor2", "mat2", "weight")


def _saved(node: Any) -> Iterator[Tensor]:
    """What a node of `MASKING` keeps beside the signal."""
    for name in _SAVED:
        saved = getattr(node, f"_saved_{name}", None)
        for tensor in saved if isinstance(saved, (tuple, list)) else (saved,):
            if isinstance(tensor, Tensor):
                yield tensor


def is_mask(saved: Tensor, comparisons: Collection[Tensor]) -> bool:
    """Whether a tensor is the outcome of a comparison, of whatever type it is now."""
    if storage_of(saved) in map(storage_of, comparisons):
        return True
    # As large as one, and of two or three values only, it was made of one: (sign(x) + 1) / 2, for instance.
    alike = not saved.requires_grad and saved.numel() > 3 and any(mask.numel() == saved.numel() for mask in comparisons)
    return alike and not saved.is_meta and len(saved.unique()) in (2, 3)


# What, joined with its own source, makes a ReLU: (x + |x|) / 2, x - min(x, 0), max(x, x / 10).
_BENDING = frozenset({"Abs", "Minimum", "Clamp", "ClampMax", "Copysign", "Fmin", "Hypot", "Sqrt"})
_FACTORS = frozenset({"Mul", "Div", "Neg"})
JOINING: dict[str, Collection[str]] = {
    **dict.fromkeys(("Add", "Sub"), _BENDING),
    **dict.fromkeys(("Maximum", "Minimum", "Fmax", "Fmin"), _FACTORS),
}
# And what, multiplied with it, makes a SiLU, a GELU...
_BENT = {"Sigmoid", "Hardsigmoid", "Tanh", "Erf", "Exp", "Softplus", "Log1P", "Hardtanh", "Clamp", "Reciprocal"}

# Steps that work element by element on one tensor, as those of x * sigmoid(x) do; no convolution, no mean.
_ELEMENTWISE = _BENDING | _BENT | {"SpecialExpit", "Mul", "Div", "Add", "Sub", "Pow", "Neg", "Complex"}
_FAR = 6


def _joins_its_own_source(node: Any, bends: Collection[str]) -> bool:
    """Whether a node brings something together with what a bend has made of the same thing."""
    sides = [step for step, _ in node.next_functions]
    if len(sides) != 2 or None in sides:
        return False
    one, other = (_chain(side) for side in sides)
    source = next((step for step in one if any(step is twin for twin in other)), None)
    if source is None:
        return False
    return any(_kind(step) in bends for step in (*one[: one.index(source)], *other[: other.index(source)]))


# What takes one of several numbers by their order: of x and zeros in a stack it makes a ReLU.
ORDERING = ("Max", "Min", "Amax", "Amin", "Aminmax", "Cummax", "Cummin", "Kthvalue", "Median", "Sort", "Topk")
_RESHAPING = ("View", "UnsafeView", "ReshapeAlias", "Transpose", "T", "Permute", "Unsqueeze", "Squeeze", "Clone")


def _orders_a_constant(node: Any) -> bool:
    """Whether what is ordered was put together of the image's signal and of a constant, or of a multiple of itself."""
    source = node.next_functions[0][0]
    while source is not None and _kind(source) in _RESHAPING:
        source = source.next_functions[0][0]
    if source is None or _kind(source) not in ("Stack", "Cat"):
        return False
    return any(part is None for part, _ in source.next_functions) or _joins_its_own_source(source, _FACTORS)


def _chain(node: Any) -> list[Any]:
    """A node and what it was made of, element by element, as far as each step has one source."""
    chain = [node]
    while len(chain) <= _FAR and _kind(chain[-1]) in _ELEMENTWISE:
        sources = list(dict.fromkeys(step for step, _ in chain[-1].next_functions if step is not None))
        if len(sources) != 1:
            break
        chain.append(sources[0])
    return chain
