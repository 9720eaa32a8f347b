"""Versioned reference tables: `controle.reference_snapshot` and the establishments of each CNES snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imunizacao.controle.connection import Connection, copy_in, copy_out, transaction

Kind = Literal["cnes", "ibge", "pni"]
_LOCK = 0x636E6573  # "cnes": two imports at the same time take turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One version of a reference table."""

    kind: Kind
    version: str
    sha256: str
    """Of the source."""
    import_rules: str
    """sha256 of what read the source; see `reference.py`."""
    origin: str
    rows: int
    rows_active: int
    id: int = 0
    """0 until it is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CnesDifference:
    """What one CNES snapshot changes against another, in establishments."""

    added: int
    moved: int
    """Another municipality, or one where there was none, or none where there was one."""
    closed: int
    """Active before, deactivated now."""
    reopened: int
    gone: int
    """In the earlier snapshot only."""


_COLUMNS = "id, kind, version, sha256, import_rules, origin, rows, rows_active"


def find_snapshot(connection: Connection, *, kind: Kind, sha256: str, import_rules: str) -> Snapshot | None:
    """The snapshot made from exactly this source by exactly these rules."""
    with transaction(connection, f"look up a snapshot of {kind}") as cursor:
        cursor.execute(
            f"select {_COLUMNS} from controle.reference_snapshot where kind = %s and sha256 = %s and import_rules = %s",
            (kind, sha256, import_rules),
        )
        return _snapshot(cursor.fetchone())


def newest_cnes(connection: Connection, *, until: str = "999912", only: str = "") -> Snapshot | None:
    """The CNES snapshot with the highest competência up to `until` (or exactly `only`); of equals the one imported last."""
    with transaction(connection, "look up the newest CNES snapshot") as cursor:
        cursor.execute(
            f"select {_COLUMNS} from controle.reference_snapshot "
            "where kind = 'cnes' and version <= %s and (%s = '' or version = %s) order by version desc, id desc limit 1",
            (until, only, only),
        )
        return _snapshot(cursor.fetchone())


def record_snapshot(connection: Connection, snapshot: Snapshot) -> None:
    """Note a version of a small table (IBGE, PNI) the first time that it is used; later calls change nothing."""
    with transaction(connection, f"record a snapshot of {snapshot.kind}") as cursor:
        _insert(cursor, snapshot)


def store_cnes(connection: Connection, snapshot: Snapshot, rows: Path) -> tuple[Snapshot, bool]:
    """Store a CNES snapshot with its establishments, or find it; all or nothing. Returns it and whether it is new.

    `rows` is a CSV without header: co_cnes, co_municipio_6, no_razao_social, no_fantasia, co_tipo_estabelecimento,
    co_natureza_juridica, co_motivo_desab; an empty unquoted field is null.
    """
    with transaction(connection, f"store the CNES snapshot {snapshot.version}") as cursor:
        cursor.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        stored = _insert(cursor, snapshot)
        if stored is None:
            cursor.execute(
                f"select {_COLUMNS} from controle.reference_snapshot where kind = %s and sha256 = %s and import_rules = %s",
                (snapshot.kind, snapshot.sha256, snapshot.import_rules),
            )
            return _require(_snapshot(cursor.fetchone())), False
        cursor.execute(
            "create temporary table cnes_incoming on commit drop as "
            "select co_cnes, co_municipio_6, no_razao_social, no_fantasia, co_tipo_estabelecimento, co_natureza_juridica, "
            "co_motivo_desab from controle.cnes_estabelecimento with no data"
        )
        copy_in(cursor, "copy cnes_incoming from stdin (format csv, encoding 'UTF8')", rows)
        cursor.execute(
            "insert into controle.cnes_estabelecimento (snapshot_id, co_cnes, co_municipio_6, no_razao_social, no_fantasia, "
            "co_tipo_estabelecimento, co_natureza_juridica, co_motivo_desab) "
            "select %s, co_cnes, co_municipio_6, no_razao_social, no_fantasia, co_tipo_estabelecimento, "
            "co_natureza_juridica, co_motivo_desab from cnes_incoming",
            (stored.id,),
        )
    return stored, True


def compare_cnes(connection: Connection, *, earlier: int, later: int) -> CnesDifference:
    """Count what changed between two stored CNES snapshots (by id)."""
    with transaction(connection, "compare two CNES snapshots") as cursor:
        cursor.execute(
            "with earlier as (select * from controle.cnes_estabelecimento where snapshot_id = %s), "
            "later as (select * from controle.cnes_estabelecimento where snapshot_id = %s) "
            "select "
            "count(*) filter (where earlier.co_cnes is null), "
            "count(*) filter (where earlier.co_cnes is not null and later.co_cnes is not null "
            "and earlier.co_municipio_6 is distinct from later.co_municipio_6), "
            "count(*) filter (where earlier.co_cnes is not null and later.co_cnes is not null "
            "and earlier.co_motivo_desab is null and later.co_motivo_desab is not null), "
            "count(*) filter (where earlier.co_cnes is not null and later.co_cnes is not null "
            "and earlier.co_motivo_desab is not null and later.co_motivo_desab is null), "
            "count(*) filter (where later.co_cnes is null) "
            "from earlier full join later on earlier.co_cnes = later.co_cnes",
            (earlier, later),
        )
        added, moved, closed, reopened, gone = cursor.fetchone()
    return CnesDifference(added=added, moved=moved, closed=closed, reopened=reopened, gone=gone)


def write_cnes(connection: Connection, snapshot: Snapshot, path: Path) -> None:
    """Write the establishments of a stored snapshot to a CSV with the columns and the form that `store_cnes` takes."""
    with transaction(connection, f"read the CNES snapshot {snapshot.version}") as cursor:
        # `copy` takes no parameters: the snapshot is chosen by a temporary table.
        cursor.execute(
            "create temporary table cnes_outgoing on commit drop as "
            "select co_cnes, co_municipio_6, no_razao_social, no_fantasia, co_tipo_estabelecimento, co_natureza_juridica, "
            "co_motivo_desab from controle.cnes_estabelecimento where snapshot_id = %s",
            (snapshot.id,),
        )
        copy_out(cursor, "copy cnes_outgoing to stdout (format csv, encoding 'UTF8')", path)


def _insert(cursor: Any, snapshot: Snapshot) -> Snapshot | None:
    cursor.execute(
        "insert into controle.reference_snapshot (kind, version, sha256, import_rules, origin, rows, rows_active) "
        f"values (%s, %s, %s, %s, %s, %s, %s) on conflict (kind, sha256, import_rules) do nothing returning {_COLUMNS}",
        (
            snapshot.kind,
            snapshot.version,
            snapshot.sha256,
            snapshot.import_rules,
            snapshot.origin,
            snapshot.rows,
            snapshot.rows_active,
        ),
    )
    return _snapshot(cursor.fetchone())


def _snapshot(row: Any) -> Snapshot | None:
    if row is None:
        return None
    identity, kind, version, sha256, import_rules, origin, rows, rows_active = row
    return Snapshot(
        id=identity,
        kind=kind,
        version=version,
        sha256=sha256,
        import_rules=import_rules,
        origin=origin,
        rows=rows,
        rows_active=rows_active,
    )


def _require(snapshot: Snapshot | None) -> Snapshot:
    if snapshot is None:
        raise RuntimeError("the row that a unique constraint met is not visible under the lock")
    return snapshot
