"""Flatten: landed documents become doses, each document with exactly one fate.

One set-based pass reads the JSON (`sql/flatten/20_raw_document.sql`); all decisions about documents (repeated, superseded,
removed) move keys only; one last pass joins the references and writes the table that the rules judge. No identifier of a
person leaves this step: CNS and CPF become an HMAC, birth dates an age.
"""

from __future__ import annotations

import csv
import hmac
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import pyarrow

from imunizacao.errors import ContractViolation
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.models import (
    DocumentAccount,
    ExtractReceipt,
    FlattenReceipt,
    LandingManifest,
    RunContext,
    fingerprint,
)
from imunizacao.paths import REFERENCE
from imunizacao.reference import ReferenceSet, load_references
from imunizacao.settings import EngineSettings, PseudonymSettings
from imunizacao.sql import Engine, Parameter, open_engine
from imunizacao.storage import ObjectStore, file_ref, put_receipt, read_object, read_receipt, require_room

STAGE = "flatten"
_ROOM_PER_LANDING = 4
"""Bytes of scratch disk for a byte of landing (zstd): the landing itself, its tables, and room to spill. The plain body of `split` is as
large."""
PROFILES = REFERENCE / "rnds" / "perfis.csv"
"""Profile generations of immunization documents known to us."""
_MACROS = (
    "01_macro_texto",
    "02_macro_instante",
    "03_macro_data_civil",
    "04_macro_data_hora",
    "05_macro_cns_numero_valido",
    "05_macro_cns_valido",
    "06_macro_cpf_numero_valido",
    "06_macro_cpf_valido",
    "07_macro_pseudonimo",
    "07_macro_ultimo_segmento",
    "07_macro_numeros_agrupados",
    "08_macro_base_documento",
    "08_macro_id_com_identificador",
    "09_macro_id_dose",
    "09_macro_e_extensao",
    "09_macro_codificacoes",
    "09_macro_extensoes",
    "10_macro_extensao",
    "10_macro_codigo_de_extensao",
    "10_macro_codigo_nacional",
    "11_macro_lote_normalizado",
    "12_macro_contem_identificador",
    "13_macro_codigo",
)
_PNI_TABLES = (
    "imunobiologico",
    "dose",
    "local_aplicacao",
    "via_administracao",
    "estrategia_vacinacao",
    "origem_registro",
    "grupo_atendimento",
    "fabricante",
    "condicao_maternal",
    "pais",
    "raca_cor",
    "etnia_indigena",
    "tipo_estabelecimento",
    "natureza_estabelecimento",
    "sistema_origem",
)


