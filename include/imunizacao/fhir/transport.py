"""Requests to the mirror: tried again politely within a budget, never taken for granted, with one word for every way to fail."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import urlunsplit

import httpx

from imunizacao.errors import (
    ConfigurationError,
    MirrorProtocolError,
    MirrorRefused,
    MirrorUnavailable,
    MirrorUnreadable,
    PipelineError,
    StorageUnavailable,
)
from imunizacao.events import log_event
from imunizacao.fhir.addresses import resolve_address, split_address
from imunizacao.fhir.auth import SKEW_SECONDS, Authenticator, make_authenticator
from imunizacao.fhir.pace import Pace, Sleep, backoff_seconds, parse_http_date, retry_after_seconds
from imunizacao.fhir.pages import BadPage, outcome_code
from imunizacao.fhir.tls import identified_context, listen_for_refusal, refusal, trusting_context
from imunizacao.settings import MirrorSettings

MAX_BODY_BYTES: Final = 90 * 1024 * 1024
"""A larger answer is refused: it would not fit the memory of a task, nor a rejected entry of it one line (128 MiB in base64)."""
MAX_TRIES: Final = 40
"""Tries of one request before giving up, should the retry budget last longer (waits of 429 are not counted)."""
FIRST_CONTACT_TRIES: Final = 3
"""Tries while the mirror has never answered: a wrong address should be told in seconds, not after the whole budget."""
BAD_BODY_TRIES: Final = 3
"""Times a page is asked for, the later ones past all caches, when its body cannot be read."""
BAD_BODY_WAIT: Final = 10.0
"""Seconds before the second try of such a page, twice as many before the third: a proxy that starts again takes some."""
SLOW_FACTOR: Final = 4
"""A whole answer may take this many read timeouts: a body that drips byte by byte never trips the read timeout itself."""

FHIR_JSON: Final = "application/fhir+json, application/json;q=0.9"
OK: Final = frozenset({200})
UNCACHED: Final = {"Cache-Control": "no-cache", "Pragma": "no-cache"}
"""Past all caches. HAPI answers a search from one of the minute before without it; `no-store` would cost its paging."""
_BACKEND_DOWN: Final = frozenset({"EHR-ERR990", "EHR-ERR991", "EHR-ERR992", "EHR-ERR993", "EHR-ERR994", "EHR-ERR999"})
"""The RNDS says with a client error that something behind it is down."""
_MUST_SERVE: Final = "; the mirror must serve this search"
DOWNLOAD_FACTOR: Final = 60
"""A whole file may take this many read timeouts."""
_SHOWN: Final = frozenset(
    {
        *("type", "_lastUpdated", "_count", "_sort", "_summary", "_total", "_include", "_revinclude"),
        *("_type", "_since", "_until", "_outputFormat"),
    }
)
"""Parameters that we send ourselves and that say nothing of anybody. Every other one may be a cursor or a signature."""

T = TypeVar("T")
_Once = Callable[[Mapping[str, str], Mapping[str, str]], Awaitable[tuple["Answer", T]]]
"""One try of a request: with what to add to get past caches, and the headers that identify us."""


class WalkBroken(MirrorProtocolError):
    """A walk cannot go on, though a new one from the first page might: the cursor was lost or a document moved away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete answer with an expected status."""

    status: int
    body: bytes
    """Decompressed; empty when the body went to a file."""
    headers: Mapping[str, str]
    """Names in lower case."""
    date: datetime
    """The mirror's clock, ours where it does not tell."""

    @property
    def etag(self) -> str:
        """The header, or an empty text."""
        return self.headers.get("etag", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What came of a request, and what it took."""

    answer: Answer
    seconds: float
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloaded:
    """A file that came whole."""

    path: Path
    bytes: int
    """Decompressed, as on disk."""
    sha256: str
    received: Received


class _Again(Exception):
    """A transient failure."""

    def __init__(
        self,
        status: str,
        *,
        wait: float | None = None,
        throttled: bool = False,
        unreachable: bool = False,
        hung_up: bool = False,
        bad_body: bool = False,
    ) -> None:
        super().__init__(status)
        self.status = status
        self.wait = wait
        self.throttled = throttled
        self.unreachable = unreachable
        self.hung_up = hung_up
        self.bad_body = bad_body


class Transport:
    """One mirror, with its connections, its token and its pace. Use it as an async context manager, in one event loop.

    `retry_budget`, 429 and `Retry-After` hold for every request alike; `requests`, `retries` and `bytes_received` count what went
    over the wire, `skew_seconds` is our clock less the mirror's, once it has answered with a `Date`: at least so much, 0 when no
    difference can be told.
    """

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
        self.skew_seconds: float | None = None
        self.settings = settings
        self.shown_base = shown(settings.base_url)
        self.sleep = sleep
        self.monotonic = monotonic
        self.now = now
        self._pace = Pace(settings.requests_per_second, sleep=sleep, monotonic=monotonic)
        self._slots = asyncio.Semaphore(settings.max_connections)
        self._answered: set[str] = set()
        """Servers that have answered anything at all."""
        self._understood = False
        """Whether a body could be read: until then another server than a mirror may be at the address, which is told soon."""
        self._auth = authenticator or make_authenticator(settings, ask=self._ask_service, monotonic=monotonic, now=now)
        _quiet_http_loggers()
        trusting = trusting_context(settings.ca_file)
        identified = identified_context(settings, now=now()) or trusting
        self._stranger = trusting, self._open_http(trusting)
        self._known = self._stranger if identified is trusting else (identified, self._open_http(identified))
        self._known_to = {origin(settings.base_url), origin(settings.token_url)}
        """Who gets to see the client certificate; files of an export may lie elsewhere."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, http in (self._known, self._stranger):
            await http.aclose()

    def _open_http(self, verify: ssl.SSLContext) -> httpx.AsyncClient:
        settings = self.settings
        return httpx.AsyncClient(
            verify=verify,
            timeout=httpx.Timeout(settings.read_timeout, connect=settings.connect_timeout, pool=None),
            limits=httpx.Limits(
                max_connections=settings.max_connections, max_keepalive_connections=settings.max_connections
            ),
            follow_redirects=False,
            # A proxy of the environment is for the outside world, never for this machine.
            trust_env=not _is_loopback(settings.base_url),
        )

    async def ask(
        self,
        url: str,
        *,
        where: str,
        method: str = "GET",
        cursor: bool = False,
        authenticated: bool = True,
        expected: frozenset[int] = OK,
        accept: str = FHIR_JSON,
        headers: Mapping[str, str] | None = None,
        content: bytes | Callable[[], bytes] | None = None,
        check: Callable[[Answer], None] | None = None,
    ) -> Received:
        """Ask until there is an answer of an expected status that passes `check`, within the retry budget of this request.

        `check` raises `BadPage` for a body that is worth asking for again, past all caches. `where` names the request in messages and
        logs. `content` may be made anew for every try. With `cursor`, an address that the mirror gave itself and refuses (4xx, but for 401
        and 403) is `WalkBroken`. With `authenticated`, no other origin than the mirror's own is asked. Raises `ConfigurationError`, `MirrorUnavailable` or `MirrorProtocolError` otherwise.
        """

        async def once(uncached: Mapping[str, str], identity: Mapping[str, str]) -> tuple[Answer, None]:
            sent = {"Accept": accept, "Accept-Encoding": "gzip", **(headers or {}), **uncached, **identity}
            return await self._send(method, url, sent, content() if callable(content) else content, where=where), None

        received, _ = await self._until_good(
            once, url=url, where=where, cursor=cursor, authenticated=authenticated, expected=expected, check=check
        )
        return received

    async def download(
        self,
        url: str,
        path: Path,
        *,
        where: str,
        authenticated: bool = True,
        expected: frozenset[int] = OK,
        accept: str = "application/fhir+ndjson, application/x-ndjson;q=0.9",
        headers: Mapping[str, str] | None = None,
    ) -> Downloaded:
        """Write the answer to a file, decompressed, in constant memory; a try that breaks off starts the file again.

        Only the body of a 200 goes to the file; that of another `expected` status is in the answer. Raises what `ask` raises, and
        `StorageUnavailable` for the local disk.
        """

        async def once(uncached: Mapping[str, str], identity: Mapping[str, str]) -> tuple[Answer, tuple[int, str]]:
            sent = {"Accept": accept, "Accept-Encoding": "gzip", **(headers or {}), **uncached, **identity}
            digest, size = hashlib.sha256(), 0
            try:
                with path.open("wb") as file:

                    def keep(block: bytes) -> None:
                        nonlocal size
                        size += len(block)
                        digest.update(block)
                        file.write(block)

                    answer = await self._send("GET", url, sent, None, where=where, keep=keep)
            except OSError as error:
                raise StorageUnavailable(
                    f"Cannot write {where} to {path.parent}: {error.strerror or type(error).__name__}. Nothing was published. Make "
                    "room on the scratch disk (IMUNIZACAO_SCRATCH_DIR) and run the task again; see docs/runbook/full-disk.md."
                ) from error
            return answer, (size, digest.hexdigest())

        received, kept = await self._until_good(
            once, url=url, where=where, cursor=False, authenticated=authenticated, expected=expected, check=None
        )
        return Downloaded(path=path, bytes=kept[0], sha256=kept[1], received=received)

    def follow(self, current: str, link: str, where: str) -> str:
        """The absolute address of a link that the mirror gave, on the mirror's own origin only; `MirrorProtocolError` otherwise."""
        url = resolve_address(current, link, what=f"a `next` of {where}")
        if origin(url) != origin(self.settings.base_url):
            raise MirrorProtocolError(
                f"The `next` address of {where} leads to {shown_origin(url)}, away from {self.shown_base}. It was not "
                "followed: identification is only sent to the mirror itself. If the mirror stands behind a proxy, it must "
                "know its public address; see docs/runbook/mirror-protocol.md."
            )
        return url

    async def _until_good(
        self,
        once: _Once[T],
        *,
        url: str,
        where: str,
        cursor: bool,
        authenticated: bool,
        expected: frozenset[int],
        check: Callable[[Answer], None] | None,
    ) -> tuple[Received, T]:
        if authenticated and origin(url) != origin(self.settings.base_url):
            # Links are followed on the mirror's own origin only, but an address may have been kept by an earlier task.
            raise MirrorProtocolError(
                f"The address of {where} lies at {shown_origin(url)}, the mirror at {self.shown_base}. It was not asked for: "
                "identification is only sent to the mirror itself. If the mirror has moved, start a new run; see "
                "docs/runbook/mirror-protocol.md."
            )
        spent, tries, throttles, bad_bodies = 0.0, 0, 0, 0
        may_reauthenticate = authenticated
        while True:
            identity = dict(await self._auth.headers()) if authenticated else {}
            started = self.monotonic()
            try:
                async with self._slots:
                    await self._pace.wait_turn()
                    started = self.monotonic()
                    answer, kept = await once(UNCACHED if bad_bodies else {}, identity)
                if answer.status == 401 and may_reauthenticate and self._auth.invalidate(identity):
                    may_reauthenticate = False
                    log_event("mirror.reauthenticate", where=where, code=outcome_code(answer.body))
                    continue
                who = f"The mirror at {self.shown_base}" if authenticated else f"The server at {shown_origin(url)}"
                self._judge(answer, expected, where=where, cursor=cursor, who=who, authenticated=authenticated)
                if check is not None:
                    _read(check, answer)
                    self._understood = True
            except _Again as failure:
                spent += self.monotonic() - started
                throttles += failure.throttled
                bad_bodies += failure.bad_body
                tries += not failure.throttled
                if failure.bad_body and self._understood:
                    last, wait = failure, bad_bodies * BAD_BODY_WAIT
                else:
                    last, wait = failure, failure.wait or backoff_seconds(throttles if failure.throttled else tries)
            else:
                seconds = self.monotonic() - started
                return Received(answer=answer, seconds=seconds, attempts=1 + tries + throttles), kept
            self._require_patience(
                last, where=where, server=shown_origin(url), spent=spent, wait=wait, tries=tries, bad_bodies=bad_bodies
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
            await self.sleep(wait)
            spent += wait

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes | None,
        *,
        where: str,
        keep: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """One request, with its body read to the end; what the network does wrong becomes `_Again`.

        The body of a 200 goes to `keep` where that is given, any other one into the answer.
        """
        self.requests += 1
        factor = SLOW_FACTOR if keep is None else DOWNLOAD_FACTOR
        limit = self.settings.connect_timeout + factor * self.settings.read_timeout
        server = shown_origin(url)
        context, http = self._known if origin(url) in self._known_to else self._stranger
        body = bytearray()
        asked = self.now()
        try:
            async with (
                asyncio.timeout(limit),
                http.stream(method, url, headers=dict(headers), content=content) as response,
            ):
                told = self.now()
                try:
                    async for block in response.aiter_bytes():
                        if keep is not None and response.status_code == 200:
                            keep(block)
                            continue
                        body += block
                        if len(body) > MAX_BODY_BYTES:
                            raise MirrorProtocolError(
                                f"The answer of {shown_origin(url)} to {where} is larger than {MAX_BODY_BYTES >> 20} MiB. Nothing was "
                                "published. Set a smaller page size (IMUNIZACAO_MIRROR_PAGE_SIZE) and run the task again; see "
                                "docs/runbook/mirror-protocol.md."
                            )
                finally:
                    self.bytes_received += response.num_bytes_downloaded
        except httpx.InvalidURL as error:
            raise MirrorProtocolError(
                f"The mirror at {self.shown_base} gave a `next` address that is not an address. "
                "See docs/runbook/mirror-protocol.md."
            ) from error
        except httpx.ConnectTimeout as error:
            raise _Again("connect timeout", unreachable=True) from error
        except httpx.DecodingError as error:
            raise _Again("body cannot be decompressed", bad_body=True) from error
        except httpx.TimeoutException as error:
            raise _Again("read timeout") from error
        except (httpx.HTTPError, ssl.SSLError) as error:  # httpx lets the latter through, and it is an OSError
            failure = _failure(error, server, never_answered=server not in self._answered)
            if isinstance(failure, _Again) and failure.hung_up:
                failure = await listen_for_refusal(url, context, server) or failure
            raise failure from error
        except TimeoutError as error:
            raise _Again(f"no complete answer within {limit:g} s") from error
        self._answered.add(server)
        declared = response.headers.get("Content-Length")
        if declared is not None and declared != str(response.num_bytes_downloaded):
            raise _Again("Content-Length differs from the body", bad_body=True)
        date = parse_http_date(response.headers.get("Date"))
        if "Age" not in response.headers:  # a cache keeps the `Date` of the past
            self._tell_skew(date, asked, told)
        named = {name.lower(): value for name, value in response.headers.items()}
        return Answer(status=response.status_code, body=bytes(body), headers=named, date=date or self.now())

    def _judge(
        self, answer: Answer, expected: frozenset[int], *, where: str, cursor: bool, who: str, authenticated: bool
    ) -> None:
        """Return for an expected status; otherwise raise what it means."""
        status = answer.status
        if status in expected:
            return
        code = outcome_code(answer.body)
        told = f"{status} {code}".rstrip()
        if status in {408, 425, 429} or status >= 500 or code in _BACKEND_DOWN:
            wait = retry_after_seconds(answer.headers.get("retry-after"), server_now=answer.date)
            raise _Again(told, wait=wait, throttled=status == 429)
        if status < 300:
            raise _Again(f"{told} instead of {'/'.join(map(str, sorted(expected)))}", bad_body=True)
        if status < 400:
            raise ConfigurationError(
                f"{who} redirects ({status}) on {where}. Set its final address; identification is never sent elsewhere. "
                "See docs/runbook/mirror-access.md."
            )
        # A token service says with the same words that it does not know us.
        kind = MirrorRefused if authenticated else ConfigurationError
        if status in {401, 403}:
            raise (ConfigurationError if status == 401 else kind)(
                f"{who} refuses us: {told} on {where}. Check the credentials, their validity and what they may read, then run "
                "the task again. See docs/runbook/mirror-access.md."
            )
        if cursor:
            # Servers say in many ways that a cursor is over: 404, 410, 400 "invalid continuation token", 422 EHR-ERR860.
            raise WalkBroken(f"{who} refuses its own `next` address: {told} on {where}.")
        if status in {404, 405, 410} or not authenticated:
            raise kind(
                f"{who} has no such address: {told} on {where}. Check the address{_MUST_SERVE if authenticated else ''}. "
                "See docs/runbook/mirror-access.md."
            )
        raise MirrorProtocolError(
            f"{who} refuses the request: {told} on {where}. Nothing was published. See docs/runbook/mirror-protocol.md."
        )

    def _require_patience(
        self, last: _Again, *, where: str, server: str, spent: float, wait: float, tries: int, bad_bodies: int
    ) -> None:
        """Raise when another try is not allowed."""
        budget = self.settings.retry_budget
        first_contact = last.hung_up or (last.unreachable and not self._answered)
        if first_contact and (tries >= FIRST_CONTACT_TRIES or spent + wait > budget):
            certificate = (
                " It may not take our client certificate: docs/runbook/mirror-access.md." if last.hung_up else ""
            )
            raise MirrorUnavailable(
                f"Cannot reach the mirror at {server}: {last.status} ({tries} tries, asking for {where}). Check that it "
                "is up and that its address is right (IMUNIZACAO_MIRROR_URL, or the Airflow connection), then run the task "
                f"again.{certificate} See docs/runbook/mirror-unavailable.md."
            )
        if bad_bodies >= BAD_BODY_TRIES:
            raise MirrorUnreadable(
                f"The mirror at {server} answered {where} {bad_bodies} times with something that is no page: "
                f"{last.status}. Nothing was published. See docs/runbook/mirror-protocol.md."
            )
        if tries >= MAX_TRIES or spent + wait > budget:
            raise MirrorUnavailable(
                f"The mirror at {server} did not give {where}: last status {last.status}, {tries} failed tries and "
                f"{spent:.0f} s of a retry budget of {budget:.0f} s. Nothing was published; slices that are complete are kept. "
                "Run the task again when the mirror is well; see docs/runbook/mirror-unavailable.md."
            )

    async def _ask_service(
        self,
        url: str,
        *,
        where: str,
        method: str = "GET",
        expected: frozenset[int],
        headers: Mapping[str, str] | None = None,
        content: Callable[[], bytes] | None = None,
    ) -> Answer:
        received = await self.ask(
            url,
            where=where,
            method=method,
            authenticated=False,
            expected=expected,
            accept="application/json",
            headers=headers,
            content=content,
        )
        return received.answer

    def _tell_skew(self, date: datetime | None, asked: datetime, told: datetime) -> None:
        """Warn once when the `Date` of an answer, which has whole seconds, cannot lie between our asking and its coming."""
        if date is None or self.skew_seconds is not None:
            return
        ahead, behind = (asked - date).total_seconds() - 1, (told - date).total_seconds()
        self.skew_seconds = max(ahead, min(0.0, behind))
        if abs(self.skew_seconds) > SKEW_SECONDS:
            log_event("mirror.clock_skew", level=logging.WARNING, seconds=round(self.skew_seconds))


def _read(check: Callable[[Answer], None], answer: Answer) -> None:
    try:
        check(answer)
    except BadPage as error:
        raise _Again(str(error), bad_body=True) from error


def _failure(error: httpx.HTTPError | ssl.SSLError, server: str, *, never_answered: bool) -> PipelineError | _Again:
    """What a connection that failed or broke means.

    With TLS 1.3 a server says only in place of its answer that it does not take our certificate, and some hang up without saying it.
    """
    if refused := refusal(error, server):
        return refused
    if isinstance(error, httpx.ConnectError):
        return _Again(_connect_reason(error), unreachable=True)
    if never_answered and server.startswith("https:"):
        return _Again("hangs up after the TLS handshake", hung_up=True)
    if isinstance(error, httpx.RemoteProtocolError):
        return _Again("the connection was closed before the answer was whole")
    return _Again(type(error).__name__)


def _connect_reason(error: httpx.ConnectError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return "its name is not known (DNS)"
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return "connection refused"
        cause = cause.__cause__ or cause.__context__
    return "connection failed"


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address; two addresses of one server have the same."""
    parts = split_address(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, (parts.hostname or "").lower(), default if port is None else port


def shown_origin(url: str) -> str:
    """Scheme, host and port as one text."""
    scheme, host, port = origin(url)
    return f"{scheme}://{host}:{port}"


def mirror_mark(base_url: str, *searched: str) -> str:
    """A short mark of a mirror and of what is searched there: whatever has another one was landed from somewhere else."""
    base = shown_origin(base_url) + split_address(base_url).path.rstrip("/")
    return hashlib.sha256("\n".join([base, *searched]).encode()).hexdigest()[:16]


def shown(url: str) -> str:
    """An address that may be kept and shown: without user, password and the values of parameters that are not ours."""
    parts = split_address(url)
    query = "&".join(_shown_pair(pair) for pair in parts.query.split("&") if pair)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def _shown_pair(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    if name.partition(":")[0] in _SHOWN:
        return pair
    return f"{name}=…" if equals else "…"


def _is_loopback(url: str) -> bool:
    host = split_address(url).hostname or ""
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
