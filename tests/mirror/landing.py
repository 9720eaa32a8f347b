"""Landing files without HTTP, for benchmarks: the lines that a walk over one day would land.

A line is the whole search `entry` ({fullUrl, resource, search}) as compact JSON. Parts are `part-NNNN.ndjson.zst`, numbered from
0001, and depend on the arguments only: one process or several write the same bytes.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow

from tests.mirror.content import Country
from tests.mirror.documents import Archive, Settings

_CHUNK: Final = 500
"""Lines per write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One written part."""

    path: Path
    documents: int
    bytes_plain: int
    bytes_written: int


def part_ranges(documents: int, per_part: int) -> list[range]:
    """Positions of each part."""
    return [range(start, min(start + per_part, documents)) for start in range(0, documents, per_part)]


def write_landing(
    *, settings: Settings, day: date, folder: Path, per_part: int, processes: int = 1, snapshot: Path | None = None
) -> list[Part]:
    """Write all parts of a day into `folder` (made if absent). Existing parts of the same names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    work = [
        (positions, folder / f"part-{number:04d}.ndjson.zst")
        for number, positions in enumerate(part_ranges(settings.docs_per_day, per_part), start=1)
    ]
    write = partial(_write_parts, settings, day, snapshot)
    if processes <= 1 or len(work) <= 1:
        return write(work)
    with ProcessPoolExecutor(processes) as pool:
        results = pool.map(write, [work[start::processes] for start in range(processes)])
        return sorted((part for parts in results for part in parts), key=lambda part: part.path)


def _write_parts(settings: Settings, day: date, snapshot: Path | None, work: list[tuple[range, Path]]) -> list[Part]:
    archive = Archive(Country.read(snapshot), settings)
    return [_write_part(archive, day, positions, path) for positions, path in work]


def _write_part(archive: Archive, day: date, positions: range, path: Path) -> Part:
    source = archive.day(day)
    plain = 0
    unfinished = path.with_suffix(".unfinished")
    with pyarrow.OSFile(str(unfinished), "wb") as file, pyarrow.CompressedOutputStream(file, "zstd") as stream:
        for start in range(positions.start, positions.stop, _CHUNK):
            lines = [source.entry(k) for k in range(start, min(start + _CHUNK, positions.stop))]
            block = ("\n".join(lines) + "\n").encode()
            plain += len(block)
            stream.write(block)
    unfinished.replace(path)
    return Part(path=path, documents=len(positions), bytes_plain=plain, bytes_written=path.stat().st_size)
