"""Which windows of a day are walked, and how they are shared between the tasks of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec

from imunizacao.errors import ContractViolation
from imunizacao.fhir import Source, Window, instant_text, parse_instant
from imunizacao.reference_day import SAO_PAULO

STEPS: Final = (timedelta(hours=1), timedelta(minutes=10), timedelta(minutes=1), timedelta(seconds=1))

T = TypeVar("T")


async def plan_windows(source: Source, whole: Window, cap: int) -> dict[Window, int]:
    """Totals of the windows that cover the day: hours, cut further where an hour has more than `cap` documents."""

    async def cut(window: Window, level: int) -> dict[Window, int]:
        pieces = window.cut(STEPS[level])
        counts = await gather([source.count(piece) for piece in pieces])
        plan: dict[Window, int] = {}
        for piece, count in zip(pieces, counts, strict=True):
            # A second cannot be cut: a bulk load may put any number of documents into it.
            if count > cap and level + 1 < len(STEPS):
                plan |= await cut(piece, level + 1)
            else:
                plan[piece] = count
        return plan

    return await cut(whole, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePart:
    """Windows of a day that one task walks. JSON-able: it travels in an XCom."""

    name: str
    """For people: `00h–06h · 5.123 documentos`."""
    windows: list[tuple[str, str, int]]
    """First instant, first instant after, announced documents; UTC."""
    of: int
    """Parts of the day: they share the connections and the pace that the mirror may be asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> SlicePart:
        """Read what `to_dict` wrote; anything else is a `ContractViolation`."""
        try:
            return msgspec.convert(dict(value), type=cls)
        except msgspec.ValidationError as error:
            raise ContractViolation(
                f"A part of the day cannot be read ({error}). Clear `plan_slices` and run it again."
            ) from error

    @property
    def plan(self) -> dict[Window, int]:
        """The windows with their announced totals."""
        return {Window(start=_instant(start), end=_instant(end)): count for start, end, count in self.windows}


def share_windows(plan: Mapping[Window, int], parts: int) -> list[SlicePart]:
    """Cut a plan into at most `parts` runs of neighbouring windows with about as many documents each; at least one part."""
    filled = [window for window in sorted(plan) if plan[window]]
    if not filled:
        return [SlicePart(name="dia sem documentos", windows=[], of=1)]
    groups: list[list[Window]] = []
    left, start = sum(plan.values()), 0
    for number in range(min(parts, len(filled)), 0, -1):
        wanted, have, stop = left / number, 0, start
        # Each later part needs a window of its own.
        while stop < len(filled) - (number - 1) and (stop == start or have + plan[filled[stop]] / 2 <= wanted):
            have += plan[filled[stop]]
            stop += 1
        if number == 1:
            stop = len(filled)
        groups.append(filled[start:stop])
        left -= sum(plan[window] for window in filled[start:stop])
        start = stop
    return [
        SlicePart(
            name=f"{_span(group, alone=len(groups) == 1)} · {_documents(sum(plan[window] for window in group))}",
            windows=[(instant_text(window.start), instant_text(window.end), plan[window]) for window in group],
            of=len(groups),
        )
        for group in groups
    ]


async def gather(jobs: Sequence[Awaitable[T]]) -> list[T]:
    """Results in order. One failure ends the others before it is raised."""

    async def wait(job: Awaitable[T]) -> T:
        return await job

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait(job)) for job in jobs]
    return [task.result() for task in tasks]


def _instant(text: str) -> datetime:
    moment = parse_instant(text)
    if moment is None:
        raise ContractViolation(f"{text!r} is not an instant. Clear `plan_slices` and run it again.")
    return moment


def _span(group: Sequence[Window], *, alone: bool) -> str:
    """`00h–06h`; the end of the day is 24h."""
    if alone:
        return "dia inteiro"
    end = _clock(group[-1].end)
    return f"{_clock(group[0].start)}–{'24h' if end == '00h' else end}"


def _clock(moment: datetime) -> str:
    local = moment.astimezone(SAO_PAULO)
    return (
        f"{local:%Hh}"
        if not (local.minute or local.second)
        else f"{local:%H:%M}" + (f":{local:%S}" if local.second else "")
    )


def _documents(count: int) -> str:
    return "1 documento" if count == 1 else f"{count:,}".replace(",", ".") + " documentos"
