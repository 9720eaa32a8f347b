"""Real runs of `imunizacao_daily` against a mirror that is late, frozen or dead: what happens, and what an engineer sees."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from imunizacao.models import ExtractReceipt
from imunizacao.settings import StorageSettings
from imunizacao.storage import open_public_store
from imunizacao_local.mirror import MirrorServer
from imunizacao_local.ports import free_ports
from tests.dags.conftest import DOCUMENTS, WEBHOOK_SECRET, Listener, connection_json, play, run_dag

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.servers,
    # Airflow, alembic and starlette warn about one another; warnings that our own modules cause stay errors.
    pytest.mark.filterwarnings("ignore", "error:::imunizacao"),
]
DAY = "2026-03-14"
FROZEN = "frozen:2026-03-14T21:40:00-03:00"
"""The mirror has half of the day, and nothing newer."""
BELOW = (
    *("plan_slices", "extract_slice", "extract", "flatten", "validate", "decide", "acknowledge", "split"),
    *("publish", "nominal", "reconcile"),
)


@pytest.fixture
def dag(
    dag_bag: Any,
    airflow_database: None,
    connections: None,
    cnes: None,
    heard: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """The DAG, with a wait that a test can afford."""
    found = dag_bag.dags["imunizacao_daily"]
    monkeypatch.setattr(found.get_task("wait_for_mirror"), "first_wait", timedelta(seconds=0.5))
    monkeypatch.setattr(found.get_task("wait_for_mirror"), "longest_wait", timedelta(seconds=1))
    return found


def states(run: Any) -> dict[str, list[str]]:
    """Task → different states of its instances."""
    found: dict[str, set[str]] = {}
    for instance in run.get_task_instances():
        found.setdefault(instance.task_id, set()).add(str(instance.state))
    return {task: sorted(values) for task, values in found.items()}


def receipt(run: Any) -> ExtractReceipt:
    """What `extract` returned."""
    (instance,) = (found for found in run.get_task_instances() if found.task_id == "extract")
    return msgspec.convert(instance.xcom_pull(task_ids="extract"), ExtractReceipt)


def test_a_late_mirror_is_waited_for_and_the_parts_of_the_day_are_shared(
    dag: Any, mirror: MirrorServer, heard: Listener
) -> None:
    play(mirror, FROZEN)
    # The rest of the day arrives while the run waits.
    heard.on_note = lambda note: play(mirror) if note.startswith("aguardando") else None
    run = run_dag(dag, only_to="extract", reference_day=DAY, slices=3)

    assert states(run) == {task: ["success"] for task in ("resolve_day", "wait_for_mirror", *BELOW)}
    parts = [instance for instance in run.get_task_instances() if instance.task_id == "extract_slice"]
    names = [part.rendered_map_index for part in sorted(parts, key=lambda part: part.map_index)]
    assert len(names) == 3
    assert all(re.fullmatch(r"[0-9]{2}h–[0-9]{2}h · [0-9]+ documentos", name) for name in names), names

    waiting, reached = heard.notes
    assert re.match(
        r"aguardando o espelho, documento mais novo: 14/03 21:[0-9]{2}; nova consulta às .+, desiste às", waiting
    )
    assert re.match(r"o espelho chegou ao fim do dia \(documento mais novo: .+\); extraindo", reached)
    assert heard.posted == [], "a mirror that is a little late is no reason to call anybody"
    assert receipt(run).fetched == DOCUMENTS, "half of the day was taken"
    assert not receipt(run).accepted_stale


def test_a_person_may_say_that_a_day_is_whole_and_the_note_keeps_it(
    dag: Any, mirror: MirrorServer, heard: Listener
) -> None:
    play(mirror, FROZEN)
    run = run_dag(dag, reference_day=DAY, accept_stale=True)
    assert states(run)["reconcile"] == ["success"]
    assert receipt(run).accepted_stale
    assert heard.notes[-1].startswith("rev 1 · ")
    assert heard.notes[-1].endswith("espelho parado aceito por decisão de um engenheiro (accept_stale)")


def test_a_mirror_that_stays_late_fails_the_run_at_the_deadline_and_calls_a_person(
    dag: Any, mirror: MirrorServer, heard: Listener, s3_settings: StorageSettings
) -> None:
    play(mirror, FROZEN)
    run = run_dag(dag, reference_day=DAY, freshness_deadline_hours=2 / 3600)
    skipped = {task: ["upstream_failed"] for task in BELOW}
    assert states(run) == {"resolve_day": ["success"], "wait_for_mirror": ["failed"]} | skipped
    ((path, body),) = heard.posted
    assert path == f"/{WEBHOOK_SECRET}"
    assert re.match(
        rf"imunizacao_daily: o espelho não chegou ao fim do dia \(documento mais novo: 14/03 21:[0-9]{{2}}\) depois de 0 min de "
        rf"espera\. O dia {DAY} continua pendente\. O que fazer: docs/runbook/mirror-behind\.md\n",
        body["text"],
    )
    run_id = run.run_id.replace("+", "%2B").replace(":", "%3A")
    assert body["text"].endswith(f"\nhttp://airflow.example.org/dags/imunizacao_daily/runs/{run_id}")
    assert heard.notes[-1] == "ALERTA: " + body["text"].split("\n")[0]
    head = open_public_store(s3_settings).info(f"v1/days/{DAY}/head.json")
    assert head is None, "the day must stay pending"


def test_the_log_of_a_dead_mirror_ends_with_what_where_and_what_to_do(
    dag: Any,
    heard: Listener,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = f"http://127.0.0.1:{free_ports(1)[0]}/fhir/r4"
    monkeypatch.setenv("AIRFLOW_CONN_IMUNIZACAO_MIRROR", connection_json(conn_type="fhirmirror", host=address))
    with caplog.at_level(logging.INFO, logger="imunizacao"):
        run = run_dag(dag, reference_day=DAY, freshness_deadline_hours=0)
    assert states(run)["wait_for_mirror"] == ["failed"]

    shown = capfd.readouterr()
    printed = shown.out + shown.err
    assert "Task failed with exception" in printed
    for wall in ("httpx", "httpcore", "asyncio", "During handling of the above", "direct cause of"):
        assert f"{wall}" not in printed.split("Task failed with exception")[1], f"the log holds a traceback of {wall}"

    lines = [record.getMessage() for record in caplog.records if record.name == "imunizacao"]
    last = lines[lines.index("::endgroup::") + 1 :]
    base = address.removesuffix("/fhir/r4")
    assert last[0] == "wait_for_mirror failed in try 1: MirrorUnavailable"
    assert last[1].startswith(f"Cannot reach the mirror at {base}: connection refused (3 tries")
    assert last[-2:] == [
        "Next: mend the cause, then clear wait_for_mirror in this run. What was published before stays.",
        "Runbook: docs/runbook/mirror-unavailable.md",
    ]
    assert max(map(len, last)) <= 110, "the log viewer of Airflow does not wrap lines"
    assert heard.notes[-1].startswith("ALERTA: imunizacao_daily: o espelho não responde depois de 0 min de espera.")
    assert len(heard.posted) == 1
