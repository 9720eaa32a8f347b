"""Landing files on local disk: one entry per line, as received, beside a log of the pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import msgspec
import pyarrow

from imunizacao.errors import StorageUnavailable
from imunizacao.fhir.pages import Page, reject_record

PART_LINES: Final = 50_000
"""Lines of a part: 160–220 MB of documents, 8 MB compressed. Readers are parallel by part."""


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


class LandingWriter:
    """Writes the pages of one walk into a folder. Memory: one page and the keys of the slice."""

    def __init__(self, folder: Path, *, part_lines: int = PART_LINES) -> None:
        self.entries = 0
        self._folder = folder
        self._part_lines = part_lines
        self._parts: list[LandedFile] = []
        self._part: Any = None
        self._part_path = folder
        self._part_count = 0
        self._rejects: Any = None
        self._rejects_path = folder / "rejects.ndjson.zst"
        self._log_path = folder / "pages.ndjson"
        self._log: IO[bytes] = self._log_path.open("wb")
        self._keys: set[str] = set()
        self._rejected = 0
        self._pages = 0
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self._part, self._rejects, self._log):
            if stream is not None and not stream.closed:
                stream.close()

    def write_page(self, page: Page) -> None:
        """Append the entries of a page and its line in the page log."""
        try:
            self._write(page)
        except OSError as error:
            raise self._disk_error(error) from error

    def finish(self) -> LandedWalk:
        """Close all files and tell what they hold."""
        try:
            self._close_part()
            if self._rejects is not None:
                self._rejects.close()
            self._log.close()
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
        )

    def _write(self, page: Page) -> None:
        lines: list[bytes] = []
        versions: list[tuple[str, str]] = []
        for position, entry in enumerate(page.content.entries, 1):
            self._keys.add(entry.key)
            versions.append((entry.id, entry.version))
            if entry.reject is None:
                lines.append(entry.line)
                continue
            if self._rejects is None:
                self._rejects = pyarrow.CompressedOutputStream(str(self._rejects_path), "zstd")
            self._rejects.write(reject_record(entry, page=page.number, position=position) + b"\n")
            self._rejected += 1
        self._append(lines)
        self.entries += len(versions)
        self._pages += 1
        self._bytes += page.bytes
        self._log.write(_log_line(page, versions) + b"\n")

    def _append(self, lines: list[bytes]) -> None:
        while lines:
            if self._part is None:
                self._part_path = self._folder / f"part-{len(self._parts) + 1:04d}.ndjson.zst"
                self._part = pyarrow.CompressedOutputStream(str(self._part_path), "zstd")
            room = self._part_lines - self._part_count
            now, lines = lines[:room], lines[room:]
            self._part.write(b"\n".join(now) + b"\n")
            self._part_count += len(now)
            if self._part_count == self._part_lines:
                self._close_part()

    def _close_part(self) -> None:
        if self._part is None:
            return
        self._part.close()
        self._parts.append(LandedFile(path=self._part_path, lines=self._part_count))
        self._part, self._part_count = None, 0

    def _disk_error(self, error: OSError) -> StorageUnavailable:
        return StorageUnavailable(
            f"Cannot write landing files in {self._folder.parent}: {error.strerror or type(error).__name__}. Nothing was published. "
            "Make room on the scratch disk (IMUNIZACAO_SCRATCH_DIR; about 200 MB per million documents) and run the task again."
        )


def _log_line(page: Page, versions: list[tuple[str, str]]) -> bytes:
    return msgspec.json.encode(
        {
            "page": page.number,
            "url": page.url,
            "etag": page.etag,
            "sha256": page.sha256,
            "bytes": page.bytes,
            "count": len(versions),
            "total": page.content.total,
            "seconds": round(page.seconds, 3),
            "attempts": page.attempts,
            "outcomes": page.content.outcomes,
            "entries": versions,
        }
    )
