"""Tokens against a token service that can be told to misbehave: how long they live, who renews them, and what is never asked twice."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.responses import Response

from imunizacao.errors import ConfigurationError, MirrorUnavailable
from imunizacao.fhir import Answer, MirrorClient, Window
from imunizacao.fhir.auth import ASSERTION_SECONDS, AssertionGrant, Token, TokenHeaders, read_token
from imunizacao.fhir.keys import read_signing_key
from imunizacao.settings import MirrorSettings
from tests.integration.extract_support import (
    CANARY_CNS,
    DAY,
    FakeMirror,
    Seen,
    SleepLog,
    make_document,
    outcome,
    running_mirror,
)
from tests.mirror.auth import Gate, Refusal
from tests.support.certificates import key_pem

HOUR = Window(start=DAY.start, end=DAY.start + timedelta(hours=1))
NOW = datetime(2026, 3, 15, 2, 10, tzinfo=UTC)
KEY = rsa.generate_private_key(65537, 2048)


@pytest.fixture
def mirror() -> Iterator[FakeMirror]:
    with running_mirror() as mirror:
        mirror.documents += [make_document(n, DAY.start + timedelta(seconds=n)) for n in range(25)]
        yield mirror


def _jwt(**claims: object) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "x"}, claims)
    ]
    return f"{parts[0]}.{parts[1]}.c2ln"


def _life(token: str = "segredo", **more: object) -> float:  # noqa: S107
    return read_token(json.dumps({"access_token": token, **more}).encode(), server_now=NOW).life_seconds


# ---------------------------------------------------------------- life


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({"expires_in": 1_800_000}, 1800),
        ({"expires_in": 1800}, 1800),
        ({"expires_in": 86_400}, 86_400),
        ({"expires_in": 86_401}, 86.401),
        ({"expires_in": "1800"}, 1800),
        ({"expires_in": "1800000"}, 1800),
        ({"expires_in": "soon"}, 300),
        ({"expires_in": "nan"}, 300),
        ({"expires_in": -5}, 300),
        ({"expires_in": 0}, 300),
        ({"expires_in": None}, 300),
        ({"expires_in": 1e300}, 86_400),
        ({}, 300),
    ],
)
def test_a_life_that_is_told_is_in_seconds_or_milliseconds(told: dict[str, object], seconds: float) -> None:
    assert _life(**told) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("claims", "seconds"),
    [
        ({"iat": NOW.timestamp(), "exp": NOW.timestamp() + 900}, 900),
        ({"iat": NOW.timestamp() - 600, "exp": NOW.timestamp() + 300}, 300),
        ({"iat": NOW.timestamp() + 600, "exp": NOW.timestamp() + 1500}, 900),
        ({"exp": NOW.timestamp() + 900}, 900),
        ({"iat": 5_000, "exp": 5_900}, 900),
        ({"exp": 5_900}, 1800),
        ({"iat": 1}, 1800),
        ({"exp": "later"}, 1800),
    ],
    ids=["fresh", "made some minutes ago", "server ahead", "no iat", "no clock fits", "over", "no exp", "no number"],
)
def test_the_claims_of_a_token_say_more_than_what_is_told(claims: dict[str, object], seconds: float) -> None:
    assert _life(_jwt(**claims), expires_in=1_800_000) == pytest.approx(seconds)


@pytest.mark.parametrize("token", ["", " segredo", "segredo ", "se\ngredo", "ségredo", "se gredo"])
def test_a_token_that_would_break_a_header_is_refused_unseen(token: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be sent") as failure:
        _life(token)
    assert "gredo" not in "".join(traceback.format_exception(failure.value))


def test_a_token_hides_itself() -> None:
    assert repr(Token(value="segredo", life_seconds=9.0)) == "Token(life_seconds=9.0)"


# ---------------------------------------------------------------- renewal


def test_concurrent_requests_share_a_renewal_and_its_refusal() -> None:
    asked = 0

    async def refuse() -> Token:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        raise ConfigurationError("The token service refuses us: 401 invalid_client.")

    async def run() -> list[BaseException | Any]:
        headers = TokenHeaders(refuse, monotonic=lambda: 0.0)
        return await asyncio.gather(*(headers.headers() for _ in range(5)), return_exceptions=True)

    errors = asyncio.run(run())
    assert asked == 1, "a secret that was refused is not sent again: accounts get locked"
    assert [str(error) for error in errors] == ["The token service refuses us: 401 invalid_client."] * 5
    assert all(isinstance(error, ConfigurationError) for error in errors)


def test_a_renewal_that_may_succeed_later_is_tried_again() -> None:
    answers: list[Token | Exception] = [MirrorUnavailable("busy"), Token(value="t", life_seconds=10.0)]

    async def ask() -> Token:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run() -> None:
        headers = TokenHeaders(ask, monotonic=lambda: 0.0)
        with pytest.raises(MirrorUnavailable):
            await headers.headers()
        assert await headers.headers() == {"Authorization": "Bearer t"}

    asyncio.run(run())


class Service:
    """A token service beside the mirror, for every way that asks by form."""

    def __init__(self, mirror: FakeMirror) -> None:
        self.mirror = mirror
        self.given = 0
        self.refuse_for_ever = False
        self.token: Callable[[Seen], Response] = self.give
        mirror.before = self.answer

    @property
    def url(self) -> str:
        return self.mirror.base.replace("/fhir/r4", "/api/token")

    @property
    def asked(self) -> list[Seen]:
        return [seen for seen in self.mirror.seen if seen.path == "/api/token"]

    def give(self, seen: Seen) -> Response:
        self.given += 1
        return Response(
            json.dumps({"access_token": f"segredo-{self.given}", "token_type": "Bearer", "expires_in": 600})
        )

    def answer(self, seen: Seen) -> Response | None:
        if seen.path == "/api/token":
            return self.token(seen)
        if self.refuse_for_ever or seen.headers.get("authorization") != f"Bearer segredo-{self.given}":
            return outcome(401, "(EHR-ERR882) Token expirado", code="security")
        return None

    def settings(self, auth: str = "oauth2", **changes: Any) -> MirrorSettings:
        if auth == "oauth2":
            given: dict[str, Any] = {"client_id": "c", "client_secret": "segredo-s", "token_url": self.url}
        else:
            given = {
                "client_id": "c",
                "signing_private_key": key_pem(KEY),
                "signing_key_id": "k",
                "token_url": self.url,
            }
        return self.mirror.settings(auth=auth, **(given | changes))


@pytest.fixture
def service(mirror: FakeMirror) -> Service:
    return Service(mirror)


def _count(settings: MirrorSettings, times: int = 1, **extra: Any) -> list[int]:
    async def run() -> list[int]:
        async with MirrorClient(settings, **({"sleep": SleepLog()} | extra)) as opened:
            return await asyncio.gather(*(opened.count(HOUR) for _ in range(times)))

    return asyncio.run(run())


def test_a_refusal_for_ever_ends_after_one_renewal_per_request(service: Service) -> None:
    service.refuse_for_ever = True
    with pytest.raises(ConfigurationError, match="refuses us: 401 EHR-ERR882"):
        _count(service.settings())
    assert service.given == 2
    assert len(service.mirror.counts_seen) == 2


def test_many_requests_that_are_refused_for_ever_renew_no_more_than_once_each(service: Service) -> None:
    service.refuse_for_ever = True

    async def run() -> list[BaseException | int]:
        async with MirrorClient(service.settings(), sleep=SleepLog()) as opened:
            return await asyncio.gather(*(opened.count(HOUR) for _ in range(4)), return_exceptions=True)

    errors = asyncio.run(run())
    assert all(isinstance(error, ConfigurationError) for error in errors)
    assert len(service.mirror.counts_seen) == 8, "each of them twice"
    assert service.given <= 5


def test_one_refusal_is_renewed_without_a_wait(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refused: list[Seen] = []
    answer = service.answer

    def once(seen: Seen) -> Response | None:
        if seen.is_count and not refused:
            refused.append(seen)
            return outcome(401, f"(EHR-ERR882) {CANARY_CNS}", code="security")
        return answer(seen)

    service.mirror.before = once
    sleep = SleepLog()
    assert _count(service.settings(), sleep=sleep) == [25]
    assert (service.given, sleep.seconds) == (2, [])
    assert "event=mirror.reauthenticate" in caplog.text
    assert CANARY_CNS not in caplog.text


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            lambda: Response('{"error":"invalid_scope","error_description":"segredo-s"}', 400),
            "400 invalid_scope. Check",
        ),
        (lambda: Response('{"error":"segredo-s"}', 400), "refuses us: 400. Check"),
        (lambda: Response("<html>segredo-s</html>", 401), "refuses us: 401. Check"),
        (lambda: Response("segredo-s", 403), "refuses us: 403 on access token"),
        (lambda: Response("", 404), "has no such address: 404 on access token. Check the address."),
        (lambda: Response("", 302, headers={"Location": "https://x/segredo-s"}), "redirects"),
        (lambda: Response("<html>segredo-s</html>"), "without `access_token`"),
    ],
)
def test_a_refused_form_is_told_by_code_without_its_text(
    service: Service, answer: Callable[[], Response], told: str
) -> None:
    service.token = lambda seen: answer()
    with pytest.raises(ConfigurationError, match="docs/runbook/mirror-access.md") as failure:
        _count(service.settings())
    assert told in str(failure.value)
    assert "segredo" not in "".join(traceback.format_exception(failure.value))
    assert len(service.asked) == 1


# ---------------------------------------------------------------- SMART: discovery and assertions


def _configuration(**values: object) -> Response:
    return Response(json.dumps(values))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda: Response("", 404), "names no token address"),
        (lambda: Response("<html>"), "names no token address"),
        (lambda: _configuration(issuer="x"), "names no token address"),
        (lambda: _configuration(token_endpoint="ftp://elsewhere.example.org/token"), "token address that is not http"),
        (lambda: _configuration(token_endpoint="/relative"), "token address that is not http"),
        (
            lambda: _configuration(
                token_endpoint="https://x.example.org", token_endpoint_auth_signing_alg_values_supported=["ES384"]
            ),
            "The signing key makes RS384, and the mirror's SMART configuration wants ES384",
        ),
    ],
)
def test_a_configuration_that_does_not_help_is_told(
    service: Service, answer: Callable[[], Response], told: str
) -> None:
    service.mirror.before = lambda seen: answer() if seen.path.endswith("/smart-configuration") else None
    with pytest.raises(ConfigurationError, match=told):
        _count(service.settings("smart", token_url=""))
    assert [seen.path for seen in service.mirror.seen] == ["/fhir/r4/.well-known/smart-configuration"]


def test_a_token_address_is_discovered_once(service: Service) -> None:
    answer = service.answer

    def with_configuration(seen: Seen) -> Response | None:
        if seen.path.endswith("/smart-configuration"):
            assert "authorization" not in seen.headers
            return _configuration(token_endpoint=service.url)
        return answer(seen)

    service.mirror.before = with_configuration
    clock = [0.0]

    async def run() -> None:
        settings = service.settings("smart", token_url="")
        async with MirrorClient(settings, sleep=SleepLog(), monotonic=lambda: clock[0]) as opened:
            await opened.count(HOUR)
            clock[0] += 481
            await opened.count(HOUR)

    asyncio.run(run())
    paths = [seen.path for seen in service.mirror.seen]
    assert paths.count("/fhir/r4/.well-known/smart-configuration") == 1
    assert (service.given, paths.count("/api/token")) == (2, 2)


class Forms:
    """A token service that keeps the forms it gets and answers on its own clock."""

    def __init__(self, *, status: int, clock: datetime) -> None:
        self.forms: list[dict[str, str]] = []
        self._status = status
        self._clock = clock

    def claims(self) -> list[dict[str, Any]]:
        options: Any = {"verify_exp": False, "verify_aud": False}
        return [
            jwt.decode(form["client_assertion"], KEY.public_key(), algorithms=["RS384"], options=options)
            for form in self.forms
        ]

    async def ask(self, settings: MirrorSettings, *, tries: int = 1) -> Token:
        """Ask for a token while our clock says NOW; the content is made anew for every try."""

        async def answer(url: str, *, content: Callable[[], bytes] | None = None, **_: object) -> Answer:
            assert url == settings.token_url
            assert content is not None
            for _try in range(tries):
                self.forms.append({name: values[0] for name, values in parse_qs(content().decode()).items()})
            body = b'{"access_token":"segredo","expires_in":600}' if self._status == 200 else b"{}"
            return Answer(status=self._status, body=body, headers={}, date=self._clock)

        return await AssertionGrant(settings, read_signing_key(settings), ask=answer, now=lambda: NOW)()


@pytest.fixture
def smart() -> MirrorSettings:
    return MirrorSettings(
        base_url="https://mirror.example.org/fhir/r4",
        auth="smart",
        client_id="cliente",
        signing_private_key=key_pem(KEY),
        signing_key_id="k",
        token_url="https://auth.example.org/token",
    )


def test_an_assertion_says_who_for_whom_and_for_how_long(smart: MirrorSettings) -> None:
    forms = Forms(status=200, clock=NOW)
    assert asyncio.run(forms.ask(smart, tries=2)) == Token(value="segredo", life_seconds=600.0)
    form, first, second = forms.forms[0], *forms.claims()
    assert {name: form[name] for name in ("grant_type", "scope", "client_assertion_type")} == {
        "grant_type": "client_credentials",
        "scope": "system/*.rs",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }
    assert jwt.get_unverified_header(form["client_assertion"]) == {"alg": "RS384", "typ": "JWT", "kid": "k"}
    assert (first["iss"], first["sub"], first["aud"]) == ("cliente", "cliente", smart.token_url)
    assert first["exp"] == int(NOW.timestamp()) + ASSERTION_SECONDS
    assert ASSERTION_SECONDS <= 300
    assert first["jti"] != second["jti"], "a service refuses an assertion that it has seen"


@pytest.mark.parametrize("minutes", [-5, 5])
def test_a_refusal_under_another_clock_is_answered_once_on_that_clock(smart: MirrorSettings, minutes: int) -> None:
    server_now = NOW + timedelta(minutes=minutes)
    forms = Forms(status=401, clock=server_now)
    with pytest.raises(ConfigurationError, match="refuses us: 401"):
        asyncio.run(forms.ask(smart))
    assert [claims["exp"] - ASSERTION_SECONDS for claims in forms.claims()] == [
        int(NOW.timestamp()),
        int(server_now.timestamp()),
    ], "once on our clock, once on the service's, and no more"


def test_a_refusal_under_the_same_clock_is_not_answered(smart: MirrorSettings) -> None:
    forms = Forms(status=401, clock=NOW + timedelta(seconds=4))
    with pytest.raises(ConfigurationError):
        asyncio.run(forms.ask(smart))
    assert len(forms.forms) == 1


def test_a_retried_form_is_signed_afresh_over_http(service: Service) -> None:
    tries: list[Seen] = []

    def busy(seen: Seen) -> Response:
        tries.append(seen)
        return Response(status_code=503) if len(tries) < 3 else service.give(seen)

    service.token = busy
    assert _count(service.settings("smart")) == [25]
    assert {seen.headers["content-type"] for seen in tries} == {"application/x-www-form-urlencoded"}
    assert len(tries) == 3


# ---------------------------------------------------------------- clock


def _skew(mirror: FakeMirror, *, ours: timedelta, headers: dict[str, str] | None = None) -> float | None:
    """Our clock is off by `ours`; the mirror's `Date` has whole seconds."""

    def dated(seen: Seen) -> Response:
        date = format_datetime(datetime.now(UTC), usegmt=True)
        return outcome(403, "x", headers={"Date": date, **(headers or {})})

    mirror.before = dated

    async def run() -> float | None:
        async with MirrorClient(mirror.settings(), now=lambda: datetime.now(UTC) + ours) as opened:
            with pytest.raises(ConfigurationError):
                await opened.count(HOUR)
            return opened.transport.skew_seconds

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("seconds", "warns"), [(0, False), (4, False), (-4, False), (8, True), (-8, True), (300, True)]
)
def test_a_clock_that_is_off_is_told_from_five_seconds(
    mirror: FakeMirror, caplog: pytest.LogCaptureFixture, seconds: int, warns: bool
) -> None:
    found = _skew(mirror, ours=timedelta(seconds=seconds))
    assert found == pytest.approx(seconds, abs=2)
    assert ("event=mirror.clock_skew" in caplog.text) is warns


