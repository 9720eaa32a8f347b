"""Row 10: cancelled documents and knots of replacements. Figure: 100 % of the documents have the right fate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from imunizacao.models import FlattenReceipt
from tests.faults.support import Landed, Stage

pytestmark = pytest.mark.servers
UNKNOWN = "00000000-0000-4000-8000-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a landed document says of itself and of another one."""

    updated: datetime
    status: str
    replaces: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fates:
    """Documents of the day by what became of them; ids without the number of the dose."""

    said: dict[str, Said]
    published: set[str]
    removed: dict[str, str]
    """Rows of removed.csv: document and its motive."""
    receipt: FlattenReceipt


def _base(identity: str) -> str:
    return identity.rpartition("/")[2][:36]


def _said(document: dict[str, Any]) -> Said:
    composition = document["entry"][0]["resource"]
    replaced = [relation["targetReference"]["reference"] for relation in composition.get("relatesTo", [])]
    return Said(
        updated=datetime.fromisoformat(document["meta"]["lastUpdated"]),
        status=composition["status"],
        replaces=_base(replaced[0]) if replaced else "",
    )


def _fates(stage: Stage, landed: Landed) -> Fates:
    flattened = stage.flatten(landed)
    removed = stage.rows(flattened.removed, "co_documento", "co_motivo")
    return Fates(
        said={_base(document["id"]): _said(document) for document in landed.documents()},
        published={_base(row["co_documento"]) for row in stage.rows(flattened.dose, "co_documento")},
        removed={_base(row["co_documento"]): row["co_motivo"] for row in removed},
        receipt=flattened,
    )


def test_of_two_documents_that_replace_each_other_the_newest_stays(stage: Stage) -> None:
    stage.simulator.play("cycle:3")
    fates = _fates(stage, stage.whole())
    pairs = [
        (one, said.replaces)
        for one, said in fates.said.items()
        if said.replaces in fates.said and fates.said[said.replaces].replaces == one
    ]
    assert len(pairs) == 6, "three pairs, seen from both sides"
    for one, other in pairs:
        newest = max((one, other), key=lambda identity: (fates.said[identity].updated, identity))
        oldest = other if newest == one else one
        assert newest in fates.published
        assert oldest not in fates.published
        assert fates.removed[oldest] == "replaced"


def test_the_document_that_stays_of_a_cycle_is_not_listed_as_removed(stage: Stage) -> None:
    stage.simulator.play("cycle:3")
    fates = _fates(stage, stage.whole())
    assert not fates.published & fates.removed.keys(), "a reader who applies removed.csv would lose published documents"


def test_a_replaced_document_that_nobody_knows_is_listed_and_its_successor_published(stage: Stage) -> None:
    stage.simulator.play("replaces-unknown:3")
    fates = _fates(stage, stage.whole())
    successors = {identity for identity, said in fates.said.items() if said.replaces.startswith(UNKNOWN)}
    assert len(successors) == 3
    assert successors <= fates.published
    unknown = {identity: motive for identity, motive in fates.removed.items() if identity.startswith(UNKNOWN)}
    assert list(unknown.values()) == ["replaced"] * 3


def test_of_a_chain_only_the_last_document_stays_unless_it_is_cancelled(stage: Stage) -> None:
    stage.simulator.play("error-chain:3")
    fates = _fates(stage, stage.whole())
    last = {"entered-in-error": 0, "final": 0}
    cancelled = 0
    for identity, said in fates.said.items():
        middle = fates.said.get(said.replaces)
        if middle is None or middle.replaces not in fates.said:
            continue
        chain = (middle.replaces, said.replaces, identity)
        states = [fates.said[member].status for member in chain]
        assert states.count("entered-in-error") == 1
        last[states[2]] += 1
        for member, state in zip(chain, states, strict=True):
            assert (member in fates.published) == (member == identity and state == "final")
            if state == "entered-in-error":
                cancelled += 1
                assert fates.removed[member] in {"entered-in-error", "replaced"}
            elif member != identity:
                assert fates.removed[member] == "replaced"
    assert last == {"entered-in-error": 1, "final": 2}
    assert cancelled == 3
    account = fates.receipt
    assert account.doses == account.candidates + account.quarantined + account.superseded + account.removed_doses
