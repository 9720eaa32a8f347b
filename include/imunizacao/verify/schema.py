"""What a value may be, from the Table Schema that the bucket itself carries."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime

from imunizacao.verify import forms
from imunizacao.verify.forms import Json, Malformed
from imunizacao.verify.layout import DOCUMENT, FORMULA_STARTS, TEXT_COLUMNS

Test = tuple[str, Callable[[str], bool]]
"""What is expected, for people, and whether a value is that."""
_INTEGER = re.compile(r"-?[0-9]+")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DATETIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}-03:00")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column; a column without tests takes every value."""

    name: str
    tests: tuple[Test, ...]

    def broken(self, value: str) -> str:
        """The first constraint that a value breaks, or nothing."""
        return next((label for label, is_kept in self.tests if not is_kept(value)), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The columns of a file, in order."""

    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(column.name for column in self.columns)


def read_schema(document: Json) -> Schema:
    """A Table Schema with the types and constraints that the contract uses; another one is `Malformed`."""
    if document.get("missingValues", [""]) != [""]:
        raise Malformed("missingValues", 'only ""')
    if document.get("primaryKey") != [DOCUMENT]:
        raise Malformed("primaryKey", f"only {DOCUMENT}")
    columns = tuple(_column(node) for node in forms.children(document, "fields"))
    if not columns or len({column.name for column in columns}) != len(columns):
        raise Malformed("fields", "columns of different names")
    return Schema(columns=columns)


def _column(node: Json) -> Column:
    name, kind = forms.text(node, "name", r"[a-z][a-z0-9_]*"), forms.text(node, "type")
    constraints = forms.child(node, "constraints") if "constraints" in node else {}
    tests: list[Test] = [] if kind == "string" else [_type_test(name, kind)]
    for key, value in constraints.items():
        if key != "required":
            tests.append(_constraint(name, kind, key, value))
    if "categories" in node:
        values = {item["value"] if isinstance(item, dict) else item for item in node["categories"]}
        tests.append(("one of the categories", values.__contains__))
    if name in TEXT_COLUMNS:
        tests.append(("no start of a formula", lambda value: not value.startswith(FORMULA_STARTS)))
    required = constraints.get("required", False)
    if not required:
        # An absent value keeps every constraint.
        tests = [(label, _or_empty(is_kept)) for label, is_kept in tests]
    else:
        tests.insert(0, ("a value", bool))
    return Column(name=name, tests=tuple(tests))


def _or_empty(is_kept: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda value: not value or is_kept(value)


def _type_test(name: str, kind: str) -> Test:
    if kind == "date":
        return "a date YYYY-MM-DD", _is_date
    if kind == "datetime":
        return "an instant with milliseconds and -03:00", _is_datetime
    if kind == "integer":
        return "a whole number", lambda value: _INTEGER.fullmatch(value) is not None
    raise Malformed(f"type of {name}", "string, date, datetime or integer")


def _is_date(value: str) -> bool:
    try:
        return _DATE.fullmatch(value) is not None and bool(date.fromisoformat(value))
    except ValueError:
        return False


def _is_datetime(value: str) -> bool:
    try:
        return _DATETIME.fullmatch(value) is not None and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def _constraint(name: str, kind: str, key: str, limit: object) -> Test:
    label = f"{key} {limit}"
    try:
        if key == "pattern" and isinstance(limit, str):
            pattern = re.compile(limit)
            return label, lambda value: pattern.fullmatch(value) is not None
        if key == "enum" and isinstance(limit, list):
            allowed = frozenset(map(str, limit))
            return label, allowed.__contains__
        if key in {"maxLength", "minLength"} and type(limit) is int:
            most = limit
            return label, (lambda value: len(value) <= most) if key == "maxLength" else (
                lambda value: len(value) >= most
            )
        if key in {"minimum", "maximum"} and isinstance(limit, (str, int)):
            return label, _bound(kind, limit, upper=key == "maximum")
    except re.error:
        pass
    raise Malformed(f"constraint {key} of {name}", "one that the contract uses")


def _bound(kind: str, limit: str | int, *, upper: bool) -> Callable[[str], bool]:
    if kind == "integer":
        number = int(limit)
        return lambda value: (
            _INTEGER.fullmatch(value) is not None and (int(value) <= number if upper else int(value) >= number)
        )
    # Dates and instants of one offset are in order as text.
    edge = str(limit)
    return lambda value: value <= edge if upper else value >= edge


def removals_schema() -> Schema:
    """Columns of `removed.csv` in a content folder, which no descriptor describes."""

    def document(value: str) -> bool:
        return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}-i[0-9]{1,3}b[0-9]{1,3}", value) is not None

    columns: dict[str, tuple[Test, ...]] = {
        DOCUMENT: (("an id of a document", document),),
        "co_troca_documento": (("an id of a document", _or_empty(document)),),
        "st_documento": (("final or entered-in-error", {"", "final", "entered-in-error"}.__contains__),),
        "dt_deletado_rnds": (("an instant", _or_empty(_is_datetime)),),
        "co_motivo": (("a reason", {"entered-in-error", "replaced", "deleted"}.__contains__),),
        "dt_entrada_rnds": (("an instant", _is_datetime),),
    }
    return Schema(columns=tuple(Column(name=name, tests=tests) for name, tests in columns.items()))
