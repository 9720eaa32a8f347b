"""The mirror simulator as a process of its own, with any options, and its controls."""

from __future__ import annotations

import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import httpx

ROOT: Final = Path(__file__).resolve().parents[2]
_START_SECONDS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as the mirror saw it; the times are seconds on its monotonic clock."""

    address: str
    route: str
    page: int
    """Number of the page in its walk; 0 for anything else."""
    status: int
    arrived: float
    answered: float


class Simulator:
    """A running simulator."""

    def __init__(self, base: str, tokens: str = "") -> None:
        self.base_url = f"{base}/fhir/r4"
        self.token_url = f"{tokens or base}/api/token"
        # The controls of a simulator with a certificate of its own are asked for without checking it.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._client = httpx.Client(base_url=f"{base}/_admin", timeout=60, trust_env=False, verify=context)

    def play(self, *scenarios: str) -> None:
        """Replace all scenarios and forget what was asked; none = a mirror without faults."""
        self._client.put("/scenario", json={"scenarios": list(scenarios)}).raise_for_status()
        self._client.delete("/stats").raise_for_status()

    def requests(self) -> list[Request]:
        """Requests since the scenarios were set, in the order of their arrival."""
        found = [Request(**entry) for entry in self._ask("/requests")["requests"]]
        return sorted(found, key=lambda request: request.arrived)

    def oracle(self, day: object) -> set[str]:
        """`id|version` of every document version that is in a day now."""
        return set(self._ask(f"/oracle?day={day}")["versions"])

    def close(self) -> None:
        """Close the connection of the controls."""
        self._client.close()

    def _ask(self, path: str) -> dict[str, Any]:
        return cast(dict[str, Any], self._client.get(path).raise_for_status().json())


@contextmanager
def running_simulator(folder: Path, *options: str, tls: bool = False, auth_port: bool = False) -> Iterator[Simulator]:
    """Run `python -m tests.mirror serve` with these options on free ports, its log in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port_file, auth_file, log = folder / "port", folder / "auth-port", folder / "log"
    command = [sys.executable, "-m", "tests.mirror", "serve", "--port", "0", "--port-file", str(port_file), *options]
    if auth_port:
        command += ["--auth-port", "0", "--auth-port-file", str(auth_file)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not port_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the simulator did not open its port: {log.read_text()}")
            time.sleep(0.02)
        base = f"{'https' if tls else 'http'}://127.0.0.1:{int(port_file.read_text())}"
        tokens = f"https://127.0.0.1:{int(auth_file.read_text())}" if auth_port else ""
        simulator = Simulator(base, tokens)
        try:
            yield simulator
        finally:
            simulator.close()
    finally:
        process.terminate()
        process.wait(15)
