"""`python -m imunizacao quarantine list | show | replay`."""

from __future__ import annotations

import argparse
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final, TextIO

import msgspec

from imunizacao import pipeline
from imunizacao.controle import connect
from imunizacao.decision import check_reason, login
from imunizacao.errors import ConfigurationError, PipelineError
from imunizacao.models import RunContext
from imunizacao.paths import code_version
from imunizacao.quarantine import QuarantinePointer, QuarantineRow, load_reasons, raw_document, read_pointer, read_rows
from imunizacao.reference_day import ReferenceDay, days_between, range_of_days
from imunizacao.replay.precheck import downloaded
from imunizacao.replay.replay import (
    ReplayedDay,
    days_with_quarantine,
    replay_day,
    require_reasons,
    summary,
)
from imunizacao.settings import settings_from_env
from imunizacao.text_table import text_table

DEFAULT_DAYS: Final = 30
_SUFFIX: Final = re.compile(r"-i[0-9]{1,3}b[0-9]{1,3}$")


_EXAMPLES: Final = """\
examples:
  quarantine list --from 2026-03-01 --to 2026-03-31 --reason CNES_UNKNOWN --uf 35
  quarantine show 2026-03-14 --cnes 0000019 --reason CNES_UNKNOWN
  quarantine show 2026-03-14 DOCUMENT [--raw]
  quarantine replay --from 2026-03-01 --to 2026-03-31 [--reason CODE] [--cnes 202604]     only looks
  quarantine replay --from 2026-03-01 --to 2026-03-31 --publish [--decide-publish WHY]
"""


