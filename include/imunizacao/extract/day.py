"""A day of extract: planned by totals, landed window by window, counted once more at the end.

The day is cut into windows of an hour or less. A window counts as landed only when the mirror announced the same total
before and after its walk and exactly that many different document versions came; at the end the whole day is counted once
more. What a window brought is written with its receipt (`slice.json`) last, its pages are checkpoints until then, so a killed
task costs at most one page per connection. Parts of the day may be landed by several tasks (`extract_part`); `extract_day`
then takes their windows over and closes the day.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from imunizacao.claims import require_clock
from imunizacao.errors import MirrorProtocolError, PipelineError
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.extract.export import land_export
from imunizacao.extract.freshness import Freshness, measure_freshness, require_reached
from imunizacao.extract.plan import SlicePart, gather, plan_windows, share_windows
from imunizacao.extract.walks import STAGE, Landed, SliceWalker, stamp
from imunizacao.fhir import ExportSource, Source, Window, merge_unknown, open_source
from imunizacao.models import ExtractReceipt, LandingManifest, LandingSlice, ObjectRef, RunContext, fingerprint
from imunizacao.settings import EngineSettings, MirrorSettings
from imunizacao.storage import ObjectStore, put_receipt, read_receipt, sha256_of

DAY_ROUNDS: Final = 3
"""Times the whole day is compared with the sum of its windows."""

Sleep = Callable[[float], Awaitable[None]]
T = TypeVar("T")


def mirror_freshness(
    context: RunContext,
    *,
    settings: MirrorSettings,
    engine: EngineSettings,
    now: Callable[[], datetime],
    sleep: Sleep = asyncio.sleep,
) -> Freshness:
    """Ask whether the mirror has received the day to its end. Raises `MirrorUnavailable` when it does not answer."""

    async def ask(folder: Path) -> Freshness:
        async with open_source(settings, sleep=sleep, now=now) as source:
            return await measure_freshness(source, context, now=now(), folder=folder)

    context.day.require_over(now())
    with _scratch(engine) as folder:
        return run_extraction(ask(folder))


def plan_day(
    context: RunContext,
    *,
    settings: MirrorSettings,
    now: Callable[[], datetime],
    parts: int,
    sleep: Sleep = asyncio.sleep,
) -> list[SlicePart]:
    """Share the windows of a day between at most `parts` tasks, with about as many documents each; at least one part.

    There are no more parts than connections: each needs one of its own.
    """

    async def ask() -> list[SlicePart]:
        async with open_source(settings, sleep=sleep, now=now) as source:
            if isinstance(source, ExportSource):
                return [SlicePart(name="dia inteiro por exportação", windows=[], of=1)]
            plan = await plan_windows(source, _whole(context), settings.slice_cap)
        return share_windows(plan, min(parts, settings.max_connections))

    context.day.require_over(now())
    return run_extraction(ask())


def extract_part(
    context: RunContext,
    part: SlicePart,
    *,
    settings: MirrorSettings,
    work: ObjectStore,
    engine: EngineSettings,
    now: Callable[[], datetime],
    progress: Progress = no_progress,
    sleep: Sleep = asyncio.sleep,
) -> dict[str, int]:
    """Land the windows of one part with its share of connections and pace; counts for people, nothing that closes the day."""

    async def land(folder: Path) -> dict[str, int]:
        async with open_source(_share_of(settings, part.of), sleep=sleep, now=now) as source:
            day = await _Day.open(
                context, source=source, settings=settings, work=work, folder=folder, now=now, progress=progress
            )
            await day.land_windows(part.plan)
            counts = day.counts()
        log_event("extract.part_done", day=str(context.day), part=part.name, **counts)
        return counts

    with _scratch(engine) as folder:
        return run_extraction(land(folder))


def extract_day(
    context: RunContext,
    *,
    settings: MirrorSettings,
    work: ObjectStore,
    engine: EngineSettings,
    now: Callable[[], datetime],
    accept_stale: bool = False,
    fresh: bool = False,
    progress: Progress = no_progress,
    sleep: Sleep = asyncio.sleep,
) -> ExtractReceipt:
    """Land all document versions of a day, or raise and leave nothing that another stage would read.

    Windows that this run, or else an earlier run of the same day, has landed are taken over when they came from this mirror and it still announces
    the same total for them (of earlier runs not with `fresh`); a walk that was cut off goes on from its last page. Raises `ConfigurationError` for a day that is not
    over, `MirrorUnavailable` when the mirror does not answer or has not reached the end of the day yet (unless `accept_stale`),
    `MirrorProtocolError` when the totals do not agree; also `ConfigurationError` when the clock of this worker is ahead of the store's.
    """
    context.day.require_over(now())
    require_clock(work, now())
    with _scratch(engine) as folder:
        return run_extraction(
            _extract(
                context,
                settings=settings,
                work=work,
                folder=folder,
                now=now,
                accept_stale=accept_stale,
                fresh=fresh,
                progress=progress,
                sleep=sleep,
            )
        )


async def _extract(
    context: RunContext,
    *,
    settings: MirrorSettings,
    work: ObjectStore,
    folder: Path,
    now: Callable[[], datetime],
    accept_stale: bool,
    fresh: bool,
    progress: Progress,
    sleep: Sleep,
) -> ExtractReceipt:
    started = time.monotonic()
    whole = _whole(context)
    async with open_source(settings, sleep=sleep, now=now) as source:
        freshness = await measure_freshness(source, context, now=now(), folder=folder)
        stale = accept_stale and not freshness.reached
        if stale:
            log_event("extract.stale_accepted", level=logging.WARNING, day=str(context.day), newest=freshness.newest)
        else:
            require_reached(freshness)
        day = await _Day.open(
            context,
            source=source,
            settings=settings,
            work=work,
            folder=folder,
            now=now,
            progress=progress,
            fresh=fresh,
        )
        if isinstance(source, ExportSource):
            announced = await _export(
                context,
                day,
                source,
                whole,
                work=work,
                folder=folder,
                now=now,
                progress=progress,
            )
        else:
            plan = await plan_windows(source, whole, settings.slice_cap)
            log_event(
                "extract.plan",
                day=str(context.day),
                way=source.way,
                announced=freshness.documents,
                slices=sum(count > 0 for count in plan.values()),
                earlier=day.earlier,
            )
            announced = await day.land(plan, whole)
        receipt = await asyncio.to_thread(
            _finish, context, work, day, announced=announced, stale=stale, now=now, started=started
        )
    log_event(
        "extract.done",
        day=str(context.day),
        announced=receipt.announced,
        fetched=receipt.fetched,
        rejected=receipt.rejected,
        slices=receipt.slices,
        reused=day.walker.reused,
        pages=receipt.pages,
        resumed=day.walker.pages_resumed,
        requests=source.transport.requests,
        retries=source.transport.retries,
        bytes=source.transport.bytes_received,
        seconds=time.monotonic() - started,
    )
    return receipt


async def _export(
    context: RunContext,
    day: _Day,
    source: ExportSource,
    whole: Window,
    *,
    work: ObjectStore,
    folder: Path,
    now: Callable[[], datetime],
    progress: Progress,
) -> int:
    """Land the day by one export, or take over the export of an earlier run with the same total; return the day's total."""
    expected = await source.total(whole)
    piece = await day.walker.take_over(whole, expected) if expected else None
    if piece is None:
        piece = await land_export(
            context,
            transport=source.transport,
            work=work,
            folder=folder,
            now=now,
            progress=progress,
            window=whole,
            expected=expected,
        )
    day.add(whole, piece)
    return piece.announced


