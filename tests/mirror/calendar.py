"""Instants of a day: which document came when.

A day is the half-open interval [00:00, 24:00) of America/Sao_Paulo, 23 or 25 hours long where daylight saving changes. Position
k of `size` documents has one instant, never earlier than that of k - 1, so a time slice is a range of positions that bisection
finds: nothing is stored per document. Instants are milliseconds since the epoch, in UTC.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from typing import Final
from zoneinfo import ZoneInfo

SAO_PAULO: Final = ZoneInfo("America/Sao_Paulo")
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

PROFILE: Final = (2, 1, 1, 1, 1, 2, 4, 14, 40, 62, 66, 56, 38, 44, 60, 62, 54, 34, 16, 10, 8, 6, 5, 4)
"""Documents per local hour, relative: posts are open from 8 to 17; queues of offline systems drain at night."""

BATCH_SIZE: Final = 32
BATCH_EVERY: Final = 4
"""Every fourth group of 32 positions came in one batch: all of it carries the same instant."""

_HOUR_MINUTE: Final = tuple(f"{hour:02d}:{minute:02d}" for hour in range(24) for minute in range(60))


def in_batch(k: int) -> bool:
    """Tell whether position k shares its instant with the rest of its group of 32."""
    return k // BATCH_SIZE % BATCH_EVERY == 1


def midnight_ms(day: date) -> int:
    """First instant of a São Paulo day. Where 00:00 does not exist it is the instant of the change (01:00)."""
    local = datetime(day.year, day.month, day.day, tzinfo=SAO_PAULO)
    return round(local.astimezone(UTC).timestamp() * 1000)


def local_date(instant: int) -> date:
    """São Paulo date of an instant."""
    return datetime.fromtimestamp(instant / 1000, SAO_PAULO).date()


def parse_ms(text: str) -> int:
    """Milliseconds of an ISO 8601 date-time with offset. Raises ValueError without one."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset")
    return round(moment.timestamp() * 1000)


def utc_text(instant: int) -> str:
    """`2026-03-14T15:00:00.123Z`."""
    moment = datetime.fromtimestamp(instant // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{instant % 1000:03d}Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of one day with one offset from UTC."""

    start: int
    local_shift: int
    """Milliseconds to add to an instant to get the milliseconds since local midnight of the day."""
    offset: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DayClock:
    """The instants of `size` documents over one day."""

    day: date
    size: int
    start: int
    end: int
    """First instant of the next day."""
    segments: tuple[Segment, ...]
    hours: tuple[int, ...]
    """Documents-per-hour profile of the hours that really pass in the day, cumulated."""

    @classmethod
    def of(cls, day: date, size: int) -> DayClock:
        """Build the clock of a São Paulo day."""
        start, end = midnight_ms(day), midnight_ms(day + timedelta(days=1))
        naive_midnight = round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
        segments: list[Segment] = []
        weights = []
        for instant in range(start, end, HOUR_MS):
            moment = datetime.fromtimestamp(instant / 1000, SAO_PAULO)
            weights.append(PROFILE[moment.hour])
            text = moment.isoformat()[-6:]
            if not segments or segments[-1].offset != text:
                shift = moment.utcoffset() or timedelta()
                local_shift = round(shift.total_seconds()) * 1000 - naive_midnight
                segments.append(Segment(start=instant, local_shift=local_shift, offset=text))
        return cls(day=day, size=size, start=start, end=end, segments=tuple(segments), hours=(0, *accumulate(weights)))

    def instant(self, k: int) -> int:
        """Instant of position k. The first is the first millisecond of the day, the last the last one."""
        if k // BATCH_SIZE % BATCH_EVERY == 1:
            k = k // BATCH_SIZE * BATCH_SIZE
        if k == 0:
            return self.start
        if k >= self.size - 1:
            return self.end - 1
        weight = (k + 0.5) * self.hours[-1] / self.size
        hour = bisect_right(self.hours, weight) - 1
        low = self.hours[hour]
        return self.start + int((hour + (weight - low) / (self.hours[hour + 1] - low)) * HOUR_MS)

    def first_at_or_after(self, instant: int) -> int:
        """First position whose instant is not before `instant`; `size` when there is none."""
        if instant <= self.start:
            return 0
        if instant >= self.end:
            return self.size
        return bisect_left(range(self.size), instant, key=self.instant)

    def text(self, instant: int) -> str:
        """Local text with milliseconds and the offset of that moment: `2026-03-14T12:00:00.123-03:00`."""
        segment = self.segments[0] if len(self.segments) == 1 or instant < self.segments[1].start else self.segments[1]
        second, milli = divmod(instant + segment.local_shift, 1000)
        minute, second = divmod(second, 60)
        return f"{self.day}T{_HOUR_MINUTE[minute]}:{second:02d}.{milli:03d}{segment.offset}"


@lru_cache(maxsize=65536)
def date_text(ordinal: int) -> str:
    """`YYYY-MM-DD` of a proleptic ordinal."""
    return date.fromordinal(ordinal).isoformat()


@lru_cache(maxsize=65536)
def offset_hours(ordinal: int) -> int:
    """Hours from UTC in São Paulo at noon of a date: -3, or -2 in the summers that had daylight saving."""
    day = date.fromordinal(ordinal)
    shift = datetime(day.year, day.month, day.day, 12, tzinfo=SAO_PAULO).utcoffset() or timedelta(hours=-3)
    # Before 1914 the local mean time was 3:06:28 behind UTC; whole hours are enough here.
    return round(shift.total_seconds() / 3600)
