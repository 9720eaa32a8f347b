"""Landing files on local disk: one entry per line, as received, beside a log of the pages.

A page becomes a block: compressed frames that stand for themselves. Blocks one after another are a landing part, so a page that
was kept elsewhere (a checkpoint) and one that has just come make the same bytes.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import msgspec
import pyarrow

from imunizacao.errors import StorageUnavailable
from imunizacao.fhir.elements import merge_unknown
from imunizacao.fhir.pages import Entry, Page, reject_record

PART_LINES: Final = 50_000
"""A part ends with the page that brings it to so many lines: 160–220 MB of documents, 8 MB compressed. Readers are parallel by part."""


_BUFFER: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedFile:
    """A file on local disk and its lines."""

    path: Path
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedWalk:
    """What one walk brought."""

    parts: list[LandedFile]
    rejects: LandedFile | None
    page_log: LandedFile
    lines: int
    rejected: int
    distinct: int
    """Different document versions (id and versionId or lastUpdated) among all entries."""
    bytes: int
    """Of the pages, decompressed."""
    included: Path | None = None
    """Entries that came beside the matches, where there were any."""
    unknown_elements: dict[str, int] = field(default_factory=dict)
    """Element that no known profile has → entries received with it, repeated ones included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageBlock:
    """A page as landing keeps it."""

    log: bytes
    """Its line in the page log, JSON without a line break."""
    keys: list[str]
    """`Entry.key` of its matches, repeated ones included."""
    lines: int
    rejected: int
    size: int
    """Bytes of the page, decompressed."""
    landing: bytes = b""
    """zstd frame of the lines; empty without lines."""
    rejects: bytes = b""
    """zstd frame of the rejected entries."""
    included: bytes = b""
    """zstd frame of the entries that came beside the matches."""


def encode_page(page: Page) -> PageBlock:
    """Compress the entries of a page; the same page gives the same bytes."""
    entries = page.content.entries
    block = encode_entries(entries, page=page.number)
    versions = [(entry.id, entry.version if entry.id else entry.key) for entry in entries]
    return PageBlock(
        log=_log_line(page, versions),
        keys=block.keys,
        lines=block.lines,
        rejected=block.rejected,
        size=page.bytes,
        landing=block.landing,
        rejects=block.rejects,
        included=_frame([entry.line for entry in page.content.included if entry.reject is None]),
    )


def encode_entries(entries: Sequence[Entry], *, page: int) -> PageBlock:
    """Compress entries that are not a page of their own: a block without a line in the page log."""
    lines: list[bytes] = []
    rejects: list[bytes] = []
    for position, entry in enumerate(entries, 1):
        if entry.reject is None:
            lines.append(entry.line)
        else:
            rejects.append(reject_record(entry, page=page, position=position))
    return PageBlock(
        log=b"",
        keys=[entry.key for entry in entries],
        lines=len(lines),
        rejected=len(rejects),
        size=0,
        landing=_frame(lines),
        rejects=_frame(rejects),
    )


def keys_of_log(log: bytes) -> list[str]:
    """`Entry.key` of the matches of a page, from its line in the page log."""
    line = msgspec.json.decode(log, type=_LogLine)
    return [f"{identity}|{version}" if identity else version for identity, version in line.entries]


def read_lines(path: Path) -> Iterator[bytes]:
    """Lines of a zstd file, without their line breaks. Memory: one line."""
    with pyarrow.CompressedInputStream(str(path), "zstd") as packed, io.BufferedReader(packed, _BUFFER) as plain:
        for line in plain:
            yield line.rstrip(b"\n")


def _frame(lines: Sequence[bytes]) -> bytes:
    if not lines:
        return b""
    return bytes(pyarrow.compress(b"\n".join(lines) + b"\n", codec="zstd", asbytes=True))


class _LogLine(msgspec.Struct):
    entries: list[tuple[str, str]]


class _LogUnknown(msgspec.Struct):
    unknown: dict[str, int] = msgspec.field(default_factory=dict)


