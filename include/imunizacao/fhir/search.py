"""Ways into the mirror by FHIR search: they count, walk pages, and never take an answer for granted."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import ClassVar, Final, Self
from urllib.parse import urldefrag, urlencode, urlsplit

from imunizacao.errors import MirrorProtocolError, MirrorUnavailable
from imunizacao.events import log_event
from imunizacao.fhir.addresses import query_of
from imunizacao.fhir.auth import Authenticator
from imunizacao.fhir.pace import Sleep
from imunizacao.fhir.pages import Page, PageContent, read_page
from imunizacao.fhir.transport import UNCACHED, Answer, Received, Transport, WalkBroken, mirror_mark, shown
from imunizacao.fhir.window import Window, instant_text, require_filters
from imunizacao.settings import MirrorSettings

MAX_REPEATS: Final = 2
"""So many pages in a row that were all seen before end a walk: some servers give every page of a loop a new address."""
MAX_EMPTY: Final = 2
"""So many pages in a row may have no entry and a `next` all the same: servers that page by cost or by shard give such pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a walk goes on."""

    url: str
    """Address of the next page, as the mirror gave it; where it does not name the searched type, that stands behind a `#`."""
    number: int
    """Pages that are there already."""
    visited: frozenset[str]
    """`visited_mark` of their addresses."""
    entries: int = 0
    """Matches on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One search of a way into the mirror."""

    type: str
    filters: tuple[tuple[str, str], ...] = ()
    """Parameters of every request."""
    includes: tuple[tuple[str, str], ...] = ()
    """Parameters of walks: what pages bring beside the matches."""
    label: str = ""
    """Names the search in messages, where a way has several."""


class SearchClient(ABC):
    """What all ways by search share. Use it as an async context manager, in one event loop.

    A way is one search or several, one after another: totals are their sum, and a walk goes through all of them.
    """

    way: ClassVar[str]
    """Its name in the settings."""

    def __init__(
        self,
        settings: MirrorSettings,
        *,
        authenticator: Authenticator | None = None,
        sleep: Sleep = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        transport: Transport | None = None,
    ) -> None:
        self.transport = transport or Transport(
            settings, authenticator=authenticator, sleep=sleep, monotonic=monotonic, now=now
        )
        self._settings = settings
        self.known_searches: tuple[Search, ...] = ()
        """The searches of this way, once they are known."""
        self._lock = asyncio.Lock()
        self._codes_told: set[str] = set()

    async def __aenter__(self) -> Self:
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.transport.__aexit__(kind, error, trace)

    @property
    def requests(self) -> int:
        """Requests sent, retries included."""
        return self.transport.requests

    @property
    def retries(self) -> int:
        """Requests that were sent again."""
        return self.transport.retries

    @property
    def bytes_received(self) -> int:
        """Bytes over the wire, compressed."""
        return self.transport.bytes_received

    @abstractmethod
    async def find_searches(self) -> tuple[Search, ...]:
        """Find out which searches make this way, in the order of a walk."""

    async def searches(self) -> tuple[Search, ...]:
        """The searches of this way; they are found out once."""
        async with self._lock:
            self.known_searches = self.known_searches or await self.find_searches()
        return self.known_searches

    async def mark(self) -> str:
        """`mirror_mark` of the mirror and of the searches, without what walks bring beside the matches."""
        searched = [f"{search.type}?{urlencode(search.filters)}" for search in await self.searches()]
        return mirror_mark(self._settings.base_url, *searched)

    async def count(self, window: Window) -> int:
        """Ask how many versions the mirror has in a window."""
        return await self._total(window.bounds, where=f"count of {window}")

    async def count_since(self, moment: datetime) -> int:
        """Ask how many versions the mirror has from an instant on."""
        return await self._total([f"ge{instant_text(moment)}"], where=f"count since {instant_text(moment)}")

    async def newest(self) -> datetime | None:
        """Ask for the instant of the newest match; None when the mirror is empty or cannot sort."""
        found: list[datetime] = []
        for search in await self.searches():
            url = self._url(search, [("_sort", "-_lastUpdated"), ("_count", "1")])
            try:
                content, _ = await self._page(url, search, where=f"newest document{search.label}", cursor=False)
            except MirrorProtocolError as error:
                # Not every server sorts (the RNDS answers EHR-ERR995). The caller has another way to ask.
                log_event("mirror.cannot_sort", level=logging.DEBUG, reason=type(error).__name__)
                return None
            if "-_lastUpdated" not in self_values(content.self_url, "_sort"):
                return None
            found += [entry.last_updated for entry in content.entries if entry.last_updated]
        return max(found, default=None)

    async def walk(
        self, window: Window, *, announced: int | None = None, resume: Cursor | None = None
    ) -> AsyncGenerator[Page, None]:
        """Walk all pages of a window, in the server's order; from `resume` on where an earlier walk broke off.

        The server's `next` is followed as it is, on the same origin only. A `next` that was visited before ends the walk of its
        search, and so does a second page in a row whose entries came before, or one without a match once as many have come as were
        `announced`; whether all came is for the caller to count. `MAX_EMPTY` pages in a row may be empty before that. A first page
        after `resume` that cannot be had breaks the walk, whatever the mirror says of it: servers tell of dead cursors in any way, also
        by a constant 500. Raises `WalkBroken` when the walk should start again, and `MirrorProtocolError` when it should not.
        """
        searches = await self.searches()
        firsts = [self._first_url(search, window) for search in searches]
        url: str | None = firsts[0]
        place, number, repeats, came, empty = 0, 0, 0, 0, 0
        visited: set[str] = set()
        contents: set[str] = set()
        given_up = ""
        if resume is not None:
            url, number, visited, came = resume.url, resume.number, set(resume.visited), resume.entries
            place = _place_of(resume.url, searches)
        while url is not None:
            search, is_first = searches[place], url == firsts[place]
            after = firsts[place + 1] if place + 1 < len(firsts) else None
            visited.add(visited_mark(url))
            where = f"slice {window} page {number + 1}{search.label}"
            try:
                content, received = await self._page(urldefrag(url).url, search, where=where, cursor=not is_first)
            except (MirrorUnavailable, MirrorProtocolError) as error:
                if resume is None or url != resume.url:
                    raise
                raise WalkBroken(f"The walk cannot go on from where an earlier task left it: {error}") from error
            self.check_page(search, content, window, where=where, first=is_first)
            self._tell_outcomes(content, where)
            _require_inside(content, window, where)
            came += len(content.entries)
            empty = 0 if content.entries or not content.next_url else empty + 1
            given_up = where if empty > MAX_EMPTY else given_up
            link = None
            if content.next_url and (not empty or (empty <= MAX_EMPTY and (announced is None or came < announced))):
                link = _with_type(self.transport.follow(url, content.next_url, where), search, searches)
            if content.entries:
                mark = _content_mark(content)
                repeats = repeats + 1 if mark in contents else 0
                contents.add(mark)
            loops = link is not None and (visited_mark(link) in visited or repeats >= MAX_REPEATS)
            following = after if link is None or loops else link
            if content.entries:
                number += 1
                yield Page(
                    number=number,
                    url=shown(url),
                    etag=received.answer.etag,
                    sha256=hashlib.sha256(received.answer.body).hexdigest(),
                    bytes=len(received.answer.body),
                    seconds=received.seconds,
                    attempts=received.attempts,
                    content=content,
                    mark=visited_mark(url),
                    following=following,
                )
            if loops:
                log_event(
                    "mirror.next_loops",
                    level=logging.WARNING,
                    slice=str(window),
                    page=number,
                    pages_visited=len(visited),
                )
            if link is None or loops:
                place, empty = place + 1, 0
            url = following
        if given_up and announced is not None and came < announced:
            raise WalkBroken(
                f"The mirror gave {MAX_EMPTY + 1} pages in a row without an entry and with a `next`, the last one as {given_up}."
            )

    def check_page(self, search: Search, content: PageContent, window: Window, *, where: str, first: bool) -> None:
        """Refuse a page of a search that was not made as it was asked for; later pages may say nothing about it."""
        require_filters(content.self_url, window.bounds, where=where, required=first)

    async def _total(self, bounds: list[str], *, where: str) -> int:
        return sum([await self._count(search, bounds, where=where + search.label) for search in await self.searches()])

    async def _count(self, search: Search, bounds: list[str], *, where: str) -> int:
        url = self._url(
            search, [*(("_lastUpdated", bound) for bound in bounds), ("_summary", "count"), ("_total", "accurate")]
        )
        content, _ = await self._page(url, search, where=where, cursor=False)
        require_filters(content.self_url, bounds, where=where, required=content.self_url is not None)
        if content.total is None or content.total < 0:
            raise MirrorProtocolError(
                f"The mirror gave no total for the {where}. Without totals nobody can tell whether a day is whole, so nothing "
                "was taken. The mirror must support `_summary=count`; see docs/runbook/mirror-protocol.md."
            )
        return content.total

    async def _page(self, url: str, search: Search, *, where: str, cursor: bool) -> tuple[PageContent, Received]:
        parsed: list[PageContent] = []

        def check(answer: Answer) -> None:
            parsed[:] = [read_page(answer.body, of=search.type if search.label else "")]

        # A cursor belongs to one search; what is asked anew has to be searched anew, or a recount would prove nothing.
        headers = None if cursor else UNCACHED
        received = await self.transport.ask(url, where=where, cursor=cursor, headers=headers, check=check)
        return parsed[0], received

    def _first_url(self, search: Search, window: Window) -> str:
        bounds = [("_lastUpdated", bound) for bound in window.bounds]
        return self._url(search, [*bounds, *search.includes, ("_count", str(self._settings.page_size))])

    def _url(self, search: Search, parameters: list[tuple[str, str]]) -> str:
        query = urlencode([*search.filters, *parameters], safe=":-,")
        return f"{self._settings.base_url.rstrip('/')}/{search.type}?{query}"

    def _tell_outcomes(self, content: PageContent, where: str) -> None:
        """Log what the server says about the search, each code once."""
        for code in content.outcomes:
            if code not in self._codes_told:
                self._codes_told.add(code)
                log_event("mirror.outcome", level=logging.WARNING, where=where, code=code)


def visited_mark(url: str) -> str:
    """A short mark of an address, to recognise it in the page log of a walk."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _content_mark(content: PageContent) -> str:
    """A short mark of the versions on a page."""
    return visited_mark("\n".join(entry.key for entry in content.entries))


def self_values(self_url: str | None, name: str) -> list[str]:
    """What the mirror says that it searched with: the values of a parameter in `link[self]`, whatever its modifier."""
    return [value for found, value in query_of(self_url) if found.partition(":")[0] == name]


def _with_type(url: str, search: Search, searches: Sequence[Search]) -> str:
    """The address of a page, with the type of its search behind a `#` where only that tells which search goes on there."""
    if len(searches) == 1 or _last_segment(url) == search.type:
        return url
    return f"{url}#{search.type}"


def _place_of(url: str, searches: Sequence[Search]) -> int:
    """Which search an address belongs to."""
    if len(searches) == 1:
        return 0
    name = urlsplit(url).fragment or _last_segment(url)
    for place, search in enumerate(searches):
        if search.type == name:
            return place
    raise WalkBroken("The address at which a walk should go on belongs to none of its searches.")


def _last_segment(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]


def _require_inside(content: PageContent, window: Window, where: str) -> None:
    outside = sum(entry.last_updated is not None and entry.last_updated not in window for entry in content.entries)
    if outside:
        raise WalkBroken(
            f"The mirror put {outside} entries into {where} whose lastUpdated lies outside it: they changed during the walk, "
            "or its search by `_lastUpdated` cannot be trusted."
        )
