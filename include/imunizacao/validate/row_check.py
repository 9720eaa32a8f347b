"""The row rules alone, over a few doses: what a replay asks before it makes a day again."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Final

from imunizacao.reference_day import ReferenceDay
from imunizacao.sql import Engine
from imunizacao.sql.compile import bad_rows_table, view_on_parquet
from imunizacao.validate.suites import ROW_SUITE, TABLES, load_suites

_KEY: Final = ("nu_parte", "nu_linha", "nu_dose")


def rules_version(expectations: Path) -> str:
    """Identity of the rules in a folder, as receipts name it."""
    return load_suites(expectations).sha256


def mark_bad_doses(
    duck: Engine, *, dose: Path, day: ReferenceDay, table: str, folder: Path, expectations: Path
) -> None:
    """Make the temporary table `table` of the doses of a local Parquet file that the quarantine rules in `expectations` take out.

    No day rule speaks, nothing is counted against Great Expectations: whoever publishes uses `validate_day`.
    """
    suites = load_suites(expectations)
    duck.execute("validate/view", view_on_parquet(TABLES[ROW_SUITE], [str(dose)]))
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Version 1.24 imports modules that are deprecated in Python 3.11.
        warnings.simplefilter("ignore", DeprecationWarning)
        from imunizacao.validate.gx_compile import compile_suite  # noqa: PLC0415 - 4 CPU seconds, only where a dose is judged
    compiled = compile_suite(
        duck, suites.row, parameters={"reference_day": str(day), "candidates": 0}, scratch=folder / "gx"
    )
    taking = {rule.rule for rule in suites.row.rules if rule.on_fail == "quarantine"}
    rules = [rule for rule in compiled if rule.rule in taking]
    duck.execute("validate/bad rows", bad_rows_table(table, rules, relation=TABLES[ROW_SUITE], key=_KEY, carry=()))
