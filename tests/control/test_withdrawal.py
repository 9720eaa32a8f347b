"""A person withdraws and restores days and UFs on the real S3 server; runs before, after and between keep to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from imunizacao.claims import store_clock
from imunizacao.contract import load_schema
from imunizacao.errors import ConfigurationError, ContractViolation, PublicationConflict
from imunizacao.housekeeping import KINDS
from imunizacao.publish import publish_day
from imunizacao.storage import ObjectStore, open_public_store, open_work_store
from imunizacao_local.seaweed import SeaweedServer
from tests.support.buckets import fresh_buckets
from tests.support.control import REASON, ControlledDay, broken_promises, tidy
from tests.support.reader import apply_diff, read_day, read_diff
from tests.support.small_day import dose, make_inputs

pytestmark = pytest.mark.servers
ROWS = [dose("a-i0b0", "350010"), dose("b-i0b0", "530010"), dose("c-i0b0", "530010"), dose("d-i0b0", "520110")]


@pytest.fixture(scope="module")
def stores(s3_server: SeaweedServer) -> Iterator[tuple[ObjectStore, ObjectStore]]:
    """Work and public bucket for all tests of this file: each has a day of its own."""
    with fresh_buckets(s3_server) as settings:
        yield open_work_store(settings), open_public_store(settings)


@pytest.fixture(scope="module")
def dates() -> Iterator[str]:
    """Days that nothing was published for, each in another month: an index is then of one day."""
    return (str(date(2026, 1, 1) + timedelta(days=31 * n)) for n in count())


@pytest.fixture
def day(stores: tuple[ObjectStore, ObjectStore], dates: Iterator[str], tmp_path: Path) -> ControlledDay:
    """A day without revisions."""
    return ControlledDay(next(dates), *stores, tmp_path)


def _require_valid(day: ControlledDay) -> dict[str, Any]:
    """Head, month index and catalog are what their schemas say."""
    head = day.head()
    for name, document in (
        ("head", head),
        ("month-index", json.loads(day.get(f"v1/months/{day.day[:7]}/index.json"))),
        ("catalog", json.loads(day.get("v1/catalog.json"))),
    ):
        Draft202012Validator(load_schema(name)).validate(document)
    return head


def _restore_run(day: ControlledDay, rows: list[dict[str, str]]) -> None:
    context, inputs = day.inputs(rows)
    published = publish_day(
        context,
        inputs=inputs,
        work=day.work,
        public=day.public,
        engine=day.engine,
        now=day.now,
        reason="restore",
    )
    assert published.outcome == "published"
    day.reconcile(context, published)


def test_a_withdrawn_day_has_nothing_to_read_and_a_public_reason_and_comes_back_as_it_was(day: ControlledDay) -> None:
    day.revise(ROWS)
    before = read_day(day.get, day.day)
    looked = day.change("withdraw", dry_run=True)
    assert (looked.state, looked.before.rows, looked.after.state) == ("would-change", 4, "withdrawn")
    assert day.head() == before.head

    done = day.change("withdraw")
    head = _require_valid(day)
    assert (done.state, head["state"], head["current"], head["revision"]) == ("changed", "withdrawn", None, 2)
    entry = head["history"][-1]
    assert (entry["reason"], entry["note"], entry["supersedes"]) == ("withdrawal", REASON, 1)
    assert "reconciliation" not in entry
    row = day.month_row()
    assert (row["state"], row["rows"], row["root"], row["revision"]) == ("withdrawn", 0, None, 2)
    month = json.loads(day.get("v1/catalog.json"))["months"][-1]
    assert (month["month"], month["rows"]) == (day.day[:7], 0)

    again = day.change("withdraw")
    assert (again.state, day.head()) == ("unchanged", head)

    back = day.change("restore")
    assert (back.state, back.after.rows) == ("changed", 4)
    after = read_day(day.get, day.day)
    _require_valid(day)
    assert after.files == before.files
    last = after.head["history"][-1]
    assert (last["reason"], last["note"], last["revision"]) == ("restore", REASON, 3)
    assert last["reconciliation"]["verdict"] == "ok"
    assert after.head["current"] | {"publishedAt": ""} == before.head["current"] | {"publishedAt": ""}
    assert day.month_row()["rows"] == 4
    assert day.change("restore").state == "unchanged"


def test_no_run_publishes_a_withdrawn_day_again_not_even_after_a_reconcile_that_came_late(day: ControlledDay) -> None:
    context, inputs = day.inputs(ROWS)
    published = day.publish(context, inputs)
    day.change("withdraw")
    day.reconcile(context, published)
    head = day.head()
    assert "reconciliation" not in head["history"][-1], "a verdict would make it look like reconcile's own withdrawal"
    with pytest.raises(PublicationConflict, match="withdrawn by a person"):
        day.publish(*day.inputs(ROWS))
    _restore_run(day, ROWS)
    assert read_day(day.get, day.day).head["history"][-1]["reason"] == "restore"


def test_a_day_that_reconcile_took_back_stays_away_once_a_person_withdraws_it(day: ControlledDay) -> None:
    context, inputs = day.inputs(ROWS)
    published = day.publish(context, inputs)
    folder = day.head()["current"]["path"].rpartition("/")[0]
    key = f"{folder}/uf=53/imunizacao-total-df_{day.day}.csv"
    whole = day.public.get(key).body
    day.public.put(key, whole[:-30])
    with pytest.raises(ContractViolation, match="The day is withdrawn"):
        day.reconcile(context, published)
    day.public.put(key, whole)
    with pytest.raises(ConfigurationError, match="next run publishes it with all UFs"):
        day.change("withdraw", "DF")
    done = day.change("withdraw")
    assert (done.state, done.before.state, done.after.state) == ("changed", "withdrawn", "withdrawn")
    last = _require_valid(day)["history"][-1]
    assert (last["reason"], last["note"], "reconciliation" in last) == ("withdrawal", REASON, False)
    assert day.change("withdraw").state == "unchanged"
    with pytest.raises(PublicationConflict, match="withdrawn by a person"):
        day.publish(*day.inputs(ROWS))


def test_the_same_run_withdraws_once_whatever_became_of_its_answer(day: ControlledDay) -> None:
    day.revise(ROWS)
    day.change("withdraw", run_id="one")
    day.change("restore")
    again = day.change("withdraw", run_id="one")
    assert (again.state, day.head()["revision"]) == ("changed", 3)
    assert day.head()["state"] == "published", "a task that is tried again does not undo what came after it"


def test_a_withdrawn_uf_is_named_counts_nowhere_and_stays_withdrawn_over_later_runs(day: ControlledDay) -> None:
    day.revise(ROWS)
    first = read_day(day.get, day.day)
    done = day.change("withdraw", "DF", "DF")
    assert (done.ufs, done.before.rows, done.after.rows) == (["53"], 4, 2)
    head = _require_valid(day)
    assert head["state"] == "published"
    assert head["current"] == first.head["current"]
    assert head["withdrawnUfs"]["53"] == {"revision": 2, "reason": REASON, "at": head["history"][-1]["publishedAt"]}
    entry = head["history"][-1]
    assert (entry["ufs"], entry["reason"], entry["contentId"]) == (
        ["53"],
        "withdrawal",
        first.head["current"]["contentId"],
    )
    row = day.month_row()
    assert (row["rows"], row["withdrawnUfs"], "53" in row["ufs"], len(row["ufs"])) == (2, ["53"], False, 26)
    assert day.change("withdraw", "53").state == "unchanged"

    # A later run: the UF stays withdrawn, and the diff speaks of the others alone. A dose that went there is removed, one that came
    # from there is added.
    second = [
        dose("a-i0b0", "350010", co_lote_vacina="L2"),
        dose("b-i0b0", "520110"),
        dose("c-i0b0", "530010", co_lote_vacina="L2"),
        dose("d-i0b0", "530010"),
    ]
    day.revise(second)
    head = _require_valid(day)
    assert sorted(head["withdrawnUfs"]) == ["53"]
    diff = head["history"][-1]["diff"]
    assert sorted(diff["ufs"]) == ["35", "52"]
    assert (diff["added"], diff["changed"], diff["removed"]) == (1, 1, 1)
    assert head["history"][-1]["reconciliation"]["verdict"] == "ok"
    now = read_day(day.get, day.day)

    def readable(files: dict[str, bytes]) -> dict[str, bytes]:
        return {path: body for path, body in files.items() if not path.startswith("uf=53/") and path != "removed.csv"}

    assert apply_diff(readable(first.files), read_diff(day.get, head["history"][-1])) == readable(now.files)

    back = day.change("restore", "53")
    assert (back.ufs, back.after.rows) == (["53"], 4)
    head = _require_valid(day)
    assert "withdrawnUfs" not in head
    assert head["history"][-1]["ufs"] == ["53"]
    assert "withdrawnUfs" not in day.month_row()
    # And the next run is an ordinary one.
    day.revise(ROWS)
    assert set(_require_valid(day)["history"][-1]["diff"]["ufs"]) == {"35", "52", "53"}


def test_a_uf_stays_withdrawn_while_the_day_goes_and_comes_back_and_a_run_that_restores_brings_all(
    day: ControlledDay,
) -> None:
    day.revise(ROWS)
    day.change("withdraw", "53", "35")
    day.change("withdraw")
    with pytest.raises(ConfigurationError, match="restore the day first"):
        day.change("restore", "53")
    assert day.change("withdraw", "52").state == "unchanged"
    back = day.change("restore")
    assert back.after.withdrawn_ufs == ["35", "53"]
    assert day.change("restore").notes == ["The day is not withdrawn. UF 35, 53 is: name it with --uf."]
    _restore_run(day, ROWS)
    head = _require_valid(day)
    assert "withdrawnUfs" not in head
    assert head["history"][-1]["ufs"] == ["35", "53"]
    assert "diff" not in head["history"][-1], "the content is the same"


def test_a_restore_that_finds_a_file_missing_or_changed_changes_nothing_and_says_how(day: ControlledDay) -> None:
    day.revise(ROWS)
    folder = day.head()["current"]["path"].rpartition("/")[0]
    day.change("withdraw")
    key = f"{folder}/uf=53/mun=530010/imunizacao-530010_{day.day}.csv"
    body = day.public.get(key).body
    for damage in (lambda: day.public.delete(key), lambda: day.public.put(key, body[:-1] + b"\r")):
        damage()
        head = day.head()
        with pytest.raises(ContractViolation, match=r"1 files of .*mun=530010.*run-day .* --reason restore"):
            day.change("restore")
        assert day.head() == head


def test_days_and_ufs_that_do_not_exist_and_reasons_that_must_not_become_public_are_refused(day: ControlledDay) -> None:
    with pytest.raises(ConfigurationError, match="Nothing was ever published"):
        day.change("withdraw")
    day.revise(ROWS)
    head = day.head()
    with pytest.raises(ConfigurationError, match="54 is no UF"):
        day.change("withdraw", "54")
    assert day.head() == head


def test_a_file_that_left_a_complete_folder_is_written_again_by_the_next_run(day: ControlledDay) -> None:
    day.revise(ROWS)
    folder = day.head()["current"]["path"].rpartition("/")[0]
    day.public.delete(f"{folder}/uf=35/imunizacao-total-sp_{day.day}.csv")
    assert day.revise(ROWS).outcome == "unchanged"
    assert len(read_day(day.get, day.day).rows) == 4


def test_housekeeping_removes_on_the_real_server_what_it_has_listed_and_nothing_else(
    day: ControlledDay, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert abs(store_clock(day.work) - datetime.now(UTC)) < timedelta(minutes=1)
    day.revise(ROWS)
    context = day.context("late")
    older = make_inputs(context, ROWS[:1], day.work, hour=0)
    assert day.publish(context, older).outcome == "superseded"
    day.change("withdraw", "53", now=datetime.now(UTC))
    folder = day.engine.scratch_dir
    report = tidy(day.work, day.public, folder, delete=False)
    assert not [name for _, name, _, _ in report.names if day.day in name], "all of it was written just now"

    later = datetime.now(UTC) + timedelta(days=31)
    monkeypatch.setattr("imunizacao.housekeeping.run.store_clock", lambda work: later)
    before = {info.key for store in (day.work, day.public) for info in store.list("")}
    # Claims are as young as this test; the clock is a month ahead.
    kinds = [kind for kind in KINDS if kind != "claims"]
    listed = tidy(day.work, day.public, folder, delete=False, only=kinds)
    assert {info.key for store in (day.work, day.public) for info in store.list("")} == before
    done = tidy(day.work, day.public, folder, delete=True, only=kinds, run_id="real")
    assert done.tallies == listed.tallies
    assert [name for kind, name, _, _ in done.names if kind == "content"] == [
        f"public:v1/days/{day.day}/c-{older.split.content_id}/"
    ]
    assert broken_promises(day.public, [day.day]) == []
    head = _require_valid(day)
    left = {info.key for info in day.public.list(f"v1/days/{day.day}/")}
    assert not [key for key in left if key.endswith(".csv") and "/uf=53/" in key]
    assert len(left) == 3 * 27 + 26 + 2 + 4, (
        "descriptors of 27 UFs, CSVs of 26 and two municipalities, root, removed, outcome, head"
    )
    assert head["history"][-1]["purgedUfs"] == ["53"]
    assert tidy(day.work, day.public, folder, delete=True, only=kinds, run_id="again").objects == 0
