"""The index is one object that carries its own data: two days that finish at once meet in its compare-and-swap, none is lost.

What it says comes from two places: `summary.json` beside the report of a day (the newest verdict), and the head of the day (what
readers see). Both are read inside the swap, so a row never goes back; from both, the whole index can be made at any time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from imunizacao.decision import Decision
from imunizacao.docs_index.page import render_page, rows_of
from imunizacao.docs_index.rows import DayRow, DayVerdict, Finding, Kind, Publication, State
from imunizacao.errors import ContractViolation
from imunizacao.events import log_event
from imunizacao.findings import short
from imunizacao.manifests import Head, decode, head_key
from imunizacao.models import ValidateReceipt
from imunizacao.storage import ObjectStore, swap

DOCS: Final = "v1/docs/"
"""Prefix of the Data Docs in the work bucket: one folder per day, one for scripts and styles, and the index."""
INDEX_KEY: Final = f"{DOCS}index.html"
_SUMMARY: Final = re.compile(re.escape(DOCS) + r"day=([0-9]{4}-[0-9]{2}-[0-9]{2})/summary\.json")


def docs_key(day: str) -> str:
    """Key of the report of a day (`YYYY-MM-DD`) in the work bucket; a new run of the day overwrites it."""
    return f"{DOCS}day={day}/index.html"


def note_verdict(
    work: ObjectStore, public: ObjectStore, receipt: ValidateReceipt, decision: Decision | None = None
) -> None:
    """Keep what the rules, and a person if one was asked, said of a day, and show it in the index."""
    structural = receipt.quarantined - receipt.quarantined_by_rules
    kinds: tuple[tuple[Kind, list[str]], ...] = (
        ("held", receipt.held_because),
        ("asked", receipt.asks),
        ("warning", receipt.warnings),
    )
    verdict = DayVerdict(
        day=receipt.day,
        run_id=receipt.run_id,
        rules=receipt.suite_sha256,
        state=_state(receipt, decision),
        judged=receipt.checked + structural,
        quarantined=receipt.quarantined,
        findings=[
            Finding(rule=rule.rule, kind=kind, text=short(rule))
            for kind, rules in kinds
            for rule in receipt.failed(rules)
        ],
        reason="" if decision is None else decision.reason,
    )
    work.put(_summary_key(receipt.day), msgspec.json.encode(verdict), content_type="application/json")
    update_index(work, public, receipt.day)


def update_index(work: ObjectStore, public: ObjectStore, day: str) -> None:
    """Bring the row of one day up to date; an index that is missing or damaged is made anew.

    Raises `PublicationConflict` when other days win too often: the task is run again and finds its work done.
    """

    def decide(body: bytes | None) -> tuple[bytes, int]:
        rows = None if body is None else rows_of(body)
        if rows is None:
            rows = _all_rows(work, public)
        row = _row(work, public, day)
        if row is not None:
            rows[day] = row
        return render_page(rows), len(rows)

    _swap(work, decide)


def rebuild_index(work: ObjectStore, public: ObjectStore) -> int:
    """Make the index from the verdicts and heads in the buckets, whatever it says now, and return its number of days."""

    def decide(body: bytes | None) -> tuple[bytes, int]:
        rows = _all_rows(work, public)
        return render_page(rows), len(rows)

    days = _swap(work, decide)
    log_event("docs_index.rebuilt", days=days)
    return days


def _swap(work: ObjectStore, decide: Callable[[bytes | None], tuple[bytes, int]]) -> int:
    return swap(work, INDEX_KEY, decide, content_type="text/html; charset=utf-8", cache_control="no-cache")


def _state(receipt: ValidateReceipt, decision: Decision | None) -> State:
    if not receipt.publish:
        return "held"
    if not receipt.asks:
        return "passed"
    if decision is None:
        return "asked"
    return "released" if decision.choice == "publish" else "refused"


def _all_rows(work: ObjectStore, public: ObjectStore) -> dict[str, DayRow]:
    days = [found.group(1) for info in work.list(f"{DOCS}day=") if (found := _SUMMARY.fullmatch(info.key))]
    return {day: row for day in days if (row := _row(work, public, day)) is not None}


def _row(work: ObjectStore, public: ObjectStore, day: str) -> DayRow | None:
    key = _summary_key(day)
    stored = work.get_or_none(key)
    if stored is None:
        return None
    try:
        verdict = msgspec.json.decode(stored.body, type=DayVerdict)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ContractViolation(
            f"{work.bucket}/{key} cannot be read ({error}). It was changed by hand or by another version: delete it, then start a "
            "run of the day, which writes it again."
        ) from error
    published = public.get_or_none(head_key(day))
    if published is None:
        return DayRow(verdict=verdict)
    head = decode(Head, published.body, head_key(day))
    rows = 0 if head.current is None else head.current.rows
    return DayRow(verdict=verdict, publication=Publication(state=head.state, revision=head.revision, rows=rows))


def _summary_key(day: str) -> str:
    return f"{DOCS}day={day}/summary.json"
