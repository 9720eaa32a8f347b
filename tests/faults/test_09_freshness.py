"""Row 9: a mirror that is stale or frozen. The day stays pending. Figure: no false empty day."""

from __future__ import annotations

from datetime import timedelta

import pytest

from imunizacao.errors import MirrorUnavailable
from tests.faults.support import DAY, Stage

pytestmark = pytest.mark.servers
MINUTES_TO_NOON = 2110
"""From the simulator's clock back to the noon of the day."""


@pytest.mark.parametrize("scenario", ["behind:3000", "frozen:2026-03-12T20:00:00-03:00"])
def test_a_mirror_without_the_day_never_yields_an_empty_one(stage: Stage, scenario: str) -> None:
    stage.simulator.play(scenario)
    assert not stage.simulator.oracle(DAY)
    stage.fails(MirrorUnavailable, names=r"has not reached the end of the day 2026-03-13 yet.* 0 documents so far")


@pytest.mark.parametrize("scenario", [f"behind:{MINUTES_TO_NOON}", "frozen:2026-03-13T23:59:59.998-03:00"])
def test_a_mirror_in_the_middle_of_the_day_is_waited_for(stage: Stage, scenario: str) -> None:
    stage.simulator.play(scenario)
    with pytest.raises(
        MirrorUnavailable, match=r"has not reached the end of the day 2026-03-13 yet: newest document at 2026-03-13"
    ):
        stage.extract(now=DAY.end + timedelta(hours=2))
    stage.require_no_receipt()


def test_a_mirror_that_lags_but_is_past_the_day_is_good_enough(stage: Stage) -> None:
    stage.simulator.play("behind:600")
    stage.whole()
