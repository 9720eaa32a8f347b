"""Every rule knows its own examples, in Great Expectations and in the compiled quarantine.

The examples stand beside the rule in `expectations/*.json`: what differs from a good row of the table of doses, or from a good
summary. No Python is needed to add one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from imunizacao import paths
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine
from imunizacao.validate.columns import DAY_COLUMNS, DOSE_COLUMNS, UF_COLUMNS
from imunizacao.validate.gx import load_library
from imunizacao.validate.stage import make_summary, make_tables
from imunizacao.validate.suites import DAY_SUITE, TABLES, UF_SUITE, Rule, Suite, load_suites
from tests.expectations.tables import DAY, DOSE_SCHEMA, closed_account, good_row, rules_broken, typed, write_tables

SUITES: Final = load_suites(paths.EXPECTATIONS)
RULES: Final = {rule.rule: rule for rule in SUITES.rules}
ROW_RULES: Final = sorted(rule.rule for rule in RULES.values() if rule.scope == "row")
TABLE_RULES: Final = sorted(rule.rule for rule in SUITES.row.rules if rule.scope == "day")
SUMMARY_RULES: Final = sorted(rule.rule for rule in (*SUITES.day.rules, *SUITES.uf.rules))
KINDS: Final = ("pass", "fail")
GOOD_DAY: Final[dict[str, Any]] = {
    name: 0.0 if name.startswith("pc_") else 0 for name in DAY_COLUMNS
} | {"qt_historico_mediana": None, "pc_historico_doses": None}  # fmt: skip
GOOD_UF: Final[dict[str, Any]] = {"qt_doses": 1000, "qt_historico_dias": 0, "qt_historico_mediana": None, "pc_historico": None}  # fmt: skip


def examples(rule: Rule, kind: str) -> tuple[dict[str, Any], ...]:
    """The examples of a rule that pass or fail."""
    return rule.passes if kind == "pass" else rule.fails


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int, int], list[str]]:
    """All examples of all row rules in one table: part = rule, dose 0 = keeps it, dose 1 = breaks it."""
    rows = [
        good_row(part * 1000 + number * 2 + (kind == "fail"))
        | typed(example)
        | {"nu_parte": part, "nu_linha": number, "nu_dose": int(kind == "fail")}
        for part, rule in enumerate(ROW_RULES)
        for kind in KINDS
        for number, example in enumerate(examples(RULES[rule], kind))
    ]
    return rules_broken(rows, folder=tmp_path_factory.mktemp("rules"))


@pytest.mark.parametrize("rule", ROW_RULES)
def test_a_row_rule_knows_good_from_bad(rule: str, broken: dict[tuple[int, int, int], list[str]]) -> None:
    part = ROW_RULES.index(rule)
    for number, example in enumerate(RULES[rule].passes):
        assert rule not in broken.get((part, number, 0), []), f"{rule} refuses {example}"
    for number, example in enumerate(RULES[rule].fails):
        assert rule in broken.get((part, number, 1), []), f"{rule} accepts {example}"


def test_a_row_example_that_keeps_its_rule_keeps_the_others_that_quarantine(
    broken: dict[tuple[int, int, int], list[str]],
) -> None:
    """What an example shows as good is really published, but for a null that another rule asks about."""
    taking = {rule.rule for rule in RULES.values() if rule.on_fail == "quarantine"}
    for (part, number, dose), rules in broken.items():
        if dose == 0 and None not in RULES[ROW_RULES[part]].passes[number].values():
            odd = taking & set(rules)
            assert not odd, f"{ROW_RULES[part]}, pass {number}: {odd}"


def test_a_good_row_keeps_every_rule(tmp_path: Path) -> None:
    assert rules_broken([good_row(1)], folder=tmp_path) == {}


# --- rules on a table as a whole ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def library() -> Any:
    """Great Expectations, and one context for all examples."""
    return load_library()


@pytest.fixture
def duck(tmp_path: Path) -> Iterator[Engine]:
    with open_engine(EngineSettings(scratch_dir=tmp_path), tmp_path) as engine:
        yield engine


def verdicts(library: Any, duck: Engine, suite: Suite, rule: Rule, candidates: int = 0) -> Any:
    """What Great Expectations says of one rule about the table that is in `duck`."""
    alone = replace(suite, rules=(rule,))
    parameters = {"reference_day": str(DAY), "candidates": candidates}
    return library.judge_suite(duck, alone, parameters=parameters, day=DAY)[rule.rule]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TABLE_RULES)
def test_a_rule_on_the_whole_table_knows_good_from_bad(
    name: str, kind: str, library: Any, duck: Engine, tmp_path: Path
) -> None:
    rule = RULES[name]
    for example in examples(rule, kind):
        filled, empty = example["rows"], example.get("empty", 0)
        assert set(example) <= {"rows", "empty", "candidates"}
        rows = [good_row(number) for number in range(filled)]
        rows += [good_row(filled + number, **{rule.kwargs["column"]: None}) for number in range(empty)]
        dose, _ = write_tables(tmp_path, rows)
        duck.execute("test", f"create or replace view imunizacao_dose as select * from read_parquet('{dose}')")
        found = verdicts(library, duck, SUITES.row, rule, example.get("candidates", 0))
        assert found.evaluated
        assert found.success == (kind == "pass"), f"{name} on {example}"
        if "empty" in example:
            assert (found.checked, found.failed) == (filled + empty, empty)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SUMMARY_RULES)
def test_a_rule_on_a_summary_knows_good_from_bad(name: str, kind: str, library: Any, duck: Engine) -> None:
    rule = RULES[name]
    suite, good = (SUITES.day, GOOD_DAY) if rule.suite == DAY_SUITE else (SUITES.uf, GOOD_UF)
    columns = DAY_COLUMNS if rule.suite == DAY_SUITE else UF_COLUMNS
    types = {"inteiro": "bigint", "número": "double", "texto": "varchar"}
    for example in examples(rule, kind):
        unknown = set(example) - set(columns)
        assert not unknown, f"{TABLES[rule.suite]} has no column {unknown}"
        values = good | example
        selected = ", ".join(
            f"cast(${column} as {types[type_]}) as {column}"
            for column, (type_, _) in columns.items()
            if column in values
        )
        duck.execute("test", f"create or replace table {TABLES[rule.suite]} as select {selected}", values)
        found = verdicts(library, duck, suite, rule)
        assert found.evaluated
        assert found.success == (kind == "pass"), f"{name} on {example}"
        if rule.suite == UF_SUITE:
            assert found.failed == (kind == "fail")


def test_the_page_describes_the_columns_that_there_are(tmp_path: Path, duck: Engine) -> None:
    """The table of doses is compared with what flatten writes in tests/unit/test_flatten.py."""
    assert set(DOSE_COLUMNS) == {
        name for name in DOSE_SCHEMA.names if name.startswith(("in_", "nu_parte", "nu_linha", "nu_dose"))
    }
    dose, structural = write_tables(tmp_path, [good_row(1)])
    make_tables(duck, dose=dose)
    make_summary(duck, compiled=[], structural=structural, account=closed_account(1))
    for table, columns in (("resumo_dia", DAY_COLUMNS), ("resumo_uf", UF_COLUMNS)):
        found = [name for (name, *_) in duck.execute("test", f"describe {table}").fetchall()]
        assert found == list(columns), table


def test_every_column_of_a_rule_is_published_or_described() -> None:
    described = {"dose": set(DOSE_SCHEMA.names), "dia": set(DAY_COLUMNS), "uf": set(UF_COLUMNS)}
    for rule in RULES.values():
        assert rule.columns <= described[rule.suite], rule.rule
        if rule.scope == "row":
            for example in (*rule.passes, *rule.fails):
                assert set(example) <= described["dose"], f"{rule.rule}: {example}"
