"""A few schedules of real processes on a bad network, with kills. Figure: 0 violations. `make soak` plays hundreds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from imunizacao.settings import StorageSettings
from tests.protocol.proxy import FAULTS
from tests.protocol.soak import make_schedule, run_schedules, summary

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(("first", "count"), [(2, 1), pytest.param(100, 20, marks=pytest.mark.slow)])
def test_no_schedule_breaks_a_promise(s3_settings: StorageSettings, tmp_path: Path, first: int, count: int) -> None:
    schedules = [make_schedule(seed, small=count < 10) for seed in range(first, first + count)]
    told = list(run_schedules(schedules, s3_settings, tmp_path, lanes=2))
    text = summary(told)
    print(text)
    assert [one.schedule.seed for one in told] == [one.seed for one in schedules]
    assert not [one for one in told if one.wrong], text
    assert sum(one.faults.total() for one in told) > 0, "the network was too good to show anything"
    assert count < 10 or sum(one.killed for one in told) > 0, "nobody was killed"
    assert sum(one.reads for one in told) >= count, "the reader saw nothing"


def test_schedules_come_from_their_seed_and_cover_what_they_should() -> None:
    schedules = [make_schedule(seed) for seed in range(400)]
    assert schedules == [make_schedule(seed) for seed in range(400)]
    assert len({schedule.day for schedule in schedules}) == 400
    assert {len(schedule.tasks) for schedule in schedules} == {2, 3, 4, 5}
    for share in (
        [schedule.damaged >= 0 for schedule in schedules],
        [any(task.content < 0 for task in schedule.tasks) for schedule in schedules],
        [bool(schedule.kills) for schedule in schedules],
        [schedule.shared > 0 for schedule in schedules],
    ):
        assert 20 < sum(share) < 390
    dice = random.Random(1)
    assert set(dice.choices(list(FAULTS), list(FAULTS.values()), k=1000)) == set(FAULTS)
