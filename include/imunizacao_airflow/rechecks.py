"""The last days counted again at the mirror, as tasks: which days, one day, and the sum of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import get_current_context

from imunizacao.errors import ContractViolation
from imunizacao_airflow.tasks import answer, attempt, open_services, readable_errors, set_run_note


def days_to_recheck(params: Mapping[str, Any]) -> list[str]:
    """Days of the asked range; without one the last `days` days that are over. Raises `ConfigurationError` for a range that is none."""
    from imunizacao.reference_day import range_of_days

    with readable_errors():
        answer(params)  # refused here, before any day is looked at
        days = range_of_days(params["from"] or "", params["to"] or "", now=datetime.now(UTC), days=params["days"])
    return [str(day) for day in days]


def recheck_one(day: str, params: Mapping[str, Any]) -> str:
    """One day, under the run of this DAG run; a retry goes on with what the try before began."""
    from imunizacao.models import RunContext
    from imunizacao.paths import code_version
    from imunizacao.recheck import recheck_day
    from imunizacao.reference_day import ReferenceDay

    run_id = str(get_current_context()["dag_run"].run_id)
    context = RunContext.create(day=ReferenceDay.parse(day), run_id=run_id, code_version=code_version())
    with readable_errors():
        return recheck_day(
            context,
            open_services(),
            dry_run=params["dry_run"],
            thorough=params["thorough"],
            attempt=attempt(),
            **answer(params),
        ).to_json()


def report_recheck(planned: Sequence[str], done: Sequence[str], params: Mapping[str, Any]) -> str:
    """Write the sum of all days into the note of the run and return it. Raises `ContractViolation` when days are missing."""
    from imunizacao.recheck import RecheckedDay, summary

    days = [RecheckedDay.from_json(text) for text in done]
    text = summary(days, dry_run=params["dry_run"])
    missing = sorted(set(planned) - {day.day for day in days})
    with readable_errors():
        if missing:
            raise ContractViolation(
                f"{len(missing)} of {len(planned)} days failed: {', '.join(missing)}. The others: {text}. Look at the log of each failed "
                "day, mend the cause, then clear it. See docs/runbook/recheck.md."
            )
    set_run_note(text)
    return text
