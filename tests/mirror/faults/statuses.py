"""Answers that are no pages: server errors, throttling, refused tokens, silence (rows 1, 2, 3 and 8)."""

from __future__ import annotations

import time
from email.utils import formatdate

from tests.mirror.faults.base import (
    BadScenario,
    Fault,
    Hang,
    Hit,
    OnPage,
    Scenario,
    Times,
    draw,
    no_argument,
    positive,
    share,
    whole,
)

_DOWN = "Serviço indisponível"
_TOO_MANY = "Limite de requisições excedido"
_EXPIRED = "Token de acesso ausente, inválido ou expirado"


class ServerErrors(Scenario):
    """`http-5xx:<share>`: this share of requests is answered 502 or 503 once; the retry succeeds."""

    def __init__(self, argument: str, seed: int) -> None:
        self._limit = share(argument) * 2**32
        self._seed = seed
        self._times = Times(1)

    def interfere(self, hit: Hit) -> Fault | None:
        drawn = draw(self._seed, hit.key)
        if drawn >= self._limit or not self._times.take(hit.key):
            return None
        return Fault(status=502 + drawn % 2, code="EHR-ERR999", text=_DOWN)


class PageErrors(OnPage):
    """`http-5xx-page:<page>[:<times>]`: 500, 502 and 503 in turn on that page."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__(argument, seed)
        self._turn = 0

    def interfere(self, hit: Hit) -> Fault | None:
        if not self.strikes(hit):
            return None
        self._turn += 1
        return Fault(status=(500, 502, 503)[self._turn % 3], code="EHR-ERR999", text=_DOWN)


class Refuse(Scenario):
    """`refuse:<n>`: the first n requests of all are answered 503 without a body."""

    def __init__(self, argument: str, seed: int) -> None:
        self._left = positive(argument)

    def interfere(self, hit: Hit) -> Fault | None:
        if self._left == 0:
            return None
        self._left -= 1
        return Fault(status=503)


class TooManyRequests(Scenario):
    """`http-429:<seconds>`: the first request for each page must come again, not before that many seconds."""

    def __init__(self, argument: str, seed: int) -> None:
        self._seconds = whole(argument)
        self._open_at: dict[str, float] = {}

    def interfere(self, hit: Hit) -> Fault | None:
        now = time.monotonic()
        open_at = self._open_at.setdefault(hit.key, now + self._seconds)
        if self._seconds == 0 and open_at == now:
            wait = 0
        elif now >= open_at:
            return None
        else:
            wait = max(1, round(open_at - now + 0.49))
        return _throttle(self.header(wait))

    def header(self, wait: int) -> str:
        """`Retry-After` that asks for this many seconds."""
        return str(wait)


class TooManyUntil(TooManyRequests):
    """`http-429-date:<seconds>`: the same, with an HTTP date by the mirror's clock."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__(argument, seed)
        self._now = 0

    def clock(self, now: int) -> int:
        self._now = now
        return now

    def header(self, wait: int) -> str:
        # A date has whole seconds: rounded up, so that nobody who keeps it is early.
        return formatdate(-(-self._now // 1000) + wait, usegmt=True)


class OddRetryAfter(Scenario):
    """`http-429-huge`, `-negative`, `-absent`, `-garbage`: the first request of each address, with that `Retry-After`."""

    def __init__(self, *values: str | None) -> None:
        self._values = values
        self._times = Times(1)
        self._turn = 0

    def interfere(self, hit: Hit) -> Fault | None:
        if not self._times.take(hit.key):
            return None
        self._turn += 1
        return _throttle(self._values[self._turn % len(self._values)])


def huge_retry_after(argument: str, seed: int) -> Scenario:
    """Weeks, and a number that no integer of 64 bits holds."""
    no_argument(argument)
    return OddRetryAfter("999999999", "9" * 40, "Fri, 31 Dec 9999 23:59:59 GMT")


def negative_retry_after(argument: str, seed: int) -> Scenario:
    """Seconds below zero, and a date of the past."""
    no_argument(argument)
    return OddRetryAfter("-5", "Thu, 01 Jan 1970 00:00:00 GMT")


def absent_retry_after(argument: str, seed: int) -> Scenario:
    """No header."""
    no_argument(argument)
    return OddRetryAfter(None)


def garbage_retry_after(argument: str, seed: int) -> Scenario:
    """Neither seconds nor a date."""
    no_argument(argument)
    return OddRetryAfter("em breve", "", "1.5", "1e9", "Fri, 32 Foo 2026 25:61:61 GMT", "+-3", "0x10")


class Timeout(Scenario):
    """`timeout:<page>`: the first request for this page of a walk gets no answer; later ones do."""

    def __init__(self, argument: str, seed: int) -> None:
        self._number = whole(argument)
        self._done = False

    def interfere(self, hit: Hit) -> Hang | None:
        if self._done or hit.counts or hit.cursor.number != self._number:
            return None
        self._done = True
        return Hang()


class TokenExpired(Scenario):
    """`token-expired:<page>`: on that page of the first walk that has it the token of the request ends, for this and all later ones."""

    def __init__(self, argument: str, seed: int) -> None:
        self._number = positive(argument)
        self._done = False
        self._ended = ""

    def interfere(self, hit: Hit) -> Fault | None:
        if not self._done and hit.walks and hit.cursor.number == self._number:
            self._done, self._ended = True, hit.credentials
        elif not self._ended or hit.credentials != self._ended:
            return None
        return Fault(status=401, code="EHR-ERR882", text=_EXPIRED)


class TokenNever(Scenario):
    """`token-never`: no token is ever good enough."""

    def __init__(self, argument: str, seed: int) -> None:
        no_argument(argument)

    def interfere(self, hit: Hit) -> Fault:
        return Fault(status=401, code="EHR-ERR882", text=_EXPIRED)


class ClockSkew(Scenario):
    """`clock-skew:<seconds>`: the clock of the mirror (`Date`, tokens, newest document) is off, ahead when positive."""

    def __init__(self, argument: str, seed: int) -> None:
        self._shift = whole(argument, signed=True) * 1000
        if not self._shift:
            raise BadScenario("a clock that is off by 0 seconds is right")

    def clock(self, now: int) -> int:
        return now + self._shift


def _throttle(retry_after: str | None) -> Fault:
    headers = () if retry_after is None else (("Retry-After", retry_after),)
    return Fault(status=429, code="EHR-ERR999", text=_TOO_MANY, headers=headers)
