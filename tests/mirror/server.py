"""The mirror as an HTTP server: FHIR R4 at /fhir/r4, tokens at /api/token, tests' controls at /_admin (loopback only)."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.mirror.auth import Gate
from tests.mirror.bookmarks import BadBookmark, Bookmarks, Cursor
from tests.mirror.calendar import utc_text
from tests.mirror.documents import Archive, DayArchive
from tests.mirror.scenarios import Active, BadScenario, Fault, Hang, Hit, Page
from tests.mirror.search import PARAMETERS, Search, SearchRefused, find_matches, parse_search

BASE: Final = "/fhir/r4"
FHIR_JSON: Final = "application/fhir+json; charset=utf-8"
_PARAMETER_TYPES: Final = {"type": "token", "_lastUpdated": "date", "_count": "number"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server behaves; what it serves is in the archive."""

    gate: Gate
    scenarios: tuple[str, ...] = ()
    now: int | None = None
    """A clock that stands still (milliseconds); None = the real one."""
    bookmark_seconds: int = 3600


@dataclass(slots=True)
class Statistics:
    """What was asked and answered since the start, or since the last reset."""

    requests: dict[str, Counter[str]] = field(default_factory=dict)
    bytes_sent: int = 0
    in_flight: int = 0
    max_in_flight: int = 0

    def count(self, route: str, status: int, size: int) -> None:
        """Add one answer."""
        self.requests.setdefault(route, Counter())[str(status)] += 1
        self.bytes_sent += size


def outcome(status: int, text: str, *, code: str = "processing", headers: dict[str, str] | None = None) -> Response:
    """An OperationOutcome as the RNDS writes it: the code stands at the start of `diagnostics`."""
    body = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": code, "diagnostics": text}],
    }
    return Response(json.dumps(body, ensure_ascii=False), status_code=status, media_type=FHIR_JSON, headers=headers)


