"""The table of this folder names what is tested, and nothing else.

Rows of extraction name every test. Rows of publication name files or tests, also of other folders: each of them must exist.
"""

from __future__ import annotations

import re
from pathlib import Path

from imunizacao.paths import ROOT

HERE = Path(__file__).resolve().parent
EXTRACTION = {*range(1, 11), 17, 18, 19, 24}
TEXT = (HERE / "README.md").read_text("utf-8")


def _tests(path: Path) -> list[str]:
    return re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)


def _rows(path: Path) -> list[int]:
    return [int(row) for row in re.findall(r"_(\d\d)(?=_)", path.name)]


def test_the_table_names_every_test_of_extraction_with_its_row() -> None:
    lines = re.findall(r"^\| ([^|]+) \|.*\| `(test_\w+)` \|$", TEXT, re.MULTILINE)
    found: dict[str, str] = {}
    for path in sorted(HERE.glob("test_*.py")):
        rows = _rows(path)
        if path != Path(__file__).resolve() and set(rows) <= EXTRACTION and path.name != "test_soak.py":
            found |= dict.fromkeys(_tests(path), ", ".join(map(str, rows)))
    found |= dict.fromkeys(_tests(HERE / "test_soak.py"), "all")
    table = [(row, name) for row, name in lines if name in found]
    assert {name for _, name in table} == set(found)
    assert len(table) == len(found), "a test stands in one line"
    assert not [name for row, name in table if row.strip() not in found[name]], "another row than that of its file"


def test_the_table_names_every_file_of_publication_with_its_row_and_nothing_that_is_not_there() -> None:
    by_row: dict[int, str] = {}
    for rows, line in re.findall(r"^\| ([0-9, ]+) \|(.*)\|$", TEXT, re.MULTILINE):
        for row in rows.split(","):
            by_row[int(row)] = by_row.get(int(row), "") + line
    for path in sorted(HERE.glob("test_*.py")):
        for row in set(_rows(path)) - EXTRACTION:
            named = [name for name in (path.name, *_tests(path)) if name in by_row[row]]
            assert named, f"row {row} names neither {path.name} nor a test of it"
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    tests = {name for path in (ROOT / "tests").rglob("test_*.py") for name in _tests(path)}
    told = set(re.findall(r"`(?:tests/\w+/)?(test_\w+(?:\.py)?)`", TEXT))
    assert told - files - tests == set()
