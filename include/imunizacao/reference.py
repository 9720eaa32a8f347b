"""Reference tables by version: establishments (CNES), places (IBGE) and code tables (PNI).

The CNES comes as the official monthly file, is kept in PostgreSQL one snapshot per file and never changed. For a run, the
chosen snapshot and the small tables of the project are exported to the work bucket as Parquet under keys that name their
content, so that every stage on every worker reads the same bytes.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import logging
import re
import shutil
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final, Self, cast

import msgspec

from imunizacao.controle import (
    CnesDifference,
    Connection,
    Snapshot,
    compare_cnes,
    newest_cnes,
    record_snapshot,
    store_cnes,
    write_cnes,
)
from imunizacao.errors import ConfigurationError, ContractViolation, StorageUnavailable
from imunizacao.events import log_event
from imunizacao.models import ObjectRef, ReferenceVersions
from imunizacao.paths import REFERENCE, SQL
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine
from imunizacao.storage import ObjectStore, PreconditionLost, file_sha256

CNES_COLUMNS: Final = (
    "CO_UNIDADE",
    "CO_CNES",
    "NO_RAZAO_SOCIAL",
    "NO_FANTASIA",
    "TP_UNIDADE",
    "CO_MUNICIPIO_GESTOR",
    "CO_MOTIVO_DESAB",
    "CO_NATUREZA_JUR",
)
"""The only columns of the official file that are read; the others, CPF among them, are skipped before anything is written."""

IBGE_MUNICIPALITIES: Final = 5571
"""Units in force since 2025-01-01 (IBGE, DTB 2024 and 2025): Boa Esperança do Norte/MT was the last one added."""
IBGE_UFS: Final = 27

PNI_CODE_WIDTHS: Final[Mapping[str, frozenset[int]]] = {
    "etnia_indigena": frozenset({4}),
    "grupo_atendimento": frozenset({2, 6}),
    "origem_registro": frozenset({2}),
    "raca_cor": frozenset({2}),
    "tipo_estabelecimento": frozenset({2}),
}
"""Tables whose codes have leading zeros, and the widths of their CodeSystems: a spreadsheet that saved them would show here."""

SHRINK_LIMIT: Final = 0.05
"""Share of establishments that a snapshot may lose against the one before it."""
UNREADABLE_LIMIT: Final = 0.001
"""Share of lines that may be malformed; they are counted, and a document that names a lost CNES waits in quarantine."""
WITHOUT_MUNICIPIO_LIMIT: Final = 0.05
"""Share of establishments without a known municipality above which the layout must have changed (0 in 10,000 are usual)."""

_MEMBER = re.compile(r"(?:.*/)?tbEstabelecimento(?P<competencia>[0-9]{6})\.csv", re.IGNORECASE)
_COMPETENCIA_IN_NAME = re.compile(r"(?<![0-9])(?P<competencia>[0-9]{6})(?=\.(?:zip|csv)$)", re.IGNORECASE)
_COMPETENCIA = re.compile(r"[12][0-9]{3}(?:0[1-9]|1[0-2])")
_MEMBER_LIMIT = 4 << 30
_BLOCK = 1 << 20
_ASCII = bytes(range(128))
_C1 = frozenset(range(0x80, 0xA0))
_NOT_IN_CP1252 = frozenset({0x81, 0x8D, 0x8F, 0x90, 0x9D})
_UTF8_PAIR = re.compile(rb"[\xc2\xc3][\x80-\xbf]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CnesImport:
    """What an import of the CNES found. Counts are establishments unless said otherwise."""

    competencia: str
    """`AAAAMM`."""
    sha256: str
    """Of the file as received."""
    origin: str
    encoding: str
    """`utf-8`, `cp1252` or `latin-1`, as detected."""
    lines: int
    """Records of the file, the header and unreadable ones not counted."""
    unreadable: int
    """Lines of text that are no record of the layout."""
    without_cnes: int
    """Records whose CO_CNES is not 1 to 7 digits."""
    duplicates: int
    """Records that repeat a CNES."""
    rows: int
    active: int
    without_municipality: int
    municipality_of_manager: int
    """Placed by CO_MUNICIPIO_GESTOR because CO_UNIDADE names no known municipality."""
    by_uf: dict[str, int]
    stored: bool = False
    """False without a connection, and for a file that was imported before."""
    previous: str | None = None
    """Competência of the snapshot compared with."""
    difference: CnesDifference | None = None
    """Against `previous`; None where nothing new was stored or nothing came before."""
    seconds: float = 0.0

    def to_json(self) -> str:
        """Text for logs and XCom."""
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSet:
    """The reference tables of a run: which versions, and where their Parquet files are in the work bucket."""

    versions: ReferenceVersions
    cnes: ObjectRef
    municipios: ObjectRef
    ufs: ObjectRef
    pni: dict[str, ObjectRef]
    """Table name without `pni_` → file."""

    def to_json(self) -> str:
        """Text for XCom: locations, counts and hashes only."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote; anything else is a `ContractViolation`."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise ContractViolation(
                f"A set of references cannot be read ({error}). Clear `resolve_day` and run it again."
            ) from error


