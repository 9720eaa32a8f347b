"""Signatures: DSSE around an in-toto Statement, Ed25519, and keys that are active, retired, revoked, unknown or given."""

from __future__ import annotations

import base64
import builtins
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from imunizacao.errors import ConfigurationError
from imunizacao.verify import Report, Selection, render_text, verify_bucket
from tests.support.tree import Json, Tree, head, sha256
from tests.support.withdrawals import purge, withdraw_day
from tests.verify.conftest import DAY, PLAIN
from tests.verify.test_damage import found, kinds

pytestmark = pytest.mark.servers
ONE, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2))
KEYS = "v1/keys/index.json"


def key_id(key: Ed25519PrivateKey) -> str:
    return hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()[:16]


def pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def envelope(key: Ed25519PrivateKey, statement: Json) -> bytes:
    payload = json.dumps(statement).encode()
    kind = "application/vnd.in-toto+json"
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    document = {
        "payloadType": kind,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key_id(key), "sig": base64.b64encode(key.sign(signed)).decode()}],
    }
    return json.dumps(document).encode()


def statement_of(tree: Tree, node: Json) -> Json:
    root = tree.json(node["path"])
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": node["path"], "digest": {"sha256": node["sha256"]}}],
        "predicateType": "urn:imunizacao:schema:publication:1",
        "predicate": {"day": root["day"], "contentId": node["contentId"], "rows": root["rows"]},
    }


def sign(
    tree: Tree, day: str, key: Ed25519PrivateKey = ONE, change: Callable[[Json], object] = lambda statement: None
) -> str:
    """Sign every revision of a day; gives the key of the present revision's signature."""
    paths: list[str] = []

    def put(document: Json) -> None:
        for node in (*document["history"], document["current"]):
            statement = statement_of(tree, node)
            change(statement)
            body = envelope(key, statement)
            path = f"{node['path'].rpartition('/')[0]}/day.{key_id(key)}.dsse.json"
            tree.files[path] = body
            node["signature"] = {"path": path, "sha256": sha256(body), "bytes": len(body), "keyId": key_id(key)}
            paths.append(path)

    tree.edit(head(day), put)
    return paths[-1]


def offer(tree: Tree, *keys: tuple[Ed25519PrivateKey, str]) -> None:
    """Put public keys and their index into the bucket."""
    nodes = []
    for key, state in keys:
        path = f"v1/keys/{key_id(key)}.pub"
        tree.files[path] = pem(key)
        nodes.append(
            {
                "keyId": key_id(key),
                "algorithm": "Ed25519",
                "path": path,
                "sha256": sha256(pem(key)),
                "state": state,
                "since": "2026-01-01T00:00:00Z",
            }
        )
    tree.files[KEYS] = json.dumps({"schema": "imunizacao.keys/1", "keys": nodes}).encode()
    tree.edit("v1/catalog.json", lambda catalog: catalog.update(keys=KEYS))


def verify(tree: Tree, **options: Any) -> Report:
    return verify_bucket(tree, selection=Selection(day=DAY), **options)


@pytest.mark.parametrize("state", ["active", "retired"])
def test_a_signature_by_an_active_or_retired_key_is_good_and_told_to_be_trust_on_first_use(
    tree: Tree, state: str
) -> None:
    sign(tree, DAY)
    offer(tree, (ONE, state), (OTHER, "active"))
    report = verify(tree, require_signature=True)
    assert report.exit_code == 0, render_text(report)
    assert report.days[0].signed_by == key_id(ONE)
    fingerprint = hashlib.sha256(ONE.public_key().public_bytes_raw()).hexdigest()
    assert [note for note in report.notes if "trust on first use" in note and fingerprint in note]


def test_a_key_that_was_given_needs_no_trust_in_the_bucket(tree: Tree, tmp_path: Path) -> None:
    sign(tree, DAY)
    (tmp_path / "one.pub").write_bytes(pem(ONE))
    (tmp_path / "other.pub").write_bytes(pem(OTHER))
    report = verify(tree, keys=[tmp_path / "other.pub", tmp_path / "one.pub"])
    assert (report.exit_code, report.days[0].signed_by, report.notes) == (0, key_id(ONE), [])
    offer(tree, (ONE, "active"))
    assert kinds(verify(tree, keys=[tmp_path / "other.pub"])) == {"key"}
    offer(tree, (ONE, "revoked"))
    assert kinds(verify(tree, keys=[tmp_path / "one.pub"])) == {"key"}


def test_an_unsigned_day_is_a_finding_only_when_signatures_are_required(tree: Tree) -> None:
    assert verify(tree).exit_code == 0
    assert found(verify(tree, require_signature=True)) == {("signature", head(DAY))}


def test_a_revoked_and_an_unknown_key_are_named(tree: Tree) -> None:
    path = sign(tree, DAY)
    offer(tree, (ONE, "revoked"))
    report = verify(tree)
    assert ("key", path) in found(report)
    assert report.days[0].signed_by == ""
    offer(tree, (OTHER, "active"))
    assert ("key", path) in found(verify(tree))


