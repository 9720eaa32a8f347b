"""The files with identifiers: each published row with its own person, or none of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imunizacao.errors import ContractViolation
from imunizacao.settings import PseudonymSettings
from tests.support.control import MemoryDay
from tests.support.memory_bucket import MemoryBucket
from tests.support.nominal import DAY, DF, PEOPLE, SP, NominalDay


@pytest.fixture
def bench(tmp_path: Path) -> NominalDay:
    day = MemoryDay(DAY, tmp_path)
    return NominalDay(tmp_path, day, MemoryBucket("nominal", day.clock))


def test_each_row_has_its_own_person(bench: NominalDay) -> None:
    assert bench.write(*bench.inputs()).rows == 2
    files = bench.files()
    assert PEOPLE[SP].identifier in files["35"]
    assert PEOPLE[DF].identifier in files["53"]


def test_another_landing_than_flatten_read_stops_the_stage(bench: NominalDay) -> None:
    context, inputs = bench.inputs()
    other = bench.land(bench.lines[::-1])
    for flatten in (replace(inputs.flatten, landing=other), replace(inputs.flatten, landing=None)):
        with pytest.raises(ContractViolation, match="another landing than the one of `extract`"):
            bench.write(context, replace(inputs, flatten=flatten))
    assert bench.files() == {}


def test_a_person_whose_number_does_not_give_the_pseudonym_stops_the_stage(bench: NominalDay) -> None:
    context, inputs = bench.inputs()
    # The same documents in another order: every row still finds somebody.
    turned = bench.land(bench.lines[::-1])
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
