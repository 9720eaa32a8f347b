"""Checks before anything is started: what is missing is said at once, with the figure found and the figure needed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

from imunizacao_local.errors import LocalError

PYTHON: Final = (3, 11)
DISK_BYTES: Final = 3 * 1024**3
# Airflow 1.2 GB, the object store 0.4, PostgreSQL and the mirror 0.2, a day's stages up to 1.2.
MEMORY_BYTES: Final = 3 * 1024**3
MEMORY_BYTES_WITHOUT_AIRFLOW: Final = 3 * 1024**3 // 2
_GIB: Final = 1024**3
_CGROUP: Final = Path("/sys/fs/cgroup")


def check_python() -> None:
    """Raise LocalError unless this is the Python the lock file was made for."""
    if sys.version_info[:2] != PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        raise LocalError(
            f"This is Python {found}; Python 3.11 is needed (the lock file was resolved for it)",
            next_step="install Python 3.11 and run `make setup`",
        )


def check_disk(folder: Path) -> None:
    """Raise LocalError when the disk of `folder` (or of its nearest existing parent) has less than 3 GiB free."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < DISK_BYTES:
        raise LocalError(
            f"{existing} has {free / _GIB:.1f} GiB free; {DISK_BYTES / _GIB:.0f} GiB are needed",
            next_step="free some space, or put the state elsewhere with --state DIR",
        )


def check_memory(needed: int = MEMORY_BYTES) -> None:
    """Raise LocalError when less than `needed` bytes of memory are available. Not checked where Linux's figures are absent."""
    available = available_memory()
    if available is not None and available < needed:
        raise LocalError(
            f"{available / _GIB:.1f} GiB of memory are available; {needed / _GIB:.1f} GiB are needed",
            next_step="close other programs, or process a day without Airflow: `make day DAY=YYYY-MM-DD`",
        )


def available_memory() -> int | None:
    """Return available bytes: the least of what the kernel and this container's limit leave; None when unknown."""
    figures = [figure for figure in (_kernel_memory(), _container_memory()) if figure is not None]
    return min(figures, default=None)


def _kernel_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _container_memory() -> int | None:
    """Read cgroup v2; pages of the file cache count as used there, so they are given back."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return None
    if limit == "max":
        return None
    cache = sum(int(line.split()[1]) for line in stat if line.startswith(("inactive_file ", "active_file ")))
    return int(limit) - used + cache
