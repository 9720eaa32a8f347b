"""Versioned reference tables: `controle.reference_snapshot` and the rows of each snapshot (CNES, IBGE, tables of the PNI)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, Literal

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
    """sha256 of what read the source; see the modules of `reference`."""
    origin: str
    rows: int
    rows_active: int
    name: str = ""
    """Table of the PNI without `pni_`."""
    valid_from: date | None = None
    """Of IBGE and PNI: first reference day that it is in force on; None = any."""
    id: int = 0
    """0 until it is stored."""
    imported_at: datetime | None = None
    """None until it is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What one snapshot changes against another, in establishments, municipalities or codes."""

    added: int = 0
    moved: int = 0
    """Another municipality (CNES) or UF (IBGE), or one where there was none, or none where there was one."""
    closed: int = 0
    """Active before, deactivated now."""
    reopened: int = 0
    renamed: int = 0
    """Another name, or another value of any column that is not counted elsewhere."""
    gone: int = 0
    """In the earlier snapshot only."""

    @property
    def total(self) -> int:
        """All of them; one establishment may count more than once."""
        return sum(int(getattr(self, field.name)) for field in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of a difference."""

    code: str
    change: str
    """Name of a field of `Difference`."""
    before: str | None
    after: str | None


_ROWS: Final[Mapping[Kind, tuple[str, str]]] = {
    "cnes": (
        "controle.cnes_estabelecimento",
        "co_cnes, co_municipio_6, no_razao_social, no_fantasia, co_tipo_estabelecimento, co_natureza_juridica, co_motivo_desab",
    ),
    "ibge": ("controle.ibge_municipio", "co_ibge_7, co_ibge_6, no_municipio, co_uf, sg_uf, no_uf, no_regiao"),
    "pni": ("controle.pni_codigo", "co_codigo, valores"),
}
"""Table and columns, in the order of the CSV files that snapshots are stored from and written to."""

_COLUMNS = "id, kind, name, version, sha256, import_rules, origin, rows, rows_active, valid_from, imported_at"

_CNES_CHANGES = (
    "with earlier as (select * from controle.cnes_estabelecimento where snapshot_id = %s), "
    "later as (select * from controle.cnes_estabelecimento where snapshot_id = %s) "
    "select coalesce(earlier.co_cnes, later.co_cnes) as co_cnes, found.change, found.before, found.after "
    "from earlier full join later on earlier.co_cnes = later.co_cnes "
    "cross join lateral (values "
    "('added', earlier.co_cnes is null, null, later.co_municipio_6), "
    "('gone', later.co_cnes is null, earlier.co_municipio_6, null), "
    "('moved', earlier.co_municipio_6 is distinct from later.co_municipio_6, earlier.co_municipio_6, later.co_municipio_6), "
    "('closed', earlier.co_motivo_desab is null and later.co_motivo_desab is not null, "
    "earlier.co_municipio_6, later.co_municipio_6), "
    "('reopened', earlier.co_motivo_desab is not null and later.co_motivo_desab is null, "
    "earlier.co_municipio_6, later.co_municipio_6), "
    "('renamed', (earlier.no_razao_social, earlier.no_fantasia) is distinct from (later.no_razao_social, later.no_fantasia), "
    "coalesce(earlier.no_fantasia, earlier.no_razao_social), coalesce(later.no_fantasia, later.no_razao_social))"
    ") as found (change, applies, before, after) "
    "where found.applies and (found.change in ('added', 'gone') or (earlier.co_cnes is not null and later.co_cnes is not null))"
)


def newest_cnes(connection: Connection, *, until: str = "999912", only: str = "") -> Snapshot | None:
    """The CNES snapshot with the highest competência up to `until` (or exactly `only`); of equals the one imported last."""
    with transaction(connection, "look up the newest CNES snapshot") as cursor:
        cursor.execute(
            f"select {_COLUMNS} from controle.reference_snapshot "
            "where kind = 'cnes' and version <= %s and (%s = '' or version = %s) order by version desc, id desc limit 1",
            (until, only, only),
        )
        return _snapshot(cursor.fetchone())


def newest_table(connection: Connection, kind: Kind, name: str = "", *, day: date | None = None) -> Snapshot | None:
    """The newest snapshot of a small table (IBGE, one of the PNI); None = the project's own is in use.

    Newest is the latest `valid_from`, or day of import where nobody said one: an older table that is imported for its time takes nobody's
    place. Of equals the one imported last.

    With `day` the one in force on it: of those that are, the latest `valid_from`, and only without a dated one an undated one.
    """
    known = [snapshot for snapshot in stored_snapshots(connection, kind) if snapshot.name == name]
    if day is None:
        return max(known, key=lambda one: (_since(one), one.id), default=None)
    since = [(snapshot.valid_from or date.min, snapshot.id, snapshot) for snapshot in known]
    return max((found for found in since if found[0] <= day), default=(day, 0, None))[2]


def _since(snapshot: Snapshot) -> date:
    stored = snapshot.imported_at
    return snapshot.valid_from or (stored.date() if stored is not None else date.min)


