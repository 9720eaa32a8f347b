"""Which day a run covers, and that days tile time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imunizacao.errors import ConfigurationError
from imunizacao.reference_day import ReferenceDay, from_airflow_context, from_run

SAO_PAULO = ZoneInfo("America/Sao_Paulo")
FIRST, LAST = date(2015, 1, 1), date(2026, 12, 31)


def utc(text: str) -> datetime:
    """An instant in UTC from its ISO text."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def day_of(instant: datetime) -> ReferenceDay:
    """The day in which a document of this instant belongs, by the wall clock of São Paulo."""
    return ReferenceDay(instant.astimezone(SAO_PAULO).date())


# --- the day of a run --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run_type", "interval_start", "run_after", "expected"),
    [
        # Local midnight as UTC: 03:00 without, 02:00 with daylight saving.
        ("scheduled", "2026-03-14T03:00:00", "2026-03-15T03:00:00", "2026-03-14"),
        ("scheduled", "2026-02-28T03:00:00", "2026-03-01T03:00:00", "2026-02-28"),
        ("scheduled", "2024-02-29T03:00:00", "2024-03-01T03:00:00", "2024-02-29"),
        ("scheduled", "2025-12-31T03:00:00", "2026-01-01T03:00:00", "2025-12-31"),
        ("scheduled", "2019-01-15T02:00:00", "2019-01-16T02:00:00", "2019-01-15"),
        ("backfill", "2024-01-01T03:00:00", "2024-01-02T03:00:00", "2024-01-01"),
        ("backfill", "2024-01-31T03:00:00", "2024-02-01T03:00:00", "2024-01-31"),
        # The backfill may run years after the day: run_after says nothing about it.
        ("backfill", "2018-11-04T03:00:00", "2026-03-15T02:10:00", "2018-11-04"),
        # A schedule at six in the morning has the same days.
        ("scheduled", "2026-01-30T09:00:00", "2026-01-31T09:00:00", "2026-01-30"),
        ("backfill", "2026-01-30T09:00:00", "2026-01-31T09:00:00", "2026-01-30"),
        # An interval that starts at 22:00 in São Paulo starts on that day, though UTC is already on the next.
        ("backfill", "2026-01-30T01:00:00", "2026-01-31T01:00:00", "2026-01-29"),
    ],
)
def test_scheduled_and_backfill_runs_cover_the_local_day_of_their_interval(
    run_type: str, interval_start: str, run_after: str, expected: str
) -> None:
    day = from_run(param=None, run_type=run_type, data_interval_start=utc(interval_start), run_after=utc(run_after))
    assert str(day) == expected


@pytest.mark.parametrize(
    ("run_after", "expected"),
    [
        # 00:00–03:00 UTC is still the day before in São Paulo, so yesterday is two UTC days back.
        ("2026-03-15T00:00:00", "2026-03-13"),
        ("2026-03-15T02:10:00", "2026-03-13"),
        ("2026-03-15T02:59:59", "2026-03-13"),
        ("2026-03-15T03:00:00", "2026-03-14"),
        ("2026-03-15T23:59:59", "2026-03-14"),
        ("2026-03-01T12:00:00", "2026-02-28"),
        ("2024-03-01T12:00:00", "2024-02-29"),
        ("2026-01-01T12:00:00", "2025-12-31"),
        ("2019-01-15T01:59:59", "2019-01-13"),
        ("2019-01-15T02:00:00", "2019-01-14"),
    ],
)
def test_a_manual_run_covers_yesterday_in_sao_paulo(run_after: str, expected: str) -> None:
    # Its interval is the last complete one before now, or none: it must not matter.
    for interval_start in (None, utc("2026-11-20T09:00:00"), utc("2001-01-01T03:00:00")):
        day = from_run(param=None, run_type="manual", data_interval_start=interval_start, run_after=utc(run_after))
        assert str(day) == expected


