"""Housekeeping: what nobody needs any more is listed, and removed when asked; in doubt an object stays. docs/adr/0034-housekeeping.md."""

from imunizacao.housekeeping.report import KINDS, Kind, Report, describe_report, report_note
from imunizacao.housekeeping.run import housekeep

__all__ = ["KINDS", "Kind", "Report", "describe_report", "housekeep", "report_note"]
