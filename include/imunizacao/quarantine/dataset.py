"""The private dataset of a day: one row per dose in quarantine, with where it came from, why, under which rules, and the document.

Parquet named by its content, and beside it pointers: `current.json` names the newest one, of held days and of makings that nobody
published too, `published-<contentId>.json` the one of a published content: whichever the head names, now or again. Only parts of the landing that have a
quarantined line are read, line by line; what has been written is no longer in memory.
"""

from __future__ import annotations

import base64
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow
import pyarrow.parquet

from imunizacao.claims import keeps_out, latest_stamp
from imunizacao.errors import ContractViolation
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.manifests import Head
from imunizacao.models import (
    FlattenReceipt,
    LandingManifest,
    ObjectRef,
    Receipt,
    ReferenceVersions,
    RunContext,
    ValidateReceipt,
    fingerprint,
)
from imunizacao.quarantine.ids import shown_id
from imunizacao.quarantine.lines import pick_lines
from imunizacao.settings import EngineSettings
from imunizacao.storage import ObjectStore, file_sha256, put_receipt, read_object, read_receipt, swap

STAGE: Final = "quarantine"
SCHEMA: Final = "imunizacao/quarantine/1"
_RUNBOOK: Final = "docs/runbook/quarantine.md"
_ROW_GROUP_BYTES: Final = 16 << 20
_ROW_GROUP_ROWS: Final = 20_000
_ROWS_AT_ONCE: Final = 8192
_SUFFIX: Final = re.compile(r"-i[0-9]{1,3}b[0-9]{1,3}$")
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9.-]+")

