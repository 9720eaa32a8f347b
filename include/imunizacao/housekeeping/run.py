"""One housekeeping: both buckets, listed or tidied up, with its counts in the outcome."""

from __future__ import annotations

from collections.abc import Collection

from imunizacao.claims import store_clock
from imunizacao.errors import ConfigurationError
from imunizacao.events import log_event
from imunizacao.housekeeping.place import Place
from imunizacao.housekeeping.public import tidy_public
from imunizacao.housekeeping.report import KINDS, PUBLIC_KINDS, Kind, Report, report_note
from imunizacao.housekeeping.work import tidy_work
from imunizacao.models import RunContext
from imunizacao.pipeline import Services


def housekeep(
    context: RunContext, services: Services, *, delete: bool, only: Collection[str] = (), attempt: int = 1
) -> Report:
    """List what nobody needs any more and, with `delete`, remove it; `only` these kinds, or all.

    Safe to kill and to run again: marks and pointers go before files, and the next run goes on. What cannot be read, what a run may be
    working on and what has no known form is kept and reported. The day of `context` only says where the outcome is written; listing
    alone writes nothing but the object that tells the clock of the store.
    """
    unknown = sorted(set(only) - set(KINDS))
    if unknown:
        raise ConfigurationError(f"{', '.join(unknown)} is no kind of housekeeping. Known are: {', '.join(KINDS)}.")
    kinds: frozenset[Kind] = frozenset(kind for kind in KINDS if not only or kind in only)
    report = Report(deleted=delete)
    if not delete:
        _tidy(context, services, kinds, report)
        return report
    with services.outcomes.stage(context, "housekeeping", attempt) as record:
        try:
            _tidy(context, services, kinds, report)
        finally:
            record.counts, record.bytes = report.counts, report.bytes
        record.message = report_note(report)
    return report


def _tidy(context: RunContext, services: Services, kinds: frozenset[Kind], report: Report) -> None:
    place = Place(
        public=services.public,
        work=services.work,
        settings=services.settings.housekeeping,
        now=store_clock(services.work),
        by=context.run_id,
        kinds=kinds,
        report=report,
    )
    # The public bucket first: what its heads name decides about some of the work bucket.
    if kinds & PUBLIC_KINDS:
        tidy_public(place)
    if kinds - PUBLIC_KINDS:
        tidy_work(place)
    log_event(
        "housekeeping.done",
        deleted=report.deleted,
        objects=report.objects,
        bytes=report.bytes,
        kept=len(report.kept),
        unknown=report.unknown_objects,
    )
