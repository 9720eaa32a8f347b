"""Row 6: documents that come, go or move between the pages of a walk. Figure: totals equal, or the day fails."""

from __future__ import annotations

import pytest

from imunizacao.errors import MirrorProtocolError
from imunizacao.models import LandingManifest
from imunizacao.storage import read_object
from tests.faults.support import Landed, Stage

pytestmark = pytest.mark.servers


def _most_walks(stage: Stage, landed: Landed) -> int:
    return max(piece.attempts for piece in read_object(stage.work, landed.receipt.manifest, LandingManifest).slices)


@pytest.mark.parametrize(
    ("scenario", "difference"),
    [("drift", 3), ("drift:9", 9), ("drift-out:1", -1), ("drift-out:5", -5), ("offset-paging", 1)],
)
def test_what_moves_during_a_walk_is_in_the_day_as_it_stands_at_the_end(
    stage: Stage, scenario: str, difference: int
) -> None:
    before = stage.simulator.oracle("2026-03-13")
    stage.simulator.play(scenario)
    landed = stage.whole(stage.settings(max_connections=1))
    assert landed.receipt.announced == len(before) + difference
    assert 2 <= _most_walks(stage, landed) <= 3


def test_pages_cut_from_a_changing_order_repeat_and_skip(stage: Stage) -> None:
    """The fault is a real one: one walk alone, without the recount, loses documents."""
    stage.simulator.play("offset-paging")
    stage.whole(stage.settings(max_connections=1))
    assert len([request for request in stage.simulator.requests() if request.page > 1]) > 14


def test_a_mirror_that_never_rests_fails_the_day_after_three_walks(stage: Stage) -> None:
    stage.simulator.play("drift-always")
    stage.fails(MirrorProtocolError, names=r"Slice \S+Z/\S+Z of 2026-03-13 does not add up after 3 walks")


@pytest.mark.parametrize("scenario", ["lost-page:1", "lost-page:2", "wrong-total:1", "wrong-total:-1"])
def test_a_day_that_is_not_whole_is_never_taken(stage: Stage, scenario: str) -> None:
    stage.simulator.play(scenario)
    stage.fails(MirrorProtocolError, names=r"Slice \S+Z/\S+Z of 2026-03-13 does not add up")
