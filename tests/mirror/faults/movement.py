"""Documents that come, go and change while somebody looks, and a mirror that lags (rows 6, 7 and 9)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

from tests.mirror.calendar import HOUR_MS, in_batch, parse_ms
from tests.mirror.documents import Extra
from tests.mirror.faults.base import (
    BadScenario,
    Catalogue,
    Hit,
    Page,
    Scenario,
    draw,
    no_argument,
    one_day,
    positive,
    whole,
)
from tests.mirror.search import Matches

LATE_NUMBERS: Final = 0
DRIFT_NUMBERS: Final = 1_000_000
DRIFT_ALWAYS_NUMBERS: Final = 2_000_000
PAGING_NUMBERS: Final = 3_000_000
"""Numbers of new documents begin at the size of the day plus one of these, so that scenarios do not give one id twice."""

_AFTER_MIDNIGHT: Final = HOUR_MS // 2


def _insert(hit: Hit, catalogue: Catalogue, day: date, *, first: int, amount: int) -> None:
    """New documents at a third of the walked window."""
    low, high = hit.search.low, hit.search.high
    if low is None or high is None:
        raise ValueError("a walk over no window")
    clock = catalogue.archive.day(day).clock
    instant = low + (min(high, clock.end) - low) // 3
    catalogue.insert(day, [Extra(clock.size + first + number, instant) for number in range(amount)])


class Drift(Scenario):
    """`drift[:<n>]`: n documents (3) enter each day's walked window once, while its first walk is under way."""

    def __init__(self, argument: str, seed: int) -> None:
        self._amount = whole(argument) if argument else 3
        self._done: set[date] = set()

    def after_page(self, hit: Hit, catalogue: Catalogue) -> None:
        day = hit.day
        if day is None or hit.counts or day in self._done:
            return
        self._done.add(day)
        _insert(hit, catalogue, day, first=DRIFT_NUMBERS, amount=self._amount)


class DriftAlways(Scenario):
    """`drift-always`: a document enters the walked window during every walk."""

    def __init__(self, argument: str, seed: int) -> None:
        no_argument(argument)
        self._inserted = 0

    def after_page(self, hit: Hit, catalogue: Catalogue) -> None:
        day = hit.day
        if day is None or not hit.walks or hit.cursor.number != 1:
            return
        _insert(hit, catalogue, day, first=DRIFT_ALWAYS_NUMBERS + self._inserted, amount=1)
        self._inserted += 1


class DriftOut(Scenario):
    """`drift-out:<n>`: n documents of each day's first walked window get a version of the next day while the walk is under way."""

    def __init__(self, argument: str, seed: int) -> None:
        self._amount = positive(argument)
        self._left: dict[date, int] = {}

    def after_page(self, hit: Hit, catalogue: Catalogue) -> None:
        day = hit.day
        if day is None or not hit.walks or hit.cursor.number != 1:
            return
        left = self._left.get(day, self._amount)
        leaving = catalogue.ordinary(day, low=hit.search.low, high=hit.search.high)[:left]
        self._left[day] = left - len(leaving)
        if leaving:
            catalogue.move(day, leaving, catalogue.archive.day(day).clock.end + _AFTER_MIDNIGHT)


class OffsetPaging(Scenario):
    """`offset-paging`: pages are cut by offset from an order that changes when a document is inserted, which happens once a day,
    after the first page of the first walk that has more. The walk repeats some documents and skips others; totals are right."""

    def __init__(self, argument: str, seed: int) -> None:
        no_argument(argument)
        self._seed = seed
        self._shuffles: dict[date, int] = {}
        self._more = False

    def entries(self, hit: Hit, matches: Matches) -> Sequence[str] | None:
        day = hit.day
        if day is None or not hit.walks:
            return None
        shuffle = self._shuffles.get(day, 0)
        order = sorted(range(len(matches)), key=lambda number: draw(self._seed, f"{shuffle}|{number}"))
        chosen = order[hit.cursor.offset : hit.cursor.offset + hit.search.count]
        return [matches.page(number, 1)[0] for number in chosen]

    def page(self, hit: Hit, page: Page) -> Page:
        self._more = page.following is not None
        return page

    def after_page(self, hit: Hit, catalogue: Catalogue) -> None:
        day = hit.day
        if day is None or not hit.walks or hit.cursor.number != 1 or not self._more or day in self._shuffles:
            return
        self._shuffles[day] = 1
        _insert(hit, catalogue, day, first=PAGING_NUMBERS, amount=1)


class SameId(Scenario):
    """`same-id:<n>`: n documents of each day are listed twice, the second time with another version, later in their hour."""

    def __init__(self, argument: str, seed: int) -> None:
        self._amount = positive(argument)

    def visit(self, day: date, catalogue: Catalogue) -> None:
        clock = catalogue.archive.day(day).clock
        chosen = sorted(catalogue.ordinary(day), key=lambda k: (not in_batch(k), k))[: self._amount]
        hour_ends = [(clock.instant(k) // HOUR_MS + 1) * HOUR_MS for k in chosen]
        catalogue.insert(
            day,
            [
                Extra(k, end - 1000 + number % 999)
                for number, (k, end) in enumerate(zip(chosen, hour_ends, strict=True))
            ],
        )


class Late(Scenario):
    """`late:<day>:<n>`: n documents more for that day than before, spread over it."""

    def __init__(self, argument: str, seed: int) -> None:
        text, _, amount = argument.partition(":")
        self._day, self._amount = one_day(text), whole(amount)

    def prepare(self, catalogue: Catalogue) -> None:
        clock = catalogue.archive.day(self._day).clock
        step = (clock.end - clock.start) / (self._amount + 1)
        first = clock.size + LATE_NUMBERS
        extras = [Extra(first + number, clock.start + int(step * (number + 1))) for number in range(self._amount)]
        catalogue.insert(self._day, extras)


class Changed(Scenario):
    """`changed:<day>[:<n>]`: n documents (5) of that day get a new version in its last minute."""

    def __init__(self, argument: str, seed: int) -> None:
        text, _, amount = argument.partition(":")
        self._day, self._amount = one_day(text), whole(amount) if amount else 5

    def prepare(self, catalogue: Catalogue) -> None:
        day = catalogue.archive.day(self._day)
        ordinary = (k for k in range(day.size) if k not in day.plan(k).roles and not in_batch(k))
        positions = [k for k, _ in zip(ordinary, range(self._amount), strict=False)]
        first = day.clock.end - 60_000
        catalogue.change(self._day, [Extra(k, first + number * 100) for number, k in enumerate(positions)])


class Empty(Scenario):
    """`empty:<day>`: that day has no documents."""

    def __init__(self, argument: str, seed: int) -> None:
        self._day = one_day(argument)

    def prepare(self, catalogue: Catalogue) -> None:
        catalogue.clear(self._day)


class Frozen(Scenario):
    """`frozen:<instant>`: nothing newer than the instant is in the mirror."""

    def __init__(self, argument: str, seed: int) -> None:
        try:
            self._instant = parse_ms(argument)
        except ValueError as error:
            raise BadScenario(f"{argument!r} is not an instant with offset, like 2026-03-14T18:00:00-03:00") from error

    def horizon(self, now: int) -> int:
        return min(now, self._instant)


class Behind(Scenario):
    """`behind:<minutes>`: what came in the last minutes is not there yet."""

    def __init__(self, argument: str, seed: int) -> None:
        self._lag = positive(argument) * 60_000

    def horizon(self, now: int) -> int:
        return now - self._lag
