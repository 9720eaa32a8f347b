"""A landing that is newer than the head: held by a rule or a person it is left alone, else it is made into a day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from imunizacao import pipeline
from imunizacao.errors import ContractViolation, DayHeld, StorageUnavailable
from imunizacao.extract import Recount
from imunizacao.models import ExtractReceipt, ObjectRef
from imunizacao.pipeline import Services
from imunizacao.recheck import recheck_day, summary
from imunizacao.storage import put_receipt
from tests.support.control import MemoryDay, services_of
from tests.support.small_day import dose

DAY = "2026-03-14"
LANDED = ObjectRef(key=f"v1/day={DAY}/run=night-1/extract/manifest.json", sha256="1" * 64, bytes=1)


@pytest.fixture
def day(tmp_path: Path) -> MemoryDay:
    """Published once; in night 1 the day had moved, and the extract landed it."""
    day = MemoryDay(DAY, tmp_path)
    day.revise([dose("a", "355030")])
    return day


@pytest.fixture
def services(day: MemoryDay) -> Iterator[Services]:
    """The mirror says what night 1 has landed."""
    _, inputs = day.inputs([dose("a", "355030"), dose("b", "355030")])
    landing = replace(inputs.extract, run_id="night-1", manifest=LANDED)
    made = services_of(day.work, day.public, day.engine.scratch_dir)
    with mock.patch.object(pipeline, "newest_landing_or_none", return_value=landing):
        with mock.patch.object(pipeline, "recount", return_value=Recount(landed=2, announced=2, moved=0)):
            yield made


def _end(day: MemoryDay, services: Services, run: str, stage: str, end: str, *, asks: int = 0) -> None:
    """One attempt of a stage of a run, and how it ended."""
    try:
        with services.outcomes.stage(day.context(run), stage, 1) as record:
            record.counts = {"asks": asks}
            if end != "done":
                raise DayHeld("held") if end == "held" else StorageUnavailable("disk full")
    except (DayHeld, StorageUnavailable):
        pass


def _make(day: MemoryDay, run: str) -> None:
    """A run that made the day again from the landing of night 1."""
    context, inputs = day.context(run), day.inputs([])[1]
    put_receipt(
        day.work, context.prefix("flatten"), replace(inputs.flatten, run_id=run, stage="flatten", landing=LANDED)
    )


def _next_night(day: MemoryDay, services: Services) -> str:
    """State of the day after the next night's recheck, which must remake it from the landing or leave it alone."""
    looked = recheck_day(day.context("looks"), services)
    made = mock.Mock(published=mock.Mock(outcome="published", revision=2, diff={}))
    with mock.patch.object(pipeline, "remake_day", return_value=made) as remake:
        done = recheck_day(day.context("next-night"), services, dry_run=False)
    assert (looked.state == "unpublished") == (remake.call_count == 1) == (done.state == "published")
    return looked.state


@pytest.mark.parametrize(
    ("night", "state"),
    [
        ([], "unpublished"),
        ([("flatten", "failed", 0)], "unpublished"),
        ([("validate", "failed", 0)], "unpublished"),
        ([("validate", "done", 0), ("split", "failed", 0)], "unpublished"),
        ([("validate", "held", 0)], "held"),
        ([("validate", "done", 1)], "held"),
        ([("validate", "done", 1), ("decide", "held", 0)], "held"),
        ([("validate", "done", 1), ("decide", "done", 0), ("publish", "failed", 0)], "unpublished"),
    ],
)
def test_only_a_landing_that_a_rule_or_a_person_holds_is_left_alone(
    day: MemoryDay, services: Services, night: list[tuple[str, str, int]], state: str
) -> None:
    for stage, end, asks in night:
        _end(day, services, "night-1", stage, end, asks=asks)
    # What other landings of the day ended with does not matter.
    _end(day, services, "run-1", "validate", "held" if state == "unpublished" else "done")
    assert _next_night(day, services) == state


def test_a_landing_is_held_as_soon_as_a_run_that_was_made_from_it_is(day: MemoryDay, services: Services) -> None:
    _end(day, services, "night-1", "validate", "failed")
    _make(day, "night-2")
    _end(day, services, "night-2", "validate", "held")
    assert _next_night(day, services) == "held"
    assert "1 com extração mais nova retida · 2026-03-14" in summary(
        [recheck_day(day.context("tells"), services)], dry_run=False
    )


def test_the_landing_that_is_made_is_the_newest(day: MemoryDay, services: Services) -> None:
    """`remake_day` is what asks for it, and it never asks the mirror."""
    asked: list[ExtractReceipt] = []

    def stop(*_: object, extracted: ExtractReceipt, **__: object) -> None:
        asked.append(extracted)
        raise StorageUnavailable("enough")

    with mock.patch.object(pipeline, "resolve_day"), mock.patch.object(pipeline, "_make_day", stop):
        with pytest.raises(StorageUnavailable):
            recheck_day(day.context("next-night"), services, dry_run=False)
    assert [landing.manifest for landing in asked] == [LANDED]


@pytest.mark.parametrize("made", ["published", "unchanged"])
def test_a_landing_whose_revision_was_taken_back_is_left_alone_until_a_newer_one(
    day: MemoryDay, services: Services, made: str
) -> None:
    context, inputs = day.inputs([dose("b", "355030")])
    published = day.publish(context, inputs)
    if made == "unchanged":
        day.reconcile(context, published)
        context, inputs = day.inputs([dose("b", "355030")])
        published = day.publish(context, inputs)
    day.own_public.put(f"{published.root_path.rpartition('/')[0]}/removed.csv", b"other")
    with pytest.raises(ContractViolation, match="does not agree with its account"):
        day.reconcile(context, published)
    assert (published.outcome, day.head()["history"][-1]["reason"]) == (made, "restore")
    with mock.patch.object(pipeline, "newest_landing_or_none", return_value=inputs.extract):
        assert _next_night(day, services) == "held"
    _, newer = day.inputs([dose("b", "355030")])
    with mock.patch.object(pipeline, "newest_landing_or_none", return_value=newer.extract):
        assert _next_night(day, services) == "unpublished"


def test_a_day_that_reconcile_left_without_a_revision_is_not_published_again_every_night(
    day: MemoryDay, services: Services
) -> None:
    other = MemoryDay(DAY, day.engine.scratch_dir)
    context, inputs = other.inputs([dose("a", "355030")])
    published = other.publish(context, inputs)
    other.own_public.put(f"{published.root_path.rpartition('/')[0]}/removed.csv", b"other")
    with pytest.raises(ContractViolation, match="does not agree with its account"):
        other.reconcile(context, published)
    made = services_of(other.work, other.public, other.engine.scratch_dir)
    assert other.head()["current"] is None
    with mock.patch.object(pipeline, "newest_landing_or_none", return_value=inputs.extract):
        assert recheck_day(other.context("looks"), made).state == "held"
    with mock.patch.object(pipeline, "newest_landing_or_none", return_value=other.inputs([])[1].extract):
        assert recheck_day(other.context("looks"), made).state == "moved"
