"""Extract: all document versions of a day, byte for byte, in landing, and the proof that they are all.

The day is cut into windows of an hour or less. A window counts as landed only when the mirror announced the same total
before and after its walk and exactly that many different document versions came; at the end the whole day is counted once
more. What a window brought is written with its receipt (`slice.json`) last, so a killed task costs the windows it was in.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from imunizacao.errors import (
    MirrorProtocolError,
    MirrorUnavailable,
    PipelineError,
)
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.fhir import LandedFile, LandedWalk, LandingWriter, MirrorClient, WalkBroken, Window, instant_text
from imunizacao.models import ExtractReceipt, LandingManifest, LandingSlice, ObjectRef, RunContext, fingerprint
from imunizacao.reference_day import SAO_PAULO
from imunizacao.settings import EngineSettings, MirrorSettings
from imunizacao.storage import ObjectStore, file_ref, put_receipt, read_receipt, sha256_of

STAGE: Final = "extract"
SLICE_ATTEMPTS: Final = 3
"""Walks of a window whose totals do not agree before the day fails."""
DAY_ROUNDS: Final = 3
"""Times the whole day is compared with the sum of its windows."""
COMPLETE_AFTER: Final = timedelta(hours=6)
"""So long after its end a day with documents is taken even if the mirror has nothing newer."""

_LANDING_FORMAT: Final = 1
"""Shape of landing lines and `slice.json`: another one is not reused."""
_STEPS: Final = (timedelta(hours=1), timedelta(minutes=10), timedelta(minutes=1), timedelta(seconds=1))
_SLICE_KEY: Final = re.compile(r"/run=([^/]+)/extract/slice=([0-9TZ_]+)/slice\.json$")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _SliceReceipt:
    """`slice.json`, the last object of a window."""

    format: int
    finished_at: str
    slice: LandingSlice


def extract_day(
    context: RunContext,
    *,
    settings: MirrorSettings,
    work: ObjectStore,
    engine: EngineSettings,
    now: Callable[[], datetime],
    progress: Progress = no_progress,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> ExtractReceipt:
    """Land all document versions of a day, or raise and leave nothing that another stage would read.

    Windows that this run, or else an earlier run of the same day, has landed are taken over when the mirror still announces
    the same total for them. Raises `ConfigurationError` for a day that is not over, `MirrorUnavailable` when the mirror
    does not answer or has not reached the end of the day yet, `MirrorProtocolError` when the totals do not agree.
    """
    context.day.require_over(now())
    folder = Path(tempfile.mkdtemp(prefix="extract-", dir=engine.scratch_dir))
    try:
        return asyncio.run(
            _extract(context, settings=settings, work=work, folder=folder, now=now, progress=progress, sleep=sleep)
        )
    except BaseExceptionGroup as group:
        failure = _first_cause(group)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    raise failure


async def _extract(
    context: RunContext,
    *,
    settings: MirrorSettings,
    work: ObjectStore,
    folder: Path,
    now: Callable[[], datetime],
    progress: Progress,
    sleep: Callable[[float], Awaitable[None]],
) -> ExtractReceipt:
    started = time.monotonic()
    whole = Window(start=context.day.start, end=context.day.end)
    async with MirrorClient(settings, sleep=sleep, now=now) as client:
        total = await client.count(whole)
        await _require_complete(client, context, total, now())
        plan = await _plan(client, whole, settings.slice_cap)
        earlier = await asyncio.to_thread(_earlier_slices, work, context)
        log_event(
            "extract.plan",
            day=str(context.day),
            announced=total,
            slices=sum(count > 0 for count in plan.values()),
            earlier=sum(map(len, earlier.values())),
        )
        day = _Day(
            context,
            client=client,
            connections=settings.max_connections,
            work=work,
            folder=folder,
            earlier=earlier,
            now=now,
            progress=progress,
        )
        announced = await day.land(plan, whole)
        slices, reused = day.landed(), day.reused
        receipt = await asyncio.to_thread(
            _finish, context, work, slices, announced=announced, reused=reused, client=client, now=now, started=started
        )
    log_event(
        "extract.done",
        day=str(context.day),
        announced=receipt.announced,
        fetched=receipt.fetched,
        rejected=receipt.rejected,
        slices=receipt.slices,
        reused=reused,
        pages=receipt.pages,
        requests=client.requests,
        retries=client.retries,
        bytes=client.bytes_received,
        seconds=time.monotonic() - started,
    )
    return receipt


async def _require_complete(client: MirrorClient, context: RunContext, total: int, moment: datetime) -> None:
    """Refuse a day that the mirror has not received to its end: half a day and an empty day look alike."""
    end = context.day.end
    newest = await client.newest()
    reached = newest >= end if newest is not None else await client.count_since(end) > 0
    if reached:
        return
    deadline = end + COMPLETE_AFTER
    if total > 0 and moment >= deadline:
        log_event(
            "extract.mirror_behind",
            level=logging.WARNING,
            day=str(context.day),
            announced=total,
            newest="unknown" if newest is None else instant_text(newest),
        )
        return
    shown = "unknown" if newest is None else newest.astimezone(SAO_PAULO).isoformat(timespec="seconds")
    until = (
        f"With documents, the day is taken from {deadline.astimezone(SAO_PAULO).isoformat()} on"
        if total > 0
        else "A day without documents is only believed once the mirror has a later document"
    )
    raise MirrorUnavailable(
        f"The mirror has not reached the end of the day {context.day} yet: newest document at {shown}, the day ends at "
        f"{end.astimezone(SAO_PAULO).isoformat()}, {total} documents so far. Nothing was published. {until}; run the task "
        "again then. See docs/runbook/mirror-behind.md."
    )


async def _plan(client: MirrorClient, whole: Window, cap: int) -> dict[Window, int]:
    """Totals of the windows that cover the day: hours, cut further where an hour has more than `cap` documents."""

    async def cut(window: Window, level: int) -> dict[Window, int]:
        pieces = window.cut(_STEPS[level])
        counts = await _gather([client.count(piece) for piece in pieces])
        plan: dict[Window, int] = {}
        for piece, count in zip(pieces, counts, strict=True):
            # A second cannot be cut: a bulk load may put any number of documents into it.
            if count > cap and level + 1 < len(_STEPS):
                plan |= await cut(piece, level + 1)
            else:
                plan[piece] = count
        return plan

    return await cut(whole, 0)


class _Day:
    """The windows of one day while they are being landed."""

    def __init__(
        self,
        context: RunContext,
        *,
        client: MirrorClient,
        connections: int,
        work: ObjectStore,
        folder: Path,
        earlier: dict[str, list[str]],
        now: Callable[[], datetime],
        progress: Progress,
    ) -> None:
        self.reused = 0
        self._context = context
        self._client = client
        self._connections = connections
        self._work = work
        self._folder = folder
        self._earlier = earlier
        self._now = now
        self._progress = progress
        self._slices: dict[Window, LandingSlice] = {}
        self._received = 0
        self._expected = 0

    def landed(self) -> list[LandingSlice]:
        """Windows with documents, in order of time."""
        return [self._slices[window] for window in sorted(self._slices)]

    async def land(self, plan: dict[Window, int], whole: Window) -> int:
        """Land every window, then compare their sum with the whole day; return the day's total."""
        wanted = dict(plan)
        self._expected = sum(wanted.values())
        total = 0
        for _ in range(DAY_ROUNDS):
            await self._land_changed(wanted)
            total = await self._client.count(whole)
            if total == self._sum():
                return total
            log_event(
                "extract.day_moved",
                level=logging.WARNING,
                day=str(self._context.day),
                announced=total,
                landed=self._sum(),
            )
            windows = sorted(wanted)
            wanted = dict(zip(windows, await _gather([self._client.count(window) for window in windows]), strict=True))
        raise MirrorProtocolError(
            f"The mirror announces {total} documents for the whole day {self._context.day}, the sum of its parts is "
            f"{self._sum()}, after {DAY_ROUNDS} rounds. Nothing was published. See docs/runbook/bundle-total-mismatch.md."
        )

    def _sum(self) -> int:
        return sum(piece.announced for piece in self._slices.values())

    async def _land_changed(self, wanted: dict[Window, int]) -> None:
        """Land the windows whose total is not the landed one, the largest first, on all connections."""
        changed = []
        for window, count in wanted.items():
            have = self._slices.get(window)
            if count == (have.announced if have else 0):
                continue
            if have:
                del self._slices[window]
                self._advance(-(have.lines + have.rejected))
            if count:
                changed.append((window, count))
        changed.sort(key=lambda item: (-item[1], item[0]))
        queue = iter(changed)

        async def work_through() -> None:
            for window, count in queue:
                self._slices[window] = await self._take_over(window, count) or await self._walk_until_whole(
                    window, count
                )

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._connections, len(changed))):
                group.create_task(work_through())

    async def _take_over(self, window: Window, count: int) -> LandingSlice | None:
        """A window that was landed before, with the total that the mirror announces now."""
        for receipt in await asyncio.to_thread(_read_slices, self._work, self._earlier.get(window.name, [])):
            piece = receipt.slice
            if piece.announced == count and await asyncio.to_thread(_all_there, self._work, piece):
                self.reused += 1
                self._advance(piece.lines + piece.rejected)
                log_event("extract.slice_reused", slice=str(window), announced=count, of_run=piece.run_id)
                return piece
        return None

    async def _walk_until_whole(self, window: Window, planned: int) -> LandingSlice:
        """Walk a window until two totals and the distinct entries agree; give up after `SLICE_ATTEMPTS`."""
        before, attempt = planned, 0
        while True:
            attempt += 1
            started = time.monotonic()
            key = f"{self._context.prefix(STAGE)}slice={window.name}/attempt-{attempt}-{secrets.token_hex(4)}/"
            folder = Path(tempfile.mkdtemp(prefix=f"{window.name}-", dir=self._folder))
            walk, broken = await self._walk(window, folder)
            after = await self._client.count(window)
            fetched = walk.lines + walk.rejected
            if not broken and walk.distinct == before == after:
                piece = await asyncio.to_thread(self._upload, window, walk, key, attempt)
                shutil.rmtree(folder)
                log_event(
                    "extract.slice_done",
                    slice=str(window),
                    announced=after,
                    fetched=fetched,
                    rejected=walk.rejected,
                    pages=piece.pages,
                    attempt=attempt,
                    seconds=time.monotonic() - started,
                )
                return piece
            page_log = await asyncio.to_thread(file_ref, self._work, key + "pages.ndjson", walk.page_log.path)
            shutil.rmtree(folder)
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
            )
            if attempt == SLICE_ATTEMPTS:
                raise MirrorProtocolError(
                    f"Slice {window} of {self._context.day} does not add up after {attempt} walks: the mirror announced {before} "
                    f"documents before and {after} after the last walk, {walk.distinct} different ones came ({fetched} entries in "
                    f"{walk.page_log.lines} pages). {broken + ' ' if broken else ''}Nothing was published. The pages of that walk "
                    f"are listed in {page_log.key}. See docs/runbook/bundle-total-mismatch.md."
                )
            before = after

    async def _walk(self, window: Window, folder: Path) -> tuple[LandedWalk, str]:
        """One walk into `folder`; the text says why it broke off, empty when it came to its end."""
        broken = ""
        with LandingWriter(folder) as writer:
            try:
                async with aclosing(self._client.walk(window)) as pages:
                    async for page in pages:
                        writer.write_page(page)
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

    def _upload(self, window: Window, walk: LandedWalk, key: str, attempt: int) -> LandingSlice:
        """Put the files of a window into the work bucket, its receipt last."""

        def put(file: LandedFile) -> ObjectRef:
            return file_ref(self._work, key + file.path.name, file.path, rows=file.lines)

        piece = LandingSlice(
            start=instant_text(window.start),
            end=instant_text(window.end),
            announced=walk.distinct,
            distinct=walk.distinct,
            lines=walk.lines,
            rejected=walk.rejected,
            parts=[put(part) for part in walk.parts],
            page_log=put(walk.page_log),
            rejects=put(walk.rejects) if walk.rejects else None,
            pages=walk.page_log.lines,
            attempts=attempt,
            run_id=self._context.run_id,
        )
        receipt = _SliceReceipt(format=_LANDING_FORMAT, finished_at=_stamp(self._now()), slice=piece)
        self._work.put(
            f"{self._context.prefix(STAGE)}slice={window.name}/slice.json",
            msgspec.json.encode(receipt),
            content_type="application/json",
        )
        return piece

    def _advance(self, entries: int) -> None:
        self._received += entries
        self._progress(STAGE, self._received, max(self._expected, self._received))


