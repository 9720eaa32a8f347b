"""Validate: the rules of `expectations/` judge the day. Bad rows go to quarantine, day rules open or close the gate.

Importing this package is cheap; Great Expectations is imported by `validate_day` when it has work to do.
"""

from imunizacao.validate.stage import STAGE, docs_key, require_publishable, validate_day

__all__ = ["STAGE", "docs_key", "require_publishable", "validate_day"]
