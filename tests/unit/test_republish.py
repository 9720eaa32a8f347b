"""Days that are made again for a new CNES: what the command hands to the pipeline."""

from __future__ import annotations

import io
from typing import Any

import pytest

from imunizacao import pipeline, republish
from imunizacao.cli import main
from imunizacao.controle import Difference
from imunizacao.errors import DayHeld
from imunizacao.reference import Affected
from imunizacao.reference.places import AffectedDay

REASON = "Conferido com a secretaria: unidades novas."


def found(*days: str) -> Affected:
    """Affected days, one dose each."""
    affected = [AffectedDay(day=day, establishments=1, doses=1, doses_by_change={"moved": 1}) for day in days]
    return Affected(
        earlier="202602",
        later="202603",
        choice="202603",
        difference=Difference(),
        days=affected,
        checked=2,
        without_index=[],
    )


def test_the_reason_of_a_person_answers_for_every_day_that_is_made_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[dict[str, Any]] = []

    def remake_day(context: Any, services: Any, **given: Any) -> Any:
        made.append({"day": str(context.day), **given})
        raise DayHeld("enough of this day")

    monkeypatch.setattr(pipeline, "remake_day", remake_day)
    monkeypatch.setattr(republish, "_find", lambda *_: (None, found("2026-03-12", "2026-03-14")))
    monkeypatch.setattr(republish, "login", lambda: "ana")
    command = ["reference", "republish", "--from", "202602", "--to", "202603", "--run"]
    assert main([*command, "--decide-publish", REASON], env={}, out=io.StringIO()) == DayHeld.exit_code
    assert [(day["day"], day["decide_publish"], day["decided_by"]) for day in made] == [
        ("2026-03-12", REASON, "ana"),
        ("2026-03-14", REASON, "ana"),
    ]
    assert {(day["reason"], day["cnes"]) for day in made} == {("references", "202603")}

    made.clear()
    assert main([*command, "--decide-publish", "CPF 123.456.789-09"], env={}, out=io.StringIO()) == 2
    assert main([*command[:-1], "--decide-publish", REASON], env={}, out=io.StringIO()) == 2
    assert "add --run" in capsys.readouterr().err
    assert made == []
