"""The order of the checks, and what becomes of one that cannot be made."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from imunizacao.errors import ConfigurationError, MirrorProtocolError, MirrorUnavailable, PipelineError
from imunizacao.fhir import Transport, Window, instant_text
from imunizacao.fhir.capability import Capability, Way, decide_way, prefer_filled, read_capability
from imunizacao.fhir.pace import Sleep
from imunizacao.fhir.transport import shown
from imunizacao.mirror_check import access, documents, export, paging, totals
from imunizacao.mirror_check.asking import Asker, Collection, Finding, NotChecked
from imunizacao.mirror_check.found import Found
from imunizacao.mirror_check.report import MirrorReport, Recommendation, Row, State
from imunizacao.mirror_check.sample import Sample
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import MirrorSettings

RETRY_BUDGET: Final = 30.0
"""Seconds of retries per request: a check tells what is wrong, it does not sit it out."""
_OF_A_RUN: Final = re.compile(r"Nothing was published[;.] |slices that are complete are kept\. ")


def check_mirror(
    settings: MirrorSettings,
    *,
    day: ReferenceDay,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Sleep = asyncio.sleep,
) -> MirrorReport:
    """Ask a mirror, in about 40 requests, whether days can be taken from it, and how best.

    Whatever the mirror does wrong becomes a row of the report. Raises `ConfigurationError` only for a day that is not over.
    """
    day.require_over(now())
    return asyncio.run(_check(settings, day, now, sleep))


async def _check(
    settings: MirrorSettings, day: ReferenceDay, now: Callable[[], datetime], sleep: Sleep
) -> MirrorReport:
    started = time.monotonic()
    patient = replace(settings, retry_budget=min(settings.retry_budget, RETRY_BUDGET))
    async with Transport(patient, sleep=sleep, now=now) as transport:
        found, state = await _open(transport, settings, day, now)
        recommended: tuple[Recommendation, ...] = ()
        if state == "usable":
            recommended = await (_check_export(found) if found.way == "export" else _check_search(found))
            _tell_not_checked(found)
            if any(row.verdict == "fail" for row in found.rows):
                state = "not usable"
        return MirrorReport(
            base_url=shown(settings.base_url),
            day=str(day),
            checked_at=instant_text(now().replace(microsecond=0)),
            way=found.way,
            state=state,
            rows=tuple(found.rows),
            recommended=recommended,
            requests=transport.requests,
            seconds=time.monotonic() - started,
        )


async def _open(
    transport: Transport, settings: MirrorSettings, day: ReferenceDay, now: Callable[[], datetime]
) -> tuple[Found, State]:
    """Reach the mirror, read its statement and choose the way; what fails here makes all other checks pointless."""
    refused: PipelineError | None = None
    undecided: ConfigurationError | None = None
    capability = Capability(statement=None, problem="it was not asked for")
    try:
        capability = await read_capability(transport)
    except ConfigurationError as error:
        refused = error
    try:
        way, because = decide_way(settings.way, capability)
        if settings.way == "auto" and refused is None:
            way, because = await _prefer_filled(transport, way, because, capability)
    except ConfigurationError as error:
        undecided, (way, because) = error, ("documents", "tried all the same")
    found = Found(
        settings=settings,
        day=day,
        window=Window(start=day.start, end=day.end),
        asker=Asker(transport, Collection.of(way)),
        way=way,
        because=because,
        capability=capability,
        now=now,
    )
    access.check_address(found)
    access.check_certificate(found)
    try:
        if refused is not None:
            raise refused
        await (export.check_access(found) if way == "export" else access.check_access(found))
    except MirrorUnavailable as error:
        found.rows.append(_row_of(error, access.ACCESS, "access"))
        return found, "unreachable"
    except ConfigurationError as error:
        found.rows.append(_row_of(error, access.ACCESS, "access"))
        return found, "refused"
    except MirrorProtocolError as error:
        found.rows.append(_row_of(error, access.ACCESS, "access"))
    access.check_metadata(found)
    _tell_way(found, undecided)
    return found, "usable"


async def _prefer_filled(transport: Transport, way: Way, because: str, capability: Capability) -> tuple[Way, str]:
    """As a run does; a mirror that is away is for the checks to tell."""
    try:
        return await prefer_filled(transport, way, because, capability)
    except (ConfigurationError, MirrorUnavailable):
        return way, because


def _tell_way(found: Found, undecided: ConfigurationError | None) -> None:
    if undecided is None:
        found.add(access.DECLARED, "way", f"{found.way}: {found.because}")
        return
    found.add(
        access.DECLARED,
        "way",
        "none that we know, going by the CapabilityStatement; documents are tried all the same",
        "fail",
        "If the checks below are good the statement is incomplete: set IMUNIZACAO_MIRROR_WAY=documents. If not, ask those who run "
        "the mirror which way it serves.",
    )


async def _check_search(found: Found) -> tuple[Recommendation, ...]:
    await _try(found, totals.FRESHNESS, "newest document", totals.check_newest)
    with _row(found, totals.TOTALS, "total"):
        totals.check_total(found)
    await _try(found, totals.TOTALS, "total twice", totals.check_total_twice)
    await _try(found, totals.TOTALS, "halves", totals.check_halves)
    await _try(found, totals.SEARCH, "pages", totals.read_pages)
    await _try(found, totals.TOTALS, "other totals", totals.check_other_totals, needed=False)
    await _try(found, totals.SEARCH, "bounds in `self`", totals.check_bounds)
    await _try(found, totals.SEARCH, "inside the window", totals.check_inside)
    await _try(found, totals.SEARCH, "unknown parameter", totals.check_unknown_parameter, needed=False)
    await _check_paging(found)
    speed = None
    with _row(found, documents.TRANSFER, "compression"):
        documents.check_compression(found)
    with _row(found, documents.TRANSFER, "speed"):
        speed = documents.measure_speed(found)
        documents.check_speed(found, speed)
    await _check_documents(found)
    return documents.recommend(found, speed)


async def _check_paging(found: Found) -> None:
    with _row(found, paging.PAGING, "page size"):
        paging.check_page_size(found)
    walk: paging.Walk | None = None
    with _row(found, paging.PAGING, "walk"):
        walk = await paging.walk_narrow_window(found)
        await paging.check_walk(found, walk)
    if walk is None:
        found.not_checked += [(topic, "there was no walk") for topic in ("next", "same page twice")]
    else:
        with _row(found, paging.PAGING, "next"):
            paging.check_next(found, walk)
        with _row(found, paging.PAGING, "same page twice"):
            await paging.check_same_page_twice(found, walk)
    await _try(found, paging.PAGING, "depth", paging.check_depth)


async def _check_documents(found: Found) -> None:
    with _row(found, documents.DOCUMENTS, "identity"):
        documents.check_entries(found)
    sample = Sample()
    with _row(found, documents.DOCUMENTS, "content"):
        sample = await documents.take_sample(found)
        await documents.check_readable(found, sample)
    for topic, check in (
        ("profiles", documents.check_profiles),
        ("CNES", documents.check_cnes),
        ("neighbours", documents.check_neighbours),
    ):
        with _row(found, documents.DOCUMENTS, topic):
            check(found, sample)


async def _check_export(found: Found) -> tuple[Recommendation, ...]:
    await _try(found, export.EXPORT, "start", export.check_start)
    return documents.recommend(found, None)


async def _try(
    found: Found, section: str, topic: str, check: Callable[[Found], Awaitable[None]], *, needed: bool = True
) -> None:
    with _row(found, section, topic, needed=needed):
        await check(found)


@contextmanager
def _row(found: Found, section: str, topic: str, *, needed: bool = True) -> Iterator[None]:
    """Make a row of whatever keeps a check from being made, and go on. A run does without what is not `needed`."""
    try:
        yield
    except NotChecked as reason:
        found.not_checked.append((topic, str(reason)))
    except Finding as finding:
        found.add(section, topic, finding.result, "fail", finding.advice)
    except PipelineError as error:
        row = _row_of(error, section, topic)
        found.rows.append(row if needed else replace(row, verdict="warn"))


def _row_of(error: PipelineError, section: str, topic: str) -> Row:
    """Our errors say what happened in their first sentence, and what to do in the others."""
    result, _, advice = str(error).partition(". ")
    return Row(
        section=section,
        topic=topic,
        result=result.rstrip("."),
        verdict="fail",
        advice=_OF_A_RUN.sub("", advice),
    )


def _tell_not_checked(found: Found) -> None:
    by_reason: dict[str, list[str]] = {}
    for topic, reason in found.not_checked:
        by_reason.setdefault(reason, []).append(topic)
    if by_reason:
        told = "; ".join(f"{', '.join(topics)} ({reason})" for reason, topics in by_reason.items())
        found.add("Not checked", "left out", told, "warn")
