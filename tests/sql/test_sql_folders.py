"""A directory is a test: `tests/sql/<stage>/<table>/<case>/` runs `include/sql/<stage>/NN_<table>.sql` on a few rows.

Files of a case:

- `<input>.csv`: one input table; the header cells are `name:type` (DuckDB types), an unquoted empty cell is null.
- `params.yaml` (where the SQL has parameters): a text is passed as it is, `{parquet: <input>}` is the path of that input
  written as Parquet, `{parquet: [<input>, <input>]}` the paths of several. `$destination` is given by the runner.
- `expected.csv`: the rows of the result as text, in any order. It may leave columns out, but never those of the grain.
- `xfail.txt` (only while a defect is open): the reason why the case fails today. A case that passes again fails the run.

No Python is needed to add a case.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from imunizacao.paths import SQL
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine

CASES = Path(__file__).resolve().parent
_RESERVED = {"expected"}
_HEADER = re.compile(r"^-- (reads|writes|grain|params): *(.*)$", re.MULTILINE)
_HEADER_CELL = re.compile(r"([a-z][a-z0-9_]*):(.+)")
_TYPE = re.compile(r"[a-z]+(\[\])?")

Row = tuple[str | None, ...]
Params = dict[str, str | int | list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One folder: which SQL file it runs and on what."""

    folder: Path
    stage: str
    table: str

    @property
    def name(self) -> str:
        """`stage/table/case`, the test's id."""
        return f"{self.stage}/{self.table}/{self.folder.name}"

    @property
    def xfail(self) -> str | None:
        """Reason why the case fails today, or None."""
        note = self.folder / "xfail.txt"
        return note.read_text(encoding="utf-8").strip() if note.is_file() else None


def find_cases(root: Path) -> list[Case]:
    """Find every case below `root`; a folder at the wrong depth or a tree without cases is an error, not an empty run."""
    cases = [
        Case(folder=folder, stage=folder.parent.parent.name, table=folder.parent.name)
        for folder in sorted(root.glob("*/*/*"))
        if folder.is_dir() and "__pycache__" not in folder.parts
    ]
    if not cases:
        raise AssertionError(f"{root} holds no case <stage>/<table>/<case>/: no SQL would be tested.")
    strays = sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.suffix in {".csv", ".yaml", ".txt"} and len(path.relative_to(root).parts) != 4
    )
    if strays:
        raise AssertionError(f"Files outside of a case folder <stage>/<table>/<case>/: {', '.join(strays)}.")
    return cases


def run_case(case: Case, scratch: Path, *, sql: Path = SQL) -> None:
    """Run the SQL of a case and compare. Raises `AssertionError` with what differs and in which file to look."""
    expected_path = case.folder / "expected.csv"
    if not expected_path.is_file():
        raise AssertionError(f"{case.name} has no expected.csv: a case without an expectation tests nothing.")
    target = _sql_file(sql / case.stage, case.table)
    text = target.read_text(encoding="utf-8")
    header = {key: value.strip() for key, value in _HEADER.findall(text)}
    with open_engine(EngineSettings(threads=2, memory_limit="256MB"), scratch) as duck:
        for macro in sorted((sql / case.stage).glob("[0-9][0-9]_macro_*.sql")):
            duck.connection.execute(macro.read_text(encoding="utf-8"))
        inputs = _create_inputs(duck, case, text + _params_text(case))
        destination = scratch / "result.parquet"
        params = _params(duck, case, inputs, scratch, destination=destination if "$destination" in text else None)
        columns, rows = _run(duck, text, params, header.get("writes", ""), destination)
        _compare(case, _read_csv(duck, expected_path), columns, rows, header)


def _sql_file(stage: Path, table: str) -> Path:
    found = [path for path in sorted(stage.glob("[0-9][0-9]_*.sql")) if path.stem[3:] == table]
    if len(found) != 1:
        raise AssertionError(f"{len(found)} files NN_{table}.sql in include/sql/{stage.name}, expected exactly one.")
    return found[0]


def _read_csv(duck: Engine, path: Path) -> tuple[list[str], list[Row]]:
    """Header and rows as text; DuckDB reads it because an empty cell and a quoted empty text must stay different."""
    answer = duck.connection.execute(
        "select * from read_csv($path, header = false, all_varchar = true, delim = ',', quote = '\"', escape = '\"', "
        "nullstr = '', allow_quoted_nulls = false, auto_detect = false, columns = $columns, strict_mode = true)",
        {"path": str(path), "columns": {f"c{n:03d}": "varchar" for n in range(_width(path))}},
    ).fetchall()
    return [str(cell) for cell in answer[0]], [tuple(row) for row in answer[1:]]


def _width(path: Path) -> int:
    with path.open(encoding="utf-8") as lines:
        return lines.readline().count(",") + 1


