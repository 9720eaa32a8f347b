"""Row rules as SQL without a run of the rules: for a look at a few rows. Importing this module imports Great Expectations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa
from great_expectations.exceptions import GreatExpectationsError

from imunizacao.errors import ContractViolation
from imunizacao.sql import Engine
from imunizacao.sql.compile import RowRule
from imunizacao.validate.gx_rules import compile_row_rules
from imunizacao.validate.gx_run import _open_context, _quiet, load_into_gx
from imunizacao.validate.gx_source import add_duckdb
from imunizacao.validate.suites import Suite


def compile_suite(duck: Engine, suite: Suite, *, parameters: Mapping[str, str | int], scratch: Path) -> list[RowRule]:
    """The row rules of a suite over its table in `duck`. Raises `ContractViolation` when the suite cannot be compiled."""
    try:
        with _quiet():
            context = _open_context(scratch)
            source = add_duckdb(context, duck, name="duckdb")
            asset = source.add_table_asset(name=suite.table, table_name=suite.table)
            batch = asset.add_batch_definition_whole_table("day").get_batch()
            loaded = context.suites.add(load_into_gx(suite, parameters))
            engine = source.get_execution_engine()
            rules = compile_row_rules(loaded, batch, engine)
            engine.end_transaction()
            engine.close()
            return rules
    except (GreatExpectationsError, sa.exc.SQLAlchemyError) as error:
        raise ContractViolation(
            f"Great Expectations failed with {type(error).__name__} on suite {suite.name}. Nothing was changed. This is a defect of "
            "the suite or of the pipeline; see docs/runbook/day-held.md."
        ) from None
