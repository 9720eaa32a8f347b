"""What every stage of every run did: `controle.outcome`, or JSON in the work bucket where there is no database."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import msgspec

from imunizacao.controle.connection import Connection, ConnectionFactory, opened, transaction
from imunizacao.errors import ContractViolation, DayHeld, PipelineError
from imunizacao.events import log_event
from imunizacao.models import RunContext
from imunizacao.reference_day import ReferenceDay

State = Literal["running", "done", "failed", "held"]
Clock = Callable[[], datetime]
_MESSAGE_LENGTH = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One attempt of one stage. Grain: reference_day, stage, run_id, attempt."""

    reference_day: str
    stage: str
    run_id: str
    attempt: int
    state: State
    started_at: datetime
    code_version: str
    finished_at: datetime | None = None
    seconds: float | None = None
    """By a clock that never jumps; None while running."""
    counts: dict[str, int | float] = field(default_factory=dict)
    bytes: int = 0
    revision: int | None = None
    """Revision of the day that readers see since, where the stage knows it."""
    error_code: str | None = None
    """Name of the exception class."""
    message: str | None = None
    """Our own message; None for exceptions that are not ours, whose text could quote data."""


@dataclass(slots=True, kw_only=True)
class StageRecord:
    """What a running stage tells about itself; written when it ends, well or badly."""

    counts: Mapping[str, int | float] = field(default_factory=dict)
    bytes: int = 0
    revision: int | None = None
    message: str | None = None
    """Our own words about a stage that went well; a failed one says its error."""


class OutcomeLog(Protocol):
    """Where outcomes go."""

    @contextmanager
    def stage(self, context: RunContext, stage: str, attempt: int) -> Iterator[StageRecord]:
        """Write `running`, run the block, write `done`, `held` (for `DayHeld`) or `failed`; the exception goes on.

        An outcome that cannot be written at the start or after success raises; after a failure it is only logged, so that
        the stage's own error is the one that is seen.
        """

    def counts(self, context: RunContext) -> dict[str, dict[str, int | float]]:
        """Stage → counts of its last attempt that was done in this run."""

    def of_run(self, context: RunContext) -> list[Outcome]:
        """All attempts of a run on its day, in order of their start."""


class OutcomeStore(Protocol):
    """The part of an object store that outcomes need."""

    def put(self, key: str, body: bytes, *, content_type: str) -> str:
        """Write one object."""

    def list(self, prefix: str) -> Iterable[Any]:
        """Infos with a `key`, in order of keys."""

    def get(self, key: str) -> Any:
        """An object with a `body`."""


class PostgresOutcomeLog:
    """Outcomes in `controle.outcome`. A connection of its own per write: none is held while a stage works."""

    def __init__(self, connection_factory: ConnectionFactory, *, clock: Clock | None = None) -> None:
        self._connect = connection_factory
        self._clock = clock or _now

    @contextmanager
    def stage(self, context: RunContext, stage: str, attempt: int) -> Iterator[StageRecord]:
        """See `OutcomeLog.stage`."""
        with _recorded(context, stage, attempt, clock=self._clock, begin=self._begin, end=self._end) as record:
            yield record

    def counts(self, context: RunContext) -> dict[str, dict[str, int | float]]:
        """See `OutcomeLog.counts`."""
        return _last_done(self.of_run(context))

    def of_run(self, context: RunContext) -> list[Outcome]:
        """See `OutcomeLog.of_run`."""
        with opened(self._connect) as connection:
            found = outcomes(connection, context.day)
        return [outcome for outcome in found if outcome.run_id == context.run_id]

    def _begin(self, outcome: Outcome) -> None:
        with opened(self._connect) as connection:
            record_outcome_start(connection, outcome)

    def _end(self, outcome: Outcome) -> None:
        with opened(self._connect) as connection:
            record_outcome_end(connection, outcome)


