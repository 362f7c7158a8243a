"""Slow and obvious answers to hold the library against. Nothing here imports or imitates the library.

The library changes a model before its forward pass. The oracle leaves the model alone: it runs the plain
forward pass and then changes what the nodes of the finished autograd graph hand down, so every call of every
activation, however written, is met where it stands.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional as F

Gradients = tuple[Tensor, ...]

# Every rule at an activation, for one node of the graph -----------------------------------------------------

SMOOTH_AND_CLOSED_BELOW_ZERO = {"Gelu", "Silu", "Mish", "Hardswish"}
SMOOTH = SMOOTH_AND_CLOSED_BELOW_ZERO | {"Elu", "Celu", "Softplus"}  # SELU is an Elu with other constants


def kind(node: Node) -> str:
    """The name of a node without "Backward" and the number of its overload: in-place forms have their own."""
    return node.name().partition("Backward")[0]


def is_zero(constant: Any) -> bool:
    """Whether a constant, a number or a tensor, is zero throughout."""
    return constant is not None and bool((torch.as_tensor(constant) == 0).all())


def rectifier_of(node: Node, activations: str) -> Callable[[Tensor], Tensor] | None:
    """What rectifies the signal at this node, or None for a node that is no activation of the asked-for set.

    A threshold node does not keep the value below its threshold; it is taken to be 0.
    """
    if kind(node) == "LeakyRelu":
        slope = node._saved_negative_slope
        return lambda signal: F.leaky_relu(signal, slope)
    if kind(node) == "RreluWithNoise":
        slope = (node._saved_lower + node._saved_upper) / 2
        return lambda signal: F.leaky_relu(signal, slope)
    if kind(node) == "PreluKernel":
        weight = node._saved_weight
        return lambda signal: torch.where(signal > 0, signal, weight * signal)
    relu_like = (
        kind(node) in ("Relu", "Threshold")
        or (kind(node) == "Hardtanh" and node._saved_min_val == 0)
        or (kind(node) in ("Clamp", "ClampMin") and is_zero(node._saved_min))
        or (kind(node) == "Maximum" and operand_beside_zero(node) is not None)
        or (activations == "all" and kind(node) in SMOOTH)
    )
    return torch.relu if relu_like else None


def operand_beside_zero(node: Node) -> int | None:
    """Of maximum(a, b): which operand (0 or 1) is compared with a constant zero; None if neither is."""
    operands = (node._saved_self, node._saved_other)
    for this, that in ((0, 1), (1, 0)):
        is_constant = node.next_functions[that][0] is None
        if (
            is_constant
            and is_zero(operands[that])
            and operands[this].shape == torch.broadcast_shapes(operands[0].shape, operands[1].shape)
        ):
            return this
    return None


def apply_rule(node: Node, rule: str, activations: str) -> None:
    """Make an activation's node obey the rule: rectify what comes in; under the deconvnet, open its gate."""
    rectify = rectifier_of(node, activations)
    if rectify is None or rule == "backprop":
        return
    operand = operand_beside_zero(node) if kind(node) == "Maximum" else 0
    closed = node._saved_self <= 0 if kind(node) in SMOOTH_AND_CLOSED_BELOW_ZERO else None

    def before(incoming: Gradients) -> Gradients:
        return (rectify(incoming[0]),)

    def after(outgoing: Gradients, rectified: Gradients) -> Gradients:
        changed = list(outgoing)
        if rule == "deconvnet":
            changed[operand] = rectified[0]
        elif closed is not None:
            changed[operand] = torch.where(closed, 0, changed[operand])
        return tuple(changed)

    node.register_prehook(before)
    node.register_hook(after)


# Walking a whole model --------------------------------------------------------------------------------------


