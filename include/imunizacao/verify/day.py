"""One day: its head, its history, what it publishes now. A head that moves meanwhile is read again, never blamed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from imunizacao.errors import StorageUnavailable
from imunizacao.verify import forms
from imunizacao.verify.content import SMALL, ContentCheck, Root, Seen, read_root
from imunizacao.verify.diffs import check_diff
from imunizacao.verify.files import FileNamed
from imunizacao.verify.forms import Malformed
from imunizacao.verify.found import Findings
from imunizacao.verify.heads import Entry, Head, read_head
from imunizacao.verify.layout import head_key
from imunizacao.verify.readers import Missing, Reader, TooLarge, read_small
from imunizacao.verify.report import DayReport
from imunizacao.verify.schema import Schema
from imunizacao.verify.signatures import Keys, check_signature

_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A day's report, and what its month's row is compared with."""

    report: DayReport
    head: Head | None = None
    root: Root | None = None
    wholes: dict[str, FileNamed] = field(default_factory=dict)
    """File of each UF, as the descriptors that were read name it."""


@dataclass(kw_only=True)
class DayCheck:
    """Checks days of one bucket, one after the other."""

    reader: Reader
    pool: Executor
    keys: Keys
    ufs: Sequence[str] = ()
    require_signature: bool = False
    thorough: bool = False
    """Apply every difference as well."""
    sleep: Callable[[float], None] = time.sleep
    _schemas: dict[str, Schema] = field(default_factory=dict)

    def run(self, day: str) -> Checked:
        """Check a day; `StorageUnavailable` when the bucket cannot be read to the end."""
        started = time.monotonic()
        body = self._head(day)
        for attempt in range(_TRIES):
            checked = self._check(day, body)
            if not len(checked.report.findings):
                break
            now = self._head(day)
            if now == body:
                break
            if attempt + 1 == _TRIES:
                raise StorageUnavailable(
                    f"{head_key(day)} moved {_TRIES} times while it was read: it is being published. Verify again in a few minutes. See docs/runbook/verify-findings.md."
                )
            body = now
        checked.report.seconds = time.monotonic() - started
        return checked

    def _head(self, day: str) -> bytes | None:
        try:
            return read_small(self.reader, head_key(day), most=SMALL)
        except Missing:
            return None
        except TooLarge:
            return b""

    def _check(self, day: str, body: bytes | None) -> Checked:
        report = DayReport(day=day)
        if body is None:
            report.state = "pending"
            return Checked(report=report)
        findings = report.findings
        try:
            document = forms.parse(body)
        except Malformed as error:
            findings.add("form", head_key(day), error.member, expected=error.expected)
            return Checked(report=report)
        head = read_head(document, day, findings)
        if head is None:
            return Checked(report=report)
        report.state, report.revision = head.state, head.revision
        report.withdrawn_ufs = sorted(head.withdrawn)
        report.notes += head.notes
        last = head.history[-1]
        roots = self._roots(head, findings)
        root = roots.get(last.path) if head.current is not None else None
        seen = Seen()
        if root is not None and head.current is not None:
            findings.expect("sums", root.key, "rows of the head", expected=head.current["rows"], found=root.rows)
            seen = self._content(head, last, root, report)
        self._check_signatures(head, roots, report)
        if self.ufs:
            report.notes.append(
                "differences between revisions and sums of the whole day not checked: only some UFs were asked for"
            )
        else:
            for entry in head.history:
                files = check_diff(
                    self.reader,
                    head,
                    entry,
                    schema=seen.schema if entry is last else None,
                    roots=roots,
                    findings=findings,
                    apply=self.thorough,
                )
                report.files += files
        return Checked(report=report, head=head, root=root, wholes=seen.wholes)

    def _roots(self, head: Head, findings: Findings) -> dict[str, Root]:
        """day.json of every revision, by path; of those that may be gone, the ones that are there."""
        roots: dict[str, Root] = {}
        for entry in head.history:
            if not entry.path or entry.path in roots:
                continue
            mine = Findings()
            root = read_root(self.reader, entry.path, entry.named, head.day, mine)
            if root is not None:
                roots[entry.path] = root
            if head.may_be_gone(entry.path):
                mine.items = [finding for finding in mine.items if finding.kind != "missing"]
            findings.take(mine)
        return roots

    def _content(self, head: Head, entry: Entry, root: Root, report: DayReport) -> Seen:
        seen = ContentCheck(
            reader=self.reader,
            root=root,
            content_id=entry.content_id,
            findings=report.findings,
            pool=self.pool,
            wanted=frozenset(self.ufs),
            withdrawn=head.withdrawn,
            purged=head.purged,
            schemas=self._schemas,
        ).run()
        report.rows, report.ufs, report.files, report.bytes = seen.rows, len(seen.ufs), seen.files, seen.bytes
        report.notes += seen.notes
        return seen

    def _check_signatures(self, head: Head, roots: dict[str, Root], report: DayReport) -> None:
        findings, done = report.findings, set()
        current = head.current
        if current is not None:
            try:
                signature = forms.child(current, "signature") if "signature" in current else None
            except Malformed as error:
                findings.add("signature", head.key, error.member, expected=error.expected)
                return
            last = head.history[-1]
            if signature is not None:
                done.add((last.path, signature.get("path")))
                report.signed_by = self._signature(signature, last, head, current["rows"], findings)
            elif self.require_signature:
                findings.add("signature", head.key, "the day is not signed", expected="a signature", found="none")
        for entry in head.history:
            if entry.signature is None or (entry.path, entry.signature.get("path")) in done:
                continue
            done.add((entry.path, entry.signature.get("path")))
            root = roots.get(entry.path)
            self._signature(entry.signature, entry, head, root.rows if root is not None else None, findings)

    def _signature(self, signature: forms.Json, entry: Entry, head: Head, rows: int | None, findings: Findings) -> str:
        predicate = {"day": head.day, "contentId": entry.content_id} | ({"rows": rows} if rows is not None else {})
        return check_signature(
            self.reader,
            signature,
            root=entry.path,
            named=entry.named,
            predicate=predicate,
            keys=self.keys,
            findings=findings,
            gone=head.may_be_gone(entry.path),
        )
