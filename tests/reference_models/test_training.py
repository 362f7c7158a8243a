"""What a run of `attribkit train` may be relied on for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attribkit.reference_models.architectures import Training, build
from attribkit.reference_models.data import Data, Split
from attribkit.reference_models.normalisation import Normalisation, fit
from attribkit.reference_models.trained import bundled, facts, load
from attribkit.reference_models.training import batches, run
from attribkit.reference_models.training import loop as training
from attribkit.reference_models.training.loop import DeadRun, Job, train
from attribkit.reference_models.training.recipes import AFTER_SURGERY, PAPER, QUICK, Recipe
from attribkit.structure.folding import fold_batch_norm

CPU = torch.device("cpu")
CLASSES = tuple("abcdefghij")
FEW = replace(QUICK, epochs=3, batch=16, precision="float32")  # which every CPU is quick with


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Some figures are compared bit for bit, so sums must be made in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures(count: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % len(CLASSES)
    images[..., 0] = images[..., 0] // 4 + 19 * labels.to(torch.uint8)[:, None, None]  # a class is a shade of red
    return Split(images, labels)


def data(count: int = 32) -> Data:
    return Data(pictures(count), pictures(20, seed=1), CLASSES, "noise")


def job(recipe: Recipe = FEW, *, seed: int = 0, count: int = 32, keep: frozenset[int] = frozenset()) -> Job:
    return Job("strided_cnn_a", recipe, seed, data(count), CPU, keep)


def trained(job: Job, folder: Path) -> list[training.Metrics]:
    with run.opened(folder, job.description):
        return list(train(job, folder))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load(folder / "strided_cnn_a.safetensors").net.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_64_images_are_learnt_by_heart(tmp_path: Path) -> None:
    recipe = replace(FEW, epochs=14, batch=32, shift=0, flip=False, piece=1.0, label_smoothing=0.0)
    one = job(recipe, count=64)
    learning = replace(one, data=replace(one.data, test=one.data.train))
    assert trained(learning, tmp_path)[-1]["test_error"] == 0
    assert facts(tmp_path / "strided_cnn_a.safetensors")["error"] == 0


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from typing import Any
import torch
torch.set_num_threads(1)
import test_training
from attribkit.reference_models.training import run
from attribkit.reference_models.training.loop import train

seen = 0
def kill_in_the_second_epoch(images):
    global seen
    seen += images
    if seen > 32:
        os.kill(os.getpid(), signal.SIGKILL)

job, folder = test_training.job(), Path(sys.argv[1])
with run.opened(folder, job.description):
    list(train(job, folder, kill_in_the_second_epoch))
"""


def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False).returncode == -9
    assert [line["epoch"] for line in run.metrics(tmp_path / "killed")] == [1]
    rest = trained(job(), tmp_path / "killed")
    assert [figures["epoch"] for figures in rest] == [2, 3]
    whole = trained(job(), tmp_path / "whole")
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    losses = [[line["loss"] for line in run.metrics(tmp_path / name)] for name in ("killed", "whole")]
    assert losses[0] == losses[1] == [figures["loss"] for figures in whole]


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    short = replace(FEW, epochs=1)
    for seed in (0, 1):
        trained(job(short, seed=seed), tmp_path / str(seed))
    assert not same(weights(tmp_path / "0"), weights(tmp_path / "1"))


def test_the_folded_network_gives_what_the_trained_one_gave() -> None:
    torch.manual_seed(0)
    net = build("all_cnn_a", training=Training(batch_norm=True, dropout=0.1))
    images = torch.randn(8, 3, 32, 32)
    for _ in range(3):  # statistics that are not those of the start
        net(images * 2 + 1)
    bare = build("all_cnn_a")
    bare.load_state_dict(fold_batch_norm(net).state_dict())
    with torch.no_grad():
        expected = net.eval()(images)
        assert torch.allclose(bare.eval()(images), expected, atol=1e-5 * float(expected.abs().max()))
    assert not any(isinstance(module, nn.BatchNorm2d | nn.Dropout) for module in bare.modules())


WORKERS = """
import sys
sys.path.insert(0, sys.argv[2])
from dataclasses import replace
from pathlib import Path
from typing import Any
import torch
torch.set_num_threads(1)
import test_training
from attribkit.reference_models.training import run
from attribkit.reference_models.training import workers
from attribkit.reference_models.training.loop import train

with workers.joined(torch.device("cpu")) as together:
    job = replace(test_training.job(test_training.WITHOUT_CHANCE), workers=together)
    with run.opened(Path(sys.argv[1]), job.description, together.first) as folder:
        list(train(job, folder))
"""

