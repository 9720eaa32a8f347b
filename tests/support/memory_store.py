"""An object store in a dictionary, with the conditions of S3 and ETags of content."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import IO

from imunizacao.errors import StorageUnavailable
from imunizacao.storage import ObjectInfo, ObjectMissing, ObjectStore, PreconditionLost, StoredObject
from imunizacao.storage.store import check_key

WRITTEN = datetime(2026, 3, 17, tzinfo=UTC)
"""When all was written, by the clock of this store: after all extracts of the small days."""


@lru_cache(maxsize=10_000)
def etag_of(body: bytes) -> str:
    """As S3 servers make it: the same bytes again have the same ETag again."""
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


class MemoryStore(ObjectStore):
    """One bucket. What the product asks of a store, answered at once."""

    def __init__(self, objects: dict[str, bytes] | None = None, *, bucket: str = "memory") -> None:
        super().__init__(None, bucket, "memory:")
        self.objects = {} if objects is None else objects

    def get(self, key: str) -> StoredObject:
        """Read, or `ObjectMissing`."""
        body = self.read(key)
        if body is None:
            raise ObjectMissing(f"{self.bucket}/{key} does not exist.")
        return StoredObject(key=key, etag=etag_of(body), body=body)

    def info(self, key: str) -> ObjectInfo | None:
        """Size, checksum and ETag, or None."""
        body = self.read(key)
        if body is None:
            return None
        sha256 = hashlib.sha256(body).hexdigest()
        return ObjectInfo(
            key=key, etag=etag_of(body), bytes=len(body), content_type="", sha256=sha256, modified=WRITTEN
        )

    def put(
        self,
        key: str,
        body: bytes | IO[bytes] | io.RawIOBase,
        *,
        sha256: str = "",
        content_type: str = "",
        cache_control: str = "",
        disposition: str = "",
        only_if_absent: bool = False,
        only_if_match: str = "",
    ) -> str:
        """Write, or `PreconditionLost`."""
        check_key(key)
        data = body if isinstance(body, bytes) else bytes(body.read() or b"")
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise StorageUnavailable(f"{self.bucket}/{key}: the body is not its checksum.")
        self.write(key, data, absent=only_if_absent, match=only_if_match)
        return etag_of(data)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects in the order of their keys."""
        for key in sorted(key for key in self.objects if key.startswith(prefix)):
            body = self.objects[key]
            yield ObjectInfo(key=key, etag=etag_of(body), bytes=len(body), content_type="", sha256="")

    def stream(self, key: str) -> Iterator[bytes]:
        """The whole object as one block."""
        yield self.get(key).body

    def download(self, key: str, path: Path, *, sha256: str = "") -> None:
        """Write it to a file."""
        path.write_bytes(self.get(key).body)

    def delete(self, key: str) -> None:
        """Remove; a missing one is no error."""
        self.objects.pop(key, None)

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove all of them."""
        for key in keys:
            self.delete(key)

    # --- what a subclass may answer otherwise ---------------------------------------------------------

    def read(self, key: str) -> bytes | None:
        """The bytes of a key."""
        return self.objects.get(key)

    def write(self, key: str, body: bytes, *, absent: bool, match: str) -> None:
        """Store the bytes of a key on a condition."""
        there = self.objects.get(key)
        if (absent and there is not None) or (match and (there is None or etag_of(there) != match)):
            raise PreconditionLost(f"{self.bucket}/{key}: conditional write refused.")
        self.objects[key] = body
