"""A whole day over loopback HTTP: mirror → landing → doses → rules → files → head, and what a reader sees of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from jsonschema import Draft202012Validator

from imunizacao import pipeline
from imunizacao.contract import load_schema
from imunizacao.controle import migrate
from imunizacao.errors import ContractViolation
from imunizacao.models import PublishInputs, RunContext
from imunizacao.paths import REFERENCE
from imunizacao.reference import import_cnes
from imunizacao.settings import EngineSettings, Settings
from imunizacao.storage import ObjectStore
from tests.integration.conftest import DAY, DOCUMENTS, NOW
from tests.mirror.documents import document, expected
from tests.support.reader import read_day

pytestmark = pytest.mark.servers
MakeContext = Callable[..., RunContext]
FLAGGED = {"vaccine-unknown", "lot-expired"}
"""Traps that a rule reports and publishes all the same."""


def _get(store: ObjectStore) -> Callable[[str], bytes]:
    return lambda key: store.get(key).body


def test_the_day_is_published_whole_and_every_document_is_accounted_for(
    services: pipeline.Services, run_context: MakeContext
) -> None:
    result = pipeline.run_day(run_context(), services)
    assert result.published.outcome == "published"
    assert result.reconciled.verdict == "ok"
    read = read_day(_get(services.public), str(DAY))
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


def test_what_is_published_keeps_its_schemas(services: pipeline.Services, run_context: MakeContext) -> None:
    pipeline.run_day(run_context(), services)
    get = _get(services.public)
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


def test_the_same_day_twice_is_one_revision_with_the_same_bytes(
    services: pipeline.Services, run_context: MakeContext
) -> None:
    first = pipeline.run_day(run_context("first"), services)
    before = {info.key: info.etag for info in services.public.list("v1/") if "/c-" in info.key}
    second = pipeline.run_day(run_context("second"), services)
    after = {info.key: info.etag for info in services.public.list("v1/") if "/c-" in info.key}
    assert second.published.outcome == "unchanged"
    assert (first.published.revision, second.published.revision) == (1, 1)
    assert first.published.content_id == second.published.content_id
    assert before == after
    head = json.loads(services.public.get(f"v1/days/{DAY}/head.json").body)
    assert len(head["history"]) == 1


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


def test_a_row_lost_after_publication_takes_the_head_back(
    services: pipeline.Services, run_context: MakeContext
) -> None:
    result = pipeline.run_day(run_context(), services)
    read = read_day(_get(services.public), str(DAY))
    folder = read.head["current"]["path"].rsplit("/", 1)[0]
    victim = max(
        (path for path in read.files if "mun=" not in path and path != "removed.csv"), key=lambda p: len(read.files[p])
    )
    lines = read.files[victim].splitlines(keepends=True)
    services.public.put(f"{folder}/{victim}", b"".join(lines[:-1]), content_type="text/csv")
    with pytest.raises(ContractViolation, match="does not agree with its account"):
        pipeline.reconcile(run_context(), services, published=result.published)
    head = json.loads(services.public.get(f"v1/days/{DAY}/head.json").body)
    assert (head["state"], head["revision"], head["current"]) == ("withdrawn", 2, None)
    assert [entry["revision"] for entry in head["history"]] == [1, 2]
    assert head["history"][0]["reconciliation"]["verdict"] == "gap"
    assert [error.message for error in Draft202012Validator(load_schema("head")).iter_errors(head)] == []


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


def test_an_account_that_does_not_close_is_not_published(services: pipeline.Services, run_context: MakeContext) -> None:
    context = run_context()
    references = pipeline.resolve_day(context, services)
    extracted = pipeline.extract(context, services)
    flattened = pipeline.flatten(context, services, extracted=extracted, references=references)
    validated = pipeline.validate(context, services, flattened=flattened)
    cut = pipeline.split(context, services, flattened=flattened, validated=validated, references=references)
    short = replace(flattened, superseded=flattened.superseded + 1)
    with pytest.raises(ContractViolation, match="does not close"):
        pipeline.publish(
            context, services, inputs=PublishInputs(extract=extracted, flatten=short, validate=validated, split=cut)
        )
    assert services.public.get_or_none(f"v1/days/{DAY}/head.json") is None


def test_outcomes_and_quarantine_reach_controle(
    services_with_controle: pipeline.Services, run_context: MakeContext
) -> None:
    assert services_with_controle.connect is not None
    connection = services_with_controle.connect()
    migrate(connection)
    import_cnes(REFERENCE / "cnes" / "BASE_DE_DADOS_CNES_202602.ZIP", connection)
    pipeline.run_day(run_context(), services_with_controle)
    with connection, connection.cursor() as cursor:
        cursor.execute("select stage, state from controle.outcome order by started_at")
        assert cursor.fetchall() == [
            (stage, "done") for stage in ("extract", "flatten", "validate", "split", "publish", "reconcile")
        ]
        cursor.execute("select sum(qt_doses) from controle.quarantine")
        assert cursor.fetchone()[0] > 0


def test_no_identifier_of_a_person_leaves_the_private_side(
    services: pipeline.Services, run_context: MakeContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    pipeline.run_day(run_context(), services)
    people = set()
    for k in range(0, DOCUMENTS, 7):
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
    seen = [caplog.text]
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
