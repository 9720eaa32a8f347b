"""The next head of a day that is withdrawn or restored: head in, head out, nothing is read or written."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace

import msgspec

from imunizacao.manifests import Current, Entry, Head, WithdrawnUf


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Who changes the head, when and why."""

    token: str
    run_id: str
    code_version: str
    at: str
    """Instant, UTC."""
    reason: str
    """Checked; becomes public."""


def without_day(head: Head, commit: Commit) -> Head:
    """The day withdrawn: nothing to read. UFs that were withdrawn before stay so when the day comes back."""
    last = head.history[-1]
    entry = Entry(
        revision=head.revision + 1,
        state="withdrawn",
        content_id=None,
        path=None,
        sha256=None,
        bytes=None,
        published_at=commit.at,
        data_through=last.data_through if head.current is None else head.current.data_through,
        reason="withdrawal",
        supersedes=head.revision,
        commit_token=commit.token,
        run_id=commit.run_id,
        code_version=commit.code_version,
        note=commit.reason,
    )
    return _moved(head, entry, current=None)


def without_ufs(head: Head, current: Current, ufs: Collection[str], commit: Commit) -> Head:
    """Some UFs withdrawn; the content and what `current` says of it stay as they are."""
    entry = _again(head, current, commit, reason="withdrawal", ufs=sorted(ufs))
    withdrawn = {uf: WithdrawnUf(revision=entry.revision, reason=commit.reason, at=commit.at) for uf in ufs}
    return _moved(head, entry, current=current, withdrawn={**head.withdrawn_ufs, **withdrawn})


def with_ufs(head: Head, current: Current, ufs: Collection[str], commit: Commit) -> Head:
    """Withdrawn UFs given back."""
    entry = _again(head, current, commit, reason="restore", ufs=sorted(ufs))
    return _moved(
        head,
        entry,
        current=current,
        withdrawn={uf: said for uf, said in head.withdrawn_ufs.items() if uf not in ufs},
    )


def followed(head: Head, leader: Head, commit: Commit, *, absent: Collection[str] = ()) -> Head:
    """The head of another bucket with all withdrawn that `leader`, of the same day, has withdrawn: for the reason given there.

    UFs `absent` have no CSVs in the content: they are marked as purged. What is withdrawn here alone stays so.
    """
    current = head.current
    if current is None:
        return head
    if leader.withdrawn_by_person:
        return without_day(head, replace(commit, reason=leader.history[-1].note or ""))
    new = [uf for uf in leader.withdrawn_ufs if uf not in head.withdrawn_ufs]
    for reason in sorted({leader.withdrawn_ufs[uf].reason for uf in new}):
        ufs = [uf for uf in new if leader.withdrawn_ufs[uf].reason == reason]
        token = hashlib.sha256("\0".join((commit.token, *ufs)).encode()).hexdigest()[:32]
        head = without_ufs(head, current, ufs, replace(commit, token=token, reason=reason))
    withdrawn = {
        uf: msgspec.structs.replace(said, purged_at=said.purged_at or commit.at) if uf in absent else said
        for uf, said in head.withdrawn_ufs.items()
    }
    return msgspec.structs.replace(head, withdrawn_ufs=withdrawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Good:
    """A revision that readers may be led back to."""

    entry: Entry
    content_id: str
    path: str
    sha256: str
    bytes: int


def last_good(head: Head, *, runs: Collection[str] | None = None) -> Good | None:
    """The newest revision that was counted well and of which nothing is gone that may be read.

    Of a bucket that is not counted (`runs`): the newest that one of these runs made.
    """
    for entry in reversed(head.history):
        counted = entry.reconciliation is not None and entry.reconciliation.verdict == "ok"
        good = counted if runs is None else entry.run_id in runs
        if not good or entry.purged_at or not set(entry.purged_ufs or ()) <= head.purged_ufs:
            continue
        if entry.content_id and entry.path and entry.sha256 and entry.bytes:
            return Good(
                entry=entry, content_id=entry.content_id, path=entry.path, sha256=entry.sha256, bytes=entry.bytes
            )
    return None


def with_day(head: Head, good: Good, commit: Commit, *, rows: int) -> Head:
    """A withdrawn day given back with the content of an earlier revision, which has `rows` doses.

    Its fence is that of the withdrawal when the content is the one that was withdrawn: recounts have moved it on since.
    """
    contents = [entry.content_id for entry in head.history if entry.content_id]
    through = head.history[-1].data_through if contents[-1] == good.content_id else good.entry.data_through
    current = Current(
        content_id=good.content_id,
        path=good.path,
        sha256=good.sha256,
        bytes=good.bytes,
        rows=rows,
        published_at=commit.at,
        data_through=through,
        signature=good.entry.signature,
    )
    entry = msgspec.structs.replace(
        good.entry,
        revision=head.revision + 1,
        published_at=commit.at,
        data_through=through,
        reason="restore",
        supersedes=head.revision,
        commit_token=commit.token,
        run_id=commit.run_id,
        code_version=commit.code_version,
        note=commit.reason,
        diff=None,
        decision=None,
        ufs=None,
    )
    return _moved(head, entry, current=current)


def _again(head: Head, current: Current, commit: Commit, *, reason: str, ufs: list[str]) -> Entry:
    """An entry about the content that the last one is about."""
    return msgspec.structs.replace(
        head.history[-1],
        revision=head.revision + 1,
        published_at=commit.at,
        data_through=current.data_through,
        reason=reason,
        supersedes=head.revision,
        commit_token=commit.token,
        run_id=commit.run_id,
        code_version=commit.code_version,
        note=commit.reason,
        diff=None,
        decision=None,
        ufs=ufs,
    )


def _moved(
    head: Head, entry: Entry, *, current: Current | None, withdrawn: dict[str, WithdrawnUf] | None = None
) -> Head:
    return Head(
        schema=head.schema,
        day=head.day,
        revision=entry.revision,
        state=entry.state,
        current=current,
        history=[*head.history, entry],
        withdrawn_ufs=head.withdrawn_ufs if withdrawn is None else withdrawn,
    )
