"""Row 2: 429 and every kind of Retry-After. Honour, cap, log. Figure: no request before the time."""

from __future__ import annotations

import logging
from collections import defaultdict

import pytest

from imunizacao.fhir.pace import LONGEST_WAIT_SECONDS
from tests.faults.support import Stage
from tests.support.simulator import Request

pytestmark = pytest.mark.servers
IN_FLIGHT_SECONDS = 0.7
"""A request that was on its way when the mirror said 429 on another connection may still arrive."""


def _by_address(requests: list[Request]) -> dict[str, list[Request]]:
    found: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        found[request.address].append(request)
    return found


@pytest.mark.parametrize(("scenario", "seconds"), [("http-429:1", 1), ("http-429-date:1", 1), ("http-429-date:2", 2)])
def test_no_request_comes_before_the_time_the_mirror_asked_for(stage: Stage, scenario: str, seconds: int) -> None:
    stage.simulator.play(scenario)
    stage.whole(stage.settings(page_size=50, max_connections=16), real_time=True)
    requests = stage.simulator.requests()
    for address, asked in _by_address(requests).items():
        assert asked[0].status == 429, "each address was throttled"
        for again in asked[1:]:
            assert again.arrived >= asked[0].answered + seconds, f"{address} was asked again too early"
            assert again.status == 200
    for throttled in (request for request in requests if request.status == 429):
        quiet = range_of(throttled, seconds)
        early = [request for request in requests if quiet[0] < request.arrived < quiet[1]]
        assert not early, "another connection asked while the mirror wanted quiet"


def range_of(throttled: Request, seconds: int) -> tuple[float, float]:
    """When no connection may ask."""
    return throttled.answered + IN_FLIGHT_SECONDS, throttled.answered + seconds


def test_weeks_of_waiting_are_cut_to_five_minutes_and_told(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.simulator.play("http-429-huge")
    with caplog.at_level(logging.WARNING, "imunizacao"):
        receipt = stage.whole(stage.settings(page_size=50)).receipt
    assert receipt.retries > 0
    assert max(stage.sleeps.seconds) == LONGEST_WAIT_SECONDS
    assert stage.sleeps.seconds.count(LONGEST_WAIT_SECONDS) >= receipt.retries
    told = [record.getMessage() for record in caplog.records if "event=mirror.retry" in record.getMessage()]
    assert len(told) == receipt.retries
    assert all('status="429' in text and f"wait={LONGEST_WAIT_SECONDS:.3f}" in text for text in told)


@pytest.mark.parametrize("kind", ["negative", "absent", "garbage"])
def test_a_retry_after_that_says_nothing_leaves_it_to_our_own_waits(stage: Stage, kind: str) -> None:
    stage.simulator.play(f"http-429-{kind}")
    receipt = stage.whole().receipt
    asked = _by_address(stage.simulator.requests())
    assert all([request.status for request in found][:2] == [429, 200] for found in asked.values())
    assert receipt.retries == len(asked)
    assert all(0 < wait <= 60 for wait in stage.sleeps.seconds)
