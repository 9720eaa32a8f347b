"""The mirror simulator as a process of its own, with a client for everything that it serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support import simulator


@contextmanager
def running_simulator(folder: Path, *options: str) -> Iterator[httpx.Client]:
    """Start it on a free port with these options of `serve`; gives a client whose base is its origin."""
    with simulator.running_simulator(folder, *options) as served:
        with httpx.Client(base_url=served.base_url.removesuffix("/fhir/r4"), timeout=20, trust_env=False) as client:
            yield client
