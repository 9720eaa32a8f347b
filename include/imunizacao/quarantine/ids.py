"""Ids of documents as they may leave quarantine: in acknowledgements, and on the screen of who looks a dose up."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from imunizacao.person_numbers import LENGTHS, holds_person_number

IDENTIFIES_PERSON: Final = "ID_IDENTIFIES_PERSON"
"""Reason that flatten gives to a document whose id holds a CNS or CPF."""
_DOCUMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}-i[0-9]{1,3}b[0-9]{1,3}")
_SUFFIX: Final = re.compile(r"-i[0-9]{1,3}b[0-9]{1,3}$")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""In which a run of digits comes by chance."""


def passable_id(document: str | None, reasons: Collection[str]) -> str:
    """The id of the RNDS for those outside: nothing that is no id, nothing that says who somebody is."""
    shown = shown_id(document, reasons)
    return shown if _DOCUMENT.fullmatch(shown) else ""


def shown_id(document: str | None, reasons: Collection[str]) -> str:
    """The id for those who operate; empty when it holds a CNS or CPF, however grouped, or is a number as long as one."""
    base = _UUID.sub("x", _SUFFIX.sub("", document or ""))
    long_as_one = base.isdecimal() and len(base) in LENGTHS
    if document is None or IDENTIFIES_PERSON in reasons or long_as_one or holds_person_number(base):
        return ""
    return document
