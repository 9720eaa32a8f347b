"""One line per event: `event=extract.page_saved page=12 entries=100`."""

from __future__ import annotations

import logging
from collections.abc import Callable

_LOG = logging.getLogger("imunizacao")

Value = str | int | float | bool | None
Progress = Callable[[str, int, int | None], None]
"""Called with (what, done, total or None when unknown): a progress bar on a terminal, nothing elsewhere."""


def log_event(name: str, /, *, level: int = logging.INFO, **fields: Value) -> None:
    """Write one event to the log `imunizacao`. Fields are counts, codes and locations, never personal data."""
    text = " ".join(f"{key}={_plain(value)}" for key, value in fields.items())
    _LOG.log(level, "event=%s %s", name, text)


def _plain(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return f'"{text}"' if " " in text else text


def no_progress(what: str, done: int, total: int | None) -> None:
    """The progress of those who do not want one."""
