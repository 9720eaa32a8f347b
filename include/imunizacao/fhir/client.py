"""Documents by search over `Bundle?type=document`."""

from __future__ import annotations

import asyncio
from datetime import datetime

from imunizacao.fhir.pace import Sleep
from imunizacao.fhir.search import Cursor, Search, SearchClient, visited_mark
from imunizacao.settings import MirrorSettings

__all__ = ["Cursor", "MirrorClient", "mirror_newest", "visited_mark"]


class MirrorClient(SearchClient):
    """The way in over mirrors that keep whole documents."""

    way = "documents"

    async def find_searches(self) -> tuple[Search, ...]:
        """One: document Bundles."""
        return (Search(type="Bundle", filters=(("type", "document"),)),)


def mirror_newest(settings: MirrorSettings, *, sleep: Sleep = asyncio.sleep) -> datetime | None:
    """Ask a mirror for the instant of its newest document; None when it is empty or cannot sort."""

    async def ask() -> datetime | None:
        async with MirrorClient(settings, sleep=sleep) as client:
            return await client.newest()

    return asyncio.run(ask())
