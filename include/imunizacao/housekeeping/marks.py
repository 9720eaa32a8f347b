"""What a head allows to remove: marks that are written into it first, and what may go because of them. Head in, answer out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from imunizacao.manifests import Entry, Head

Due = Callable[[str], bool]
"""Whether a withdrawal of this instant is past its grace period."""


def marked(head: Head, *, at: str, due: Due) -> Head:
    """The head with `purgedAt` on all that was withdrawn and is past its grace period; itself when there is nothing new.

    Of a withdrawn day every content and diff of its history; of a withdrawn UF its CSVs in every content (`purgedUfs`), and every
    diff that has doses of it.
    """
    history = head.history
    if head.current is None and due(history[-1].published_at):
        history = [_purged(entry, at) for entry in history]
    withdrawn = dict(head.withdrawn_ufs)
    for uf, said in head.withdrawn_ufs.items():
        if not said.purged_at and not due(said.at):
            continue
        withdrawn[uf] = msgspec.structs.replace(said, purged_at=said.purged_at or at)
        history = [_without_uf(entry, uf, at) for entry in history]
    return msgspec.structs.replace(head, history=history, withdrawn_ufs=withdrawn)


def _purged(entry: Entry, at: str) -> Entry:
    if entry.diff is not None and not entry.diff.purged_at:
        entry = msgspec.structs.replace(entry, diff=msgspec.structs.replace(entry.diff, purged_at=at))
    return msgspec.structs.replace(entry, purged_at=at) if entry.path and not entry.purged_at else entry


def _without_uf(entry: Entry, uf: str, at: str) -> Entry:
    if entry.diff is not None and uf in entry.diff.ufs and not entry.diff.purged_at:
        entry = msgspec.structs.replace(entry, diff=msgspec.structs.replace(entry.diff, purged_at=at))
    if not entry.path or entry.purged_at or uf in (entry.purged_ufs or ()):
        return entry
    return msgspec.structs.replace(entry, purged_ufs=sorted([*(entry.purged_ufs or ()), uf]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Removable:
    """What a head says of the objects of its day."""

    named: frozenset[str]
    """Content ids in the history."""
    contents: frozenset[str]
    """Those of them whose folder may go: every entry that names it is purged."""
    ufs: dict[str, frozenset[str]]
    """Content id → UFs whose CSVs may go: every entry that names it, and is not purged, says so."""
    diffs: frozenset[str]
    """Paths of diffs that may go."""
    named_diffs: frozenset[str]
    revision: int

    def is_orphan_diff(self, path: str, to: int) -> bool:
        """Whether no entry names a diff, nor can: its revision exists, with another diff or with none."""
        return to <= self.revision and path not in self.named_diffs


def removable(head: Head) -> Removable:
    """What may go by the marks in a head as it is."""
    by_content: dict[str, list[Entry]] = {}
    for entry in head.history:
        if entry.content_id:
            by_content.setdefault(entry.content_id, []).append(entry)
    living = {content: [entry for entry in entries if not entry.purged_at] for content, entries in by_content.items()}
    ufs = {
        content: frozenset.intersection(*(frozenset(entry.purged_ufs or ()) for entry in entries))
        for content, entries in living.items()
        if entries
    }
    diffs = [entry.diff for entry in head.history if entry.diff is not None]
    return Removable(
        named=frozenset(by_content),
        contents=frozenset(content for content, entries in living.items() if not entries),
        ufs={content: some for content, some in ufs.items() if some},
        diffs=frozenset(diff.path for diff in diffs if diff.purged_at),
        named_diffs=frozenset(diff.path for diff in diffs),
        revision=head.revision,
    )
