"""Validate: the rules of `expectations/` judge the day. Bad rows go to quarantine, day rules open or close the gate.

Importing this package is cheap; Great Expectations is imported by `validate_day` when it has work to do.
"""

from imunizacao.docs_index import docs_key
from imunizacao.validate.row_check import mark_bad_doses, rules_version
from imunizacao.validate.stage import STAGE, require_publishable, sentence, validate_day

__all__ = ["STAGE", "docs_key", "mark_bad_doses", "require_publishable", "rules_version", "sentence", "validate_day"]
