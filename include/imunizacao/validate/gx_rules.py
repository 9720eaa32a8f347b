"""Row rules as SQL conditions, asked from Great Expectations' own metrics: the quarantine cannot drift from the counts.

`<metric>.condition` resolves to a SQLAlchemy clause ("true when unexpected") without touching data. Only uniqueness has a
form of its own (`sql/compile.py`), because its clause refers to a window over a subquery. Internals of the library are used
here (`get_validation_dependencies`, `MetricsCalculator`, `condition_to_filter_clause`): its version is pinned, the parity of
counts is asserted on every run. Importing this module imports Great Expectations: only inside a task.
"""

from __future__ import annotations

from typing import Any, Final

from great_expectations.expectations.expectation import (
    ColumnMapExpectation,
    ColumnPairMapExpectation,
    MulticolumnMapExpectation,
)
from great_expectations.expectations.row_conditions import deserialize_row_condition
from great_expectations.validator.metric_configuration import MetricConfiguration
from great_expectations.validator.metrics_calculator import MetricsCalculator

from imunizacao.errors import ContractViolation
from imunizacao.sql.compile import RowRule, all_null, any_null, inline_parameters, none_null

_MAP: Final = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)
_UNIQUE: Final = frozenset({"expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique"})


def compile_row_rules(suite: Any, batch: Any, engine: Any, *, scope: str = "row") -> list[RowRule]:
    """Every rule of `scope` of a loaded suite that can be turned into SQL, in its order.

    One that cannot (a value of the wrong type) is left out: the library could not evaluate it either, which holds the day;
    and if it did, the parity of counts fails. A rule without a row-level form is a `ContractViolation`.
    """
    engine.batch_manager.load_batch_list([batch])
    wanted = [(one, _condition_metric(one, engine)) for one in suite.expectations if one.meta["scope"] == scope]
    resolved, _ = MetricsCalculator(engine, show_progress_bars=False).compute_metrics([metric for _, metric in wanted])
    return [_row_rule(one, resolved[metric.id], engine) for one, metric in wanted if metric.id in resolved]


def _condition_metric(expectation: Any, engine: Any) -> Any:
    if not isinstance(expectation, _MAP):
        raise ContractViolation(
            f"Rule {expectation.meta['rule']}: {expectation.expectation_type} judges a column or a table as a whole, so it "
            "cannot name bad rows. Use scope `day`, or an expectation on column values."
        )
    needed = expectation.get_validation_dependencies(engine, {"result_format": {"result_format": "BOOLEAN_ONLY"}})
    counted = needed.get_metric_configuration(f"{expectation.map_metric}.unexpected_count")
    return MetricConfiguration(
        f"{expectation.map_metric}.condition", counted.metric_domain_kwargs, counted.metric_value_kwargs
    )


def _row_rule(expectation: Any, resolved: Any, engine: Any) -> RowRule:
    clause, domain, accessor = resolved
    columns = tuple(
        str(name)
        for name in accessor.get("column_list")
        or [accessor[key] for key in ("column", "column_A", "column_B") if key in accessor]
    )
    conditions = []
    if row_condition := domain.get("row_condition"):
        parsed = deserialize_row_condition(row_condition) if isinstance(row_condition, dict) else row_condition
        conditions.append(_sql(engine, engine.condition_to_filter_clause(parsed)))
    ignored = domain.get("ignore_row_if")
    if ignored in {"both_values_are_missing", "all_values_are_missing"}:
        conditions.append(f"not ({all_null(columns)})")
    elif ignored in {"either_value_is_missing", "any_value_is_missing"}:
        conditions.append(f"not ({any_null(columns)})")
    unique = expectation.expectation_type in _UNIQUE
    conditions.append(none_null(columns) if unique else _sql(engine, clause))
    return RowRule(
        rule=expectation.meta["rule"],
        reason=expectation.meta["reason"],
        conditions=tuple(conditions),
        repeated=columns if unique else (),
    )


def _sql(engine: Any, clause: Any) -> str:
    """Text with literals of our own: SQLAlchemy's would double the backslashes of a regular expression."""
    compiled = clause.compile(dialect=engine.engine.dialect, compile_kwargs={"render_postcompile": True})
    values = [compiled.params[name] for name in compiled.positiontup or ()]
    return inline_parameters(str(compiled), values)
