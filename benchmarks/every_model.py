"""Every model of torchvision and timm under every rule, beside the oracle and beside Captum.

    python benchmarks/every_model.py                  # all of them; stop it and start it again as you like
    python benchmarks/every_model.py --sample         # a tenth, another one each day
    python benchmarks/every_model.py 'timm:resnet*'   # some

Results go line by line into runs/coverage.jsonl, and what is settled there for these versions and this engine is not
done again. A run over all models writes docs/coverage.md and, beside it, coverage-by-family.md. Each model has a
process of its own with a limit of memory.
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
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache, partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import captum
import timm
import torch
import torchvision
from rich.progress import Progress

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import examination  # noqa: E402  # after the path that leads there

RESULTS = ROOT / "runs" / "coverage.jsonl"
PAGE = ROOT / "docs" / "coverage.md"
FAMILIES = ROOT / "docs" / "coverage-by-family.md"

Record = dict[str, Any]


# Processes --------------------------------------------------------------------------------------------------


Examine = Callable[[str], Record]
"""What is done with one model, by its name."""


def in_a_process(examine: Examine, name: str, pipe: Connection, gigabytes: float) -> None:
    """Examine one model within a limit, and send what came out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    warnings.simplefilter("ignore")  # the libraries' own
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pipe.send(examine(name))