def _finish(
    context: RunContext,
    work: ObjectStore,
    slices: list[LandingSlice],
    *,
    announced: int,
    reused: int,
    client: MirrorClient,
    now: Callable[[], datetime],
    started: float,
) -> ExtractReceipt:
    """Write manifest and receipt; a valid receipt of the same landing in this run stays as it is."""
    landing = _landing_sha256(slices)
    mark = fingerprint(STAGE, context.code_version, {"landing": landing})
    prefix = context.prefix(STAGE)
    body = msgspec.json.encode(LandingManifest(day=str(context.day), slices=slices))
    manifest = ObjectRef(key=prefix + "manifest.json", sha256=sha256_of(body), bytes=len(body), rows=len(slices))
    done = read_receipt(work, prefix, ExtractReceipt, mark)
    if done is not None and done.manifest == manifest and work.info(manifest.key) is not None:
        log_event("extract.reused", day=str(context.day), announced=done.announced, fetched=done.fetched)
        return done
    work.put(manifest.key, body, content_type="application/json")
    receipt = ExtractReceipt(
        stage=STAGE,
        day=str(context.day),
        run_id=context.run_id,
        code_version=context.code_version,
        fingerprint=mark,
        seconds=round(time.monotonic() - started, 3),
        manifest=manifest,
        announced=announced,
        fetched=sum(piece.lines + piece.rejected for piece in slices),
        rejected=sum(piece.rejected for piece in slices),
        slices=len(slices),
        slices_reused=reused,
        pages=sum(piece.pages for piece in slices),
        requests=client.requests,
        retries=client.retries,
        bytes_received=client.bytes_received,
        extracted_at=_stamp(now()),
        landing_sha256=landing,
    )
    put_receipt(work, prefix, receipt)
    return receipt


