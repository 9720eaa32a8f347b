"""The mirror as an HTTP server: FHIR R4 at /fhir/r4, tokens at /api/token, tests' controls at /_admin (loopback only)."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from email.utils import formatdate
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.mirror.auth import ALGORITHMS, Gate, Refusal
from tests.mirror.bookmarks import BadBookmark, Bookmarks, Cursor
from tests.mirror.calendar import utc_text
from tests.mirror.documents import Archive, DayArchive
from tests.mirror.export import OPERATION, Exports
from tests.mirror.oracle import day_search, list_versions
from tests.mirror.resources import INCLUDES, TYPES, Found, Resources, parse_resource_search
from tests.mirror.resources import PARAMETERS as RESOURCE_PARAMETERS
from tests.mirror.scenarios import Active, BadScenario, Body, Fault, Hang, Hit, Page, Wire
from tests.mirror.search import PARAMETERS, Matches, Search, SearchRefused, find_matches, parse_search
from tests.mirror.wire import WireResponse

BASE: Final = "/fhir/r4"
FHIR_JSON: Final = "application/fhir+json; charset=utf-8"
WAYS: Final = ("documents", "resources", "export")
"""Ways in that can be offered."""
_PARAMETER_TYPES: Final = {"type": "token", "_id": "token", "_lastUpdated": "date", "_count": "number"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server behaves; what it serves is in the archive."""

    gate: Gate
    scenarios: tuple[str, ...] = ()
    now: int | None = None
    """A clock that stands still (milliseconds); None = the real one."""
    bookmark_seconds: int = 3600
    token_url: str = ""
    """Where tokens are given; empty = by this same listener."""
    ways: tuple[str, ...] = ("documents",)
    """Some of WAYS: what is served and said in the CapabilityStatement."""
    files_port: int = 0
    """The second port, for files of exports; set by `serve`."""

    def __post_init__(self) -> None:
        unknown = [way for way in self.ways if way not in WAYS]
        if unknown or not self.ways:
            raise ValueError(
                f"--ways takes some of {', '.join(WAYS)} with commas between them, not {', '.join(unknown)!r}"
            )


