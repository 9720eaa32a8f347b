"""The FHIR search client: counts, walks pages, tries again politely, and never takes an answer for granted."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import ipaddress
import logging
import re
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import httpx

from imunizacao.errors import ConfigurationError, MirrorProtocolError, MirrorUnavailable
from imunizacao.events import log_event
from imunizacao.fhir.auth import Authenticator, Token, make_authenticator, read_token
from imunizacao.fhir.pace import Pace, Sleep, backoff_seconds, parse_http_date, retry_after_seconds
from imunizacao.fhir.pages import BadPage, Page, PageContent, outcome_code, read_page
from imunizacao.fhir.window import Window, instant_text, require_filters
from imunizacao.settings import MirrorSettings

MAX_BODY_BYTES: Final = 90 * 1024 * 1024
"""A larger answer is refused: it would not fit the memory of a task, nor a rejected entry of it one line (128 MiB in base64)."""
MAX_TRIES: Final = 40
"""Tries of one request before giving up, should the retry budget last longer (waits of 429 are not counted)."""
FIRST_CONTACT_TRIES: Final = 3
"""Tries while the mirror has never answered: a wrong address should be told in seconds, not after the whole budget."""
BAD_BODY_TRIES: Final = 3
"""Times a page is asked for, the later ones past all caches, when its body cannot be read."""
SLOW_FACTOR: Final = 4
"""A whole answer may take this many read timeouts: a body that drips byte by byte never trips the read timeout itself."""
SKEW_SECONDS: Final = 60.0
"""Difference between our clock and the mirror's `Date` that is worth a warning."""

_ACCEPT: Final = "application/fhir+json, application/json;q=0.9"
_UNCACHED: Final = {"Cache-Control": "no-cache, no-store", "Pragma": "no-cache"}
_LOST_CURSOR: Final = frozenset({"EHR-ERR848", "EHR-ERR860"})
"""The RNDS says that a `_bookmark` is wrong or has expired."""
_BACKEND_DOWN: Final = frozenset({"EHR-ERR990", "EHR-ERR991", "EHR-ERR992", "EHR-ERR993", "EHR-ERR994", "EHR-ERR999"})
"""The RNDS says with a client error that something behind it is down."""
_SECRET_NAME: Final = re.compile(r"token|secret|passw|senha|key|sig|auth|credential", re.IGNORECASE)

T = TypeVar("T")


class WalkBroken(MirrorProtocolError):
    """A walk cannot go on, though a new one from the first page might: the cursor was lost or a document moved away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A complete answer with status 200."""

    body: bytes
    etag: str
    date: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Received:
    """What came of a request, and what it took."""

    answer: _Answer
    seconds: float
    attempts: int


class _Again(Exception):
    """A transient failure."""

    def __init__(
        self,
        status: str,
        *,
        wait: float | None = None,
        throttled: bool = False,
        unreachable: bool = False,
        bad_body: bool = False,
    ) -> None:
        super().__init__(status)
        self.status = status
        self.wait = wait
        self.throttled = throttled
        self.unreachable = unreachable
        self.bad_body = bad_body


