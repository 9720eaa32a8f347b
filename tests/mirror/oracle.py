"""What is really in a day: every document version, whatever the pages and totals of the mirror say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Final

from tests.mirror.calendar import midnight_ms
from tests.mirror.documents import Archive
from tests.mirror.search import DayEdits, Search, find_matches

_VERSION: Final = re.compile(
    r'"resource":\{"resourceType":"Bundle","id":"([^"]+)","meta":\{(?:"versionId":"([^"]*)",)?"lastUpdated":"([^"]+)"'
)


def version_of(entry: str) -> str:
    """`id|version` of a served entry, sound or not; the version is versionId, else lastUpdated. Raises ValueError."""
    found = _VERSION.search(entry, 0, 1000)
    if found is None:
        raise ValueError("not an entry of this mirror")
    return f"{found[1]}|{found[2] or found[3]}"


def day_search(day: date) -> Search:
    """The search for one São Paulo day."""
    return Search(low=midnight_ms(day), high=midnight_ms(day + timedelta(days=1)))


def list_versions(archive: Archive, day: date, *, horizon: int, edits: Mapping[date, DayEdits]) -> list[str]:
    """`id|version` of every document version that the mirror has of a day at this moment, each once, sorted."""
    matches = find_matches(archive, day_search(day), horizon=horizon, edits=edits)
    return sorted({version_of(entry) for entry in matches.page(0, len(matches))})
