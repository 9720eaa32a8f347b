"""Row 5: links that lead round, away, or nowhere. Figure: at most 2 extra requests a walk, and never one to another host."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import pytest

from imunizacao.errors import MirrorProtocolError
from imunizacao.fhir import MirrorClient, Page, Window
from imunizacao.settings import MirrorSettings
from tests.faults.support import Stage

pytestmark = pytest.mark.servers
BATCH = Window(start=datetime(2026, 3, 13, 16, tzinfo=UTC), end=datetime(2026, 3, 13, 17, tzinfo=UTC))
"""The hour with half of the day: 31 documents, 8 pages."""
PAGES = 8
LOOPS = [f"next-{kind}:{page}" for kind in ("self", "cycle", "endless") for page in (1, 2, 6)]


def _walk(settings: MirrorSettings) -> list[Page]:
    async def walk() -> list[Page]:
        async with MirrorClient(settings) as client:
            return [page async for page in client.walk(BATCH)]

    return asyncio.run(walk())


@pytest.mark.parametrize("scenario", [*LOOPS, "next-self:8", "next-endless:8", "next-after-last", "duplicate-page:2"])
def test_a_walk_asks_at_most_twice_more_than_there_are_pages(
    stage: Stage, scenario: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.simulator.play(scenario)
    with caplog.at_level(logging.WARNING, "imunizacao"):
        pages = _walk(stage.settings())
    different = {tuple(entry.key for entry in page.content.entries) for page in pages}
    asked = len(stage.simulator.requests())
    assert len(different) <= asked <= len(different) + 2
    stopped = "event=mirror.next_loops" in caplog.text
    assert stopped == (scenario not in {"next-after-last", "duplicate-page:2"}), "the log says why the walk ended"


@pytest.mark.parametrize("scenario", LOOPS)
def test_a_loop_that_hides_documents_fails_the_day_with_both_figures(stage: Stage, scenario: str) -> None:
    stage.simulator.play(scenario)
    stage.fails(
        MirrorProtocolError,
        names=r"Slice \S+Z/\S+Z of 2026-03-13 does not add up after 3 walks: the mirror announced \d+ .* \d+ different ones came",
    )


@pytest.mark.parametrize(
    "scenario", ["next-self:8", "next-endless:8", "next-after-last", "next-long", "next-relative", "duplicate-page:1"]
)
def test_odd_links_that_hide_nothing_cost_no_document(stage: Stage, scenario: str) -> None:
    stage.simulator.play(scenario)
    stage.whole()


def test_addresses_of_more_than_two_kilobytes_are_followed(stage: Stage) -> None:
    stage.simulator.play("next-long")
    assert len(_walk(stage.settings())) == PAGES
    assert [len(request.address) > 2048 for request in stage.simulator.requests()] == [False] + [True] * (PAGES - 1)


@pytest.mark.parametrize("page", [1, 8])
def test_a_link_to_another_host_is_named_and_never_followed(stage: Stage, page: int) -> None:
    stage.simulator.play(f"next-foreign:{page}")
    error = stage.fails(
        MirrorProtocolError, names=rf"slice \S+Z/\S+Z page {page} leads to http://mirror\.example\.net:8080"
    )
    assert "_bookmark" not in str(error)


def test_a_search_that_ends_at_a_cap_fails_the_day_by_name(stage: Stage) -> None:
    stage.simulator.play("cap:29")
    stage.fails(
        MirrorProtocolError,
        names=r"Slice 2026-03-13T16:00:00Z/2026-03-13T17:00:00Z .* announced 31 .* 29 different ones came",
    )


def test_slices_below_the_cap_of_the_mirror_are_whole(stage: Stage) -> None:
    stage.simulator.play("cap:29")
    stage.whole(stage.settings(slice_cap=29))
