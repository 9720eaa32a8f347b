"""Where the doses of each day were given, by establishment, and which days another CNES snapshot would change.

`split` leaves one small private file per content of a day: `v1/places/day=<D>/c-<contentId>.parquet` of the work bucket. The file that
belongs to what readers see is found by the content id in the month index, so it is right whatever became of a run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import msgspec

from imunizacao.controle import Connection, Difference, cnes_changes, compare_cnes, stored_snapshots
from imunizacao.errors import ConfigurationError
from imunizacao.events import log_event
from imunizacao.manifests import CATALOG_KEY, Catalog, Month, decode, month_key
from imunizacao.reference.choice import name_of, names_of, stored_cnes
from imunizacao.reference.common import scratch, write_table
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine
from imunizacao.storage import ObjectMissing, ObjectStore, file_ref

MOVING: Final = ("moved", "added", "gone")
"""Changes of a snapshot that change what is published: another place, out of quarantine, into quarantine."""
CHANGES: Final = (*MOVING, "closed")
"""`closed` is told on request: the doses of a closed establishment are published as before."""

_CONTENT = re.compile(r"/c-(?P<content>[0-9a-f]{64})/day\.json$")
_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AffectedDay:
    """A published day that the later snapshot would change."""

    day: str
    establishments: int
    doses: int
    doses_by_change: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """Published days that have doses at establishments which differ between two CNES snapshots."""

    earlier: str
    """Competência; of two imports of one month with the `#id` of each."""
    later: str
    choice: str
    """What makes a day with the later one: its competência, or its `#id` where that is another import of the month."""
    difference: Difference
    """Of the whole country."""
    days: list[AffectedDay]
    checked: int
    """Published days looked at."""
    without_index: list[str]
    """Days of which nothing can be told: they were published by a version that left no index of places."""

    def to_json(self) -> str:
        """Text for XCom: days and counts only."""
        return msgspec.json.encode(self).decode()


def places_key(day: str, content_id: str) -> str:
    """Key of the index of one content of a day."""
    return f"v1/places/day={day}/c-{content_id}.parquet"


def write_places(duck: Engine, work: ObjectStore, *, day: str, content_id: str, quarantine: Path, folder: Path) -> None:
    """Leave the index of `dose.parquet` without `bad_keys.parquet` (both in `folder`), and of what waits for the CNES in `quarantine`."""
    path = folder / "places.parquet"
    duck.run(
        "places/10_places",
        dose=str(folder / "dose.parquet"),
        bad_keys=str(folder / "bad_keys.parquet"),
        quarantine=str(quarantine),
        destination=str(path),
    )
    file_ref(work, places_key(day, content_id), path)


def affected_days(
    public: ObjectStore,
    work: ObjectStore,
    connection: Connection,
    *,
    earlier: str,
    later: str,
    first: date | None = None,
    last: date | None = None,
    changes: Sequence[str] = MOVING,
    engine: EngineSettings | None = None,
) -> Affected:
    """List the published days, from `first` to `last`, that CNES `later` would change against `earlier` (competências, or the `#id` of each).

    A day is affected when it has doses at an establishment that differs between the two snapshots and whose place in `later` is
    not the one that the day is published with; a day that was made again with `later` is not affected any more. Two names of one snapshot are a `ConfigurationError`. Reads the month
    indexes and one small object per day.
    """
    unknown = sorted(set(changes) - set(CHANGES))
    if unknown or not changes:
        raise ConfigurationError(
            f"{', '.join(unknown) or 'No change'} cannot be looked for. Known are: {', '.join(CHANGES)}."
        )
    old, new = stored_cnes(connection, earlier, None), stored_cnes(connection, later, None)
    imports = [found for found in stored_snapshots(connection, "cnes") if found.version == new.version]
    if old.id == new.id:
        raise ConfigurationError(
            f"CNES {earlier} and {later} are one snapshot, {name_of(new)}: there is nothing to compare. Of {new.version} there are: "
            f"{names_of(imports)}. Name two of them by #id, or import the other file first."
        )
    difference = compare_cnes(connection, earlier=old.id, later=new.id)
    contents = published_contents(public, first=first, last=last)
    with scratch(engine) as (settings, folder):
        rows = folder / "changes.csv"
        _write_changes(connection, old.id, new.id, changes, rows)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = dict(
                zip(
                    contents,
                    pool.map(lambda item: _download(work, item[0], item[1], folder), contents.items()),
                    strict=True,
                )
            )
        files = [str(path) for path in found.values() if path is not None]
        lines: list[tuple[str, str, int, int]] = []
        if files:
            with open_engine(settings, folder) as duck:
                lines = [
                    (str(day), str(change), int(establishments), int(doses))
                    for day, change, establishments, doses in duck.rows(
                        "places/20_affected", places=files, changes=str(rows)
                    )
                ]
    days = [
        AffectedDay(
            day=day,
            establishments=sum(line[2] for line in lines if line[0] == day),
            doses=sum(line[3] for line in lines if line[0] == day),
            doses_by_change={line[1]: line[3] for line in lines if line[0] == day},
        )
        for day in sorted({line[0] for line in lines})
    ]
    log_event("reference.affected", earlier=old.version, later=new.version, checked=len(contents), days=len(days))
    return Affected(
        earlier=name_of(old) if old.version == new.version else old.version,
        later=name_of(new) if old.version == new.version else new.version,
        choice=new.version if new.id == imports[0].id else f"#{new.id}",
        difference=difference,
        days=days,
        checked=len(contents),
        without_index=[day for day, path in found.items() if path is None],
    )


def published_contents(public: ObjectStore, *, first: date | None = None, last: date | None = None) -> dict[str, str]:
    """Content id of each day that readers see, from the catalog and its month indexes. Withdrawn days have none."""
    catalog = public.get_or_none(CATALOG_KEY)
    if catalog is None:
        return {}
    contents = {}
    for month in decode(Catalog, catalog.body, CATALOG_KEY).months:
        if (first and month.month < f"{first:%Y-%m}") or (last and month.month > f"{last:%Y-%m}"):
            continue
        key = month_key(month.month)
        for row in decode(Month, public.get(key).body, key).days:
            inside = (not first or row.day >= first.isoformat()) and (not last or row.day <= last.isoformat())
            match = _CONTENT.search(row.root.path) if row.root is not None else None
            if inside and match is not None:
                contents[row.day] = match["content"]
    return contents


def _write_changes(connection: Connection, earlier: int, later: int, kinds: Sequence[str], path: Path) -> None:
    """One line per establishment: the change that counts most, and the municipality in the later snapshot."""
    chosen: dict[str, tuple[str, str]] = {}
    with cnes_changes(connection, earlier=earlier, later=later) as changes:
        for change in changes:
            if change.change in kinds and (
                change.code not in chosen or CHANGES.index(change.change) < CHANGES.index(chosen[change.code][0])
            ):
                chosen[change.code] = (change.change, change.after or "")
    write_table(path, (), ((code, *what) for code, what in chosen.items()), header=False)


def _download(work: ObjectStore, day: str, content_id: str, folder: Path) -> Path | None:
    path = folder / f"{day}.parquet"
    try:
        work.download(places_key(day, content_id), path)
    except ObjectMissing:
        return None
    return path
