"""What the index knows of a day: the newest verdict of the rules, and what readers see."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

State = Literal["passed", "asked", "released", "refused", "held"]
"""`asked` waits for a person; `released` and `refused` are a person's answers."""

Kind = Literal["held", "asked", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule that was not kept."""

    rule: str
    kind: Kind
    text: str
    """Portuguese; counts only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayVerdict:
    """`v1/docs/day=<D>/summary.json`: what the newest run of a day found."""

    day: str
    run_id: str
    rules: str
    """sha256 of the suites."""
    state: State
    judged: int
    """Doses that could be published or were in quarantine."""
    quarantined: int
    findings: list[Finding] = field(default_factory=list)
    reason: str = ""
    """Of the person who decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What the head of the day says."""

    state: str
    revision: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRow:
    """One day of the index."""

    verdict: DayVerdict
    publication: Publication | None = None
    """None while nothing is published."""
