"""Named faults and events of the mirror: one small class each.

A scenario is written `name` or `name:argument`. It may answer instead of the server (`interfere`), change a finished page
(`page`) or what is announced (`total`), hide what is newer than an instant (`horizon`), or edit days (`prepare`, `after_page`).
To add one, write a class and name it in SCENARIOS.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from hashlib import blake2b
from typing import Final

from tests.mirror.bookmarks import Cursor
from tests.mirror.calendar import in_batch, local_date, parse_ms
from tests.mirror.documents import Archive, Extra
from tests.mirror.search import DayEdits, Search

LATE_NUMBERS: Final = 0
DRIFT_NUMBERS: Final = 1_000_000
"""Numbers of new documents begin at the size of the day plus one of these, so that scenarios do not give one id twice."""


class BadScenario(ValueError):
    """A scenario that does not exist, or an argument that it cannot read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One request for a page or a count."""

    key: str
    """Path and query: the identity of a request and its retries."""
    search: Search
    cursor: Cursor
    counts: bool
    """True when only the total is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page about to be sent."""

    entries: Sequence[str]
    """JSON texts of search entries."""
    following: Cursor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An answer instead of the page."""

    status: int
    code: str
    text: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """No answer until the client goes away."""

    seconds: float = 900.0


class Catalogue:
    """What scenarios changed in the archive, by day."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.edits: dict[date, DayEdits] = {}

    def insert(self, day: date, extras: Sequence[Extra]) -> None:
        """Put documents into a day."""
        self.edits[day] = self.edits.get(day, DayEdits()).plus(added=extras)

    def change(self, day: date, extras: Sequence[Extra]) -> None:
        """Give documents of a day a later version: they leave their position and come back at the new instant."""
        self.edits[day] = self.edits.get(day, DayEdits()).plus(removed=[extra.k for extra in extras], added=extras)

    def clear(self, day: date) -> None:
        """Take all documents of a day away."""
        self.edits[day] = DayEdits(empty=True)


class Scenario:
    """A mirror that behaves; the base of those that do not."""

    def prepare(self, catalogue: Catalogue) -> None:
        """Edit days, once, when the scenario is switched on."""

    def interfere(self, hit: Hit) -> Fault | Hang | None:
        """Answer instead of the server, or not."""
        return None

    def horizon(self, now: int) -> int:
        """The newest instant that the mirror shows (milliseconds)."""
        return now

    def total(self, total: int) -> int:
        """The total that the mirror announces."""
        return total

    def page(self, hit: Hit, page: Page) -> Page:
        """Change a page before it is sent."""
        return page

    def after_page(self, hit: Hit, catalogue: Catalogue) -> None:
        """Do something once a page is made."""


class ServerErrors(Scenario):
    """`http-5xx:<share>`: this share of requests is answered 502 or 503 once; the retry succeeds."""

    def __init__(self, argument: str, seed: int) -> None:
        self._limit = _share(argument) * 2**32
        self._seed = seed
        self._failed: set[str] = set()

    def interfere(self, hit: Hit) -> Fault | None:
        draw = int.from_bytes(blake2b(f"{self._seed}|{hit.key}".encode(), digest_size=5).digest(), "big")
        if draw >> 8 >= self._limit or hit.key in self._failed:
            return None
        self._failed.add(hit.key)
        return Fault(status=502 + draw % 2, code="EHR-ERR999", text="Serviço indisponível")


class TooManyRequests(Scenario):
    """`http-429:<seconds>`: the first request for each page must come again, not before that many seconds."""

    def __init__(self, argument: str, seed: int) -> None:
        self._seconds = _whole(argument)
        self._open_at: dict[str, float] = {}

    def interfere(self, hit: Hit) -> Fault | None:
        now = time.monotonic()
        open_at = self._open_at.setdefault(hit.key, now + self._seconds)
        if self._seconds == 0 and open_at == now:
            wait = 0
        elif now >= open_at:
            return None
        else:
            wait = max(1, round(open_at - now + 0.49))
        return Fault(
            status=429,
            code="EHR-ERR999",
            text="Limite de requisições excedido",
            headers=(("Retry-After", str(wait)),),
        )


class Timeout(Scenario):
    """`timeout:<page>`: the first request for this page of a walk gets no answer; later ones do."""

    def __init__(self, argument: str, seed: int) -> None:
        self._number = _whole(argument)
        self._done = False

    def interfere(self, hit: Hit) -> Hang | None:
        if self._done or hit.counts or hit.cursor.number != self._number:
            return None
        self._done = True
        return Hang()


class DuplicatePage(Scenario):
    """`duplicate-page:<k>`: the `next` of page k leads to the same content once more, then on."""

    def __init__(self, argument: str, seed: int) -> None:
        self._number = _whole(argument)

    def page(self, hit: Hit, page: Page) -> Page:
        if hit.cursor.number != self._number or hit.cursor.repeat or page.following is None:
            return page
        return replace(page, following=replace(hit.cursor, repeat=1))


class LostPage(Scenario):
    """`lost-page:<k>`: the entries of page k of every walk are missing; total and links are as if they were there."""

    def __init__(self, argument: str, seed: int) -> None:
        self._number = _whole(argument)

    def page(self, hit: Hit, page: Page) -> Page:
        return replace(page, entries=()) if hit.cursor.number == self._number else page


class WrongTotal(Scenario):
    """`wrong-total:<delta>`: every total, of pages and of counts, is off by delta (never below zero)."""

    def __init__(self, argument: str, seed: int) -> None:
        self._delta = _whole(argument, signed=True)

    def total(self, total: int) -> int:
        return max(0, total + self._delta)


class Drift(Scenario):
    """`drift[:<n>]`: n documents (3) enter each day's walked window once, while its first walk is under way."""

    def __init__(self, argument: str, seed: int) -> None:
        self._amount = _whole(argument) if argument else 3
        self._done: set[date] = set()

    def after_page(self, hit: Hit, catalogue: Catalogue) -> None:
        low, high = hit.search.low, hit.search.high
        if low is None or high is None or hit.counts or low >= high:
            return
        day = local_date(low)
        if day in self._done:
            return
        self._done.add(day)
        clock = catalogue.archive.day(day).clock
        instant = low + (min(high, clock.end) - low) // 3
        first = clock.size + DRIFT_NUMBERS
        catalogue.insert(day, [Extra(first + number, instant) for number in range(self._amount)])


