"""One day again, if that releases anything from its quarantine.

What was begun is written down (`replay.json` beside the quarantine of the day) before anything changes, and goes when the day is
done: a replay that was cut off goes on with the same run, whatever the quarantine looks like by then.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Self

import msgspec

from imunizacao import pipeline
from imunizacao.controle import record_replay
from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.events import log_event
from imunizacao.manifests import Head, decode, head_key
from imunizacao.models import RunContext
from imunizacao.pipeline import Services
from imunizacao.quarantine import (
    QuarantinePointer,
    QuarantineRow,
    load_reasons,
    pointer_key,
    read_pointer,
    read_published,
    read_rows,
)
from imunizacao.reference_day import ReferenceDay
from imunizacao.replay.precheck import PreCheck, downloaded, precheck_day
from imunizacao.storage import ObjectMissing, ObjectStore, PreconditionLost

REASON: Final = "quarantine-replay"
_GETS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedDay:
    """What became of a day. Doses, never their ids."""

    day: str
    state: str
    """`no-quarantine`: no run has written one. `withdrawn`: left alone. `nothing`: no dose would be released. `would-release`: dry
    run. `no-landing`: dry run, and the day cannot be made again from here. `pending`: dry run, and a replay was cut off that the next
    real one brings to its end. `replayed`: a new revision. `unchanged`: made again, same content. `superseded`: a newer extract is
    published."""
    considered: int = 0
    """In quarantine before, of the reasons asked for."""
    released: int = 0
    """Dry run: would be. Else: were, of whatever reason."""
    released_by_reason: dict[str, int] = field(default_factory=dict)
    still: int = 0
    """In quarantine afterwards; dry run: of those considered."""
    revision: int | None = None
    run_id: str = ""
    resumed: bool = False
    """An earlier replay of the day had been cut off, and was brought to its end."""

    def to_json(self) -> str:
        """Text for XCom and for `--json`."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote."""
        return msgspec.json.decode(text, type=cls)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A replay that has begun."""

    run_id: str
    previous: QuarantinePointer


def days_with_quarantine(work: ObjectStore, days: Sequence[ReferenceDay]) -> list[QuarantinePointer]:
    """Pointers of the days that have one, in order."""
    with ThreadPoolExecutor(_GETS_AT_ONCE) as pool:
        found = pool.map(lambda day: read_pointer(work, str(day)), days)
        return [pointer for pointer in found if pointer is not None]


def days_that_were_judged(work: ObjectStore, days: Sequence[ReferenceDay]) -> list[str]:
    """Days that have a quarantine, in order, without reading it: a damaged one must fail its own day, not the plan of all."""
    with ThreadPoolExecutor(_GETS_AT_ONCE) as pool:
        found = pool.map(lambda day: work.info(pointer_key(str(day))), days)
        return [str(day) for day, info in zip(days, found, strict=True) if info is not None]


def require_reasons(reasons: Sequence[str]) -> None:
    """Refuse a code that nothing gives: mistyped, it would find nothing and look like good news."""
    unknown = sorted(set(reasons) - set(load_reasons()))
    if unknown:
        raise ConfigurationError(
            f"Unknown reason(s) {', '.join(unknown)}. include/contract/motivos.csv has all of them, for example CNES_UNKNOWN."
        )


def replay_day(
    context: RunContext,
    services: Services,
    *,
    reasons: Sequence[str] = (),
    cnes: str = "newest",
    dry_run: bool = True,
    decide_publish: str = "",
    decided_by: str = "",
) -> ReplayedDay:
    """Judge the quarantine of what readers see of a day again and, where a dose would be released, make the whole day again from its landing.

    With `reasons` only doses with one of them can bring the day to be made again; all of its documents are then judged. Other
    content is a new revision with the reason `quarantine-replay`, the same is none. A dry run looks and changes nothing that readers
    see. Errors of the stages go on: the day can be tried again, and is resumed. A day whose landing is gone is a `ConfigurationError`
    before anything is begun. `decide_publish` as in `pipeline.run_day`.
    """
    day = str(context.day)
    head = _head_or_none(services, day)
    pointer = read_published(services.work, day, head)
    if pointer is None:
        return ReplayedDay(day=day, state="no-quarantine")
    if head is not None and head.withdrawn_by_person:
        return ReplayedDay(day=day, state="withdrawn", considered=pointer.doses, still=pointer.doses)
    plan = _read_plan(services.work, day)
    resumed = plan is not None
    if resumed and dry_run:
        state = "pending" if _has_landing(services, context.day) else "no-landing"
        return ReplayedDay(day=day, state=state, considered=pointer.doses, still=pointer.doses)
    if plan is None:
        references = pipeline.resolve_day(context, services, cnes=cnes)
        look = precheck_day(context, services, pointer, references=references, reasons=reasons)
        log_event("replay.looked", day=day, considered=look.considered, released=len(look.released), dry_run=dry_run)
        if dry_run and look.released and not _has_landing(services, context.day):
            return ReplayedDay(day=day, state="no-landing", considered=look.considered, still=look.considered)
        if dry_run or not look.released:
            return _looked(day, look)
        pipeline.newest_landing(context.day, services.work)  # or refused: a plan could never be brought to its end
        plan = _begin(services.work, day, _Plan(run_id=context.run_id, previous=pointer))
    made = RunContext.create(day=context.day, run_id=plan.run_id, code_version=context.code_version)
    result = pipeline.remake_day(
        made, services, reason=REASON, cnes=cnes, decide_publish=decide_publish, decided_by=decided_by
    )
    return _finish(made, services, plan, result, resumed=resumed)


def summary(days: Sequence[ReplayedDay], *, dry_run: bool) -> str:
    """One line for people about a range: for the note of a run and the end of a list."""
    if not days:
        return "nada em quarentena no período"
    parts = [f"{len(days)} {'dia avaliado' if len(days) == 1 else 'dias avaliados'}"]
    released = sum(day.released for day in days)
    if dry_run:
        there = [day for day in days if day.released]
        parts.append(
            f"{released} doses seriam liberadas em {len(there)} {'dia' if len(there) == 1 else 'dias'} (simulação)"
        )
        if gone := sum(day.state == "no-landing" for day in days):
            parts.append(f"{gone} sem landing, só com o espelho")
        return " · ".join(parts)
    parts.append(f"{released} {'dose liberada' if released == 1 else 'doses liberadas'}")
    parts += [f"{day.day} rev {day.revision} (+{day.released})" for day in days if day.state == "replayed"]
    parts.append(f"{sum(day.still for day in days)} ainda em quarentena")
    return " · ".join(parts)


def _looked(day: str, look: PreCheck) -> ReplayedDay:
    return ReplayedDay(
        day=day,
        state="would-release" if look.released else "nothing",
        considered=look.considered,
        released=len(look.released),
        released_by_reason=_by_reason(look.released),
        still=look.still,
    )


def _finish(
    context: RunContext, services: Services, plan: _Plan, result: pipeline.DayResult, *, resumed: bool
) -> ReplayedDay:
    day = str(context.day)
    published = result.published
    now = read_published(services.work, day, _head_or_none(services, day))
    if now is None:
        raise ContractViolation(f"{pointer_key(day)} vanished while {day} was made again. Run the replay again.")
    released = _released(plan.previous, now, services)
    # Content that readers had already released nothing.
    told = released if published.outcome != "superseded" else []
    if told and services.connect is not None:
        connection = services.connect()
        try:
            record_replay(
                connection, context.day, of_run=plan.previous.run_id, by_run=context.run_id, released=_by_uf(told)
            )
        finally:
            connection.close()
    services.work.delete(_plan_key(day))
    done = ReplayedDay(
        day=day,
        state={"published": "replayed", "unchanged": "unchanged"}.get(published.outcome, published.outcome),
        considered=plan.previous.doses,
        released=len(told),
        released_by_reason=_by_reason(told),
        still=now.doses,
        revision=published.revision,
        run_id=context.run_id,
        resumed=resumed,
    )
    log_event(
        "replay.done", day=day, state=done.state, released=done.released, still=done.still, revision=published.revision
    )
    return done


def _released(before: QuarantinePointer, now: QuarantinePointer, services: Services) -> list[QuarantineRow]:
    """Rows of the quarantine before that are in none now."""
    if before.dataset.key == now.dataset.key:
        return []
    with downloaded(now, services) as path:
        left = {row.identity for row in read_rows(path)}
    with downloaded(before, services) as path:
        return [row for row in read_rows(path) if row.identity not in left]


def _by_reason(rows: Sequence[QuarantineRow]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        for reason in row.ds_motivos:
            found[reason] = found.get(reason, 0) + 1
    return dict(sorted(found.items()))


def _by_uf(rows: Sequence[QuarantineRow]) -> Mapping[str, Mapping[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = found.setdefault(row.co_uf_estabelecimento, {})
        for reason in row.ds_motivos:
            counts[reason] = counts.get(reason, 0) + 1
    return found


def _has_landing(services: Services, day: ReferenceDay) -> bool:
    return pipeline.newest_landing_or_none(day, services.work) is not None


def _head_or_none(services: Services, day: str) -> Head | None:
    stored = services.public.get_or_none(head_key(day))
    return None if stored is None else decode(Head, stored.body, head_key(day))


def _plan_key(day: str) -> str:
    return pointer_key(day).rpartition("/")[0] + "/replay.json"


def _read_plan(work: ObjectStore, day: str) -> _Plan | None:
    try:
        stored = work.get(_plan_key(day))
    except ObjectMissing:
        return None
    try:
        plan = msgspec.json.decode(stored.body, type=_Plan)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ContractViolation(
            f"{stored.key} in the work bucket is not the plan of a replay ({error}). Delete it and run the replay again; see "
            "docs/runbook/quarantine.md."
        ) from error
    log_event("replay.resumed", level=logging.WARNING, day=day, run=plan.run_id)
    return plan


def _begin(work: ObjectStore, day: str, plan: _Plan) -> _Plan:
    """Write the plan; another one that was faster is the one to follow."""
    try:
        work.put(_plan_key(day), msgspec.json.encode(plan), content_type="application/json", only_if_absent=True)
    except PreconditionLost:
        return _read_plan(work, day) or plan
    return plan
