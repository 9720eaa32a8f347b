"""Authorities, certificates and keys made on the spot. Names in them are fictional canaries: they must never be seen in a log."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
CANARY_NAME = "CANARIO DA SILVA:70000000019"
PASSPHRASE = "senha-canario-ç"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate, its key and who issued it."""

    key: Key
    certificate: x509.Certificate
    issuers: tuple[x509.Certificate, ...] = ()

    def issue(
        self,
        name: str,
        *,
        key: Key | None = None,
        authority: bool = False,
        start: timedelta = timedelta(days=-1),
        end: timedelta = timedelta(days=365),
    ) -> Issued:
        """A certificate for 127.0.0.1 (servers and clients alike), or of an authority below this one."""
        own = key or ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(name, own, self.certificate.subject, self.key, authority=authority, start=start, end=end)
        above = () if self.certificate.issuer == self.certificate.subject else (self.certificate,)
        return Issued(own, certificate, above)

    def certificate_pem(self, *, chain: bool = True) -> bytes:
        found = (self.certificate, *(self.issuers if chain else ()))
        return b"".join(one.public_bytes(Encoding.PEM) for one in found)

    def key_pem(self, passphrase: str = "") -> bytes:
        protection: KeySerializationEncryption = (
            BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        )
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)

    def pfx(self, passphrase: str = PASSPHRASE) -> bytes:
        protection: KeySerializationEncryption = (
            BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        )
        return pkcs12.serialize_key_and_certificates(
            b"canario", self.key, self.certificate, list(self.issuers), protection
        )

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Certificate with chain, and key, as two files of PEM."""
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.certificate_pem())
        key.write_bytes(self.key_pem())
        return certificate, key


def new_authority(name: str = "Autoridade de teste") -> Issued:
    """A root."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    span = timedelta(days=3650)
    return Issued(key, _sign(name, key, subject, key, authority=True, start=-span, end=span))


def public_jwks(key: Key, key_id: str) -> str:
    """The public half, as a JWKS."""
    return json.dumps({"keys": [_jwk(key.public_key(), key_id)]})


def private_jwk(key: Key, key_id: str) -> str:
    """The key itself, as a JWK."""
    return json.dumps(_jwk(key, key_id))


def key_pem(key: Key) -> str:
    """The key itself, as PEM without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_pem(key: Key) -> bytes:
    """The public half, as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _jwk(key: Key | rsa.RSAPublicKey | ec.EllipticCurvePublicKey, key_id: str) -> dict[str, object]:
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        node: dict[str, object] = RSAAlgorithm.to_jwk(key, as_dict=True)
    else:
        node = ECAlgorithm.to_jwk(key, as_dict=True)
    return node | {"kid": key_id}


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def _sign(
    name: str, key: Key, issuer: x509.Name, issuer_key: Key, *, authority: bool, start: timedelta, end: timedelta
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
