"""The reference day: one calendar day in America/Sao_Paulo, by the instant at which a document entered or changed.

It is a class of its own and not a `date`: what a run covers must never be compared with when it ran.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from imunizacao.errors import ConfigurationError

SAO_PAULO = ZoneInfo("America/Sao_Paulo")
MOST_DAYS = 366
"""Of a range that one command or run works through."""


@dataclass(frozen=True, slots=True, order=True)
class ReferenceDay:
    """The half-open interval [D 00:00, D+1 00:00) of local instants in America/Sao_Paulo."""

    value: date

    @classmethod
    def parse(cls, text: str) -> ReferenceDay:
        """Read `YYYY-MM-DD`; anything else is a `ConfigurationError`."""
        try:
            if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
                raise ValueError(text)
            return cls(date.fromisoformat(text))
        except ValueError as error:
            raise ConfigurationError(
                f"reference_day {text!r} is not a date. Expected YYYY-MM-DD, for example 2026-03-14."
            ) from error

    @classmethod
    def yesterday(cls, now: datetime) -> ReferenceDay:
        """The last day that is over at `now` (aware)."""
        return cls(now.astimezone(SAO_PAULO).date() - timedelta(days=1))

    def __str__(self) -> str:
        return self.value.isoformat()

    @property
    def month(self) -> str:
        """`YYYY-MM`."""
        return self.value.strftime("%Y-%m")

    @property
    def start(self) -> datetime:
        """First instant of the day, in UTC.

        Where a daylight saving change skips midnight (2018-11-04), 00:00 does not exist; `fold=0` on the gap gives the
        same instant as 01:00 local, which is the first one that exists.
        """
        return _local_midnight(self.value)

    @property
    def end(self) -> datetime:
        """First instant that no longer belongs to the day, in UTC."""
        return _local_midnight(self.value + timedelta(days=1))

    def is_over(self, now: datetime) -> bool:
        """Whether the whole day lies before `now` (aware)."""
        return self.end <= now.astimezone(UTC)

    def require_over(self, now: datetime) -> None:
        """Refuse a day that can still receive documents."""
        if not self.is_over(now):
            raise ConfigurationError(
                f"reference_day {self} is not over yet: it ends at {self.end.astimezone(SAO_PAULO).isoformat()} "
                f"and now it is {now.astimezone(SAO_PAULO).isoformat(timespec='seconds')}. Choose an earlier day."
            )


def _local_midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=SAO_PAULO).astimezone(UTC)


def days_between(start: str, end: str) -> list[ReferenceDay]:
    """Every day from `start` to `end` (YYYY-MM-DD), both included; a range that is none is a `ConfigurationError`."""
    first, last = ReferenceDay.parse(start), ReferenceDay.parse(end)
    length = (last.value - first.value).days + 1
    if not 1 <= length <= MOST_DAYS:
        raise ConfigurationError(
            f"From {first} to {last} are {max(length, 0)} days; 1 to {MOST_DAYS} are allowed. Give the earlier day first, and a long "
            "range in pieces."
        )
    return [ReferenceDay(first.value + timedelta(days=number)) for number in range(length)]


def range_of_days(start: str, end: str, *, now: datetime, days: int) -> list[ReferenceDay]:
    """`days_between`, where an empty `end` is the last day that is over and an empty `start` the first of `days` days."""
    end = end or str(ReferenceDay.yesterday(now))
    return days_between(start or str(ReferenceDay(ReferenceDay.parse(end).value - timedelta(days=days - 1))), end)


def from_run(
    *,
    param: str | None,
    run_type: str,
    data_interval_start: datetime | None,
    run_after: datetime,
) -> ReferenceDay:
    """Tell which day an Airflow run covers.

    The param `reference_day` always wins. Scheduled and backfill runs cover the day in which their data interval starts.
    A manual run without a param covers the day before its `run_after`: its own interval and logical date say nothing in
    Airflow 3. Dates are São Paulo dates.
    """
    if param and param.strip():
        return ReferenceDay.parse(param.strip())
    if run_type in {"scheduled", "backfill"}:
        if data_interval_start is None:
            raise ConfigurationError(
                f"A {run_type} run without a data interval: the DAG needs CronDataIntervalTimetable, not a plain cron text."
            )
        return ReferenceDay(data_interval_start.astimezone(SAO_PAULO).date())
    return ReferenceDay.yesterday(run_after)


def from_airflow_context(context: Any) -> ReferenceDay:
    """`from_run` over the context of an Airflow task."""
    run = context["dag_run"]
    return from_run(
        param=(context.get("params") or {}).get("reference_day"),
        run_type=getattr(run.run_type, "value", str(run.run_type)),
        data_interval_start=context.get("data_interval_start"),
        run_after=run.run_after,
    )
