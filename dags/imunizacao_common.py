"""The only glue between Airflow and the package `imunizacao`: day, services, links, notes and retries of all DAGs.

Heavy libraries are imported inside the functions that a task calls, never while a DAG file is parsed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import (
    Connection,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    get_current_context,
)

from imunizacao_airflow.links import DataDocsLink, ManifestLink, PublicationLink

if TYPE_CHECKING:
    from imunizacao.models import RunContext
    from imunizacao.pipeline import Services

MIRROR_RETRIES = 40
"""Of ten minutes each: at 00:00 the mirror may not have reached the end of the day yet, and is waited for until the morning."""

__all__ = ["DataDocsLink", "ManifestLink", "PublicationLink"]

OBJECTS = "/imunizacao/objects"

RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=["imunizacao.errors.MirrorUnavailable", "imunizacao.errors.StorageUnavailable"],
            action=RetryAction.RETRY,
            retry_delay=timedelta(minutes=10),
            reason="the other side may be back later",
        ),
        RetryRule(
            exception="imunizacao.errors.PublicationConflict",
            action=RetryAction.RETRY,
            retry_delay=timedelta(seconds=20),
            reason="another run moved the same pointer",
        ),
        RetryRule(
            exception=["imunizacao.errors.PipelineError"],
            action=RetryAction.FAIL,
            reason="the same input would fail again: a person must look",
        ),
    ]
)
"""Transient errors are tried again; a broken contract, a held day or a wrong setting fails at once."""

DAY_PARAMS = {
    "reference_day": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Dia de referência",
        description="AAAA-MM-DD, dia em que o documento entrou na RNDS. Vazio: o dia do intervalo; em execução manual, ontem.",
    ),
    "cnes": Param(
        "newest",
        type="string",
        pattern="^(newest|[0-9]{6})$",
        title="Competência do CNES",
        description="`newest` ou AAAAMM de uma tabela importada.",
    ),
}
"""Params of every DAG that works on one day."""


def set_links(**links: str) -> None:
    """Leave the targets of the task's links where `get_link` finds them at the end of the task, also of a failed one."""
    get_current_context()["task"].imunizacao_links = links


def link_publication() -> None:
    """Link the task to the day's page and head."""
    day = run_context().day
    set_links(day=f"/imunizacao/day/{day}", head=f"{OBJECTS}/public/v1/days/{day}/head.json")


def run_context() -> RunContext:
    """Day and run of the current task, by the one rule in `imunizacao.reference_day`."""
    from imunizacao.models import RunContext
    from imunizacao.paths import code_version
    from imunizacao.reference_day import from_airflow_context

    context = get_current_context()
    return RunContext.create(
        day=from_airflow_context(context), run_id=context["dag_run"].run_id, code_version=code_version()
    )


def attempt() -> int:
    """Which try of the task this is, from 1."""
    return int(get_current_context()["ti"].try_number)


def open_services() -> Services:
    """Services from the connections `imunizacao_*`, with the engine limits of this worker."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    from imunizacao import pipeline
    from imunizacao_airflow.connections import CONTROLE, settings_from_connections

    return pipeline.open_services(
        settings_from_connections(Connection.get),
        connect=lambda: PostgresHook(postgres_conn_id=CONTROLE).get_conn(),
    )


def set_run_note(text: str) -> None:
    """Write the note of the current DAG run through Airflow's REST API (connection `imunizacao_airflow`).

    A note that cannot be written is no reason to fail a published day: the log says so instead.
    """
    from imunizacao_airflow.notes import write_run_note

    run = get_current_context()["dag_run"]
    write_run_note(Connection.get, dag_id=run.dag_id, run_id=run.run_id, text=text)


def note_failure(context: Any) -> None:
    """`on_failure_callback` and `on_retry_callback`: the first sentence of the error becomes the note of the run, so that the grid tells what happened."""
    from imunizacao_airflow.notes import sentence_of, write_run_note

    error = context.get("exception")
    run = context["dag_run"]
    task = context["task"].task_id
    write_run_note(Connection.get, dag_id=run.dag_id, run_id=run.run_id, text=f"{task}: {sentence_of(error)}")


def with_links(task_output: Any, *links: Any) -> Any:
    """Give a TaskFlow task its link buttons."""
    task_output.operator.operator_extra_links = links
    return task_output


DEFAULT_ARGS = {
    "retries": 3,
    "retry_delay": timedelta(minutes=2),
    "retry_policy": RETRY_POLICY,
    "on_failure_callback": note_failure,
    "on_retry_callback": note_failure,
}
"""How every task of every DAG fails."""
