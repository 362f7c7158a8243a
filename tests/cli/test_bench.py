"""`attribkit bench`: who is right is what the coverage of these nets says, and figures are of the right kind."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from commands import Command

QUICK = ("--size", "64", "--rounds", "2")


def test_it_says_where_captum_agrees_and_who_is_right(run: Command) -> None:
    """ReLU modules are no difficulty for either; ReLU6 is passed over by Captum; a transformer is refused."""
    names = "timm:test_resnet,timm:mobilenetv2_035,timm:test_vit"
    done = run("bench", "--models", names, *QUICK, "--json")
    assert (done.code, done.err) == (0, "")
    document = json.loads(done.out)
    relu, relu6 = document["models"]
    assert (relu["agree"], relu["right"]) == (True, ["attribkit", "Captum"])
    assert (relu6["agree"], relu6["right"]) == (False, ["attribkit"])
    assert "gelu" in document["refused"]["timm:test_vit"]
    assert set(document["versions"]) == {"attribkit", "captum", "torch"}
    for row in (relu, relu6):
        assert (
            set(row["time"])
            == set(row["memory"])
            == {
                "attribkit / Captum",
                "attribkit / autograd",
                "Captum / autograd",
            }
        )
        assert all(0 < ratio["low"] <= ratio["median"] <= ratio["high"] for ratio in row["time"].values())
        assert 0 < row["memory"]["attribkit / Captum"] < 1


def test_the_table_has_a_line_for_each(run: Command) -> None:
    """The deconvnet too, and what Captum cannot do is a line below."""
    done = run("bench", "--models", "timm:test_resnet,timm:test_vit", "--method", "deconvnet", *QUICK)
    versions, heads, row, refused = done.out.splitlines()
    assert "captum" in versions
    assert heads.split()[:3] == ["model", "agree", "right"]
    assert row.startswith("timm:test_resnet  yes (")
    assert "attribkit and Captum" in row
    assert refused.startswith("timm:test_vit: refused: ")


def test_captums_failure_is_told(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our figures stay."""
    from attribkit.cli import comparison

    class Failing(comparison.CAPTUM["guided"]):  # type: ignore[misc, name-defined]
        def attribute(self, *args: object, **kwargs: object) -> None:
            raise RuntimeError("not today")

    monkeypatch.setitem(comparison.CAPTUM, "guided", Failing)
    done = run("bench", "timm:test_resnet", *QUICK)
    assert done.out.splitlines()[-1] == "timm:test_resnet: Captum fails: RuntimeError: not today"
    assert "  attribkit  " in done.out


def test_bad_calls_are_one_line(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Captum; no classifier; no such model."""
    assert "compares classifiers" in run("bench", "--models", "torchvision:fcn_resnet50", *QUICK).err
    assert run("bench", "--models", "resnet1", *QUICK).code == 1
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "captum" else find(name))
    done = run("bench", "--models", "timm:test_resnet", *QUICK)
    assert (done.code, done.err) == (1, "attribkit: Captum is not installed: pip install 'attribkit[captum]'\n")


def test_tasks_are_timed_beside_their_floor_and_captum(run: Command) -> None:
    """Those whose names hold one of the words; Captum's time only where it has such a way."""
    done = run("bench", "--tasks", "one map of resnet18,three methods", "--rounds", "2", "--json")
    assert done.code == 0
    one, three = json.loads(done.out)["tasks"]
    assert (one["task"], three["task"]) == ("one map of resnet18", "three methods, resnet18")
    assert all(0 < ratio["low"] <= ratio["median"] <= ratio["high"] for ratio in (one["by_floor"], one["by_captum"]))
    assert three["by_captum"] is None
    lines = run("bench", "--tasks", "three methods", "--rounds", "2").out.splitlines()
    assert lines[1].split()[:2] == ["task", "ms"]
    assert lines[2].startswith("three methods, resnet18  ")
    assert "one after another" in lines[2]
    assert "networks of its own" in run("bench", "resnet18", "--tasks", "all").err
    assert "there is no task of nonesuch: there are one map of" in run("bench", "--tasks", "nonesuch").err


def test_a_map_says_how_far_it_is_from_double_precision(run: Command) -> None:
    """Rounding may open or close a gate, so that a map in single precision, too, is off at a few pixels."""
    done = run("bench", "--tasks", "map of resnet18", "--rounds", "2", "--json")
    plain, fast, coarse = (each["off_by"] for each in json.loads(done.out)["tasks"])
    assert 0 < plain < 0.02
    assert 0 < fast < 0.02
    assert 0.001 < coarse < 0.5
    table = run("bench", "--tasks", "fast map of resnet18", "--rounds", "2").out.splitlines()
    assert table[1].split("  ")[:1] == ["task"]
    assert "off by" in table[1]
    assert "e-0" in table[2]


def test_a_task_has_one_answer_whichever_way() -> None:
    from attribkit.cli import tasks

    for ways in (tasks.one_map("resnet18"), tasks.units("resnet18", "layer1.0", [5], (7, 7))):
        ours, theirs = ways[tasks.OURS]().values, ways[tasks.CAPTUM]().detach()  # type: ignore[attr-defined]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
