"""A day over separate resources is the day over documents: the same doses, quarantine and removals."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from imunizacao.fhir import (
    Assembler,
    Cursor,
    Entry,
    LandedWalk,
    LandingWriter,
    MirrorClient,
    Page,
    ResourceClient,
    WalkBroken,
    Window,
)
from imunizacao.fhir.pages import PageContent
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import MirrorSettings, mirror_settings
from tests.integration.extract_support import SleepLog, read_zstd
from tests.integration.simulator import running_simulator
from tests.mirror.cnes import read_snapshot
from tests.unit.fhir_documents import Flattened, flatten_lines, write_references

pytestmark = pytest.mark.servers

DAY = ReferenceDay.parse("2026-03-13")
WHOLE = Window(start=DAY.start, end=DAY.end)
HOURS = WHOLE.cut(timedelta(hours=1))
DOCUMENTS, COPIES = 500, 1
PLACE = {"nu_parte", "nu_linha"}

Play = Callable[..., None]


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    options = ("--seed", "5", "--docs-per-day", str(DOCUMENTS), "--now", "2026-03-15T02:10:00Z")
    with running_simulator(tmp_path_factory.mktemp("mirror"), *options, "--ways", "documents,resources") as client:
        yield client


@pytest.fixture
def play(simulator: httpx.Client) -> Iterator[Play]:
    """Switch scenarios on; none are on afterwards."""

    def switch(*names: str) -> None:
        simulator.put("/_admin/scenario", json={"scenarios": list(names)}).raise_for_status()

    switch()
    yield switch
    switch()


@pytest.fixture
def settings(simulator: httpx.Client, play: Play) -> MirrorSettings:
    return mirror_settings(base_url=f"{simulator.base_url}/fhir/r4".replace("//fhir", "/fhir"), page_size=40)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The references of the product, with the establishments that the simulator knows."""
    names = {one.cnes: (one.municipio, one.name) for one in read_snapshot()}
    return write_references(tmp_path_factory.mktemp("references"), names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """What a day's landing holds."""

    lines: list[bytes]
    announced: int
    distinct: int
    entries: int


def documents_page(entries: list[Entry]) -> Page:
    """Assembled documents, as a page of a mirror of documents would bring them."""
    content = PageContent(total=len(entries), self_url=None, next_url=None, entries=entries, outcomes=[])
    digest = hashlib.sha256(b"\n".join(entry.line for entry in entries)).hexdigest()
    return Page(
        number=1, url="", etag="", sha256=digest, bytes=0, seconds=0.0, attempts=1, content=content, following=None
    )


async def land_window(client: MirrorClient | ResourceClient, window: Window, folder: Path) -> tuple[LandedWalk, int]:
    """Land the matches of one window as they came, and assemble documents of them where they are parts."""
    announced = await client.count(window)
    raw, assembled = folder / "raw", folder / "documents"
    raw.mkdir()
    assembled.mkdir()
    assembler = await client.assembler(folder) if isinstance(client, ResourceClient) else None
    with LandingWriter(raw) as writer:
        async with aclosing(client.walk(window)) as pages:
            async for page in pages:
                writer.write_page(page)
                feed(assembler, page)
        walk = writer.finish()
    if walk.distinct != announced or await client.count(window) != announced:
        raise WalkBroken(f"{window}: {announced} announced, {walk.distinct} came")
    if not isinstance(client, ResourceClient) or assembler is None:
        return walk, announced
    for line in await client.fetch(assembler.missing()):
        assembler.add(line, matched=False)
    assert assembler.missing() == []
    with LandingWriter(assembled) as writer:
        writer.write_page(documents_page(list(assembler.documents(window))))
        return writer.finish(), announced


def feed(assembler: Assembler | None, page: Page) -> None:
    if assembler is not None:
        for entry in page.content.entries:
            assembler.add(entry.line, matched=True)
        for entry in page.content.included:
            assembler.add(entry.line, matched=False)


def land_day(client: MirrorClient | ResourceClient, folder: Path, windows: list[Window] = HOURS) -> Landed:
    """Land a day window by window."""

    async def run() -> Landed:
        lines: list[bytes] = []
        announced = distinct = 0
        async with client:
            for number, window in enumerate(windows):
                place = folder / f"{client.way}-{number:02d}"
                place.mkdir()
                walk, total = await land_window(client, window, place)
                announced += total
                distinct += walk.distinct
                for part in walk.parts:
                    lines += read_zstd(part.path.read_bytes()).splitlines()
        return Landed(lines=lines, announced=announced, distinct=distinct, entries=len(lines))

    return asyncio.run(run())


def without_place(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [{name: value for name, value in row.items() if name not in PLACE} for row in rows]
    return sorted(found, key=lambda row: json.dumps(row, default=str, sort_keys=True))


def flatten(folder: Path, tables: dict[str, Path], landed: Landed) -> Flattened:
    return flatten_lines(folder, tables, [landed.lines], day=DAY)


def test_a_day_by_documents_and_by_resources_gives_the_same_tables(
    settings: MirrorSettings, tables: dict[str, Path], tmp_path: Path
) -> None:
    documents = land_day(MirrorClient(settings), tmp_path)
    resources = land_day(ResourceClient(settings), tmp_path)
    assert documents.entries == DOCUMENTS
    assert resources.entries == resources.distinct == documents.distinct == DOCUMENTS - COPIES
    assert resources.announced > documents.announced * 2, "a total of doses and one of Compositions"
    ours, theirs = (flatten(tmp_path, tables, landed) for landed in (resources, documents))
    assert len(theirs.dose) > 400
    assert len(theirs.quarantine) > 0
    assert len(theirs.removed) > 0
    assert without_place(ours.dose) == without_place(theirs.dose)
    assert without_place(ours.quarantine) == without_place(theirs.quarantine)
    assert ours.removed == theirs.removed
    assert ours.codes == theirs.codes
    for name in ("unique", "doses", "candidates", "quarantined", "superseded", "removed", "removals"):
        assert ours.counts[name] == theirs.counts[name], name
    assert ours.counts["duplicates"] == theirs.counts["duplicates"] - COPIES
    assert 0 < ours.counts["any_shape"] < theirs.counts["any_shape"], "assembled documents have the canonical order"


def test_the_windows_of_a_day_do_not_change_what_it_gives(settings: MirrorSettings, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = land_day(ResourceClient(settings), tmp_path / "whole", [WHOLE])
    assert land_day(ResourceClient(settings), tmp_path).lines == whole.lines


def test_an_assembled_line_is_a_document_in_canonical_order(settings: MirrorSettings, tmp_path: Path) -> None:
    found = [json.loads(line) for line in land_day(ResourceClient(settings), tmp_path, HOURS[8:12]).lines]
    order = ["Composition", "Immunization", "Condition", "Patient", "Organization"]
    seen = set()
    for entry in found:
        bundle = entry["resource"]
        assert (bundle["resourceType"], bundle["type"], entry["search"]) == ("Bundle", "document", {"mode": "match"})
        assert entry["fullUrl"].endswith(f"/Bundle/{bundle['id']}")
        kinds = [part["resource"]["resourceType"] for part in bundle["entry"]]
        assert kinds == sorted(kinds, key=order.index)
        assert bundle["identifier"] == bundle["entry"][0]["resource"]["identifier"]
        seen |= set(kinds)
    assert seen == set(order), "the mirror adds patients, establishments and reasons"


@pytest.mark.parametrize(
    "scenarios", [("http-5xx:0.3",), ("http-429:0",), ("duplicate-page:1",), ("http-5xx:0.2", "duplicate-page:2")]
)
def test_a_mirror_that_stumbles_gives_the_same_day(
    settings: MirrorSettings, play: Play, tmp_path: Path, scenarios: tuple[str, ...]
) -> None:
    windows = HOURS[9:12]
    (tmp_path / "calm").mkdir()
    calm = land_day(ResourceClient(settings), tmp_path / "calm", windows)
    play(*scenarios)
    assert land_day(ResourceClient(settings, sleep=SleepLog()), tmp_path, windows).lines == calm.lines


@pytest.mark.parametrize("scenario", ["lost-page:2", "wrong-total:1", "wrong-total:-1", "drift:2"])
def test_a_mirror_that_lies_never_adds_up(settings: MirrorSettings, play: Play, tmp_path: Path, scenario: str) -> None:
    play(scenario)
    with pytest.raises(WalkBroken):
        land_day(ResourceClient(settings), tmp_path, HOURS[9:11])


def test_a_document_that_changed_late_comes_once_with_its_new_dose(
    settings: MirrorSettings, play: Play, tmp_path: Path
) -> None:
    play(f"changed:{DAY}:4", f"late:{DAY}:3")
    documents = land_day(MirrorClient(settings), tmp_path)
    resources = land_day(ResourceClient(settings), tmp_path)
    ids = [
        sorted(json.loads(line)["resource"]["id"][:36] for line in landed.lines) for landed in (documents, resources)
    ]
    assert len(set(ids[0])) == len(set(ids[1]))
    assert set(ids[0]) == set(ids[1])
    assert resources.distinct == documents.distinct
    corrected = [line for line in land_day_tail(settings, tmp_path).lines if b"CORRIGIDO1" in line]
    assert len(corrected) >= 4


def land_day_tail(settings: MirrorSettings, folder: Path) -> Landed:
    (folder / "tail").mkdir()
    return land_day(ResourceClient(settings), folder / "tail", HOURS[-1:])


def test_a_walk_goes_on_at_any_page_where_it_broke_off(settings: MirrorSettings) -> None:
    async def collect(resume: Cursor | None = None) -> list[Page]:
        async with ResourceClient(settings) as client:
            async with aclosing(client.walk(HOURS[9], resume=resume)) as walk:
                return [page async for page in walk]

    pages = asyncio.run(collect())
    assert len(pages) > 3
    kinds = [{entry.id.partition("/")[0] for entry in page.content.entries} for page in pages]
    assert kinds[0] == {"Immunization"}
    assert kinds[-1] == {"Composition"}
    assert all(len(kind) == 1 for kind in kinds)
    for place, page in enumerate(pages[:-1]):
        assert page.following is not None
        marks = frozenset(seen.mark for seen in pages[: place + 1])
        rest = asyncio.run(collect(Cursor(url=page.following, number=page.number, visited=marks)))
        assert [one.number for one in rest] == [one.number for one in pages[place + 1 :]]
        assert [[entry.key for entry in one.content.entries] for one in rest] == [
            [entry.key for entry in one.content.entries] for one in pages[place + 1 :]
        ]


def test_the_newest_resource_and_the_totals_from_an_instant_on(settings: MirrorSettings) -> None:
    async def ask() -> tuple[Any, int, int]:
        async with ResourceClient(settings) as client:
            return await client.newest(), await client.count_since(DAY.end), await client.count(HOURS[9])

    newest, since, hour = asyncio.run(ask())
    assert newest is not None
    assert newest >= DAY.end
    assert since > 0
    assert hour > 0


def test_missing_doses_are_read_by_id_and_strangers_stay_missing(settings: MirrorSettings) -> None:
    async def run() -> tuple[list[str], list[bytes]]:
        async with ResourceClient(settings) as client:
            async with aclosing(client.walk(HOURS[10])) as pages:
                ids = [entry.id for page in [await anext(pages)] for entry in page.content.entries]
            return ids, await client.fetch([*ids, "Immunization/nobody", "Immunization/a,b", *ids[:2]])

    ids, lines = asyncio.run(run())
    came = [json.loads(line)["resource"] for line in lines]
    assert [f"Immunization/{one['id']}" for one in came if one["resourceType"] == "Immunization"] == ids
    assert "Patient" in {one["resourceType"] for one in came}, "what stands beside a dose comes however it is found"


def test_parts_that_do_not_fit_together_go_to_quarantine(
    settings: MirrorSettings, tables: dict[str, Path], tmp_path: Path
) -> None:
    """A Composition and a dose are taken away: both halves that stay are accounted for."""

    async def collect() -> dict[str, Entry]:
        async with ResourceClient(settings) as client:
            async with aclosing(client.walk(HOURS[10])) as pages:
                return {entry.id: entry async for page in pages for entry in page.content.entries}

    found = asyncio.run(collect())
    doses = [name for name in found if name.startswith("Immunization/") and "." not in name]
    lost = {doses[3], doses[8].replace("Immunization", "Composition")}
    assembler = Assembler(tmp_path)
    for name, entry in found.items():
        if name not in lost:
            assembler.add(entry.line, matched=True)
    lines = [entry.line for entry in assembler.documents(HOURS[10])]
    flattened = flatten_lines(tmp_path, tables, [lines], day=DAY)
    reasons = {row["co_documento"]: row["ds_motivos"] for row in flattened.quarantine}
    assert reasons[doses[3].partition("/")[2] + "-i0b0"] == ["DOSE_MISSING"]
    assert "COMPOSITION_INVALID" in reasons[doses[8].replace("/", "-") + "-i0b0"]
    assert flattened.counts["fetched"] == len(lines)
