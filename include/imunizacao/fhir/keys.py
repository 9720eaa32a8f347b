"""Private keys and certificates, as people have them: a PFX with a passphrase, PEM in one file or two, a JWK, or text of one of these.

Nothing of a key, a passphrase or the name in a certificate (an e-CPF carries a person's) reaches a message.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    pkcs12,
)

from imunizacao.errors import ConfigurationError
from imunizacao.events import log_event
from imunizacao.settings import MirrorSettings

WARN_DAYS: Final = 30
"""A certificate that ends sooner is told in every log: a new A1 takes days to get."""
_HELP: Final = "See docs/runbook/mirror-access.md."
_LONGEST_FILE: Final = 1 << 20
_CLOCK_TOLERANCE: Final = timedelta(minutes=5)
_PRIVATE_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL)
_SMALLEST_RSA_BITS: Final = 2048
# pbeWithSHAAnd… of PKCS#12 (1.2.840.113549.1.12.1.1 to .6): RC4, 3DES and RC2. OpenSSL 3 reads RC4 and RC2 with its legacy provider only.
_OLD_ENCRYPTION: Final = re.compile(rb"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01[\x01-\x06]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """A certificate, its key, and the authorities between it and the root."""

    key: PrivateKeyTypes = field(repr=False)
    own: x509.Certificate = field(repr=False)
    chain: tuple[x509.Certificate, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """The key that signs our assertions."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)
    key_id: str
    algorithm: str
    """`RS384` or `ES384`."""


def read_client_certificate(settings: MirrorSettings, *, now: datetime) -> ClientCertificate | None:
    """Read the certificate that the settings name, None when they name none; an expired one is refused, one that soon ends is told.

    Raises `ConfigurationError` for whatever keeps it from being used.
    """
    data = _given(settings.client_certificate_file, settings.client_certificate, "client certificate")
    if data is None:
        return None
    passphrase = settings.client_certificate_passphrase
    if b"-----BEGIN" in data:
        key_data = _given(settings.client_key_file, settings.client_private_key, "key of the client certificate")
        certificate = _from_pem(data, key_data or data, passphrase)
    else:
        certificate = _from_pfx(data, passphrase)
    _require_valid(certificate.own, now)
    return certificate


def read_signing_key(settings: MirrorSettings) -> SigningKey:
    """Read the key of the SMART assertions and see that it can sign as the standard demands. Raises `ConfigurationError`."""
    what = "signing key"
    data = _given(settings.signing_key_file, settings.signing_private_key, what)
    if data is None:
        raise ConfigurationError(f"There is no {what}: set signing_key_file or signing_private_key. {_HELP}")
    key_id = settings.signing_key_id
    if data.lstrip().startswith(b"{"):
        key, own_id = _from_jwk(data)
        key_id = key_id or own_id
    else:
        key = _load_key(data, settings.signing_key_passphrase, what, "signing_key_passphrase")
    if not key_id:
        raise ConfigurationError(
            f"The {what} has no `kid`: set signing_key_id to the one under which its public half is registered. {_HELP}"
        )
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _SMALLEST_RSA_BITS:
        return SigningKey(key=key, key_id=key_id, algorithm="RS384")
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
        return SigningKey(key=key, key_id=key_id, algorithm="ES384")
    raise ConfigurationError(
        f"The {what} is neither RSA of {_SMALLEST_RSA_BITS} bits or more (RS384) nor EC on the curve P-384 (ES384). {_HELP}"
    )


def _given(file: str, text: str, what: str) -> bytes | None:
    """The bytes behind a path or a text, None when there is neither."""
    if file:
        return _read_file(file, what)
    return _decode(text, what) if text else None


def _read_file(file: str, what: str) -> bytes:
    path = Path(file)
    try:
        with path.open("rb") as opened:
            data = opened.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise ConfigurationError(
            f"The {what} {path} cannot be read: {error.strerror or type(error).__name__}. It must be on the machine where the task "
            f"runs, readable for its user. {_HELP}"
        ) from error
    if not data.strip() or len(data) > _LONGEST_FILE:
        raise ConfigurationError(f"The {what} {path} is empty or larger than 1 MiB: it is something else. {_HELP}")
    return data


def _decode(text: str, what: str) -> bytes:
    if "-----BEGIN" in text or text.lstrip().startswith("{"):
        return text.replace("\\n", "\n").encode() if "-----BEGIN" in text else text.encode()
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(
            f"The {what} given as text is neither PEM nor base64. Make base64 with `base64 -w0 <file>`. {_HELP}"
        ) from None


