"""Expectations that Great Expectations lacks: a value must be there *and* have a form (or be in a set), a text begins with another.

The library leaves nulls out of every form rule, so one requirement would need two rules and two reasons. In the first two a null breaks
the rule, and `mostly` is a share of all rows. Importing this module imports Great Expectations: only inside a task.
"""

from __future__ import annotations

from typing import Any

import great_expectations.expectations as gxe
import sqlalchemy as sa
from great_expectations.execution_engine import SqlAlchemyExecutionEngine
from great_expectations.expectations.metrics.map_metric_provider import (
    ColumnMapMetricProvider,
    ColumnPairMapMetricProvider,
    column_condition_partial,
    column_pair_condition_partial,
)
from great_expectations.expectations.metrics.util import get_dialect_regex_expression

_NULLS = "column_values.nonnull.unexpected_count"


class ColumnValuesFilledMatchRegex(ColumnMapMetricProvider):  # type: ignore[misc]
    """Has a value, and the value matches."""

    condition_metric_name = "column_values.filled_match_regex"
    condition_value_keys = ("regex",)
    filter_column_isnull = False

    @column_condition_partial(engine=SqlAlchemyExecutionEngine)  # type: ignore[untyped-decorator]
    def _sqlalchemy(cls, column: Any, regex: str, _dialect: Any, **_: Any) -> Any:  # noqa: N805 - the library's own form
        return sa.and_(column.is_not(None), get_dialect_regex_expression(column, regex, _dialect))


class ColumnValuesFilledInSet(ColumnMapMetricProvider):  # type: ignore[misc]
    """Has a value, and the value is one of the set."""

    condition_metric_name = "column_values.filled_in_set"
    condition_value_keys = ("value_set",)
    filter_column_isnull = False

    @column_condition_partial(engine=SqlAlchemyExecutionEngine)  # type: ignore[untyped-decorator]
    def _sqlalchemy(cls, column: Any, value_set: list[Any], **_: Any) -> Any:  # noqa: N805 - the library's own form
        return sa.and_(column.is_not(None), column.in_(value_set))


class ExpectColumnValuesToBeFilledAndMatchRegex(gxe.ExpectColumnValuesToMatchRegex):  # type: ignore[misc]
    """Every row has a value that matches `regex`."""

    map_metric = "column_values.filled_match_regex"

    def _validate(self, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super()._validate({**metrics, _NULLS: 0}, *args, **kwargs)


class ExpectColumnValuesToBeFilledAndInSet(gxe.ExpectColumnValuesToBeInSet):  # type: ignore[misc]
    """Every row has a value of `value_set`."""

    map_metric = "column_values.filled_in_set"

    def _validate(self, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super()._validate({**metrics, _NULLS: 0}, *args, **kwargs)


class ColumnPairValuesAStartsWithB(ColumnPairMapMetricProvider):  # type: ignore[misc]
    """The text of A begins with the text of B."""

    condition_metric_name = "column_pair_values.a_starts_with_b"
    condition_domain_keys = (
        "batch_id",
        "table",
        "column_A",
        "column_B",
        "row_condition",
        "condition_parser",
        "ignore_row_if",
    )
    condition_value_keys = ()

    @column_pair_condition_partial(engine=SqlAlchemyExecutionEngine)  # type: ignore[untyped-decorator]
    def _sqlalchemy(cls, column_A: Any, column_B: Any, **_: Any) -> Any:  # noqa: N803, N805 - the library's own form
        return sa.func.starts_with(column_A, column_B)


class ExpectColumnPairValuesAToStartWithB(gxe.ExpectColumnPairValuesToBeEqual):  # type: ignore[misc]
    """Every text of `column_A` begins with the one of `column_B`: a place and the code of what it lies in."""

    map_metric = "column_pair_values.a_starts_with_b"
