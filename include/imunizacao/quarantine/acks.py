"""Acknowledgements: one small file per establishment that says which of its doses were not published, why, and what to correct.

Nothing clinical and nothing of a person is in them: reference day, document id, dose index, establishment, reason, rules. Written
only for a day that the rules let pass. Files are named by their content, so only new ones are written; `index.json` of the day names
them, last.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow
import pyarrow.parquet

from imunizacao.claims import keeps_out, latest_stamp
from imunizacao.errors import ContractViolation
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.models import FlattenReceipt, Receipt, RunContext, ValidateReceipt, fingerprint
from imunizacao.quarantine.ids import passable_id
from imunizacao.quarantine.reasons import REASONS, Reason, load_reasons, reason_of
from imunizacao.settings import EngineSettings
from imunizacao.storage import FileSlice, ObjectStore, file_sha256, put_receipt, read_receipt, sha256_of, swap

STAGE: Final = "acknowledge"
SCHEMA: Final = "imunizacao/acks/1"
COLUMNS: Final = (
    "dt_referencia",
    "co_cnes_estabelecimento",
    "co_documento",
    "nu_dose",
    "co_motivo",
    "ds_motivo",
    "ds_correcao",
    "co_regra",
    "co_versao_regras",
)
WITHOUT_CNES: Final = "sem-cnes"
_PUTS_AT_ONCE: Final = 8
_ROWS_AT_ONCE: Final = 8192
_CNES: Final = re.compile(r"[0-9]{7}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AckReceipt(Receipt):
    """The establishments of the day can be told."""

    index: str
    """Key of the index in the work bucket."""
    content_id: str
    files: int
    doses: int
    lines: int
    """A dose with two reasons has two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AckFile:
    """One file of the index."""

    cnes: str
    """Empty for the documents without a usable CNES."""
    path: str
    """Relative to the folder of the day."""
    doses: int
    lines: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AckIndex:
    """`v1/acks/day=D/index.json`."""

    schema: str
    day: str
    content_id: str
    extracted_at: str
    """Of the landing it was made from: an older one never replaces a newer one."""
    rules_sha256: str
    files: list[AckFile]


def index_key(day: str) -> str:
    """Key of the index of a day (`YYYY-MM-DD`) in the work bucket."""
    return f"v1/acks/day={day}/index.json"


