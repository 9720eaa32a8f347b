"""SQL of the published files, compiled from the contract: the only columns that can leave are the ones written there."""

from __future__ import annotations

from collections.abc import Collection

from imunizacao.contract import Column, Contract
from imunizacao.sql.compile import literal, quote_identifier

_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""A spreadsheet runs a cell that starts like this (OWASP: CSV injection). Tabs and line breaks never get here."""

_IDENTIFIERS = ("12345678909", "700000000000005", "12345678909-i0b0")
"""A CPF, a CNS and a document id made of one: a column whose constraints let such a text pass is looked at value by value."""

_PHYSICAL_KEY = ("nu_parte", "nu_linha", "nu_dose")


def csv_body_copy(contract: Contract, *, first_by: str, clean: Collection[str] = (), kept: Collection[str] = ()) -> str:
    """`COPY` of the rows to publish, in total order, without a header, as the dialect of the contract wants it.

    Parameters of the statement: `$dose` and `$bad_keys` (Parquet), `$destination`. `first_by` is the internal column that
    comes first in the order (the UF); then the municipality and the contract's sort key; the physical key makes the order
    total whatever the data. As `facts_select` counted over the same rows: `clean` are columns without any CNS or CPF, and `kept`
    columns of which every value is published as it is. What is known is not looked at again, which is half of the cost.
    """
    columns = ",\n    ".join(
        f"{_name(column) if column.name in kept else _published(contract, column, clean)} as {quote_identifier(column.name)}"
        for column in contract.columns
    )
    order = (first_by, "co_municipio_estabelecimento", *contract.sort_key, *_PHYSICAL_KEY)
    by = ", ".join(dict.fromkeys(f"good.{quote_identifier(name)}" for name in order))
    return f"copy (\n{_GOOD}\nselect\n    {columns}\nfrom good\norder by {by}\n)\nto $destination {_CSV}"


def csv_header_copy(contract: Contract) -> str:
    """`COPY` of the header that the statement of `csv_body_copy` would write: what its columns are really called.

    Parameters: `$dose`, `$bad_keys`, `$destination`.
    """
    columns = ",\n    ".join(
        f"{_published(contract, column)} as {quote_identifier(column.name)}" for column in contract.columns
    )
    return f"copy (\n{_GOOD}\nselect\n    {columns}\nfrom good\nlimit 0\n)\nto $destination {_CSV.replace('header false', 'header true')}"


def plain_csv_copy(contract: Contract) -> str:
    """`COPY` of a Parquet `$source` that already has the contract's columns, in key order. Parameter: `$destination`."""
    columns = ",\n    ".join(
        f"{_published(contract, column)} as {quote_identifier(column.name)}" for column in contract.columns
    )
    by = ", ".join(quote_identifier(name) for name in contract.sort_key)
    return (
        f"copy (\nselect\n    {columns}\nfrom read_parquet($source) as good\norder by {by}\n)\nto $destination {_CSV}"
    )


def facts_select(contract: Contract) -> str:
    """One row about the rows to publish, four counts per column n (from 0) of the contract.

    `read_<n>` values before the contract's constraints, `filled_<n>` values that are published, `neutralised_<n>` values that
    get an apostrophe, `identifying_<n>` values that hold a CNS or CPF. What was read and not filled was left empty. Each constraint
    is tested once: patterns are what costs.
    """
    facts, marks = [], []
    for number, column in enumerate(contract.columns):
        name = f"good.{quote_identifier(column.name)}"
        allowed = _allowed(contract, column)
        formula = _starts_a_formula(name) if column.name in contract.text_columns else "false"
        formula = f"{formula} and {allowed}" if allowed and formula != "false" else formula
        facts.append(f"count({name}) as read_{number}")
        facts.append(
            f"count(*) filter ({allowed}) as filled_{number}" if allowed else f"count({name}) as filled_{number}"
        )
        facts.append(f"count(*) filter ({formula}) as neutralised_{number}")
        identifies = _identifies(contract, column)
        facts.append(f"count(*) filter ({identifies or 'false'}) as identifying_{number}")
        if identifies:
            # Looked at once: what is written twice is computed twice.
            mark = f"in_{number}"
            marks.append(f"{identifies} as {mark}")
            facts[-3:] = [fact.replace(identifies, f"good.{mark}") for fact in facts[-3:]]
    marked = ",\nmarked as (\n    select good.*, " + ", ".join(marks) + " from good\n)" if marks else ""
    return f"{_GOOD}{marked}\nselect\n    " + ",\n    ".join(facts) + f"\nfrom {'marked as good' if marks else 'good'}"


_GOOD = (
    "with good as (\n"
    "    select * from read_parquet($dose)\n"
    "    anti join (select nu_parte, nu_linha, nu_dose from read_parquet($bad_keys)) using (nu_parte, nu_linha, nu_dose)\n"
    ")"
)
_CSV = "(format csv, header false, delimiter ';', quote '\"', escape '\"', force_quote *, nullstr '')"


def _published(contract: Contract, column: Column, clean: Collection[str] = ()) -> str:
    value, allowed = _neutralised(contract, column), _allowed(contract, column, clean)
    return f"case when {allowed} then {value} end" if allowed else value


def _identifies(contract: Contract, column: Column) -> str:
    """Condition that a value is or contains a CNS or CPF; empty where the contract lets no such text pass, or wants one."""
    if column.name in contract.text_columns:
        return f"contem_identificador({_name(column)})"
    from_document = column.type == "string" and column.origin == "document" and column.privacy != "identifier"
    if from_document and any(column.accepts(text) for text in _IDENTIFIERS):
        return f"id_com_identificador({_name(column)})"
    return ""


def _name(column: Column) -> str:
    return f"good.{quote_identifier(column.name)}"


def _neutralised(contract: Contract, column: Column) -> str:
    if column.name not in contract.text_columns:
        return _name(column)
    return f"case when {_starts_a_formula(_name(column))} then '''' || {_name(column)} else {_name(column)} end"


def _starts_a_formula(name: str) -> str:
    return f"substr({name}, 1, 1) in ({', '.join(literal(sign) for sign in _FORMULA_STARTS)})"


def _allowed(contract: Contract, column: Column, clean: Collection[str] = ()) -> str:
    """Condition that a value of an optional column must keep, or it is left empty; required columns are judged by rules."""
    if column.required:
        return ""
    name, tests = _name(column), []
    if column.type == "date":
        low, high = column.minimum or "0001-01-01", column.maximum or "9999-12-31"
        tests.append(f"{name} between cast({literal(low)} as date) and cast({literal(high)} as date)")
    if column.type == "integer":
        tests += [f"{name} >= {column.minimum}"] if column.minimum is not None else []
        tests += [f"{name} <= {column.maximum}"] if column.maximum is not None else []
    if column.pattern is not None:
        tests.append(f"regexp_full_match({name}, {literal(column.pattern)})")
    if column.enum:
        tests.append(f"{name} in ({', '.join(literal(value) for value in column.enum)})")
    if column.max_length is not None:
        tests.append(f"length({_neutralised(contract, column)}) <= {column.max_length}")
    if column.name not in clean and (identifies := _identifies(contract, column)):
        tests.append(f"not {identifies}")
    return " and ".join(tests)
