"""SQL text is compiled exactly as these golden texts say, and values stay values whatever they contain."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from imunizacao.sql.compile import (
    RowRule,
    all_null,
    any_null,
    bad_rows_table,
    counts_select,
    inline_parameters,
    literal,
    none_null,
    quote_identifier,
    reasons_select,
    view_on_parquet,
)

DATE = RowRule(rule="IMU-009", reason="DATE_FUTURE", conditions=("dt > date '2026-03-14'",))
KEY = RowRule(rule="IMU-003", reason="ID_REPEATED", conditions=('"id" is not null',), repeated=("id",))
PAIR = RowRule(rule="IMU-900", reason="PAIR_REPEATED", conditions=(), repeated=("id", "dt"))

GOLDEN_REASONS = """\
with repeated_1 as materialized (
    select "id"
    from "dose"
    where ("id" is not null)
    group by "id"
    having count(*) > 1
),

marked as (
    select
        "line",
        "id",
        list_filter(
            [case when (dt > date '2026-03-14') then 'IMU-009' end,
            case when ("id" is not null) and ("id") in (select "id" from repeated_1) then 'IMU-003' end],
            lambda rule: rule is not null
        ) as ds_regras
    from "dose"
)

select
    "line",
    "id",
    list_transform(ds_regras, lambda rule: map {'IMU-009': 'DATE_FUTURE', 'IMU-003': 'ID_REPEATED'}[rule]) as ds_motivos,
    ds_regras
from marked
where len(ds_regras) > 0"""

GOLDEN_COUNTS = """\
with repeated_1 as materialized (
    select "id"
    from "dose"
    where ("id" is not null)
    group by "id"
    having count(*) > 1
)

select
    count(*) filter (where (dt > date '2026-03-14')) as "IMU-009",
    count(*) filter (where ("id" is not null) and ("id") in (select "id" from repeated_1)) as "IMU-003"
from "dose\""""


def test_reasons_select_is_this_text() -> None:
    assert reasons_select([DATE, KEY], relation="dose", key=["line"], carry=["id"]) == GOLDEN_REASONS


def test_counts_select_is_this_text() -> None:
    assert counts_select([DATE, KEY], relation="dose") == GOLDEN_COUNTS
    assert counts_select([DATE], relation="dose") == (
        'select\n    count(*) filter (where (dt > date \'2026-03-14\')) as "IMU-009"\nfrom "dose"'
    )


def test_bad_rows_become_a_temporary_table() -> None:
    text = bad_rows_table("bad", [DATE, KEY], relation="dose", key=["line"], carry=["id"])
    assert text == f'create or replace temp table "bad" as\n{GOLDEN_REASONS}'


def test_view_is_this_text_and_its_paths_are_quoted() -> None:
    assert view_on_parquet("v", ["/a/it's.parquet", "/b.parquet"]) == (
        "create or replace view \"v\" as\nselect * from read_parquet(['/a/it''s.parquet', '/b.parquet'])"
    )


@pytest.fixture
def dose() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(
        """create table dose as select * from (values
        (1, 'a', date '2026-01-01'), (2, 'a', date '2026-05-01'), (3, 'b', date '2026-01-01'),
        (4, null, date '2026-01-01'), (5, null, null), (6, 'b', date '2026-01-01')) t(line, id, dt)"""
    )
    return connection


def test_a_row_gets_every_reason_in_the_order_of_the_rules(dose: duckdb.DuckDBPyConnection) -> None:
    text = reasons_select([DATE, KEY, PAIR], relation="dose", key=["line"], carry=["id"]) + " order by line"
    assert dose.execute(text).fetchall() == [
        (1, "a", ["ID_REPEATED"], ["IMU-003"]),
        (2, "a", ["DATE_FUTURE", "ID_REPEATED"], ["IMU-009", "IMU-003"]),
        (3, "b", ["ID_REPEATED", "PAIR_REPEATED"], ["IMU-003", "IMU-900"]),
        (6, "b", ["ID_REPEATED", "PAIR_REPEATED"], ["IMU-003", "IMU-900"]),
    ]
    assert dose.execute(counts_select([DATE, KEY, PAIR], relation="dose")).fetchall() == [(1, 4, 2)]


def test_without_rules_no_row_is_bad(dose: duckdb.DuckDBPyConnection) -> None:
    relation = dose.sql(reasons_select([], relation="dose", key=["line"], carry=["id"]))
    assert relation.columns == ["line", "id", "ds_motivos", "ds_regras"]
    assert [str(kind) for kind in relation.types[2:]] == ["VARCHAR[]", "VARCHAR[]"]
    assert relation.fetchall() == []


@pytest.mark.parametrize(
    "value",
    ["", "it's", 'a"b', "--; drop table x", "\\d+ $1 %s {x}", "ção \u2028\n", True, False, None, 0, -7, 2**62, 0.1, -1e300,
     Decimal("1.10"), date(2026, 3, 14), date(1, 1, 1), datetime(2026, 3, 14, 1, 2, 3, 4), datetime(2026, 3, 14, tzinfo=UTC)],
)  # fmt: skip
def test_a_literal_reads_back_as_the_same_value(value: object) -> None:
    connection = duckdb.connect()
    connection.execute("load icu")
    connection.execute("set TimeZone = 'UTC'")
    found = connection.execute(f"select {literal(value)}").fetchone()  # type: ignore[arg-type]
    assert found is not None
    assert found[0] == value
    assert type(found[0]) is type(value)


@pytest.mark.parametrize("value", [b"x", object(), [1], float("nan"), float("inf"), "a\0b"])
def test_a_value_without_a_certain_spelling_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        literal(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a", "select", 'a"b', "a b", "ção", "a;--"])
def test_a_quoted_name_is_that_name(name: str) -> None:
    relation = duckdb.sql(f"select 1 as {quote_identifier(name)}")
    assert relation.columns == [name]


def test_parameters_become_literals_in_one_pass() -> None:
    text = inline_parameters("a = $1 and b ~ $2 and c in ($10, $1)", ["$2", "^\\d$", *range(7), "it's"])
    assert text == "a = '$2' and b ~ '^\\d$' and c in ('it''s', '$2')"


def test_conditions_on_nulls() -> None:
    assert any_null(["a", "b"]) == '"a" is null or "b" is null'
    assert all_null(["a", "b"]) == '"a" is null and "b" is null'
    assert none_null(["a", "b"]) == '"a" is not null and "b" is not null'


def test_a_view_reads_all_its_files(tmp_path: Path) -> None:
    connection = duckdb.connect()
    paths = [tmp_path / "it's 1.parquet", tmp_path / "2.parquet"]
    for number, path in enumerate(paths):
        connection.execute(f"copy (select {number} as n) to {literal(str(path))} (format parquet)")
    connection.execute(view_on_parquet("two files", [str(path) for path in paths]))
    assert connection.execute('select n from "two files" order by n').fetchall() == [(0,), (1,)]
