"""The documents of the archive as separate resources: how some mirrors keep them, without any document Bundle.

A document becomes a Composition with the identifier of its Bundle, one Immunization per dose, and the Condition and Patient that it
has, all with ids that come from the document's and with its `lastUpdated` and `versionId`. A dose and its Composition share an id:
only the type tells them apart. Organizations are those of the CNES. Copies are repeated bytes, hence one resource.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from functools import partial
from typing import Any, Final, Protocol

from tests.mirror.calendar import parse_ms
from tests.mirror.documents import Archive, DayArchive, Extra
from tests.mirror.identifiers import SUFFIX
from tests.mirror.render import organization_entry
from tests.mirror.search import DayEdits, DayMatches, Search, find_matches, parse_search

TYPES: Final = ("Immunization", "Composition", "Patient", "Organization", "Condition")
PARAMETERS: Final = ("_lastUpdated", "_id", "_count", "_summary", "_total", "_sort")
INCLUDES: Final[dict[str, dict[tuple[str, str], str]]] = {
    "Immunization": {
        ("_include", "Immunization:patient"): "Patient",
        ("_include", "Immunization:reason-reference"): "Condition",
        ("_revinclude", "Composition:entry"): "Composition",
    },
    "Composition": {
        ("_include", "Composition:entry"): "Immunization",
        ("_include", "Composition:subject"): "Patient",
        ("_include", "Composition:author"): "Organization",
    },
    "Patient": {},
    "Organization": {},
    "Condition": {},
}
"""What may be asked for beside the matches of a type, and the type that comes."""
_EXACT_DAYS: Final = 3
"""Totals over more days are taken from the first one, to keep them quick."""
_KEPT_COUNTS: Final = 32

Parts = dict[str, list[str]]
"""Entries of one document by type, as JSON text without `search` and its closing brace."""
Unit = Callable[[], tuple[Parts, int]]
"""One match: the parts of its document, and its place among those of its type."""
Json = dict[str, Any]


def split_document(text: str, base: str) -> Parts:
    """The resources of one document version."""
    bundle = json.loads(text)
    identity = bundle["id"].removesuffix(SUFFIX)
    by_type: dict[str, list[Json]] = {}
    for entry in bundle["entry"]:
        by_type.setdefault(entry["resource"]["resourceType"], []).append(entry["resource"])
    composition = by_type["Composition"][0]
    named = [one["reference"].partition("/")[2] for one in composition["section"][0]["entry"]]
    doses = sorted(by_type["Immunization"], key=lambda dose: named.index(dose["id"]))
    by_type["Immunization"] = doses
    for kind in ("Immunization", "Composition", "Condition", "Patient"):
        for number, resource in enumerate(by_type.get(kind, [])):
            resource["id"] = f"{identity}.{number}" if number else identity
            resource["meta"] = {**resource["meta"], **bundle["meta"]}
    composition["identifier"] = bundle["identifier"]
    composition["section"] = [{"entry": [{"reference": f"Immunization/{dose['id']}"} for dose in doses]}]
    if "Patient" in by_type:
        for person in (composition["subject"], *(dose["patient"] for dose in doses)):
            person["reference"] = f"Patient/{identity}"
    if "Condition" in by_type:
        doses[0]["reasonReference"] = [{"reference": f"Condition/{identity}"}]
    if "Organization" in by_type:
        composition["author"][0]["reference"] = f"Organization/{by_type['Organization'][0]['id']}"
    return {kind: [_entry_text(resource, base) for resource in found] for kind, found in by_type.items()}


def _entry_text(resource: Json, base: str) -> str:
    full_url = f"{base}/{resource['resourceType']}/{resource['id']}"
    return json.dumps({"fullUrl": full_url, "resource": resource}, ensure_ascii=False, separators=(",", ":"))[:-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSearch(Search):
    """A search of one resource type as understood."""

    ids: tuple[str, ...] | None = None
    """None = any."""
    beside: tuple[str, ...] = ()
    """Types that come with the matches."""


def parse_resource_search(kind: str, parameters: Iterable[tuple[str, str]]) -> ResourceSearch:
    """Read the parameters of a search of one type. Raises SearchRefused for values that cannot be read."""
    plain: list[tuple[str, str]] = []
    honoured: list[tuple[str, str]] = []
    ignored: list[str] = []
    ids: tuple[str, ...] | None = None
    beside: dict[str, None] = {}
    for name, value in parameters:
        if name == "_id":
            ids = tuple(one for one in dict.fromkeys(value.split(",")) if ids is None or one in ids)
            honoured.append((name, value))
        elif name in {"_include", "_revinclude"}:
            source, _, target = value.partition(":")
            found = INCLUDES[kind].get((name, f"{source}:{target.partition(':')[0]}"))
            if found is None or target.partition(":")[2] not in {"", found}:
                ignored.append(name)
                continue
            beside[found] = None
            honoured.append((name, value))
        elif name == "type":
            ignored.append(name)
        else:
            plain.append((name, value))
    search = parse_search(plain)
    values = {one.name: getattr(search, one.name) for one in fields(Search)}
    values["honoured"] = (*search.honoured, *honoured)
    values["ignored"] = (*search.ignored, *ignored)
    return ResourceSearch(**values, ids=ids, beside=tuple(beside))


class Found(Protocol):
    """What a search matches at one moment."""

    def __len__(self) -> int:
        """How many there are to walk over."""
        ...

    @property
    def total(self) -> int:
        """What the server announces."""
        ...

    def page(self, offset: int, count: int) -> list[str]:
        """JSON texts of the search entries of one page."""
        ...


class Resources:
    """The searches of an archive whose documents are kept in parts."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._base = archive.settings.base
        self._counts: dict[tuple[date, str], bytes] = {}

    def find(
        self,
        kind: str,
        search: Search,
        *,
        horizon: int,
        edits: Mapping[date, DayEdits],
        current: Callable[[str], str | None],
    ) -> Found:
        """What matches when nothing newer than `horizon` is in the mirror. `current` gives the newest version of a document by id."""
        assert isinstance(search, ResourceSearch)
        if kind == "Organization":
            return _Listed(self._places(search), kind, search)
        if search.ids is not None:
            return _Listed(self._by_id(kind, search, current), kind, search)
        days = find_matches(self._archive, search, horizon=horizon, edits=edits).days
        return _Timed(self, days, kind, search)

    def units(self, matches: DayMatches, kind: str) -> list[Unit]:
        """The matches of one day, in their order."""
        day = self._archive.day(matches.date)
        counts = self._day_counts(day, kind)
        found: list[Unit] = []
        for item in matches.items(day, 0, len(matches)):
            amount = len(self._parts(day, item).get(kind, [])) if isinstance(item, Extra) else counts[item]
            found += [partial(self._unit, day, item, number) for number in range(amount)]
        return found

    def _unit(self, day: DayArchive, item: int | Extra, number: int) -> tuple[Parts, int]:
        return self._parts(day, item), number

    def _parts(self, day: DayArchive, item: int | Extra) -> Parts:
        return split_document(day.added(item)[1] if isinstance(item, Extra) else day.document(item), self._base)

    def _day_counts(self, day: DayArchive, kind: str) -> bytes:
        """How many resources of a type each position of a day has; none for copies."""
        found = self._counts.get((day.day, kind))
        if found is None:
            if len(self._counts) >= _KEPT_COUNTS:
                self._counts.pop(next(iter(self._counts)))
            found = self._counts[day.day, kind] = bytes(_count(day, kind))
        return found

    def _places(self, search: ResourceSearch) -> list[Unit]:
        country = self._archive.country
        places = [place for place in country.establishments if search.ids is None or place.cnes in search.ids]

        def make(number: int) -> tuple[Parts, int]:
            return {"Organization": [organization_entry(country, places[number], self._base)[:-1]]}, 0

        if not places or not _inside(make(0)[0]["Organization"][0], search):
            return []
        return [partial(make, number) for number in range(len(places))]

    def _by_id(self, kind: str, search: ResourceSearch, current: Callable[[str], str | None]) -> list[Unit]:
        found: list[Unit] = []
        for identity in search.ids or ():
            document, _, number = identity.partition(".")
            text = current(document + SUFFIX)
            parts = {} if text is None else split_document(text, self._base)
            for place, entry in enumerate(parts.get(kind, [])):
                if number == (str(place) if place else "") and _inside(entry, search):
                    found.append(partial(_ready, parts, place))
        return found


