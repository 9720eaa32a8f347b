"""One window of a day: taken over, resumed or walked, until its totals and its different documents agree."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from imunizacao.errors import MirrorProtocolError
from imunizacao.events import log_event
from imunizacao.extract.assembly import assemble_walk
from imunizacao.extract.checkpoints import Checkpoints, SavedPage, SavedWalk
from imunizacao.fhir import (
    LandedFile,
    LandedWalk,
    LandingWriter,
    Page,
    ResourceClient,
    Source,
    WalkBroken,
    Window,
    encode_page,
    instant_text,
)
from imunizacao.models import LandingSlice, ObjectRef, RunContext
from imunizacao.storage import ObjectStore, file_ref

STAGE: Final = "extract"
SLICE_ATTEMPTS: Final = 3
"""Walks of a window whose totals do not agree before the day fails."""
LANDING_FORMAT: Final = 1
"""Shape of landing lines and `slice.json`: another one is not reused."""
_SLICE_KEY: Final = re.compile(r"/run=([^/]+)/extract/slice=([0-9TZ_]+)/slice\.json$")


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceReceipt:
    """`slice.json`, the last object of a window."""

    format: int
    finished_at: str
    slice: LandingSlice
    mirror: str = ""
    """`Source.mark` of where it came from; empty in receipts older than this field, which are not reused."""


class Landed:
    """What the work bucket holds of a day when a task begins: finished windows of all runs, checkpoints of this one."""

    def __init__(self, work: ObjectStore, context: RunContext, *, fresh: bool = False) -> None:
        """`fresh`: nothing of earlier runs is taken over, whatever its total."""
        below = context.prefix(STAGE) if fresh else f"v1/day={context.day}/"
        keys = [found.key for found in work.list(below)]
        self.checkpoints = Checkpoints.find(work, context, STAGE, keys)
        self._work = work
        self._finished = _finished_windows(keys, context.run_id)

    @property
    def windows(self) -> int:
        """Windows that some run has finished."""
        return len(self._finished)

    def slices(self, window: Window, way: str, mirror: str) -> list[LandingSlice]:
        """Finished landings of a window from the same mirror by the same way, the newest first."""
        receipts = _read_slices(self._work, self._finished.get(window.name, []))
        return [receipt.slice for receipt in receipts if (receipt.slice.way, receipt.mirror) == (way, mirror)]


class SliceWalker:
    """Lands windows of one day; `mirror` is the mark of its source. Safe for several windows at once; a window is one caller's at a time."""

    def __init__(
        self,
        context: RunContext,
        *,
        source: Source,
        mirror: str,
        work: ObjectStore,
        folder: Path,
        landed: Landed,
        now: Callable[[], datetime],
        advance: Callable[[int], None],
    ) -> None:
        self.reused = 0
        self.pages_resumed = 0
        self._context = context
        self._source = source
        self._mirror = mirror
        self._work = work
        self._folder = folder
        self._landed = landed
        self._now = now
        self._advance = advance

    async def land(self, window: Window, announced: int) -> LandingSlice:
        """The window, whole: from an earlier landing with the same total, from checkpoints, or by a walk.

        Raises `MirrorProtocolError` when three walks do not add up, naming the window and the figures.
        """
        return await self.take_over(window, announced) or await self._walk_until_whole(window, announced)

    async def take_over(self, window: Window, announced: int) -> LandingSlice | None:
        """The window as it was landed before, from the same mirror, by the same way and with the same total; None when there is no such landing."""
        for piece in await asyncio.to_thread(self._landed.slices, window, self._source.way, self._mirror):
            if piece.announced == announced and await asyncio.to_thread(_all_there, self._work, piece):
                self.reused += 1
                self._advance(piece.lines + piece.rejected)
                log_event("extract.slice_reused", slice=str(window), announced=announced, of_run=piece.run_id)
                return piece
        return None

    async def _walk_until_whole(self, window: Window, planned: int) -> LandingSlice:
        """Walk a window until two totals and the distinct entries agree; give up after `SLICE_ATTEMPTS`."""
        saved = await asyncio.to_thread(
            self._landed.checkpoints.load, window, announced=planned, way=self._source.way, mirror=self._mirror
        )
        before, attempt = planned, 0
        while True:
            attempt += 1
            started = time.monotonic()
            key = f"{self._context.prefix(STAGE)}slice={window.name}/attempt-{attempt}-{secrets.token_hex(4)}/"
            folder = Path(tempfile.mkdtemp(prefix=f"{window.name}-", dir=self._folder))
            walk, broken = await self._walk(window, folder, before, saved)
            after = await self._source.count(window)
            fetched = walk.lines + walk.rejected
            if not broken and walk.distinct == before == after:
                if isinstance(self._source, ResourceClient):
                    walk = await assemble_walk(self._source, walk, window, folder)
                    self._advance(walk.lines + walk.rejected - fetched)
                    fetched = walk.lines + walk.rejected
                piece = await asyncio.to_thread(self._seal, window, walk, key, attempt)
                shutil.rmtree(folder)
                log_event(
                    "extract.slice_done",
                    slice=str(window),
                    announced=after,
                    fetched=fetched,
                    rejected=walk.rejected,
                    pages=piece.pages,
                    resumed=len(saved.pages) if saved else 0,
                    attempt=attempt,
                    seconds=time.monotonic() - started,
                )
                return piece
            page_log = await asyncio.to_thread(file_ref, self._work, key + "pages.ndjson", walk.page_log.path)
            shutil.rmtree(folder)
            await asyncio.to_thread(self._landed.checkpoints.drop, window)
            self._advance(-fetched)
            log_event(
                "extract.slice_redo",
                level=logging.WARNING,
                slice=str(window),
                attempt=attempt,
                before=before,
                after=after,
                distinct=walk.distinct,
                fetched=fetched,
                broken=bool(broken),
                resumed=saved is not None,
            )
            if attempt == SLICE_ATTEMPTS:
                raise MirrorProtocolError(
                    f"Slice {window} of {self._context.day} does not add up after {attempt} walks: the mirror announced {before} "
                    f"documents before and {after} after the last walk, {walk.distinct} different ones came ({fetched} entries in "
                    f"{walk.page_log.lines} pages). {broken + ' ' if broken else _limit_hint(walk, before, after)}Nothing was published. The pages of that walk "
                    f"are listed in {page_log.key}. See docs/runbook/bundle-total-mismatch.md."
                )
            # A walk that went on from another task's pages was not a fair try: the cursor may have been too old.
            attempt -= saved is not None
            before, saved = after, None

    async def _walk(
        self, window: Window, folder: Path, announced: int, saved: SavedWalk | None
    ) -> tuple[LandedWalk, str]:
        """One walk into `folder`, after the pages of `saved`; the text says why it broke off, empty when it came to its end."""
        name = saved.walk if saved else secrets.token_hex(6)
        broken = ""
        with LandingWriter(folder) as writer:
            if saved is not None:
                await asyncio.to_thread(_restore, writer, saved)
                self._advance(writer.entries)
                self.pages_resumed += len(saved.pages)
                log_event("extract.slice_resumed", slice=str(window), pages=len(saved.pages), entries=writer.entries)
            cursor = saved.cursor if saved else None
            try:
                async with aclosing(self._source.walk(window, announced=announced, resume=cursor)) as pages:
                    async for page in pages:
                        await asyncio.to_thread(self._keep, writer, window, name, page, announced)
                        self._advance(len(page.content.entries))
                        log_event(
                            "extract.page_saved",
                            level=logging.DEBUG,
                            slice=str(window),
                            page=page.number,
                            entries=len(page.content.entries),
                            seconds=page.seconds,
                        )
            except WalkBroken as error:
                broken = str(error)
            return writer.finish(), broken

    def _keep(self, writer: LandingWriter, window: Window, walk: str, page: Page, announced: int) -> None:
        """Write a page, in the work bucket too when others follow: the last one has the receipt of its window right behind it."""
        block = encode_page(page)
        writer.write_block(block)
        if page.following is not None:
            saved = SavedPage(
                block=block,
                page=page.number,
                mark=page.mark,
                following=page.following,
                announced=announced,
                way=self._source.way,
                mirror=self._mirror,
            )
            self._landed.checkpoints.save(window, walk, saved)

    def _seal(self, window: Window, walk: LandedWalk, key: str, attempt: int) -> LandingSlice:
        """Put the files of a window into the work bucket, its receipt last; then its checkpoints may go."""
        piece = upload_walk(
            self._work,
            self._context,
            window,
            walk,
            key=key,
            announced=walk.distinct,
            distinct=walk.distinct,
            attempt=attempt,
            way=self._source.way,
            mirror=self._mirror,
            moment=self._now(),
        )
        self._landed.checkpoints.drop(window)
        return piece


