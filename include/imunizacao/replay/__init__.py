"""Replay: documents in quarantine judged again by today's rules and references; days that change get a new revision.

`precheck` looks whether anything would be released, `replay` makes the day again, `command` is the command line.
"""

from imunizacao.replay.replay import (
    REASON,
    ReplayedDay,
    days_that_were_judged,
    days_with_quarantine,
    replay_day,
    require_reasons,
    summary,
)

__all__ = [
    "REASON",
    "ReplayedDay",
    "days_that_were_judged",
    "days_with_quarantine",
    "replay_day",
    "require_reasons",
    "summary",
]
