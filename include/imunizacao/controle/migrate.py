"""Versioned migrations of the schema `controle`: SQL files, applied once and in order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imunizacao.controle.connection import Connection, transaction
from imunizacao.errors import ContractViolation
from imunizacao.events import log_event

MIGRATIONS = Path(__file__).parent / "migrations"
_NAME = re.compile(r"(?P<version>[0-9]{4})_(?P<name>[a-z0-9_]+)\.sql")
_LOCK = 0x696D756E  # "imun": the advisory lock of this database that only migrations take


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One SQL file."""

    version: int
    name: str
    sha256: str
    text: str


def migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """The files of a folder, in order. Versions without gaps from 1; anything else is a `ContractViolation`."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise ContractViolation(f"Migration {path.name} is not named NNNN_name.sql. Rename it.")
        content = path.read_bytes()
        found.append(
            Migration(
                version=int(match["version"]),
                name=match["name"],
                sha256=hashlib.sha256(content).hexdigest(),
                text=content.decode("utf-8"),
            )
        )
    versions = [migration.version for migration in found]
    if not found or versions != list(range(1, len(found) + 1)):
        raise ContractViolation(f"Migrations must be numbered 1, 2, 3, …; found {versions}. Rename the files.")
    return found


def migrate(connection: Connection, *, folder: Path = MIGRATIONS) -> list[str]:
    """Bring the schema `controle` up to date and return the names of the migrations applied now (none = it was).

    All of them in one transaction under an advisory lock: callers at the same time wait, a failure leaves nothing. A file
    that changed after it was applied, or a database that is ahead of this code, is a `ContractViolation`.
    """
    known = migrations(folder)
    with transaction(connection, "migrate") as cursor:
        cursor.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        done = _applied(cursor)
        _require_same(known, done)
        fresh = [migration for migration in known if migration.version not in done]
        for migration in fresh:
            cursor.execute(migration.text)
            cursor.execute(
                "insert into controle.migration (version, name, sha256) values (%s, %s, %s)",
                (migration.version, migration.name, migration.sha256),
            )
    names = [f"{migration.version:04d}_{migration.name}" for migration in fresh]
    log_event("controle.migrated", applied=len(names), version=known[-1].version)
    return names


def _applied(cursor: Any) -> dict[int, tuple[str, str]]:
    """Version → (name, sha256). Creates schema and table only where they are missing: that needs a permission."""
    cursor.execute("select to_regclass('controle.migration') is not null")
    if not cursor.fetchone()[0]:
        cursor.execute("create schema if not exists controle")
        cursor.execute(
            "create table controle.migration ("
            "version integer primary key, name text not null, sha256 char(64) not null, "
            "applied_at timestamptz not null default now())"
        )
    cursor.execute("select version, name, sha256 from controle.migration")
    return {int(version): (str(name), str(sha256)) for version, name, sha256 in cursor.fetchall()}


def _require_same(known: Sequence[Migration], done: dict[int, tuple[str, str]]) -> None:
    by_version = {migration.version: migration for migration in known}
    ahead = sorted(set(done) - set(by_version))
    if ahead:
        raise ContractViolation(
            f"Schema controle has migrations {ahead} that this code does not know (it knows up to {max(by_version)}): the "
            "database is ahead. Nothing was changed. Install the newer code; see docs/runbook/controle-migrations.md."
        )
    missing = sorted(set(range(1, max(done, default=0) + 1)) - set(done))
    if missing:
        raise ContractViolation(
            f"Table controle.migration lacks versions {missing} but has later ones: somebody edited it. Nothing was changed. "
            "See docs/runbook/controle-migrations.md."
        )
    for version, (name, sha256) in sorted(done.items()):
        migration = by_version[version]
        if (migration.name, migration.sha256) != (name, sha256):
            raise ContractViolation(
                f"Migration {version:04d}_{migration.name}.sql changed after it was applied as {version:04d}_{name}: sha256 "
                f"{migration.sha256[:12]}…, the database has {sha256[:12]}…. Nothing was changed. Restore the file and put "
                "the change into a new migration; see docs/runbook/controle-migrations.md."
            )
