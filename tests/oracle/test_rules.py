"""The oracle judges the examples of the rule table as the table does, and has its reasons and tolerances."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

import pytest

from imunizacao import paths
from tests.oracle.rules import Value, judge_rows, list_rules
from tests.oracle.traps import BASE, REFERENCE_DAY

PAGE = paths.ROOT / "docs" / "dados" / "regras.md"
RULES = list_rules(REFERENCE_DAY)
ROW_RULES = [code for code, rule in RULES.items() if rule.treatment != "fill"]
EXAMPLE = re.compile(r"`([a-z_]+)` (`[^`]*`|nulo|verdadeiro|falso|o texto vazio|-?[0-9]+)(, | · |\.$)")
ESCAPED = re.compile(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})")
WORDS: dict[str, Value] = {"nulo": None, "verdadeiro": True, "falso": False, "o texto vazio": ""}
TREATMENTS = {"quarentena": "quarantine", "sinalização": "flag"}
SEVERITIES = {"crítica": "critical", "alerta": "warning", "informação": "info"}


@pytest.mark.parametrize("code", ROW_RULES)
def test_the_examples_of_the_page_are_judged_as_the_page_says(code: str) -> None:
    for word, broken in (("Cumprem", False), ("Violam", True)):
        rows = list(read_examples(code, word))
        found = judge_rows(rows, rules={code: RULES[code]})[code].broken
        assert found == (set(range(len(rows))) if broken else set()), f"{code}, {word}: {rows}"


@pytest.mark.parametrize("code", ROW_RULES)
def test_reason_severity_and_tolerance_are_those_of_the_page(code: str) -> None:
    decision = re.fullmatch(
        r"(\w+), motivo `(\w+)`; (\w+); tolerância do dia: ([0-9]+) % das linhas avaliadas\.",
        read_line(code, "Decisão"),
    )
    assert decision, f"{code}: the decision of the page has another form"
    treatment, reason, severity, tolerance = decision.groups()
    rule = RULES[code]
    assert (TREATMENTS[treatment], reason, SEVERITIES[severity], int(tolerance)) == (
        rule.treatment,
        rule.reason,
        rule.severity,
        rule.tolerance,
    )


@pytest.mark.parametrize("code", [code for code in RULES if code not in ROW_RULES])
def test_the_least_filling_is_the_one_of_the_page(code: str) -> None:
    least = 100 - RULES[code].tolerance
    assert read_line(code, "Decisão") == f"alerta; mínimo: {least} % das linhas avaliadas."


def read_examples(code: str, word: str) -> Iterator[dict[str, Value]]:
    """The examples of a rule as whole rows, each with keys of its own."""
    text = read_line(code, word)
    tokens = list(EXAMPLE.finditer(text))
    assert "".join(token[0] for token in tokens) == text, f"{code}, {word}: examples of another form"
    changes: dict[str, Value] = {}
    number = 0
    for token in tokens:
        column, written, end = token.groups()
        changes[column] = read_value(column, written)
        if end != ", ":
            yield BASE | {"co_documento": f"d{number}-i0b0", "co_paciente": f"{number:064x}"} | changes
            changes = {}
            number += 1


def read_value(column: str, written: str) -> Value:
    """A value as the page writes it: `0A` is a text, or a date in a column of dates; a bare word or number is itself."""
    if not written.startswith("`"):
        return WORDS[written] if written in WORDS else int(written)
    text = ESCAPED.sub(lambda found: chr(int(found[1] or found[2], 16)), written[1:-1])
    return datetime.date.fromisoformat(text) if isinstance(BASE[column], datetime.date) else text


def read_line(code: str, word: str) -> str:
    """What stands behind `- word:` in the section of a rule."""
    section = PAGE.read_text(encoding="utf-8").partition(f"### {code}\n")[2].partition("\n###")[0]
    found = re.search(rf"^- {word}: (.*)$", section, re.MULTILINE)
    assert found, f"{PAGE}: {code} has no line {word}"
    return found[1]