def flatten_day(
    context: RunContext,
    *,
    extract: ExtractReceipt,
    references: ReferenceSet,
    pseudonym: PseudonymSettings,
    work: ObjectStore,
    engine: EngineSettings,
    progress: Progress = no_progress,
) -> FlattenReceipt:
    """Turn the landing of a day into the table of doses, the structural quarantine and the removals.

    Grain of the table: one dose of one document version. The account `fetched = unique + duplicates` and
    `doses = candidates + quarantined + superseded + removed` is checked here; a gap is a `ContractViolation`.
    A valid receipt of the same inputs (landing, references, pseudonym key, code) is returned as it is.
    """
    mark = fingerprint(
        STAGE,
        context.code_version,
        {
            "landing": extract.landing_sha256,
            "manifest": extract.manifest.sha256,
            "references": sha256(repr(references.versions).encode()).hexdigest(),
            "pseudonym": _keys_mark(pseudonym),
        },
    )
    done = read_receipt(work, context.prefix(STAGE), FlattenReceipt, mark)
    if done is not None:
        log_event("flatten.reused", day=str(context.day), candidates=done.candidates)
        return done
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="flatten-", dir=engine.scratch_dir))
    try:
        manifest = read_object(work, extract.manifest, LandingManifest)
        require_room(folder, _ROOM_PER_LANDING * _landing_bytes(manifest), what=f"flatten of {context.day}")
        landed = download_landing(work, manifest, folder, progress)
        tables = load_references(work, references, folder)
        with open_engine(engine, folder) as duck:
            counts, codes = run_flatten(
                duck,
                parts=landed.parts,
                lines=landed.lines,
                rejects=landed.rejects,
                tables=tables,
                pseudonym=pseudonym,
                day_start=context.day.start.isoformat(),
                day_end=context.day.end.isoformat(),
                folder=folder,
                threads=engine.threads,
                progress=progress,
            )
        if counts["fetched"] != extract.fetched:
            raise ContractViolation(
                f"Landing of {context.day} holds {counts['fetched']} entries, extract counted {extract.fetched}. "
                "Nothing was published. Clear `extract` and run the day again; see docs/runbook/account-gap.md."
            )
        prefix = context.prefix(STAGE)
        receipt = FlattenReceipt(
            stage=STAGE,
            day=str(context.day),
            run_id=context.run_id,
            code_version=context.code_version,
            fingerprint=mark,
            seconds=round(time.monotonic() - started, 3),
            dose=file_ref(work, prefix + "dose.parquet", folder / "dose.parquet", rows=counts["candidates"]),
            quarantine=file_ref(
                work, prefix + "quarantine_dose.parquet", folder / "quarantine_dose.parquet", rows=counts["quarantined"]
            ),
            removed=file_ref(work, prefix + "removed.parquet", folder / "removed.parquet", rows=counts["removals"]),
            documents=DocumentAccount(
                fetched=counts["fetched"], unique=counts["unique"], duplicates=counts["duplicates"]
            ),
            doses=counts["doses"],
            candidates=counts["candidates"],
            quarantined=counts["quarantined"],
            superseded=counts["superseded"],
            removed_doses=counts["removed"],
            slow_path=counts["any_shape"],
            pseudonym_key_id=pseudonym.key_id,
            pseudonym_previous_key_id=pseudonym.previous_key_id,
            references=references.versions,
            landing=extract.manifest,
            extracted_at=extract.extracted_at,
            code_counts=codes,
        )
        put_receipt(work, prefix, receipt)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for profile, documents in receipt.unknown_profiles.items():
        log_event(
            "flatten.unknown_profile",
            level=logging.WARNING,
            day=str(context.day),
            profile=profile,
            documents=documents,
            runbook="docs/runbook/new-fields.md",
        )
    log_event(
        "flatten.done",
        day=str(context.day),
        unique=receipt.documents.unique,
        duplicates=receipt.documents.duplicates,
        doses=receipt.doses,
        candidates=receipt.candidates,
        quarantined=receipt.quarantined,
        superseded=receipt.superseded,
        removed=receipt.removed_doses,
        seconds=receipt.seconds,
    )
    return receipt


