"""A study on photographs that may not be passed on, with figures of photographs that may.

python benchmarks/free_pictures.py OUT NEW PICTURE [PICTURE ...]

OUT is a folder in which `attribkit validate` left its results. They are copied to NEW; rules stand side by side on the
pictures given, and figures that show other photographs are left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from attribkit.files import write_whole
from attribkit.reference_models.switch_study import figures, subjects
from attribkit.reference_models.switch_study.testset import TestSet
from attribkit.report.pictures import encode_png


def copied(out: Path, new: Path, photographs: Sequence[Path]) -> None:
    """Copy what the study found, and draw what may be shown."""
    results = json.loads((out / "results.json").read_bytes())
    without_images = [each for each in results["pictures"] if "-lower-layers-" in each["file"]]
    shown = [(each, (out / each["file"]).read_bytes()) for each in without_images]
    for network in results["networks"]:
        shown += drawn(network, photographs)
    results["pictures"] = [each for each, _ in shown]
    (new / "figures").mkdir(parents=True, exist_ok=True)
    for each, png in shown:
        write_whole(new / each["file"], png)
    write_whole(new / "results.json", f"{json.dumps(results, indent=2)}\n".encode())


def drawn(network: str, photographs: Sequence[Path]) -> Iterator[tuple[dict[str, str], bytes]]:
    """The rules side by side, by each kind of unit that is shown."""
    tests = TestSet(tuple(photographs), "free photographs")
    subject = subjects.prepared(network, "trained", subjects.read(network), tests, seed=0)
    for kind in ("last", "class"):
        png = encode_png(figures.side_by_side(subject, kind, range(len(photographs))))
        file = f"figures/{quote(network, safe='')}-side-by-side-{kind}.png"
        caption = figures.compared(subject, kind, "in photographs that are free")
        yield {"file": file, "caption": f"{network}. {caption}", "network": network}, png


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: python benchmarks/free_pictures.py OUT NEW PICTURE [PICTURE ...]")
    found, made, *pictures = map(Path, sys.argv[1:])
    copied(found, made, pictures)
