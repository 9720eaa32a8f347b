"""The product's heads and month indexes in the words of the model, and its invariants over a whole history."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from tests.protocol import model
from tests.protocol.explorer import World

_OF_HISTORIES: Final = (
    model.history_only_grows,
    model.each_run_once,
    model.never_older,
    model.withdrawn_stays_withdrawn,
    model.good_days_stay,
)


def tell_head(body: bytes, *, names: Mapping[str, str], returning: Collection[str] = ()) -> model.Head:
    """`head.json` for the model. `names`: content id → name; `returning`: runs that may publish what was withdrawn."""
    head = _parse(body)
    entries = tuple(_entry(entry, names, returning) for entry in head["history"])
    current = head["current"]
    shown = names[current["contentId"]] if current else ""
    assert (head["revision"], shown) == (len(entries), entries[-1].content), "head and last entry differ"
    assert [entry["revision"] for entry in head["history"]] == list(range(1, len(entries) + 1))
    assert [entry["supersedes"] for entry in head["history"]] == [None, *range(1, len(entries))]
    if current:
        assert current["path"] == f"v1/days/{head['day']}/c-{current['contentId']}/day.json"
    return model.Head(entries, _number((current or head["history"][-1])["dataThrough"]))


def _entry(entry: dict[str, Any], names: Mapping[str, str], returning: Collection[str]) -> model.Entry:
    content = names[entry["contentId"]] if entry["contentId"] else ""
    if entry.get("note", "").startswith("Reconciliação"):
        reason = "back"
    elif entry["reason"] == "withdrawal":
        reason = "withdraw"
    else:
        # A run after a gap says `restore` by itself; only one that was told so may publish what was withdrawn.
        reason = "restore" if entry["runId"] in returning else "publish"
    name = entry["runId"] if reason in {"publish", "restore"} else entry["commitToken"]
    verdict = entry.get("reconciliation", {}).get("verdict", "")
    cnes = int(entry.get("references", {}).get("cnes", {}).get("competencia", 0))
    return model.Entry(reason, content, _number(entry["dataThrough"]), name, verdict, cnes)


def tell_index(body: bytes, day: str, *, names: Mapping[str, str]) -> tuple[int, str] | None:
    """The row of a day in its month index: revision and content."""
    for row in _parse(body)["days"]:
        if row["day"] == day:
            return row["revision"], names[row["root"]["path"].split("/c-")[1][:64]] if row["root"] else ""
    return None


def judge_history(before: model.Head | None, after: model.Head, ended: Mapping[str, str] | None = None) -> str:
    """What is wrong with the way from one head to a later one, of which only the ends were seen."""
    seen = before
    for length in range(len(before.entries) if before is not None else 0, len(after.entries) + 1):
        if length == 0:
            continue
        last = length == len(after.entries)
        now = after if last else model.Head(after.entries[:length], after.entries[length - 1].through)
        world = World(stored={"head": now}, before={"head": seen}, ended=(ended or {}) if last else {}, final=False)
        wrong = next((wrong for check in _OF_HISTORIES if (wrong := check(world))), "")
        if wrong:
            return wrong
        seen = now
    return ""


def _number(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp())


@lru_cache(maxsize=100_000)
def _parse(body: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(body)
    return parsed
