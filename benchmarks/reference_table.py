"""The table of the reference models: the paper's errors beside ours, from the weights that come along.

python benchmarks/reference_table.py docs/reference-models.md reference_models/MODELCARD.md [WEIGHTS ...]

WEIGHTS are files of other seeds, which do not come along: what they say of themselves is kept in benchmarks/seeds.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from attribkit.files import write_whole
from attribkit.reference_models import trained
from attribkit.reference_models.architectures import BASES, NAMES, VARIANTS
from attribkit.reference_models.training.recipes import RECIPES

# Springenberg et al. 2014, tables 1 to 4: percent wrong on CIFAR-10 without augmentation, in VARIANTS' order.
PAPER = {"a": (12.47, 13.46, 10.21, 10.30), "b": (10.20, 10.98, 9.33, 9.10), "c": (9.74, 10.19, 9.31, 9.08)}

# What others who trained these networks without augmentation report.
REPRODUCED = {"all_cnn_c": "9.1 to 10.5"}

SEEDS = Path(__file__).parent / "seeds.json"
_KEPT = ("error", "seed", "epochs", "data", "recipe", "commit")

_HEAD = """# Reference models

The networks of "Striving for Simplicity", trained by `attribkit train`. An error is the percentage of the 10,000 test
images that are classified wrongly. The paper's errors are for CIFAR-10 without augmentation. "CIFAR-10 (JPEG)" is
CIFAR-10 with every image compressed as a JPEG of quality 75, which makes it a little harder; the quick recipe augments
with flips, shifts and crops.

`make reference-table` writes this page from the metadata of the weight files; `reference_models/MODELCARD.md` has the
commands that made them.

"""

_COLUMNS = (
    "model",
    "paper",
    "reproductions",
    "ours",
    "data",
    "recipe",
    "epochs",
    "seed",
    "other seeds",
    "minutes",
    "on",
)


def table() -> str:
    rows = [_COLUMNS, tuple("---" for _ in _COLUMNS), *_rows()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return _HEAD + "\n".join(lines) + "\n\n" + _order() + "\n"


def _rows() -> Iterator[tuple[str, ...]]:
    for base in BASES:
        for variant, printed in zip(VARIANTS, PAPER[base], strict=True):
            name = f"{variant}_{base}"
            yield (f"`{name}`", f"{printed:.2f}", REPRODUCED.get(name, ""), *_ours(name))


def _ours(name: str) -> tuple[str, ...]:
    path = trained.bundled(name)
    if path is None:
        return ("not trained yet", *[""] * 7)
    facts = trained.facts(path)
    recipe = facts["recipe"]
    return (
        f"{facts['error']:.2f}",
        facts["data"]["source"],
        recipe["name"] if _holds_today(recipe) else f"{recipe['name']}, an earlier form",
        str(facts["epochs"]),
        str(facts["seed"]),
        _spread(name),
        _minutes(facts),
        _machine(facts),
    )


def _holds_today(recipe: dict[str, Any]) -> bool:
    """Whether the recipe of that name still has the values that a file was made by."""
    known = RECIPES.get(recipe["name"])
    return known is not None and replace(known, epochs=recipe["epochs"]).to_dict() == recipe


def _minutes(facts: dict[str, Any]) -> str:
    return f"{facts['minutes']:.{0 if facts['minutes'] >= 10 else 1}f}"


def _machine(facts: dict[str, Any]) -> str:
    threads = facts["threads"]
    return f"CPU, {threads} thread{'s' * (threads > 1)}" if facts["device"] == "cpu" else str(facts["device"])


def keep_seeds(files: Iterable[Path]) -> None:
    """Keep what weights of other seeds say of themselves, beside those that are kept already."""
    kept = json.loads(SEEDS.read_bytes()) if SEEDS.is_file() else {}
    for file in files:
        facts = trained.facts(file)
        own = kept.setdefault(facts["architecture"], {})
        own[str(facts["seed"])] = {key: facts[key] for key in _KEPT}
    write_whole(SEEDS, f"{json.dumps(kept, indent=2, sort_keys=True)}\n".encode())


def _errors(name: str) -> dict[int, float]:
    """By seed: that of the bundled weights first, then of the others."""
    path = trained.bundled(name)
    own = {} if path is None else {int(trained.facts(path)["seed"]): float(trained.facts(path)["error"])}
    kept = json.loads(SEEDS.read_bytes()) if SEEDS.is_file() else {}
    others = {int(seed): float(facts["error"]) for seed, facts in kept.get(name, {}).items()}
    return own | {seed: others[seed] for seed in sorted(others) if seed not in own}


def _spread(name: str) -> str:
    errors = list(_errors(name).values())
    if len(errors) < 2:
        return ""
    listed = ", ".join(f"{error:.2f}" for error in errors[1:])
    return f"{listed}; mean {mean(errors):.2f}, from {min(errors):.2f} to {max(errors):.2f}"


def _order() -> str:
    """Whether ours come in the paper's order, said either way, and which neighbours seeds do not tell apart."""
    orders = []
    for base in BASES:
        errors = {variant: list(_errors(f"{variant}_{base}").values()) for variant in VARIANTS}
        if not all(errors.values()):
            continue
        printed = dict(zip(VARIANTS, PAPER[base], strict=True))
        means = {variant: mean(of_seeds) for variant, of_seeds in errors.items()}
        ours, theirs = (sorted(each, key=each.__getitem__) for each in (means, printed))
        same = "the paper finds the same order" if ours == theirs else f"the paper finds {_listed(theirs, base)}"
        orders.append(
            f"From best to worst, base {base.upper()}: {_listed(ours, base)}; {same}. {_told_apart(ours, errors, base)}"
        )
    return "\n\n".join(orders) or "No base has all four of its networks trained yet."


