"""Extract: all document versions of a day, byte for byte, in landing, and the proof that they are all."""

from imunizacao.extract.day import DAY_ROUNDS, extract_day, extract_part, mirror_freshness, plan_day
from imunizacao.extract.freshness import Freshness
from imunizacao.extract.plan import SlicePart
from imunizacao.extract.recount import Recount, recount_day
from imunizacao.extract.walks import SLICE_ATTEMPTS, STAGE

__all__ = [
    "DAY_ROUNDS",
    "SLICE_ATTEMPTS",
    "STAGE",
    "Freshness",
    "Recount",
    "SlicePart",
    "extract_day",
    "extract_part",
    "mirror_freshness",
    "plan_day",
    "recount_day",
]
