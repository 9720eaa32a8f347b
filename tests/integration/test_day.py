"""A whole day over loopback HTTP: mirror → landing → doses → rules → files → head, and what a reader sees of it."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pyarrow
import pytest
from jsonschema import Draft202012Validator
from pyarrow import parquet

from imunizacao import pipeline
from imunizacao.contract import load_contract, load_schema
from imunizacao.controle import connect, migrate
from imunizacao.errors import ContractViolation
from imunizacao.models import FlattenReceipt, PublishInputs, RunContext
from imunizacao.paths import EXPECTATIONS, REFERENCE
from imunizacao.reference import import_cnes
from imunizacao.settings import EngineSettings, Settings, mirror_settings, pseudonym_settings
from imunizacao.storage import ObjectStore
from imunizacao_local.mirror import MirrorServer
from imunizacao_local.postgres import PostgresServer
from imunizacao_local.seaweed import SeaweedServer
from tests.integration.conftest import DAY, DOCUMENTS, NOW
from tests.mirror.documents import document, expected
from tests.support.buckets import fresh_buckets
from tests.support.reader import read_day

pytestmark = pytest.mark.servers
MakeContext = Callable[..., RunContext]
FLAGGED = {"vaccine-unknown", "lot-expired"}
"""Traps that a rule reports and publishes all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A day that was published once, for the tests that only look at it."""

    services: pipeline.Services
    result: pipeline.DayResult
    log: str


@pytest.fixture(scope="session")
def expectations() -> Path:
    """All rules: the account of this day is compared with what the simulator planted."""
    return EXPECTATIONS


@pytest.fixture(scope="module")
def made(
    s3_server: SeaweedServer, postgres: PostgresServer, mirror: MirrorServer, expectations: Path
) -> Iterator[Made]:
    """The day, published with a database and all rules; its log is kept in full."""
    postgres.create_database("controle_day")
    dsn = postgres.dsn("controle_day")
    with connect(dsn) as connection:
        migrate(connection)
        import_cnes(REFERENCE / "cnes" / "BASE_DE_DADOS_CNES_202602.ZIP", connection)
    written = io.StringIO()
    handler, root = logging.StreamHandler(written), logging.getLogger()
    level = root.level
    with fresh_buckets(s3_server) as storage, tempfile.TemporaryDirectory(prefix="imunizacao-d-") as scratch:
        settings = Settings(
            mirror=mirror_settings(base_url=mirror.base_url, page_size=200),
            storage=storage,
            pseudonym=pseudonym_settings(key="a key for tests only, thirty-two characters", key_id="test"),
            engine=EngineSettings(scratch_dir=Path(scratch)),
            expectations=expectations,
        )
        services = pipeline.open_services(settings, connect=lambda: connect(dsn), now=lambda: NOW)
        context = RunContext.create(day=DAY, run_id="test-run", code_version="test")
        root.addHandler(handler)
        root.setLevel("DEBUG")
        try:
            result = pipeline.run_day(context, services)
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
        yield Made(services=services, result=result, log=written.getvalue())


def _get(store: ObjectStore) -> Callable[[str], bytes]:
    return lambda key: store.get(key).body


def test_the_day_is_published_whole_and_every_document_is_accounted_for(made: Made) -> None:
    assert made.result.published.outcome == "published"
    assert made.result.reconciled.verdict == "ok"
    read = read_day(_get(made.services.public), str(DAY))
    planted = list(expected(7, DAY.value, DOCUMENTS))
    fates: Counter[str] = Counter()
    for planned in planted:
        flagged = planned.outcome == "rule" and set(planned.traps) <= FLAGGED
        fates["publish" if flagged else planned.outcome] += planned.doses
    account = read.head["history"][-1]["account"]
    source = read.head["history"][-1]["source"]
    copies = sum(1 for planned in planted if "copy" in planned.traps)
    assert copies > 0
    assert source["fetched"] == DOCUMENTS
    assert source["announced"] == DOCUMENTS - copies, "the mirror counts a document version once"
    assert source["duplicates"] == sum(1 for planned in planted if planned.outcome == "duplicate")
    assert account["removed"] == fates["removed"]
    assert account["quarantined"] == fates["quarantine"] + fates["rule"]
    assert account["published"] == fates["publish"]
    assert account["published"] > 0.9 * DOCUMENTS
    assert len(read.root["files"]["ufs"]) == 27


def test_what_is_published_keeps_its_schemas(made: Made) -> None:
    get = _get(made.services.public)
    head = json.loads(get(f"v1/days/{DAY}/head.json"))
    folder = head["current"]["path"].rsplit("/", 1)[0]
    for name, manifest in (
        ("head", head),
        ("day", json.loads(get(head["current"]["path"]))),
        ("outcome", json.loads(get(folder + "/outcome.json"))),
        ("month-index", json.loads(get("v1/months/2026-03/index.json"))),
        ("catalog", json.loads(get("v1/catalog.json"))),
    ):
        faults = [error.message for error in Draft202012Validator(load_schema(name)).iter_errors(manifest)]
        assert faults == [], name


@pytest.mark.slow
def test_a_finished_run_that_is_run_again_does_nothing_twice(
    services: pipeline.Services, run_context: MakeContext
) -> None:
    pipeline.run_day(run_context(), services)
    head = services.public.get(f"v1/days/{DAY}/head.json")
    again = pipeline.run_day(run_context(), services)
    assert again.published.revision == 1
    assert (
        msgspec.json.decode(services.public.get(f"v1/days/{DAY}/head.json").body)["history"]
        == (msgspec.json.decode(head.body)["history"])
    )


@pytest.mark.slow
def test_other_settings_of_the_engine_give_the_same_bytes(
    settings: Settings, run_context: MakeContext, tmp_path: Path
) -> None:
    contents = set()
    for number, (threads, memory) in enumerate(((1, "512MB"), (2, "2GB"))):
        engine = EngineSettings(threads=threads, memory_limit=memory, scratch_dir=tmp_path)
        services = pipeline.open_services(replace(settings, engine=engine), now=lambda: NOW)
        result = pipeline.run_day(run_context(f"engine-{number}", code_version=f"engine-{number}"), services)
        contents.add(result.published.content_id)
    assert len(contents) == 1


def test_the_catalog_offers_both_views(made: Made) -> None:
    public = made.services.public
    read = read_day(_get(public), str(DAY))
    catalog = json.loads(public.get("v1/catalog.json").body)
    slugs = [operation["slug"] for operation in catalog["operations"]]
    assert len(slugs) == len(set(slugs)) == 54
    assert {slug.rpartition("-")[0] for slug in slugs} == {"imunizacao-total", "imunizacao-residentes"}
    assert catalog["totals"]["residents"] == read.root["residence"]["known"]
    month = json.loads(public.get("v1/months/2026-03/index.json").body)
    assert month["days"][0]["residents"] == {uf: len(rows) for uf, rows in read.residents.items()}
    page = catalog["dictionary"]
    body = public.get(page["path"]).body
    assert (len(body), hashlib.sha256(body).hexdigest()) == (page["bytes"], page["sha256"])


@pytest.mark.slow
def test_a_mirror_without_patients_has_no_files_of_residents_and_says_so(
    services: pipeline.Services, run_context: MakeContext
) -> None:
    context = run_context()
    references = pipeline.resolve_day(context, services)
    extracted = pipeline.extract(context, services)
    flattened = pipeline.flatten(context, services, extracted=extracted, references=references)
    nobody = _without_residence(services, flattened)
    validated = pipeline.validate(context, services, flattened=nobody)
    cut = pipeline.split(context, services, flattened=nobody, validated=validated, references=references)
    inputs = PublishInputs(extract=extracted, flatten=nobody, validate=validated, split=cut)
    published = pipeline.publish(context, services, inputs=inputs)
    assert pipeline.reconcile(context, services, published=published).verdict == "ok"
    read = read_day(_get(services.public), str(DAY))
    assert read.root["residence"] == {"known": 0, "unknown": len(read.rows)}
    assert not [path for path in read.files if "residentes" in path]
    catalog = json.loads(services.public.get("v1/catalog.json").body)
    assert {operation["slug"].rpartition("-")[0] for operation in catalog["operations"]} == {"imunizacao-total"}
    month = json.loads(services.public.get("v1/months/2026-03/index.json").body)
    assert month["days"][0]["residents"] == {}


def _without_residence(services: pipeline.Services, flattened: FlattenReceipt) -> FlattenReceipt:
    """The same doses as a mirror without Patient gives them: what comes from the registry is empty."""
    key = flattened.dose.key.replace("dose.parquet", "dose-without-patients.parquet")
    table = parquet.read_table(io.BytesIO(services.work.get(flattened.dose.key).body))
    for column in load_contract("dose").columns:
        registry = column.name.endswith("_paciente") and column.name != "co_paciente"
        if registry or column.name == "st_residente_uf":
            at = table.schema.get_field_index(column.name)
            empty = pyarrow.nulls(table.num_rows, table.schema.field(at).type)
            table = table.set_column(at, table.schema.field(at), empty)
    body = io.BytesIO()
    parquet.write_table(table, body)
    services.work.put(key, body.getvalue())
    return replace(
        flattened,
        dose=replace(
            flattened.dose, key=key, sha256=hashlib.sha256(body.getvalue()).hexdigest(), bytes=len(body.getvalue())
        ),
    )


@pytest.mark.slow
def test_an_older_extract_never_replaces_a_newer_one(services: pipeline.Services, run_context: MakeContext) -> None:
    context = run_context("newer")
    references = pipeline.resolve_day(context, services)
    extracted = pipeline.extract(context, services)
    flattened = pipeline.flatten(context, services, extracted=extracted, references=references)
    validated = pipeline.validate(context, services, flattened=flattened)
    cut = pipeline.split(context, services, flattened=flattened, validated=validated, references=references)
    newer = replace(extracted, extracted_at="2026-03-16T02:00:00+00:00")
    older = replace(extracted, extracted_at="2026-03-16T01:00:00+00:00")
    inputs = PublishInputs(extract=newer, flatten=flattened, validate=validated, split=cut)
    assert pipeline.publish(context, services, inputs=inputs).outcome == "published"
    stale = PublishInputs(
        extract=older, flatten=flattened, validate=validated, split=replace(cut, content_id=cut.content_id)
    )
    assert pipeline.publish(run_context("older"), services, inputs=stale).outcome == "superseded"


def test_outcomes_and_quarantine_reach_controle(made: Made) -> None:
    assert made.services.connect is not None
    with made.services.connect() as connection, connection.cursor() as cursor:
        cursor.execute("select stage, state from controle.outcome order by started_at")
        assert cursor.fetchall() == [
            (stage, "done")
            for stage in ("extract", "flatten", "validate", "split", "publish", "reconcile", "acknowledge")
        ]
        cursor.execute("select sum(qt_doses) from controle.quarantine")
        assert cursor.fetchone()[0] > 0


def test_no_identifier_of_a_person_leaves_the_private_side(made: Made) -> None:
    services = made.services
    people = set()
    for k in range(0, DOCUMENTS, 3):
        text = json.loads(document(7, DAY.value, k, docs_per_day=DOCUMENTS))
        for entry in text["entry"]:
            resource = entry["resource"]
            value = (
                (resource.get("subject") or {}).get("identifier", {}).get("value")
                if resource["resourceType"] == "Composition"
                else None
            )
            if value and len(value) in (11, 15):
                people.add(value)
    assert len(people) > 100
    assert "event=publish.done" in made.log
    seen = [made.log]
    seen += [
        services.public.get(info.key).body.decode()
        for info in services.public.list("v1/")
        if info.key.endswith((".csv", ".json"))
    ]
    for info in services.work.list("v1/"):
        if "/docs/" in info.key or info.key.endswith("receipt.json") or "/outcomes/" in info.key:
            seen.append(services.work.get(info.key).body.decode("utf-8", "replace"))
    everything = "\n".join(seen)
    assert [person for person in people if person in everything] == []


def test_the_same_day_twice_is_one_revision_with_the_same_bytes(made: Made, run_context: MakeContext) -> None:
    services = made.services
    before = {info.key: info.etag for info in services.public.list("v1/") if "/c-" in info.key}
    second = pipeline.run_day(run_context("second"), services)
    after = {info.key: info.etag for info in services.public.list("v1/") if "/c-" in info.key}
    assert second.published.outcome == "unchanged"
    assert (made.result.published.revision, second.published.revision) == (1, 1)
    assert made.result.published.content_id == second.published.content_id
    assert before == after
    head = json.loads(services.public.get(f"v1/days/{DAY}/head.json").body)
    assert len(head["history"]) == 1


def test_what_a_stage_recorded_in_controle_is_a_witness_of_reconcile(made: Made) -> None:
    """Last in this file: the head of the shared day goes back."""
    assert made.services.connect is not None
    with made.services.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "update controle.outcome set counts = jsonb_set(counts, '{rows}', '1') where stage = 'split' and run_id = 'test-run'"
        )
        assert cursor.rowcount == 1
    context = RunContext.create(day=DAY, run_id="test-run", code_version="test")
    with pytest.raises(ContractViolation, match="rows in the outcome of split"):
        pipeline.reconcile(context, made.services, published=made.result.published, attempt=2)
