"""Single lines out of a landed part, without looking at the others more than needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow

from imunizacao.errors import ContractViolation

_BLOCK: Final = 1 << 20


def pick_lines(path: Path, wanted: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Lines of a zstd file by number (from 1, ascending, each once), without their line breaks; reading ends with the last one.

    Memory: one line and a block. Time: decompression, and one search per line passed. A line that is not there is a
    `ContractViolation`.
    """
    left = iter(wanted)
    target = next(left, 0)
    number = 1
    held: list[bytes] = []
    with pyarrow.CompressedInputStream(str(path), "zstd") as packed:
        while target and (block := packed.read(_BLOCK)):
            start = 0
            while target:
                end = block.find(b"\n", start)
                if end < 0:
                    if number == target:
                        held.append(block[start:])
                    break
                if number == target:
                    held.append(block[start:end])
                    yield number, b"".join(held)
                    held.clear()
                    target = next(left, 0)
                number += 1
                start = end + 1
    if target and number == target and held and any(held):
        yield number, b"".join(held)
        target = next(left, 0)
    if target:
        raise ContractViolation(
            f"Landed part {path.name} has no line {target}: the quarantine names a line that is not there. Nothing was published. "
            "Clear `flatten` and run the day again; see docs/runbook/account-gap.md."
        )
