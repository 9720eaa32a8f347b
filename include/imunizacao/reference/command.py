"""`python -m imunizacao reference import|list|diff`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC
from pathlib import Path
from typing import TextIO

from imunizacao.controle import Difference, connect, migrate
from imunizacao.reference.cnes import CnesImport
from imunizacao.reference.importing import Imported, import_reference
from imunizacao.reference.versions import compare_versions, list_versions
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import require_controle_dsn

KINDS = ("cnes", "ibge", "pni")


def add_reference(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    add_more: Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None],
) -> None:
    """Add the command to the command line; `add_more` adds the actions that need whole days."""
    reference = commands.add_parser(
        "reference",
        help="versions of the reference tables: CNES, IBGE, PNI",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own = reference.add_subparsers(required=True, metavar="action")

    load = own.add_parser("import", help="check a file, compare it with the version in use, and store it")
    load.add_argument("file", type=Path)
    load.add_argument("--kind", choices=KINDS, default=None, help="what the file is (default: told by its name)")
    load.add_argument("--competencia", default="", help="AAAAMM, where the CNES file does not say it")
    load.add_argument("--table", default="", help="PNI table, where the file does not say it (for example dose)")
    load.add_argument("--version", default="", dest="label", help="what to call this version (IBGE and PNI)")
    load.add_argument(
        "--valid-from",
        default="",
        metavar="DAY",
        help="first reference day that --cnes of-the-day takes it for (IBGE and PNI)",
    )
    load.add_argument(
        "--force", action="store_true", help="accept what a guard refuses: you know that the file is right"
    )
    load.set_defaults(command=_import)

    show = own.add_parser("list", help="stored versions, the one in use first")
    show.add_argument("--kind", choices=KINDS, default=None)
    show.set_defaults(command=_list)

    diff = own.add_parser("diff", help="what one version changes against another")
    diff.add_argument("kind", choices=KINDS)
    diff.add_argument("--table", default="", help="PNI table")
    diff.add_argument("--from", default="", dest="earlier", help="version, #id or project (default: the one before)")
    diff.add_argument("--to", default="", dest="later", help="version, #id or project (default: the newest)")
    diff.add_argument("--list", type=int, default=0, dest="most", metavar="N", help="show the first N changes, too")
    diff.set_defaults(command=_diff)
    add_more(own)
    reference.epilog = "".join(action.format_usage() for action in own.choices.values())


def describe_import(found: Imported) -> str:
    """One line about an import."""
    if isinstance(found, CnesImport):
        what = f"CNES {found.competencia}: {found.rows} establishments ({found.active} active, {found.without_municipality} without municipality)"
    elif found.kind == "ibge":
        what = f"IBGE {found.version}: {found.rows} municipalities"
    else:
        what = f"PNI {found.name} {found.version}: {found.rows} codes ({found.active} active)"
    if not found.stored:
        return f"{what}; was imported before, nothing stored"
    if found.difference is None:
        return f"{what}; the first version"
    return f"{what}; against {found.previous}: {describe_difference(found.difference)}"


def describe_difference(difference: Difference) -> str:
    """Counts that are not zero."""
    counts = [f"{count} {name}" for name, count in asdict(difference).items() if count]
    return ", ".join(counts) or "no change"


def _import(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    with connect(require_controle_dsn(env)) as connection:
        migrate(connection)
        for found in import_reference(
            options.file,
            connection,
            kind=options.kind,
            force=options.force,
            competencia=options.competencia,
            table=options.table,
            version=options.label,
            valid_from=ReferenceDay.parse(options.valid_from).value if options.valid_from else None,
        ):
            print(describe_import(found), file=out)
    return 0


def _list(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    with connect(require_controle_dsn(env)) as connection:
        migrate(connection)
        snapshots = list_versions(connection, options.kind)
    print(
        f"{'kind':<5} {'table':<22} {'version':<16} {'rows':>8} {'active':>8}  {'in force from':<13} {'imported (UTC)':<16} {'sha256':<12}  origin",
        file=out,
    )
    for snapshot in snapshots:
        at = f"{snapshot.imported_at.astimezone(UTC):%Y-%m-%d %H:%M}" if snapshot.imported_at else ""
        print(
            f"{snapshot.kind:<5} {snapshot.name:<22} {snapshot.version:<16} {snapshot.rows:>8} {snapshot.rows_active:>8}  "
            f"{snapshot.valid_from or '':<13} {at:<16} {snapshot.sha256[:12]}  {snapshot.origin} (#{snapshot.id})",
            file=out,
        )
    if not snapshots:
        print("none: runs use the project's own tables, and no CNES", file=out)
    return 0


def _diff(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    with connect(require_controle_dsn(env)) as connection:
        migrate(connection)
        found = compare_versions(
            connection,
            options.kind,
            table=options.table,
            earlier=options.earlier,
            later=options.later,
            most=options.most,
        )
    print(f"{options.kind} {found.earlier} → {found.later}: {describe_difference(found.difference)}", file=out)
    for change in found.changes:
        print(f"{change.change:<9} {change.code:<8} {change.before or '—'} → {change.after or '—'}", file=out)
    if (left := found.difference.total - len(found.changes)) and found.changes:
        print(f"and {left} more", file=out)
    return 0