def add_quarantine(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    top = commands.add_parser(
        "quarantine",
        help="what was not published and why: list, show, replay",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = top.add_subparsers(required=True, metavar="action")

    listing = actions.add_parser("list", help="doses in quarantine by day, UF and reason")
    _add_range(listing, required=False)
    listing.add_argument("--uf", action="append", default=[], help="IBGE code of a UF, 00 = unknown (may be repeated)")
    listing.add_argument("--json", action="store_true", help="JSON instead of a table")
    listing.set_defaults(command=_list)

    show = actions.add_parser("show", help="where a dose lies and why it was not published")
    show.add_argument("day", help="reference day, YYYY-MM-DD")
    show.add_argument(
        "document",
        nargs="?",
        default="",
        help="co_documento of a dose or document, or <object>:<line>; absent: list them",
    )
    show.add_argument(
        "--reason", action="append", default=[], help="list only doses with this reason (may be repeated)"
    )
    show.add_argument("--cnes", default="", help="list only doses of this establishment")
    show.add_argument("--raw", action="store_true", help="also the document as received: IDENTIFIED DATA of a patient")
    show.add_argument("--json", action="store_true", help="JSON instead of text")
    show.set_defaults(command=_show)

    again = actions.add_parser("replay", help="judge quarantined documents by the rules and references of today")
    _add_range(again, required=True)
    again.add_argument("--cnes", default="newest", help="AAAAMM or #id of an imported CNES snapshot (default: newest)")
    what = again.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="only tell what would be released (this is the default)")
    what.add_argument("--publish", action="store_true", help="make the days again and publish those that change")
    again.add_argument(
        "--decide-publish", default="", metavar="WHY", help="publish days whose rules ask for a decision"
    )
    again.add_argument("--json", action="store_true", help="JSON instead of a table")
    again.set_defaults(command=_replay)


def _add_range(parser: argparse.ArgumentParser, *, required: bool) -> None:
    text = "" if required else f" (default: the last {DEFAULT_DAYS} days)"
    parser.add_argument("--from", dest="start", required=required, default="", help=f"first day, YYYY-MM-DD{text}")
    parser.add_argument("--to", dest="end", required=required, default="", help="last day, included")
    parser.add_argument("--reason", action="append", default=[], help="reason code (may be repeated)")


def _services(env: Mapping[str, str]) -> pipeline.Services:
    settings = settings_from_env(env)
    dsn = settings.controle_dsn
    return pipeline.open_services(settings, connect=(lambda: connect(dsn)) if dsn else None)


def _list(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    require_reasons(options.reason)
    days = range_of_days(options.start, options.end, now=datetime.now(UTC), days=DEFAULT_DAYS)
    pointers = days_with_quarantine(_services(env).work, days)
    rows = [
        {"day": pointer.day, "held": not pointer.publish, "uf": uf, "reason": reason, "doses": doses}
        for pointer in pointers
        for uf, reasons in sorted(pointer.by_uf.items())
        for reason, doses in sorted(reasons.items())
        if (not options.uf or uf in options.uf) and (not options.reason or reason in options.reason)
    ]
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode(), file=out)
        return 0
    print(
        text_table(
            ["day", "state", "uf", "reason", "doses"],
            [[row["day"], "held" if row["held"] else "passed", row["uf"], row["reason"], row["doses"]] for row in rows],
        ),
        file=out,
    )
    print(
        f"\n{len(pointers)} day(s) with a quarantine from {days[0]} to {days[-1]}; a dose with two reasons counts under each.",
        file=out,
    )
    return 0


def _show(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    services = _services(env)
    day = str(ReferenceDay.parse(options.day))
    pointer = read_pointer(services.work, day)
    if pointer is None:
        raise ConfigurationError(
            f"The work bucket has no quarantine of {day}: no run has judged the day, or its retention has passed. "
            "`quarantine list` tells which days have one."
        )
    if not options.document:
        return _show_places(options, services, pointer, out)
    with downloaded(pointer, services) as path:
        rows = [row for row in read_rows(path) if options.document in _names(row)]
        if not rows:
            raise ConfigurationError(
                f"The quarantine of {day} (run {pointer.run_id}, {pointer.doses} doses) has no document of this id. It may have been "
                "published, replaced or removed by the source, or entered on another day."
            )
        raw = {row.line: raw_document(path, row.line) for row in rows} if options.raw else {}
    if options.raw:
        print(
            "WARNING: identified data of a patient follows. Do not copy it into tickets, mail or logs.", file=sys.stderr
        )
    table = load_reasons()
    if options.json:
        documents = [
            asdict(row)
            | {"co_documento": row.shown_document or None}
            | {"sentences": [table[code].sentence if code in table else "" for code in row.ds_motivos]}
            | ({"document": raw[row.line].decode("utf-8", "replace")} if options.raw else {})
            for row in rows
        ]
        print(msgspec.json.format(msgspec.json.encode(documents), indent=2).decode(), file=out)
        return 0
    for row in rows:
        print(
            f"{row.shown_document or '(no id)'}  (day {day}, run {pointer.run_id}, {'passed' if pointer.publish else 'held'})",
            file=out,
        )
        print(f"  lies in     {row.ds_objeto}, line {row.nu_linha_objeto}, dose {row.nu_dose}", file=out)
        print(f"  sha256      {row.co_sha256_objeto}", file=out)
        print(f"  cnes, uf    {row.co_cnes_estabelecimento or '(none)'}, {row.co_uf_estabelecimento}", file=out)
        rules = [*row.ds_regras, *[""] * (len(row.ds_motivos) - len(row.ds_regras))]
        for code, rule in zip(row.ds_motivos, rules, strict=True):
            print(f"  reason      {code}{f' ({rule})' if rule else ''}", file=out)
            if code in table:
                print(f"              {table[code].sentence} {table[code].correction}", file=out)
        print(
            f"  judged by   rules {row.co_versao_regras[:12]}, CNES {row.co_competencia_cnes} ({row.co_sha256_cnes[:12]}), IBGE "
            f"{row.co_sha256_ibge[:12]}, PNI {row.co_sha256_pni[:12]}, code {row.co_versao_codigo}",
            file=out,
        )
        if options.raw:
            print(raw[row.line].decode("utf-8", "replace"), file=out)
    return 0


def _replay(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    require_reasons(options.reason)
    services = _services(env)
    dry_run = not options.publish
    why = check_reason(options.decide_publish) if options.decide_publish else ""
    run_id = f"replay-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    done: list[ReplayedDay] = []
    failed: list[tuple[QuarantinePointer, PipelineError]] = []
    for pointer in days_with_quarantine(services.work, days_between(options.start, options.end)):
        context = RunContext.create(day=ReferenceDay.parse(pointer.day), run_id=run_id, code_version=code_version())
        try:
            done.append(
                replay_day(
                    context,
                    services,
                    reasons=options.reason,
                    cnes=options.cnes,
                    dry_run=dry_run,
                    decide_publish=why,
                    decided_by=login(),
                )
            )
        except PipelineError as error:
            # One held day must not keep the others from their documents; it is told, and decides the exit code.
            failed.append((pointer, error))
            print(f"{pointer.day}: {type(error).__name__}: {error}", file=sys.stderr)
    if options.json:
        body = msgspec.json.encode({"days": done, "failed": [pointer.day for pointer, _ in failed]})
        print(msgspec.json.format(body, indent=2).decode(), file=out)
    else:
        header = ["day", "state", "in quarantine", "released", "still", "revision", "reasons released"]
        lines = [
            [
                day.day,
                day.state,
                day.considered,
                day.released,
                day.still,
                day.revision or "",
                ", ".join(f"{reason} {doses}" for reason, doses in day.released_by_reason.items()),
            ]
            for day in done
        ] + [[pointer.day, "failed", pointer.doses, "", "", "", type(error).__name__] for pointer, error in failed]
        print(text_table(header, lines), file=out)
        print(f"\n{summary(done, dry_run=dry_run)}", file=out)
        if dry_run and any(day.released for day in done):
            print("Nothing was changed. The same command with --publish makes these days again.", file=out)
    return failed[0][1].exit_code if failed else 0


def _show_places(
    options: argparse.Namespace, services: pipeline.Services, pointer: QuarantinePointer, out: TextIO
) -> int:
    """Every dose of a day with where it lies; nothing of its document."""
    require_reasons(options.reason)
    if options.raw:
        raise ConfigurationError("--raw shows one document: name it. `quarantine show DAY` lists them.")
    with downloaded(pointer, services) as path:
        rows = [
            [
                row.shown_document,
                row.co_cnes_estabelecimento or "",
                row.co_uf_estabelecimento,
                ",".join(row.ds_motivos),
                place,
            ]
            for row in read_rows(path)
            if (not options.reason or not set(options.reason).isdisjoint(row.ds_motivos))
            and (not options.cnes or row.co_cnes_estabelecimento == options.cnes)
            for place in [f"{row.ds_objeto}:{row.nu_linha_objeto}"]
        ]
    header = ["co_documento", "cnes", "uf", "reasons", "place"]
    if options.json:
        body = msgspec.json.encode([dict(zip(header, row, strict=True)) for row in rows])
        print(msgspec.json.format(body, indent=2).decode(), file=out)
    else:
        print(text_table(header, rows), file=out)
    return 0


def _names(row: QuarantineRow) -> set[str]:
    """What a person may call a dose."""
    names = {f"{row.ds_objeto}:{row.nu_linha_objeto}"}
    if row.co_documento:
        names |= {row.co_documento, _SUFFIX.sub("", row.co_documento)}
    return names
