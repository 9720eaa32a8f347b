"""What every DAG of the project must be, whatever it does."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.airflow

DAG_IDS = {"imunizacao_daily"}
HEADINGS = ["Publishes", "Runs (Brasília time)", "Reads", "Type", "If it fails", "Re-running"]
ROOT = Path(__file__).resolve().parents[2]


def test_exactly_these_dags_exist_and_load(dag_bag: Any) -> None:
    assert dag_bag.import_errors == {}
    assert set(dag_bag.dags) == DAG_IDS, "a DAG appeared or went: change DAG_IDS and docs/dags.md with it"


def test_every_dag_documents_itself_under_the_same_headings(dag_bag: Any) -> None:
    for dag in dag_bag.dags.values():
        assert re.findall(r"^### (.+)$", dag.doc_md, flags=re.M) == HEADINGS, dag.dag_id


def test_every_task_says_what_it_does_retries_by_class_of_error_and_leaves_a_note_when_it_fails(dag_bag: Any) -> None:
    for dag in dag_bag.dags.values():
        for task in dag.tasks:
            assert task.doc_md, task.task_id
            assert task.retries == (40 if task.task_id == "extract" else 3)
            assert task.on_retry_callback, task.task_id
            assert task.retry_policy is not None
            assert task.on_failure_callback, task.task_id


@pytest.mark.parametrize(
    ("error", "action"),
    [
        ("MirrorUnavailable", "retry"),
        ("StorageUnavailable", "retry"),
        ("PublicationConflict", "retry"),
        ("MirrorProtocolError", "fail"),
        ("ContractViolation", "fail"),
        ("DayHeld", "fail"),
        ("ConfigurationError", "fail"),
    ],
)
def test_what_may_pass_by_itself_is_retried_and_nothing_else(dag_bag: Any, error: str, action: str) -> None:
    from imunizacao import errors

    policy = dag_bag.dags["imunizacao_daily"].get_task("extract").retry_policy
    decision = policy.evaluate(getattr(errors, error)("x"), 1, 3)
    assert decision.action.value == action


def test_publication_waits_for_the_gate_and_for_the_files_and_only_the_count_comes_after(dag_bag: Any) -> None:
    """Publishing before the rules have spoken would show readers a day that must be held; publishing before the cut, half a day."""
    publish = dag_bag.dags["imunizacao_daily"].get_task("publish")
    assert {"validate", "split"} <= publish.upstream_task_ids
    assert publish.downstream_task_ids == {"reconcile"}


def test_the_stages_come_in_order(dag_bag: Any) -> None:
    dag = dag_bag.dags["imunizacao_daily"]
    order = ["resolve_day", "extract", "flatten", "validate", "split", "publish", "reconcile"]
    assert [task.task_id for task in dag.topological_sort()] == order
    assert dag.get_task("reconcile").downstream_task_ids == set()


def test_a_day_is_the_local_day_and_has_a_data_interval(dag_bag: Any) -> None:
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.timetables.base import TimeRestriction

    dag = DagSerialization.from_dict(DagSerialization.to_dict(dag_bag.dags["imunizacao_daily"]))
    restriction = TimeRestriction(
        earliest=_pendulum(datetime(2024, 1, 1, 3, tzinfo=UTC)),
        latest=_pendulum(datetime(2024, 1, 31, 3, tzinfo=UTC)),
        catchup=True,
    )
    days, last = [], None
    while True:
        info = dag.timetable.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
        if info is None:
            break
        days.append(info.data_interval.start.in_timezone("America/Sao_Paulo").date().isoformat())
        last = info.data_interval
    assert days == [f"2024-01-{day:02d}" for day in range(1, 32)]


def _pendulum(value: datetime) -> Any:
    import pendulum

    return pendulum.instance(value)


def test_dag_files_are_wiring_only(dag_bag: Any) -> None:
    for path in (ROOT / "dags").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 150, f"{path.name}: logic belongs to the package"
        assert not re.search(r"Variable\.get|os\.getenv|os\.environ|\bds\b\s*\}\}", text), path.name


def test_neither_dag_files_nor_plugins_import_anything_heavy() -> None:
    code = (
        "import sys; sys.path[:0] = ['include', 'dags', 'plugins']; import imunizacao_daily, imunizacao_plugin; "
        "heavy = {'duckdb', 'pyarrow', 'pandas', 'great_expectations', 'boto3', 'fastapi', 'httpx'} & set(sys.modules); "
        "base = set(sys.argv[1].split(',')); print(sorted(heavy - base))"
    )
    # What airflow.sdk itself brings along is not ours to avoid.
    own = (
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys, airflow.sdk, airflow.plugins_manager; airflow.sdk.DAG; print(','.join(sys.modules))",
            ],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        .stdout.strip()
        .splitlines()[-1]
    )
    done = subprocess.run([sys.executable, "-c", code, own], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().splitlines()[-1] == "[]"
