"""What a task that was killed finds again: the job of an export and its files, in the work bucket under the slice."""

from __future__ import annotations

import logging
from typing import TypeVar

import msgspec
from msgspec import Struct

from imunizacao.events import log_event
from imunizacao.extract.walks import LANDING_FORMAT, SliceReceipt
from imunizacao.models import LandingSlice, ObjectRef
from imunizacao.storage import ObjectStore


class Job(Struct, frozen=True, kw_only=True):
    """A job at the mirror. Its status address may be a secret: it stays in the work bucket and goes with the job."""

    format: int = LANDING_FORMAT
    id: str
    status_url: str
    types: tuple[str, ...]
    kicked_off_at: str
    mirror: str = ""
    """`mirror_mark` of where it was started."""
    before: Job | None = None
    """The job for whole documents that had none: it stays until this one has some."""


class FileCheckpoint(Struct, frozen=True, kw_only=True):
    """A file that came whole."""

    format: int = LANDING_FORMAT
    mark: str
    """sha256 of its address: another address is another file."""
    lines: int
    bytes: int
    sha256: str
    """Of the file as received, decompressed."""
    seconds: float
    attempts: int
    object: ObjectRef


K = TypeVar("K", Job, FileCheckpoint, SliceReceipt)


class ExportCheckpoints:
    """The checkpoints of one slice, `prefix` = its keys in the work bucket. What is of another `mirror` is not there."""

    def __init__(self, work: ObjectStore, prefix: str, *, mirror: str) -> None:
        self._work = work
        self._prefix = prefix
        self._mirror = mirror

    def read_slice(self) -> LandingSlice | None:
        """The finished slice, when all its objects are there."""
        receipt = self._read("slice.json", SliceReceipt)
        if (
            receipt is None
            or receipt.mirror != self._mirror
            or not all(self._is_there(ref) for ref in receipt.slice.objects)
        ):
            return None
        return receipt.slice

    def read_job(self) -> Job | None:
        """The job that was not finished."""
        job = self._read("export-job.json", Job)
        return job if job is not None and job.mirror == self._mirror else None

    def put_job(self, job: Job) -> None:
        """Remember a job as soon as the mirror has taken it."""
        self._put("export-job.json", job)

    def file_key(self, job: Job, name: str) -> str:
        """Key of a packed file of a job."""
        return f"{self._prefix}export-{job.id}/{name}.ndjson.zst"

    def read_file(self, job: Job, name: str, *, mark: str) -> FileCheckpoint | None:
        """A file that came whole from the same address, when it is still there."""
        found = self._read(f"export-{job.id}/{name}.json", FileCheckpoint)
        return found if found is not None and found.mark == mark and self._is_there(found.object) else None

    def put_file(self, job: Job, name: str, checkpoint: FileCheckpoint) -> None:
        """Remember a file, after the object it names."""
        self._put(f"export-{job.id}/{name}.json", checkpoint)

    def remove(self) -> None:
        """Remove the job and its files, the job last: it holds the address that the mirror is told to forget."""
        last = self._prefix + "export-job.json"
        keys = [found.key for found in self._work.list(self._prefix + "export-")]
        self._work.delete_many([key for key in keys if key != last])
        self._work.delete(last)

    def _is_there(self, ref: ObjectRef) -> bool:
        info = self._work.info(ref.key)
        return info is not None and info.bytes == ref.bytes and info.sha256 in {ref.sha256, ""}

    def _read(self, name: str, kind: type[K]) -> K | None:
        """A checkpoint of this run; one of another format, or damaged, only costs doing the work again."""
        stored = self._work.get_or_none(self._prefix + name)
        if stored is None:
            return None
        try:
            found = msgspec.json.decode(stored.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log_event("extract.checkpoint_unreadable", level=logging.WARNING, key=self._prefix + name)
            return None
        return found if found.format == LANDING_FORMAT else None

    def _put(self, name: str, value: Struct) -> None:
        self._work.put(self._prefix + name, msgspec.json.encode(value), content_type="application/json")
