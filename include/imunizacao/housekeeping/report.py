"""What housekeeping found, removed and left: counts, bytes and places, never a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import msgspec

from imunizacao.storage import ObjectInfo

Kind = Literal[
    "content",
    "diff",
    "withdrawn",
    "probe",
    "runs",
    "landing",
    "checkpoints",
    "quarantine",
    "acks",
    "docs",
    "places",
    "claims",
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
PUBLIC_KINDS: Final = frozenset[Kind](("content", "diff", "withdrawn", "probe"))
TITLES: Final[dict[Kind, str]] = {
    "content": "contents that no history names",
    "diff": "diffs that no history names",
    "withdrawn": "files of withdrawn days and UFs past their grace period",
    "probe": "leftovers of the probe",
    "runs": "objects of earlier runs; their outcomes and receipts of publications stay as long as Data Docs",
    "landing": "newest landings past their retention",
    "checkpoints": "page checkpoints of finished runs",
    "quarantine": "quarantine datasets that nothing names, or past their retention",
    "acks": "acknowledgements that nothing names, or past their retention",
    "docs": "Data Docs past their retention",
    "places": "indexes of places of contents that are gone",
    "claims": "claims of earlier housekeeping",
}
_MOST_NAMED: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Objects that go together."""

    kind: Kind
    name: str
    """Prefix or key, with its bucket: `public:v1/days/2026-03-14/c-…/`."""
    first: Sequence[str]
    """Keys that go before the others: what makes a reader believe in them."""
    rest: Sequence[str]
    bytes: int
    content: tuple[str, str] | None = None
    """Day and content id, when the objects are in a content folder that a publication could use."""

    @property
    def objects(self) -> int:
        """How many."""
        return len(self.first) + len(self.rest)


@dataclass(slots=True, kw_only=True)
class Tally:
    """Sums over removals of one kind."""

    groups: int = 0
    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What was left alone on purpose, and why: a person may have to look."""

    name: str
    why: str


@dataclass(slots=True, kw_only=True)
class Report:
    """Everything of one housekeeping."""

    deleted: bool
    """False: only listed."""
    tallies: dict[Kind, Tally] = field(default_factory=dict)
    names: list[tuple[Kind, str, int, int]] = field(default_factory=list)
    """Kind, name, objects, bytes; the first fifty of each kind."""
    kept: list[Kept] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Keys of no known form, the first fifty; always kept."""
    unknown_objects: int = 0
    _named: Counter[Kind] = field(default_factory=Counter)

    def add(self, removal: Removal, *, objects: int | None = None) -> None:
        """Count a removal; `objects` when it was cut short."""
        tally = self.tallies.setdefault(removal.kind, Tally())
        tally.groups += 1
        tally.objects += removal.objects if objects is None else objects
        tally.bytes += removal.bytes
        self._named[removal.kind] += 1
        if self._named[removal.kind] <= _MOST_NAMED:
            self.names.append((removal.kind, removal.name, removal.objects, removal.bytes))

    def keep(self, name: str, why: str) -> None:
        """Note something that was left alone in doubt; the same place once."""
        if all(kept.name != name for kept in self.kept):
            self.kept.append(Kept(name=name, why=why))

    def wonder(self, key: str) -> None:
        """Note a key that nobody knows."""
        self.unknown_objects += 1
        if len(self.unknown) < _MOST_NAMED:
            self.unknown.append(key)

    @property
    def objects(self) -> int:
        """Objects of all kinds."""
        return sum(tally.objects for tally in self.tallies.values())

    @property
    def bytes(self) -> int:
        """Bytes of all kinds."""
        return sum(tally.bytes for tally in self.tallies.values())

    @property
    def counts(self) -> dict[str, int | float]:
        """Flat, for `controle.outcome`."""
        found: dict[str, int | float] = {"deleted": int(self.deleted)}
        for kind, tally in sorted(self.tallies.items()):
            found |= {f"{kind}_groups": tally.groups, f"{kind}_objects": tally.objects, f"{kind}_bytes": tally.bytes}
        return found | {"kept": len(self.kept), "unknown": self.unknown_objects}

    def to_json(self) -> str:
        """Text for XCom: counts only."""
        return msgspec.json.encode(self.counts).decode()


def size_of(infos: Sequence[ObjectInfo]) -> int:
    """Bytes of some objects."""
    return sum(info.bytes for info in infos)


def describe_report(report: Report) -> list[str]:
    """The report for the command line and the log: one line per thing."""
    lines = []
    for kind in KINDS:
        tally = report.tallies.get(kind)
        if tally is None:
            continue
        lines.append(f"{kind:<12} {tally.objects:>9,} objects {tally.bytes:>15,} bytes  {TITLES[kind]}")
        named = [entry for entry in report.names if entry[0] == kind]
        lines += [f"    {name}  {objects:,} objects, {size:,} bytes" for _, name, objects, size in named]
        if tally.groups > len(named):
            lines.append(f"    and {tally.groups - len(named):,} more")
    verb = "removed" if report.deleted else "would be removed"
    lines.append(f"{report.objects:,} objects, {report.bytes:,} bytes {verb}.")
    if report.kept:
        lines.append(f"{len(report.kept)} places kept, because it is not certain that nobody needs them:")
        lines += [f"    {kept.name}: {kept.why}" for kept in report.kept]
    if report.unknown_objects:
        lines.append(f"{report.unknown_objects} objects of no known form, kept; the first are:")
        lines += [f"    {key}" for key in report.unknown]
    return lines


def report_note(report: Report) -> str:
    """One line for the note of a run, in Portuguese."""
    parts = [
        f"{_number(report.objects)} objetos, {_number(report.bytes // 1_000_000)} MB "
        + ("removidos" if report.deleted else "seriam removidos (simulação)")
    ]
    parts += [f"{kind} {_number(tally.objects)}" for kind, tally in sorted(report.tallies.items())]
    if report.kept:
        parts.append(f"{len(report.kept)} mantidos por dúvida")
    if report.unknown_objects:
        parts.append(f"{_number(report.unknown_objects)} desconhecidos, mantidos")
    return " · ".join(parts)


def _number(value: int) -> str:
    return f"{value:,}".replace(",", ".")
