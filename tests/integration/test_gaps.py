"""What a reader would count differently from the account: such a day is not published, or the head goes back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from imunizacao.contract import load_schema
from imunizacao.errors import ContractViolation
from imunizacao.models import PublishReceipt
from imunizacao.storage import ObjectStore
from tests.support.reader import DayRead, read_day
from tests.support.small_day import SmallDay, dose

pytestmark = pytest.mark.servers
DAY = "2026-03-14"
ROWS = [dose(f"{n:02d}-i0b0", ("120040", "355030")[n % 2], residence="530010") for n in range(8)]


@pytest.fixture
def day(work: ObjectStore, public: ObjectStore, tmp_path: Path) -> SmallDay:
    """A day of few doses, all of residents of one UF, in fresh buckets."""
    return SmallDay(DAY, work, public, tmp_path)


def _largest(read: DayRead, *, residents: bool) -> str:
    named = [path for path in read.files if "mun=" not in path and path != "removed.csv"]
    return max((path for path in named if ("residentes" in path) is residents), key=lambda path: len(read.files[path]))


@pytest.mark.parametrize(
    ("residents", "said"),
    [(False, "does not agree with its account"), (True, "has other rows than the files by establishment")],
    ids=["row-lost", "other-row-among-residents"],
)
def test_damage_after_publication_takes_the_head_back(day: SmallDay, residents: bool, said: str) -> None:
    context, inputs = day.inputs(ROWS)
    published = day.publish(context, inputs)
    read = read_day(day.get, DAY)
    victim = _largest(read, residents=residents)
    header, first, *others = read.files[victim].splitlines(keepends=True)
    # Among residents: same rows, bytes and order of keys; one dose has become another one.
    broken = [header, first.replace(b'"N"', b'"S"'), *others] if residents else [header, first, *others[:-1]]
    assert b"".join(broken) != read.files[victim]
    folder = read.head["current"]["path"].rpartition("/")[0]
    day.public.put(f"{folder}/{victim}", b"".join(broken), content_type="text/csv")
    with pytest.raises(ContractViolation, match=said):
        day.reconcile(context, published)
    head = json.loads(day.get(f"v1/days/{DAY}/head.json"))
    assert (head["state"], head["revision"], head["current"]) == ("withdrawn", 2, None)
    assert [entry["revision"] for entry in head["history"]] == [1, 2]
    assert head["history"][0]["reconciliation"]["verdict"] == "gap"
    assert [error.message for error in Draft202012Validator(load_schema("head")).iter_errors(head)] == []


def test_an_account_that_does_not_close_is_not_published(day: SmallDay) -> None:
    context, inputs = day.inputs(ROWS)
    short = replace(inputs, flatten=replace(inputs.flatten, superseded=inputs.flatten.superseded + 1))
    with pytest.raises(ContractViolation, match="does not close"):
        day.publish(context, short)
    assert day.public.get_or_none(f"v1/days/{DAY}/head.json") is None


def _recorded(day: SmallDay, receipt: PublishReceipt) -> dict[str, dict[str, int | float]]:
    account, documents = receipt.doses, receipt.documents
    return {
        "extract": {"fetched": documents.fetched},
        "flatten": {
            "fetched": documents.fetched,
            "unique": documents.unique,
            "duplicates": documents.duplicates,
            "doses": account.doses,
            "superseded": account.superseded,
            "removed": account.removed,
        },
        "validate": {"quarantined": account.quarantined},
        "split": {"rows": account.published},
        "publish": {
            "doses": account.doses,
            "published": account.published,
            "quarantined": account.quarantined,
            **{f"diff_{name}": count for name, count in receipt.diff.items()},
        },
    }


@pytest.mark.parametrize(
    ("stage", "count"),
    [
        ("extract", "fetched"),
        ("flatten", "superseded"),
        ("validate", "quarantined"),
        ("split", "rows"),
        ("publish", "published"),
        ("publish", "diff_added"),
    ],
)
def test_what_a_stage_recorded_otherwise_takes_the_head_back(day: SmallDay, stage: str, count: str) -> None:
    day.revise(ROWS[:-1])
    context, inputs = day.inputs(ROWS)
    published = day.publish(context, inputs)
    recorded = _recorded(day, published)
    recorded[stage][count] += 1
    with pytest.raises(ContractViolation, match=rf"outcome of {stage}"):
        day.reconcile(context, published, recorded)
    head = json.loads(day.get(f"v1/days/{DAY}/head.json"))
    assert (head["revision"], head["history"][-1]["reason"]) == (3, "restore")


def test_what_the_stages_recorded_is_what_is_counted_and_other_runs_are_not_asked(day: SmallDay) -> None:
    context, inputs = day.inputs(ROWS)
    published = day.publish(context, inputs)
    day.reconcile(context, published, _recorded(day, published))
    day.reconcile(day.context("somebody-else"), published, {"split": {"rows": 10**6}})
    day.reconcile(context, published, {})
