"""The way in to Great Expectations: imported on first use, without its noise."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from imunizacao.reference_day import ReferenceDay
from imunizacao.sql import Engine
from imunizacao.validate.suites import Suites

if TYPE_CHECKING:
    from imunizacao.sql.compile import RowRule
    from imunizacao.validate.gx_run import GxOutcome, Verdict

    AfterRows = Callable[[list[RowRule], Mapping[str, Verdict]], None]


def load_library() -> ModuleType:
    """Import `gx_run`, and with it Great Expectations: 4 CPU seconds and 270 MB the first time."""
    # Under Airflow's logging every import writes a score of "Skipping registering function" lines.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Version 1.24 imports sre_constants and sre_parse, deprecated in Python 3.11; Python 3.13 has neither.
        warnings.simplefilter("ignore", DeprecationWarning)
        from imunizacao.validate import gx_run  # noqa: PLC0415 - waits until there is a day to judge
    return gx_run


def run_suites(
    duck: Engine,
    suites: Suites,
    *,
    parameters: Mapping[str, str | int],
    day: ReferenceDay,
    site: Path,
    history: str = "",
    after_rows: AfterRows | None = None,
) -> GxOutcome:
    """`gx_run.run_suites`, imported now."""
    outcome: GxOutcome = load_library().run_suites(
        duck, suites, parameters=parameters, day=day, site=site, history=history, after_rows=after_rows
    )
    return outcome
