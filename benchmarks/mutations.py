"""What the tests of the engine notice: one operator, number or condition is changed at a time, and they are run.

    make mutations
    python benchmarks/mutations.py [--workers 2] [--out runs/mutations]

The changes are those of cosmic-ray: one of each kind at each place in the code, drawn by a fixed seed. What changes
only an annotation is left out, as nothing evaluates those. A change is noticed when a test fails, or when the tests do
not come to an end. Each is tried in a process of its own, forked after torch has been imported, by the tests that call
the function where it stands: the quickest, for a minute. No file of the project is written to. The folder keeps what is
done, so that the same command goes on where it was stopped. What was noticed counts until its module changes; what
survived is tried again by other tests.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

ENGINE = Path("attribkit/engine")
MODULES = ("rules", "pooling", "unpooling", "switches", "lift")
TESTS = Path("tests/engine")
NOTICED = ("noticed", "no end")
MOST = 60.0  # seconds that the tests of one change may take, as measured without it
PATIENCE = 4.0  # how many times longer than without a change tests may take, and LEAST seconds more
LEAST = 120.0


@dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    module: str
    kind: str
    line: int
    before: str
    after: str
    source: str

    @property
    def name(self) -> str:
        return f"{self.module}.py:{self.line} {self.kind}: {self.before!r} -> {self.after!r}"


# ---------------------------------------------------------------------------------------------------------- the changes


def mutants(module: str) -> Iterator[Mutant]:
    """One of each kind at each place of a module's code."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ENGINE / f"{module}.py").read_text(encoding="utf-8")
    meaning = _meaning(source)
    found: dict[tuple[str, Any], list[tuple[Any, int]]] = {}
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        kind = name.partition("/")[2].partition("_")[0]
        places = (start for node in ast_nodes(get_ast(source)) for start, _ in operator().mutation_positions(node))
        for occurrence, place in enumerate(places):
            found.setdefault((kind, place), []).append((operator(), occurrence))
    draw = random.Random(module)
    for (kind, (line, _)), choices in sorted(found.items(), key=str):
        operator, occurrence = draw.choice(choices)
        changed = mutate_code(source, operator, occurrence)
        if changed is not None and _meaning(changed) not in (meaning, None):
            yield Mutant(module, kind, line, *_lines(source, changed), changed)


