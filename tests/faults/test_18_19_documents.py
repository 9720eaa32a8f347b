"""Rows 18 and 19: one document that is huge, deep, no text or no JSON. It is kept with a reason; the rest of the day lands."""

from __future__ import annotations

import pytest

from imunizacao.errors import MirrorProtocolError
from tests.faults.support import Landed, Stage

pytestmark = pytest.mark.servers


def _reasons(stage: Stage, landed: Landed) -> dict[str, int]:
    """Reasons in the quarantine that the documents of the day would not have without the scenario."""
    flattened = stage.flatten(landed)
    assert flattened.documents.fetched == landed.receipt.fetched
    found: dict[str, int] = {}
    for row in stage.rows(flattened.quarantine, "ds_motivos"):
        for reason in row["ds_motivos"]:
            if not reason.startswith(("CNES_", "DATE_")):
                found[reason] = found.get(reason, 0) + 1
    return found


@pytest.mark.parametrize(
    ("scenario", "reason", "amount", "inside"),
    [
        ("huge:17", "DOC_TOO_LARGE", 1, b"vacina vacina vacina"),
        ("huge:50", "DOC_TOO_LARGE", 1, b"vacina vacina vacina"),
        ("deep:200000", "DEPTH", 1, b"[" * 200_000),
        ("deep:1000", "DEPTH", 1, b"[" * 1000),
        ("bad-utf8:3", "UTF8_INVALID", 3, b"\xe7\xe3o"),
        ("nul:1", "JSON_INVALID", 1, b"\x00"),
    ],
)
def test_a_document_that_cannot_be_a_line_is_kept_with_its_reason_and_bytes(
    stage: Stage, scenario: str, reason: str, amount: int, inside: bytes
) -> None:
    stage.simulator.play(scenario)
    landed = stage.whole()
    assert [reject.reason for reject in landed.rejects] == [reason] * amount
    assert all(inside in reject.body for reject in landed.rejects)
    assert len({reject.version for reject in landed.rejects}) == amount
    assert len(landed.lines) == 60 - amount
    assert _reasons(stage, landed) == {reason: amount}


@pytest.mark.parametrize(
    ("scenario", "reason", "amount"), [("bad-json:3", "JSON_INVALID", 3), ("surrogate:3", "JSON_INVALID", 3)]
)
def test_a_document_that_lands_and_is_no_json_goes_to_quarantine(
    stage: Stage, scenario: str, reason: str, amount: int
) -> None:
    stage.simulator.play(scenario)
    landed = stage.whole()
    assert not landed.rejects
    assert _reasons(stage, landed) == {reason: amount}


@pytest.mark.parametrize("scenario", ["huge:1", "huge:15", "deep:50"])
def test_a_document_within_the_limits_is_a_document_like_any_other(stage: Stage, scenario: str) -> None:
    stage.simulator.play(scenario)
    landed = stage.whole()
    assert not landed.rejects
    assert not _reasons(stage, landed)


def test_an_escaped_nul_is_a_character_of_its_lot(stage: Stage) -> None:
    stage.simulator.play("nul:2")
    landed = stage.whole()
    assert [reject.reason for reject in landed.rejects] == ["JSON_INVALID"], "the raw one"
    assert sum(b"\\u0000" in line for line in landed.lines) == 1
    assert _reasons(stage, landed) == {"JSON_INVALID": 1}


def test_all_kinds_at_once_spoil_only_themselves(stage: Stage) -> None:
    stage.simulator.play("huge:17", "deep:200000", "surrogate:2", "nul:2", "bad-utf8:2", "bad-json:2")
    landed = stage.whole(stage.settings(page_size=60))
    flattened = stage.flatten(landed)
    assert 5 <= len(landed.rejects) <= 6
    assert flattened.documents.fetched == 60
    assert flattened.candidates > 40


def test_an_answer_beyond_the_memory_of_a_task_fails_the_day_by_name(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imunizacao.fhir.transport.MAX_BODY_BYTES", 1 << 20)
    stage.simulator.play("huge:2")
    stage.fails(MirrorProtocolError, names=r"slice \S+Z/\S+Z page \d+ .*larger than 1 MiB")


def test_an_answer_beyond_the_memory_of_a_task_is_never_taken(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imunizacao.fhir.transport.MAX_BODY_BYTES", 1 << 20)
    stage.simulator.play("huge:2")
    with pytest.raises(MirrorProtocolError, match="larger than 1 MiB"):
        stage.extract()
    stage.require_no_receipt()
