"""Split: one sorted body per day, and the list of cuts that makes the files of 27 UFs and of every municipality with doses.

The rows are sorted once (UF, municipality, document), written once, and cut at byte offsets while hashing. A UF's file is the
header and the rows of its municipalities one after the other. The files of residents are the same rows in another order, see
`residents.py`. Same rows in, same bytes out: the content id says so.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tempfile
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import pyarrow

from imunizacao.contract import Contract, csv_header, duckdb_types, load_contract, require_may_leave
from imunizacao.errors import ContractViolation
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.models import CutFile, CutList, FlattenReceipt, RunContext, SplitReceipt, ValidateReceipt, fingerprint
from imunizacao.reference import ReferenceSet, load_references, write_places
from imunizacao.residents import count_by_residence, cut_residents, resident_runs
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine
from imunizacao.sql.compile_csv import csv_body_copy, csv_header_copy, facts_select, plain_csv_copy
from imunizacao.storage import ObjectStore, file_ref, put_receipt, read_receipt

STAGE = "split"
_LINES_AT_ONCE = 4096
_MUNICIPIO = re.compile(r"[0-9]{6}")
"""It becomes part of a path."""
_PHYSICAL_KEY = ("nu_parte", "nu_linha", "nu_dose")
_MACROS = (
    "flatten/05_macro_cns_numero_valido",
    "flatten/05_macro_cns_valido",
    "flatten/06_macro_cpf_numero_valido",
    "flatten/06_macro_cpf_valido",
    "flatten/07_macro_numeros_agrupados",
    "flatten/08_macro_id_com_identificador",
    "flatten/12_macro_contem_identificador",
)


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
            work.download(flatten.quarantine.key, folder / "quarantine.parquet", sha256=flatten.quarantine.sha256)
            write_places(
                duck,
                work,
                day=str(context.day),
                content_id=outcome.content_id,
                quarantine=folder / "quarantine.parquet",
                folder=folder,
            )
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
            residents=file_ref(work, prefix + "residents.zst", outcome.pieces, rows=outcome.residence_known)
            if outcome.residence_known
            else None,
            residence_known=outcome.residence_known,
            residence_unknown=outcome.residence_unknown,
            content_id=outcome.content_id,
            rows=outcome.rows,
            ufs=sum(1 for file in outcome.cuts.files if not file.municipio),
            municipalities=sum(1 for file in outcome.cuts.files if file.municipio),
            removals=outcome.removals,
            neutralised=outcome.neutralised,
            blanked=outcome.blanked,
            completeness=outcome.completeness,
            identifying=outcome.identifying,
        )
        put_receipt(work, prefix, receipt)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for column, count in receipt.identifying.items():
        log_event(
            "split.identifier_left_out",
            level=logging.WARNING,
            day=str(context.day),
            column=column,
            values=count,
            runbook="docs/runbook/identifier-in-text.md",
        )
    log_event(
        "split.done",
        day=str(context.day),
        rows=receipt.rows,
        municipalities=receipt.municipalities,
        residents=receipt.residence_known,
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
    pieces: Path
    """Where the rows of residents are in the body; absent on a day without residence."""
    content_id: str
    rows: int
    residence_known: int
    residence_unknown: int
    removals: int
    neutralised: dict[str, int]
    blanked: dict[str, int]
    completeness: dict[str, int]
    identifying: dict[str, int]
    """Column → values left out because they are or contain a CNS or CPF; they are in `blanked` as well."""


class Facts(NamedTuple):
    """What `facts_select` counts of one column."""

    read: int
    filled: int
    neutralised: int
    identifying: int


def _require_no_identifier(contract: Contract, facts: Mapping[str, Facts], day: str) -> None:
    """A key that is somebody's number cannot be left out of its row: the day stops. Flatten keeps such documents back before."""
    found = [column.name for column in contract.columns if column.required and facts[column.name].identifying]
    if found:
        raise ContractViolation(
            f"Rows to publish for {day} hold a CNS or CPF in {', '.join(found)} "
            f"({', '.join(str(facts[name].identifying) for name in found)} rows). Nothing was published. Documents with such an id belong "
            "in quarantine (ID_IDENTIFIES_PERSON); see docs/dados/privacidade.md."
        )