def run_flatten(
    duck: Engine,
    *,
    parts: Sequence[Path],
    lines: Sequence[int],
    rejects: Sequence[Path],
    tables: Mapping[str, Path],
    pseudonym: PseudonymSettings,
    day_start: str,
    day_end: str,
    folder: Path,
    threads: int = 2,
    identity: Path | None = None,
    progress: Progress = no_progress,
) -> tuple[dict[str, int], dict[str, int]]:
    """Run the SQL of the stage over local files and write three Parquet files into `folder`.

    `parts` are zstd NDJSON files in landing order and `lines` their line counts; `tables` maps `cnes`, `municipios` and the
    PNI tables to Parquet. Returns the account (names as in `sql/flatten/92_account.sql` without `qt_`, plus `removals`) and
    the code counts. With `identity`, who the person of each dose is goes into that local file, for the nominal profile alone. Raises `ContractViolation` when lines are missing or the account does not close.
    """
    for name in _MACROS:
        duck.run(f"flatten/{name}")
    landed = list(parts) or [_empty_part(folder)]
    raw = [str(folder / f"raw_document-{number:05d}.parquet") for number in range(1, len(landed) + 1)]
    work: list[dict[str, Parameter]] = [
        {"part": str(part), "nu_parte": number, "destination": destination}
        for number, (part, destination) in enumerate(zip(landed, raw, strict=True), 1)
    ]
    for done, _ in enumerate(duck.run_each("flatten/20_raw_document", work, threads=threads), 1):
        progress("flatten: read", done, len(work))
    found = int(duck.row("flatten/20_raw_document_count", raw_document=raw)[0])
    if found != sum(lines):
        raise ContractViolation(
            f"{found} lines were read from {len(parts)} landed parts that should hold {sum(lines)}. Nothing was published. "
            "Clear `extract` and run the day again; see docs/runbook/account-gap.md."
        )
    steps = 5
    progress("flatten", 0, steps)
    duck.run("flatten/21_raw_any_shape_document", raw_document=raw)
    duck.run("flatten/22_raw_any_shape_dose", raw_document=raw)
    reasons, hashes = _read_rejects(rejects)
    duck.run("flatten/23_raw_rejected", reasons=reasons, sha256=hashes)
    progress("flatten", 1, steps)
    duck.run("flatten/30_stg_document", raw_document=raw, day_start=day_start, day_end=day_end)
    for name in ("40_int_duplicate", "50_int_replaces", "51_int_reach", "52_int_superseded", "60_int_fate"):
        duck.run(f"flatten/{name}")
    profiles = known_profiles()
    codes = _counts(
        duck.rows(
            "flatten/61_profile_counts", raw_document=raw, perfis=list(profiles), geracoes=list(profiles.values())
        )
    )
    progress("flatten", 2, steps)
    duck.run("flatten/70_int_dose_key", raw_document=raw, cnes=str(tables["cnes"]))
    progress("flatten", 3, steps)
    duck.run("flatten/90_quarantine_dose", destination=str(folder / "quarantine_dose.parquet"))
    duck.run("flatten/91_removed", destination=str(folder / "removed.parquet"))
    names = (
        "fetched",
        "unique",
        "duplicates",
        "doses",
        "candidates",
        "quarantined",
        "superseded",
        "removed",
        "any_shape",
    )
    counts = {name: int(value) for name, value in zip(names, duck.row("flatten/92_account"), strict=True)}

    for table in ("stg_document", "int_duplicate", "int_replaces", "int_reach", "int_superseded", "int_fate"):
        duck.drop(table)
    if identity is not None:
        duck.run("flatten/85_identity", raw_document=raw, destination=str(identity))
    inner, outer = _hmac_pads(pseudonym.key)
    before = _hmac_pads(pseudonym.previous_key) if pseudonym.previous_key else (None, None)
    duck.stream(
        "flatten/80_dose",
        raw_document=raw,
        destination=str(folder / "dose.parquet"),
        chave_i=inner,
        chave_o=outer,
        chave_anterior_i=before[0],
        chave_anterior_o=before[1],
        cnes=str(tables["cnes"]),
        municipios=str(tables["municipios"]),
        **{name: str(tables[name]) for name in _PNI_TABLES},
    )
    progress("flatten", 4, steps)
    written = duck.row(
        "flatten/94_written",
        dose=str(folder / "dose.parquet"),
        quarantine=str(folder / "quarantine_dose.parquet"),
        removed=str(folder / "removed.parquet"),
    )
    counts["removals"] = int(written[2])
    _require_closed(counts, doses_written=int(written[0]), quarantined_written=int(written[1]))
    codes |= _counts(duck.rows("flatten/93_code_counts", dose=str(folder / "dose.parquet")))
    for path in raw:
        Path(path).unlink()
    progress("flatten", steps, steps)
    return counts, codes


def known_profiles(path: Path = PROFILES) -> dict[str, str]:
    """Name of every known profile, of a Composition or an Immunization, and its generation. The first line of a name counts."""
    names: dict[str, str] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, strict=True):
            for profile in filter(None, (row["perfil_composition"], row["perfil_immunization"])):
                names.setdefault(profile, row["geracao"])
    return names


