"""Row 1: server errors and broken connections. Retry; then fail by name. Figure: 0 silent losses."""

from __future__ import annotations

import pytest

from imunizacao.errors import MirrorUnavailable
from tests.faults.support import Stage

pytestmark = pytest.mark.servers
SLICE_AND_PAGE = r"slice 2026-03-1\dT\d\d:\d\d:\d\dZ/2026-03-1\dT\d\d:\d\d:\d\dZ page {page}\b"


@pytest.mark.parametrize(
    "scenario", ["http-5xx:1", "http-5xx-page:1:3", "http-5xx-page:2:5", "refuse:3", "reset:0.3", "reset:1"]
)
def test_a_server_that_fails_now_and_then_costs_tries_and_no_document(stage: Stage, scenario: str) -> None:
    stage.simulator.play(scenario)
    receipt = stage.whole().receipt
    assert receipt.retries > 0
    assert all(0 <= wait <= 60 for wait in stage.sleeps.seconds)


@pytest.mark.parametrize("page", [1, 2, 5])
def test_a_page_that_never_comes_fails_the_day_by_name(stage: Stage, page: int) -> None:
    stage.simulator.play(f"http-5xx-page:{page}")
    stage.fails(MirrorUnavailable, names=SLICE_AND_PAGE.format(page=page) + ": last status 50[023]")
    tried = [request for request in stage.simulator.requests() if request.page == page and request.status >= 500]
    most = max(sum(one.address == request.address for one in tried) for request in tried)
    assert 10 <= most <= 40, "tries of one address"


def test_the_budget_in_seconds_ends_the_tries_too(stage: Stage) -> None:
    stage.simulator.play("http-5xx-page:2")
    stage.fails(
        MirrorUnavailable, names="retry budget of 30 s", settings=stage.settings(retry_budget=30.0, max_connections=1)
    )
    assert sum(stage.sleeps.seconds) <= 30


def test_a_reset_in_mid_body_is_on_the_wire_and_the_half_is_not_taken(stage: Stage) -> None:
    stage.simulator.play("reset:1")
    landed = stage.whole()
    pages = [request for request in stage.simulator.requests() if request.page]
    assert len(pages) == 2 * len({request.address for request in pages}), "each page broke once"
    assert landed.receipt.fetched == len(landed.versions), "no half page was kept beside the whole one"
