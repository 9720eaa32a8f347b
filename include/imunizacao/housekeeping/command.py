"""`python -m imunizacao housekeeping`."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from imunizacao import pipeline
from imunizacao.controle import connect, migrate
from imunizacao.housekeeping.report import KINDS, describe_report
from imunizacao.housekeeping.run import housekeep
from imunizacao.models import RunContext
from imunizacao.paths import code_version
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import settings_from_env


def add_housekeeping(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    tidy = commands.add_parser("housekeeping", help="list, and with --delete remove, what nobody needs any more")
    tidy.add_argument("--delete", action="store_true", help="remove what is listed; without it nothing is removed")
    tidy.add_argument("--only", nargs="+", action="append", choices=KINDS, default=[], help="only these kinds")
    tidy.add_argument("--run-id", default="", help="go on with a run that was cut off (default: a new one)")
    tidy.set_defaults(command=_run)


def _run(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    settings = settings_from_env(env)
    dsn = settings.controle_dsn
    services = pipeline.open_services(settings, connect=(lambda: connect(dsn)) if dsn else None)
    now = pipeline.utc_now()
    if dsn and options.delete:
        with connect(dsn) as connection:
            migrate(connection)
    run_id = options.run_id or f"housekeeping-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    context = RunContext.create(day=ReferenceDay.yesterday(now), run_id=run_id, code_version=code_version())
    report = housekeep(context, services, delete=options.delete, only=[kind for some in options.only for kind in some])
    for line in describe_report(report):
        print(line, file=out)
    print(f"run {run_id}" if options.delete else "Nothing was removed. Add --delete to do it.", file=out)
    return 0