def test_the_date_of_a_cached_answer_says_nothing_of_clocks(
    mirror: FakeMirror, caplog: pytest.LogCaptureFixture
) -> None:
    assert _skew(mirror, ours=timedelta(hours=1), headers={"Age": "3600"}) is None
    assert "clock_skew" not in caplog.text


def test_an_answer_that_took_long_is_no_skew(mirror: FakeMirror, caplog: pytest.LogCaptureFixture) -> None:
    """The mirror writes its `Date` somewhere between our asking and its answer."""
    mirror.before = lambda seen: outcome(403, "x", headers={"Date": format_datetime(NOW, usegmt=True)})
    clock = iter([NOW] + [NOW - timedelta(seconds=20), NOW + timedelta(seconds=20)] + [NOW] * 9)

    async def run() -> float | None:
        async with MirrorClient(mirror.settings(), now=lambda: next(clock)) as opened:
            with pytest.raises(ConfigurationError):
                await opened.count(HOUR)
            return opened.transport.skew_seconds

    assert asyncio.run(run()) == 0
    assert "clock_skew" not in caplog.text


# ---------------------------------------------------------------- the simulator's side


def test_the_simulator_refuses_what_it_must() -> None:
    gate = Gate(mode="smart", client_id="c", public_keys={"k": KEY.public_key()})
    url, now = "https://auth.example.org/token", int(NOW.timestamp())
    good = {"iss": "c", "sub": "c", "aud": url, "exp": now + 240, "jti": "1"}

    def grant(claims: dict[str, Any], kid: str = "k", algorithm: str = "RS384") -> object:
        assertion = jwt.encode(claims, KEY, algorithm=algorithm, headers={"kid": kid})
        form = {
            "grant_type": "client_credentials",
            "scope": "system/*.rs",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": assertion,
        }
        from urllib.parse import urlencode

        headers = {"content-type": "application/x-www-form-urlencoded"}
        return gate.grant(headers, urlencode(form).encode(), url=url, now=now * 1000)

    assert isinstance(grant(good), dict)
    for number, (wrong, kid, algorithm) in enumerate(
        [
            ({"jti": "1"}, "k", "RS384"),
            ({"exp": now - 1}, "k", "RS384"),
            ({"exp": now + 301}, "k", "RS384"),
            ({"aud": "https://elsewhere.example.org"}, "k", "RS384"),
            ({"iss": "other"}, "k", "RS384"),
            ({}, "other", "RS384"),
            ({}, "k", "RS256"),
        ]
    ):
        refused = grant({**good, "jti": f"new-{number}", **wrong}, kid, algorithm)
        assert isinstance(refused, Refusal), wrong
        assert refused.error == "invalid_client"