def write_body(duck: Engine, contract: Contract, *, dose: str, bad_keys: str, body: Path, day: str) -> dict[str, Facts]:
    """Write the rows to publish in total order, after a last look at columns and values; tell what was found, by column.

    Raises `ContractViolation` for a column that is not on the allow-list of the contract's profile, and for a key with a CNS or CPF.
    """
    for name in _MACROS:
        duck.run(name)
    facts = duck.execute("split/facts", facts_select(contract), {"dose": dose, "bad_keys": bad_keys}).fetchall()[0]
    by_column = {
        column.name: Facts(*(int(count) for count in facts[4 * n : 4 * n + 4]))
        for n, column in enumerate(contract.columns)
    }
    _require_no_identifier(contract, by_column, day)
    head = body.with_name("header.csv")
    duck.execute(
        "split/header", csv_header_copy(contract), {"dose": dose, "bad_keys": bad_keys, "destination": str(head)}
    )
    require_may_leave(contract, head.read_text(encoding="utf-8"))
    duck.execute(
        "split/body",
        csv_body_copy(
            contract,
            first_by="in_co_uf_estabelecimento",
            clean=[name for name, found in by_column.items() if not found.identifying],
            kept=[name for name, found in by_column.items() if found.read == found.filled and not found.neutralised],
        ),
        {"dose": dose, "bad_keys": bad_keys, "destination": str(body)},
    )
    return by_column


def run_split(duck: Engine, *, day: str, ufs: Path, folder: Path, progress: Progress = no_progress) -> SplitOutcome:
    """Cut `dose.parquet` minus `bad_keys.parquet`, and write `removed.parquet` as CSV; all of them in `folder`."""
    contract = load_contract("dose")
    removed_contract = load_contract("removed")
    dose, bad_keys = str(folder / "dose.parquet"), str(folder / "bad_keys.parquet")
    body = folder / "body.csv"
    progress("split", 0, 4)
    require_types(duck, dose, contract)
    places = duck.rows("split/10_place_counts", dose=dose, bad_keys=bad_keys)
    uf_rows = [(str(code), str(sg)) for code, sg in duck.rows("split/20_ufs", ufs=str(ufs))]
    progress("split", 1, 4)
    by_column = write_body(duck, contract, dose=dose, bad_keys=bad_keys, body=body, day=day)
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
    starts: array[int] = array("Q")
    cuts = cut_body(
        body,
        packed=packed,
        day=day,
        header=csv_header(contract),
        ufs=uf_rows,
        places=[(str(uf), str(municipio), int(count)) for uf, municipio, count in places],
        starts=starts,
    )
    progress("split", 3, 4)
    removed_sha = hashlib.sha256(removed.read_bytes()).hexdigest()
    by_residence, unknown = count_by_residence(duck, dose=dose, bad_keys=bad_keys, ufs=uf_rows)
    pieces = folder / "residents.zst"
    if by_residence:
        cuts = replace(
            cuts,
            residents=cut_residents(
                body,
                starts=starts,
                runs=resident_runs(duck, dose=dose, bad_keys=bad_keys),
                pieces=pieces,
                day=day,
                header=csv_header(contract),
                ufs=uf_rows,
                expected=by_residence,
            ),
        )
    _require_residence(cuts, unknown=unknown, municipio=by_column["co_municipio_paciente"].filled, day=day)
    outcome = SplitOutcome(
        cuts=cuts,
        body=body,
        packed_body=packed,
        removed=removed,
        pieces=pieces,
        content_id=content_id(
            [*((file.path, file.sha256) for file in (*cuts.files, *cuts.residents)), ("removed.csv", removed_sha)]
        ),
        rows=sum(file.rows for file in cuts.files if file.municipio),
        residence_known=sum(file.rows for file in cuts.residents),
        residence_unknown=unknown,
        removals=_count_rows(removed),
        completeness={name: found.filled for name, found in by_column.items()},
        neutralised={name: found.neutralised for name, found in by_column.items() if found.neutralised},
        blanked={name: found.read - found.filled for name, found in by_column.items() if found.read > found.filled},
        identifying={name: found.identifying for name, found in by_column.items() if found.identifying},
    )
    progress("split", 4, 4)
    return outcome


