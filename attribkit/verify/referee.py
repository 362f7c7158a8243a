"""What a map has to be, found another way: slowly, on the finished graph of a plain forward pass.

The engine changes a copy of the model before it runs. The referee runs the model as it is, walks the graph that
autograd has drawn, and changes what the node of each rectifier hands down. The two share nothing but the table of
rules, so that where they agree a mistake of one alone is ruled out. It costs a walk and keeps all that autograd keeps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node

from attribkit.engine.rules import Rule
from attribkit.errors import BadValue
from attribkit.explaining.passes import Pass

Rectifier = Callable[[Tensor], Tensor]

# The engine's names of what a graph shows as a rectifier.
RECTIFIERS = {"relu", "relu6", "hardtanh", "clamp", "threshold", "maximum", "leaky_relu", "prelu"}


class NotJudged(BadValue):
    """The graph does not show what would have to be judged."""


def refereed(model: nn.Module, images: Tensor, pick: Callable[[Any], Tensor], rule: Rule) -> Tensor:
    """The map of `pick(output).sum()` under `rule`, at the rectifiers; max-pools and norms keep their gradient.

    Args:
        model: Any network; a copy of it is run.
        images: N x C x H x W.
        pick: From the model's output to what is explained.
        rule: One of `attribkit.BACKPROP`, `DECONVNET` and `GUIDED`, or a rule of yours.

    Returns:
        One map per image.

    Raises:
        NotJudged: The model writes in place into a view, which hides nodes of its graph.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        up = Pass(lambda x: pick(plain_copy(model)(x)).sum(), images)
    for node in _nodes(up.output):
        rectified = _rectifier(node)
        if rectified is not None:
            _obey(node, *rectified, rule)
    return up.down()


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode that shares nothing, also of a module that holds a computed tensor (old weight norm)."""
    held = [value for module in model.modules() for value in vars(module).values()]
    computed = [value for value in held if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed}).eval()


def _nodes(scalar: Tensor) -> list[Node]:
    nodes: dict[Node, None] = {}
    open_ends = [scalar.grad_fn]
    while open_ends:
        node = open_ends.pop()
        if node is None or node in nodes:
            continue
        if "CopySlices" in node.name():
            raise NotJudged("the model writes in place into a view, which hides part of its graph")
        nodes[node] = None
        open_ends += [above for above, _ in node.next_functions]
    return list(nodes)


def _obey(node: Any, operand: int, rectifier: Rectifier, rule: Rule) -> None:
    """Rectify what comes into a node, and open its gate, as the rule wants."""

    def rectify(signals: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(rectifier(signal) for signal in signals)

    def open_gate(below: tuple[Tensor | None, ...], above: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        return tuple(above[0] if index == operand else signal for index, signal in enumerate(below))

    if rule.rectify:
        node.register_prehook(rectify)
    if not rule.gate:
        node.register_hook(open_gate)


def _rectifier(node: Any) -> tuple[int, Rectifier] | None:
    """Which operand of a node is rectified and by what function; None where it is no rectifier."""
    kind = node.name().partition("Backward")[0]
    if kind == "LeakyRelu":
        return 0, lambda signal: F.leaky_relu(signal, node._saved_negative_slope)
    if kind == "RreluWithNoise":
        return 0, lambda signal: F.leaky_relu(signal, (node._saved_lower + node._saved_upper) / 2)
    if kind == "PreluKernel":
        weight = node._saved_weight
        return 0, lambda signal: torch.where(signal > 0, signal, weight * signal)
    if kind == "Maximum":
        sides = [side for side, (above, _) in enumerate(node.next_functions) if above is not None]
        constant = node._saved_other if sides == [0] else node._saved_self
        return (sides[0], torch.relu) if len(sides) == 1 and not constant.any() else None
    floor = {"Relu": 0, "Threshold": 0}
    if kind == "Hardtanh":
        floor[kind] = node._saved_min_val
    elif kind in ("Clamp", "ClampMin"):
        floor[kind] = node._saved_min
    is_zero = kind in floor and floor[kind] is not None and not torch.as_tensor(floor[kind]).any()
    return (0, torch.relu) if is_zero else None
