"""Objects that never change: create one, or find the same bytes under its key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from imunizacao.errors import ContractViolation, PublicationConflict, StorageUnavailable
from imunizacao.storage.slices import FileSlice
from imunizacao.storage.store import ObjectInfo, ObjectStore, PreconditionLost, sha256_of

IMMUTABLE: Final = "max-age=31536000, immutable"
"""How long readers may keep what never changes."""
_CREATES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One object that is there: its key (or its name in its folder), hash and size."""

    path: str
    sha256: str
    bytes: int


def put_once(
    store: ObjectStore,
    key: str,
    body: bytes | FileSlice,
    *,
    sha256: str = "",
    content_type: str,
    disposition: str = "",
    differing_is_a_race: bool = False,
) -> Stored:
    """Create an immutable object; the same bytes already there are fine, other bytes are an error.

    Other bytes are a `ContractViolation`, or a `PublicationConflict` where another run may have been first with its own.
    """
    digest = sha256 or sha256_of(body if isinstance(body, bytes) else b"".join(_blocks(body)))
    size = len(body)
    found = create_once(store, key, body, sha256=digest, content_type=content_type, disposition=disposition)
    if found is not None and (found.bytes, found.sha256) != (size, digest) and store.measure(key) != (size, digest):
        if differing_is_a_race:
            raise PublicationConflict(f"{key} was written by another run with other contents. Run the task again.")
        raise ContractViolation(
            f"{store.bucket}/{key} exists with other bytes than its content id says: it was changed from outside. "
            "Readers still see the revision before; see docs/runbook/damaged-manifest.md."
        )
    return Stored(path=key, sha256=digest, bytes=size)


def create_once(
    store: ObjectStore, key: str, body: bytes | FileSlice, *, sha256: str, content_type: str, disposition: str = ""
) -> ObjectInfo | None:
    """Create an object that nobody ever overwrites; what is there, when somebody was first (or a lost response was our own).

    A store also refuses while another create of the same key is under way (409): then nothing is there, and it is tried again. Raises
    `StorageUnavailable` when it goes on refusing and has no such object.
    """
    for _ in range(_CREATES):
        if not isinstance(body, bytes):
            body.seek(0)
        try:
            store.put(
                key,
                body,
                sha256=sha256,
                content_type=content_type,
                cache_control=IMMUTABLE,
                disposition=disposition,
                only_if_absent=True,
            )
        except PreconditionLost:
            found = store.info(key)
            if found is not None:
                return found
            continue
        return None
    raise StorageUnavailable(
        f"{store.bucket}/{key} could not be created: the store refused {_CREATES} times and has no such object. Run the task again; if "
        "that does not help, see docs/runbook/storage-probe.md."
    )


def _blocks(body: FileSlice) -> Iterator[bytes]:
    body.seek(0)
    while block := body.read(1 << 20):
        yield block
    body.seek(0)
