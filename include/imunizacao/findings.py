"""Rules in a few Portuguese words: for the note of a run, which people read in a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from imunizacao.models import RuleResult

_NOTE: Final = 150
_RULES: Final = 3


def short_list(rules: Sequence[RuleResult]) -> str:
    """Number, text and finding of up to three rules; of the others only their numbers."""
    texts = [short(rule) for rule in rules[:_RULES]]
    if rest := rules[_RULES:]:
        texts.append(f"e também {', '.join(rule.rule for rule in rest)}")
    return "; ".join(texts)


def short(rule: RuleResult) -> str:
    """`IMU-103 Percentual das doses com CNES fora da tabela do mês (limite: até 3): 3,4`."""
    text = rule.note if len(rule.note) <= _NOTE else f"{rule.note[: _NOTE - 1].rstrip()}…"
    return f"{rule.rule} {text}: {found(rule)}"


def found(rule: RuleResult) -> str:
    """What a rule found: a number, or in how many doses it was broken."""
    if not rule.evaluated:
        return "não pôde ser avaliada"
    if rule.scope == "day":
        several = f"{number(rule.failed)} de {number(rule.checked)} UFs" if rule.checked > 1 else "fora do limite"
        return several if rule.observed is None else number(rule.observed)
    return f"{number(rule.failed)} de {number(rule.checked)} doses"


def number(value: float) -> str:
    """As Brazil writes it, with two decimal places at most."""
    text = f"{value:,.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:,.0f}"
    return text.replace(",", "_").replace(".", ",").replace("_", ".")
