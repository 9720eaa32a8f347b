"""The client of the mirror, over real HTTP: what is tried again, for how long, and what is never taken or sent."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from starlette.responses import Response, StreamingResponse

from imunizacao.errors import (
    ConfigurationError,
    MirrorProtocolError,
    MirrorUnavailable,
    MirrorUnreadable,
    PipelineError,
)
from imunizacao.fhir import MirrorClient, Page, WalkBroken, Window, mirror_newest, transport
from imunizacao.settings import MirrorSettings
from tests.integration.extract_support import (
    CANARY_CNS,
    DAY,
    LATER,
    FakeMirror,
    Seen,
    SleepLog,
    make_document,
    outcome,
    running_mirror,
)

T = TypeVar("T")
HOUR = Window(start=DAY.start, end=DAY.start + timedelta(hours=1))


@pytest.fixture
def mirror() -> Iterator[FakeMirror]:
    with running_mirror() as mirror:
        mirror.documents += [make_document(n, DAY.start + timedelta(seconds=n)) for n in range(25)]
        yield mirror


class Caller:
    """One client per call, with sleeps that take no time."""

    def __init__(self, mirror: FakeMirror) -> None:
        self.mirror = mirror
        self.sleep = SleepLog()
        self.last: MirrorClient | None = None

    def ask(
        self,
        call: Callable[[MirrorClient], Awaitable[T]],
        *,
        monotonic: Callable[[], float] | None = None,
        **changes: Any,
    ) -> T:
        async def run() -> T:
            extra: dict[str, Any] = {"monotonic": monotonic} if monotonic else {}
            async with MirrorClient(self.mirror.settings(**changes), sleep=self.sleep, **extra) as opened:
                self.last = opened
                return await call(opened)

        return asyncio.run(run())

    def count(self, **changes: Any) -> int:
        return self.ask(lambda opened: opened.count(HOUR), **changes)

    def walk(self, *, announced: int | None = None, **changes: Any) -> list[Page]:
        async def collect(opened: MirrorClient) -> list[Page]:
            return [page async for page in opened.walk(HOUR, announced=announced)]

        return self.ask(collect, **changes)

    def sizes(self, **changes: Any) -> list[int]:
        return [len(page.content.entries) for page in self.walk(**changes)]


@pytest.fixture
def caller(mirror: FakeMirror) -> Caller:
    return Caller(mirror)


def once(
    answer: Callable[[], Response], *, which: Callable[[Seen], bool] = lambda seen: True
) -> Callable[[Seen], Response | None]:
    """Answer the first request for each address this way."""
    return lambda seen: answer() if seen.attempt == 1 and which(seen) else None


# ---------------------------------------------------------------- transient failures


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_transient_status_is_tried_again(caller: Caller, status: int) -> None:
    caller.mirror.before = once(lambda: Response(status_code=status))
    assert caller.sizes() == [10, 10, 5]
    assert caller.last is not None
    assert (caller.last.requests, caller.last.retries) == (6, 3)
    assert len(caller.sleep.seconds) >= 3


@pytest.mark.parametrize("code", ["EHR-ERR990", "EHR-ERR999"])
def test_a_backend_that_is_down_is_transient_whatever_the_status_says(caller: Caller, code: str) -> None:
    caller.mirror.before = once(lambda: outcome(422, f"({code}) fora do ar"))
    assert caller.count() == 25


def test_waits_grow_at_random_and_stay_under_a_minute(caller: Caller) -> None:
    caller.mirror.before = lambda seen: Response(status_code=500) if seen.attempt <= 12 else None
    assert caller.count() == 25
    assert len(caller.sleep.seconds) == 12
    limits = [min(60.0, 0.5 * 2**n) for n in range(1, 13)]
    assert all(0 <= wait <= limit for wait, limit in zip(caller.sleep.seconds, limits, strict=True))
    assert len(set(caller.sleep.seconds)) == 12, "full jitter"


def test_the_budget_ends_the_tries_and_names_page_status_and_next_step(caller: Caller) -> None:
    caller.mirror.before = lambda seen: outcome(503, "(EHR-ERR992) x") if seen.page_number == 2 else None
    with pytest.raises(MirrorUnavailable) as failure:
        caller.walk(retry_budget=20.0)
    text = str(failure.value)
    assert f"did not give slice {HOUR} page 2: last status 503 EHR-ERR992" in text
    assert "retry budget of 20 s" in text
    assert "Run the task again" in text
    assert sum(caller.sleep.seconds) <= 20


def test_a_budget_is_for_one_request_not_for_the_walk(caller: Caller) -> None:
    caller.mirror.before = lambda seen: (
        Response(status_code=503, headers={"Retry-After": "8"}) if seen.attempt == 1 else None
    )
    assert caller.sizes(retry_budget=10.0) == [10, 10, 5]


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("86400", 300, 300),
        ("9" * 400, 300, 300),
        ("-5", 0, 1),
        ("soon", 0, 1),
        ("", 0, 1),
        ("0", 0, 1),
        ("NaN", 0, 1),
        ("1e3", 0, 1),
    ],
)
def test_retry_after_in_seconds_is_honoured_capped_or_ignored(
    caller: Caller, header: str, low: float, high: float
) -> None:
    caller.mirror.before = once(lambda: Response(status_code=503, headers={"Retry-After": header}))
    assert caller.count() == 25
    (wait,) = caller.sleep.seconds
    assert low <= wait <= high


@pytest.mark.parametrize(("ahead", "low", "high"), [(40, 39, 41), (9000, 300, 300), (-60, 0, 1)])
def test_retry_after_as_a_date_is_measured_on_the_servers_clock(
    caller: Caller, ahead: int, low: float, high: float
) -> None:
    server_now = datetime(2031, 5, 1, 12, tzinfo=UTC)

    def refuse() -> Response:
        when = format_datetime(server_now + timedelta(seconds=ahead), usegmt=True)
        return Response(
            status_code=503, headers={"Retry-After": when, "Date": format_datetime(server_now, usegmt=True)}
        )

    caller.mirror.before = once(refuse)
    assert caller.count() == 25
    (wait,) = caller.sleep.seconds
    assert low <= wait <= high


def test_no_request_goes_out_before_the_time_the_mirror_asked_for(mirror: FakeMirror) -> None:
    mirror.before = once(lambda: Response(status_code=429, headers={"Retry-After": "1"}))

    async def run() -> None:
        async with MirrorClient(mirror.settings()) as opened:
            await opened.count(HOUR)

    asyncio.run(run())
    first, second = mirror.seen
    assert second.at - first.at >= 1.0


def test_throttling_uses_up_time_but_no_tries(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_TRIES", 3)
    caller.mirror.before = lambda seen: (
        Response(status_code=429, headers={"Retry-After": "10"}) if seen.attempt <= 9 else None
    )
    assert caller.count(retry_budget=200.0) == 25
    caller.mirror.forget()
    with pytest.raises(MirrorUnavailable, match="last status 429"):
        caller.count(retry_budget=55.0)
    assert len(caller.mirror.seen) == 6


def test_throttling_holds_the_other_connections_too(mirror: FakeMirror) -> None:
    mirror.before = lambda seen: (
        Response(status_code=429, headers={"Retry-After": "1"}) if len(mirror.seen) == 1 else None
    )

    async def run() -> None:
        async with MirrorClient(mirror.settings()) as opened:
            first = asyncio.create_task(opened.count(HOUR))
            while not opened.retries:
                await asyncio.sleep(0.01)
            await asyncio.gather(first, opened.count_since(DAY.start))

    asyncio.run(run())
    assert all(seen.at - mirror.seen[0].at >= 1.0 for seen in mirror.seen[1:])


def test_requests_keep_the_pace_that_was_set(mirror: FakeMirror) -> None:
    async def run() -> None:
        async with MirrorClient(mirror.settings(requests_per_second=20.0)) as opened:
            await asyncio.gather(*(opened.count(HOUR) for _ in range(6)))

    asyncio.run(run())
    times = sorted(seen.at for seen in mirror.seen)
    assert times[-1] - times[0] >= 0.2


# ---------------------------------------------------------------- timeouts and broken answers


async def _drip(first_wait: float) -> AsyncIterator[bytes]:
    await asyncio.sleep(first_wait)
    while True:
        yield b" "
        await asyncio.sleep(0.05)


def test_a_silent_mirror_is_a_read_timeout_and_is_tried_again(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caller.mirror.before = once(lambda: StreamingResponse(_drip(5.0)))
    assert caller.count(read_timeout=0.3) == 25
    assert 'status="read timeout"' in caplog.text


def test_a_body_that_drips_is_cut_off(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caller.mirror.before = once(lambda: StreamingResponse(_drip(0.0)))
    assert caller.count(read_timeout=0.2, connect_timeout=0.2) == 25
    assert 'status="no complete answer within 1 s"' in caplog.text


def test_a_body_shorter_than_announced_is_never_taken(caller: Caller) -> None:
    whole = json.dumps({"resourceType": "Bundle", "type": "searchset", "total": 3}).encode()
    caller.mirror.before = once(lambda: Response(whole, headers={"Content-Length": str(len(whole) + 9)}))
    assert caller.count() == 25
    assert len(caller.mirror.seen) == 2


@pytest.mark.parametrize(
    "broken",
    [
        lambda: Response("<html>Bem-vindo</html>", media_type="text/html"),
        lambda: Response(b'{"resourceType":"Bundle","type":"searchset","total":25,"entry":[{"fullUrl":"a'),
        lambda: Response(b"not gzip", headers={"Content-Encoding": "gzip"}),
        lambda: Response(b"", status_code=204),
        lambda: Response(b'{"resourceType":"Bundle","type":"document"}'),
        lambda: outcome(200, "(EHR-ERR999) x"),
    ],
    ids=["html", "truncated", "bad gzip", "no content", "other bundle", "outcome"],
)
def test_a_body_that_is_no_page_is_asked_for_again_past_caches_then_refused(
    caller: Caller, broken: Callable[[], Response]
) -> None:
    caller.mirror.before = once(broken)
    assert caller.sizes() == [10, 10, 5]
    second, again = caller.mirror.pages_seen[2:4]
    assert again.query == second.query
    assert "cache-control" not in second.headers
    assert again.headers["cache-control"] == "no-cache"

    caller.mirror.forget()
    caller.mirror.before = lambda seen: broken()
    with pytest.raises(
        MirrorProtocolError, match=rf"answered slice {HOUR} page 1 3 times with something that is no page"
    ):
        caller.walk()
    assert len(caller.mirror.seen) == 3


def test_a_mirror_that_spoke_fhir_before_gets_half_a_minute_to_do_so_again(caller: Caller) -> None:
    """A proxy that starts again answers 200 with a page of its own; at the first contact it may be a wrong address."""
    caller.mirror.before = lambda seen: Response("<html>Em manutenção</html>") if seen.page_number == 2 else None
    with pytest.raises(MirrorUnreadable):
        caller.walk()
    assert sum(caller.sleep.seconds) == 30

    caller.sleep.seconds.clear()
    caller.mirror.before = lambda seen: Response("<html>Em manutenção</html>")
    with pytest.raises(MirrorUnreadable):
        caller.walk()
    assert sum(caller.sleep.seconds) <= 3


def test_counts_and_first_pages_are_searched_anew_and_cursors_followed(caller: Caller) -> None:
    """HAPI reuses the result of a search for a minute: a recount would count what was counted before."""
    caller.count()
    caller.ask(lambda opened: opened.newest())
    caller.walk()
    sent = [seen.headers.get("cache-control") for seen in caller.mirror.seen]
    assert sent == ["no-cache", "no-cache", "no-cache", None, None]


def test_an_answer_too_large_for_memory_is_refused(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 1 << 20)
    caller.mirror.before = lambda seen: Response(b" " * (2 << 20))
    with pytest.raises(MirrorProtocolError, match=r"larger than 1 MiB.*IMUNIZACAO_MIRROR_PAGE_SIZE"):
        caller.count()


def test_compressed_answers_are_asked_for(caller: Caller) -> None:
    caller.count()
    assert caller.mirror.seen[0].headers["accept-encoding"] == "gzip"
    assert "application/fhir+json" in caller.mirror.seen[0].headers["accept"]


# ---------------------------------------------------------------- reaching the mirror


def test_a_refused_connection_is_told_at_once_with_the_next_step(caller: Caller) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        base = f"http://user:segredo@127.0.0.1:{taken.getsockname()[1]}/fhir"
    with pytest.raises(MirrorUnavailable) as failure:
        caller.count(base_url=base)
    text = str(failure.value)
    assert text.startswith("Cannot reach the mirror at http://127.0.0.1:")
    assert "connection refused (3 tries" in text
    assert "IMUNIZACAO_MIRROR_URL" in text
    assert "segredo" not in text
    assert len(caller.sleep.seconds) == 2


def test_an_unknown_name_is_told_as_such(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(MirrorUnavailable, match=r"http://mirror\.invalid.*its name is not known"):
        caller.count(base_url="http://mirror.invalid/fhir")


def test_a_mirror_that_restarts_in_the_middle_is_waited_for(mirror: FakeMirror) -> None:
    """After a first answer a refused connection is an interruption like any other."""
    sleeps = SleepLog()

    async def run() -> None:
        async with MirrorClient(mirror.settings(retry_budget=40.0), sleep=sleeps) as opened:
            await opened.count(HOUR)
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                gone = f"http://127.0.0.1:{taken.getsockname()[1]}"
            opened._settings = opened.transport.settings = mirror.settings(base_url=gone, retry_budget=40.0)
            await opened.count(HOUR)

    with pytest.raises(MirrorUnavailable, match="last status connection refused"):
        asyncio.run(run())
    assert len(sleeps.seconds) > 3


def test_a_certificate_nobody_vouches_for_is_no_reason_to_try_again(caller: Caller, tmp_path: Path) -> None:
    with _tls_server(tmp_path) as port, pytest.raises(ConfigurationError, match="cannot be trusted"):
        caller.count(base_url=f"https://127.0.0.1:{port}/fhir", auth="basic", login="a", password="b")
    assert caller.sleep.seconds == []


class _tls_server:  # noqa: N801 (a context manager in lower case, like those of contextlib)
    """Answers TLS handshakes with a certificate of its own making."""

    def __init__(self, folder: Path) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        pem = folder / "server.pem"
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._shake_hands, daemon=True)

    def _shake_hands(self) -> None:
        plain, _ = self._listener.accept()
        try:
            self._context.wrap_socket(plain, server_side=True).close()
        except OSError:
            plain.close()

    def __enter__(self) -> int:
        self._thread.start()
        return int(self._listener.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._thread.join(timeout=5)
        self._listener.close()


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("status", "diagnostics", "kind", "shown"),
    [
        (400, "(EHR-ERR850) CNS {cns}", MirrorProtocolError, "400 EHR-ERR850"),
        (403, "(EHR-ERR902) {cns}", ConfigurationError, "403 EHR-ERR902"),
        (404, "{cns} is not known", ConfigurationError, "404 processing"),
        (422, "(EHR-ERR893) {cns}", MirrorProtocolError, "422 EHR-ERR893"),
        (302, "{cns}", ConfigurationError, "redirects (302)"),
    ],
)
def test_a_refusal_is_told_by_code_without_its_text(
    caller: Caller, status: int, diagnostics: str, kind: type[PipelineError], shown: str
) -> None:
    caller.mirror.before = lambda seen: outcome(
        status, diagnostics.format(cns=CANARY_CNS), headers={"Location": "http://elsewhere.example/x?token=abc"}
    )
    with pytest.raises(kind) as failure:
        caller.count()
    assert shown in str(failure.value)
    assert "docs/runbook/mirror-" in str(failure.value)
    assert CANARY_CNS not in str(failure.value)
    assert "elsewhere.example" not in str(failure.value)
    assert len(caller.mirror.seen) == 1, "trying again does not help"


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "x"), (410, "x"), (400, "EHR-ERR848"), (422, "EHR-ERR860"), (400, "x"), (422, "x"), (409, "x")],
)
def test_a_cursor_that_expired_breaks_the_walk_not_the_day(caller: Caller, status: int, code: str) -> None:
    caller.mirror.before = lambda seen: outcome(status, f"({code}) bookmark") if seen.page_number == 3 else None
    with pytest.raises(WalkBroken, match="refuses its own `next` address"):
        caller.walk()


def test_wrong_credentials_are_told_after_one_try(caller: Caller) -> None:
    caller.mirror.before = lambda seen: outcome(401, "(EHR-ERR882) x")
    with pytest.raises(ConfigurationError, match="refuses us: 401 EHR-ERR882"):
        caller.count(auth="basic", login="leitor", password="segredo")
    (seen,) = caller.mirror.seen
    assert seen.headers["authorization"] == "Basic " + base64.b64encode(b"leitor:segredo").decode()


# ---------------------------------------------------------------- paging


@pytest.mark.parametrize("target", ["self", "first"])
def test_a_next_that_was_visited_ends_the_walk(caller: Caller, target: str, caplog: pytest.LogCaptureFixture) -> None:
    def loop(seen: Seen, entries: list[bytes], links: list[dict[str, str]]) -> None:
        query = [pair for pair in seen.query if pair[0] != "_bookmark"]
        if seen.page_number == 3:
            query += [("_bookmark", "2")] if target == "self" else [("_bookmark", "1")]
            links.append({"relation": "next", "url": f"{caller.mirror.base}/Bundle?" + _quoted(query)})

    caller.mirror.edit_page = loop
    assert caller.sizes() == [10, 10, 5]
    assert len(caller.mirror.pages_seen) == 3, "no further request"
    assert "event=mirror.next_loops" in caplog.text


def _quoted(query: list[tuple[str, str]]) -> str:
    from urllib.parse import quote

    return "&".join(f"{name}={quote(value, safe='')}" for name, value in query)


@pytest.mark.parametrize(
    "address",
    [
        "http://elsewhere.example/fhir?page=2",
        "https://127.0.0.1/fhir?page=2",
        "//elsewhere.example/x",
        "file:///etc/passwd",
    ],
)
def test_a_next_to_another_origin_is_never_followed(caller: Caller, address: str) -> None:
    caller.mirror.edit_page = lambda seen, entries, links: links.append({"relation": "next", "url": address})
    with pytest.raises(MirrorProtocolError, match="away from http://127"):
        caller.walk(auth="basic", login="a", password="b", page_size=100)
    assert len(caller.mirror.seen) == 1


BROKEN = ["http://[fd00::1/fhir/r4?ct=1", "http://[x]/fhir", "//h℀st/fhir"]


@pytest.mark.parametrize("address", BROKEN)
def test_a_next_that_is_no_address_is_the_mirrors_fault_and_is_not_quoted(caller: Caller, address: str) -> None:
    caller.mirror.edit_page = lambda seen, entries, links: links[1].update(url=address)
    with pytest.raises(
        MirrorProtocolError, match=rf"a `next` of slice {HOUR} page 1 that is not an address"
    ) as failure:
        caller.walk()
    assert address not in str(failure.value)


@pytest.mark.parametrize("address", BROKEN)
def test_a_self_that_cannot_be_read_counts_as_missing(caller: Caller, address: str) -> None:
    caller.mirror.edit_page = lambda seen, entries, links: links[0].update(url=address)
    with pytest.raises(MirrorProtocolError, match="its link `self` lacks _lastUpdated"):
        caller.walk()
    caller.mirror.edit_page = lambda seen, entries, links: (
        links[0].update(url=address) if seen.page_number > 1 else None
    )
    assert caller.sizes() == [10, 10, 5], "later pages need not say what was searched"


def test_who_we_are_is_never_sent_to_another_origin_whoever_kept_the_address(caller: Caller) -> None:
    """A checkpoint may name the host that the mirror had before somebody changed the connection."""
    former = caller.mirror.base.replace("127.0.0.1", "localhost") + "/Bundle?_bookmark=1"
    told = {"auth": "basic", "login": "leitor", "password": "segredo"}

    with pytest.raises(
        MirrorProtocolError, match=r"lies at http://localhost.*identification is only sent to the mirror"
    ):
        caller.ask(lambda opened: opened.transport.ask(former, where="page 2"), **told)
    assert caller.mirror.seen == []

    caller.ask(lambda opened: opened.transport.ask(former, where="file 1", authenticated=False), **told)
    (seen,) = caller.mirror.seen
    assert "authorization" not in seen.headers, "a stranger may be asked, but is told nothing"


def test_a_relative_and_very_long_next_is_followed_as_it_is(caller: Caller) -> None:
    def relative(seen: Seen, entries: list[bytes], links: list[dict[str, str]]) -> None:
        if len(links) > 1:
            links[1]["url"] = "?" + links[1]["url"].partition("?")[2] + "&_state=" + "x%2Fy" * 600

    caller.mirror.edit_page = relative
    assert caller.sizes() == [10, 10, 5]
    assert caller.mirror.pages_seen[1].value("_state") == "x/y" * 600


def test_an_empty_page_ends_the_walk_even_with_a_next_once_all_have_come(caller: Caller) -> None:
    def never_ending(seen: Seen, entries: list[bytes], links: list[dict[str, str]]) -> None:
        if len(links) == 1:
            query = [pair for pair in seen.query if pair[0] != "_bookmark"]
            links.append(
                {
                    "relation": "next",
                    "url": f"{caller.mirror.base}/Bundle?" + _quoted([*query, ("_bookmark", str(seen.page_number))]),
                }
            )

    caller.mirror.edit_page = never_ending
    assert caller.sizes(announced=25) == [10, 10, 5]
    assert len(caller.mirror.pages_seen) == 4

    caller.mirror.forget()
    with pytest.raises(WalkBroken, match=rf"3 pages in a row without an entry .* as slice {HOUR} page 4"):
        caller.walk(announced=26)
    assert len(caller.mirror.pages_seen) == 6


@pytest.mark.parametrize("empty", [{1}, {1, 2}, {2, 3, 5}])
def test_empty_pages_in_between_do_not_end_a_walk(caller: Caller, empty: set[int]) -> None:
    """Azure gives them, and FHIR allows it: only a page without `next` is the last one."""

    def shift(seen: Seen, entries: list[bytes], links: list[dict[str, str]]) -> None:
        full = [number for number in range(1, 9) if number not in empty][:3]
        stored = [document.entry for document in caller.mirror.documents if document.last_updated in HOUR]
        place = 10 * full.index(seen.page_number) if seen.page_number in full else 25
        entries[:] = stored[place : place + 10]
        query = [pair for pair in seen.query if pair[0] != "_bookmark"]
        links[1:] = [{"relation": "next", "url": f"?{_quoted([*query, ('_bookmark', str(seen.page_number))])}"}]
        if seen.page_number == full[-1]:
            links.pop()

    caller.mirror.edit_page = shift
    assert caller.sizes(announced=25) == [10, 10, 5]
    assert caller.sizes() == [10, 10, 5]


def test_a_later_page_may_carry_an_opaque_cursor_alone(caller: Caller) -> None:
    def opaque(seen: Seen, entries: list[bytes], links: list[dict[str, str]]) -> None:
        if seen.page_number > 1:
            links[0]["url"] = f"{caller.mirror.base}/Bundle?_bookmark=OPACO"

    caller.mirror.edit_page = opaque
    assert caller.sizes() == [10, 10, 5]


@pytest.mark.parametrize(
    "bounds",
    [
        "_lastUpdated=ge2026-03-13T00:00:00-03:00&_lastUpdated=lt2026-03-13T04:00:00.000Z",
        "_lastUpdated=lt2026-03-13T04%3A00%3A00%2B00%3A00&_lastUpdated=ge2026-03-13T03:00:00+00:00",
    ],
)
def test_the_same_bounds_in_other_words_are_the_same(caller: Caller, bounds: str) -> None:
    caller.mirror.edit_page = lambda seen, entries, links: links[0].update(url=f"{caller.mirror.base}/Bundle?{bounds}")
    assert caller.sizes() == [10, 10, 5]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "_lastUpdated=ge2026-03-13T03:00:00Z",
        "_lastUpdated=gt2026-03-13T03:00:00Z&_lastUpdated=lt2026-03-13T04:00:00Z",
    ],
)
def test_other_bounds_than_those_asked_for_are_refused(caller: Caller, query: str) -> None:
    caller.mirror.edit_page = lambda seen, entries, links: links[0].update(url=f"{caller.mirror.base}/Bundle?{query}")
    with pytest.raises(MirrorProtocolError, match="did not search what it was asked"):
        caller.walk()


def test_a_count_over_other_bounds_is_refused(caller: Caller) -> None:
    caller.mirror.edit_body = lambda seen, body: body.replace(b"ge2026-03-13T03", b"ge2026-03-12T03")
    with pytest.raises(MirrorProtocolError, match=f"count of {HOUR}"):
        caller.count()


# ---------------------------------------------------------------- freshness


def test_the_newest_document_is_found_by_sorting(caller: Caller) -> None:
    assert caller.ask(lambda opened: opened.newest()) == LATER.last_updated
    assert caller.mirror.seen[0].query == [("type", "document"), ("_sort", "-_lastUpdated"), ("_count", "1")]
    assert mirror_newest(caller.mirror.settings()) == LATER.last_updated


def test_a_mirror_that_ignores_or_refuses_the_sort_has_no_newest_document(caller: Caller) -> None:
    caller.mirror.honour_sort = False
    assert caller.ask(lambda opened: opened.newest()) is None
    caller.mirror.honour_sort = True
    caller.mirror.before = lambda seen: outcome(400, "(EHR-ERR995) x")
    assert caller.ask(lambda opened: opened.newest()) is None


def test_an_empty_mirror_has_no_newest_document(caller: Caller) -> None:
    caller.mirror.documents.clear()
    assert caller.ask(lambda opened: opened.newest()) is None


# ---------------------------------------------------------------- tokens of the RNDS


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class TokenService:
    """Gives tokens and lets requests pass that carry the latest one."""

    def __init__(self, life: dict[str, object] | None = None, *, jwt: dict[str, object] | None = None) -> None:
        self.given: list[str] = []
        self.life = life if life is not None else {"expires_in": 1_800_000}
        self.jwt = jwt
        self.accepts: str | None = None

    def answer(self, seen: Seen) -> Response | None:
        if seen.path == "/api/token":
            token = f"segredo-{len(self.given)}"
            if self.jwt is not None:
                claims = base64.urlsafe_b64encode(json.dumps(self.jwt).encode()).decode().rstrip("=")
                token = f"{token}.{claims}.x"
            self.given.append(token)
            self.accepts = token
            return Response(
                json.dumps({"access_token": token, "scope": "read write", "token_type": "jwt", **self.life})
            )
        if seen.headers.get("x-authorization-server") != f"Bearer {self.accepts}":
            return outcome(401, "(EHR-ERR882) Token expirado", code="security")
        assert seen.headers["authorization"] == CANARY_CNS
        return None


def _rnds(mirror: FakeMirror) -> MirrorSettings:
    token_url = mirror.base.replace("/fhir/r4", "/api/token")
    return mirror.settings(auth="rnds", token_url=token_url, requester_cns=CANARY_CNS)


@pytest.mark.parametrize(
    ("life", "jwt", "good_for"),
    [
        ({"expires_in": 1_800_000}, None, 1800),
        ({"expires_in": 1800}, None, 1800),
        ({"expires_in": 600}, {"iat": 5_000, "exp": 5_900}, 900),
        ({}, None, 300),
        ({"expires_in": -1}, None, 300),
    ],
    ids=["milliseconds", "seconds", "claims win over expires_in", "unknown", "nonsense"],
)
def test_one_token_serves_until_four_fifths_of_its_life(
    mirror: FakeMirror, life: dict[str, object], jwt: dict[str, object] | None, good_for: float
) -> None:
    service, clock = TokenService(life, jwt=jwt), Clock()
    mirror.before = service.answer

    async def run() -> None:
        async with MirrorClient(_rnds(mirror), monotonic=clock, sleep=SleepLog()) as opened:
            await asyncio.gather(*(opened.count(HOUR) for _ in range(4)))
            assert len(service.given) == 1
            clock.seconds += good_for * 0.79
            await opened.count(HOUR)
            assert len(service.given) == 1
            clock.seconds += good_for * 0.02
            await opened.count(HOUR)
            assert len(service.given) == 2

    asyncio.run(run())


def test_the_life_of_a_token_is_taken_on_the_servers_clock(
    mirror: FakeMirror, caplog: pytest.LogCaptureFixture
) -> None:
    server_now = datetime.now(UTC) + timedelta(minutes=5)
    service, clock = TokenService(jwt={"exp": server_now.timestamp() + 1000}), Clock()

    def answer(seen: Seen) -> Response | None:
        found = service.answer(seen)
        if found is not None:
            found.headers["Date"] = format_datetime(server_now, usegmt=True)
        return found

    mirror.before = answer

    async def run() -> None:
        async with MirrorClient(_rnds(mirror), monotonic=clock, sleep=SleepLog()) as opened:
            await opened.count(HOUR)
            clock.seconds += 790
            await opened.count(HOUR)
            assert len(service.given) == 1
            clock.seconds += 15
            await opened.count(HOUR)
            assert len(service.given) == 2

    asyncio.run(run())
    assert caplog.text.count("event=mirror.clock_skew") == 1


def test_a_token_that_is_refused_early_is_renewed_once_for_all_connections(mirror: FakeMirror) -> None:
    service = TokenService()
    mirror.before = service.answer

    async def run() -> None:
        async with MirrorClient(_rnds(mirror), sleep=SleepLog()) as opened:
            await opened.count(HOUR)
            service.accepts = "revoked"
            assert await asyncio.gather(*(opened.count(HOUR) for _ in range(4))) == [25] * 4

    asyncio.run(run())
    assert len(service.given) == 2, "not one token per connection"


def test_a_fresh_token_that_is_refused_is_a_matter_of_configuration(mirror: FakeMirror) -> None:
    service = TokenService()

    def never(seen: Seen) -> Response | None:
        return service.answer(seen) if seen.path == "/api/token" else outcome(401, "(EHR-ERR882) x", code="security")

    mirror.before = never

    async def run() -> None:
        async with MirrorClient(_rnds(mirror), sleep=SleepLog()) as opened:
            await opened.count(HOUR)

    with pytest.raises(ConfigurationError, match="401 EHR-ERR882"):
        asyncio.run(run())
    assert len(service.given) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lambda: outcome(403, f"certificate of {CANARY_CNS}"),
            r"The server at http://127\.0\.0\.1:\d+ refuses us: 403",
        ),
        (lambda: Response(b'{"token": "segredo-0"}'), "without `access_token`"),
        (lambda: Response(b"<html>segredo-0</html>"), "without `access_token`"),
        (lambda: Response(json.dumps({"access_token": "segredo-0\r\nX: y"})), "cannot be sent"),
        (lambda: Response(status_code=404), "has no such address"),
    ],
)
def test_a_token_service_that_gives_no_token_is_a_matter_of_configuration(
    mirror: FakeMirror, answer: Callable[[], Response], message: str
) -> None:
    mirror.before = lambda seen: answer()

    async def run() -> None:
        async with MirrorClient(_rnds(mirror), sleep=SleepLog()) as opened:
            await opened.count(HOUR)

    with pytest.raises(ConfigurationError, match=message) as failure:
        asyncio.run(run())
    assert "segredo" not in str(failure.value)
    assert CANARY_CNS not in str(failure.value)


def test_a_token_service_that_is_busy_is_waited_for(mirror: FakeMirror) -> None:
    service = TokenService()
    mirror.before = lambda seen: Response(status_code=503) if len(mirror.seen) < 3 else service.answer(seen)
    sleep = SleepLog()

    async def run() -> int:
        async with MirrorClient(_rnds(mirror), sleep=sleep) as opened:
            return await opened.count(HOUR)

    assert asyncio.run(run()) == 25
    assert len(sleep.seconds) == 2


def test_tokens_addresses_and_headers_are_never_logged(mirror: FakeMirror, caplog: pytest.LogCaptureFixture) -> None:
    service = TokenService()
    mirror.before = service.answer
    settings = _rnds(mirror)

    async def run() -> None:
        async with MirrorClient(settings, sleep=SleepLog()) as opened:
            await opened.count(HOUR)
            service.accepts = "revoked"
            await opened.count(HOUR)

    # A task's root logger may stand at DEBUG: the HTTP libraries must stay silent all the same.
    with caplog.at_level(logging.DEBUG):
        asyncio.run(run())
    assert "event=mirror.reauthenticate" in caplog.text
    for secret in ("segredo", CANARY_CNS, "Bearer", "_lastUpdated="):
        assert secret not in caplog.text
    assert not any(record.name.startswith(("httpx", "httpcore")) for record in caplog.records)
    assert "segredo" not in repr(settings)


def test_secrets_in_an_address_do_not_reach_the_page_log(caller: Caller) -> None:
    def signed(seen: Seen, entries: list[bytes], links: list[dict[str, str]]) -> None:
        if len(links) > 1:
            links[1]["url"] += "&access_token=segredo&X-Sig=segredo"

    caller.mirror.edit_page = signed
    pages = caller.walk()
    assert pages[1].url.endswith("&_count=10&_bookmark=…&access_token=…&X-Sig=…")
    assert caller.mirror.pages_seen[1].value("access_token") == "segredo", "sent as the mirror gave it"


@pytest.mark.parametrize(
    "query",
    [
        "_getpages=CURSOR&_getpagesoffset=CURSOR&_bundletype=CURSOR",
        "ct=%22CURSOR%22",
        "_page_token=CURSOR",
        "cursor=CURSOR&continuation=CURSOR",
        "CURSOR",
        "_id=CURSOR",
    ],
)
def test_a_cursor_is_shown_to_nobody_whatever_its_server_calls_it(query: str) -> None:
    ours = "type=document&_lastUpdated=ge2026-03-13T03:00:00Z&_include:iterate=Immunization:patient"
    shown = transport.shown(f"https://u:p@mirror.example.org/fhir/Bundle?{ours}&{query}")
    assert "CURSOR" not in shown
    assert shown.startswith(f"https://mirror.example.org/fhir/Bundle?{ours}&")
