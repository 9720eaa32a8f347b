"""Has a day moved at the mirror since it was landed? Counted window by window, nothing is fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from imunizacao.errors import ContractViolation
from imunizacao.extract.day import Sleep, run_extraction
from imunizacao.extract.plan import gather
from imunizacao.fhir import ExportSource, Source, Window, open_source, parse_instant
from imunizacao.models import LandingSlice, RunContext
from imunizacao.settings import MirrorSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Recount:
    """What a mirror announces for a day now, beside what was landed of it. Document versions, never their ids."""

    landed: int
    announced: int | None
    """None: this mirror cannot be asked how many there are."""
    moved: int
    """Windows with another total than their landing; documents where there were none count as one more."""

    @property
    def same(self) -> bool:
        """Whether every total is the landed one. A mirror that cannot count never says so."""
        return self.announced == self.landed and not self.moved


def recount_day(
    context: RunContext,
    slices: Sequence[LandingSlice],
    *,
    settings: MirrorSettings,
    now: Callable[[], datetime],
    sleep: Sleep = asyncio.sleep,
) -> Recount:
    """Count the whole day and every landed window of it at the mirror, on all connections.

    Totals tell that a document came, left or moved to another window. One that left while another came within the same window is
    not seen: only a new walk sees it. Raises `MirrorUnavailable` and `MirrorProtocolError` as extraction does.
    """
    landed = sum(piece.announced for piece in slices)
    whole = Window(start=context.day.start, end=context.day.end)

    async def ask() -> Recount:
        async with open_source(settings, sleep=sleep, now=now) as source:
            total = await _total(source, whole)
            if total is None:
                return Recount(landed=landed, announced=None, moved=0)
            windows = [] if isinstance(source, ExportSource) else [_window(piece) for piece in slices]
            counts = await gather([source.count(window) for window in windows])
            moved = sum(count != piece.announced for count, piece in zip(counts, slices, strict=False))
            elsewhere = bool(windows) and total != sum(counts)
            return Recount(landed=landed, announced=total, moved=moved + elsewhere)

    return run_extraction(ask())


async def _total(source: Source, whole: Window) -> int | None:
    return await source.total(whole) if isinstance(source, ExportSource) else await source.count(whole)


def _window(piece: LandingSlice) -> Window:
    start, end = parse_instant(piece.start), parse_instant(piece.end)
    if start is None or end is None:
        raise ContractViolation(
            f"The landing names the window {piece.start!r} to {piece.end!r}, which is none. Run the day again; see "
            "docs/runbook/recheck.md."
        )
    return Window(start=start, end=end)
