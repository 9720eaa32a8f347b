"""The head of a day: its state, its history, and what both say of withdrawals."""

from __future__ import annotations

from dataclasses import dataclass, field

from imunizacao.verify import forms
from imunizacao.verify.content import check_account
from imunizacao.verify.forms import Json, Malformed
from imunizacao.verify.found import Findings
from imunizacao.verify.layout import REASONS, UFS, head_key, root_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One revision."""

    revision: int
    state: str
    content_id: str
    """Empty where nothing may be read."""
    path: str
    named: Json
    """`sha256` and `bytes` of its day.json."""
    supersedes: int | None
    diff: Json | None
    signature: Json | None
    purged: bool
    verdict: str
    """Of the publisher's own count after the commit: `ok`, `gap`, or empty while it is not there."""


@dataclass(slots=True, kw_only=True)
class Head:
    """A head that can be followed."""

    day: str
    revision: int
    state: str
    current: Json | None
    history: list[Entry]
    withdrawn: frozenset[str] = frozenset()
    """UFs that nobody may read."""
    purged: frozenset[str] = frozenset()
    """Those of them whose files may be gone."""
    once_withdrawn: frozenset[str] = frozenset()
    """UFs that some entry of the history withdraws: differences around it may leave them out."""
    notes: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """In the bucket."""
        return head_key(self.day)

    def may_be_gone(self, path: str) -> bool:
        """Whether the folder of a root may be gone: every entry that names it says so, and it is not the present one."""
        now = self.current is not None and self.current.get("path") == path
        return not now and all(entry.purged for entry in self.history if entry.path == path)


def read_head(document: Json, day: str, findings: Findings) -> Head | None:
    """Take a head apart and check it against itself. None when it cannot be followed, which is a finding."""
    key = head_key(day)
    try:
        findings.expect("head", key, "schema", expected="imunizacao.head/1", found=document.get("schema"))
        findings.expect("head", key, "day", expected=day, found=document.get("day"))
        history = [_entry(node, day, key, findings) for node in forms.children(document, "history")]
        if not history:
            raise Malformed("history", "an entry")
        head = Head(
            day=day,
            revision=forms.count(document, "revision"),
            state=forms.text(document, "state", "published|empty|withdrawn"),
            current=None if document.get("current", "") is None else forms.child(document, "current"),
            history=history,
        )
        _check_history(document, head, findings)
        _check_current(document, head, findings)
        if "withdrawnUfs" in document:
            _read_withdrawn(forms.child(document, "withdrawnUfs"), document, head, findings)
    except Malformed as error:
        findings.add("form", key, error.member, expected=error.expected)
        return None
    if head.current is not None and not head.history[-1].verdict:
        head.notes.append("not counted again by the publisher yet")
    return head


def _entry(node: Json, day: str, key: str, findings: Findings) -> Entry:
    revision, state = forms.count(node, "revision"), forms.text(node, "state")
    where = f"revision {revision}"
    reason = forms.text(node, "reason")
    if reason not in REASONS:
        findings.add("history", key, f"reason of {where}", expected="a known reason", found=reason)
    forms.instant(node, "publishedAt")
    forms.instant(node, "dataThrough")
    forms.text(node, "commitToken")
    purged = "purgedAt" in node and bool(forms.instant(node, "purgedAt"))
    content_id, path = "", ""
    if node.get("path") is not None:
        content_id, path = forms.sha256(node, "contentId"), forms.text(node, "path")
        forms.sha256(node, "sha256")
        forms.count(node, "bytes")
        if path != root_key(day, content_id):
            findings.add("path", key, f"content of {where}", expected=root_key(day, content_id), found=path)
            path = ""
    elif state != "withdrawn":
        raise Malformed(f"path of {where}", "a text")
    findings.expect(
        "history", key, f"content of {where}", expected=state != "withdrawn", found=node.get("path") is not None
    )
    if "account" in node:
        account = forms.counts(node, "account")
        check_account(account, key, findings)
        expected = "published" if account["published"] else "empty"
        findings.expect("history", key, f"state of {where}", expected=expected, found=state)
    if "source" in node:
        source = forms.child(node, "source")
        fetched, unique, duplicates = (forms.count(source, name) for name in ("fetched", "unique", "duplicates"))
        findings.expect(
            "account", key, f"documents of {where}: unique + duplicates", expected=fetched, found=unique + duplicates
        )
    if reason == "withdrawal" and state == "withdrawn" and not node.get("note"):
        findings.add(
            "withdrawal", key, f"note of {where}", expected="a reason that the public may read", found="nothing"
        )
    return Entry(
        revision=revision,
        state=state,
        content_id=content_id,
        path=path,
        named={name: node.get(name) for name in ("sha256", "bytes")},
        supersedes=None if node.get("supersedes", "") is None else forms.count(node, "supersedes"),
        diff=forms.child(node, "diff") if "diff" in node else None,
        signature=forms.child(node, "signature") if "signature" in node else None,
        purged=purged,
        verdict=forms.text(forms.child(node, "reconciliation"), "verdict", "ok|gap")
        if "reconciliation" in node
        else "",
    )


