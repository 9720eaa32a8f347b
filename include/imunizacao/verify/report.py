"""What came out, for people and as JSON. Counts, hashes, paths and names of columns only."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any

from imunizacao.verify.found import Finding, Findings


@dataclass(slots=True, kw_only=True)
class DayReport:
    """One day."""

    day: str
    state: str = "unreadable"
    """`published`, `empty`, `withdrawn`, `pending` (nothing was published yet), or `unreadable` (its head cannot be followed)."""
    revision: int = 0
    rows: int = 0
    """Rows that were read in the files by establishment."""
    ufs: int = 0
    """UFs that were read."""
    withdrawn_ufs: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    signed_by: str = ""
    """Id of the key of a good signature."""
    notes: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Report:
    """A whole verification."""

    address: str
    days: list[DayReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    """About catalog, months and keys."""
    unreachable: str = ""
    """Why it ended early; what was not reached is not in the report."""

    @property
    def findings_count(self) -> int:
        """All findings."""
        return len(self.findings) + sum(len(day.findings) for day in self.days)

    @property
    def exit_code(self) -> int:
        """0 nothing found, 6 findings, 5 not to its end and nothing found until then."""
        if self.findings_count:
            return 6
        return 5 if self.unreachable else 0

    def to_json(self) -> dict[str, Any]:
        """For machines: the form is `imunizacao.verify/1`."""
        return {
            "schema": "imunizacao.verify/1",
            "address": self.address,
            "exitCode": self.exit_code,
            "findings": _findings(self.findings),
            "notes": self.notes,
            "unreachable": self.unreachable or None,
            "days": [
                {
                    "day": day.day,
                    "state": day.state,
                    "revision": day.revision,
                    "rows": day.rows,
                    "ufs": day.ufs,
                    "withdrawnUfs": day.withdrawn_ufs,
                    "files": day.files,
                    "bytes": day.bytes,
                    "signedBy": day.signed_by or None,
                    "seconds": round(day.seconds, 3),
                    "notes": day.notes,
                    "findings": _findings(day.findings),
                    "moreFindings": day.findings.more,
                }
                for day in self.days
            ],
        }


def _findings(findings: Findings) -> list[dict[str, str]]:
    return [asdict(finding) | {"todo": finding.todo} for finding in findings.items]


def render_text(report: Report, *, width: int = 100) -> str:
    """One line per day, then every finding with what to do."""
    lines = [f"{report.address}", ""]
    if report.days:
        lines.append(
            f"{'day':<10}  {'state':<10} {'rev':>3} {'rows':>11} {'ufs':>3} {'files':>6}  {'signed by':<16}  result"
        )
    for day in report.days:
        found = len(day.findings)
        result = "not published yet" if day.state == "pending" else f"{found} finding(s)" if found else "ok"
        without = f" (without UF {', '.join(day.withdrawn_ufs)}: withdrawn)" if day.withdrawn_ufs else ""
        numbers = "" if day.state == "pending" else f"{day.revision:>3} {day.rows:>11,} {day.ufs:>3} {day.files:>6}"
        lines.append(f"{day.day:<10}  {day.state:<10} {numbers:<26}  {day.signed_by or '-':<16}  {result}{without}")
    for title, findings in [
        ("catalog, months and keys", report.findings),
        *((day.day, day.findings) for day in report.days),
    ]:
        if len(findings):
            lines += ["", f"{title}: {len(findings)} finding(s)"]
            for finding in findings.items:
                lines += _finding(finding, width)
            if findings.more:
                lines.append(f"  … and {findings.more} more")
    notes = [*report.notes, *(f"{day.day}: {note}" for day in report.days for note in day.notes)]
    if notes:
        lines.append("")
        for note in notes:
            lines += textwrap.wrap(f"Note: {note}", width, subsequent_indent="      ", break_long_words=False)
    lines += ["", _summary(report)]
    return "\n".join(lines)


def _finding(finding: Finding, width: int) -> list[str]:
    lines = [f"  [{finding.kind}] {finding.path}"]
    facts = [f"expected {finding.expected}"] if finding.expected else []
    facts += [f"found {finding.found}"] if finding.found else []
    for text in (f"{finding.what}: {', '.join(facts)}" if facts else finding.what, f"→ {finding.todo}"):
        lines += textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="      ", break_long_words=False)
    return lines


def _summary(report: Report) -> str:
    read = [day for day in report.days if day.state in {"published", "empty", "withdrawn"}]
    pending = sum(day.state == "pending" for day in report.days)
    text = (
        f"{len(read)} day(s) read, {sum(day.rows for day in read):,} rows in {sum(day.files for day in read):,} files, "
        f"{pending} pending, {report.findings_count} finding(s)."
    )
    if report.findings_count:
        text += " What the publisher does: docs/runbook/verify-findings.md."
    if report.unreachable:
        text += f"\nIt ended early: {report.unreachable}"
    return text