def require_types(duck: Engine, dose: str, contract: Contract) -> None:
    """The table of doses has the columns of the contract, in order and of their types; the others are internal."""
    wanted = duckdb_types(contract)
    columns = duck.columns("split/05_dose", dose=dose)
    found = [column for column in columns if column[0] in wanted]
    wrong = [
        f"{name} {kind} (found {' '.join(found[at]) if at < len(found) else 'nothing'})"
        for at, (name, kind) in enumerate(wanted.items())
        if found[at : at + 1] != [(name, kind)]
    ]
    wrong += [
        f"{name} is neither published nor internal"
        for name, _ in columns
        if name not in wanted and not name.startswith("in_") and name not in _PHYSICAL_KEY
    ]
    if wrong:
        raise ContractViolation(
            f"The table of doses does not have the columns of contract {contract.name} {contract.version}: {'; '.join(wrong[:5])}. "
            "Nothing was published. Clear `flatten` and run again; if that does not help, sql/flatten/80_dose.sql and "
            f"include/contract/{contract.name}.yaml are of different versions."
        )


def _require_residence(cuts: CutList, *, unknown: int, municipio: int, day: str) -> None:
    """Σ residents of the UFs + doses without residence = rows; and as many published values of the municipality of residence."""
    rows = sum(file.rows for file in cuts.files if file.municipio)
    known = sum(file.rows for file in cuts.residents)
    if known + unknown != rows or municipio != known:
        raise ContractViolation(
            f"The account of residence of {day} does not close: {known} doses of residents + {unknown} without residence, {rows} rows, "
            f"{municipio} with a municipality of residence. Nothing was published; see docs/runbook/account-gap.md."
        )


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
    starts: array[int] | None = None,
) -> CutList:
    """Read the sorted body once: hash every file that is cut from it, and pack it for the work bucket.

    `places` are (UF, municipality, rows) in body order. One line is one row (values carry no line breaks); fewer or more lines
    than rows, a place outside the 27 UFs or a municipality of another UF are a `ContractViolation`. The offset of every line, and of
    the end, is appended to `starts`.
    """
    starts = array("Q") if starts is None else starts
    known = dict(ufs)
    if [(uf, municipio) for uf, municipio, _ in places] != sorted((uf, municipio) for uf, municipio, _ in places):
        raise ContractViolation(
            f"The places of {day} are not in the order of the body: a cut would mix municipalities."
        )
    for uf, municipio, _ in places:
        if uf not in known or not _MUNICIPIO.fullmatch(municipio) or not municipio.startswith(uf):
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
                for piece in _blocks(lines, rows):
                    starts.extend(accumulate(map(len, piece[:-1]), initial=offset))
                    block = b"".join(piece)
                    digest.update(block)
                    uf_digest.update(block)
                    archive.write(block)
                    offset += len(block)
                    read += len(piece)
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
    starts.append(offset)
    return CutList(day=day, header=header, body_bytes=offset, files=files)


def _blocks(lines: IO[bytes], rows: int) -> Iterator[list[bytes]]:
    left = rows
    while left > 0:
        block = list(islice(lines, min(left, _LINES_AT_ONCE)))
        if not block:
            return
        left -= len(block)
        yield block


def _count_rows(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for _ in lines) - 1
