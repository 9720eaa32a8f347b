"""Quarantine: what was not published, kept with its reasons and its raw documents, and told to those who can mend it.

`dataset` writes and reads the private dataset of a day, `acks` the files for establishments; `reasons` has a sentence per code.
"""

from imunizacao.quarantine.acks import STAGE as ACK_STAGE
from imunizacao.quarantine.acks import AckReceipt, acknowledge_day
from imunizacao.quarantine.dataset import (
    STAGE,
    QuarantinePointer,
    QuarantineReceipt,
    QuarantineRow,
    documents_of,
    pointer_key,
    publish_quarantine,
    published_key,
    quarantine_day,
    raw_document,
    read_pointer,
    read_published,
    read_rows,
)
from imunizacao.quarantine.reasons import Reason, load_reasons

__all__ = [
    "ACK_STAGE",
    "STAGE",
    "AckReceipt",
    "QuarantinePointer",
    "QuarantineReceipt",
    "QuarantineRow",
    "Reason",
    "acknowledge_day",
    "documents_of",
    "load_reasons",
    "pointer_key",
    "publish_quarantine",
    "published_key",
    "quarantine_day",
    "raw_document",
    "read_pointer",
    "read_published",
    "read_rows",
]
