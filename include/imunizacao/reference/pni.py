"""Code tables of the PNI."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import msgspec

from imunizacao.controle import Connection, Snapshot, newest_table, store_snapshot, write_snapshot
from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.events import log_event
from imunizacao.paths import REFERENCE
from imunizacao.reference.code_system import CODE_SYSTEMS, fill_rows, looks_like_json, read_code_systems
from imunizacao.reference.common import (
    Row,
    TableImport,
    clean_text,
    compare_rows,
    count_changes,
    files_sha256,
    local_file,
    read_given_table,
    read_stored,
    read_table,
    require_same_validity,
    scratch,
    some,
    write_table,
)
from imunizacao.settings import EngineSettings
from imunizacao.storage import file_sha256

PNI_CODE_WIDTHS: Final[Mapping[str, frozenset[int]]] = {
    "etnia_indigena": frozenset({4}),
    "grupo_atendimento": frozenset({2, 6}),
    "origem_registro": frozenset({2}),
    "raca_cor": frozenset({2}),
    "tipo_estabelecimento": frozenset({2}),
}
"""Tables whose codes have leading zeros, and the widths of their CodeSystems: a spreadsheet that saved them would show here."""

SHRINK_LIMIT: Final = 0.1
"""Share of codes that a table may lose against the one in use."""
_RULES: Final = hashlib.sha256(repr(("pni/2", CODE_SYSTEMS)).encode()).hexdigest()
"""Changes when the same file would be read as other rows."""


def require_pni(folder: Path = REFERENCE / "pni") -> None:
    """Refuse PNI tables with repeated, blank or padded codes, or with codes that lost their zeros: a `ContractViolation`."""
    faults = []
    paths = sorted(folder.glob("pni_*.csv"))
    if not paths:
        faults.append(f"no pni_*.csv in {folder.name}/")
    for path in paths:
        faults += _faults(pni_name(path), path.name, read_table(path))
    if faults:
        raise ContractViolation(
            "The PNI tables are not whole: " + "; ".join(faults) + ". Nothing was exported. Restore the files named in "
            "include/reference/SOURCES.md."
        )


def _faults(table: str, label: str, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return [f"{label} is empty"]
    faults = []
    key = next(iter(rows[0]))
    codes = [row[key] for row in rows]
    blank = [code for code in codes if not code or code != clean_text(code)]
    repeated = [code for code, count in Counter(codes).items() if count > 1]
    widths = PNI_CODE_WIDTHS.get(table)
    if blank:
        faults.append(f"{label} has {len(blank)} blank or padded {key}, or with a line break")
    if repeated:
        faults.append(f"{label} repeats {key} {some(repeated)}")
    if widths and (short := [code for code in codes if len(code) not in widths]):
        faults.append(f"{label} has {key} {some(short)}, expected {sorted(widths)} characters (leading zeros lost?)")
    return faults


def pni_files() -> list[Path]:
    """The project's own tables."""
    return sorted((REFERENCE / "pni").glob("pni_*.csv"))


def pni_name(path: Path) -> str:
    """Table of a file."""
    return path.stem.removeprefix("pni_")


@dataclass(frozen=True, slots=True, kw_only=True)
class PniTables:
    """The tables that runs use now, as files with the columns of `include/reference/pni`."""

    files: dict[str, Path]
    sha256: str
    """Over all of them."""
    version: str
    """Tables that are not the project's own, with their versions; empty when all are."""


def pni_in_use(connection: Connection | None, folder: Path, *, day: date | None = None) -> PniTables:
    """Of each table the newest snapshot (with `day`: the one in force on it), written into `folder`, or the project's own where none is stored."""
    files = {pni_name(path): path for path in pni_files()}
    stored = {name: found for name in files if (found := _newest(connection, name, day)) is not None}
    if connection is None or not stored:
        return PniTables(files=files, sha256=files_sha256(list(files.values())), version="")
    own = {name: file_sha256(path) for name, path in files.items()}
    hashes = own | {name: f"{snapshot.sha256} {snapshot.import_rules}" for name, snapshot in stored.items()}
    for name, snapshot in stored.items():
        columns = pni_columns(name)
        rows = read_pni_snapshot(connection, snapshot, folder)
        files[name] = folder / f"pni_{name}.csv"
        write_table(files[name], columns, ([row[column] for column in columns] for row in rows), header=True)
    return PniTables(
        files=files,
        sha256=hashlib.sha256("\n".join(f"{name} {hashes[name]}" for name in sorted(hashes)).encode()).hexdigest(),
        version="; ".join(f"{name} {stored[name].version}" for name in sorted(stored)),
    )


def pni_columns(name: str) -> list[str]:
    """Columns of a table, the code first."""
    return list(read_table(_own(name))[0])


def read_pni_snapshot(connection: Connection, snapshot: Snapshot, folder: Path) -> list[Row]:
    """Codes of a stored snapshot, by code, with today's columns of the table; a column that is new since is empty."""
    path = folder / f"pni_{snapshot.name}_stored.csv"
    write_snapshot(connection, snapshot, path)
    columns = pni_columns(snapshot.name)
    found = []
    for line in read_stored(path, ("co_codigo", "valores")):
        values = msgspec.json.decode(line["valores"], type=dict[str, str])
        found.append({column: values.get(column, "") for column in columns})
    return found


