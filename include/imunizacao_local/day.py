"""Publish one reference day through Airflow, as a person would, and watch it."""

from __future__ import annotations

import json
import time
from datetime import date
from pathlib import Path
from typing import Any, Final

from imunizacao_local.airflow_api import AirflowApi, DagRun, TaskState, yesterday
from imunizacao_local.airflow_server import AirflowServer
from imunizacao_local.console import Console
from imunizacao_local.errors import LocalError
from imunizacao_local.publication import PublicBucket

DAG_ID: Final = "imunizacao_daily"
# The DAG processor looks for new files every 30 s; the first parse waits for its process.
DAG_SECONDS: Final = 150
# Unpausing makes the scheduler create the run of the last day that is over, within a loop or two.
SCHEDULED_RUN_SECONDS: Final = 20
POLL_SECONDS: Final = 1.0
_SHOWN_STATES: Final = {"running", "success", "failed", "up_for_retry", "skipped", "upstream_failed", "deferred"}
_ERROR_LINES: Final = 6


def publish_day(
    *,
    console: Console,
    airflow: AirflowServer,
    bucket: PublicBucket,
    day: date,
    wait_seconds: float,
) -> bool:
    """Make sure that a successful run published `day`; return False when one had already done so.

    A run for the day that is queued or running is followed, not doubled. Raises LocalError when the run fails, when it
    takes longer than `wait_seconds` (it goes on in Airflow), or when Airflow dies meanwhile.
    """
    api = airflow.api()
    paused = _wait_for_dag(console, api, airflow)
    runs = api.runs_of_day(DAG_ID, day)
    state = bucket.head_state(day)
    if state in {"published", "empty"} and any(run.state == "success" for run in runs):
        console.line(f"Day {day} is already {state} by a successful run: no new run was started.")
        if paused:
            api.unpause(DAG_ID)
        return False
    run = _active(runs)
    if paused:
        api.unpause(DAG_ID)
        console.line(f"DAG {DAG_ID} was paused; it is on now and publishes each day after midnight (Brasília time).")
        if run is None and day == yesterday():
            run = _await_scheduled(api, day)
    run_id = run.run_id if run is not None else api.trigger(DAG_ID, reference_day=day)
    console.line(f"Following run {run_id} of day {day}: {_run_address(airflow, run_id)}")
    _follow(console, airflow, api, run_id, wait_seconds)
    return True


def _wait_for_dag(console: Console, api: AirflowApi, airflow: AirflowServer) -> bool:
    """Wait until Airflow has loaded the DAG; return whether it is paused."""
    deadline = time.monotonic() + DAG_SECONDS
    with console.step(f"DAG {DAG_ID}") as step:
        while (paused := api.is_paused(DAG_ID)) is None:
            airflow.check_alive()
            if errors := api.import_errors():
                file, message = errors[0]
                raise LocalError(
                    f"Airflow cannot load {file}: {message}",
                    next_step="mend the file; Airflow reads it again within 30 s",
                    log=airflow.component_log("dag-processor"),
                )
            if time.monotonic() > deadline:
                raise LocalError(
                    f"Airflow found no DAG {DAG_ID} in {airflow.dags_folder} within {DAG_SECONDS} s",
                    next_step="check that folder and the log of the dag-processor",
                    log=airflow.component_log("dag-processor"),
                )
            time.sleep(POLL_SECONDS)
        step.detail = "loaded"
    return paused


def _await_scheduled(api: AirflowApi, day: date) -> DagRun | None:
    """Return the run that the schedule itself makes for yesterday once the DAG is on, None when it makes none."""
    deadline = time.monotonic() + SCHEDULED_RUN_SECONDS
    while time.monotonic() < deadline:
        if (run := _active(api.runs_of_day(DAG_ID, day))) is not None:
            return run
        time.sleep(POLL_SECONDS)
    return None


def _active(runs: list[DagRun]) -> DagRun | None:
    return next((run for run in runs if not run.is_over), None)


