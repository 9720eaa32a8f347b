"""Real runs of `imunizacao_withdrawal` and `imunizacao_housekeeping` over a small day, and the pages that show what they did."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from imunizacao.controle import connect, migrate, outcomes
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import StorageSettings
from imunizacao.storage import open_public_store, open_work_store
from tests.dags.conftest import Listener, run_dag
from tests.support.control import ControlledDay
from tests.support.small_day import dose, make_inputs

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.servers,
    # Airflow, alembic and starlette warn about one another; warnings that our own modules cause stay errors.
    pytest.mark.filterwarnings("ignore", "error:::imunizacao"),
]
DAY = "2026-03-14"
ROWS = [dose("a-i0b0", "350010"), dose("b-i0b0", "530010")]
REASON = "Municípios <trocados> pelo remetente."


@pytest.fixture
def day(s3_settings: StorageSettings, controle_dsn: str, connections: None, tmp_path: Path) -> ControlledDay:
    """A published day, in the buckets that the connections of Airflow lead to."""
    with connect(controle_dsn) as connection:
        migrate(connection)
    small = ControlledDay(DAY, open_work_store(s3_settings), open_public_store(s3_settings), tmp_path)
    small.revise(ROWS)
    return small


def test_a_person_looks_withdraws_and_restores_and_the_pages_say_why(
    airflow_database: None, dag_bag: Any, day: ControlledDay, controle_dsn: str, heard: Listener
) -> None:
    dag = dag_bag.dags["imunizacao_withdrawal"]
    looked = run_dag(dag, action="withdraw", day=DAY, reason=REASON)
    assert str(looked.state) == "success"
    assert heard.notes[-1] == (f"{DAY}: retirada (simulação) · rev 1, publicado, 2 doses → rev 2, retirado")
    assert day.head()["revision"] == 1

    run_dag(dag, action="withdraw", day=DAY, ufs=["DF"], reason=REASON, dry_run=False)
    assert heard.notes[-1].endswith("→ rev 2, publicado, 1 dose, sem 53")
    pages = _pages()
    assert "<h2>UFs retiradas</h2>" in pages[0]
    assert "withdrawal (53): Municípios &lt;trocados&gt; pelo remetente." in pages[0]
    assert "14: UF 53 retirada: Municípios &lt;trocados&gt; pelo remetente." in pages[1]

    done = run_dag(dag, action="withdraw", day=DAY, reason=REASON, dry_run=False)
    pages = _pages()
    assert _run_page(done) == pages[0], "the tab of the run shows the day that it is about"
    assert "Retirado em" in pages[0]
    assert "14: retirado: Municípios &lt;trocados&gt; pelo remetente. · UF 53 retirada" in pages[1]
    run_dag(dag, action="restore", day=DAY, reason=REASON, dry_run=False)
    assert day.head()["state"] == "published"

    refused = run_dag(dag, action="withdraw", day=DAY, reason="curto", dry_run=False)
    assert str(refused.state) == "failed"
    assert "refused" in heard.notes[-1]
    with connect(controle_dsn) as connection:
        kept = [(row.stage, row.state, row.revision) for row in outcomes(connection, ReferenceDay.parse(DAY))]
    assert kept == [("withdraw", "done", 2), ("withdraw", "done", 3), ("restore", "done", 4)]


def test_housekeeping_by_hand_lists_and_removes_when_it_is_told_to(
    airflow_database: None,
    dag_bag: Any,
    day: ControlledDay,
    controle_dsn: str,
    heard: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older = make_inputs(day.context("late"), ROWS[:1], day.work, hour=0)
    assert day.publish(day.context("late"), older).outcome == "superseded"
    later = datetime.now(UTC) + timedelta(days=8)
    monkeypatch.setattr("imunizacao.housekeeping.run.store_clock", lambda work: later)
    before = {info.key for info in day.public.list("")}
    dag = dag_bag.dags["imunizacao_housekeeping"]
    run_dag(dag, only=["content"])
    assert heard.notes[-1].endswith("seriam removidos (simulação) · content 112")
    assert {info.key for info in day.public.list("")} == before
    run_dag(dag, only=["content"], dry_run=False)
    assert heard.notes[-1].endswith("removidos · content 112")
    assert len({info.key for info in day.public.list("")}) == len(before) - 112
    with connect(controle_dsn) as connection:
        (row,) = outcomes(connection, ReferenceDay.yesterday(datetime.now(UTC)))
    assert (row.stage, row.state, row.counts["content_objects"]) == ("housekeeping", "done", 112)


def _run_page(run: Any) -> str:
    from imunizacao_airflow import web

    return bytes(web._run_page(run.dag_id, run.run_id).body).decode()


def _pages() -> tuple[str, str]:
    from imunizacao_airflow import web

    return bytes(web._day_page(DAY).body).decode(), bytes(web._months_page().body).decode()