def upload_walk(
    work: ObjectStore,
    context: RunContext,
    window: Window,
    walk: LandedWalk,
    *,
    key: str,
    announced: int,
    distinct: int,
    attempt: int,
    way: str,
    mirror: str,
    moment: datetime,
) -> LandingSlice:
    """Put the landing files of a window under `key`, and `slice.json` last: from then on the window counts as landed."""

    def put(file: LandedFile) -> ObjectRef:
        return file_ref(work, key + file.path.name, file.path, rows=file.lines)

    piece = LandingSlice(
        start=instant_text(window.start),
        end=instant_text(window.end),
        announced=announced,
        distinct=distinct,
        lines=walk.lines,
        rejected=walk.rejected,
        parts=[put(part) for part in walk.parts],
        page_log=put(walk.page_log),
        rejects=put(walk.rejects) if walk.rejects else None,
        pages=walk.page_log.lines,
        attempts=attempt,
        run_id=context.run_id,
        way=way,
        unknown_elements=walk.unknown_elements,
    )
    receipt = SliceReceipt(format=LANDING_FORMAT, finished_at=stamp(moment), slice=piece, mirror=mirror)
    work.put(
        f"{context.prefix(STAGE)}slice={window.name}/slice.json",
        msgspec.json.encode(receipt),
        content_type="application/json",
    )
    return piece


