"""Municipalities and UFs of the IBGE."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

from imunizacao.controle import Connection, Snapshot, newest_table, store_snapshot, write_snapshot
from imunizacao.errors import ContractViolation
from imunizacao.events import log_event
from imunizacao.paths import REFERENCE
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

IBGE_MUNICIPALITIES: Final = 5571
"""Units in force since 2025-01-01 (IBGE, DTB 2024 and 2025): Boa Esperança do Norte/MT was the last one added."""
IBGE_UFS: Final = 27
IBGE_COLUMNS: Final = ("co_ibge_7", "co_ibge_6", "no_municipio", "co_uf", "sg_uf", "no_uf", "no_regiao")
_UF_COLUMNS: Final = ("co_uf", "sg_uf", "no_uf", "no_regiao")
_MOST_NEW: Final = 10
"""Municipalities that one table may add: since 2013 the country gained one."""
_RULES: Final = hashlib.sha256(b"ibge/2").hexdigest()
"""Changes when the same file would be read as other rows."""


def require_ibge(folder: Path = REFERENCE / "ibge") -> None:
    """Refuse IBGE tables that are not the 5,571 units of 27 UFs with the right check digits: a `ContractViolation`.

    Check digit: weights 1,2,1,2,1,2, digits of each product summed, complement of ten. Nine official codes break the rule;
    they are listed in `ibge_excecoes_dv.csv`.
    """
    municipalities = read_table(folder / "ibge_municipios.csv")
    ufs = {row["co_uf"]: row for row in read_table(folder / "ibge_ufs.csv")}
    exceptions = {row["co_ibge_7"] for row in read_table(folder / "ibge_excecoes_dv.csv")}
    faults = []
    if len(municipalities) != IBGE_MUNICIPALITIES:
        faults.append(f"{len(municipalities)} municipalities, expected {IBGE_MUNICIPALITIES}")
    if len(ufs) != IBGE_UFS:
        faults.append(f"{len(ufs)} UFs, expected {IBGE_UFS}")
    for length, name in ((6, "co_ibge_6"), (7, "co_ibge_7")):
        codes = [row[name] for row in municipalities]
        malformed = [code for code in codes if not re.fullmatch(rf"[0-9]{{{length}}}", code)]
        repeated = [code for code, count in Counter(codes).items() if count > 1]
        if malformed:
            faults.append(f"{name} without {length} digits: {some(malformed)}")
        if repeated:
            faults.append(f"{name} repeated: {some(repeated)}")
    if not faults:
        faults += _ibge_disagreements(municipalities, ufs, exceptions)
    if faults:
        raise ContractViolation(
            "The IBGE tables are not whole: "
            + "; ".join(faults)
            + ". Nothing was exported. Restore the files named in "
            "include/reference/SOURCES.md."
        )


def ibge_check_digit(code6: str) -> str:
    """Check digit of a municipality code by the rule that all but nine official codes keep."""
    products = [int(digit) * weight for digit, weight in zip(code6, (1, 2, 1, 2, 1, 2), strict=True)]
    return str(-sum(product // 10 + product % 10 for product in products) % 10)


def ibge_files() -> list[Path]:
    """The project's own tables that runs use."""
    return [REFERENCE / "ibge" / "ibge_municipios.csv", REFERENCE / "ibge" / "ibge_ufs.csv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IbgeTables:
    """The tables that runs use now, as files with the columns of `include/reference/ibge`."""

    municipios: Path
    ufs: Path
    sha256: str
    version: str
    """Of the stored snapshot; empty for the project's own tables."""


def ibge_in_use(connection: Connection | None, folder: Path, *, day: date | None = None) -> IbgeTables:
    """The newest snapshot (with `day`: the one in force on it), written into `folder`, or the project's own tables where none is stored."""
    stored = newest_table(connection, "ibge", day=day) if connection is not None else None
    if connection is None or stored is None:
        municipios, ufs = ibge_files()
        return IbgeTables(municipios=municipios, ufs=ufs, sha256=files_sha256([municipios, ufs]), version="")
    rows = read_ibge_snapshot(connection, stored, folder)
    municipios, ufs = folder / "ibge_municipios.csv", folder / "ibge_ufs.csv"
    write_table(municipios, IBGE_COLUMNS, ([row[column] for column in IBGE_COLUMNS] for row in rows), header=True)
    counted = Counter(tuple(row[column] for column in _UF_COLUMNS) for row in rows)
    write_table(ufs, [*_UF_COLUMNS, "qt_municipios"], ([*uf, str(counted[uf])] for uf in sorted(counted)), header=True)
    return IbgeTables(municipios=municipios, ufs=ufs, sha256=stored.sha256, version=stored.version)


def read_ibge_snapshot(connection: Connection, snapshot: Snapshot, folder: Path) -> list[Row]:
    """Municipalities of a stored snapshot, by code."""
    path = folder / "ibge_stored.csv"
    write_snapshot(connection, snapshot, path)
    return read_stored(path, IBGE_COLUMNS)


def import_ibge(
    source: Path | bytes,
    connection: Connection | None = None,
    *,
    force: bool = False,
    version: str = "",
    valid_from: date | None = None,
    file_name: str = "",
    engine: EngineSettings | None = None,
) -> TableImport:
    """Read a table of municipalities (columns of `ibge_municipios.csv`) and store it as a snapshot of `controle`.

    Without a connection the file is only checked. Codes that are malformed, repeated or of another UF than their row says are a
    `ContractViolation`, and so are, unless `force`d: check digits that break the rule in other codes than the nine known ones,
    and UFs with fewer municipalities, or the country with more than ten more, than the table in use. A file that was imported
    before is found, not stored again. `valid_from` is the first reference day that `of-the-day` takes it for. CNES snapshots keep the places that they were read with: import the CNES file again when
    a municipality is new.
    """
    with scratch(engine) as (_, folder):
        path, name = local_file(source, file_name, folder)
        sha256 = file_sha256(path)
        rows = _read_municipios(path, name)
        in_use = ibge_in_use(connection, folder)
        before = {row["co_ibge_7"]: row for row in read_table(in_use.municipios)}
        guard_ibge(rows, before, name, force=force)
        changes = compare_rows(before, {row["co_ibge_7"]: row for row in rows}, label="no_municipio", place="sg_uf")
        snapshot = Snapshot(
            kind="ibge",
            version=version or sha256[:12],
            sha256=sha256,
            import_rules=_RULES,
            origin=name,
            rows=len(rows),
            rows_active=len(rows),
            valid_from=valid_from,
        )
        stored = False
        if connection is not None:
            lines = folder / "ibge_rows.csv"
            write_table(lines, IBGE_COLUMNS, ([row[column] for column in IBGE_COLUMNS] for row in rows), header=False)
            snapshot, stored = store_snapshot(connection, snapshot, lines)
            require_same_validity(snapshot, valid_from)
    log_event("reference.ibge_imported", version=snapshot.version, sha256=sha256[:12], rows=len(rows), stored=stored)
    return TableImport(
        kind="ibge",
        name="",
        version=snapshot.version,
        sha256=sha256,
        origin=name,
        rows=len(rows),
        active=len(rows),
        stored=stored,
        previous=(in_use.version or "project") if stored else None,
        difference=count_changes(changes) if stored else None,
    )


def guard_ibge(rows: Sequence[Row], before: Mapping[str, Row], name: str, *, force: bool) -> None:
    """Refuse a table that would send good doses to quarantine or to another place."""
    ufs = {row["co_uf"]: row["sg_uf"] for row in read_table(REFERENCE / "ibge" / "ibge_ufs.csv")}
    codes = Counter(row["co_ibge_7"] for row in rows)
    broken = [
        f"codes or UF of {row['co_ibge_7'][:20]!r} disagree or are malformed" for row in rows if not _sound(row, ufs)
    ]
    broken += [f"{code} is there {count} times" for code, count in codes.items() if count > 1]
    broken += [f"{row['co_ibge_7']} has no name" for row in rows if not row["no_municipio"].strip()]
    if broken:
        raise ContractViolation(
            f"IBGE table {name} is not to be used: {some(broken)}. Nothing was stored. Save the IBGE's table again, with codes as text."
        )
    exceptions = {row["co_ibge_7"] for row in read_table(REFERENCE / "ibge" / "ibge_excecoes_dv.csv")}
    odd = sorted(code for code in codes if ibge_check_digit(code[:6]) != code[6] and code not in exceptions)
    now, then = Counter(row["co_uf"] for row in rows), Counter(row["co_uf"] for row in before.values())
    fewer = [f"{ufs[uf]} {now[uf]} < {then[uf]}" for uf in sorted(ufs) if now[uf] < then[uf]]
    faults = []
    if odd:
        faults.append(f"check digits of {some(odd)} are wrong")
    if fewer:
        faults.append(f"{len(rows)} municipalities, fewer than before in {some(fewer)}")
    if len(rows) > len(before) + _MOST_NEW:
        faults.append(f"{len(rows)} municipalities, the table in use has {len(before)}")
    if not faults:
        return
    if not force:
        raise ContractViolation(
            f"IBGE table {name} does not look like the whole country: {'; '.join(faults)}. Nothing was stored, the table in use "
            "stays. See docs/runbook/reference-import.md; `force` accepts it as it is."
        )
    log_event("reference.ibge_forced", level=logging.WARNING, origin=name, faults="; ".join(faults))


def _read_municipios(path: Path, name: str) -> list[Row]:
    rows = read_given_table(path, name)
    if not rows:
        raise ContractViolation(f"IBGE table {name} is empty. Nothing was stored.")
    missing = [column for column in IBGE_COLUMNS if column not in rows[0]]
    if missing:
        raise ContractViolation(
            f"IBGE table {name} lacks {', '.join(missing)}. Nothing was stored. Expected: the columns of "
            "include/reference/ibge/ibge_municipios.csv, names in the first line."
        )
    return [{column: clean_text(row[column]) for column in IBGE_COLUMNS} for row in rows]


def _sound(row: Row, ufs: Mapping[str, str]) -> bool:
    return bool(
        re.fullmatch(r"[0-9]{7}", row["co_ibge_7"])
        and row["co_ibge_6"] == row["co_ibge_7"][:6]
        and row["co_uf"] == row["co_ibge_7"][:2]
        and ufs.get(row["co_uf"]) == row["sg_uf"]
    )


def _ibge_disagreements(
    municipalities: Sequence[Mapping[str, str]], ufs: Mapping[str, Mapping[str, str]], exceptions: set[str]
) -> list[str]:
    faults = []
    for row in municipalities:
        uf = ufs.get(row["co_uf"], {})
        if (
            row["co_ibge_7"][:6] != row["co_ibge_6"]
            or row["co_ibge_6"][:2] != row["co_uf"]
            or uf.get("sg_uf") != row["sg_uf"]
        ):
            faults.append(f"codes or UF of {row['co_ibge_7']} disagree")
    broken = {row["co_ibge_7"] for row in municipalities if ibge_check_digit(row["co_ibge_6"]) != row["co_ibge_7"][6]}
    if broken != exceptions:
        faults.append(
            f"check digits break the rule in other codes than ibge_excecoes_dv.csv lists: {some(sorted(broken ^ exceptions))}"
        )
    counted = Counter(row["co_uf"] for row in municipalities)
    wrong = [code for code, uf in ufs.items() if str(counted[code]) != uf["qt_municipios"]]
    if wrong:
        faults.append(f"number of municipalities differs from ibge_ufs.csv in UF {some(wrong)}")
    return faults[:5]
