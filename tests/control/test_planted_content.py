"""What is in the content folder already and was not put there by us: it is not signed, and not published again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imunizacao.errors import ContractViolation, PublicationConflict
from imunizacao.manifests import Head, decode, head_key
from imunizacao.models import PublishInputs, RunContext
from imunizacao.signing import new_key, receipts_vouch
from tests.support.control import MemoryDay
from tests.support.small_day import dose

DAY = "2026-03-14"
HEAD = head_key(DAY)
ROWS = [dose("a", "355030", residence="530010"), dose("b", "530010")]


@pytest.fixture
def day(tmp_path: Path) -> MemoryDay:
    """A day without revisions, in memory."""
    return MemoryDay(DAY, tmp_path)


def _folder(day: MemoryDay) -> str:
    return str(day.head()["current"]["path"].rpartition("/")[0])


def _change(day: MemoryDay, key: str, change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(day.get(key))
    change(document)
    body = json.dumps(document, indent=2).encode() + b"\n"
    day.public.put(key, body)
    return body


def _plant_outcome(day: MemoryDay) -> bytes:
    def lie(outcome: dict[str, Any]) -> None:
        outcome["quarantinedByReason"] = {"CNES_UNKNOWN": 777}

    return _change(day, f"{_folder(day)}/outcome.json", lie)


def _plant(day: MemoryDay) -> str:
    """Another outcome in a root and a head that agree with it, without a signature. The sha256 of the root."""
    outcome = _plant_outcome(day)

    def name_outcome(root: dict[str, Any]) -> None:
        root["files"]["outcome"] |= {"sha256": hashlib.sha256(outcome).hexdigest(), "bytes": len(outcome)}

    root = _change(day, f"{_folder(day)}/day.json", name_outcome)
    sha256 = hashlib.sha256(root).hexdigest()

    def name_root(head: dict[str, Any]) -> None:
        for place in (head["current"], head["history"][-1]):
            signature = place.pop("signature", None)
            place |= {"sha256": sha256, "bytes": len(root)}
            if signature:
                day.public.delete(signature["path"])

    _change(day, HEAD, name_root)
    return sha256


def _by_other_rules(run: tuple[RunContext, PublishInputs]) -> tuple[RunContext, PublishInputs]:
    """The same rows, judged by another suite: the same content id, another root."""
    context, inputs = run
    return context, replace(inputs, validate=replace(inputs.validate, suite_sha256="1" * 64))


def _head(day: MemoryDay) -> Head:
    return decode(Head, day.get(HEAD), HEAD)


def test_a_root_that_somebody_planted_is_neither_signed_nor_published(day: MemoryDay) -> None:
    day.signer = new_key()[1]
    day.revise(ROWS)
    _plant(day)
    before = day.own_public.listing()
    with pytest.raises(ContractViolation, match=r"may have been planted.*keys sign --day 2026-03-14 --without-receipt"):
        day.revise(ROWS)
    assert day.own_public.listing() == before


def test_a_root_of_a_run_that_was_cut_off_before_its_head_moved_can_be_deleted(day: MemoryDay) -> None:
    """The first publication of a day: no history, no receipt and no signature vouches for what it left."""

    class Killed(BaseException):
        pass

    def kill(verb: str, key: str) -> None:
        if verb == "put" and key == f"public:{HEAD}":
            raise Killed

    day.watch(kill)
    with pytest.raises(Killed):
        day.publish(*day.inputs(ROWS))
    day.watch(lambda verb, key: None)
    day.signer = new_key()[1]
    next_run = _by_other_rules(day.inputs(ROWS))
    with pytest.raises(
        ContractViolation, match=r"no history names it.*delete it with the manifests .*damaged-manifest\.md"
    ):
        day.publish(*next_run)
    names = {key.rpartition("/c-")[2].partition("/")[2]: key for key in day.own_public.objects if "/c-" in key}
    for name, key in names.items():
        if name in {"day.json", "outcome.json"} or (name.startswith("uf=") and name.endswith(".json")):
            day.public.delete(key)
    assert day.publish(*next_run).signed_by == day.signer.key_id
    assert day.head()["revision"] == 1


def test_a_manifest_that_somebody_planted_in_a_folder_without_root_is_not_signed(day: MemoryDay) -> None:
    day.signer = new_key()[1]
    day.revise(ROWS)
    folder = _folder(day)
    _plant_outcome(day)
    day.public.delete(f"{folder}/day.json")
    with pytest.raises(PublicationConflict, match=r"outcome\.json .*delete it first"):
        day.revise(ROWS)
    day.public.delete(f"{folder}/outcome.json")
    day.revise(ROWS)
    assert len(day.head()["history"]) == 1


def test_a_root_of_other_rules_is_signed_when_a_receipt_or_our_signature_says_that_it_is_ours(day: MemoryDay) -> None:
    first = day.inputs(ROWS)
    day.reconcile(first[0], day.publish(*first))
    day.signer = new_key()[1]
    by_receipt = _by_other_rules(day.inputs(ROWS))
    assert day.publish(*by_receipt).outcome == "unchanged"
    day.reconcile(by_receipt[0], day.publish(*by_receipt))
    assert day.head()["current"]["signature"]["keyId"] == day.signer.key_id
    # Receipts have a retention, the signature stays.
    for key in [key for key in day.own_work.objects if key.endswith("/publish/receipt.json")]:
        day.work.delete(key)
    assert day.publish(*_by_other_rules(day.inputs(ROWS))).outcome == "unchanged"
    day.signer = new_key()[1]
    with pytest.raises(ContractViolation, match="neither a receipt nor a signature"):
        day.publish(*_by_other_rules(day.inputs(ROWS)))
    assert day.publish(*day.inputs(ROWS)).signed_by == day.signer.key_id, (
        "what a run would write itself needs no witness"
    )


def test_a_run_without_a_key_does_not_vouch_for_what_it_found(day: MemoryDay) -> None:
    """Accident prevented: the first change of keys signs what a run took over, by the receipt of that run."""
    day.revise(ROWS)
    sha256 = _plant(day)
    context, inputs = day.inputs(ROWS)
    found = day.publish(context, inputs)
    assert (found.outcome, found.root_sha256) == ("unchanged", "")
    [entry] = _head(day).history
    assert entry.sha256 == sha256
    assert not receipts_vouch(day.work, "publish")(_head(day), entry)


@pytest.mark.parametrize(
    "name", [f"uf=53/imunizacao-total-df_{DAY}.csv", "removed.csv", "outcome.json", "uf=35/dialect.json"]
)
def test_a_file_that_was_damaged_is_not_published_again(day: MemoryDay, name: str) -> None:
    """The content is a good one of an earlier revision: readers follow the head to it as soon as it moves."""
    day.revise(ROWS)
    key = f"{_folder(day)}/{name}"
    day.revise(ROWS[:1])
    body = day.get(key)
    day.public.put(key, body[:-2])
    before = day.get(HEAD)
    with pytest.raises(ContractViolation, match=rf"{name}.* other bytes .*damaged-manifest\.md"):
        day.revise(ROWS)
    assert day.get(HEAD) == before
    day.public.put(key, body)
    assert day.revise(ROWS).revision == 3


@pytest.mark.parametrize("gone", ["outcome.json", "uf=53/datapackage.json"])
def test_a_manifest_that_is_gone_from_a_folder_with_its_root_is_named(day: MemoryDay, gone: str) -> None:
    day.revise(ROWS)
    folder = _folder(day)
    day.revise(ROWS[:1])
    day.public.delete(f"{folder}/{gone}")
    with pytest.raises(ContractViolation, match=f"{gone} is missing"):
        day.revise(ROWS)


def test_a_run_that_is_refused_leaves_the_index_as_the_head_says(day: MemoryDay) -> None:
    """The run before may have been killed between head and index."""
    day.revise(ROWS)
    folder = _folder(day)
    day.revise(ROWS[:1])
    stale = json.loads(day.get(f"v1/months/{DAY[:7]}/index.json"))
    stale["days"][0]["revision"] = 1
    day.public.put(f"v1/months/{DAY[:7]}/index.json", json.dumps(stale).encode())
    day.public.delete(f"{folder}/outcome.json")
    with pytest.raises(ContractViolation, match="outcome.json is missing"):
        day.revise(ROWS)
    assert json.loads(day.get(f"v1/months/{DAY[:7]}/index.json"))["days"][0]["revision"] == 2


def test_after_a_count_that_did_not_add_up_every_file_is_read_before_it_is_published_again(day: MemoryDay) -> None:
    """A damage that leaves the size as it was: the list cannot tell it, and the same run again would show it to readers again."""
    day.revise(ROWS[:1])
    context, inputs = day.inputs(ROWS)
    published = day.publish(context, inputs)
    key = f"{_folder(day)}/uf=53/imunizacao-total-df_{DAY}.csv"
    body = day.get(key)
    day.public.put(key, body[:-2] + b"!\n")
    with pytest.raises(ContractViolation, match="went back"):
        day.reconcile(context, published)
    before = day.get(HEAD)
    with pytest.raises(ContractViolation, match=r"total-df.* other bytes .*damaged-manifest\.md"):
        day.revise(ROWS)
    assert day.get(HEAD) == before
    day.public.delete(key)
    assert day.revise(ROWS).revision == 4
    reads: list[str] = []
    day.watch(lambda verb, found: reads.append(found) if verb == "get" and found.endswith(".csv") else None)
    day.publish(*day.inputs(ROWS))
    assert not [found for found in reads if "/uf=" in found], "a content that was counted well is not read again"


def test_a_damaged_file_that_readers_see_does_not_keep_a_run_from_its_index(day: MemoryDay) -> None:
    """A run that was killed between head and index is tried again, and `reconcile` comes after it: a refusal would leave the damage."""
    day.revise(ROWS)
    key = f"{_folder(day)}/uf=35/imunizacao-total-sp_{DAY}.csv"
    damaged = day.get(key)[:-40]
    day.public.put(key, damaged)
    day.public.delete("v1/catalog.json")
    assert day.publish(*day.inputs(ROWS)).outcome == "unchanged"
    assert day.get(key) == damaged
    assert [month["month"] for month in json.loads(day.get("v1/catalog.json"))["months"]] == [DAY[:7]]