def _landing_sha256(slices: Sequence[LandingSlice]) -> str:
    hashes = sorted(
        file.sha256 for piece in slices for file in [*piece.parts, *([piece.rejects] if piece.rejects else [])]
    )
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _earlier_slices(work: ObjectStore, context: RunContext) -> dict[str, list[str]]:
    """Keys of the slice receipts of this day by window name: all runs, ours first."""
    ours: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for found in work.list(f"v1/day={context.day}/"):
        if match := _SLICE_KEY.search(found.key):
            (ours if match[1] == context.run_id else others).setdefault(match[2], []).append(found.key)
    return {name: ours.get(name, []) + others.get(name, []) for name in ours | others}


def _read_slices(work: ObjectStore, keys: Sequence[str]) -> list[_SliceReceipt]:
    """Slice receipts that can be read, the newest first. One of another format, or damaged, only costs a new walk."""
    receipts = []
    for key in keys:
        stored = work.get_or_none(key)
        if stored is None:
            continue
        try:
            receipt = msgspec.json.decode(stored.body, type=_SliceReceipt)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log_event("extract.slice_receipt_unreadable", level=logging.WARNING, key=key)
            continue
        if receipt.format == _LANDING_FORMAT:
            receipts.append(receipt)
    return sorted(receipts, key=lambda receipt: receipt.finished_at, reverse=True)


def _all_there(work: ObjectStore, piece: LandingSlice) -> bool:
    """Tell whether the objects of a window still exist with the size and hash of its receipt."""
    for ref in piece.objects:
        info = work.info(ref.key)
        if info is None or info.bytes != ref.bytes or info.sha256 not in {ref.sha256, ""}:
            return False
    return True


async def _gather(jobs: Sequence[Awaitable[T]]) -> list[T]:
    """Results in order. One failure ends the others before it is raised."""

    async def wait(job: Awaitable[T]) -> T:
        return await job

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait(job)) for job in jobs]
    return [task.result() for task in tasks]


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to show of several that came at once: one of ours if there is one."""
    leaves: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(reversed(error.exceptions))
        else:
            leaves.append(error)
    return next((error for error in leaves if isinstance(error, PipelineError)), leaves[0])


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
