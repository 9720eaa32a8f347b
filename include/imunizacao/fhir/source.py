"""What extract asks of a mirror, whichever way leads into it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, Protocol
from urllib.parse import urlencode

from imunizacao.events import log_event
from imunizacao.fhir.capability import choose_way
from imunizacao.fhir.client import Cursor, MirrorClient
from imunizacao.fhir.pace import Sleep
from imunizacao.fhir.pages import Page
from imunizacao.fhir.resources import ResourceClient
from imunizacao.fhir.transport import Transport, mirror_mark
from imunizacao.fhir.window import Window
from imunizacao.settings import MirrorSettings

_NO_SEARCH: Final = frozenset({400, 403, 404, 405, 406, 410, 415, 422, 501})
"""How servers say that they do not search a type, or not for us: who may export need not be allowed to search. When it is our identity that
they refuse, or a mirror that is being redeployed, the export says so next."""


class Source(Protocol):
    """Document versions by time, counted and walked."""

    @property
    def way(self) -> str:
        """`documents`, `resources` or `export`; landing of one way is never taken over by another."""
        ...

    @property
    def transport(self) -> Transport:
        """The connection, with its counters."""
        ...

    async def mark(self) -> str:
        """`mirror_mark` of where this leads; landing of another mirror is never taken over."""
        ...

    async def count(self, window: Window) -> int:
        """What the mirror announces for a window."""
        ...

    async def count_since(self, moment: datetime) -> int:
        """What the mirror announces from an instant on."""
        ...

    async def newest(self) -> datetime | None:
        """The newest instant; None when the mirror is empty or cannot sort."""
        ...

    def walk(
        self, window: Window, *, announced: int | None = None, resume: Cursor | None = None
    ) -> AsyncGenerator[Page, None]:
        """The pages of a window that has `announced` matches, from `resume` on where a walk broke off."""
        ...


class ExportSource:
    """The way in over Bulk Data: the day comes in files, and search, where there is one, only counts."""

    way: Final = "export"

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._search = MirrorClient(transport.settings, transport=transport)
        self._searches: bool | None = None

    async def mark(self) -> str:
        """`mirror_mark` of the mirror."""
        return mirror_mark(self.transport.settings.base_url)

    async def total(self, window: Window) -> int | None:
        """What search announces for a window; None where the mirror has no search of documents.

        Only a plain refusal of the first search means that there is none: whatever else goes wrong is raised.
        """
        if self._searches is None:
            self._searches = await self._has_search(window)
        return await self._search.count(window) if self._searches else None

    async def _has_search(self, window: Window) -> bool:
        bounds = [("_lastUpdated", bound) for bound in window.bounds]
        query = urlencode([("type", "document"), *bounds, ("_summary", "count")], safe=":-")
        url = f"{self.transport.settings.base_url.rstrip('/')}/Bundle?{query}"
        received = await self.transport.ask(url, where="first search", expected=_NO_SEARCH | {200})
        status = received.answer.status
        if status in _NO_SEARCH:
            log_event("mirror.export_without_search", level=logging.WARNING, status=status)
        return status not in _NO_SEARCH

    async def count(self, window: Window) -> int:
        """What search announces for a window."""
        return await self._search.count(window)

    async def count_since(self, moment: datetime) -> int:
        """What search announces from an instant on."""
        return await self._search.count_since(moment)

    async def newest(self) -> datetime | None:
        """The newest instant by search."""
        return await self._search.newest()

    def walk(
        self, window: Window, *, announced: int | None = None, resume: Cursor | None = None
    ) -> AsyncGenerator[Page, None]:
        """An export has no pages: the stage lands its files."""
        raise NotImplementedError("an export is landed file by file")


@asynccontextmanager
async def open_source(
    settings: MirrorSettings,
    *,
    sleep: Sleep = asyncio.sleep,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> AsyncIterator[Source]:
    """Open the way into the mirror that the settings name; `auto` is what its CapabilityStatement offers first.

    Raises `ConfigurationError`, with the reasons, when the mirror cannot be read that way.
    """
    async with Transport(settings, sleep=sleep, now=now) as transport:
        way = await choose_way(transport, settings.way)
        if way == "export":
            yield ExportSource(transport)
        elif way == "resources":
            client = ResourceClient(settings, transport=transport)
            await client.require_usable()
            yield client
        else:
            yield MirrorClient(settings, transport=transport)
