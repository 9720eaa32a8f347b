"""Whether a text holds the number of a person: a CPF or a CNS with right check digits, however its digits are grouped.

For texts that people write and for ids that leave in acknowledgements. Tables are looked at in SQL (`contem_identificador`,
`id_com_identificador`); a test holds both to the same check digits.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

LENGTHS: Final = (11, 15)
"""Digits of a CPF and of a CNS."""
_JOINED: Final = re.compile(r"[0-9]+(?:[\W_]{1,3}[0-9]+)*")
_DEFINITIVE: Final = re.compile(r"[12][0-9]{10}00[01][0-9]")
_PROVISIONAL: Final = re.compile(r"[789][0-9]{14}")


def cpf_is_valid(digits: str) -> bool:
    """11 digits, not all equal, two check digits modulo 11 (Receita Federal)."""
    if len(digits) != 11 or not digits.isascii() or not digits.isdigit() or len(set(digits)) == 1:
        return False
    return all(
        sum(int(digit) * weight for digit, weight in zip(digits, range(place + 1, 1, -1), strict=False)) * 10 % 11 % 10
        == int(digits[place])
        for place in (9, 10)
    )


def cns_is_valid(digits: str) -> bool:
    """15 digits whose weighted sum (15 down to 1) is divisible by 11; a definitive number has one form per base (DATASUS)."""
    definitive = _DEFINITIVE.fullmatch(digits)
    if not definitive and not _PROVISIONAL.fullmatch(digits):
        return False
    weighted = list(accumulate(int(digit) * (15 - place) for place, digit in enumerate(digits)))
    # 001 stands before the check digit only where that of 000 would be 10.
    return weighted[-1] % 11 == 0 and (not definitive or digits[13] == "0" or weighted[10] % 11 == 1)


def plain_digits(text: str) -> str:
    """The text with every digit of another script or width as 0 to 9."""
    signs = unicodedata.normalize("NFKC", text)
    return "".join(str(unicodedata.decimal(sign)) if sign.isdecimal() else sign for sign in signs)


def joined_groups(text: str) -> Iterator[list[str]]:
    """Groups of digits that a reader may take for one number: between them up to three characters, as in ` - `, and no letter."""
    for found in _JOINED.finditer(plain_digits(text)):
        yield re.findall("[0-9]+", found.group())


def holds_person_number(text: str) -> bool:
    """Whether neighbouring groups of digits, together, are a valid CPF or CNS.

    Whole groups alone: cut out of the middle of dates and process numbers, one in a hundred would be valid by chance.
    """
    for groups in joined_groups(text):
        for first in range(len(groups)):
            for digits in accumulate(groups[first:]):
                if len(digits) > max(LENGTHS):
                    break
                if cpf_is_valid(digits) or cns_is_valid(digits):
                    return True
    return False