class LandingWriter:
    """Writes the pages of one walk into a folder. Memory: one page and the keys of the slice.

    Pages are written in threads. A walk that is cancelled leaves the `with` block while its last page may still be on the way
    in one: that page finds the writer closed, and opens no file that nobody would close.
    """

    def __init__(self, folder: Path, *, part_lines: int = PART_LINES) -> None:
        self.entries = 0
        self._folder = folder
        self._part_lines = part_lines
        self._parts: list[LandedFile] = []
        self._part: IO[bytes] | None = None
        self._part_path = folder
        self._part_count = 0
        self._included: IO[bytes] | None = None
        self._included_path = folder / "included.ndjson.zst"
        self._rejects: IO[bytes] | None = None
        self._rejects_path = folder / "rejects.ndjson.zst"
        self._log_path = folder / "pages.ndjson"
        self._log: IO[bytes] = self._log_path.open("wb")
        self._keys: set[str] = set()
        self._rejected = 0
        self._pages = 0
        self._bytes = 0
        self._unknown: dict[str, int] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            for stream in (self._part, self._included, self._rejects, self._log):
                if stream is not None and not stream.closed:
                    stream.close()

    def write_page(self, page: Page) -> None:
        """Append the entries of a page and its line in the page log."""
        self.write_block(encode_page(page))

    def write_block(self, block: PageBlock) -> None:
        """Append a page that is compressed already. Raises `ValueError` once the writer is closed."""
        try:
            with self._lock:
                if self._closed:
                    raise ValueError(f"The landing files of {self._folder.name} are closed: the walk was broken off.")
                self._append(block)
        except OSError as error:
            raise self._disk_error(error) from error

    def finish(self) -> LandedWalk:
        """Close all files and tell what they hold."""
        try:
            self._close_part()
            for stream in (self._included, self._rejects, self._log):
                if stream is not None:
                    stream.close()
        except OSError as error:
            raise self._disk_error(error) from error
        return LandedWalk(
            parts=list(self._parts),
            rejects=LandedFile(path=self._rejects_path, lines=self._rejected) if self._rejected else None,
            page_log=LandedFile(path=self._log_path, lines=self._pages),
            lines=self.entries - self._rejected,
            rejected=self._rejected,
            distinct=len(self._keys),
            bytes=self._bytes,
            included=self._included_path if self._included is not None else None,
            unknown_elements=self._unknown,
        )

    def _append(self, block: PageBlock) -> None:
        self._keys.update(block.keys)
        if block.landing:
            if self._part is None:
                self._part_path = self._folder / f"part-{len(self._parts) + 1:04d}.ndjson.zst"
                self._part = self._part_path.open("wb")
            self._part.write(block.landing)
            self._part_count += block.lines
            if self._part_count >= self._part_lines:
                self._close_part()
        if block.rejects:
            if self._rejects is None:
                self._rejects = self._rejects_path.open("wb")
            self._rejects.write(block.rejects)
        if block.included:
            if self._included is None:
                self._included = self._included_path.open("wb")
            self._included.write(block.included)
        if block.log:
            self._log.write(block.log + b"\n")
            self._pages += 1
            # From the log, because that is what a checkpoint keeps of a page besides its entries.
            unknown = msgspec.json.decode(block.log, type=_LogUnknown).unknown
            self._unknown = merge_unknown(self._unknown, unknown) if unknown else self._unknown
        self._rejected += block.rejected
        self.entries += block.lines + block.rejected
        self._bytes += block.size

    def _close_part(self) -> None:
        if self._part is None:
            return
        self._part.close()
        self._parts.append(LandedFile(path=self._part_path, lines=self._part_count))
        self._part, self._part_count = None, 0

    def _disk_error(self, error: OSError) -> StorageUnavailable:
        return StorageUnavailable(
            f"Cannot write landing files in {self._folder.parent}: {error.strerror or type(error).__name__}. Nothing was published. "
            "Free space on the scratch disk (IMUNIZACAO_SCRATCH_DIR; about 200 MB per million documents) and run the task again; see "
            "docs/runbook/full-disk.md."
        )


def _log_line(page: Page, versions: list[tuple[str, str]]) -> bytes:
    return msgspec.json.encode(
        {
            "page": page.number,
            "url": page.url,
            "mark": page.mark,
            "etag": page.etag,
            "sha256": page.sha256,
            "bytes": page.bytes,
            "count": len(versions),
            "total": page.content.total,
            "seconds": round(page.seconds, 3),
            "attempts": page.attempts,
            "outcomes": page.content.outcomes,
            "unknown": page.content.unknown,
            "entries": versions,
        }
    )
