"""The table and the model card say what the weights' files say of themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import reference_table as table
import torch

from attribkit.reference_models import trained
from attribkit.reference_models.architectures import build
from attribkit.reference_models.normalisation import Normalisation
from attribkit.reference_models.training.recipes import QUICK

ERRORS = {"model_c": 11.5, "strided_cnn_c": 13.25, "convpool_cnn_c": 9.75, "all_cnn_c": 10.0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(trained, "FOLDER", tmp_path)
    monkeypatch.setattr(table, "SEEDS", tmp_path / "seeds.json")
    return tmp_path


def bundle(folder: Path, name: str, error: float, seed: int = 7, file: str | None = None) -> Path:
    facts = {
        "architecture": name,
        "channels": 3,
        "classes": ["a", "b"],
        "commit": "0123abc",
        "data": {"source": "CIFAR-10 (JPEG)", "digest": "f" * 64, "classes": ["a", "b"]},
        "device": "cpu",
        "epochs": 12,
        "error": error,
        "error_float32": error + 0.01,
        "minutes": 61.4,
        "recipe": QUICK.to_dict(),
        "seed": seed,
        "threads": 1,
        "versions": {"torch": "2.15.0"},
    }
    plain = Normalisation(torch.zeros(3), torch.ones(3))
    path = folder / f"{file or name}.safetensors"
    trained.save(path, trained.Trained(build(name, 2), plain, facts))
    return path


def test_every_net_has_its_row_trained_or_not(folder: Path) -> None:
    bundle(folder, "all_cnn_c", 10.0)
    rows = {line.split("`")[1]: line for line in table.table().splitlines() if line.startswith("| `")}
    assert len(rows) == 12
    row = "| `all_cnn_c` | 9.08 | 9.1 to 10.5 | 10.00 | CIFAR-10 (JPEG) | quick | 12 | 7 |  | 61 | CPU, 1 thread |"
    assert rows["all_cnn_c"] == row
    assert "not trained yet" in rows["model_a"]
    assert "No base has all four" in table.table()


def test_the_order_is_told_whether_it_is_the_papers_or_not(folder: Path) -> None:
    for name, error in ERRORS.items():
        bundle(folder, name, error)
    assert "`convpool_cnn_c`, `all_cnn_c`, `model_c`, `strided_cnn_c`; the paper finds `all_cnn_c`" in table.table()
    bundle(folder, "all_cnn_c", 9.5)
    assert "`all_cnn_c`, `convpool_cnn_c`, `model_c`, `strided_cnn_c`; the paper finds the same order" in table.table()


def test_other_seeds_stand_beside_with_what_they_make_of_the_order(folder: Path) -> None:
    """They are kept without their weights; neighbours that overlap are in no order."""
    for name, error in ERRORS.items():
        bundle(folder, name, error)
    assert "Each is a single run" in table.table()
    others = [
        bundle(folder, name, error + (0.5 if name == "convpool_cnn_c" else 0.1) * seed, seed, f"{name}-{seed}")
        for name, error in ERRORS.items()
        for seed in (1, 2)
    ]
    table.keep_seeds(others[:3])
    table.keep_seeds(others[3:])
    for path in others:
        path.unlink()
    assert "| 7 | 11.60, 11.70; mean 11.60, from 11.50 to 11.70 | 61 |" in table.table()
    assert "From seed to seed these overlap: `all_cnn_c`, `convpool_cnn_c`." in table.table()


def test_the_card_names_the_command_and_both_errors(folder: Path) -> None:
    bundle(folder, "all_cnn_c", 10.0)
    card = table.card()
    assert f"attribkit train all_cnn_c --data CIFAR --recipe quick --epochs {QUICK.epochs} --seed 7" in card
    assert "10.00% as stored, 10.01% in float32" in card
    assert "model_c" not in card


def test_an_earlier_form_of_a_recipe_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives the command again would train otherwise; another number of epochs is in the command."""
    bundle(folder, "all_cnn_c", 10.0)
    assert "earlier form" not in table.table() + table.card()
    monkeypatch.setitem(table.RECIPES, "quick", replace(QUICK, epochs=3))
    assert "earlier form" not in table.table() + table.card()
    monkeypatch.setitem(table.RECIPES, "quick", replace(QUICK, shift=QUICK.shift + 1))
    assert "| quick, an earlier form |" in table.table()
    assert "earlier form of this recipe" in table.card()
