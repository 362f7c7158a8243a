"""Is this very model handled rightly? The promises of `rewrite`, held against it one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attribkit.engine.lookback import HIDDEN
from attribkit.engine.plan import Site
from attribkit.engine.rewriting import record_switches, rewrite
from attribkit.engine.rules import RULES
from attribkit.engine.shadow import unwrapped
from attribkit.engine.switches import Switches
from attribkit.errors import BadType
from attribkit.explaining.passes import Pass
from attribkit.verify.precision import full_precision
from attribkit.verify.referee import RECTIFIERS, NotJudged, plain_copy, refereed

_METHODS = ("guided", "deconvnet", "backprop")
_TOLERANCE = 1e-4

Pick = Callable[[Any], Tensor]
Run = tuple[Tensor, Tensor]  # the output, and the gradient of its largest value


@dataclass(frozen=True)
class Finding:
    """One promise, held against a model.

    Attributes:
        promise: What was promised.
        holds: Whether it holds; None where that was not judged.
        seen: What was seen, in words.
    """

    promise: str
    holds: bool | None
    seen: str


@dataclass(frozen=True)
class Checked:
    """What `check` found.

    Attributes:
        findings: One for each promise.
        sites: The activations and pools of the model.
    """

    findings: tuple[Finding, ...]
    sites: tuple[Site, ...]

    @property
    def right(self) -> bool:
        """Whether every promise holds, as far as can be judged, and no part of the network hides what it does."""
        return self.outcome == "right"

    @property
    def outcome(self) -> Literal["right", "wrong", "cannot be judged"]:
        """What all findings come to."""
        if any(finding.holds is False for finding in self.findings):
            return "wrong"
        return "cannot be judged" if any(site.kind == HIDDEN for site in self.sites) else "right"


@full_precision()
def check(
    model: nn.Module,
    images: Tensor,
    *,
    output: Pick | None = None,
    activations: Literal["rectifiers", "all"] = "rectifiers",
) -> Checked:
    """Hold the promises of `rewrite` against `model` on `images`.

        checked = check(model, images)
        checked.right, checked.findings, checked.sites

    Args:
        model: Any network; it stays as it is.
        images: N x C x H x W.
        output: Picks the tensor to explain where the model's output is something else.
        activations: As for `rewrite`.

    Returns:
        What was found of each promise.

    Raises:
        NothingToRewrite: The rules would change nothing.
        CannotRewrite: The model has no faithful copy.
    """
    pick = output or _the_tensor
    before = _state(model)
    nets = {method: rewrite(model, method, activations=activations) for method in _METHODS}
    runs = {method: _run(net, images, pick) for method, net in nets.items()}
    # torch's own, on a copy: the model itself is not run, so nothing of it can change by that.
    expected = _run(plain_copy(unwrapped(model)), images, pick)
    findings = [
        *(_same_output(method, run, expected) for method, run in runs.items()),
        _same_gradient("backprop equals torch's own gradient", runs["backprop"], expected),
        *_as_the_referee_has_it(model, images, pick, nets["guided"].sites, runs),
        *_own_switches(model, images, pick, expected),
        _within_reach(nets["guided"].sites),
        _unchanged(before, _state(model)),
    ]
    return Checked(tuple(findings), tuple(nets["guided"].sites))


def _the_tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise BadType(f"the model returns {type(output).__name__}: pass output=, a function that picks a tensor")
    return output


def _run(net: nn.Module, images: Tensor, pick: Pick) -> Run:
    with torch.random.fork_rng():  # stochastic models draw the same in each run
        torch.manual_seed(0)
        up = Pass(lambda x: pick(net(x)), images)
    flat = up.output.detach().flatten(1)
    largest = torch.zeros_like(flat).scatter(1, flat.max(1).indices[:, None], 1)
    return up.output.detach(), up.down(largest.view_as(up.output))


def _largest(output: Tensor) -> Tensor:
    return output.flatten(1).max(1).values


def _as_the_referee_has_it(
    model: nn.Module, images: Tensor, pick: Pick, sites: list[Site], runs: dict[str, Run]
) -> Iterator[Finding]:
    """Guided and deconvnet maps beside the referee's, from autograd's own graph."""
    for method in _METHODS[:2]:
        promise = f"{method} equals its rule applied to torch's own graph"
        plain = {"pool"} if RULES[method].bypasses_norms else {"pool", "norm"}
        odd = [site.op for site in sites if site.swapped and site.kind not in plain and site.op not in RECTIFIERS]
        if odd:
            yield Finding(promise, None, f"not judged: the graph does not show {odd[0]}")
            continue
        try:
            gradient = refereed(unwrapped(model), images, lambda output: _largest(pick(output)), RULES[method])
        except NotJudged as reason:
            yield Finding(promise, None, f"not judged: {reason}")
        else:
            yield _same_gradient(promise, runs[method], (runs[method][0], gradient))


def _same_output(method: str, run: Run, expected: Run) -> Finding:
    promise = f"under {method} the output equals the model's, bit for bit"
    if torch.equal(run[0], expected[0]):
        return Finding(promise, True, "equal")
    return Finding(promise, False, f"they differ by {largest_difference(run[0], expected[0]):.1e} of the largest value")


def _same_gradient(promise: str, run: Run, expected: Run) -> Finding:
    if not run[1].any() and not expected[1].any():
        return Finding(promise, None, "not judged: on this image, with these weights, both are zero")
    apart = largest_difference(run[1], expected[1])
    how = f"they differ by {apart:.1e} of the largest value" if apart else "equal"
    return Finding(promise, apart <= _TOLERANCE, how)


def largest_difference(values: Tensor, expected: Tensor) -> float:
    """The largest difference, over the largest expected value; infinite where only one of the two is NaN."""
    size = float(expected.abs().max()) or 1.0
    apart = float((values - expected).abs().max()) / size
    return apart if apart == apart else float("inf")


def _within_reach(sites: list[Site]) -> Finding:
    """Whether the finished graph shows rectifiers that the rules did not reach, or parts that hide what they do."""
    promise = "the rules reach every rectifier of the graph"
    out_of_reach = [site.op for site in sites if site.how == "graph" and site.kind == "rectifier"]
    hiding = [site.op for site in sites if site.kind == HIDDEN]
    if out_of_reach:
        return Finding(promise, False, f"left alone: {', '.join(out_of_reach)}")
    if hiding:
        return Finding(promise, None, f"not judged: {', '.join(hiding)} hides what it does")
    return Finding(promise, True, "nothing is left alone there")


def _own_switches(model: nn.Module, images: Tensor, pick: Pick, expected: Run) -> Iterator[Finding]:
    """Recorded and replayed on the same image, switches change nothing."""
    promise = "the image's own switches, recorded and replayed, give the same gradient"
    switches = _recorded(model, images)
    if switches is None:
        return
    run = _run(rewrite(model, "backprop", switches=switches), images, pick)
    replayed = _same_gradient(promise, run, expected)
    yield Finding(promise, replayed.holds, f"{len(switches.indices)} pools; {replayed.seen}")


def _recorded(model: nn.Module, images: Tensor) -> Switches | None:
    try:
        return record_switches(model, images)
    except ValueError:  # it has no max-pool
        return None


def _unchanged(before: dict[str, str], after: dict[str, str]) -> Finding:
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    seen = (
        f"changed: {', '.join(sorted(changed)[:5])}" if changed else f"{len(before)} tensors, modes and hooks as before"
    )
    return Finding("the model is left as it was", not changed, seen)


def _state(model: nn.Module) -> dict[str, str]:
    """A digest of everything that must not change."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    state = {name: f"{_digest(tensor)} {tensor.requires_grad} {tensor.grad is None}" for name, tensor in tensors}
    for name, module in model.named_modules():
        hooks = [len(held) for key, held in vars(module).items() if key.endswith("_hooks")]
        state[f"{name} (module)"] = f"{type(module).__qualname__} {module.training} {hooks}"
    return state


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()
