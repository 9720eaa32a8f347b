"""Certificates and keys as people have them: what is read, what is refused, and what each refusal says to do."""

from __future__ import annotations

import base64
import json
import logging
import os
import ssl
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from imunizacao.errors import ConfigurationError
from imunizacao.fhir.keys import ClientCertificate, read_client_certificate, read_signing_key
from imunizacao.fhir.tls import identified_context, trusting_context
from imunizacao.settings import MirrorSettings
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

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = "docs/runbook/mirror-access.md"
# One key and one certificate of fiction, encrypted with RC2-40 and 3DES as exports of older systems are; passphrase `senha-canario`.
OLD_PFX = ROOT / "tests" / "support" / "old-export.pfx"


def _now() -> datetime:
    return datetime.now(UTC)


def _settings(**changes: Any) -> MirrorSettings:
    return MirrorSettings(base_url="https://mirror.example.org/fhir/r4", **changes)


def _read(**changes: Any) -> ClientCertificate:
    found = read_client_certificate(_settings(**changes), now=_now())
    assert found is not None
    return found


def _refused(**changes: Any) -> str:
    with pytest.raises(ConfigurationError) as failure:
        read_client_certificate(_settings(**changes), now=_now())
    return _told(failure.value)


def _told(error: BaseException) -> str:
    """The message; the whole traceback, causes included, is free of secrets."""
    whole = "".join(traceback.format_exception(error))
    for secret in (PASSPHRASE, "senha-canario", CANARY_NAME, "CANARIO", "PRIVATE KEY-----\n"):
        assert secret not in whole
    assert RUNBOOK in str(error)
    return str(error)


@pytest.fixture(scope="module")
def authority() -> Issued:
    return new_authority()


@pytest.fixture(scope="module")
def client(authority: Issued) -> Issued:
    between = authority.issue("Autoridade intermediária", authority=True)
    return between.issue(CANARY_NAME)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


FORMS: dict[str, Callable[[Issued, Path], dict[str, str]]] = {
    "pfx file": lambda client, folder: {
        "client_certificate_file": _file(folder, client.pfx()),
        "client_certificate_passphrase": PASSPHRASE,
    },
    "pfx text": lambda client, folder: {
        "client_certificate": _text(client.pfx()),
        "client_certificate_passphrase": PASSPHRASE,
    },
    "pfx text in lines": lambda client, folder: {
        "client_certificate": base64.encodebytes(client.pfx()).decode(),
        "client_certificate_passphrase": PASSPHRASE,
    },
    "pfx without passphrase": lambda client, folder: {"client_certificate_file": _file(folder, client.pfx(""))},
    "one pem file": lambda client, folder: {
        "client_certificate_file": _file(folder, client.certificate_pem() + client.key_pem())
    },
    "one pem file, key first, encrypted": lambda client, folder: {
        "client_certificate_file": _file(folder, client.key_pem(PASSPHRASE) + client.certificate_pem()),
        "client_certificate_passphrase": PASSPHRASE,
    },
    "two pem files": lambda client, folder: {
        "client_certificate_file": _file(folder, client.certificate_pem()),
        "client_key_file": _file(folder, client.key_pem(PASSPHRASE), "key"),
        "client_certificate_passphrase": PASSPHRASE,
    },
    "two pem texts": lambda client, folder: {
        "client_certificate": client.certificate_pem().decode(),
        "client_private_key": client.key_pem().decode(),
    },
    "pem text with escaped line breaks": lambda client, folder: {
        "client_certificate": (client.certificate_pem() + client.key_pem()).decode().replace("\n", "\\n")
    },
    "pem text in base64": lambda client, folder: {
        "client_certificate": _text(client.certificate_pem() + client.key_pem())
    },
    "a passphrase that the key does not need": lambda client, folder: {
        "client_certificate_file": _file(folder, client.certificate_pem() + client.key_pem()),
        "client_certificate_passphrase": PASSPHRASE,
    },
}


