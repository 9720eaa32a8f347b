"""Signatures of days: a DSSE envelope around an in-toto Statement, Ed25519, and which keys are believed."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imunizacao.errors import ConfigurationError
from imunizacao.verify import forms
from imunizacao.verify.forms import Json, Malformed
from imunizacao.verify.found import Findings
from imunizacao.verify.layout import KEYS
from imunizacao.verify.readers import Missing, Reader, TooLarge, read_small

_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "urn:imunizacao:schema:publication:1"
_SMALL: Final = 1 << 20
_NO_LIBRARY: Final = (
    "signatures not checked: install the Python package cryptography (pip install cryptography), then verify again"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A public key that is believed."""

    key_id: str
    raw: bytes
    state: str
    given: bool
    """By the person who verifies, and not by the bucket."""

    @property
    def fingerprint(self) -> str:
        """sha256 of the raw key: what people compare."""
        return hashlib.sha256(self.raw).hexdigest()


@dataclass(slots=True, kw_only=True)
class Keys:
    """Keys by id."""

    known: dict[str, Key] = field(default_factory=dict)
    only_given: bool = False
    library: bool = True
    notes: list[str] = field(default_factory=list)


def load_keys(reader: Reader, index: Json | None, given: Sequence[Path], findings: Findings) -> Keys:
    """The keys to believe: those given, or else those of the bucket's own index. Revocation in the index counts for both."""
    keys = Keys(only_given=bool(given), library=_has_library())
    if not keys.library:
        if given:
            raise ConfigurationError("--key needs the Python package cryptography: pip install cryptography.")
        keys.notes.append(_NO_LIBRARY)
        return keys
    stated: dict[str, Key] = {}
    for node in _read_index(index, findings):
        key = _key_of_bucket(reader, node, findings)
        if key is not None:
            stated[key.key_id] = key
    if not given:
        keys.known = stated
        return keys
    for path in given:
        try:
            raw = _raw(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"{path} is no public Ed25519 key in PEM: {error}. Take the one that the publisher gave you."
            ) from None
        key_id = hashlib.sha256(raw).hexdigest()[:16]
        state = stated[key_id].state if key_id in stated else "active"
        keys.known[key_id] = Key(key_id=key_id, raw=raw, state=state, given=True)
    return keys


def check_signature(
    reader: Reader,
    signature: Json,
    *,
    root: str,
    named: Json,
    predicate: Json,
    keys: Keys,
    findings: Findings,
    gone: bool,
) -> str:
    """Check the signature of one root; the id of its key when it is good, else nothing and findings.

    `named` has the sha256 of the root, `predicate` what the statement must say beside it. A file that is not there is no finding
    where the folder may be `gone`.
    """
    before = len(findings)
    try:
        key_id = forms.text(signature, "keyId", "[0-9a-f]{16}")
        wanted = f"{root.rpartition('/')[0]}/day.{key_id}.dsse.json"
        path = forms.text(signature, "path")
        if path != wanted:
            findings.add("path", root, "signature", expected=wanted, found=path)
            return ""
        try:
            body = read_small(reader, path, most=_SMALL)
        except (Missing, TooLarge) as error:
            if not gone:
                findings.add("missing", path, "the head names it as signature", expected="an object", found=str(error))
            return ""
        findings.expect("bytes", path, "size", expected=forms.count(signature, "bytes"), found=len(body))
        findings.expect(
            "sha256", path, "hash", expected=forms.sha256(signature, "sha256"), found=hashlib.sha256(body).hexdigest()
        )
        if not keys.library:
            return ""
        signer = _check_envelope(body, path, key_id, root, named, predicate, keys, findings)
        return signer if len(findings) == before else ""
    except Malformed as error:
        findings.add("signature", root, error.member, expected=error.expected)
        return ""