def import_pni(
    source: Path | bytes,
    connection: Connection | None = None,
    *,
    force: bool = False,
    table: str = "",
    version: str = "",
    valid_from: date | None = None,
    file_name: str = "",
    engine: EngineSettings | None = None,
) -> list[TableImport]:
    """Read code tables of the PNI and store each as a snapshot of `controle`, all or none of them.

    The file is a CSV with the columns of a table in `include/reference/pni` (named like it, or `table` says which), or JSON: a
    FHIR R4 CodeSystem, or a Bundle of them. Without a connection it is only checked. Blank, repeated or padded codes, and codes
    that lost their zeros, are a `ContractViolation`, and so is, unless `force`d, a table that lost more than a tenth of its
    codes. A table that was imported before from this file is found, not stored again. `valid_from` is the first reference day that
    `of-the-day` takes it for.
    """
    with scratch(engine) as (_, folder):
        path, name = local_file(source, file_name, folder)
        sha256 = file_sha256(path)
        in_use = pni_in_use(connection, folder)
        before = {known: {row[key]: row for row in rows} for known, (key, rows) in _keyed(in_use.files).items()}
        if looks_like_json(path):
            given = [
                (system.table, system.version, fill_rows(system, pni_columns(system.table), before[system.table]))
                for system in read_code_systems(path, name, table)
            ]
        else:
            chosen = table or pni_name(Path(name))
            _require_known(chosen, name, before)
            given = [(chosen, "", _read_csv(path, name, chosen))]
        for chosen, _, rows in given:
            guard_pni(chosen, rows, before[chosen], name, force=force)
        return [
            _store(
                connection,
                Snapshot(
                    kind="pni",
                    name=chosen,
                    version=version or stated or sha256[:12],
                    sha256=sha256,
                    import_rules=_RULES,
                    origin=name,
                    rows=len(rows),
                    rows_active=sum(row.get("st_ativo") != "N" for row in rows),
                    valid_from=valid_from,
                ),
                rows,
                before[chosen],
                folder,
            )
            for chosen, stated, rows in given
        ]


def guard_pni(table: str, rows: Sequence[Row], before: Mapping[str, Row], name: str, *, force: bool) -> None:
    """Refuse a table that would leave published codes without a name."""
    faults = _faults(table, f"pni_{table}", rows)
    if faults:
        raise ContractViolation(
            f"PNI table {table} of {name} is not to be used: {'; '.join(faults)}. Nothing was stored. Save it again, with codes as text."
        )
    gone = sorted(before.keys() - {next(iter(row.values())) for row in rows})
    if len(gone) <= SHRINK_LIMIT * len(before):
        return
    fault = f"{len(gone)} of {len(before)} codes of PNI table {table} are gone from {name} ({some(gone)})"
    if not force:
        raise ContractViolation(
            f"{fault}. Nothing was stored, the table in use stays. A code that is not used any more belongs in the table as inactive. See "
            "docs/runbook/reference-import.md; `force` accepts it as it is."
        )
    log_event("reference.pni_forced", level=logging.WARNING, table=table, faults=fault)


def _store(
    connection: Connection | None, snapshot: Snapshot, rows: Sequence[Row], before: Mapping[str, Row], folder: Path
) -> TableImport:
    columns, stored, valid_from = pni_columns(snapshot.name), False, snapshot.valid_from
    changes = compare_rows(before, {row[columns[0]]: row for row in rows}, label=columns[1])
    earlier = _newest(connection, snapshot.name)
    if connection is not None:
        lines = folder / f"pni_{snapshot.name}_rows.csv"
        write_table(lines, (), ([row[columns[0]], msgspec.json.encode(row).decode()] for row in rows), header=False)
        snapshot, stored = store_snapshot(connection, snapshot, lines)
        require_same_validity(snapshot, valid_from)
    log_event(
        "reference.pni_imported",
        table=snapshot.name,
        version=snapshot.version,
        sha256=snapshot.sha256[:12],
        rows=len(rows),
        stored=stored,
    )
    return TableImport(
        kind="pni",
        name=snapshot.name,
        version=snapshot.version,
        sha256=snapshot.sha256,
        origin=snapshot.origin,
        rows=snapshot.rows,
        active=snapshot.rows_active,
        stored=stored,
        previous=(earlier.version if earlier is not None else "project") if stored else None,
        difference=count_changes(changes) if stored else None,
    )


def _newest(connection: Connection | None, name: str, day: date | None = None) -> Snapshot | None:
    return newest_table(connection, "pni", name, day=day) if connection is not None else None


def _own(name: str) -> Path:
    return REFERENCE / "pni" / f"pni_{name}.csv"


def _keyed(files: Mapping[str, Path]) -> dict[str, tuple[str, list[Row]]]:
    tables = {name: read_table(path) for name, path in files.items()}
    return {name: (next(iter(rows[0])), rows) for name, rows in tables.items()}


def _read_csv(path: Path, name: str, table: str) -> list[Row]:
    rows, columns = read_given_table(path, name), pni_columns(table)
    if not rows or set(rows[0]) != set(columns):
        raise ContractViolation(
            f"PNI table {table} of {name} has the columns {', '.join(rows[0]) if rows else '(none)'}, expected "
            f"{', '.join(columns)}. Nothing was stored."
        )
    key = columns[0]
    return [{column: row[column] if column == key else clean_text(row[column]) for column in columns} for row in rows]


def _require_known(table: str, name: str, known: Mapping[str, object]) -> None:
    if table not in known:
        raise ConfigurationError(
            f"{name} does not say which PNI table it is. Name it pni_<table>.csv, or give the table (--table): {', '.join(sorted(known))}."
        )