def _file(folder: Path, data: bytes, name: str = "certificate") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("form", FORMS)
def test_a_certificate_is_read_with_key_and_chain(form: str, client: Issued, tmp_path: Path) -> None:
    found = _read(**FORMS[form](client, tmp_path))
    assert found.own == client.certificate
    assert set(found.chain) == set(client.issuers)
    assert found.key.private_numbers() == client.key.private_numbers()  # type: ignore[union-attr]
    assert CANARY_NAME not in repr(found)


def test_no_certificate_is_no_certificate() -> None:
    assert read_client_certificate(_settings(), now=_now()) is None
    assert identified_context(_settings(), now=_now()) is None


def test_the_own_certificate_is_found_wherever_it_stands_in_the_chain(client: Issued, tmp_path: Path) -> None:
    pem = b"".join(reversed([client.certificate_pem(chain=False), *_issuers(client)]))
    found = _read(client_certificate_file=_file(tmp_path, pem + client.key_pem()))
    assert found.own == client.certificate


def _issuers(client: Issued) -> list[bytes]:
    whole, own = client.certificate_pem(), client.certificate_pem(chain=False)
    return [whole.removeprefix(own)]


@pytest.mark.parametrize("passphrase", ["wrong", ""])
@pytest.mark.parametrize("kind", ["pfx", "pem"])
def test_a_wrong_passphrase_is_told_as_such(client: Issued, tmp_path: Path, kind: str, passphrase: str) -> None:
    data = client.pfx() if kind == "pfx" else client.certificate_pem() + client.key_pem(PASSPHRASE)
    told = _refused(client_certificate_file=_file(tmp_path, data), client_certificate_passphrase=passphrase)
    assert "client_certificate_passphrase" in told
    assert "wrong" in told or "is encrypted" in told
    assert "openssl" not in told, "this file is of today"


def test_an_old_pfx_is_read_where_openssl_can() -> None:
    found = _read(client_certificate_file=str(OLD_PFX), client_certificate_passphrase="senha-canario")
    assert "old-export" in found.own.subject.rfc4514_string()


