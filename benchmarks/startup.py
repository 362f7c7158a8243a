"""How long `attribkit --help` takes, as a multiple of `python -c "import click"`, measured in turns in one run.

python benchmarks/startup.py [--turns 21]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

HELP = (str(Path(sys.executable).with_name("attribkit")), "--help")
CLICK = (sys.executable, "-c", "import click")


def seconds(command: tuple[str, ...]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=21)
    turns = parser.parse_args().turns
    pairs = [(seconds(CLICK), seconds(HELP)) for _ in range(turns + 1)][1:]  # the first ones read from the disk
    click, help_ = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
    print(f'python -c "import click"  {1000 * click:6.0f} ms')
    print(f"attribkit --help          {1000 * help_:6.0f} ms   {ratio:.2f} times")


if __name__ == "__main__":
    main()