@dataclass(slots=True)
class Statistics:
    """What was asked and answered since the start, or since the last reset."""

    requests: dict[str, Counter[str]] = field(default_factory=dict)
    bytes_sent: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    log: deque[dict[str, str | int | float]] = field(default_factory=lambda: deque(maxlen=20_000))
    """The last requests in the order of their answers: address, route, page, status, seconds on the mirror's monotonic clock."""

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
        self._resources = Resources(archive)
        self._exports = Exports(
            archive,
            self._active,
            base=BASE,
            files_port=settings.files_port,
            refuse=self._refuse,
            guarded=settings.gate.mode != "none",
            horizon=self._horizon,
            outcome=outcome,
        )

    def app(self) -> Starlette:
        """The ASGI application."""
        tokens = [] if self._settings.token_url else [Route("/api/token", self.token, methods=["GET", "POST"])]
        return Starlette(
            routes=[
                *tokens,
                Route(f"{BASE}/metadata", self.metadata),
                *self._search_routes(),
                Route(f"{BASE}/.well-known/smart-configuration", self.smart_configuration),
                Route(f"{BASE}/{{path:path}}", self.unsupported, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
                Route("/_admin/scenario", self.scenario, methods=["GET", "PUT"]),
                Route("/_admin/stats", self.stats, methods=["GET", "DELETE"]),
                Route("/_admin/requests", self.requests),
                Route("/_admin/oracle", self.oracle),
            ],
            middleware=[
                Middleware(_Count, statistics=self.statistics, clock=self._clock),
                Middleware(GZipMiddleware, minimum_size=500, compresslevel=1),
            ],
            exception_handlers={HTTPException: _http_error},
        )

    def _search_routes(self) -> list[Route]:
        routes = []
        if "documents" in self._settings.ways:
            routes += [Route(f"{BASE}/Bundle", self.search), Route(f"{BASE}/Bundle/{{id}}", self.read)]
        if "resources" in self._settings.ways:
            routes += [Route(f"{BASE}/{kind}", self.search) for kind in TYPES]
        if "export" in self._settings.ways:
            routes += [
                Route(f"{BASE}/$export", self._exports.kick_off, methods=["GET", "POST"]),
                Route(f"{BASE}/$export-status/{{job}}", self._exports.status, methods=["GET", "DELETE"]),
                Route("/export-files/{token}/{name}", self._exports.file),
            ]
        return routes

    def token_app(self) -> Starlette:
        """The ASGI application of a listener for tokens alone."""
        return Starlette(
            routes=[Route("/api/token", self.token, methods=["GET", "POST"])],
            middleware=[Middleware(_Count, statistics=self.statistics, clock=self._clock)],
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
        request.scope["mirror.page"] = hit.cursor.number if hit.walks else 0
        self._active.visit(hit.search)
        for scenario in self._active.scenarios:
            answer = scenario.interfere(hit)
            if isinstance(answer, Hang):
                return await _hang(request, answer.seconds)
            if isinstance(answer, Fault) and not answer.code:
                return Response(status_code=answer.status, headers=dict(answer.headers))
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
            if self._is_dropped(day, k):
                return outcome(410, f"Resource Bundle/{identity} was replaced and is no longer shown", code="deleted")
            text = self._current(identity, day, k)
        if text is None:
            return outcome(404, f"Resource Bundle/{identity} is not known", code="not-found")
        return self._with_etag(request, text.encode(), text)

    async def unsupported(self, request: Request) -> Response:
        """Everything else under the FHIR base."""
        request.scope["mirror.route"] = "unsupported"
        return self._refuse(request) or outcome(400, "(EHR-ERR861) Operação não suportada", code="not-supported")

    async def token(self, request: Request) -> Response:
        """An access token; only where a way of authentication with tokens is on."""
        request.scope["mirror.route"] = "token"
        if not self._gate.gives_tokens:
            return outcome(404, "Authentication by token is off", code="not-found")
        methods = self._gate.token_methods()
        if request.method not in methods:
            return outcome(405, "Method not allowed", headers={"Allow": ", ".join(methods)})
        url = self._settings.token_url or _own_token_url(request)
        given = self._gate.grant(request.headers, await request.body(), url=url, now=self._clock())
        headers = {"Cache-Control": "no-store"}
        if isinstance(given, Refusal):
            body = {"error": given.error, "error_description": given.description}
            return JSONResponse(body, status_code=401 if given.error == "invalid_client" else 400, headers=headers)
        return JSONResponse(given, headers=headers)

    async def smart_configuration(self, request: Request) -> Response:
        """Where SMART clients get their tokens, and with what algorithms."""
        request.scope["mirror.route"] = "smart-configuration"
        if self._gate.mode != "smart":
            return outcome(404, "SMART is off", code="not-found")
        body = {
            "token_endpoint": self._settings.token_url or _own_token_url(request),
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
            "scopes_supported": ["system/*.rs"],
            "capabilities": ["client-confidential-asymmetric", "permission-v2"],
        }
        return JSONResponse(body)

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
            found.log.clear()
            found.bytes_sent = found.max_in_flight = 0
        return JSONResponse(body)

    async def requests(self, request: Request) -> Response:
        """The last requests, one by one, since the last reset of the statistics."""
        request.scope["mirror.route"] = "admin"
        if not _is_local(request):
            return JSONResponse({"error": "loopback only"}, status_code=403)
        return JSONResponse({"requests": [entry for entry in self.statistics.log if entry["route"] != "admin"]})

    async def oracle(self, request: Request) -> Response:
        """Every document version that is in a day at this moment: GET ?day=2026-03-14."""
        request.scope["mirror.route"] = "admin"
        if not _is_local(request):
            return JSONResponse({"error": "loopback only"}, status_code=403)
        try:
            day = date.fromisoformat(request.query_params.get("day", ""))
        except ValueError:
            return JSONResponse({"error": "Ask for a day, like ?day=2026-03-14"}, status_code=422)
        self._active.visit(day_search(day))
        edits = self._active.catalogue.edits
        return JSONResponse(
            {"day": str(day), "versions": list_versions(self._archive, day, horizon=self._horizon(), edits=edits)}
        )

    def _refuse(self, request: Request) -> Response | None:
        reason = self._gate.refuse(request.headers, now=self._clock())
        if reason is None:
            return None
        headers = {"WWW-Authenticate": 'Basic realm="mirror"'} if self._gate.mode == "basic" else None
        return outcome(401, reason, code="security", headers=headers)

    def _clock(self) -> int:
        now = self._settings.now if self._settings.now is not None else time.time_ns() // 1_000_000
        for scenario in self._active.scenarios:
            now = scenario.clock(now)
        return now

    def _horizon(self) -> int:
        horizon = self._clock()
        for scenario in self._active.scenarios:
            horizon = scenario.horizon(horizon)
        return horizon

    def _read_hit(self, request: Request) -> Hit:
        parameters = request.query_params.multi_items()
        bookmark = next((value for name, value in parameters if name == "_bookmark"), None)
        now = self._clock()
        kind = _kind(request)
        if bookmark is not None:
            cursor = self._bookmarks.read(bookmark, now=now)
            search = self._parse(kind, cursor.parameters)
        else:
            search = self._parse(kind, parameters)
            cursor = Cursor(parameters=search.honoured, started=now)
        key = f"{request.url.path}?{request.url.query}"
        token = request.headers.get("x-authorization-server", "")
        return Hit(key=key, search=search, cursor=cursor, counts=search.count_only, credentials=token)

    def _parse(self, kind: str, parameters: Iterable[tuple[str, str]]) -> Search:
        return parse_search(parameters) if kind == "Bundle" else parse_resource_search(kind, parameters)

    def _find(self, kind: str, search: Search) -> Found:
        horizon, edits = self._horizon(), self._active.catalogue.edits
        if kind == "Bundle":
            return find_matches(self._archive, search, horizon=horizon, edits=edits)
        return self._resources.find(kind, search, horizon=horizon, edits=edits, current=self._document)

    def _answer(self, request: Request, hit: Hit) -> Response:
        search, cursor = hit.search, hit.cursor
        matches = self._find(_kind(request), search)
        total = matches.total
        page = Page(entries=(), following=None)
        if not hit.counts:
            following = cursor.following(search.count) if cursor.offset + search.count < len(matches) else None
            page = Page(entries=self._cut(hit, matches), following=following)
            for scenario in self._active.scenarios:
                page = scenario.page(hit, page)
        for scenario in self._active.scenarios:
            total = scenario.total(total)
            scenario.after_page(hit, self._active.catalogue)
        text, core = self._render(request, hit, page, total)
        body = _to_bytes(text)
        return self._send_otherwise(hit, body) or self._with_etag(request, body, core)

    def _cut(self, hit: Hit, matches: Found) -> Sequence[str]:
        """The entries of a page; scenarios cut only those of whole documents."""
        if isinstance(matches, Matches):
            for scenario in self._active.scenarios:
                entries = scenario.entries(hit, matches)
                if entries is not None:
                    return entries
        return matches.page(hit.cursor.offset, hit.search.count)

    def _send_otherwise(self, hit: Hit, body: bytes) -> Response | None:
        """The answer that a scenario makes of a page, past the rules where it must be."""
        for scenario in () if hit.counts else self._active.scenarios:
            sent = scenario.send(hit, body)
            if isinstance(sent, Body):
                headers = {"Content-Encoding": sent.encoding} if sent.encoding else None
                return Response(sent.body, media_type=sent.media_type, headers=headers)
            if isinstance(sent, Wire):
                return WireResponse(sent, headers={"Date": _http_date(self._clock())})
        return None

    def _render(self, request: Request, hit: Hit, page: Page, total: int) -> tuple[str, str]:
        """The searchset, and the part of it that an ETag stands for (not the links, which carry the time of the walk)."""
        base = f"{request.url.scheme}://{request.url.netloc}{BASE}/{_kind(request)}"
        own = list(hit.search.honoured)
        if hit.cursor.number > 1 or hit.cursor.repeat:
            own.append(("_bookmark", self._bookmarks.write(hit.cursor)))
        links = [{"relation": "self", "url": f"{base}?{urlencode(own, safe=':,')}" if own else base}]
        if page.following is not None:
            token = self._bookmarks.write(page.following)
            links.append({"relation": "next", "url": page.link(f"{base}?{urlencode([('_bookmark', token)])}")})
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

    def _with_etag(self, request: Request, body: bytes, core: str) -> Response:
        etag = f'W/"{blake2b(_to_bytes(core), digest_size=12).hexdigest()}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        wanted = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if etag.removeprefix("W/") in wanted or "*" in wanted:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=FHIR_JSON, headers=headers)

    def _is_dropped(self, day: DayArchive, k: int) -> bool:
        """Whether the document of position k was replaced and is no longer shown."""
        replaced = day.replaced_at(k)
        return replaced is not None and replaced <= self._horizon() and len(day.versions(k)) == 1

    def _document(self, identity: str) -> str | None:
        """The newest visible version of a document, as JSON text."""
        found = self._archive.locate(identity)
        return None if found is None or self._is_dropped(*found) else self._current(identity, *found)

    def _current(self, identity: str, day: DayArchive, k: int) -> str | None:
        """The newest visible version of a document that was first served at position k, as JSON text."""
        horizon = self._horizon()
        moved = self._active.catalogue.moved.get((day.day, k))
        if moved is not None and moved.instant <= horizon:
            return day.added(moved)[1]
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
            "oauth2": [{"coding": [{"code": "OAuth"}]}],
            "smart": [{"coding": [{"code": "SMART-on-FHIR"}]}],
            "rnds": [{"text": "Token in X-Authorization-Server (Bearer), CNS of the requester in Authorization"}],
        }
        served = []
        if "documents" in self._settings.ways:
            reads = [{"code": "read"}, {"code": "search-type"}]
            served.append(
                {"type": "Bundle", "interaction": reads, "versioning": "versioned", **_parameters(PARAMETERS)}
            )
        if "resources" in self._settings.ways:
            served += [_served_type(kind) for kind in TYPES]
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
                    "resource": served,
                    **({"operation": [OPERATION]} if "export" in self._settings.ways else {}),
                }
            ],
        }


