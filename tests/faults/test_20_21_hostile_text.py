"""Hostile text in published cells. Figures: 100,000 random rows are equal after three independent parsers; 0 live formulas."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

import duckdb
import pandas
import pytest

from imunizacao.settings import EngineSettings
from imunizacao.sql import open_engine
from tests.faults.hostile import CONTRACT, STARTS, TEXTS, hostile_rows, split_rows
from tests.support.memory_store import MemoryStore
from tests.support.small_day import SmallDay, dose
from tests.unit.test_split import DAY


@pytest.mark.parametrize("count", [1_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_random_hostile_rows_are_equal_after_every_parser(tmp_path: Path, count: int) -> None:
    rows = hostile_rows(count, seed=count)
    outcome = split_rows(rows, tmp_path / "split")
    path = tmp_path / "whole.csv"
    path.write_bytes(outcome.cuts.header.encode() + outcome.body.read_bytes())
    kept, neutralised = [], Counter[str]()
    for row in sorted(rows, key=lambda row: (row["co_municipio_estabelecimento"], row["co_documento"])):
        values = [str(row[name]) for name in TEXTS]
        neutralised.update(name for name, value in zip(TEXTS, values, strict=True) if value.startswith(STARTS))
        kept.append((row["co_documento"], *(f"'{value}" if value.startswith(STARTS) else value for value in values)))

    names = ["co_documento", *TEXTS]
    with path.open(encoding="utf-8", newline="") as file:
        by_csv = [tuple(line[name] for name in names) for line in csv.DictReader(file, delimiter=";", strict=True)]
    assert by_csv == kept
    with duckdb.connect() as connection:
        by_duckdb = connection.execute(
            f"select {', '.join(names)} from read_csv($path, delim = ';', quote = '\"', escape = '\"', header = true, "
            "all_varchar = true, strict_mode = true, parallel = false)",
            {"path": str(path)},
        ).fetchall()
    assert by_duckdb == kept
    frame = pandas.read_csv(path, sep=";", dtype=str, keep_default_na=False, usecols=names)[names]
    assert [tuple(line) for line in frame.itertuples(index=False)] == kept

    assert outcome.neutralised == dict(neutralised), "a formula is counted by its column"
    assert not [cell for line in by_csv for cell in line[1:] if cell.startswith(STARTS)], "a live formula"
    assert outcome.blanked == {}


def test_control_characters_and_line_breaks_become_one_space_before_the_table(tmp_path: Path) -> None:
    """What flatten does to every text; so no cell starts with TAB, CR or NUL, and a line of a CSV is a row."""
    values = {
        'A";B\nC': 'A";B C',
        "a\r\n\tb": "a b",
        "\x00=1+1": "=1+1",
        "\t@x": "@x",
        "a\u2028b\u2029c\x85d": "a b c d",
        "\n": None,
        "\u202eabc": "\u202eabc",
    }
    with open_engine(EngineSettings(), tmp_path) as duck:
        duck.run("flatten/01_macro_texto")
        found = {
            value: duck.connection.execute("select texto($value)", {"value": value}).fetchall()[0][0]
            for value in values
        }
    assert found == values


def test_day_json_counts_formulas_by_column(tmp_path: Path) -> None:
    """Of what split counted, nothing is lost on the way to readers."""
    day = SmallDay(DAY, MemoryStore(), MemoryStore(), tmp_path)
    context, inputs = day.inputs([dose("a", "355030", co_lote_vacina="'=1+1")])
    object.__setattr__(inputs.split, "neutralised", {"co_lote_vacina": 1})
    published = day.publish(context, inputs)
    assert json.loads(day.get(published.root_path))["neutralised"] == {"co_lote_vacina": 1}


def test_every_column_of_typed_text_is_neutralised() -> None:
    """Columns that are not are codes, dates and numbers whose pattern lets no formula through, or texts of our own tables."""
    header = next(csv.reader(io.StringIO(";".join(CONTRACT.names)), delimiter=";"))
    others = [CONTRACT.column(name) for name in header if name not in TEXTS]
    for column in others:
        assert not any(column.accepts(f"{start}1+1") for start in STARTS if column.type == "string" and column.pattern)
