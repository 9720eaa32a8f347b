"""The work bucket: runs, landings, quarantine, acknowledgements, reports. A key that has none of the forms below is never removed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Final

from imunizacao import docs_index
from imunizacao.claims import CLAIMS, CLOCKS_APART
from imunizacao.errors import ContractViolation
from imunizacao.housekeeping.place import Place
from imunizacao.housekeeping.report import Kind, Removal, size_of
from imunizacao.models import ExtractReceipt, LandingManifest
from imunizacao.pipeline import newest_landing_or_none
from imunizacao.quarantine import pointer_key, published_key, read_pointer, read_published
from imunizacao.quarantine.acks import index_key, read_index
from imunizacao.reference_day import ReferenceDay
from imunizacao.storage import ObjectInfo, ObjectMissing, read_object

_DATE: Final = r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})"
_FORMS: Final = {
    "run": re.compile(
        rf"v1/day={_DATE}/run=(?P<run>[A-Za-z0-9._-]+)/"
        r"(extract|flatten|validate|quarantine|acknowledge|split|publish|nominal|reconcile|outcomes)/[A-Za-z0-9._=/-]+"
    ),
    "quarantine": re.compile(
        rf"v1/quarantine/day={_DATE}/(current\.json|published(-[0-9a-f]{{64}})?\.json|replay\.json|q-[0-9a-f]{{24}}\.parquet)"
    ),
    "acks": re.compile(rf"v1/acks/day={_DATE}/(index\.json|(cnes-[0-9]{{7}}|sem-cnes)-[0-9a-f]{{12}}\.csv)"),
    "docs": re.compile(rf"v1/docs/day={_DATE}/[A-Za-z0-9._=/-]+"),
    "places": re.compile(rf"v1/places/day={_DATE}/c-(?P<content>[0-9a-f]{{64}})\.parquet"),
    "claims": re.compile(rf"{re.escape(CLAIMS)}day={_DATE}/c-[0-9a-f]{{64}}\.json"),
}
_STAYS: Final = re.compile(
    rf"v1/(docs/index\.html|docs/static/.+|profiles/day=[0-9-]{{10}}\.json|references/.+|inbox/.+)|{re.escape(CLAIMS)}clock\.json"
)
"""Known, and never removed here: counts of days for the weeks after, reference tables, what waits for import, styles of the reports."""
_CHECKPOINT: Final = re.compile(r"/extract/slice=[^/]+/(walk-[0-9a-f]+/page-[0-9]{6}|export-.+)")
_RECORD: Final = re.compile(r"/outcomes/|/(publish|nominal)/receipt\.json$")
"""What stays longer than the run itself: counts of its stages, and what it published, without which `keys sign` signs nothing again."""
_SLICE: Final = re.compile(r"(.+/extract/slice=[^/]+/)")

Rule = Callable[[Place, str, Sequence[ObjectInfo]], Iterator[Removal]]


def tidy_work(place: Place) -> None:
    """Go through the work bucket once, day by day and kind by kind."""
    for (form, day), infos in groupby(place.work.list(""), key=_form_of):
        if form:
            _tidy(place, form, day, list(infos))
            continue
        for info in infos:
            if not _STAYS.fullmatch(info.key):
                place.report.wonder(f"work:{info.key}")
    if place.report.deleted and "docs" in place.report.tallies:
        docs_index.rebuild_index(place.work, place.public)


def _form_of(info: ObjectInfo) -> tuple[str, str]:
    for form, pattern in _FORMS.items():
        if found := pattern.fullmatch(info.key):
            return form, found["day"]
    return "", ""


def _tidy(place: Place, form: str, day: str, infos: Sequence[ObjectInfo]) -> None:
    rule = _RULES[form]
    try:
        wanted = list(rule(place, day, infos))
    except (ContractViolation, ObjectMissing) as error:
        place.report.keep(f"work:{form} of {day}", str(error))
        return
    listed = {info.key for info in infos}

    def still(removal: Removal) -> bool:
        """The rule says the same of what is there now."""
        prefix = infos[0].key.split(f"day={day}/", maxsplit=1)[0] + f"day={day}/"
        now = [info for info in place.work.list(prefix) if info.key in listed]
        found = {(again.kind, again.name): again for again in rule(place, day, now)}
        again = found.get((removal.kind, removal.name))
        return again is not None and {*removal.first, *removal.rest} <= {*again.first, *again.rest}

    place.remove(wanted, day=day, still=still)


# --- runs and landings ----------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Run:
    objects: list[ObjectInfo] = field(default_factory=list)
    receipt: ExtractReceipt | None = None
    received: ObjectInfo | None = None
    """The receipt as an object."""


def _runs(place: Place, day: str, infos: Sequence[ObjectInfo]) -> Iterator[Removal]:
    """Earlier runs but for their records, and landings, of a day on which no run is at work.

    The newest whole landing of the day stays longer; so does every object that it, or a run that stays, has taken over from
    an earlier run.
    """
    records = [info for info in infos if _RECORD.search(info.key)]
    old_records = [info for info in records if place.is_old([info], place.settings.docs_days)]
    if old_records:
        yield _removal("runs", f"work:v1/day={day}/ outcomes and receipts of publications", old_records)
    objects = [info for info in infos if not _RECORD.search(info.key)]
    if not all(place.is_orphaned([info]) for info in objects):
        return
    runs = _sorted(place, objects)
    stamps = [(datetime.fromisoformat(run.receipt.extracted_at), name) for name, run in runs.items() if run.receipt]
    # One of the future is made into a day by nobody.
    landed = (stamp for stamp in stamps if stamp[0] <= place.now + CLOCKS_APART)
    _, newest = max(landed, default=(place.now, ""))
    expired = {name for name, run in runs.items() if place.is_old(run.objects, place.settings.runs_days)}
    kept_landing = newest if newest and not _landing_is_due(place, runs[newest]) else ""
    keep: set[str] = set()
    for name, run in runs.items():
        if run.receipt is not None and (name not in expired or name == kept_landing):
            keep |= _landing_of(place, day, name, run.receipt)
    # The newest landing last: until it goes, what is asked again right before each removal must find it.
    for name, run in sorted(runs.items(), key=lambda item: (item[0] == newest, item[0])):
        if name in expired:
            gone = [info for info in run.objects if info.key not in keep]
            yield _run_removal("landing" if name == newest and not kept_landing else "runs", day, name, gone)
        elif run.receipt is not None:
            pages = [info for info in run.objects if _CHECKPOINT.search(info.key) and info.key not in keep]
            yield _removal("checkpoints", f"work:v1/day={day}/run={name}/extract/ pages", pages)


def _sorted(place: Place, objects: Sequence[ObjectInfo]) -> dict[str, _Run]:
    runs: dict[str, _Run] = {}
    for info in objects:
        name = info.key.split("/")[2].removeprefix("run=")
        run = runs.setdefault(name, _Run())
        run.objects.append(info)
        if info.key.endswith(f"/run={name}/extract/receipt.json"):
            run.receipt, run.received = ExtractReceipt.from_json(place.work.get(info.key).body), info
    return runs


def _landing_is_due(place: Place, run: _Run) -> bool:
    return run.received is not None and place.is_old([run.received], place.settings.landing_days)


def _landing_of(place: Place, day: str, name: str, receipt: ExtractReceipt) -> set[str]:
    """Every object that a landing is made of, in whatever run it lies."""
    try:
        manifest = read_object(place.work, receipt.manifest, LandingManifest)
    except ObjectMissing as error:
        raise ContractViolation(
            f"the landing of run {name} of {day} names {receipt.manifest.key}, which is gone"
        ) from error
    keys = {ref.key for piece in manifest.slices for ref in piece.objects}
    slices = {found[1] + "slice.json" for key in keys if (found := _SLICE.match(key))}
    return keys | slices | {receipt.manifest.key, f"v1/day={day}/run={name}/extract/receipt.json"}


def _run_removal(kind: Kind, day: str, name: str, infos: Sequence[ObjectInfo]) -> Removal:
    """Receipts go first: what has none is not taken for whole."""
    first = [info.key for info in infos if info.key.endswith(("/receipt.json", "/slice.json"))]
    rest = [info.key for info in infos if info.key not in set(first)]
    return Removal(kind=kind, name=f"work:v1/day={day}/run={name}/", first=first, rest=rest, bytes=size_of(infos))


def _removal(kind: Kind, name: str, infos: Sequence[ObjectInfo], *, first: Collection[str] = ()) -> Removal:
    keys = [info.key for info in infos]
    return Removal(
        kind=kind,
        name=name,
        first=[key for key in keys if key in first],
        rest=[key for key in keys if key not in first],
        bytes=size_of(infos),
    )


# --- quarantine, acknowledgements, reports, places ------------------------------------------------


def _quarantine(place: Place, day: str, infos: Sequence[ObjectInfo]) -> Iterator[Removal]:
    """What no pointer names, then the rest. A replay that was cut off keeps all, as long as there is a landing to end it from."""
    prefix = f"v1/quarantine/day={day}/"
    begun = any(info.key == prefix + "replay.json" for info in infos)
    if begun and newest_landing_or_none(ReferenceDay.parse(day), place.work) is not None:
        raise ContractViolation("a replay of it was cut off: replay the day first (docs/runbook/quarantine.md)")
    head = place.head(day, again=True)
    pointers = {pointer_key(day)}
    if head is not None and head.current is not None:
        pointers.add(published_key(day, head.current.content_id))
    found = [pointer for pointer in (read_pointer(place.work, day), read_published(place.work, day, head)) if pointer]
    if found and place.is_old(infos, place.settings.quarantine_days):
        yield _removal("quarantine", f"work:{prefix}", infos, first=pointers)
        return
    named = pointers | {pointer.dataset.key for pointer in found}
    unnamed = [info for info in infos if info.key not in named and place.is_orphaned([info])]
    yield _removal("quarantine", f"work:{prefix} superseded", unnamed)


def _acks(place: Place, day: str, infos: Sequence[ObjectInfo]) -> Iterator[Removal]:
    prefix, key = f"v1/acks/day={day}/", index_key(day)
    index = read_index(place.work, day)
    named = {key} if index is None else {key, *(prefix + file.path for file in index.files)}
    if index is not None and place.is_old(infos, place.settings.quarantine_days):
        yield _removal("acks", f"work:{prefix}", infos, first={key})
        return
    unnamed = [info for info in infos if info.key not in named and place.is_orphaned([info])]
    yield _removal("acks", f"work:{prefix} superseded", unnamed)


def _docs(place: Place, day: str, infos: Sequence[ObjectInfo]) -> Iterator[Removal]:
    """The index of all days is made of the summaries: without one, the row of the day goes."""
    prefix = f"v1/docs/day={day}/"
    if place.is_old(infos, place.settings.docs_days):
        yield _removal("docs", f"work:{prefix}", infos, first={f"{prefix}summary.json"})


def _places(place: Place, day: str, infos: Sequence[ObjectInfo]) -> Iterator[Removal]:
    """Indexes of contents that the history does not name, or that are purged. Of a day without a head nothing is known."""
    head = place.head(day)
    if head is None:
        return
    living = {entry.content_id for entry in head.history if entry.content_id and not entry.purged_at}
    gone = [
        info
        for info in infos
        if info.key.rsplit("/c-", 1)[1].removesuffix(".parquet") not in living and place.is_orphaned([info])
    ]
    yield _removal("places", f"work:v1/places/day={day}/", gone)


def _claims(place: Place, day: str, infos: Sequence[ObjectInfo]) -> Iterator[Removal]:
    old = [info for info in infos if place.is_old([info], place.settings.runs_days)]
    yield _removal("claims", f"work:{CLAIMS}day={day}/", old)


_RULES: Final[dict[str, Rule]] = {
    "run": _runs,
    "quarantine": _quarantine,
    "acks": _acks,
    "docs": _docs,
    "places": _places,
    "claims": _claims,
}
