"""The compiled rules count what Great Expectations counts, on rows made to tell them apart.

`judge` compares both counts for every rule and raises on the first that differs; here we see to it that there is something to
count.
"""

from __future__ import annotations

import json
import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from imunizacao import paths
from imunizacao.contract import Column, load_contract
from imunizacao.validate.suites import load_suites
from tests.expectations.tables import GOOD, good_row, judge, rules_broken, typed

NASTY = [None, "", " ", "'", "''", '"', "\\", "\\d", "%", "a%b", "_", "$1", "{x}", "A\nB", "\n", "é", "\u2028", "NULL", "null", "0",
         "00", "12345", "1234567", "530010", "final", "FINAL", "DF", "a-i0b0", "x" * 300, "ａ", "\x01", "\x7f"]  # fmt: skip
DATES = [
    None,
    date(1, 1, 1),
    date(1899, 12, 31),
    date(1900, 1, 1),
    date(2026, 3, 14),
    date(2026, 3, 15),
    date(9999, 12, 31),
]


def nasty_rows(count: int) -> list[dict[str, Any]]:
    """Rows in which every judged column is good, null or strange, each on its own; some also break a rule as its examples do."""
    chance = random.Random(20260314)
    broken = [typed(one) for rule in load_suites(paths.EXPECTATIONS).rules if rule.scope == "row" for one in rule.fails]
    rows = []
    for number in range(count):
        row = good_row(number)
        for column, good in GOOD.items():
            if chance.random() < 0.5:
                continue
            if isinstance(good, bool):
                row[column] = chance.choice([True, False, None])
            elif isinstance(good, int):
                row[column] = chance.choice([None, -5000, -2, -1, 0, 120, 121, 731, 732, 3653, 3654, 2**31 - 1])
            elif isinstance(good, date):
                row[column] = chance.choice([*DATES, date(2026, 3, 10) + timedelta(days=chance.randint(-3, 3))])
            elif column != "in_co_uf_estabelecimento":
                row[column] = chance.choice(NASTY)
        row["co_documento"] = chance.choice([row["co_documento"], "twice-i0b0", *NASTY])
        row["co_paciente"] = chance.choice([row["co_paciente"], "0" * 64, None])
        if chance.random() < 0.3:
            row |= chance.choice(broken)
        rows.append(row)
    return rows


def test_the_rules_of_the_day_agree_on_strange_rows(tmp_path: Path) -> None:
    outcome = judge(nasty_rows(3000), folder=tmp_path)
    row_rules = [rule for rule in outcome.rules if rule.scope == "row"]
    assert all(rule.evaluated for rule in outcome.rules)
    assert [rule.rule for rule in row_rules if rule.failed == 0] == [], "a rule that nothing breaks proves nothing"


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    (
        "expect_column_values_to_be_in_set",
        {"column": "co_lote_vacina", "value_set": ["'", "\\", "%", "$1", "null", "é"]},
    ),
    ("expect_column_values_to_not_be_in_set", {"column": "co_lote_vacina", "value_set": ["''", "a%b", "A\nB"]}),
    ("expect_column_values_to_match_regex", {"column": "co_lote_vacina", "regex": r"^[\\\d%$]*$"}),
    ("expect_column_values_to_not_match_regex", {"column": "co_lote_vacina", "regex": "^'+$"}),
    ("expect_column_values_to_match_regex_list", {"column": "co_lote_vacina", "regex_list": ["^[0-9]+$", "^é$"]}),
    ("expect_column_value_lengths_to_be_between", {"column": "co_lote_vacina", "min_value": 1, "max_value": 5}),
    ("expect_column_values_to_be_null", {"column": "co_lote_vacina"}),
    ("expect_column_values_to_be_between", {"column": "dt_vacina", "min_value": "1900-01-01", "strict_min": True}),
    ("expect_column_values_to_be_unique", {"column": "co_cnes_estabelecimento"}),
    ("expect_compound_columns_to_be_unique", {"column_list": ["co_documento", "co_vacina"]}),
    (
        "expect_compound_columns_to_be_unique",
        {"column_list": ["co_documento", "st_documento"], "ignore_row_if": "any_value_is_missing"},
    ),
    ("expect_column_pair_values_to_be_equal", {"column_A": "co_vacina", "column_B": "co_dose_vacina"}),
    (
        "expect_column_pair_values_to_be_equal",
        {"column_A": "co_vacina", "column_B": "co_dose_vacina", "ignore_row_if": "either_value_is_missing"},
    ),
    (
        "expect_column_pair_values_a_to_be_greater_than_b",
        {"column_A": "dt_validade_lote", "column_B": "dt_vacina", "ignore_row_if": "neither"},
    ),
    (
        "expect_column_values_to_not_be_null",
        {
            "column": "co_vacina",
            "row_condition": {
                "type": "or",
                "conditions": [
                    {"type": "comparison", "column": {"name": "st_documento"}, "operator": "==", "parameter": "it's"},
                    {"type": "comparison", "column": {"name": "st_documento"}, "operator": "==", "parameter": "\\d"},
                    {"type": "comparison", "column": {"name": "in_transcricao"}, "operator": "==", "parameter": True},
                ],
            },
        },
    ),
    (
        "expect_column_values_to_be_unique",
        {
            "column": "co_documento",
            "row_condition": {"type": "nullity", "column": {"name": "co_vacina"}, "is_null": False},
        },
    ),
    ("expect_column_values_to_be_filled_and_match_regex", {"column": "co_vacina", "regex": r"^[\d]+$"}),
    ("expect_column_values_to_be_filled_and_in_set", {"column": "co_vacina", "value_set": ["33", "'", "\\"]}),
    (
        "expect_column_pair_values_a_to_start_with_b",
        {"column_A": "co_lote_vacina", "column_B": "co_vacina", "ignore_row_if": "either_value_is_missing"},
    ),
    (
        "expect_column_pair_values_to_be_in_set",
        {
            "column_A": "co_vacina",
            "column_B": "co_dose_vacina",
            "value_pairs_set": [["'", "%"], ["33", "1"], ["\\", "\\"]],
            "ignore_row_if": "either_value_is_missing",
        },
    ),
    (
        "expect_compound_columns_to_be_unique",
        {
            "column_list": ["co_vacina", "dt_vacina", "co_dose_vacina"],
            "ignore_row_if": "any_value_is_missing",
        },
    ),
    (
        "expect_column_values_to_not_be_in_set",
        {
            "column": "co_lote_vacina",
            "value_set": ["'", "\\"],
            "row_condition": {
                "type": "and",
                "conditions": [
                    {
                        "type": "comparison",
                        "column": {"name": "co_vacina"},
                        "operator": "IN",
                        "parameter": ["'", "33", "\\d"],
                    },
                    {"type": "comparison", "column": {"name": "in_carga"}, "operator": "==", "parameter": False},
                ],
            },
        },
    ),
]


