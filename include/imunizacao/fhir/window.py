"""Half-open windows of time and how they are written in a FHIR search."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from imunizacao.errors import MirrorProtocolError
from imunizacao.fhir.addresses import query_of


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Window:
    """The instants [start, end), both aware and in whole seconds."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None or self.start >= self.end:
            raise ValueError(f"not a window: {self.start} to {self.end}")

    def __str__(self) -> str:
        return f"{instant_text(self.start)}/{instant_text(self.end)}"

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    @property
    def name(self) -> str:
        """Safe in an object key: `20260314T030000Z_20260314T040000Z`."""
        return f"{_compact(self.start)}_{_compact(self.end)}"

    @property
    def bounds(self) -> list[str]:
        """The two values of `_lastUpdated`."""
        return [f"ge{instant_text(self.start)}", f"lt{instant_text(self.end)}"]

    def cut(self, step: timedelta) -> list[Window]:
        """Pieces of at most `step` that cover the window without a gap or an overlap, in order."""
        pieces, start = [], self.start
        while start < self.end:
            end = min(start + step, self.end)
            pieces.append(Window(start=start, end=end))
            start = end
        return pieces


def instant_text(moment: datetime) -> str:
    """`2026-03-14T03:00:00Z`: UTC, without a fraction where there is none (no `+`, which query strings garble)."""
    utc = moment.astimezone(UTC)
    text = utc.isoformat(timespec="microseconds" if utc.microsecond else "seconds")
    return text.replace("+00:00", "Z")


def parse_instant(text: str | None) -> datetime | None:
    """A FHIR instant, or None for anything without a date, a time and an offset."""
    if text is None or len(text) < 20:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def require_filters(self_url: str | None, sent: Iterable[str], *, where: str, required: bool) -> None:
    """Check that the mirror searched with the bounds it was asked for.

    A server that does not know a parameter drops it, answers 200 with everything it has, and says so only by leaving the
    parameter out of `link[self]`. With `required`, a page without `_lastUpdated` in `link[self]` is refused too; later
    pages may carry an opaque cursor instead. Raises `MirrorProtocolError`.
    """
    found = [value.replace(" ", "+") for name, value in query_of(self_url) if name.split(":")[0] == "_lastUpdated"]
    if not found and not required:
        return
    answered = {(value[:2], parse_instant(value[2:])) for value in found}
    missing = [bound for bound in sent if (bound[:2], parse_instant(bound[2:])) not in answered]
    if missing:
        raise MirrorProtocolError(
            f"The mirror did not search what it was asked ({where}): its link `self` lacks _lastUpdated={', '.join(missing)}. "
            "Its answer may hold documents of any day, so nothing was taken. Check that the mirror supports `_lastUpdated` "
            "in this search; see docs/runbook/mirror-protocol.md."
        )


def _compact(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