class Late(Scenario):
    """`late:<day>:<n>`: n documents more for that day than before, spread over it."""

    def __init__(self, argument: str, seed: int) -> None:
        text, _, amount = argument.partition(":")
        self._day, self._amount = _day(text), _whole(amount)

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
        self._day, self._amount = _day(text), _whole(amount) if amount else 5

    def prepare(self, catalogue: Catalogue) -> None:
        day = catalogue.archive.day(self._day)
        ordinary = (k for k in range(day.size) if k not in day.plan(k).roles and not in_batch(k))
        positions = [k for k, _ in zip(ordinary, range(self._amount), strict=False)]
        first = day.clock.end - 60_000
        catalogue.change(self._day, [Extra(k, first + number * 100) for number, k in enumerate(positions)])


class Empty(Scenario):
    """`empty:<day>`: that day has no documents."""

    def __init__(self, argument: str, seed: int) -> None:
        self._day = _day(argument)

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


SCENARIOS: Final[dict[str, Callable[[str, int], Scenario]]] = {
    "http-5xx": ServerErrors,
    "http-429": TooManyRequests,
    "timeout": Timeout,
    "duplicate-page": DuplicatePage,
    "lost-page": LostPage,
    "wrong-total": WrongTotal,
    "drift": Drift,
    "late": Late,
    "changed": Changed,
    "empty": Empty,
    "frozen": Frozen,
}


@dataclass(slots=True)
class Active:
    """The scenarios that are switched on, and what they changed."""

    archive: Archive
    seed: int
    names: tuple[str, ...] = ()
    scenarios: tuple[Scenario, ...] = ()
    catalogue: Catalogue = field(init=False)

    def __post_init__(self) -> None:
        self.catalogue = Catalogue(self.archive)

    def switch(self, names: Sequence[str]) -> None:
        """Replace all scenarios. A name that cannot be read raises BadScenario and changes nothing."""
        scenarios = tuple(read_scenario(name, self.seed) for name in names)
        catalogue = Catalogue(self.archive)
        for scenario in scenarios:
            scenario.prepare(catalogue)
        self.names, self.scenarios, self.catalogue = tuple(names), scenarios, catalogue


def read_scenario(text: str, seed: int) -> Scenario:
    """Make the scenario that `name[:argument]` names."""
    name, _, argument = text.partition(":")
    make = SCENARIOS.get(name)
    if make is None:
        raise BadScenario(f"No scenario {name!r}. There are: {', '.join(SCENARIOS)}")
    return make(argument, seed)


def _whole(text: str, *, signed: bool = False) -> int:
    digits = text[1:] if signed and text[:1] in {"-", "+"} else text
    if not (digits.isascii() and digits.isdigit()):
        raise BadScenario(f"{text!r} is not a whole number")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError as error:
        raise BadScenario(f"{text!r} is not a share from 0 to 1") from error
    if not 0 <= share <= 1:
        raise BadScenario(f"{text!r} is not a share from 0 to 1")
    return share


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadScenario(f"{text!r} is not a day, like 2026-03-14") from error