def run(
    examine: Examine, names: list[str], workers: int, gigabytes: float, minutes: float
) -> Iterator[tuple[str, Record]]:
    """The records of all names as they come."""
    context = multiprocessing.get_context("fork")  # torch and timm are imported once, here
    waiting = list(reversed(names))
    running: dict[Any, tuple[str, BaseProcess, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                name = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                started = context.Process(target=in_a_process, args=(examine, name, theirs, gigabytes))
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
    sources = [*(ROOT / "attribkit" / "engine").glob("*.py"), ROOT / "tests" / "oracles.py"]
    engine = digest(sources)
    libraries = {library.__name__: library.__version__ for library in (torch, torchvision, timm, captum)}
    return libraries | {"engine": engine}


def digest(sources: Iterable[Path]) -> str:
    """A few letters that change when any of these files does."""
    return hashlib.sha256(b"".join(source.read_bytes() for source in sorted(sources))).hexdigest()[:12]


SETTLED = ("right", "refused", "too large")


def known(results: Path, how: Record, stamp: Record) -> dict[str, Record]:
    """The results in a file that hold for what is installed; what they leave open is looked at again."""
    if not results.exists():
        return {}
    lines = map(json.loads, results.read_text(encoding="utf-8").splitlines())
    wanted = how | {"stamp": stamp}
    return {r["name"]: r for r in lines if r["status"] in SETTLED and {key: r.get(key) for key in wanted} == wanted}


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


def smooth(status: str) -> Callable[[Record], bool]:
    """Whether the second examination of a model, of its smooth activations, came out like this."""
    return lambda record: record.get("smooth", {}).get("status") == status


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
    'with "all": right': smooth("right"),
    "all: refused": smooth("refused"),
    "all: **wrong**": smooth("wrong"),
    "all: undecided": lambda r: smooth("undecided")(r) or smooth("no effect")(r),
    "all: too large": smooth("too large"),
    "all: failed": smooth("failed"),
}


def library(name: str) -> str:
    """The library that a model is from."""
    return name.partition(":")[0]


def table(records: Iterable[Record], group: Callable[[str], str], heading: str) -> str:
    """One line per group of models, and the sum of all; columns of zeros are left out."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(group(record["name"]), []).append(record)
    everyone = [record for members in groups.values() for record in members]
    columns = {title: test for title, test in COLUMNS.items() if title == "**wrong**" or any(map(test, everyone))}
    lines = [f"| {heading} | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for title, members in [*sorted(groups.items()), ("**all**", everyone)]:
        counts = [sum(map(test, members)) for test in columns.values()]
        lines.append(f"| {title} | {' | '.join(str(count) for count in counts)} |")
    return "\n".join(lines)


def headline(records: list[Record]) -> str:
    """The sentence for the README."""
    fit = [r for r in records if r["status"] != "too large"]
    # What may be a rectifier on paper, where values are not there, can turn out to be none.
    rectified = [r for r in fit if {"relu", "relu6"} & set(r.get("ops", {})) and r.get("rectified") is not False]
    right = sum(r["status"] == "right" for r in rectified)
    pooled = [r for r in fit if r.get("pools")]
    wrong = sum(r["status"] == "wrong" for r in records)
    return (
        f"{len(records)} models examined, {wrong} wrong. {len(rectified)} have a ReLU or ReLU6, and {right} of them "
        f"are right. {len(pooled)} have max-pooling, and {sum(bool(r.get('replayed')) for r in pooled)} of them replay "
        f"their switches. {len(records) - len(fit)} are too large for the machine and not counted. "
        + smooth_headline([r["smooth"] for r in records if "smooth" in r])
    )


def smooth_headline(records: list[Record]) -> str:
    """The sentence on `activations="all"`."""
    count = Counter(record["status"] for record in records)
    seconds = sorted(record["seconds"] for record in records) or [0.0]
    return (
        f"Of {len(records)} without a rectifier {count['right']} are right and {count['wrong']} wrong with "
        f'`activations="all"`, which takes {statistics.median(seconds):.0f} s per model, at most {seconds[-1]:.0f}.'
    )


MEANING = """| word | meaning |
|---|---|
| right | under all three rules the maps equal the oracle's, the forward pass is equal bit for bit, the model is \
unchanged afterwards, and recorded switches replay |
| refused | the model has no rectifier between image and output, and the oracle finds none either (torch's meta \
device shows it, without weights); or it is quantized |
| no effect | no rectifier lies between image and output, so every rule gives the plain gradient |
| failed | the examination ended with an error |
| wrong | one of these does not hold |
| too large | for the memory of the machine: its maps were not judged; where its sites show without weights, \
they are listed below |
| undecided | with random weights nothing reaches the image, or the rules agree there |
| switches | models with max-pooling whose recorded switches replay |
| Captum right | Captum's GuidedBackprop and Deconvolution give the oracle's maps |
| Captum wrong | at least one of its maps is neither the oracle's nor the plain gradient |
| Captum silent | at least one of its maps is the plain gradient, without a warning (known without a run for models \
that are refused here: it finds nothing to hook) |
| Captum error | at least one of its methods ends in an error |
| with "all" | of models without a rectifier: the same, asked again with `activations="all"`, beside an oracle for \
smooth functions; that the rule is followed, and not \
[what such a map is worth](how-to-read-a-map.md#smooth-activations) |
"""


def page(records: list[Record]) -> str:
    """docs/coverage.md."""
    versions = ", ".join(f"{library} {version}" for library, version in stamp().items() if library != "engine")
    both = [(r, "") for r in records] + [(r["smooth"], ' with "all"') for r in records if "smooth" in r]
    listed = "\n".join(
        f"- `{r['name']}`{asked}: {r['status']}, {why(r)}{_sites(r)}"
        for r, asked in both
        if r["status"] not in ("right", "refused")
    )
    return (
        "# Coverage\n\nDoes attribkit handle your model rightly? It was tried on every model of torchvision and timm, "
        f"beside a slow, independent implementation (the *oracle*) and beside Captum.\n\n{headline(records)}\n\n"
        f"{table(records, library, 'library')}\n\n"
        "[Family by family](coverage-by-family.md) has the same table for each file of the two libraries. For a model "
        "of your own, `attribkit check MODEL` answers the same question.\n\n"
        f"## What the words mean\n\n{MEANING}\nMade by `make coverage` with {versions}.\n\n"
        f"## Neither right nor refused\n\n{listed or 'None.'}\n{other_peoples()}"
    )


def families_page(records: list[Record]) -> str:
    """docs/coverage-by-family.md."""
    return (
        "# Coverage, family by family\n\nA family is a file of timm or torchvision that defines models. "
        "[Coverage](coverage.md#what-the-words-mean) says what the words mean. Written by `make coverage`.\n\n"
        f"{table(records, family, 'family')}\n"
    )


OTHERS = "\n## Other people's models\n"


def other_peoples(page: Path = PAGE) -> str:
    """The last part of the page, which `thirdparty.py` writes."""
    _, heading, found = page.read_text(encoding="utf-8").partition(OTHERS)
    return heading + found


def why(record: Record) -> str:
    """What stands in the way, or what is wrong."""
    found = record.get("why") or "; ".join(record.get("problems", ()))
    return found or f"off by {max(record['errors'].values()):.1e}"


def _sites(record: Record) -> str:
    """What is known of a model whose maps were not made."""
    if record["status"] != "too large" or "ops" not in record:
        return ""
    swapped = ", ".join(f"{count} {op}" for op, count in record["ops"].items())
    return f"; {record['parameters'] / 1e6:,.0f} million parameters, swapped {swapped}"


def results_of(names: list[str], activations: str, asked: argparse.Namespace) -> dict[str, Record]:
    """The results of these models, made and written down where they are not known."""
    examine = partial(examination.examine, activations=activations)
    return gone_through(examine, names, {"activations": activations}, stamp(), RESULTS, asked)


def gone_through(
    examine: Examine, names: list[str], how: Record, stamp: Record, results: Path, asked: argparse.Namespace
) -> dict[str, Record]:
    """The results of these models that a file has for `how` and `stamp`; what it has not is made and written down."""
    found = known(results, how, stamp)
    todo = [name for name in names if name not in found]
    results.parent.mkdir(exist_ok=True)
    with Progress(disable=not sys.stderr.isatty()) as progress, results.open("a", encoding="utf-8") as file:
        task = progress.add_task("models", total=len(todo))
        for name, record in run(examine, todo, asked.workers, asked.memory, asked.minutes):
            found[name] = {"name": name, **how, **record, "stamp": stamp}
            print(json.dumps(found[name]), file=file, flush=True)
            progress.update(task, advance=1, description=name)
            if record["status"] not in ("right", "refused"):
                progress.console.print(f"{name}: {record['status']}, {why(record)}")
    return {name: found[name] for name in names}


def options(description: str) -> argparse.ArgumentParser:
    """Those of a sweep."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", help="names with *")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", type=float, default=9, help="GB for each process")
    parser.add_argument("--minutes", type=float, default=10, help="for each model")
    return parser


def main() -> int:
    """Examine what is asked for and not known yet; 1 if anything is wrong."""
    parser = options(__doc__)
    parser.add_argument("--sample", action="store_true", help="a tenth, drawn by the date")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no process is left behind
    names = everything()
    if asked.patterns:
        names = [name for name in names if any(fnmatchcase(name, pattern) for pattern in asked.patterns)]
    if asked.sample:
        names = random.Random(datetime.date.today().isoformat()).sample(names, -(-len(names) // 10))
    results = results_of(names, "rectifiers", asked)
    without = [name for name in names if results[name].get("rectified") is False]
    for name, record in results_of(without, "all", asked).items():
        results[name]["smooth"] = record
    records = [results[name] for name in names]
    print(table(records, family, "family"))
    print(headline(records))
    if not asked.patterns and not asked.sample:
        PAGE.write_text(page(records), encoding="utf-8")
        FAMILIES.write_text(families_page(records), encoding="utf-8")
    return int(any(record["status"] == "wrong" or smooth("wrong")(record) for record in records))


if __name__ == "__main__":
    sys.exit(main())
