"""Persons who do not exist, with identifiers that pass the official check digits.

A person is a birth date and a serial number of that date; everything else follows, so the same child comes back on other days
with the same CNS. Names carry the word FICTICIA or FICTICIO: a test that looks for leaked names has something to look for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SERIALS: Final = 8192
"""Persons per birth date (about what is born in Brazil on a day)."""
_FIRST_BIRTH: Final = 680_000  # ordinal of a day in 1862: nobody here is older
_MIX_10: Final = 7_654_321_997  # coprime with 10: a permutation of the ten-digit numbers
_MIX_9: Final = 734_561_893

_WOMEN: Final = (
    "ANA",
    "BEATRIZ",
    "CLARA",
    "DALVA",
    "ELISA",
    "FLORA",
    "GILDA",
    "HELENA",
    "IARA",
    "JULIA",
    "LUZIA",
    "MARTA",
)
_MEN: Final = ("ALVARO", "BENTO", "CAIO", "DAVI", "ENZO", "FABIO", "GIL", "HUGO", "IVO", "JOAO", "LUCAS", "MIGUEL")
_LAST: Final = (
    "DE EXEMPLO",
    "DO TESTE",
    "DA SILVA MODELO",
    "DOS SANTOS AMOSTRA",
    "SIMULACAO",
    "DE TAL",
    "SINTETICO DE SOUZA",
)

# Weighted sums of three digits at the five places of a CNS (weights 15 down to 1).
_CNS: Final = tuple(
    tuple(
        (value // 100) * (15 - 3 * place) + (value // 10 % 10) * (14 - 3 * place) + (value % 10) * (13 - 3 * place)
        for value in range(1000)
    )
    for place in range(5)
)
# The two last digits of a provisional CNS, by what is missing to a multiple of 11.
_CNS_TAIL: Final = tuple(f"0{rest}" if rest < 10 else "50" for rest in range(11))
# Weighted sums of three digits at the three places of a CPF (weights 10 down to 2), and the plain sums of the digits.
_CPF: Final = tuple(
    tuple(
        (value // 100) * (10 - 3 * place) + (value // 10 % 10) * (9 - 3 * place) + (value % 10) * (8 - 3 * place)
        for value in range(1000)
    )
    for place in range(3)
)
_DIGITS: Final = tuple(value // 100 + value // 10 % 10 + value % 10 for value in range(1000))


def definitive_cns(number: int, first: int) -> str:
    """CNS that starts with 1 or 2: eleven digits, 000 or 001, check digit. Source: DATASUS, rotina de validação do CNS."""
    base = first * 10**10 + number % 10**10
    padded = base * 10
    total = (
        _CNS[0][padded // 10**9]
        + _CNS[1][padded // 10**6 % 1000]
        + _CNS[2][padded // 1000 % 1000]
        + _CNS[3][padded % 1000]
    )
    rest = total % 11
    if rest == 1:  # the check digit would be 10: 001 instead of 000 adds 2 to the sum
        return f"{base}0018"
    return f"{base}000{(11 - rest) % 11}"


def provisional_cns(number: int, first: int) -> str:
    """CNS that starts with 7, 8 or 9: the weighted sum of all fifteen digits is a multiple of 11."""
    base = first * 10**12 + number % 10**10 * 100
    padded = base * 100
    total = (
        _CNS[0][padded // 10**12]
        + _CNS[1][padded // 10**9 % 1000]
        + _CNS[2][padded // 10**6 % 1000]
        + _CNS[3][padded // 1000 % 1000]
        + _CNS[4][padded % 1000]
    )
    return f"{base}{_CNS_TAIL[-total % 11]}"


def cpf(number: int) -> str:
    """CPF with both check digits. Source: Receita Federal, cálculo do DV do CPF."""
    base = number % 10**9
    if base % 111_111_111 == 0:  # eleven equal digits are no CPF
        base += 1
    a, b, c = base // 10**6, base // 1000 % 1000, base % 1000
    total = _CPF[0][a] + _CPF[1][b] + _CPF[2][c]
    first = total * 10 % 11 % 10
    second = (total + _DIGITS[a] + _DIGITS[b] + _DIGITS[c] + first * 2) * 10 % 11 % 10
    return f"{base:09d}{first}{second}"


def practitioner_cns(number: int) -> str:
    """CNS of a professional."""
    return definitive_cns(number * _MIX_10 + 2_718_281_828, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A fictional person."""

    birth: int
    """Ordinal of the birth date."""
    serial: int
    """0 to SERIALS - 1, among those born on that date."""

    @property
    def number(self) -> int:
        """The number that all identifiers derive from."""
        return (self.birth - _FIRST_BIRTH) * SERIALS + self.serial

    @property
    def cns(self) -> str:
        """The CNS that the person presents: definitive (1, 2) or provisional (7, 8, 9)."""
        number = self.number * _MIX_10 + 31_415_926
        kind = self.serial % 5
        if kind < 2:
            return definitive_cns(number, 1 + kind)
        return provisional_cns(number, 5 + kind)

    @property
    def cpf(self) -> str:
        """The CPF."""
        return cpf(self.number * _MIX_9 + 27_182_818)

    @property
    def female(self) -> bool:
        """Recorded sex."""
        return self.serial & 1 == 0

    @property
    def name(self) -> str:
        """Upper case without accents, as registries write it."""
        pick = self.number
        if self.female:
            return f"{_WOMEN[pick // 2 % 12]} FICTICIA {_LAST[pick // 24 % 7]}"
        return f"{_MEN[pick // 2 % 12]} FICTICIO {_LAST[pick // 24 % 7]}"


def spoil(identifier: str) -> str:
    """The same identifier with a wrong last digit."""
    return identifier[:-1] + str((int(identifier[-1]) + 1) % 10)
