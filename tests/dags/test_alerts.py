"""Alerts: what is posted, what the note says, and that nothing about an alert can fail the one who raises it."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from imunizacao_local.ports import free_ports
from tests.dags.conftest import WEBHOOK_SECRET, Listener

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("ignore", "error:::imunizacao")]

RUN: dict[str, Any] = {
    "dag_id": "imunizacao_daily",
    "dag_run_id": "scheduled__2026-03-15T03:00:00+00:00",
    "run_type": "scheduled",
    "state": "running",
    "conf": {},
    "data_interval_start": "2026-03-14T03:00:00Z",
    "run_after": "2026-03-15T03:00:00Z",
    "note": "aguardando o espelho",
}
"""A run as the scheduler describes it to the callback of a deadline."""


def chat(**fields: Any) -> Any:
    values = dict.fromkeys(("host", "port", "schema", "password")) | fields
    return lambda name: SimpleNamespace(**values)


def call(run: dict[str, Any]) -> str:
    from imunizacao_airflow.alerts import day_not_published

    return asyncio.run(day_not_published(context={"dag_run": run, "deadline": {"id": "x", "deadline_time": "y"}}))


def test_a_missed_deadline_is_posted_and_noted_with_what_the_note_said_before(
    airflow_env: dict[str, str], heard: Listener
) -> None:
    assert call(RUN) == "posted"
    text = (
        "imunizacao_daily: o dia 2026-03-14 não foi publicado no prazo (execução em andamento). Nada mudou para quem lê. "
        "O que fazer: docs/runbook/day-not-published.md"
    )
    link = "http://airflow.example.org/dags/imunizacao_daily/runs/scheduled__2026-03-15T03%3A00%3A00%2B00%3A00"
    assert heard.posted == [(f"/{WEBHOOK_SECRET}", {"text": f"{text}\n{link}"})]
    assert heard.notes == [f"ALERTA: {text} · aguardando o espelho"]


@pytest.mark.parametrize(
    ("changes", "day"),
    [
        ({"run_type": "manual", "conf": {"reference_day": "2024-02-29"}}, "2024-02-29"),
        ({"run_type": "manual", "data_interval_start": None}, "2026-03-14"),
        ({"run_type": "backfill", "state": "failed", "data_interval_start": "2024-01-01T03:00:00Z"}, "2024-01-01"),
    ],
)
def test_the_alert_names_the_day_by_the_rule_of_the_pipeline(
    airflow_env: dict[str, str], heard: Listener, changes: dict[str, Any], day: str
) -> None:
    assert call(RUN | changes) == "posted"
    assert f" o dia {day} " in heard.posted[0][1]["text"]


@pytest.mark.parametrize("changes", [{"run_type": "backfill", "state": "queued"}, {"state": "success"}])
def test_a_run_that_is_not_late_by_anybodys_fault_calls_nobody(
    airflow_env: dict[str, str], heard: Listener, changes: dict[str, Any]
) -> None:
    """`backfill create` queues all its runs at once: a year of days would raise hundreds of alerts."""
    assert call(RUN | changes) == "not needed"
    assert (heard.posted, heard.notes) == ([], [])


def test_without_connections_the_alert_is_in_the_log(
    airflow_env: dict[str, str], airflow_database: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="imunizacao"):
        assert call(RUN) == "logged"
    events = [record.getMessage() for record in caplog.records]
    assert any(event.startswith("event=alert dag=imunizacao_daily") and "2026-03-14" in event for event in events)
    assert any(event.startswith("event=alert.not_posted") for event in events)


def test_a_chat_that_refuses_or_is_down_fails_nothing_and_its_address_stays_out_of_the_log(
    airflow_env: dict[str, str], listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    from imunizacao_airflow.alerts import alert

    listener.chat_status = 404
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    reasons = []
    with caplog.at_level(logging.INFO, logger="imunizacao"):
        for host in (listener.base_url, dead, None):
            assert not alert(
                "x", get_connection=chat(host=host, password=WEBHOOK_SECRET), dag_id="imunizacao_daily", run_id="run"
            )
            reasons.append(caplog.records[-1].getMessage().rpartition("reason=")[2])
    assert reasons == ['"status 404"', "ConnectError", "ConfigurationError"]
    assert WEBHOOK_SECRET not in caplog.text


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        (
            {"host": "https://hooks.example.org/services/", "password": "/T0/B0"},
            "https://hooks.example.org/services/T0/B0",
        ),
        ({"host": "hooks.example.org", "password": "T0"}, "https://hooks.example.org/T0"),
        ({"host": "127.0.0.1", "port": 8065, "schema": "http"}, "http://127.0.0.1:8065"),
        ({"password": "https://hooks.example.org/T0/B0"}, "https://hooks.example.org/T0/B0"),
    ],
)
def test_the_address_of_the_chat_may_be_in_host_or_password(
    airflow_env: dict[str, str], fields: dict[str, Any], address: str
) -> None:
    from imunizacao_airflow.alerts import webhook_address

    assert webhook_address(chat(**fields)("imunizacao_alerts")) == address


def test_a_message_is_json_that_chat_services_take(airflow_env: dict[str, str], listener: Listener) -> None:
    from imunizacao_airflow.alerts import post_message

    assert post_message(chat(host=listener.base_url), text='dia "2026-03-14"\nlinha')
    assert json.dumps(listener.posted[0][1], ensure_ascii=False) == '{"text": "dia \\"2026-03-14\\"\\nlinha"}'
