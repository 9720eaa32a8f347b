"""What was not published: kept with its document, told to the establishment, and nowhere else."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.parquet
import pytest

from imunizacao import pipeline
from imunizacao.errors import ContractViolation, DayHeld
from imunizacao.fhir.landing import encode_entries
from imunizacao.fhir.pages import Entry, Reject
from imunizacao.models import (
    DocumentAccount,
    ExtractReceipt,
    FlattenReceipt,
    LandingManifest,
    LandingSlice,
    ObjectRef,
    ReferenceVersions,
    RuleResult,
    RunContext,
    ValidateReceipt,
)
from imunizacao.quarantine import (
    QuarantineReceipt,
    QuarantineRow,
    acknowledge_day,
    load_reasons,
    pointer_key,
    quarantine_day,
    raw_document,
    read_pointer,
    read_rows,
)
from imunizacao.quarantine.acks import read_index
from imunizacao.settings import EngineSettings, Settings, StorageSettings, mirror_settings, pseudonym_settings
from imunizacao.storage import ObjectStore, file_ref, read_object
from imunizacao_local.mirror import MirrorServer
from imunizacao_local.seaweed import SeaweedServer
from tests.integration.conftest import DAY, NOW
from tests.support.buckets import fresh_buckets

pytestmark = pytest.mark.servers


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A published day that nobody changes."""

    services: pipeline.Services
    context: RunContext
    extracted: ExtractReceipt
    flattened: FlattenReceipt
    validated: ValidateReceipt

    @property
    def work(self) -> ObjectStore:
        return self.services.work

    def receipt(self) -> QuarantineReceipt:
        """Again, from its receipt."""
        return quarantine_day(
            self.context,
            flatten=self.flattened,
            validate=self.validated,
            work=self.work,
            engine=self.services.settings.engine,
        )


@pytest.fixture(scope="module")
def made(s3_server: SeaweedServer, mirror: MirrorServer) -> Iterator[Made]:
    """One day of 2,000 documents up to the gate, and its acknowledgements."""
    with fresh_buckets(s3_server) as storage, tempfile.TemporaryDirectory(prefix="imunizacao-q-") as scratch:
        services = open_services(storage, mirror, Path(scratch))
        context = RunContext.create(day=DAY, run_id="made", code_version="test")
        references = pipeline.resolve_day(context, services)
        extracted = pipeline.extract(context, services)
        flattened = pipeline.flatten(context, services, extracted=extracted, references=references)
        validated = pipeline.validate(context, services, flattened=flattened)
        pipeline.acknowledge(context, services, flattened=flattened, validated=validated)
        yield Made(
            services=services,
            context=context,
            extracted=extracted,
            flattened=flattened,
            validated=validated,
        )


def open_services(storage: StorageSettings, mirror: MirrorServer, scratch: Path) -> pipeline.Services:
    """Without a database."""
    settings = Settings(
        mirror=mirror_settings(base_url=mirror.base_url, page_size=200),
        storage=storage,
        pseudonym=pseudonym_settings(key="a key for tests only, thirty-two characters", key_id="test"),
        engine=EngineSettings(scratch_dir=scratch),
    )
    return pipeline.open_services(settings, now=lambda: NOW)


@pytest.fixture
def dataset(made: Made, tmp_path: Path) -> Path:
    """The dataset of the day, downloaded."""
    pointer = read_pointer(made.work, str(DAY))
    assert pointer is not None
    path = tmp_path / "dataset.parquet"
    made.work.download(pointer.dataset.key, path, sha256=pointer.dataset.sha256)
    return path


def landed_line(made: Made, row: QuarantineRow) -> bytes:
    """The line that a locator names, found without the code under test."""
    body = made.work.get(row.ds_objeto).body
    with pyarrow.CompressedInputStream(pyarrow.BufferReader(body), "zstd") as packed:
        return bytes(packed.read()).split(b"\n")[row.nu_linha_objeto - 1]