class BucketOutcomeLog:
    """Outcomes as `v1/day=D/run=R/outcomes/<stage>-<attempt>.json` in the work bucket, for runs without a database."""

    def __init__(self, store: OutcomeStore, *, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or _now

    @contextmanager
    def stage(self, context: RunContext, stage: str, attempt: int) -> Iterator[StageRecord]:
        """See `OutcomeLog.stage`."""
        key = outcome_key(context, stage, attempt)

        def put(outcome: Outcome) -> None:
            self._store.put(key, outcome_to_json(outcome), content_type="application/json")

        with _recorded(context, stage, attempt, clock=self._clock, begin=put, end=put) as record:
            yield record

    def counts(self, context: RunContext) -> dict[str, dict[str, int | float]]:
        """See `OutcomeLog.counts`."""
        return _last_done(self.of_run(context))

    def of_run(self, context: RunContext) -> list[Outcome]:
        """See `OutcomeLog.of_run`."""
        keys = [info.key for info in self._store.list(context.prefix("outcomes"))]
        found = [outcome_from_json(self._store.get(key).body) for key in keys]
        return sorted(found, key=lambda outcome: (outcome.started_at, outcome.stage, outcome.attempt))


def _last_done(found: Iterable[Outcome]) -> dict[str, dict[str, int | float]]:
    done = [outcome for outcome in found if outcome.state == "done"]
    return {outcome.stage: outcome.counts for outcome in sorted(done, key=lambda outcome: outcome.attempt)}


def outcome_to_json(outcome: Outcome) -> bytes:
    """JSON of an outcome, as kept in the work bucket."""
    return msgspec.json.encode(outcome)


def outcome_from_json(text: str | bytes) -> Outcome:
    """Read what `outcome_to_json` wrote; anything else is a `ContractViolation`."""
    try:
        return msgspec.json.decode(text, type=Outcome)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ContractViolation(
            f"An outcome cannot be read ({error}). Delete it: the next attempt of its stage writes its own."
        ) from error


def outcome_key(context: RunContext, stage: str, attempt: int) -> str:
    """Key of an outcome in the work bucket."""
    return f"{context.prefix('outcomes')}{stage}-{attempt}.json"


def record_outcome_start(connection: Connection, outcome: Outcome) -> None:
    """Write that an attempt is running. The same attempt begun again (its worker was lost) starts from nothing."""
    if outcome.state != "running" or outcome.finished_at is not None:
        raise ContractViolation(f"The start of {_name(outcome)} was given with state {outcome.state}.")
    _upsert(connection, [outcome])


def record_outcome_end(connection: Connection, outcome: Outcome) -> None:
    """Write how an attempt ended, whether or not its start is there."""
    record_outcomes(connection, [outcome])


def record_outcomes(connection: Connection, ended: Iterable[Outcome]) -> None:
    """Write ended attempts in one transaction: also the way back from the work bucket after a lost database."""
    found = list(ended)
    for outcome in found:
        if outcome.state == "running" or outcome.finished_at is None:
            raise ContractViolation(f"The end of {_name(outcome)} was given with state {outcome.state}.")
    _upsert(connection, found)


def outcomes(connection: Connection, day: ReferenceDay) -> list[Outcome]:
    """All attempts of a day, in order of their start."""
    with transaction(connection, f"read the outcomes of {day}") as cursor:
        cursor.execute(
            "select to_char(reference_day, 'YYYY-MM-DD'), stage, run_id, attempt, state, started_at, finished_at, seconds, "
            "counts::text, bytes, revision, code_version, error_code, message "
            "from controle.outcome where reference_day = %s order by started_at, stage, run_id, attempt",
            (day.value,),
        )
        rows = cursor.fetchall()
    return [
        Outcome(
            reference_day=row[0],
            stage=row[1],
            run_id=row[2],
            attempt=row[3],
            state=row[4],
            started_at=row[5].astimezone(UTC),
            finished_at=row[6].astimezone(UTC) if row[6] else None,
            seconds=row[7],
            counts=json.loads(row[8]),
            bytes=row[9],
            revision=row[10],
            code_version=row[11],
            error_code=row[12],
            message=row[13],
        )
        for row in rows
    ]


def record_quarantine(
    connection: Connection,
    context: RunContext,
    *,
    quarantined_by_uf: Mapping[str, Mapping[str, int]],
    rules_version: str,
) -> int:
    """Write how many doses of a run are in quarantine (UF code or `00` → reason → doses) and return the rows written.

    It becomes the open quarantine of the day: the rows of other runs of the day are `superseded`, those of the same run
    are replaced. An empty mapping says that nothing is open any more.
    """
    rows = [
        (context.day.value, context.run_id, reason, uf, doses, rules_version)
        for uf, reasons in sorted(quarantined_by_uf.items())
        for reason, doses in sorted(reasons.items())
        if doses
    ]
    with transaction(connection, f"record the quarantine of {context.day}") as cursor:
        cursor.execute(
            "delete from controle.quarantine where reference_day = %s and run_id = %s",
            (context.day.value, context.run_id),
        )
        cursor.execute(
            "update controle.quarantine set state = 'superseded' where reference_day = %s and state = 'open'",
            (context.day.value,),
        )
        if rows:
            cursor.executemany(
                "insert into controle.quarantine (reference_day, run_id, reason, co_uf, qt_doses, rules_version) "
                "values (%s, %s, %s, %s, %s, %s)",
                rows,
            )
    return len(rows)


def open_quarantine(connection: Connection, day: ReferenceDay) -> dict[str, dict[str, int]]:
    """UF code (or `00`) → reason → doses that wait in the quarantine of a day."""
    with transaction(connection, f"read the quarantine of {day}") as cursor:
        cursor.execute(
            "select co_uf, reason, qt_doses from controle.quarantine where reference_day = %s and state = 'open' "
            "order by co_uf, reason",
            (day.value,),
        )
        found: dict[str, dict[str, int]] = {}
        for uf, reason, doses in cursor.fetchall():
            found.setdefault(str(uf), {})[str(reason)] = int(doses)
    return found


@contextmanager
def _recorded(
    context: RunContext,
    stage: str,
    attempt: int,
    *,
    clock: Clock,
    begin: Callable[[Outcome], None],
    end: Callable[[Outcome], None],
) -> Iterator[StageRecord]:
    started = time.monotonic()
    running = Outcome(
        reference_day=str(context.day),
        stage=stage,
        run_id=context.run_id,
        attempt=attempt,
        state="running",
        started_at=clock(),
        code_version=context.code_version,
    )
    begin(running)
    record = StageRecord()

    def ended(state: State, counts: dict[str, int | float], error: BaseException | None = None) -> Outcome:
        return replace(
            running,
            state=state,
            finished_at=clock(),
            seconds=round(time.monotonic() - started, 3),
            counts=counts,
            bytes=record.bytes,
            revision=record.revision,
            error_code=type(error).__name__ if error else None,
            message=_message(record, error),
        )

    try:
        yield record
        counts = _numbers(record.counts)
    except BaseException as error:
        state: State = "held" if isinstance(error, DayHeld) else "failed"
        kept = {name: value for name, value in record.counts.items() if _is_number(value)}
        try:
            end(ended(state, kept, error))
        except Exception as lost:  # noqa: BLE001 - whatever the driver raises, the stage's own error is the one to see
            log_event(
                "controle.outcome_lost",
                level=logging.WARNING,
                stage=stage,
                day=str(context.day),
                attempt=attempt,
                error=type(lost).__name__,
            )
            error.add_note(f"Its outcome could not be written either ({type(lost).__name__}).")
        raise
    end(ended("done", counts))


def _message(record: StageRecord, error: BaseException | None) -> str | None:
    text = record.message if error is None else str(error) if isinstance(error, PipelineError) else None
    return text[:_MESSAGE_LENGTH] if text else None


def _upsert(connection: Connection, found: list[Outcome]) -> None:
    what = _name(found[0]) if found else "no outcome"
    with transaction(connection, f"record {what}") as cursor:
        cursor.executemany(
            "insert into controle.outcome (reference_day, stage, run_id, attempt, state, started_at, finished_at, seconds, "
            "counts, bytes, revision, code_version, error_code, message) "
            "values (%s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s, %s, %s, %s, %s) "
            "on conflict (reference_day, stage, run_id, attempt) do update set "
            "state = excluded.state, started_at = excluded.started_at, finished_at = excluded.finished_at, "
            "seconds = excluded.seconds, counts = excluded.counts, bytes = excluded.bytes, revision = excluded.revision, "
            "code_version = excluded.code_version, error_code = excluded.error_code, message = excluded.message",
            [
                (
                    ReferenceDay.parse(outcome.reference_day).value,
                    outcome.stage,
                    outcome.run_id,
                    outcome.attempt,
                    outcome.state,
                    outcome.started_at,
                    outcome.finished_at,
                    outcome.seconds,
                    json.dumps(_numbers(outcome.counts)),
                    outcome.bytes,
                    outcome.revision,
                    outcome.code_version,
                    outcome.error_code,
                    outcome.message,
                )
                for outcome in found
            ],
        )


def _numbers(counts: Mapping[str, int | float]) -> dict[str, int | float]:
    """Refuse anything but finite numbers: a text among the counts could carry data out."""
    for name, value in counts.items():
        if not _is_number(value):
            raise ContractViolation(f"Count {name!r} of an outcome is a {type(value).__name__}, not a finite number.")
    return dict(counts)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name(outcome: Outcome) -> str:
    return f"outcome {outcome.stage} of {outcome.reference_day}, run {outcome.run_id}, attempt {outcome.attempt}"


def _now() -> datetime:
    return datetime.now(UTC)
