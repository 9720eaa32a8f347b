"""People who answer questions of a run, through Airflow's own REST API over its own database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

_PATIENCE = 120.0
_SETTLED = 2.0
"""Seconds that a question must stand: `dag.test` writes the state of a task once more, after it was parked."""


def api_client(user: str) -> TestClient:
    """The REST API, for somebody who is logged in as an admin."""
    from airflow.api_fastapi.app import create_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    app = create_app(apps="core")
    manager = app.state.auth_manager
    token = manager.generate_jwt(SimpleAuthManagerUser(username=user, role="admin"))
    return TestClient(app, headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=True)


@contextmanager
def answering(user: str, dag_id: str, answers: Sequence[tuple[str, str]]) -> Iterator[list[dict[str, Any]]]:
    """While the block runs a DAG, answer one question after the other with (option, reason); gives the questions as they were seen."""
    seen: list[dict[str, Any]] = []
    failed: list[BaseException] = []

    def answer_all() -> None:
        try:
            with api_client(user) as client:
                for option, reason in answers:
                    question = _wait_for_question(client, dag_id)
                    seen.append(question)
                    task = question["task_instance"]
                    answer = client.patch(
                        f"/api/v2/dags/{dag_id}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}/-1/hitlDetails",
                        json={"chosen_options": [option], "params_input": {"motivo": reason}},
                    )
                    assert answer.status_code == 200, answer.text
        except BaseException as error:  # noqa: BLE001 - handed to the test below
            failed.append(error)

    person = threading.Thread(target=answer_all, daemon=True)
    person.start()
    yield seen
    person.join(_PATIENCE)
    if failed:
        raise failed[0]
    assert not person.is_alive(), "a question that was expected was never asked"


def _wait_for_question(client: TestClient, dag_id: str) -> dict[str, Any]:
    until, since, last = time.monotonic() + _PATIENCE, 0.0, ""
    while time.monotonic() < until:
        answer = client.get(
            f"/api/v2/dags/{dag_id}/dagRuns/~/hitlDetails",
            params={"response_received": "false", "state": "awaiting_input"},
        )
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["hitl_details"]
        if found and found[0]["task_instance"]["id"] == last:
            if time.monotonic() - since > _SETTLED:
                return found[0]
        else:
            since, last = time.monotonic(), found[0]["task_instance"]["id"] if found else ""
        time.sleep(0.5)
    raise AssertionError("nobody was asked anything")
