"""The connection of the mirror in the UI of the local stack: written once, and a person's changes are respected."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from imunizacao.paths import ROOT
from imunizacao_local.airflow_server import AirflowServer
from imunizacao_local.postgres import PostgresServer

CONNECTION = {
    "conn_type": "fhirmirror",
    "host": "http://127.0.0.1:8090/fhir/r4",
    "port": 8090,
    "extra": {"auth": "none"},
}


@pytest.fixture
def airflow() -> Iterator[tuple[int, dict[str, dict[str, Any]]]]:
    """Port of a server that keeps connections as Airflow's REST API does, and what it keeps."""
    kept: dict[str, dict[str, Any]] = {}

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: int, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _body(self) -> Any:
            return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

        def do_GET(self) -> None:
            found = kept.get(self.path.removeprefix("/api/v2/connections/"))
            self._answer(200 if found else 404, found or {})

        def do_POST(self) -> None:
            body = self._body()
            if self.path == "/auth/token":
                self._answer(201, {"access_token": "a-token"})
                return
            assert self.path == "/api/v2/connections"
            assert body["connection_id"] not in kept, "Airflow answers 409"
            kept[body["connection_id"]] = body
            self._answer(201, body)

        def do_PATCH(self) -> None:
            body = self._body()
            assert self.path == f"/api/v2/connections/{body['connection_id']}"
            kept[body["connection_id"]] |= body
            self._answer(200, body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port, kept
    server.shutdown()
    server.server_close()
    thread.join()


def stack_server(tmp_path: Path, port: int, **changes: Any) -> AirflowServer:
    return AirflowServer(
        state_dir=tmp_path / "airflow",
        root=ROOT,
        port=port,
        postgres=PostgresServer(state_dir=tmp_path / "postgres", port=1),
        connections={"imunizacao_mirror": CONNECTION | changes, "imunizacao_s3": {"conn_type": "aws"}},
    )


def test_the_connection_is_created_with_every_extra_of_its_form(
    tmp_path: Path, airflow: tuple[int, dict[str, dict[str, Any]]]
) -> None:
    port, kept = airflow
    stack_server(tmp_path, port).store_connections()
    assert set(kept) == {"imunizacao_mirror"}
    stored = kept["imunizacao_mirror"]
    assert (stored["conn_type"], stored["host"], stored["port"]) == ("fhirmirror", CONNECTION["host"], 8090)
    extra = json.loads(stored["extra"])
    assert (extra["auth"], extra["page_size"]) == ("none", None)


def test_what_a_person_changed_stays_until_the_settings_of_the_stack_change(
    tmp_path: Path, airflow: tuple[int, dict[str, dict[str, Any]]]
) -> None:
    port, kept = airflow
    stack_server(tmp_path, port).store_connections()
    kept["imunizacao_mirror"]["host"] = "https://mirror.example.org/fhir/r4"
    stack_server(tmp_path, port).store_connections()
    assert kept["imunizacao_mirror"]["host"] == "https://mirror.example.org/fhir/r4"

    stack_server(tmp_path, port, host="http://127.0.0.1:9999/fhir/r4").store_connections()
    assert kept["imunizacao_mirror"]["host"] == "http://127.0.0.1:9999/fhir/r4"


def test_a_deleted_connection_comes_back(tmp_path: Path, airflow: tuple[int, dict[str, dict[str, Any]]]) -> None:
    port, kept = airflow
    stack_server(tmp_path, port).store_connections()
    kept.clear()
    stack_server(tmp_path, port).store_connections()
    assert set(kept) == {"imunizacao_mirror"}