def _create_inputs(duck: Engine, case: Case, text: str) -> set[str]:
    """Create one table per input CSV, in the order of its lines."""
    inputs = set()
    for path in sorted(case.folder.glob("*.csv")):
        name = path.stem
        if name in _RESERVED:
            continue
        if not re.search(rf"(?:from|join|parquet:)[\s\[]+(?:\w+, )*{re.escape(name)}\b", text):
            raise AssertionError(f"{case.name}: {path.name} is no table and no parameter that the SQL file reads.")
        header, rows = _read_csv(duck, path)
        cells = [_HEADER_CELL.fullmatch(cell) for cell in header]
        if not all(cell and _TYPE.fullmatch(cell[2]) for cell in cells):
            raise AssertionError(f"{case.name}: header of {path.name} must be `name:type` cells, found {header}.")
        pairs = [(cell[1], cell[2]) for cell in cells if cell]
        duck.connection.execute(f"create temp table {name} ({', '.join(f'{column} {kind}' for column, kind in pairs)})")
        if rows:
            casts = ", ".join(f"cast(${number} as {kind})" for number, (_, kind) in enumerate(pairs, 1))
            duck.connection.executemany(f"insert into {name} select {casts}", [list(row) for row in rows])
        inputs.add(name)
    return inputs


def _params_text(case: Case) -> str:
    path = case.folder / "params.yaml"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _params(duck: Engine, case: Case, inputs: set[str], scratch: Path, *, destination: Path | None) -> Params:
    named: Mapping[str, Any] = yaml.safe_load(_params_text(case)) or {}
    params: Params = {}
    for name, value in named.items():
        if isinstance(value, dict):
            tables = value["parquet"]
            paths = [
                _write_parquet(duck, case, table, inputs, scratch)
                for table in (tables if isinstance(tables, list) else [tables])
            ]
            params[name] = paths if isinstance(tables, list) else paths[0]
        else:
            params[name] = value
    if destination is not None:
        params["destination"] = str(destination)
    return params


def _write_parquet(duck: Engine, case: Case, table: str, inputs: set[str], scratch: Path) -> str:
    if table not in inputs:
        raise AssertionError(f"{case.name}: params.yaml names {table}.csv, which is not there.")
    parquet = scratch / f"{table}.parquet"
    duck.connection.execute(f"copy {table} to '{parquet}' (format parquet)")
    return str(parquet)


def _run(duck: Engine, text: str, params: Params, writes: str, destination: Path) -> tuple[list[str], list[Row]]:
    answer = duck.connection.execute(text, params or None)
    if not writes.startswith("("):
        source = f"'{destination}'" if writes.startswith("$destination") else writes.split(maxsplit=1)[0]
        answer = duck.connection.execute(f"select cast(columns(*) as varchar) from {source}")
        return [column[0] for column in answer.description], answer.fetchall()
    columns = [column[0] for column in answer.description]
    return columns, [tuple(None if cell is None else str(cell) for cell in row) for row in answer.fetchall()]


def _grain(header: Mapping[str, str], columns: list[str]) -> list[str]:
    """Columns that the header comment names as the grain: words before the first `;` that are columns of the result."""
    return [word for word in re.findall(r"[a-z_0-9]+", header.get("grain", "").split(";")[0]) if word in columns]


def _compare(
    case: Case, expected: tuple[list[str], list[Row]], columns: list[str], rows: list[Row], header: Mapping[str, str]
) -> None:
    if header.get("writes", "").startswith("(one row)"):
        assert len(rows) == 1, f"{case.name}: {len(rows)} rows, the SQL file promises one."
        grain = []
    else:
        grain = list(dict.fromkeys(_grain(header, columns)))
        assert grain, f"{case.name}: `-- grain: {header.get('grain', '')}` names no column of the result {columns}."
    places = [columns.index(name) for name in grain]
    seen = Counter(tuple(row[place] for place in places) for row in rows) if grain else Counter()
    repeated = [key for key, times in seen.items() if times > 1]
    assert not repeated, f"{case.name}: grain {', '.join(grain)} is not unique: {repeated[:5]}."
    names, wanted = expected
    unknown = [name for name in names if name not in columns]
    assert not unknown, f"{case.name}: expected.csv names {unknown}, the result has {columns}."
    missing = [name for name in grain if name not in names]
    assert not missing, f"{case.name}: expected.csv must name the grain; {', '.join(missing)} is missing."
    chosen = [columns.index(name) for name in names]
    found = Counter(tuple(row[place] for place in chosen) for row in rows)
    lacking, extra = Counter(wanted) - found, found - Counter(wanted)
    assert lacking == extra, (
        f"{case.name} differs in columns {names}.\n  not found: {sorted(lacking.elements(), key=str)}"
        f"\n  not expected: {sorted(extra.elements(), key=str)}\nMend include/sql/{case.stage} or {case.folder.name}/expected.csv."
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per case folder; an empty tree is an error at collection, never a green run."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize(
            "case",
            [
                pytest.param(
                    case,
                    id=case.name,
                    marks=[pytest.mark.xfail(strict=True, reason=case.xfail, raises=AssertionError)]
                    if case.xfail
                    else [],
                )
                for case in find_cases(CASES)
            ],
        )