def import_cnes(
    source: Path | bytes,
    connection: Connection | None = None,
    *,
    force: bool = False,
    competencia: str = "",
    file_name: str = "",
    engine: EngineSettings | None = None,
) -> CnesImport:
    """Read an official CNES file (zip or `tbEstabelecimentoAAAAMM.csv`) and store it as a snapshot of `controle`.

    Without a connection the file is only checked. Columns are found by name. The competência comes from the names of
    member and file; give it where they carry none. A file that is not what it should be (columns or UFs missing, more than
    5 % fewer establishments than the snapshot before, too many malformed or unplaced lines) is a `ContractViolation` and
    nothing is stored; `force` accepts everything but missing columns and an empty file. A file that was imported before is
    found, not stored again.
    """
    started = time.monotonic()
    with _scratch(engine) as (settings, folder):
        path, name = _local(source, file_name, folder)
        with open_engine(settings, folder) as duck:
            found = _read_cnes(duck, path, name, competencia=competencia, folder=folder)
            previous = newest_cnes(connection, until=found.competencia) if connection is not None else None
            _guard(found, previous, force=force)
            if connection is not None:
                rows = folder / "cnes_rows.csv"
                duck.run("reference/50_cnes_rows", destination=str(rows))
                found = _store(connection, found, previous, rows)
    done = replace(found, seconds=round(time.monotonic() - started, 3))
    log_event(
        "reference.cnes_imported",
        competencia=done.competencia,
        sha256=done.sha256[:12],
        encoding=done.encoding,
        rows=done.rows,
        active=done.active,
        without_municipality=done.without_municipality,
        duplicates=done.duplicates,
        unreadable=done.unreadable,
        stored=done.stored,
        seconds=done.seconds,
    )
    return done


