"""What the stages of a run wrote down about their work, against what a reader counts of its revision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from imunizacao.events import log_event

_SAME: Final = (
    ("extract", "fetched", "source", "fetched"),
    ("flatten", "fetched", "source", "fetched"),
    ("flatten", "unique", "source", "unique"),
    ("flatten", "duplicates", "source", "duplicates"),
    ("flatten", "doses", "account", "doses"),
    ("flatten", "superseded", "account", "superseded"),
    ("flatten", "removed", "account", "removed"),
    ("validate", "quarantined", "account", "quarantined"),
    ("split", "rows", "account", "published"),
    ("publish", "doses", "account", "doses"),
    ("publish", "published", "account", "published"),
    ("publish", "quarantined", "account", "quarantined"),
)
"""Stage and count in `controle.outcome` → block and count in the history of the head."""


def check_outcomes(
    recorded: Mapping[str, Mapping[str, int | float]],
    entry: Mapping[str, Any],
    *,
    day: str,
    rows: int,
    expect: Callable[[str, object, object], None],
) -> None:
    """Compare `recorded` (stage → counts, of the run that made `entry`) with the entry, and with the `rows` that were counted.

    A stage without a row (a database that was lost and filled again in part) says nothing: that is an event in the log, no gap.
    """
    absent = sorted({stage for stage, *_ in _SAME} - recorded.keys())
    if absent:
        log_event(
            "reconcile.outcomes_absent", day=day, stages=",".join(absent), runbook="docs/runbook/controle-outcomes.md"
        )
    for stage, count, block, name in _SAME:
        if stage in recorded and count in recorded[stage] and entry.get(block) is not None:
            expect(f"{count} in the outcome of {stage}", recorded[stage][count], entry[block][name])
    if "publish" in recorded and "published" in recorded["publish"]:
        expect("rows counted against the outcome of publish", recorded["publish"]["published"], rows)
    diff = entry.get("diff") or {}
    for name in sorted({"added", "changed", "removed"} & diff.keys()):
        said = recorded.get("publish", {}).get(f"diff_{name}")
        if said is not None:
            expect(f"doses {name} in the outcome of publish", said, diff[name])