def test_the_sql_does_what_the_case_says(case: Case, tmp_path: Path) -> None:
    run_case(case, tmp_path)


@pytest.mark.parametrize(
    "table",
    [
        "flatten/stg_document",
        "flatten/int_duplicate",
        "flatten/int_replaces",
        "flatten/int_reach",
        "flatten/int_superseded",
        "flatten/int_fate",
        "flatten/int_dose_key",
        "flatten/quarantine_dose",
        "flatten/removed",
        "flatten/account",
        "flatten/profile_counts",
        "split/place_counts",
    ],
)
def test_every_step_that_decides_about_documents_has_cases(table: str) -> None:
    assert any(f"{case.stage}/{case.table}" == table for case in find_cases(CASES)), (
        f"No case under tests/sql/{table}/: a rule of the account would be untested."
    )


# --- the runner itself -------------------------------------------------------------------------------


_TOY_SQL = """\
-- Twice what came in.
-- reads:  stg_number
-- writes: int_twice
-- grain:  id
create or replace temp table int_twice as
select id, n * 2 as n from stg_number
"""


@pytest.fixture
def toy(tmp_path: Path) -> tuple[Path, Path]:
    """A tree of SQL and a tree of cases with one good case."""
    sql, cases = tmp_path / "sql", tmp_path / "cases"
    (sql / "toy").mkdir(parents=True)
    (sql / "toy" / "10_int_twice.sql").write_text(_TOY_SQL)
    case = cases / "toy" / "int_twice" / "doubles"
    case.mkdir(parents=True)
    (case / "stg_number.csv").write_text("id:varchar,n:integer\na,1\nb,\n")
    (case / "expected.csv").write_text("id,n\nb,\na,2\n")
    return sql, cases


def _run_only(toy: tuple[Path, Path], scratch: Path) -> None:
    sql, cases = toy
    (case,) = find_cases(cases)
    run_case(case, scratch, sql=sql)


def test_a_good_case_passes_in_any_row_order(toy: tuple[Path, Path], tmp_path: Path) -> None:
    _run_only(toy, tmp_path)


def test_an_empty_tree_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="holds no case"):
        find_cases(tmp_path)


def test_a_case_without_expected_rows_file_fails(toy: tuple[Path, Path], tmp_path: Path) -> None:
    (toy[1] / "toy/int_twice/doubles/expected.csv").unlink()
    with pytest.raises(AssertionError, match=r"no expected\.csv"):
        _run_only(toy, tmp_path)


@pytest.mark.parametrize(
    "expected",
    ["id,n\na,2\n", "id,n\na,2\nb,0\n", "id,n\na,2\nb,\nb,\n", 'id,n\na,2\nb,""\n'],
    ids=["row too many", "value", "row too few", "empty text is not null"],
)
def test_a_difference_fails(toy: tuple[Path, Path], tmp_path: Path, expected: str) -> None:
    (toy[1] / "toy/int_twice/doubles/expected.csv").write_text(expected)
    with pytest.raises(AssertionError, match="differs in columns"):
        _run_only(toy, tmp_path)


def test_rows_that_repeat_the_grain_fail(toy: tuple[Path, Path], tmp_path: Path) -> None:
    case = toy[1] / "toy/int_twice/doubles"
    (case / "stg_number.csv").write_text("id:varchar,n:integer\na,1\na,1\n")
    (case / "expected.csv").write_text("id,n\na,2\na,2\n")
    with pytest.raises(AssertionError, match="is not unique"):
        _run_only(toy, tmp_path)


def test_expected_rows_without_the_grain_fail(toy: tuple[Path, Path], tmp_path: Path) -> None:
    (toy[1] / "toy/int_twice/doubles/expected.csv").write_text("n\n\n2\n")
    with pytest.raises(AssertionError, match="must name the grain"):
        _run_only(toy, tmp_path)


def test_an_input_that_the_sql_does_not_read_fails(toy: tuple[Path, Path], tmp_path: Path) -> None:
    (toy[1] / "toy/int_twice/doubles/stg_nombre.csv").write_text("id:varchar\na\n")
    with pytest.raises(AssertionError, match="is no table and no parameter"):
        _run_only(toy, tmp_path)


def test_a_table_without_sql_fails(toy: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.move(toy[1] / "toy/int_twice", toy[1] / "toy/twice")
    with pytest.raises(AssertionError, match="expected exactly one"):
        _run_only(toy, tmp_path)


def test_a_case_at_the_wrong_depth_fails(toy: tuple[Path, Path]) -> None:
    (toy[1] / "toy/int_twice/expected.csv").write_text("id,n\n")
    with pytest.raises(AssertionError, match="outside of a case folder"):
        find_cases(toy[1])
