"""Row 7: one document several times. The newest version wins and the rest is counted. Figure: the account closes."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.faults.support import Stage
from tests.integration.extract_support import clear

pytestmark = pytest.mark.servers


def test_two_versions_on_different_pages_both_land_and_one_counts(stage: Stage) -> None:
    before = stage.flatten(stage.whole())
    clear(stage.work)
    stage.simulator.play("same-id:6")
    landed = stage.whole()
    assert landed.receipt.announced == 66
    ids = [version.partition("|")[0] for version in landed.versions]
    assert len(ids) - len(set(ids)) == 6
    after = stage.flatten(landed)
    assert after.documents.fetched == before.documents.fetched + 6
    assert after.documents.duplicates == before.documents.duplicates + 6
    assert after.documents.unique == before.documents.unique
    assert (after.doses, after.candidates) == (before.doses, before.candidates)


def test_a_page_twice_lands_twice_and_counts_once(stage: Stage) -> None:
    before = stage.flatten(stage.whole())
    clear(stage.work)
    stage.simulator.play("duplicate-page:1")
    landed = stage.whole()
    repeated = landed.receipt.fetched - landed.receipt.announced
    assert repeated > 0
    after = stage.flatten(landed)
    assert after.documents.duplicates == before.documents.duplicates + repeated
    assert (after.documents.unique, after.candidates) == (before.documents.unique, before.candidates)


def test_the_newest_version_is_the_one_that_stays(stage: Stage) -> None:
    stage.simulator.play("same-id:6")
    landed = stage.whole()
    flattened = stage.flatten(landed)
    newest: dict[str, datetime] = {}
    for document in landed.documents():
        updated = datetime.fromisoformat(document["meta"]["lastUpdated"])
        newest[document["id"]] = max(newest.get(document["id"], updated), updated)
    rows = stage.rows(flattened.dose, "co_documento", "dt_entrada_rnds")
    assert len(rows) == flattened.candidates
    checked = 0
    for row in rows:
        served = newest.get(row["co_documento"])  # doses after the first have a key of their own
        if served is not None:
            assert datetime.fromisoformat(row["dt_entrada_rnds"]) == served
            checked += 1
    assert checked > 30