class Mirror:
    """Handlers of all routes, over one archive."""

    def __init__(self, archive: Archive, settings: ServerSettings) -> None:
        seed = archive.settings.seed
        self.statistics = Statistics()
        self._archive = archive
        self._settings = settings
        self._gate = settings.gate
        self._bookmarks = Bookmarks.of(seed=seed, lifetime_seconds=settings.bookmark_seconds)
        self._active = Active(archive, seed)
        self._active.switch(settings.scenarios)

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route(f"{BASE}/metadata", self.metadata),
                Route(f"{BASE}/Bundle", self.search),
                Route(f"{BASE}/Bundle/{{id}}", self.read),
                Route(f"{BASE}/{{path:path}}", self.unsupported, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
                Route("/api/token", self.token, methods=["GET", "POST"]),
                Route("/_admin/scenario", self.scenario, methods=["GET", "PUT"]),
                Route("/_admin/stats", self.stats, methods=["GET", "DELETE"]),
            ],
            middleware=[
                Middleware(_Count, statistics=self.statistics),
                Middleware(GZipMiddleware, minimum_size=500, compresslevel=1),
            ],
            exception_handlers={HTTPException: _http_error},
        )

    async def metadata(self, request: Request) -> Response:
        """CapabilityStatement: what this server really does."""
        request.scope["mirror.route"] = "metadata"
        return Response(json.dumps(self._capabilities(), ensure_ascii=False), media_type=FHIR_JSON)

    async def search(self, request: Request) -> Response:
        """One page of a search, or its total."""
        request.scope["mirror.route"] = "search"
        refused = self._refuse(request)
        if refused is not None:
            return refused
        try:
            hit = self._read_hit(request)
        except (SearchRefused, BadBookmark) as error:
            return outcome(error.status, str(error))
        if hit.search.ignored and "handling=strict" in request.headers.get("prefer", "").replace(" ", ""):
            names = ", ".join(hit.search.ignored)
            return outcome(400, f"(EHR-ERR851) Parâmetro não suportado: {names}", code="not-supported")
        request.scope["mirror.route"] = "count" if hit.counts else "search"
        for scenario in self._active.scenarios:
            answer = scenario.interfere(hit)
            if isinstance(answer, Hang):
                return await _hang(request, answer.seconds)
            if isinstance(answer, Fault):
                return outcome(answer.status, f"({answer.code}) {answer.text}", headers=dict(answer.headers))
        return self._answer(request, hit)

    async def read(self, request: Request) -> Response:
        """The current version of one document."""
        request.scope["mirror.route"] = "read"
        refused = self._refuse(request)
        if refused is not None:
            return refused
        identity = request.path_params["id"]
        found = self._archive.locate(identity)
        text = None
        if found is not None:
            day, k = found
            replaced = day.replaced_at(k)
            newest = day.versions(k)
            if replaced is not None and replaced <= self._horizon() and len(newest) == 1:
                return outcome(410, f"Resource Bundle/{identity} was replaced and is no longer shown", code="deleted")
            text = self._current(identity, day, k)
        if text is None:
            return outcome(404, f"Resource Bundle/{identity} is not known", code="not-found")
        return self._with_etag(request, text, text)

    async def unsupported(self, request: Request) -> Response:
        """Everything else under the FHIR base."""
        request.scope["mirror.route"] = "unsupported"
        return self._refuse(request) or outcome(400, "(EHR-ERR861) Operação não suportada", code="not-supported")

    async def token(self, request: Request) -> Response:
        """An access token; only where the RNDS way of authentication is on."""
        request.scope["mirror.route"] = "token"
        if self._gate.mode != "rnds":
            return outcome(404, "Authentication by token is off", code="not-found")
        headers = {"Cache-Control": "no-store"}
        return JSONResponse(self._gate.new_token(now=self._clock()), headers=headers)

    async def scenario(self, request: Request) -> Response:
        """The scenarios that are on; PUT {"scenarios": ["name:argument", …]} replaces them all."""
        request.scope["mirror.route"] = "admin"
        if not _is_local(request):
            return JSONResponse({"error": "loopback only"}, status_code=403)
        if request.method == "PUT":
            try:
                names = _read_names(await request.body())
                self._active.switch(names)
            except BadScenario as error:
                return JSONResponse({"error": str(error)}, status_code=422)
        return JSONResponse({"scenarios": list(self._active.names)})

    async def stats(self, request: Request) -> Response:
        """Requests by route and status, bytes sent, most requests at one time; DELETE starts again from zero."""
        request.scope["mirror.route"] = "admin"
        if not _is_local(request):
            return JSONResponse({"error": "loopback only"}, status_code=403)
        found = self.statistics
        body = {
            "requests": {route: dict(counts) for route, counts in found.requests.items() if route != "admin"},
            "bytes": found.bytes_sent,
            "max_in_flight": found.max_in_flight,
        }
        if request.method == "DELETE":
            found.requests.clear()
            found.bytes_sent = found.max_in_flight = 0
        return JSONResponse(body)

    def _refuse(self, request: Request) -> Response | None:
        reason = self._gate.refuse(request.headers, now=self._clock())
        if reason is None:
            return None
        headers = {"WWW-Authenticate": 'Basic realm="mirror"'} if self._gate.mode == "basic" else None
        return outcome(401, reason, code="security", headers=headers)

    def _clock(self) -> int:
        return self._settings.now if self._settings.now is not None else time.time_ns() // 1_000_000

    def _horizon(self) -> int:
        horizon = self._clock()
        for scenario in self._active.scenarios:
            horizon = scenario.horizon(horizon)
        return horizon

    def _read_hit(self, request: Request) -> Hit:
        parameters = request.query_params.multi_items()
        bookmark = next((value for name, value in parameters if name == "_bookmark"), None)
        now = self._clock()
        if bookmark is not None:
            cursor = self._bookmarks.read(bookmark, now=now)
            search = parse_search(cursor.parameters)
        else:
            search = parse_search(parameters)
            cursor = Cursor(parameters=search.honoured, started=now)
        key = f"{request.url.path}?{request.url.query}"
        return Hit(key=key, search=search, cursor=cursor, counts=search.count_only)

    def _answer(self, request: Request, hit: Hit) -> Response:
        search, cursor = hit.search, hit.cursor
        matches = find_matches(self._archive, search, horizon=self._horizon(), edits=self._active.catalogue.edits)
        total = matches.total
        page = Page(entries=(), following=None)
        if not hit.counts:
            following = cursor.following(search.count) if cursor.offset + search.count < len(matches) else None
            page = Page(entries=matches.page(cursor.offset, search.count), following=following)
            for scenario in self._active.scenarios:
                page = scenario.page(hit, page)
        for scenario in self._active.scenarios:
            total = scenario.total(total)
            scenario.after_page(hit, self._active.catalogue)
        body, core = self._render(request, hit, page, total)
        return self._with_etag(request, body, core)

    def _render(self, request: Request, hit: Hit, page: Page, total: int) -> tuple[str, str]:
        """The searchset, and the part of it that an ETag stands for (not the links, which carry the time of the walk)."""
        base = f"{request.url.scheme}://{request.url.netloc}{BASE}/Bundle"
        own = list(hit.search.honoured)
        if hit.cursor.number > 1 or hit.cursor.repeat:
            own.append(("_bookmark", self._bookmarks.write(hit.cursor)))
        links = [{"relation": "self", "url": f"{base}?{urlencode(own, safe=':,')}" if own else base}]
        if page.following is not None:
            token = self._bookmarks.write(page.following)
            links.append({"relation": "next", "url": f"{base}?{urlencode([('_bookmark', token)])}"})
        entries = [*page.entries, *_warnings(hit.search)]
        announced = f'"total":{total},' if hit.search.with_total or hit.counts else ""
        listed = f',"entry":[{",".join(entries)}]' if entries else ""
        core = f'"type":"searchset",{announced}"n":{hit.cursor.number}{listed}'
        identity = blake2b(f"{hit.cursor}".encode(), digest_size=16).hexdigest()
        head = (
            f'{{"resourceType":"Bundle","id":"{identity}","meta":{{"lastUpdated":"{utc_text(self._clock())}"}},'
            f'"type":"searchset",{announced}"link":{json.dumps(links, separators=(",", ":"))}{listed}}}'
        )
        return head, core

    def _with_etag(self, request: Request, body: str, core: str) -> Response:
        etag = f'W/"{blake2b(core.encode(), digest_size=12).hexdigest()}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        wanted = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if etag.removeprefix("W/") in wanted or "*" in wanted:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=FHIR_JSON, headers=headers)

    def _current(self, identity: str, day: DayArchive, k: int) -> str | None:
        """The newest visible version of a document that was first served at position k, as JSON text."""
        horizon = self._horizon()
        edits = self._active.catalogue.edits.get(day.day)
        for extra in reversed(edits.added if edits else ()):
            if extra.k == k and extra.instant <= horizon:
                return day.added(extra)[1]
        if k >= day.size or (edits is not None and (edits.empty or k in edits.removed)):
            return None
        for source, position in day.versions(k):
            if source.clock.instant(position) <= horizon:
                text = source.document(position)
                return text if f'"id":"{identity}"' in text[:120] else None
        return None

    def _capabilities(self) -> dict[str, Any]:
        schemes = {
            "none": [],
            "basic": [{"coding": [{"code": "Basic"}]}],
            "rnds": [{"text": "Token in X-Authorization-Server (Bearer), CNS of the requester in Authorization"}],
        }
        parameters = [
            {"name": name, "type": _PARAMETER_TYPES.get(name, "string")} for name in (*PARAMETERS, "_bookmark")
        ]
        return {
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": "2026-03-01",
            "kind": "instance",
            "software": {"name": "imunizacao mirror simulator", "version": "1"},
            "implementation": {"description": "Fictional vaccination documents, for tests and demonstrations"},
            "fhirVersion": "4.0.1",
            "format": ["application/fhir+json", "json"],
            "rest": [
                {
                    "mode": "server",
                    "security": {"service": schemes[self._gate.mode]} if self._gate.mode != "none" else {"cors": False},
                    "resource": [
                        {
                            "type": "Bundle",
                            "interaction": [{"code": "read"}, {"code": "search-type"}],
                            "versioning": "versioned",
                            "searchParam": parameters,
                        }
                    ],
                }
            ],
        }


