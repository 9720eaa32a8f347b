"""Ed25519 keys as people have them: PEM in a text, in base64 of it, or in a file. Nothing of a private key reaches a message."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.settings import SigningSettings

_HELP: Final = "See docs/runbook/signing-keys.md."
_LONGEST_FILE: Final = 1 << 16
_KEY_ID_DIGITS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A private key that can sign, and what readers may know of it."""

    key: Ed25519PrivateKey = field(repr=False)
    key_id: str
    """First 16 hex digits of the fingerprint."""
    fingerprint: str
    """sha256 over the 32 bytes of the public key, in hex."""
    public_pem: bytes = field(repr=False)
    """SubjectPublicKeyInfo in PEM, as published."""

    def sign(self, data: bytes) -> bytes:
        """64 bytes; the same key and data give the same ones (RFC 8032)."""
        return self.key.sign(data)


def load_signer(settings: SigningSettings | None) -> Signer | None:
    """The key that the settings name, None when they name none. Raises `ConfigurationError` for whatever keeps it from signing."""
    if settings is None:
        return None
    data = _read_file(settings.key_file) if settings.key_file else _decode(settings.key)
    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise ConfigurationError(
            f"The signing key is encrypted, and there is no passphrase to open it. Store it without one, in a place that keeps secrets: "
            f"`openssl pkey -in encrypted.pem -out key.pem`. {_HELP}"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"The signing key is not a private key in PEM. Make one with `python -m imunizacao keys new --out key.pem`. {_HELP}"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            f"The signing key is of another kind than Ed25519. Make one with `python -m imunizacao keys new --out key.pem`. {_HELP}"
        )
    return _signer(key)


def new_key() -> tuple[bytes, Signer]:
    """A new key: its private half in PEM (PKCS#8, not encrypted), and the same ready to sign."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), _signer(key)


def fingerprint_of(public_pem: bytes, where: str) -> str:
    """sha256 over the 32 bytes of a public key, in hex; what is no Ed25519 key in PEM is a `ContractViolation`."""
    return hashlib.sha256(_raw(_public(public_pem, where))).hexdigest()


def key_id_of(public_pem: bytes, where: str) -> str:
    """Id of a public key, from its bytes."""
    return fingerprint_of(public_pem, where)[:_KEY_ID_DIGITS]


def is_signed_by(public_pem: bytes, *, signature: bytes, data: bytes, where: str) -> bool:
    """Whether this key made this signature of this data."""
    try:
        _public(public_pem, where).verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _signer(key: Ed25519PrivateKey) -> Signer:
    public = key.public_key()
    fingerprint = hashlib.sha256(_raw(public)).hexdigest()
    return Signer(
        key=key,
        key_id=fingerprint[:_KEY_ID_DIGITS],
        fingerprint=fingerprint,
        public_pem=public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


def _raw(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _public(public_pem: bytes, where: str) -> Ed25519PublicKey:
    try:
        public = load_pem_public_key(public_pem)
    except (ValueError, UnsupportedAlgorithm):
        public = None
    if not isinstance(public, Ed25519PublicKey):
        raise ContractViolation(f"{where} is not an Ed25519 public key in PEM. See docs/runbook/damaged-manifest.md.")
    return public


def _read_file(file: str) -> bytes:
    path = Path(file)
    try:
        with path.open("rb") as opened:
            data = opened.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise ConfigurationError(
            f"The signing key {path} cannot be read: {error.strerror or type(error).__name__}. It must be on the machine where the task "
            f"runs, readable for its user. {_HELP}"
        ) from error
    if not data.strip() or len(data) > _LONGEST_FILE:
        raise ConfigurationError(
            f"The signing key {path} is empty or larger than 64 KiB: it is something else. {_HELP}"
        )
    return data


def _decode(text: str) -> bytes:
    if "-----BEGIN" in text:
        return text.replace("\\n", "\n").encode()
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(
            f"The signing key given as text is neither PEM nor base64. Make base64 with `base64 -w0 key.pem`. {_HELP}"
        ) from None
