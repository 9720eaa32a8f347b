"""Masked counts against a reader who does arithmetic: nothing that is hidden can be narrowed to a small count."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imunizacao.ksafe import MASK, K, PublicCount, mask_count, mask_reasons

PLACES = ("00", "11", "12", "35", "53")


@pytest.mark.parametrize(("count", "public"), [(0, 0), (1, MASK), (7, MASK), (8, 8), (100, 100)])
def test_one_to_seven_is_hidden(count: int, public: PublicCount) -> None:
    assert mask_count(count) == public


def test_a_single_small_cell_takes_the_next_one_with_it() -> None:
    safe = mask_reasons({"35": {"A": 100, "B": 9}, "53": {"A": 3}, "11": {"A": 20}}, {"A": 123, "B": 9}, places=PLACES)
    assert safe.by_place == {"11": {"A": MASK}, "35": {"A": 100, "B": 9}, "53": {"A": MASK}}
    assert safe.totals == {"A": 123, "B": 9}


def test_nothing_small_nothing_hidden() -> None:
    counts = {"35": {"A": 8, "B": 80}, "53": {"A": 9}}
    safe = mask_reasons(counts, {"A": 17, "B": 80}, places=PLACES)
    assert (safe.by_place, safe.totals) == (counts, {"A": 17, "B": 80})


def test_many_cells_of_one_are_hidden_among_all_places() -> None:
    """Their sum is public and says that each is 1, unless a place without any could be meant as well."""
    eight = {f"{code}": {"A": 1} for code in range(11, 19)}
    everywhere = [str(code) for code in range(11, 38)]
    safe = mask_reasons(eight, {"A": 8}, places=everywhere)
    assert safe.totals == {"A": 8}
    assert safe.by_place == {place: {"A": MASK} for place in everywhere}


def test_a_hidden_sum_cannot_be_added_up_again() -> None:
    safe = mask_reasons({"35": {"A": 3, "B": 50}, "53": {"B": 60}}, {"A": 3, "B": 110}, places=PLACES)
    assert safe.totals == {"A": MASK, "B": MASK}, "all quarantined doses are public: 113 - 110 would tell"
    assert safe.by_place["35"] == {"A": MASK, "B": MASK}
    assert safe.by_place["53"]["B"] == 60


def _worlds(column: dict[str, PublicCount], total: int) -> list[dict[str, int]]:
    """Every table of one reason that a reader who knows the sum and the rule of 1 to 7 may think possible."""
    hidden = [place for place, count in column.items() if count == MASK]
    left = total - sum(count for count in column.values() if isinstance(count, int))
    lowest = 0 if len(hidden) == len(PLACES) else 1
    return [
        dict(zip(hidden, values, strict=True))
        for values in product(range(lowest, left + 1), repeat=len(hidden))
        if sum(values) == left
    ]


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(PLACES), st.integers(0, 12), min_size=1))
def test_a_reader_who_subtracts_learns_of_no_hidden_cell_more_than_that_it_is_hidden(cells: dict[str, int]) -> None:
    total = sum(cells.values())
    # A second reason, great and spread, so that the sum of all reasons tells nothing.
    by_place = {place: {"A": count, "B": 50} for place, count in cells.items()}
    safe = mask_reasons(by_place, {"A": total, "B": 50 * len(cells)}, places=PLACES)
    column = {place: counts["A"] for place, counts in safe.by_place.items() if "A" in counts}
    assert not [place for place, count in column.items() if isinstance(count, int) and 0 < count < K]
    for place, count in cells.items():
        assert column.get(place, 0) in (count, MASK)
    if safe.totals["A"] == MASK or MASK not in column.values():
        return
    worlds = _worlds(column, total)
    for place in [place for place, count in column.items() if count == MASK]:
        possible = {world[place] for world in worlds}
        assert possible >= set(range(1, K)), f"{place} can only be {sorted(possible)}"
