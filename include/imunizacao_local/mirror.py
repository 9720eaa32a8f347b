"""The mirror simulator as a process. It is started as a program, never imported."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import httpx

from imunizacao_local.errors import LocalError
from imunizacao_local.ports import LOOPBACK, require_free
from imunizacao_local.process import POLL_SECONDS, ManagedProcess, ProcessInfo

START_SECONDS: Final = 60
STOP_SECONDS: Final = 15

Auth = Literal["rnds", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSettings:
    """What the simulator serves: same seed and size, same documents."""

    seed: int = 7
    docs_per_day: int = 20_000
    auth: Auth = "none"


class MirrorServer:
    """One mirror simulator of the checkout `root`, on 127.0.0.1:`port`. Its state folder holds a log and a pid."""

    def __init__(
        self,
        *,
        state_dir: Path,
        root: Path,
        port: int,
        settings: MirrorSettings,
    ) -> None:
        self.port = port
        self.settings = settings
        self._root = root
        self._process = ManagedProcess(name="mirror", folder=state_dir.resolve())
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
    def token_url(self) -> str:
        """Where a token is asked for (authentication `rnds`)."""
        return f"http://{LOOPBACK}:{self.port}/api/token"

    @property
    def base_url(self) -> str:
        """The FHIR base address."""
        return f"http://{LOOPBACK}:{self.port}/fhir/r4"

    def start(self) -> bool:
        """Start it and wait for its CapabilityStatement. Other settings restart it; False when it ran already."""
        command = self._command()
        path = os.pathsep.join([str(self._root), str(self._root / "include")])
        settings = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        if not self._process.runs(command, settings):
            self.stop()
            self.check_ports()
        started = self._process.start(
            command,
            settings=settings,
            stop_seconds=STOP_SECONDS,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_healthy():
            if not self.is_running():
                raise self._process.died()
            if time.monotonic() > deadline:
                raise LocalError(
                    f"The mirror on port {self.port} gave no CapabilityStatement within {START_SECONDS} s",
                    next_step="see its log, then run the command again",
                    log=self.log,
                )
            time.sleep(POLL_SECONDS)
        return started

    def check_ports(self) -> None:
        """Raise LocalError, naming who holds it, when the port is taken by another program."""
        require_free(self.port, what="the mirror", option="--port-mirror")

    def stop(self) -> bool:
        """Stop it. False when it was not running."""
        return self._process.stop(seconds=STOP_SECONDS)

    def is_running(self) -> bool:
        """Tell whether the process is alive."""
        return self._process.find() is not None

    def find(self) -> ProcessInfo | None:
        """Return the live process."""
        return self._process.find()

    def is_healthy(self) -> bool:
        """Tell whether our process lives and GET /metadata gives a CapabilityStatement."""
        if not self.is_running():
            return False  # another mirror may answer at this port
        try:
            response = httpx.get(f"{self.base_url}/metadata", timeout=10, trust_env=False)
            return response.is_success and response.json().get("resourceType") == "CapabilityStatement"
        except (httpx.HTTPError, ValueError):
            return False

    def _command(self) -> list[str]:
        return [
            sys.executable,
            *("-m", "tests.mirror", "serve"),
            *("--host", LOOPBACK),
            *("--port", str(self.port)),
            *("--seed", str(self.settings.seed)),
            *("--docs-per-day", str(self.settings.docs_per_day)),
            *("--auth", self.settings.auth),
        ]
