"""Calling for a person: one line in the log, the note of the run, and a message to a chat if one is connected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

from imunizacao.errors import ConfigurationError
from imunizacao.events import log_event
from imunizacao.reference_day import ReferenceDay, from_run
from imunizacao_airflow.connections import AIRFLOW, ALERTS

RUNBOOK: Final = "docs/runbook/day-not-published.md"
_TIMEOUT: Final = 10.0


def alert(text: str, *, get_connection: Callable[[str], Any], dag_id: str, run_id: str, note: str = "") -> bool:
    """Log an alert, make it the note of the run (followed by `note`), and post it; tell whether it was posted.

    `text` carries counts, days and locations only. Nothing that goes wrong here fails the caller: the log says what did.
    """
    from imunizacao_airflow.notes import write_run_note

    log_event("alert", level=logging.ERROR, dag=dag_id, run=run_id, text=text)
    write_run_note(
        get_connection, dag_id=dag_id, run_id=run_id, text=f"ALERTA: {text}" + (f" · {note}" if note else "")
    )
    return post_message(get_connection, text=f"{text}\n{_page_of_run(dag_id, run_id)}")


def announce(text: str, *, get_connection: Callable[[str], Any], dag_id: str, run_id: str) -> bool:
    """Make a text the note of the run and post it: people are wanted, but nothing is broken. Tell whether it was posted."""
    from imunizacao_airflow.notes import write_run_note

    log_event("announcement", dag=dag_id, run=run_id, text=text)
    write_run_note(get_connection, dag_id=dag_id, run_id=run_id, text=text)
    return post_message(get_connection, text=f"{text}\n{_page_of_run(dag_id, run_id)}")


def post_message(get_connection: Callable[[str], Any], *, text: str) -> bool:
    """Post `{"text": …}` to the address of the optional connection `imunizacao_alerts`; the log says when nobody was told.

    The address itself is a secret with most chat services: it never reaches the log.
    """
    import httpx

    try:
        connection = get_connection(ALERTS)
    except Exception as error:  # noqa: BLE001  Airflow's "not found" has a class per component (SDK, core); any other is as harmless here
        log_event("alert.not_posted", level=logging.WARNING, connection=ALERTS, reason=type(error).__name__)
        return False
    try:
        address = webhook_address(connection)
        with httpx.Client(timeout=_TIMEOUT, transport=httpx.HTTPTransport(retries=2)) as client:
            answer = client.post(address, json={"text": text})
            answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        reason = f"status {error.response.status_code}"
    except Exception as error:  # noqa: BLE001  a chat that is down must not fail the task that has something to say
        reason = type(error).__name__
    else:
        log_event("alert.posted", connection=ALERTS, status=answer.status_code)
        return True
    log_event("alert.not_posted", level=logging.WARNING, connection=ALERTS, reason=reason)
    return False


def webhook_address(connection: Any) -> str:
    """Type `http`: `host` is the address, and `password` its secret end; `password` may also be the whole address.

    Chat services give an address whose path is a secret; in `password` Airflow encrypts and masks it.
    """
    host, secret = (connection.host or "").rstrip("/"), (connection.password or "").lstrip("/")
    if secret.startswith(("http://", "https://")):
        host, secret = secret, ""
    if "://" not in host:
        port = f":{connection.port}" if connection.port else ""
        host = f"{connection.schema or 'https'}://{host}{port}" if host else ""
    address = f"{host}/{secret}" if secret else host
    if urlsplit(address).scheme not in {"http", "https"} or not urlsplit(address).hostname:
        raise ConfigurationError(
            f"Airflow connection {ALERTS} has no address. Write the address of the webhook into its host, and the secret part of "
            "the path into its password; see docs/connections.md."
        )
    return address


def _page_of_run(dag_id: str, run_id: str) -> str:
    """Where the run is in the UI, if Airflow knows its own address; its ids otherwise."""
    from airflow.sdk.configuration import conf

    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}" if base else f"{dag_id} {run_id}"


async def day_not_published(context: dict[str, Any]) -> str:
    """Callback of the DAG's deadline alert: a run has not published its day in time. Runs in the triggerer.

    `context` is what the scheduler gives: the run as the REST API shows it, and the deadline. A run of a backfill that still
    waits for its turn is not late: `backfill create` queues all its runs at once, and they start a few at a time.
    """
    from airflow.sdk import Connection

    run = context["dag_run"]
    if run["state"] == "success" or (run["run_type"] == "backfill" and run["state"] == "queued"):
        log_event("alert.not_needed", dag=run["dag_id"], run=run["dag_run_id"], state=run["state"])
        return "not needed"
    found: dict[str, Any] = {}
    for name in (ALERTS, AIRFLOW):
        try:
            found[name] = await Connection.async_get(name)
        except Exception as error:  # noqa: BLE001  both are optional, and `alert` says which one was missing
            log_event("alert.connection_missing", level=logging.WARNING, connection=name, error=type(error).__name__)
    posted = await asyncio.to_thread(
        alert,
        sentence_about(run),
        get_connection=found.__getitem__,
        dag_id=run["dag_id"],
        run_id=run["dag_run_id"],
        note=run.get("note") or "",
    )
    return "posted" if posted else "logged"


def sentence_about(run: dict[str, Any]) -> str:
    """What the alert says about a run that is late."""
    return (
        f"{run['dag_id']}: o dia {_day_of(run)} não foi publicado no prazo (execução {_STATES.get(run['state'], run['state'])}). "
        f"Nada mudou para quem lê. O que fazer: {RUNBOOK}"
    )


_STATES: Final = {"queued": "na fila", "running": "em andamento", "failed": "com falha"}


def _day_of(run: dict[str, Any]) -> ReferenceDay:
    """The one rule of `reference_day`, over what the REST API shows of a run."""
    start = run["data_interval_start"]
    return from_run(
        param=(run.get("conf") or {}).get("reference_day"),
        run_type=run["run_type"],
        data_interval_start=datetime.fromisoformat(start) if start else None,
        run_after=datetime.fromisoformat(run["run_after"]),
    )
