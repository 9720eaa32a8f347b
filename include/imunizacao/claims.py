"""Two flags that keep a publication and the removal of files from working on the same content folder at once.

Who publishes says first that a run is at work (an object of the run), then looks whether the folder is being emptied. Who empties a
folder claims it first, then looks whether a run is at work on the day. Whoever comes second sees the other and leaves the folder alone,
in every order of their steps; no clock has to agree with another one. Both flags are in the work bucket. Why:
docs/adr/0034-housekeeping.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

from imunizacao.errors import ConfigurationError, ContractViolation, PublicationConflict, StorageUnavailable
from imunizacao.models import RunContext
from imunizacao.storage import ObjectStore, PreconditionLost

CLAIMS: Final = "v1/housekeeping/"
"""Prefix of the claims in the work bucket."""
_CLOCK: Final = f"{CLAIMS}clock.json"
_STARTED: Final = "started.json"
CLOCKS_APART: Final = timedelta(minutes=5)
"""How far the clock of a worker may be ahead of that of the store."""
HELD_SECONDS: Final = 3600.0
"""The longest that files are removed under one claim."""
_DEAD_AFTER: Final = timedelta(hours=2)
"""A claim of this age is of a process that died: nobody removes anything under it any more."""


class _Flag(msgspec.Struct, frozen=True, kw_only=True):
    state: Literal["busy", "done"]
    by: str


def claim_key(day: str, content_id: str) -> str:
    """Key of the claim on one content folder of a day."""
    return f"{CLAIMS}day={day}/c-{content_id}.json"


def store_clock(work: ObjectStore) -> datetime:
    """The time of the store. Ages of objects are told by it alone."""
    work.put(_CLOCK, b"{}", content_type="application/json", cache_control="no-store")
    return _written(work, _CLOCK)


def latest_stamp(work: ObjectStore) -> datetime:
    """The latest instant that an extract may be stamped with. A later one is of a clock that was ahead: it keeps no other out."""
    return store_clock(work) + CLOCKS_APART


def keeps_out(stored: str, stamped: str, latest: datetime) -> bool:
    """Whether a pointer made of the extract of `stored` stays as it is for one of `stamped`; `latest` as `latest_stamp`.

    No instant at all is older than any.
    """
    was, new = (datetime.fromisoformat(text or "0001-01-01T00:00:00+00:00") for text in (stored, stamped))
    return new < was <= latest


def require_clock(work: ObjectStore, now: datetime) -> None:
    """Refuse a worker whose clock is ahead of the store's: what it stamps would shut out all later runs of a day."""
    ahead = now - store_clock(work)
    if ahead > CLOCKS_APART:
        raise ConfigurationError(
            f"The clock of this worker is {ahead} ahead of that of the store at {work.endpoint_url}. Nothing was asked or written: an extract "
            "of the future would shut out all later ones. Repair the clock (NTP), then run the task again; see docs/runbook/worker-clock.md."
        )


def begin_publication(work: ObjectStore, context: RunContext, content_id: str) -> datetime:
    """Say that this run is about to write and commit a content; `PublicationConflict` while its folder is being emptied.

    Answers with the time of the store.
    """
    started = context.prefix("publish") + _STARTED
    work.put(started, b"{}", content_type="application/json")
    now = _written(work, started)
    key = claim_key(str(context.day), content_id)
    flag = _read(work, key)
    if flag is None or flag.state == "done":
        return now
    claimed = work.info(key)
    if claimed is not None and claimed.modified is not None and now - claimed.modified > _DEAD_AFTER:
        return now
    raise PublicationConflict(
        f"Housekeeping is removing files of the same content of {context.day} (c-{content_id}). Nothing was published. Run the task "
        "again when it is done, at the latest in two hours; see docs/runbook/housekeeping.md."
    )


def run_at_work(work: ObjectStore, day: str, *, since: datetime) -> str:
    """Name of a run that wrote something for a day since an instant of the store's clock; empty when there is none."""
    for info in work.list(f"v1/day={day}/run="):
        if "/outcomes/" not in info.key and (info.modified is None or info.modified >= since):
            return info.key.split("/")[2].removeprefix("run=")
    return ""


@dataclass(slots=True, kw_only=True)
class Claim:
    """The right to remove files of one content folder, for an hour at most."""

    work: ObjectStore
    key: str
    by: str
    _began: float = field(default_factory=time.monotonic)

    def still_held(self) -> bool:
        """Whether files may still be removed; asked before every request that removes some."""
        flag = _read(self.work, self.key)
        return flag == _Flag(state="busy", by=self.by) and time.monotonic() - self._began < HELD_SECONDS

    def release(self) -> None:
        """Let publications use the folder again; what somebody else took over meanwhile stays theirs."""
        stored = self.work.get_or_none(self.key)
        if stored is None or _decode(stored.body, self.key).by != self.by:
            return
        try:
            _put(self.work, self.key, _Flag(state="done", by=self.by), only_if_match=stored.etag)
        except PreconditionLost:
            return


def claim_folder(work: ObjectStore, day: str, content_id: str, *, by: str) -> Claim | None:
    """Claim a content folder, before anything else is looked at; None while another process has it. `by` names this process."""
    key = claim_key(day, content_id)
    claim = Claim(work=work, key=key, by=by)
    stored = work.get_or_none(key)
    if stored is not None:
        flag = _decode(stored.body, key)
        if flag.state == "busy" and flag.by != by:
            info = work.info(key)
            if info is None or info.modified is None or store_clock(work) - info.modified <= _DEAD_AFTER:
                return None
    try:
        busy = _Flag(state="busy", by=by)
        _put(work, key, busy, only_if_absent=stored is None, only_if_match=stored.etag if stored else "")
    except PreconditionLost:
        # Somebody was faster, or it was we whose answer was lost.
        flag_now = _read(work, key)
        if flag_now is None or flag_now.by != by:
            return None
    return claim


def _put(work: ObjectStore, key: str, flag: _Flag, *, only_if_absent: bool = False, only_if_match: str = "") -> None:
    work.put(
        key,
        msgspec.json.encode(flag),
        content_type="application/json",
        cache_control="no-store",
        only_if_absent=only_if_absent,
        only_if_match=only_if_match,
    )


def _read(work: ObjectStore, key: str) -> _Flag | None:
    stored = work.get_or_none(key)
    return None if stored is None else _decode(stored.body, key)


def _decode(body: bytes, key: str) -> _Flag:
    try:
        return msgspec.json.decode(body, type=_Flag)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ContractViolation(
            f"{key} in the work bucket is not a claim of housekeeping ({error}). See that no housekeeping is running, then delete it; see "
            "docs/runbook/housekeeping.md."
        ) from error


def _written(work: ObjectStore, key: str) -> datetime:
    info = work.info(key)
    if info is None or info.modified is None:
        raise StorageUnavailable(
            f"The store at {work.endpoint_url} does not say when {work.bucket}/{key} was written: neither ages nor the clocks of workers "
            "can be told, so nothing is removed, extracted or published. See docs/runbook/storage-probe.md."
        )
    return info.modified