class MirrorClient:
    """One mirror, with its connections, its token and its pace. Use it as an async context manager, in one event loop."""

    def __init__(
        self,
        settings: MirrorSettings,
        *,
        authenticator: Authenticator | None = None,
        sleep: Sleep = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.requests = 0
        self.retries = 0
        self.bytes_received = 0
        self._settings = settings
        self._shown_base = _shown(settings.base_url)
        self._sleep = sleep
        self._monotonic = monotonic
        self._now = now
        self._pace = Pace(settings.requests_per_second, sleep=sleep, monotonic=monotonic)
        self._slots = asyncio.Semaphore(settings.max_connections)
        self._answered = False
        self._skew_told = False
        self._codes_told: set[str] = set()
        self._auth = authenticator or make_authenticator(settings, ask_token=self._ask_token, monotonic=monotonic)
        _quiet_http_loggers()
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(settings.read_timeout, connect=settings.connect_timeout, pool=None),
            limits=httpx.Limits(
                max_connections=settings.max_connections, max_keepalive_connections=settings.max_connections
            ),
            follow_redirects=False,
            # A proxy of the environment is for the outside world, never for this machine.
            trust_env=not _is_loopback(settings.base_url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def count(self, window: Window) -> int:
        """Ask how many document versions the mirror has in a window."""
        return await self._count(window.bounds, where=f"count of {window}")

    async def count_since(self, moment: datetime) -> int:
        """Ask how many document versions the mirror has from an instant on."""
        return await self._count([f"ge{instant_text(moment)}"], where=f"count since {instant_text(moment)}")

    async def newest(self) -> datetime | None:
        """Ask for the instant of the newest document; None when the mirror is empty or cannot sort."""
        url = self._search_url([("_sort", "-_lastUpdated"), ("_count", "1")])
        try:
            content, _ = await self._page(url, where="newest document", cursor=False)
        except MirrorProtocolError as error:
            # Not every server sorts (the RNDS answers EHR-ERR995). The caller has another way to ask.
            log_event("mirror.cannot_sort", level=logging.DEBUG, reason=type(error).__name__)
            return None
        sorts = [value for name, value in parse_qsl(urlsplit(content.self_url or "").query) if name == "_sort"]
        if "-_lastUpdated" not in sorts:
            return None
        return max((entry.last_updated for entry in content.entries if entry.last_updated), default=None)

    async def walk(self, window: Window) -> AsyncGenerator[Page, None]:
        """Walk all pages of a window, in the server's order.

        The server's `next` is followed as it is, on the same origin only. A page without a match ends the walk, and so
        does a `next` that was visited before; whether all documents came is for the caller to count. Raises `WalkBroken`
        when the walk should start again, and `MirrorProtocolError` when it should not.
        """
        url: str | None = self._search_url(
            [*(("_lastUpdated", bound) for bound in window.bounds), ("_count", str(self._settings.page_size))]
        )
        visited: set[str] = set()
        number = 0
        while url is not None:
            number += 1
            visited.add(url)
            where = f"slice {window} page {number}"
            content, received = await self._page(url, where=where, cursor=number > 1)
            require_filters(content.self_url, window.bounds, where=where, required=number == 1)
            self._tell_outcomes(content, where)
            _require_inside(content, window, where)
            if not content.entries:
                return
            yield Page(
                number=number,
                url=_shown(url),
                etag=received.answer.etag,
                sha256=hashlib.sha256(received.answer.body).hexdigest(),
                bytes=len(received.answer.body),
                seconds=received.seconds,
                attempts=received.attempts,
                content=content,
            )
            url = self._next_url(url, content.next_url, where)
            if url is not None and url in visited:
                log_event(
                    "mirror.next_loops",
                    level=logging.WARNING,
                    slice=str(window),
                    page=number,
                    pages_visited=len(visited),
                )
                return

    async def _count(self, bounds: list[str], *, where: str) -> int:
        url = self._search_url(
            [*(("_lastUpdated", bound) for bound in bounds), ("_summary", "count"), ("_total", "accurate")]
        )
        content, _ = await self._page(url, where=where, cursor=False)
        require_filters(content.self_url, bounds, where=where, required=content.self_url is not None)
        if content.total is None or content.total < 0:
            raise MirrorProtocolError(
                f"The mirror gave no total for the {where}. Without totals nobody can tell whether a day is whole, so nothing "
                "was taken. The mirror must support `_summary=count`; see docs/runbook/mirror-protocol.md."
            )
        return content.total

    async def _page(self, url: str, *, where: str, cursor: bool) -> tuple[PageContent, _Received]:
        parsed: list[PageContent] = []

        def check(answer: _Answer) -> None:
            parsed[:] = [read_page(answer.body)]

        received = await self._get(url, where=where, cursor=cursor, authenticated=True, check=check)
        return parsed[0], received

    async def _ask_token(self) -> Token:
        found: list[Token] = []

        def check(answer: _Answer) -> None:
            found[:] = [read_token(answer.body, server_now=answer.date)]

        await self._get(self._settings.token_url, where="access token", cursor=False, authenticated=False, check=check)
        return found[0]

    async def _get(
        self, url: str, *, where: str, cursor: bool, authenticated: bool, check: Callable[[_Answer], None]
    ) -> _Received:
        """Ask until there is an answer that passes `check`, within the retry budget of this chain of requests."""
        spent, tries, throttles, bad_bodies = 0.0, 0, 0, 0
        may_reauthenticate = authenticated
        while True:
            headers = {"Accept": _ACCEPT, "Accept-Encoding": "gzip"} | (_UNCACHED if bad_bodies else {})
            identity = dict(await self._auth.headers()) if authenticated else {}
            started = self._monotonic()
            try:
                async with self._slots:
                    await self._pace.wait_turn()
                    started = self._monotonic()
                    response, answer = await self._send(url, headers | identity)
                if response.status_code == 401 and may_reauthenticate and self._auth.invalidate(identity):
                    may_reauthenticate = False
                    log_event("mirror.reauthenticate", where=where, code=outcome_code(answer.body))
                    continue
                self._judge(response, answer, where=where, cursor=cursor, authenticated=authenticated)
                _read(check, answer)
            except _Again as failure:
                spent += self._monotonic() - started
                throttles += failure.throttled
                bad_bodies += failure.bad_body
                tries += not failure.throttled
                last, wait = failure, failure.wait or backoff_seconds(throttles if failure.throttled else tries)
            else:
                return _Received(answer=answer, seconds=self._monotonic() - started, attempts=1 + tries + throttles)
            self._require_patience(
                last, where=where, server=_shown_origin(url), spent=spent, wait=wait, tries=tries, bad_bodies=bad_bodies
            )
            self.retries += 1
            log_event(
                "mirror.retry",
                level=logging.WARNING,
                where=where,
                status=last.status,
                tries=tries + throttles,
                wait=wait,
            )
            if last.throttled:
                self._pace.hold(wait)
            await self._sleep(wait)
            spent += wait

    async def _send(self, url: str, headers: dict[str, str]) -> tuple[httpx.Response, _Answer]:
        """One request, with its body read to the end; what the network does wrong becomes `_Again`."""
        self.requests += 1
        limit = self._settings.connect_timeout + SLOW_FACTOR * self._settings.read_timeout
        body = bytearray()
        try:
            async with asyncio.timeout(limit), self._http.stream("GET", url, headers=headers) as response:
                try:
                    async for block in response.aiter_bytes():
                        body += block
                        if len(body) > MAX_BODY_BYTES:
                            raise MirrorProtocolError(
                                f"An answer of {_shown_origin(url)} is larger than {MAX_BODY_BYTES >> 20} MiB. "
                                "Set a smaller page size (IMUNIZACAO_MIRROR_PAGE_SIZE) and run the task again."
                            )
                finally:
                    self.bytes_received += response.num_bytes_downloaded
        except httpx.InvalidURL as error:
            raise MirrorProtocolError(
                f"The mirror at {self._shown_base} gave a `next` address that is not an address. "
                "See docs/runbook/mirror-protocol.md."
            ) from error
        except httpx.ConnectError as error:
            _refuse_bad_certificate(error, self._shown_base)
            raise _Again(_connect_reason(error), unreachable=True) from error
        except httpx.ConnectTimeout as error:
            raise _Again("connect timeout", unreachable=True) from error
        except httpx.DecodingError as error:
            raise _Again("body cannot be decompressed", bad_body=True) from error
        except httpx.TimeoutException as error:
            raise _Again("read timeout") from error
        except httpx.HTTPError as error:
            raise _Again(type(error).__name__) from error
        except TimeoutError as error:
            raise _Again(f"no complete answer within {limit:g} s") from error
        self._answered = True
        declared = response.headers.get("Content-Length")
        if declared is not None and declared != str(response.num_bytes_downloaded):
            raise _Again("Content-Length differs from the body", bad_body=True)
        date = parse_http_date(response.headers.get("Date"))
        self._tell_skew(date)
        return response, _Answer(body=bytes(body), etag=response.headers.get("ETag", ""), date=date or self._now())

    def _judge(
        self, response: httpx.Response, answer: _Answer, *, where: str, cursor: bool, authenticated: bool
    ) -> None:
        """Return for a 200; otherwise raise what its status means."""
        status = response.status_code
        if status == 200:
            return
        code = outcome_code(answer.body)
        shown = f"{status} {code}".rstrip()
        if status in {408, 425, 429} or status >= 500 or code in _BACKEND_DOWN:
            wait = retry_after_seconds(response.headers.get("Retry-After"), server_now=answer.date)
            raise _Again(shown, wait=wait, throttled=status == 429)
        if status < 300:
            raise _Again(f"{shown} instead of 200", bad_body=True)
        who = f"The mirror at {self._shown_base}" if authenticated else "The token service"
        if status < 400:
            raise ConfigurationError(
                f"{who} redirects ({status}) on {where}. Set its final address; identification is never sent elsewhere. "
                "See docs/runbook/mirror-access.md."
            )
        if status in {401, 403}:
            raise ConfigurationError(
                f"{who} refuses us: {shown} on {where}. Check the credentials, their validity and what they may read, then run "
                "the task again. See docs/runbook/mirror-access.md."
            )
        if cursor and (status in {404, 410} or code in _LOST_CURSOR):
            raise WalkBroken(f"{who} no longer knows its own `next` address: {shown} on {where}.")
        if status in {404, 405, 410} or not authenticated:
            raise ConfigurationError(
                f"{who} has no such address: {shown} on {where}. Check the address; the mirror must serve searches of Bundle. "
                "See docs/runbook/mirror-access.md."
            )
        raise MirrorProtocolError(
            f"{who} refuses the request: {shown} on {where}. Nothing was published. See docs/runbook/mirror-protocol.md."
        )

    def _require_patience(
        self, last: _Again, *, where: str, server: str, spent: float, wait: float, tries: int, bad_bodies: int
    ) -> None:
        """Raise when another try is not allowed."""
        budget = self._settings.retry_budget
        if last.unreachable and not self._answered and (tries >= FIRST_CONTACT_TRIES or spent + wait > budget):
            raise MirrorUnavailable(
                f"Cannot reach the mirror at {server}: {last.status} ({tries} tries, asking for {where}). Check that it "
                "is up and that its address is right (IMUNIZACAO_MIRROR_URL, or the Airflow connection), then run the task "
                "again. See docs/runbook/mirror-unavailable.md."
            )
        if bad_bodies >= BAD_BODY_TRIES:
            raise MirrorProtocolError(
                f"The mirror at {server} answered {where} {bad_bodies} times with something that is no page: "
                f"{last.status}. Nothing was published. See docs/runbook/mirror-protocol.md."
            )
        if tries >= MAX_TRIES or spent + wait > budget:
            raise MirrorUnavailable(
                f"The mirror at {server} did not give {where}: last status {last.status}, {tries} failed tries and "
                f"{spent:.0f} s of a retry budget of {budget:.0f} s. Nothing was published; slices that are complete are kept. "
                "Run the task again when the mirror is well; see docs/runbook/mirror-unavailable.md."
            )

    def _search_url(self, parameters: list[tuple[str, str]]) -> str:
        query = urlencode([("type", "document"), *parameters], safe=":-")
        return f"{self._settings.base_url.rstrip('/')}/Bundle?{query}"

    def _next_url(self, current: str, link: str | None, where: str) -> str | None:
        if link is None:
            return None
        url = urlsplit(urljoin(current, link))._replace(fragment="")
        if _origin(url.geturl()) != _origin(self._settings.base_url):
            raise MirrorProtocolError(
                f"The `next` address of {where} leads to {_shown_origin(url.geturl())}, away from {self._shown_base}. It was not "
                "followed: identification is only sent to the mirror itself. If the mirror stands behind a proxy, it must "
                "know its public address; see docs/runbook/mirror-protocol.md."
            )
        return url.geturl()

    def _tell_outcomes(self, content: PageContent, where: str) -> None:
        """Log what the server says about the search, each code once."""
        for code in content.outcomes:
            if code not in self._codes_told:
                self._codes_told.add(code)
                log_event("mirror.outcome", level=logging.WARNING, where=where, code=code)

    def _tell_skew(self, date: datetime | None) -> None:
        if date is None or self._skew_told:
            return
        self._skew_told = True
        skew = (self._now() - date).total_seconds()
        if abs(skew) > SKEW_SECONDS:
            log_event("mirror.clock_skew", level=logging.WARNING, seconds=round(skew))


def mirror_newest(settings: MirrorSettings, *, sleep: Sleep = asyncio.sleep) -> datetime | None:
    """Ask a mirror for the instant of its newest document; None when it is empty or cannot sort."""

    async def ask() -> datetime | None:
        async with MirrorClient(settings, sleep=sleep) as client:
            return await client.newest()

    return asyncio.run(ask())


def _read(check: Callable[[_Answer], None], answer: _Answer) -> None:
    try:
        check(answer)
    except BadPage as error:
        raise _Again(str(error), bad_body=True) from error


def _require_inside(content: PageContent, window: Window, where: str) -> None:
    outside = sum(entry.last_updated is not None and entry.last_updated not in window for entry in content.entries)
    if outside:
        raise WalkBroken(
            f"The mirror put {outside} documents into {where} whose lastUpdated lies outside it: they changed during the walk, "
            "or its search by `_lastUpdated` cannot be trusted."
        )


def _refuse_bad_certificate(error: httpx.ConnectError, base: str) -> None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise ConfigurationError(
                f"The certificate of the mirror at {base} cannot be trusted ({cause.verify_message}). Nothing was sent. "
                "Check the address and the trusted authorities (SSL_CERT_FILE); see docs/runbook/mirror-access.md."
            ) from error
        cause = cause.__cause__ or cause.__context__


def _connect_reason(error: httpx.ConnectError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return "its name is not known (DNS)"
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return "connection refused"
        cause = cause.__cause__ or cause.__context__
    return "connection failed"


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, (parts.hostname or "").lower(), default if port is None else port


def _shown_origin(url: str) -> str:
    scheme, host, port = _origin(url)
    return f"{scheme}://{host}:{port}"


def _shown(url: str) -> str:
    """An address that may be kept and shown: without user, password and parameters whose names smell of secrets."""
    parts = urlsplit(url)
    query = "&".join(
        f"{name}=…" if _SECRET_NAME.search(name) else pair
        for pair in parts.query.split("&")
        if (name := pair.partition("=")[0]) or pair
    )
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _quiet_http_loggers() -> None:
    """The HTTP libraries log addresses at INFO and headers at DEBUG: neither belongs into a task log."""
    for name in ("httpx", "httpcore"):
        logger = logging.getLogger(name)
        if logger.level < logging.WARNING:
            logger.setLevel(logging.WARNING)
