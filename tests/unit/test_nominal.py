"""The files with identifiers: each published row with its own person, or none of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from imunizacao.errors import ContractViolation
from imunizacao.manifests import encode
from imunizacao.settings import PseudonymSettings
from tests.support.control import REASON, MemoryDay
from tests.support.memory_bucket import MemoryBucket
from tests.support.nominal import DAY, DF, PEOPLE, SP, Made, NominalDay


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def bench(made: Made, tmp_path: Path) -> NominalDay:
    day = MemoryDay(DAY, tmp_path)
    nominal = MemoryBucket("nominal", day.clock)
    day.nominal = nominal
    return NominalDay(made, day, nominal, tmp_path)


def test_each_row_has_its_own_person(bench: NominalDay) -> None:
    done = bench.publish("one")
    assert done is not None
    assert done.rows == 2
    files = bench.files()
    assert PEOPLE[SP].identifier in files["35"]
    assert PEOPLE[DF].identifier in files["53"]


def test_another_landing_than_flatten_read_stops_the_stage(bench: NominalDay) -> None:
    context, inputs = bench.inputs()
    other = bench.land(bench.made.lines[::-1])
    for flatten in (replace(inputs.flatten, landing=other), replace(inputs.flatten, landing=None)):
        with pytest.raises(ContractViolation, match="another landing than the one of `extract`"):
            bench.write(context, replace(inputs, flatten=flatten))
    assert bench.files() == {}


def test_a_person_whose_number_does_not_give_the_pseudonym_stops_the_stage(bench: NominalDay) -> None:
    context, inputs = bench.inputs()
    bench.day.publish(context, inputs)
    # The same documents in another order: every row still finds somebody.
    turned = bench.land(bench.made.lines[::-1])
    mixed = replace(
        inputs,
        extract=replace(inputs.extract, manifest=turned),
        flatten=replace(inputs.flatten, landing=turned),
    )
    with pytest.raises(ContractViolation, match="2 rows of 2026-03-14 have the number of another person"):
        bench.write(context, mixed)
    with pytest.raises(ContractViolation, match="or pseudonyms by another key"):
        bench.write(context, inputs, pseudonym=PseudonymSettings(key=b"k" * 40, key_id="t2"))
    assert bench.files() == {}


def test_what_readers_do_not_see_is_not_written(bench: NominalDay) -> None:
    context, inputs = bench.inputs()
    assert bench.write(context, inputs) is None, "not published"
    bench.day.publish(context, replace(inputs, split=replace(inputs.split, content_id="0" * 24)))
    assert bench.write(context, inputs) is None, "another content"
    assert bench.files() == {}


def test_a_withdrawn_uf_goes_first_here_and_comes_back_last(bench: NominalDay) -> None:
    bench.publish("one")
    moved: list[str] = []
    bench.day.watch(lambda verb, key: moved.append(key) if verb == "put" and key.endswith("head.json") else None)
    bench.nominal.before = lambda verb, key: moved.append("nominal") if verb == "put" else None
    told = bench.day.change("withdraw", "DF")
    assert moved == ["nominal", f"public:v1/days/{DAY}/head.json"]
    head = bench.head()
    assert {uf: said.reason for uf, said in head.withdrawn_ufs.items()} == {"53": REASON}
    assert (head.history[-1].note, head.history[-1].ufs) == (REASON, ["53"])
    assert "nominal bucket: rev 1, publicado, 2 doses → rev 2, publicado, 1 dose, sem 53" in told.notes

    # A run changes nothing of it, and its content may come back by the head alone.
    bench.publish("two")
    assert bench.head().withdrawn_ufs["53"].purged_at is None
    moved.clear()
    bench.day.change("restore", "53")
    assert moved == [f"public:v1/days/{DAY}/head.json", "nominal"]
    assert bench.head().withdrawn_ufs == {}


def test_a_withdrawn_day_comes_back_with_the_content_of_the_same_run(bench: NominalDay) -> None:
    bench.publish("one")
    bench.day.change("withdraw")
    head = bench.head()
    assert (head.current, head.withdrawn_by_person, head.history[-1].note) == (None, True, REASON)
    assert bench.write(*bench.inputs("late")) is None
    bench.day.change("restore")
    head = bench.head()
    assert (head.state, head.history[-1].reason, head.history[-1].note) == ("published", "restore", REASON)

    # Of a content that another run made, nobody knows whether it is what readers got back.
    other = msgspec.structs.replace(
        head, history=[msgspec.structs.replace(entry, run_id="other") for entry in head.history]
    )
    bench.nominal.put(f"v1/days/{DAY}/head.json", encode(other))
    bench.day.change("withdraw")
    told = bench.day.change("restore")
    assert told.after.state == "published"
    assert bench.head().current is None
    assert any("--remake" in note for note in told.notes)


def test_a_run_leaves_out_what_is_withdrawn_in_public_until_it_is_restored(bench: NominalDay) -> None:
    """Withdrawn where the profile was off, before this bucket had the day."""
    bench.day.nominal = None
    context, inputs = bench.inputs("one")
    bench.day.reconcile(context, bench.day.publish(context, inputs))
    bench.day.change("withdraw", "DF")
    bench.write(context, inputs)
    assert "53" not in bench.files()
    head = bench.head()
    assert head.withdrawn_ufs["53"].purged_at
    assert [(entry.reason, entry.ufs, entry.note) for entry in head.history] == [
        ("initial", None, None),
        ("withdrawal", ["53"], REASON),
    ]
    assert bench.publish("two") is not None
    assert len(bench.head().history) == 2

    # The head alone cannot bring back a file that is not there; a run that restores can.
    bench.day.nominal = bench.nominal
    told = bench.day.change("restore", "DF")
    assert any("--remake" in note for note in told.notes)
    assert sorted(bench.head().withdrawn_ufs) == ["53"]
    bench.publish("three", reason="restore")
    assert bench.head().withdrawn_ufs == {}
    assert PEOPLE[DF].identifier in bench.files()["53"]


@pytest.mark.parametrize("ufs", [(), ("DF",)])
@pytest.mark.parametrize("late", [False, True])
def test_a_withdrawal_while_the_files_are_written_is_not_missed(
    bench: NominalDay, ufs: tuple[str, ...], late: bool
) -> None:
    """The first time the day comes here: the withdrawal finds no head to move."""
    context, inputs = bench.inputs("one")
    bench.day.reconcile(context, bench.day.publish(context, inputs))
    nominal = bench.nominal

    def withdraw(verb: str, key: str) -> None:
        if verb == "put" and key.endswith("head.json"):
            nominal.before = lambda verb, key: None
            if late:
                bench.day.watch(write_first)
            bench.day.change("withdraw", *ufs)

    def write_first(verb: str, key: str) -> None:
        # Before the public head moves, the run ends.
        if verb == "put" and key.endswith("head.json"):
            bench.day.watch(lambda verb, key: None)
            bench.write(context, inputs)

    nominal.before = withdraw
    bench.write(context, inputs)
    head = bench.head()
    assert head.withdrawn_by_person if not ufs else sorted(head.withdrawn_ufs) == ["53"]
