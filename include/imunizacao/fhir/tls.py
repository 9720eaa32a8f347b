"""TLS to the mirror and to its token service: whom we trust, how we show our certificate, and what a refused handshake means."""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from imunizacao.errors import ConfigurationError
from imunizacao.fhir.keys import ClientCertificate, read_client_certificate
from imunizacao.settings import MirrorSettings

_HELP: Final = "See docs/runbook/mirror-access.md."
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it wants a client certificate and got none",
    "HANDSHAKE_FAILURE": "it wants a client certificate and got none that it takes, or no cipher in common with us",
    "UNKNOWN_CA": "it does not trust the authority of our client certificate, or got it without the authorities in between",
    "BAD_CERTIFICATE": "it does not take our client certificate",
    "CERTIFICATE_UNKNOWN": "it does not take our client certificate",
    "UNSUPPORTED_CERTIFICATE": "our client certificate is of a kind that it does not take",
    "CERTIFICATE_EXPIRED": "to it our client certificate has expired",
    "CERTIFICATE_REVOKED": "our client certificate was revoked",
    "ACCESS_DENIED": "our client certificate has no access",
    "DECRYPT_ERROR": "the signature with the key of our client certificate did not convince it",
}
"""What a server says when it refuses us, by the name of the TLS alert."""
LISTEN_SECONDS: Final = 5.0
"""A server tells what it has against a certificate right after the handshake."""
_TOO_OLD: Final = ("ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL")


def trusting_context(ca_file: str) -> ssl.SSLContext:
    """A context that trusts the authorities of this machine (`SSL_CERT_FILE`, else certifi's) and those in `ca_file`."""
    try:
        context = httpx.create_ssl_context()
    except OSError as error:
        raise ConfigurationError(
            f"The trusted authorities of this machine cannot be read ({error.strerror or type(error).__name__}): SSL_CERT_FILE or "
            f"SSL_CERT_DIR leads nowhere. {_HELP}"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            reason = (
                "it is no PEM of certificates" if isinstance(error, ssl.SSLError) else getattr(error, "strerror", "")
            )
            raise ConfigurationError(
                f"The authorities in ca_file {Path(ca_file)} cannot be read: {reason or type(error).__name__}. {_HELP}"
            ) from error
    return context


def identified_context(settings: MirrorSettings, *, now: datetime) -> ssl.SSLContext | None:
    """A context that also shows the client certificate of the settings; None when they name none."""
    certificate = read_client_certificate(settings, now=now)
    if certificate is None:
        return None
    context = trusting_context(settings.ca_file)
    _load(context, certificate)
    return context


def _load(context: ssl.SSLContext, certificate: ClientCertificate) -> None:
    """Give key and chain to OpenSSL, which takes them from a file only: encrypted, readable for us alone, gone at once."""
    passphrase = secrets.token_urlsafe(32).encode()
    pem = certificate.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
    pem += b"".join(one.public_bytes(Encoding.PEM) for one in (certificate.own, *certificate.chain))
    with tempfile.TemporaryDirectory(prefix="imunizacao-") as folder:  # mode 0700
        path = Path(folder, "certificate.pem")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        try:
            context.load_cert_chain(path, password=passphrase)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"OpenSSL does not take the client certificate ({error.reason or 'no reason given'}): its key or its signature is "
                f"too weak or of an unknown kind. {_HELP}"
            ) from error


def refusal(error: BaseException, server: str) -> ConfigurationError | None:
    """What a failed connection means when another try cannot help; None when it may."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConfigurationError(
                f"The certificate of {server} cannot be trusted ({cause.verify_message}). Nothing was sent. Check the address and "
                f"the trusted authorities (IMUNIZACAO_MIRROR_CA_FILE, or extra `ca_file`). {_HELP}"
            )
        if isinstance(cause, ssl.SSLError) and (meaning := _meaning(cause.reason or "")):
            return ConfigurationError(
                f"{server} refuses our TLS connection: {meaning} ({cause.reason}). Nothing was published. Check the client "
                f"certificate, its validity, and that the service knows it. {_HELP}"
            )
        cause = cause.__cause__ or cause.__context__
    return None


async def listen_for_refusal(url: str, context: ssl.SSLContext, server: str) -> ConfigurationError | None:
    """Shake hands again, send nothing, and hear whether the server says that it refuses us.

    With TLS 1.3 its alert comes after the handshake. A request that is under way by then meets a closed connection, and the system may
    throw the alert away with it.
    """
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(LISTEN_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=context)
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError) as error:
        return refusal(error, server)
    return None


def _meaning(reason: str) -> str:
    if any(name in reason for name in _TOO_OLD):
        return "it speaks no TLS 1.2 or later"
    _, alert, name = reason.partition("ALERT_")
    return _ALERTS.get(name, "") if alert else ""