def _follow(console: Console, airflow: AirflowServer, api: AirflowApi, run_id: str, wait_seconds: float) -> None:
    """Show every change of state of the run's tasks until it is over."""
    shown: dict[tuple[str, int], tuple[str, int]] = {}
    began = time.monotonic()
    with console.step("Run") as step:
        while True:
            airflow.check_alive()
            run = api.run(DAG_ID, run_id)
            tasks = api.tasks(DAG_ID, run_id)
            for task in tasks:
                key, now = (task.task_id, task.map_index), (task.state, task.try_number)
                if task.state in _SHOWN_STATES and shown.get(key) != now:
                    console.line(_task_line(task))
                shown[key] = now
            over = sum(task.state in {"success", "skipped"} for task in tasks)
            step.detail = f"{run.state}, {over} of {len(tasks)} tasks"
            if run.is_over:
                break
            if time.monotonic() - began > wait_seconds:
                raise LocalError(
                    f"Run {run_id} is still {run.state} after {wait_seconds:.0f} s; it goes on in Airflow",
                    next_step=f"watch it at {_run_address(airflow, run_id)}, or run `up` again to follow it",
                )
            time.sleep(POLL_SECONDS)
        if run.state != "success":
            raise _failure(airflow, run_id, tasks)


def _failure(airflow: AirflowServer, run_id: str, tasks: list[TaskState]) -> LocalError:
    failed = [task for task in tasks if task.state == "failed"]
    if not failed:
        return LocalError(
            f"Run {run_id} failed without a failed task",
            next_step=f"look at {_run_address(airflow, run_id)}",
            log=airflow.component_log("scheduler"),
        )
    task = failed[0]
    log = latest_task_log(airflow.task_logs, run_id, task)
    reasons = [] if log is None else error_lines(log)
    names = ", ".join(task.label for task in failed)
    where = "" if log is None else f"\nLog: {log}"
    return LocalError(
        "\n".join([f"Run {run_id} failed at {names}", *(f"  | {line}" for line in reasons)]) + where,
        next_step=(
            "do what the message says, then run `up` again (a new run), or clear the task in Airflow: "
            + _run_address(airflow, run_id)
        ),
    )


def latest_task_log(task_logs: Path, run_id: str, task: TaskState) -> Path | None:
    """Return the log of the last attempt of a task, where Airflow's default file name template puts it."""
    folder = task_logs / f"dag_id={DAG_ID}" / f"run_id={run_id}" / f"task_id={task.task_id}"
    if task.map_index >= 0:
        folder /= f"map_index={task.map_index}"
    attempts = sorted(folder.glob("attempt=*.log"), key=lambda path: path.stat().st_mtime)
    return attempts[-1] if attempts else None


def error_lines(log: Path) -> list[str]:
    """Return the last errors of a task log (one JSON object per line): the event and the exception, no stack."""
    found: list[str] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry: Any = json.loads(line)
        except ValueError:
            continue  # a print of some library; the whole file is named beside
        if not isinstance(entry, dict) or entry.get("level") not in {"error", "critical"}:
            continue
        details = [
            f"{detail.get('exc_type')}: {detail.get('exc_value')}"
            for detail in entry.get("error_detail") or []
            if isinstance(detail, dict)
        ]
        found.append(" - ".join([str(entry.get("event", "")), *details]))
    return found[-_ERROR_LINES:]


def _task_line(task: TaskState) -> str:
    attempt = "" if task.try_number <= 1 else f" (attempt {task.try_number})"
    seconds = f"{task.seconds:8.1f} s" if task.seconds is not None and task.state != "running" else ""
    return f"           {task.label:<24} {task.state + attempt:<30}{seconds}".rstrip()


def _run_address(airflow: AirflowServer, run_id: str) -> str:
    return f"{airflow.base_url}/dags/{DAG_ID}/runs/{run_id}"
