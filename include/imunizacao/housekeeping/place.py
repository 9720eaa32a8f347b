"""What both halves of housekeeping work with: stores, ages, heads, and the removal itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from imunizacao.claims import claim_folder, run_at_work
from imunizacao.errors import ContractViolation
from imunizacao.events import log_event
from imunizacao.housekeeping.report import Kind, Removal, Report
from imunizacao.manifests import Head, decode, head_key
from imunizacao.settings import HousekeepingSettings
from imunizacao.storage import ObjectInfo, ObjectMissing, ObjectStore

_AT_ONCE: Final = 1000


@dataclass(slots=True, kw_only=True)
class Place:
    """Both buckets, and how long things are kept in them."""

    public: ObjectStore
    work: ObjectStore
    settings: HousekeepingSettings
    now: datetime
    """Of the store's clock, when the housekeeping began."""
    by: str
    """Names this process in its claims; a task that is tried again has the same name."""
    kinds: frozenset[Kind]
    report: Report
    _heads: dict[str, Head | None] = field(default_factory=dict)

    def before(self, days: int) -> datetime:
        """The instant that is so many days ago."""
        return self.now - timedelta(days=days)

    def is_old(self, infos: Iterable[ObjectInfo], days: int) -> bool:
        """Whether every one of some objects was written longer ago; one without a time is young."""
        limit = self.before(days)
        return all(info.modified is not None and info.modified < limit for info in infos)

    def is_orphaned(self, infos: Iterable[ObjectInfo]) -> bool:
        """Whether some objects are old enough to be nobody's work in progress."""
        return self.is_old(infos, self.settings.orphans_days)

    def at_work(self, day: str) -> str:
        """Name of a run that is at work on a day; empty when there is none."""
        return run_at_work(self.work, day, since=self.before(self.settings.orphans_days))

    def head(self, day: str, *, again: bool = False) -> Head | None:
        """The head of a day, None when there is none; one that cannot be read is a `ContractViolation`."""
        if again or day not in self._heads:
            stored = self.public.get_or_none(head_key(day))
            self._heads[day] = None if stored is None else decode(Head, stored.body, head_key(day))
        return self._heads[day]

    def remove(self, removals: Iterable[Removal], *, day: str, still: Callable[[Removal], bool]) -> None:
        """Remove things of one day, or only count them; `still` asks again, right before, whether a removal is right.

        A folder that a publication could use is claimed first, and before every request it is asked whether the claim still holds.
        A run that is at work on the day keeps everything where it is.
        """
        for removal in removals:
            if removal.kind not in self.kinds or not removal.objects:
                continue
            if not self.report.deleted:
                self.report.add(removal)
            elif removal.content is None:
                self._remove_if(still, removal, day=day, may_go_on=lambda: True)
            else:
                self._remove_claimed(still, removal, day=removal.content[0], content_id=removal.content[1])

    def _remove_claimed(self, still: Callable[[Removal], bool], removal: Removal, *, day: str, content_id: str) -> None:
        try:
            claim = claim_folder(self.work, day, content_id, by=self.by)
        except ContractViolation as error:
            self.report.keep(removal.name, str(error))
            return
        if claim is None:
            self.report.keep(removal.name, "another housekeeping is removing it, or one died less than two hours ago")
            return
        try:
            self._remove_if(still, removal, day=day, may_go_on=claim.still_held)
        finally:
            claim.release()

    def _remove_if(
        self, still: Callable[[Removal], bool], removal: Removal, *, day: str, may_go_on: Callable[[], bool]
    ) -> None:
        if day and (run := self.at_work(day)):
            self.report.keep(removal.name, f"run {run} has begun to work on the day")
            return
        try:
            right = still(removal)
        except (ContractViolation, ObjectMissing) as error:
            self.report.keep(removal.name, f"what names it cannot be read any more: {error}")
            return
        if right:
            self._delete(removal, may_go_on=may_go_on)
        else:
            self.report.keep(removal.name, "it is named again by now")

    def _delete(self, removal: Removal, *, may_go_on: Callable[[], bool]) -> None:
        store = self.public if removal.name.startswith("public:") else self.work
        gone = 0
        for batch in (removal.first, *_batches(removal.rest)):
            if not batch:
                continue
            if not may_go_on():
                self.report.keep(removal.name, "the claim was lost before all of it was removed; the next run goes on")
                break
            store.delete_many(batch)
            gone += len(batch)
        self.report.add(removal, objects=gone)
        log_event("housekeeping.removed", kind=removal.kind, name=removal.name, objects=gone, bytes=removal.bytes)


def _batches(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE))
