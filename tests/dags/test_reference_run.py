"""Real runs of the DAGs of references: Airflow on PostgreSQL, an inbox in a real S3 server, a server with a file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from imunizacao import pipeline
from imunizacao.controle import connect
from imunizacao.models import RunContext
from imunizacao.reference import INBOX, import_cnes, list_versions
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import StorageSettings
from imunizacao.storage import ObjectStore, open_public_store, open_work_store
from tests.dags.conftest import Listener, connection_json, run_dag
from tests.integration.test_republish import moved_snapshot
from tests.support.reader import read_day
from tests.unit.test_reference import cnes_zip, country
from tests.unit.test_reference_imports import code_system, concepts_of, open_country, open_zip

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.servers,
    # Airflow, alembic and starlette warn about one another; warnings that our own modules cause stay errors.
    pytest.mark.filterwarnings("ignore", "error:::imunizacao"),
]
REFRESH, REPUBLISH = "imunizacao_reference_refresh", "imunizacao_reference_republish"
DAY = "2026-03-14"
LOGIN, PASSWORD = "reader", "a password of the file server"


@pytest.fixture
def file_server() -> Iterator[str]:
    """A server that gives one file to who says who they are; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("Authorization", "").startswith("Basic ")
            status = 401 if not known else 200 if self.path == "/cnes_estabelecimentos_202602.zip" else 404
            body = open_zip(open_country()) if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _xcom(dag_id: str, run_id: str, task: str, key: str) -> Any:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        value = session.execute(
            select(XComModel.value).where(
                XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.task_id == task, XComModel.key == key
            )
        ).scalar_one()
    while isinstance(value, str):
        value = json.loads(value)
    return value


def test_the_inbox_and_an_address_are_imported_and_a_refused_file_makes_the_run_red(
    airflow_database: None,
    dag_bag: Any,
    connections: None,
    heard: Listener,
    s3_settings: StorageSettings,
    controle_dsn: str,
    file_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = open_work_store(s3_settings)
    work.put(f"{INBOX}cnes/BASE_DE_DADOS_CNES_202601.ZIP", cnes_zip(country()))
    work.put(f"{INBOX}cnes/BASE_DE_DADOS_CNES_202512.ZIP", cnes_zip(country()[:100], competencia="202512"))
    work.put(f"{INBOX}pni/dose.json", json.dumps(code_system("BRDose", concepts_of("dose"))).encode())
    dag = dag_bag.dags[REFRESH]

    run = run_dag(dag)
    assert str(run.state) == "failed"
    report = _xcom(REFRESH, run.run_id, "import_files", "return_value")
    assert [(found.get("name"), found["stored"]) for found in report["imported"]] == [("dose", True), (None, True)]
    assert [refused["file"] for refused in report["refused"]] == ["cnes/BASE_DE_DADOS_CNES_202512.ZIP"]
    assert "CNES 202601: 540 estabelecimentos, primeira versão" in heard.notes[0]
    assert "cnes/BASE_DE_DADOS_CNES_202512.ZIP recusado" in heard.notes[0]
    assert [info.key for info in work.list(INBOX)] == [f"{INBOX}cnes/BASE_DE_DADOS_CNES_202512.ZIP"]

    address = f"{file_server}/cnes_estabelecimentos_202602.zip"
    refused = run_dag(dag, file=address)
    assert str(refused.state) == "failed", "the server asks who we are"
    monkeypatch.setenv(
        "AIRFLOW_CONN_IMUNIZACAO_REFERENCES", connection_json(conn_type="http", login=LOGIN, password=PASSWORD)
    )
    done = run_dag(dag, file=address)
    assert str(done.state) == "success"
    assert heard.notes[-1] == "CNES 202602: 540 estabelecimentos; em relação a 202601: 540 com outro nome"
    assert not [note for note in heard.notes if PASSWORD in note]
    with connect(controle_dsn) as connection:
        assert [(found.kind, found.version) for found in list_versions(connection)] == [
            ("cnes", "202602"),
            ("cnes", "202601"),
            ("pni", "1.0.0-release"),
        ]


@pytest.fixture
def published(connections: None, cnes: None, s3_settings: StorageSettings) -> ObjectStore:
    """One day published with the snapshot of the project, without Airflow; the public bucket."""
    from airflow.sdk import Connection

    from imunizacao_airflow.connections import settings_from_connections

    services = pipeline.open_services(settings_from_connections(Connection.get))
    context = RunContext.create(day=ReferenceDay.parse(DAY), run_id="first", code_version="test")
    pipeline.run_day(context, services)
    return open_public_store(s3_settings)


@pytest.mark.slow
def test_affected_days_are_listed_and_made_again_when_a_person_says_so(
    airflow_database: None, dag_bag: Any, published: ObjectStore, heard: Listener, controle_dsn: str
) -> None:
    rows = read_day(lambda key: published.get(key).body, DAY).rows
    clinic, place = min((row["co_cnes_estabelecimento"], row["co_municipio_estabelecimento"]) for row in rows)
    with connect(controle_dsn) as connection:
        import_cnes(moved_snapshot(clinic, place)[0], connection)
    dag = dag_bag.dags[REPUBLISH]
    choice = {"from": "202602", "to": "202603"}

    listed = run_dag(dag, **choice)
    assert str(listed.state) == "success"
    affected = _xcom(REPUBLISH, listed.run_id, "find_days", "affected")
    assert [(day["day"], day["establishments"]) for day in affected["days"]] == [(DAY, 1)]
    assert heard.notes[-1].startswith("CNES 202602 → 202603: 1 de 1 dias afetados, ")
    assert heard.notes[-1].endswith("nada foi refeito (dry_run)")
    assert json.loads(published.get(f"v1/days/{DAY}/head.json").body)["revision"] == 1

    made = run_dag(dag, **choice, dry_run=False)
    assert {str(ti.state) for ti in made.get_task_instances()} == {"success"}
    assert heard.notes[-1] == f"1 dias refeitos, 1 com nova revisão: {DAY}"
    head = json.loads(published.get(f"v1/days/{DAY}/head.json").body)
    assert [entry["reason"] for entry in head["history"]] == ["initial", "references"]
