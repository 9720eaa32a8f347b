"""Notes on DAG runs, written through Airflow's own REST API: tasks have no other door to them in Airflow 3."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx

from imunizacao.errors import DayHeld, PipelineError
from imunizacao.events import log_event
from imunizacao_airflow.connections import AIRFLOW

_MOST = 1000


def write_run_note(get_connection: Callable[[str], Any], *, dag_id: str, run_id: str, text: str) -> bool:
    """Set the note of a run and tell whether that worked; a failure is logged and changes nothing else.

    Connection `imunizacao_airflow` (type `http`): `host` is the address of the API server, login and password of a user who may
    edit DAG runs.
    """
    try:
        connection = get_connection(AIRFLOW)
        base = str(connection.host).rstrip("/")
        with httpx.Client(base_url=base, timeout=10) as client:
            token = client.post("/auth/token", json={"username": connection.login, "password": connection.password})
            token.raise_for_status()
            answer = client.patch(
                f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}",
                json={"note": text[:_MOST]},
                params={"update_mask": "note"},
                headers={"Authorization": f"Bearer {token.json()['access_token']}"},
            )
            answer.raise_for_status()
    except Exception as error:  # noqa: BLE001  a note is a courtesy: whatever goes wrong with it must not fail a published day
        log_event("airflow.note_not_written", level=logging.WARNING, error=type(error).__name__, connection=AIRFLOW)
        return False
    return True


def sentence_of(error: BaseException | None) -> str:
    """The note that one of our own errors brings along, or its first sentence; of any other error only its class, because its text
    may quote data."""
    if isinstance(error, DayHeld) and error.note:
        return error.note[:_MOST]
    if isinstance(error, PipelineError):
        return re.split(r"(?<=[.;])\s", str(error), maxsplit=1)[0][:_MOST]
    return type(error).__name__ if error is not None else "failed"