def attribution(
    model: nn.Module,
    x: Tensor,
    signal_of: Callable[[Any], Tensor],
    rule: str,
    activations: str = "rectifiers",
    pools: str | Sequence[Tensor] = "own",
) -> Tensor:
    """What `rule` ("backprop", "deconvnet" or "guided") brings down to `x` from `signal_of(model(x))`.

    `pools` is "own" (as autograd does), "overwrite", "uniform", "center", "corner", or the switches of each
    max-pool in the order of their calls. The model itself is neither run nor changed: a copy in eval mode is.
    """
    image = x.detach().clone().requires_grad_()
    scalar = signal_of(copied(model).eval()(image))
    nodes = graph_of(scalar)
    for node in nodes:
        apply_rule(node, rule, activations)
        if rule == "deconvnet" and is_lrn_division(node):
            node.register_hook(lambda outgoing, incoming: (incoming[0], torch.zeros_like(incoming[0])))
    for position, node in enumerate(pool_nodes(nodes)):
        apply_pool(node, pools if isinstance(pools, str) else pools[position])
    (gradient,) = torch.autograd.grad(scalar, image)
    return gradient


def switches_of(model: nn.Module, x: Tensor, signal_of: Callable[[Any], Tensor]) -> list[Tensor]:
    """The switches of each max-pool that `signal_of(model(x))` depends on, in the order of their calls."""
    image = x.detach().clone().requires_grad_()
    nodes = pool_nodes(graph_of(signal_of(copied(model).eval()(image))))
    return [own_switches(node) for node in nodes]


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also where a module holds a computed tensor, as old-style weight_norm does."""
    held = [value for module in model.modules() for value in vars(module).values()]
    computed = [value for value in held if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})


def graph_of(scalar: Tensor) -> list[Node]:
    """Every node of the graph above `scalar`, each once.

    An in-place operation on a view hides its node inside a CopySlices, where nothing can be hooked: refused.
    """
    seen: dict[Node, None] = {}
    waiting = [scalar.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if kind(node).endswith("CopySlices"):
            raise NotImplementedError("an in-place operation on a view is hidden from the oracle")
        seen[node] = None
        waiting += [parent for parent, _ in node.next_functions]
    return list(seen)


def is_lrn_division(node: Node) -> bool:
    """Whether this is the division in F.local_response_norm: x / (k + alpha * pooled squares) ** beta."""
    if kind(node) != "Div" or len(node.next_functions) < 2:
        return False
    chain, divisor = [], node.next_functions[1][0]
    while divisor is not None and divisor.next_functions and len(chain) < 7:
        chain.append(kind(divisor))
        divisor = divisor.next_functions[0][0]
    return chain[:3] == ["Pow", "Add", "Mul"] and any(name.startswith("AvgPool") for name in chain[3:])


# Max-pooling, window by window ------------------------------------------------------------------------------


class Windows(NamedTuple):
    """The windows of a pool: `along[d][o]` are the input positions that output o sees in dimension d."""

    size: tuple[int, ...]
    along: list[list[list[int]]]

    @property
    def output_size(self) -> tuple[int, ...]:
        return tuple(len(outputs) for outputs in self.along)

    def in_reading_order(self) -> Iterator[list[list[int]]]:
        """Each window as its positions in every dimension."""
        return (list(window) for window in itertools.product(*self.along))

    def flat(self, positions: Sequence[int]) -> int:
        """The index of a cell in the flattened plane."""
        index = 0
        for position, length in zip(positions, self.size, strict=True):
            index = index * length + position
        return index

    def cells(self, window: list[list[int]]) -> list[int]:
        """The flat indices of a window's cells, in reading order."""
        return [self.flat(positions) for positions in itertools.product(*window)]


def pool_windows(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
    ceil_mode: bool = False,
) -> Windows:
    """The windows of max_pool1d, 2d or 3d over a plane of `size`; arguments have one entry a dimension."""
    nothing, ones = [0] * len(size), [1] * len(size)
    settings = zip(size, kernel, stride or kernel, padding or nothing, dilation or ones, strict=True)
    return Windows(tuple(size), [windows_along(*setting, ceil_mode) for setting in settings])


def windows_along(length: int, kernel: int, stride: int, pad: int, dilation: int, ceil_mode: bool) -> list[list[int]]:
    """The windows of one dimension. In ceil mode the last may hang over the end, not start beyond it."""
    steps = (length + 2 * pad - dilation * (kernel - 1) - 1) / stride
    count = (math.ceil(steps) if ceil_mode else math.floor(steps)) + 1
    starts = [output * stride - pad for output in range(count)]
    if ceil_mode and starts[-1] >= length:
        starts.pop()
    return [[p for p in range(s, s + kernel * dilation, dilation) if 0 <= p < length] for s in starts]


