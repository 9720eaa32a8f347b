"""Sums over rows that fit into little memory: which keys repeat, whether two sets of rows are the same."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_PARTS = 16
MASK = (1 << 64) - 1


class Keys:
    """Eight bytes per key, to tell how many of them repeat: 3 million keys are 24 MB. Two different keys look alike once in 10⁶ such days."""

    def __init__(self) -> None:
        self._parts = [array("Q") for _ in range(_PARTS)]

    def add(self, keys: Iterable[str]) -> None:
        """Note keys."""
        parts = self._parts
        for key in keys:
            number = hash(key) & MASK
            parts[number % _PARTS].append(number)

    def take(self, other: Keys) -> None:
        """Note all keys of another one, and empty it."""
        for mine, theirs in zip(self._parts, other._parts, strict=True):
            mine.extend(theirs)
            del theirs[:]

    def repeated(self) -> int:
        """How many keys are there again."""
        return sum(sum(a == b for a, b in pairwise(sorted(part))) for part in self._parts)


@dataclass(slots=True)
class RowSum:
    """Number of rows and a sum over them that does not depend on their order."""

    rows: int = 0
    total: int = 0

    def add(self, lines: Sequence[bytes]) -> None:
        """Note rows."""
        self.rows += len(lines)
        for line in lines:
            self.total += int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "little")

    def take(self, other: RowSum) -> None:
        """Note all rows of another sum."""
        self.rows += other.rows
        self.total += other.total
