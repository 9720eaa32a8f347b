"""The schema `controle` on a real PostgreSQL, through both drivers, and the same outcomes in the work bucket."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import psycopg2
import pytest

from imunizacao.controle import (
    BucketOutcomeLog,
    Connection,
    Outcome,
    OutcomeLog,
    PostgresOutcomeLog,
    connect,
    migrate,
    open_quarantine,
    outcome_from_json,
    outcome_key,
    outcome_to_json,
    outcomes,
    record_outcome_end,
    record_outcome_start,
    record_outcomes,
    record_quarantine,
)
from imunizacao.controle.connection import transaction
from imunizacao.controle.migrate import MIGRATIONS, migrations
from imunizacao.errors import ConfigurationError, ContractViolation, DayHeld, MirrorUnavailable, StorageUnavailable
from imunizacao.models import RunContext
from imunizacao.reference_day import ReferenceDay
from imunizacao.storage import ObjectStore

pytestmark = pytest.mark.servers

DAY = ReferenceDay.parse("2026-03-14")
NOW = datetime(2026, 3, 15, 2, 10, tzinfo=UTC)
CONTEXT = RunContext.create(day=DAY, run_id="run-1", code_version="abc")


def _psycopg(dsn: str) -> Connection:
    return connect(dsn)


def _psycopg_autocommit(dsn: str) -> Connection:
    return psycopg.connect(dsn, autocommit=True)


def _psycopg2(dsn: str) -> Any:
    return psycopg2.connect(dsn)


def _psycopg2_autocommit(dsn: str) -> Any:
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    return connection


DRIVERS = [_psycopg, _psycopg_autocommit, _psycopg2, _psycopg2_autocommit]


@pytest.fixture(params=DRIVERS, ids=lambda make: make.__name__.strip("_"))
def connection(request: pytest.FixtureRequest, controle_dsn: str) -> Iterator[Any]:
    """A migrated database, seen through each driver and mode."""
    opened = request.param(controle_dsn)
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def database(controle_dsn: str) -> str:
    """DSN of a migrated database."""
    with connect(controle_dsn) as opened:
        migrate(opened)
    return controle_dsn


def _sql(dsn: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as opened:
        cursor = opened.execute(statement, parameters or None)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


# Migrations


def test_migrations_are_applied_once_and_in_order(controle_dsn: str) -> None:
    names = [path.stem for path in sorted(MIGRATIONS.glob("*.sql"))]
    with connect(controle_dsn) as opened:
        assert migrate(opened) == names
        assert migrate(opened) == []
    rows = _sql(controle_dsn, "select version, name, sha256 from controle.migration order by version")
    assert [f"{version:04d}_{name}" for version, name, _ in rows] == names
    assert [sha256 for *_, sha256 in rows] == [migration.sha256 for migration in migrations()]


@pytest.mark.parametrize("make", DRIVERS)
def test_every_driver_and_mode_migrates(make: Callable[[str], Any], controle_dsn: str) -> None:
    opened = make(controle_dsn)
    try:
        assert len(migrate(opened)) == len(migrations())
    finally:
        opened.close()
    assert _sql(controle_dsn, "select count(*) from controle.outcome") == [(0,)]


def test_callers_at_the_same_time_take_turns(controle_dsn: str) -> None:
    results: list[int] = []

    def work() -> None:
        with connect(controle_dsn) as opened:
            results.append(len(migrate(opened)))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0] * 5 + [len(migrations())]


def test_a_failing_migration_leaves_nothing(controle_dsn: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations"))
    number = len(migrations()) + 1
    (folder / f"{number:04d}_broken.sql").write_text("create table controle.fine (a int); select no_such_function();")
    with connect(controle_dsn) as opened:
        with pytest.raises(ContractViolation, match=r"could not migrate \(UndefinedFunction"):
            migrate(opened, folder=folder)
        assert _sql(controle_dsn, "select to_regclass('controle.migration'), to_regclass('controle.fine')") == [
            (None, None)
        ]
        assert len(migrate(opened)) == number - 1, "the connection is usable after a failure"


def test_a_migration_that_changed_after_it_was_applied_is_refused(database: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations"))
    with (folder / "0001_outcome.sql").open("a") as file:
        file.write("-- one more word\n")
    with (
        connect(database) as opened,
        pytest.raises(ContractViolation, match=r"0001_outcome.sql changed .* new migration"),
    ):
        migrate(opened, folder=folder)


def test_a_database_ahead_of_the_code_is_refused(database: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations"))
    last = sorted(folder.glob("*.sql"))[-1]
    last.unlink()
    with connect(database) as opened, pytest.raises(ContractViolation, match="ahead"):
        migrate(opened, folder=folder)


def test_an_edited_migration_table_is_refused(database: str) -> None:
    _sql(database, "delete from controle.migration where version = 1")
    with connect(database) as opened, pytest.raises(ContractViolation, match=r"lacks versions \[1\]"):
        migrate(opened)


def test_numbers_of_migrations_have_no_gap(tmp_path: Path) -> None:
    (tmp_path / "0002_second.sql").write_text("select 1")
    with pytest.raises(ContractViolation, match=r"found \[2\]"):
        migrations(tmp_path)
    (tmp_path / "first.sql").write_text("select 1")
    with pytest.raises(ContractViolation, match=r"first\.sql is not named"):
        migrations(tmp_path)


def test_a_user_without_permissions_is_told_what_to_do(database: str) -> None:
    _sql(database, "create role reader_only login password 'reader'")
    try:
        dsn = psycopg.conninfo.make_conninfo(database, user="reader_only", password="reader")
        with connect(dsn) as opened, pytest.raises(ConfigurationError, match=r"SQLSTATE 42501.*controle-migrations"):
            outcomes(opened, DAY)
    finally:
        _sql(database, "drop role reader_only")


# Outcomes


def test_an_outcome_is_read_as_it_was_written(connection: Connection) -> None:
    running = Outcome(
        reference_day="2026-03-14",
        stage="publish",
        run_id="r",
        attempt=2,
        state="running",
        started_at=NOW,
        code_version="abc",
    )
    record_outcome_start(connection, running)
    assert outcomes(connection, DAY) == [running]
    done = Outcome(
        reference_day="2026-03-14",
        stage="publish",
        run_id="r",
        attempt=2,
        state="done",
        started_at=NOW,
        finished_at=NOW + timedelta(seconds=3),
        seconds=2.5,
        counts={"published": 3_000_000_000, "share": 0.25},
        bytes=5_000_000_000,
        revision=3,
        code_version="abc",
    )
    record_outcome_end(connection, done)
    assert outcomes(connection, DAY) == [done]
    assert outcomes(connection, ReferenceDay.parse("2026-03-13")) == []


@pytest.mark.parametrize("counts", ['{"name": "MARIA"}', '{"deep": {"name": 1}}', "[1]"])
def test_the_database_takes_no_counts_but_numbers(database: str, counts: str) -> None:
    with PostgresOutcomeLog(lambda: connect(database)).stage(CONTEXT, "extract", 1):
        pass
    with pytest.raises(psycopg.errors.CheckViolation):
        _sql(database, "update controle.outcome set counts = %s::jsonb", counts)


def test_an_end_is_not_a_start(database: str) -> None:
    running = Outcome(
        reference_day="2026-03-14",
        stage="split",
        run_id="r",
        attempt=1,
        state="running",
        started_at=NOW,
        code_version="abc",
    )
    with connect(database) as opened:
        with pytest.raises(ContractViolation, match="end of outcome split"):
            record_outcome_end(opened, running)
        with pytest.raises(ContractViolation, match="start of outcome split"):
            record_outcome_start(
                opened,
                Outcome(
                    reference_day="2026-03-14",
                    stage="split",
                    run_id="r",
                    attempt=1,
                    state="done",
                    started_at=NOW,
                    finished_at=NOW,
                    code_version="abc",
                ),
            )


class Logs:
    """Either log, and how to read back what it wrote."""

    def __init__(self, log: OutcomeLog, read: Callable[[str, int], Outcome]) -> None:
        self.log = log
        self.read = read


@pytest.fixture(params=["postgres", "bucket"])
def logs(request: pytest.FixtureRequest) -> Logs:
    """The same behaviour from both."""
    if request.param == "bucket":
        work: ObjectStore = request.getfixturevalue("work")
        return Logs(
            BucketOutcomeLog(work, clock=lambda: NOW),
            lambda stage, attempt: outcome_from_json(work.get(outcome_key(CONTEXT, stage, attempt)).body),
        )
    dsn: str = request.getfixturevalue("database")

    def read(stage: str, attempt: int) -> Outcome:
        with connect(dsn) as opened:
            (found,) = [row for row in outcomes(opened, DAY) if (row.stage, row.attempt) == (stage, attempt)]
        return found

    return Logs(PostgresOutcomeLog(lambda: connect(dsn), clock=lambda: NOW), read)


def test_a_stage_is_running_and_then_done(logs: Logs) -> None:
    with logs.log.stage(CONTEXT, "extract", 1) as record:
        assert logs.read("extract", 1).state == "running"
        assert logs.read("extract", 1).finished_at is None
        record.counts = {"fetched": 7}
        record.bytes = 100
        record.revision = 2
    found = logs.read("extract", 1)
    assert (found.state, found.counts, found.bytes, found.revision) == ("done", {"fetched": 7}, 100, 2)
    assert (found.reference_day, found.run_id, found.code_version) == ("2026-03-14", "run-1", "abc")
    assert (found.started_at, found.finished_at, found.error_code, found.message) == (NOW, NOW, None, None)
    assert found.seconds is not None


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (MirrorUnavailable("no answer"), "failed", "no answer"),
        (DayHeld("IMU-001"), "held", "IMU-001"),
        (ValueError("CNS 700000000000005"), "failed", None),
        (KeyboardInterrupt(), "failed", None),
    ],
)
def test_a_stage_that_ends_badly_says_so_and_the_error_goes_on(
    logs: Logs, error: BaseException, state: str, message: str | None
) -> None:
    def run() -> None:
        with logs.log.stage(CONTEXT, "validate", 3) as record:
            record.counts = {"checked": 5}
            raise error

    with pytest.raises(type(error)) as caught:
        run()
    assert caught.value is error
    found = logs.read("validate", 3)
    assert (found.state, found.error_code, found.message) == (state, type(error).__name__, message)
    assert found.counts == {"checked": 5}, "what was counted before the failure is kept"


def test_a_text_among_the_counts_fails_the_stage_and_is_not_written(logs: Logs) -> None:
    def run() -> None:
        with logs.log.stage(CONTEXT, "extract", 1) as record:
            record.counts = {"fetched": 1, "name": "MARIA"}  # type: ignore[dict-item]

    with pytest.raises(ContractViolation, match="'name' of an outcome is a str"):
        run()
    found = logs.read("extract", 1)
    assert (found.state, found.error_code, found.counts) == ("failed", "ContractViolation", {"fetched": 1})


def test_attempts_are_kept_apart_and_the_same_attempt_begun_again_starts_over(logs: Logs) -> None:
    with pytest.raises(MirrorUnavailable), logs.log.stage(CONTEXT, "extract", 1):
        raise MirrorUnavailable("first")
    with logs.log.stage(CONTEXT, "extract", 2):
        pass
    assert [logs.read("extract", attempt).state for attempt in (1, 2)] == ["failed", "done"]
    with logs.log.stage(CONTEXT, "extract", 1):
        assert (logs.read("extract", 1).state, logs.read("extract", 1).message) == ("running", None)
    assert logs.read("extract", 1).state == "done"


def _breaking(dsn: str, times: list[str]) -> Callable[[], Connection]:
    """A factory that gives one connection, then none."""

    def make() -> Connection:
        if times:
            raise ConnectionRefusedError("gone")
        times.append("used")
        return connect(dsn)

    return make


def test_a_lost_outcome_never_hides_the_error_of_the_stage(database: str, caplog: pytest.LogCaptureFixture) -> None:
    log = PostgresOutcomeLog(_breaking(database, []))

    def run() -> None:
        with log.stage(CONTEXT, "extract", 1):
            raise MirrorUnavailable("the real one")

    with (
        caplog.at_level(logging.WARNING, logger="imunizacao"),
        pytest.raises(MirrorUnavailable, match="real one") as caught,
    ):
        run()
    assert "ConnectionRefusedError" in caught.value.__notes__[0]
    assert "event=controle.outcome_lost stage=extract" in caplog.text


def test_a_lost_outcome_of_a_good_stage_is_an_error(database: str) -> None:
    log = PostgresOutcomeLog(_breaking(database, []))
    with pytest.raises(ConnectionRefusedError), log.stage(CONTEXT, "extract", 1):
        pass


def test_no_stage_starts_when_its_outcome_cannot_be_written(controle_dsn: str) -> None:
    started = []
    log = PostgresOutcomeLog(lambda: connect(controle_dsn))
    with pytest.raises(ConfigurationError, match="UndefinedTable"), log.stage(CONTEXT, "extract", 1):
        started.append(True)
    assert not started


def test_outcomes_of_the_bucket_fill_a_new_database(work: ObjectStore, database: str) -> None:
    log = BucketOutcomeLog(work, clock=lambda: NOW)
    for stage in ("extract", "flatten"):
        with log.stage(CONTEXT, stage, 1) as record:
            record.counts = {"doses": 3}
    found = [outcome_from_json(work.get(info.key).body) for info in work.list(CONTEXT.prefix("outcomes"))]
    with connect(database) as opened:
        record_outcomes(opened, found)
        record_outcomes(opened, found)
        assert outcomes(opened, DAY) == sorted(found, key=lambda outcome: outcome.stage)


def test_an_outcome_that_is_something_else_is_refused() -> None:
    with pytest.raises(ContractViolation, match="cannot be read"):
        outcome_from_json(b'{"stage": 1}')
    outcome = Outcome(
        reference_day="2026-03-14",
        stage="split",
        run_id="r",
        attempt=1,
        state="running",
        started_at=NOW,
        code_version="abc",
    )
    assert outcome_from_json(outcome_to_json(outcome)) == outcome


# Quarantine


def test_the_newest_run_of_a_day_has_the_open_quarantine(connection: Connection) -> None:
    first = {"35": {"CNES_UNKNOWN": 4, "ID_INVALID": 1}, "00": {"JSON_INVALID": 2}, "12": {"CNES_UNKNOWN": 0}}
    assert record_quarantine(connection, CONTEXT, quarantined_by_uf=first, rules_version="r1") == 3
    assert open_quarantine(connection, DAY) == {"00": {"JSON_INVALID": 2}, "35": {"CNES_UNKNOWN": 4, "ID_INVALID": 1}}
    assert (
        record_quarantine(connection, CONTEXT, quarantined_by_uf={"35": {"CNES_UNKNOWN": 3}}, rules_version="r1") == 1
    )
    assert open_quarantine(connection, DAY) == {"35": {"CNES_UNKNOWN": 3}}
    second = RunContext.create(day=DAY, run_id="run-2", code_version="abc")
    assert record_quarantine(connection, second, quarantined_by_uf={}, rules_version="r2") == 0
    assert open_quarantine(connection, DAY) == {}
    with transaction(connection, "look") as cursor:
        cursor.execute("select run_id, reason, co_uf, qt_doses, state, rules_version from controle.quarantine")
        assert [tuple(row) for row in cursor.fetchall()] == [("run-1", "CNES_UNKNOWN", "35", 3, "superseded", "r1")]


def test_a_reason_that_is_no_code_is_refused_and_what_was_there_stays(connection: Connection) -> None:
    record_quarantine(connection, CONTEXT, quarantined_by_uf={"35": {"CNES_UNKNOWN": 3}}, rules_version="r1")
    with pytest.raises(ContractViolation, match="CheckViolation") as caught:
        record_quarantine(connection, CONTEXT, quarantined_by_uf={"35": {"MARIA da Silva": 3}}, rules_version="r1")
    assert "MARIA" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None, "the driver's text quotes the row"
    assert open_quarantine(connection, DAY) == {"35": {"CNES_UNKNOWN": 3}}


# Connections


def test_a_server_that_is_not_there_is_retried_and_its_address_is_not_told() -> None:
    with pytest.raises(StorageUnavailable) as caught:
        connect("postgresql://someone:secret@127.0.0.1:1/base")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None, "the driver's text quotes the row"
    with pytest.raises(ConfigurationError) as refused:
        connect("no address, password=secret")
    assert "secret" not in str(refused.value)


def test_a_connection_that_died_is_reported_as_unavailable(connection: Any, database: str) -> None:
    with transaction(connection, "look") as cursor:
        cursor.execute("select pg_backend_pid()")
        (pid,) = cursor.fetchone()
    _sql(database, "select pg_terminate_backend(%s)", pid)
    with pytest.raises(StorageUnavailable, match="could not read the outcomes"):
        outcomes(connection, DAY)