def stored_snapshots(connection: Connection, kind: Kind | Literal[""] = "") -> list[Snapshot]:
    """All snapshots whose rows are stored: CNES by competência, then the others, newest first.

    Versions of the project's own tables that days were made with are noted without rows and are not among them.
    """
    with transaction(connection, "list the reference snapshots") as cursor:
        cursor.execute(
            f"select {_COLUMNS} from controle.reference_snapshot as snapshot "
            "where (%s = '' or kind = %s) and (kind = 'cnes' "
            "or exists (select 1 from controle.ibge_municipio as row where row.snapshot_id = snapshot.id) "
            "or exists (select 1 from controle.pni_codigo as row where row.snapshot_id = snapshot.id)) "
            "order by kind, name, case when kind = 'cnes' then version end desc, id desc",
            (kind, kind),
        )
        return [found for row in cursor.fetchall() if (found := _snapshot(row)) is not None]


def record_snapshot(connection: Connection, snapshot: Snapshot) -> None:
    """Note a version of the small tables (IBGE, PNI) the first time that it is used; later calls change nothing."""
    with transaction(connection, f"record a snapshot of {snapshot.kind}") as cursor:
        _insert(cursor, snapshot)


def store_snapshot(connection: Connection, snapshot: Snapshot, rows: Path) -> tuple[Snapshot, bool]:
    """Store a snapshot with its rows, or find it; all or nothing. Returns it and whether it is new.

    `rows` is a CSV without header with the columns of its kind (`_ROWS`); an empty unquoted field is null.
    """
    table, columns = _ROWS[snapshot.kind]
    with transaction(connection, f"store the {snapshot.kind} snapshot {snapshot.version}") as cursor:
        cursor.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        stored = _insert(cursor, snapshot)
        if stored is None:
            cursor.execute(
                f"select {_COLUMNS} from controle.reference_snapshot "
                "where kind = %s and name = %s and sha256 = %s and import_rules = %s",
                (snapshot.kind, snapshot.name, snapshot.sha256, snapshot.import_rules),
            )
            return _require(_snapshot(cursor.fetchone())), False
        cursor.execute(f"create temporary table incoming on commit drop as select {columns} from {table} with no data")
        copy_in(cursor, "copy incoming from stdin (format csv, encoding 'UTF8')", rows)
        cursor.execute(f"insert into {table} (snapshot_id, {columns}) select %s, {columns} from incoming", (stored.id,))
    return stored, True


def write_snapshot(connection: Connection, snapshot: Snapshot, path: Path) -> None:
    """Write the rows of a stored snapshot to a CSV with the columns and the form that `store_snapshot` takes, by code."""
    table, columns = _ROWS[snapshot.kind]
    with transaction(connection, f"read the {snapshot.kind} snapshot {snapshot.version}") as cursor:
        # `copy` takes no parameters: the snapshot is chosen by a temporary table.
        cursor.execute(
            f"create temporary table outgoing on commit drop as select {columns} from {table} where snapshot_id = %s",
            (snapshot.id,),
        )
        order = columns.split(",", maxsplit=1)[0]
        copy_out(
            cursor,
            f"copy (select * from outgoing order by {order} collate \"C\") to stdout (format csv, encoding 'UTF8')",
            path,
        )


def compare_cnes(connection: Connection, *, earlier: int, later: int) -> Difference:
    """Count what changed between two stored CNES snapshots (by id)."""
    with transaction(connection, "compare two CNES snapshots") as cursor:
        cursor.execute(f"select change, count(*) from ({_CNES_CHANGES}) as changes group by change", (earlier, later))
        return Difference(**{str(change): int(count) for change, count in cursor.fetchall()})


@contextmanager
def cnes_changes(connection: Connection, *, earlier: int, later: int) -> Iterator[Iterator[Change]]:
    """Each change between two stored CNES snapshots (by id), by kind and CNES; places are municipalities (6 digits)."""
    with transaction(connection, "compare two CNES snapshots") as cursor:
        cursor.execute(f"{_CNES_CHANGES} order by change, co_cnes", (earlier, later))
        yield (Change(code=code, change=kind, before=before, after=after) for code, kind, before, after in cursor)


def _insert(cursor: Any, snapshot: Snapshot) -> Snapshot | None:
    cursor.execute(
        "insert into controle.reference_snapshot (kind, name, version, sha256, import_rules, origin, rows, rows_active, valid_from) "
        "values (%s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict (kind, name, sha256, import_rules) do nothing "
        f"returning {_COLUMNS}",
        (
            snapshot.kind,
            snapshot.name,
            snapshot.version,
            snapshot.sha256,
            snapshot.import_rules,
            snapshot.origin,
            snapshot.rows,
            snapshot.rows_active,
            snapshot.valid_from,
        ),
    )
    return _snapshot(cursor.fetchone())


def _snapshot(row: Any) -> Snapshot | None:
    if row is None:
        return None
    identity, kind, name, version, sha256, import_rules, origin, rows, rows_active, valid_from, imported_at = row
    return Snapshot(
        id=identity,
        kind=kind,
        name=name,
        version=version,
        sha256=sha256,
        import_rules=import_rules,
        origin=origin,
        rows=rows,
        rows_active=rows_active,
        valid_from=valid_from,
        imported_at=imported_at,
    )


def _require(snapshot: Snapshot | None) -> Snapshot:
    if snapshot is None:
        raise RuntimeError("the row that a unique constraint met is not visible under the lock")
    return snapshot