def stamp(moment: datetime) -> str:
    """UTC with milliseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _limit_hint(walk: LandedWalk, before: int, after: int) -> str:
    """What the figures look like: nothing moved, nothing came twice, and yet the walk ended early."""
    if before != after or walk.distinct >= after or walk.distinct != walk.lines + walk.rejected:
        return ""
    return (
        f"Searches of this mirror seem to end at a limit: if it is always after {walk.distinct} entries, set a slice cap below that "
        "(IMUNIZACAO_MIRROR_SLICE_CAP, or `slice_cap` of the connection). "
    )


def _restore(writer: LandingWriter, saved: SavedWalk) -> None:
    for page in saved.pages:
        writer.write_block(page.block)


def _finished_windows(keys: Iterable[str], run_id: str) -> dict[str, list[str]]:
    """Keys of slice receipts by window name: all runs, ours first."""
    ours: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for key in keys:
        if match := _SLICE_KEY.search(key):
            (ours if match[1] == run_id else others).setdefault(match[2], []).append(key)
    return {name: ours.get(name, []) + others.get(name, []) for name in ours | others}


def _read_slices(work: ObjectStore, keys: Sequence[str]) -> list[SliceReceipt]:
    """Slice receipts that can be read, the newest first. One of another format, or damaged, only costs a new walk."""
    receipts = []
    for key in keys:
        stored = work.get_or_none(key)
        if stored is None:
            continue
        try:
            receipt = msgspec.json.decode(stored.body, type=SliceReceipt)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log_event("extract.slice_receipt_unreadable", level=logging.WARNING, key=key)
            continue
        if receipt.format == LANDING_FORMAT:
            receipts.append(receipt)
    return sorted(receipts, key=lambda receipt: receipt.finished_at, reverse=True)


def _all_there(work: ObjectStore, piece: LandingSlice) -> bool:
    """Tell whether the objects of a window still exist with the size and hash of its receipt."""
    for ref in piece.objects:
        info = work.info(ref.key)
        if info is None or info.bytes != ref.bytes or info.sha256 not in {ref.sha256, ""}:
            return False
    return True