@pytest.mark.parametrize("run_type", ["scheduled", "backfill", "manual", "asset_triggered"])
@pytest.mark.parametrize("param", ["2024-02-29", " 2024-02-29 "])
def test_the_param_always_wins(run_type: str, param: str) -> None:
    day = from_run(
        param=param,
        run_type=run_type,
        data_interval_start=utc("2026-03-14T03:00:00"),
        run_after=utc("2026-03-15T03:00:00"),
    )
    assert str(day) == "2024-02-29"


@pytest.mark.parametrize("param", ["", "   ", None])
def test_an_empty_param_is_no_param(param: str | None) -> None:
    day = from_run(
        param=param,
        run_type="backfill",
        data_interval_start=utc("2026-03-14T03:00:00"),
        run_after=utc("2026-03-20T03:00:00"),
    )
    assert str(day) == "2026-03-14"


@pytest.mark.parametrize(
    "param",
    ["2026-3-14", "14/03/2026", "20260314", "2026-02-29", "2026-03-14T00:00:00", "ontem", "2026-13-01"],
)
def test_a_param_that_is_no_date_is_refused(param: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a date"):
        from_run(param=param, run_type="manual", data_interval_start=None, run_after=utc("2026-03-15T03:00:00"))


def test_an_iso_week_is_no_day() -> None:
    with pytest.raises(ConfigurationError, match="is not a date"):
        ReferenceDay.parse("2026-W11-6")


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
def test_a_scheduled_run_without_an_interval_is_refused(run_type: str) -> None:
    with pytest.raises(ConfigurationError, match="CronDataIntervalTimetable"):
        from_run(param=None, run_type=run_type, data_interval_start=None, run_after=utc("2026-03-15T03:00:00"))


@pytest.mark.parametrize("as_enum", [True, False])
def test_the_context_of_a_task_gives_the_day(as_enum: bool) -> None:
    # The type of a run is an enum in a task and may be a plain text elsewhere.
    run_type = SimpleNamespace(value="backfill") if as_enum else "backfill"
    run = SimpleNamespace(run_type=run_type, run_after=utc("2026-03-20T03:00:00"))
    context = {"dag_run": run, "params": {}, "data_interval_start": utc("2026-03-14T03:00:00")}
    assert str(from_airflow_context(context)) == "2026-03-14"
    assert str(from_airflow_context(context | {"params": {"reference_day": "2025-12-31"}})) == "2025-12-31"
    assert str(from_airflow_context(context | {"params": None})) == "2026-03-14"


def test_a_manual_context_has_no_interval() -> None:
    run = SimpleNamespace(run_type=SimpleNamespace(value="manual"), run_after=utc("2026-03-15T02:10:00"))
    assert str(from_airflow_context({"dag_run": run})) == "2026-03-13"


# --- the instants of a day ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "start", "end", "hours"),
    [
        ("2026-03-14", "2026-03-14T03:00:00", "2026-03-15T03:00:00", 24),
        # Daylight saving began at 00:00: that midnight does not exist, the day starts at 01:00 and has 23 hours.
        ("2018-11-04", "2018-11-04T03:00:00", "2018-11-05T02:00:00", 23),
        ("2018-11-03", "2018-11-03T03:00:00", "2018-11-04T03:00:00", 24),
        # Daylight saving ended at 00:00 of the 18th: 23:00–24:00 of the 17th happened twice.
        ("2018-02-17", "2018-02-17T02:00:00", "2018-02-18T03:00:00", 25),
        ("2018-02-18", "2018-02-18T03:00:00", "2018-02-19T03:00:00", 24),
        ("2019-01-15", "2019-01-15T02:00:00", "2019-01-16T02:00:00", 24),
        ("2024-02-29", "2024-02-29T03:00:00", "2024-03-01T03:00:00", 24),
        ("2025-12-31", "2025-12-31T03:00:00", "2026-01-01T03:00:00", 24),
    ],
)
def test_a_day_is_half_open_between_local_midnights(day: str, start: str, end: str, hours: int) -> None:
    found = ReferenceDay.parse(day)
    assert (found.start, found.end) == (utc(start), utc(end))
    assert found.end - found.start == timedelta(hours=hours)


