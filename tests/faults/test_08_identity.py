"""Row 8: tokens that end early, and clocks that are off. Figure: 0 failed runs for expiry."""

from __future__ import annotations

import logging
import re

import pytest

from imunizacao.errors import ConfigurationError
from tests.faults.support import Stage

pytestmark = pytest.mark.servers


def _token_calls(stage: Stage) -> int:
    return sum(request.route == "token" for request in stage.simulator.requests())


@pytest.mark.parametrize("page", [1, 2, 8])
@pytest.mark.parametrize("connections", [1, 4])
def test_a_token_that_ends_in_the_middle_is_renewed_once(rnds_stage: Stage, page: int, connections: int) -> None:
    rnds_stage.simulator.play(f"token-expired:{page}")
    rnds_stage.whole(rnds_stage.rnds_settings(max_connections=connections))
    refused = [request for request in rnds_stage.simulator.requests() if request.status == 401]
    assert 1 <= len(refused) <= connections
    assert _token_calls(rnds_stage) == 2


def test_tokens_that_are_never_good_are_a_matter_of_configuration(rnds_stage: Stage) -> None:
    rnds_stage.simulator.play("token-never")
    rnds_stage.fails(
        ConfigurationError, names=r"401 EHR-ERR882 on count of 2026-03-13", settings=rnds_stage.rnds_settings()
    )
    assert len(rnds_stage.simulator.requests()) <= 4, "two tokens, two refusals"


@pytest.mark.parametrize("seconds", [300, -300])
def test_a_clock_that_is_five_minutes_off_is_told_and_fails_nothing(
    rnds_stage: Stage, seconds: int, caplog: pytest.LogCaptureFixture
) -> None:
    rnds_stage.simulator.play(f"clock-skew:{seconds}")
    with caplog.at_level(logging.WARNING, "imunizacao"):
        rnds_stage.whole(rnds_stage.rnds_settings())
    told = re.findall(r"event=mirror\.clock_skew seconds=(-?\d+)", caplog.text)
    assert len(told) == 1
    assert abs(int(told[0]) + seconds) <= 1, "a Date has whole seconds"
    assert _token_calls(rnds_stage) == 1
    assert all(request.status == 200 for request in rnds_stage.simulator.requests())