def _ready(parts: Parts, number: int) -> tuple[Parts, int]:
    return parts, number


def _count(day: DayArchive, kind: str) -> Iterator[int]:
    for expected in day.expected():
        if expected.traps == ("copy",):
            yield 0
        elif kind in {"Composition", "Immunization"}:
            yield expected.doses if kind == "Immunization" else 1
        else:
            yield day.document(expected.k).count(f'"resourceType":"{kind}"')


def _inside(entry: str, search: Search) -> bool:
    instant = parse_ms(json.loads(entry + "}")["resource"]["meta"]["lastUpdated"])
    return (search.low is None or instant >= search.low) and (search.high is None or instant < search.high)


def _render(units: Iterable[Unit], kind: str, search: ResourceSearch) -> list[str]:
    """The matches of a page, then what comes beside them, each once."""
    matches: list[str] = []
    beside: dict[str, None] = {}
    for make in units:
        parts, number = make()
        matches.append(parts[kind][number] + ',"search":{"mode":"match"}}')
        for other in search.beside:
            beside |= dict.fromkeys(parts.get(other, []))
    return matches + [entry + ',"search":{"mode":"include"}}' for entry in beside]


class _Listed:
    """Matches that were looked up one by one."""

    def __init__(self, units: Sequence[Unit], kind: str, search: ResourceSearch) -> None:
        self._units = units
        self._kind = kind
        self._search = search

    def __len__(self) -> int:
        return len(self._units)

    @property
    def total(self) -> int:
        """All of them."""
        return len(self._units)

    def page(self, offset: int, count: int) -> list[str]:
        """JSON texts of the search entries of one page."""
        return _render(self._units[offset : offset + count], self._kind, self._search)


class _Timed:
    """Matches in the order in which their documents came, or the reverse."""

    def __init__(self, resources: Resources, days: Sequence[DayMatches], kind: str, search: ResourceSearch) -> None:
        self._resources = resources
        self._days = days[::-1] if search.newest_first else days
        self._kind = kind
        self._search = search

    def __len__(self) -> int:
        sizes = [len(self._resources.units(day, self._kind)) for day in self._days[:_EXACT_DAYS]]
        return sum(sizes) + max(sizes, default=0) * (len(self._days) - len(sizes))

    @property
    def total(self) -> int:
        """Exact for a few days."""
        return len(self)

    def page(self, offset: int, count: int) -> list[str]:
        """JSON texts of the search entries of one page."""
        found: list[Unit] = []
        for day in self._days:
            units = self._resources.units(day, self._kind)
            if self._search.newest_first:
                units.reverse()
            found += units[offset : offset + count - len(found)]
            offset = max(0, offset - len(units))
            if len(found) == count:
                break
        return _render(found, self._kind, self._search)
