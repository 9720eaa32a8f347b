"""Verify a published bucket from outside: everything that a reader may rely on, by plain GETs.

It shares no code with what writes the bucket and needs no package but Python's own library (and `cryptography` for signatures), so
that it can be right where the writer is wrong, and runs wherever a reader is. Start reading at `walk.py`; what is promised is in
docs/dados/contrato.md, why it is built so in docs/adr/0032-verifying-from-outside.md.
"""

from __future__ import annotations

from imunizacao.verify.access import open_reader
from imunizacao.verify.found import Finding
from imunizacao.verify.readers import FolderReader, HttpReader, Missing, Reader
from imunizacao.verify.report import DayReport, Report, render_text
from imunizacao.verify.walk import Selection, verify_bucket

__all__ = [
    "DayReport",
    "Finding",
    "FolderReader",
    "HttpReader",
    "Missing",
    "Reader",
    "Report",
    "Selection",
    "open_reader",
    "render_text",
    "verify_bucket",
]
