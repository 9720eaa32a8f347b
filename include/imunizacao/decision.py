"""What a person decides about a day that asks for it: publish or hold, and why. The reason becomes public, so it is checked here."""

from __future__ import annotations

import getpass
import os
import re
import unicodedata
from dataclasses import dataclass
from typing import Final, Literal

from imunizacao.errors import ConfigurationError
from imunizacao.person_numbers import LENGTHS, holds_person_number, joined_groups, plain_digits

REASON_LEAST: Final = 10
REASON_MOST: Final = 500
_DATE: Final = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|1[0-2])/(?:19|20)\d\d)(?!\d)"
)
_AS_WRITTEN: Final = ((3, 3, 3, 2), (3, 4, 4, 4))
"""Groups of a CPF as people write it, and of a CNS as the card shows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One answer of one person about one verdict of the rules."""

    choice: Literal["publish", "hold"]
    reason: str
    """Checked by `check_reason`; part of the public history when the day is published."""
    rules: list[str]
    """Rules that had asked."""
    verdict: str
    """Fingerprint of the receipt of `validate` that the person was shown: for another one, it has to be asked again."""
    decided_by: str
    """Login; stays inside (note of the run, `controle.outcome`)."""
    decided_at: str
    """Instant, UTC."""


def reason_problem(text: str) -> str:
    """Why a reason cannot be taken, in Portuguese and without quoting it; empty when it can."""
    size = len(text.strip())
    if size < REASON_LEAST or size > REASON_MOST:
        return f"o motivo precisa ter de {REASON_LEAST} a {REASON_MOST} caracteres; tem {size}"
    if any(unicodedata.category(sign)[0] == "C" or sign in "\u2028\u2029" for sign in text.strip()):
        return "o motivo contém uma quebra de linha ou outro caractere de controle"
    if _may_name_a_person(text):
        return (
            "o motivo contém um número com a forma de CPF ou CNS (11 ou 15 algarismos, também separados por sinais), e ele se torna "
            "público: cite o dia ou o chamado, nunca uma pessoa"
        )
    return ""


def _may_name_a_person(text: str) -> bool:
    """Whether digits, joined over up to three characters that are no letters, may be a CPF or CNS, also a mistyped one.

    Refused: 11 or more digits in a row; groups as people write such numbers; neighbouring groups that are a valid one together; and
    11 or 15 digits in all, dates left out. Dates, counts, tickets and process numbers pass: theirs are other lengths.
    """
    plain = plain_digits(text)
    runs = list(joined_groups(plain))
    if any(len(group) >= min(LENGTHS) for groups in runs for group in groups) or holds_person_number(plain):
        return True
    if any(
        tuple(map(len, groups[first : first + 4])) in _AS_WRITTEN for groups in runs for first in range(len(groups) - 3)
    ):
        return True
    return any(len("".join(groups)) in LENGTHS for groups in joined_groups(_DATE.sub("dia", plain)))


def check_reason(text: str) -> str:
    """The reason without outer blanks; `ConfigurationError` when it cannot be taken."""
    problem = reason_problem(text)
    if problem:
        raise ConfigurationError(
            f"The reason is refused: {problem}. Nothing was published. Write it again, without names or numbers "
            "of persons: readers of the data see it."
        )
    return text.strip()


def login() -> str:
    """Who runs the command; its number where the system has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
