"""A mirror that can only export proves by an export that it has come past the day; without, half a day would pass for a whole one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from starlette.responses import Response

from imunizacao.errors import MirrorProtocolError, MirrorUnavailable
from imunizacao.extract import Freshness, extract_day, mirror_freshness
from imunizacao.fhir import instant_text, parse_instant
from imunizacao.models import ExtractReceipt
from imunizacao.settings import EngineSettings
from tests.integration.export_support import Asked, FakeExport, accepted, manifest, ndjson, problem, running_export
from tests.integration.extract_support import DAY, NOW, SleepLog, context
from tests.support.memory_store import MemoryStore

pytestmark = pytest.mark.servers


@dataclass
class ExportOnly:
    """A mirror whose documents are exported and cannot be searched."""

    fake: FakeExport
    folder: Path
    instants: list[datetime] = field(default_factory=list)
    kinds: tuple[str, ...] = ("Bundle",)
    knows: tuple[str, ...] = ("_type", "_until")
    """Parameters besides `_since`; others are refused."""
    until_is_heard: bool = True
    work: MemoryStore = field(default_factory=MemoryStore)
    jobs: list[dict[str, str]] = field(default_factory=list)
    """Parameters of the exports that were ordered."""

    def __post_init__(self) -> None:
        self.fake.on("GET /fhir/$export", self._start)

    def freshness(self, now: datetime = NOW) -> Freshness:
        return mirror_freshness(
            context(),
            settings=self.fake.settings(way="export"),
            engine=EngineSettings(scratch_dir=self.folder),
            now=lambda: now,
            sleep=SleepLog(),
        )

    def extract(self, *, accept_stale: bool = False) -> ExtractReceipt:
        return extract_day(
            context(),
            settings=self.fake.settings(way="export"),
            work=self.work,
            engine=EngineSettings(scratch_dir=self.folder),
            now=lambda: NOW,
            accept_stale=accept_stale,
            sleep=SleepLog(),
        )

    def windows(self) -> list[tuple[str, str]]:
        return [(job["_since"], job["_until"]) for job in self.jobs]

    def _start(self, asked: Asked) -> Response:
        types = set(asked.query.get("_type", ",".join(self.kinds)).split(","))
        if not types & set(self.kinds) or {"_type", "_until"} & set(asked.query) - set(self.knows):
            return problem(400, "not-supported")
        self.jobs.append(asked.query)
        name, low = f"{len(self.jobs)}", parse_instant(asked.query["_since"])
        high = parse_instant(asked.query.get("_until")) if self.until_is_heard else None
        assert low is not None
        found = [instant for instant in self.instants if instant > low and (high is None or instant < high)]
        lines = [self._line(kind, instant) for kind in self.kinds for instant in found]
        files = [{"type": kind, "url": f"/files/{name}-{kind}", "count": len(found)} for kind in self.kinds]
        self.fake.on(f"GET /fhir/status/{name}", manifest(*files, transactionTime=instant_text(NOW)))
        self.fake.on(f"DELETE /fhir/status/{name}", Response(status_code=202))
        for kind in self.kinds:
            self.fake.on(f"GET /files/{name}-{kind}", ndjson(*(line for line in lines if kind in line)))
        return accepted(f"/fhir/status/{name}")

    @staticmethod
    def _line(kind: str, instant: datetime) -> str:
        meta = {"versionId": "1", "lastUpdated": instant_text(instant)}
        identity = f"{kind[0].lower()}-{instant:%d%H%M%S}"
        return json.dumps({"resourceType": kind, "id": identity, "meta": meta, "type": "document"})


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[ExportOnly]:
    with running_export() as fake:
        yield ExportOnly(fake, tmp_path)


def test_a_day_whose_load_stopped_in_the_middle_is_not_taken(mirror: ExportOnly) -> None:
    mirror.instants = [DAY.start + timedelta(hours=3, seconds=n) for n in range(12)]
    assert mirror.freshness().reached is False
    with pytest.raises(MirrorUnavailable, match=r"has not reached the end .* has no documents.*mirror-behind\.md"):
        mirror.extract()
    assert not [key for key in mirror.work.objects if key.endswith("receipt.json")]
    receipt = mirror.extract(accept_stale=True)
    assert (receipt.fetched, receipt.accepted_stale) == (12, True)


def test_one_document_after_the_end_is_the_proof_and_stays_out_of_the_day(mirror: ExportOnly) -> None:
    mirror.instants = [DAY.start + timedelta(hours=3), DAY.end]
    assert mirror.freshness().reached is True
    receipt = mirror.extract()
    assert (receipt.fetched, receipt.accepted_stale) == (1, False)
    asked = len(mirror.fake.asked_for("DELETE /fhir/status/1"))
    assert asked == 1, "the mirror is told that the small export is over"


def test_an_empty_day_with_a_later_document_is_empty(mirror: ExportOnly) -> None:
    mirror.instants = [DAY.end + timedelta(minutes=5)]
    assert mirror.extract().fetched == 0


def test_an_export_that_ignores_its_bounds_proves_nothing_by_other_days(mirror: ExportOnly) -> None:
    mirror.until_is_heard = False
    mirror.instants = [DAY.end - timedelta(milliseconds=1), NOW + timedelta(seconds=1)]
    assert mirror.freshness().reached is False


def test_a_backfill_looks_an_hour_far_then_a_day_then_at_the_rest(mirror: ExportOnly) -> None:
    mirror.instants = [DAY.end + timedelta(days=20)]
    assert mirror.freshness(now=DAY.end + timedelta(days=30)).reached is True
    since = instant_text(DAY.end - timedelta(seconds=1))
    assert mirror.windows() == [
        (since, instant_text(DAY.end + step)) for step in (timedelta(hours=1), timedelta(days=1), timedelta(days=30))
    ]


def test_parts_of_documents_prove_as_much_as_documents(mirror: ExportOnly) -> None:
    mirror.kinds = ("Composition", "Immunization")
    mirror.instants = [DAY.end + timedelta(minutes=5)]
    assert mirror.freshness().reached is True
    assert len(mirror.jobs) == 1


@pytest.mark.parametrize("knows", [("_type",), ()], ids=["no _until", "neither _type"])
def test_a_mirror_that_knows_few_parameters_gives_the_same_day(mirror: ExportOnly, knows: tuple[str, ...]) -> None:
    mirror.instants = [DAY.start - timedelta(milliseconds=1), DAY.start, DAY.end - timedelta(milliseconds=1), DAY.end]
    mirror.knows = knows
    receipt = mirror.extract()
    assert (receipt.announced, receipt.fetched) == (2, 2), "lines of the seconds before and after the day are left out"


def test_a_mirror_whose_search_finds_no_documents_is_asked_by_export_too(mirror: ExportOnly) -> None:
    nothing = json.dumps({"resourceType": "Bundle", "type": "searchset", "total": 0})
    mirror.fake.on("GET /fhir/Bundle", Response(nothing, media_type="application/fhir+json"))
    mirror.kinds = ("Composition", "Immunization")
    mirror.instants = [DAY.end + timedelta(minutes=5)]
    assert mirror.freshness().reached is True


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 422, 501])
def test_a_plain_refusal_means_that_there_is_no_search(mirror: ExportOnly, status: int) -> None:
    mirror.fake.on("GET /fhir/Bundle", problem(status, "not-supported"))
    mirror.instants = [DAY.end]
    assert mirror.freshness().reached is True


def test_a_search_that_is_broken_is_not_taken_for_none(mirror: ExportOnly) -> None:
    mirror.fake.on("GET /fhir/Bundle", Response("<html>", media_type="text/html"))
    mirror.instants = [DAY.end]
    with pytest.raises(MirrorProtocolError, match="something that is no page"):
        mirror.freshness()
    assert mirror.jobs == []