def export_references(
    work: ObjectStore,
    connection: Connection | None = None,
    *,
    cnes: str = "newest",
    source: Path | None = None,
    engine: EngineSettings | None = None,
) -> ReferenceSet:
    """Put the reference tables of a run into the work bucket, or find them there, and tell where they are.

    With a connection the CNES is the newest stored snapshot, or the newest of competência `cnes`; without one it is read
    from `source`, by default the newest file in `include/reference/cnes`. Keys name the content and objects are only ever
    created: an export that is there is used as it is, and two runs at once agree. A competência that is not to be had is a
    `ConfigurationError`; IBGE or PNI tables that are not whole are a `ContractViolation`.
    """
    if cnes != "newest" and not _COMPETENCIA.fullmatch(cnes):
        raise ConfigurationError(
            f"CNES snapshot {cnes!r} is neither `newest` nor a competência AAAAMM, for example 202602."
        )
    ibge_sha256, pni_sha256 = _files_sha256(_ibge_files()), _files_sha256(_pni_files())
    rules = _import_rules()
    with _scratch(engine) as (settings, folder):
        if connection is not None:
            snapshot = _stored_snapshot(connection, cnes)
        else:
            source = source or _shipped_cnes(cnes)
            competencia = _competencia_of(source, cnes)
            snapshot = Snapshot(
                kind="cnes",
                version=competencia,
                sha256=file_sha256(source),
                import_rules=rules,
                origin=source.name,
                rows=0,
                rows_active=0,
            )

        def make_cnes(duck: Engine) -> dict[str, Path]:
            if connection is not None:
                rows = folder / "cnes_stored.csv"
                write_cnes(connection, snapshot, rows)
                duck.run("reference/51_int_cnes_stored", source=str(rows))
            else:
                found = _read_cnes(duck, cast(Path, source), "", competencia=snapshot.version, folder=folder)
                _guard(found, None, force=False)
            path = folder / "cnes.parquet"
            duck.run("reference/60_cnes", destination=str(path))
            return {"cnes": path}

        def make_ibge(duck: Engine) -> dict[str, Path]:
            require_ibge()
            made = {"municipios": folder / "municipios.parquet", "ufs": folder / "ufs.parquet"}
            duck.run(
                "reference/70_municipios",
                source=str(REFERENCE / "ibge" / "ibge_municipios.csv"),
                destination=str(made["municipios"]),
            )
            duck.run(
                "reference/71_ufs",
                source=str(REFERENCE / "ibge" / "ibge_ufs.csv"),
                destination=str(made["ufs"]),
            )
            return made

        def make_pni(duck: Engine) -> dict[str, Path]:
            require_pni()
            made = {}
            for path in _pni_files():
                made[_pni_name(path)] = folder / f"{path.stem}.parquet"
                duck.run("reference/80_pni", source=str(path), destination=str(made[_pni_name(path)]))
            return made

        key = _content_id(snapshot.sha256, snapshot.import_rules)
        export = _Exporter(work=work, settings=settings, folder=folder)
        cnes_refs = export.run(f"v1/references/cnes/{snapshot.version}-{key}/", make_cnes)
        ibge_refs = export.run(f"v1/references/ibge/{_content_id(ibge_sha256, rules)}/", make_ibge)
        pni_refs = export.run(f"v1/references/pni/{_content_id(pni_sha256, rules)}/", make_pni)
    if connection is not None:
        _note_small_tables(connection, ibge_sha256, pni_sha256, rules, ibge_refs, pni_refs)
        if snapshot.import_rules != rules:
            log_event(
                "reference.cnes_of_other_rules",
                level=logging.WARNING,
                competencia=snapshot.version,
                sha256=snapshot.sha256[:12],
            )
    references = ReferenceSet(
        versions=ReferenceVersions(
            cnes_competencia=snapshot.version,
            cnes_sha256=snapshot.sha256,
            ibge_sha256=ibge_sha256,
            pni_sha256=pni_sha256,
        ),
        cnes=cnes_refs["cnes"],
        municipios=ibge_refs["municipios"],
        ufs=ibge_refs["ufs"],
        pni=pni_refs,
    )
    log_event("reference.exported", cnes=snapshot.version, rows=references.cnes.rows, sha256=snapshot.sha256[:12])
    return references


def load_references(work: ObjectStore, refs: ReferenceSet, folder: Path) -> dict[str, Path]:
    """Download the tables of a run into `folder/references` and return name → Parquet file.

    Names: `cnes`, `municipios`, `ufs` and the PNI tables without `pni_`. Other bytes than those that `refs` names are a
    `ContractViolation`.
    """
    target = folder / "references"
    target.mkdir(exist_ok=True)
    tables = {**refs.pni, "cnes": refs.cnes, "municipios": refs.municipios, "ufs": refs.ufs}
    paths = {}
    for name, ref in tables.items():
        paths[name] = target / f"{name}.parquet"
        work.download(ref.key, paths[name], sha256=ref.sha256)
    return paths


