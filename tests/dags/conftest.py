"""A real Airflow on a database of its own. Everything that Airflow reads at import is set before it is imported."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from imunizacao.controle import connect, migrate
from imunizacao.paths import REFERENCE
from imunizacao.reference import import_cnes
from imunizacao.settings import StorageSettings
from imunizacao_local.mirror import MirrorServer, MirrorSettings
from imunizacao_local.ports import free_ports
from imunizacao_local.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS, SEED = 500, 7
"""Of the simulator, per day."""
WEBHOOK_SECRET = "hooks/T000/a-secret-path"


@pytest.fixture(scope="session")
def airflow_env(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """Environment of an Airflow with PostgreSQL metadata and this project's DAGs and plugins."""
    if "airflow" in sys.modules:
        raise RuntimeError("airflow was imported before its settings: an earlier test imports it at module level")
    home = tmp_path_factory.mktemp("airflow")
    postgres.create_database("airflow_dags")
    env = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DEFAULT_TIMEZONE": "America/Sao_Paulo",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.dsn("airflow_dags").replace(
            "postgresql://", "postgresql+psycopg2://"
        ),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__API__BASE_URL": "http://airflow.example.org",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__CORE__FERNET_KEY": "",
    }
    before = dict(os.environ)
    os.environ.update(env)
    yield env
    if "airflow.settings" in sys.modules:
        # Or Airflow does so when the process ends, and its server is gone by then.
        sys.modules["airflow.settings"].dispose_orm()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def dag_bag(airflow_env: dict[str, str]) -> Any:
    """All DAGs of the project, parsed once; needs no database."""
    from airflow.dag_processing.dagbag import DagBag

    sys.path.insert(0, str(ROOT / "dags"))
    return DagBag(dag_folder=str(ROOT / "dags"))


@pytest.fixture(scope="session")
def airflow_database(airflow_env: dict[str, str]) -> None:
    """The metadata database, migrated."""
    from airflow.utils.db import initdb

    initdb()


def connection_json(**fields: Any) -> str:
    """An Airflow connection as an environment variable holds it."""
    return json.dumps(fields)


_DEFAULTS: dict[str, dict[str, Any]] = {}


def run_dag(dag: Any, *, only_to: str = "", **conf: Any) -> Any:
    """Run a DAG in this process, triggers included, as a person does who fills in the form; at most up to the task `only_to`.

    Without its deadline alert: `dag.test` of Airflow 3.3.2 fails at the end of a DAG that has one
    (https://github.com/apache/airflow/issues/73428). A scheduler does not; there is no scheduler here. And with every param
    given, because what one run was given stays in the DAG of this process.
    """
    defaults = _DEFAULTS.setdefault(dag.dag_id, dag.params.dump())
    rest = "|".join(sorted(dag.get_task(only_to).get_flat_relative_ids(upstream=False))) if only_to else ""
    deadline, dag.deadline = dag.deadline, None
    try:
        return dag.test(run_conf=defaults | conf, mark_success_pattern=f"^({rest})$" if rest else None)
    finally:
        dag.deadline = deadline


@pytest.fixture(scope="session")
def mirror_server() -> Iterator[MirrorServer]:
    """The simulator with 500 documents a day."""
    with tempfile.TemporaryDirectory(prefix="imunizacao-mirror-") as folder:
        settings = MirrorSettings(seed=SEED, docs_per_day=DOCUMENTS, auth="none")
        with MirrorServer(state_dir=Path(folder), root=ROOT, port=free_ports(1)[0], settings=settings) as server:
            yield server


@pytest.fixture
def mirror(mirror_server: MirrorServer) -> Iterator[MirrorServer]:
    """The simulator without faults; those of the test are gone after it."""
    yield mirror_server
    play(mirror_server)


def play(mirror: MirrorServer, *scenarios: str) -> None:
    """Replace all scenarios of the simulator."""
    address = mirror.base_url.removesuffix("/fhir/r4") + "/_admin/scenario"
    httpx.put(address, json={"scenarios": scenarios}, trust_env=False).raise_for_status()


@dataclass
class Listener:
    """What a real HTTP server heard in the place of Airflow's REST API and of a chat."""

    base_url: str = ""
    notes: list[str] = field(default_factory=list)
    posted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Path and body of what came to the chat."""
    chat_status: int = 200
    on_note: Callable[[str], None] = lambda note: None


@pytest.fixture
def listener() -> Iterator[Listener]:
    """The server, on a free port."""
    heard = Listener()

    class Handler(BaseHTTPRequestHandler):
        def _body(self) -> Any:
            return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, status: int, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self._body()
            if self.path == "/auth/token":
                self._answer(201, {"access_token": "a-token"})
                return
            heard.posted.append((self.path, body))
            self._answer(heard.chat_status, {})

        def do_PATCH(self) -> None:
            note = self._body()["note"]
            heard.notes.append(note)
            heard.on_note(note)
            self._answer(200, {})

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    heard.base_url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield heard
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def connections(
    monkeypatch: pytest.MonkeyPatch, mirror: MirrorServer, s3_settings: StorageSettings, controle_dsn: str
) -> None:
    """The connections of docs/connections.md as environment variables; notes and alerts are left out (see `heard`)."""
    from psycopg.conninfo import conninfo_to_dict

    database = conninfo_to_dict(controle_dsn)
    fields: dict[str, dict[str, Any]] = {
        "MIRROR": {"conn_type": "fhirmirror", "host": mirror.base_url, "extra": {"page_size": 200}},
        "S3": {
            "conn_type": "aws",
            "login": s3_settings.access_key,
            "password": s3_settings.secret_key,
            "extra": {
                "endpoint_url": s3_settings.endpoint_url,
                "work_bucket": s3_settings.work_bucket,
                "public_bucket": s3_settings.public_bucket,
            },
        },
        "CONTROLE": {
            "conn_type": "postgres",
            "host": database["host"],
            "port": int(str(database["port"])),
            "login": database["user"],
            "password": database.get("password"),
            "schema": database["dbname"],
        },
        "PSEUDONYM": {
            "conn_type": "generic",
            "login": "test",
            "password": "a key for tests only, thirty-two characters",
        },
    }
    for name, values in fields.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_IMUNIZACAO_{name}", connection_json(**values))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> Listener:
    """The connections for notes and alerts lead to the listener."""
    monkeypatch.setenv(
        "AIRFLOW_CONN_IMUNIZACAO_AIRFLOW",
        connection_json(conn_type="http", host=listener.base_url, login="notes", password="a password"),
    )
    monkeypatch.setenv(
        "AIRFLOW_CONN_IMUNIZACAO_ALERTS",
        connection_json(conn_type="http", host=listener.base_url, password=WEBHOOK_SECRET),
    )
    return listener


@pytest.fixture
def cnes(controle_dsn: str) -> None:
    """The CNES snapshot of the project, imported."""
    with connect(controle_dsn) as connection:
        migrate(connection)
        import_cnes(REFERENCE / "cnes" / "BASE_DE_DADOS_CNES_202602.ZIP", connection)
