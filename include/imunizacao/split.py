"""Split: one sorted body per day, and the list of cuts that makes the files of 27 UFs and of every municipality with doses.

The rows are sorted once (UF, municipality, document), written once, and cut at byte offsets while hashing. A UF's file is the
header and the rows of its municipalities one after the other. Same rows in, same bytes out: the content id says so.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import msgspec
import pyarrow

from imunizacao.contract import Contract, load_contract
from imunizacao.errors import ContractViolation
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.models import CutFile, CutList, FlattenReceipt, RunContext, SplitReceipt, ValidateReceipt, fingerprint
from imunizacao.reference import ReferenceSet, load_references
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine
from imunizacao.sql.compile_csv import csv_body_copy, facts_select, plain_csv_copy
from imunizacao.storage import ObjectStore, file_ref, put_receipt, read_receipt

STAGE = "split"
_LINES_AT_ONCE = 4096


def split_day(
    context: RunContext,
    *,
    flatten: FlattenReceipt,
    validate: ValidateReceipt,
    references: ReferenceSet,
    work: ObjectStore,
    engine: EngineSettings,
    progress: Progress = no_progress,
) -> SplitReceipt:
    """Sort, write and cut the rows that the rules let pass.

    A row of the receipt's body is one dose; Σ municipalities = UF and Σ UF = rows hold by construction and are checked.
    Raises `ContractViolation` when the rows written are not the rows that were to be published.
    """
    mark = fingerprint(
        STAGE,
        context.code_version,
        {
            "dose": flatten.dose.sha256,
            "removed": flatten.removed.sha256,
            "bad_keys": validate.bad_keys.sha256,
            "ufs": references.ufs.sha256,
        },
    )
    done = read_receipt(work, context.prefix(STAGE), SplitReceipt, mark)
    if done is not None:
        log_event("split.reused", day=str(context.day), content_id=done.content_id)
        return done
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="split-", dir=engine.scratch_dir))
    try:
        for name, ref in (("dose", flatten.dose), ("removed", flatten.removed), ("bad_keys", validate.bad_keys)):
            work.download(ref.key, folder / f"{name}.parquet", sha256=ref.sha256)
        tables = load_references(work, references, folder)
        with open_engine(engine, folder) as duck:
            outcome = run_split(duck, day=str(context.day), ufs=tables["ufs"], folder=folder, progress=progress)
        expected = flatten.candidates - validate.quarantined_by_rules
        if outcome.rows != expected:
            raise ContractViolation(
                f"{outcome.rows} rows were written for {context.day}, {expected} were to be published "
                f"({flatten.candidates} candidates − {validate.quarantined_by_rules} quarantined by rules). Nothing was "
                "published; see docs/runbook/account-gap.md."
            )
        prefix = context.prefix(STAGE)
        cuts = folder / "cuts.json"
        cuts.write_bytes(msgspec.json.encode(outcome.cuts))
        receipt = SplitReceipt(
            stage=STAGE,
            day=str(context.day),
            run_id=context.run_id,
            code_version=context.code_version,
            fingerprint=mark,
            seconds=round(time.monotonic() - started, 3),
            body=file_ref(work, prefix + "body.csv.zst", outcome.packed_body, rows=outcome.rows),
            cuts=file_ref(work, prefix + "cuts.json", cuts, rows=len(outcome.cuts.files)),
            removed=file_ref(work, prefix + "removed.csv", outcome.removed, rows=outcome.removals),
            content_id=outcome.content_id,
            rows=outcome.rows,
            ufs=sum(1 for file in outcome.cuts.files if not file.municipio),
            municipalities=sum(1 for file in outcome.cuts.files if file.municipio),
            removals=outcome.removals,
            neutralised=outcome.neutralised,
            blanked=outcome.blanked,
            completeness=outcome.completeness,
        )
        put_receipt(work, prefix, receipt)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    log_event(
        "split.done",
        day=str(context.day),
        rows=receipt.rows,
        municipalities=receipt.municipalities,
        removals=receipt.removals,
        content_id=receipt.content_id,
        seconds=receipt.seconds,
    )
    return receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOutcome:
    """What `run_split` made, in local files."""

    cuts: CutList
    body: Path
    packed_body: Path
    removed: Path
    content_id: str
    rows: int
    removals: int
    neutralised: dict[str, int]
    blanked: dict[str, int]
    completeness: dict[str, int]


def run_split(duck: Engine, *, day: str, ufs: Path, folder: Path, progress: Progress = no_progress) -> SplitOutcome:
    """Cut `dose.parquet` minus `bad_keys.parquet`, and write `removed.parquet` as CSV; all of them in `folder`."""
    contract = load_contract("dose")
    removed_contract = load_contract("removed")
    dose, bad_keys = str(folder / "dose.parquet"), str(folder / "bad_keys.parquet")
    body = folder / "body.csv"
    progress("split", 0, 4)
    places = duck.rows("split/10_place_counts", dose=dose, bad_keys=bad_keys)
    uf_rows = [(str(code), str(sg)) for code, sg in duck.rows("split/20_ufs", ufs=str(ufs))]
    facts = duck.execute("split/facts", facts_select(contract), {"dose": dose, "bad_keys": bad_keys}).fetchall()[0]
    progress("split", 1, 4)
    duck.execute(
        "split/body",
        csv_body_copy(contract, first_by="in_co_uf_estabelecimento"),
        {"dose": dose, "bad_keys": bad_keys, "destination": str(body)},
    )
    rows_removed = folder / "removed.rows.csv"
    duck.execute(
        "split/removed",
        plain_csv_copy(removed_contract),
        {"source": str(folder / "removed.parquet"), "destination": str(rows_removed)},
    )
    removed = folder / "removed.csv"
    removed.write_bytes(csv_header(removed_contract).encode() + rows_removed.read_bytes())
    progress("split", 2, 4)
    packed = folder / "body.csv.zst"
    cuts = cut_body(
        body,
        packed=packed,
        day=day,
        header=csv_header(contract),
        ufs=uf_rows,
        places=[(str(uf), str(municipio), int(count)) for uf, municipio, count in places],
    )
    progress("split", 3, 4)
    removed_sha = hashlib.sha256(removed.read_bytes()).hexdigest()
    by_column = {
        name: (int(facts[3 * n]), int(facts[3 * n + 1]), int(facts[3 * n + 2])) for n, name in enumerate(contract.names)
    }
    outcome = SplitOutcome(
        cuts=cuts,
        body=body,
        packed_body=packed,
        removed=removed,
        content_id=content_id([*((file.path, file.sha256) for file in cuts.files), ("removed.csv", removed_sha)]),
        rows=sum(file.rows for file in cuts.files if file.municipio),
        removals=_count_rows(removed),
        completeness={name: filled for name, (_, filled, _) in by_column.items()},
        neutralised={name: count for name, (_, _, count) in by_column.items() if count},
        blanked={name: read - filled for name, (read, filled, _) in by_column.items() if read > filled},
    )
    progress("split", 4, 4)
    return outcome


def csv_header(contract: Contract) -> str:
    """First line of a published file."""
    return ";".join(f'"{name}"' for name in contract.names) + "\n"


def content_id(files: Iterable[tuple[str, str]]) -> str:
    """sha256 over the sorted (path, sha256) of the CSVs and `removed.csv`: same data, same id (design: content addressing)."""
    digest = hashlib.sha256()
    for path, sha in sorted(files):
        digest.update(f"{path}\0{sha}\n".encode())
    return digest.hexdigest()


def uf_path(uf: str, sg_uf: str, day: str) -> str:
    """Path of a UF's file in the content folder."""
    return f"uf={uf}/imunizacao-total-{sg_uf.lower()}_{day}.csv"


