"""FHIR search over the archive: reading the parameters, and which documents they match.

`GET /Bundle?type=document&_lastUpdated=ge…&_lastUpdated=lt…&_count=N`. A parameter that is not supported is reported in the page
(or refused with `Prefer: handling=strict`) and never echoed in the link `self`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from typing import Final

from tests.mirror.calendar import SAO_PAULO, local_date, midnight_ms
from tests.mirror.documents import FIRST_DAY, Archive, DayArchive, Extra
from tests.mirror.traps import COPY_SHARE, SHARES, quota

DEFAULT_COUNT: Final = 50
MAX_COUNT: Final = 1000
_SILENT: Final = frozenset({"_format", "_pretty"})
_INSTANT: Final = re.compile(
    r"(?P<prefix>ge|gt|le|lt|eq)?(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:T(?P<time>\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)(?P<offset>Z|[+ -]\d{2}:\d{2})?)?"
)


class SearchRefused(Exception):
    """A search that cannot be answered; the code is that of the RNDS error catalogue."""

    def __init__(self, code: str, text: str, status: int = 400) -> None:
        super().__init__(f"({code}) {text}")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search as understood."""

    low: int | None = None
    """First instant, inclusive."""
    high: int | None = None
    """Last instant, exclusive."""
    matches: bool = True
    """False when no document can match (another Bundle type)."""
    count: int = DEFAULT_COUNT
    count_only: bool = False
    with_total: bool = True
    newest_first: bool = False
    honoured: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()


def parse_search(parameters: Iterable[tuple[str, str]]) -> Search:
    """Read search parameters. Raises SearchRefused for values that cannot be read."""
    fields = _Fields()
    for name, value in parameters:
        reader = _READERS.get(name)
        if reader is None:
            if name not in _SILENT:
                fields.ignored.append(name)
            continue
        honoured = reader(fields, value)
        if honoured is not None:
            fields.honoured.append((name, honoured))
    return Search(
        low=fields.low,
        high=fields.high,
        matches=fields.matches,
        count=fields.count,
        count_only=fields.count_only or fields.count == 0,
        with_total=fields.with_total,
        newest_first=fields.newest_first,
        honoured=tuple(fields.honoured),
        ignored=tuple(fields.ignored),
    )


@dataclass(slots=True)
class _Fields:
    """What the parameters have said so far."""

    low: int | None = None
    high: int | None = None
    matches: bool = True
    count: int = DEFAULT_COUNT
    count_only: bool = False
    with_total: bool = True
    newest_first: bool = False
    honoured: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def _read_type(fields: _Fields, value: str) -> str:
    fields.matches = fields.matches and "document" in value.split(",")
    return value


def _read_last_updated(fields: _Fields, value: str) -> str:
    prefix, start, stop = read_instant(value)
    low = {"ge": start, "gt": stop, "eq": start}.get(prefix)
    high = {"lt": start, "le": stop, "eq": stop}.get(prefix)
    if low is not None:
        fields.low = low if fields.low is None else max(fields.low, low)
    if high is not None:
        fields.high = high if fields.high is None else min(fields.high, high)
    return value


def _read_count(fields: _Fields, value: str) -> str:
    if not re.fullmatch(r"\d{1,9}", value):
        raise SearchRefused("EHR-ERR893", "Quantidade de registros por página inválida")
    fields.count = min(int(value), MAX_COUNT)
    return str(fields.count)


def _read_summary(fields: _Fields, value: str) -> str | None:
    if value == "count":
        fields.count_only = True
        return value
    if value != "false":
        fields.ignored.append("_summary")
        return None
    return value


def _read_total(fields: _Fields, value: str) -> str | None:
    if value not in {"accurate", "none"}:
        fields.ignored.append("_total")
        return None
    fields.with_total = value == "accurate"
    return value


def _read_sort(fields: _Fields, value: str) -> str | None:
    if value not in {"_lastUpdated", "-_lastUpdated"}:
        fields.ignored.append("_sort")
        return None
    fields.newest_first = value.startswith("-")
    return value


_READERS: Final = {
    "type": _read_type,
    "_lastUpdated": _read_last_updated,
    "_count": _read_count,
    "_summary": _read_summary,
    "_total": _read_total,
    "_sort": _read_sort,
}
PARAMETERS: Final = tuple(_READERS)


def read_instant(text: str) -> tuple[str, int, int]:
    """Prefix, first instant and first instant after the stated period, in milliseconds.

    A date without a time is that day in São Paulo, a time without offset is local, `eq` is implied (FHIR R4, search, prefixes).
    A `+` that arrived as a blank is taken as it was meant.
    """
    match = _INSTANT.fullmatch(text.strip())
    if match is None:
        raise SearchRefused("EHR-ERR850", "Parâmetro _lastUpdated inválido")
    prefix = match["prefix"] or "eq"
    try:
        if match["time"] is None:
            day = date.fromisoformat(match["date"])
            return prefix, midnight_ms(day), midnight_ms(day + timedelta(days=1))
        offset = (match["offset"] or "").replace(" ", "+")
        moment = datetime.fromisoformat(f"{match['date']}T{match['time']}{offset}")
    except (ValueError, OverflowError) as error:
        raise SearchRefused("EHR-ERR850", "Parâmetro _lastUpdated inválido") from error
    start = _local_ms(moment)
    step = {5: 60_000, 8: 1000}.get(len(match["time"]), 1)
    return prefix, start, start + step


