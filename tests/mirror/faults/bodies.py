"""Bodies that do not arrive, arrive in part, or are something else (rows 1, 3 and 4)."""

from __future__ import annotations

import gzip
import json
from typing import Final

from tests.mirror.faults.base import BadScenario, Body, Hit, OnPage, Scenario, Times, Wire, draw, positive, share

_HTML: Final = "<!doctype html><html><title>Em manutenção</title><p>Volte mais tarde.</p></html>".encode()
_CAPABILITIES: Final = json.dumps(
    {"resourceType": "CapabilityStatement", "status": "active", "kind": "instance", "fhirVersion": "4.0.1"}
).encode()


class Reset(Scenario):
    """`reset:<share>`: the connection of this share of pages breaks in the middle of the body, once each."""

    def __init__(self, argument: str, seed: int) -> None:
        self._limit = share(argument) * 2**32
        self._seed = seed
        self._times = Times(1)

    def send(self, hit: Hit, body: bytes) -> Wire | None:
        if draw(self._seed, "reset|" + hit.key) >= self._limit or not self._times.take(hit.key):
            return None
        return Wire(body=body[: len(body) // 2], declared=len(body), ending="reset")


class _FirstTime(Scenario):
    """A fault of the first request for one page of all walks."""

    def __init__(self, argument: str, seed: int) -> None:
        self._number = positive(argument)
        self._done = False

    def strikes(self, hit: Hit) -> bool:
        """Tell whether this is that request."""
        if self._done or not hit.walks or hit.cursor.number != self._number:
            return False
        self._done = True
        return True


class SlowLoris(_FirstTime):
    """`slow-loris:<page>`: one byte every 50 ms, for ever."""

    def send(self, hit: Hit, body: bytes) -> Wire | None:
        return Wire(body=b"", declared=len(body) + 1_000_000, ending="drip") if self.strikes(hit) else None


class Stall(_FirstTime):
    """`stall:<page>`: half a body, then silence."""

    def send(self, hit: Hit, body: bytes) -> Wire | None:
        return Wire(body=body[: len(body) // 2], declared=len(body), ending="silence") if self.strikes(hit) else None


class Truncated(OnPage):
    """`truncated:<page>[:<times>]`: a part of the page as if it were all of it, cut at another place every time."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__(argument, seed)
        self._turn = 0

    def send(self, hit: Hit, body: bytes) -> Body | None:
        if not self.strikes(hit):
            return None
        self._turn += 1
        keep = (len(body) // 2, len(body) - 1, len(body) * 9 // 10, 1, 0)[self._turn % 5]
        return Body(body=body[:keep])


class Html(OnPage):
    """`html-200:<page>[:<times>]`: the page of a proxy, with status 200."""

    def send(self, hit: Hit, body: bytes) -> Body | None:
        return Body(body=_HTML, media_type="text/html; charset=utf-8") if self.strikes(hit) else None


class WrongType(OnPage):
    """`wrong-type:<page>[:<times>]`: a CapabilityStatement with status 200."""

    def send(self, hit: Hit, body: bytes) -> Body | None:
        return Body(body=_CAPABILITIES) if self.strikes(hit) else None


class WrongLength(OnPage):
    """`wrong-length:<page>:more|less[:<times>]`: Content-Length announces a hundred bytes more, or less, than are sent."""

    def __init__(self, argument: str, seed: int) -> None:
        number, _, rest = argument.partition(":")
        kind, given, times = rest.partition(":")
        if kind not in {"more", "less"}:
            raise BadScenario(f"{kind!r} is neither `more` nor `less`")
        super().__init__(f"{number}:{times}" if given else number, seed)
        self._difference = 100 if kind == "more" else -100

    def send(self, hit: Hit, body: bytes) -> Wire | None:
        if not self.strikes(hit):
            return None
        return Wire(body=body, declared=max(0, len(body) + self._difference), ending="close")


class GzipBroken(OnPage):
    """`gzip-broken:<page>[:<times>]`: a compressed body that is damaged in the middle, or ends there, in turn."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__(argument, seed)
        self._turn = 0

    def send(self, hit: Hit, body: bytes) -> Body | None:
        if not self.strikes(hit):
            return None
        self._turn += 1
        packed = gzip.compress(body, 1, mtime=0)
        half = len(packed) // 2
        if self._turn % 2:
            return Body(body=packed[:half] + bytes(64) + packed[half + 64 :], encoding="gzip")
        return Body(body=packed[:half], encoding="gzip")