def _from_pem(data: bytes, key_data: bytes, passphrase: str) -> ClientCertificate:
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise ConfigurationError(
            f"The client certificate is PEM, but no certificate can be read from it. {_HELP}"
        ) from None
    if _PRIVATE_BLOCK.search(key_data) is None:
        raise ConfigurationError(
            "The client certificate has no private key: set client_key_file (or client_private_key), or put the key into the "
            f"same PEM. A certificate on a card or token (A3) gives its key to nobody: an A1 is needed. {_HELP}"
        )
    key = _load_key(key_data, passphrase, "key of the client certificate", "client_certificate_passphrase")
    own = [one for one in found if _public(one.public_key) == _public(key.public_key)]
    if not own:
        raise ConfigurationError(f"The private key is not the one of the client certificate. {_HELP}")
    return ClientCertificate(key=key, own=own[0], chain=tuple(one for one in found if one is not own[0]))


def _from_pfx(data: bytes, passphrase: str) -> ClientCertificate:
    try:
        key, own, others = pkcs12.load_key_and_certificates(data, passphrase.encode() if passphrase else None)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(_pfx_problem(data, error)) from None
    if key is None:
        raise ConfigurationError(
            "The PFX holds no private key: it was exported without one. Export it again with its key, or ask the authority "
            f"for the A1 file itself. {_HELP}"
        )
    if own is None:
        raise ConfigurationError(f"The PFX holds a key, but not the certificate of this key. {_HELP}")
    return ClientCertificate(key=key, own=own, chain=tuple(others))


def _pfx_problem(data: bytes, error: Exception) -> str:
    if isinstance(error, ValueError) and "password" not in str(error).lower():
        return f"The client certificate is neither PEM nor a PFX (P12). {_HELP}"
    if _OLD_ENCRYPTION.search(data):
        return (
            "The PFX cannot be opened: either the passphrase (client_certificate_passphrase) is wrong, or the file is encrypted the "
            "old way (RC2 or 3DES), which this machine does not read. Convert it: `openssl pkcs12 -legacy -in old.pfx -nodes | "
            f"openssl pkcs12 -export -out new.pfx`. {_HELP}"
        )
    return f"The PFX cannot be opened: the passphrase (client_certificate_passphrase) is wrong or missing. {_HELP}"


def _load_key(data: bytes, passphrase: str, what: str, setting: str) -> PrivateKeyTypes:
    block = _PRIVATE_BLOCK.search(data)
    if block is None:
        raise ConfigurationError(f"The {what} is not a private key in PEM. {_HELP}")
    try:
        try:
            return load_pem_private_key(block[0], passphrase.encode() if passphrase else None)
        except TypeError:  # a passphrase for a key that needs none, or none for a key that needs one
            return load_pem_private_key(block[0], None)
    except TypeError:
        raise ConfigurationError(f"The {what} is encrypted: set {setting}. {_HELP}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"The {what} cannot be opened: wrong passphrase ({setting}), or damaged. {_HELP}"
        ) from None


def _from_jwk(data: bytes) -> tuple[object, str]:
    try:
        node = json.loads(data)
        key = jwt.PyJWK(node).key
    except (ValueError, RecursionError, AttributeError, TypeError, jwt.PyJWTError):
        raise ConfigurationError(f"The signing key is not a JWK: one RSA or EC key is expected. {_HELP}") from None
    if "d" not in node:
        raise ConfigurationError(f"The signing key is a public JWK: the private one has a member `d`. {_HELP}")
    return key, str(node.get("kid") or "")


def _require_valid(certificate: x509.Certificate, now: datetime) -> None:
    end = certificate.not_valid_after_utc
    if now > end:
        raise ConfigurationError(
            f"The client certificate expired on {end:%Y-%m-%d %H:%M} UTC. Get a new A1 certificate and put it in its place. {_HELP}"
        )
    if now + _CLOCK_TOLERANCE < certificate.not_valid_before_utc:
        raise ConfigurationError(
            f"The client certificate is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, and this machine's "
            f"clock says {now:%Y-%m-%d %H:%M} UTC. {_HELP}"
        )
    days = (end - now).days
    if days < WARN_DAYS:
        log_event("mirror.certificate_expires", level=logging.WARNING, days=days)


def _public(public_key: Callable[[], object]) -> bytes:
    """The public key as bytes that can be compared; empty for a kind of key that TLS does not know."""
    try:
        encoded: bytes = public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    except (AttributeError, ValueError, UnsupportedAlgorithm):
        return b""
    return encoded
