"""Every way to authenticate against the simulator, over real TLS where there is a certificate, and how each of them fails."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from imunizacao.errors import ConfigurationError, MirrorUnavailable
from imunizacao.fhir import MirrorClient, Window
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import MirrorSettings, mirror_settings
from tests.integration.extract_support import SleepLog
from tests.support.certificates import (
    CANARY_NAME,
    PASSPHRASE,
    Issued,
    key_pem,
    new_authority,
    private_jwk,
    public_jwks,
    public_pem,
)
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.servers

DAY = ReferenceDay.parse("2026-03-13")
WINDOW = Window(start=DAY.start, end=DAY.end)
DOCS = 60
CNS = "700000000000005"
SECRET = "segredo-canario & mais:1%"
CLIENT = "cliente:canario 1"
RSA = rsa.generate_private_key(65537, 2048)
P384 = ec.generate_private_key(ec.SECP384R1())
SIMULATOR = ("--docs-per-day", str(DOCS), "--now", "2026-03-16T12:00:00Z")
"""A clock that stands still, except where tokens and assertions must be measured."""
LIVE = ("--docs-per-day", str(DOCS))


@dataclass(frozen=True)
class Papers:
    """One authority, the certificates of both listeners and of the client, in files."""

    folder: Path
    authority: Issued
    client: Issued

    @property
    def ca_file(self) -> str:
        return str(self.folder / "ca.pem")

    @property
    def pfx_file(self) -> str:
        return str(self.folder / "client.pfx")

    def server_options(self, *, ask: bool) -> tuple[str, ...]:
        asked = ("--tls-client-ca", self.ca_file) if ask else ()
        return ("--tls-cert", str(self.folder / "server.crt"), "--tls-key", str(self.folder / "server.key"), *asked)

    def pfx(self) -> dict[str, str]:
        return {"client_certificate_file": self.pfx_file, "client_certificate_passphrase": PASSPHRASE}


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    authority = new_authority()
    client = authority.issue("AC intermediária", authority=True).issue(CANARY_NAME)
    authority.issue("mirror").write(folder, "server")
    client.write(folder, "client")
    (folder / "ca.pem").write_bytes(authority.certificate_pem())
    (folder / "client.pfx").write_bytes(client.pfx())
    (folder / "jwks.json").write_text(public_jwks(RSA, "rsa-1"))
    (folder / "p384.pem").write_bytes(public_pem(P384))
    return Papers(folder, authority, client)


@pytest.fixture(scope="module")
def rnds(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """Two hosts, as the RNDS has: only the one of tokens asks for a certificate."""
    options = (*LIVE, "--auth", "rnds", *papers.server_options(ask=True))
    with running_simulator(tmp_path_factory.mktemp("rnds"), *options, tls=True, auth_port=True) as served:
        yield served


@pytest.fixture(scope="module")
def smart(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    keys = ("--client-keys", str(papers.folder / "jwks.json"))
    options = (*LIVE, "--auth", "smart", "--client-id", CLIENT, *keys, *papers.server_options(ask=False))
    with running_simulator(tmp_path_factory.mktemp("smart"), *options, tls=True) as served:
        yield served


def _rnds(served: Simulator, papers: Papers, **changes: Any) -> MirrorSettings:
    values: dict[str, Any] = {"ca_file": papers.ca_file, **papers.pfx()} | changes
    return mirror_settings(
        base_url=served.base_url, auth="rnds", token_url=served.token_url, requester_cns=CNS, page_size=10, **values
    )


def _smart(served: Simulator, papers: Papers, **changes: Any) -> MirrorSettings:
    values: dict[str, Any] = {"signing_private_key": key_pem(RSA), "signing_key_id": "rsa-1"} | changes
    return mirror_settings(
        base_url=served.base_url, auth="smart", client_id=CLIENT, ca_file=papers.ca_file, page_size=10, **values
    )


class Walked:
    """What came of a walk over the day, and what it took."""

    def __init__(self, settings: MirrorSettings, **extra: Any) -> None:
        self.sleep = SleepLog()
        self.documents = 0
        self.requests = 0
        self.skew: float | None = None
        asyncio.run(self._walk(settings, extra))

    async def _walk(self, settings: MirrorSettings, extra: dict[str, Any]) -> None:
        async with MirrorClient(settings, sleep=self.sleep, **extra) as opened:
            async for page in opened.walk(WINDOW):
                self.documents += len(page.content.entries)
            self.requests, self.skew = opened.requests, opened.transport.skew_seconds


def _refused(settings: MirrorSettings, **extra: Any) -> ConfigurationError:
    """The walk fails for a reason that another try does not mend, and at once."""
    sleep = SleepLog()

    async def run() -> None:
        async with MirrorClient(settings, sleep=sleep, **extra) as opened:
            await opened.count(WINDOW)

    with pytest.raises(ConfigurationError, match="docs/runbook/mirror-access.md") as failure:
        asyncio.run(run())
    assert sleep.seconds == [], "no retry"
    return failure.value


def _statistics(served: Simulator, papers: Papers) -> dict[str, dict[str, int]]:
    """Answers by route and status since the last call."""
    context = ssl.create_default_context(cafile=papers.ca_file)
    address = served.base_url.replace("/fhir/r4", "/_admin/stats")
    with httpx.Client(verify=context, trust_env=False) as client:
        found: dict[str, dict[str, int]] = client.delete(address).json()["requests"]
    return found


# ---------------------------------------------------------------- RNDS: mutual TLS


@pytest.mark.parametrize("form", ["pfx file", "pfx text", "two pem files", "one pem text"])
def test_the_rnds_gives_its_token_to_a_certificate(rnds: Simulator, papers: Papers, form: str) -> None:
    import base64

    pem = papers.client.certificate_pem() + papers.client.key_pem(PASSPHRASE)
    forms = {
        "pfx file": papers.pfx(),
        "pfx text": {
            "client_certificate_file": "",
            "client_certificate": base64.b64encode(papers.client.pfx()).decode(),
        },
        "two pem files": {
            "client_certificate_file": str(papers.folder / "client.crt"),
            "client_key_file": str(papers.folder / "client.key"),
        },
        "one pem text": {"client_certificate_file": "", "client_certificate": pem.decode()},
    }
    _statistics(rnds, papers)
    assert Walked(_rnds(rnds, papers, **forms[form])).documents == DOCS
    assert _statistics(rnds, papers)["token"] == {"200": 1}


def test_the_token_host_and_the_mirror_are_two(rnds: Simulator, papers: Papers) -> None:
    """What the simulator must be for the tests above to mean something."""
    bare = ssl.create_default_context(cafile=papers.ca_file)
    with httpx.Client(verify=bare, trust_env=False) as client:
        assert client.get(f"{rnds.base_url}/metadata").status_code == 200
        assert client.get(rnds.base_url.replace("/fhir/r4", "/api/token")).status_code == 404
        with pytest.raises(httpx.HTTPError):
            client.get(rnds.token_url)
    shown = ssl.create_default_context(cafile=papers.ca_file)
    shown.load_cert_chain(papers.folder / "client.crt", papers.folder / "client.key")
    with httpx.Client(verify=shown, trust_env=False) as client:
        assert client.get(rnds.token_url).status_code == 200
        assert client.get(rnds.token_url.replace("/api/token", "/fhir/r4/metadata")).status_code == 404


def test_a_token_that_is_only_given_by_post_is_asked_for_so_from_then_on(papers: Papers, tmp_path: Path) -> None:
    options = (*LIVE, "--auth", "rnds", "--token-method", "post", "--token-uses", "2", *papers.server_options(ask=True))
    with running_simulator(tmp_path / "mirror", *options, tls=True, auth_port=True) as served:
        assert Walked(_rnds(served, papers)).documents == DOCS
        tokens = _statistics(served, papers)["token"]
    assert tokens["405"] == 1
    assert tokens["200"] >= 3


def test_a_server_that_wants_a_certificate_and_gets_none_is_told_at_once(rnds: Simulator, papers: Papers) -> None:
    error = _refused(_rnds(rnds, papers, client_certificate_file="", client_certificate_passphrase=""))
    assert "it wants a client certificate and got none" in str(error)
    assert rnds.token_url.removesuffix("/api/token") in str(error)


def test_a_certificate_of_a_foreign_authority_is_refused_at_once(
    rnds: Simulator, papers: Papers, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.pfx"
    stranger.write_bytes(new_authority("Outra").issue(CANARY_NAME).pfx())
    error = _refused(_rnds(rnds, papers, client_certificate_file=str(stranger)))
    assert "refuses our TLS connection" in str(error)
    assert "does not trust the authority of our client certificate" in str(error)


def test_a_chain_without_the_authority_in_between_is_refused_at_once(
    rnds: Simulator, papers: Papers, tmp_path: Path
) -> None:
    lone = tmp_path / "lone.pem"
    lone.write_bytes(papers.client.certificate_pem(chain=False) + papers.client.key_pem())
    error = _refused(_rnds(rnds, papers, client_certificate_file=str(lone)))
    assert "without the authorities in between" in str(error)


def test_a_server_that_nobody_vouches_for_gets_nothing(rnds: Simulator, papers: Papers) -> None:
    _statistics(rnds, papers)
    error = _refused(_rnds(rnds, papers, ca_file=""))
    assert "cannot be trusted" in str(error)
    assert "IMUNIZACAO_MIRROR_CA_FILE" in str(error)
    assert "token" not in _statistics(rnds, papers)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client_certificate_passphrase": "errada"}, "the passphrase"),
        ({"client_certificate_file": "/nowhere/a1.pfx"}, "/nowhere/a1.pfx cannot be read"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_told_before_any_request(
    rnds: Simulator, papers: Papers, changes: dict[str, str], reason: str
) -> None:
    _statistics(rnds, papers)
    assert reason in str(_refused(_rnds(rnds, papers, **changes)))
    assert _statistics(rnds, papers) == {}


def test_an_expired_certificate_is_told_before_any_request(rnds: Simulator, papers: Papers, tmp_path: Path) -> None:
    over = tmp_path / "over.pfx"
    over.write_bytes(papers.authority.issue("x", start=timedelta(days=-9), end=timedelta(days=-1)).pfx())
    assert "expired on" in str(_refused(_rnds(rnds, papers, client_certificate_file=str(over))))


def test_a_mirror_may_ask_for_the_certificate_itself(papers: Papers, tmp_path: Path) -> None:
    options = (*SIMULATOR, *papers.server_options(ask=True))
    with running_simulator(tmp_path / "mirror", *options, tls=True) as served:
        settings = mirror_settings(base_url=served.base_url, ca_file=papers.ca_file, **papers.pfx())
        assert Walked(settings).documents == DOCS
        bare = mirror_settings(base_url=served.base_url, ca_file=papers.ca_file)
        assert "it wants a client certificate and got none" in str(_refused(bare))


def test_the_certificate_is_shown_to_the_mirror_and_the_token_service_only(papers: Papers, rnds: Simulator) -> None:
    """Files of an export may lie on another host: it asks for a certificate and must not get ours."""

    async def run() -> None:
        settings = mirror_settings(base_url="https://mirror.example.org/fhir", ca_file=papers.ca_file, **papers.pfx())
        async with MirrorClient(settings, sleep=SleepLog()) as opened:
            await opened.transport.ask(rnds.token_url, where="file of an export", authenticated=False)

    with pytest.raises(ConfigurationError, match="it wants a client certificate and got none"):
        asyncio.run(run())


class _Handshakes:
    """A TLS server of one's own making that answers nothing."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._shake, daemon=True)
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/api/token"
        self.handshakes = 0

    def _shake(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.handshakes += 1
            try:
                self._context.wrap_socket(plain, server_side=True).close()
            except OSError:
                plain.close()

    def __enter__(self) -> _Handshakes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def _server_context(papers: Papers) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(papers.folder / "server.crt", papers.folder / "server.key")
    return context


def test_with_tls_1_2_a_missing_certificate_is_told_too(papers: Papers) -> None:
    context = _server_context(papers)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(papers.ca_file)
    with _Handshakes(context) as server:
        served = Simulator("https://mirror.example.org/fhir", server.url)
        error = _refused(_rnds(served, papers, client_certificate_file="", client_certificate_passphrase=""))
        assert server.handshakes == 1
    assert "it wants a client certificate and got none" in str(error)


def test_a_server_that_hangs_up_without_a_word_is_given_few_tries(papers: Papers) -> None:
    sleep = SleepLog()
    with _Handshakes(_server_context(papers)) as server:
        served = Simulator("https://mirror.example.org/fhir", server.url)

        async def run() -> None:
            async with MirrorClient(_rnds(served, papers, retry_budget=1e6), sleep=sleep) as opened:
                await opened.count(WINDOW)

        with pytest.raises(MirrorUnavailable) as failure:
            asyncio.run(run())
        assert server.handshakes == 6, "three tries, and each time it is asked once more what it has against us"
    assert "hangs up after the TLS handshake (3 tries, asking for access token)" in str(failure.value)
    assert "It may not take our client certificate: docs/runbook/mirror-access.md" in str(failure.value)


# ---------------------------------------------------------------- OAuth2


@pytest.mark.parametrize("where", ["basic", "form"])
def test_client_credentials_are_enough(
    papers: Papers, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRROR_CLIENT_SECRET", SECRET)
    options = (*LIVE, "--auth", "oauth2", "--client-id", CLIENT, "--client-auth", where, "--token-uses", "4")
    with running_simulator(tmp_path / "mirror", *options, *papers.server_options(ask=False), tls=True) as served:
        given = {
            "base_url": served.base_url,
            "auth": "oauth2",
            "token_url": served.token_url,
            "client_id": CLIENT,
            "ca_file": papers.ca_file,
            "page_size": 10,
        }
        right: dict[str, Any] = given | {"client_secret": SECRET, "token_endpoint_auth": where}
        assert Walked(mirror_settings(**right)).documents == DOCS
        found = _statistics(served, papers)
        assert found["search"]["200"] == 6
        assert found["search"]["401"] == 1, "a token that was used up in the middle of the walk"
        assert found["token"] == {"200": 2}
        other = "form" if where == "basic" else "basic"
        for wrong in ({"client_secret": "errado"}, {"token_endpoint_auth": other}, {"client_id": "outro"}):
            error = _refused(mirror_settings(**(right | wrong)))
            assert "refuses us: 401 invalid_client. Check client_id, client_secret" in str(error)
        assert _statistics(served, papers)["token"] == {"401": 3}


# ---------------------------------------------------------------- SMART


@pytest.mark.parametrize("given", ["pem", "jwk", "file"])
def test_a_signed_assertion_is_enough(smart: Simulator, papers: Papers, tmp_path: Path, given: str) -> None:
    path = tmp_path / "key.pem"
    path.write_text(key_pem(RSA))
    forms = {
        "pem": {"token_url": smart.token_url},
        "jwk": {"signing_private_key": private_jwk(RSA, "rsa-1"), "signing_key_id": ""},
        "file": {"signing_private_key": "", "signing_key_file": str(path)},
    }
    _statistics(smart, papers)
    assert Walked(_smart(smart, papers, **forms[given])).documents == DOCS
    found = _statistics(smart, papers)
    assert found["token"] == {"200": 1}
    assert ("smart-configuration" in found) is (given != "pem"), "asked only where no token address is set"


def test_an_elliptic_key_signs_too(papers: Papers, tmp_path: Path) -> None:
    options = (*LIVE, "--auth", "smart", "--client-id", CLIENT, "--client-keys", str(papers.folder / "p384.pem"))
    with running_simulator(tmp_path / "mirror", *options) as served:
        settings = _smart(served, papers, signing_private_key=key_pem(P384), signing_key_id="p384")
        assert Walked(settings).documents == DOCS


@pytest.mark.parametrize(
    "changes",
    [
        {"signing_key_id": "unknown"},
        {"signing_private_key": key_pem(P384)},
        {"signing_private_key": key_pem(rsa.generate_private_key(65537, 2048))},
    ],
    ids=["kid", "algorithm", "key"],
)
def test_an_assertion_that_convinces_nobody_is_told_after_one_try(
    smart: Simulator, papers: Papers, changes: dict[str, str]
) -> None:
    _statistics(smart, papers)
    error = _refused(_smart(smart, papers, **changes))
    assert "refuses us: 401 invalid_client. Check client_id, scope, and that the service knows the public half" in str(
        error
    )
    assert _statistics(smart, papers)["token"] == {"401": 1}


def test_a_scope_that_is_not_granted_is_told(smart: Simulator, papers: Papers) -> None:
    assert "400 invalid_scope" in str(_refused(_smart(smart, papers, scope="launch")))


@pytest.mark.parametrize("minutes", [-5, 5])
def test_assertions_hold_with_our_clock_five_minutes_off(
    smart: Simulator, papers: Papers, caplog: pytest.LogCaptureFixture, minutes: int
) -> None:
    caplog.set_level(logging.INFO)
    _statistics(smart, papers)
    walked = Walked(_smart(smart, papers), now=lambda: datetime.now(UTC) + timedelta(minutes=minutes))
    assert walked.documents == DOCS
    assert walked.skew == pytest.approx(60 * minutes, abs=5)
    assert caplog.text.count("event=mirror.clock_skew") == 1
    assert _statistics(smart, papers)["token"] == {"401": 1, "200": 1}
    assert caplog.text.count("event=mirror.sign_again") == 1


def test_the_clock_of_the_service_is_kept_for_later_tokens(papers: Papers, tmp_path: Path) -> None:
    keys = ("--client-keys", str(papers.folder / "jwks.json"))
    options = (*LIVE, "--auth", "smart", "--client-id", CLIENT, *keys, "--token-uses", "3")
    with running_simulator(tmp_path / "mirror", *options, *papers.server_options(ask=False), tls=True) as served:
        walked = Walked(_smart(served, papers), now=lambda: datetime.now(UTC) + timedelta(minutes=5))
        assert walked.documents == DOCS
        tokens = _statistics(served, papers)["token"]
    assert tokens["401"] == 1
    assert tokens["200"] >= 2


def test_the_rnds_does_not_mind_our_clock(rnds: Simulator, papers: Papers) -> None:
    for minutes in (-5, 5):
        walked = Walked(_rnds(rnds, papers), now=lambda m=minutes: datetime.now(UTC) + timedelta(minutes=m))
        assert walked.documents == DOCS


# ---------------------------------------------------------------- none and basic


def test_none_and_basic_over_tls(papers: Papers, tmp_path: Path) -> None:
    with running_simulator(tmp_path / "none", *SIMULATOR, *papers.server_options(ask=False), tls=True) as served:
        assert Walked(mirror_settings(base_url=served.base_url, ca_file=papers.ca_file)).documents == DOCS
    options = (*SIMULATOR, "--auth", "basic", "--login", "leitor", "--password", SECRET)
    with running_simulator(tmp_path / "basic", *options, *papers.server_options(ask=False), tls=True) as served:
        given = {"base_url": served.base_url, "auth": "basic", "login": "leitor", "ca_file": papers.ca_file}
        assert Walked(mirror_settings(**given, password=SECRET)).documents == DOCS  # type: ignore[arg-type]
        assert "refuses us: 401" in str(_refused(mirror_settings(**given, password="errada")))  # type: ignore[arg-type]


# ---------------------------------------------------------------- life of a token


def test_a_token_that_expires_in_the_middle_of_a_walk_is_renewed(papers: Papers, tmp_path: Path) -> None:
    options = (*LIVE, "--auth", "rnds", "--token-uses", "3", *papers.server_options(ask=True))
    with running_simulator(tmp_path / "mirror", *options, tls=True, auth_port=True) as served:
        walked = Walked(_rnds(served, papers))
        found = _statistics(served, papers)
    assert walked.documents == DOCS
    assert found["search"]["200"] == 6
    assert found["token"]["200"] == 1 + found["search"]["401"] == 2
    assert walked.sleep.seconds == [], "a renewal is no failure"


# ---------------------------------------------------------------- what must never be seen

CANARIES = (
    SECRET, PASSPHRASE, CNS, "CANARIO", "senha-canario", "segredo-canario", "Bearer ", "client_assertion", "PRIVATE KEY",
    "eyJ", "errado",
)  # fmt: skip


def test_no_secret_is_ever_seen(
    rnds: Simulator, smart: Simulator, papers: Papers, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Logs at DEBUG, `repr` of settings, and tracebacks with all their causes, of what works and of what fails."""
    stranger = tmp_path / "stranger.pfx"
    stranger.write_bytes(new_authority("Outra").issue(CANARY_NAME).pfx())
    pem = (papers.client.certificate_pem() + papers.client.key_pem()).decode()
    working = [_rnds(rnds, papers), _smart(smart, papers)]
    failing: list[Callable[[], MirrorSettings]] = [
        lambda: _rnds(rnds, papers, client_certificate_file=str(stranger)),
        lambda: _rnds(rnds, papers, client_certificate_file="", client_certificate=pem, ca_file=""),
        lambda: _rnds(rnds, papers, client_certificate_file="", client_certificate_passphrase=""),
        lambda: _rnds(rnds, papers, client_certificate_passphrase=f"{PASSPHRASE}-errado"),
        lambda: _smart(smart, papers, signing_key_id="unknown"),
        lambda: _smart(smart, papers, signing_private_key=f"{key_pem(RSA)[:200]} errado"),
        lambda: _smart(smart, papers, token_url=rnds.token_url),
        lambda: mirror_settings(
            base_url=smart.base_url,
            auth="oauth2",
            token_url=smart.token_url,
            client_id="x",
            client_secret=SECRET,
            ca_file=papers.ca_file,
        ),
        lambda: mirror_settings(
            base_url=rnds.base_url, auth="basic", login="x", password=SECRET, ca_file=papers.ca_file
        ),
        lambda: mirror_settings(
            base_url=rnds.base_url, auth="rnds", token_url=rnds.token_url, requester_cns=f"{CNS}\n"
        ),
        lambda: mirror_settings(
            base_url=rnds.base_url, client_certificate=pem, client_certificate_file="/x", client_private_key=pem
        ),
    ]
    texts: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for settings in working:
            walked = Walked(settings, now=lambda: datetime.now(UTC) + timedelta(minutes=5))
            assert walked.documents == DOCS
            texts += [repr(settings), str(settings)]
        for make in failing:
            try:
                settings = make()
                texts.append(repr(settings))
                Walked(settings)
            except ConfigurationError as error:
                texts.append("".join(traceback.format_exception(error)))
            else:
                pytest.fail("this one should have been refused")
    assert sum("Traceback" in text for text in texts) == len(failing)
    texts.append(caplog.text)
    assert "event=mirror.sign_again" in caplog.text
    seen = {canary for canary in CANARIES for text in texts if canary in text}
    assert seen == set()