def test_an_old_pfx_that_cannot_be_read_comes_with_the_command_that_converts_it() -> None:
    """Encryption of the past sits in a part of OpenSSL that a machine may leave out, as this environment variable does."""
    script = (
        "import sys; from datetime import UTC, datetime\n"
        "from imunizacao.fhir.keys import read_client_certificate\n"
        "from imunizacao.settings import MirrorSettings\n"
        "s = MirrorSettings(base_url='https://x.example.org', client_certificate_file=sys.argv[1], "
        "client_certificate_passphrase='senha-canario')\n"
        "read_client_certificate(s, now=datetime.now(UTC))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(OLD_PFX)],
        env={"PYTHONPATH": str(ROOT / "include"), "CRYPTOGRAPHY_OPENSSL_NO_LEGACY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ConfigurationError" in done.stderr, done.stderr
    assert "openssl pkcs12 -legacy -in old.pfx -nodes | openssl pkcs12 -export -out new.pfx" in done.stderr
    assert "the passphrase (client_certificate_passphrase) is wrong, or" in done.stderr
    assert "senha-canario'" not in done.stderr.splitlines()[-1]


def test_a_certificate_that_expired_says_when(authority: Issued, tmp_path: Path) -> None:
    over = authority.issue(CANARY_NAME, start=timedelta(days=-400), end=timedelta(days=-2))
    told = _refused(client_certificate=_text(over.pfx()), client_certificate_passphrase=PASSPHRASE)
    assert f"expired on {_now() - timedelta(days=2):%Y-%m-%d}" in told


def test_a_certificate_of_tomorrow_is_refused_with_both_clocks(authority: Issued) -> None:
    early = authority.issue(CANARY_NAME, start=timedelta(hours=1))
    told = _refused(client_certificate=_text(early.pfx()), client_certificate_passphrase=PASSPHRASE)
    assert "valid only from" in told
    assert "this machine's clock" in told


@pytest.mark.parametrize(("days", "warns"), [(5, True), (29, True), (31, False)])
def test_a_certificate_that_soon_ends_is_told_in_the_log(
    authority: Issued, caplog: pytest.LogCaptureFixture, days: int, warns: bool
) -> None:
    soon = authority.issue(CANARY_NAME, end=timedelta(days=days, hours=1))
    with caplog.at_level(logging.DEBUG):
        _read(client_certificate=_text(soon.pfx()), client_certificate_passphrase=PASSPHRASE)
    assert (f"event=mirror.certificate_expires days={days}" in caplog.text) is warns
    assert "CANARIO" not in caplog.text


def test_files_that_are_missing_or_something_else_are_named(client: Issued, tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.pfx")
    assert f"{missing} cannot be read: No such file" in _refused(client_certificate_file=missing)
    assert "cannot be read: Is a directory" in _refused(client_certificate_file=str(tmp_path))
    assert "is empty" in _refused(client_certificate_file=_file(tmp_path, b" \n"))
    assert "neither PEM nor a PFX" in _refused(client_certificate_file=_file(tmp_path, b"\x00 not a certificate"))
    assert "neither PEM nor a PFX" in _refused(client_certificate=_text(b"something else"))
    assert "neither PEM nor base64" in _refused(client_certificate="/path/in-the-wrong-field.pfx?")
    pem = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n" + client.key_pem()
    assert "no certificate can be read" in _refused(client_certificate_file=_file(tmp_path, pem))


def test_a_certificate_without_its_key_is_refused(authority: Issued, client: Issued, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12

    told = _refused(client_certificate_file=_file(tmp_path, client.certificate_pem()))
    assert "has no private key: set client_key_file" in told
    bare = pkcs12.serialize_key_and_certificates(None, None, None, [client.certificate], NoEncryption())
    assert "The PFX holds no private key" in _refused(client_certificate_file=_file(tmp_path, bare))
    other = authority.issue("outro")
    told = _refused(
        client_certificate_file=_file(tmp_path, client.certificate_pem()),
        client_key_file=_file(tmp_path, other.key_pem(), "key"),
    )
    assert "not the one of the client certificate" in told


# ---------------------------------------------------------------- contexts


def test_the_key_on_disk_is_encrypted_private_and_gone_at_once(
    client: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[tuple[int, int, bytes]] = []
    load = ssl.SSLContext.load_cert_chain

    def spy(self: ssl.SSLContext, certfile: str, keyfile: str | None = None, password: Any = None) -> None:
        path = Path(certfile)
        seen.append((path.stat().st_mode, path.parent.stat().st_mode, path.read_bytes()))
        assert keyfile is None
        load(self, certfile, keyfile, password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    context = identified_context(
        _settings(client_certificate=_text(client.pfx()), client_certificate_passphrase=PASSPHRASE), now=_now()
    )
    assert context is not None
    [(mode, folder_mode, pem)] = seen
    assert (stat.S_IMODE(mode), stat.S_IMODE(folder_mode)) == (0o600, 0o700)
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in pem
    assert b"BEGIN PRIVATE KEY" not in pem
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_key_too_weak_for_tls_is_refused_and_leaves_nothing_behind(
    authority: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    weak = authority.issue(CANARY_NAME, key=rsa.generate_private_key(65537, 1024))  # noqa: S505
    with pytest.raises(ConfigurationError, match="OpenSSL does not take the client certificate") as failure:
        identified_context(
            _settings(client_certificate=_text(weak.pfx("")), client_certificate_passphrase=""), now=_now()
        )
    _told(failure.value)
    assert list(tmp_path.iterdir()) == []


def test_verification_is_on_and_old_tls_is_off(client: Issued) -> None:
    identified = identified_context(
        _settings(client_certificate=_text(client.pfx()), client_certificate_passphrase=PASSPHRASE), now=_now()
    )
    for context in (trusting_context(""), identified):
        assert context is not None
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_an_own_authority_is_trusted_besides_the_others(authority: Issued, tmp_path: Path) -> None:
    common = len(trusting_context("").get_ca_certs())
    assert common > 50
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.certificate_pem())
    assert len(trusting_context(str(path)).get_ca_certs()) == common + 1


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"text", "no PEM of certificates")])
def test_authorities_that_cannot_be_read_are_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=reason) as failure:
        trusting_context(str(path))
    assert str(path) in _told(failure.value)


def test_authorities_of_the_machine_that_lead_nowhere_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
        trusting_context("")


# ---------------------------------------------------------------- signing keys

RSA = rsa.generate_private_key(65537, 2048)
P384 = ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS384"), (P384, "ES384")], ids=["rsa", "ec"])
def test_a_signing_key_names_its_algorithm(key: Any, algorithm: str, tmp_path: Path) -> None:
    pem, jwk = key_pem(key), private_jwk(key, "from-the-jwk")
    ways: list[tuple[dict[str, str], str]] = [
        ({"signing_private_key": pem, "signing_key_id": "k"}, "k"),
        ({"signing_private_key": pem.replace("\n", "\\n"), "signing_key_id": "k"}, "k"),
        ({"signing_private_key": _text(pem.encode()), "signing_key_id": "k"}, "k"),
        ({"signing_key_file": _file(tmp_path, pem.encode()), "signing_key_id": "k"}, "k"),
        ({"signing_private_key": jwk}, "from-the-jwk"),
        ({"signing_private_key": jwk, "signing_key_id": "another"}, "another"),
        ({"signing_key_file": _file(tmp_path, jwk.encode(), "jwk")}, "from-the-jwk"),
        ({"signing_private_key": _text(jwk.encode())}, "from-the-jwk"),
    ]
    for given, key_id in ways:
        found = read_signing_key(_settings(**given))
        assert (found.algorithm, found.key_id) == (algorithm, key_id)
        assert found.key.private_numbers() == key.private_numbers()
        assert "PRIVATE" not in repr(found)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "There is no signing key"),
        ({"signing_private_key": key_pem(RSA)}, "has no `kid`"),
        ({"signing_private_key": private_jwk(RSA, "")}, "has no `kid`"),
        ({"signing_private_key": json.dumps(json.loads(public_jwks(RSA, "k"))["keys"][0])}, "is a public JWK"),
        ({"signing_private_key": public_jwks(RSA, "k")}, "is not a JWK"),
        ({"signing_private_key": '{"kty":"RSA"'}, "is not a JWK"),
        ({"signing_private_key": '{"kty":"oct","k":"c2VncmVkbw","d":"1","kid":"k"}'}, "neither RSA"),
        ({"signing_private_key": public_pem(RSA).decode(), "signing_key_id": "k"}, "is not a private key in PEM"),
        ({"signing_private_key": "segredo!", "signing_key_id": "k"}, "neither PEM nor base64"),
        (
            {"signing_private_key": key_pem(ec.generate_private_key(ec.SECP256R1())), "signing_key_id": "k"},
            "neither RSA of 2048 bits or more",
        ),
        ({"signing_key_file": "/nowhere/key.pem", "signing_key_id": "k"}, "/nowhere/key.pem cannot be read"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_key_that_cannot_sign_is_refused(given: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as failure:
        read_signing_key(_settings(**given))
    assert "segredo" not in _told(failure.value)


def test_an_encrypted_signing_key_needs_its_passphrase(tmp_path: Path, authority: Issued) -> None:
    issued = authority.issue("x", key=P384)
    path = _file(tmp_path, issued.key_pem(PASSPHRASE))
    found = read_signing_key(_settings(signing_key_file=path, signing_key_id="k", signing_key_passphrase=PASSPHRASE))
    assert found.algorithm == "ES384"
    for passphrase, reason in (("", "is encrypted: set signing_key_passphrase"), ("wrong", "wrong passphrase")):
        with pytest.raises(ConfigurationError, match=reason) as failure:
            read_signing_key(_settings(signing_key_file=path, signing_key_id="k", signing_key_passphrase=passphrase))
        _told(failure.value)
