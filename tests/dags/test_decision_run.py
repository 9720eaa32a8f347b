"""The gate through a real Airflow: a threshold edited in a suite, a question to a person, and both answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from imunizacao.controle import connect
from imunizacao.paths import EXPECTATIONS
from imunizacao.settings import StorageSettings
from imunizacao.storage import open_public_store, open_work_store
from tests.dags.conftest import Listener, run_dag
from tests.dags.people import answering

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.servers,
    # Airflow, alembic and starlette warn about one another; warnings that our own modules cause stay errors.
    pytest.mark.filterwarnings("ignore", "error:::imunizacao"),
]
DAG_ID = "imunizacao_daily"
DAY = "2026-03-14"
HEAD = f"v1/days/{DAY}/head.json"
REASON = "Carga da Bahia conferida com a secretaria; o resto do dia está bom"
HELD = "A secretaria pediu para esperar a correção"


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the suites, which the runs use."""
    folder = tmp_path / "regras"
    shutil.copytree(EXPECTATIONS, folder)
    monkeypatch.setenv("IMUNIZACAO_EXPECTATIONS", str(folder))
    return folder


def set_limit(folder: Path, rule: str, most: float) -> None:
    """What an engineer does in an editor."""
    path = folder / "dia.json"
    suite = json.loads(path.read_text(encoding="utf-8"))
    (found,) = (one for one in suite["expectations"] if one["meta"]["rule"] == rule)
    found["kwargs"]["max_value"] = most
    path.write_text(json.dumps(suite, ensure_ascii=False), encoding="utf-8")


def test_limits_edited_in_a_suite_hold_the_day_or_ask_and_a_person_publishes_or_holds(
    airflow_database: None,
    dag_bag: Any,
    connections: None,
    cnes: None,
    rules: Path,
    heard: Listener,
    s3_settings: StorageSettings,
    controle_dsn: str,
) -> None:
    dag, work, public = dag_bag.dags[DAG_ID], open_work_store(s3_settings), open_public_store(s3_settings)

    def summary() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(work.get(f"v1/docs/day={DAY}/summary.json").body)
        return found

    # 1. The upper limit at 0: the same day that passes elsewhere is held.
    set_limit(rules, "IMU-191", 0)
    run = run_dag(dag, reference_day=DAY)
    assert {ti.task_id: str(ti.state) for ti in run.get_task_instances()} | {
        "validate": "failed",
        "decide": "upstream_failed",
    } == {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
    assert str(run.state) == "failed"
    assert public.get_or_none(HEAD) is None
    assert summary()["state"] == "held"
    share = 100 * summary()["quarantined"] / summary()["judged"]
    assert 0 < share < 3, "the day of the simulator passes under the limits of the project"
    assert heard.notes[-1].startswith(
        f"validate: {DAY} retido, nada mudou para quem lê: IMU-191 Percentual das doses avaliadas que está em quarentena"
    )

    # 2. That limit back, the lower one at 0: the next run asks; no code was touched.
    set_limit(rules, "IMU-191", 10)
    set_limit(rules, "IMU-190", 0)
    with answering(
        "ana.engenheira", DAG_ID, [("Publicar", "CPF 12345678909 conferido"), ("Publicar", REASON)]
    ) as questions:
        run = run_dag(dag, reference_day=DAY)
    assert str(run.state) == "success"
    first, again = questions
    assert first["subject"] == f"{DAY}: publicar ou reter?"
    assert first["options"] == ["Publicar", "Reter"]
    for part in (
        "estão em quarentena",
        "IMU-190",
        "CNES_UNKNOWN",
        f"/imunizacao/objects/work/v1/docs/day={DAY}/index.html",
    ):
        assert part in first["body"]
    assert again["task_instance"]["id"] == first["task_instance"]["id"], "the same question stands again"
    (refusal,) = [note for note in heard.notes if "recusada" in note]
    assert "CPF ou CNS" in refusal
    assert "12345678909" not in "".join(heard.notes)
    assert f" · publicado por decisão de ana.engenheira: {REASON}" in heard.notes[-1]
    assert any(f"{DAY} aguarda decisão até" in message["text"] for _, message in heard.posted)
    body = public.get(HEAD).body
    (entry,) = json.loads(body)["history"]
    assert entry["decision"] == {"choice": "publish", "reason": REASON, "rules": ["IMU-190"]}
    everything = b"".join(public.get(info.key).body for info in public.list("v1/") if info.key.endswith(".json"))
    assert b"ana.engenheira" not in everything
    (warned,) = json.loads(public.get(f"v1/days/{DAY}/c-{entry['contentId']}/outcome.json").body)["warnings"][-1:]
    assert (warned["rule"], warned["scope"], warned["count"]) == ("IMU-190", "day", 1)
    assert summary()["state"] == "released"

    # 3. Each run asks for itself, and this time the answer is no.
    with answering("rui.medico", DAG_ID, [("Reter", HELD)]):
        run = run_dag(dag, reference_day=DAY)
    assert str(run.state) == "failed"
    states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
    assert (states["decide"], states["split"], states["publish"]) == ("failed", "success", "upstream_failed")
    assert public.get(HEAD).body == body, "nothing changes for readers"
    assert heard.notes[-1].startswith(f"decide: {DAY} retido por rui.medico: {HELD} · IMU-190")
    assert summary()["state"] == "refused"
    assert HELD.encode() in work.get("v1/docs/index.html").body
    with connect(controle_dsn) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select state, message, counts->>'asks' from controle.outcome where stage = 'decide' order by started_at"
        )
        (done, why, asks), (held, why_not, _) = cursor.fetchall()
    assert (done, why, asks) == ("done", f"Published by ana.engenheira: {REASON} (IMU-190)", "1")
    assert held == "held"
    assert HELD in why_not
