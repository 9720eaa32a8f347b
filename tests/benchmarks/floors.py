"""What the machine can do at all on the same bytes: `python -m tests.benchmarks.floors <floor> <folder>`.

Each floor is a process of its own; the figures go to standard output as one JSON line.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import simdjson


def _lines(folder: Path) -> Iterator[bytes]:
    for part in sorted(folder.glob("*.ndjson.zst")):
        rest = b""
        with pyarrow.CompressedInputStream(str(part), "zstd") as stream:
            while block := stream.read(1 << 22):
                pieces = (rest + block).split(b"\n")
                rest = pieces.pop()
                yield from pieces
        if rest:
            yield rest


def _unpack(folder: Path) -> int:
    """Decompress, look at nothing."""
    size = 0
    for part in sorted(folder.glob("*.ndjson.zst")):
        with pyarrow.CompressedInputStream(str(part), "zstd") as stream:
            while block := stream.read(1 << 22):
                size += len(block)
    return size


def _parse(folder: Path) -> int:
    """Decompress and parse every document with simdjson, read nothing of it: the parse floor."""
    parser = simdjson.Parser()
    size = 0
    for line in _lines(folder):
        document = parser.parse(line)
        del document
        size += len(line)
    return size


def _hash(folder: Path) -> int:
    """Decompress and sha256."""
    digest, size = hashlib.sha256(), 0
    for line in _lines(folder):
        digest.update(line)
        size += len(line)
    return size


FLOORS = {"zstd": _unpack, "simdjson": _parse, "sha256": _hash}


def main(floor: str, folder: Path) -> None:
    """Run one floor."""
    began = time.monotonic()
    size = FLOORS[floor](folder)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "cpu": usage.ru_utime + usage.ru_stime,
                "wall": time.monotonic() - began,
                "peak_mb": usage.ru_maxrss / 1024,
                "bytes": size,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