def _counts(rows: Sequence[tuple[object, ...]]) -> dict[str, int]:
    return {str(name): int(str(count)) for name, count in rows}


def _require_closed(counts: Mapping[str, int], *, doses_written: int, quarantined_written: int) -> None:
    gaps = []
    if counts["fetched"] != counts["unique"] + counts["duplicates"]:
        gaps.append(f"fetched {counts['fetched']} ≠ unique {counts['unique']} + duplicates {counts['duplicates']}")
    fates = counts["candidates"] + counts["quarantined"] + counts["superseded"] + counts["removed"]
    if counts["doses"] != fates:
        gaps.append(f"doses {counts['doses']} ≠ {fates} doses with a fate")
    if doses_written != counts["candidates"]:
        gaps.append(f"table of doses has {doses_written} rows, account says {counts['candidates']}")
    if quarantined_written != counts["quarantined"]:
        gaps.append(f"quarantine has {quarantined_written} rows, account says {counts['quarantined']}")
    if gaps:
        raise ContractViolation(
            "The account of flatten does not close: "
            + "; ".join(gaps)
            + ". Nothing was published; see docs/runbook/account-gap.md."
        )


class _Landed:
    __slots__ = ("lines", "parts", "rejects")

    def __init__(self) -> None:
        self.parts: list[Path] = []
        self.lines: list[int] = []
        self.rejects: list[Path] = []


def _landing_bytes(manifest: LandingManifest) -> int:
    parts = [part.bytes for piece in manifest.slices for part in piece.parts]
    return sum(parts) + sum(piece.rejects.bytes for piece in manifest.slices if piece.rejects is not None)


def download_landing(work: ObjectStore, manifest: LandingManifest, folder: Path, progress: Progress) -> _Landed:
    """Bring the parts of a landing to the local disk, in landing order."""
    landed = _Landed()
    total = sum(len(piece.parts) for piece in manifest.slices)
    for piece in manifest.slices:
        for part in piece.parts:
            path = folder / f"part-{len(landed.parts):05d}.ndjson.zst"
            work.download(part.key, path, sha256=part.sha256)
            landed.parts.append(path)
            landed.lines.append(part.rows)
            progress("download landing", len(landed.parts), total)
        if piece.rejects is not None:
            path = folder / f"rejects-{len(landed.rejects):05d}.ndjson.zst"
            work.download(piece.rejects.key, path, sha256=piece.rejects.sha256)
            landed.rejects.append(path)
    return landed


class _Reject(msgspec.Struct):
    """What flatten needs of a rejected entry; its bytes stay in landing."""

    reason: str
    sha256: str


def _read_rejects(paths: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Reasons and hashes of all rejected entries, in landing order."""
    found: list[_Reject] = []
    for path in paths:
        with pyarrow.CompressedInputStream(str(path), "zstd") as packed:
            lines = packed.read().splitlines()
        found += [msgspec.json.decode(line, type=_Reject) for line in lines if line]
    return [reject.reason for reject in found], [reject.sha256 for reject in found]


def _empty_part(folder: Path) -> Path:
    path = folder / "part-empty.ndjson.zst"
    with pyarrow.CompressedOutputStream(str(path), "zstd"):
        pass
    return path


def _keys_mark(pseudonym: PseudonymSettings) -> str:
    """Tells keys apart in a fingerprint without telling a key. Outside of a change of keys it is that of the one key."""
    keys = [(pseudonym.key_id, pseudonym.key)]
    keys += [(pseudonym.previous_key_id, pseudonym.previous_key)] if pseudonym.previous_key else []
    return "|".join(
        f"{key_id}:{hmac.new(key, b'fingerprint of the key, not the key', sha256).hexdigest()}" for key_id, key in keys
    )


def _hmac_pads(key: bytes) -> tuple[bytes, bytes]:
    """RFC 2104: the two 64-byte blocks whose hashes make an HMAC."""
    block = (sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    return bytes(b ^ 0x36 for b in block), bytes(b ^ 0x5C for b in block)