def _check_envelope(
    body: bytes, path: str, key_id: str, root: str, named: Json, predicate: Json, keys: Keys, findings: Findings
) -> str:
    envelope = forms.parse(body)
    findings.expect("signature", path, "payloadType", expected=_PAYLOAD_TYPE, found=envelope.get("payloadType"))
    payload = _decode(forms.text(envelope, "payload"), "payload")
    mine = [node for node in forms.children(envelope, "signatures") if node.get("keyid") == key_id]
    if len(mine) != 1:
        findings.add("signature", path, "signatures by this key", expected=1, found=len(mine))
        return ""
    key = keys.known.get(key_id)
    if key is None:
        of = "the keys given" if keys.only_given else KEYS
        findings.add("key", path, "signed by a key that is not believed", expected=f"one of {of}", found=key_id)
        return ""
    if not _is_signed(key.raw, _signed_bytes(payload), _decode(forms.text(mine[0], "sig"), "sig")):
        findings.add(
            "signature",
            path,
            "the signature is not that of this key over this statement",
            expected=key_id,
            found="false",
        )
        return ""
    if key.state == "revoked":
        findings.add("key", path, "signed by a key that was revoked", expected="active or retired", found=key_id)
    statement = forms.parse(payload)
    findings.expect("signature", path, "_type", expected=_STATEMENT, found=statement.get("_type"))
    findings.expect("signature", path, "predicateType", expected=_PREDICATE, found=statement.get("predicateType"))
    subjects = {forms.text(node, "name"): node.get("digest") for node in forms.children(statement, "subject")}
    wanted = {root: {"sha256": named["sha256"]}}
    findings.expect("signature", path, "subject of the statement", expected=wanted, found=subjects)
    said = forms.child(statement, "predicate")
    for name, expected in predicate.items():
        findings.expect("signature", path, f"{name} in the statement", expected=expected, found=said.get(name))
    return key_id


def _signed_bytes(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    kind = _PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _read_index(index: Json | None, findings: Findings) -> list[Json]:
    if index is None:
        return []
    findings.expect("key", KEYS, "schema", expected="imunizacao.keys/1", found=index.get("schema"))
    try:
        return forms.children(index, "keys")
    except Malformed as error:
        findings.add("key", KEYS, error.member, expected=error.expected)
        return []


def _key_of_bucket(reader: Reader, node: Json, findings: Findings) -> Key | None:
    try:
        key_id = forms.text(node, "keyId", "[0-9a-f]{16}")
        state = forms.text(node, "state", "active|retired|revoked")
        path = f"v1/keys/{key_id}.pub"
        findings.expect("path", KEYS, f"key {key_id}", expected=path, found=node.get("path"))
        findings.expect("key", KEYS, f"algorithm of {key_id}", expected="Ed25519", found=node.get("algorithm"))
        body = read_small(reader, path, most=_SMALL)
        findings.expect("sha256", path, "hash", expected=node.get("sha256"), found=hashlib.sha256(body).hexdigest())
        raw = _raw(body)
    except Malformed as error:
        findings.add("key", KEYS, error.member, expected=error.expected)
        return None
    except (Missing, TooLarge) as error:
        findings.add("key", KEYS, "a key that cannot be read", expected="a public key", found=str(error))
        return None
    except ValueError:
        findings.add("key", path, "no public Ed25519 key in PEM", expected="SubjectPublicKeyInfo")
        return None
    found = hashlib.sha256(raw).hexdigest()[:16]
    if not findings.expect("key", path, "id of the key", expected=key_id, found=found):
        return None
    return Key(key_id=key_id, raw=raw, state=state, given=False)


def _has_library() -> bool:
    try:
        import cryptography  # noqa: F401, PLC0415 (only who checks signatures needs it)
    except ImportError:
        return False
    return True


def _raw(pem: bytes) -> bytes:
    """The 32 bytes of a public key; a `ValueError` when it is none."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(pem)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not Ed25519")
    return key.public_bytes_raw()


def _is_signed(raw: bytes, message: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _decode(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(name, "base64") from None
