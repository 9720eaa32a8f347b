"""Who may pass to the publication, and what is told of a day that passed with warnings or by a decision."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from imunizacao.decision import Decision
from imunizacao.describe import describe_decision, describe_outcome
from imunizacao.errors import ConfigurationError, DayHeld
from imunizacao.findings import number, short_list
from imunizacao.manifests import encode
from imunizacao.models import DoseAccount, RuleResult, ValidateReceipt
from imunizacao.publish import require_open_gate
from tests.unit.test_docs_index import receipt, rule

ASKING = receipt("2026-03-14", rule("IMU-190", on_fail="ask"))
YES = Decision(
    choice="publish",
    reason="conferido com a secretaria",
    rules=["IMU-190"],
    verdict=ASKING.fingerprint,
    decided_by="ana",
    decided_at="2026-03-15T12:00:00+00:00",
)


def gate(validated: ValidateReceipt, decision: Decision | None) -> None:
    require_open_gate(SimpleNamespace(validate=validated, decision=decision))  # type: ignore[arg-type]


def test_a_day_that_asks_nothing_passes_and_one_that_asks_passes_with_an_answer_to_it() -> None:
    gate(receipt("2026-03-14"), None)
    gate(ASKING, YES)


@pytest.mark.parametrize(
    ("decision", "why"),
    [
        (None, "nobody was asked"),
        (replace(YES, choice="hold"), "the answer was no"),
        (replace(YES, verdict="other"), "another verdict was shown"),
        (replace(YES, rules=[]), "another rule had asked"),
    ],
)
def test_a_day_that_asks_is_not_published_without_an_answer_to_exactly_this_verdict(
    decision: Decision | None, why: str
) -> None:
    with pytest.raises(DayHeld, match=r"without the decision of a person about IMU-190.*docs/runbook/day-asks\.md"):
        gate(ASKING, decision)


def test_a_held_day_is_not_published_by_a_decision() -> None:
    held = receipt("2026-03-14", rule("IMU-190", on_fail="ask"), rule("IMU-191"))
    with pytest.raises(DayHeld, match="is held by IMU-191"):
        gate(held, YES)


def test_a_reason_that_slipped_in_is_refused_at_the_last_step() -> None:
    with pytest.raises(ConfigurationError, match="CPF ou CNS"):
        gate(ASKING, replace(YES, reason="paciente 700000000000005"))


def test_readers_are_told_the_reason_and_not_the_person() -> None:
    wire = describe_decision(YES)
    assert wire is not None
    assert b"conferido com a secretaria" in encode(wire)
    assert b"ana" not in encode(wire)
    assert describe_decision(None) is None


def outcome_warnings(*rules: RuleResult) -> list[dict[str, Any]]:
    validated = receipt("2026-03-14", *rules)
    inputs = SimpleNamespace(
        account=DoseAccount(doses=1000, published=950, quarantined=50, superseded=0, removed=0),
        flatten=SimpleNamespace(day="2026-03-14", documents=SimpleNamespace(unique=1000)),
        validate=validated,
    )
    found = describe_outcome(inputs).warnings  # type: ignore[arg-type]
    return [json.loads(encode(warning)) for warning in found]


def test_outcome_lists_flags_and_every_rule_that_was_not_kept_and_no_share_that_gives_a_hidden_count_away() -> None:
    row = {"scope": "row", "observed": None, "severity": "warning"}
    assert outcome_warnings(
        rule("IMU-001", success=True, failed=0),
        rule("IMU-012", **row, on_fail="quarantine", success=True, failed=7),
        rule("IMU-016", **row, on_fail="flag", success=True, failed=3),
        rule("IMU-017", **row, on_fail="quarantine", failed=30),
        rule("IMU-103", severity="warning", observed=3.456789),
        # What earlier days say of this one is no part of it: the same day has the same bytes whatever came before.
        rule("IMU-105", severity="warning", observed=20.0, compares_history=True),
    ) == [
        {"rule": "IMU-016", "count": "*"},
        {"rule": "IMU-017", "count": 30, "note": "nota IMU-017"},
        {"rule": "IMU-103", "count": 1, "scope": "day", "note": "nota IMU-103"},
    ]


def test_a_note_names_three_rules_in_words_and_the_others_by_number() -> None:
    rules = [rule(f"IMU-{n}", observed=float(n)) for n in (101, 102, 103, 104, 190)]
    assert short_list(rules) == (
        "IMU-101 nota IMU-101: 101; IMU-102 nota IMU-102: 102; IMU-103 nota IMU-103: 103; e também IMU-104, IMU-190"
    )
    assert short_list([rule("IMU-017", scope="row", failed=1200, checked=5000, observed=None)]) == (
        "IMU-017 nota IMU-017: 1.200 de 5.000 doses"
    )
    per_uf = rule("IMU-202", failed=2, checked=27, observed=None)
    assert short_list([per_uf]) == "IMU-202 nota IMU-202: 2 de 27 UFs"
    assert short_list([rule("IMU-103", note="x" * 400)]) == f"IMU-103 {'x' * 149}…: 4,5"
    assert short_list([rule("IMU-103", evaluated=False)]) == "IMU-103 nota IMU-103: não pôde ser avaliada"
    assert len(short_list([rule(f"IMU-{n}", note="x" * 400) for n in range(100, 150)])) < 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567, "1.234.567"), (3.4, "3,4"), (0.954, "0,95"), (1234.5, "1.234,5"), (10.0, "10")],
)
def test_numbers_are_written_as_in_brazil(value: float, text: str) -> None:
    assert number(value) == text
