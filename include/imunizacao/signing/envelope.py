"""The file that carries a signature: a DSSE envelope around an in-toto Statement v1 about one `day.json`.

Sources: https://github.com/secure-systems-lab/dsse (protocol 1.0), https://github.com/in-toto/attestation (Statement v1). Nothing in
the file depends on run or clock, and Ed25519 is deterministic: one key makes one file of a root.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

import msgspec

from imunizacao.errors import ContractViolation
from imunizacao.signing.keys import Signer, is_signed_by, key_id_of

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:imunizacao:schema:publication:1"
"""`$id` of the JSON Schema of the predicate, `include/contract/schemas/publication.schema.json`."""


class _Signature(msgspec.Struct, frozen=True, kw_only=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    payload_type: str
    payload: str
    signatures: list[_Signature]


class _Digest(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str


class _Subject(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    digest: _Digest


class _Predicate(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    day: str
    content_id: str
    rows: int


class _Statement(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    kind: str = msgspec.field(name="_type")
    subject: list[_Subject]
    predicate_type: str
    predicate: _Predicate


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a signature says: that this root, of this day, with this content and so many doses, was published by who has the key."""

    root: str
    """Key of `day.json` in its bucket."""
    sha256: str
    day: str
    content_id: str
    rows: int


def make_envelope(signer: Signer, signed: Signed) -> bytes:
    """The file to publish. Same key, same root, same bytes."""
    statement = _Statement(
        kind=STATEMENT_TYPE,
        subject=[_Subject(name=signed.root, digest=_Digest(sha256=signed.sha256))],
        predicate_type=PREDICATE_TYPE,
        predicate=_Predicate(day=signed.day, content_id=signed.content_id, rows=signed.rows),
    )
    payload = msgspec.json.encode(statement)
    signature = signer.sign(_to_sign(payload))
    envelope = _Envelope(
        payload_type=PAYLOAD_TYPE,
        payload=base64.b64encode(payload).decode(),
        signatures=[_Signature(keyid=signer.key_id, sig=base64.b64encode(signature).decode())],
    )
    return msgspec.json.format(msgspec.json.encode(envelope), indent=2) + b"\n"


def read_envelope(body: bytes, *, public_pem: bytes, where: str) -> Signed:
    """What is signed, after the signature by this key was checked. Anything else than a good one is a `ContractViolation`.

    Whether the key is to be trusted, and whether what is signed is what the head names, is for the caller to see.
    """
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
        payload = base64.b64decode(envelope.payload, validate=True)
        key_id = key_id_of(public_pem, f"the public key for {where}")
        found = [
            base64.b64decode(signature.sig, validate=True)
            for signature in envelope.signatures
            if signature.keyid == key_id
        ]
    except (msgspec.DecodeError, msgspec.ValidationError, binascii.Error, ValueError) as error:
        raise _bad(where, f"it is not a DSSE envelope ({type(error).__name__})") from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise _bad(where, f"its payload is {envelope.payload_type!r}, expected {PAYLOAD_TYPE!r}")
    if not found:
        raise _bad(where, f"it has no signature by the key {key_id}")
    data = _to_sign(payload)
    if not any(is_signed_by(public_pem, signature=one, data=data, where=where) for one in found):
        raise _bad(where, f"the signature by the key {key_id} is not one of this payload")
    return _read_statement(payload, where)


def _read_statement(payload: bytes, where: str) -> Signed:
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise _bad(where, f"its payload is not a statement about a publication: {error}") from error
    if (statement.kind, statement.predicate_type) != (STATEMENT_TYPE, PREDICATE_TYPE) or len(statement.subject) != 1:
        raise _bad(where, f"its payload is not one {PREDICATE_TYPE} about one subject")
    subject, predicate = statement.subject[0], statement.predicate
    return Signed(
        root=subject.name,
        sha256=subject.digest.sha256,
        day=predicate.day,
        content_id=predicate.content_id,
        rows=predicate.rows,
    )


def _to_sign(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: nobody can take these bytes for those of another type."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _bad(where: str, what: str) -> ContractViolation:
    return ContractViolation(f"The signature {where} does not hold: {what}. See docs/runbook/signing-keys.md.")
