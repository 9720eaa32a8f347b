"""`python -m imunizacao mirror-check`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from imunizacao.mirror_check.check import check_mirror
from imunizacao.mirror_check.report import render_text
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import mirror_settings_from_env


def add_mirror_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    check = commands.add_parser("mirror-check", help="ask the mirror what it can do, before anything is taken from it")
    check.add_argument(
        "--day", default="", help="reference day to look at, YYYY-MM-DD (default: yesterday in São Paulo)"
    )
    check.add_argument("--json", action="store_true", help="the report as JSON instead of a table")
    check.set_defaults(command=_mirror_check)


def _mirror_check(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    settings = mirror_settings_from_env(env)
    day = ReferenceDay.parse(options.day) if options.day else ReferenceDay.yesterday(datetime.now(UTC))
    report = check_mirror(settings, day=day)
    if options.json:
        print(msgspec.json.format(report.to_json(), indent=2), file=out)
    else:
        width = shutil.get_terminal_size((100, 24)).columns if terminal else 100
        print(render_text(report, width=min(max(width, 80), 120)), file=out)
    return report.exit_code
