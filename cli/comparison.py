"""The same map by Captum and by us: do they agree, who is right, and what do they cost?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import captum
import captum.attr
from torch import Tensor, nn

from attribkit.cli.measuring import Ratio, peak_bytes, ratio, seconds_in_turns
from attribkit.engine.rules import RULES
from attribkit.errors import BadValue
from attribkit.explaining.explainer import Explainer
from attribkit.explaining.passes import gradient
from attribkit.verify.checking import largest_difference
from attribkit.verify.precision import full_precision
from attribkit.verify.referee import NotJudged, plain_copy, refereed

AGREE = 1e-5  # of the largest value
VERSION = captum.__version__
CAPTUM = {"guided": captum.attr.GuidedBackprop, "deconvnet": captum.attr.Deconvolution}

Maker = Callable[[], Tensor]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Comparison:
    """What came out for one model. Differences are those of the largest value, as a share of it.

    `captum_error` says why Captum has no map; then it has no time and no memory either. `from_referee` holds how far
    each of the two is from the map that autograd's own graph gives; it is empty where that could not be judged, and
    `not_judged` says why.
    """

    model: str
    method: str
    shape: tuple[int, ...]
    target: int
    captum_error: str
    apart: float | None
    from_referee: Mapping[str, float]
    not_judged: str
    time: Mapping[str, Ratio]  # "attribkit / Captum" and so on
    memory: Mapping[str, float]

    @property
    def agree(self) -> bool:
        return self.apart is not None and self.apart <= AGREE

    @property
    def right(self) -> list[str]:
        """Who equals the referee."""
        return [who for who, apart in self.from_referee.items() if apart <= AGREE]


@full_precision()
def compare(name: str, model: nn.Module, x: Tensor, target: int, method: str, rounds: int) -> Comparison:
    """Captum, ours and plain autograd on the same model, image and class, in turns."""
    explainer = Explainer(model, method)
    theirs = CAPTUM[method](plain_copy(model))

    makers: dict[str, Maker] = {
        "autograd": lambda: gradient(lambda images: model(images)[:, target].sum(), x),
        "attribkit": lambda: explainer(x, target=target).values,
        "Captum": quietly(lambda: theirs.attribute(x.clone().requires_grad_(), target=target).detach()),
    }
    maps, error = _maps(makers)
    if error:
        del makers["Captum"]
    refereed_map, not_judged = _by_the_referee(model, x, target, method)
    pairs = [("attribkit", "Captum")] * (not error) + [(who, "autograd") for who in makers if who != "autograd"]
    taken = seconds_in_turns(makers, rounds, x.device)
    peaks = {who: peak_bytes(maker, x.device) for who, maker in makers.items()}
    return Comparison(
        model=name,
        method=method,
        shape=tuple(x.shape),
        target=target,
        captum_error=error,
        apart=None if error else largest_difference(maps["attribkit"], maps["Captum"]),
        from_referee={}
        if refereed_map is None
        else {who: largest_difference(maps[who], refereed_map) for who in ("attribkit", "Captum") if who in maps},
        not_judged=not_judged,
        time={f"{who} / {base}": ratio(taken, who, base) for who, base in pairs},
        memory={f"{who} / {base}": peaks[who] / peaks[base] for who, base in pairs},
    )


def quietly(work: Callable[[], Result]) -> Callable[[], Result]:
    """Without what Captum warns of at every call."""

    def run() -> Result:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Setting (backward|forward)")
            return work()

    return run


def _maps(makers: Mapping[str, Maker]) -> tuple[dict[str, Tensor], str]:
    """The map of each, and what Captum says where it has none. This also warms up."""
    maps = {who: maker() for who, maker in makers.items() if who != "Captum"}
    if not maps["attribkit"].any():
        raise BadValue("the map is zero everywhere: compare with --weights default, or on an --image")
    try:
        return maps | {"Captum": makers["Captum"]()}, ""
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        return maps, " ".join(f"{type(error).__name__}: {error}".split())


def _by_the_referee(model: nn.Module, x: Tensor, target: int, method: str) -> tuple[Tensor | None, str]:
    try:
        return refereed(model, x, lambda output: output[:, target], RULES[method]), ""
    except NotJudged as reason:
        return None, str(reason)