def require_ibge(folder: Path = REFERENCE / "ibge") -> None:
    """Refuse IBGE tables that are not the 5,571 units of 27 UFs with the right check digits: a `ContractViolation`.

    Check digit: weights 1,2,1,2,1,2, digits of each product summed, complement of ten. Nine official codes break the rule;
    they are listed in `ibge_excecoes_dv.csv`.
    """
    municipalities = _read_table(folder / "ibge_municipios.csv")
    ufs = {row["co_uf"]: row for row in _read_table(folder / "ibge_ufs.csv")}
    exceptions = {row["co_ibge_7"] for row in _read_table(folder / "ibge_excecoes_dv.csv")}
    faults = []
    if len(municipalities) != IBGE_MUNICIPALITIES:
        faults.append(f"{len(municipalities)} municipalities, expected {IBGE_MUNICIPALITIES}")
    if len(ufs) != IBGE_UFS:
        faults.append(f"{len(ufs)} UFs, expected {IBGE_UFS}")
    for length, name in ((6, "co_ibge_6"), (7, "co_ibge_7")):
        codes = [row[name] for row in municipalities]
        malformed = [code for code in codes if not re.fullmatch(rf"[0-9]{{{length}}}", code)]
        repeated = [code for code, count in Counter(codes).items() if count > 1]
        if malformed:
            faults.append(f"{name} without {length} digits: {_some(malformed)}")
        if repeated:
            faults.append(f"{name} repeated: {_some(repeated)}")
    if not faults:
        faults += _ibge_disagreements(municipalities, ufs, exceptions)
    if faults:
        raise ContractViolation(
            "The IBGE tables are not whole: "
            + "; ".join(faults)
            + ". Nothing was exported. Restore the files named in "
            "include/reference/SOURCES.md."
        )


def require_pni(folder: Path = REFERENCE / "pni") -> None:
    """Refuse PNI tables with repeated, blank or padded codes, or with codes that lost their zeros: a `ContractViolation`."""
    faults = []
    paths = sorted(folder.glob("pni_*.csv"))
    if not paths:
        faults.append(f"no pni_*.csv in {folder.name}/")
    for path in paths:
        rows = _read_table(path)
        if not rows:
            faults.append(f"{path.name} is empty")
            continue
        key = next(iter(rows[0]))
        codes = [row[key] for row in rows]
        blank = [code for code in codes if not code or code != code.strip()]
        repeated = [code for code, count in Counter(codes).items() if count > 1]
        widths = PNI_CODE_WIDTHS.get(_pni_name(path))
        if blank:
            faults.append(f"{path.name} has {len(blank)} blank or padded {key}")
        if repeated:
            faults.append(f"{path.name} repeats {key} {_some(repeated)}")
        if widths and (short := [code for code in codes if len(code) not in widths]):
            faults.append(
                f"{path.name} has {key} {_some(short)}, expected {sorted(widths)} characters (leading zeros lost?)"
            )
    if faults:
        raise ContractViolation(
            "The PNI tables are not whole: " + "; ".join(faults) + ". Nothing was exported. Restore the files named in "
            "include/reference/SOURCES.md."
        )


