"""Published days made again after a reference table changed: `python -m imunizacao reference affected|republish`."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TextIO

from imunizacao import pipeline
from imunizacao.controle import connect, migrate
from imunizacao.decision import check_reason, login
from imunizacao.errors import ConfigurationError, PipelineError
from imunizacao.models import RunContext
from imunizacao.paths import code_version
from imunizacao.pipeline import DayResult, Services
from imunizacao.reference import CHANGES, MOVING, Affected, affected_days
from imunizacao.reference.command import describe_difference
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import require_controle_dsn, settings_from_env

REASON = "references"
"""Of the revisions that are made here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remade:
    """What became of one day."""

    day: str
    result: DayResult | None
    error: PipelineError | None

    @property
    def note(self) -> str:
        """One line for people: as the note of a run, or why not."""
        if self.result is not None:
            return pipeline.run_note(self.result.published, self.result.validated)
        return f"{type(self.error).__name__}: {self.error}"


def find_affected(
    services: Services,
    *,
    earlier: str,
    later: str,
    first: date | None = None,
    last: date | None = None,
    changes: Sequence[str] = MOVING,
) -> Affected:
    """List the published days that CNES `later` would change against `earlier`; see `affected_days`."""
    if services.connect is None:
        raise ConfigurationError(
            "CNES snapshots are compared in PostgreSQL. Set IMUNIZACAO_CONTROLE_DSN, and import both months."
        )
    connection = services.connect()
    try:
        migrate(connection)
        return affected_days(
            services.public,
            services.work,
            connection,
            earlier=earlier,
            later=later,
            first=first,
            last=last,
            changes=changes,
            engine=services.settings.engine,
        )
    finally:
        connection.close()


def remake(
    services: Services, day: str, *, cnes: str, run_id: str, decide_publish: str = "", decided_by: str = ""
) -> DayResult:
    """Make one day again from its landing with the CNES snapshot `cnes`; the same content is no new revision.

    `decide_publish` as in `pipeline.run_day`.
    """
    context = RunContext.create(day=ReferenceDay.parse(day), run_id=run_id, code_version=code_version())
    return pipeline.remake_day(
        context, services, reason=REASON, cnes=cnes, decide_publish=decide_publish, decided_by=decided_by
    )


def republish(
    services: Services, days: Sequence[str], *, cnes: str, run_id: str, decide_publish: str = "", decided_by: str = ""
) -> Iterator[Remade]:
    """Make days again, one after the other, telling of each. A day that is refused does not stop the others."""
    for day in days:
        try:
            made = remake(services, day, cnes=cnes, run_id=run_id, decide_publish=decide_publish, decided_by=decided_by)
            yield Remade(day=day, result=made, error=None)
        except PipelineError as error:
            yield Remade(day=day, result=None, error=error)


def add_republish(own: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `affected` and `republish` to the command `reference`."""
    affected = own.add_parser("affected", help="published days that a newer CNES snapshot would change")
    _add_options(affected)
    affected.set_defaults(command=_affected)

    again = own.add_parser(
        "republish", help="make those days again from what was received then; without --run only list them"
    )
    _add_options(again)
    again.add_argument("--run", action="store_true", help="do it: a day whose content changes gets a new revision")
    again.add_argument(
        "--decide-publish", default="", metavar="WHY", help="publish days whose rules ask for a decision"
    )
    again.set_defaults(command=_republish)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", required=True, dest="earlier", metavar="AAAAMM|#ID", help="CNES snapshot before")
    parser.add_argument("--to", required=True, dest="later", metavar="AAAAMM|#ID", help="CNES snapshot after")
    parser.add_argument("--first", default="", help="first reference day (default: the first that is published)")
    parser.add_argument("--last", default="", help="last reference day (default: the last that is published)")
    parser.add_argument(
        "--changes",
        default=",".join(MOVING),
        help=f"which changes count, of {','.join(CHANGES)} (default: %(default)s)",
    )


def _find(options: argparse.Namespace, env: Mapping[str, str]) -> tuple[Services, Affected]:
    require_controle_dsn(env)
    settings = settings_from_env(env)
    services = pipeline.open_services(settings, connect=lambda: connect(settings.controle_dsn))
    found = find_affected(
        services,
        earlier=options.earlier,
        later=options.later,
        first=_day(options.first),
        last=_day(options.last),
        changes=options.changes.split(","),
    )
    return services, found


def _affected(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    _print_affected(_find(options, env)[1], out)
    return 0


def _republish(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    why = check_reason(options.decide_publish) if options.decide_publish else ""
    if why and not options.run:
        raise ConfigurationError("--decide-publish is about days that are made again: add --run.")
    services, found = _find(options, env)
    _print_affected(found, out)
    if not options.run:
        print("Nothing was done. Add --run to make these days again.", file=out)
        return 0
    code = 0
    run_id = f"references-{found.choice.removeprefix('#')}-{secrets.token_hex(4)}"
    for remade in republish(
        services,
        [day.day for day in found.days],
        cnes=found.choice,
        run_id=run_id,
        decide_publish=why,
        decided_by=login(),
    ):
        print(f"{remade.day}: {remade.note}", file=out if remade.error is None else sys.stderr)
        code = code or (remade.error.exit_code if remade.error is not None else 0)
    return code


def _print_affected(found: Affected, out: TextIO) -> None:
    print(f"CNES {found.earlier} → {found.later}: {describe_difference(found.difference)}", file=out)
    print(f"{len(found.days)} of {found.checked} published days are affected", file=out)
    for day in found.days:
        by_change = ", ".join(f"{doses} {change}" for change, doses in sorted(day.doses_by_change.items()))
        print(f"{day.day}  {day.doses:>9} doses at {day.establishments:>6} establishments ({by_change})", file=out)
    if found.without_index:
        print(
            f"{len(found.without_index)} days cannot be told: published before there was an index of places, from "
            f"{found.without_index[0]} to {found.without_index[-1]}. Run them again to know.",
            file=out,
        )


def _day(text: str) -> date | None:
    return ReferenceDay.parse(text).value if text else None
