"""Every model of torchvision and timm under every rule, beside the oracle and beside Captum.

    python benchmarks/coverage.py                  # all of them; stop it and start it again as you like
    python benchmarks/coverage.py --sample         # a tenth, another one each day
    python benchmarks/coverage.py 'timm:resnet*'   # some

Results go line by line into runs/coverage.jsonl, and what is there for these versions and this engine is not done
again. A run over all models writes docs/coverage.md. Each model has a process of its own with a limit of memory.

A model is *right* when the three rules give the oracle's maps, the forward pass is equal bit for bit, the model is as
it was before, and recorded switches replay; *refused* when it has no rectifier, and the oracle finds none either.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import multiprocessing
import random
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import captum
import captum.attr
import timm
import torch
import torchvision
from rich.progress import Progress
from torch import Tensor, nn

import attribkit
from attribkit.adapters.loading import UnknownModel

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from oracles import (  # type: ignore[import-not-found]  # noqa: E402  # after the path that leads there
    attribution,
    copied,
    graph_of,
    mixed_signal,
    rectifier_of,
    state_digest,
    switches_of,
    tensors_in,
)
from zoo import animate, relative_error  # type: ignore[import-not-found]  # noqa: E402

RULES = ("backprop", "deconvnet", "guided")
TOLERANCE = 1e-4
NOTHING = 1e-6  # a difference that rounding makes
SIZES = (64, 96, 160, None)  # None: the model's own
RESULTS = ROOT / "runs" / "coverage.jsonl"
PAGE = ROOT / "docs" / "coverage.md"

Record = dict[str, Any]


# One model --------------------------------------------------------------------------------------------------


def examine(name: str) -> Record:
    """All that is asked of one model."""
    try:
        loaded = attribkit.load(name, "none")
    except UnknownModel as error:
        return {"status": "refused", "why": str(error).partition(": load")[0]}
    model = loaded.model.get_submodule("backbone" if _detects(loaded.model) else "")
    x = _input_that_fits(model, loaded.preprocess.example())
    record: Record = {"input": list(x.shape[1:]), "parameters": sum(p.numel() for p in model.parameters())}
    try:
        net = attribkit.rewrite(model, "guided")
        enliven(model, x)
        net(x)
    except attribkit.NothingToRewrite as error:
        return record | _refusal(model, x, str(error))
    except attribkit.CannotRewrite as error:
        return record | {"status": "refused", "why": str(error)}
    record["ops"] = dict(Counter(site.op for site in net.sites if site.swapped))
    record["left"] = dict(Counter(site.op for site in net.sites if not site.swapped))
    record["functions"] = sum(site.how == "function" and site.swapped for site in net.sites)
    found = _against_the_oracle(model, x)
    if found["status"] == "wrong" and not found["problems"]:
        # Rounding adds up over hundreds of layers: twice the digits tell it from a mistake. And torch's own batch
        # norm is wrong on the way down for a single image whose signal comes from tokens, so two of them.
        found = _against_the_oracle(model.double(), torch.cat([x, x.flip(-1)]).double()) | {"checked": "twice"}
        model.float()
    return record | found | _switches(model, x, net.sites)


def enliven(model: nn.Module, x: Tensor) -> None:
    """Open what starts closed: gains, scales and last layers that are zero or tiny before training."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.detach().abs().max() < 1e-2:
            nn.init.normal_(parameter, std=0.5) if parameter.dim() < 2 else nn.init.normal_(parameter, std=0.02)
    animate(model, torch.randn(4, *x.shape[1:]))
    model.eval()


def quiet(model: nn.Module) -> nn.Module:
    """A copy that writes nothing in place, for the oracle, from which views that are written into are hidden."""
    copy = copied(model)
    for module in copy.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False
    return copy


def _detects(model: nn.Module) -> bool:
    return type(model).__module__.startswith("torchvision.models.detection")


def _input_that_fits(model: nn.Module, example: Tensor) -> Tensor:
    """The smallest of some squares that the model takes, for speed; its own size if none."""
    for size in SIZES:
        shape = example.shape if size is None else (*example.shape[:-2], size, size)
        x = torch.randn(1, *shape)
        try:
            with torch.no_grad():
                model(x)
        except Exception:  # too small a model's way of saying so is its own
            if size is None:
                raise
        else:
            return x
    raise AssertionError("the last size raises")


