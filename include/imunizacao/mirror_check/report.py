"""The report of a mirror check: rows that a person reads in a terminal or a task log, and the same as JSON."""

from __future__ import annotations

import logging
import textwrap
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from imunizacao.errors import ConfigurationError, MirrorProtocolError, MirrorUnavailable, PipelineError

Verdict = Literal["ok", "warn", "fail"]
State = Literal["usable", "not usable", "unreachable", "refused"]
_ERRORS: Final[dict[State, type[PipelineError]]] = {
    "not usable": MirrorProtocolError,
    "unreachable": MirrorUnavailable,
    "refused": ConfigurationError,
}
_MARKS: Final[dict[Verdict, str]] = {"ok": "  ok  ", "warn": "! warn", "fail": "✗ FAIL"}
_TOPIC_WIDTH: Final = 20
_LOG: Final = logging.getLogger("imunizacao")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One finding: counts, shares, codes and names of profiles, never a value of a document."""

    section: str
    topic: str
    """Names the check; each topic occurs once."""
    result: str
    verdict: Verdict = "ok"
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """A setting that fits what was found."""

    setting: str
    """Environment variable."""
    value: str
    now: str

    @property
    def extra(self) -> str:
        """Name of the same setting in the extra of the Airflow connection."""
        return self.setting.removeprefix("IMUNIZACAO_MIRROR_").lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorReport:
    """What the mirror can do, as far as asking it tells."""

    base_url: str
    """Without user and password."""
    day: str
    """The reference day whose window was asked for."""
    checked_at: str
    way: str
    state: State
    rows: tuple[Row, ...]
    recommended: tuple[Recommendation, ...]
    requests: int
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst of all rows."""
        found = {row.verdict for row in self.rows}
        return "fail" if "fail" in found else "warn" if "warn" in found else "ok"

    @property
    def exit_code(self) -> int:
        """0 when the mirror can be used; else that of the error that a run would end with."""
        return 0 if self.state == "usable" else _ERRORS[self.state].exit_code

    @property
    def summary(self) -> str:
        """One sentence: can the mirror be used, and if not, what is wrong."""
        warnings = [row.topic for row in self.rows if row.verdict == "warn"]
        if self.state == "usable":
            tail = f" ({', '.join(warnings)})" if warnings else ""
            return f"Mirror usable by way {self.way}: {len(self.rows)} checks, {len(warnings)} to look at{tail}"
        failed = [row.topic for row in self.rows if row.verdict == "fail"]
        return f"Mirror {self.state}: {len(failed)} of {len(self.rows)} checks failed ({', '.join(failed)})"

    def to_json(self) -> str:
        """The whole report; nothing in it says more than the table."""
        return msgspec.json.encode(
            {
                "schema": "imunizacao.mirror-check/1",
                "verdict": self.verdict,
                "summary": self.summary,
                **msgspec.to_builtins(self),
            }
        ).decode()


def require_usable(report: MirrorReport) -> None:
    """Raise the error that a run against this mirror would end with."""
    if report.state == "usable":
        return
    raise _ERRORS[report.state](
        f"{report.summary}. The table in this log says what was found and what to do for each of them. See "
        "docs/runbook/mirror-check.md."
    )


def render_text(report: MirrorReport, *, width: int = 100) -> str:
    """A table for people: marks at the left, advice under what it is about, settings and verdict last."""
    lines = [
        f"Mirror check  {report.base_url}",
        f"              {report.checked_at} · day {report.day} · {report.requests} requests in {report.seconds:.1f} s",
    ]
    section = ""
    for row in report.rows:
        if row.section != section:
            section = row.section
            lines += ["", section]
        lines += _row_lines(row, width)
    lines += ["", *_recommendation_lines(report, width), "", *textwrap.wrap(report.summary + ".", width)]
    return "\n".join(lines)


def log_report(report: MirrorReport) -> None:
    """Write the table to the log, line by line, so that a task log shows it as it is."""
    for line in render_text(report).splitlines():
        _LOG.info("%s", line)


def _row_lines(row: Row, width: int) -> list[str]:
    head = f"{_MARKS[row.verdict]}  {row.topic:<{_TOPIC_WIDTH}}  "
    margin = " " * len(head)
    lines = textwrap.wrap(
        row.result, width, initial_indent=head, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    ) or [head.rstrip()]
    if row.advice:
        lines += textwrap.wrap(
            row.advice,
            width,
            initial_indent=f"{margin}→ ",
            subsequent_indent=f"{margin}  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _recommendation_lines(report: MirrorReport, width: int) -> list[str]:
    if not report.recommended:
        return ["No settings are recommended: the mirror must be mended first."]
    longest = max(len(f"{found.setting}={found.value}") for found in report.recommended)
    lines = ["Settings to use"]
    for found in report.recommended:
        assignment = f"{found.setting}={found.value}"
        note = "as it is" if found.value == found.now else f"now {found.now}"
        lines.append(f"        {assignment:<{longest}}  {note}")
    extra = {found.extra: _plain(found.value) for found in report.recommended}
    text = msgspec.json.format(msgspec.json.encode(extra), indent=0).decode()
    margin = " " * 8
    lines += ["", "The same in the extra of the Airflow connection imunizacao_mirror"]
    return lines + textwrap.wrap(text, width, initial_indent=margin, subsequent_indent=margin, break_long_words=False)


def _plain(value: str) -> int | float | str:
    """A number without quotes where it is one."""
    if not value.replace(".", "", 1).isdecimal():
        return value
    return float(value) if "." in value else int(value)
