"""The reference tables in the tree are the ones that SOURCES.md speaks of."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest

from imunizacao.paths import REFERENCE

_LINE = re.compile(r"\| `(?P<path>[^`]+\.csv)` \| (?P<rows>[0-9]+) \| .* \| `(?P<sha256>[0-9a-f]{64})` \|")
SOURCES = {
    match["path"]: (int(match["rows"]), match["sha256"])
    for match in _LINE.finditer((REFERENCE / "SOURCES.md").read_text(encoding="utf-8"))
}
FOLDERS = ("ibge", "pni", "cnes_layout", "rnds")


def read(path: str) -> list[dict[str, str]]:
    with (REFERENCE / path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def check_digit(code6: str) -> str:
    """IBGE check digit: weights 1,2,1,2,1,2, digits of each product summed, complement of ten."""
    products = [int(digit) * weight for digit, weight in zip(code6, (1, 2, 1, 2, 1, 2), strict=True)]
    return str(-sum(product // 10 + product % 10 for product in products) % 10)


def test_every_table_has_a_source_and_every_source_a_table() -> None:
    tables = {f"{folder}/{path.name}" for folder in FOLDERS for path in Path(REFERENCE, folder).iterdir()}
    assert set(SOURCES) == tables, "Add the table to include/reference/SOURCES.md, or remove its line there."
    assert len(tables) == 29


@pytest.mark.parametrize("path", sorted(SOURCES))
def test_table_is_the_one_in_sources(path: str) -> None:
    rows, sha256 = SOURCES[path]
    content = (REFERENCE / path).read_bytes()
    assert hashlib.sha256(content).hexdigest() == sha256, (
        f"{path} changed: write its new origin, date and sha256 in include/reference/SOURCES.md."
    )
    assert len(read(path)) == rows
    assert not content.startswith(b"\xef\xbb\xbf")
    assert b"\r" not in content


@pytest.mark.parametrize("path", sorted(path for path in SOURCES if path.startswith("pni/")))
def test_codes_of_a_table_are_unique(path: str) -> None:
    rows = read(path)
    key = next(iter(rows[0]))
    repeated = [code for code, count in Counter(row[key] for row in rows).items() if count > 1]
    assert not repeated, f"{path} repeats {key}: {repeated}"


def test_municipalities_are_the_5571_units_of_27_ufs() -> None:
    municipalities = read("ibge/ibge_municipios.csv")
    ufs = {uf["co_uf"]: uf for uf in read("ibge/ibge_ufs.csv")}
    assert len({row["co_ibge_6"] for row in municipalities}) == len(municipalities) == 5571
    for row in municipalities:
        assert row["co_ibge_7"][:6] == row["co_ibge_6"]
        assert row["co_ibge_6"][:2] == row["co_uf"]
        assert row["sg_uf"] == ufs[row["co_uf"]]["sg_uf"]
    counted = Counter(row["co_uf"] for row in municipalities)
    assert counted == {code: int(uf["qt_municipios"]) for code, uf in ufs.items()}
    assert counted["53"] == 1


def test_check_digit_exceptions_are_exactly_the_listed_ones() -> None:
    broken = {
        row["co_ibge_7"]
        for row in read("ibge/ibge_municipios.csv")
        if check_digit(row["co_ibge_6"]) != row["co_ibge_7"][6]
    }
    assert broken == {row["co_ibge_7"] for row in read("ibge/ibge_excecoes_dv.csv")}
    assert len(broken) == 9


def test_published_cells_of_our_tables_start_no_formula() -> None:
    for path in SOURCES:
        if path.startswith("cnes_layout/"):
            continue
        for row in read(path):
            for column, cell in row.items():
                assert not cell.startswith(("=", "+", "-", "@", "\t", "\0", "'")), f"{path} {column}: {cell!r}"
                assert "\n" not in cell
