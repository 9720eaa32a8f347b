"""What a task of any DAG gets from Airflow: its day, services, attempt, the note of its run, and an error that a person can read."""

from __future__ import annotations

import logging
import re
import textwrap
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from airflow.sdk import Connection, get_current_context

from imunizacao.errors import PipelineError
from imunizacao.events import log_event
from imunizacao.paths import code_version
from imunizacao.reference_day import from_airflow_context
from imunizacao_airflow.connections import CONTROLE, settings_from_connections

if TYPE_CHECKING:
    from imunizacao.models import RunContext
    from imunizacao.pipeline import Services

_LOG = logging.getLogger("imunizacao")
OBJECTS: Final = "/imunizacao/objects"
"""Where the plugin serves both buckets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What every core function takes."""

    context: RunContext
    services: Services
    attempt: int


@contextmanager
def stage() -> Iterator[Stage]:
    """Open what a core function needs, for the body of one task; its errors leave readable (`readable_errors`)."""
    with readable_errors():
        yield Stage(context=run_context(), services=open_services(), attempt=attempt())


@contextmanager
def readable_errors() -> Iterator[None]:
    """Let one of our own errors leave the task as itself, without the wall of tracebacks below it.

    Airflow prints the whole chain of an exception. An error of ours says all that a person needs; where it was raised and what
    caused it become one line (classes only: the text of a foreign exception may quote data), the tracebacks a line at DEBUG.
    Any other exception is a defect and keeps its traceback.
    """
    try:
        yield
    except PipelineError as error:
        log_event("task.error", error=type(error).__name__, raised_at=_raised_at(error), caused_by=_causes(error))
        _LOG.debug("Tracebacks of that error", exc_info=error)
        # A new object: a context manager gives the old one its traceback back.
        raise copy(error) from None


def _raised_at(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "unknown"
    last = frames[-1]
    return f"{'/'.join(Path(last.filename).parts[-3:])}:{last.lineno}"


def _causes(error: BaseException) -> str | None:
    """Classes of the exceptions below, the outer one first."""
    names: list[str] = []
    below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while below is not None and len(names) < 5:
        names.append(type(below).__name__)
        below = below.__cause__ or (None if below.__suppress_context__ else below.__context__)
    return " < ".join(names) or None


def run_context() -> RunContext:
    """Day and run of the current task, by the one rule in `imunizacao.reference_day`."""
    from imunizacao.models import RunContext

    context = get_current_context()
    return RunContext.create(
        day=from_airflow_context(context), run_id=str(context["dag_run"].run_id), code_version=code_version()
    )


def answer(params: Mapping[str, Any]) -> dict[str, str]:
    """What the person who started the run decided of the days that ask, as `pipeline.remake_day` takes it; checked."""
    from imunizacao.decision import check_reason

    if not params["decide_publish"]:
        return {}
    by = str(get_current_context()["dag_run"].triggering_user_name or "")
    return {"decide_publish": check_reason(params["decide_publish"]), "decided_by": by}


def attempt() -> int:
    """Which try of the task this is, from 1."""
    return int(get_current_context()["ti"].try_number)


def open_services() -> Services:
    """Services from the connections `imunizacao_*`, with the engine limits of this worker."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    from imunizacao import pipeline

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


def call_for_help(text: str) -> None:
    """Raise an alert about the current run: log, note, webhook. The note stays when the task then fails."""
    from imunizacao_airflow.alerts import alert

    context = get_current_context()
    run, task = context["dag_run"], cast("Any", context["task"])
    alert(text, get_connection=Connection.get, dag_id=run.dag_id, run_id=run.run_id)
    task.imunizacao_alerted = run.run_id


def tell(text: str) -> None:
    """Make a text the note of the current run and post it to the chat, if one is connected; neither fails the task."""
    from imunizacao_airflow.alerts import announce

    run = get_current_context()["dag_run"]
    announce(text, get_connection=Connection.get, dag_id=run.dag_id, run_id=run.run_id)


def set_links(**links: str) -> None:
    """Leave the targets of the task's links where `get_link` finds them at the end of the task, also of a failed one."""
    cast("Any", get_current_context()["task"]).imunizacao_links = links


def docs_links(context: RunContext) -> None:
    """Link the task to the report of its day and to the verdicts of all days."""
    from imunizacao.docs_index import INDEX_KEY, docs_key

    set_links(docs=f"{OBJECTS}/work/{docs_key(str(context.day))}", docs_index=f"{OBJECTS}/work/{INDEX_KEY}")


def explain_failure(context: Any) -> None:
    """`on_failure_callback` and `on_retry_callback`: end the log with what happened and what comes next, and note it on the run.

    Airflow runs callbacks last, inside a group that its log viewer folds away: the group is closed first, so that the last
    lines of the log stay in sight.
    """
    from imunizacao_airflow.notes import sentence_of, write_run_note

    error, run, ti, task = context.get("exception"), context["dag_run"], context["ti"], context["task"]
    again = str(getattr(ti.state, "value", ti.state)) == "up_for_retry"
    _LOG.info("::endgroup::")
    for line in explanation(error, task=task.task_id, attempt=ti.try_number, again=again):
        _LOG.error("%s", line)
    if getattr(task, "imunizacao_alerted", "") != run.run_id:
        text = f"{task.task_id}: {sentence_of(error)}"
        write_run_note(Connection.get, dag_id=run.dag_id, run_id=run.run_id, text=text)


def explanation(error: BaseException | None, *, task: str, attempt: int, again: bool) -> list[str]:
    """The last lines of a failed task's log: short ones, because Airflow's viewer does not wrap them."""
    lines = [f"{task} failed in try {attempt}: {type(error).__name__}"]
    runbooks: list[str] = []
    if isinstance(error, PipelineError):
        text = str(error)
        runbooks = list(dict.fromkeys(_RUNBOOK.findall(text)))
        for part in _SENTENCE.split(_SEE.sub("", text), maxsplit=1):
            for line in part.splitlines():
                lines += textwrap.wrap(line, width=_WIDTH, break_long_words=False, break_on_hyphens=False)
    else:
        lines.append("This is not one of the known errors: the traceback above is for those who maintain the code.")
    if again:
        lines.append(f"Next: Airflow tries {task} again by itself. What was published before stays.")
    else:
        lines.append(f"Next: mend the cause, then clear {task} in this run. What was published before stays.")
    return lines + [f"Runbook: {page}" for page in runbooks]


_RUNBOOK: Final = re.compile(r"docs/runbook/[a-z0-9-]+\.md")
_SEE: Final = re.compile(r"[;,]?\s*[Ss]ee docs/runbook/[a-z0-9-]+\.md\.?")
_SENTENCE: Final = re.compile(r"(?<=[.;])\s+(?=[A-Z])")
_WIDTH: Final = 110
