"""The second view of a day: the same doses by UF of residence, wherever they were given.

A row of a residents' file is a row of the body, byte for byte; only the order is another. So no second body is written: `split`
finds where each row is and hashes the files, `publish` gathers them from the body that it has anyway.

A mirror without Patient gives no residence. A day on which no published dose has one has no such files.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow

from imunizacao.errors import ContractViolation
from imunizacao.models import CutFile
from imunizacao.sql import Engine

_BLOCK = 1 << 20
_RUNS_AT_ONCE = 10_000
_PIECE_BYTES = 16
"""Offset and length, 8 bytes each."""


def resident_path(uf: str, sg_uf: str, day: str) -> str:
    """Path of the file of a UF's residents in the content folder."""
    return f"uf={uf}/imunizacao-residentes-{sg_uf.lower()}_{day}.csv"


def count_by_residence(
    duck: Engine, *, dose: str, bad_keys: str, ufs: Sequence[tuple[str, str]]
) -> tuple[dict[str, int], int]:
    """Rows to publish by code of the UF of residence, and rows without one. Needs no body."""
    codes = {sg_uf: uf for uf, sg_uf in ufs}
    counts: dict[str, int] = {}
    unknown = 0
    for sg_uf, count in duck.rows("split/40_residence_counts", dose=dose, bad_keys=bad_keys):
        if sg_uf is None:
            unknown = int(count)
        elif sg_uf not in codes:
            raise ContractViolation(
                f"A dose to publish has the UF of residence {str(sg_uf)[:8]!r}, which no reference table has. Nothing was "
                "published; check the IBGE snapshot."
            )
        else:
            counts[codes[sg_uf]] = int(count)
    return counts, unknown


def resident_runs(duck: Engine, *, dose: str, bad_keys: str) -> Iterator[list[tuple[str, int, int]]]:
    """Runs of rows of the body (UF of residence, first row, rows) in the order of the residents' files, some at a time."""
    yield from duck.batches("split/30_resident_runs", size=_RUNS_AT_ONCE, dose=dose, bad_keys=bad_keys)


def cut_residents(
    body: Path,
    *,
    starts: array[int],
    runs: Iterable[Sequence[tuple[str, int, int]]],
    pieces: Path,
    day: str,
    header: str,
    ufs: Sequence[tuple[str, str]],
    expected: dict[str, int],
) -> list[CutFile]:
    """Hash the file of every UF's residents out of the sorted body, and note its pieces for `gather_residents`.

    `starts` are the offsets of the body's lines and its end. Offsets in the answer are those of the gathered file. `expected` is
    counted from another column: a UF with other rows is a `ContractViolation`.
    """
    known = dict(ufs)
    digests = {uf: hashlib.sha256(header.encode()) for uf in known}
    rows, lengths = dict.fromkeys(known, 0), dict.fromkeys(known, 0)
    with body.open("rb") as lines, pyarrow.CompressedOutputStream(str(pieces), "zstd") as noted:
        for some in runs:
            places = array("q")
            for uf, first, count in some:
                if uf not in known:
                    raise ContractViolation(
                        f"A dose to publish has the UF of residence {str(uf)[:8]!r}, which no reference table has. Nothing was "
                        "published; check the IBGE snapshot."
                    )
                offset = starts[first]
                length = starts[first + count] - offset
                for block in _read(lines.fileno(), offset, length):
                    digests[uf].update(block)
                rows[uf] += count
                lengths[uf] += length
                places.extend((offset, length))
            noted.write(places.tobytes())
    gaps = [f"UF {uf}: {rows[uf]} rows, {expected.get(uf, 0)} by sg_uf_paciente" for uf in known]
    gaps = [gap for gap, uf in zip(gaps, known, strict=True) if rows[uf] != expected.get(uf, 0)]
    if gaps:
        raise ContractViolation(
            f"The residents of {day} do not agree with the UF of residence of their doses: {'; '.join(gaps[:5])}. Nothing was "
            "published; see docs/runbook/account-gap.md."
        )
    files: list[CutFile] = []
    offset = 0
    for uf, sg_uf in ufs:
        files.append(
            CutFile(
                path=resident_path(uf, sg_uf, day),
                uf=uf,
                sg_uf=sg_uf,
                municipio="",
                rows=rows[uf],
                bytes=len(header.encode()) + lengths[uf],
                sha256=digests[uf].hexdigest(),
                offset=offset,
                length=lengths[uf],
            )
        )
        offset += lengths[uf]
    return files


def gather_residents(body: Path, *, pieces: Path, destination: Path) -> int:
    """Write the rows of all residents' files one after the other. Returns the bytes written."""
    written = 0
    with (
        body.open("rb") as lines,
        destination.open("wb") as gathered,
        pyarrow.CompressedInputStream(str(pieces), "zstd") as noted,
    ):
        while raw := noted.read(_PIECE_BYTES * _RUNS_AT_ONCE):
            places = array("q", raw)
            for offset, length in zip(places[::2], places[1::2], strict=True):
                for block in _read(lines.fileno(), offset, length):
                    written += gathered.write(block)
    return written


def _read(descriptor: int, offset: int, length: int) -> Iterator[bytes]:
    """`length` bytes from `offset` in blocks. Neighbours in a municipality are neighbours here: most reads are long and in order."""
    end = offset + length
    while offset < end:
        block = os.pread(descriptor, min(_BLOCK, end - offset), offset)
        if not block:
            raise ContractViolation("The body ends before the rows of its residents do. Clear `split` and run again.")
        yield block
        offset += len(block)