_TEXT: Final = pyarrow.string()
_COLUMNS: Final = pyarrow.schema(
    [
        ("dt_referencia", _TEXT),
        ("nu_parte", pyarrow.int32()),
        ("nu_linha", pyarrow.int32()),
        ("nu_dose", pyarrow.int32()),
        ("tp_objeto", _TEXT),
        ("ds_objeto", _TEXT),
        ("co_sha256_objeto", _TEXT),
        ("nu_linha_objeto", pyarrow.int32()),
        ("co_documento", _TEXT),
        ("co_cnes_estabelecimento", _TEXT),
        ("co_uf_estabelecimento", _TEXT),
        ("ds_motivos", pyarrow.list_(_TEXT)),
        ("ds_regras", pyarrow.list_(_TEXT)),
        ("co_versao_regras", _TEXT),
        ("co_competencia_cnes", _TEXT),
        ("co_sha256_cnes", _TEXT),
        ("co_sha256_ibge", _TEXT),
        ("co_sha256_pni", _TEXT),
        ("co_versao_codigo", _TEXT),
        ("bi_documento", pyarrow.binary()),
    ]
)
"""`bi_documento` is filled in the first row of a document alone; the others have the same object and line. `nu_parte` 0 is an
entry that was rejected before landing."""
_WITHOUT_DOCUMENT: Final = [name for name in _COLUMNS.names if name != "bi_documento"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineReceipt(Receipt):
    """The quarantine of the day is in its dataset, and the pointer of the day names it."""

    dataset: ObjectRef
    """Parquet, one row per dose."""
    documents: int
    """Different documents among the rows, rejected entries included."""
    rejected: int
    parts_read: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinePointer:
    """The quarantine of one making of a day. Counts and versions, no row."""

    schema: str
    day: str
    run_id: str
    code_version: str
    extracted_at: str
    """Of the landing it was made from: an older one never replaces a newer one."""
    publish: bool
    """Whether the rules let the day pass; a held day has a quarantine too."""
    dataset: ObjectRef
    doses: int
    documents: int
    by_uf: dict[str, dict[str, int]]
    """UF code (or `00`) → reason → doses; a dose with two reasons counts under each."""
    rules_sha256: str
    references: ReferenceVersions

    @property
    def by_reason(self) -> dict[str, int]:
        """Reason → doses."""
        found: dict[str, int] = {}
        for reasons in self.by_uf.values():
            for reason, doses in reasons.items():
                found[reason] = found.get(reason, 0) + doses
        return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRow:
    """One dose in quarantine, without its document."""

    nu_parte: int
    nu_linha: int
    nu_dose: int
    tp_objeto: str
    """`landing` or `rejects`."""
    ds_objeto: str
    """Key in the work bucket."""
    co_sha256_objeto: str
    nu_linha_objeto: int
    """Line within the object, from 1."""
    co_documento: str | None
    co_cnes_estabelecimento: str | None
    co_uf_estabelecimento: str
    ds_motivos: list[str]
    ds_regras: list[str]
    """Rule of each reason; empty for structural reasons."""
    co_versao_regras: str
    co_competencia_cnes: str
    co_sha256_cnes: str
    co_sha256_ibge: str
    co_sha256_pni: str
    co_versao_codigo: str

    @property
    def identity(self) -> str:
        """What names the dose in every making of the day: its id, else where it lies."""
        return self.co_documento or f"{self.ds_objeto}:{self.nu_linha_objeto}:{self.nu_dose}"

    @property
    def shown_document(self) -> str:
        """The id as people may be shown it; empty where it says who somebody is."""
        return shown_id(self.co_documento, self.ds_motivos)

    @property
    def line(self) -> tuple[int, int]:
        """Physical key of its document."""
        return self.nu_parte, self.nu_linha


def pointer_key(day: str) -> str:
    """Key of the pointer to the newest quarantine of a day (`YYYY-MM-DD`) in the work bucket."""
    return f"v1/quarantine/day={day}/current.json"


def published_key(day: str, content_id: str) -> str:
    """Key of the pointer to the quarantine of a published content of a day."""
    return f"v1/quarantine/day={day}/published-{content_id}.json"


def quarantine_day(
    context: RunContext,
    *,
    flatten: FlattenReceipt,
    validate: ValidateReceipt,
    work: ObjectStore,
    engine: EngineSettings,
    progress: Progress = no_progress,
) -> QuarantineReceipt:
    """Write the dataset of the quarantine that `validate` found, held days too, and move the pointer to the newest.

    Raises `ContractViolation` when a row names a line that the landing does not have, or one of another document. A valid
    receipt of the same inputs is returned as it is, after the pointer was looked at.
    """
    if flatten.landing is None:
        raise ContractViolation(
            f"The receipt of flatten of {context.day} does not say which landing it read: it is of an older version. Clear `flatten` "
            "and run it again."
        )
    mark = _mark(flatten.landing, flatten=flatten, validate=validate)
    prefix = context.prefix(STAGE)
    done = read_receipt(work, prefix, QuarantineReceipt, mark)
    if done is not None and work.info(done.dataset.key) is not None:
        _move_pointer(work, context, done, flatten=flatten, validate=validate, key=pointer_key(str(context.day)))
        log_event("quarantine.reused", day=str(context.day), doses=done.dataset.rows)
        return done
    started = time.monotonic()
    manifest = read_object(work, flatten.landing, LandingManifest)
    folder = Path(tempfile.mkdtemp(prefix="quarantine-", dir=engine.scratch_dir))
    try:
        source, target = folder / "quarantine.parquet", folder / "dataset.parquet"
        work.download(validate.quarantine.key, source, sha256=validate.quarantine.sha256)
        with _Writer(target, context, flatten=flatten, validate=validate) as writer:
            landing = _Landing(work, manifest, folder)
            for part, rows in groupby(_verdicts(source), key=lambda row: int(row["nu_parte"])):
                landing.add_part(writer, part, rows)
                progress("quarantine", landing.parts_read, None)
        if writer.rows != validate.quarantined:
            raise ContractViolation(
                f"{writer.rows} doses are in the quarantine dataset of {context.day}, {validate.quarantined} were judged bad. Nothing "
                "was published; see docs/runbook/account-gap.md."
            )
        digest = file_sha256(target)
        key = f"v1/quarantine/day={context.day}/q-{digest[:24]}.parquet"
        if work.info(key) is None:
            work.put_file(key, target, sha256=digest, content_type="application/vnd.apache.parquet")
        receipt = QuarantineReceipt(
            stage=STAGE,
            day=str(context.day),
            run_id=context.run_id,
            code_version=context.code_version,
            fingerprint=mark,
            seconds=round(time.monotonic() - started, 3),
            dataset=ObjectRef(key=key, sha256=digest, bytes=target.stat().st_size, rows=writer.rows),
            documents=writer.documents,
            rejected=writer.rejected,
            parts_read=landing.parts_read,
        )
        _move_pointer(work, context, receipt, flatten=flatten, validate=validate, key=pointer_key(str(context.day)))
        put_receipt(work, prefix, receipt)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    log_event(
        "quarantine.done",
        day=str(context.day),
        doses=receipt.dataset.rows,
        documents=receipt.documents,
        rejected=receipt.rejected,
        parts_read=receipt.parts_read,
        bytes=receipt.dataset.bytes,
        seconds=receipt.seconds,
    )
    return receipt


def publish_quarantine(
    context: RunContext, *, flatten: FlattenReceipt, validate: ValidateReceipt, content_id: str, work: ObjectStore
) -> None:
    """Name the quarantine of a making in the pointer of its content, after the head has moved to that content.

    Raises `ContractViolation` when the run has left no quarantine of it.
    """
    done = None
    if flatten.landing is not None:
        mark = _mark(flatten.landing, flatten=flatten, validate=validate)
        done = read_receipt(work, context.prefix(STAGE), QuarantineReceipt, mark)
    if done is None:
        raise ContractViolation(
            f"{context.day} is published, and its run has left no quarantine of it: a replay would not see what readers lack. Clear "
            f"`validate` and run it again; see {_RUNBOOK}."
        )
    key = published_key(str(context.day), content_id)
    _move_pointer(work, context, done, flatten=flatten, validate=validate, key=key)


def read_published(work: ObjectStore, day: str, head: Head | None) -> QuarantinePointer | None:
    """The quarantine of the content that the head of a day names, also when it was led back to it; the newest one where there is none."""
    if head is None or head.current is None:
        return read_pointer(work, day)
    key = published_key(day, head.current.content_id)
    stored = work.get_or_none(key)
    return read_pointer(work, day) if stored is None else _decode(stored.body, key)


def read_pointer(work: ObjectStore, day: str) -> QuarantinePointer | None:
    """The newest quarantine of a day, or None when no run has judged the day yet."""
    stored = work.get_or_none(pointer_key(day))
    return None if stored is None else _decode(stored.body, pointer_key(day))


def read_rows(path: Path) -> Iterator[QuarantineRow]:
    """Rows of a downloaded dataset in order of landing, without the documents."""
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=_WITHOUT_DOCUMENT):
            for row in batch.to_pylist():
                del row["dt_referencia"]
                yield QuarantineRow(**row)


