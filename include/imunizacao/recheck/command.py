"""`python -m imunizacao recheck`."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from imunizacao import pipeline
from imunizacao.controle import connect
from imunizacao.decision import check_reason, login
from imunizacao.errors import ConfigurationError, PipelineError
from imunizacao.models import RunContext
from imunizacao.paths import code_version
from imunizacao.recheck.recheck import DEFAULT_DAYS, RecheckedDay, recheck_day, summary
from imunizacao.reference_day import range_of_days
from imunizacao.settings import settings_from_env
from imunizacao.text_table import text_table


def add_recheck(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("recheck", help="count the last days again at the mirror; make those again that moved")
    parser.add_argument(
        "--from", dest="start", default="", help=f"first day, YYYY-MM-DD (default: {DEFAULT_DAYS} days in all)"
    )
    parser.add_argument("--to", dest="end", default="", help="last day, included (default: yesterday)")
    parser.add_argument(
        "--thorough", action="store_true", help="fetch every day again, also those whose totals are the same"
    )
    parser.add_argument(
        "--publish", action="store_true", help="make days that moved again and publish those that change"
    )
    parser.add_argument(
        "--decide-publish", default="", metavar="WHY", help="publish days whose rules ask for a decision"
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.set_defaults(command=_recheck)


def _recheck(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    why = check_reason(options.decide_publish) if options.decide_publish else ""
    dry_run = not options.publish
    if dry_run and (options.thorough or why):
        raise ConfigurationError("--thorough and --decide-publish make days again: add --publish.")
    settings = settings_from_env(env)
    dsn = settings.controle_dsn
    services = pipeline.open_services(settings, connect=(lambda: connect(dsn)) if dsn else None)
    run_id = f"recheck-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    done: list[RecheckedDay] = []
    failed: list[tuple[str, PipelineError]] = []
    for day in range_of_days(options.start, options.end, now=services.now(), days=DEFAULT_DAYS):
        context = RunContext.create(day=day, run_id=run_id, code_version=code_version())
        try:
            done.append(
                recheck_day(
                    context,
                    services,
                    dry_run=dry_run,
                    thorough=options.thorough,
                    decide_publish=why,
                    decided_by=login(),
                )
            )
        except PipelineError as error:
            # One held day must not keep the others from being counted; it is told, and decides the exit code.
            failed.append((str(day), error))
            print(f"{day}: {type(error).__name__}: {error}", file=sys.stderr)
    if options.json:
        body = msgspec.json.encode({"days": done, "failed": [day for day, _ in failed]})
        print(msgspec.json.format(body, indent=2).decode(), file=out)
    else:
        header = ["day", "state", "landed", "announced", "parts moved", "revision", "added", "changed", "removed"]
        rows: list[list[object]] = [
            [
                day.day,
                day.state,
                day.landed,
                "" if day.announced is None else day.announced,
                day.moved,
                day.revision or "",
                day.added,
                day.changed,
                day.removed,
            ]
            for day in done
        ]
        rows += [[day, f"failed: {type(error).__name__}", "", "", "", "", "", "", ""] for day, error in failed]
        print(text_table(header, sorted(rows, key=lambda row: str(row[0]))), file=out)
        print(f"\n{summary(done, dry_run=dry_run)}", file=out)
        if dry_run and any(day.state in {"moved", "unpublished"} for day in done):
            print("Nothing was changed. The same command with --publish makes these days again.", file=out)
    return failed[0][1].exit_code if failed else 0