class _Count:
    """ASGI middleware: counts answers and their bytes as sent (after compression)."""

    def __init__(self, app: ASGIApp, statistics: Statistics) -> None:
        self._app = app
        self._statistics = statistics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, size = 0, 0

        async def counted(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            size += len(message.get("body", b""))
            await send(message)

        found = self._statistics
        found.in_flight += 1
        found.max_in_flight = max(found.max_in_flight, found.in_flight)
        try:
            await self._app(scope, receive, counted)
        finally:
            found.in_flight -= 1
            found.count(scope.get("mirror.route", "other"), status, size)


def _warnings(search: Search) -> list[str]:
    """Entries that say which parameters were ignored; they are no matches and not in the total."""
    texts = []
    for name in search.ignored:
        text = (
            "(EHR-ERR995) Ordenação requisitada não é suportada"
            if name == "_sort"
            else f"(EHR-ERR851) Parâmetro ignorado: {name}"
        )
        issue = {"severity": "warning", "code": "not-supported", "diagnostics": text}
        entry = {"resource": {"resourceType": "OperationOutcome", "issue": [issue]}, "search": {"mode": "outcome"}}
        texts.append(json.dumps(entry, ensure_ascii=False, separators=(",", ":")))
    return texts


async def _hang(request: Request, seconds: float) -> Response:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not await request.is_disconnected():
        await asyncio.sleep(0.05)
    return outcome(504, "(EHR-ERR999) Tempo esgotado")


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return outcome(status, f"{request.method} {request.url.path} is not supported", code="not-supported")


def _is_local(request: Request) -> bool:
    return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback


def _read_names(body: bytes) -> list[str]:
    try:
        names = json.loads(body)["scenarios"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadScenario('Send JSON like {"scenarios": ["lost-page:2"]}') from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadScenario("`scenarios` must be a list of texts")
    return names


def serve(
    archive: Archive,
    settings: ServerSettings,
    *,
    host: str,
    port: int,
    port_file: Path | None,
    announce: Callable[[str], None],
) -> None:
    """Run until interrupted. The port is bound before `port_file` is written and the address announced."""
    with socket.create_server((host, port), reuse_port=False) as listener:
        bound = listener.getsockname()[1]
        config = uvicorn.Config(
            Mirror(archive, settings).app(), log_level="warning", access_log=False, timeout_graceful_shutdown=3
        )
        if port_file is not None:
            unfinished = port_file.with_name(f"{port_file.name}.unfinished")
            unfinished.write_text(f"{bound}\n", encoding="ascii")
            unfinished.replace(port_file)
        announce(f"event=mirror.ready url=http://{host}:{bound}{BASE} auth={settings.gate.mode}")
        uvicorn.Server(config).run(sockets=[listener])
