"""The four servers of the product, wired to each other, under one state folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, Protocol

from imunizacao_local import preflight
from imunizacao_local.airflow_server import AirflowServer
from imunizacao_local.console import Console
from imunizacao_local.errors import LocalError
from imunizacao_local.files import create_signing_key, make_private_folder, read_json, read_or_create_secret, write_json
from imunizacao_local.mirror import MirrorServer, MirrorSettings
from imunizacao_local.ports import HIGHEST_PORT, LOOPBACK
from imunizacao_local.postgres import USER as POSTGRES_USER
from imunizacao_local.postgres import PostgresServer
from imunizacao_local.publication import PublicBucket
from imunizacao_local.references import import_snapshot
from imunizacao_local.seaweed import GRPC_OFFSET, PUBLIC_BUCKET, REGION, WORK_BUCKET, SeaweedPorts, SeaweedServer

CONTROLE_DATABASE: Final = "imunizacao"
PSEUDONYM_KEY_ID: Final = "local-1"
# Fictional, with a valid check digit: the simulator asks for the CNS of whoever requests, as RNDS does.
REQUESTER_CNS: Final = "700000000000005"
MARK: Final = "imunizacao-local.json"
# Settings of the engine that a person may set; they reach the tasks as they are.
_PASSED_ON: Final = (
    "IMUNIZACAO_THREADS",
    "IMUNIZACAO_MEMORY_LIMIT",
    "IMUNIZACAO_SCRATCH_DIR",
    "IMUNIZACAO_EXPECTATIONS",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPorts:
    """Ports on loopback. `s3` is the first of five in a row, each of which also takes port + 10000."""

    airflow: int = 8080
    postgres: int = 55432
    s3: int = 8333
    mirror: int = 8090

    def __post_init__(self) -> None:
        for field in fields(self):
            port = getattr(self, field.name)
            highest = HIGHEST_PORT - GRPC_OFFSET - 4 if field.name == "s3" else HIGHEST_PORT
            if not 1024 <= port <= highest:
                raise LocalError(
                    f"Port {port} for {field.name} is not between 1024 and {highest}",
                    next_step=f"choose another one with --port-{field.name}",
                )


class Service(Protocol):
    """What the commands need of every server."""

    log: Path

    def start(self) -> bool:
        """Start if needed; False when it ran already."""

    def stop(self) -> bool:
        """Stop; False when it was not running."""

    def is_running(self) -> bool:
        """Whether its process lives."""

    def is_healthy(self) -> bool:
        """Whether it answers."""

    def check_ports(self) -> None:
        """Raise LocalError when one of its ports is taken by another program."""


class Stack:
    """PostgreSQL, object store, mirror simulator and Airflow of the checkout `root`, kept in `state_dir`."""

    def __init__(
        self,
        *,
        root: Path,
        state_dir: Path,
        ports: StackPorts,
        mirror: MirrorSettings,
        dags_folder: Path | None = None,
        plugins_folder: Path | None = None,
    ) -> None:
        self.root = root.resolve()
        self.state_dir = state_dir.resolve()
        self.ports = ports
        self.postgres = PostgresServer(state_dir=self.state_dir / "postgres", port=ports.postgres)
        self.seaweed = SeaweedServer(state_dir=self.state_dir / "seaweed", ports=SeaweedPorts.following(ports.s3))
        self.mirror = MirrorServer(
            state_dir=self.state_dir / "mirror", root=self.root, port=ports.mirror, settings=mirror
        )
        self._dags_folder = dags_folder
        self._plugins_folder = plugins_folder

    def airflow(self) -> AirflowServer:
        """Return the Airflow server. Its connections hold the other servers' secrets, which exist once they started."""
        return AirflowServer(
            state_dir=self.state_dir / "airflow",
            root=self.root,
            port=self.ports.airflow,
            postgres=self.postgres,
            connections=self.connections(),
            dags_folder=self._dags_folder,
            plugins_folder=self._plugins_folder,
            settings={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        )

    def services(self) -> dict[str, Service]:
        """Return the servers by name, in the order of starting."""
        return {
            "PostgreSQL": self.postgres,
            "Object store": self.seaweed,
            "Mirror": self.mirror,
            "Airflow": self.airflow(),
        }

    def addresses(self) -> dict[str, str]:
        """Return where each server listens."""
        return {
            "PostgreSQL": f"{LOOPBACK}:{self.ports.postgres}",
            "Object store": self.seaweed.endpoint,
            "Mirror": self.mirror.base_url,
            "Airflow": f"http://{LOOPBACK}:{self.ports.airflow}",
        }

    def start(self, console: Console, *, with_airflow: bool = True) -> bool:
        """Check the machine, then start what does not run. False when everything ran already."""
        self._mark_state()
        preflight.check_python()
        preflight.check_disk(self.state_dir)
        names = [name for name in self.addresses() if with_airflow or name != "Airflow"]
        services = self.services()
        if any(not services[name].is_running() for name in names):
            preflight.check_memory(preflight.MEMORY_BYTES if with_airflow else preflight.MEMORY_BYTES_WITHOUT_AIRFLOW)
        for server in (self.postgres, self.seaweed, self.mirror):
            if not server.is_running():
                server.check_ports()
        if with_airflow and not any(self.airflow().components().values()):
            self.airflow().check_ports()
        started = False
        for name in names:
            with console.step(name) as step:
                address = step.detail = self.addresses()[name]
                # Made here, not before: Airflow's connections need the secrets of the servers above it.
                service = self.services()[name]
                if service.start():
                    started = True
                else:
                    step.detail = f"{address} (was running)"
            if service is self.mirror:
                self._load_references(console)
        return started

    def _load_references(self, console: Console) -> None:
        with console.step("CNES") as step:
            self.postgres.create_database(CONTROLE_DATABASE)
            step.detail = import_snapshot(
                root=self.root, state_dir=self.state_dir, environment=self.pipeline_environment()
            )

    def stop(self, console: Console) -> bool:
        """Stop everything in reverse order. False when nothing ran."""
        stopped = False
        for name, service in reversed(self.services().items()):
            with console.step(name) as step:
                if service.stop():
                    stopped = True
                    step.detail = "stopped"
                else:
                    step.detail = "was not running"
        return stopped

    def remove(self, console: Console) -> None:
        """Stop everything and delete the state folder with all published data. Refuses a folder that is not ours."""
        if not (self.state_dir / MARK).is_file():
            raise LocalError(
                f"{self.state_dir} is not a state folder of this program ({MARK} is missing): nothing was deleted",
                next_step="name the right folder with --state DIR",
            )
        self.stop(console)
        with console.step("State"):
            self.postgres.remove()
            shutil.rmtree(self.state_dir)

    def public_bucket(self) -> PublicBucket:
        """Return a reader of the public bucket with the read-only identity."""
        client = self.seaweed.client(self.seaweed.portal_credentials)
        return PublicBucket(client=client, bucket=PUBLIC_BUCKET)

    def connections(self) -> dict[str, dict[str, object]]:
        """Return the product's Airflow connections; extras are named as the parameters of `imunizacao.settings`.

        Before the first start of PostgreSQL the one to it is left out: it has no password yet.
        """
        pipeline = self.seaweed.pipeline_credentials
        connections: dict[str, dict[str, object]] = {
            "imunizacao_mirror": {
                "conn_type": "fhirmirror",
                "host": self.mirror.base_url,
                # Part of the address already; Airflow 3.3.2 tests no connection without one (see provider.py).
                "port": self.ports.mirror,
                "extra": {"auth": self.mirror.settings.auth, **self._mirror_token()},
            },
            "imunizacao_s3": {
                "conn_type": "aws",
                "login": pipeline.access_key,
                "password": pipeline.secret_key,
                "extra": {
                    "endpoint_url": self.seaweed.endpoint,
                    "region_name": REGION,
                    "work_bucket": WORK_BUCKET,
                    "public_bucket": PUBLIC_BUCKET,
                },
            },
            "imunizacao_pseudonym": {
                "conn_type": "generic",
                "login": PSEUDONYM_KEY_ID,
                "password": self._pseudonym_key(),
            },
            "imunizacao_signing": {"conn_type": "generic", "extra": {"key_file": str(self._signing_key_file())}},
        }
        if self.postgres.exists():
            connections["imunizacao_controle"] = {
                "conn_type": "postgres",
                "host": LOOPBACK,
                "port": self.ports.postgres,
                "login": POSTGRES_USER,
                "password": self.postgres.password,
                "schema": CONTROLE_DATABASE,
            }
        return connections

    def environment(self) -> dict[str, str]:
        """Return the settings of `python -m imunizacao` and of `airflow` for a shell. Holds secrets."""
        return self.pipeline_environment() | self.airflow().environment()

    def pipeline_environment(self) -> dict[str, str]:
        """Return the settings of `python -m imunizacao`. Holds secrets."""
        pipeline = self.seaweed.pipeline_credentials
        mirror = {f"IMUNIZACAO_MIRROR_{name.upper()}": value for name, value in self._mirror_token().items()}
        return {
            "IMUNIZACAO_MIRROR_URL": self.mirror.base_url,
            "IMUNIZACAO_MIRROR_AUTH": self.mirror.settings.auth,
            **mirror,
            "IMUNIZACAO_S3_ENDPOINT": self.seaweed.endpoint,
            "IMUNIZACAO_S3_ACCESS_KEY": pipeline.access_key,
            "IMUNIZACAO_S3_SECRET_KEY": pipeline.secret_key,
            "IMUNIZACAO_S3_REGION": REGION,
            "IMUNIZACAO_WORK_BUCKET": WORK_BUCKET,
            "IMUNIZACAO_PUBLIC_BUCKET": PUBLIC_BUCKET,
            "IMUNIZACAO_PSEUDONYM_KEY": self._pseudonym_key(),
            "IMUNIZACAO_PSEUDONYM_KEY_ID": PSEUDONYM_KEY_ID,
            "IMUNIZACAO_SIGNING_KEY_FILE": str(self._signing_key_file()),
            "IMUNIZACAO_CONTROLE_DSN": self.postgres.dsn(CONTROLE_DATABASE),
            "PYTHONPATH": str(self.root / "include"),
        }

    def _mirror_token(self) -> dict[str, str]:
        if self.mirror.settings.auth != "rnds":
            return {}
        return {"token_url": self.mirror.token_url, "requester_cns": REQUESTER_CNS}

    def _pseudonym_key(self) -> str:
        return read_or_create_secret(self.state_dir / "pseudonym-key", characters=64)

    def _signing_key_file(self) -> Path:
        return create_signing_key(self.state_dir / "signing-key.pem")

    def _mark_state(self) -> None:
        """Mark the folder as ours, once; refuse one that holds other things."""
        make_private_folder(self.state_dir)
        mark = self.state_dir / MARK
        if mark.exists():
            return
        if any(entry.name != LOCK for entry in self.state_dir.iterdir()):
            raise LocalError(
                f"{self.state_dir} holds other files and no {MARK}",
                next_step="name an empty or new folder with --state DIR",
            )
        write_json(mark, {"product": "imunizacao", "root": str(self.root)})


LOCK: Final = "lock"


def load_ports(state_dir: Path, given: Mapping[str, int | None], environment: Mapping[str, str]) -> StackPorts:
    """Settle the ports: option, else LOCAL_PORT_<NAME>, else what this state used before, else the default."""
    remembered = read_json(state_dir / "ports.json") or {}
    chosen: dict[str, int] = {}
    for field in fields(StackPorts):
        option = given.get(field.name)
        variable = f"LOCAL_PORT_{field.name.upper()}"
        if option is not None:
            chosen[field.name] = option
        elif environment.get(variable):
            chosen[field.name] = _port(environment[variable], variable)
        elif field.name in remembered:
            chosen[field.name] = _port(str(remembered[field.name]), str(state_dir / "ports.json"))
    return StackPorts(**chosen)


def save_ports(state_dir: Path, ports: StackPorts) -> None:
    """Remember the ports for the next command."""
    write_json(state_dir / "ports.json", asdict(ports))


def load_mirror(state_dir: Path, *, docs_per_day: int | None, auth: str | None) -> MirrorSettings:
    """Settle what the simulator serves: option, else what this state used before, else the default."""
    remembered = read_json(state_dir / "mirror.json") or {}
    default = MirrorSettings()
    documents = docs_per_day if docs_per_day is not None else remembered.get("docs_per_day", default.docs_per_day)
    chosen_auth = auth if auth is not None else remembered.get("auth", default.auth)
    if not isinstance(documents, int) or documents < 1:
        raise LocalError(
            f"{documents!r} is not a number of documents per day",
            next_step="give a whole number of 1 or more with --docs-per-day",
        )
    return MirrorSettings(docs_per_day=documents, auth="rnds" if chosen_auth == "rnds" else "none")


def save_mirror(state_dir: Path, settings: MirrorSettings) -> None:
    """Remember what the simulator serves for the next command."""
    write_json(state_dir / "mirror.json", asdict(settings))


def _port(text: str, source: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise LocalError(
            f"{source} says {text!r} where a port number was expected", next_step=f"mend {source}"
        ) from error
