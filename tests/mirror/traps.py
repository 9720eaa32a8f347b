"""What is planted among the ordinary documents, where, and how often.

Positions of a day are cut into blocks of 1000. A block's plan is drawn from (seed, day, block) alone, with exact counts, so any
document can be made without its neighbours and the shares hold on every day, small or large. A position has at most one role.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.mirror.calendar import BATCH_SIZE, in_batch

BLOCK: Final = 1000
LATER_DAYS: Final = (1, 2, 5, 11)
"""Days after which a document is replaced or cancelled by a later one, by its place in the plan."""


class Outcome(StrEnum):
    """What a reader of the day should make of a document."""

    PUBLISH = "publish"
    DUPLICATE = "duplicate"
    """Another copy, or an older version, of a document that is there too."""
    REMOVED = "removed"
    """The document itself says entered-in-error."""
    QUARANTINE = "quarantine"
    """It cannot be read or placed: no rule is needed to refuse it."""
    RULE = "rule"
    """Readable and wrong: a validation rule decides (quarantine or flag)."""


class Trap(StrEnum):
    """Everything that is planted. The names appear in `expected`."""

    COPY = "copy"
    VERSION_OLD = "version-old"
    VERSION_NEW = "version-new"
    REPLACES_TODAY = "replaces-today"
    TARGET_TODAY = "target-today"
    REPLACES_EARLIER = "replaces-earlier"
    TARGET_EARLIER = "target-earlier"
    REPLACED_LATER = "replaced-later"
    CANCELLED = "cancelled"
    CANCELLED_EARLIER = "cancelled-earlier"
    CANCELLED_LATER = "cancelled-later"
    CNES_UNKNOWN = "cnes-unknown"
    CNES_ABSENT = "cnes-absent"
    CNES_MALFORMED = "cnes-malformed"
    CNES_UNPADDED = "cnes-unpadded"
    PERSON_INVALID = "person-invalid"
    DATE_FUTURE = "date-future"
    DATE_ANCIENT = "date-ancient"
    DATE_BEFORE_BIRTH = "date-before-birth"
    DATE_UNREADABLE = "date-unreadable"
    VACCINE_MISSING = "vaccine-missing"
    VACCINE_UNKNOWN = "vaccine-unknown"
    LOT_ODD = "lot-odd"
    LOT_EXPIRED = "lot-expired"
    MAKER_TEMPLATE = "maker-template"
    COUNTRY_ABROAD = "country-abroad"
    GROUP_UNKNOWN = "group-unknown"
    GROUP_OTHERS = "group-others"
    CODE_INACTIVE = "code-inactive"
    RESIDENCE_IGNORED = "residence-ignored"
    UNKNOWN_FIELD = "unknown-field"
    NARRATIVE = "narrative"

    @property
    def outcome(self) -> Outcome:
        """What it is planted for."""
        return _OUTCOMES.get(self, Outcome.PUBLISH)


_OUTCOMES: Final = {
    Trap.COPY: Outcome.DUPLICATE,
    Trap.VERSION_OLD: Outcome.DUPLICATE,
    Trap.TARGET_TODAY: Outcome.REMOVED,
    Trap.TARGET_EARLIER: Outcome.REMOVED,
    Trap.CANCELLED: Outcome.REMOVED,
    Trap.CANCELLED_EARLIER: Outcome.REMOVED,
    Trap.CNES_UNKNOWN: Outcome.QUARANTINE,
    Trap.CNES_ABSENT: Outcome.QUARANTINE,
    Trap.CNES_MALFORMED: Outcome.QUARANTINE,
    Trap.DATE_UNREADABLE: Outcome.QUARANTINE,
    Trap.PERSON_INVALID: Outcome.RULE,
    Trap.DATE_FUTURE: Outcome.RULE,
    Trap.DATE_ANCIENT: Outcome.RULE,
    Trap.DATE_BEFORE_BIRTH: Outcome.RULE,
    Trap.VACCINE_MISSING: Outcome.RULE,
    Trap.VACCINE_UNKNOWN: Outcome.RULE,
    Trap.LOT_EXPIRED: Outcome.RULE,
}

SHARES: Final[dict[Trap, float]] = {
    Trap.VERSION_NEW: 0.005,
    Trap.REPLACES_TODAY: 0.004,
    Trap.REPLACES_EARLIER: 0.004,
    Trap.REPLACED_LATER: 0.004,
    Trap.CANCELLED: 0.0015,
    Trap.CANCELLED_EARLIER: 0.0015,
    Trap.CANCELLED_LATER: 0.0015,
    Trap.CNES_UNKNOWN: 0.004,
    Trap.CNES_ABSENT: 0.0005,
    Trap.CNES_MALFORMED: 0.0005,
    Trap.CNES_UNPADDED: 0.001,
    Trap.PERSON_INVALID: 0.002,
    Trap.DATE_FUTURE: 0.001,
    Trap.DATE_ANCIENT: 0.0005,
    Trap.DATE_BEFORE_BIRTH: 0.0005,
    Trap.DATE_UNREADABLE: 0.0005,
    Trap.VACCINE_MISSING: 0.0005,
    Trap.VACCINE_UNKNOWN: 0.001,
    Trap.LOT_ODD: 0.005,
    Trap.LOT_EXPIRED: 0.003,
    Trap.MAKER_TEMPLATE: 0.001,
    Trap.COUNTRY_ABROAD: 0.001,
    Trap.GROUP_UNKNOWN: 0.0005,
    Trap.GROUP_OTHERS: 0.001,
    Trap.CODE_INACTIVE: 0.001,
    Trap.RESIDENCE_IGNORED: 0.001,
    Trap.UNKNOWN_FIELD: 0.002,
    Trap.NARRATIVE: 0.005,
}
"""Share of the day's positions. VERSION_OLD and TARGET_TODAY come with their partner; TARGET_EARLIER with every second
REPLACES_EARLIER (the mirror drops the other half of the replaced documents)."""
COPY_SHARE: Final = 0.003
"""Copies lie in batches, so that the copy and its original have one instant and every time slice has both or neither."""

_PAIRED: Final = {Trap.VERSION_NEW: Trap.VERSION_OLD, Trap.REPLACES_TODAY: Trap.TARGET_TODAY}
"""Roles that need a second position of the same block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What one position is."""

    trap: Trap
    slot: int
    """Number of this role among those of its kind in the block: picks variants and links days."""
    partner: int = -1
    """The other position of a pair; -1 without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The roles of one block."""

    roles: dict[int, Role]
    by_trap: dict[Trap, tuple[int, ...]]
    """Positions by role, in slot order, for the roles of SHARES."""

    def find(self, trap: Trap, slot: int) -> list[int]:
        """The position with this role and slot, if there is one."""
        return [position for position, role in self.roles.items() if role.trap is trap and role.slot == slot]


def quota(index: int, share: float, start: int, stop: int) -> int:
    """How many positions of [start, stop) get the role: the running total rounds, so that sums over blocks stay exact."""
    phase = index * 0.6180339887 % 1
    return int(stop * share + phase) - int(start * share + phase)


def make_plan(key: bytes, start: int, stop: int) -> Plan:
    """Draw the roles of positions [start, stop). The counts depend on the positions only, not on the day."""
    rng = random.Random(key + start.to_bytes(8, "little"))
    free = rng.sample(range(start, stop), stop - start) if stop - start < BLOCK else _sample(rng, start, stop)
    roles: dict[int, Role] = {}
    by_trap: dict[Trap, tuple[int, ...]] = {}
    for index, (trap, share) in enumerate(SHARES.items()):
        positions = []
        for slot in range(quota(index, share, start, stop)):
            if len(free) < 2:
                break
            positions.append(_assign(trap, slot, free, roles))
        by_trap[trap] = tuple(positions)
    for position in by_trap[Trap.REPLACES_EARLIER][::2]:
        if free:
            slot = roles[position].slot
            roles[free.pop()] = Role(trap=Trap.TARGET_EARLIER, slot=slot)
    for slot, (position, original) in enumerate(_copies(rng, roles, start, stop)):
        roles[position] = Role(trap=Trap.COPY, slot=slot, partner=original)
    return Plan(roles=roles, by_trap=by_trap)


def _sample(rng: random.Random, start: int, stop: int) -> list[int]:
    """Enough positions for all roles of a full block (they take about 7 % of it)."""
    return rng.sample(range(start, stop), (stop - start) // 8)


def _assign(trap: Trap, slot: int, free: list[int], roles: dict[int, Role]) -> int:
    position = free.pop()
    second = _PAIRED.get(trap)
    if second is None:
        roles[position] = Role(trap=trap, slot=slot)
        return position
    other = free.pop()
    early, late = min(position, other), max(position, other)
    # The new version comes after the old one; a replaced document changes its state after its replacement came.
    position, other = (late, early) if trap is Trap.VERSION_NEW else (early, late)
    roles[position] = Role(trap=trap, slot=slot, partner=other)
    roles[other] = Role(trap=second, slot=slot, partner=position)
    return position


def _copies(rng: random.Random, roles: dict[int, Role], start: int, stop: int) -> Iterator[tuple[int, int]]:
    wanted = quota(len(SHARES), COPY_SHARE, start, stop)
    batched = [k for k in range(start, stop) if in_batch(k) and k not in roles]
    if wanted == 0 or not batched:
        return
    taken: set[int] = set()
    for position in rng.sample(batched, min(wanted * 3, len(batched))):
        group = range(max(start, position // BATCH_SIZE * BATCH_SIZE), position)
        originals = [k for k in group if k not in roles and k not in taken]
        if wanted == 0:
            return
        if originals and position not in taken:
            original = rng.choice(originals)
            taken.update((position, original))
            wanted -= 1
            yield position, original
