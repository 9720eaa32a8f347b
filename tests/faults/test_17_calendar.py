"""Row 17: edges of days, daylight saving, month ends, leap days, the hours that are tomorrow in UTC.

Figure: each document version in exactly one day.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from imunizacao.errors import ConfigurationError
from imunizacao.reference_day import SAO_PAULO, ReferenceDay
from tests.faults.support import NOW, Landed, Stage

pytestmark = pytest.mark.servers


def _instants(landed: Landed) -> list[datetime]:
    return sorted(datetime.fromisoformat(document["meta"]["lastUpdated"]) for document in landed.documents())


@pytest.mark.parametrize(
    ("middle", "hours"),
    [
        ("2018-11-04", 23),
        pytest.param("2018-02-17", 25, marks=pytest.mark.slow),
        pytest.param("2018-02-18", 24, marks=pytest.mark.slow),
        ("2019-02-16", 25),
        ("2024-02-29", 24),
        pytest.param("2026-02-28", 24, marks=pytest.mark.slow),
        pytest.param("2025-12-31", 24, marks=pytest.mark.slow),
        ("2026-03-12", 24),
    ],
)
def test_neighbouring_days_share_no_document_and_lose_none(larger_stage: Stage, middle: str, hours: int) -> None:
    day = ReferenceDay.parse(middle)
    assert day.end - day.start == timedelta(hours=hours)
    days = [ReferenceDay(day.value + timedelta(days=shift)) for shift in (-1, 0, 1)]
    landed = [larger_stage.whole(day=one) for one in days]
    for number, (one, found) in enumerate(zip(days, landed, strict=True)):
        instants = _instants(found)
        assert instants[0] == one.start, "the first millisecond of the day"
        assert instants[-1] == one.end - timedelta(milliseconds=1), "the last one"
        assert {instant.astimezone(SAO_PAULO).date() for instant in instants} == {one.value}
        for other in landed[number + 1 :]:
            assert not found.versions & other.versions
    assert days[0].end == days[1].start
    assert days[1].end == days[2].start


def test_documents_of_the_evening_are_tomorrow_in_utc_and_today_here(larger_stage: Stage) -> None:
    day = ReferenceDay.parse("2026-02-28")
    evening = [instant for instant in _instants(larger_stage.whole(day=day)) if instant.astimezone(UTC).month == 3]
    assert len(evening) >= 3
    assert all(instant.astimezone(UTC).hour < 3 for instant in evening)


def test_an_hour_that_comes_twice_is_landed_twice(larger_stage: Stage) -> None:
    """On 2018-02-17 the hour from 23:00 to midnight passed at -02:00 and again at -03:00."""
    day = ReferenceDay.parse("2018-02-17")
    last = [instant for instant in _instants(larger_stage.whole(day=day)) if instant.astimezone(SAO_PAULO).hour == 23]
    assert {instant.astimezone(SAO_PAULO).utcoffset() for instant in last} == {timedelta(hours=-2), timedelta(hours=-3)}


def test_a_clock_that_is_wrong_changes_nothing_or_is_refused(larger_stage: Stage) -> None:
    """The instant of the run decides whether the day is over, and what the receipt says of itself: nothing else. One ahead of the store
    would keep out every later run of the day."""
    quiet = larger_stage.whole(run_id="quiet")
    jumped = larger_stage.whole(run_id="jumped", now=NOW + timedelta(days=30))
    assert jumped.receipt.landing_sha256 == quiet.receipt.landing_sha256
    assert jumped.versions == quiet.versions
    with pytest.raises(
        ConfigurationError, match=r"ahead of that of the store.*Nothing was asked.*docs/runbook/worker-clock\.md"
    ):
        larger_stage.extract(run_id="ahead", now=datetime.now(UTC) + timedelta(minutes=6))
