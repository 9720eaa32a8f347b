"""Establishments: reading the official CNES file and storing it as a snapshot."""

from __future__ import annotations

import logging
import time
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from imunizacao.controle import Connection, Difference, Snapshot, compare_cnes, newest_cnes, store_snapshot
from imunizacao.errors import ContractViolation, StorageUnavailable
from imunizacao.events import log_event
from imunizacao.paths import SQL
from imunizacao.reference.cnes_file import detect_encoding, open_cnes, project_columns
from imunizacao.reference.common import files_sha256, local_file, read_table, scratch
from imunizacao.reference.ibge import IbgeTables, ibge_in_use
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine
from imunizacao.storage import file_sha256

SHRINK_LIMIT: Final = 0.05
"""Share of establishments that a snapshot may lose against the one before it."""
UNREADABLE_LIMIT: Final = 0.001
"""Share of lines that may be malformed; they are counted, and a document that names a lost CNES waits in quarantine."""
WITHOUT_MUNICIPIO_LIMIT: Final = 0.05
"""Share of establishments without a known municipality above which the layout must have changed (0 in 10,000 are usual)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CnesImport:
    """What an import of the CNES found. Counts are establishments unless said otherwise."""

    competencia: str
    """`AAAAMM`."""
    sha256: str
    """Of the file as received."""
    origin: str
    encoding: str
    """`utf-8`, `cp1252` or `latin-1`, as detected."""
    lines: int
    """Records of the file, the header and unreadable ones not counted."""
    unreadable: int
    """Lines of text that are no record of the layout."""
    without_cnes: int
    """Records whose CO_CNES is not 1 to 7 digits."""
    duplicates: int
    """Records that repeat a CNES."""
    rows: int
    active: int
    without_municipality: int
    municipality_of_manager: int
    """Placed by CO_MUNICIPIO_GESTOR because neither CO_IBGE nor CO_UNIDADE names a known municipality."""
    by_uf: dict[str, int]
    stored: bool = False
    """False without a connection, and for a file that was imported before."""
    previous: str | None = None
    """Competência of the snapshot compared with."""
    difference: Difference | None = None
    """Against `previous`; None where nothing new was stored or nothing came before."""
    seconds: float = 0.0

    def to_json(self) -> str:
        """Text for logs and XCom."""
        return msgspec.json.encode(self).decode()


def import_cnes(
    source: Path | bytes,
    connection: Connection | None = None,
    *,
    force: bool = False,
    competencia: str = "",
    file_name: str = "",
    engine: EngineSettings | None = None,
) -> CnesImport:
    """Read an official CNES file and store it as a snapshot of `controle`.

    The file is that of the monthly base (`tbEstabelecimentoAAAAMM.csv` or its zip) or of the open data
    (`cnes_estabelecimentos.csv` or its zip). Without a connection it is only checked. Columns are found by name. The
    competência comes from the names of member and file; give it where they carry none. A file that is not what it should be
    (columns or UFs missing, more than 5 % fewer establishments than the snapshot before, too many malformed or unplaced lines)
    is a `ContractViolation` and nothing is stored; `force` accepts everything but missing columns and an empty file. A file
    that was imported before is found, not stored again.
    """
    started = time.monotonic()
    with scratch(engine) as (settings, folder):
        path, name = local_file(source, file_name, folder)
        ibge = ibge_in_use(connection, folder)
        with open_engine(settings, folder) as duck:
            found = read_cnes(duck, path, name, competencia=competencia, ibge=ibge, folder=folder)
            previous = newest_cnes(connection, until=found.competencia) if connection is not None else None
            guard_cnes(found, previous, ibge, force=force)
            if connection is not None:
                rows = folder / "cnes_rows.csv"
                duck.run("reference/50_cnes_rows", destination=str(rows))
                found = _store(connection, found, previous, rows, import_rules(ibge))
    done = replace(found, seconds=round(time.monotonic() - started, 3))
    log_event(
        "reference.cnes_imported",
        competencia=done.competencia,
        sha256=done.sha256[:12],
        encoding=done.encoding,
        rows=done.rows,
        active=done.active,
        without_municipality=done.without_municipality,
        duplicates=done.duplicates,
        unreadable=done.unreadable,
        stored=done.stored,
        seconds=done.seconds,
    )
    return done


def read_cnes(duck: Engine, path: Path, name: str, *, competencia: str, ibge: IbgeTables, folder: Path) -> CnesImport:
    """Leave the establishments of the file in the table `int_cnes` and tell what was found."""
    name = name or path.name
    sha256 = file_sha256(path)
    content = open_cnes(path, name, competencia)
    projected = folder / "cnes_columns.csv"
    try:
        encoding = detect_encoding(content.open)
        read = project_columns(content.open, encoding, projected)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ContractViolation(
            f"CNES file {name} is damaged or not a plain zip ({type(error).__name__}). Nothing was stored. Download it again "
            "and compare its size with the server's."
        ) from error
    except OSError as error:
        raise StorageUnavailable(
            f"CNES file {name} cannot be read or its columns cannot be written to scratch disk ({type(error).__name__}). "
            "Check the file and free disk (IMUNIZACAO_SCRATCH_DIR), then run again."
        ) from error
    duck.run("reference/10_raw_cnes", source=str(projected))
    projected.unlink()
    duck.run("reference/11_raw_municipio", municipios=str(ibge.municipios))
    duck.run("reference/20_stg_cnes")
    duck.run("reference/30_int_cnes")
    lines, without_cnes, duplicates, rows, active, without_municipality, of_manager = duck.row(
        "reference/40_cnes_counts"
    )
    if lines != read.records:
        raise ContractViolation(
            f"{read.records} records of {name} were written and {lines} read back. Nothing was stored."
        )
    return CnesImport(
        competencia=content.competencia,
        sha256=sha256,
        origin=name,
        encoding=encoding,
        lines=lines,
        unreadable=read.unreadable,
        without_cnes=without_cnes,
        duplicates=duplicates,
        rows=rows,
        active=active,
        without_municipality=without_municipality,
        municipality_of_manager=of_manager,
        by_uf={str(uf): int(count) for uf, count in duck.rows("reference/41_cnes_by_uf")},
    )


def guard_cnes(found: CnesImport, previous: Snapshot | None, ibge: IbgeTables, *, force: bool) -> None:
    """Refuse a file that would send good doses to quarantine."""
    if not found.rows:
        raise ContractViolation(f"CNES file {found.origin} has no establishment. Nothing was stored.")
    faults = []
    absent = sorted({row["co_uf"] for row in read_table(ibge.ufs)} - set(found.by_uf))
    if absent:
        faults.append(f"no establishment in UF {', '.join(absent)}")
    bad = found.unreadable + found.without_cnes
    if bad > UNREADABLE_LIMIT * (found.lines + found.unreadable):
        faults.append(
            f"{found.unreadable} unreadable lines and {found.without_cnes} records without CNES in {found.lines}"
        )
    if found.without_municipality > WITHOUT_MUNICIPIO_LIMIT * found.rows:
        faults.append(f"{found.without_municipality} of {found.rows} establishments in no known municipality")
    if previous is not None and found.rows < (1 - SHRINK_LIMIT) * previous.rows:
        faults.append(f"{found.rows} establishments, snapshot {previous.version} had {previous.rows}")
    if not faults:
        return
    if not force:
        raise ContractViolation(
            f"CNES {found.competencia} ({found.origin}) does not look like the whole country: {'; '.join(faults)}. Nothing was "
            "stored, the snapshots that are there stay in use. See docs/runbook/cnes-import.md; `force` accepts it as it is."
        )
    log_event("reference.cnes_forced", level=logging.WARNING, competencia=found.competencia, faults="; ".join(faults))


def _store(connection: Connection, found: CnesImport, previous: Snapshot | None, rows: Path, rules: str) -> CnesImport:
    snapshot, created = store_snapshot(
        connection,
        Snapshot(
            kind="cnes",
            version=found.competencia,
            sha256=found.sha256,
            import_rules=rules,
            origin=found.origin,
            rows=found.rows,
            rows_active=found.active,
        ),
        rows,
    )
    if not created and snapshot.version != found.competencia:
        raise ContractViolation(
            f"CNES file {found.origin} was imported as competência {snapshot.version}, now it is said to be {found.competencia}. "
            "Nothing was stored. One of the two is wrong: see when the file was published (docs/runbook/cnes-import.md)."
        )
    if not created or previous is None:
        return replace(found, stored=created)
    difference = compare_cnes(connection, earlier=previous.id, later=snapshot.id)
    return replace(found, stored=True, previous=previous.version, difference=difference)


def import_rules(ibge: IbgeTables) -> str:
    """sha256 over what decides how a source is read: the SQL up to `int_cnes` and the IBGE's municipalities."""
    reading = [path for path in sorted((SQL / "reference").glob("*.sql")) if path.name < "40"]
    return files_sha256([*reading, ibge.municipios])