def municipio_path(uf: str, municipio: str, day: str) -> str:
    """Path of a municipality's file in the content folder."""
    return f"uf={uf}/mun={municipio}/imunizacao-{municipio}_{day}.csv"


def cut_body(
    body: Path,
    *,
    packed: Path,
    day: str,
    header: str,
    ufs: Sequence[tuple[str, str]],
    places: Sequence[tuple[str, str, int]],
) -> CutList:
    """Read the sorted body once: hash every file that is cut from it, and pack it for the work bucket.

    `places` are (UF, municipality, rows) in body order. One line is one row (values carry no line breaks); fewer or more lines
    than rows, a place outside the 27 UFs or a municipality of another UF are a `ContractViolation`.
    """
    known = dict(ufs)
    if [(uf, municipio) for uf, municipio, _ in places] != sorted((uf, municipio) for uf, municipio, _ in places):
        raise ContractViolation(
            f"The places of {day} are not in the order of the body: a cut would mix municipalities."
        )
    for uf, municipio, _ in places:
        if uf not in known or not municipio.isascii() or len(municipio) != 6 or not municipio.startswith(uf):
            raise ContractViolation(
                f"A place to publish is UF {uf[:8]!r} with municipality {municipio[:8]!r}, which no reference table has. "
                "Nothing was published; check the IBGE and CNES snapshots."
            )
    top = header.encode()
    files: list[CutFile] = []
    offset = 0
    with body.open("rb") as lines, pyarrow.CompressedOutputStream(str(packed), "zstd") as archive:
        for uf, sg_uf in ufs:
            uf_digest, uf_start, uf_rows = hashlib.sha256(top), offset, 0
            cut: list[CutFile] = []
            for place_uf, municipio, rows in places:
                if place_uf != uf:
                    continue
                digest, start, read = hashlib.sha256(top), offset, 0
                for block, count in _blocks(lines, rows):
                    digest.update(block)
                    uf_digest.update(block)
                    archive.write(block)
                    offset += len(block)
                    read += count
                if read != rows:
                    raise ContractViolation(
                        f"The body of {day} ends after {read} of {rows} rows of municipality {municipio}."
                    )
                uf_rows += rows
                cut.append(
                    CutFile(
                        path=municipio_path(uf, municipio, day),
                        uf=uf,
                        sg_uf=sg_uf,
                        municipio=municipio,
                        rows=rows,
                        bytes=len(top) + offset - start,
                        sha256=digest.hexdigest(),
                        offset=start,
                        length=offset - start,
                    )
                )
            files.append(
                CutFile(
                    path=uf_path(uf, sg_uf, day),
                    uf=uf,
                    sg_uf=sg_uf,
                    municipio="",
                    rows=uf_rows,
                    bytes=len(top) + offset - uf_start,
                    sha256=uf_digest.hexdigest(),
                    offset=uf_start,
                    length=offset - uf_start,
                )
            )
            files.extend(cut)
        if lines.readline():
            raise ContractViolation(
                f"The body of {day} has more lines than rows: a value carries a line break. Nothing was published."
            )
    return CutList(day=day, header=header, body_bytes=offset, files=files)


def _blocks(lines: IO[bytes], rows: int) -> Iterator[tuple[bytes, int]]:
    left = rows
    while left > 0:
        block = list(islice(lines, min(left, _LINES_AT_ONCE)))
        if not block:
            return
        left -= len(block)
        yield b"".join(block), len(block)


def _count_rows(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for _ in lines) - 1
