"""Files and functions stay short, and the script that says so counts rightly."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path

import pytest
from house import LONGEST_FILE, Function, House, main

ROOT = Path(__file__).parents[2]

SOURCE = '''"""A module
of two lines."""

# A comment

class Counter:
    """Counts."""

    def count(
        self,
    ) -> int:
        """Says how many.

        More than one, often.
        """
        return 2  # not one


def late(x):
    return """a string
    that is no docstring""" + x
'''


def test_lines_and_functions_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Code is what is neither blank, comment nor docstring; a function is as long as its last line says."""
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "short.py").write_text(SOURCE)
    (tmp_path / "cli" / "long.py").write_text("x = 1\n" * (LONGEST_FILE + 1))
    house = House.of(tmp_path)
    assert [file.code for file in house.files] == [LONGEST_FILE + 1, 8]
    assert house.functions == [Function("late", 3, 3), Function("count", 8, 4)]
    main(tmp_path)
    assert "files over 400 lines: 1\n  cli/long.py: 401\n" in capsys.readouterr().out


def test_the_house_is_in_order() -> None:
    """No long file; functions of a screen: half have at most 6 lines, 95 of a hundred at most 22."""
    house = House.of(ROOT)
    assert [str(file.path) for file in house.too_long] == []
    lengths = sorted(function.body for function in house.functions)
    assert statistics.median(lengths) <= 6
    assert lengths[int(0.95 * len(lengths))] <= 22


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports a test file by its bare name: of two, the second is an error, seen only where both are run."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
