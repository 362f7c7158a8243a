"""What an explainer is given: a model, methods, a layer; each taken in the ways in which people write it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from attribkit.engine.rules import Rule, RuleByPart, RuleLike
from attribkit.engine.shadow import unwrapped
from attribkit.errors import BadType, BadValue

Method = RuleLike | RuleByPart
"""A rule that is asked for: its name, a `Rule`, a function of `(signal, gate)`, or a mapping from parts to these."""

Pick = Callable[[Any], Tensor]


class Loaded(Protocol):
    """What `attribkit.load` gives, as far as it matters here."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def output(self) -> Pick | None: ...

    @property
    def labels(self) -> Sequence[str]: ...


Model = nn.Module | Loaded | Callable[..., Any]


def unloaded(model: Model) -> tuple[Any, Pick | None, Sequence[str]]:
    """The network itself, what picks the tensor to explain from its output, and the names of its classes."""
    inner = getattr(model, "model", None)
    if isinstance(model, str):
        raise BadType(f"the model is the str {model!r}: load it first, as in attribkit.load({model!r})")
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise BadType(
            f"the model is the class {model.__name__}: make a network of it first, as in {model.__name__}(...)"
        )
    if isinstance(model, nn.Module) or not isinstance(inner, nn.Module):
        return model, None, ()
    return inner, getattr(model, "output", None), getattr(model, "labels", ())


def named(layer: str | nn.Module | None, model: Any) -> str | None:
    """A layer's path; a module's own is looked up."""
    if layer is None or isinstance(layer, str):
        return layer
    if not isinstance(layer, nn.Module):
        raise BadType(f"layer= takes a module's path or the module, not {type(layer).__name__}")
    modules = unwrapped(model).named_modules() if isinstance(model, nn.Module) else ()
    name = next((name for name, module in modules if module is layer), None)
    if not name:
        raise BadValue(f"layer={type(layer).__name__}(...) is no module of the model: give one of its own, or its path")
    return name


def is_one(method: Any) -> bool:
    if (
        not isinstance(method, Sequence)
        and not callable(method)
        and not isinstance(method, (Rule, RuleByPart, Mapping))
    ):
        raise BadType(f"method is the name of a rule, a Rule, or a list of these, not {type(method).__name__}")
    return isinstance(method, (str, Rule, RuleByPart, Mapping)) or callable(method)


def has_function(rule: Rule | RuleByPart) -> bool:
    """Whether somebody's own function is in it, which may make a signal where there was none."""
    parts = [part for _, part in rule.parts] if isinstance(rule, RuleByPart) else [rule]
    return any(part.function is not None for part in parts)


def check_images(images: Any, model: Any, precision: str | None) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        remedy = "; preprocess them first, as in attribkit.load(...).preprocess(picture)[None]"
        raise BadType(f"images must be a float tensor of N x C x H x W, not {kind}{remedy}")
    if images.dim() == 3 and isinstance(model, nn.Module) and _looks_at_planes(model):
        raise BadValue("images have no batch dimension; write images[None] for one image")
    if images.numel() == 0:
        raise BadValue(f"there is nothing to explain in images of shape {tuple(images.shape)}")
    if precision is not None and images.dtype not in (torch.float32, torch.bfloat16):
        raise BadType(f"precision='bfloat16' needs images of float32, not of {images.dtype}")


def _looks_at_planes(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def check_names(names: Sequence[str]) -> None:
    if not names:
        raise BadValue("method is an empty list; give at least one")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        remedy = "give each a name of its own, as in attribkit.Rule('mine', function=lambda signal, gate: ...)"
        raise BadValue(f"{names.count(twice[0])} methods are called {twice[0]!r}; {remedy}")
