"""What a replay looks at before it makes a day again: one document in quarantine, in memory."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import pyarrow
import pyarrow.parquet
import pytest

from imunizacao import pipeline
from imunizacao.claims import CLOCKS_APART, store_clock
from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.manifests import Head, decode, head_key
from imunizacao.models import FlattenReceipt, ReferenceVersions, RunContext, ValidateReceipt
from imunizacao.pipeline import Services
from imunizacao.quarantine import (
    QuarantinePointer,
    QuarantineReceipt,
    QuarantineRow,
    dataset,
    pointer_key,
    publish_quarantine,
    published_key,
    read_pointer,
    read_published,
)
from imunizacao.quarantine.dataset import _COLUMNS, SCHEMA
from imunizacao.reference import ReferenceSet
from imunizacao.replay import ReplayedDay, replay_day, summary
from imunizacao.replay import replay as replay_module
from imunizacao.replay.precheck import PreCheck, precheck_day
from imunizacao.storage import file_ref, put_receipt
from imunizacao.validate import rules_version
from tests.support.control import services_of
from tests.support.memory_bucket import Clock, MemoryBucket
from tests.support.quarantine import quarantine_rows
from tests.support.rules import suites_with
from tests.support.small_day import SmallDay, dose, make_inputs
from tests.unit.fhir_documents import DAY, Person, build_entry, line_of, resources, write_references

VERSIONS: Final = ReferenceVersions(cnes_competencia="202602", cnes_sha256="a", ibge_sha256="b", pni_sha256="c")
NOBODY: Final = Person(
    identifier="700000000000005",
    name="Fulana",
    birth="1880-01-01",
    cep="70070000",
    professional="700000000000005",
    local_id="l",
)
PLAN: Final = f"v1/quarantine/day={DAY}/replay.json"
OLDER: Final = "0" * 64
"""Of rules that no folder has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A day with one dose in quarantine, given in 1899 at an establishment that the references know."""

    services: Services
    references: ReferenceSet
    pointer: QuarantinePointer
    context: RunContext

    def rows(self) -> list[QuarantineRow]:
        """Its one row."""
        return quarantine_rows(self.services.work, DAY)

    def replay(self, *, dry_run: bool) -> ReplayedDay:
        """The whole command for the day; PostgreSQL and the export of references are not there."""
        return replay_day(self.context, self.services, dry_run=dry_run)

    def look(self, pointer: QuarantinePointer) -> PreCheck:
        """Judge the dose again."""
        return precheck_day(self.context, self.services, pointer, references=self.references)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Its rules are a folder without the one (IMU-010) that took the dose out."""
    work, public = MemoryBucket("work", Clock()), MemoryBucket("public", Clock())
    expectations = suites_with(tmp_path / "rules", {"IMU-009", "IMU-101", "IMU-201"})
    refs = {
        name: file_ref(work, f"v1/references/x/{name}.parquet", path)
        for name, path in write_references(tmp_path).items()
    }
    references = ReferenceSet(
        versions=VERSIONS,
        cnes=refs.pop("cnes"),
        municipios=refs.pop("municipios"),
        ufs=refs.pop("ufs"),
        pni=refs,
    )
    entry = build_entry(random.Random(3), identifier="doc-a", person=NOBODY)
    resources(entry)[1]["resource"]["occurrenceDateTime"] = "1899-05-05"
    row = {
        "dt_referencia": str(DAY),
        "nu_parte": 1,
        "nu_linha": 1,
        "nu_dose": 0,
        "tp_objeto": "landing",
        "ds_objeto": "k",
        "co_sha256_objeto": "s",
        "nu_linha_objeto": 1,
        "co_documento": "doc-a-i0b0",
        "co_cnes_estabelecimento": "2077485",
        "co_uf_estabelecimento": "35",
        "ds_motivos": ["DATE_TOO_OLD"],
        "ds_regras": ["IMU-010"],
        "co_versao_regras": OLDER,
        "co_competencia_cnes": "202602",
        "co_sha256_cnes": "a",
        "co_sha256_ibge": "b",
        "co_sha256_pni": "c",
        "co_versao_codigo": "test",
        "bi_documento": line_of(entry),
    }
    file = tmp_path / "dataset.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row], schema=_COLUMNS), file)
    services = services_of(work, public, tmp_path)
    pointer = QuarantinePointer(
        schema=SCHEMA,
        day=str(DAY),
        run_id="first",
        code_version="test",
        extracted_at="2026-03-15T00:00:00+00:00",
        publish=True,
        dataset=file_ref(work, f"v1/quarantine/day={DAY}/q-{'0' * 24}.parquet", file, rows=1),
        doses=1,
        documents=1,
        by_uf={"35": {"DATE_TOO_OLD": 1}},
        rules_sha256=OLDER,
        references=VERSIONS,
    )
    work.put(pointer_key(str(DAY)), msgspec.json.encode(pointer))
    settings = replace(services.settings, expectations=expectations)
    context = RunContext.create(day=DAY, run_id="replay", code_version="test")
    return Bench(services=replace(services, settings=settings), references=references, pointer=pointer, context=context)