def _meaning(source: str) -> str | None:
    """A module without its annotations, which are never evaluated; nothing of what is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def _lines(source: str, changed: str) -> tuple[str, str]:
    """What differs, before and after."""
    lines = list(difflib.unified_diff(source.splitlines(), changed.splitlines(), n=0, lineterm=""))[2:]
    before, after = (" ".join(line[1:].strip() for line in lines if line[0] == sign and line[1:]) for sign in "-+")
    return before, after


# ----------------------------------------------------------------------------------------------------------- the trial


@dataclass(frozen=True)
class Known:
    """A test without any change: how many seconds it takes, and which functions of the modules it calls."""

    seconds: float
    calls: frozenset[tuple[str, int]]


class _Watching:
    """Lets pytest say of each test which functions it calls, by module and first line."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[float, set[tuple[str, int]]]] = {}
        self.files = {str((ENGINE / f"{module}.py").absolute()): module for module in MODULES}

    def pytest_runtest_protocol(self, item: Any) -> None:
        self.calls: set[tuple[str, int]] = set()
        sys.setprofile(self._noted)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        sys.setprofile(None)

    def pytest_runtest_logreport(self, report: Any) -> None:
        seconds, calls = self.seen.setdefault(report.nodeid, (0.0, self.calls))
        self.seen[report.nodeid] = seconds + report.duration, calls

    def _noted(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename in self.files:
            self.calls.add((self.files[code.co_filename], code.co_firstlineno))


class _Chosen:
    """Lets pytest run some tests, in their order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.places = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.places), key=lambda i: self.places[i.nodeid])


class _Changed(importlib.machinery.SourceFileLoader):
    """Loads a module from a source of ours, past its file and what is compiled of it."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> Any:
        if fullname != f"attribkit.engine.{self.mutant.module}":
            return None
        file = str((ENGINE / f"{self.mutant.module}.py").absolute())
        return importlib.util.spec_from_file_location(
            fullname, file, loader=_Changed(fullname, file, self.mutant.source)
        )


def forked(work: Callable[[], int]) -> int:
    """A process of its own, which ends with what the work gives."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        code = work()
    finally:
        os._exit(code)


def run_tests(files: Collection[str], *plugins: object) -> int:
    import pytest

    quiet = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
    return int(pytest.main(["-x", "-q", *quiet, "-p", "no:cacheprovider", "-p", "no:xdist", *files], list(plugins)))


def tried(mutant: Mutant, tests: Sequence[str]) -> int:
    """Run tests with one change, in silence; 0 if all of them pass. Those that take long to collect come last."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sys.meta_path.insert(0, _Finder(mutant))
    late = str(TESTS / "ways")
    for part in ([t for t in tests if not t.startswith(late)], [t for t in tests if t.startswith(late)]):
        if part and (code := run_tests(dict.fromkeys(test.partition("::")[0] for test in part), _Chosen(part))):
            return code
    return 0


def watched(file: Path) -> dict[str, Known]:
    """Each test without any change; they are run once, and have to pass."""
    if not file.is_file():

        def work() -> int:
            watching = _Watching()
            code = run_tests([str(TESTS)], watching)
            seen = {test: [seconds, sorted(calls)] for test, (seconds, calls) in watching.seen.items()}
            file.write_text(json.dumps(seen), encoding="utf-8")
            return code

        _, status = os.waitpid(forked(work), 0)
        if status:
            file.unlink(missing_ok=True)
            sys.exit("the tests fail as it is: run python -m pytest -x tests/engine")
    read = json.loads(file.read_text(encoding="utf-8"))
    return {test: Known(seconds, frozenset(map(tuple, calls))) for test, (seconds, calls) in read.items()}


def chosen(mutant: Mutant, known: dict[str, Known]) -> list[str]:
    """The quickest tests that call the function in which a change is, while there is time; any where no test calls it.

    Such a function may be at work while the module is imported.
    """
    within = _function(mutant.module, mutant.line) or ()
    names = [test for test, one in known.items() if any((mutant.module, line) in one.calls for line in within)]
    names = names or list(known)
    names.sort(key=lambda test: known[test].seconds)
    upto = accumulate(known[name].seconds for name in names)
    return [name for name, seconds in zip(names, upto, strict=True) if seconds <= MOST]


def _function(module: str, line: int) -> range | None:
    """The lines of the outermost function around a line, its decorators among them."""
    tree = ast.parse((ENGINE / f"{module}.py").read_text(encoding="utf-8"))
    places = [*tree.body, *(inner for node in tree.body if isinstance(node, ast.ClassDef) for inner in node.body)]
    for node in places:
        if isinstance(node, ast.FunctionDef):
            lines = range(
                min([node.lineno, *(each.lineno for each in node.decorator_list)]), (node.end_lineno or 0) + 1
            )
            if line in lines:
                return lines
    return None


def outcomes(todo: Sequence[Mutant], known: dict[str, Known], workers: int) -> Iterator[tuple[Mutant, str]]:
    """How each change fared, as they come to an end: "noticed", "no end" or "survived"."""
    waiting = list(reversed(todo))
    running: dict[int, tuple[Mutant, float]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            mutant = waiting.pop()
            tests = chosen(mutant, known)
            longest = LEAST + PATIENCE * sum(known[test].seconds for test in tests)
            running[forked(partial(tried, mutant, tests))] = mutant, time.monotonic() + longest
        time.sleep(0.02)
        for process, (mutant, until) in list(running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            late = not ended and time.monotonic() > until
            if late:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
            if ended or late:
                del running[process]
                yield mutant, "no end" if late else "noticed" if status else "survived"


# ---------------------------------------------------------------------------------------------------------- the figures


def digest(files: Iterable[Path]) -> str:
    """Of what is in files."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:16]


def kept(log: Path, sources: dict[str, str], tests: str) -> dict[str, str]:
    """What is known already of the changes of modules that have these sources, by name."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return {
        name: how
        for name, how, source, by in map(json.loads, lines)
        if source in sources.values() and (how in NOTICED or by == tests)
    }


def table(mutants: Sequence[Mutant], fared: dict[str, str]) -> list[str]:
    """For each module how many changes were tried and noticed."""
    lines = ["| module | changes | a test fails | no end | survived | noticed |", "|---|---|---|---|---|---|"]
    for module in (*MODULES, "all"):
        counts = Counter(fared[m.name] for m in mutants if module in (m.module, "all"))
        noticed, ended = counts["noticed"], counts["no end"]
        share = 100 * (noticed + ended) / max(counts.total(), 1)
        lines.append(
            f"| {module} | {counts.total()} | {noticed} | {ended} | {counts.total() - noticed - ended} | {share:.1f}% |"
        )
    return lines


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--out", type=Path, default=Path("runs/mutations"))
    options.add_argument("--only", default="", help="Only changes whose name holds this.")
    asked = options.parse_args()
    for package in ("captum", "timm", "torchvision"):  # or every process would import them again
        importlib.import_module(package)
    asked.out.mkdir(parents=True, exist_ok=True)
    every = [mutant for module in MODULES for mutant in mutants(module) if asked.only in mutant.name]
    sources = {module: digest([ENGINE / f"{module}.py"]) for module in MODULES}
    tests = digest([*ENGINE.glob("*.py"), *TESTS.rglob("*.py"), *Path("tests").glob("*.py")])
    known = watched(asked.out / f"tests-{tests}.json")
    log = asked.out / "fared.jsonl"
    fared = kept(log, sources, tests)
    todo = [mutant for mutant in every if mutant.name not in fared]
    for count, (mutant, how) in enumerate(outcomes(todo, known, asked.workers), 1):
        fared[mutant.name] = how
        with log.open("a", encoding="utf-8") as file:
            print(json.dumps([mutant.name, how, sources[mutant.module], tests]), file=file)
        print(f"{count}/{len(todo)} {how}: {mutant.name}", file=sys.stderr, flush=True)
    print("\n".join(table(every, fared)))
    for mutant in every:
        if fared[mutant.name] not in NOTICED:
            print(f"{fared[mutant.name]}: {mutant.name}")


if __name__ == "__main__":
    main()
