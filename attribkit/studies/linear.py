"""A linear classifier of features: multinomial logistic regression, its penalty chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Array = npt.NDArray[Any]

PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
"""Of the squared weights, beside the mean loss of an image; the same for all layers."""
FOLDS = 3
RISEN = 1.05
"""Smaller penalties are not tried once the loss has risen to so many times the smallest: they take longest."""
STEPS = 300
"""Of L-BFGS for one fit, at the most."""
_ENDS: dict[str, Any] = {"tolerance_grad": 1e-5, "tolerance_change": 1e-8, "line_search_fn": "strong_wolfe"}


@dataclass(frozen=True, eq=False)
class Fit:
    """What a classifier comes to.

    Attributes:
        right: Which test images it classifies rightly.
        losses: The mean loss of left-out training images under each penalty; NaN where it was not tried.
        penalty: The one with the smallest.
        ended: Whether the last fit came to its end within its steps.
    """

    right: Array
    losses: Array
    penalty: float
    ended: bool


def fitted(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, classes: int) -> Fit:
    """Choose a penalty on the training images, fit all of them, and classify the test images.

    Args:
        train: Training images x features, in an order in which classes are mixed.
        labels: Of the training images, from 0.
        test: Test images x features.
        truth: Their labels.
        classes: How many there are.
    """
    losses = validated(train, labels, classes)
    penalty = PENALTIES[int(np.nanargmin(losses))]
    scaled = scaling(train)
    weights, ended = regression(scaled(train), labels, classes, penalty)
    right = _logits(weights, scaled(test)).argmax(1) == truth
    return Fit(right.cpu().numpy(), losses, penalty, ended)


def validated(train: Tensor, labels: Tensor, classes: int) -> Array:
    """The mean loss of left-out images under each penalty, from the largest down until it clearly rises; NaN then."""
    fold = _folds(labels)
    losses = np.full(len(PENALTIES), np.nan)
    weights: list[Tensor | None] = [None] * FOLDS
    for index, penalty in enumerate(PENALTIES):
        total = 0.0
        for number in range(FOLDS):
            inside, outside = fold != number, fold == number
            scaled = scaling(train[inside])
            held, _ = regression(scaled(train[inside]), labels[inside], classes, penalty, weights[number])
            total += float(_loss(held, scaled(train[outside]), labels[outside], "sum"))
            weights[number] = held
        losses[index] = total / len(train)
        if losses[index] > RISEN * np.nanmin(losses):
            break
    return losses


def _folds(labels: Tensor) -> Tensor:
    """To which fold each image belongs: each class is dealt out to all of them in turn."""
    fold = torch.zeros_like(labels)
    for label in labels.unique():
        mine = (labels == label).nonzero().flatten()
        fold[mine] = torch.arange(len(mine), device=labels.device) % FOLDS
    return fold


def scaling(features: Tensor) -> Callable[[Tensor], Tensor]:
    """What gives each feature the mean 0 and the deviation 1 that it has here; one that never changes becomes 0."""
    mean = features.mean(0)
    deviation = features.std(0, correction=0)
    factor = torch.where(deviation > 1e-6 * mean.abs(), 1 / deviation, 0.0)
    return lambda given: (given - mean) * factor


def regression(
    features: Tensor, labels: Tensor, classes: int, penalty: float, start: Tensor | None = None
) -> tuple[Tensor, bool]:
    """Weights, (features + 1) x classes with the bias last, of least mean loss and penalty; and whether it ended."""
    if start is None:
        start = features.new_zeros(features.shape[1] + 1, classes)
    weights = start.detach().clone().requires_grad_()
    search = torch.optim.LBFGS([weights], max_iter=STEPS, history_size=10, **_ENDS)

    def loss() -> Tensor:
        search.zero_grad()
        value = _loss(weights, features, labels, "mean") + penalty / 2 * (weights[:-1] ** 2).sum()
        value.backward()
        return value.detach()

    search.step(loss)
    return weights.detach(), search.state[weights]["n_iter"] < STEPS


def _logits(weights: Tensor, features: Tensor) -> Tensor:
    return features @ weights[:-1] + weights[-1]


def _loss(weights: Tensor, features: Tensor, labels: Tensor, reduction: str) -> Tensor:
    return F.cross_entropy(_logits(weights, features), labels, reduction=reduction)


def wilson(right: int, count: int, normal: float = 1.96) -> tuple[float, float]:
    """Where a share lies with 95% confidence, by Wilson's score interval."""
    share, squared = right / count, normal**2
    middle = (share + squared / (2 * count)) / (1 + squared / count)
    half = normal / (1 + squared / count) * (share * (1 - share) / count + squared / (4 * count**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)