def test_every_quarantined_dose_is_there_with_its_document_as_received(made: Made, dataset: Path) -> None:
    rows = list(read_rows(dataset))
    assert len(rows) == made.validated.quarantined > 4
    assert Counter(code for row in rows for code in row.ds_motivos) == made.validated.quarantined_by_reason
    assert {row.co_versao_regras for row in rows} == {made.validated.suite_sha256}
    assert {(row.co_competencia_cnes, row.co_versao_codigo) for row in rows} == {("202602", "test")}
    for row in rows:
        document = raw_document(dataset, row.line)
        assert row.tp_objeto == "landing"
        assert document == landed_line(made, row)
        resource = json.loads(document)["resource"]
        assert row.co_documento is None or row.co_documento.startswith(resource["id"].removesuffix("-i0b0"))
        assert len(row.ds_motivos) >= 1


def test_the_pointer_names_the_newest_and_counts_by_reason_and_uf(made: Made) -> None:
    pointer = read_pointer(made.work, str(DAY))
    assert pointer is not None
    assert (pointer.run_id, pointer.publish, pointer.doses) == ("made", True, made.validated.quarantined)
    assert pointer.by_uf == made.validated.quarantined_by_uf
    assert pointer.by_reason == made.validated.quarantined_by_reason
    assert pointer.references == made.flattened.references


def test_again_the_same_bytes_also_without_the_receipt(made: Made) -> None:
    before = made.receipt()
    made.work.delete(made.context.prefix("quarantine") + "receipt.json")
    again = made.receipt()
    assert again.dataset == before.dataset
    assert replace(again, seconds=before.seconds) == before
    assert again.parts_read <= len({part.key for part in parts(made)})


def test_a_quarantine_of_an_older_landing_does_not_take_the_pointer(made: Made) -> None:
    older = RunContext.create(day=DAY, run_id="older", code_version="test")
    quarantine_day(
        older,
        flatten=replace(made.flattened, extracted_at="2026-03-15T00:00:00+00:00"),
        validate=made.validated,
        work=made.work,
        engine=made.services.settings.engine,
    )
    pointer = read_pointer(made.work, str(DAY))
    assert pointer is not None
    assert pointer.run_id == "made"


def test_a_line_of_another_document_is_refused(made: Made, tmp_path: Path) -> None:
    """Two parts in the wrong order would put one patient's document under another's reasons."""
    manifest = read_object(made.work, made.extracted.manifest, LandingManifest)
    swapped = msgspec.json.encode(replace(manifest, slices=manifest.slices[::-1]))
    made.work.put("v1/day=x/manifest.json", swapped)
    landing = ObjectRef(key="v1/day=x/manifest.json", sha256=sha256(swapped), bytes=len(swapped))
    with pytest.raises(ContractViolation, match=r"another document than|has no line"):
        quarantine_day(
            RunContext.create(day=DAY, run_id="swapped", code_version="test"),
            flatten=replace(made.flattened, landing=landing),
            validate=made.validated,
            work=made.work,
            engine=made.services.settings.engine,
        )
    pointer = read_pointer(made.work, str(DAY))
    assert pointer is not None
    assert pointer.run_id == "made"


def test_every_establishment_is_told_of_its_doses_and_of_no_other(made: Made, dataset: Path) -> None:
    index = read_index(made.work, str(DAY))
    assert index is not None
    table = load_reasons()
    told: Counter[tuple[str, str, int, str]] = Counter()
    for file in index.files:
        body = made.work.get(f"v1/acks/day={DAY}/{file.path}").body
        assert (len(body), sha256(body)) == (file.bytes, file.sha256)
        assert body.endswith(b"\n")
        assert b"\r" not in body
        rows = list(csv.DictReader(io.StringIO(body.decode()), delimiter=";"))
        assert len(rows) == file.lines
        for row in rows:
            assert row["co_cnes_estabelecimento"] == file.cnes
            assert (row["dt_referencia"], row["co_versao_regras"]) == (str(DAY), made.validated.suite_sha256)
            assert row["ds_motivo"] == table[row["co_motivo"]].sentence
            assert row["ds_correcao"] == table[row["co_motivo"]].correction
            told[(file.cnes, row["co_documento"], int(row["nu_dose"]), row["co_motivo"])] += 1
    expected = Counter(
        (row.co_cnes_estabelecimento or "", row.co_documento or "", row.nu_dose, code)
        for row in read_rows(dataset)
        for code in row.ds_motivos
    )
    assert told == expected
    names = [file.path.rpartition("/")[2] for file in index.files]
    assert names == sorted(names)
    assert names[-1].startswith("sem-cnes-")


