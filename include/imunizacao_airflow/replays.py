"""The replay of quarantined documents as tasks: which days, one day, and the sum of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from airflow.sdk import get_current_context

from imunizacao.errors import ContractViolation
from imunizacao_airflow.tasks import answer, open_services, readable_errors, set_run_note

DEFAULT_DAYS: Final = 30


def days_to_replay(params: Mapping[str, Any]) -> list[str]:
    """Days of the asked range that have a quarantine. Raises `ConfigurationError` for a range or a reason that does not exist."""
    from imunizacao.reference_day import range_of_days
    from imunizacao.replay import days_that_were_judged, require_reasons

    with readable_errors():
        require_reasons(params["reasons"])
        answer(params)  # refused here, before any day is looked at
        days = range_of_days(params["from"] or "", params["to"] or "", now=datetime.now(UTC), days=DEFAULT_DAYS)
        return days_that_were_judged(open_services().work, days)


def replay_one(day: str, params: Mapping[str, Any]) -> str:
    """One day, under the run of this DAG run; a retry goes on with what the try before began."""
    from imunizacao.models import RunContext
    from imunizacao.paths import code_version
    from imunizacao.reference_day import ReferenceDay
    from imunizacao.replay import replay_day

    run_id = str(get_current_context()["dag_run"].run_id)
    context = RunContext.create(day=ReferenceDay.parse(day), run_id=run_id, code_version=code_version())
    with readable_errors():
        return replay_day(
            context,
            open_services(),
            reasons=params["reasons"],
            cnes=params["cnes"],
            dry_run=params["dry_run"],
            **answer(params),
        ).to_json()


def report_replay(planned: Sequence[str], done: Sequence[str], params: Mapping[str, Any]) -> str:
    """Write the sum of all days into the note of the run and return it. Raises `ContractViolation` when days are missing."""
    from imunizacao.replay import ReplayedDay, summary

    days = [ReplayedDay.from_json(text) for text in done]
    text = summary(days, dry_run=params["dry_run"])
    missing = sorted(set(planned) - {day.day for day in days})
    with readable_errors():
        if missing:
            raise ContractViolation(
                f"{len(missing)} of {len(planned)} days failed: {', '.join(missing)}. The others: {text}. Look at the log of each failed "
                "day, mend the cause, then clear it. See docs/runbook/quarantine.md."
            )
    set_run_note(text)
    return text