class _Day:
    """The windows of one day while they are being landed."""

    def __init__(
        self,
        context: RunContext,
        *,
        source: Source,
        connections: int,
        landed: Landed,
        walker: Callable[[Callable[[int], None]], SliceWalker],
        progress: Progress,
    ) -> None:
        self.source = source
        self.earlier = landed.windows
        self.walker = walker(self._advance)
        self._context = context
        self._connections = connections
        self._progress = progress
        self._slices: dict[Window, LandingSlice] = {}
        self._received = 0
        self._expected = 0

    @classmethod
    async def open(
        cls,
        context: RunContext,
        *,
        source: Source,
        settings: MirrorSettings,
        work: ObjectStore,
        folder: Path,
        now: Callable[[], datetime],
        progress: Progress,
        fresh: bool = False,
    ) -> _Day:
        """See what the work bucket holds of the day already; with `fresh` only what this run has landed."""
        landed = await asyncio.to_thread(Landed, work, context, fresh=fresh)
        mirror = await source.mark()

        def make_walker(advance: Callable[[int], None]) -> SliceWalker:
            return SliceWalker(
                context,
                source=source,
                mirror=mirror,
                work=work,
                folder=folder,
                landed=landed,
                now=now,
                advance=advance,
            )

        return cls(
            context,
            source=source,
            connections=settings.max_connections,
            landed=landed,
            walker=make_walker,
            progress=progress,
        )

    def landed(self) -> list[LandingSlice]:
        """Windows with documents, in order of time."""
        return [self._slices[window] for window in sorted(self._slices)]

    def add(self, window: Window, piece: LandingSlice) -> None:
        """Count a window in that was landed otherwise; one without a line is left out like any other."""
        if piece.lines + piece.rejected:
            self._slices[window] = piece

    def counts(self) -> dict[str, int]:
        """What was landed so far, for people."""
        slices = self.landed()
        return {
            "announced": self._sum(),
            "fetched": sum(piece.lines + piece.rejected for piece in slices),
            "rejected": sum(piece.rejected for piece in slices),
            "slices": len(slices),
            "slices_reused": self.walker.reused,
            "pages": sum(piece.pages for piece in slices),
            "pages_resumed": self.walker.pages_resumed,
            "retries": self.source.transport.retries,
        }

    async def land_windows(self, plan: Mapping[Window, int]) -> None:
        """Land windows and no more: whether they are the day is for `land` to say."""
        self._expected = sum(plan.values())
        await self._land_changed(plan)

    async def land(self, plan: Mapping[Window, int], whole: Window) -> int:
        """Land every window, then compare their sum with the whole day; return the day's total."""
        wanted = dict(plan)
        self._expected = sum(wanted.values())
        total = 0
        for _ in range(DAY_ROUNDS):
            await self._land_changed(wanted)
            total = await self.source.count(whole)
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
            wanted = dict(zip(windows, await gather([self.source.count(window) for window in windows]), strict=True))
        raise MirrorProtocolError(
            f"The mirror announces {total} documents for the whole day {self._context.day}, the sum of its parts is "
            f"{self._sum()}, after {DAY_ROUNDS} rounds. Nothing was published. See docs/runbook/bundle-total-mismatch.md."
        )

    def _sum(self) -> int:
        return sum(piece.announced for piece in self._slices.values())

    async def _land_changed(self, wanted: Mapping[Window, int]) -> None:
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
                self._slices[window] = await self.walker.land(window, count)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._connections, len(changed))):
                group.create_task(work_through())

    def _advance(self, entries: int) -> None:
        self._received += entries
        self._progress(STAGE, self._received, max(self._expected, self._received))


