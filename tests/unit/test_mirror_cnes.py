"""The demonstration CNES snapshot: official layout, fictional content, same bytes every time."""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections import Counter

import pytest

from tests.mirror import cnes


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with zipfile.ZipFile(cnes.SNAPSHOT) as archive:
        assert archive.namelist() == ["tbEstabelecimento202602.csv"]
        text = archive.read("tbEstabelecimento202602.csv").decode("latin-1")
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=";"))


def _members(data: bytes) -> list[tuple[str, tuple[int, ...], int, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(i.filename, i.date_time, i.compress_type, archive.read(i)) for i in archive.infolist()]


def test_a_fresh_generation_equals_the_committed_snapshot() -> None:
    fresh, committed = cnes.build_snapshot(), cnes.SNAPSHOT.read_bytes()
    assert _members(fresh) == _members(committed), "run: python -m tests.mirror cnes"
    if "ng" not in zlib.ZLIB_RUNTIME_VERSION:  # zlib-ng deflates the same data to other bytes
        assert fresh == committed, "run: python -m tests.mirror cnes"
    assert fresh == cnes.build_snapshot()


def test_the_zip_is_small_and_every_value_is_quoted() -> None:
    assert cnes.SNAPSHOT.stat().st_size <= 2 * 1024 * 1024
    with zipfile.ZipFile(cnes.SNAPSHOT) as archive:
        lines = archive.read(archive.namelist()[0]).decode("latin-1").split("\r\n")
    assert lines.pop() == ""
    assert all(re.fullmatch(r'"[^"]*"(;"[^"]*"){53}', line) for line in lines)


def test_columns_are_those_of_the_layout_in_order(rows: list[dict[str, str]]) -> None:
    with cnes.LAYOUT.open(encoding="utf-8", newline="") as file:
        layout = list(csv.DictReader(file))
    names = list(rows[0])
    assert len(names) == 54
    assert names == cnes.header()
    assert all(line["coluna"] in name for line, name in zip(layout, names, strict=True))
    used = {line["coluna"] for line in layout if line["usar_no_pipeline"] == "S"}
    for row in rows:
        filled = {name for name, value in row.items() if value}
        assert filled <= used, f"columns that must not be imported are filled: {filled - used}"


def test_every_municipality_has_an_active_establishment_and_the_tail_is_heavy(rows: list[dict[str, str]]) -> None:
    found = cnes.read_snapshot()
    assert {one.municipio for one in found if one.active} == set(cnes.read_municipios())
    assert 17_000 <= len(rows) <= 19_500
    counts = Counter(one.municipio for one in found)
    assert counts.most_common(1)[0][0] == "355030"
    assert sum(1 for amount in counts.values() if amount <= 3) > 3000
    assert sum(amount for _, amount in counts.most_common(100)) > 0.2 * len(rows)


def test_numbers_are_unique_and_keep_their_zeros(rows: list[dict[str, str]]) -> None:
    numbers = [row["CO_CNES"] for row in rows]
    assert len(set(numbers)) == len(numbers)
    assert all(re.fullmatch(r"\d{7}", number) for number in numbers)
    assert sum(number.startswith("0") for number in numbers) > 5000
    assert cnes.ABSENT not in numbers
    assert not any(number.startswith("99") for number in numbers)
    assert all(row["CO_UNIDADE"][6:] == row["CO_CNES"] for row in rows)


def test_the_establishments_of_the_examples_are_there(rows: list[dict[str, str]]) -> None:
    places = {row["CO_CNES"]: row for row in rows}
    for number, municipio in cnes.FIXED:
        assert places[number]["CO_UNIDADE"] == municipio + number
        assert places[number]["CO_MOTIVO_DESAB"] == ""


def test_the_known_oddities_are_planted(rows: list[dict[str, str]]) -> None:
    regions = [row for row in rows if row["CO_UNIDADE"][:2] == "53" and row["CO_UNIDADE"][:6] != "530010"]
    assert len(regions) == 3
    assert "530040" in {row["CO_UNIDADE"][:6] for row in regions}
    managed_by_state = [row["CO_MUNICIPIO_GESTOR"] for row in rows if len(row["CO_MUNICIPIO_GESTOR"]) == 2]
    assert "53" in managed_by_state
    assert len(managed_by_state) == cnes.MALFORMED_MANAGERS
    closed = sum(1 for row in rows if row["CO_MOTIVO_DESAB"])
    assert 0.01 < closed / len(rows) < 0.08


def test_every_name_says_that_it_is_fictional(rows: list[dict[str, str]]) -> None:
    assert all("FICTICI" in row["NO_FANTASIA"] and "FICTICI" in row["NO_RAZAO_SOCIAL"] for row in rows)
