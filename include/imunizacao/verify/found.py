"""Findings: what is not as it should be, where, and what to do. Never with a value of a row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

_LONGEST = 160
_MOST = 200
"""Findings of one day that are kept one by one; the rest is counted."""

_AGAIN = "Do not use this file. Fetch it once more; if it is the same, tell the publisher its path."
_DAY = "Do not use this day until the publisher has mended it; tell them the path."
_DERIVED = "The heads of the days hold: read them. The publisher makes the index anew by deleting it and running a day of its month."
ADVICE: Final[dict[str, str]] = {
    "missing": "Nothing can be read there. Fetch it once more; if it stays away, tell the publisher its path.",
    "bytes": _AGAIN,
    "sha256": _AGAIN,
    "form": "This manifest cannot be followed. A newer form than this version of `verify` knows? Update it; else tell the publisher.",
    "path": "Do not follow this path: it leads out of the layout. Tell the publisher; somebody else may have written the manifest.",
    "encoding": _AGAIN,
    "bom": _AGAIN,
    "line-end": _AGAIN,
    "dialect": _AGAIN,
    "header": _AGAIN,
    "fields": _AGAIN,
    "cell": _AGAIN,
    "formula": "Do not open this file in a spreadsheet. Tell the publisher its path.",
    "order": _AGAIN,
    "duplicate-key": _AGAIN,
    "place": _AGAIN,
    "rows": _AGAIN,
    "municipalities": "File of the UF and files of its municipalities differ: use neither until the publisher has mended the day.",
    "sums": _DAY,
    "residents": "Do not use the files of residents of this day; those by establishment are judged apart.",
    "content-id": _DAY,
    "account": "The counts do not close. The files may be sound, but nobody can say whether doses are lacking: ask the publisher.",
    "head": _DAY,
    "history": "The present revision is judged apart. Do not go from revision to revision by this history; fetch whole days.",
    "diff": "Do not apply this difference: fetch the whole day instead.",
    "month-index": _DERIVED,
    "catalog": _DERIVED,
    "bulk-publish": _DERIVED,
    "dcat": "Read catalog.json instead. The publisher makes it anew by deleting it and running a day.",
    "key": "Ask the publisher, by another way than this bucket, which keys are good.",
    "signature": "Treat the day as unsigned: ask the publisher, by another way than this bucket, whether it is theirs.",
    "withdrawal": "Read nothing of what is withdrawn; tell the publisher that its notice is not well formed.",
}
"""Kind of a finding → what a reader should do. The publisher's side: docs/runbook/verify-findings.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    kind: str
    """Key of `ADVICE`."""
    path: str
    """Key in the bucket."""
    what: str
    expected: str = ""
    found: str = ""

    @property
    def todo(self) -> str:
        """What a reader should do."""
        return ADVICE[self.kind]


@dataclass(slots=True, kw_only=True)
class Findings:
    """Collects findings of several threads; what happens in many rows of a file becomes one finding with a count."""

    items: list[Finding] = field(default_factory=list)
    more: int = 0
    """Findings beyond those that are kept."""
    _lock: Lock = field(default_factory=Lock)

    def add(self, kind: str, path: str, what: str, *, expected: object = "", found: object = "") -> None:
        """Note a finding. `expected` and `found` are counts, hashes, names of columns, constraints: never a value of a row."""
        if kind not in ADVICE:
            raise KeyError(kind)
        finding = Finding(kind=kind, path=safe(path), what=what, expected=safe(expected), found=safe(found))
        with self._lock:
            if len(self.items) < _MOST:
                self.items.append(finding)
            else:
                self.more += 1

    def expect(self, kind: str, path: str, what: str, *, expected: object, found: object) -> bool:
        """Note a finding unless both are equal; says whether they are."""
        if expected == found:
            return True
        self.add(kind, path, what, expected=expected, found=found)
        return False

    def take(self, other: Findings) -> None:
        """Note all findings of another list."""
        for one in other.items:
            self.add(one.kind, one.path, one.what, expected=one.expected, found=one.found)
        self.more += other.more

    def __len__(self) -> int:
        return len(self.items) + self.more


class RowFindings:
    """Findings about rows of one file: one per kind and sentence, with the number of rows and the first of them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._rows: Counter[tuple[str, str, str]] = Counter()
        self._first: dict[tuple[str, str, str], int] = {}

    def add(self, kind: str, what: str, *, row: int, rows: int = 1, expected: str = "") -> None:
        """Note `rows` rows from `row` (1 = the first after the header)."""
        self._rows[kind, what, expected] += rows
        self._first.setdefault((kind, what, expected), row)

    def close(self, findings: Findings) -> None:
        """Hand them over."""
        for (kind, what, expected), rows in self._rows.items():
            first = self._first[kind, what, expected]
            times = "row" if rows == 1 else "rows"
            findings.add(kind, self._path, what, expected=expected, found=f"{rows} {times}, the first is row {first}")


def safe(value: object) -> str:
    """Text for a terminal: printable, on one line, not too long."""
    text = value if isinstance(value, str) else repr(value) if isinstance(value, list) else str(value)
    text = "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
