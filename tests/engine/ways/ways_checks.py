"""What is checked of every way, under every rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from oracles import attribution, mixed_signal, tensors_in
from torch import Tensor
from ways_harness import Beside, Honest, LeftAlone, OnlyBackprop, OrRefused, Refused, Right, Way, seeded
from ways_state import description, parameters_of

import attribkit

RULES = ("backprop", "deconvnet", "guided")


def check(way: Way, rule: str) -> None:
    """Hold what a rewritten net does against what is expected of it."""
    if rule == "backprop":  # the twin is the same under every rule
        assert_twin(Trial(way, rule))
    checks: dict[type, Callable[[Way, str], None]] = {
        Right: check_right,
        Honest: check_honest,
        LeftAlone: check_left_alone,
        Refused: check_refused,
        OrRefused: check_right_or_refused,
        OnlyBackprop: check_only_backprop,
    }
    checks[type(way.expected)](way, rule)


@dataclass
class Trial:
    """A model under a rule, and the proof that neither it nor its images were touched."""

    way: Way
    rule: str
    strict: bool = False
    behind: bool = False

    def __post_init__(self) -> None:
        make = self.way.make
        way = replace(self.way, make=lambda: Beside(make())) if self.behind else self.way
        self.model, self.fresh = way.build(), way.fresh()
        self.before = description(self.model)

    def rewritten(self) -> Any:
        return attribkit.rewrite(
            self.model,
            self.rule,
            activations=self.way.activations,
            strict=self.strict,  # type: ignore[call-overload]
        )

    def run(self, net: Any) -> tuple[Any, Tensor]:
        """What a net says of the way's image, and what it brings down to it; the image stays as it was."""
        x = self.way.inputs()
        given = x.clone().requires_grad_()
        with seeded():
            output = net(given if self.way.leaf else given.clone())
        mixed_signal(output).backward()
        assert given.grad is not None, "no gradient has reached the image"
        assert torch.equal(given, x), "the image was written into"
        return output, given.grad

    def expected_output(self) -> Any:
        """The output of an equal model, never seen by the library, in eval mode."""
        given = self.way.inputs().requires_grad_()
        with seeded():
            return self.fresh(given if self.way.leaf else given.clone())

    def expected_map(self) -> Tensor:
        """The oracle's map of the plain twin."""
        x = self.way.inputs()
        with seeded():
            return attribution(self.way.twin(self.behind), x, mixed_signal, self.rule, self.way.activations)

    def assert_untouched(self) -> None:
        """The model is what it was: tensors, gradients, classes, modes, hooks, attributes."""
        after = description(self.model)
        changed = [path for path in self.before.keys() | after.keys() if self.before.get(path) != after.get(path)]
        assert not changed, f"the original has changed at {sorted(changed)[:5]}"


def same(found: Any, expected: Any, exact: bool) -> None:
    """Two outputs of any form are equal, to the last bit or to rounding."""
    pairs = list(zip(tensors_in(found), tensors_in(expected), strict=True))
    assert type(found) is type(expected)
    assert pairs
    for one, other in pairs:
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0 if exact else 1e-12, equal_nan=True)


def is_right(found: Tensor, expected: Tensor) -> bool:
    """Whether a map is the oracle's, to rounding. Constants of some kernels of torch's have float32's digits."""
    scale = float(expected.abs().max())
    assert scale > 0, "an oracle's map without anything in it proves nothing"
    return found.shape == expected.shape and bool((found - expected).abs().max() <= 1e-7 * scale)


