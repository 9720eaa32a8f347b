"""Windows of time: no gap, no overlap, and one way to write them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imunizacao.fhir import Window, instant_text, parse_instant
from imunizacao.reference_day import SAO_PAULO, ReferenceDay

MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))


@given(MOMENTS, st.integers(1, 200_000), st.sampled_from([1, 60, 600, 3600]))
def test_a_cut_covers_the_window_without_gap_or_overlap(start: datetime, seconds: int, step: int) -> None:
    seconds = min(seconds, step * 300)
    whole = Window(start=start, end=start + timedelta(seconds=seconds))
    pieces = whole.cut(timedelta(seconds=step))
    assert pieces[0].start == whole.start
    assert pieces[-1].end == whole.end
    assert all(left.end == right.start for left, right in itertools.pairwise(pieces))
    assert all(piece.end - piece.start <= timedelta(seconds=step) for piece in pieces)


@given(MOMENTS, st.integers(-14, 14))
def test_an_instant_is_written_and_read_back_whatever_its_offset(moment: datetime, hours: int) -> None:
    local = moment.astimezone(timezone(timedelta(hours=hours)))
    assert parse_instant(instant_text(local)) == moment


@pytest.mark.parametrize(
    ("day", "hours"), [("2018-11-04", 23), ("2018-02-17", 25), ("2026-03-13", 24), ("2024-02-29", 24)]
)
def test_a_day_has_the_hours_that_really_passed(day: str, hours: int) -> None:
    reference = ReferenceDay.parse(day)
    pieces = Window(start=reference.start, end=reference.end).cut(timedelta(hours=1))
    assert len(pieces) == hours
    assert {piece.start.astimezone(SAO_PAULO).date().isoformat() for piece in pieces} == {day}


def test_a_window_is_half_open() -> None:
    start = datetime(2026, 3, 13, 3, tzinfo=UTC)
    window = Window(start=start, end=start + timedelta(hours=1))
    assert start in window
    assert start + timedelta(hours=1) - timedelta(microseconds=1) in window
    assert start + timedelta(hours=1) not in window
    assert window.name == "20260313T030000Z_20260313T040000Z"
    assert window.bounds == ["ge2026-03-13T03:00:00Z", "lt2026-03-13T04:00:00Z"]


def test_what_is_no_window_cannot_be_made() -> None:
    start = datetime(2026, 3, 13, 3, tzinfo=UTC)
    for bad in ((start, start), (start, start - timedelta(1)), (start.replace(tzinfo=None), start)):
        with pytest.raises((ValueError, TypeError)):
            Window(start=bad[0], end=bad[1])