def _told_apart(ours: list[str], errors: dict[str, list[float]], base: str) -> str:
    """Neighbours of which the seeds overlap are not in an order."""
    if min(len(of_seeds) for of_seeds in errors.values()) < 2:
        return "Each is a single run: another seed may change the order."
    pairs = [pair for pair in pairwise(ours) if max(errors[pair[0]]) >= min(errors[pair[1]])]
    if not pairs:
        return "No two neighbours overlap from seed to seed."
    return f"From seed to seed these overlap: {'; '.join(_listed(list(pair), base) for pair in pairs)}."


def _listed(variants: list[str], base: str) -> str:
    return ", ".join(f"`{variant}_{base}`" for variant in variants)


# The model card

_CARD_HEAD = """# Model card: the reference models

Networks of "Striving for Simplicity" (Springenberg et al. 2014), trained by this project on small photographs of
ten kinds of things. They are here so that methods of explanation can be tried, compared and taught on networks of
which every training setting is known. `make reference-table` writes this page from the metadata of each file.

**Not for** deciding what a photograph shows where anything depends on it: they know ten classes and name one for every
picture, whatever it shows; they were not tried on people, other cameras, or pictures that were changed to mislead them.

**Data.** CIFAR-10 (Krizhevsky 2009). "CIFAR-10 (JPEG)" is the same, every image compressed as a JPEG of quality 75.

`attribkit.load(NAME)` reads each file; its metadata holds everything on this page, and the whole recipe.
"""


def card() -> str:
    """What each file was trained on, how long, by which command, and what it gets wrong."""
    paths = [path for name in NAMES if (path := trained.bundled(name)) is not None]
    return "\n".join([_CARD_HEAD, *(_entry(trained.facts(path)) for path in paths)])


def _entry(facts: dict[str, Any]) -> str:
    recipe, data = facts["recipe"], facts["data"]
    name, epochs = facts["architecture"], recipe["epochs"]
    again = f"attribkit train {name} --data CIFAR --recipe {recipe['name']} --epochs {epochs} --seed {facts['seed']}"
    lines = [
        f"## `{name}`\n",
        f"    {again}\n",
        f"- {data['source']}, digest `{data['digest'][:16]}`: {', '.join(data['classes'])}",
        f"- {facts['epochs']} epochs in {_minutes(facts)} minutes on {_machine(facts)}, "
        f"torch {facts['versions']['torch']}",
        f"- error on the 10,000 test images: {facts['error']:.2f}% as stored, {facts['error_float32']:.2f}% in float32",
        f"- made by commit `{facts['commit']}`",
    ]
    if not _holds_today(recipe):
        lines.insert(
            2, "- with an earlier form of this recipe, which stands in its metadata: today's trains differently"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 3:
        keep_seeds(Path(file) for file in sys.argv[3:])
    write_whole(sys.argv[1], table().encode())
    write_whole(sys.argv[2], card().encode())