def documents_of(path: Path, lines: set[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Physical key and raw bytes of chosen documents of a downloaded dataset, in order of landing."""
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(64, columns=["nu_parte", "nu_linha", "bi_documento"]):
            for row in batch.to_pylist():
                line = (row["nu_parte"], row["nu_linha"])
                if row["bi_documento"] is not None and line in lines:
                    yield line, row["bi_documento"]


def raw_document(path: Path, line: tuple[int, int]) -> bytes:
    """The document at a physical key as the mirror served it (of a rejected entry: what was kept)."""
    for _, document in documents_of(path, {line}):
        return document
    raise ContractViolation(
        f"The quarantine dataset has no document at part {line[0]}, line {line[1]}: the object was changed. See {_RUNBOOK}."
    )


def _mark(landing: ObjectRef, *, flatten: FlattenReceipt, validate: ValidateReceipt) -> str:
    return fingerprint(
        STAGE,
        validate.code_version,
        {
            "quarantine": validate.quarantine.sha256,
            "landing": landing.sha256,
            "references": repr(flatten.references),
            "suites": validate.suite_sha256,
        },
    )


def _decode(body: bytes, key: str) -> QuarantinePointer:
    try:
        return msgspec.json.decode(body, type=QuarantinePointer)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ContractViolation(
            f"{key} in the work bucket is not a pointer of a quarantine ({error}). Run the day again: it is written anew. See {_RUNBOOK}."
        ) from error


def _move_pointer(
    work: ObjectStore,
    context: RunContext,
    receipt: QuarantineReceipt,
    *,
    flatten: FlattenReceipt,
    validate: ValidateReceipt,
    key: str,
) -> None:
    """Name the dataset in a pointer of the day, unless that names one of a newer landing."""
    pointer = QuarantinePointer(
        schema=SCHEMA,
        day=str(context.day),
        run_id=context.run_id,
        code_version=context.code_version,
        extracted_at=flatten.extracted_at,
        publish=validate.publish,
        dataset=receipt.dataset,
        doses=receipt.dataset.rows,
        documents=receipt.documents,
        by_uf={uf: dict(sorted(reasons.items())) for uf, reasons in sorted(validate.quarantined_by_uf.items())},
        rules_sha256=validate.suite_sha256,
        references=flatten.references,
    )

    latest = latest_stamp(work)

    def decide(body: bytes | None) -> tuple[bytes | None, bool]:
        if body is not None and keeps_out(_decode(body, key).extracted_at, pointer.extracted_at, latest):
            return None, False
        return msgspec.json.encode(pointer), True

    if not swap(work, key, decide, cache_control="no-store"):
        log_event("quarantine.superseded", day=str(context.day), run=context.run_id, pointer=key.rpartition("/")[2])


def _verdicts(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of the quarantine of `validate`, which come in order of their physical key."""
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            yield from batch.to_pylist()


class _Landing:
    """The landing of a day by part number, as flatten counts them."""

    def __init__(self, work: ObjectStore, manifest: LandingManifest, folder: Path) -> None:
        self._work = work
        self._folder = folder
        self._parts = [part for piece in manifest.slices for part in piece.parts]
        self._rejects = [(piece.rejects, piece.rejected) for piece in manifest.slices if piece.rejects is not None]
        self.parts_read = 0

    def add_part(self, writer: _Writer, part: int, rows: Iterable[dict[str, Any]]) -> None:
        """Hand the rows of one part to the writer, each with its place and its document."""
        if part == 0:
            self._add_rejects(writer, list(rows))
            return
        if part > len(self._parts):
            raise ContractViolation(
                f"The quarantine names part {part} of a landing of {len(self._parts)} parts. Nothing was published. Clear `flatten` and "
                "run the day again; see docs/runbook/account-gap.md."
            )
        ref = self._parts[part - 1]
        by_line = [(line, list(same)) for line, same in groupby(rows, key=lambda row: int(row["nu_linha"]))]
        with self._local(ref) as path:
            found = pick_lines(path, [line for line, _ in by_line])
            for (line, same), (_, document) in zip(by_line, found, strict=True):
                _require_same_document(same[0]["co_documento"], document, part=part, line=line)
                writer.add(same, kind="landing", ref=ref, line=line, document=document)

    def _add_rejects(self, writer: _Writer, rows: Sequence[dict[str, Any]]) -> None:
        first = 1
        for ref, count in self._rejects:
            here = {
                int(row["nu_linha"]) - first + 1: row for row in rows if first <= int(row["nu_linha"]) < first + count
            }
            first += count
            if not here:
                continue
            with self._local(ref) as path:
                for line, record in pick_lines(path, sorted(here)):
                    kept = msgspec.json.decode(record, type=_Kept)
                    document = base64.b64decode(kept.body_base64)
                    writer.add([here[line]], kind="rejects", ref=ref, line=line, document=document)

    def _local(self, ref: ObjectRef) -> _Downloaded:
        self.parts_read += 1
        return _Downloaded(self._work, ref, self._folder / Path(ref.key).name)


class _Kept(msgspec.Struct):
    """What landing keeps of a rejected entry; see `fhir.pages.reject_record`."""

    body_base64: str


@dataclass(slots=True)
class _Downloaded:
    """An object on local disk for the time of a block."""

    work: ObjectStore
    ref: ObjectRef
    path: Path

    def __enter__(self) -> Path:
        self.work.download(self.ref.key, self.path, sha256=self.ref.sha256)
        return self.path

    def __exit__(self, *error: object) -> None:
        self.path.unlink(missing_ok=True)


@dataclass(slots=True)
class _Writer:
    """Writes rows in the order in which they come; a row group is written as soon as it has 16 MB of documents."""

    path: Path
    context: RunContext
    flatten: FlattenReceipt = field(kw_only=True)
    validate: ValidateReceipt = field(kw_only=True)
    rows: int = 0
    documents: int = 0
    rejected: int = 0
    _held: list[dict[str, Any]] = field(default_factory=list)
    _bytes: int = 0
    _file: Any = None

    def __enter__(self) -> _Writer:
        self._file = pyarrow.parquet.ParquetWriter(self.path, _COLUMNS, compression="zstd", use_dictionary=_DICTIONARY)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self._flush()
        self._file.close()

    def add(self, doses: Sequence[dict[str, Any]], *, kind: str, ref: ObjectRef, line: int, document: bytes) -> None:
        """Take the doses of one document."""
        versions = self.flatten.references
        for place, dose in enumerate(doses):
            uf = dose["in_co_uf_estabelecimento"]
            self._held.append(
                {
                    "dt_referencia": str(self.context.day),
                    "nu_parte": dose["nu_parte"],
                    "nu_linha": dose["nu_linha"],
                    "nu_dose": dose["nu_dose"],
                    "tp_objeto": kind,
                    "ds_objeto": ref.key,
                    "co_sha256_objeto": ref.sha256,
                    "nu_linha_objeto": line,
                    "co_documento": dose["co_documento"],
                    "co_cnes_estabelecimento": dose["co_cnes_estabelecimento"],
                    "co_uf_estabelecimento": uf if uf and re.fullmatch(r"[1-5][0-9]", uf) else "00",
                    "ds_motivos": dose["ds_motivos"],
                    "ds_regras": dose["ds_regras"],
                    "co_versao_regras": self.validate.suite_sha256,
                    "co_competencia_cnes": versions.cnes_competencia,
                    "co_sha256_cnes": versions.cnes_sha256,
                    "co_sha256_ibge": versions.ibge_sha256,
                    "co_sha256_pni": versions.pni_sha256,
                    "co_versao_codigo": self.flatten.code_version,
                    # A document of a thousand doses is kept once.
                    "bi_documento": document if place == 0 else None,
                }
            )
        self.rows += len(doses)
        self.documents += 1
        self.rejected += kind == "rejects"
        self._bytes += len(document)
        if self._bytes >= _ROW_GROUP_BYTES or len(self._held) >= _ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._file.write_table(pyarrow.Table.from_pylist(self._held, schema=_COLUMNS))
        self._held.clear()
        self._bytes = 0


_DICTIONARY: Final = [
    name for name in _COLUMNS.names if name.startswith(("dt_", "tp_", "ds_objeto", "co_")) and name != "co_documento"
]


def _require_same_document(co_documento: str | None, document: bytes, *, part: int, line: int) -> None:
    """A line of another document than the quarantine names would put one patient's document under another's reasons."""
    base = _SUFFIX.sub("", co_documento or "")
    # An escaped id is compared by nobody: it cannot be found as it stands.
    if _PLAIN_ID.fullmatch(base) and b"\\u" not in document and base.encode() not in document:
        raise ContractViolation(
            f"Line {line} of part {part} of the landing is another document than the quarantine names. Nothing was published. Clear "
            "`flatten` and run the day again; see docs/runbook/account-gap.md."
        )
