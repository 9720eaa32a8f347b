"""What every DAG of the project must be, whatever it does."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imunizacao.errors import ConfigurationError, DayHeld

pytestmark = pytest.mark.airflow

DAG_IDS = {
    "imunizacao_daily",
    "imunizacao_housekeeping",
    "imunizacao_mirror_check",
    "imunizacao_recheck",
    "imunizacao_reference_refresh",
    "imunizacao_reference_republish",
    "imunizacao_replay",
    "imunizacao_withdrawal",
}
RETRIES = {"plan_slices": 6, "extract_slice": 6, "extract": 6, "recheck_day": 6, "check_mirror": 0}
"""By task; the others have three. A check tells what is, and is not waited for."""
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
            assert task.retries == RETRIES.get(task.task_id, 3), task.task_id
            assert task.on_retry_callback, task.task_id
            assert task.retry_policy is not None
            assert task.on_failure_callback, task.task_id


@pytest.mark.parametrize(
    ("error", "action"),
    [
        ("MirrorUnavailable", "retry"),
        ("StorageUnavailable", "retry"),
        ("PublicationConflict", "retry"),
        ("MirrorProtocolError", "retry"),
        ("MirrorUnreadable", "retry"),
        ("MirrorRefused", "retry"),
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


def test_a_doubtful_answer_of_the_mirror_gets_a_few_more_chances_after_minutes_and_not_all(dag_bag: Any) -> None:
    from imunizacao import errors

    policy = dag_bag.dags["imunizacao_daily"].get_task("extract").retry_policy
    for kind in (errors.MirrorProtocolError, errors.MirrorRefused):
        decisions = [policy.evaluate(kind("x"), number, 6) for number in range(1, 7)]
        assert [decision.action.value for decision in decisions] == ["retry"] * 3 + ["fail"] * 3
        assert decisions[0].retry_delay.total_seconds() >= 300


def test_the_wait_does_not_start_again_by_retries_when_its_deadline_has_passed(dag_bag: Any) -> None:
    from imunizacao import errors

    wait = dag_bag.dags["imunizacao_daily"].get_task("wait_for_mirror")
    assert wait.retry_policy.evaluate(errors.MirrorUnavailable("x"), 1, 3).action.value == "fail"
    assert wait.retry_policy.evaluate(errors.StorageUnavailable("x"), 1, 3).action.value == "retry"


def test_a_backfill_of_any_length_shows_the_mirror_a_bounded_number_of_connections(dag_bag: Any) -> None:
    dag = dag_bag.dags["imunizacao_daily"]
    at_once = {name: dag.get_task(name).max_active_tis_per_dag for name in ("plan_slices", "extract_slice", "extract")}
    assert at_once == {"plan_slices": 1, "extract_slice": 4, "extract": 2}
    assert "7 x 4 connections" in dag.doc_md, "the documentation of the DAG says how many these are"


def test_a_day_that_is_not_published_six_hours_after_its_run_was_queued_raises_an_alert(dag_bag: Any) -> None:
    """From the logical date on, a backfill would be late before it has begun."""
    import inspect
    from datetime import timedelta

    from airflow.sdk import AsyncCallback
    from airflow.sdk.definitions.deadline import DagRunQueuedAtDeadline
    from airflow.serialization.serialized_objects import DagSerialization

    from imunizacao_airflow.alerts import day_not_published

    dag = dag_bag.dags["imunizacao_daily"]
    (deadline,) = dag.deadline if isinstance(dag.deadline, list) else [dag.deadline]
    assert isinstance(deadline.reference, DagRunQueuedAtDeadline)
    assert deadline.interval == timedelta(hours=6)
    assert isinstance(deadline.callback, AsyncCallback)
    assert deadline.callback.path == f"{day_not_published.__module__}.{day_not_published.__qualname__}"
    assert inspect.iscoroutinefunction(day_not_published)
    assert DagSerialization.to_dict(dag)["dag"]["deadline"]


def test_the_form_of_a_run_is_in_portuguese_and_its_defaults_are_those_of_the_schedule(dag_bag: Any) -> None:
    params = dag_bag.dags["imunizacao_daily"].params
    titles = {name: params.get_param(name).schema["title"] for name in params}
    assert titles == {
        "reference_day": "Dia de referência",
        "cnes": "Competência do CNES",
        "decision_deadline_hours": "Prazo da decisão (horas)",
        "slices": "Partes da extração",
        "accept_stale": "Aceitar espelho parado",
        "freshness_deadline_hours": "Prazo de espera pelo espelho (horas)",
    }
    slices = params.get_param("slices").schema
    assert (slices["type"], slices["minimum"], slices["maximum"]) == ("integer", 1, 24)


def test_days_are_made_again_only_when_a_person_unticks_the_box(dag_bag: Any) -> None:
    params = dag_bag.dags["imunizacao_reference_republish"].params
    assert params["dry_run"] is True
    assert params.get_param("dry_run").schema["title"] == "Só listar"


def test_days_that_ask_are_made_again_only_with_a_reason_and_the_name_of_who_gave_it(
    dag_bag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imunizacao import pipeline, recheck, replay, republish
    from imunizacao_airflow import control, rechecks, references, replays, tasks

    def hand_over(*_: Any, **given: str) -> Any:
        passed.append({name: given.get(name, "") for name in ("decide_publish", "decided_by")})
        raise DayHeld("enough")

    passed: list[dict[str, str]] = []
    run = SimpleNamespace(run_id="manual__1", triggering_user_name="ana")
    for module in (tasks, replays, rechecks, control):
        monkeypatch.setattr(module, "get_current_context", lambda: {"dag_run": run})
    for module in (replays, rechecks, control):
        monkeypatch.setattr(module, "open_services", lambda: SimpleNamespace(work=None))
    monkeypatch.setattr(rechecks, "attempt", lambda: 1)
    monkeypatch.setattr(control, "set_links", lambda **_: None)
    monkeypatch.setattr(pipeline, "newest_landing", lambda *_: None)
    monkeypatch.setattr(pipeline, "remake_day", hand_over)
    monkeypatch.setattr(recheck, "recheck_day", hand_over)
    monkeypatch.setattr(republish, "remake", hand_over)
    monkeypatch.setattr(replay, "replay_day", hand_over)
    for why in ("", "Conferido com a secretaria."):
        params = {"decide_publish": why, "reasons": [], "cnes": "newest", "dry_run": False, "thorough": False}
        restored = params | {"day": "2026-03-14", "action": "restore", "remake": True, "reason": "Conferido de novo."}
        for make in (
            lambda params: references.remake(None, {"day": "2026-03-14", "cnes": "202603"}, params, "r"),
            lambda params: replays.replay_one("2026-03-14", params),
            lambda params: rechecks.recheck_one("2026-03-14", params),
            lambda _, restored=restored: control.change(restored),
        ):
            with pytest.raises(DayHeld):
                make(params)
    unanswered, answered = {"decide_publish": "", "decided_by": ""}, {"decide_publish": why, "decided_by": "ana"}
    assert passed == [*[unanswered] * 4, *[answered] * 4]
    for plan in (replays.days_to_replay, rechecks.days_to_recheck, lambda params: references.find_days(None, params)):
        with pytest.raises(ConfigurationError, match="CPF ou CNS"):
            plan(params | {"decide_publish": "CPF 123.456.789-09 conferido"})
    for name in ("imunizacao_reference_republish", "imunizacao_replay", "imunizacao_recheck", "imunizacao_withdrawal"):
        assert dag_bag.dags[name].params["decide_publish"] == ""


def test_a_day_is_withdrawn_only_when_a_person_unticks_the_box_and_says_why(dag_bag: Any) -> None:
    params = dag_bag.dags["imunizacao_withdrawal"].params
    assert {name: params.get_param(name).schema["title"] for name in params} == {
        "action": "O que fazer",
        "day": "Dia",
        "ufs": "UFs",
        "reason": "Motivo",
        "dry_run": "Simular",
        "remake": "Refazer",
        "decide_publish": "Publicar dias que pedem decisão",
    }
    assert (params["dry_run"], params["reason"], params["remake"]) == (True, "", False)


def test_housekeeping_lists_before_it_removes_on_sundays_and_by_hand_only_lists(dag_bag: Any) -> None:
    dag = dag_bag.dags["imunizacao_housekeeping"]
    assert (dag.timetable.expression, str(dag.timetable.timezone)) == ("30 3 * * 0", "America/Sao_Paulo")
    assert (dag.params["dry_run"], dag.params["only"], dag.max_active_runs) == (True, [], 1)
    delete = dag.get_task("delete_leftovers")
    assert (delete.upstream_task_ids, delete.trigger_rule) == ({"list_leftovers"}, "all_success")


def test_references_are_refreshed_once_a_month_in_brasilia(dag_bag: Any) -> None:
    timetable = dag_bag.dags["imunizacao_reference_refresh"].timetable
    assert (timetable.expression, str(timetable.timezone)) == ("0 6 15 * *", "America/Sao_Paulo")


def test_publication_waits_for_the_gate_and_for_the_files_and_only_the_count_comes_after(dag_bag: Any) -> None:
    """Publishing before the rules have spoken would show readers a day that must be held, before a person who was asked has answered
    one that may have to be; publishing before the cut, half a day."""
    publish = dag_bag.dags["imunizacao_daily"].get_task("publish")
    assert {"validate", "split", "decide"} <= publish.upstream_task_ids
    assert publish.trigger_rule == "all_success"
    assert publish.downstream_task_ids == {"reconcile", "nominal"}


def test_the_stages_come_in_order(dag_bag: Any) -> None:
    dag = dag_bag.dags["imunizacao_daily"]
    before = ["resolve_day", "wait_for_mirror", "plan_slices", "extract_slice"]
    order = [*before, "extract", "flatten", "validate", "decide", "split", "publish", "reconcile"]
    assert [task.task_id for task in dag.topological_sort() if task.task_id not in {"acknowledge", "nominal"}] == order
    assert dag.get_task("extract").upstream_task_ids == {"wait_for_mirror", "extract_slice"}
    assert dag.get_task("extract").trigger_rule == "all_success", "a day with a part missing must not be closed"
    assert dag.get_task("reconcile").downstream_task_ids == {"nominal"}


def test_establishments_are_told_after_the_gate_and_nothing_waits_for_it(dag_bag: Any) -> None:
    """Told before a person has decided, they would mend what may still be published; before publication, a day would wait for them."""
    task = dag_bag.dags["imunizacao_daily"].get_task("acknowledge")
    assert {"flatten", "validate", "decide"} == task.upstream_task_ids
    assert task.downstream_task_ids == set()


def test_identifiers_go_out_after_the_count_and_nothing_waits_for_them(dag_bag: Any) -> None:
    """Before it, persons of a content would stay there that reconcile takes back from readers."""
    task = dag_bag.dags["imunizacao_daily"].get_task("nominal")
    assert {"publish", "reconcile"} <= task.upstream_task_ids
    assert (task.trigger_rule, task.downstream_task_ids) == ("all_success", set())


def test_a_replay_only_looks_unless_it_is_told_otherwise_and_shows_its_days(dag_bag: Any) -> None:
    dag = dag_bag.dags["imunizacao_replay"]
    titles = {name: dag.params.get_param(name).schema["title"] for name in dag.params}
    assert titles == {
        "from": "Primeiro dia",
        "to": "Último dia",
        "reasons": "Motivos",
        "cnes": "Competência do CNES",
        "dry_run": "Simular",
        "decide_publish": "Publicar dias que pedem decisão",
    }
    assert dag.params.get_param("dry_run").value is True
    day = dag.get_task("replay_day")
    assert day.max_active_tis_per_dag == 2
    assert day.partial_kwargs["map_index_template"] == "{{ task.op_kwargs['day'] }}"
    assert dag.get_task("report").trigger_rule == "all_done", (
        "a day that failed must not hide what became of the others"
    )


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
        "import sys; sys.path[:0] = ['include', 'dags', 'plugins']; import imunizacao_daily, imunizacao_mirror_check, "
        "imunizacao_reference_refresh, imunizacao_reference_republish, imunizacao_housekeeping, imunizacao_withdrawal, imunizacao_plugin; "
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
