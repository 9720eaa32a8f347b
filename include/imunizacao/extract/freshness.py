"""Has the mirror received the day to its end? Half a day and an empty day look alike, so a day is believed only with proof."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from imunizacao.errors import MirrorUnavailable
from imunizacao.extract.export_reach import exports_later
from imunizacao.fhir import ExportSource, Source, Window
from imunizacao.models import RunContext
from imunizacao.reference_day import SAO_PAULO


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """How far a mirror has come."""

    reached: bool
    """The mirror has a document from after the end of the day."""
    newest: str
    """Instant of its newest document in São Paulo, or `unknown`."""
    documents: int
    """What it announces for the day so far."""
    sentence: str
    """For people and logs, without identifiers."""


async def measure_freshness(source: Source, context: RunContext, *, now: datetime, folder: Path) -> Freshness:
    """Ask how far the mirror has come. An instant that is still to come proves nothing: somebody's clock is wrong.

    A mirror that can only export is asked by small exports, which pass through `folder`.
    """
    end, whole = context.day.end, Window(start=context.day.start, end=context.day.end)
    if isinstance(source, ExportSource) and await source.total(whole) is None:
        reached = await exports_later(source.transport, end, now=now, folder=folder)
        return Freshness(
            reached=reached,
            newest="unknown",
            documents=0,
            sentence=(
                f"The mirror {'has reached' if reached else 'has not reached'} the end of the day {context.day}{'' if reached else ' yet'}: "
                f"it has no search, and an export from {end.astimezone(SAO_PAULO).isoformat()} on has {'some' if reached else 'no'} documents."
            ),
        )
    total = await source.count(whole)
    newest = await source.newest()
    if newest is None:
        reached = await source.count_since(end) > 0
    elif newest > now:
        until = max(now.replace(microsecond=0), end)
        reached = until > end and await source.count(Window(start=end, end=until)) > 0
    else:
        reached = newest >= end
    if isinstance(source, ExportSource) and newest is None and not total + reached:
        # A search for whole documents finds none where a mirror stores them in parts.
        reached = await exports_later(source.transport, end, now=now, folder=folder)
    shown = "unknown" if newest is None else newest.astimezone(SAO_PAULO).isoformat(timespec="seconds")
    verb = "has reached" if reached else "has not reached"
    return Freshness(
        reached=reached,
        newest=shown,
        documents=total,
        sentence=(
            f"The mirror {verb} the end of the day {context.day}{'' if reached else ' yet'}: newest document at {shown}, the day "
            f"ends at {end.astimezone(SAO_PAULO).isoformat()}, {total} documents so far."
        ),
    )


def require_reached(freshness: Freshness) -> None:
    """Raise `MirrorUnavailable` for a day that nobody can call whole."""
    if not freshness.reached:
        raise MirrorUnavailable(
            f"{freshness.sentence} Nothing was published. A day is believed once the mirror has a later document; run the task again "
            "then. See docs/runbook/mirror-behind.md."
        )
