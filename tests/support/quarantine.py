"""The quarantine of a day as tests look at it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from imunizacao.quarantine import QuarantineRow, read_pointer, read_rows
from imunizacao.reference_day import ReferenceDay
from imunizacao.storage import ObjectStore


def quarantine_rows(work: ObjectStore, day: ReferenceDay) -> list[QuarantineRow]:
    """Rows of the newest quarantine of a day."""
    pointer = read_pointer(work, str(day))
    assert pointer is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.parquet"
        work.download(pointer.dataset.key, path)
        return list(read_rows(path))
