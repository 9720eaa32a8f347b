"""Withdraw or restore a day or UFs of it: what readers see now, what they would see, and the one conditional write between the two."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import Final, Literal

import msgspec

from imunizacao import docs_index
from imunizacao.decision import check_reason
from imunizacao.derived import follow_head
from imunizacao.errors import ConfigurationError, ContractViolation, PipelineError
from imunizacao.events import log_event
from imunizacao.heads import Commit, followed, last_good, with_day, with_ufs, without_day, without_ufs
from imunizacao.manifests import Current, Day, Head, decode, encode, head_key
from imunizacao.models import RunContext
from imunizacao.pipeline import Services
from imunizacao.storage import ObjectStore, swap
from imunizacao.withdrawal.files import faults_of, read_root

Action = Literal["withdraw", "restore"]
ACTIONS: Final[tuple[Action, ...]] = ("withdraw", "restore")
_RUNBOOK: Final = "docs/runbook/withdraw.md"
_STATES: Final = {"published": "publicado", "empty": "vazio (verificado)", "withdrawn": "retirado"}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What readers see of a day."""

    revision: int
    state: str
    rows: int
    """Doses that may be read."""
    withdrawn_ufs: list[str]

    @property
    def text(self) -> str:
        """In Portuguese: `rev 2, publicado, 318.402 doses, sem 53`."""
        parts = [f"rev {self.revision}", _STATES.get(self.state, self.state)]
        if self.state != "withdrawn":
            parts.append(f"{self.rows:,} dose{'' if self.rows == 1 else 's'}".replace(",", "."))
        if self.withdrawn_ufs:
            parts.append(f"sem {', '.join(self.withdrawn_ufs)}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What was done to a day, or would be."""

    day: str
    action: Action
    state: Literal["would-change", "changed", "unchanged"]
    ufs: list[str]
    """Withdrawn or restored by this change; empty for the whole day, or when nothing changes."""
    before: View
    after: View
    notes: list[str] = field(default_factory=list)
    """What a person should know besides; English."""

    def to_json(self) -> str:
        """Text for XCom: codes and counts only."""
        return msgspec.json.encode(self).decode()

    @property
    def note(self) -> str:
        """One line for the note of a run, in Portuguese."""
        what = "retirada" if self.action == "withdraw" else "restauração"
        if self.state == "unchanged":
            return f"{self.day}: {what} sem efeito, já estava assim · {self.before.text}"
        simulated = " (simulação)" if self.state == "would-change" else ""
        return f"{self.day}: {what}{simulated} · {self.before.text} → {self.after.text}"


def change_day(
    context: RunContext,
    services: Services,
    *,
    action: Action,
    ufs: Sequence[str] = (),
    reason: str,
    dry_run: bool,
    attempt: int = 1,
) -> Change:
    """Withdraw or restore the day of `context`, or only some UFs (codes or initials), for a `reason` that readers will see.

    The head moves once, by compare-and-swap; index and catalog follow. So does the head of the nominal bucket, where there is one: it
    is withdrawn before the public one and restored after it, to the same run's content or not at all. A run whose answer was lost finds its own commit. What is
    already so stays as it is (`unchanged`), and derived objects are brought up to date all the same. A restore reads every file of
    the revision it goes back to. Raises `ConfigurationError` when there is nothing to withdraw or the files were purged, and
    `ContractViolation` when files are damaged; the head then stays.
    """
    text = check_reason(reason)
    changer = _Changer(context, services.public, action=action, asked=sorted(set(ufs)), reason=text, at=_now(services))
    nominal = _Nominal(changer, services.nominal)
    if dry_run:
        change = changer.look()
        return replace(change, notes=[*change.notes, *nominal.look()])
    with services.outcomes.stage(context, action, attempt) as record:
        first = nominal.withdraw() if action == "withdraw" else []
        change = changer.commit()
        # A run may have published the day there for the first time meanwhile.
        told = (first or nominal.withdraw()) if action == "withdraw" else nominal.restore()
        change = replace(change, notes=[*change.notes, *told])
        follow_head(services.public, change.day)
        docs_index.update_index(services.work, services.public, change.day)
        record.counts = {
            "ufs": len(change.ufs),
            "rows_before": change.before.rows,
            "rows_after": change.after.rows,
            "changed": int(change.state == "changed"),
        }
        record.revision = change.after.revision
        record.message = change.note
    log_event(
        f"{action}.done",
        day=change.day,
        state=change.state,
        ufs=",".join(change.ufs),
        revision=change.after.revision,
        rows=change.after.rows,
    )
    return change


def describe_change(change: Change, *, reason: str, grace_days: int) -> list[str]:
    """What a person reads before they say yes, and after: English, as the command line speaks."""
    would = change.state == "would-change"
    lines = [f"{change.day}  readers {'see' if would or change.state == 'unchanged' else 'saw'}  {change.before.text}"]
    if change.state == "unchanged":
        return [*lines, *change.notes, "Nothing to change: it is so already."]
    lines.append(f"            {'they would see' if would else 'they see now  '}  {change.after.text}")
    lines.append(f"            reason, public: {reason.strip()}")
    lines += [f"            {note}" for note in change.notes]
    if change.action == "withdraw":
        lines.append(
            f"            files stay {grace_days} days and can be restored; then housekeeping removes them (docs/runbook/withdraw.md)"
        )
    return lines


class _Nominal:
    """The same change in the bucket of files with identifiers; its answers are notes."""

    def __init__(self, changer: _Changer, store: ObjectStore | None) -> None:
        self._public = changer
        self._store = store

    def look(self) -> list[str]:
        """What would happen there."""
        changer = self._changer(self._public.planned)
        return [] if changer is None else self._told(changer.look)

    def withdraw(self) -> list[str]:
        """Withdraw there; an error is an error, and nothing more is withdrawn then. Nothing is if the public bucket would refuse it."""
        changer = self._changer()
        if changer is None:
            return []
        self._public.look()
        return [self._note(changer.commit())]

    def restore(self) -> list[str]:
        """Restore there what the public bucket has again; what cannot be restored stays withdrawn, and is told."""
        changer = self._changer()
        return [] if changer is None else self._told(changer.commit)

    def _changer(self, leader: Callable[[], Head] | None = None) -> _Changer | None:
        if self._store is None:
            return None
        self._store.require_bucket()
        if not self._public.is_published_in(self._store):
            return None
        return self._public.elsewhere(self._store, leader=leader or self._public.head)

    def _told(self, ask: Callable[[], Change]) -> list[str]:
        try:
            return [self._note(ask())]
        except PipelineError as error:
            return [f"nominal bucket: stays as it is. {error}"]

    def _note(self, change: Change) -> str:
        if change.state == "unchanged":
            return f"nominal bucket: unchanged, {change.before.text}"
        return f"nominal bucket: {change.before.text} → {change.after.text}"


class _Changer:
    def __init__(
        self,
        context: RunContext,
        public: ObjectStore,
        *,
        action: Action,
        asked: list[str],
        reason: str,
        at: str,
        leader: Callable[[], Head] | None = None,
    ) -> None:
        self._context, self._reason, self._at, self._leader = context, reason, at, leader
        self._day, self._public, self._action, self._asked = str(context.day), public, action, asked
        self._key = head_key(self._day)
        mark = "\0".join((context.run_id, action, *asked))
        token = hashlib.sha256(f"{mark}\0{reason}".encode()).hexdigest()[:32]
        self._commit = Commit(
            token=token, run_id=context.run_id, code_version=context.code_version, at=at, reason=reason
        )
        self._roots: dict[str, Day] = {}
        self._sound: set[tuple[str, frozenset[str]]] = set()

    def is_published_in(self, store: ObjectStore) -> bool:
        """Whether the day has a head there."""
        return store.info(self._key) is not None

    def head(self) -> Head:
        """The head as it is."""
        return decode(Head, self._public.get(self._key).body, self._key)

    def planned(self) -> Head:
        """The head as the change would leave it."""
        head, new, _, _ = self._next(self._public.get(self._key).body)
        return new or head

    def elsewhere(self, store: ObjectStore, *, leader: Callable[[], Head]) -> _Changer:
        """The same change in a bucket that `reconcile` does not count: it goes back only to a content of a run that made what the
        head `leader` of the public bucket has, and only without what is withdrawn there."""
        return _Changer(
            self._context,
            store,
            action=self._action,
            asked=self._asked,
            reason=self._reason,
            at=self._at,
            leader=leader,
        )

    def look(self) -> Change:
        """What the change would do."""
        stored = self._public.get_or_none(self._key)
        head, new, ufs, notes = self._next(stored.body if stored is not None else None)
        return self._change("unchanged" if new is None else "would-change", head, new or head, ufs, notes)

    def commit(self) -> Change:
        """Do it."""

        seen: bytes | None = None

        def decide(body: bytes | None) -> tuple[bytes | None, Change]:
            nonlocal seen
            seen = body
            before = self._done_before(body)
            if before is not None:
                return None, before
            head, new, ufs, notes = self._next(body)
            if new is None:
                return None, self._change("unchanged", head, head, ufs, notes)
            return encode(new), self._change("changed", head, new, ufs, notes)

        while True:
            try:
                return swap(self._public, self._key, decide)
            except ContractViolation:
                # Files that went while they were looked at, and a head that tells so by now, are no damage.
                stored = self._public.get_or_none(self._key)
                if stored is None or stored.body == seen:
                    raise

    def _done_before(self, body: bytes | None) -> Change | None:
        """The change, when this run has committed it already."""
        if body is None:
            return None
        head = decode(Head, body, self._key)
        mine = next((entry for entry in head.history if entry.commit_token == self._commit.token), None)
        if mine is None:
            return None
        now = self._view(head)
        return Change(day=self._day, action=self._action, state="changed", ufs=mine.ufs or [], before=now, after=now)

    def _next(self, body: bytes | None) -> tuple[Head, Head | None, list[str], list[str]]:
        """Head now, head then (None = it is so already), UFs that change, notes."""
        if body is None:
            raise ConfigurationError(
                f"Nothing was ever published for {self._day}, so there is nothing to {self._action}. Check the day (YYYY-MM-DD)."
            )
        head = decode(Head, body, self._key)
        if self._action == "withdraw":
            return self._withdraw(head)
        if self._leader is None:
            return self._restore(head)
        leader = self._leader()
        _, new, ufs, notes = self._restore(head, leader)
        led = followed(new or head, leader, self._commit)
        return head, led if led != head else None, ufs, notes

    def _restore(self, head: Head, leader: Head | None = None) -> tuple[Head, Head | None, list[str], list[str]]:
        if not self._asked:
            return self._restore_day(head, leader)
        if head.current is None:
            raise ConfigurationError(
                f"The whole of {self._day} is withdrawn since revision {head.revision}: restore the day first, then its UFs. "
                f"See {_RUNBOOK}."
            )
        return self._restore_ufs(head, head.current)

    def _withdraw(self, head: Head) -> tuple[Head, Head | None, list[str], list[str]]:
        if head.current is None and head.withdrawn_by_person:
            return head, None, [], [f"The whole day is withdrawn since revision {head.revision}."]
        if head.current is None and self._asked:
            raise ConfigurationError(
                f"{self._day} has no content since reconcile took it back in revision {head.revision}, and the next run publishes it with "
                f"all UFs. Withdraw the whole day, or its UFs after that run. See {_RUNBOOK}."
            )
        if head.current is None or not self._asked:
            return head, without_day(head, self._commit), [], []
        ufs = self._codes(head, head.current)
        new = [uf for uf in ufs if uf not in head.withdrawn_ufs]
        notes = [
            f"UF {uf} is withdrawn since revision {head.withdrawn_ufs[uf].revision}."
            for uf in ufs
            if uf in head.withdrawn_ufs
        ]
        if not new:
            return head, None, [], notes
        root = self._root(head.current.path, head.current.sha256)
        if root.residence is not None and root.residence.known:
            notes.append(
                "doses given there to residents of other UFs stay in the files of residents of those UFs: if they must go too, "
                "withdraw the day"
            )
        return head, without_ufs(head, head.current, new, self._commit), new, notes

    def _restore_ufs(self, head: Head, current: Current) -> tuple[Head, Head | None, list[str], list[str]]:
        ufs = self._codes(head, current)
        back = [uf for uf in ufs if uf in head.withdrawn_ufs]
        notes = [f"UF {uf} is not withdrawn." for uf in ufs if uf not in head.withdrawn_ufs]
        if not back:
            return head, None, [], notes
        purged = sorted(head.purged_ufs & set(back))
        if purged:
            raise self._purged(
                f"The files of UF {', '.join(purged)} of {self._day} were removed after their grace period"
            )
        self._require_sound(current.path, current.sha256, only=frozenset(back))
        return head, with_ufs(head, current, back, self._commit), back, notes

    def _restore_day(self, head: Head, leader: Head | None) -> tuple[Head, Head | None, list[str], list[str]]:
        if head.current is not None:
            left = sorted(head.withdrawn_ufs)
            also = f" UF {', '.join(left)} is: name it with --uf." if left else ""
            return head, None, [], [f"The day is not withdrawn.{also}"]
        good = last_good(head, runs=None if leader is None else _runs(leader))
        if good is None:
            raise self._purged(f"{self._day} has no revision left to go back to: purged, or never counted well")
        root = self._require_sound(good.path, good.sha256, without=head.purged_ufs)
        notes = [f"content of revision {good.entry.revision}"]
        if head.withdrawn_ufs:
            notes.append(f"UF {', '.join(sorted(head.withdrawn_ufs))} stays withdrawn")
        return head, with_day(head, good, self._commit, rows=root.rows), [], notes

    def _codes(self, head: Head, current: Current) -> list[str]:
        """UFs as codes, told from the content that readers have."""
        known: dict[str, str] = {uf: uf for uf in head.withdrawn_ufs}
        for uf in self._root(current.path, current.sha256).files.ufs:
            known |= {uf.uf: uf.uf, uf.sg_uf: uf.uf}
        unknown = [uf for uf in self._asked if uf.upper() not in known]
        if unknown:
            raise ConfigurationError(
                f"{', '.join(unknown)} is no UF of {self._day}. Name UFs by code or initials, for example 53 or DF."
            )
        return sorted({known[uf.upper()] for uf in self._asked})

    def _require_sound(
        self, path: str, sha256: str, *, only: frozenset[str] = frozenset(), without: frozenset[str] = frozenset()
    ) -> Day:
        root = self._root(path, sha256)
        if (path, only | without) not in self._sound:
            faults = faults_of(self._public, path, root, only=only, without=without)
            if faults:
                raise ContractViolation(
                    f"{len(faults)} files of {path.rpartition('/')[0]} are not as they were published: {'; '.join(faults[:3])}. "
                    f"Nothing was restored. {self._how()} See {_RUNBOOK}."
                )
            self._sound.add((path, only | without))
        return root

    def _purged(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"{what}. Nothing was restored. {self._how()} See {_RUNBOOK}.")

    def _how(self) -> str:
        return (
            f"To publish the day again: `python -m imunizacao restore {self._day} --reason … --remake --yes` makes it from its landing, "
            f"`python -m imunizacao run-day {self._day} --reason restore` asks the mirror; both bring withdrawn UFs back as well."
        )

    def _root(self, path: str, sha256: str) -> Day:
        if path not in self._roots:
            self._roots[path] = read_root(self._public, path, sha256)
        return self._roots[path]

    def _change(
        self,
        state: Literal["would-change", "changed", "unchanged"],
        head: Head,
        new: Head,
        ufs: list[str],
        notes: list[str],
    ) -> Change:
        return Change(
            day=self._day,
            action=self._action,
            state=state,
            ufs=ufs,
            before=self._view(head),
            after=self._view(new),
            notes=notes,
        )

    def _view(self, head: Head) -> View:
        return View(
            revision=head.revision,
            state=head.state,
            rows=0 if head.current is None else self._readable(head, head.current),
            withdrawn_ufs=sorted(head.withdrawn_ufs),
        )

    def _readable(self, head: Head, current: Current) -> int:
        ufs = self._root(current.path, current.sha256).files.ufs
        return sum(uf.rows for uf in ufs if uf.uf not in head.withdrawn_ufs)


def _runs(head: Head) -> Collection[str]:
    """Runs that made the content which the public bucket has, or would have again."""
    good = last_good(head)
    content = head.current.content_id if head.current is not None else good.content_id if good is not None else ""
    return {entry.run_id for entry in head.history if entry.content_id == content}


def _now(services: Services) -> str:
    return services.now().astimezone(UTC).isoformat(timespec="seconds")