def assert_twin(trial: Trial) -> None:
    """The plain twin is the same network: a fault here is one of the tests."""
    with seeded():
        twin = trial.way.twin(trial.behind).eval()(trial.way.inputs())
    for one, other in zip(tensors_in(twin), tensors_in(trial.expected_output()), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def one_line(error: BaseException, word: str = "") -> None:
    """An error says its word in one line."""
    assert "\n" not in str(error), str(error)
    assert word in str(error), str(error)


# Right ------------------------------------------------------------------------------------------------------


def check_right(way: Way, rule: str) -> None:
    """Forward pass, map, a second call, a call without a gradient, weights that change later; original untouched."""
    strict = isinstance(way.expected, Right) and way.expected.strict
    trial = Trial(way, rule, strict)
    net = trial.rewritten()
    if rule == "guided":  # which rule does not matter to this
        assert_without_gradient(trial, net)
    output, found = trial.run(net)
    same(output, trial.expected_output(), way.exact)
    assert is_right(found, trial.expected_map()), f"the {rule} map is off by {off(found, trial.expected_map()):.2g}"
    if rule == "guided" and way.again:
        assert is_right(trial.run(net)[1], found), "a second call gives another map"
    trial.assert_untouched()
    if rule == "guided" and way.later:
        assert_later_weights_are_seen(trial, net)


def off(found: Tensor, expected: Tensor) -> float:
    """How far a map is off, as a part of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def assert_without_gradient(trial: Trial, net: Any) -> None:
    """Where nothing asks for a gradient the forward pass is the model's own; it is the first of all here."""
    fresh = trial.fresh if trial.way.again else trial.way.fresh()
    with torch.no_grad(), seeded():
        found = net(trial.way.inputs())
    with torch.no_grad(), seeded():
        expected = fresh(trial.way.inputs())
    same(found, expected, trial.way.exact)


def assert_later_weights_are_seen(trial: Trial, net: Any) -> None:
    """What is written into the original's parameters reaches the rewritten net, wherever they are kept."""
    for model in (trial.model, trial.fresh):
        for parameter in parameters_of(model):
            parameter.data.mul_(1.25)
    output, _ = trial.run(net)
    same(output, trial.expected_output(), trial.way.exact)


# Left alone, and said ---------------------------------------------------------------------------------------


def check_honest(way: Way, rule: str) -> None:
    """Whether alone or beside a rectifier that is reached: right, or said."""
    for behind in (False, True) if way.beside else (False,):
        trial = Trial(way, rule, behind=behind)
        refused: attribkit.AttribkitError | None = None
        try:
            net = trial.rewritten()
            output, found = trial.run(net)
        except attribkit.AttribkitError as error:
            refused = error
        if refused is not None:
            assert isinstance(refused, allowed(rule, behind)), refused
            one_line(refused)
        else:
            same(output, trial.expected_output(), way.exact)
            if not is_right(found, trial.expected_map()):
                assert rule != "backprop", "backprop is autograd's own gradient"
                assert any(site.follows for site in net.sites), "nothing was swapped: this is a plain gradient"
                assert_left_alone(trial, net, ())
        trial.assert_untouched()


def allowed(rule: str, behind: bool) -> tuple[type[Exception], ...]:
    """What may be refused: nothing to rewrite only where nothing else is, and never under the chain rule itself."""
    if rule == "backprop" or behind:
        return (attribkit.CannotRewrite,)
    return attribkit.CannotRewrite, attribkit.NothingToRewrite


def check_left_alone(way: Way, rule: str) -> None:
    """Alone there is nothing to rewrite; beside another, it is a site that is not swapped."""
    if rule == "backprop":
        return check_right(replace(way, expected=Right(strict=False)), rule)
    assert isinstance(way.expected, LeftAlone)
    if way.beside:
        trial = Trial(way, rule, behind=True)
        net = trial.rewritten()
        output, _ = trial.run(net)
        same(output, trial.expected_output(), way.exact)
        assert_left_alone(trial, net, way.expected.words)
        trial.assert_untouched()
    alone = Trial(way, rule)
    with refusal(attribkit.NothingToRewrite):
        alone.run(alone.rewritten())
    return alone.assert_untouched()


def assert_left_alone(trial: Trial, net: Any, words: tuple[str, ...]) -> None:
    """A site says what keeps its plain gradient, and `strict` refuses it at the first pass at the latest."""
    left = [site for site in net.sites if not site.swapped]
    said = [f"{site.name} {site.op}" for site in left]
    assert left, "a mixture, and no site says so"
    assert not words or any(word.lower() in line.lower() for word in words for line in said), said
    strict = replace(trial, strict=True)
    with refusal(attribkit.PartlyRewritten):
        strict.run(strict.rewritten())


class refusal:  # noqa: N801 (a context manager, like pytest.raises)
    """Expects an error in one line."""

    def __init__(self, error: type[Exception], word: str = "") -> None:
        self.error, self.word = error, word

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        assert error is not None, f"no {self.error.__name__} was raised"
        if not isinstance(error, self.error):
            return False
        one_line(error, self.word)
        return True


def check_refused(way: Way, rule: str) -> None:
    """An error of the class, in one line that holds the word."""
    assert isinstance(way.expected, Refused)
    if rule == "backprop" and not way.expected.always:
        return check_right(replace(way, expected=Right(strict=False)), rule)
    trial = Trial(way, rule)
    with refusal(way.expected.error, way.expected.word):
        trial.run(trial.rewritten())
    return trial.assert_untouched()


def check_right_or_refused(way: Way, rule: str) -> None:
    """Right, or refused by name. Only the refusal is waived: what is not refused must be right."""
    assert isinstance(way.expected, OrRefused)
    trial = Trial(way, rule)
    try:
        trial.run(trial.rewritten())
    except attribkit.CannotRewrite as error:
        one_line(error, way.expected.word)
        trial.assert_untouched()
    else:
        check_right(replace(way, expected=Right()), rule)


def check_only_backprop(way: Way, rule: str) -> None:
    """The chain rule's map; under the others whatever comes down, the output is the model's."""
    if rule == "backprop":
        return check_right(replace(way, expected=Right(strict=False)), rule)
    trial = Trial(way, rule)
    output, _ = trial.run(trial.rewritten())
    same(output, trial.expected_output(), way.exact)
    return trial.assert_untouched()
