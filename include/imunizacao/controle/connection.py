"""Connections to the schema `controle`: transactions, bulk copies, and the driver's errors as ours.

Written for any DB-API driver with `%s` parameters: psycopg 3 (CLI) and psycopg2 or psycopg 3 (Airflow's PostgresHook).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg

from imunizacao.errors import ConfigurationError, ContractViolation, PipelineError, StorageUnavailable

_BLOCK = 1 << 20
_CONNECT_SECONDS = 10
_APPLICATION = "imunizacao"

# SQLSTATE classes (PostgreSQL manual, appendix A): connection, rollback, resources, not in the right state, operator, system.
_PASSING = ("08", "40", "53", "55", "57", "58")
# Wrong login, no such database, schema or table, no permission.
_SETUP = ("28", "3D", "3F", "42501", "42P01", "42703")


class Connection(Protocol):
    """The part of a DB-API connection that is used here. It must be idle when handed in: every function ends its transaction."""

    @property
    def autocommit(self) -> bool:
        """Whether each statement commits by itself; both modes work."""

    @property
    def Error(self) -> type[Exception]:  # noqa: N802 - PEP 249 names it
        """Base of the driver's errors (PEP 249, optional extensions)."""

    def cursor(self) -> Any:
        """A new cursor."""

    def commit(self) -> None:
        """End the transaction, keep its changes."""

    def rollback(self) -> None:
        """End the transaction, drop its changes."""

    def close(self) -> None:
        """Give the connection back."""


ConnectionFactory = Callable[[], Connection]
"""Makes a connection of its own for each use; the user closes it."""


def connect(dsn: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Open a connection with psycopg 3 (`with` closes it); the DSN is a secret and is never part of an error."""
    try:
        return psycopg.connect(dsn, connect_timeout=_CONNECT_SECONDS, application_name=_APPLICATION)
    except psycopg.OperationalError as error:
        raise StorageUnavailable(
            f"PostgreSQL (schema controle) cannot be reached ({type(error).__name__}). Check that the server is up and that "
            "host, port, database, user and password of IMUNIZACAO_CONTROLE_DSN are right, then run again."
        ) from None
    except psycopg.Error as error:
        raise ConfigurationError(
            f"IMUNIZACAO_CONTROLE_DSN is not a PostgreSQL address ({type(error).__name__}). "
            "Example of the form: postgresql://user:password@host:5432/database."
        ) from None


@contextmanager
def transaction(connection: Connection, doing: str) -> Iterator[Any]:
    """Run one transaction and give its cursor: committed at the end of the block, rolled back by any exception.

    Errors of the driver become `StorageUnavailable` (retry), `ConfigurationError` (mend the set-up) or `ContractViolation`.
    Only their kind is told: a driver's message can quote whole rows. `doing` completes "PostgreSQL could not …".
    """
    try:
        with connection.cursor() as cursor:
            # In autocommit mode the driver opens no transaction, and psycopg2 would not end one.
            if connection.autocommit:
                cursor.execute("begin")
            yield cursor
            if connection.autocommit:
                cursor.execute("commit")
        if not connection.autocommit:
            connection.commit()
    except BaseException as error:
        _roll_back(connection)
        if isinstance(error, connection.Error):
            raise _mapped(error, doing) from None
        raise


@contextmanager
def opened(factory: ConnectionFactory) -> Iterator[Connection]:
    """Open a connection for the block and close it."""
    connection = factory()
    try:
        yield connection
    finally:
        connection.close()


def copy_in(cursor: Any, statement: str, path: Path) -> None:
    """Send a local file through `copy … from stdin`, with psycopg 3 or psycopg2."""
    with path.open("rb") as source:
        if hasattr(cursor, "copy_expert"):
            cursor.copy_expert(statement, source, _BLOCK)
            return
        with cursor.copy(statement) as copy:
            while block := source.read(_BLOCK):
                copy.write(block)


def copy_out(cursor: Any, statement: str, path: Path) -> None:
    """Write the answer of `copy … to stdout` to a local file, with psycopg 3 or psycopg2."""
    with path.open("wb") as target:
        if hasattr(cursor, "copy_expert"):
            cursor.copy_expert(statement, target, _BLOCK)
            return
        with cursor.copy(statement) as copy:
            for block in copy:
                target.write(block)


def _roll_back(connection: Connection) -> None:
    try:
        if connection.autocommit:
            with connection.cursor() as cursor:
                cursor.execute("rollback")
        else:
            connection.rollback()
    except connection.Error:
        # The connection is gone: the server rolls back by itself, and the first error is the one to tell.
        return


def _mapped(error: Exception, doing: str) -> PipelineError:
    state = str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")
    kind = f"{type(error).__name__}{', SQLSTATE ' + state if state else ''}"
    if not state or state.startswith(_PASSING):
        return StorageUnavailable(
            f"PostgreSQL (schema controle) could not {doing} ({kind}). Run again when the server is well; what this step "
            "had begun is rolled back."
        )
    if state.startswith(_SETUP):
        return ConfigurationError(
            f"PostgreSQL (schema controle) could not {doing} ({kind}). Run the migrations with a user that may create the "
            "schema, and give this user its permissions: docs/runbook/controle-migrations.md."
        )
    return ContractViolation(
        f"PostgreSQL (schema controle) could not {doing} ({kind}): what was to be written breaks a constraint. Nothing of it "
        "was kept. The server's log has the details."
    )
