"""Would anything be released? The quarantined documents of a day alone, through today's flatten and row rules.

A look, not a verdict: cheap, because a day has few of them. What is published is decided by making the whole day again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow

from imunizacao.flatten import run_flatten
from imunizacao.models import RunContext
from imunizacao.pipeline import Services
from imunizacao.quarantine import QuarantinePointer, QuarantineRow, documents_of, read_rows
from imunizacao.reference import ReferenceSet, load_references
from imunizacao.settings import EngineSettings
from imunizacao.sql import open_engine
from imunizacao.validate import mark_bad_doses, rules_version

_PART_LINES: Final = 50_000
_BAD: Final = "dose_reprovada"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreCheck:
    """What the look found. Doses."""

    considered: int
    """Of documents that were landed and have one of the asked reasons."""
    released: list[QuarantineRow]

    @property
    def still(self) -> int:
        """Considered, and still bad."""
        return self.considered - len(self.released)


def precheck_day(
    context: RunContext,
    services: Services,
    pointer: QuarantinePointer,
    *,
    references: ReferenceSet,
    reasons: Sequence[str] = (),
) -> PreCheck:
    """Judge the quarantined documents of a day again (with `reasons`: those with one of them).

    Entries that were rejected before landing are not looked at: no rule and no reference makes them readable.
    """
    with downloaded(pointer, services) as dataset:
        wanted = [
            row
            for row in read_rows(dataset)
            if row.tp_objeto == "landing" and (not reasons or not set(reasons).isdisjoint(row.ds_motivos))
        ]
        same = (pointer.references, pointer.rules_sha256, pointer.code_version) == (
            references.versions,
            rules_version(services.settings.expectations),
            context.code_version,
        )
        if same or not wanted:
            return PreCheck(considered=len(wanted), released=[])
        folder = dataset.parent
        parts, origin = _write_parts(dataset, {row.line for row in wanted}, folder)
        keys = _passing(context, services, parts, references=references, folder=folder)
    passing = {(*origin[part, line], dose) for part, line, dose in keys}
    released = [row for row in wanted if (*row.line, row.nu_dose) in passing]
    return PreCheck(considered=len(wanted), released=released)


@contextmanager
def downloaded(pointer: QuarantinePointer, services: Services) -> Iterator[Path]:
    """The dataset that a pointer names, in a scratch folder of its own that goes with all that was put beside it."""
    folder = scratch(services.settings.engine)
    try:
        path = folder / "dataset.parquet"
        services.work.download(pointer.dataset.key, path, sha256=pointer.dataset.sha256)
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scratch(engine: EngineSettings) -> Path:
    """A folder that only this user can read: it gets raw documents."""
    return Path(tempfile.mkdtemp(prefix="replay-", dir=engine.scratch_dir))


def _write_parts(
    dataset: Path, lines: set[tuple[int, int]], folder: Path
) -> tuple[list[tuple[Path, int]], dict[tuple[int, int], tuple[int, int]]]:
    """Landing parts of these documents alone, with their line counts, and where each line came from."""
    origin: dict[tuple[int, int], tuple[int, int]] = {}
    parts: list[tuple[Path, int]] = []
    count, out = 0, None
    for line, document in documents_of(dataset, lines):
        if out is None:
            parts.append((folder / f"replay-{len(parts) + 1:04d}.ndjson.zst", 0))
            out, count = pyarrow.CompressedOutputStream(str(parts[-1][0]), "zstd"), 0
        out.write(document + b"\n")
        count += 1
        origin[len(parts), count] = line
        parts[-1] = (parts[-1][0], count)
        if count == _PART_LINES:
            out.close()
            out = None
    if out is not None:
        out.close()
    return parts, origin


def _passing(
    context: RunContext,
    services: Services,
    parts: Sequence[tuple[Path, int]],
    *,
    references: ReferenceSet,
    folder: Path,
) -> list[tuple[int, int, int]]:
    """Part, line and dose of what today's flatten and row rules let pass."""
    settings = services.settings
    tables = load_references(services.work, references, folder)
    with open_engine(settings.engine, folder) as duck:
        counts, _ = run_flatten(
            duck,
            parts=[path for path, _ in parts],
            lines=[lines for _, lines in parts],
            rejects=[],
            tables=tables,
            pseudonym=settings.pseudonym,
            day_start=context.day.start.isoformat(),
            day_end=context.day.end.isoformat(),
            folder=folder,
            threads=settings.engine.threads,
        )
        if not counts["candidates"]:
            return []
        dose = folder / "dose.parquet"
        mark_bad_doses(duck, dose=dose, day=context.day, table=_BAD, folder=folder, expectations=settings.expectations)
        return [(int(part), int(line), int(nth)) for part, line, nth in duck.rows("replay/10_released", dose=str(dose))]
