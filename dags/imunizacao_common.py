"""The only glue between Airflow and the package `imunizacao` that DAG files import: day, services, links, notes and retries.

Heavy libraries are imported inside the functions that a task calls, never while a DAG file is parsed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference

from imunizacao_airflow.acks import acknowledge
from imunizacao_airflow.alerts import day_not_published
from imunizacao_airflow.decide import REASON_PARAMS, DecideDay
from imunizacao_airflow.links import DataDocsLink, DocsIndexLink, ManifestLink, PublicationLink
from imunizacao_airflow.nominal import nominal
from imunizacao_airflow.operators import STALE_NOTE, WaitForMirror, waited_from_json
from imunizacao_airflow.params import (
    CNES_CHANGE_PARAMS,
    DAY_PARAMS,
    HOUSEKEEPING_PARAMS,
    MIRROR_PARAMS,
    RECHECK_PARAMS,
    REFERENCE_PARAMS,
    REPLAY_PARAMS,
    WITHDRAWAL_PARAMS,
)
from imunizacao_airflow.policies import (
    DEFAULT_ARGS,
    EACH_DAY,
    MIRROR_RETRIES,
    PART_OF_DAY,
    PLAN_OF_DAY,
    WAIT_POLICY,
    WHOLE_DAY,
)
from imunizacao_airflow.tasks import (
    OBJECTS,
    docs_links,
    explain_failure,
    open_services,
    readable_errors,
    run_context,
    set_links,
    set_run_note,
    stage,
)

if TYPE_CHECKING:
    from imunizacao.models import PublishReceipt, ValidateReceipt

__all__ = [
    "CNES_CHANGE_PARAMS",
    "DAY_PARAMS",
    "DEADLINE",
    "DEFAULT_ARGS",
    "EACH_DAY",
    "HOUSEKEEPING_PARAMS",
    "MIRROR_PARAMS",
    "MIRROR_RETRIES",
    "OBJECTS",
    "PART_OF_DAY",
    "PLAN_OF_DAY",
    "RECHECK_PARAMS",
    "REFERENCE_PARAMS",
    "REPLAY_PARAMS",
    "WHOLE_DAY",
    "WITHDRAWAL_PARAMS",
    "DataDocsLink",
    "DocsIndexLink",
    "ManifestLink",
    "PublicationLink",
    "acknowledge",
    "decide_day",
    "explain_failure",
    "link_docs",
    "link_publication",
    "nominal",
    "note_publication",
    "open_services",
    "readable_errors",
    "run_context",
    "set_links",
    "set_run_note",
    "stage",
    "stale_accepted",
    "wait_for_mirror",
    "with_links",
]

DEADLINE = DeadlineAlert(
    name="Dia publicado em 6 horas",
    # Not the logical date: a backfill of January would be late by months before it has begun.
    reference=DeadlineReference.DAGRUN_QUEUED_AT,
    interval=timedelta(hours=6),
    # In the triggerer, not in a worker: it must speak when all workers are taken, too.
    callback=AsyncCallback(day_not_published),
)
"""Of every DAG whose runs publish a day."""


def wait_for_mirror() -> WaitForMirror:
    """Task that holds a run until the mirror has reached the end of its day."""
    return WaitForMirror(
        task_id="wait_for_mirror",
        retry_policy=WAIT_POLICY,
        doc_md="Waits, without a worker slot, until the mirror has a document from after the day; gives up at a deadline.",
    )


def decide_day(validated: Any) -> DecideDay:
    """Task that asks a person when the rules want that, and lets every other day pass at once."""
    return DecideDay(
        task_id="decide",
        validated=validated,
        params=REASON_PARAMS,
        doc_md="Passes at once unless a rule asks: then a person publishes or holds the day under *Required Actions*, with a reason.",
    )


def link_docs() -> None:
    """Link the task to the report of its day and to the verdicts of all days; both are there when it ends."""
    docs_links(run_context())


def stale_accepted(waited: str) -> bool:
    """Whether `wait_for_mirror` let the run pass because a person said so."""
    return waited_from_json(waited).accepted_stale


def note_publication(published: PublishReceipt, validated: ValidateReceipt, waited: str) -> None:
    """Write what was published into the note of the run, and that the mirror had stopped, if a person accepted that."""
    from imunizacao import pipeline

    note = pipeline.run_note(published, validated)
    set_run_note(f"{note} · {STALE_NOTE}" if stale_accepted(waited) else note)


def link_publication() -> None:
    """Link the task to the day's page and head."""
    day = run_context().day
    set_links(day=f"/imunizacao/day/{day}", head=f"{OBJECTS}/public/v1/days/{day}/head.json")


def with_links(task_output: Any, *links: Any) -> Any:
    """Give a TaskFlow task its link buttons."""
    task_output.operator.operator_extra_links = links
    return task_output