def test_acknowledgements_are_made_once_and_always_the_same(made: Made) -> None:
    before = {info.key: info.etag for info in made.work.list("v1/acks/")}
    made.work.delete(made.context.prefix("acknowledge") + "receipt.json")
    acknowledge(made)
    assert {info.key: info.etag for info in made.work.list("v1/acks/")} == before
    for key in before:
        made.work.delete(key)
    made.work.delete(made.context.prefix("acknowledge") + "receipt.json")
    acknowledge(made)
    assert {info.key: info.etag for info in made.work.list("v1/acks/")} == before


def test_nobody_is_told_of_rejections_of_a_held_day(made: Made) -> None:
    with pytest.raises(ContractViolation, match="is held"):
        acknowledge(made, replace(made.validated, publish=False, held_because=["IMU-102"]))


def test_a_held_day_keeps_its_quarantine(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    held = replace(made.validated, publish=False, held_because=["IMU-101"], run_id="held")
    monkeypatch.setattr(pipeline.validate_stage, "validate_day", lambda *_, **__: held)
    context = RunContext.create(day=DAY, run_id="held", code_version="test")
    before = made.work.get(pointer_key(str(DAY)))
    with pytest.raises(DayHeld):
        pipeline.validate(context, made.services, flattened=made.flattened)
    pointer = read_pointer(made.work, str(DAY))
    assert pointer is not None
    assert (pointer.run_id, pointer.publish, pointer.doses) == ("held", False, held.quarantined)
    assert made.work.get_or_none(context.prefix("quarantine") + "receipt.json") is not None
    made.work.put(before.key, before.body)


def test_documents_and_identifiers_are_in_landing_and_quarantine_alone(
    made: Made, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    canaries: set[bytes] = set()
    for row in read_rows(dataset):
        canaries |= identifiers(json.loads(raw_document(dataset, row.line)))
    assert len(canaries) > 4
    caplog.set_level("DEBUG")
    made.work.delete(made.context.prefix("quarantine") + "receipt.json")
    made.receipt()
    seen = {"log": caplog.text.encode()}
    for info in made.work.list("v1/"):
        if "/extract/" in info.key or (info.key.startswith("v1/quarantine/") and info.key.endswith(".parquet")):
            continue
        seen[info.key] = plain(made.work.get(info.key).body, info.key)
    assert any(key.startswith("v1/acks/") for key in seen)
    leaks = sorted(key for key, body in seen.items() if any(canary in body for canary in canaries))
    assert leaks == []


def hand_made(work: ObjectStore, folder: Path) -> tuple[FlattenReceipt, ValidateReceipt]:
    """Two windows: a part with a document of two bad doses, and two files of rejected entries, one entry repeated."""

    def entry(line: bytes, reject: Reject | None = None) -> Entry:
        return Entry(line=line, id="", version="", last_updated=None, reject=reject)

    lines = [b'{"id":"doc-%d","texto":"\xc3\xa7 \\n"}' % number for number in range(1, 5)]
    lines.append(b'{"id":"12345678901"}')
    big, deep, broken = b'{"a":"grande"}', b"[[[", b"\xff\x00\n{"
    first = encode_entries([*(entry(line) for line in lines), entry(big, Reject.DOC_TOO_LARGE)], page=1)
    second = encode_entries(
        [entry(big, Reject.DOC_TOO_LARGE), entry(deep, Reject.DEPTH), entry(broken, Reject.UTF8_INVALID)], page=1
    )
    slices = []
    for name, block in (("a", first), ("b", second)):
        refs = {}
        for kind, body, rows in (("part", block.landing, block.lines), ("rejects", block.rejects, block.rejected)):
            key = f"v1/day={DAY}/run=hand/extract/slice={name}/{kind}.ndjson.zst"
            if body:
                work.put(key, body)
            refs[kind] = ObjectRef(key=key, sha256=sha256(body), bytes=len(body), rows=rows)
        slices.append(
            LandingSlice(
                start=name,
                end=name,
                announced=0,
                distinct=0,
                lines=block.lines,
                rejected=block.rejected,
                parts=[refs["part"]] if block.landing else [],
                page_log=refs["part"],
                rejects=refs["rejects"],
                pages=1,
                attempts=1,
                run_id="hand",
            )
        )
    body = msgspec.json.encode(LandingManifest(day=str(DAY), slices=slices))
    work.put("v1/manifest.json", body)
    keys = [(0, 1, 0), (0, 3, 0), (0, 4, 0), (1, 2, 0), (1, 2, 3), (1, 5, 0)]
    table = pyarrow.table(
        {
            "nu_parte": pyarrow.array([key[0] for key in keys], pyarrow.int32()),
            "nu_linha": pyarrow.array([key[1] for key in keys], pyarrow.int32()),
            "nu_dose": pyarrow.array([key[2] for key in keys], pyarrow.int32()),
            "co_documento": [None, None, None, "doc-2-i0b0", "doc-2-i3b0", "12345678901-i0b0"],
            "co_cnes_estabelecimento": [None, None, None, "0000019", "0000019", "0000027"],
            "in_co_uf_estabelecimento": [None, None, None, "53", "53", "xx"],
            "ds_motivos": [
                ["DOC_TOO_LARGE"],
                ["DEPTH"],
                ["UTF8_INVALID"],
                ["DATE_FUTURE"],
                ["DATE_FUTURE", "LOTE_NOVO"],
                ["CNES_UNKNOWN"],
            ],
            "ds_regras": pyarrow.array(
                [[], [], [], ["IMU-009"], ["IMU-009", "IMU-090"], []], pyarrow.list_(pyarrow.string())
            ),
        }
    )
    path = folder / "quarantine.parquet"
    pyarrow.parquet.write_table(table, path)
    versions = ReferenceVersions(cnes_competencia="202602", cnes_sha256="c", ibge_sha256="i", pni_sha256="p")
    ref = ObjectRef(key="x", sha256="x", bytes=0)
    common: dict[str, Any] = {"day": str(DAY), "run_id": "hand", "code_version": "test", "fingerprint": "f"}
    flattened = FlattenReceipt(
        stage="flatten",
        dose=ref,
        quarantine=ref,
        removed=ref,
        documents=DocumentAccount(fetched=9, unique=8, duplicates=1),
        doses=9,
        candidates=3,
        quarantined=6,
        superseded=0,
        removed_doses=0,
        slow_path=0,
        pseudonym_key_id="k",
        references=versions,
        landing=ObjectRef(key="v1/manifest.json", sha256=sha256(body), bytes=len(body)),
        extracted_at="2026-03-15T04:00:00+00:00",
        **common,
    )
    note = RuleResult(
        rule="IMU-090",
        severity="warning",
        scope="row",
        on_fail="quarantine",
        success=True,
        evaluated=True,
        checked=1,
        failed=1,
        note="O lote é dos que se conhecem (tolerância do dia: 5 %)",
    )
    validated = ValidateReceipt(
        stage="validate",
        rules=[note],
        suite_sha256="suite",
        quarantine=file_ref(work, "v1/q.parquet", path, rows=len(keys)),
        bad_keys=ref,
        checked=3,
        quarantined_by_rules=2,
        quarantined=len(keys),
        quarantined_by_reason={},
        quarantined_by_uf={"53": {"DATE_FUTURE": 2}},
        publish=True,
        held_because=[],
        warnings=[],
        docs_key="d",
        **common,
    )
    return flattened, validated


def test_rejected_entries_keep_their_bytes_and_a_document_of_many_doses_is_kept_once(
    work: ObjectStore, tmp_path: Path
) -> None:
    flattened, validated = hand_made(work, tmp_path)
    context = RunContext.create(day=DAY, run_id="hand", code_version="test")
    engine = EngineSettings(scratch_dir=tmp_path)
    receipt = quarantine_day(context, flatten=flattened, validate=validated, work=work, engine=engine)
    assert (receipt.dataset.rows, receipt.documents, receipt.rejected, receipt.parts_read) == (6, 5, 3, 3)
    path = tmp_path / "dataset.parquet"
    work.download(receipt.dataset.key, path)
    rows = list(read_rows(path))
    assert [(row.tp_objeto, row.ds_objeto[-17:], row.nu_linha_objeto, row.nu_dose) for row in rows] == [
        ("rejects", "a/rejects.ndjson.zst"[-17:], 1, 0),
        ("rejects", "b/rejects.ndjson.zst"[-17:], 2, 0),
        ("rejects", "b/rejects.ndjson.zst"[-17:], 3, 0),
        ("landing", "e=a/part.ndjson.zst"[-17:], 2, 0),
        ("landing", "e=a/part.ndjson.zst"[-17:], 2, 3),
        ("landing", "e=a/part.ndjson.zst"[-17:], 5, 0),
    ]
    assert [row.co_uf_estabelecimento for row in rows] == ["00", "00", "00", "53", "53", "00"]
    kept = [raw_document(path, row.line) for row in rows]
    assert kept[:3] == [b'{"a":"grande"}', b"[[[", b"\xff\x00\n{"]
    assert kept[3] == kept[4] == b'{"id":"doc-2","texto":"\xc3\xa7 \\n"}'
    column = pyarrow.parquet.read_table(path, columns=["bi_documento"])["bi_documento"]
    assert [value is None for value in column.to_pylist()] == [False, False, False, False, True, False]


def test_what_may_be_a_number_of_a_person_is_in_no_acknowledgement(work: ObjectStore, tmp_path: Path) -> None:
    flattened, validated = hand_made(work, tmp_path)
    context = RunContext.create(day=DAY, run_id="hand", code_version="test")
    engine = EngineSettings(scratch_dir=tmp_path)
    receipt = acknowledge_day(context, flatten=flattened, validate=validated, work=work, engine=engine)
    assert (receipt.files, receipt.doses, receipt.lines) == (3, 6, 7)
    index = read_index(work, str(DAY))
    assert index is not None
    texts = {file.cnes: work.get(f"v1/acks/day={DAY}/{file.path}").body.decode() for file in index.files}
    assert "12345678901" not in "".join(texts.values())
    assert texts["0000027"].splitlines()[1].startswith('"2026-03-14";"0000027";;"0";"CNES_UNKNOWN";"O CNES informado')
    assert [line.split(";")[2] for line in texts["0000019"].splitlines()[1:]] == [
        '"doc-2-i0b0"',
        '"doc-2-i3b0"',
        '"doc-2-i3b0"',
    ]
    assert '"LOTE_NOVO";"Não atende à regra IMU-090: O lote é dos que se conhecem' in texts["0000019"]
    assert [line.split(";")[4] for line in texts[""].splitlines()[1:]] == [
        '"DEPTH"',
        '"DOC_TOO_LARGE"',
        '"UTF8_INVALID"',
    ]


def acknowledge(made: Made, validated: ValidateReceipt | None = None) -> None:
    acknowledge_day(
        made.context,
        flatten=made.flattened,
        validate=validated or made.validated,
        work=made.work,
        engine=made.services.settings.engine,
    )


def parts(made: Made) -> list[ObjectRef]:
    manifest = read_object(made.work, made.extracted.manifest, LandingManifest)
    return [part for piece in manifest.slices for part in piece.parts]


def identifiers(node: Any) -> set[bytes]:
    """Values of identifiers with 11 or 15 digits: CPF and CNS of persons."""
    if isinstance(node, dict):
        found = {v.encode() for v in [node.get("value")] if isinstance(v, str) and v.isdigit() and len(v) in (11, 15)}
        return found.union(*(identifiers(value) for value in node.values()))
    return set().union(*(identifiers(value) for value in node)) if isinstance(node, list) else set()


def plain(body: bytes, key: str) -> bytes:
    """Bytes that can be searched: columns of Parquet as text."""
    if not key.endswith(".parquet"):
        return body
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(body))
    return repr(table.to_pylist()).encode()


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
