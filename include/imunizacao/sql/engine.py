"""A DuckDB connection with limits, which runs SQL files by name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from imunizacao.errors import ContractViolation, StorageUnavailable
from imunizacao.paths import SQL
from imunizacao.settings import EngineSettings

Parameter = str | int | float | bool | bytes | None | Sequence[str]


class Engine:
    """One connection. SQL comes from files under `include/sql/`, values are named parameters, never text."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self.connection = connection
        self.folder = folder
        """Scratch folder of this engine; gone when it is closed."""

    def run(self, name: str, /, **parameters: Parameter) -> None:
        """Run `include/sql/<name>.sql`, for example `flatten/10_raw_document`."""
        self._execute(name, read_sql(name), parameters)

    def stream(self, name: str, /, **parameters: Parameter) -> None:
        """Run a file whose joins are written probe side first, rows in any order: nothing wide is held in memory.

        With order kept, DuckDB holds finished row groups back and falls to one thread under a small memory limit; with the
        build side chosen by estimate, it may put the wide side into a hash table (measured: 3.5 times the CPU at 1 GB).
        """
        self.connection.execute("set preserve_insertion_order = false")
        self.connection.execute("set disabled_optimizers = 'join_order,build_side_probe_side'")
        try:
            self.run(name, **parameters)
        finally:
            self.connection.execute("set disabled_optimizers = ''")
            self.connection.execute("set preserve_insertion_order = true")

    def run_each(self, name: str, every: Sequence[Mapping[str, Parameter]], *, threads: int) -> Iterator[None]:
        """Run a file once per set of parameters, `threads` at a time, each on its own cursor; yields after each one is done."""

        def one(parameters: Mapping[str, Parameter]) -> None:
            cursor = Engine(self.connection.cursor(), self.folder)
            try:
                cursor.run(name, **parameters)
            finally:
                cursor.connection.close()

        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(one, parameters) for parameters in every]:
                yield future.result()

    def drop(self, table: str) -> None:
        """Give back the memory of a table that no later step reads."""
        self._execute("drop", f'drop table "{table}"', {})

    def rows(self, name: str, /, **parameters: Parameter) -> list[tuple[Any, ...]]:
        """Run a file and fetch its rows: for counts and other small answers."""
        return self._execute(name, read_sql(name), parameters).fetchall()

    def batches(self, name: str, /, *, size: int, **parameters: Parameter) -> Iterator[list[tuple[Any, ...]]]:
        """Run a file and fetch its rows `size` at a time: for answers that may have one row per dose."""
        answer = self._execute(name, read_sql(name), parameters)
        while rows := answer.fetchmany(size):
            yield rows

    def columns(self, name: str, /, **parameters: Parameter) -> list[tuple[str, str]]:
        """Name and type of the columns that a file answers with."""
        described = self._execute(name, read_sql(name), parameters).description or []
        return [(str(column[0]), str(column[1])) for column in described]

    def row(self, name: str, /, **parameters: Parameter) -> tuple[Any, ...]:
        """Run a file that answers exactly one row."""
        found = self.rows(name, **parameters)
        if len(found) != 1:
            raise ContractViolation(f"sql/{name}.sql answered {len(found)} rows, expected 1.")
        return found[0]

    def execute(
        self, label: str, text: str, parameters: Mapping[str, Parameter] | None = None
    ) -> duckdb.DuckDBPyConnection:
        """Run compiled SQL (from `sql/compile.py` only); `label` names it in errors."""
        return self._execute(label, text, parameters or {})

    def _execute(self, label: str, text: str, parameters: Mapping[str, Parameter]) -> duckdb.DuckDBPyConnection:
        try:
            return self.connection.execute(text, dict(parameters) if parameters else None)
        except duckdb.OutOfMemoryException as error:
            raise StorageUnavailable(
                f"DuckDB ran out of memory or scratch disk in {label}: {_first_line(error)}. Raise IMUNIZACAO_MEMORY_LIMIT "
                f"or free disk under {self.folder.parent}, then run the task again."
            ) from None
        except duckdb.IOException as error:
            raise StorageUnavailable(
                f"DuckDB cannot read or write a local file in {label}: {_first_line(error)}. "
                f"Check free disk under {self.folder.parent}, then run the task again."
            ) from None
        except duckdb.Error as error:
            # The text of a conversion error can quote the value that did not convert: only its kind may leave.
            raise ContractViolation(
                f"SQL {label} failed with {type(error).__name__}. This is a defect of the pipeline or of its input's shape; "
                "nothing was published. Run the task with the same landing under a debugger to see the value."
            ) from None


def read_sql(name: str) -> str:
    """Text of `include/sql/<name>.sql`."""
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


@contextmanager
def open_engine(settings: EngineSettings, folder: Path, *, database: str = ":memory:") -> Iterator[Engine]:
    """Open DuckDB with the limits of `settings`, spilling under `folder`."""
    spill = folder / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect(
        database,
        config={
            "threads": settings.threads,
            "memory_limit": settings.memory_limit,
            "temp_directory": str(spill),
            # Not the whole disk, which stages at the same time, logs and a database may share.
            "max_temp_directory_size": f"{max(shutil.disk_usage(spill).free * 3 // 4, 1 << 20)}B",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    connection.execute("set enable_progress_bar = false")
    connection.execute("load icu")
    connection.execute("set TimeZone = 'America/Sao_Paulo'")
    try:
        yield Engine(connection, folder)
    finally:
        connection.close()


def _first_line(error: duckdb.Error) -> str:
    return str(error).splitlines()[0][:200]
