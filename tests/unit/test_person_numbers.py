"""Numbers of persons in texts and ids: found however they are grouped, and rarely seen in what is none."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imunizacao.person_numbers import cns_is_valid, cpf_is_valid, holds_person_number
from imunizacao.quarantine.ids import passable_id, shown_id
from tests.unit import test_macros as oracle

CPF, CNS = "52998224725", "700000000000005"
_DIGITS = st.one_of(
    st.text(oracle.DIGITS, min_size=10, max_size=16),
    st.text(oracle.DIGITS, min_size=9, max_size=9).map(oracle.cpf_digits),
    st.text(oracle.DIGITS, min_size=11, max_size=11).map(oracle.cns_from_pis),
    st.builds("{}{}".format, st.sampled_from("789"), st.text(oracle.DIGITS, min_size=14, max_size=14)),
)


@given(_DIGITS)
def test_check_digits_are_those_of_the_sources(digits: str) -> None:
    assert cpf_is_valid(digits) is oracle.cpf_is_valid(digits)
    assert cns_is_valid(digits) is oracle.cns_is_valid(digits)


@pytest.mark.parametrize("number", [CPF, CNS])
def test_a_number_is_found_in_any_grouping(number: str) -> None:
    rng = random.Random(number)
    for _ in range(100):
        text = number[0]
        for digit in number[1:]:
            text += rng.choice(["", "", "", ".", "-", " ", "/", " - ", "–", "_", ", "]) + digit
        assert holds_person_number(f"dia 2026-03-14, {text}, conferido"), text


@pytest.mark.parametrize(
    "text",
    ["2026-03-14, 2026-03-15 e 16/03/2026", "25000.012345/2026-11", "0001234-56.2026.8.26.0100", "1.234.567 doses"],
)
def test_dates_processes_and_counts_are_no_number_of_a_person(text: str) -> None:
    assert not holds_person_number(text)


@pytest.mark.parametrize(
    "document", [CPF, f"ria-{CPF}", f"ria.{CPF}-v2", "529.982.247-25", f"doc-{CNS}", "70000-0000000-005", "12345678900"]
)
def test_an_id_that_says_who_somebody_is_is_shown_to_nobody(document: str) -> None:
    assert shown_id(f"{document}-i0b0", []) == passable_id(f"{document}-i0b0", []) == ""


def test_what_flatten_found_in_an_id_needs_no_second_opinion() -> None:
    assert shown_id("ria-x-i0b0", ["CNES_UNKNOWN", "ID_IDENTIFIES_PERSON"]) == ""


@pytest.mark.parametrize(
    ("document", "outside"),
    [
        (f"00000000-0000-4000-8000-0{CPF}-i0b0", True),
        ("ria-2026.17-i1b0", True),
        ("id_of/another form", False),
        (None, False),
    ],
)
def test_other_ids_are_shown_and_only_those_of_the_rnds_leave(document: str | None, outside: bool) -> None:
    assert shown_id(document, ["CNES_UNKNOWN"]) == (document or "")
    assert passable_id(document, ["CNES_UNKNOWN"]) == (document if outside else "")
