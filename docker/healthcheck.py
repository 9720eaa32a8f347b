"""Health of one component of the stack: exit code 0 only if it does its work.

    python healthcheck.py api | scheduler | dag-processor | triggerer | worker | mirror

Airflow's /api/v2/monitor/health answers 200 even with a dead scheduler: the JSON is read, not the code. Standard
library only (except `worker`), because it runs every 30 s: `airflow jobs check` costs 4 CPU seconds each time.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.request
from collections.abc import Mapping
from typing import Any

API = "http://airflow-apiserver:8080"
OWN_SCHEDULER = "http://127.0.0.1:8974/health"
MIRROR = "http://127.0.0.1:8400/fhir/r4/metadata"
PARTS = {
    "api": "metadatabase",
    "scheduler": "scheduler",
    "dag-processor": "dag_processor",
    "triggerer": "triggerer",
}


def read(url: str) -> bytes:
    """GET without proxies; any status but 2xx is an error."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=8) as response:
        body: bytes = response.read()
        return body


def part_fault(health: Any, part: str) -> str:
    """What Airflow's health report says against one part; empty when it is healthy."""
    entry = health.get(part) if isinstance(health, Mapping) else None
    status = entry.get("status") if isinstance(entry, Mapping) else None
    return "" if status == "healthy" else f"{part} is {status or 'not reported'}"


def worker_fault(broker: str, host: str) -> str:
    """Ask this host's Celery worker, through the broker, whether it answers."""
    from celery import Celery  # type: ignore[import-untyped]  # noqa: PLC0415 - only the worker pays for it

    name = f"celery@{host}"
    replies = Celery(broker=broker).control.ping(destination=[name], timeout=8)
    answered = any(reply.get(name, {}).get("ok") == "pong" for reply in replies)
    return "" if answered else f"{name} did not answer"


def fault(component: str, env: Mapping[str, str]) -> str:
    """What is wrong with a component; empty when nothing is. Connection errors are raised."""
    if component == "worker":
        return worker_fault(env["AIRFLOW__CELERY__BROKER_URL"], socket.gethostname())
    if component == "mirror":
        node = json.loads(read(MIRROR))
        kind = node.get("resourceType") if isinstance(node, Mapping) else None
        return "" if kind == "CapabilityStatement" else f"mirror answers {kind}"
    if component == "scheduler":
        # Only this answers for this container when there are several schedulers (503 without a heartbeat).
        read(OWN_SCHEDULER)
    base = "http://127.0.0.1:8080" if component == "api" else API
    return part_fault(json.loads(read(f"{base}/api/v2/monitor/health")), PARTS[component])


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in {*PARTS, "worker", "mirror"}:
        raise SystemExit(__doc__)
    message = fault(sys.argv[1], os.environ)
    if message:
        raise SystemExit(message)