# Dropout draws other numbers in every process.
WITHOUT_CHANCE = replace(PAPER, epochs=2, batch=16, whiten=False, input_dropout=0.0, dropout=0.0, flip=True, shift=3)


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKERS)
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(script), str(tmp_path / "two"), str(Path(__file__).parent)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    alone = [figures["loss"] for figures in trained(job(WITHOUT_CHANCE), tmp_path / "one")]
    together = [line["loss"] for line in run.metrics(tmp_path / "two")]
    assert together == pytest.approx(alone, rel=1e-5)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)


def test_batch_norm_over_several_processes_on_a_cpu_is_refused() -> None:
    several = replace(job(), workers=training.Workers(rank=0, count=2))
    with pytest.raises(ValueError, match="batch norm over several processes needs GPUs"):
        several.check()


def test_a_run_that_learns_nothing_is_started_again_with_another_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = training._fresh

    def dead_at_first(job: Job, attempt: int = 0) -> training.State:
        state = fresh(job, attempt)
        if attempt == 0:  # every logit is zero, and no gradient passes the last ReLU
            with torch.no_grad():
                state.net.get_submodule("norm5").bias.fill_(-100)
        return state

    monkeypatch.setattr(training, "_fresh", dead_at_first)
    recipe = replace(FEW, epochs=4, rate=0.01)
    lines = trained(job(recipe), tmp_path)
    assert [(line["attempt"], line["epoch"], line.get("dead", False)) for line in lines] == [
        (0, 1, False),
        (0, 2, False),
        (0, 3, True),
        *((1, epoch, False) for epoch in (1, 2, 3, 4)),
    ]
    assert facts(tmp_path / "strided_cnn_a.safetensors")["attempt"] == 1


def test_a_run_that_never_names_half_of_the_classes_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss is not that of zeros, as some of the last layer's units live; after ten epochs it counts as dead."""
    named, asked = training.named_classes, 0

    def always_the_first(*given: Any) -> torch.Tensor:
        nonlocal asked
        asked += 1
        return named(*given) * (asked > 10)

    monkeypatch.setattr(training, "named_classes", always_the_first)
    lines = trained(job(replace(FEW, epochs=10), count=16), tmp_path)
    assert [line["attempt"] for line in lines] == [0] * 10 + [1] * 10
    assert [line.get("dead", False) for line in lines[:10]] == [False] * 9 + [True]
    assert lines[9]["named"] == 1


def test_a_run_without_hope_ends_after_three_other_seeds(tmp_path: Path) -> None:
    exploding = replace(PAPER, epochs=2, batch=16, rate=1e30, whiten=False)
    with pytest.raises(DeadRun, match="stopped learning with 4 seeds"):
        trained(job(exploding), tmp_path)


def test_epochs_that_were_asked_for_are_kept(tmp_path: Path) -> None:
    trained(job(keep=frozenset({1, 3})), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("epoch-*")) == ["epoch-001.safetensors", "epoch-003.safetensors"]
    assert facts(tmp_path / "epoch-001.safetensors")["epochs"] == 1