def test_other_kinds_of_rules_agree_too(tmp_path: Path) -> None:
    entries = [
        {
            "type": kind,
            "kwargs": kwargs,
            "severity": "info",
            "meta": {
                "rule": f"IMU-{800 + number}",
                "scope": "row",
                "on_fail": "flag" if number % 3 == 0 else "quarantine",
                "reason": f"VARIANT_{number}",
                "note": "n",
                "source": "s",
                "rationale": "r",
                "pass": [{"co_vacina": "1"}],
                "fail": [{"co_vacina": "x"}],
            },
        }
        for number, (kind, kwargs) in enumerate(VARIANTS)
    ]
    (tmp_path / "dose.json").write_text(json.dumps({"name": "dose", "expectations": entries}), encoding="utf-8")
    for name in ("dia.json", "uf.json"):
        (tmp_path / name).write_bytes((paths.EXPECTATIONS / name).read_bytes())
    outcome = judge(nasty_rows(2000), folder=tmp_path, suites=load_suites(tmp_path))
    assert [rule.rule for rule in outcome.rules if not rule.evaluated] == []
    assert [rule.rule for rule in outcome.rules if rule.scope == "row" and rule.failed == 0] == []


def test_what_the_contract_requires_is_required_by_a_rule(tmp_path: Path) -> None:
    """A null, and a value outside the constraints, in any required column takes the row out."""
    required = [column for column in load_contract("dose").columns if column.required]
    wrong: list[tuple[Column, Any]] = [(column, value) for column in required for value in outside(column)]
    rows = [good_row(number) | {column.name: value} for number, (column, value) in enumerate(wrong)]
    found = rules_broken(rows, folder=tmp_path)
    quarantining = {rule.rule for rule in load_suites(paths.EXPECTATIONS).rules if rule.on_fail == "quarantine"}
    let_through = [
        f"{column.name}={value!r}"
        for number, (column, value) in enumerate(wrong)
        if not quarantining & set(found.get((1, number, 0), []))
    ]
    assert {"co_documento", "co_paciente", "dt_vacina", "dt_entrada_rnds"} <= {column.name for column in required}
    assert let_through == []


def outside(column: Column) -> list[Any]:
    """Values that a required column must not have."""
    if column.type == "date":
        return [None, date(1899, 12, 31)]
    constrained = column.pattern is not None or column.enum
    return [None, "?", "", "x" * 400, f"{column.example}\n", f" {column.example}"] if constrained else [None]