STATEMENTS: dict[str, Callable[[Json], object]] = {
    "another root": lambda statement: statement["subject"][0]["digest"].update(sha256="0" * 64),
    "another path": lambda statement: statement["subject"][0].update(name="v1/x"),
    "another day": lambda statement: statement["predicate"].update(day=PLAIN),
    "another content": lambda statement: statement["predicate"].update(contentId="0" * 64),
    "another count": lambda statement: statement["predicate"].update(rows=9),
    "another type": lambda statement: statement.update(_type="https://example.org/other"),
    "another type of predicate": lambda statement: statement.update(predicateType="https://example.org/other"),
    "no subject": lambda statement: statement.pop("subject"),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_good_signature_over_something_else_is_no_signature(tree: Tree, name: str) -> None:
    sign(tree, DAY, change=STATEMENTS[name])
    offer(tree, (ONE, "active"))
    report = verify(tree)
    assert kinds(report) == {"signature"}, render_text(report)


def _reseal(tree: Tree, path: str) -> None:
    """The head agrees with a signature file that was changed."""
    body = tree.files[path]

    def put(document: Json) -> None:
        for node in (*document["history"], document["current"]):
            if node["signature"]["path"] == path:
                node["signature"].update(sha256=sha256(body), bytes=len(body))

    tree.edit(head(DAY), put)


ENVELOPES: dict[str, tuple[Callable[[Json], object], str]] = {
    "another payload": (lambda node: node.update(payload=base64.b64encode(b'{"a": 1}').decode()), "signature"),
    "no base64": (lambda node: node.update(payload="%%%"), "signature"),
    "another type of payload": (lambda node: node.update(payloadType="text/plain"), "signature"),
    "a signature of zeros": (
        lambda node: node["signatures"][0].update(sig=base64.b64encode(bytes(64)).decode()),
        "signature",
    ),
    "nobody's signature": (lambda node: node["signatures"][0].update(keyid="0" * 16), "signature"),
    "no signatures": (lambda node: node.pop("signatures"), "signature"),
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_damage_of_an_envelope(tree: Tree, name: str) -> None:
    change, kind = ENVELOPES[name]
    path = sign(tree, DAY)
    offer(tree, (ONE, "active"))
    tree.edit(path, change)
    assert ("sha256", path) in found(verify(tree))
    _reseal(tree, path)
    report = verify(tree)
    assert kinds(report) == {kind}, render_text(report)
    assert report.days[0].signed_by == ""


def test_somebody_who_made_all_manifests_agree_is_found_by_the_signature_alone(tree: Tree) -> None:
    """The last row of the chain: every count, hash and sum is made right, and only the key was not there to sign."""
    sign(tree, DAY)
    offer(tree, (ONE, "active"))
    old = tree.folder(DAY)
    tree.change(old + "removed.csv", lambda body: b"".join(body.splitlines(keepends=True)[:-1]))
    tree.seal(DAY, "descriptor")
    tree.edit(old + "day.json", lambda day: day["files"]["removed"].update(rows=1))
    tree.seal(DAY, "id")
    moved = tree.folder(DAY) + f"day.{key_id(ONE)}.dsse.json"
    tree.edit(
        head(DAY),
        lambda node: [part["signature"].update(path=moved) for part in (node["current"], node["history"][-1])],
    )
    report = verify(tree)
    assert found(report) == {("signature", moved)}, render_text(report)


def test_a_signature_that_is_not_there_or_elsewhere(tree: Tree) -> None:
    path = sign(tree, DAY)
    offer(tree, (ONE, "active"))
    copy = Tree(tree.files)
    copy.edit(head(DAY), lambda node: node["current"]["signature"].update(path="v1/x.json"))
    assert "path" in kinds(verify(copy))
    del tree.files[path]
    assert ("missing", path) in found(verify(tree))


KEY_DAMAGE: dict[str, Callable[[Tree], object]] = {
    "key": lambda tree: tree.files.update({f"v1/keys/{key_id(ONE)}.pub": pem(OTHER)}),
    "sha256": lambda tree: tree.files.update({f"v1/keys/{key_id(ONE)}.pub": pem(ONE) + b"\n"}),
    "path": lambda tree: tree.edit(KEYS, lambda node: node["keys"][0].update(path="../x.pub")),
    "missing": lambda tree: tree.files.pop(KEYS),
}


@pytest.mark.parametrize("kind", KEY_DAMAGE)
def test_damage_of_the_keys(tree: Tree, kind: str) -> None:
    sign(tree, DAY)
    offer(tree, (ONE, "active"))
    KEY_DAMAGE[kind](tree)
    report = verify(tree)
    assert kind in kinds(report), render_text(report)


def test_keys_that_are_none(tree: Tree, tmp_path: Path) -> None:
    offer(tree, (ONE, "active"))
    tree.edit(KEYS, lambda node: node["keys"][0].update(state="lost"))
    assert kinds(verify(tree)) == {"key"}
    (tmp_path / "no.pub").write_text("no key")
    curve = generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "curve.pub").write_bytes(curve)
    for name in ("no.pub", "curve.pub", "absent.pub"):
        with pytest.raises(ConfigurationError, match="no public Ed25519 key"):
            verify(tree, keys=[tmp_path / name])


def test_signatures_of_a_withdrawn_and_purged_day_may_be_gone(tree: Tree) -> None:
    sign(tree, DAY)
    offer(tree, (ONE, "active"))
    withdraw_day(tree, DAY)
    assert verify(tree).exit_code == 0
    purge(tree, DAY)
    report = verify(tree)
    assert report.exit_code == 0, render_text(report)


def test_without_the_library_signatures_are_said_not_to_be_checked(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(tree, DAY)
    offer(tree, (ONE, "active"))
    (tmp_path / "one.pub").write_bytes(pem(ONE))
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    report = verify(tree)
    assert (report.exit_code, report.days[0].signed_by) == (0, "")
    assert any("pip install cryptography" in note for note in report.notes)
    with pytest.raises(ConfigurationError, match="cryptography"):
        verify(tree, require_signature=True)
    with pytest.raises(ConfigurationError, match="cryptography"):
        verify(tree, keys=[tmp_path / "one.pub"])
