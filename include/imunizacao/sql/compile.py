"""The one place that builds SQL text: names, literals, the view on the day's Parquet, and the rules of a suite as one SELECT.

Everything else runs SQL from files with named parameters. Conditions of rules come from Great Expectations' own metrics
(`validate/gx_rules.py`), so what is quarantined is what was counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

Literal = str | int | float | bool | Decimal | date | datetime | None

_PARAMETER = re.compile(r"\$([0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRule:
    """One row rule as SQL: a row breaks it when all `conditions` are true and, with `repeated`, its key is not the only one."""

    rule: str
    reason: str
    conditions: tuple[str, ...]
    repeated: tuple[str, ...] = ()
    """Columns that must be unique together; every copy of a repeated key breaks the rule."""


def quote_identifier(name: str) -> str:
    """A name as DuckDB reads it, whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Literal) -> str:
    """A value as a SQL literal. A type that has no certain spelling is a `TypeError`."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return str(value)
        case float():
            if not math.isfinite(value):
                raise TypeError("no SQL literal for a float that is not finite")
            return f"{value!r}::double"
        case datetime():
            return f"timestamp{'tz' if value.tzinfo else ''} '{value.isoformat(sep=' ')}'"
        case date():
            return f"date '{value.isoformat()}'"
        case str():
            if "\0" in value:
                raise TypeError("no SQL literal for a text with NUL")
            return "'" + value.replace("'", "''") + "'"
        case _:
            raise TypeError(f"no SQL literal for {type(value).__name__}")


def inline_parameters(text: str, values: Sequence[Literal]) -> str:
    """Put literals in the place of `$1`, `$2`, …: one pass, so a value that looks like a parameter stays a value."""
    return _PARAMETER.sub(lambda found: literal(values[int(found[1]) - 1]), text)


def any_null(columns: Sequence[str]) -> str:
    """Condition: at least one of the columns is null."""
    return " or ".join(f"{quote_identifier(column)} is null" for column in columns)


def all_null(columns: Sequence[str]) -> str:
    """Condition: all of the columns are null."""
    return " and ".join(f"{quote_identifier(column)} is null" for column in columns)


def none_null(columns: Sequence[str]) -> str:
    """Condition: every column has a value."""
    return " and ".join(f"{quote_identifier(column)} is not null" for column in columns)


def view_on_parquet(name: str, paths: Sequence[str]) -> str:
    """A view on Parquet files. (`create view` takes no parameters, so the paths are literals.)"""
    files = ", ".join(literal(path) for path in paths)
    return f"create or replace view {quote_identifier(name)} as\nselect * from read_parquet([{files}])"


def bad_rows_table(
    name: str, rules: Sequence[RowRule], *, relation: str, key: Sequence[str], carry: Sequence[str]
) -> str:
    """A temporary table of the rows that break a rule; see `reasons_select`."""
    return f"create or replace temp table {quote_identifier(name)} as\n" + reasons_select(
        rules, relation=relation, key=key, carry=carry
    )


def reasons_select(rules: Sequence[RowRule], *, relation: str, key: Sequence[str], carry: Sequence[str]) -> str:
    """One pass over `relation`: the rows that break at least one rule.

    Columns: `key` (physical), `carry`, `ds_motivos` (reason codes) and `ds_regras` (rule ids), both in the order of the rules.
    """
    columns = [quote_identifier(name) for name in (*key, *carry)]
    marks = ",\n            ".join(
        f"case when {test} then {literal(rule.rule)} end" for rule, test in zip(rules, _tests(rules), strict=True)
    )
    marked = f"list_filter(\n            [{marks}],\n            lambda rule: rule is not null\n        )"
    ctes = [
        *_repeated_keys(rules, relation),
        "marked as (\n    select\n        "
        + ",\n        ".join(columns)
        + f",\n        {marked if rules else 'cast([] as varchar[])'} as ds_regras\n    from {quote_identifier(relation)}\n)",
    ]
    return (
        "with "
        + ",\n\n".join(ctes)
        + "\n\nselect\n    "
        + ",\n    ".join(columns)
        + f",\n    list_transform(ds_regras, lambda rule: {_reason_map(rules)}[rule]) as ds_motivos,\n    ds_regras"
        + "\nfrom marked\nwhere len(ds_regras) > 0"
    )


def counts_select(rules: Sequence[RowRule], *, relation: str) -> str:
    """One row: how many rows of `relation` break each rule, in the order of the rules. Needs at least one rule."""
    ctes = _repeated_keys(rules, relation)
    counts = ",\n    ".join(
        f"count(*) filter (where {test}) as {quote_identifier(rule.rule)}"
        for rule, test in zip(rules, _tests(rules), strict=True)
    )
    head = "with " + ",\n\n".join(ctes) + "\n\n" if ctes else ""
    return f"{head}select\n    {counts}\nfrom {quote_identifier(relation)}"


def _tests(rules: Sequence[RowRule]) -> list[str]:
    found = []
    for number, rule in enumerate(rules):
        parts = [f"({condition})" for condition in rule.conditions]
        if rule.repeated:
            columns = ", ".join(quote_identifier(name) for name in rule.repeated)
            wanted = columns if len(rule.repeated) == 1 else f"({columns})"
            parts.append(f"({columns}) in (select {wanted} from repeated_{number})")
        found.append(" and ".join(parts))
    return found


def _repeated_keys(rules: Sequence[RowRule], relation: str) -> list[str]:
    ctes = []
    for number, rule in enumerate(rules):
        if rule.repeated:
            columns = ", ".join(quote_identifier(name) for name in rule.repeated)
            where = " and ".join(f"({condition})" for condition in rule.conditions) or "true"
            ctes.append(
                f"repeated_{number} as materialized (\n    select {columns}\n    from {quote_identifier(relation)}\n"
                f"    where {where}\n    group by {columns}\n    having count(*) > 1\n)"
            )
    return ctes


def _reason_map(rules: Sequence[RowRule]) -> str:
    pairs: Mapping[str, str] = {rule.rule: rule.reason for rule in rules}
    if not pairs:
        return "cast(map {} as map(varchar, varchar))"
    return "map {" + ", ".join(f"{literal(rule)}: {literal(reason)}" for rule, reason in pairs.items()) + "}"