def _refusal(model: nn.Module, x: Tensor, why: str) -> Record:
    """A refusal is right where the oracle has nothing to do either."""
    scalar = mixed_signal(quiet(model).eval()(x.clone().requires_grad_()))
    rectifiers = [node for node in graph_of(scalar) if rectifier_of(node, "rectifiers")]
    if rectifiers:
        return {"status": "wrong", "why": f"refused, but has {len(rectifiers)} rectifiers"}
    return {"status": "refused", "why": why, "captum": dict.fromkeys(RULES[1:], "silent")}


def _against_the_oracle(model: nn.Module, x: Tensor) -> Record:
    """Each rule's map beside the oracle's; Captum's too."""
    twin = quiet(model)
    # A copy, as a model may keep what it computes; and its weights without gradients, as torch may sum a Linear
    # in another order with them (see Limits in docs/architecture.md).
    plain = copied(model).requires_grad_(False)(x.clone().requires_grad_())
    before = state_digest(model)
    errors: dict[str, float] = {}
    captums: dict[str, str] = {}
    maps: dict[str, Tensor] = {}
    problems = []
    for rule in RULES:
        image = x.clone().requires_grad_()
        output = attribkit.rewrite(model, rule)(image)
        if not _equal(output, plain):
            problems.append("the forward pass differs")
        (found,) = torch.autograd.grad(mixed_signal(output), image)
        maps[rule] = attribution(twin, x, mixed_signal, rule)
        if not 0 < maps[rule].abs().max().item() < float("inf"):
            return {"status": "undecided", "why": f"the {rule} map is zero or infinite with random weights"}
        errors[rule] = relative_error(found, maps[rule])
    if state_digest(model) != before:
        problems.append("the model was changed")
    for rule in RULES[1:]:
        captums[rule] = _captum(copied(twin), x, rule, maps)
    contrast = relative_error(maps["guided"], maps["backprop"])
    status = "wrong" if problems or max(errors.values()) > TOLERANCE else "right"
    if status == "right" and contrast < 10 * TOLERANCE:
        if contrast < NOTHING:
            why = "its rectifiers do not lie between image and output: every rule gives the plain gradient"
        else:
            why = f"with random weights the rules differ by no more than {contrast:.1e}"
        return {"status": "no effect" if contrast < NOTHING else "undecided", "why": why, "errors": errors}
    return {"status": status, "problems": problems, "errors": errors, "contrast": contrast, "captum": captums}


