"""The sweep over all models judges a model rightly. The whole of it is `make coverage`."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from oracles import attribution, mixed_signal
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit

pytestmark = pytest.mark.filterwarnings("ignore:Setting forward, backward hooks:UserWarning")


@pytest.fixture(scope="module")
def coverage() -> Iterator[ModuleType]:
    """The script, as it is run: it leads to those beside it by itself."""
    path = Path(__file__).parents[2] / "benchmarks" / "every_model.py"
    spec = importlib.util.spec_from_file_location("every_model_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield module


def test_a_net_of_relu_modules_is_right_here_and_in_captum(coverage: ModuleType) -> None:
    """With its switches, too."""
    record = coverage.examination.examine("timm:test_resnet")
    assert (record["status"], record["replayed"]) == ("right", True)
    assert record["captum"] == {"deconvnet": "right", "guided": "right"}


def test_relu6_is_right_here_and_passed_over_by_captum(coverage: ModuleType) -> None:
    """Captum's map is the plain gradient there."""
    record = coverage.examination.examine("timm:mobilenetv2_035")
    assert record["status"] == "right"
    assert record["captum"] == {"deconvnet": "silent", "guided": "silent"}


@pytest.mark.parametrize("name", ["timm:test_vit", "torchvision:quantized_resnet18"])
def test_nets_without_rectifiers_and_quantized_ones_are_refused(coverage: ModuleType, name: str) -> None:
    """And the reason is kept."""
    record = coverage.examination.examine(name)
    assert record["status"] == "refused"
    assert record["why"]


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_efficientnet"])
def test_smooth_activations_are_right_beside_the_oracle(coverage: ModuleType, name: str) -> None:
    """What has no rectifier is examined again; the rules differ from the plain gradient, and Captum is not asked."""
    assert coverage.examination.examine(name)["rectified"] is False
    record = coverage.examination.examine(name, "all")
    assert record["status"] == "right"
    assert record["contrast"] > 0.01
    assert record["captum"] == {}


class PartWriter(nn.Module):
    """Keeps what it computes, and writes into a part of it; without `part` it does neither, and computes the same."""

    def __init__(self, *, part: bool) -> None:
        super().__init__()
        self.conv, self.part, self.kept = nn.Conv2d(3, 4, 3), part, torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if not self.part:
            return F.relu(torch.cat([F.relu(x[:, :2]) + 1, x[:, 2:]], 1))
        self.kept = x * 1
        self.kept[:, :2] = F.relu(self.kept[:, :2])
        self.kept[:, :2] += 1
        return F.relu(self.kept)


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_the_oracle_follows_what_is_written_into_parts(coverage: ModuleType, rule: str) -> None:
    """Its twin's graph shows what autograd hides of such a write."""
    writer, plain = PartWriter(part=True), PartWriter(part=False)
    plain.load_state_dict(writer.state_dict())
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(NotImplementedError):
        attribution(writer, x, mixed_signal, rule)
    twin = coverage.examination.oracles_twin(writer, x, plain(x))
    expected = attribution(plain, x, mixed_signal, rule)
    torch.testing.assert_close(attribution(twin, x, mixed_signal, rule), expected, rtol=0, atol=1e-6)
    with pytest.raises(NotImplementedError, match="does not follow"):
        coverage.examination.oracles_twin(writer, x, plain(x) + 1)


def test_a_mistake_with_smooth_activations_is_seen(coverage: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were they left alone, the model would be wrong."""
    rewrite = attribkit.rewrite
    monkeypatch.setattr(attribkit, "rewrite", lambda model, rule, **options: rewrite(model, "backprop", **options))
    assert coverage.examination.examine("timm:test_vit", "all")["status"] == "wrong"


def test_a_mistake_in_the_library_is_seen(coverage: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were guided backprop plain backprop, the model would be wrong; were it refused, too."""
    rewrite = attribkit.rewrite
    monkeypatch.setattr(attribkit, "rewrite", lambda model, rule, **options: rewrite(model, "backprop", **options))
    assert coverage.examination.examine("timm:test_resnet")["status"] == "wrong"

    def refuse(*args: Any, **options: Any) -> None:
        raise attribkit.NothingToRewrite("nothing")

    monkeypatch.setattr(attribkit, "rewrite", refuse)
    assert coverage.examination.examine("timm:test_resnet")["status"] == "wrong"


def test_a_rectifier_on_paper_only_is_not_counted(coverage: ModuleType) -> None:
    """A model that turned out to have none is not one that ought to be right."""
    paper = {"status": "refused", "ops": {"relu": 1}, "rectified": False}
    assert "1 have a ReLU or ReLU6, and 1 of them are right" in coverage.headline(
        [paper, {"status": "right", "ops": {"relu": 2}}]
    )


def test_results_are_kept_and_not_made_again(
    coverage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run asks no model; a run over some writes no page; the table counts by family."""
    made: list[str] = []

    def run(examine: Any, names: list[str], *limits: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in names:
            made.append(name)
            yield name, {"status": "right", "ops": {"relu": 1}, "pools": 1, "replayed": True, "seconds": 1}

    monkeypatch.setattr(coverage, "RESULTS", tmp_path / "runs" / "coverage.jsonl")
    monkeypatch.setattr(coverage, "PAGE", tmp_path / "coverage.md")
    monkeypatch.setattr(coverage, "run", run)
    monkeypatch.setattr(sys, "argv", ["every_model.py", "timm:test_res*", "torchvision:resnet18"])
    assert coverage.main() == coverage.main() == 0
    assert made == ["torchvision:resnet18", "timm:test_resnet"]
    assert "2 models examined, 0 wrong. 2 have a ReLU or ReLU6, and 2 of them are right" in capsys.readouterr().out
    assert not (tmp_path / "coverage.md").exists()
    lines = (tmp_path / "runs" / "coverage.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["stamp"]["torch"] for line in lines} == {torch.__version__}
