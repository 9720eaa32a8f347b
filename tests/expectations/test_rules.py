"""A folder is a test: `cases.yaml` says what keeps a rule and what breaks it. No Python to add a case.

Folders of row rules hold what differs from a good row; folders of day rules hold days (`rows`, `structural`, `account`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from imunizacao import paths
from imunizacao.validate.suites import load_suites
from tests.expectations.tables import good_row, judge, rules_broken, structural_row

HERE = Path(__file__).parent
RULES = {rule.rule: rule for rule in load_suites(paths.EXPECTATIONS).rules}
ROW_RULES = sorted(rule.rule for rule in RULES.values() if rule.scope == "row")
DAY_RULES = sorted(rule.rule for rule in RULES.values() if rule.scope == "day")


def read_cases(rule: str) -> dict[str, list[dict[str, Any]]]:
    """The folder of a rule."""
    cases = yaml.safe_load((HERE / rule / "cases.yaml").read_text(encoding="utf-8"))
    assert set(cases) == {"pass", "fail"}, f"{rule}: cases.yaml needs `pass` and `fail`, nothing else"
    return cases


def test_every_rule_has_a_case_that_passes_and_one_that_fails() -> None:
    folders = {path.name for path in HERE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(RULES), "one folder per rule of expectations/, and none without a rule"
    for rule in RULES:
        assert all(read_cases(rule).values()), f"{rule}: give at least one case of each kind"


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int, int], list[str]]:
    """All cases of all row rules in one table: part = rule, dose 0 = keeps it, dose 1 = breaks it."""
    rows = [
        good_row(len(ROW_RULES) * 100 + number, co_documento=f"{rule}-{kind}-{number}-i0b0")
        | case
        | {"nu_parte": part, "nu_linha": number, "nu_dose": int(kind == "fail")}
        for part, rule in enumerate(ROW_RULES)
        for kind in ("pass", "fail")
        for number, case in enumerate(read_cases(rule)[kind])
    ]
    return rules_broken(rows, folder=tmp_path_factory.mktemp("rules"))


@pytest.mark.parametrize("rule", ROW_RULES)
def test_a_row_rule_knows_good_from_bad(rule: str, broken: dict[tuple[int, int, int], list[str]]) -> None:
    part, cases = ROW_RULES.index(rule), read_cases(rule)
    for number, case in enumerate(cases["pass"]):
        assert rule not in broken.get((part, number, 0), []), f"{rule} refuses {case}"
    for number, case in enumerate(cases["fail"]):
        assert rule in broken.get((part, number, 1), []), f"{rule} accepts {case}"


@pytest.mark.parametrize("rule", DAY_RULES)
@pytest.mark.parametrize("kind", ["pass", "fail"])
def test_a_day_rule_knows_good_from_bad(rule: str, kind: str, tmp_path: Path) -> None:
    for number, case in enumerate(read_cases(rule)[kind]):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = judge(
            [good_row(line) for line in range(case["rows"])],
            [structural_row(line) for line in range(case.get("structural", 0))],
            folder=folder,
            account=case.get("account", {}),
        )
        found = {result.rule: result for result in outcome.rules}[rule]
        assert found.evaluated
        assert found.success == (kind == "pass"), f"{rule} on {case}"
        assert (rule in outcome.held_because) == (kind == "fail" and RULES[rule].severity == "critical")


def test_a_good_row_keeps_every_rule(tmp_path: Path) -> None:
    assert rules_broken([good_row(1)], folder=tmp_path) == {}