def _local_ms(moment: datetime) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=SAO_PAULO)
    return round(aware.astimezone(UTC).timestamp() * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayEdits:
    """How one day differs from the archive, by scenarios: positions taken away, documents put in."""

    removed: tuple[int, ...] = ()
    """Positions, ascending."""
    added: tuple[Extra, ...] = ()
    """By instant."""
    empty: bool = False

    def plus(self, *, removed: Iterable[int] = (), added: Iterable[Extra] = ()) -> DayEdits:
        """The same edits and some more."""
        return DayEdits(
            removed=tuple(sorted({*self.removed, *removed})),
            added=tuple(sorted({*self.added, *added}, key=lambda extra: (extra.instant, extra.k))),
            empty=self.empty,
        )


_NO_EDITS: Final = DayEdits()
_EXACT_DAYS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class DayMatches:
    """The matches of one day: positions [low, high) without `removed`, merged with `added` by instant."""

    date: date
    low: int
    high: int
    removed: Sequence[int]
    added: Sequence[Extra]

    def __len__(self) -> int:
        return self.high - self.low - len(self.removed) + len(self.added)

    def items(self, day: DayArchive, start: int, stop: int) -> Iterator[int | Extra]:
        """Matches number start to stop - 1 of this day: positions or extras."""
        if not self.removed and not self.added:
            yield from range(self.low + start, self.low + stop)
            return
        # The n-th kept position is n plus the removed ones before it: bisect over "kept before each removed one".
        kept_before = [position - self.low - number for number, position in enumerate(self.removed)]
        places = []
        for number, extra in enumerate(self.added):
            position = min(max(day.clock.first_at_or_after(extra.instant), self.low), self.high)
            places.append(position - self.low - bisect_left(self.removed, position) + number)
        for item in range(start, stop):
            number = bisect_left(places, item)
            if number < len(places) and places[number] == item:
                yield self.added[number]
                continue
            kept = item - number
            yield self.low + kept + bisect_right(kept_before, kept)


class Matches:
    """The documents that a search matches at one moment, in the order in which they came (or the reverse)."""

    def __init__(self, archive: Archive, days: Sequence[DayMatches], *, newest_first: bool) -> None:
        self.days = days
        """Day by day, in order of time."""
        self._archive = archive
        self._ends = list(accumulate(len(day) for day in days))
        self._newest_first = newest_first

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def total(self) -> int:
        """What the server announces: every document version once. Copies are what a bad paging repeats, so they do not count.

        Over more than 40 days the copies are taken from their share, to keep a count over the whole history quick.
        """
        if len(self.days) > _EXACT_DAYS:
            size = self._archive.settings.docs_per_day
            return len(self) - len(self.days) * quota(len(SHARES), COPY_SHARE, 0, size)
        return len(self) - sum(
            self._archive.day(day.date).copies(day.low, day.high)
            - sum(self._archive.day(day.date).copies(position, position + 1) for position in day.removed)
            for day in self.days
        )

    def page(self, offset: int, count: int) -> list[str]:
        """JSON texts of `count` search entries from `offset` on."""
        total = len(self)
        stop = min(offset + count, total)
        if self._newest_first:
            return list(self._entries(total - stop, total - offset))[::-1]
        return list(self._entries(offset, stop))

    def _entries(self, start: int, stop: int) -> Iterator[str]:
        while start < stop:
            number = bisect_right(self._ends, start)
            matches = self.days[number]
            before = self._ends[number] - len(matches)
            day = self._archive.day(matches.date)
            last = min(stop, self._ends[number])
            for item in matches.items(day, start - before, last - before):
                if isinstance(item, Extra):
                    yield (day if item.home is None else self._archive.day(item.home)).added_entry(item)
                else:
                    yield day.entry(item)
            start = last


def find_matches(archive: Archive, search: Search, *, horizon: int, edits: Mapping[date, DayEdits]) -> Matches:
    """What matches when nothing newer than `horizon` (milliseconds, inclusive) is in the mirror."""
    days: list[DayMatches] = []
    end = min(horizon + 1, search.high) if search.high is not None else horizon + 1
    first = max(FIRST_DAY, local_date(search.low)) if search.low is not None else FIRST_DAY
    last = local_date(max(end - 1, 0))
    if search.matches and (search.low is None or search.low < end):
        for ordinal in range(first.toordinal(), last.toordinal() + 1):
            day = date.fromordinal(ordinal)
            whole = first < day < last
            found = _match_day(
                archive, day, None if whole else search.low, None if whole else end, edits.get(day, _NO_EDITS)
            )
            if len(found):
                days.append(found)
    return Matches(archive, days, newest_first=search.newest_first)


def _match_day(archive: Archive, date_: date, low: int | None, high: int | None, edits: DayEdits) -> DayMatches:
    size = archive.settings.docs_per_day
    if edits.empty:
        return DayMatches(date=date_, low=0, high=0, removed=(), added=())
    if low is None and high is None and edits is _NO_EDITS:
        return DayMatches(date=date_, low=0, high=size, removed=(), added=())
    day = archive.day(date_)
    start = 0 if low is None else day.clock.first_at_or_after(low)
    stop = size if high is None else day.clock.first_at_or_after(high)
    added = [
        extra
        for extra in edits.added
        if (low is None or extra.instant >= low) and (high is None or extra.instant < high)
    ]
    removed = [position for position in edits.removed if start <= position < stop]
    return DayMatches(date=date_, low=start, high=max(start, stop), removed=removed, added=added)
