"""How a reference model is trained: every value in one place, stored with the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from attribkit.errors import BadValue
from attribkit.reference_models.architectures import Training


@dataclass(frozen=True)
class Recipe:
    """All that decides what a run ends at, but for the network, the data and the seed."""

    name: str
    epochs: int
    batch: int = 128
    optimiser: Literal["sgd", "muon"] = "sgd"
    rate: float = 0.05
    other_rate: float | None = None  # of biases, scales and shifts; the same without it
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-3  # of weights, not of the others
    schedule: Literal["steps", "cycle"] = "steps"
    drops: tuple[float, ...] = (200 / 350, 250 / 350, 300 / 350)  # "steps": a tenth of the rate from here on
    warm_up: float = 0.2  # "cycle": the share of the run until the rate is reached; then down to zero
    label_smoothing: float = 0.0
    # the network while it trains
    batch_norm: bool = False
    input_dropout: float = 0.2
    dropout: float = 0.5
    # the images
    whiten: bool = False  # global contrast normalisation and ZCA instead of the channels' mean and deviation
    flip: bool = False
    shift: int = 0
    # While the run is young the network sees pieces of this share of an image's sides, which cost less.
    piece: float = 1.0
    pieces_until: float = 0.0  # the share of the run
    precision: Literal["float32", "bfloat16"] = "float32"
    start: str | None = None  # the reference model whose bundled weights the run begins with; else with new ones

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise BadValue(f"a recipe needs at least one epoch and images in a batch: {self}")
        if self.optimiser == "muon" and not (self.batch_norm and self.nesterov and self.weight_decay == 0):
            raise BadValue("muon fixes the length of each weight, so it needs batch norm, nesterov and no weight decay")

    @property
    def training(self) -> Training:
        return Training(self.batch_norm, self.input_dropout, self.dropout)

    def slowed(self, done: float) -> float:
        """What the rates are multiplied by when the share `done` of the run lies behind."""
        if self.schedule == "steps":
            return 0.1 ** sum(done >= drop for drop in self.drops)
        return min(done / self.warm_up, (1 - done) / (1 - self.warm_up))

    def seen(self, done: float) -> float:
        """The share of an image's sides that the network sees when the share `done` of the run lies behind."""
        return self.piece if done < self.pieces_until else 1.0

    def to_dict(self) -> dict[str, Any]:
        held = asdict(self) | {"drops": list(self.drops)}
        if self.start is None:  # as runs have it that are older than this
            del held["start"]
        return held


# Springenberg et al. 2014. Batch size, rate and initialisation are not given there, or as a choice of four;
# these are what reproductions found to work.
PAPER = Recipe("paper", epochs=350, whiten=True)

PAPER_AUGMENTED = replace(PAPER, name="paper-augmented", flip=True, shift=5)

# Into the neighbourhood of the paper's errors in a few hours on two cores.
QUICK = Recipe(
    "quick",
    epochs=18,
    batch=512,
    optimiser="muon",
    rate=0.15,
    other_rate=0.4,
    momentum=0.6,
    nesterov=True,
    weight_decay=0.0,
    schedule="cycle",
    warm_up=0.05,
    label_smoothing=0.05,
    batch_norm=True,
    input_dropout=0.0,
    dropout=0.0,
    flip=True,
    shift=2,
    piece=0.75,
    pieces_until=0.65,
    precision="bfloat16",
)

# A few more epochs for All-CNN-C once its strides are pools, until it names images rightly again.
AFTER_SURGERY = Recipe(
    "after-surgery",
    epochs=5,
    rate=0.005,
    weight_decay=5e-4,
    schedule="cycle",
    warm_up=0.1,
    input_dropout=0.0,
    dropout=0.0,
    flip=True,
    shift=2,
    precision="bfloat16",
    start="all_cnn_c",
)

RECIPES = {recipe.name: recipe for recipe in (PAPER, PAPER_AUGMENTED, QUICK, AFTER_SURGERY)}