class _Count:
    """ASGI middleware: counts answers and their bytes as sent (after compression), and gives them the date of the mirror."""

    def __init__(self, app: ASGIApp, statistics: Statistics, clock: Callable[[], int]) -> None:
        self._app = app
        self._statistics = statistics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, size, arrived = 0, 0, time.monotonic()

        async def counted(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"date", _http_date(self._clock()).encode())]
            size += len(message.get("body", b""))
            await send(message)

        found = self._statistics
        found.in_flight += 1
        found.max_in_flight = max(found.max_in_flight, found.in_flight)
        try:
            await self._app(scope, receive, counted)
        finally:
            found.in_flight -= 1
            route = scope.get("mirror.route", "other")
            status, size = scope.get("mirror.answered", (status, size))
            found.count(route, status, size)
            query = scope["query_string"].decode("latin-1")
            entry = {"route": route, "page": scope.get("mirror.page", 0), "status": status, "arrived": arrived}
            found.log.append({"address": f"{scope['path']}?{query}", **entry, "answered": time.monotonic()})


def _kind(request: Request) -> str:
    return request.url.path.rpartition("/")[2]


def _parameters(names: tuple[str, ...]) -> dict[str, Any]:
    found = [{"name": name, "type": _PARAMETER_TYPES.get(name, "string")} for name in (*names, "_bookmark")]
    return {"searchParam": found}


def _served_type(kind: str) -> dict[str, Any]:
    """What the CapabilityStatement says of one of the separate resources."""
    return {
        "type": kind,
        "interaction": [{"code": "search-type"}],
        "versioning": "versioned",
        **_parameters(RESOURCE_PARAMETERS),
        "searchInclude": [value for name, value in INCLUDES[kind] if name == "_include"],
        "searchRevInclude": [value for name, value in INCLUDES[kind] if name == "_revinclude"],
    }


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


def _to_bytes(text: str) -> bytes:
    """UTF-8, except for the bytes that a scenario wants to be none."""
    return text.encode(errors="surrogateescape")


def _http_date(now: int) -> str:
    return formatdate(now // 1000, usegmt=True)


async def _hang(request: Request, seconds: float) -> Response:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not await request.is_disconnected():
        await asyncio.sleep(0.05)
    return outcome(504, "(EHR-ERR999) Tempo esgotado")


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return outcome(status, f"{request.method} {request.url.path} is not supported", code="not-supported")


def _own_token_url(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}/api/token"


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
