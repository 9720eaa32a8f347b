"""The archive of the mirror: which document is at position k of a day, in which version and state.

Nothing is stored. A document is made from (seed, day, k, documents per day) whenever somebody asks for it, so memory does not
grow with the number of documents, and two machines make the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Final

from tests.mirror import identifiers
from tests.mirror.calendar import DayClock, utc_text
from tests.mirror.content import Content, Country, Shares, apply_trap, correct, doses_of, draw_content, kind_of
from tests.mirror.render import DOCUMENT_BASE, Envelope, render_document, render_entry
from tests.mirror.traps import BLOCK, LATER_DAYS, Outcome, Plan, Role, Trap, make_plan

FIRST_DAY: Final = date(2018, 1, 1)
"""The mirror holds nothing that is older."""
_KEPT_DAYS: Final = 8
_KEPT_PLANS: Final = 4

_LINKED: Final = frozenset(
    {
        Trap.COPY,
        Trap.VERSION_OLD,
        Trap.VERSION_NEW,
        Trap.REPLACED_LATER,
        Trap.CANCELLED_LATER,
        Trap.TARGET_EARLIER,
        Trap.CANCELLED_EARLIER,
    }
)
"""Roles whose position carries an id that another position carries too."""
_SECOND_VERSION: Final = frozenset({Trap.VERSION_NEW, Trap.TARGET_TODAY, Trap.TARGET_EARLIER, Trap.CANCELLED_EARLIER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the archive planted at one position."""

    k: int
    id: str
    """Bundle id as served."""
    version: int
    kind: str
    doses: int
    traps: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """What a reader of the day should make of the document."""
        return Trap(self.traps[0]).outcome if self.traps else Outcome.PUBLISH


@dataclass(frozen=True, slots=True)
class Extra:
    """A document of a day that is not at a position of its own: inserted, or changed, while the mirror runs."""

    k: int
    """Positions from the size of the day on are new documents; smaller ones are later versions of these."""
    instant: int
    home: date | None = None
    """The day whose position it is, when that is another one than the day in which it is listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides every byte of the archive, besides the CNES snapshot."""

    seed: int = 7
    docs_per_day: int = 20_000
    shares: Shares = field(default_factory=Shares)
    base: str = DOCUMENT_BASE


class Archive:
    """All documents of all days. It keeps the plans of the last days that were read, nothing else."""

    def __init__(self, country: Country, settings: Settings) -> None:
        self.country = country
        self.settings = settings
        self._days: dict[date, DayArchive] = {}

    def day(self, day: date) -> DayArchive:
        """The documents of one São Paulo day."""
        found = self._days.get(day)
        if found is None:
            if len(self._days) >= _KEPT_DAYS:
                self._days.pop(next(iter(self._days)))
            found = self._days[day] = DayArchive(self, day)
        return found

    def locate(self, document_id: str) -> tuple[DayArchive, int] | None:
        """The day and position that first had this id, or None when the archive never gave it."""
        hidden = identifiers.decode(document_id)
        if hidden is None:
            return None
        ordinal, k = hidden
        if not FIRST_DAY.toordinal() <= ordinal <= date.max.toordinal():
            return None
        day = self.day(date.fromordinal(ordinal))
        return (day, k) if day.uuid(k) == document_id.removesuffix(identifiers.SUFFIX) else None


