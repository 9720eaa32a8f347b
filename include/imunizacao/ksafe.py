"""Public counts that do not single anybody out: a count of 1 to 7 is published as `*`, and so is what would give it away.

Only for what readers see. Receipts, `controle` and the work bucket keep the exact numbers. Which numbers stay exact in public, and why,
is in docs/dados/privacidade.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Masked = Literal["*"]
MASK: Final[Masked] = "*"
K: Final = 8
"""The smallest count that is published as it is."""
PublicCount = int | Masked


def mask_count(count: int) -> PublicCount:
    """One count that is part of no published sum."""
    return MASK if 0 < count < K else count


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeReasons:
    """Counts of doses by place and reason, and their sums by reason, as readers may see them."""

    by_place: dict[str, dict[str, PublicCount]]
    totals: dict[str, PublicCount]


def mask_reasons(
    by_place: Mapping[str, Mapping[str, int]], totals: Mapping[str, int], *, places: Iterable[str]
) -> SafeReasons:
    """Hide the small counts of a table place → reason → count. `totals` are its sums by reason, `places` all that could be in it.

    A sum tells a hidden cell when there is only one, or when the hidden ones can only be small. So further cells are hidden, the
    smallest first, and as a last resort the reason in every place: then a place that is not concerned has a `*` as well.
    The sums stand beside the exact number of all quarantined doses and are protected in the same way; where one of them is hidden, so is
    the smallest cell under it, or readers would add it up again.
    """
    columns = {reason: _column(by_place, reason) for reason in totals}
    hidden: dict[str, set[str]] = {}
    for reason, cells in columns.items():
        hidden[reason] = _to_hide(cells)
        if hidden[reason] and not _is_safe(cells, hidden[reason]):
            hidden[reason] = {*places, *cells}
    sums = _to_hide(totals)
    for reason in sums:
        if not hidden[reason]:
            hidden[reason] = {min(columns[reason], key=lambda place: (columns[reason][place], place))}
    named = {place for cells in columns.values() for place in cells} | {p for found in hidden.values() for p in found}
    return SafeReasons(
        by_place={
            place: {
                reason: MASK if place in hidden[reason] else columns[reason][place]
                for reason in sorted(totals)
                if place in hidden[reason] or place in columns[reason]
            }
            for place in sorted(named)
        },
        totals={reason: MASK if reason in sums else totals[reason] for reason in sorted(totals)},
    )


def _column(by_place: Mapping[str, Mapping[str, int]], reason: str) -> dict[str, int]:
    return {place: counts[reason] for place, counts in by_place.items() if counts.get(reason)}


def _to_hide(counts: Mapping[str, int]) -> set[str]:
    """The small ones, and of the others, from the smallest up, as many as it takes; all of them may still not be enough."""
    filled = sorted((count, name) for name, count in counts.items() if count > 0)
    hidden = {name for count, name in filled if count < K}
    for _, name in filled:
        if not hidden or _is_safe(counts, hidden):
            break
        hidden.add(name)
    return hidden


def _is_safe(counts: Mapping[str, int], hidden: set[str]) -> bool:
    """Whether the exact sum of the hidden cells leaves each of them open.

    Each is 1 or more, so each may be anything up to that sum − (hidden cells − 1). When this reaches `K`, a reader learns of none of them
    more than that it is hidden.
    """
    return len(hidden) > 1 and sum(counts[name] for name in hidden) - (len(hidden) - 1) >= K
