"""Keys and envelopes: what is signed holds for one key and one root alone, and no private key is ever shown."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)

from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.settings import signing_settings
from imunizacao.signing import Signed, Signer, key_id_of, load_signer, make_envelope, new_key, read_envelope

ROOT = f"v1/days/2026-03-14/c-{'b' * 64}/day.json"
SIGNED = Signed(root=ROOT, sha256="a" * 64, day="2026-03-14", content_id="b" * 64, rows=980)
# RFC 8032, section 7.1, test 1: a key whose public half is known.
RFC_8032 = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_8032_PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def _pem(raw: bytes = RFC_8032) -> str:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(raw)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _load(**given: str) -> Signer:
    signer = load_signer(signing_settings(**given))
    assert signer is not None
    return signer


def test_the_id_of_a_key_is_the_beginning_of_the_hash_of_its_public_half() -> None:
    signer = _load(key=_pem())
    assert signer.fingerprint == hashlib.sha256(bytes.fromhex(RFC_8032_PUBLIC)).hexdigest()
    assert signer.key_id == signer.fingerprint[:16]
    assert key_id_of(signer.public_pem, "here") == signer.key_id
    assert signer.public_pem.startswith(b"-----BEGIN PUBLIC KEY-----\n")


def test_a_key_may_be_a_text_in_one_line_or_many_or_base64_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(_pem())
    forms: list[dict[str, str]] = [
        {"key": _pem()},
        {"key": _pem().replace("\n", "\\n")},
        {"key": base64.b64encode(_pem().encode()).decode()},
        {"key_file": str(file)},
    ]
    assert {_load(**form).key_id for form in forms} == {_load(key=_pem()).key_id}
    assert load_signer(None) is None


def _other_key() -> str:
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _encrypted() -> str:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(RFC_8032)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"canary")).decode()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"key": "canary!"}, "neither PEM nor base64"),
        ({"key": base64.b64encode(b"canary").decode()}, "not a private key in PEM"),
        ({"key": _pem().replace("PRIVATE", "PUBLIC")}, "not a private key in PEM"),
        ({"key": _encrypted()}, "encrypted"),
        ({"key": _other_key()}, "another kind than Ed25519"),
        ({"key_file": "/nowhere/key.pem"}, "/nowhere/key.pem cannot be read: No such file"),
        ({"key_file": "/dev/null"}, "empty or larger than 64 KiB"),
    ],
)
def test_a_key_that_cannot_sign_is_refused_without_being_shown(given: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as error:
        load_signer(signing_settings(**given))
    assert "canary" not in str(error.value)
    assert "docs/runbook/signing-keys.md" in str(error.value)


def test_a_key_does_not_show_its_private_half() -> None:
    private, signer = new_key()
    text = repr(signer) + str(signer)
    assert private.decode().splitlines()[1] not in text
    assert signer.key_id in text
    assert _load(key=private.decode()).key_id == signer.key_id


def test_the_envelope_is_one_that_dsse_and_in_toto_describe() -> None:
    """Read here with nothing of the product: pre-authentication encoding and signature by hand."""
    signer = _load(key=_pem())
    envelope = json.loads(make_envelope(signer, SIGNED))
    assert set(envelope) == {"payloadType", "payload", "signatures"}
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    payload = base64.b64decode(envelope["payload"], validate=True)
    assert json.loads(payload) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": ROOT, "digest": {"sha256": "a" * 64}}],
        "predicateType": "urn:imunizacao:schema:publication:1",
        "predicate": {"day": "2026-03-14", "contentId": "b" * 64, "rows": 980},
    }
    [signature] = envelope["signatures"]
    assert signature["keyid"] == signer.key_id
    public = load_pem_public_key(signer.public_pem)
    assert isinstance(public, ed25519.Ed25519PublicKey)
    encoded = b"DSSEv1 28 application/vnd.in-toto+json " + str(len(payload)).encode() + b" " + payload
    public.verify(base64.b64decode(signature["sig"]), encoded)


def test_one_key_makes_one_file_of_a_root() -> None:
    """These bytes must never change: the file is immutable, and another version of the code would meet its own."""
    body = make_envelope(_load(key=_pem()), SIGNED)
    assert body == make_envelope(_load(key=_pem()), SIGNED)
    assert hashlib.sha256(body).hexdigest() == "93ada2fe03aeae1c7b3278428dda5738982cc7a054f47d8b252d533463f679ec"
    assert read_envelope(body, public_pem=_load(key=_pem()).public_pem, where="here") == SIGNED


def _changed(**changes: Any) -> bytes:
    envelope = json.loads(make_envelope(_load(key=_pem()), SIGNED))
    payload = json.loads(base64.b64decode(envelope["payload"]))
    for name, value in changes.items():
        if name in payload:
            payload[name] = value
            envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
        else:
            envelope[name] = value
    return json.dumps(envelope).encode()


def _resigned(payload: object) -> bytes:
    """A good signature of something else."""
    signer, body = _load(key=_pem()), json.dumps(payload).encode()
    encoded = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(body), body)
    sig = base64.b64encode(signer.sign(encoded)).decode()
    return json.dumps(
        {
            "payloadType": "application/vnd.in-toto+json",
            "payload": base64.b64encode(body).decode(),
            "signatures": [{"keyid": signer.key_id, "sig": sig}],
        }
    ).encode()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"not JSON", "not a DSSE envelope"),
        (b"{}", "not a DSSE envelope"),
        (_changed(payload="?"), "not a DSSE envelope"),
        (_changed(payloadType="application/json"), "its payload is 'application/json'"),
        (_changed(signatures=[]), "no signature by the key"),
        (_changed(signatures=[{"keyid": "0" * 16, "sig": "AAAA"}]), "no signature by the key"),
        (_changed(signatures=[{"keyid": "SELF", "sig": "AAAA"}]), "not one of this payload"),
        (_changed(predicate={"day": "2026-03-14", "contentId": "b" * 64, "rows": 981}), "not one of this payload"),
        (_changed(subject=[{"name": ROOT, "digest": {"sha256": "c" * 64}}]), "not one of this payload"),
        (_resigned({"_type": "x"}), "not a statement about a publication"),
        (
            _resigned(
                {
                    "_type": "https://in-toto.io/Statement/v1",
                    "subject": [{"name": ROOT, "digest": {"sha256": "a" * 64}}],
                    "predicateType": "https://slsa.dev/provenance/v1",
                    "predicate": {"day": "2026-03-14", "contentId": "b" * 64, "rows": 980},
                }
            ),
            "not one urn:imunizacao:schema:publication:1",
        ),
    ],
)
def test_a_signature_that_does_not_hold_is_refused(body: bytes, told: str) -> None:
    signer = _load(key=_pem())
    with pytest.raises(ContractViolation, match=told):
        read_envelope(body.replace(b"SELF", signer.key_id.encode()), public_pem=signer.public_pem, where="here")


def test_the_signature_of_another_key_is_refused() -> None:
    body = make_envelope(_load(key=_pem()), SIGNED)
    with pytest.raises(ContractViolation, match="no signature by the key"):
        read_envelope(body, public_pem=new_key()[1].public_pem, where="here")
    with pytest.raises(ContractViolation, match="not an Ed25519 public key"):
        read_envelope(body, public_pem=b"x", where="here")
