"""Reading JSON that may have any shape: what is not there, or is something else, reads as nothing."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_PRINTABLE: Final = re.compile(r"[^\x20-\x7e\u00a1-\u017f]+")
_IDENTIFIER: Final = re.compile(r"\d[\d.\-/ ]{8,}\d")
"""Ten digits or more, with or without the usual punctuation: it could be a CPF, a CNS or a telephone."""


def read_json(body: bytes) -> object:
    """The document, or None for anything that is not JSON."""
    try:
        found: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return found


def member(value: object, *names: str | int) -> object:
    """What lies at the end of a path of names and positions, or None."""
    for name in names:
        if isinstance(value, dict) and isinstance(name, str):
            value = value.get(name)
        elif isinstance(value, list) and isinstance(name, int) and name < len(value):
            value = value[name]
        else:
            return None
    return value


def items(value: object, *names: str | int) -> list[object]:
    """The list at the end of a path; something else than a list reads as a list of it, nothing as an empty one."""
    found = member(value, *names)
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


def text(value: object, *names: str | int) -> str:
    """The text at the end of a path, or an empty one."""
    found = member(value, *names)
    return found if isinstance(found, str) else ""


def shown_name(name: str, most: int = 60) -> str:
    """A name that a server gave, fit to be shown: one line, not too long, and nothing in it that could identify a person."""
    plain = _IDENTIFIER.sub("…", _PRINTABLE.sub(" ", name)).strip()
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"
