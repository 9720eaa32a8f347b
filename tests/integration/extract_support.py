"""A small FHIR mirror that can be told to misbehave, and an object store, both real servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote

import pyarrow
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from imunizacao.fhir import parse_instant
from imunizacao.models import RunContext
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import MirrorSettings
from imunizacao.storage import ObjectStore

DAY = ReferenceDay.parse("2026-03-13")
NOW = datetime(2026, 3, 15, 2, 10, tzinfo=UTC)
"""Already the 15th in UTC, still the 14th in Brasília."""
CANARY_CNS = "700000000000005"
CANARY_TEXT = "Canario da Silva"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document version and the bytes of its search entry."""

    id: str
    version: str
    last_updated: datetime
    entry: bytes
    mode: str = "match"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request as the mirror saw it."""

    at: float
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    attempt: int
    """How often this very address was asked for, this time included."""

    def value(self, name: str) -> str:
        return dict(self.query).get(name, "")

    @property
    def is_count(self) -> bool:
        return self.value("_summary") == "count"

    @property
    def is_newest(self) -> bool:
        return bool(self.value("_sort"))

    @property
    def is_page(self) -> bool:
        return self.path.endswith("/Bundle") and not self.is_count and not self.is_newest

    @property
    def page_number(self) -> int:
        return 1 + int(self.value("_bookmark") or 0)


Answer = Response | None


def make_document(
    number: int,
    last_updated: datetime,
    *,
    version: str = "1",
    extra: str = "",
    raw_extra: bytes = b"",
    mode: str = "match",
) -> Document:
    """A document with a fictional person in it, so that a leak into a log would be seen."""
    identity = f"00000000-0000-4000-8000-{number:012d}-i0b0"
    stamp = last_updated.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    entry = (
        (
            f'{{"fullUrl":"http://mirror.example.org/Bundle/{identity}","resource":{{"resourceType":"Bundle","id":"{identity}",'
            f'"meta":{{"versionId":"{version}","lastUpdated":"{stamp}"}},"type":"document","entry":[{{"resource":'
            f'{{"resourceType":"Composition","title":"{CANARY_TEXT}","subject":{{"identifier":{{"value":"{CANARY_CNS}"}}}}{extra}'
        ).encode()
        + raw_extra
        + f'}}}}]}},"search":{{"mode":"{mode}"}}}}'.encode()
    )
    return Document(id=identity, version=version, last_updated=last_updated, entry=entry, mode=mode)


def spread(count: int, day: ReferenceDay = DAY, *, first: int = 0) -> list[Document]:
    """Documents at even distances over the day, the first one on its first instant."""
    length = day.end - day.start
    return [make_document(first + n, _milliseconds(day.start + length * n / count)) for n in range(count)]


def _milliseconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


LATER = make_document(999_999, DAY.end + timedelta(hours=3))
"""A document of the next day: the mirror has passed the end of the day."""


@dataclass
class FakeMirror:
    """Serves `documents` by `_lastUpdated`; the hooks change what it answers."""

    documents: list[Document] = field(default_factory=list)
    before: Callable[[Seen], Answer] = lambda seen: None
    """May answer in place of the mirror."""
    edit_page: Callable[[Seen, list[bytes], list[dict[str, str]]], None] = lambda seen, entries, links: None
    """May change entries and links of a page."""
    edit_body: Callable[[Seen, bytes], bytes] = lambda seen, body: body
    edit_total: Callable[[Seen, int], int] = lambda seen, total: total
    page_limit: int = 1000
    honour_sort: bool = True
    seen: list[Seen] = field(default_factory=list)
    base: str = ""
    delay: float = 0.0
    """Seconds before each answer."""
    most_at_once: int = 0
    _at_once: int = 0
    _attempts: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def pages_seen(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.is_page]

    @property
    def counts_seen(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.is_count]

    def forget(self) -> None:
        """Start a new record of requests."""
        self.seen.clear()
        self._attempts.clear()

    def settings(self, **changes: object) -> MirrorSettings:
        """Settings for this mirror, with short patience."""
        values: dict[str, object] = {
            "base_url": self.base,
            "page_size": 10,
            "connect_timeout": 2.0,
            "read_timeout": 5.0,
            "retry_budget": 600.0,
        }
        return MirrorSettings(**(values | changes))  # type: ignore[arg-type]

    async def _handle(self, request: Request) -> Response:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.delay)
            return self._answer(request)
        finally:
            self._at_once -= 1

    def _answer(self, request: Request) -> Response:
        url = str(request.url)
        with self._lock:
            self._attempts[url] = self._attempts.get(url, 0) + 1
            seen = Seen(
                at=time.monotonic(),
                path=request.url.path,
                query=parse_qsl(request.url.query),
                headers=dict(request.headers),
                attempt=self._attempts[url],
            )
            self.seen.append(seen)
        answer = self.before(seen)
        if answer is not None:
            return answer
        if not seen.path.endswith("/Bundle"):
            return outcome(404, "(EHR-ERR850) unknown", code="not-found")
        body = self.edit_body(seen, self._bundle(seen, request.url.query))
        return Response(body, media_type="application/fhir+json", headers={"ETag": f'W/"{len(body)}"'})

    def _bundle(self, seen: Seen, query: str) -> bytes:
        found = self._matching(seen)
        total = self.edit_total(seen, sum(document.mode == "match" for document in found))
        self_query = [(name, value) for name, value in seen.query if name != "_sort" or self.honour_sort]
        links = [{"relation": "self", "url": f"{self.base}/Bundle?" + _encode(self_query)}]
        entries: list[bytes] = []
        if not seen.is_count:
            if seen.is_newest and self.honour_sort:
                found = sorted(found, key=lambda document: document.last_updated, reverse=True)
            size = min(int(seen.value("_count") or 10), self.page_limit)
            start = int(seen.value("_bookmark") or 0) * size
            entries = [document.entry for document in found[start : start + size]]
            if start + size < len(found):
                rest = [pair for pair in seen.query if pair[0] != "_bookmark"]
                following = [*rest, ("_bookmark", str(start // size + 1))]
                links.append({"relation": "next", "url": f"{self.base}/Bundle?" + _encode(following)})
            if seen.is_page:
                self.edit_page(seen, entries, links)
        head = json.dumps({"resourceType": "Bundle", "type": "searchset", "total": total, "link": links})
        return head[:-1].encode() + b',"entry":[' + b",".join(entries) + b"]}"

    def _matching(self, seen: Seen) -> list[Document]:
        found = list(self.documents)
        for name, value in seen.query:
            if name != "_lastUpdated":
                continue
            bound = parse_instant(value[2:])
            assert bound is not None, f"not an instant: {value}"
            if value[:2] == "ge":
                found = [document for document in found if document.last_updated >= bound]
            elif value[:2] == "lt":
                found = [document for document in found if document.last_updated < bound]
            else:
                raise AssertionError(f"unexpected prefix in {value}")
        return found


def outcome(
    status: int, diagnostics: str, *, code: str = "processing", headers: dict[str, str] | None = None
) -> Response:
    """An OperationOutcome as the RNDS writes it."""
    body = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": code, "diagnostics": diagnostics}],
    }
    return Response(json.dumps(body), status_code=status, media_type="application/fhir+json", headers=headers)


@contextlib.contextmanager
def running_mirror(documents: list[Document] | None = None) -> Iterator[FakeMirror]:
    """The mirror on a free port; the day after DAY has begun unless documents are given."""
    mirror = FakeMirror(documents=[LATER] if documents is None else documents)
    app = Starlette(routes=[Route("/{path:path}", mirror._handle, methods=["GET", "POST", "DELETE"])])
    # With its protocol named, asyncio sends what is written at once (TCP_NODELAY): without, each answer waits 40 ms for an ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    mirror.base = f"http://127.0.0.1:{listener.getsockname()[1]}/fhir/r4"
    config = uvicorn.Config(
        app,
        log_level="critical",
        lifespan="off",
        ws="none",
        http="h11",
        loop="asyncio",
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield mirror
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


class SleepLog:
    """Sleeps that take no time and are remembered."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def context(run_id: str = "run-1", *, day: ReferenceDay = DAY, code_version: str = "c0de") -> RunContext:
    return RunContext.create(day=day, run_id=run_id, code_version=code_version)


def clear(store: ObjectStore) -> None:
    """Remove what an earlier test left."""
    for found in list(store.list("v1/")):
        store.delete(found.key)


def read_zstd(body: bytes) -> bytes:
    """Plain text of a zstd object."""
    with pyarrow.CompressedInputStream(io.BytesIO(body), "zstd") as stream:
        return bytes(stream.read())


def _encode(query: list[tuple[str, str]]) -> str:
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in query)
