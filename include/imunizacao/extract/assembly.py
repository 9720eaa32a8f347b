"""A walk over separate resources becomes a landing of documents, as a mirror that keeps whole documents would have given it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from imunizacao.events import log_event
from imunizacao.fhir import (
    Assembler,
    LandedFile,
    LandedWalk,
    LandingWriter,
    ResourceClient,
    Window,
    encode_entries,
    known_elements,
    merge_unknown,
    read_lines,
)

_BATCH: Final = 500
"""Documents that are compressed together, as a page of them would be."""


async def assemble_walk(source: ResourceClient, walk: LandedWalk, window: Window, folder: Path) -> LandedWalk:
    """Put the resources of a walk together. Totals and page log stay those of the walk, lines are documents from here on.

    Compositions of doses that came without one are searched by `entry`, doses that a Composition names and that lie in no page are read
    by id: either may lie in another window. Those that the mirror does not have stay missing, and flatten says so of their document. Entries that could not be a line stay beside landing, each on its own.
    """
    assembler = await source.assembler(folder)
    await asyncio.to_thread(_feed, assembler, walk)
    alone = await asyncio.to_thread(assembler.alone)
    if alone:
        lines = await source.compositions_of(alone)
        await asyncio.to_thread(_add, assembler, lines)
        log_event("extract.compositions_searched", slice=str(window), doses=len(alone), found=len(lines))
    missing = assembler.missing()
    if missing:
        lines = await source.fetch(missing)
        await asyncio.to_thread(_add, assembler, lines)
        log_event("extract.parts_fetched", slice=str(window), named=len(missing), found=len(lines))
    return await asyncio.to_thread(_write_documents, assembler, walk, window, folder)


def _feed(assembler: Assembler, walk: LandedWalk) -> None:
    for part in walk.parts:
        for line in read_lines(part.path):
            assembler.add(line, matched=True)
    if walk.included is not None:
        for line in read_lines(walk.included):
            assembler.add(line, matched=False)


def _add(assembler: Assembler, lines: Sequence[bytes]) -> None:
    for line in lines:
        assembler.add(line, matched=False)


def _write_documents(assembler: Assembler, walk: LandedWalk, window: Window, folder: Path) -> LandedWalk:
    documents = assembler.documents(window)
    target = folder / "documents"
    target.mkdir()
    known, unknown = known_elements(), Counter[str]()
    with LandingWriter(target) as writer:
        while batch := list(islice(documents, _BATCH)):
            for entry in batch:
                unknown.update(known.look(entry.line))
            writer.write_block(encode_entries(batch, page=0))
        made = writer.finish()
    rejects = _joined(walk, made, folder)
    return dataclasses.replace(
        walk,
        parts=made.parts,
        rejects=rejects,
        lines=made.lines,
        rejected=walk.rejected + made.rejected,
        unknown_elements=merge_unknown({}, unknown),
        included=None,
    )


def _joined(walk: LandedWalk, made: LandedWalk, folder: Path) -> LandedFile | None:
    """Rejected resources and rejected documents in one file: compressed frames may stand one after another."""
    found = [one.rejects for one in (walk, made) if one.rejects is not None]
    if not found:
        return None
    path = folder / "rejects-all.ndjson.zst"
    with path.open("wb") as target:
        for rejects in found:
            target.write(rejects.path.read_bytes())
    return LandedFile(path=path, lines=sum(rejects.lines for rejects in found))