class DayArchive:
    """The documents of one day, by position: 0 to `size` - 1 in the order in which they came."""

    def __init__(self, archive: Archive, day: date) -> None:
        self.day = day
        self.size = archive.settings.docs_per_day
        self.clock = DayClock.of(day, self.size)
        self._archive = archive
        self._country = archive.country
        self._shares = archive.settings.shares
        self._base = archive.settings.base
        self._ordinal = day.toordinal()
        self._key = identifiers.day_key(archive.settings.seed, self._ordinal)
        self._plans: dict[int, Plan] = {}
        self._copies: dict[int, tuple[int, ...]] = {}

    def copies(self, low: int, high: int) -> int:
        """How many of the positions [low, high) are copies of another one: a server repeats them, but does not count them."""
        found = 0
        for start in range(low // BLOCK * BLOCK, high, BLOCK):
            block = self._copies.get(start)
            if block is None:
                block = tuple(k for k, role in self.plan(start).roles.items() if role.trap is Trap.COPY)
                self._copies[start] = block
            found += sum(1 for k in block if low <= k < high)
        return found

    def uuid(self, k: int) -> str:
        """UUID of the document that belongs to position k (a copy or a version carries that of another position)."""
        return identifiers.document_uuid(identifiers.digest(self._key, k), self._ordinal, k)

    def plan(self, k: int) -> Plan:
        """The plan of the block of position k."""
        start = k // BLOCK * BLOCK
        found = self._plans.get(start)
        if found is None:
            if len(self._plans) >= _KEPT_PLANS:
                self._plans.pop(next(iter(self._plans)))
            found = self._plans[start] = make_plan(self._key, start, min(start + BLOCK, self.size))
        return found

    def document(self, k: int) -> str:
        """JSON text of the Bundle at position k."""
        return self._make(k)[1]

    def entry(self, k: int) -> str:
        """JSON text of the search entry at position k."""
        document_id, text = self._make(k)
        return render_entry(document_id, text, self._base)

    def added(self, extra: Extra) -> tuple[str, str]:
        """Id and JSON text of an inserted document (k >= size) or of a later version of an ordinary one."""
        changed = extra.k < self.size
        bits = identifiers.digest(self._key, extra.k)
        content = self._ordinary(extra.k, bits, self.clock.instant(extra.k) if changed else extra.instant)
        if changed:
            content = correct(content)
        inside = self.clock.start <= extra.instant < self.clock.end
        text = self.clock.text(extra.instant) if inside else utc_text(extra.instant)
        envelope = Envelope(
            identifiers.document_uuid(bits, self._ordinal, extra.k),
            text,
            self.clock.text(self.clock.instant(extra.k)) if changed else text,
            "final",
            "2" if changed and content.versioned else "1" if content.versioned else "",
            "",
        )
        return envelope.id, render_document(self._country, content, envelope, self._base)

    def added_entry(self, extra: Extra) -> str:
        """JSON text of the search entry of an extra document."""
        document_id, text = self.added(extra)
        return render_entry(document_id, text, self._base)

    def expected(self, start: int = 0, stop: int | None = None) -> Iterator[Expected]:
        """What is planted at positions [start, stop), in order."""
        for k in range(start, self.size if stop is None else stop):
            role = self.plan(k).roles.get(k)
            if role is None:
                bits = identifiers.digest(self._key, k)
                kind = kind_of(bits)
                identity = identifiers.document_uuid(bits, self._ordinal, k) + identifiers.SUFFIX
                yield Expected(k=k, id=identity, version=1, kind=kind.label, doses=doses_of(bits, kind), traps=())
                continue
            content, envelope = self._planned(k, role)
            yield Expected(
                k=k,
                id=envelope.id,
                version=2 if role.trap in _SECOND_VERSION else 1,
                kind=content.kind.label,
                doses=len(content.doses),
                traps=(role.trap.value,),
            )

    def versions(self, k: int) -> list[tuple[DayArchive, int]]:
        """Where the document first served at position k is served, newest version first. Empty: position k has no id of its own."""
        role = self.plan(k).roles.get(k) if k < self.size else None
        if role is None or role.trap not in _LINKED:
            return [(self, k)]
        if role.trap is Trap.VERSION_OLD:
            return [(self, role.partner), (self, k)]
        if role.trap is Trap.REPLACED_LATER or role.trap is Trap.CANCELLED_LATER:
            later = self._neighbour(LATER_DAYS[role.slot % len(LATER_DAYS)])
            wanted = Trap.TARGET_EARLIER if role.trap is Trap.REPLACED_LATER else Trap.CANCELLED_EARLIER
            again = [(later, position) for position in later.plan(k).find(wanted, role.slot)]
            return [*again, (self, k)]
        return []

    def replaced_at(self, k: int) -> int | None:
        """Instant at which the document of position k is replaced on a later day; None when it is not."""
        role = self.plan(k).roles.get(k) if k < self.size else None
        if role is None or role.trap is not Trap.REPLACED_LATER:
            return None
        later = self._neighbour(LATER_DAYS[role.slot % len(LATER_DAYS)])
        positions = later.plan(k).find(Trap.REPLACES_EARLIER, role.slot)
        return later.clock.instant(positions[0]) if positions else None

    def _make(self, k: int) -> tuple[str, str]:
        if not 0 <= k < self.size:
            raise IndexError(f"position {k} of a day with {self.size} documents")
        role = self.plan(k).roles.get(k)
        if role is None:
            bits = identifiers.digest(self._key, k)
            instant = self.clock.instant(k)
            content = self._ordinary(k, bits, instant)
            envelope = self._first_version(k, bits, content, instant)
        else:
            content, envelope = self._planned(k, role)
        return envelope.id, render_document(self._country, content, envelope, self._base)

    def _ordinary(self, k: int, bits: bytes, instant: int) -> Content:
        minute = (instant + self.clock.segments[-1].local_shift) // 60_000
        return draw_content(self._country, self._shares, self._ordinal, min(max(minute, 0), 1439), bits)

    def _first_version(self, k: int, bits: bytes, content: Content, instant: int) -> Envelope:
        text = utc_text(instant) if content.utc else self.clock.text(instant)
        return Envelope(
            identifiers.document_uuid(bits, self._ordinal, k), text, text, "final", "1" if content.versioned else "", ""
        )

    def _planned(self, k: int, role: Role) -> tuple[Content, Envelope]:
        """Content and envelope of a position with a role."""
        match role.trap:
            case Trap.COPY:
                result = self._plain(role.partner)
            case Trap.VERSION_NEW:
                content, envelope = self._plain(role.partner)
                result = correct(content), self._again(envelope, k, "final")
            case Trap.REPLACES_TODAY:
                result = self._replacement(k, *self._plain(role.partner, self._just_before(k)))
            case Trap.TARGET_TODAY:
                content, envelope = self._plain(k, self._just_before(role.partner))
                result = content, self._again(envelope, k, "entered-in-error")
            case Trap.REPLACES_EARLIER | Trap.TARGET_EARLIER | Trap.CANCELLED_EARLIER:
                result = self._about_earlier(k, role)
            case Trap.CANCELLED:
                content, envelope = self._plain(k)
                result = content, self._again(envelope, k, "entered-in-error")
            case _:
                content, envelope = self._plain(k)
                bits = identifiers.digest(self._key, k)
                result = apply_trap(self._country, content, role, self._ordinal, bits), envelope
        return result

    def _plain(self, k: int, instant: int | None = None) -> tuple[Content, Envelope]:
        """The document of position k as it first came."""
        bits = identifiers.digest(self._key, k)
        moment = self.clock.instant(k) if instant is None else instant
        content = self._ordinary(k, bits, moment)
        return content, self._first_version(k, bits, content, moment)

    def _just_before(self, k: int) -> int:
        """When the document that position k replaces on the same day first came: a quarter of an hour before, at most."""
        return max(self.clock.start, self.clock.instant(k) - 900_000)

    def _again(self, first: Envelope, k: int, status: str) -> Envelope:
        """A later version of a document: it changed at the instant of position k."""
        return Envelope(
            first.uuid,
            self.clock.text(self.clock.instant(k)),
            first.timestamp,
            status,
            "2",  # always: two versions of one instant must not look like one
            "",
        )

    def _replacement(self, k: int, content: Content, target: Envelope) -> tuple[Content, Envelope]:
        """A new document with the identifier of the target, its content corrected, that says whom it replaces."""
        text = self.clock.text(self.clock.instant(k))
        return correct(content), Envelope(self.uuid(k), text, text, "final", target.version, target.id)

    def _about_earlier(self, k: int, role: Role) -> tuple[Content, Envelope]:
        """What this day says of a document of an earlier day. Both days know the pair by block and slot."""
        earlier = self._neighbour(-LATER_DAYS[role.slot % len(LATER_DAYS)])
        wanted = Trap.CANCELLED_LATER if role.trap is Trap.CANCELLED_EARLIER else Trap.REPLACED_LATER
        positions = earlier.plan(k).by_trap[wanted]
        if role.slot >= len(positions):  # no such victim: the document is only known to this day
            content, envelope = self._plain(k)
        else:
            content, envelope = earlier._plain(positions[role.slot])
        if role.trap is Trap.REPLACES_EARLIER:
            return self._replacement(k, content, envelope)
        return content, self._again(envelope, k, "entered-in-error")

    def _neighbour(self, days: int) -> DayArchive:
        return self._archive.day(date.fromordinal(self._ordinal + days))


@lru_cache(maxsize=4)
def _archive(seed: int, docs_per_day: int) -> Archive:
    return Archive(Country.read(), Settings(seed=seed, docs_per_day=docs_per_day))


def document(seed: int, day: date, k: int, docs_per_day: int = 20_000) -> bytes:
    """Compact JSON of the Bundle at position k of a day, as a mirror with the project's CNES snapshot serves it."""
    return _archive(seed, docs_per_day).day(day).document(k).encode()


def expected(seed: int, day: date, docs_per_day: int = 20_000) -> Iterator[Expected]:
    """What is planted in a day, position by position."""
    return _archive(seed, docs_per_day).day(day).expected()
