"""The table of profile generations, the page that tells readers of it, and where a person sees what is not in it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imunizacao import pipeline
from imunizacao.flatten import PROFILES, known_profiles
from imunizacao.models import (
    DocumentAccount,
    DoseAccount,
    FlattenReceipt,
    ObjectRef,
    PublishReceipt,
    ReferenceVersions,
    ValidateReceipt,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "dados" / "perfis.md"
NOTHING = ObjectRef(key="k", sha256="0", bytes=0)
COMMON: dict[str, Any] = {
    "stage": "s",
    "day": "2026-03-14",
    "run_id": "r",
    "code_version": "c",
    "fingerprint": "f",
}


def rows() -> list[dict[str, str]]:
    with PROFILES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def line_of(row: dict[str, str]) -> str:
    """A generation as a line of the page."""
    profiles = [f"`{name}`" if name else "—" for name in (row["perfil_composition"], row["perfil_immunization"])]
    return (
        f"| {row['geracao']} | {row['tp_documento']} | {profiles[0]} | {profiles[1]} | {row['ds_periodo']} | "
        f"{row['ds_diferencas']} |"
    )


def test_every_generation_has_one_name_and_its_own_composition() -> None:
    found = rows()
    assert len({row["geracao"] for row in found}) == len(found) >= 8
    compositions = [row["perfil_composition"] for row in found if row["perfil_composition"]]
    assert len(set(compositions)) == len(compositions)
    assert all(row["perfil_immunization"] and row["fonte"] and row["ds_diferencas"] for row in found)


def test_a_profile_name_leads_to_its_generation() -> None:
    known = known_profiles()
    assert known["BRRegistroImunobiologicoAdministradoRotina-2.0"] == "RIA-R 2.0"
    assert known["BRImunobiologicoAdministradoCampanha-1.0"] == "RIA-C 1.0"
    assert known["br-core-immunization"] == "BR-Core"
    assert not any("/" in name for name in known)


def test_the_page_for_readers_has_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    found = [
        line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| geração", "| ---"))
    ]
    wanted = [line_of(row) for row in rows()]
    assert found == wanted, "docs/dados/perfis.md must hold exactly these lines:\n" + "\n".join(wanted)


def flatten_receipt(**codes: int) -> FlattenReceipt:
    return FlattenReceipt(
        **COMMON,
        dose=NOTHING,
        quarantine=NOTHING,
        removed=NOTHING,
        documents=DocumentAccount(fetched=1, unique=1, duplicates=0),
        doses=1,
        candidates=1,
        quarantined=0,
        superseded=0,
        removed_doses=0,
        slow_path=0,
        pseudonym_key_id="k",
        references=ReferenceVersions(cnes_competencia="202602", cnes_sha256="", ibge_sha256="", pni_sha256=""),
        code_counts={name.replace("_", " "): count for name, count in codes.items()},
    )


def published(**news: int) -> PublishReceipt:
    return PublishReceipt(
        **COMMON,
        outcome="published",
        revision=2,
        state="published",
        content_id="c",
        root_path="r",
        root_sha256="0",
        head_path="h",
        doses=DoseAccount(doses=1204, published=1200, quarantined=4, superseded=0, removed=0),
        documents=DocumentAccount(fetched=1204, unique=1204, duplicates=0),
        files=1,
        bytes=1,
        reason="initial",
        news=news,
        signed_by="0123456789abcdef",
    )


VALIDATED = ValidateReceipt(
    **COMMON,
    rules=[],
    suite_sha256="0",
    quarantine=NOTHING,
    bad_keys=NOTHING,
    checked=1,
    quarantined_by_rules=0,
    quarantined=0,
    quarantined_by_reason={},
    quarantined_by_uf={},
    publish=True,
    held_because=[],
    warnings=[],
    docs_key="d",
)


def test_the_note_of_a_run_tells_the_difference_from_the_revision_before() -> None:
    receipt = replace(published(), diff={"added": 1200, "changed": 3, "removed": 0})
    assert "4 em quarentena · 1.200 incluídas, 3 alteradas, 0 retiradas" in pipeline.run_note(receipt, VALIDATED)


def test_the_receipt_tells_unknown_profiles_from_generations_and_codes() -> None:
    receipt = flatten_receipt(
        **{"geração_RIA-R 2.0": 5, "perfil_desconhecido_Rotina-3.0": 2, "perfil_desconhecido_(outros)": 1, "co": 9}
    )
    assert receipt.unknown_profiles == {"Rotina-3.0": 2, "(outros)": 1}
    assert FlattenReceipt.from_json(receipt.to_json()) == receipt


@pytest.mark.parametrize(
    ("news", "end"),
    [
        ({}, "4 em quarentena"),
        ({"unknown_profiles": 3}, "4 em quarentena · 3 perfis desconhecidos"),
        ({"unknown_profiles": 1, "unknown_elements": 1}, "4 em quarentena · 1 perfil desconhecido · 1 campo novo"),
        ({"unknown_elements": 12}, "4 em quarentena · 12 campos novos"),
    ],
)
def test_the_note_of_a_run_speaks_of_news_only_when_there_are_some(news: dict[str, int], end: str) -> None:
    assert pipeline.run_note(published(**news), VALIDATED) == f"rev 2 · 1.200 doses · {end}"
    assert replace(published(), news=news).news == news


def test_the_note_of_a_run_says_that_a_day_has_no_signature() -> None:
    assert pipeline.run_note(replace(published(), signed_by=""), VALIDATED).endswith("4 em quarentena · sem assinatura")


def test_a_receipt_written_before_this_field_can_still_be_read() -> None:
    text = published().to_json().replace(',"news":{}', "")
    assert "news" not in text
    assert PublishReceipt.from_json(text) == published()
