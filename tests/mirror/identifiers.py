"""Ids of documents: UUIDs that look random and still say which document they are.

The id hides (day, k) behind check bits of a keyed hash, so `GET /Bundle/<id>` finds its document without any table, and an id
that the mirror never gave is recognised.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

SUFFIX: Final = "-i0b0"
"""Suffix of immunization documents in the RNDS."""
_UUID: Final = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-4([0-9a-f]{3})-([0-9a-f]{4})-([0-9a-f]{12})(?:-i0b0)?")
_MIX: Final = 0x9E3779B97F4A7C15
_LOW_48: Final = (1 << 48) - 1
_CHECK: Final = ((1 << 80) - 1) ^ (0xF << 44) ^ (0x3 << 30)
"""80 bits without the six whose place in a UUID belongs to its version and variant."""


def day_key(seed: int, ordinal: int) -> bytes:
    """Prefix of everything that is random about one day."""
    return blake2b(f"mirror|{seed}|{ordinal}".encode(), digest_size=24).digest()


def digest(key: bytes, k: int) -> bytes:
    """64 bytes: all the randomness of document k of the day."""
    return blake2b(key + k.to_bytes(8, "little"), digest_size=64).digest()


def document_uuid(bits: bytes, ordinal: int, k: int) -> str:
    """UUID of document k of the day, given its digest."""
    check = int.from_bytes(bits[:10], "big") & _CHECK
    body = (ordinal << 28 | k) ^ (check * _MIX >> 16 & _LOW_48)
    third = check >> 32 & 0xFFF
    fourth = 0x8000 | check >> 16 & 0x3FFF
    return f"{check >> 48:08x}-{check & 0xFFFF:04x}-4{third:03x}-{fourth:04x}-{body:012x}"


def decode(text: str) -> tuple[int, int] | None:
    """The (day ordinal, k) that an id hides; None when it has another shape. Confirm it by making the id again."""
    match = _UUID.fullmatch(text)
    if match is None:
        return None
    head, second, third, fourth, body = (int(part, 16) for part in match.groups())
    check = head << 48 | third << 32 | (fourth & 0x3FFF) << 16 | second
    hidden = body ^ (check * _MIX >> 16 & _LOW_48)
    return hidden >> 28, hidden & 0xFFFFFFF
