"""A mirror that answers `$export` exactly as a test says, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from imunizacao.settings import MirrorSettings

TRANSACTION = "2026-03-14T12:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as the server saw it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


Given = Response | Callable[[Asked], Response]


@dataclass
class FakeExport:
    """Gives the answers of a route in their order; the last one again and again."""

    base: str = ""
    origin: str = ""
    asked: list[Asked] = field(default_factory=list)
    _answers: dict[tuple[str, str], list[Given]] = field(default_factory=dict)

    def on(self, route: str, *answers: Given) -> None:
        """`GET /path` (or another method) is answered by these."""
        method, path = route.split(" ")
        self._answers[method, path] = list(answers)

    def asked_for(self, route: str) -> list[Asked]:
        method, path = route.split(" ")
        return [asked for asked in self.asked if (asked.method, asked.path) == (method, path)]

    def settings(self, **changes: object) -> MirrorSettings:
        """Settings for this server, with short patience."""
        values: dict[str, object] = {
            "base_url": self.base,
            "connect_timeout": 2.0,
            "read_timeout": 5.0,
            "retry_budget": 600.0,
        }
        return MirrorSettings(**(values | changes))  # type: ignore[arg-type]

    async def _handle(self, request: Request) -> Response:
        asked = Asked(
            method=request.method,
            path=request.url.path,
            query=dict(parse_qsl(request.url.query)),
            headers=dict(request.headers),
            body=await request.body(),
        )
        self.asked.append(asked)
        answers = self._answers.get((asked.method, asked.path))
        if not answers:
            return problem(404, "not-found")
        given = answers.pop(0) if len(answers) > 1 else answers[0]
        return given if isinstance(given, Response) else given(asked)


def accepted(location: str | None = "/status/1") -> Response:
    """202 to a kick-off."""
    return Response(status_code=202, headers={"Content-Location": location} if location is not None else {})


def waiting(**headers: str) -> Response:
    """202 to a question for the status; `Retry_After` is the header Retry-After."""
    return Response(status_code=202, headers={name.replace("_", "-"): value for name, value in headers.items()})


def manifest(*output: dict[str, Any], drop: str = "", **more: Any) -> Response:
    """200 with a manifest; `more` replaces members, `drop` leaves one out."""
    body: dict[str, Any] = {
        "transactionTime": TRANSACTION,
        "requiresAccessToken": False,
        "output": list(output),
        **more,
    }
    body.pop(drop, None)
    return Response(json.dumps(body), media_type="application/json")


def problem(status: int, code: str, *, diagnostics: str = "", severity: str = "error", **headers: str) -> Response:
    """An OperationOutcome."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(
        outcome_line(code, diagnostics, severity), status_code=status, media_type="application/fhir+json", headers=named
    )


def outcome_line(code: str, diagnostics: str = "", severity: str = "error") -> str:
    issue = {"severity": severity, "code": code, "diagnostics": diagnostics}
    return json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}, ensure_ascii=False)


def ndjson(*lines: str | bytes, end: bytes = b"\n") -> Response:
    """A file of lines."""
    body = b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + (end if lines else b"")
    return Response(body, media_type="application/fhir+ndjson")


@contextlib.contextmanager
def running_export() -> Iterator[FakeExport]:
    """The server on a free port."""
    fake = FakeExport()
    methods = ["GET", "POST", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", fake._handle, methods=methods)])
    # With its protocol named, asyncio sends what is written at once (TCP_NODELAY): without, each answer waits 40 ms for an ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    fake.origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    fake.base = f"{fake.origin}/fhir"
    config = uvicorn.Config(
        app, log_level="critical", lifespan="off", ws="none", http="h11", date_header=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield fake
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
