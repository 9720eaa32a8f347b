"""One published day counted again at the mirror, and run again if it moved.

A day at the mirror changes after its publication: documents arrive late, are corrected (and so move to the day of the correction) or
deleted. Such a day becomes a new revision, with a diff.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Final, Self

import msgspec

from imunizacao import pipeline
from imunizacao.events import log_event
from imunizacao.manifests import Head, decode, head_key
from imunizacao.models import ExtractReceipt, FlattenReceipt, RunContext
from imunizacao.pipeline import Services
from imunizacao.reference_day import ReferenceDay

DEFAULT_DAYS: Final = 15
STAGE: Final = "recheck"
_VERDICT: Final = ("validate", "decide")
"""Stages that a rule or a person can end with `held`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecheckedDay:
    """What became of a day. Document versions, never their ids."""

    day: str
    state: str
    """`pending`: not published yet. `withdrawn`: taken back by a person, left alone. `same`: all totals are those of its landing.
    `moved`: they are not (dry run). `held`: they are, of a newer landing that a rule or a person holds, or of
    which reconcile took a revision back. `unpublished`: they are, of a newer
    landing whose run failed (dry run). `uncountable`: the mirror has no
    totals. `published`: a new revision. `unchanged`: extracted again, same content. `superseded`: a newer extract was published
    meanwhile."""
    landed: int = 0
    announced: int | None = None
    moved: int = 0
    """Parts of the day with another total."""
    revision: int | None = None
    added: int = 0
    changed: int = 0
    removed: int = 0
    """Doses, of a new revision."""

    def to_json(self) -> str:
        """Text for XCom and for `--json`."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote."""
        return msgspec.json.decode(text, type=cls)


def recheck_day(
    context: RunContext,
    services: Services,
    *,
    dry_run: bool = True,
    thorough: bool = False,
    attempt: int = 1,
    decide_publish: str = "",
    decided_by: str = "",
) -> RecheckedDay:
    """Count a published day again and, where a total moved, run it again; unchanged parts of its landing are not fetched. A landing that was
    not published, and that neither a rule nor a person nor a verdict of reconcile holds, is made into a day without asking the mirror again.

    `thorough` runs it again whatever the totals say, and fetches everything: the only way to see a document that left while another
    came within the same part. Other content is a new revision, the same is none. A dry run only counts. A day that nobody has published
    is left to its own run, one that a person withdrew to that person. Errors of the stages go on; `decide_publish` as in
    `pipeline.run_day`.
    """
    day = str(context.day)
    stored = services.public.get_or_none(head_key(day))
    if stored is None:
        return RecheckedDay(day=day, state="pending")
    head = decode(Head, stored.body, head_key(day))
    if head.withdrawn_by_person:
        return RecheckedDay(day=day, state="withdrawn", revision=head.revision)
    with services.outcomes.stage(context, STAGE, attempt) as record:
        counted = _count(context, services, head)
        record.counts = {"landed": counted.landed, "announced": counted.announced or 0, "moved": counted.moved}
        record.revision = head.revision
    log_event(
        "recheck.counted",
        day=day,
        state=counted.state,
        landed=counted.landed,
        announced=counted.announced,
        moved=counted.moved,
    )
    if dry_run or not (thorough or counted.state in {"moved", "unpublished"}):
        return counted
    if counted.state == "unpublished" and not thorough:
        made = pipeline.remake_day(context, services, reason="", decide_publish=decide_publish, decided_by=decided_by)
    else:
        made = pipeline.run_day(context, services, fresh=thorough, decide_publish=decide_publish, decided_by=decided_by)
    published = made.published
    diff = published.diff
    return replace(
        counted,
        state=published.outcome,
        revision=published.revision,
        added=diff.get("added", 0),
        changed=diff.get("changed", 0),
        removed=diff.get("removed", 0),
    )


