"""How long `attribkit --help` takes beside the import of click, and the first use of the library beside torch's.

python benchmarks/startup.py [--turns 21]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PAIRS = {
    "attribkit --help": ((str(Path(sys.executable).with_name("attribkit")), "--help"), "click"),
    "from attribkit import explain": ((sys.executable, "-c", "from attribkit import explain"), "torch"),
}
"""What is timed, and the import that it cannot do without."""


def seconds(command: tuple[str, ...]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=21)
    turns = parser.parse_args().turns
    for what, (command, module) in PAIRS.items():
        alone = (sys.executable, "-c", f"import {module}")
        pairs = [(seconds(alone), seconds(command)) for _ in range(turns + 1)][1:]  # the first ones read from the disk
        floor, ours = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
        print(f"{what}: {ours:.0f} ms, {ratio:.2f} of import {module} ({floor:.0f} ms)")


if __name__ == "__main__":
    main()