def test_a_replay_judges_by_the_folder_of_rules_that_is_configured(bench: Bench) -> None:
    assert len(bench.look(bench.pointer).released) == 1, (
        "the rule that took it out is in the folder of the project only"
    )


def test_a_day_that_was_judged_by_the_configured_rules_is_not_looked_at_again(bench: Bench) -> None:
    rules = rules_version(bench.services.settings.expectations)
    look = bench.look(replace(bench.pointer, rules_sha256=rules))
    assert (look.considered, look.released) == (1, [])


def test_a_replay_begins_with_what_readers_lack_whatever_was_judged_since(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer making that was held, or waits for a person, knows the establishment already; the published day does not."""
    monkeypatch.setattr(pipeline, "resolve_day", lambda *_, **__: bench.references)
    work, day = bench.services.work, str(DAY)
    work.put(
        f"v1/day={day}/run=first/extract/receipt.json", make_inputs(bench.context, [], work).extract.to_json().encode()
    )
    held = replace(
        bench.pointer,
        run_id="held",
        publish=False,
        rules_sha256=rules_version(bench.services.settings.expectations),
    )
    work.put(pointer_key(day), msgspec.json.encode(held))
    assert bench.replay(dry_run=True).state == "nothing", "of a day that was never published the newest is all there is"
    _, content = _publish(bench, "a")
    work.put(published_key(day, content), msgspec.json.encode(bench.pointer))
    assert (look := bench.replay(dry_run=True)).state == "would-release"
    assert look.released == 1
    listed = read_pointer(work, day)
    assert listed is not None
    assert listed.run_id == "held", "the quarantine of a held day can be listed all the same"


def _publish(bench: Bench, document: str) -> tuple[SmallDay, str]:
    """The day with one dose, for readers, and its content id."""
    small = SmallDay(str(DAY), bench.services.work, bench.services.public, bench.services.settings.engine.scratch_dir)
    context, inputs = small.inputs([dose(document, "355030")])
    published = small.publish(context, inputs)
    small.reconcile(context, published)
    return small, published.content_id


def _receipt(bench: Bench, flatten: FlattenReceipt, validate: ValidateReceipt) -> QuarantineReceipt:
    """Of the quarantine that the run has written."""
    assert flatten.landing is not None
    return QuarantineReceipt(
        stage="quarantine",
        day=str(DAY),
        run_id=bench.context.run_id,
        code_version="test",
        fingerprint=dataset._mark(flatten.landing, flatten=flatten, validate=validate),
        seconds=0.0,
        dataset=bench.pointer.dataset,
        documents=1,
        rejected=0,
        parts_read=1,
    )


@pytest.mark.parametrize("outcome", ["published", "unchanged", "superseded"])
def test_the_quarantine_of_what_readers_see_moves_after_the_head(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    services, inputs = bench.services, make_inputs(bench.context, [], bench.services.work)
    landing = file_ref(services.work, "landing", Path(__file__))
    inputs = replace(inputs, flatten=replace(inputs.flatten, landing=landing))
    receipt = _receipt(bench, inputs.flatten, inputs.validate)

    key = published_key(str(DAY), inputs.split.content_id)

    def publish_day(*_: Any, **__: Any) -> Any:
        assert services.work.get_or_none(key) is None, "the head first"
        return SimpleNamespace(
            outcome=outcome, doses=inputs.account, files=0, diff={}, bytes=0, revision=1, docs_key="docs"
        )

    monkeypatch.setattr(pipeline.publish_stage, "publish_day", publish_day)
    monkeypatch.setattr(pipeline.docs_index, "update_index", lambda *_: None)
    if outcome != "superseded":
        with pytest.raises(ContractViolation, match="has left no quarantine"):
            pipeline.publish(bench.context, services, inputs=inputs)
    put_receipt(services.work, bench.context.prefix("quarantine"), receipt)
    pipeline.publish(bench.context, services, inputs=inputs)
    stored = services.work.get_or_none(key)
    assert (stored is None) == (outcome == "superseded")
    if stored is not None:
        named = msgspec.json.decode(stored.body, type=QuarantinePointer)
        assert (named.run_id, named.dataset) == ("replay", bench.pointer.dataset)


@pytest.mark.parametrize(("ahead", "wins"), [(timedelta(0), True), (timedelta(seconds=1), False)])
def test_a_pointer_of_the_future_is_replaced(bench: Bench, ahead: timedelta, wins: bool) -> None:
    """One of a newer landing stays, unless that is of a worker whose clock was ahead."""
    work, inputs = bench.services.work, make_inputs(bench.context, [], bench.services.work)
    flatten = replace(inputs.flatten, landing=file_ref(work, "landing", Path(__file__)))
    stamp = (store_clock(work) + CLOCKS_APART + ahead).isoformat()
    key = published_key(str(DAY), "0" * 64)
    work.put(key, msgspec.json.encode(replace(bench.pointer, extracted_at=stamp)))
    put_receipt(work, bench.context.prefix("quarantine"), _receipt(bench, flatten, inputs.validate))
    publish_quarantine(bench.context, flatten=flatten, validate=inputs.validate, content_id="0" * 64, work=work)
    assert (msgspec.json.decode(work.get(key).body, type=QuarantinePointer).run_id == "first") == wins


def test_a_replay_follows_the_head_back_to_an_earlier_content(bench: Bench) -> None:
    """Reconcile takes back the revision whose quarantine was the last to be published."""
    work, public, day = bench.services.work, bench.services.public, str(DAY)
    small, earlier = _publish(bench, "a")
    work.put(published_key(day, earlier), msgspec.json.encode(replace(bench.pointer, run_id="earlier")))
    context, inputs = small.inputs([dose("b", "355030")])
    published = small.publish(context, inputs)
    work.put(published_key(day, published.content_id), msgspec.json.encode(replace(bench.pointer, run_id="bad")))
    work.put(pointer_key(day), msgspec.json.encode(replace(bench.pointer, run_id="bad")))

    def seen() -> str:
        pointer = read_published(work, day, decode(Head, public.get(head_key(day)).body, "head.json"))
        assert pointer is not None
        return pointer.run_id

    assert seen() == "bad"
    public.put(f"{published.root_path.rpartition('/')[0]}/removed.csv", b"other")
    with pytest.raises(ContractViolation, match="does not agree with its account"):
        small.reconcile(context, published)
    assert seen() == "earlier"
    work.delete(published_key(day, earlier))
    assert seen() == "bad", "the newest is all there is"


def test_a_day_whose_landing_is_gone_is_told_by_the_look_and_never_begun(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "resolve_day", lambda *_, **__: bench.references)
    monkeypatch.setattr(replay_module, "precheck_day", lambda *_, **__: PreCheck(considered=1, released=bench.rows()))
    look = bench.replay(dry_run=True)
    assert (look.state, look.released, look.still) == ("no-landing", 0, 1)
    assert summary([look], dry_run=True).endswith("1 sem landing, só com o espelho")
    with pytest.raises(ConfigurationError, match="no landing of 2026-03-14"):
        bench.replay(dry_run=False)
    assert bench.services.work.get_or_none(PLAN) is None

    # One that an earlier version began, or that was cut off before the landing went.
    plan = {"run_id": "old", "previous": msgspec.to_builtins(bench.pointer)}
    bench.services.work.put(PLAN, msgspec.json.encode(plan))
    assert bench.replay(dry_run=True).state == "no-landing"
    landed = make_inputs(bench.context, [], bench.services.work).extract
    bench.services.work.put(f"v1/day={DAY}/run=first/extract/receipt.json", landed.to_json().encode())
    assert bench.replay(dry_run=True).state == "pending"
