"""Which run of a day wins: the newer extract, and of one extract the newer CNES; whatever a worker's clock says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from imunizacao import pipeline
from imunizacao.claims import CLOCKS_APART, keeps_out, latest_stamp
from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.extract import extract_day
from imunizacao.manifests import head_key
from imunizacao.models import LandingManifest, ObjectRef, PublishInputs, PublishReceipt, RunContext, to_json
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import mirror_settings
from imunizacao.storage import put_receipt, sha256_of
from tests.support.control import MemoryDay
from tests.support.small_day import dose

DAY = "2026-03-14"
A, B, C = ([dose(name, place)] for name, place in (("a", "355030"), ("b", "530010"), ("c", "120040")))


@pytest.fixture
def day(tmp_path: Path) -> MemoryDay:
    """A day without revisions, in memory."""
    return MemoryDay(DAY, tmp_path)


def _stamped(run: tuple[RunContext, PublishInputs], at: datetime) -> tuple[RunContext, PublishInputs]:
    context, inputs = run
    return context, replace(inputs, extract=replace(inputs.extract, extracted_at=at.isoformat()))


def test_an_extract_of_the_future_is_not_published(day: MemoryDay) -> None:
    day.revise(A)
    before = day.own_public.listing()
    late = day.clock.now + CLOCKS_APART + timedelta(seconds=1)
    with pytest.raises(ContractViolation, match=r"run run-2 is stamped .*worker-clock\.md"):
        day.publish(*_stamped(day.inputs(B), late))
    assert day.own_public.listing() == before
    assert day.publish(*_stamped(day.inputs(B), day.clock.now + CLOCKS_APART)).outcome == "published"


def test_a_worker_whose_clock_is_ahead_extracts_nothing(day: MemoryDay) -> None:
    ahead = day.clock.now + CLOCKS_APART + timedelta(seconds=1)
    with pytest.raises(ConfigurationError, match=r"0:05:01 ahead .*worker-clock\.md"):
        extract_day(
            day.context("ahead"),
            settings=mirror_settings(base_url="http://127.0.0.1:9/fhir"),
            work=day.work,
            engine=day.engine,
            now=lambda: ahead,
        )


def test_an_instant_of_the_future_in_a_head_keeps_no_run_out(day: MemoryDay) -> None:
    """A version that did not look has published it: the day would be frozen until that instant has come."""
    day.revise(A)
    head = day.head()
    for place in (head["current"], head["history"][0]):
        place["dataThrough"] = (day.clock.now + timedelta(days=300)).isoformat()
    day.public.put(head_key(DAY), json.dumps(head).encode())
    assert day.revise(B).outcome == "published"
    day.clock.forward(days=400)
    assert day.publish(*day.inputs(C)).outcome == "superseded"


@pytest.mark.parametrize("writes", ["/day.json", "/head.json"])
def test_time_that_passes_inside_a_publication_makes_no_newer_extract_one_of_the_future(
    day: MemoryDay, writes: str
) -> None:
    """While one run publishes for half an hour, another extracts and publishes: before the first asks for the head, or between its
    look and its write."""
    day.revise(A)
    slow = _stamped(day.inputs(B), day.clock.now - timedelta(minutes=1))
    newer = _stamped(day.inputs(C), day.clock.now + timedelta(minutes=20))
    ended: list[PublishReceipt] = []

    def meanwhile(verb: str, key: str) -> None:
        if verb == "put" and key.startswith("public:v1/days/") and key.endswith(writes):
            day.watch(lambda verb, key: None)
            day.clock.forward(hours=0.5)
            ended.append(day.publish(*newer))

    day.watch(meanwhile)
    late = day.publish(*slow)
    assert [run.outcome for run in (*ended, late)] == ["published", "superseded"]
    assert day.head()["current"]["contentId"] == newer[1].split.content_id


def test_a_landing_of_the_future_is_made_into_a_day_by_nobody(day: MemoryDay) -> None:
    """A version that did not look has landed it; then the clock was repaired and the day run again."""
    at = day.clock.now + CLOCKS_APART
    landed = {}
    for run in (_stamped(day.inputs(A), at), _stamped(day.inputs(B), at + timedelta(seconds=1))):
        landed[run[0].run_id] = run[1].extract
        put_receipt(day.work, run[0].prefix("extract"), run[1].extract)
    whole = ReferenceDay.parse(DAY)
    assert pipeline.newest_landing(whole, day.work) == landed["run-1"]
    day.clock.forward(hours=1)
    assert pipeline.newest_landing(whole, day.work) == landed["run-2"], "that instant has come"


def test_housekeeping_keeps_the_newest_landing_that_is_not_of_the_future(day: MemoryDay) -> None:
    runs = day.inputs(A), _stamped(day.inputs(B), day.clock.now + timedelta(days=900))
    for context, inputs in runs:
        manifest = context.prefix("extract") + "manifest.json"
        body = to_json(LandingManifest(day=DAY, slices=[])).encode()
        day.work.put(manifest, body)
        ref = ObjectRef(key=manifest, sha256=sha256_of(body), bytes=len(body))
        put_receipt(day.work, context.prefix("extract"), replace(inputs.extract, manifest=ref))
    day.clock.forward(days=32)
    day.tidy()
    left = {key for key in day.own_work.listing() if key.endswith("/extract/receipt.json")}
    assert left == {f"{runs[0][0].prefix('extract')}receipt.json"}


def test_a_pointer_of_the_future_keeps_nobody_out(day: MemoryDay) -> None:
    """Quarantine and acknowledgements of the newest landing, whatever a version that did not look has pointed at."""
    latest = latest_stamp(day.work)
    now, future = latest.isoformat(), (latest + timedelta(seconds=1)).isoformat()
    before = (latest - timedelta(hours=1)).astimezone(timezone(timedelta(hours=-3))).isoformat()
    assert not keeps_out(future, now, latest)
    assert keeps_out(now, before, latest)
    assert not keeps_out(before, now, latest)
    assert not keeps_out(now, now, latest)


def test_a_person_who_restores_passes_the_fence_and_no_other_reason_does(day: MemoryDay) -> None:
    old = day.inputs(B)
    day.revise(A)
    assert day.publish(*old).outcome == "superseded"
    context = day.context("person")
    assert day.publish(context, old[1], reason="restore").outcome == "published"
    assert day.head()["history"][-1]["contentId"] == old[1].split.content_id
    assert datetime.fromisoformat(day.head()["current"]["dataThrough"]) == datetime(2026, 3, 16, 1, tzinfo=UTC)


def _with_cnes(day: MemoryDay, run: str, rows: list[dict[str, str]], cnes: str, choice: str) -> PublishReceipt:
    """Publish rows that are made of the first landing with this CNES."""
    day.hour = 0
    _, inputs = day.inputs(rows)
    context = day.context(run)
    versions = replace(inputs.flatten.references, cnes_competencia=cnes, cnes_choice=choice)
    return day.publish(context, replace(inputs, flatten=replace(inputs.flatten, references=versions)))


def test_of_two_remakes_of_one_landing_the_newer_cnes_wins_whoever_ends_last(day: MemoryDay) -> None:
    """A replay that began before the CNES was imported ends after the republication with the new one."""
    assert _with_cnes(day, "first", A, "202602", "newest").revision == 1
    assert _with_cnes(day, "republish", B, "202603", "202603").revision == 2
    late = _with_cnes(day, "replay", C, "202602", "newest")
    assert (late.outcome, late.revision) == ("superseded", 2)
    assert day.head()["history"][-1]["references"]["cnes"]["competencia"] == "202603"
    # The same CNES again, by other rules: a revision. An older one: only for who asks for it.
    assert _with_cnes(day, "rules", C, "202603", "newest").revision == 3
    assert _with_cnes(day, "as-then", A, "202602", "of-the-day").revision == 4
    # A newer extract is newer whatever it is made with.
    assert day.publish(*day.inputs(B)).revision == 5
