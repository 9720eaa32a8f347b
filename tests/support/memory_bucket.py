"""A bucket in memory with the promises that the real one is probed for, a clock that tests set, and a hook before every request.

For what needs thousands of runs or weeks of time: every order of two processes, every point of a kill. All else uses the real server.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from imunizacao.errors import ContractViolation
from imunizacao.storage import ObjectInfo, ObjectMissing, ObjectStore, PreconditionLost, StoredObject, sha256_of
from imunizacao.storage.store import check_key

START = datetime(2026, 3, 17, tzinfo=UTC)


@dataclass(slots=True)
class Clock:
    """The time of a store."""

    now: datetime = START

    def forward(self, *, days: float = 0, hours: float = 0) -> None:
        """Let time pass."""
        self.now += timedelta(days=days, hours=hours)


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    etag: str
    sha256: str
    content_type: str
    modified: datetime


class MemoryBucket(ObjectStore):
    """One bucket. `before` is called with (verb, key) before each request; what it raises is the end of the process."""

    def __init__(self, bucket: str, clock: Clock) -> None:
        self.bucket, self.endpoint_url, self.clock = bucket, "memory:", clock
        self.objects: dict[str, _Object] = {}
        self.before: Callable[[str, str], None] = lambda verb, key: None
        self._lock = threading.RLock()
        self._written = 0

    def get(self, key: str) -> StoredObject:
        self.before("get", key)
        with self._lock:
            found = self.objects.get(key)
        if found is None:
            raise ObjectMissing(f"{self.bucket}/{key} does not exist.")
        return StoredObject(key=key, etag=found.etag, body=found.body)

    def info(self, key: str) -> ObjectInfo | None:
        self.before("info", key)
        with self._lock:
            found = self.objects.get(key)
        return None if found is None else _info(key, found)

    def put(
        self,
        key: str,
        body: bytes | IO[bytes] | io.RawIOBase,
        *,
        sha256: str = "",
        content_type: str = "application/octet-stream",
        cache_control: str = "",
        disposition: str = "",
        only_if_absent: bool = False,
        only_if_match: str = "",
    ) -> str:
        check_key(key)
        self.before("put", key)
        data = body if isinstance(body, bytes) else (body.read() or b"")
        if sha256 and sha256_of(data) != sha256:
            raise ContractViolation(f"{key} has another checksum than it was sent with.")
        with self._lock:
            present = self.objects.get(key)
            if only_if_absent and present is not None:
                raise PreconditionLost(key)
            if only_if_match and (present is None or present.etag != only_if_match):
                raise PreconditionLost(key)
            self._written += 1
            etag = f'"{self._written}-{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
            self.objects[key] = _Object(data, etag, sha256 or sha256_of(data), content_type, self.clock.now)
        return etag

    def download(self, key: str, path: Path, *, sha256: str = "") -> None:
        body = self.get(key).body
        if sha256 and sha256_of(body) != sha256:
            raise ContractViolation(f"{key} was changed.")
        path.write_bytes(body)

    def stream(self, key: str) -> Iterator[bytes]:
        yield self.get(key).body

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.before("list", prefix)
        with self._lock:
            found = sorted((key, item) for key, item in self.objects.items() if key.startswith(prefix))
        for key, item in found:
            yield _info(key, item)

    def delete(self, key: str) -> None:
        self.before("delete", key)
        with self._lock:
            self.objects.pop(key, None)

    def delete_many(self, keys: Sequence[str]) -> None:
        self.before("delete_many", keys[0] if keys else "")
        with self._lock:
            for key in keys:
                self.objects.pop(key, None)

    def require_bucket(self) -> None:
        """It is there."""

    def listing(self) -> dict[str, str]:
        """Key → sha256 of everything."""
        with self._lock:
            return {key: item.sha256 for key, item in self.objects.items()}


def _info(key: str, found: _Object) -> ObjectInfo:
    return ObjectInfo(
        key=key,
        etag=found.etag,
        bytes=len(found.body),
        content_type=found.content_type,
        sha256=found.sha256,
        modified=found.modified,
    )
