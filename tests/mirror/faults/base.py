"""What a scenario may see and do. One that does nothing is a mirror that behaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import blake2b
from typing import Final, Literal

from tests.mirror.bookmarks import Cursor
from tests.mirror.calendar import local_date
from tests.mirror.documents import Archive, Extra
from tests.mirror.search import DayEdits, Matches, Search

JSON: Final = "application/fhir+json; charset=utf-8"


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
    credentials: str = field(default="", repr=False)
    """Access token of the request, if it carries one."""

    @property
    def walks(self) -> bool:
        """Tell whether it is a page of a walk over a window: no count, no question for the newest document."""
        return not self.counts and self.search.low is not None and self.search.high is not None

    @property
    def day(self) -> date | None:
        """São Paulo day of the walked window."""
        low, high = self.search.low, self.search.high
        return local_date(low) if low is not None and high is not None and low < high else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page about to be sent."""

    entries: Sequence[str]
    """JSON texts of search entries. A lone surrogate U+DC80 to U+DCFF stands for a byte that is not UTF-8."""
    following: Cursor | None
    link: Callable[[str], str] = str
    """Makes the address of `next` from the right one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An answer instead of the page."""

    status: int
    code: str = ""
    """Empty = an answer without a body."""
    text: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """No answer until the client goes away."""

    seconds: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Another body, sent by the rules of HTTP."""

    body: bytes
    media_type: str = JSON
    encoding: str = ""
    """Content-Encoding."""


Ending = Literal["close", "reset", "silence", "drip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """Bytes for the socket, past all rules of HTTP."""

    body: bytes
    declared: int
    """Content-Length."""
    ending: Ending
    """What comes after the bytes: the end of the connection, a reset, nothing at all, or a blank every 50 ms for ever."""


class Catalogue:
    """What scenarios changed in the archive, by day."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.edits: dict[date, DayEdits] = {}
        self.moved: dict[tuple[date, int], Extra] = {}
        """Documents whose newest version is on another day, by the day and position that first had them."""

    def insert(self, day: date, extras: Sequence[Extra]) -> None:
        """Put documents into a day."""
        self.edits[day] = self.edits.get(day, DayEdits()).plus(added=extras)

    def change(self, day: date, extras: Sequence[Extra]) -> None:
        """Give documents of a day a later version: they leave their position and come back at the new instant."""
        self.edits[day] = self.edits.get(day, DayEdits()).plus(removed=[extra.k for extra in extras], added=extras)

    def remove(self, day: date, ks: Sequence[int]) -> None:
        """Take documents of a day away."""
        self.edits[day] = self.edits.get(day, DayEdits()).plus(removed=ks)

    def move(self, day: date, ks: Sequence[int], instant: int) -> None:
        """Give documents of a day a version of a later day: they leave the day."""
        extras = [Extra(k, instant + number, day) for number, k in enumerate(ks)]
        self.edits[day] = self.edits.get(day, DayEdits()).plus(removed=ks)
        self.insert(local_date(instant), extras)
        self.moved |= {(day, extra.k): extra for extra in extras}

    def clear(self, day: date) -> None:
        """Take all documents of a day away."""
        self.edits[day] = DayEdits(empty=True)

    def ordinary(self, day: date, *, low: int | None = None, high: int | None = None) -> list[int]:
        """Positions of [low, high) of a day that carry no trap and were not changed by a scenario."""
        found = self.archive.day(day)
        first = 0 if low is None else found.clock.first_at_or_after(low)
        last = found.size if high is None else found.clock.first_at_or_after(high)
        removed = self.edits.get(day, DayEdits()).removed
        return [k for k in range(first, last) if k not in found.plan(k).roles and k not in removed]


class Scenario:
    """A mirror that behaves; the base of those that do not."""

    def prepare(self, catalogue: Catalogue) -> None:
        """Edit days, once, when the scenario is switched on."""

    def visit(self, day: date, catalogue: Catalogue) -> None:
        """Edit a day, once, before it is first searched."""

    def clock(self, now: int) -> int:
        """What the clock of the mirror shows (milliseconds)."""
        return now

    def interfere(self, hit: Hit) -> Fault | Hang | None:
        """Answer instead of the server, or not."""
        return None

    def horizon(self, now: int) -> int:
        """The newest instant that the mirror shows (milliseconds)."""
        return now

    def total(self, total: int) -> int:
        """The total that the mirror announces."""
        return total

    def entries(self, hit: Hit, matches: Matches) -> Sequence[str] | None:
        """Cut the entries of a page from another order than that of time, or not."""
        return None

    def page(self, hit: Hit, page: Page) -> Page:
        """Change a page before it is sent."""
        return page

    def after_page(self, hit: Hit, catalogue: Catalogue) -> None:
        """Do something once a page is made."""

    def send(self, hit: Hit, body: bytes) -> Body | Wire | None:
        """Send a page (never a count) in another way than it is, or not."""
        return None


@dataclass(slots=True)
class Times:
    """How often a fault has hit each address."""

    limit: int | None
    """None = for ever."""
    _done: dict[str, int] = field(default_factory=dict)

    def take(self, key: str) -> bool:
        """Tell whether the fault hits this address once more."""
        done = self._done.get(key, 0)
        if self.limit is not None and done >= self.limit:
            return False
        self._done[key] = done + 1
        return True


class OnPage(Scenario):
    """A fault of one page of each walk: `<page>[:<times>]`, times = first answers of an address, absent = all of them."""

    default_times: int | None = None

    def __init__(self, argument: str, seed: int) -> None:
        number, given, times = argument.partition(":")
        self.number = positive(number)
        self.times = Times(positive(times) if given else self.default_times)

    def strikes(self, hit: Hit) -> bool:
        """Tell whether the fault hits this request, and count it."""
        return hit.walks and hit.cursor.number == self.number and self.times.take(hit.key)


def draw(seed: int, text: str) -> int:
    """32 random bits of a text."""
    return int.from_bytes(blake2b(f"{seed}|{text}".encode(), digest_size=5).digest(), "big") >> 8


def whole(text: str, *, signed: bool = False) -> int:
    """Read a whole number."""
    digits = text[1:] if signed and text[:1] in {"-", "+"} else text
    if not (digits.isascii() and digits.isdigit()):
        raise BadScenario(f"{text!r} is not a whole number")
    return int(text)


def positive(text: str) -> int:
    """Read a whole number from 1 on."""
    number = whole(text)
    if number < 1:
        raise BadScenario(f"{text!r} is not a whole number from 1 on")
    return number


def share(text: str) -> float:
    """Read a share."""
    try:
        number = float(text)
    except ValueError as error:
        raise BadScenario(f"{text!r} is not a share from 0 to 1") from error
    if not 0 <= number <= 1:
        raise BadScenario(f"{text!r} is not a share from 0 to 1")
    return number


def one_day(text: str) -> date:
    """Read a day."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadScenario(f"{text!r} is not a day, like 2026-03-14") from error


def no_argument(text: str) -> None:
    """Refuse an argument."""
    if text:
        raise BadScenario(f"takes no argument, got {text!r}")