def adaptive_windows(size: Sequence[int], output_size: Sequence[int]) -> Windows:
    """The windows of an adaptive pool: output o of n covers floor(o L / n) up to ceil((o + 1) L / n)."""
    along = [
        [list(range(o * length // count, -(-(o + 1) * length // count))) for o in range(count)]
        for length, count in zip(size, output_size, strict=True)
    ]
    return Windows(tuple(size), along)


def whole_plane(size: Sequence[int]) -> Windows:
    """The single window of amax over all dimensions of a plane."""
    return adaptive_windows(size, [1] * len(size))


def max_pool_switches(planes: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
    """The maximum of every window and where it lies in the flattened plane; of equal cells, the first."""
    leading = planes.shape[: planes.dim() - len(windows.size)]
    flat = planes.reshape(-1, math.prod(windows.size))
    values, indices = [], []
    for window in windows.in_reading_order():
        first, *others = windows.cells(window)
        value, index = flat[:, first], torch.full_like(flat[:, first], first, dtype=torch.int64)
        for cell in others:
            larger = flat[:, cell] > value
            value, index = torch.where(larger, flat[:, cell], value), torch.where(larger, cell, index)
        values.append(value)
        indices.append(index)
    shape = (*leading, *windows.output_size)
    return torch.stack(values, -1).reshape(shape), torch.stack(indices, -1).reshape(shape)


def pool_backwards(signal: Tensor, windows: Windows, how: str, indices: Tensor | None = None) -> Tensor:
    """Bring a signal on a pool's outputs back onto its input planes.

    "switches"   to the cell that `indices` names; where windows share a cell their signals add up
    "overwrite"  likewise, but the last window in reading order replaces the others, also by a zero
    "uniform"    in equal parts to the window's cells inside the input
    "center"     to cell (count - 1) // 2 of those inside the input, in each dimension
    "corner"     to the first of those, in each dimension
    """
    leading = signal.shape[: signal.dim() - len(windows.size)]
    arriving = signal.reshape(-1, math.prod(windows.output_size))
    result = arriving.new_zeros(len(arriving), math.prod(windows.size))
    if indices is not None:
        indices = indices.expand(signal.shape).reshape(arriving.shape)
    for output, window in enumerate(windows.in_reading_order()):
        cells = windows.cells(window)
        for plane in range(len(arriving)):
            part = arriving[plane, output]
            if how == "switches":
                result[plane, indices[plane, output]] += part
            elif how == "overwrite":
                result[plane, indices[plane, output]] = part
            elif how == "uniform":
                for cell in cells:
                    result[plane, cell] += part / len(cells)
            elif how == "center":
                result[plane, windows.flat([along[(len(along) - 1) // 2] for along in window])] += part
            elif how == "corner":
                result[plane, cells[0]] += part
            else:
                raise ValueError(f"no way back through a pool is called {how!r}")
    return result.reshape(*leading, *windows.size)


# The same, at the pools of a graph --------------------------------------------------------------------------


def pool_nodes(nodes: Iterable[Node]) -> list[Node]:
    """The max-pools among the nodes, in the order in which the forward pass called them."""
    names = ("MaxPool", "AdaptiveMaxPool")
    pools = [node for node in nodes if kind(node).startswith(names) or is_spatial_max(node)]
    return sorted(pools, key=lambda node: node._sequence_nr())


def is_spatial_max(node: Node) -> bool:
    """Whether this is amax or max(dim) over the last dimensions, beside a batch and a channel dimension."""
    return kind(node) in ("Amax", "Max") and reduced_dims(node) == list(range(2, dims_of_input(node)))


def dims_of_input(node: Node) -> int:
    """The number of dimensions of what amax or max(dim) reduces."""
    return node._saved_self.dim() if kind(node) == "Amax" else len(node._saved_self_sym_sizes)


def reduced_dims(node: Node) -> list[int]:
    """The dimensions that amax or max(dim) reduces; the graph keeps -1 as the unsigned 2**64 - 1."""
    if not hasattr(node, "_saved_dim"):  # x.max() over everything
        return []
    dims = node._saved_dim if kind(node) == "Amax" else [node._saved_dim]
    count = dims_of_input(node)
    return sorted((dim - 2**64 if dim >= 2**63 else dim) % count for dim in dims)


def windows_of(node: Node) -> Windows:
    """The windows of a max-pool's node, from the constants that it keeps."""
    if kind(node) == "Max":
        return whole_plane(node._saved_self_sym_sizes[2:])
    shape = node._saved_self.shape
    if kind(node) == "Amax":
        return whole_plane(shape[2:])
    spatial = 3 if "3D" in node.name() else 2  # the one-dimensional pools run as 1 x n planes
    if kind(node).startswith("Adaptive"):
        return adaptive_windows(shape[-spatial:], node._saved_result1.shape[-spatial:])
    return pool_windows(
        shape[-spatial:],
        node._saved_kernel_size,
        node._saved_stride,
        node._saved_padding,
        node._saved_dilation,
        node._saved_ceil_mode,
    )


def own_switches(node: Node) -> Tensor:
    """The switches that a max-pool's node took in its own forward pass, one entry for each output."""
    windows = windows_of(node)
    if kind(node) == "Amax":
        return max_pool_switches(node._saved_self, windows)[1]
    if kind(node) == "Max":
        return node._saved_indices.reshape(*node._saved_self_sym_sizes[:2], 1)
    return node._saved_result1


def apply_pool(node: Node, how: str | Tensor) -> None:
    """Make a max-pool send its signal the given way: a name of `attribution`, or switches to replay."""
    if isinstance(how, str) and how == "own":
        return
    windows = windows_of(node)
    indices = how if isinstance(how, Tensor) else own_switches(node)
    name = "switches" if isinstance(how, Tensor) else how
    shape = node._saved_self_sym_sizes if kind(node) == "Max" else node._saved_self.shape

    def after(outgoing: Gradients, incoming: Gradients) -> Gradients:
        signal = incoming[0].reshape(*shape[: len(shape) - len(windows.size)], *windows.output_size)
        return (pool_backwards(signal, windows, name, indices).reshape(shape), *outgoing[1:])

    node.register_hook(after)


# The state of a model ---------------------------------------------------------------------------------------


def state_digest(model: nn.Module) -> str:
    """A SHA-256 over all that a guest could disturb: tensors, gradients, modes, classes, hooks, attributes.

    Tensors count by value and by identity (place in memory, version), so a write that changes nothing, or a
    replacement by an equal tensor, shows too. Meaningful within one process only.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules(remove_duplicate=False):
        digest.update(repr((name, id(module), type(module), module.training, list(vars(module)))).encode())
        for key, value in vars(module).items():
            if "hooks" in key and isinstance(value, dict):
                digest.update(repr((key, [(handle, id(hook)) for handle, hook in value.items()])).encode())
            for tensor in tensors_in(value):
                digest.update(key.encode())
                add_tensor(digest, tensor)
    return digest.hexdigest()


def add_tensor(digest: Any, tensor: Tensor) -> None:
    """Feed a tensor, its gradient and its hooks to the digest."""
    hooks = [(handle, id(hook)) for handle, hook in (tensor._backward_hooks or {}).items()]
    identity = (id(tensor), type(tensor), tensor.data_ptr(), tensor._version, tensor.requires_grad, hooks)
    form = (tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
    digest.update(repr((identity, form)).encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    if tensor.is_leaf and tensor.grad is not None:
        digest.update(b"grad")
        add_tensor(digest, tensor.grad)


# Outputs of any form ----------------------------------------------------------------------------------------


def tensors_in(output: Any) -> Iterator[Tensor]:
    """The tensors of an output, in order: a tensor, or tuples, lists, dicts and dataclasses of them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from itertools.chain.from_iterable(map(tensors_in, output.values()))
    elif isinstance(output, (tuple, list)):
        yield from itertools.chain.from_iterable(map(tensors_in, output))
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        yield from tensors_in([getattr(output, field.name) for field in dataclasses.fields(output)])


def mixed_signal(output: Any) -> Tensor:
    """A scalar that sends a fixed signal of both signs to every element of every tensor of an output."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for tensor in tensors_in(output):
        weights = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        parts.append((tensor * weights.to(tensor)).sum())
    return torch.stack(parts).sum()
