"""Real runs of `imunizacao_replay`: Airflow on PostgreSQL, a published day, and a newer CNES snapshot."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from imunizacao import pipeline
from imunizacao.controle import connect
from imunizacao.models import RunContext
from imunizacao.reference import import_cnes
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings, Settings, StorageSettings, mirror_settings, pseudonym_settings
from imunizacao_local.mirror import MirrorServer
from tests.dags.conftest import Listener, run_dag
from tests.support.cnes import snapshot_with
from tests.support.quarantine import quarantine_rows

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.servers,
    # Airflow, alembic and starlette warn about one another; warnings that our own modules cause stay errors.
    pytest.mark.filterwarnings("ignore", "error:::imunizacao"),
]
DAG_ID = "imunizacao_replay"
DAY = ReferenceDay.parse("2026-03-14")
NOW = datetime(2026, 3, 16, 4, 10, tzinfo=UTC)
RANGE = {"from": "2026-03-10", "to": "2026-03-15"}


@pytest.fixture
def services(
    mirror: MirrorServer, s3_settings: StorageSettings, controle_dsn: str, cnes: None, connections: None, tmp_path: Path
) -> pipeline.Services:
    """What the connections of Airflow lead to."""
    return _services(mirror, s3_settings, controle_dsn, tmp_path)


@pytest.mark.slow
def test_a_run_looks_first_and_publishes_when_it_is_told_to(
    airflow_database: None,
    dag_bag: Any,
    services: pipeline.Services,
    controle_dsn: str,
    heard: Listener,
    tmp_path: Path,
) -> None:
    pipeline.run_day(RunContext.create(day=DAY, run_id="first", code_version="test"), services)
    unknown = [row for row in quarantine_rows(services.work, DAY) if row.ds_motivos == ["CNES_UNKNOWN"]]
    assert unknown
    with connect(controle_dsn) as connection:
        known = {str(row.co_cnes_estabelecimento) for row in unknown}
        import_cnes(snapshot_with(known, "202603", tmp_path), connection)

    looked = run_dag(dag_bag.dags[DAG_ID], **RANGE)
    assert _states(looked) == {"plan_days": ["success"], "replay_day": ["success"], "report": ["success"]}
    assert heard.notes[-1] == f"1 dia avaliado · {len(unknown)} doses seriam liberadas em 1 dia (simulação)"
    assert _head(services)["revision"] == 1

    done = run_dag(dag_bag.dags[DAG_ID], **RANGE, dry_run=False)
    assert str(done.state) == "success"
    assert f"· {DAY} rev 2 (+{len(unknown)}) ·" in heard.notes[-1]
    (day,) = [ti for ti in done.get_task_instances() if ti.task_id == "replay_day"]
    assert day.rendered_map_index == str(DAY)
    head = _head(services)
    assert [entry["reason"] for entry in head["history"]] == ["initial", "quarantine-replay"]

    empty = run_dag(dag_bag.dags[DAG_ID], **{"from": "2026-02-01", "to": "2026-02-02"}, dry_run=False)
    assert _states(empty) == {"plan_days": ["success"], "replay_day": ["skipped"], "report": ["success"]}
    assert heard.notes[-1] == "nada em quarentena no período"

    # A day that cannot be looked at must not let the run end green.
    pointer = f"v1/quarantine/day={DAY}/published-{_head(services)['current']['contentId']}.json"
    services.work.put(pointer, b"{}")
    broken = run_dag(dag_bag.dags[DAG_ID], **RANGE, dry_run=False)
    assert str(broken.state) == "failed"


def test_the_ui_serves_what_establishments_are_told_and_no_quarantine(airflow_env: dict[str, str]) -> None:
    from imunizacao_airflow.web import _ALLOWED

    allowed = _ALLOWED["work"].fullmatch
    assert allowed("v1/acks/day=2026-03-14/index.json")
    assert allowed("v1/acks/day=2026-03-14/cnes-0000019-0123456789ab.csv")
    for key in (
        "quarantine/day=2026-03-14/current.json",
        "quarantine/day=2026-03-14/q-0123456789abcdef01234567.parquet",
    ):
        assert not allowed(f"v1/{key}"), key
    assert not allowed("v1/acks/day=2026-03-14/../../quarantine/day=2026-03-14/current.json")


def _services(mirror: MirrorServer, storage: StorageSettings, dsn: str, folder: Path) -> pipeline.Services:
    settings = Settings(
        mirror=mirror_settings(base_url=mirror.base_url, page_size=200),
        storage=storage,
        pseudonym=pseudonym_settings(key="a key for tests only, thirty-two characters", key_id="test"),
        engine=EngineSettings(scratch_dir=folder),
    )
    return pipeline.open_services(settings, connect=lambda: connect(dsn), now=lambda: NOW)


def _head(services: pipeline.Services) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(services.public.get(f"v1/days/{DAY}/head.json").body)
    return found


def _states(run: Any) -> dict[str, list[str]]:
    states: dict[str, list[str]] = {}
    for ti in run.get_task_instances():
        states.setdefault(ti.task_id, []).append(str(ti.state))
    return states
