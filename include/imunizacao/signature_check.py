"""Check the signature of a day as a reader does: its file, the published key, and that it signs the root that the head names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, Final

from imunizacao.errors import ContractViolation
from imunizacao.signing import read_envelope
from imunizacao.storage import ObjectStore

_KEYS: Final = "v1/keys/index.json"
Expect = Callable[[str, object, object], None]
"""Note a difference: what, expected, found."""


def check_signature(public: ObjectStore, head: dict[str, Any], expect: Expect) -> None:
    """Compare what `current.signature` names with what is there; a day without a signature passes.

    A key that was revoked since is no gap: its day stays readable until it is signed again.
    """
    current = head["current"]
    signature = current.get("signature")
    if signature is None:
        return
    body = _read(public, signature["path"])
    expect(f"bytes of {signature['path']}", signature["bytes"], len(body))
    expect(f"sha256 of {signature['path']}", signature["sha256"], hashlib.sha256(body).hexdigest())
    try:
        keys = json.loads(_read(public, _KEYS) or b"{}").get("keys", [])
    except (ValueError, AttributeError):
        keys = []
    key = next((key for key in keys if key["keyId"] == signature["keyId"]), None)
    expect(f"key {signature['keyId']} in {_KEYS}", True, key is not None)
    if key is None:
        return
    pem = _read(public, key["path"])
    expect(f"sha256 of {key['path']}", key["sha256"], hashlib.sha256(pem).hexdigest())
    try:
        signed = read_envelope(body, public_pem=pem, where=signature["path"])
    except ContractViolation as error:
        expect(f"signature {signature['path']}", "one that holds", str(error))
        return
    expect(
        f"what {signature['path']} signs",
        (current["path"], current["sha256"], head["day"], current["contentId"], current["rows"]),
        (signed.root, signed.sha256, signed.day, signed.content_id, signed.rows),
    )


def _read(public: ObjectStore, key: str) -> bytes:
    stored = public.get_or_none(key)
    return stored.body if stored is not None else b""