def _finish(
    context: RunContext,
    work: ObjectStore,
    day: _Day,
    *,
    announced: int,
    stale: bool,
    now: Callable[[], datetime],
    started: float,
) -> ExtractReceipt:
    """Write manifest and receipt; a valid receipt of the same landing in this run stays as it is."""
    slices, transport = day.landed(), day.source.transport
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
    counts = day.counts()
    receipt = ExtractReceipt(
        stage=STAGE,
        day=str(context.day),
        run_id=context.run_id,
        code_version=context.code_version,
        fingerprint=mark,
        seconds=round(time.monotonic() - started, 3),
        manifest=manifest,
        announced=announced,
        fetched=counts["fetched"],
        rejected=counts["rejected"],
        slices=counts["slices"],
        slices_reused=counts["slices_reused"],
        pages=counts["pages"],
        requests=transport.requests,
        retries=transport.retries,
        bytes_received=transport.bytes_received,
        extracted_at=stamp(now()),
        landing_sha256=landing,
        way=day.source.way,
        pages_resumed=counts["pages_resumed"],
        accepted_stale=stale,
        unknown_elements=reduce(merge_unknown, (piece.unknown_elements for piece in slices), {}),
    )
    put_receipt(work, prefix, receipt)
    for element, documents in receipt.unknown_elements.items():
        log_event(
            "extract.unknown_elements",
            level=logging.WARNING,
            day=str(context.day),
            path=element,
            documents=documents,
            runbook="docs/runbook/new-fields.md",
        )
    return receipt


def _landing_sha256(slices: Sequence[LandingSlice]) -> str:
    hashes = sorted(
        file.sha256 for piece in slices for file in [*piece.parts, *([piece.rejects] if piece.rejects else [])]
    )
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _whole(context: RunContext) -> Window:
    return Window(start=context.day.start, end=context.day.end)


def _share_of(settings: MirrorSettings, parts: int) -> MirrorSettings:
    """What one of several tasks may ask of the mirror: together they ask no more than the settings say."""
    return dataclasses.replace(
        settings,
        max_connections=max(1, settings.max_connections // parts),
        requests_per_second=settings.requests_per_second / parts,
    )


@contextmanager
def _scratch(engine: EngineSettings) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="extract-", dir=engine.scratch_dir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_extraction(job: Coroutine[Any, Any, T]) -> T:
    """Run to the end; of several errors at once, one of ours is raised."""
    try:
        return asyncio.run(job)
    except BaseExceptionGroup as group:
        failure = _first_cause(group)
    raise failure


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
