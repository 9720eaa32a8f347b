"""Mirror check: what a mirror can do, told as a table, before anything is taken from it."""

from imunizacao.mirror_check.check import check_mirror
from imunizacao.mirror_check.report import (
    MirrorReport,
    Recommendation,
    Row,
    log_report,
    render_text,
    require_usable,
)

__all__ = ["MirrorReport", "Recommendation", "Row", "check_mirror", "log_report", "render_text", "require_usable"]
