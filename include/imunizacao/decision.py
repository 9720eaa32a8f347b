"""What a person decides about a day that asks for it: publish or hold, and why. The reason becomes public, so it is checked here."""

from __future__ import annotations

import getpass
import os
import re
import unicodedata
from dataclasses import dataclass
from typing import Final, Literal

from imunizacao.errors import ConfigurationError

REASON_LEAST: Final = 10
REASON_MOST: Final = 500
_IDENTIFIER: Final = re.compile(
    r"\d{11,}"  # CPF and CNS have 11 and 15 digits; no count or date is as long
    r"|(?<!\d)\d{3}[ .]\d{3}[ .]\d{3}[-. ]\d{2}(?!\d)"  # a CPF as people write it
    r"|(?<!\d)\d{3}[ .-]\d{4}[ .-]\d{4}[ .-]\d{4}(?!\d)"  # a CNS as the card shows it
)


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
    if _IDENTIFIER.search(text):
        return "o motivo contém um número com a forma de CPF ou CNS (11 ou mais algarismos), e ele se torna público"
    return ""


def check_reason(text: str) -> str:
    """The reason without outer blanks; `ConfigurationError` when it cannot be taken."""
    problem = reason_problem(text)
    if problem:
        raise ConfigurationError(
            f"The reason of the decision is refused: {problem}. Nothing was published. Write it again, without names or numbers "
            "of persons: readers of the data see it."
        )
    return text.strip()


def login() -> str:
    """Who runs the command; its number where the system has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
