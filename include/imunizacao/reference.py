"""Reference tables by version: establishments (CNES), places (IBGE) and code tables (PNI).

The CNES comes as the official monthly file, is kept in PostgreSQL one snapshot per file and never changed. For a run, the
chosen snapshot and the small tables of the project are exported to the work bucket as Parquet under keys that name their
content, so that every stage on every worker reads the same bytes.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import re
import shutil
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self, cast

import msgspec

from imunizacao.controle import (
    CnesDifference,
    Connection,
    Snapshot,
    compare_cnes,
    newest_cnes,
    record_snapshot,
    store_cnes,
    write_cnes,
)
from imunizacao.errors import ConfigurationError, ContractViolation, PipelineError, StorageUnavailable
from imunizacao.events import log_event
from imunizacao.models import ObjectRef, ReferenceVersions
from imunizacao.paths import REFERENCE, SQL
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine
from imunizacao.storage import ObjectStore, PreconditionLost, file_sha256

CNES_COLUMNS: Final = (
    "CO_UNIDADE",
    "CO_CNES",
    "NO_RAZAO_SOCIAL",
    "NO_FANTASIA",
    "TP_UNIDADE",
    "CO_MUNICIPIO_GESTOR",
    "CO_MOTIVO_DESAB",
    "CO_NATUREZA_JUR",
)
"""The only columns of the official file that are read; the others, CPF among them, are skipped before anything is written."""

IBGE_MUNICIPALITIES: Final = 5571
"""Units in force since 2025-01-01 (IBGE, DTB 2024 and 2025): Boa Esperança do Norte/MT was the last one added."""
IBGE_UFS: Final = 27

PNI_CODE_WIDTHS: Final[Mapping[str, frozenset[int]]] = {
    "etnia_indigena": frozenset({4}),
    "grupo_atendimento": frozenset({2, 6}),
    "origem_registro": frozenset({2}),
    "raca_cor": frozenset({2}),
    "tipo_estabelecimento": frozenset({2}),
}
"""Tables whose codes have leading zeros, and the widths of their CodeSystems: a spreadsheet that saved them would show here."""

SHRINK_LIMIT: Final = 0.05
"""Share of establishments that a snapshot may lose against the one before it."""
UNREADABLE_LIMIT: Final = 0.001
"""Share of lines that may be malformed; they are counted, and a document that names a lost CNES waits in quarantine."""
WITHOUT_MUNICIPIO_LIMIT: Final = 0.05
"""Share of establishments without a known municipality above which the layout must have changed (0 in 10,000 are usual)."""

_MEMBER = re.compile(r"(?:.*/)?tbEstabelecimento(?P<competencia>[0-9]{6})\.csv", re.IGNORECASE)
_COMPETENCIA_IN_NAME = re.compile(r"(?<![0-9])(?P<competencia>[0-9]{6})(?=\.(?:zip|csv)$)", re.IGNORECASE)
_COMPETENCIA = re.compile(r"[12][0-9]{3}(?:0[1-9]|1[0-2])")
_MEMBER_LIMIT = 4 << 30
_BLOCK = 1 << 20
_ASCII = bytes(range(128))
_C1 = frozenset(range(0x80, 0xA0))
_NOT_IN_CP1252 = frozenset({0x81, 0x8D, 0x8F, 0x90, 0x9D})
_UTF8_PAIR = re.compile(rb"[\xc2\xc3][\x80-\xbf]")


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
    """Placed by CO_MUNICIPIO_GESTOR because CO_UNIDADE names no known municipality."""
    by_uf: dict[str, int]
    stored: bool = False
    """False without a connection, and for a file that was imported before."""
    previous: str | None = None
    """Competência of the snapshot compared with."""
    difference: CnesDifference | None = None
    """Against `previous`; None where nothing new was stored or nothing came before."""
    seconds: float = 0.0

    def to_json(self) -> str:
        """Text for logs and XCom."""
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSet:
    """The reference tables of a run: which versions, and where their Parquet files are in the work bucket."""

    versions: ReferenceVersions
    cnes: ObjectRef
    municipios: ObjectRef
    ufs: ObjectRef
    pni: dict[str, ObjectRef]
    """Table name without `pni_` → file."""

    def to_json(self) -> str:
        """Text for XCom: locations, counts and hashes only."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote; anything else is a `ContractViolation`."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise ContractViolation(
                f"A set of references cannot be read ({error}). Clear `resolve_day` and run it again."
            ) from error


def import_cnes(
    source: Path | bytes,
    connection: Connection | None = None,
    *,
    force: bool = False,
    competencia: str = "",
    file_name: str = "",
    engine: EngineSettings | None = None,
) -> CnesImport:
    """Read an official CNES file (zip or `tbEstabelecimentoAAAAMM.csv`) and store it as a snapshot of `controle`.

    Without a connection the file is only checked. Columns are found by name. The competência comes from the names of
    member and file; give it where they carry none. A file that is not what it should be (columns or UFs missing, more than
    5 % fewer establishments than the snapshot before, too many malformed or unplaced lines) is a `ContractViolation` and
    nothing is stored; `force` accepts everything but missing columns and an empty file. A file that was imported before is
    found, not stored again.
    """
    started = time.monotonic()
    with _scratch(engine) as (settings, folder):
        path, name = _local(source, file_name, folder)
        with open_engine(settings, folder) as duck:
            found = _read_cnes(duck, path, name, competencia=competencia, folder=folder)
            previous = newest_cnes(connection, until=found.competencia) if connection is not None else None
            _guard(found, previous, force=force)
            if connection is not None:
                rows = folder / "cnes_rows.csv"
                duck.run("reference/50_cnes_rows", destination=str(rows))
                found = _store(connection, found, previous, rows)
    found = msgspec.structs.replace(found) if isinstance(found, msgspec.Struct) else found
    done = _with(found, seconds=round(time.monotonic() - started, 3))
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
