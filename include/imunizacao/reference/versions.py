"""The stored versions: a list, and what one changes against another."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from imunizacao.controle import (
    Change,
    Connection,
    Difference,
    Kind,
    Snapshot,
    cnes_changes,
    compare_cnes,
    stored_snapshots,
)
from imunizacao.errors import ConfigurationError
from imunizacao.paths import REFERENCE
from imunizacao.reference.choice import names_of
from imunizacao.reference.common import Row, compare_rows, count_changes, read_table, scratch
from imunizacao.reference.ibge import read_ibge_snapshot
from imunizacao.reference.pni import pni_columns, pni_files, pni_name, read_pni_snapshot

PROJECT = "project"
"""Name of the version that the project carries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What one version changes against another."""

    earlier: str
    later: str
    difference: Difference
    changes: list[Change]
    """The first of them, by kind and code, as many as were asked for."""


def list_versions(connection: Connection, kind: Kind | None = None) -> list[Snapshot]:
    """Stored snapshots, CNES by competência, the others newest first."""
    return stored_snapshots(connection, kind or "")


def compare_versions(
    connection: Connection, kind: Kind, *, table: str = "", earlier: str = "", later: str = "", most: int = 0
) -> Compared:
    """Compare two stored versions of a table: by default the newest with the one before it.

    A version is named as `list_versions` shows it (of two with one name the one imported last), by `#id`, or `project` (IBGE and
    PNI). At most `most` changes are listed. One that is not there is a `ConfigurationError` that names those that are.
    """
    known = [snapshot for snapshot in stored_snapshots(connection, kind) if snapshot.name == table]
    if kind == "pni" and table not in [pni_name(path) for path in pni_files()]:
        raise ConfigurationError(
            f"{table or 'No name'} is no PNI table (--table): {', '.join(pni_name(path) for path in pni_files())}."
        )
    new = _find(known, later, kind) if later else next(iter(known), None)
    if new is None and not later:
        raise ConfigurationError(
            f"No snapshot of {kind} {table} is stored: there is nothing to compare. Import a file first."
        )
    if earlier:
        old = _find(known, earlier, kind)
    else:
        after = [snapshot for snapshot in known if new is not None and snapshot.id != new.id]
        old = next((found for found in after if new is not None and _order(found) < _order(new)), None)
        if old is None and kind == "cnes":
            raise ConfigurationError(f"There is no CNES snapshot before {_name(new)}: nothing to compare it with.")
    if kind == "cnes" and old is not None and new is not None:
        difference = compare_cnes(connection, earlier=old.id, later=new.id)
        with cnes_changes(connection, earlier=old.id, later=new.id) as changes:
            return Compared(
                earlier=old.version, later=new.version, difference=difference, changes=list(islice(changes, most))
            )
    with scratch(None) as (_, folder):
        before, after_rows = (_rows(connection, kind, table, snapshot, folder) for snapshot in (old, new))
    label, place = ("no_municipio", "sg_uf") if kind == "ibge" else (pni_columns(table)[1], "")
    found = compare_rows(before, after_rows, label=label, place=place)
    return Compared(earlier=_name(old), later=_name(new), difference=count_changes(found), changes=found[:most])


def _find(known: list[Snapshot], name: str, kind: Kind) -> Snapshot | None:
    """The snapshot of that name; None stands for the project's own table."""
    if name == PROJECT and kind != "cnes":
        return None
    for snapshot in known:
        if name in (snapshot.version, f"#{snapshot.id}"):
            return snapshot
    raise ConfigurationError(
        f"No snapshot of {kind} is called {name}. There are: {names_of(known)}. See: python -m imunizacao reference list."
    )


def _order(snapshot: Snapshot) -> tuple[str, int]:
    return (snapshot.version if snapshot.kind == "cnes" else "", snapshot.id)


def _name(snapshot: Snapshot | None) -> str:
    return PROJECT if snapshot is None else snapshot.version


def _rows(connection: Connection, kind: Kind, table: str, snapshot: Snapshot | None, folder: Path) -> dict[str, Row]:
    if kind == "ibge":
        own = REFERENCE / "ibge" / "ibge_municipios.csv"
        rows = read_table(own) if snapshot is None else read_ibge_snapshot(connection, snapshot, folder)
        return {row["co_ibge_7"]: row for row in rows}
    own = REFERENCE / "pni" / f"pni_{table}.csv"
    rows = read_table(own) if snapshot is None else read_pni_snapshot(connection, snapshot, folder)
    return {row[pni_columns(table)[0]]: row for row in rows}
