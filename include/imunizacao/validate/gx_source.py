"""Great Expectations in DuckDB. Importing this module imports Great Expectations (4 CPU seconds): only inside a task.

Version 1.24 has no DuckDB source, and its plain SQL source fails on the first metric: it closes the connection before it
fetches, and a DuckDB result does not outlive its connection; it has no regex operator for the dialect; and duckdb-engine
cannot tell column types under SQLAlchemy 2.1. The upstream request is great_expectations#10738; when a native engine is
released (pull request 12084), this module can go.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import duckdb_engine
import sqlalchemy as sa
from great_expectations.datasource.fluent.sql_datasource import SQLDatasource
from great_expectations.execution_engine import SqlAlchemyExecutionEngine
from sqlalchemy.dialects import postgresql

from imunizacao.sql import Engine
from imunizacao.sql.compile import quote_identifier


class _Inspector:
    """Column names and types from DESCRIBE, because the reflection of duckdb-engine fails on SQLAlchemy 2.1."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.dialect = engine, engine.engine.dialect

    def get_columns(self, table_name: str, schema: str | None = None, **_: Any) -> list[dict[str, Any]]:
        """Name and type of each column, in the shape of a SQLAlchemy inspector."""
        name = ".".join(quote_identifier(part) for part in (schema, str(table_name)) if part)
        with self._engine.get_connection() as connection:
            rows = connection.execute(sa.text(f"describe select * from {name}")).fetchall()
        return [{"name": row[0], "type": type(row[1], (sa.types.TypeEngine,), {})(), "nullable": True} for row in rows]

    def get_pk_constraint(self, table_name: str, schema: str | None = None, **_: Any) -> dict[str, Any]:
        """A view has no primary key."""
        return {"constrained_columns": []}


class DuckDBExecutionEngine(SqlAlchemyExecutionEngine):  # type: ignore[misc]
    """One connection for the life of the engine, and the regex operators of PostgreSQL, which DuckDB has too."""

    _connection: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dialect_module = postgresql

    @contextmanager
    def get_connection(self) -> Iterator[Any]:
        """The one connection, opened on first use. After an error the transaction is given up, or every later query fails too."""
        if self._connection is None:
            self._connection = self.engine.connect()
        try:
            yield self._connection
        except Exception:
            self._connection.rollback()
            raise

    def get_inspector(self) -> _Inspector:
        """Our own inspector."""
        return _Inspector(self)

    def end_transaction(self) -> None:
        """Let the next asset begin its own: SQLAlchemy opens one by itself, and DuckDB has no nested ones."""
        if self._connection is not None:
            self._connection.rollback()

    def close(self) -> None:
        """Close the one connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        super().close()


class DuckDBDatasource(SQLDatasource):  # type: ignore[misc]
    """Its definition registers `context.data_sources.add_duckdb`."""

    type: Literal["duckdb"] = "duckdb"

    @property
    def execution_engine_type(self) -> Any:
        """The engine above."""
        return DuckDBExecutionEngine


def add_duckdb(context: Any, duck: Engine, *, name: str) -> Any:
    """A data source of `context` that sees the views and tables of `duck` and shares its limits.

    It works on a cursor: the library closes what it is given, and the connection stays ours. A cursor does not see
    temporary tables.
    """
    cursor = duck.connection.cursor()
    return context.data_sources.add_duckdb(
        name=name,
        connection_string="duckdb:///:memory:",
        kwargs={"creator": lambda: duckdb_engine.ConnectionWrapper(cursor), "poolclass": sa.pool.StaticPool},
    )
