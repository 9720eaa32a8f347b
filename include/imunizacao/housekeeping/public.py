"""The public bucket: contents and diffs that no history names, what was withdrawn, and leftovers of the probe.

A key that has none of the forms below is never removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final

from imunizacao.errors import ContractViolation
from imunizacao.events import log_event
from imunizacao.housekeeping.marks import Removable, marked, removable
from imunizacao.housekeeping.place import Place
from imunizacao.housekeeping.report import Kind, Removal, size_of
from imunizacao.manifests import Head, decode, encode, head_key
from imunizacao.storage import ObjectInfo, swap

_DAY: Final = re.compile(r"v1/days/([0-9]{4}-[0-9]{2}-[0-9]{2})/(.+)")
_CONTENT: Final = re.compile(
    r"c-(?P<content>[0-9a-f]{64})/(?P<rest>day\.json|day\.[0-9a-f]{16}\.dsse\.json|outcome\.json|removed\.csv"
    r"|uf=(?P<uf>[0-9]{2})/(datapackage\.json|tableschema\.json|dialect\.json"
    r"|(?P<csv>imunizacao-(total|residentes)-[a-z]{2}_[0-9-]{10}\.csv|mun=[0-9]{6}/imunizacao-[0-9]{6}_[0-9-]{10}\.csv)))"
)
_DIFF: Final = re.compile(r"(?P<folder>diff/[0-9]+-(?P<to>[0-9]+)-[0-9a-f]{64})/(added|changed|removed)\.csv")
_PROBE: Final = re.compile(r"v1/probe/[0-9a-f]{16}-(create|create-absent|race|checksum)")
_STAYS: Final = re.compile(
    r"v1/(catalog\.json|catalog\.jsonld|dados/dicionario-[0-9a-f.-]+\.html|keys/(index\.json|[0-9a-f]{16}\.pub)"
    r"|months/[0-9]{4}-[0-9]{2}/[a-z-]+\.json|bulk/.+\.json)"
)
"""Known, and never removed here: pointers, keys, and the dictionaries, which readers may have cited."""


def tidy_public(place: Place) -> None:
    """Go through the public bucket once, day by day."""
    probes: list[ObjectInfo] = []
    for day, infos in groupby(place.public.list(""), key=_day_of):
        if day:
            _tidy_day(place, day, list(infos))
            continue
        for info in infos:
            if _PROBE.fullmatch(info.key):
                probes.append(info)
            elif not _STAYS.fullmatch(info.key):
                place.report.wonder(f"public:{info.key}")
    old = [info for info in probes if place.is_orphaned([info])]
    probe = Removal(
        kind="probe", name="public:v1/probe/", first=(), rest=[info.key for info in old], bytes=size_of(old)
    )
    place.remove([probe], day="", still=lambda _: True)


def _day_of(info: ObjectInfo) -> str:
    found = _DAY.fullmatch(info.key)
    return found[1] if found else ""


@dataclass(slots=True, kw_only=True)
class _Listing:
    """The objects of one day."""

    contents: dict[str, list[ObjectInfo]] = field(default_factory=dict)
    csvs: dict[tuple[str, str], list[ObjectInfo]] = field(default_factory=dict)
    """Content id and UF → its CSVs."""
    diffs: dict[str, list[ObjectInfo]] = field(default_factory=dict)
    strange: set[str] = field(default_factory=set)
    """Content ids and diff folders with an object of no known form."""


def _tidy_day(place: Place, day: str, infos: Sequence[ObjectInfo]) -> None:
    listing = _sort(place, day, infos)
    if not listing.contents and not listing.diffs:
        return
    name = f"public:v1/days/{day}/"
    try:
        head = place.head(day)
    except ContractViolation as error:
        place.report.keep(name, f"its head cannot be read: {error}")
        return
    if head is None:
        place.report.keep(name, "it has no head: a first publication may be on its way")
        return
    allowed = removable(_marked(place, head))
    wanted = list(_removals(place, day, listing, allowed))
    if not wanted:
        return
    if run := place.at_work(day):
        place.report.keep(
            name, f"run {run} is at work on the day, or was less than {place.settings.orphans_days} days ago"
        )
        return
    if place.report.deleted and "withdrawn" in place.kinds:
        _write_marks(place, day)

    def still(removal: Removal) -> bool:
        head = place.head(day, again=True)
        if head is None:
            return False
        now = {again.name for again in _removals(place, day, listing, removable(head))}
        return removal.name in now

    place.remove(wanted, day=day, still=still)


def _sort(place: Place, day: str, infos: Sequence[ObjectInfo]) -> _Listing:
    listing = _Listing()
    prefix = f"v1/days/{day}/"
    for info in infos:
        rest = info.key.removeprefix(prefix)
        if found := _CONTENT.fullmatch(rest):
            listing.contents.setdefault(found["content"], []).append(info)
            if found["csv"]:
                listing.csvs.setdefault((found["content"], found["uf"]), []).append(info)
        elif found := _DIFF.fullmatch(rest):
            listing.diffs.setdefault(prefix + found["folder"], []).append(info)
        elif rest != "head.json":
            place.report.wonder(f"public:{info.key}")
            listing.strange.add(rest.split("/")[0].removeprefix("c-"))
            listing.strange.add(prefix + "/".join(rest.split("/")[:2]))
    return listing


def _removals(place: Place, day: str, listing: _Listing, allowed: Removable) -> Iterator[Removal]:
    """What may go of the objects of a day, by what its head says. Withdrawn things go whatever their age: their grace has passed."""
    for content, infos in sorted(listing.contents.items()):
        if content in allowed.contents:
            yield _folder("withdrawn", day, content, infos)
        elif content not in allowed.named and content not in listing.strange and place.is_orphaned(infos):
            yield _folder("content", day, content, infos)
        for uf in sorted(allowed.ufs.get(content, ())):
            csvs = listing.csvs.get((content, uf), [])
            if csvs:
                yield _csvs(day, content, uf, csvs)
    for path, infos in sorted(listing.diffs.items()):
        to = int(path.rsplit("/", 1)[1].split("-")[1])
        kind: Kind = "withdrawn"
        if path not in allowed.diffs:
            kind = "diff"
            if not allowed.is_orphan_diff(path, to) or path in listing.strange or not place.is_orphaned(infos):
                continue
        keys = [info.key for info in infos]
        yield Removal(kind=kind, name=f"public:{path}/", first=(), rest=keys, bytes=size_of(infos))


def _folder(kind: Kind, day: str, content: str, infos: Sequence[ObjectInfo]) -> Removal:
    """A whole content folder. Its day.json goes first: without it the folder counts as incomplete and is filled again."""
    root = f"v1/days/{day}/c-{content}/day.json"
    return Removal(
        kind=kind,
        name=f"public:v1/days/{day}/c-{content}/",
        first=[info.key for info in infos if info.key == root],
        rest=[info.key for info in infos if info.key != root],
        bytes=size_of(infos),
        content=(day, content),
    )


def _csvs(day: str, content: str, uf: str, infos: Sequence[ObjectInfo]) -> Removal:
    return Removal(
        kind="withdrawn",
        name=f"public:v1/days/{day}/c-{content}/uf={uf}/",
        first=(),
        rest=[info.key for info in infos],
        bytes=size_of(infos),
        content=(day, content),
    )


def _marked(place: Place, head: Head) -> Head:
    limit = place.now - timedelta(days=place.settings.withdrawn_days)
    at = place.now.astimezone(UTC).isoformat(timespec="seconds")
    return marked(head, at=at, due=lambda text: datetime.fromisoformat(text) <= limit)


def _write_marks(place: Place, day: str) -> None:
    """Tell readers by the head, before anything goes, what may be gone from now on."""
    key = head_key(day)

    def decide(body: bytes | None) -> tuple[bytes | None, bool]:
        if body is None:
            return None, False
        head = decode(Head, body, key)
        new = _marked(place, head)
        return (None, False) if new == head else (encode(new), True)

    if swap(place.public, key, decide):
        log_event("housekeeping.purge_marked", day=day)