def acknowledge_day(
    context: RunContext,
    *,
    flatten: FlattenReceipt,
    validate: ValidateReceipt,
    work: ObjectStore,
    engine: EngineSettings,
    progress: Progress = no_progress,
) -> AckReceipt:
    """Write the files of a day and, last, the index that names them. Same quarantine and same sentences, same bytes.

    A held day is a `ContractViolation`: what may still be published must not be called rejected.
    """
    if not validate.publish:
        raise ContractViolation(
            f"{context.day} is held: nobody is told of rejections before it is decided. See docs/runbook/day-held.md."
        )
    mark = fingerprint(
        STAGE,
        context.code_version,
        {
            "quarantine": validate.quarantine.sha256,
            "suites": validate.suite_sha256,
            "reasons": file_sha256(REASONS),
            "extracted_at": flatten.extracted_at,
        },
    )
    prefix = context.prefix(STAGE)
    done = read_receipt(work, prefix, AckReceipt, mark)
    if done is not None:
        log_event("acknowledge.reused", day=str(context.day), files=done.files)
        return done
    started = time.monotonic()
    notes = {rule.rule: rule.note for rule in validate.rules}
    key = index_key(str(context.day))
    folder = Path(tempfile.mkdtemp(prefix="acknowledge-", dir=engine.scratch_dir))
    try:
        source, bodies = folder / "quarantine.parquet", folder / "bodies"
        work.download(validate.quarantine.key, source, sha256=validate.quarantine.sha256)
        writer = _Writer(day=str(context.day), rules=validate.suite_sha256, table=load_reasons(), notes=notes)
        files = writer.write(source, bodies)
        stored = work.get_or_none(key)
        there = {file.path for file in _decode(stored.body, key).files} if stored is not None else set()
        _put_new(work, f"v1/acks/day={context.day}/", files, bodies, there, progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    index = AckIndex(
        schema=SCHEMA,
        day=str(context.day),
        content_id=sha256_of("".join(f"{file.path}\n" for file in files).encode())[:24],
        extracted_at=flatten.extracted_at,
        rules_sha256=validate.suite_sha256,
        files=files,
    )

    latest = latest_stamp(work)

    def decide(body: bytes | None) -> tuple[bytes | None, bool]:
        if body is not None and keeps_out(_decode(body, key).extracted_at, index.extracted_at, latest):
            return None, False
        return msgspec.json.encode(index), True

    if not swap(work, key, decide, cache_control="no-store"):
        log_event("acknowledge.superseded", day=str(context.day), run=context.run_id)
    receipt = AckReceipt(
        stage=STAGE,
        day=str(context.day),
        run_id=context.run_id,
        code_version=context.code_version,
        fingerprint=mark,
        seconds=round(time.monotonic() - started, 3),
        index=key,
        content_id=index.content_id,
        files=len(files),
        doses=sum(file.doses for file in files),
        lines=sum(file.lines for file in files),
    )
    put_receipt(work, prefix, receipt)
    log_event(
        "acknowledge.done",
        day=str(context.day),
        files=receipt.files,
        doses=receipt.doses,
        lines=receipt.lines,
        seconds=receipt.seconds,
    )
    return receipt


def read_index(work: ObjectStore, day: str) -> AckIndex | None:
    """The newest acknowledgements of a day, or None when there are none."""
    stored = work.get_or_none(index_key(day))
    return None if stored is None else _decode(stored.body, index_key(day))


def _decode(body: bytes, key: str) -> AckIndex:
    try:
        return msgspec.json.decode(body, type=AckIndex)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ContractViolation(
            f"{key} in the work bucket is not an index of acknowledgements ({error}). Delete it and clear `acknowledge`: it is written "
            "anew."
        ) from error


def _put_new(
    work: ObjectStore, folder: str, files: Sequence[AckFile], bodies: Path, there: set[str], progress: Progress
) -> None:
    """Write the files that the index does not name yet, several at once; the first error stops what has not begun."""
    offsets = accumulate((file.bytes for file in files), initial=0)
    new = [(file, offset) for file, offset in zip(files, offsets, strict=False) if file.path not in there]

    def put(file: AckFile, offset: int) -> None:
        with FileSlice(b"", bodies, offset=offset, length=file.bytes) as body:
            work.put(folder + file.path, body, sha256=file.sha256, content_type="text/csv; charset=utf-8")

    with ThreadPoolExecutor(_PUTS_AT_ONCE) as pool:
        waiting = [pool.submit(put, *each) for each in new]
        try:
            for done, future in enumerate(waiting, 1):
                future.result()
                progress("acknowledge", done, len(new))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writer:
    """Makes the files one after another into one local file."""

    day: str
    rules: str
    table: Mapping[str, Reason]
    notes: Mapping[str, str]

    def write(self, source: Path, target: Path) -> list[AckFile]:
        """Files in order of CNES, the one without CNES last; their bytes follow each other in `target`."""
        made = []
        with target.open("wb") as out:
            for cnes, doses in groupby(_doses(source), key=lambda dose: str(dose["cnes"])):
                name = WITHOUT_CNES if cnes == _LAST else f"cnes-{cnes}"
                body, count, lines = self._body("" if cnes == _LAST else cnes, doses)
                digest = sha256_of(body)
                out.write(body)
                made.append(
                    AckFile(
                        cnes="" if cnes == _LAST else cnes,
                        path=f"{name}-{digest[:12]}.csv",
                        doses=count,
                        lines=lines,
                        bytes=len(body),
                        sha256=digest,
                    )
                )
        return made

    def _body(self, cnes: str, doses: Iterable[dict[str, Any]]) -> tuple[bytes, int, int]:
        count, rows = 0, [_csv_line(COLUMNS)]
        for dose in doses:
            count += 1
            rules = [*dose["regras"], *[""] * (len(dose["motivos"]) - len(dose["regras"]))]
            for code, rule in zip(dose["motivos"], rules, strict=True):
                reason = reason_of(code, rule, table=self.table, notes=self.notes)
                rows.append(
                    _csv_line(
                        (
                            self.day,
                            cnes,
                            dose["documento"],
                            str(dose["dose"]),
                            code,
                            reason.sentence,
                            reason.correction,
                            rule,
                            self.rules,
                        )
                    )
                )
        return "".join(rows).encode(), count, len(rows) - 1


_LAST: Final = "~"
"""Sorts after every CNES."""


def _doses(source: Path) -> Iterator[dict[str, Any]]:
    """Doses in quarantine by establishment, document and dose: an order that does not depend on how the day was landed."""
    found = pyarrow.parquet.read_table(
        source, columns=["co_cnes_estabelecimento", "co_documento", "nu_dose", "ds_motivos", "ds_regras"]
    )
    cnes = [code if code and _CNES.fullmatch(code) else _LAST for code in found["co_cnes_estabelecimento"].to_pylist()]
    named = zip(found["co_documento"].to_pylist(), found["ds_motivos"].to_pylist(), strict=True)
    documents = [passable_id(document, reasons) for document, reasons in named]
    rows = pyarrow.table(
        {
            "cnes": cnes,
            "documento": pyarrow.array(documents, pyarrow.string()),
            "dose": found["nu_dose"],
            "motivos": found["ds_motivos"],
            "regras": found["ds_regras"],
            "chave": [",".join(codes) for codes in found["ds_motivos"].to_pylist()],
        }
    )
    order = [(name, "ascending") for name in ("cnes", "documento", "dose", "chave")]
    for batch in rows.sort_by(order).to_batches(_ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _csv_line(values: Iterable[str]) -> str:
    """Every value quoted, an absent one empty and unquoted, LF."""
    return ";".join('"' + value.replace('"', '""') + '"' if value else "" for value in values) + "\n"
