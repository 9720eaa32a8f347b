"""Everything without Airflow: `python -m imunizacao <command>`.

Exit codes: 0 done, 1 unexpected, 2 settings, 3 mirror unavailable, 4 mirror not to be trusted, 5 store, database or disk,
6 contract, 7 day held by a rule, 8 publication conflict.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from imunizacao import __version__, pipeline
from imunizacao.archive.command import add_export
from imunizacao.controle import connect, migrate, outcomes
from imunizacao.decision import check_reason, login
from imunizacao.docs_index.command import add_docs_index
from imunizacao.errors import PipelineError
from imunizacao.events import Progress, no_progress
from imunizacao.housekeeping.command import add_housekeeping
from imunizacao.mirror_check.command import add_mirror_check
from imunizacao.models import RunContext
from imunizacao.paths import code_version
from imunizacao.recheck.command import add_recheck
from imunizacao.reference import import_cnes
from imunizacao.reference.command import add_reference
from imunizacao.reference_day import ReferenceDay
from imunizacao.replay.command import add_quarantine
from imunizacao.republish import add_republish
from imunizacao.settings import Settings, environment_help, settings_from_env
from imunizacao.settings import require_controle_dsn as _require_dsn
from imunizacao.signing.command import add_keys
from imunizacao.verify.command import add_verify
from imunizacao.withdrawal.command import add_withdrawal


def main(argv: Sequence[str], *, env: Mapping[str, str] = os.environ, out: TextIO = sys.stdout) -> int:
    """Run one command and return its exit code; expected failures are one message on standard error, never a traceback."""
    parser = _parser()
    options = parser.parse_args(argv)
    terminal = sys.stderr.isatty() and not options.plain
    _set_up_logging(quiet=terminal)
    try:
        command: Callable[[argparse.Namespace, Mapping[str, str], TextIO, bool], int] = options.command
        return command(options, env, out, terminal)
    except PipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted. Nothing is half published; run the same command again to go on.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imunizacao",
        description="Daily immunization datasets from a FHIR mirror of the RNDS.",
        epilog="settings (environment):\n" + environment_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{__version__}+{code_version()}")
    parser.add_argument("--plain", action="store_true", help="one line per event, also on a terminal")
    commands = parser.add_subparsers(required=True, metavar="command")

    run = commands.add_parser("run-day", help="publish one day: python -m imunizacao run-day 2026-03-14")
    run.add_argument("day", nargs="?", default="", help="reference day, YYYY-MM-DD (default: yesterday in São Paulo)")
    run.add_argument("--run-id", default="", help="resume the run with this id (default: a new one)")
    run.add_argument(
        "--cnes",
        default="newest",
        help="CNES snapshot: newest (default), of-the-day (in force on the day), AAAAMM, or #id",
    )
    run.add_argument("--reason", default="", help="reason of a new revision (default: found by comparison)")
    run.add_argument(
        "--accept-stale-mirror",
        action="store_true",
        help="the day is whole though the mirror has nothing newer: you know, it cannot tell",
    )
    run.add_argument(
        "--decide-publish",
        default="",
        metavar="REASON",
        help="publish the day if its rules ask for a decision, and why; readers see the reason in the history of the day",
    )
    run.set_defaults(command=_run_day)

    cnes = commands.add_parser("import-cnes", help="load a monthly CNES file (zip or csv) into controle")
    cnes.add_argument("file", type=Path)
    cnes.add_argument(
        "--force", action="store_true", help="accept a snapshot that shrank by more than the guard allows"
    )
    cnes.set_defaults(command=_import_cnes)

    add_mirror_check(commands)
    add_recheck(commands)
    add_quarantine(commands)
    add_docs_index(commands)
    add_reference(commands, add_republish)
    add_keys(commands)
    add_export(commands)
    add_withdrawal(commands)
    add_housekeeping(commands)
    add_verify(commands)

    status = commands.add_parser("outcomes", help="what each stage of a day did")
    status.add_argument("day")
    status.set_defaults(command=_outcomes)
    return parser


def _run_day(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    settings = settings_from_env(env)
    decide_publish = check_reason(options.decide_publish) if options.decide_publish else ""
    now = pipeline.utc_now()
    day = ReferenceDay.parse(options.day) if options.day else ReferenceDay.yesterday(now)
    context = RunContext.create(
        day=day, run_id=options.run_id or f"cli-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", code_version=code_version()
    )
    services = pipeline.open_services(
        settings, connect=_connector(settings), progress=_progress(sys.stderr) if terminal else no_progress
    )
    started = time.monotonic()
    result = pipeline.run_day(
        context,
        services,
        cnes=options.cnes,
        reason=options.reason,
        accept_stale=options.accept_stale_mirror,
        decide_publish=decide_publish,
        decided_by=login(),
    )
    published = result.published
    print(f"{day}: {pipeline.run_note(published, result.validated)}", file=out)
    print(f"head      {settings.storage.public_bucket}/{published.head_path}", file=out)
    print(f"manifest  {settings.storage.public_bucket}/{published.root_path}", file=out)
    print(f"run       {context.run_id} in {time.monotonic() - started:.1f} s", file=out)
    return 0


def _import_cnes(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    dsn = _require_dsn(env)
    with connect(dsn) as connection:
        migrate(connection)
        done = import_cnes(options.file, connection, force=options.force)
    print(
        f"CNES {done.competencia}: {done.rows} establishments ({done.active} active, {done.without_municipality} without municipality)",
        file=out,
    )
    return 0


def _outcomes(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    with connect(_require_dsn(env)) as connection:
        for row in outcomes(connection, ReferenceDay.parse(options.day)):
            print(row, file=out)
    return 0


def _connector(settings: Settings) -> pipeline.Connect | None:
    return (lambda: connect(settings.controle_dsn)) if settings.controle_dsn else None


def _set_up_logging(*, quiet: bool) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("imunizacao").setLevel(logging.WARNING if quiet else logging.INFO)


def _progress(stream: TextIO) -> Progress:
    """A bar on one line of the terminal, renewed at most ten times a second."""
    last = [0.0]

    def show(what: str, done: int, total: int | None) -> None:
        finished = total is not None and done >= total
        if not finished and time.monotonic() - last[0] < 0.1:
            return
        last[0] = time.monotonic()
        share = done / total if total else 0.0
        bar = "█" * int(share * 30)
        stream.write(f"\r{what:<18} {bar:<30} {done:>9,}/{total or 0:,}  {datetime.now(UTC):%H:%M:%S}\033[K")
        if finished:
            stream.write("\n")
        stream.flush()

    return show