def ibge_check_digit(code6: str) -> str:
    """Check digit of a municipality code by the rule that all but nine official codes keep."""
    products = [int(digit) * weight for digit, weight in zip(code6, (1, 2, 1, 2, 1, 2), strict=True)]
    return str(-sum(product // 10 + product % 10 for product in products) % 10)


# Reading the official CNES file


def _read_cnes(duck: Engine, path: Path, name: str, *, competencia: str, folder: Path) -> CnesImport:
    """Leave the establishments of the file in the table `int_cnes` and tell what was found."""
    name = name or path.name
    sha256 = file_sha256(path)
    content = _content(path, name, competencia)
    projected = folder / "cnes_columns.csv"
    try:
        encoding = _detect_encoding(content.open)
        read = _project(content.open, encoding, projected)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ContractViolation(
            f"CNES file {name} is damaged or not a plain zip ({type(error).__name__}). Nothing was stored. Download it again "
            "and compare its size with the server's."
        ) from error
    except OSError as error:
        raise StorageUnavailable(
            f"CNES file {name} cannot be read or its columns cannot be written to scratch disk ({type(error).__name__}). "
            "Check the file and free disk (IMUNIZACAO_SCRATCH_DIR), then run again."
        ) from error
    duck.run("reference/10_raw_cnes", source=str(projected))
    projected.unlink()
    duck.run("reference/11_raw_municipio", municipios=str(REFERENCE / "ibge" / "ibge_municipios.csv"))
    duck.run("reference/20_stg_cnes")
    duck.run("reference/30_int_cnes")
    lines, without_cnes, duplicates, rows, active, without_municipality, of_manager = duck.row(
        "reference/40_cnes_counts"
    )
    if lines != read.records:
        raise ContractViolation(
            f"{read.records} records of {name} were written and {lines} read back. Nothing was stored."
        )
    return CnesImport(
        competencia=content.competencia,
        sha256=sha256,
        origin=name,
        encoding=encoding,
        lines=lines,
        unreadable=read.unreadable,
        without_cnes=without_cnes,
        duplicates=duplicates,
        rows=rows,
        active=active,
        without_municipality=without_municipality,
        municipality_of_manager=of_manager,
        by_uf={str(uf): int(count) for uf, count in duck.rows("reference/41_cnes_by_uf")},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    competencia: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def _content(path: Path, name: str, competencia: str) -> _Content:
    """The table inside the file, and its competência."""
    if competencia and not _COMPETENCIA.fullmatch(competencia):
        raise ConfigurationError(f"Competência {competencia!r} is not AAAAMM, for example 202602.")
    in_name = _COMPETENCIA_IN_NAME.search(name)
    named = {competencia, in_name["competencia"] if in_name else ""} - {""}
    try:
        zipped = zipfile.is_zipfile(path)
        members = _members(path) if zipped else []
    except zipfile.BadZipFile as error:
        raise ContractViolation(f"CNES file {name} is a damaged zip. Download it again.") from error
    except OSError as error:
        raise ConfigurationError(
            f"CNES file {name} cannot be opened ({type(error).__name__}). Check its path."
        ) from error
    if zipped:
        chosen = [member for member in members if not competencia or _member_competencia(member) == competencia]
        if len(chosen) != 1:
            raise ContractViolation(
                f"CNES file {name} has {len(chosen)} members tbEstabelecimentoAAAAMM.csv{' of ' + competencia if competencia else ''}, "
                "expected one. Use BASE_DE_DADOS_CNES_AAAAMM.ZIP of the DATASUS."
            )
        member = chosen[0]
        if member.file_size > _MEMBER_LIMIT:
            raise ContractViolation(
                f"Member {member.filename} of {name} announces {member.file_size} bytes, at most {_MEMBER_LIMIT} are read."
            )
        named.add(_member_competencia(member))
    if len(named) != 1 or not _COMPETENCIA.fullmatch(next(iter(named))):
        raise ContractViolation(
            f"The competência of CNES file {name} is {' or '.join(sorted(named)) or 'not in its name'}, expected one AAAAMM. "
            "Keep the official name of the file, or say which competência it is."
        )
    return _Content(
        competencia=next(iter(named)),
        open=(lambda: _open_member(path, member.filename)) if zipped else (lambda: path.open("rb")),
    )


def _members(path: Path) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(path) as archive:
        return [member for member in archive.infolist() if _MEMBER.fullmatch(member.filename)]


def _member_competencia(member: zipfile.ZipInfo) -> str:
    match = _MEMBER.fullmatch(member.filename)
    return match["competencia"] if match else ""


@contextmanager
def _open_member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as member:
        yield member


def _detect_encoding(open_content: Callable[[], AbstractContextManager[IO[bytes]]]) -> str:
    """`utf-8` when the whole file is; else `cp1252` or `latin-1` by the bytes 0x80–0x9F. A mixture is refused."""
    decoder: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
    high: Counter[int] = Counter()
    pairs = 0
    with open_content() as content:
        while block := content.read(_BLOCK):
            if decoder is not None:
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    decoder = None
            high.update(block.translate(None, _ASCII))
            pairs += len(_UTF8_PAIR.findall(block))
    if decoder is not None:
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            decoder = None
    if decoder is not None:
        return "utf-8"
    if 2 * pairs > high.total() / 2:
        raise ContractViolation(
            f"The CNES file mixes encodings: {pairs} letters are UTF-8, and other bytes are not. Nothing was stored. "
            "Use the file as the DATASUS publishes it, not one that was edited or joined."
        )
    seen = frozenset(high)
    return "cp1252" if seen & _C1 and not seen & _NOT_IN_CP1252 else "latin-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Projection:
    records: int
    unreadable: int


def _project(open_content: Callable[[], AbstractContextManager[IO[bytes]]], encoding: str, target: Path) -> _Projection:
    """Write the needed columns, in our order, as UTF-8. All other columns end here, unread."""
    records = unreadable = 0
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    with (
        open_content() as content,
        io.TextIOWrapper(content, encoding=codec, newline="") as text,
        target.open("w", encoding="utf-8", newline="") as out,
    ):
        reader = csv.reader(text, delimiter=";", strict=True)
        header = [column.strip().upper() for column in next(reader, [])]
        missing = [column for column in CNES_COLUMNS if header.count(column) != 1]
        if missing:
            raise ContractViolation(
                f"The CNES file lacks (or repeats) {', '.join(missing)}; it has {len(header)} columns. Nothing was stored. "
                "Expected: tbEstabelecimentoAAAAMM.csv of the monthly base, `;` between columns, names in the first line."
            )
        positions = [header.index(column) for column in CNES_COLUMNS]
        writer = csv.writer(out, delimiter=";", quoting=csv.QUOTE_ALL, lineterminator="\n")
        line = reader.line_num
        while True:
            try:
                row = next(reader, None)
            except csv.Error:
                row = ["unreadable"]
            if row is None:
                break
            if len(row) == len(header):
                records += 1
                writer.writerow([row[position] for position in positions])
            elif row:  # a blank line is nothing
                unreadable += reader.line_num - line
            line = reader.line_num
    return _Projection(records=records, unreadable=unreadable)


def _guard(found: CnesImport, previous: Snapshot | None, *, force: bool) -> None:
    """Refuse a file that would send good doses to quarantine."""
    if not found.rows:
        raise ContractViolation(f"CNES file {found.origin} has no establishment. Nothing was stored.")
    faults = []
    absent = sorted(_ufs() - set(found.by_uf))
    if absent:
        faults.append(f"no establishment in UF {', '.join(absent)}")
    bad = found.unreadable + found.without_cnes
    if bad > UNREADABLE_LIMIT * (found.lines + found.unreadable):
        faults.append(
            f"{found.unreadable} unreadable lines and {found.without_cnes} records without CNES in {found.lines}"
        )
    if found.without_municipality > WITHOUT_MUNICIPIO_LIMIT * found.rows:
        faults.append(f"{found.without_municipality} of {found.rows} establishments in no known municipality")
    if previous is not None and found.rows < (1 - SHRINK_LIMIT) * previous.rows:
        faults.append(f"{found.rows} establishments, snapshot {previous.version} had {previous.rows}")
    if not faults:
        return
    if not force:
        raise ContractViolation(
            f"CNES {found.competencia} ({found.origin}) does not look like the whole country: {'; '.join(faults)}. Nothing was "
            "stored, the snapshots that are there stay in use. See docs/runbook/cnes-import.md; `force` accepts it as it is."
        )
    log_event("reference.cnes_forced", level=logging.WARNING, competencia=found.competencia, faults="; ".join(faults))


def _store(connection: Connection, found: CnesImport, previous: Snapshot | None, rows: Path) -> CnesImport:
    snapshot, created = store_cnes(
        connection,
        Snapshot(
            kind="cnes",
            version=found.competencia,
            sha256=found.sha256,
            import_rules=_import_rules(),
            origin=found.origin,
            rows=found.rows,
            rows_active=found.active,
        ),
        rows,
    )
    if not created or previous is None:
        return replace(found, stored=created)
    difference = compare_cnes(connection, earlier=previous.id, later=snapshot.id)
    return replace(found, stored=True, previous=previous.version, difference=difference)


def _local(source: Path | bytes, file_name: str, folder: Path) -> tuple[Path, str]:
    if isinstance(source, Path):
        if not source.is_file():
            raise ConfigurationError(
                f"CNES file {source} is not there. Give the path of BASE_DE_DADOS_CNES_AAAAMM.ZIP."
            )
        return source, file_name or source.name
    path = folder / "cnes_source"
    path.write_bytes(source)
    return path, file_name or path.name


# Exporting to the work bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exported:
    """Index of an export, written after its objects: while it is missing, the export is not finished."""

    objects: dict[str, ObjectRef]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exporter:
    work: ObjectStore
    settings: EngineSettings
    folder: Path

    def run(self, prefix: str, make: Callable[[Engine], dict[str, Path]]) -> dict[str, ObjectRef]:
        """The objects under `prefix`: those that are there, or else made now."""
        there = self._finished(prefix)
        if there is not None:
            return there
        with open_engine(self.settings, self.folder) as duck:
            made = make(duck)
            rows = {name: int(duck.row("reference/90_rows", source=str(path))[0]) for name, path in made.items()}
        objects = {
            name: self._create(f"{prefix}{name}.parquet", path, rows=rows[name]) for name, path in sorted(made.items())
        }
        index = msgspec.json.encode(_Exported(objects=objects))
        self.work.put(f"{prefix}index.json", index, content_type="application/json")
        return objects

    def _finished(self, prefix: str) -> dict[str, ObjectRef] | None:
        stored = self.work.get_or_none(f"{prefix}index.json")
        if stored is None:
            return None
        try:
            objects = msgspec.json.decode(stored.body, type=_Exported).objects
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None  # written by another version of the code: its objects are checked and indexed again
        sizes = {info.key: info.bytes for info in self.work.list(prefix)}
        return objects if all(sizes.get(ref.key) == ref.bytes for ref in objects.values()) else None

    def _create(self, key: str, path: Path, *, rows: int) -> ObjectRef:
        sha256 = file_sha256(path)
        try:
            with path.open("rb") as body:
                self.work.put(key, body, sha256=sha256, only_if_absent=True)
        except PreconditionLost:
            return self._first(key, sha256, rows)
        return ObjectRef(key=key, sha256=sha256, bytes=path.stat().st_size, rows=rows)

    def _first(self, key: str, sha256: str, rows: int) -> ObjectRef:
        """The object that was there first (another run, or our own write whose answer was lost), read back whole."""
        info = self.work.info(key)
        if info is None:
            raise StorageUnavailable(f"Object {key} was refused as existing and is not there. Run the task again.")
        self.work.download(key, self.folder / "there_first", sha256=info.sha256 or sha256)
        return ObjectRef(key=key, sha256=info.sha256 or sha256, bytes=info.bytes, rows=rows)


def _stored_snapshot(connection: Connection, cnes: str) -> Snapshot:
    snapshot = newest_cnes(connection, only="" if cnes == "newest" else cnes)
    if snapshot is None:
        which = "no CNES snapshot" if cnes == "newest" else f"no CNES snapshot {cnes}"
        raise ConfigurationError(
            f"PostgreSQL (schema controle) has {which}. Import the monthly file: python -m imunizacao import-cnes "
            "BASE_DE_DADOS_CNES_AAAAMM.ZIP (for a demonstration the one in include/reference/cnes); see docs/runbook/cnes-import.md."
        )
    return snapshot


def _shipped_cnes(cnes: str) -> Path:
    """The newest CNES file of the project, or the one of a competência."""
    found = {
        match["competencia"]: path
        for path in sorted((REFERENCE / "cnes").iterdir())
        if (match := _COMPETENCIA_IN_NAME.search(path.name))
    }
    competencia = max(found, default="") if cnes == "newest" else cnes
    if competencia not in found:
        raise ConfigurationError(
            f"There is no CNES file {cnes} in include/reference/cnes (there: {', '.join(sorted(found)) or 'none'}). "
            "Put it there, or import it into PostgreSQL (IMUNIZACAO_CONTROLE_DSN); see docs/runbook/cnes-import.md."
        )
    return found[competencia]


def _competencia_of(source: Path, cnes: str) -> str:
    if not source.is_file():
        raise ConfigurationError(f"CNES file {source} is not there. Give the path of BASE_DE_DADOS_CNES_AAAAMM.ZIP.")
    return _content(source, source.name, "" if cnes == "newest" else cnes).competencia


def _note_small_tables(
    connection: Connection,
    ibge_sha256: str,
    pni_sha256: str,
    rules: str,
    ibge: Mapping[str, ObjectRef],
    pni: Mapping[str, ObjectRef],
) -> None:
    """Keep in PostgreSQL which versions of the project's own tables days were made with."""
    municipalities, codes = ibge["municipios"].rows, sum(ref.rows for ref in pni.values())
    for snapshot in (
        Snapshot(
            kind="ibge",
            version=ibge_sha256[:12],
            sha256=ibge_sha256,
            import_rules=rules,
            origin="include/reference/ibge",
            rows=municipalities,
            rows_active=municipalities,
        ),
        Snapshot(
            kind="pni",
            version=pni_sha256[:12],
            sha256=pni_sha256,
            import_rules=rules,
            origin="include/reference/pni",
            rows=codes,
            rows_active=codes,
        ),
    ):
        record_snapshot(connection, snapshot)


# Small things


@contextmanager
def _scratch(engine: EngineSettings | None) -> Iterator[tuple[EngineSettings, Path]]:
    settings = engine or EngineSettings()
    folder = Path(tempfile.mkdtemp(prefix="reference-", dir=settings.scratch_dir))
    try:
        yield settings, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _import_rules() -> str:
    """sha256 over what decides how a source is read: the SQL of this stage and the IBGE's municipalities."""
    return _files_sha256([*sorted((SQL / "reference").glob("*.sql")), REFERENCE / "ibge" / "ibge_municipios.csv"])


def _files_sha256(paths: Sequence[Path]) -> str:
    """sha256 over names and contents."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{file_sha256(path)}\0".encode())
    return digest.hexdigest()


def _content_id(*hashes: str) -> str:
    return hashlib.sha256("\0".join(hashes).encode()).hexdigest()[:12]


def _ibge_files() -> list[Path]:
    return [REFERENCE / "ibge" / "ibge_municipios.csv", REFERENCE / "ibge" / "ibge_ufs.csv"]


def _pni_files() -> list[Path]:
    return sorted((REFERENCE / "pni").glob("pni_*.csv"))


def _pni_name(path: Path) -> str:
    return path.stem.removeprefix("pni_")


def _ufs() -> set[str]:
    return {row["co_uf"] for row in _read_table(REFERENCE / "ibge" / "ibge_ufs.csv")}


def _ibge_disagreements(
    municipalities: Sequence[Mapping[str, str]], ufs: Mapping[str, Mapping[str, str]], exceptions: set[str]
) -> list[str]:
    faults = []
    for row in municipalities:
        uf = ufs.get(row["co_uf"], {})
        if (
            row["co_ibge_7"][:6] != row["co_ibge_6"]
            or row["co_ibge_6"][:2] != row["co_uf"]
            or uf.get("sg_uf") != row["sg_uf"]
        ):
            faults.append(f"codes or UF of {row['co_ibge_7']} disagree")
    broken = {row["co_ibge_7"] for row in municipalities if ibge_check_digit(row["co_ibge_6"]) != row["co_ibge_7"][6]}
    if broken != exceptions:
        faults.append(
            f"check digits break the rule in other codes than ibge_excecoes_dv.csv lists: {_some(sorted(broken ^ exceptions))}"
        )
    counted = Counter(row["co_uf"] for row in municipalities)
    wrong = [code for code, uf in ufs.items() if str(counted[code]) != uf["qt_municipios"]]
    if wrong:
        faults.append(f"number of municipalities differs from ibge_ufs.csv in UF {_some(wrong)}")
    return faults[:5]


def _read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a small table of the project; a line with other columns than the header is a `ContractViolation`."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ContractViolation(
            f"Reference table {path.name} cannot be read ({type(error).__name__}). Restore it as in include/reference/SOURCES.md."
        ) from error
    odd = [number for number, line in enumerate(lines, 2) if len(line) != len(header)]
    if odd:
        raise ContractViolation(
            f"Reference table {path.name} has other columns than its header in line {_some(odd)}. Restore it."
        )
    return [dict(zip(header, line, strict=True)) for line in lines]


def _some(values: Sequence[object]) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return f"{shown} and {len(values) - 5} more" if len(values) > 5 else shown
