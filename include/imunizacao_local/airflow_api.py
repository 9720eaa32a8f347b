"""The few calls to Airflow's REST API (v2) that the local stack needs."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import httpx

from imunizacao_local.errors import LocalError

SAO_PAULO: Final = ZoneInfo("America/Sao_Paulo")
_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DagRun:
    """One run of a DAG, as far as it is needed to tell its day and its end."""

    run_id: str
    state: str
    kind: str
    reference_day: date | None

    @property
    def is_over(self) -> bool:
        """Whether the run will not change any more."""
        return self.state in {"success", "failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """State of one task instance; `seconds` is its duration once it ended."""

    task_id: str
    map_index: int
    state: str
    try_number: int
    seconds: float | None

    @property
    def label(self) -> str:
        """Name for people, with the index of a mapped task."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


class AirflowApi:
    """A client that logs in when it needs to. Raises LocalError for every answer that is not the expected one."""

    def __init__(self, *, base_url: str, user: str, password: str) -> None:
        self._base_url = base_url
        self._user = user
        self._password = password
        self._token: str | None = None

    def health(self) -> dict[str, dict[str, Any]]:
        """Return the health report by component; {} while the API does not answer."""
        try:
            response = httpx.get(f"{self._base_url}/api/v2/monitor/health", timeout=_TIMEOUT, trust_env=False)
            report = response.json() if response.is_success else {}
        except (httpx.HTTPError, ValueError):
            return {}
        return {key: value for key, value in report.items() if isinstance(value, dict)}

    def is_paused(self, dag_id: str) -> bool | None:
        """Tell whether the DAG is paused; None while Airflow does not know it."""
        response = self._request("GET", f"/dags/{dag_id}", accept=(200, 404))
        return None if response.status_code == 404 else bool(response.json()["is_paused"])

    def import_errors(self) -> list[tuple[str, str]]:
        """Return (file, last line of the error) of the DAG files that do not load."""
        errors = self._request("GET", "/importErrors").json()["import_errors"]
        return [(error["filename"], error["stack_trace"].strip().splitlines()[-1]) for error in errors]

    def put_connection(self, connection_id: str, connection: Mapping[str, object], *, overwrite: bool) -> bool:
        """Store a connection, given as in AIRFLOW_CONN_<ID>. False when it exists already and may not be overwritten."""
        path = f"/connections/{_quote(connection_id)}"
        exists = self._request("GET", path, accept=(200, 404)).status_code == 200
        if exists and not overwrite:
            return False
        extra = connection.get("extra")
        body = {
            "connection_id": connection_id,
            **connection,
            "extra": json.dumps(extra) if extra else None,
        }
        self._request("PATCH" if exists else "POST", path if exists else "/connections", body=body)
        return True

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler start runs of the DAG."""
        self._request("PATCH", f"/dags/{dag_id}", body={"is_paused": False})

    def trigger(self, dag_id: str, *, reference_day: date) -> str:
        """Start a run for one reference day; return its id."""
        body = {"logical_date": None, "conf": {"reference_day": reference_day.isoformat()}}
        return str(self._request("POST", f"/dags/{dag_id}/dagRuns", body=body).json()["dag_run_id"])

    def runs_of_day(self, dag_id: str, reference_day: date) -> list[DagRun]:
        """Return the runs for one reference day among the latest 100, newest first."""
        answer = self._request("GET", f"/dags/{dag_id}/dagRuns?order_by=-run_after&limit=100")
        runs = (_dag_run(entry) for entry in answer.json()["dag_runs"])
        return [run for run in runs if run.reference_day == reference_day]

    def run(self, dag_id: str, run_id: str) -> DagRun:
        """Return one run."""
        return _dag_run(self._request("GET", f"/dags/{dag_id}/dagRuns/{_quote(run_id)}").json())

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        """Return the task instances of a run, in the order in which they started (those not started last)."""
        answer = self._request("GET", f"/dags/{dag_id}/dagRuns/{_quote(run_id)}/taskInstances?limit=1000")
        entries = answer.json()["task_instances"]
        entries.sort(key=lambda entry: (entry["start_date"] is None, entry["start_date"] or ""))
        return [
            TaskState(
                task_id=entry["task_id"],
                map_index=entry["map_index"],
                state=entry["state"] or "waiting",
                try_number=entry["try_number"],
                seconds=entry["duration"],
            )
            for entry in entries
        ]

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        accept: tuple[int, ...] = (),
    ) -> httpx.Response:
        for attempt in (1, 2):
            if self._token is None:
                self._token = self._log_in()
            response = self._send(
                method,
                f"{self._base_url}/api/v2{path}",
                headers={"Authorization": f"Bearer {self._token}"},
                json=body,
            )
            if response.status_code == 401 and attempt == 1:
                self._token = None  # expired: it lives a day
                continue
            break
        if not response.is_success and response.status_code not in accept:
            raise LocalError(
                f"Airflow answered {response.status_code} to {method} {path}: {response.text[:300]}",
                next_step="check `status` and the log of the api-server",
            )
        return response

    def _log_in(self) -> str:
        response = self._send(
            "POST",
            f"{self._base_url}/auth/token",
            json={"username": self._user, "password": self._password},
        )
        if response.status_code != 201:
            raise LocalError(
                f"Airflow refused the login of {self._user} with status {response.status_code}",
                next_step="run `down` and `up`: the password file is written again",
            )
        return str(response.json()["access_token"])

    def _send(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        try:
            return httpx.request(method, url, timeout=_TIMEOUT, trust_env=False, **arguments)
        except httpx.HTTPError as error:
            raise LocalError(
                f"Airflow did not answer {method} {url}: {type(error).__name__}",
                next_step="check `status`; `up` starts what is missing",
            ) from error


def _dag_run(entry: dict[str, Any]) -> DagRun:
    return DagRun(
        run_id=entry["dag_run_id"],
        state=entry["state"],
        kind=entry["run_type"],
        reference_day=run_reference_day(
            conf=entry["conf"] or {},
            kind=entry["run_type"],
            data_interval_start=_instant(entry["data_interval_start"]),
            run_after=_instant(entry["run_after"]),
        ),
    )


def run_reference_day(
    *,
    conf: dict[str, Any],
    kind: str,
    data_interval_start: datetime | None,
    run_after: datetime | None,
) -> date | None:
    """Tell which reference day a run is for: its parameter, else its interval, else the day before it was due.

    The product owns this rule (`imunizacao.reference_day`); this is the reader's copy of it, from what the API shows.
    """
    asked = conf.get("reference_day")
    if isinstance(asked, str) and asked:
        return date.fromisoformat(asked)
    if kind in {"scheduled", "backfill"} and data_interval_start is not None:
        return data_interval_start.astimezone(SAO_PAULO).date()
    if run_after is not None:
        return run_after.astimezone(SAO_PAULO).date() - timedelta(days=1)
    return None


def yesterday(now: datetime | None = None) -> date:
    """Return the last day that is over in São Paulo."""
    return (now or datetime.now(UTC)).astimezone(SAO_PAULO).date() - timedelta(days=1)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")
