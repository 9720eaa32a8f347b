"""`python -m imunizacao withdraw | restore`."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from imunizacao import pipeline
from imunizacao.controle import connect
from imunizacao.decision import check_reason, login
from imunizacao.errors import ConfigurationError
from imunizacao.models import RunContext
from imunizacao.paths import code_version
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import settings_from_env
from imunizacao.withdrawal.change import Action, change_day, describe_change


def add_withdrawal(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands to the command line."""
    withdraw = commands.add_parser("withdraw", help="take a day, or UFs of a day, back from readers")
    _add_options(withdraw, "withdraw")
    restore = commands.add_parser("restore", help="give a withdrawn day, or its UFs, back to readers")
    _add_options(restore, "restore")
    restore.add_argument(
        "--remake",
        action="store_true",
        help="make the day again from its newest landing: for a day or UF whose files were removed; brings all of it back",
    )
    restore.add_argument(
        "--decide-publish",
        default="",
        metavar="REASON",
        help="with --remake: why a day is published whose rules ask for a decision (public); without it such a day is held",
    )


def _add_options(parser: argparse.ArgumentParser, action: Action) -> None:
    parser.add_argument("day", help="reference day, YYYY-MM-DD")
    parser.add_argument(
        "--uf",
        action="append",
        nargs="+",
        default=[],
        help="only these UFs, by IBGE code or initials (may be repeated; default: the whole day)",
    )
    parser.add_argument("--reason", required=True, help="why, in Portuguese: readers see it in the history of the day")
    parser.add_argument("--yes", action="store_true", help="do it; without it only tell what readers would see")
    parser.set_defaults(command=_run, action=action, remake=False, decide_publish="")


def _run(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    settings = settings_from_env(env)
    reason = check_reason(options.reason)
    if options.decide_publish and not options.remake:
        raise ConfigurationError("--decide-publish is about a day that is made again: add --remake.")
    why = check_reason(options.decide_publish) if options.decide_publish else ""
    dsn = settings.controle_dsn
    services = pipeline.open_services(settings, connect=(lambda: connect(dsn)) if dsn else None)
    run_id = f"{options.action}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    context = RunContext.create(day=ReferenceDay.parse(options.day), run_id=run_id, code_version=code_version())
    if options.remake:
        return _remake(context, services, options, out, why=why)
    change = change_day(
        context,
        services,
        action=options.action,
        ufs=[uf for some in options.uf for uf in some],
        reason=reason,
        dry_run=not options.yes,
    )
    for line in describe_change(change, reason=reason, grace_days=settings.housekeeping.withdrawn_days):
        print(line, file=out)
    if change.state == "would-change":
        print("Nothing was changed. Add --yes to do it.", file=out)
    return 0


def _remake(
    context: RunContext, services: pipeline.Services, options: argparse.Namespace, out: TextIO, *, why: str
) -> int:
    landing = pipeline.newest_landing(context.day, services.work)
    if not options.yes:
        print(
            f"{context.day}  would be made again from the landing of run {landing.run_id} ({landing.fetched} documents, extracted "
            f"{landing.extracted_at}) and published with the reason `restore`, withdrawn UFs included.",
            file=out,
        )
        print("Nothing was changed. Add --yes to do it.", file=out)
        return 0
    result = pipeline.remake_day(context, services, reason="restore", decide_publish=why, decided_by=login())
    print(f"{context.day}: {pipeline.run_note(result.published, result.validated)}", file=out)
    return 0
