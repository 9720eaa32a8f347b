"""The tables that the day rules judge say what the doses, the account and the earlier days say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imunizacao.errors import ContractViolation
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine
from imunizacao.sql.compile import RowRule
from imunizacao.storage import ObjectStore
from imunizacao.validate.history import (
    NO_HISTORY,
    SCHEMA,
    History,
    Profile,
    load_history,
    profile_key,
    profile_of,
    put_profile,
    read_history,
)
from imunizacao.validate.stage import make_summary, make_tables
from tests.expectations.tables import DAY, closed_account, good_row, judge, structural_row, write_tables

Row = Mapping[str, Any]
Summaries = Callable[..., tuple[dict[str, Any], dict[str, dict[str, Any]]]]


@pytest.fixture
def duck(tmp_path: Path) -> Iterator[Engine]:
    with open_engine(EngineSettings(scratch_dir=tmp_path), tmp_path) as engine:
        yield engine


@pytest.fixture
def summaries(duck: Engine, tmp_path: Path) -> Summaries:
    """Make the summaries of a made day: the row of the day, and the rows of the UFs by their letters."""

    def make(
        rows: Sequence[Row],
        structural: Sequence[Row] = (),
        *,
        history: History = NO_HISTORY,
        account: Mapping[str, int] | None = None,
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        dose, quarantine = write_tables(tmp_path, rows, structural)
        make_tables(duck, dose=dose, history=history)
        make_summary(
            duck,
            compiled=[RowRule(rule="IMU-012", reason="VACCINE_MISSING", conditions=("co_vacina is null",))],
            structural=quarantine,
            account={**closed_account(len(rows), len(structural)), **(account or {})},
        )
        return rows_of(duck, "resumo_dia")[0], {row["sg_uf"]: row for row in rows_of(duck, "resumo_uf")}

    return make


def rows_of(duck: Engine, table: str) -> list[dict[str, Any]]:
    answer = duck.execute("test", f"select * from {table}")
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def earlier(*days: Profile) -> History:
    return History(profiles=days, missing=(), sha256="h")


def profile(day: str, doses: int, **counts: dict[str, int]) -> Profile:
    return Profile(schema=SCHEMA, day=day, doses=doses, counts=counts)


@pytest.mark.parametrize(
    ("rows", "structural", "account", "expected"),
    [
        (3, 0, {}, {"qt_falta_na_conta": 0}),
        (90, 3, {"doses": 100, "superseded": 5, "removed": 2}, {"qt_falta_na_conta": 0}),
        (3, 0, {"doses": 4}, {"qt_falta_na_conta": 1}),
        (3, 0, {"duplicates": 1}, {"qt_falta_na_conta": 1}),
        (3, 0, {"candidates": 4}, {"qt_falta_na_conta": 1}),
        (3, 1, {"quarantined": 0}, {"qt_falta_na_conta": 1}),
        # Two gaps that cancel each other out are still two.
        (3, 0, {"unique_documents": 4, "doses": 2}, {"qt_falta_na_conta": 2}),
        (95, 5, {}, {"pc_quarentena_estrutural": 5.0, "pc_cnes_desconhecido": 5.0, "pc_quarentena": 5.0}),
        (0, 1, {}, {"pc_quarentena_estrutural": 100.0}),
        (0, 0, {}, {"pc_quarentena_estrutural": 0.0, "pc_cnes_desconhecido": 0.0, "pc_duplicados": 0.0, "pc_quarentena": 0.0}),
        (80, 0, {"fetched": 100, "duplicates": 20}, {"pc_duplicados": 20.0, "qt_falta_na_conta": 0}),
    ],
)  # fmt: skip
def test_the_account_and_the_shares(
    rows: int, structural: int, account: dict[str, int], expected: dict[str, float], summaries: Summaries
) -> None:
    day, _ = summaries(
        [good_row(n) for n in range(rows)], [structural_row(n) for n in range(structural)], account=account
    )
    assert {name: day[name] for name in expected} == expected


def test_what_rules_take_out_counts_as_quarantine(summaries: Summaries) -> None:
    rows = [good_row(n) for n in range(8)] + [good_row(8, co_vacina=None, sg_vacina=None)]
    day, _ = summaries(rows, [structural_row(1, "JSON_INVALID")])
    assert (day["qt_quarentena_regras"], day["qt_quarentena_estrutural"], day["pc_quarentena"]) == (1, 1, 20.0)
    assert day["qt_cnes_desconhecido"] == 0


def test_without_earlier_days_nothing_is_compared(summaries: Summaries) -> None:
    day, ufs = summaries([good_row(n) for n in range(4)])
    assert day["qt_historico_dias"] == 0
    assert {name for name, value in day.items() if value is None} == {
        "qt_historico_mediana",
        "pc_historico_doses",
        "pc_historico_distancia_vacina",
        "pc_historico_distancia_estrategia",
        "pc_historico_distancia_dose",
        "pc_historico_distancia_uf",
    }
    assert len(ufs) == 27
    assert ufs["DF"] == {
        "co_uf": "53", "sg_uf": "DF", "qt_doses": 4, "qt_historico_dias": 0, "qt_historico_mediana": None, "pc_historico": None,
    }  # fmt: skip
    assert sum(row["qt_doses"] for row in ufs.values()) == 4


def test_a_day_is_compared_with_the_median_and_the_sum_of_earlier_ones(summaries: Summaries) -> None:
    rows = [good_row(n) for n in range(6)]
    rows += [
        good_row(6, co_vacina="999", sg_vacina=None),
        good_row(7, co_vacina=None, sg_vacina=None, in_co_uf_estabelecimento=None),
    ]
    history = earlier(
        profile("2026-03-07", 10, uf={"53": 10}, vacina={"33": 5, "15": 5}, estrategia={"1": 10}, dose={"1": 10}),
        profile("2026-02-28", 30, uf={"53": 20, "35": 10}, vacina={"33": 30}, estrategia={"1": 30}, dose={"9": 30}),
        profile("2026-02-21", 0),
    )
    day, ufs = summaries(rows, history=history)
    assert (day["qt_historico_dias"], day["qt_historico_mediana"], day["pc_historico_doses"]) == (3, 10.0, 80.0)
    # Today 33: 6/8, unknown 1/8, none 1/8; before 33: 35/40, 15: 5/40.
    assert day["pc_historico_distancia_vacina"] == pytest.approx(50 * (1 / 8 + 1 / 8 + 1 / 8 + 1 / 8))
    assert day["pc_historico_distancia_estrategia"] == 0.0
    assert day["pc_historico_distancia_dose"] == pytest.approx(75.0)
    # Today DF 7/8, unknown 1/8; before DF 30/40, SP 10/40.
    assert day["pc_historico_distancia_uf"] == pytest.approx(50 * (1 / 8 + 1 / 8 + 1 / 4))
    assert (ufs["DF"]["qt_historico_mediana"], ufs["DF"]["pc_historico"]) == (10.0, 70.0)
    # A day on which the UF had no dose counts as 0.
    assert (ufs["SP"]["qt_doses"], ufs["SP"]["qt_historico_mediana"], ufs["SP"]["pc_historico"]) == (0, 0.0, None)
    assert {row["qt_historico_dias"] for row in ufs.values()} == {3}


def test_earlier_days_without_doses_are_no_distribution(summaries: Summaries) -> None:
    day, ufs = summaries([good_row(1)], history=earlier(profile("2026-03-07", 0), profile("2026-02-28", 0)))
    assert (day["qt_historico_dias"], day["qt_historico_mediana"], day["pc_historico_doses"]) == (2, 0.0, None)
    assert day["pc_historico_distancia_vacina"] is None
    assert ufs["DF"]["pc_historico"] is None


def test_the_counts_of_a_day_name_no_text_from_outside(summaries: Summaries, duck: Engine) -> None:
    rows = [good_row(n) for n in range(3)]
    rows += [good_row(3, co_vacina="MARIA 70000", sg_vacina=None), good_row(4, co_estrategia_vacinacao=None, ds_estrategia_vacinacao=None)]  # fmt: skip
    summaries(rows)
    found = profile_of(duck, DAY, 5)
    assert found.counts == {
        "dose": {"1": 5},
        "estrategia": {"-": 1, "1": 4},
        "uf": {"53": 5},
        "vacina": {"33": 4, "?": 1},
    }


def test_a_profile_that_was_kept_gives_the_same_tables(summaries: Summaries, duck: Engine) -> None:
    summaries([good_row(n) for n in range(5)])
    kept = profile_of(duck, ReferenceDay.parse("2026-03-07"), 5)
    day, ufs = summaries([good_row(n) for n in range(5)], history=earlier(kept, replace(kept, day="2026-02-28")))
    assert (day["pc_historico_doses"], day["pc_historico_distancia_vacina"], ufs["DF"]["pc_historico"]) == (
        100.0,
        0.0,
        100.0,
    )
    load_history(duck, [])
    assert rows_of(duck, "historico_dia") == rows_of(duck, "historico_contagem") == []


def test_a_rule_on_history_says_what_it_had_and_which_uf_it_means(tmp_path: Path) -> None:
    def before(day: str) -> Profile:
        return profile(day, 5000, uf={"35": 4000, "33": 900, "53": 100}, vacina={"15": 5000}, estrategia={"1": 5000}, dose={"1": 5000})  # fmt: skip

    history = replace(earlier(before("2026-03-07"), before("2026-02-28")), missing=("2026-02-21", "2026-02-14"))
    outcome = judge([good_row(n) for n in range(1000)], folder=tmp_path, history=history)
    found = {result.rule: result for result in outcome.rules}
    said = "histórico: 2 de 4 dias; sem contagem: 2026-02-21, 2026-02-14"
    assert all(said in found[rule].note for rule in ("IMU-105", "IMU-106", "IMU-109", "IMU-201", "IMU-202"))
    assert not any(said in found[rule].note for rule in ("IMU-104", "IMU-110"))
    assert (found["IMU-105"].success, found["IMU-105"].observed) == (False, 20.0)
    assert (found["IMU-106"].success, found["IMU-106"].observed) == (False, 100.0)
    assert (found["IMU-107"].success, found["IMU-107"].observed) == (True, 0.0)
    # RJ is above 100 on such a day, so it is judged by its share, but below 1000.
    assert (found["IMU-201"].failed, found["IMU-201"].note.endswith(": DF, RJ, SP")) == (3, True)
    assert (found["IMU-202"].failed, found["IMU-202"].note.endswith(": SP")) == (1, True)
    assert outcome.held_because == ["IMU-202"]
    assert {"IMU-105", "IMU-106", "IMU-109", "IMU-201"} <= set(outcome.warnings)
    page = "".join(path.read_text(encoding="utf-8") for path in outcome.pages)
    assert "histórico: 2 de 4 dias" in page


# --- in the work bucket ------------------------------------------------------------------------------


@pytest.mark.servers
def test_the_same_weekdays_are_read_and_absent_ones_named(work: ObjectStore) -> None:
    empty = read_history(work, DAY)
    assert (empty.profiles, empty.missing) == ((), ("2026-03-07", "2026-02-28", "2026-02-21", "2026-02-14"))
    put_profile(work, profile("2026-02-28", 7, uf={"53": 7}))
    put_profile(work, profile("2026-03-08", 9, uf={"53": 9}))
    found = read_history(work, DAY)
    assert [one.day for one in found.profiles] == ["2026-02-28"]
    assert found.text == "histórico: 1 de 4 dias; sem contagem: 2026-03-07, 2026-02-21, 2026-02-14"
    assert found.sha256 != empty.sha256
    put_profile(work, profile("2026-02-28", 8, uf={"53": 8}))
    assert read_history(work, DAY).sha256 != found.sha256


@pytest.mark.servers
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        json.dumps({"schema": SCHEMA, "day": "2026-03-07", "doses": "x", "counts": {}}).encode(),
        json.dumps({"schema": SCHEMA, "day": "2026-03-08", "doses": 1, "counts": {}}).encode(),
        json.dumps({"schema": SCHEMA, "day": "2026-03-07", "doses": 1, "counts": {"uf": {"53": -1}}}).encode(),
    ],
)
def test_a_damaged_profile_is_named(body: bytes, work: ObjectStore) -> None:
    work.put(profile_key("2026-03-07"), body)
    with pytest.raises(ContractViolation, match=r"v1/profiles/day=2026-03-07\.json .* damaged .*Delete the object"):
        read_history(work, DAY)


@pytest.mark.servers
def test_a_profile_of_another_version_is_as_if_it_were_not_there(work: ObjectStore) -> None:
    work.put(profile_key("2026-03-07"), b'{"schema": "imunizacao.profile/0", "x": 1}')
    assert read_history(work, DAY).missing[0] == "2026-03-07"