def test_a_folder_is_trained_in_by_one_process_only(tmp_path: Path) -> None:
    description = job().description
    with run.opened(tmp_path, description):
        code = "import sys, json; from pathlib import Path; from attribkit.reference_models.training import run\n"
        code += "with run.opened(Path(sys.argv[1]), json.loads(sys.argv[2])): pass"
        command = [sys.executable, "-c", code, str(tmp_path), json.dumps(description)]
        second = subprocess.run(command, check=False, capture_output=True, text=True)
    assert second.returncode == 1
    assert "is being trained by another process" in second.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"recipe": replace(FEW, epochs=9)}, "epochs 3, not 9"),
        ({"data": data(65)}, "digest"),
        ({"model": "model_a"}, "model strided_cnn_a, not model_a"),
    ],
)
def test_the_folder_of_another_run_is_refused_and_left_as_it_is(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    trained(job(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = replace(job(), **change)  # type: ignore[arg-type]
    with pytest.raises(run.RunError, match=told), run.opened(tmp_path, other.description):
        pass
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(run.RunError, match="holds something other than a run"), run.opened(tmp_path, job().description):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = job()
    epochs = train(one, tmp_path)
    with run.opened(tmp_path, one.description):
        next(epochs)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def no_space(path: object, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "write_whole", no_space)
    with pytest.raises(OSError, match="No space left"):
        list(epochs)
    monkeypatch.undo()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert [figures["epoch"] for figures in trained(one, tmp_path)] == [2, 3]


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    trained(job(), tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(run.RunError, match=r"checkpoint.pt is damaged .* delete it to start again"):
        trained(job(), tmp_path)


def test_the_file_says_how_it_was_made_and_what_it_gets_wrong(tmp_path: Path) -> None:
    trained(job(replace(FEW, precision=QUICK.precision)), tmp_path)
    told = facts(tmp_path / "strided_cnn_a.safetensors")
    assert (told["architecture"], told["seed"], told["epochs"]) == ("strided_cnn_a", 0, 3)
    assert told["data"]["source"] == "noise"
    assert told["recipe"]["name"] == "quick"
    made = load(tmp_path / "strided_cnn_a.safetensors")
    test = pictures(20, seed=1)
    with torch.no_grad():
        logits = made.net(made.normalisation(test.images.permute(0, 3, 1, 2) / 255))
    wrong = int((logits.argmax(1) != test.labels).sum())
    assert told["error"] == pytest.approx(100 * wrong / 20)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    trained(job(), tmp_path)
    with pytest.raises(ValueError, match="holds weights of strided_cnn_a, not of all_cnn_a"):
        load(tmp_path / "strided_cnn_a.safetensors", "all_cnn_a")


def test_small_images_are_refused_before_anything_is_written() -> None:
    tiny = Split(torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="needs images of at least 32 pixels, these have 8"):
        replace(job(), data=Data(tiny, tiny, CLASSES, "tiny")).check()


# Batches


def plain_loader(split: Split, recipe: Recipe) -> batches.Loader:
    as_bytes = Normalisation(torch.zeros(3), torch.full((3,), 1 / 255))
    return batches.Loader.of(split, as_bytes, replace(recipe, precision="float32"), CPU)


def test_an_epoch_shows_every_image_once_shifted_and_flipped_as_a_loop_would() -> None:
    split = pictures(40)
    loader = plain_loader(split, replace(FEW, shift=2, flip=True))
    seen = []
    for images, labels in loader.epoch(8, torch.Generator().manual_seed(3)):
        for image, label in zip(images.round(), labels, strict=True):
            found = [
                index
                for index in range(40)
                if split.labels[index] == label and any(torch.equal(image, way) for way in ways(split.images[index], 2))
            ]
            assert len(found) == 1
            seen += found
    assert sorted(seen) == list(range(40))


def ways(image: torch.Tensor, shift: int) -> list[torch.Tensor]:
    """Every shift by up to `shift` pixels, the rest black, and its mirror image; written with loops."""
    found = []
    for down in range(-shift, shift + 1):
        for right in range(-shift, shift + 1):
            moved = torch.zeros(3, 32, 32)
            for row in range(max(0, -down), min(32, 32 - down)):
                low, high = max(0, -right), min(32, 32 - right)
                moved[:, row, low:high] = image[row + down, low + right : high + right].T
            found += [moved, moved.flip(2)]
    return found


def test_pieces_are_cut_from_anywhere_in_an_image_and_its_margin() -> None:
    """Each is found in its image by a loop over all places, and all corners come up."""
    split = pictures(24)
    loader = plain_loader(split, replace(FEW, shift=2, flip=False))
    places = set()
    for seed in range(20):
        images, labels = next(iter(loader.epoch(24, torch.Generator().manual_seed(seed), piece=0.75)))
        assert images.shape == (24, 3, 24, 24)
        for image, label in zip(images.round()[:4], labels, strict=False):
            found = [
                (down, right)
                for index in range(24)
                if split.labels[index] == label
                for framed in [torch.nn.functional.pad(split.images[index].permute(2, 0, 1).float(), [2] * 4)]
                for down in range(13)
                for right in range(13)
                if torch.equal(image, framed[:, down : down + 24, right : right + 24])
            ]
            assert len(found) == 1
            places |= set(found)
    assert {min(downs) for downs in zip(*places, strict=True)} == {0}
    assert {max(downs) for downs in zip(*places, strict=True)} == {12}


def test_a_run_sees_pieces_first_and_whole_images_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the recipe says; a network that pieces are too small for sees whole images throughout."""
    shown: list[int] = []
    plain = training._loss

    def watched(net: torch.nn.Module, images: torch.Tensor, *rest: Any) -> torch.Tensor:
        shown.append(images.shape[-1])
        return plain(net, images, *rest)

    monkeypatch.setattr(training, "_loss", watched)
    one = job(replace(FEW, epochs=4, batch=32, piece=0.75, pieces_until=0.5))
    state = training._fresh(one)
    loader = batches.Loader.of(one.data.train, fit(one.data.train.images, whiten=False), one.recipe, CPU)
    for state.epoch in range(4):
        training._trained_epoch(one, state, loader, lambda images: None)
    assert shown == [24, 24, 32, 32]
    assert training.suited(QUICK, "all_cnn_a", one.data) == QUICK
    large = replace(one.data, train=Split(torch.zeros(2, 126, 126, 3, dtype=torch.uint8), one.data.train.labels[:2]))
    assert training.suited(QUICK, "large_all_cnn", large) == replace(QUICK, piece=1.0)


def test_without_augmentation_images_are_as_they_were() -> None:
    split = pictures(16)
    loader = plain_loader(split, replace(FEW, shift=0, flip=False))
    images, labels = next(iter(loader.epoch(16, torch.Generator().manual_seed(0))))
    for image, label in zip(images.round(), labels, strict=True):
        same_label = split.images[split.labels == label]
        assert any(torch.equal(image, other.permute(2, 0, 1).float()) for other in same_label)


# Normalisation


def test_the_training_images_come_out_with_mean_zero_and_deviation_one() -> None:
    split = pictures(50)
    out = fit(split.images, whiten=False)(split.images.permute(0, 3, 1, 2) / 255)
    assert out.mean((0, 2, 3)).abs().max() < 1e-4
    assert (out.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_whitening_leaves_pixels_uncorrelated() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4000, 4, 4, 3), generator=generator, dtype=torch.uint8)
    smooth = images // 4 * 3 + images.roll(1, 2) // 4
    whitening = fit(smooth, whiten=True)

    def correlated(rows: torch.Tensor) -> float:
        """The largest correlation of two different values."""
        return float((torch.corrcoef(rows.flatten(1).T) - torch.eye(48)).abs().max())

    assert correlated(smooth.permute(0, 3, 1, 2).float()) > 0.3
    assert correlated(whitening(smooth.permute(0, 3, 1, 2) / 255)) < 0.15


@pytest.mark.parametrize("whiten", [False, True])
def test_a_picture_comes_back_from_its_normalised_values(whiten: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (300, 5, 5, 3), generator=generator, dtype=torch.uint8)
    normalisation = fit(images, whiten=whiten)
    pictures = images.permute(0, 3, 1, 2) / 255
    back = normalisation.inverse(normalisation(pictures))
    if whiten:  # each image up to its own brightness and contrast
        back, pictures = ((x.flatten(1) - x.flatten(1).mean(1, keepdim=True)) for x in (back, pictures))
        back, pictures = (x / x.std(1, keepdim=True) for x in (back, pictures))
    assert torch.allclose(back, pictures, atol=1e-3)


def test_whitened_weights_refuse_images_of_another_size() -> None:
    split = pictures(8)
    whitening = Normalisation(torch.zeros(3, 5, 5), torch.eye(75), whitening=True)
    with pytest.raises(ValueError, match="trained on whitened images of 5x5, this one is 32x32"):
        whitening(split.images.permute(0, 3, 1, 2) / 255)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    """Given again, the command neither trains nor writes; the file keeps the commit that it was made by."""
    trained(job(), tmp_path)
    described = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(described | {"commit": "of the start"}))
    (tmp_path / "strided_cnn_a.safetensors").unlink()
    assert trained(job(), tmp_path) == []
    assert facts(tmp_path / "strided_cnn_a.safetensors")["commit"] == "of the start"
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    assert trained(job(), tmp_path) == []
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {"lock"}


def test_a_run_begins_with_the_weights_that_its_recipe_names(tmp_path: Path) -> None:
    """Of a reference model; without a step worth the name they are what it ends with. What does not fit is refused."""
    recipe = replace(AFTER_SURGERY, epochs=1, rate=1e-12, start="strided_cnn_a")
    trained(job(recipe), tmp_path)
    path = bundled("strided_cnn_a")
    assert path is not None
    start = load(path).net.state_dict()
    for name, tensor in weights(tmp_path).items():
        torch.testing.assert_close(tensor, start[name], rtol=1e-3, atol=1e-3)
    assert facts(tmp_path / "strided_cnn_a.safetensors")["recipe"]["start"] == "strided_cnn_a"
    assert "start" not in QUICK.to_dict()
    with pytest.raises(ValueError, match="all_cnn_c, which do not fit strided_cnn_a of 10 classes"):
        job(AFTER_SURGERY).check()
