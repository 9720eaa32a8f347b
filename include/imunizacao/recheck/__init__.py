"""The last days counted again at the mirror; only days that moved are extracted again.

`recheck` looks at one day and runs it again, `command` is the command line.
"""

from imunizacao.recheck.recheck import DEFAULT_DAYS, RecheckedDay, recheck_day, summary

__all__ = ["DEFAULT_DAYS", "RecheckedDay", "recheck_day", "summary"]
