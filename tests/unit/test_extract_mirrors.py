"""What a task takes over of an earlier one, and from which mirror: addresses change, cursors die, mirrors have neighbours."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from imunizacao.errors import ConfigurationError, MirrorUnavailable
from imunizacao.extract import extract_day
from imunizacao.models import ExtractReceipt
from imunizacao.settings import EngineSettings
from tests.integration.export_support import FakeExport, accepted, manifest, ndjson, running_export
from tests.integration.extract_support import (
    DAY,
    LATER,
    NOW,
    FakeMirror,
    Seen,
    SleepLog,
    context,
    make_document,
    outcome,
    running_mirror,
)
from tests.support.memory_store import MemoryStore

SECRET = {"auth": "basic", "login": "leitor"}


def documents(first: int = 0, count: int = 25) -> list[Any]:
    return [LATER, *(make_document(first + n, DAY.start + timedelta(seconds=n)) for n in range(count))]


@pytest.fixture
def former() -> Iterator[FakeMirror]:
    with running_mirror(documents()) as mirror:
        yield mirror


@pytest.fixture
def present() -> Iterator[FakeMirror]:
    """Another mirror, with as many documents in the same second."""
    with running_mirror(documents(first=1000)) as mirror:
        yield mirror


@pytest.fixture
def land(tmp_path: Path) -> Callable[..., ExtractReceipt]:
    """Extract the day into one bucket in memory."""
    work = MemoryStore()

    def run(mirror: FakeMirror | FakeExport, run_id: str = "run-1", **settings: Any) -> ExtractReceipt:
        return extract_day(
            context(run_id),
            settings=mirror.settings(**settings),
            work=work,
            engine=EngineSettings(scratch_dir=tmp_path),
            now=lambda: NOW,
            sleep=SleepLog(),
        )

    return run


def fails_at(page: int, status: int) -> Callable[[Seen], Response | None]:
    return lambda seen: Response(status_code=status) if seen.is_page and seen.page_number == page else None


def test_pages_of_a_former_mirror_are_not_gone_on_with_and_it_hears_nothing_more(
    former: FakeMirror, present: FakeMirror, land: Callable[..., ExtractReceipt]
) -> None:
    former.before = fails_at(3, 403)
    with pytest.raises(ConfigurationError):
        land(former, **SECRET, password="old")
    former.forget()

    receipt = land(present, **SECRET, password="new")

    assert former.seen == []
    assert (receipt.fetched, receipt.pages_resumed) == (25, 0)
    assert len(present.pages_seen) == 3
    told = "Basic " + base64.b64encode(b"leitor:new").decode()
    assert {seen.headers["authorization"] for seen in present.seen} == {told}


def test_the_landing_of_another_mirror_is_not_taken_over_however_equal_its_totals(
    former: FakeMirror, present: FakeMirror, land: Callable[..., ExtractReceipt]
) -> None:
    first = land(former)
    other = land(present, "run-2")
    assert (other.slices_reused, len(present.pages_seen)) == (0, 3)
    assert other.landing_sha256 != first.landing_sha256

    again = land(former, "run-3", base_url=former.base.replace("http://", "HTTP://") + "/")
    assert (again.slices_reused, again.landing_sha256) == (1, first.landing_sha256), "the same mirror in other words"


def test_the_job_of_a_former_mirror_is_left_alone_and_a_new_one_is_started(
    land: Callable[..., ExtractReceipt], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reached(*_: Any, **__: Any) -> bool:
        return True

    # Both mirrors have later documents: how that is found out is another matter (test_export_reach).
    monkeypatch.setattr("imunizacao.extract.freshness.exports_later", reached)

    def serve(export: FakeExport, status: Response) -> None:
        lines = [document.entry.partition(b'"resource":')[2].rpartition(b',"search"')[0] for document in documents()]
        export.on("GET /fhir/$export", accepted())
        export.on("GET /status/1", status)
        export.on("GET /file/1", ndjson(*lines[1:]))

    with running_export() as old, running_export() as new:
        serve(old, Response(status_code=403))
        with pytest.raises(ConfigurationError):
            land(old, way="export", **SECRET, password="old")
        old.asked.clear()
        file = {"type": "Bundle", "url": "/file/1", "count": 25}
        serve(new, manifest(file, transactionTime="2026-03-15T02:00:00Z"))

        assert land(new, way="export", **SECRET, password="new").fetched == 25
        assert old.asked == []
        assert len(new.asked_for("GET /fhir/$export")) == 1


@pytest.mark.parametrize("status", [400, 404, 409, 422, 200, 500])
def test_a_cursor_that_is_dead_costs_the_window_not_the_run(
    former: FakeMirror, land: Callable[..., ExtractReceipt], status: int
) -> None:
    """Servers tell it in any way: `continuation token is invalid`, an outcome with 200, an exception of their own."""
    former.before = fails_at(3, 403)
    with pytest.raises(ConfigurationError):
        land(former)
    former.forget()
    walks = [0]

    def dead_to_the_earlier_walk(seen: Seen) -> Response | None:
        walks[0] += seen.is_page and seen.page_number == 1
        return outcome(status, "gone") if seen.is_page and seen.page_number == 3 and not walks[0] else None

    former.before = dead_to_the_earlier_walk
    receipt = land(former, retry_budget=5.0)
    assert (receipt.fetched, receipt.slices, walks[0]) == (25, 1, 1)


def test_pages_are_kept_while_the_mirror_is_down(former: FakeMirror, land: Callable[..., ExtractReceipt]) -> None:
    former.before = fails_at(3, 403)
    with pytest.raises(ConfigurationError):
        land(former)

    down = [False]

    def goes_down(seen: Seen) -> Response | None:
        down[0] = down[0] or seen.is_page
        return Response(status_code=503) if down[0] else None

    former.before = goes_down
    with pytest.raises(MirrorUnavailable, match="did not give count of"):
        land(former, retry_budget=5.0)

    former.before = lambda seen: None
    assert land(former).pages_resumed == 2
