"""The columns that rules judge and nobody publishes, made of whole documents."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imunizacao.contract import load_contract
from imunizacao.validate.columns import DOSE_COLUMNS
from tests.unit.fhir_documents import (
    BASE,
    Flattened,
    Json,
    build_entry,
    changed,
    coded_extension,
    concept,
    flatten_lines,
    invent_person,
    line_of,
    resources,
    write_references,
)

CPF, CNS = "12345678909", "100000000060018"
Change = Callable[[Json], None]


def dose(**elements: Any) -> Change:
    """Set elements of the first dose; None takes them away."""

    def change(made: Json) -> None:
        resource = resources(made)[1]["resource"]
        for name, value in elements.items():
            if value is None:
                resource.pop(name, None)
            else:
                resource[name] = value

    return change


def lot(text: str) -> Change:
    return dose(lotNumber=text)


def coded(name: str, code: str) -> Json:
    return concept(name, code)


def group(code: str, birth: str | None = None) -> Change:
    def change(made: Json) -> None:
        resource = resources(made)[1]["resource"]
        resource["extension"] = [coded_extension("BRGrupoAtendimento", "BRGrupoAtendimento", code)]
        for entry in resources(made):
            if entry["resource"]["resourceType"] == "Patient" and birth:
                entry["resource"]["birthDate"] = birth

    return change


def maker(code: str | None, text: str | None) -> Change:
    value: Json = {}
    if code:
        value["identifier"] = {"system": f"{BASE}CodeSystem/BRFabricantePNI", "value": code}
    if text is not None:
        value["display"] = text
    return dose(manufacturer=value or None)


def strategy(code: str) -> Change:
    extension = coded_extension("BREstrategiaVacinacao-1.0", "BREstrategiaVacinacao", code)
    return dose(protocolApplied=[{"extension": [extension], "doseNumberString": "1"}])


def profile(name: str) -> Change:
    def change(made: Json) -> None:
        resources(made)[0]["resource"]["meta"]["profile"] = [f"{BASE}StructureDefinition/{name}"]

    return change


def registered(text: str) -> Change:
    def change(made: Json) -> None:
        resources(made)[0]["resource"]["date"] = text

    return change


CASES: list[tuple[Change, dict[str, Any]]] = [
    (dose(status="completed"), {"in_st_imunizacao": "completed"}),
    (dose(status="not-done"), {"in_st_imunizacao": "not-done"}),
    (dose(status=" entered-in-error\n"), {"in_st_imunizacao": "entered-in-error"}),
    (dose(status=None), {"in_st_imunizacao": None}),
    (dose(vaccineCode=coded("BRImunobiologico", "96")), {"in_vacina_ativa": "N", "in_vacina_categoria": "Vacina"}),
    (dose(vaccineCode=coded("BRImunobiologico", "2")), {"in_vacina_ativa": "S", "in_vacina_categoria": "Soro"}),
    (dose(vaccineCode=coded("BRImunobiologico", "999")), {"in_vacina_ativa": None, "in_vacina_categoria": None}),
    (strategy("0"), {"in_estrategia_ativa": "N"}),
    (strategy("1"), {"in_estrategia_ativa": "S"}),
    (strategy("77"), {"in_estrategia_ativa": None}),
    (group("000201", "1990-01-01"), {"in_grupo_ativo": "N", "in_idade_no_grupo": True}),
    (group("000206", "1990-01-01"), {"in_idade_no_grupo": False}),
    (group("000205", "1900-01-01"), {"in_idade_no_grupo": True}),
    (group("000205", "1990-01-01"), {"in_idade_no_grupo": False}),
    (group("000209", "2026-01-01"), {"in_idade_no_grupo": True}),
    (group("000210", "1990-01-01"), {"in_grupo_ativo": "S", "in_idade_no_grupo": None}),
    (group("000201", "2999-01-01"), {"in_idade_no_grupo": None, "nu_idade_paciente": None}),
    (profile("BRRegistroImunobiologicoAdministradoCarga-1.0"), {"in_carga": True}),
    (profile("BRRegistroImunobiologicoAdministradoRotina-2.0"), {"in_carga": False}),
    (dose(location={"identifier": {"value": "21"}}), {"in_pais_aplicacao_conhecido": True}),
    (dose(location={"identifier": {"value": "BR"}}), {"in_pais_aplicacao_conhecido": False}),
    (dose(location=None), {"in_pais_aplicacao_conhecido": None}),
    (maker("152", None), {"in_fabricante_informado": True, "in_fabricante_divergente": None, "in_fabricante_texto_conhecido": None}),
    (maker("152", "Butantan"), {"in_fabricante_divergente": False, "in_fabricante_texto_conhecido": None, "ds_vacina_fabricante": "INSTITUTO BUTANTAN"}),
    (maker("152", "LABORATORIOS PFIZER LTDA"), {"in_fabricante_divergente": True, "ds_vacina_fabricante": "INSTITUTO BUTANTAN"}),
    # Another plant of the same company, and a name that the table gives to several codes of one company.
    (maker("28290", "Pfizer"), {"in_fabricante_divergente": False}),
    (maker("42490", "SINOVAC"), {"in_fabricante_divergente": False}),
    (maker("152", "astrazenica"), {"in_fabricante_divergente": None, "in_fabricante_texto_conhecido": None}),
    (maker(None, "astrazenica"), {"in_fabricante_informado": True, "in_fabricante_texto_conhecido": False, "ds_vacina_fabricante": None}),
    (maker(None, "fiocruz"), {"in_fabricante_texto_conhecido": True, "ds_vacina_fabricante": "FUNDACAO OSWALDO CRUZ"}),
    (maker(None, "sinovac"), {"in_fabricante_texto_conhecido": True, "ds_vacina_fabricante": None}),
    (maker(None, " "), {"in_fabricante_informado": False, "in_fabricante_texto_conhecido": None}),
    (dose(expirationDate="2026-02"), {"dt_validade_lote": None, "in_qt_dias_validade": None}),
    (lot("não informado"), {"in_lote_normalizado": "NAOINFORMADO", "in_lote_identificador": False}),
    (lot("n/i - 000"), {"in_lote_normalizado": "NI000"}),
    (lot("---"), {"in_lote_normalizado": ""}),
    (dose(lotNumber=None), {"in_lote_normalizado": None, "in_lote_identificador": False}),
    (lot(f"LOTE {CPF}"), {"in_lote_identificador": True}),
    (lot("123.456.789-09 dose 2"), {"in_lote_identificador": True}),
    (lot("1000 0000 0060 018"), {"in_lote_identificador": True}),
    (lot(f"CNS{CNS}x"), {"in_lote_identificador": True}),
    (lot("12345678900"), {"in_lote_identificador": False}),
    (lot(f"9{CPF}"), {"in_lote_identificador": False}),
    (dose(occurrenceDateTime="2026-03-10", expirationDate="2026-03-01"), {"in_qt_dias_validade": -9}),
    (dose(occurrenceDateTime="2026-03-10", expirationDate="2099-03-10"), {"in_qt_dias_validade": 26663}),
    (dose(expirationDate=None), {"in_qt_dias_validade": None}),
    # Registered at 01:30 in UTC: still the 11th in Brasilia.
    (lambda made: (dose(occurrenceDateTime="2026-03-10")(made), registered("2026-03-12T01:30:00Z")(made))[0], {"in_qt_dias_registro": 1}),
    (registered("ontem"), {"in_qt_dias_registro": None}),
]  # fmt: skip


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Flattened, int]]:
    """All cases on the fast path, and again on the order-free one."""
    folder = tmp_path_factory.mktemp("flags")
    tables = write_references(folder)
    found = []
    for shuffled in (False, True):
        lines = []
        for number, (change, _) in enumerate(CASES):
            rng = random.Random(f"flags {number}")
            made = build_entry(rng, identifier=f"doc-{number:03d}", person=invent_person(rng), with_patient=True)
            made = changed(made, change)
            if shuffled:
                resources(made).reverse()
            lines.append(line_of(made))
        place: Path = folder / str(shuffled)
        place.mkdir()
        flattened = flatten_lines(place, tables, [lines])
        assert (flattened.counts["any_shape"] > 0) is shuffled
        found.append((flattened, len(lines)))
    return found


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_flag_says_what_the_document_says_on_both_paths(number: int, judged: list[tuple[Flattened, int]]) -> None:
    expected = CASES[number][1]
    for flattened, _ in judged:
        row = next(row for row in flattened.dose if row["co_documento"] == f"doc-{number:03d}-i0b0")
        assert {name: row[name] for name in expected} == expected


def test_the_page_of_the_rules_describes_every_column_that_flatten_adds(judged: list[tuple[Flattened, int]]) -> None:
    published = set(load_contract("dose").names)
    for flattened, count in judged:
        assert len(flattened.dose) == count
        assert [name for name in flattened.dose[0] if name not in published] == list(DOSE_COLUMNS)


def test_no_flag_that_must_be_there_is_null(judged: list[tuple[Flattened, int]]) -> None:
    always = [name for name, (_, meaning) in DOSE_COLUMNS.items() if "Nunca nulo" in meaning]
    assert "in_lote_identificador" in always
    for flattened, _ in judged:
        assert not [name for name in always for row in flattened.dose if row[name] is None]
