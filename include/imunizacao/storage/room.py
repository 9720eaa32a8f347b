"""Room on the local disk: asked for before a stage fills it, so that a day that cannot fit fails at once and not after half an hour."""

from __future__ import annotations

import shutil
from pathlib import Path

from imunizacao.errors import StorageUnavailable

_MIB = 1 << 20


def require_room(folder: Path, needed: int, *, what: str) -> None:
    """Fail when the disk of `folder` has fewer than `needed` bytes free; `what` names the stage and the day."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageUnavailable(
            f"{what} needs about {-(-needed // _MIB)} MiB of scratch disk under {folder.parent}, {free // _MIB} MiB are free. Nothing was "
            "begun. Free space there, or set IMUNIZACAO_SCRATCH_DIR, then run the task again; see docs/runbook/full-disk.md."
        )
