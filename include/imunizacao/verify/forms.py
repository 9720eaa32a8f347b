"""Taking JSON apart without trusting it: every wrong form becomes a `Malformed` that says where."""

from __future__ import annotations

import json
import re
from datetime import date, datetime
from typing import Any

Json = dict[str, Any]
_SHA256 = re.compile(r"[0-9a-f]{64}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)


class Malformed(Exception):
    """A manifest has not the form that it should have."""

    def __init__(self, member: str, expected: str) -> None:
        super().__init__(f"{member}: expected {expected}")
        self.member, self.expected = member, expected


def parse(body: bytes) -> Json:
    """A JSON object."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise Malformed("the whole", "JSON") from None
    if not isinstance(document, dict):
        raise Malformed("the whole", "a JSON object")
    return document


def text(node: Json, name: str, pattern: str = "") -> str:
    """A text; with a pattern for the whole of it."""
    value = node.get(name)
    if not isinstance(value, str) or (pattern and not re.fullmatch(pattern, value)):
        raise Malformed(name, f"a text like {pattern}" if pattern else "a text")
    return value


def count(node: Json, name: str) -> int:
    """A whole number, not negative."""
    value = node.get(name)
    if type(value) is not int or value < 0:
        raise Malformed(name, "a count")
    return value


def counts(node: Json, name: str) -> dict[str, int]:
    """Counts by name."""
    inner = child(node, name)
    return {key: count(inner, key) for key in inner}


def sha256(node: Json, name: str) -> str:
    """A hash in lower hexadecimal."""
    value = node.get(name)
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise Malformed(name, "a sha256")
    return value


def instant(node: Json, name: str) -> datetime:
    """An instant with its offset."""
    value = node.get(name)
    try:
        if isinstance(value, str) and _INSTANT.fullmatch(value):
            return datetime.fromisoformat(value)
    except ValueError:
        pass
    raise Malformed(name, "an instant with its offset")


def child(node: Json, name: str) -> Json:
    """An object inside."""
    value = node.get(name)
    if not isinstance(value, dict):
        raise Malformed(name, "an object")
    return value


def children(node: Json, name: str) -> list[Json]:
    """A list of objects."""
    value = node.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Malformed(name, "a list of objects")
    return value


def texts(node: Json, name: str) -> list[str]:
    """A list of texts."""
    value = node.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Malformed(name, "a list of texts")
    return value


def is_day(value: str) -> bool:
    """Whether a text is a day of the calendar, YYYY-MM-DD."""
    try:
        return len(value) == 10 and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False
