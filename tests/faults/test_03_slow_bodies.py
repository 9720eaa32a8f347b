"""Row 3: silence and bodies that drip. Figure: the worker is free within its limit and 5 s."""

from __future__ import annotations

import pytest

from tests.faults.support import Stage

pytestmark = pytest.mark.servers
CONNECT, READ = 0.5, 0.5
WHOLE_ANSWER = CONNECT + 4 * READ
"""Limit of one answer from the first byte of the request to the last of the body."""


@pytest.mark.parametrize(
    ("scenario", "limit"),
    [
        ("timeout:1", READ),
        ("timeout:2", READ),
        ("stall:1", READ),
        ("stall:2", READ),
        ("slow-loris:1", WHOLE_ANSWER),
        ("slow-loris:2", WHOLE_ANSWER),
    ],
)
def test_a_connection_that_gives_nothing_is_left_in_time(stage: Stage, scenario: str, limit: float) -> None:
    stage.simulator.play(scenario)
    receipt = stage.whole(stage.settings(connect_timeout=CONNECT, read_timeout=READ)).receipt
    assert receipt.retries >= 1
    assert limit <= stage.seconds <= limit + 5
    assert receipt.fetched == receipt.announced, "nothing of the half page was kept"