def _check_history(document: Json, head: Head, findings: Findings) -> None:
    key, last = head.key, head.history[-1]
    revisions = [entry.revision for entry in head.history]
    findings.expect("history", key, "revisions", expected=list(range(1, len(revisions) + 1)), found=revisions)
    before: list[int | None] = [None, *revisions[:-1]]
    replaced = [entry.supersedes for entry in head.history]
    findings.expect("history", key, "superseded revisions", expected=before, found=replaced)
    tokens = [node["commitToken"] for node in document["history"]]
    findings.expect("history", key, "different commit tokens", expected=len(tokens), found=len(set(tokens)))
    findings.expect("head", key, "revision", expected=last.revision, found=head.revision)
    findings.expect("head", key, "state", expected=last.state, found=head.state)
    for entry, node in zip(head.history, document["history"], strict=True):
        if entry.purged and head.current is not None and entry is last:
            findings.add(
                "withdrawal", key, "purgedAt", expected="not on what readers see", found="on the present revision"
            )
        if "ufs" in node:
            head.once_withdrawn |= frozenset(forms.texts(node, "ufs"))
            unknown = set(node["ufs"]) - set(UFS)
            findings.expect("withdrawal", key, f"ufs of revision {entry.revision}", expected=[], found=sorted(unknown))


def _check_current(document: Json, head: Head, findings: Findings) -> None:
    key, last, current = head.key, head.history[-1], head.current
    if current is not None and last.verdict == "gap":
        findings.add("head", key, "verdict of what readers see", expected="ok", found="gap")
    if (current is None) != (head.state == "withdrawn"):
        raise Malformed("current", "nothing where the day is withdrawn, a content elsewhere")
    if current is None:
        return
    rows = forms.count(current, "rows")
    forms.instant(current, "publishedAt")
    forms.instant(current, "dataThrough")
    for name, expected in (("contentId", last.content_id), ("path", last.path), *last.named.items()):
        findings.expect("head", key, f"current.{name}", expected=expected, found=current.get(name))
    findings.expect("head", key, "state", expected="published" if rows else "empty", found=head.state)
    account = document["history"][-1].get("account")
    if account is not None:
        findings.expect("head", key, "current.rows", expected=account["published"], found=rows)
    if not last.path:
        raise Malformed("current.path", "a content of this day")
    forms.sha256(current, "sha256")


def _read_withdrawn(node: Json, document: Json, head: Head, findings: Findings) -> None:
    """UFs that are taken back, also while the whole day is: they stay so when it comes back."""
    key, purged = head.key, set()
    for code in node:
        if code not in UFS:
            raise Malformed("withdrawnUfs", "codes of UFs")
        notice = forms.child(node, code)
        revision = forms.count(notice, "revision")
        forms.instant(notice, "at")
        if "purgedAt" in notice:
            forms.instant(notice, "purgedAt")
            purged.add(code)
        if not notice.get("reason"):
            findings.add(
                "withdrawal", key, f"reason of UF {code}", expected="a reason that the public may read", found="nothing"
            )
        entries = [entry for entry in document["history"] if entry["revision"] == revision]
        told = [entry for entry in entries if entry["reason"] == "withdrawal" and code in entry.get("ufs", ())]
        findings.expect(
            "withdrawal", key, f"entries of the history that withdraw UF {code}", expected=1, found=len(told)
        )
    head.withdrawn, head.purged = frozenset(node), frozenset(purged)