@pytest.mark.parametrize("day", ["2018-11-04", "2018-02-17", "2018-02-18", "2017-10-15", "2019-02-16", "2026-03-14"])
def test_the_edges_of_a_day_are_those_of_the_wall_clock(day: str) -> None:
    found = ReferenceDay.parse(day)
    moment = timedelta(microseconds=1)
    assert day_of(found.start) == day_of(found.end - moment) == found
    assert day_of(found.start - moment) < found < day_of(found.end)


def test_days_tile_time_without_gap_or_overlap() -> None:
    days = [ReferenceDay(FIRST + timedelta(days=n)) for n in range((LAST - FIRST).days + 1)]
    assert str(days[-1]) == "2026-12-31"
    for day, after in pairwise(days):
        assert day.start < day.end == after.start
    lengths = {(day.end - day.start) // timedelta(hours=1) for day in days}
    assert lengths == {23, 24, 25}
    # 2015–2019: five ends and four starts of daylight saving time.
    assert sum(1 for day in days if day.end - day.start == timedelta(hours=25)) == 5
    assert sum(1 for day in days if day.end - day.start == timedelta(hours=23)) == 4


@given(st.datetimes(datetime.fromisoformat("2015-01-01"), datetime.fromisoformat("2026-12-30")))
@example(datetime.fromisoformat("2018-11-04T02:59:59.999999"))
@example(datetime.fromisoformat("2018-11-04T03:00:00"))
@example(datetime.fromisoformat("2018-02-18T01:30:00"))
@example(datetime.fromisoformat("2018-02-18T02:30:00"))
def test_every_instant_lies_in_the_day_that_the_wall_clock_shows(moment: datetime) -> None:
    instant = moment.replace(tzinfo=UTC)
    day = day_of(instant)
    assert day.start <= instant < day.end
    assert str(ReferenceDay.yesterday(instant)) == str(day.value - timedelta(days=1))


# --- is it over? -------------------------------------------------------------------------------------


def test_a_day_that_is_not_over_is_refused() -> None:
    day = ReferenceDay.parse("2026-03-14")
    # Frozen clock of the tests: already the 15th in UTC, still the 14th in Brasília.
    now = utc("2026-03-15T02:10:00")
    assert not day.is_over(now)
    with pytest.raises(ConfigurationError, match="2026-03-14 is not over yet: it ends at 2026-03-15T00:00:00-03:00"):
        day.require_over(now)
    with pytest.raises(ConfigurationError, match="is not over yet"):
        ReferenceDay.parse("2030-01-01").require_over(now)


@pytest.mark.parametrize(("now", "over"), [("2026-03-15T02:59:59.999999", False), ("2026-03-15T03:00:00", True)])
def test_a_day_is_over_at_its_last_instant(now: str, over: bool) -> None:
    day = ReferenceDay.parse("2026-03-14")
    assert day.is_over(utc(now)) is over
    assert day.is_over(utc(now).astimezone(SAO_PAULO)) is over
    if over:
        day.require_over(utc(now))


def test_yesterday_is_always_over() -> None:
    for hour in range(24 * 400):
        now = utc("2018-01-01T00:00:00") + timedelta(hours=hour)
        ReferenceDay.yesterday(now).require_over(now)


def test_a_day_is_not_a_date_and_days_are_ordered() -> None:
    day = ReferenceDay.parse("2026-03-14")
    assert day != date(2026, 3, 14)
    assert ReferenceDay.parse("2026-02-28") < day < ReferenceDay.parse("2026-03-15")
    assert (str(day), day.month) == ("2026-03-14", "2026-03")
