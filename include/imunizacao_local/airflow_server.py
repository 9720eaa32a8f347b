"""Airflow on one machine: its four components as processes of our own, LocalExecutor, PostgreSQL.

`airflow standalone` starts the same four, but goes on when one of them dies, prints the password and waits by the clock.
Here each has its pid and log, and "ready" is what Airflow's own health report says.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

from imunizacao_local.airflow_api import AirflowApi
from imunizacao_local.errors import LocalError
from imunizacao_local.files import make_private_folder, read_json, read_or_create_secret, write_json, write_private
from imunizacao_local.ports import LOOPBACK, require_free
from imunizacao_local.postgres import PostgresServer
from imunizacao_local.process import ManagedProcess, ProcessInfo, inherited_environment

DATABASE: Final = "airflow"
USER: Final = "admin"
OWN_CONNECTION: Final = "imunizacao_airflow"
# Kept in Airflow's database: a connection of the environment has no line, form or test in the UI. Workers get them by the API.
LISTED_CONNECTIONS: Final = ("imunizacao_mirror",)
# 22–24 s on an idle machine of two cores, 145 s were seen on a loaded one.
START_SECONDS: Final = 300
STOP_SECONDS: Final = 40
MIGRATE_SECONDS: Final = 300
HEALTH_POLL_SECONDS: Final = 1.0
# The extras of the mirror's connection, in the order of its form.
FORM_EXTRAS: Final = (
    "auth",
    "token_url",
    "requester_cns",
    "client_certificate_file",
    "client_certificate",
    "client_certificate_passphrase",
    "client_key_file",
    "client_private_key",
    "ca_file",
    "client_id",
    "client_secret",
    "token_endpoint_auth",
    "scope",
    "signing_key_file",
    "signing_private_key",
    "signing_key_passphrase",
    "signing_key_id",
    "way",
    "page_size",
    "max_connections",
    "requests_per_second",
    "slice_cap",
    "connect_timeout",
    "read_timeout",
    "retry_budget",
    "export_deadline",
    "freshness_deadline_hours",
)
# Order of starting; stopped in reverse.
COMPONENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "api-server": ("api-server",),
    # Without log servers: they listen on every interface, and here the UI reads the same files.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
# Name in Airflow's health report -> the process it reports on.
_REPORTED: Final = {
    "metadatabase": "api-server",
    "scheduler": "scheduler",
    "dag_processor": "dag-processor",
    "triggerer": "triggerer",
}
_LOCAL_SETTINGS: Final = '''"""Written by imunizacao_local at every start: edits are lost."""

import sys

# LocalExecutor forks its workers from the scheduler. What it has imported costs a task nothing; importing Great
# Expectations afresh costs each task 4 CPU seconds or more. Imports only: nothing may be opened before the fork.
if "scheduler" in sys.argv:
    import boto3  # noqa: F401
    import duckdb  # noqa: F401
    import great_expectations  # noqa: F401
    import httpx  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow  # noqa: F401
'''


class AirflowServer:
    """One Airflow installation kept in `state_dir`, with the DAGs and plugins of `root`.

    Its metadata lives in the database `airflow` of `postgres`, which must run before `start`. `connections` are Airflow
    connections by id, each as the JSON object that Airflow accepts in AIRFLOW_CONN_<ID>. All secrets are random per state
    folder. The UI listens on 127.0.0.1:`port`, user `admin`.
    """

    def __init__(
        self,
        *,
        state_dir: Path,
        root: Path,
        port: int,
        postgres: PostgresServer,
        connections: Mapping[str, Mapping[str, object]],
        dags_folder: Path | None = None,
        plugins_folder: Path | None = None,
        parallelism: int = 4,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.state_dir = state_dir.resolve()
        self.root = root.resolve()
        self.port = port
        self.dags_folder = (dags_folder or root / "dags").resolve()
        self.plugins_folder = (plugins_folder or root / "plugins").resolve()
        self._postgres = postgres
        self._connections = dict(connections)
        self._parallelism = parallelism
        self._settings = dict(settings or {})
        self._home = self.state_dir / "home"
        self.task_logs = self.state_dir / "task-logs"
        self._migrate_log = self.state_dir / "migrate.log"
        self._processes = {name: ManagedProcess(name=name, folder=self.state_dir) for name in COMPONENTS}
        self.log = self._processes["api-server"].log

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """Address of the UI and the REST API."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def password(self) -> str:
        """Password of the user `admin` (made on first use)."""
        return self._secret("admin-password", characters=20)

    def api(self) -> AirflowApi:
        """Return a REST client logged in as `admin`."""
        return AirflowApi(base_url=self.base_url, user=USER, password=self.password)

    def start(self) -> bool:
        """Migrate the database if needed, start what does not run, wait until all report healthy.

        Returns False when everything ran already with the same settings. Raises LocalError as soon as a component dies.
        """
        self._write_home()
        environment = self.environment()
        commands = {name: [sys.executable, "-m", "airflow", *arguments] for name, arguments in COMPONENTS.items()}
        to_start = [name for name in COMPONENTS if not self._processes[name].runs(commands[name], environment)]
        if to_start:
            for name in reversed(to_start):
                self._processes[name].stop(seconds=STOP_SECONDS)
            if "api-server" in to_start:
                self.check_ports()
            self._migrate(environment)
        began = datetime.now(UTC)
        for name in to_start:
            self._processes[name].start(
                commands[name],
                settings=environment,
                stop_seconds=STOP_SECONDS,
            )
        self._wait_healthy(dict.fromkeys(to_start, began))
        self.store_connections()
        return bool(to_start)

    def stop(self) -> bool:
        """Stop all components; running tasks are ended and Airflow retries them after the next start."""
        stopped = [process.stop(seconds=STOP_SECONDS) for process in reversed(self._processes.values())]
        return any(stopped)

    def check_ports(self) -> None:
        """Raise LocalError, naming who holds it, when the port is taken by another program."""
        require_free(self.port, what="Airflow", option="--port-airflow")

    def is_running(self) -> bool:
        """Tell whether every component is alive."""
        return all(process.find() is not None for process in self._processes.values())

    def components(self) -> dict[str, ProcessInfo | None]:
        """Return the live process of each component, None for one that does not run."""
        return {name: process.find() for name, process in self._processes.items()}

    def component_log(self, name: str) -> Path:
        """Return the log of one component."""
        return self._processes[name].log

    def is_healthy(self) -> bool:
        """Tell whether every component lives and Airflow reports each as healthy."""
        return self.is_running() and not self._unhealthy({})

    def check_alive(self) -> None:
        """Raise LocalError, with the last lines of its log, when a component has died."""
        for name, process in self._processes.items():
            if process.find() is None:
                raise LocalError(
                    f"Airflow's {name} is not running any more",
                    next_step="run `up` again: it starts what is missing",
                    log=self._processes[name].log,
                )

    def environment(self) -> dict[str, str]:
        """Return every setting of this installation as environment variables. Holds secrets."""
        sql_alchemy = self._postgres.dsn(DATABASE).replace("postgresql://", "postgresql+psycopg2://", 1)
        environment = {
            "AIRFLOW_HOME": str(self._home),
            "AIRFLOW__API__BASE_URL": self.base_url,
            "AIRFLOW__API__ENABLE_SWAGGER_UI": "False",
            "AIRFLOW__API__HOST": LOOPBACK,
            "AIRFLOW__API__INSTANCE_NAME": "imunizacao",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__SECRET_KEY": self._secret("api-secret-key"),
            "AIRFLOW__API_AUTH__JWT_SECRET": self._secret("jwt-secret", characters=86),
            "AIRFLOW__CORE__AUTH_MANAGER": (
                "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
            ),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags_folder),
            # Dates of `backfill create` without a time are then reference days (a bare date is midnight UTC otherwise).
            "AIRFLOW__CORE__DEFAULT_TIMEZONE": "America/Sao_Paulo",
            # Tasks reach the API here; with only a port changed every one of them fails with "connection refused".
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.base_url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": self._fernet_key(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": str(self._parallelism),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.plugins_folder),
            # Extras of the mirror's connection that Airflow does not know as secrets by their names.
            "AIRFLOW__CORE__SENSITIVE_VAR_CONN_NAMES": "requester_cns,client_certificate",
            # The only user is the admin of this machine; docs/connections.md says what to do elsewhere.
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.state_dir / "passwords.json"),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": sql_alchemy,
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.task_logs),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            # Values such as `rnds` in a connection are no secrets; with the default, 5, every task warns that it cannot mask them.
            "AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET": "3",
            "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "great_expectations=WARNING",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            # The default, 5, lets a quarter of short tasks hold their slot five seconds after they ended.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "PYTHONPATH": str(self.root / "include"),
        }
        connections = {OWN_CONNECTION: self._own_connection(), **self._connections}
        for connection_id, connection in connections.items():
            if connection_id in LISTED_CONNECTIONS:
                continue
            environment[f"AIRFLOW_CONN_{connection_id.upper()}"] = json.dumps(connection, sort_keys=True)
        return environment | self._settings

    def listed_connections(self) -> dict[str, dict[str, object]]:
        """Return the connections that are kept in Airflow's database, with every extra of their form."""
        listed = {}
        for connection_id in LISTED_CONNECTIONS:
            connection = self._connections.get(connection_id)
            if connection is not None:
                # Airflow's form shows the extras that a connection has, also empty ones, and no others.
                extra = dict.fromkeys(FORM_EXTRAS) | cast("dict[str, object]", connection.get("extra", {}))
                listed[connection_id] = {**connection, "extra": extra}
        return listed

    def store_connections(self) -> None:
        """Write the connections of the UI into Airflow's database: when they are missing, or when this stack's own settings changed.

        What a person changed in the UI stays until then.
        """
        marks = read_json(self.state_dir / "connections.json") or {}
        for connection_id, wanted in self.listed_connections().items():
            mark = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
            if self.api().put_connection(connection_id, wanted, overwrite=marks.get(connection_id) != mark):
                marks[connection_id] = mark
                write_json(self.state_dir / "connections.json", marks)

    def _own_connection(self) -> dict[str, object]:
        """Let tasks call this Airflow's REST API, for the note of a run."""
        return {"conn_type": "http", "host": self.base_url, "login": USER, "password": self.password}

    def _write_home(self) -> None:
        """Write what Airflow reads from files: the password list and the preload of the scheduler."""
        make_private_folder(self.state_dir)
        make_private_folder(self._home)
        make_private_folder(self.task_logs)
        write_json(self.state_dir / "passwords.json", {USER: self.password})
        write_private(self._home / "config" / "airflow_local_settings.py", _LOCAL_SETTINGS)

    def _secret(self, name: str, *, characters: int = 43) -> str:
        return read_or_create_secret(self.state_dir / "secrets" / name, characters=characters)

    def _fernet_key(self) -> str:
        """Return the key of stored connections: 32 random bytes in URL-safe base64, as Fernet wants them."""
        path = self.state_dir / "secrets" / "fernet-key"
        if not path.exists():
            write_private(path, base64.urlsafe_b64encode(secrets.token_bytes(32)).decode() + "\n")
        return path.read_text(encoding="utf-8").strip()

    def _migrate(self, environment: Mapping[str, str]) -> None:
        """Bring the metadata database to this Airflow's schema; skipped (6 s) when version and schema are unchanged."""
        self._postgres.create_database(DATABASE)
        mark = self.state_dir / "migrated.json"
        version = importlib.metadata.version("apache-airflow-core")
        if read_json(mark) == {"airflow": version, "schema": self._schema_version()}:
            return
        with self._migrate_log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", "db", "migrate"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._home,
                env=inherited_environment() | dict(environment),
                # Ctrl-C must not cut a migration short; Airflow's own lock keeps a second one waiting.
                start_new_session=True,
            )
            try:
                code = process.wait(timeout=MIGRATE_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise LocalError(
                    f"airflow db migrate (pid {process.pid}) still runs after {MIGRATE_SECONDS} s",
                    next_step="let it end, then run the command again",
                    log=self._migrate_log,
                ) from error
        if code != 0:
            raise LocalError(
                f"airflow db migrate ended with exit code {code}",
                next_step="mend what the log says, then run the command again",
                log=self._migrate_log,
            )
        write_json(mark, {"airflow": version, "schema": self._schema_version()})

    def _schema_version(self) -> str | None:
        """Return the alembic revision of the database, None when it is empty."""
        if self._postgres.query(DATABASE, "select to_regclass('alembic_version')") == [""]:
            return None
        return ",".join(self._postgres.query(DATABASE, "select version_num from alembic_version order by 1"))

    def _wait_healthy(self, began: Mapping[str, datetime]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while unhealthy := self._unhealthy(began):
            for name, process in self._processes.items():
                if process.find() is None:
                    raise self._processes[name].died()
            if time.monotonic() > deadline:
                name = _REPORTED[unhealthy[0]]
                raise LocalError(
                    f"Airflow is not healthy after {START_SECONDS} s: {', '.join(unhealthy)}",
                    next_step="see the log; on a busy machine run the command again, it continues where it was",
                    log=self._processes[name].log,
                )
            time.sleep(HEALTH_POLL_SECONDS)

    def _unhealthy(self, began: Mapping[str, datetime]) -> list[str]:
        """Return the parts that Airflow does not report as healthy, by a heartbeat newer than their start.

        The report keeps a killed component "healthy" for half a minute, and HTTP says 200 whatever it holds.
        """
        report = self.api().health()
        missing = []
        for part, process in _REPORTED.items():
            entry = report.get(part, {})
            heartbeat = entry.get(f"latest_{part}_heartbeat")
            fresh = (
                part == "metadatabase"
                or process not in began
                or (heartbeat is not None and datetime.fromisoformat(heartbeat) >= began[process])
            )
            if entry.get("status") != "healthy" or not fresh:
                missing.append(part)
        return missing
