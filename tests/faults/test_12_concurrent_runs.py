"""Two backfills and the schedule on one day. Figure: one revision per distinct content; no run ends otherwise than told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imunizacao.errors import ContractViolation, PublicationConflict
from imunizacao.settings import StorageSettings
from imunizacao.storage import open_public_store, sha256_of
from tests.protocol.runs import Task
from tests.protocol.soak import Schedule, run_schedule
from tests.support.memory_store import MemoryStore
from tests.support.reader import read_day
from tests.support.small_day import SmallDay, dose
from tests.support.withdrawal import withdraw

DAY = "2026-03-14"


@pytest.mark.servers
def test_two_backfills_and_the_schedule_make_one_revision_per_content(
    s3_settings: StorageSettings, tmp_path: Path
) -> None:
    """Three processes at once, one of them killed once. Both backfills found the same rows, the schedule found more."""
    tasks = (
        Task(name="backfill-1", day=DAY, content=0, through=1),
        Task(name="backfill-2", day=DAY, content=0, through=2),
        Task(name="scheduled", day=DAY, content=1, through=3),
    )
    schedule = Schedule(
        seed=12,
        day=DAY,
        tasks=tasks,
        starts=(0.0, 0.0, 0.0),
        kills=((0, 0.4),),
        shared=0.0,
        files=0.0,
        damaged=-1,
    )
    told = run_schedule(schedule, s3_settings, tmp_path)
    assert told.wrong == ""
    assert set(told.outcomes) <= {"published", "unchanged", "superseded"}
    public = open_public_store(s3_settings)
    read = read_day(lambda key: public.get(key).body, DAY)
    contents = [entry["contentId"] for entry in read.head["history"]]
    assert len(contents) == len(set(contents)) == told.revisions
    assert read.head["history"][-1]["runId"] == "scheduled"


class _Interrupted(MemoryStore):
    """A bucket in which something happens right before the first write of a key that ends so."""

    def __init__(self, objects: dict[str, bytes], end: str, then: Callable[[], None]) -> None:
        super().__init__(objects)
        self._end, self._then = end, then

    def write(self, key: str, body: bytes, *, absent: bool, match: str) -> None:
        if key.endswith(self._end) and self._end:
            self._end = ""
            self._then()
        super().write(key, body, absent=absent, match=match)


def _quarantined(run: tuple[Any, Any], doses: int) -> tuple[Any, Any]:
    """The same rows by a run that put some doses into quarantine: another outcome.json, the same content id."""
    context, inputs = run
    reasons = {"CNES_UNKNOWN": doses}
    documents = replace(
        inputs.flatten.documents,
        fetched=inputs.flatten.documents.fetched + doses,
        unique=inputs.flatten.documents.unique + doses,
    )
    return context, replace(
        inputs,
        extract=replace(inputs.extract, fetched=documents.fetched, announced=documents.fetched),
        flatten=replace(
            inputs.flatten,
            documents=documents,
            doses=inputs.flatten.doses + doses,
            candidates=inputs.flatten.candidates,
        ),
        validate=replace(
            inputs.validate, quarantined=doses, quarantined_by_reason=reasons, quarantined_by_uf={"00": reasons}
        ),
    )


def _folder(day: SmallDay) -> dict[str, bytes]:
    return {key: body for key, body in day.public.objects.items() if "/c-" in key}  # type: ignore[attr-defined]


@pytest.mark.parametrize("end", ["outcome.json", "uf=53/datapackage.json", "uf=35/tableschema.json", "/day.json"])
def test_a_slower_run_changes_nothing_that_a_faster_one_has_published(tmp_path: Path, end: str) -> None:
    """The slower run found no day.json and goes on, while the faster one publishes the same rows with another outcome.json."""
    day = SmallDay(DAY, MemoryStore(), MemoryStore(), tmp_path)
    rows = [dose("a", "355030"), dose("b", "530010")]
    slower, faster = day.inputs(rows), _quarantined(day.inputs(rows), 40)
    assert slower[1].split.content_id == faster[1].split.content_id
    published: dict[str, bytes] = {}

    def overtake() -> None:
        day.reconcile(faster[0], day.publish(*faster))
        published.update(_folder(day))

    disturbed = _Interrupted(day.public.objects, end, overtake)  # type: ignore[attr-defined]
    assert day.publish(*slower, public=disturbed).outcome in {"unchanged", "superseded"}
    assert published
    assert _folder(day) == published
    head = json.loads(day.get(f"v1/days/{DAY}/head.json"))
    day.reconcile(faster[0], day.publish(*faster))
    assert (head["revision"], head["history"][0]["account"]["quarantined"]) == (1, 40)


def test_what_an_interrupted_run_of_another_version_left_is_taken_as_it_is(tmp_path: Path) -> None:
    day = SmallDay(DAY, MemoryStore(), MemoryStore(), tmp_path)
    rows = [dose("a", "355030")]
    left = SmallDay(DAY, MemoryStore(), MemoryStore(), tmp_path)
    folder = left.publish(*_quarantined(left.inputs(rows), 3)).root_path.rpartition("/")[0]
    other_words = {
        "outcome.json": (b"", b""),
        "uf=35/tableschema.json": (b'"description": "', b'"description": "Antes: '),
        "uf=53/datapackage.json": (b'"title": "Imuniza', b'"title": "IMUNIZA'),
        "uf=53/tableschema.json": (b"", b""),
    }
    for name, (old, new) in other_words.items():
        body = left.get(f"{folder}/{name}")
        assert old in body
        day.public.put(f"{folder}/{name}", body.replace(old, new, 1))
    before = _folder(day)
    day.revise(rows)
    assert {key: _folder(day)[key] for key in before} == before
    root = json.loads(day.get(f"{folder}/day.json"))
    assert root["files"]["outcome"]["sha256"] == sha256_of(before[f"{folder}/outcome.json"])


def test_what_an_interrupted_run_left_and_is_wrong_is_named(tmp_path: Path) -> None:
    day = SmallDay(DAY, MemoryStore(), MemoryStore(), tmp_path)
    left = SmallDay(DAY, MemoryStore(), MemoryStore(), tmp_path)
    key = left.publish(*left.inputs([dose("a", "355030")])).root_path.replace("day.json", "uf=35/datapackage.json")
    day.public.put(key, left.get(key).replace(b'"rnds:rows": 1', b'"rnds:rows": 2'))
    with pytest.raises(ContractViolation, match=r"does not describe these files.*damaged-manifest\.md"):
        day.revise([dose("a", "355030")])
    day.public.delete(key)
    assert day.revise([dose("a", "355030")]).revision == 1


def test_a_run_that_is_counted_while_another_one_has_not_come_to_the_index_is_left_alone(tmp_path: Path) -> None:
    """The other run has moved the head and not yet the month index: the index is late, the day is good."""
    day = SmallDay(DAY, MemoryStore(), MemoryStore(), tmp_path)
    context, inputs = day.inputs([dose("a", "355030")])
    published = day.publish(context, inputs)
    late = _Late(day.public.objects)  # type: ignore[attr-defined]
    day.publish(*day.inputs([dose("b", "355030")]), public=late)
    row = json.loads(day.get("v1/months/2026-03/index.json"))["days"][0]
    assert row["revision"] == 1
    day.reconcile(context, published)
    head = json.loads(day.get(f"v1/days/{DAY}/head.json"))
    assert [entry.get("reconciliation", {}).get("verdict") for entry in head["history"]] == [None, "ok"]
    assert json.loads(day.get("v1/months/2026-03/index.json"))["days"][0]["revision"] == 2
    assert json.loads(day.get("v1/catalog.json"))["months"][0]["revisions"] == 2


class _Late(MemoryStore):
    """What this writer says to index and catalog does not arrive yet."""

    def write(self, key: str, body: bytes, *, absent: bool, match: str) -> None:
        if not key.endswith(("index.json", "catalog.json")):
            super().write(key, body, absent=absent, match=match)


def test_a_run_that_is_counted_after_a_person_took_the_day_back_leaves_no_verdict(tmp_path: Path) -> None:
    day = SmallDay(DAY, MemoryStore(), MemoryStore(), tmp_path)
    context, inputs = day.inputs([dose("a", "355030")])
    published = day.publish(context, inputs)
    withdraw(day.public, DAY, token="person")
    day.reconcile(context, published)
    assert "reconciliation" not in json.loads(day.get(f"v1/days/{DAY}/head.json"))["history"][-1]
    with pytest.raises(PublicationConflict, match="withdrawn by a person"):
        day.revise([dose("b", "355030")])


def test_a_task_that_is_tried_again_after_its_revision_was_taken_back_stays_red(tmp_path: Path) -> None:
    day = SmallDay(DAY, MemoryStore(), MemoryStore(), tmp_path)
    day.revise([dose("a", "355030")])
    context, inputs = day.inputs([dose("a", "355030"), dose("b", "355030")])
    published = day.publish(context, inputs)
    victim = f"{published.root_path.rpartition('/')[0]}/uf=35/imunizacao-total-sp_{DAY}.csv"
    day.public.put(victim, b"")
    for _ in range(2):
        with pytest.raises(ContractViolation, match="went back"):
            day.reconcile(context, published)
    head = json.loads(day.get(f"v1/days/{DAY}/head.json"))
    assert (head["revision"], head["state"]) == (3, "published")
    assert json.loads(day.get("v1/months/2026-03/index.json"))["days"][0]["revision"] == 3
    read_day(day.get, DAY)
