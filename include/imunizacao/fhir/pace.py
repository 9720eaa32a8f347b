"""How hard we may lean on the mirror: waits between tries, and a limit of requests per second."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

Sleep = Callable[[float], Awaitable[None]]

LONGEST_WAIT_SECONDS: Final = 300.0
"""A mirror may ask for more by Retry-After; we look again after five minutes."""
_FIRST_BACKOFF_SECONDS: Final = 0.5
_LONGEST_BACKOFF_SECONDS: Final = 60.0


def backoff_seconds(failures: int) -> float:
    """Exponential wait with full jitter after the n-th failure (n ≥ 1): at most 1, 2, 4 … 60 seconds."""
    return random.uniform(0, min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** min(failures, 16)))


def retry_after_seconds(value: str | None, *, server_now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, capped; None when it is absent, negative or unreadable.

    A date is measured against the server's own clock, since ours may be minutes off.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isdecimal() and text.isascii():
        return min(float(text[:9]), LONGEST_WAIT_SECONDS)
    when = parse_http_date(text)
    if when is None or when < server_now:
        return None
    return min((when - server_now).total_seconds(), LONGEST_WAIT_SECONDS)


def parse_http_date(value: str | None) -> datetime | None:
    """The instant of an HTTP date, or None."""
    if not value:
        return None
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


class Pace:
    """Spaces the requests of all connections evenly, and holds all of them when the mirror says that it is too much."""

    def __init__(self, per_second: float, *, sleep: Sleep, monotonic: Callable[[], float]) -> None:
        self._gap = 1 / per_second if per_second > 0 else 0.0
        self._sleep = sleep
        self._monotonic = monotonic
        self._next = 0.0
        self._held = 0.0

    async def wait_turn(self) -> None:
        """Return when the next request may go out."""
        now = self._monotonic()
        turn = self._take_turn(now)
        while turn > now:
            await self._sleep(turn - now)
            now = turn
            if self._held > turn:
                # Another connection was told to wait while this one slept: queue again behind that.
                turn = self._take_turn(self._held)

    def hold(self, seconds: float) -> None:
        """No request of any connection for this long."""
        self._held = max(self._held, self._monotonic() + seconds)
        self._next = max(self._next, self._held)

    def _take_turn(self, earliest: float) -> float:
        turn = max(earliest, self._next)
        self._next = turn + self._gap
        return turn