def _count(context: RunContext, services: Services, head: Head) -> RecheckedDay:
    """What the mirror announces against the newest landing, or against the head's history where landing is gone."""
    landing = pipeline.newest_landing_or_none(context.day, services.work)
    found = pipeline.recount(context, services, landing)
    source = head.history[-1].source
    landed = found.landed if landing is not None else (source.announced or 0 if source is not None else 0)
    if found.announced is None:
        state = "uncountable"
    elif found.announced != landed or found.moved:
        state = "moved"
    elif landing is not None and _is_ahead(landing, head) and _is_held(context.day, services, landing, head):
        state = "held"
    elif head.current is None:
        state = "moved"
    elif landing is not None and _is_ahead(landing, head):
        state = "unpublished"
    else:
        state = "same"
    return RecheckedDay(
        day=str(context.day),
        state=state,
        landed=landed,
        announced=found.announced,
        moved=found.moved,
        revision=head.revision,
    )


def _is_ahead(landing: ExtractReceipt, head: Head) -> bool:
    return head.current is None or _instant(landing.extracted_at) > _instant(head.current.data_through)


def _is_held(day: ReferenceDay, services: Services, landing: ExtractReceipt, head: Head) -> bool:
    """Whether reconcile took back what was published of a landing, or the last run that judged it was held by a rule or a person, or still
    waits for that person."""
    names = _made_from(day, services, landing)
    if _was_taken_back(head, landing, names):
        return True
    runs = [RunContext.create(day=day, run_id=run, code_version="") for run in names]
    judged = [found for run in runs if (found := [o for o in services.outcomes.of_run(run) if o.stage in _VERDICT])]
    if not judged:
        return False
    last = {outcome.stage: outcome for outcome in max(judged, key=lambda found: found[-1].started_at)}
    states = {stage: outcome.state for stage, outcome in last.items()}
    asks = "validate" in last and last["validate"].counts.get("asks", 0) > 0
    return states.get("validate") == "held" or (asks and states.get("decide") != "done")


def _was_taken_back(head: Head, landing: ExtractReceipt, runs: Collection[str]) -> bool:
    """Whether a revision of this landing did not add up. A run that only confirmed a revision is known by the entry that led back."""
    return any(
        bad.reconciliation is not None
        and bad.reconciliation.verdict == "gap"
        and (_instant(bad.data_through) == _instant(landing.extracted_at) or back.run_id in runs)
        for bad, back in pairwise(head.history)
    )


def _made_from(day: ReferenceDay, services: Services, landing: ExtractReceipt) -> set[str]:
    """The run of a landing, and those that made the day again from it."""
    runs = {landing.run_id}
    for info in services.work.list(f"v1/day={day}/run="):
        if info.key.endswith("/flatten/receipt.json"):
            receipt = FlattenReceipt.from_json(services.work.get(info.key).body)
            runs |= {receipt.run_id} if receipt.landing == landing.manifest else set()
    return runs


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def summary(days: Sequence[RecheckedDay], *, dry_run: bool) -> str:
    """One line for people about all days, in Portuguese: it is the note of a run."""
    states = Counter(day.state for day in days)
    words = {
        "same": "sem mudança no espelho",
        "moved": "mudaram no espelho" if dry_run else "mudaram e não foram refeitos",
        "published": "com nova revisão",
        "unchanged": "refeitos sem mudança",
        "superseded": "já tinham extração mais nova",
        "pending": "ainda não publicados",
        "withdrawn": "retirados por uma pessoa",
        "held": "com extração mais nova retida",
        "unpublished": "com extração mais nova que não foi publicada",
        "uncountable": "que o espelho não sabe contar",
    }
    parts = [f"{len(days)} {'dia recontado' if len(days) == 1 else 'dias recontados'}"]
    parts += [f"{states[state]} {text}" for state, text in words.items() if states[state]]
    moved = [day for day in days if day.state == "published"]
    if moved:
        parts.append(
            f"doses: {sum(day.added for day in moved)} incluídas, {sum(day.changed for day in moved)} alteradas, "
            f"{sum(day.removed for day in moved)} retiradas"
        )
    named = [day.day for day in days if day.state in {"published", "moved", "held", "unpublished", "pending"}]
    return " · ".join([*parts, *([", ".join(named)] if named else [])])
