"""Opaque, signed cursors: where a walk over the pages of a search stands."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

_SIGNATURE_BYTES: Final = 12


class BadBookmark(Exception):
    """A cursor that this mirror did not give (404), or one that has expired (410)."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(f"(EHR-ERR848) {text}")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """One page of a walk."""

    parameters: tuple[tuple[str, str], ...]
    """Honoured parameters of the search."""
    offset: int = 0
    number: int = 1
    """Number of the page in its walk, from 1."""
    repeat: int = 0
    """How often this page was led to again."""
    started: int = 0
    """When the walk began, milliseconds."""

    def following(self, count: int) -> Cursor:
        """The page after this one."""
        return replace(self, offset=self.offset + count, number=self.number + 1, repeat=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bookmarks:
    """Writes and reads cursors. The key comes from the seed, so a walk survives a restart of the mirror."""

    key: bytes
    lifetime_ms: int
    """0 = cursors do not expire."""

    @classmethod
    def of(cls, *, seed: int, lifetime_seconds: int) -> Bookmarks:
        """Bookmarks of the mirror with this seed."""
        return cls(key=sha256(f"bookmark|{seed}".encode()).digest(), lifetime_ms=lifetime_seconds * 1000)

    def write(self, cursor: Cursor) -> str:
        """The token of a page."""
        fields = [cursor.parameters, cursor.offset, cursor.number, cursor.repeat, cursor.started]
        body = json.dumps(fields, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._sign(body) + body).decode().rstrip("=")

    def read(self, token: str, *, now: int) -> Cursor:
        """The page of a token. Raises BadBookmark."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadBookmark("Bookmark inválido", 404) from error
        signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(body)):
            raise BadBookmark("Bookmark inválido", 404)
        parameters, offset, number, repeat, started = json.loads(body)
        if self.lifetime_ms and now - started > self.lifetime_ms:
            raise BadBookmark("Bookmark expirado", 410)
        return Cursor(parameters=_pairs(parameters), offset=offset, number=number, repeat=repeat, started=started)

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self.key, body, "sha256")[:_SIGNATURE_BYTES]


def _pairs(parameters: Any) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in parameters)