def _equal(output: Any, other: Any) -> bool:
    """Bit for bit, wherever tensors are."""
    pairs = zip(tensors_in(output), tensors_in(other), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def _captum(model: nn.Module, x: Tensor, rule: str, right: dict[str, Tensor]) -> str:
    """What Captum makes of a copy: right, wrong, silent (the plain gradient under another name) or an error."""
    method = (captum.attr.GuidedBackprop if rule == "guided" else captum.attr.Deconvolution)(model)
    method.gradient_func = lambda forward, inputs, *rest: torch.autograd.grad(mixed_signal(forward(*inputs)), inputs)
    try:
        found = method.attribute(x.clone().requires_grad_())
    except Exception as error:  # in-place activations and others: Captum's answer is an error then
        return f"error: {type(error).__name__}"
    if relative_error(found, right[rule]) <= TOLERANCE:
        return "right"
    return "silent" if relative_error(found, right["backprop"]) <= TOLERANCE else "wrong"


def _switches(model: nn.Module, x: Tensor, sites: list[attribkit.Site]) -> Record:
    """Recorded switches are the oracle's, and replayed they give the maps of each image's own."""
    pools = sum(site.kind == "pool" for site in sites)
    if not pools:
        return {"pools": 0}
    switches = attribkit.record_switches(model, x)
    known = [tuple(index.flatten().tolist()) for index in switches_of(quiet(model), x, mixed_signal)]
    mine = {tuple(index.flatten().tolist()) for index in switches.indices.values()}
    maps: list[Tensor] = []
    for how in (switches, "own"):
        image = x.clone().requires_grad_()
        output = attribkit.rewrite(model, "deconvnet", switches=how)(image)
        maps += torch.autograd.grad(mixed_signal(output), image)
    replayed = relative_error(*maps) <= TOLERANCE and mine >= set(known)
    return {"pools": pools, "replayed": replayed} | ({} if replayed else {"status": "wrong", "why": "switches differ"})


# Processes --------------------------------------------------------------------------------------------------


def in_a_process(name: str, pipe: Connection, gigabytes: float) -> None:
    """Examine one model within a limit, and send what came out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    warnings.simplefilter("ignore")  # the libraries' own
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        pipe.send(examine(name))
    except NotImplementedError as error:
        pipe.send({"status": "undecided", "why": str(error)})
    except Exception as error:  # one model that fails is one line of the table
        memory = isinstance(error, MemoryError) or "allocate memory" in str(error)
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        pipe.send({"status": "too large", "why": f"{gigabytes:g} GB"} if memory else {"status": "failed", "why": why})


def run(names: list[str], workers: int, gigabytes: float, minutes: float) -> Iterator[tuple[str, Record]]:
    """The records of all names as they come."""
    context = multiprocessing.get_context("fork")  # torch and timm are imported once, here
    waiting = list(reversed(names))
    running: dict[Any, tuple[str, BaseProcess, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                name = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                started = context.Process(target=in_a_process, args=(name, theirs, gigabytes))
                started.start()
                theirs.close()
                running[ours] = (name, started, time.monotonic())
            ready = wait(list(running), timeout=1)
            for pipe, (name, process, start) in list(running.items()):
                seconds = time.monotonic() - start
                if pipe in ready:
                    yield name, _received(pipe) | {"seconds": round(seconds, 1)}
                elif seconds > 60 * minutes:
                    yield name, {"status": "too large", "why": f"{minutes:g} minutes", "seconds": round(seconds, 1)}
                else:
                    continue
                _end(process)
                del running[pipe]
    finally:
        for _, left, _ in running.values():
            _end(left)


def _received(pipe: Connection) -> Record:
    try:
        return dict(pipe.recv())
    except EOFError:
        return {"status": "failed", "why": "the process died"}


def _end(process: BaseProcess) -> None:
    process.kill()
    process.join()


# Results ----------------------------------------------------------------------------------------------------


@cache
def stamp() -> dict[str, str]:
    """What a result holds for: a change of any of these asks for a new one."""
    sources = [*sorted((ROOT / "attribkit").glob("*.py")), ROOT / "tests" / "oracles.py", Path(__file__)]
    engine = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    libraries = {library.__name__: library.__version__ for library in (torch, torchvision, timm, captum)}
    return libraries | {"engine": engine}


def known() -> dict[str, Record]:
    """The results that hold for what is installed."""
    if not RESULTS.exists():
        return {}
    lines = map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())
    return {line["name"]: line for line in lines if line["stamp"] == stamp()}


def family(name: str) -> str:
    """The file in which the library defines a model."""
    library, _, model = name.partition(":")
    entry = timm.model_entrypoint(model) if library == "timm" else torchvision.models.get_model_builder(model)
    return f"{library} {entry.__module__.removeprefix(f'{library}.models.').removeprefix('quantization.')}"


def everything() -> list[str]:
    """All architectures, of timm without the tags of weights."""
    return [
        *(f"torchvision:{name}" for name in torchvision.models.list_models()),
        *(f"timm:{name}" for name in timm.list_models()),
    ]


COLUMNS: dict[str, Callable[[Record], bool]] = {
    "models": lambda r: True,
    "right": lambda r: r["status"] == "right",
    "refused": lambda r: r["status"] == "refused",
    "**wrong**": lambda r: r["status"] == "wrong",
    "no effect": lambda r: r["status"] == "no effect",
    "undecided": lambda r: r["status"] == "undecided",
    "too large": lambda r: r["status"] == "too large",
    "failed": lambda r: r["status"] == "failed",
    "switches": lambda r: bool(r.get("replayed")),
    "Captum right": lambda r: "captum" in r and set(r["captum"].values()) == {"right"},
    "Captum wrong": lambda r: "wrong" in r.get("captum", {}).values(),
    "Captum silent": lambda r: "silent" in r.get("captum", {}).values(),
    "Captum error": lambda r: any(made.startswith("error") for made in r.get("captum", {}).values()),
}


def table(records: Iterable[Record]) -> str:
    """One line a family, and the sum of all."""
    families: dict[str, list[Record]] = {}
    for record in records:
        families.setdefault(family(record["name"]), []).append(record)
    lines = [f"| family | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    everyone = [record for members in families.values() for record in members]
    for title, members in [*sorted(families.items()), ("**all**", everyone)]:
        counts = [sum(map(test, members)) for test in COLUMNS.values()]
        lines.append(f"| {title} | {' | '.join(str(count) if count else '' for count in counts)} |")
    return "\n".join(lines)


def headline(records: list[Record]) -> str:
    """The sentence for the README."""
    rectified = [r for r in records if {"relu", "relu6"} & set(r.get("ops", {}))]
    right = sum(r["status"] == "right" for r in rectified)
    pooled = [r for r in records if r.get("pools")]
    wrong = sum(r["status"] == "wrong" for r in records)
    return (
        f"{len(records)} models examined, {wrong} wrong. Of {len(rectified)} with ReLU or ReLU6 {right} are right; "
        f"of {len(pooled)} with max-pooling {sum(bool(r.get('replayed')) for r in pooled)} replay their switches."
    )


def page(records: list[Record]) -> str:
    """docs/coverage.md."""
    versions = ", ".join(f"{library} {version}" for library, version in stamp().items() if library != "engine")
    odd = [r for r in records if r["status"] not in ("right", "refused")]
    listed = "\n".join(f"- `{r['name']}`: {r['status']}, {r.get('why') or '; '.join(r['problems'])}" for r in odd)
    head = __doc__.split("\n\n")[-1].replace("\n", " ").strip()
    return (
        f"# Coverage\n\n{headline(records)}\n\nMade by `make coverage` with {versions}. {head}\n\n"
        "*Undecided*: with random weights nothing reaches the image, or the rules agree. *Captum right*: its "
        "GuidedBackprop and Deconvolution give the oracle's maps; *silent*: at least one is the plain gradient, "
        f"without a word.\n\n{table(records)}\n\n## One by one\n\n{listed or 'None.'}\n"
    )


def main() -> int:
    """Examine what is asked for and not known yet; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", help="names with *")
    parser.add_argument("--sample", action="store_true", help="a tenth, drawn by the date")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", type=float, default=6, help="GB for each process")
    parser.add_argument("--minutes", type=float, default=10, help="for each model")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no process is left behind
    names = everything()
    if asked.patterns:
        names = [name for name in names if any(fnmatchcase(name, pattern) for pattern in asked.patterns)]
    if asked.sample:
        names = random.Random(datetime.date.today().isoformat()).sample(names, -(-len(names) // 10))
    results = known()
    todo = [name for name in names if name not in results]
    RESULTS.parent.mkdir(exist_ok=True)
    with Progress(disable=not sys.stderr.isatty()) as progress, RESULTS.open("a", encoding="utf-8") as file:
        task = progress.add_task("models", total=len(todo))
        for name, record in run(todo, asked.workers, asked.memory, asked.minutes):
            results[name] = {"name": name, **record, "stamp": stamp()}
            print(json.dumps(results[name]), file=file, flush=True)
            progress.update(task, advance=1, description=name)
            if record["status"] not in ("right", "refused"):
                progress.console.print(f"{name}: {record['status']}, {record.get('why') or record.get('problems')}")
    records = [results[name] for name in names]
    print(table(records))
    print(headline(records))
    if not asked.patterns and not asked.sample:
        PAGE.write_text(page(records), encoding="utf-8")
    return int(any(record["status"] == "wrong" for record in records))


if __name__ == "__main__":
    sys.exit(main())
