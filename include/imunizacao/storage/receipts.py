"""Receipts and files of a stage in the work bucket."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

import msgspec

from imunizacao.errors import ContractViolation
from imunizacao.models import ObjectRef, Receipt
from imunizacao.storage.store import ObjectStore

R = TypeVar("R", bound=Receipt)
T = TypeVar("T")
_BLOCK = 1 << 20


def read_receipt(work: ObjectStore, prefix: str, kind: type[R], fingerprint: str) -> R | None:
    """The receipt of a finished stage, or None when there is none for these inputs, code and references."""
    stored = work.get_or_none(prefix + "receipt.json")
    if stored is None:
        return None
    try:
        receipt = kind.from_json(stored.body)
    except ContractViolation:
        # A receipt of another version of the code: its work is done again.
        return None
    return receipt if receipt.fingerprint == fingerprint else None


def put_receipt(work: ObjectStore, prefix: str, receipt: Receipt) -> None:
    """Write the receipt of a stage: always the last object that the stage writes."""
    work.put(prefix + "receipt.json", receipt.to_json().encode(), content_type="application/json")


def file_sha256(path: Path) -> str:
    """Hex sha256 of a local file."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_ref(work: ObjectStore, key: str, path: Path, *, rows: int = 0) -> ObjectRef:
    """Upload a local file and tell where it is."""
    digest = file_sha256(path)
    work.put_file(key, path, sha256=digest)
    return ObjectRef(key=key, sha256=digest, bytes=path.stat().st_size, rows=rows)


def read_object(work: ObjectStore, ref: ObjectRef, kind: type[T]) -> T:
    """Read a small JSON object that a receipt names; other bytes than it names are a `ContractViolation`."""
    body = work.get(ref.key).body
    if hashlib.sha256(body).hexdigest() != ref.sha256:
        raise ContractViolation(
            f"Object {ref.key} is not what its receipt says. Clear the stage that wrote it and run it again."
        )
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ContractViolation(
            f"Object {ref.key} is not a {kind.__name__}: {error}. Clear the stage that wrote it."
        ) from error
