"""Files of an export on local disk become landing files: documents of the window, and one line per deleted document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from imunizacao.extract.export_checkpoints import FileCheckpoint
from imunizacao.fhir import Assembler, LandedWalk, LandingWriter, Window, known_elements, merge_unknown
from imunizacao.fhir.export import ExportFile
from imunizacao.fhir.ndjson import Deletions, read_deletions, read_lines
from imunizacao.fhir.pages import Entry, Page, PageContent, wrap_resource
from imunizacao.fhir.transport import shown

_BLOCK_LINES: Final = 1000
_DECISIVE: Final = frozenset({"Composition", "Immunization"})
"""What makes a document; the others only stand beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file of the export, packed on local disk."""

    file: ExportFile
    where: str
    """How messages call it."""
    path: Path
    checkpoint: FileCheckpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedExport:
    """What an export brought."""

    walk: LandedWalk
    documents: int
    """Different document versions."""
    undated: int
    """Those among them without an instant, which a search by `_lastUpdated` may or may not count."""
    left_out: dict[str, int]
    """Lines that are no documents of the window, by why."""
    deletions: Deletions


def write_export(
    files: Sequence[LocalFile],
    deleted: Sequence[LocalFile],
    *,
    split: bool,
    window: Window,
    transaction_time: datetime,
    base_url: str,
    folder: Path,
    advance: Callable[[int], None],
) -> LandedExport:
    """Write landing files of everything that came into `folder`; `advance` is told of lines as they are read.

    With `split`, the files hold the resources of documents one by one, and the documents are put together from them.
    """
    left_out: Counter[str] = Counter()
    undated: set[str] = set()
    sources = (
        _assemble(files, window, base_url, folder, left_out) if split else _filter(files, window, base_url, left_out)
    )
    with LandingWriter(folder) as writer:
        pages = _Pages(writer)
        for local, entries in sources:
            for block in _blocks(entries):
                undated |= {entry.key for entry in block if entry.last_updated is None}
                pages.write(local, block)
            advance(local.checkpoint.lines if local else 0)
        deletions = read_deletions(
            [(local.path, local.where) for local in deleted],
            window=window,
            transaction_time=transaction_time,
            base_url=base_url,
        )
        for block in _blocks(deletions.documents):
            pages.write(deleted[0], block, documents=False)
        walk = writer.finish()
    return LandedExport(
        walk=walk,
        documents=walk.distinct - len(deletions.documents),
        undated=len(undated),
        left_out=dict(sorted(left_out.items())),
        deletions=deletions,
    )


_Source = tuple[LocalFile | None, Iterable[Entry]]


def _filter(files: Sequence[LocalFile], window: Window, base_url: str, left_out: Counter[str]) -> Iterator[_Source]:
    """Entries of each file that are documents of the window, or could be."""

    def documents(local: LocalFile) -> Iterator[Entry]:
        for raw in read_lines(local.path):
            entry = wrap_resource(raw, base_url)
            if entry.last_updated is not None and entry.last_updated not in window:
                left_out["outside"] += 1
            elif _is_other_bundle(raw):
                left_out["no_document"] += 1
            else:
                yield entry

    for local in files:
        yield local, documents(local)


def _assemble(
    files: Sequence[LocalFile], window: Window, base_url: str, folder: Path, left_out: Counter[str]
) -> Iterator[_Source]:
    """The files, with what cannot be read of them, then the documents that their resources make."""
    assembler = Assembler(folder)

    def rejects(local: LocalFile) -> Iterator[Entry]:
        """Take the resources of a file; what cannot be read is a reject where it may have been a document."""
        decisive = local.file.type in _DECISIVE
        for raw in read_lines(local.path):
            entry = wrap_resource(raw, base_url)
            if entry.reject is None:
                assembler.add(entry.line, matched=decisive)
            elif decisive:
                yield entry
            else:
                left_out["unreadable"] += 1

    for local in files:
        yield local, rejects(local)
    yield None, assembler.documents(window)


class _Pages:
    """Numbers the blocks of an export as the pages of a walk, for the page log."""

    def __init__(self, writer: LandingWriter) -> None:
        self._writer = writer
        self._known = known_elements()
        self._number = 0

    def write(self, local: LocalFile | None, entries: list[Entry], *, documents: bool = True) -> None:
        """Append entries of one file, or of documents that were put together from several (None)."""
        self._number += 1
        unknown = Counter(
            element
            for entry in entries
            if documents and entry.reject is None
            for element in self._known.look(entry.line)
        )
        checkpoint = local.checkpoint if local else None
        self._writer.write_page(
            Page(
                number=self._number,
                url=shown(local.file.url) if local else "",
                etag="",
                sha256=checkpoint.sha256 if checkpoint else "",
                bytes=sum(len(entry.line) for entry in entries),
                seconds=checkpoint.seconds if checkpoint else 0.0,
                attempts=checkpoint.attempts if checkpoint else 1,
                content=PageContent(
                    total=local.file.count if local else None,
                    self_url=None,
                    next_url=None,
                    entries=entries,
                    outcomes=[],
                    unknown=merge_unknown({}, unknown),
                ),
            )
        )


class _Kind(Struct):
    resourceType: str = ""  # noqa: N815 (FHIR)
    type: str = ""


_KIND: Final = msgspec.json.Decoder(_Kind)


def _is_other_bundle(raw: bytes) -> bool:
    """A Bundle that says of itself that it is no document, as a search for `type=document` would not find it."""
    try:
        found = _KIND.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return found.resourceType == "Bundle" and found.type not in {"", "document"}


def _blocks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    block: list[Entry] = []
    for entry in entries:
        block.append(entry)
        if len(block) == _BLOCK_LINES:
            yield block
            block = []
    if block:
        yield block
