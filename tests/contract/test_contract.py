"""The contract file is sound, and the loader refuses one that is not."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import frictionless
import pytest
import yaml
from frictionless.resources import TableResource

from imunizacao import contract as module
from imunizacao.contract import (
    Contract,
    Origin,
    load_contract,
    load_schema,
    parse_contract,
    reference_file,
    table_schema,
)
from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.paths import CONTRACT, ROOT

OFFICIAL = [
    "co_documento",
    "co_paciente",
    "tp_sexo_paciente",
    "co_raca_cor_paciente",
    "no_raca_cor_paciente",
    "co_municipio_paciente",
    "co_pais_paciente",
    "no_municipio_paciente",
    "no_pais_paciente",
    "sg_uf_paciente",
    "nu_cep_paciente",
    "ds_nacionalidade_paciente",
    "no_etnia_indigena_paciente",
    "co_etnia_indigena_paciente",
    "co_cnes_estabelecimento",
    "no_razao_social_estabelecimento",
    "no_fantasia_estalecimento",
    "co_municipio_estabelecimento",
    "no_municipio_estabelecimento",
    "sg_uf_estabelecimento",
    "co_troca_documento",
    "co_vacina",
    "sg_vacina",
    "dt_vacina",
    "co_dose_vacina",
    "ds_dose_vacina",
    "co_local_aplicacao",
    "ds_local_aplicacao",
    "co_via_administracao",
    "ds_via_administracao",
    "co_lote_vacina",
    "ds_vacina_fabricante",
    "dt_entrada_rnds",
    "co_sistema_origem",
    "ds_sistema_origem",
    "st_documento",
    "co_estrategia_vacinacao",
    "ds_estrategia_vacinacao",
    "co_origem_registro",
    "ds_origem_registro",
    "co_vacina_grupo_atendimento",
    "ds_vacina_grupo_atendimento",
    "co_vacina_categoria_atendimento",
    "ds_vacina_categoria_atendimento",
    "co_vacina_fabricante",
    "ds_vacina",
    "ds_condicao_maternal",
    "co_tipo_estabelecimento",
    "ds_tipo_estabelecimento",
    "co_natureza_estabelecimento",
    "ds_natureza_estabelecimento",
    "nu_idade_paciente",
    "co_condicao_maternal",
    "no_uf_paciente",
    "no_uf_estabelecimento",
    "dt_deletado_rnds",
]
OURS = [
    "co_identificador_sistema",
    "dt_entrada_datalake",
    "dt_registro_origem",
    "dt_validade_lote",
    "st_contato_hanseniase",
    "co_pais_aplicacao",
    "co_ibge_municipio_paciente",
    "co_ibge_municipio_estabelecimento",
    "st_residente_uf",
    "co_paciente_anterior",
]
CONTRACTS = ("dose", "removed")


@pytest.fixture(scope="module")
def dose() -> Contract:
    return load_contract()


def as_node(name: str = "dose") -> dict[str, Any]:
    node = yaml.safe_load((CONTRACT / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(node, dict)
    return node


def parse(node: object, name: str = "dose") -> Contract:
    return parse_contract(yaml.safe_dump(node, allow_unicode=True, sort_keys=False), name=name)


def column_node(node: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(item for item in node["columns"] if item["name"] == name)
    return found


def test_columns_are_the_official_ones_in_order_then_ours(dose: Contract) -> None:
    assert list(dose.names) == OFFICIAL + OURS
    assert dose.official_columns == len(OFFICIAL) == 56
    assert dose.version == "1.1.0"
    assert dose.primary_key == ("co_documento",)
    assert dose.sort_key == ("co_municipio_estabelecimento", "co_documento")


def test_removed_columns() -> None:
    removed = load_contract("removed")
    assert list(removed.names) == [
        "co_documento",
        "co_troca_documento",
        "st_documento",
        "dt_deletado_rnds",
        "co_motivo",
        "dt_entrada_rnds",
    ]
    assert removed.column("co_motivo").enum == ("entered-in-error", "replaced", "deleted")


def test_columns_that_stay_empty(dose: Contract) -> None:
    empty = {column.name for column in dose.columns if column.origin == "empty"}
    assert empty == {"dt_deletado_rnds", "dt_entrada_datalake"}
    assert all(not dose.column(name).accepts("2026-03-14T08:15:30.123-03:00") for name in empty)
    assert all(dose.column(name).accepts(None) for name in empty)


def test_nothing_that_identifies_a_person_is_published_plain(dose: Contract) -> None:
    pseudonyms = {column.name for column in dose.columns if column.privacy == "pseudonym"}
    assert pseudonyms == {"co_paciente", "co_paciente_anterior", "co_identificador_sistema"}
    for name in pseudonyms:
        column = dose.column(name)
        assert column.accepts("0a" * 32)
        assert not column.accepts("12345678909")
        assert not column.accepts("700000000000005")
    assert not any(name.startswith(("nu_cns", "nu_cpf", "no_paciente", "dt_nascimento")) for name in dose.names)
    assert not dose.column("nu_cep_paciente").accepts("70070100")


def test_no_code_column_is_wide_enough_for_a_cpf_or_a_cns(dose: Contract) -> None:
    for column in dose.columns:
        if column.type == "string" and column.pattern and column.name not in ("co_documento", "co_troca_documento"):
            assert not column.accepts("12345678909"), f"{column.name} takes 11 digits"
            assert not column.accepts("700000000000005"), f"{column.name} takes 15 digits"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("co_documento", "00000000-0000-4000-8000-000000000001-i3b0", "00000000-0000-4000-8000-000000000001"),
        ("co_documento", "a-i0b0", "=1+1-i0b0"),
        ("co_cnes_estabelecimento", "0000019", "19"),
        ("co_municipio_estabelecimento", "530010", "5300108"),
        ("co_vacina", "33", "33 "),
        ("co_vacina_fabricante", "33781055006761", "33781055006"),
        ("co_etnia_indigena_paciente", "X344", "344"),
        ("sg_uf_estabelecimento", "DF", "XX"),
        ("dt_vacina", "1998-01-31", "1899-12-31"),
        ("dt_vacina", "2024-02-29", "2026-02-29"),
        ("dt_entrada_rnds", "2026-03-14T08:15:30.123-03:00", "2026-03-14T08:15:30"),
        ("dt_entrada_rnds", "2026-03-14T08:15:30.000-03:00", "2026-03-14T08:15:30Z"),
        ("co_lote_vacina", "=1+1", "x" * 101),
        ("st_documento", "final", "entered-in-error"),
        ("nu_idade_paciente", 0, -1),
        ("nu_idade_paciente", 61, "61"),
    ],
)
def test_a_column_accepts_and_refuses(dose: Contract, name: str, good: str | int, bad: str | int) -> None:
    assert dose.column(name).accepts(good)
    assert not dose.column(name).accepts(bad)


def test_a_null_is_refused_only_where_required(dose: Contract) -> None:
    required = {column.name for column in dose.columns if not column.accepts(None)}
    assert required == {
        "co_documento",
        "co_paciente",
        "co_cnes_estabelecimento",
        "co_municipio_estabelecimento",
        "no_municipio_estabelecimento",
        "sg_uf_estabelecimento",
        "co_vacina",
        "dt_vacina",
        "co_dose_vacina",
        "dt_entrada_rnds",
        "st_documento",
        "no_uf_estabelecimento",
        "co_ibge_municipio_estabelecimento",
    }


def test_names_of_codes_may_be_missing_because_a_code_may_be_newer_than_its_table(dose: Contract) -> None:
    for column in dose.columns:
        if column.reference and column.reference.table.startswith("pni_"):
            assert not column.required, column.name


def test_an_unknown_column_is_an_error(dose: Contract) -> None:
    with pytest.raises(ConfigurationError, match="'co_vacinna' is not in contract dose"):
        dose.column("co_vacinna")


@pytest.mark.parametrize("name", CONTRACTS)
def test_code_tables_and_references_exist_and_agree_with_the_column(name: str) -> None:
    for column in load_contract(name).columns:
        for source in (column.reference, column.codes):
            if source is None:
                continue
            with reference_file(source).open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            if source.table == "tbEstabelecimento":
                used = {row["coluna"] for row in rows if row["usar_no_pipeline"] == "S"}
                assert source.column in used, f"{column.name}: {source} is not imported"
                continue
            values = {row[source.column] for row in rows}
            if source == column.codes and column.name != "st_documento":
                refused = sorted(value for value in values if not column.accepts(value))
                assert not refused, f"{column.name} refuses codes of {source}: {refused}"
            if column.rule is None or source == column.codes:
                assert column.example in values, f"{column.name}: example is not in {source}"


def test_uf_list_is_the_table_of_the_ibge(dose: Contract) -> None:
    with (ROOT / "include/reference/ibge/ibge_ufs.csv").open(encoding="utf-8", newline="") as file:
        ufs = tuple(row["sg_uf"] for row in csv.DictReader(file))
    assert dose.column("sg_uf_estabelecimento").enum == ufs
    assert dose.column("sg_uf_paciente").enum == ufs


# --- a malformed contract is refused with its fault -----------------------------------------------


def test_every_fault_is_listed_at_once() -> None:
    node = as_node()
    del column_node(node, "co_vacina")["description"]
    column_node(node, "dt_vacina")["type"] = "timestamp"
    with pytest.raises(ContractViolation) as caught:
        parse(node)
    message = str(caught.value)
    assert "has 2 fault(s)" in message
    assert "column 22 (co_vacina): description is missing" in message
    assert "column 24 (dt_vacina): unknown type 'timestamp'; expected one of string, date, datetime, integer" in message


@pytest.mark.parametrize(
    ("column", "change", "fault"),
    [
        ("co_vacina", {"description": "  "}, "description must be one line of text"),
        ("co_vacina", {"title": None}, "title is missing"),
        ("co_vacina", {"example": None}, "example is missing"),
        ("co_vacina", {"example": "x"}, "example 'x' breaks the column's own type or constraints"),
        ("co_vacina", {"example": 33}, "example 33 breaks the column's own type or constraints"),
        ("co_vacina", {"pattern": "[0-9"}, "is no regular expression"),
        ("co_vacina", {"pattern": "^[0-9]{1,6}$"}, "must have no anchors"),
        ("co_vacina", {"patern": "[0-9]+"}, "unknown key 'patern'"),
        ("co_vacina", {"privacy": "public"}, "unknown privacy 'public'"),
        ("co_vacina", {"origin": "somewhere"}, "unknown origin 'somewhere'"),
        ("co_vacina", {"fhir_path": None}, "origin document needs fhir_path"),
        ("sg_vacina", {"reference": None}, "origin reference needs reference"),
        ("sg_vacina", {"reference": "pni_imunobiologico"}, "must be table.column"),
        ("st_residente_uf", {"rule": None}, "origin derived needs rule"),
        ("st_residente_uf", {"enum": [True, False]}, "enum must hold text in quotes, got True"),
        ("st_residente_uf", {"enum": ["S", "N", "S"]}, "enum names 'S' twice"),
        ("dt_vacina", {"max_length": 10}, "pattern, enum and max_length are for strings, not for date"),
        ("dt_vacina", {"minimum": "1900-13-01"}, "bound '1900-13-01' does not fit type date"),
        ("co_lote_vacina", {"max_length": 0}, "max_length must be at least 1"),
        ("co_lote_vacina", {"max_length": "100"}, "max_length must be a whole number"),
        ("co_lote_vacina", {"privacy": "operational"}, "text_columns and privacy free-text must agree"),
        ("co_local_aplicacao", {"pattern": None}, "a string needs a pattern, an enum"),
        ("dt_entrada_datalake", {"required": True}, "an empty column has no example and cannot be required"),
        ("co_documento", {"required": False}, "is part of a key and must be required"),
        ("co_documento", {"required": "yes"}, "required must be true or false"),
        ("co_documento", {"name": "coDocumento"}, "does not match"),
        ("co_paciente", {"name": "co_documento"}, "column co_documento is written more than once"),
        ("co_paciente", {"aliases": {"api": "codigo_documento"}}, "alias codigo_documento of api is given to more"),
        ("co_paciente", {"aliases": {"opendata": "x"}}, "unknown key 'opendata'"),
    ],
)
def test_a_malformed_column_is_refused(column: str, change: dict[str, Any], fault: str) -> None:
    node = as_node()
    target = column_node(node, column)
    for key, value in change.items():
        if value is None:
            del target[key]
        else:
            target[key] = value
    with pytest.raises(ContractViolation, match=re.escape(fault)):
        parse(node)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"version": "1.0"}, "version '1.0' does not match"),
        ({"version": 1.0}, "version must be text in quotes"),
        ({"name": "doses"}, "name is 'doses', but the file is dose.yaml"),
        ({"primary_key": ["co_dose"]}, "primary_key names 'co_dose', which is no column"),
        ({"primary_key": []}, "primary_key is empty"),
        ({"sort_key": ["co_municipio_estabelecimento"]}, "the order of the rows is not total"),
        ({"text_columns": ["co_lote_vacina"]}, "text_columns and privacy free-text must agree"),
        ({"official_columns": 67}, "official_columns is 67, of 66 columns"),
        ({"datetime_offset": "BRT"}, "datetime_offset 'BRT' does not match"),
        ({"columns": {}}, "columns must be a list"),
        ({"columns": ["co_documento"]}, "column 1: must be a mapping"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_a_malformed_contract_is_refused(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(ContractViolation, match=re.escape(fault)):
        parse({**as_node(), **change})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"privacy": "identifier"}, "privacy identifier may not leave in profile pseudonymised"),
        ({"name": "nu_cpf_paciente"}, "column nu_cpf_paciente: its name says that it identifies a person"),
        ({"name": "dt_nascimento_paciente"}, "its name says that it identifies a person"),
        ({"fhir_path": "Patient.name.text"}, "Patient.name.text identifies a person: privacy must be identifier"),
        ({"fhir_path": "Composition.subject.identifier.value"}, "identifies a person: privacy must be identifier"),
        ({"fhir_path": "Immunization.performer.actor.reference"}, "identifies a person"),
    ],
)
def test_a_column_that_says_who_somebody_is_cannot_be_called_otherwise(change: dict[str, Any], fault: str) -> None:
    node = as_node()
    column_node(node, "co_sistema_origem").update(change)
    with pytest.raises(ContractViolation, match=re.escape(fault)):
        parse(node)


def test_the_nominal_contract_is_that_of_the_doses_with_the_person(dose: Contract) -> None:
    nominal = load_contract("nominal")
    person = ("nu_cns_paciente", "nu_cpf_paciente", "dt_nascimento_paciente")
    assert nominal.names == (*dose.names, *person)
    assert nominal.columns[: len(dose.columns)] == dose.columns
    assert {nominal.column(name).privacy for name in person} == {"identifier"}
    with pytest.raises(ContractViolation, match="dt_nascimento_paciente, nu_cns_paciente, nu_cpf_paciente are not on"):
        module.require_may_leave(dose, module.csv_header(nominal))
    with pytest.raises(ContractViolation, match="in profile pseudonymised"):
        parse({**as_node("nominal"), "profile": "pseudonymised"}, "nominal")


def test_free_text_cannot_be_required() -> None:
    node = as_node()
    column_node(node, "co_lote_vacina")["required"] = True
    with pytest.raises(ContractViolation, match="free text cannot be required"):
        parse(node)


def test_all_columns_of_a_contract_may_leave(dose: Contract) -> None:
    assert dose.may_leave == dose.names
    module.require_may_leave(dose, module.csv_header(dose))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            ';"sg_vacina"',
            ';"sg_vacina";"nu_cns_paciente"',
            "nu_cns_paciente are not on the allow-list of contract dose",
        ),
        (';"sg_vacina"', "", "missing sg_vacina"),
        ('"co_documento";"co_paciente"', '"co_paciente";"co_documento"', "another order or spelling"),
        ('"co_documento"', "co_documento", "another order or spelling"),
        ("\n", "", "another order or spelling"),
    ],
)
def test_a_header_that_is_not_the_contract_does_not_leave(dose: Contract, old: str, new: str, fault: str) -> None:
    with pytest.raises(ContractViolation, match=re.escape(fault)):
        module.require_may_leave(dose, module.csv_header(dose).replace(old, new, 1))


def test_a_key_written_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="key 'version' is written twice"):
        parse_contract('name: dose\nversion: "1.0.0"\nversion: "2.0.0"\n', name="dose")


def test_a_file_that_is_not_yaml_or_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_contract(folder=tmp_path)
    (tmp_path / "dose.yaml").write_text("columns: [", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is not valid YAML"):
        load_contract(folder=tmp_path)
    with pytest.raises(ConfigurationError, match=r"heads\.schema\.json cannot be read"):
        load_schema("heads")


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(ContractViolation, match="must be a mapping"):
        parse_contract("", name="dose")


# --- what is generated ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTRACTS)
def test_table_schema_is_valid_and_complete(name: str) -> None:
    contract = load_contract(name)
    node = table_schema(contract)
    assert "fieldsMatch" not in node
    assert [field["name"] for field in node["fields"]] == list(contract.names)
    assert node["missingValues"] == [""]
    assert node["primaryKey"] == list(contract.primary_key)
    schema = frictionless.Schema.from_descriptor(node)
    assert len(schema.fields) == len(contract.columns)


def write_row(path: Path, contract: Contract, change: dict[str, str]) -> None:
    row: dict[str, str] = {
        column.name: "" if column.example is None else str(column.example) for column in contract.columns
    }
    row.update(change)
    header = ";".join(f'"{name}"' for name in contract.names)
    cells = ";".join('"' + row[name].replace('"', '""') + '"' if row[name] else "" for name in contract.names)
    path.write_bytes(f"{header}\n{cells}\n".encode())


def validate(path: Path, contract: Contract) -> list[str]:
    resource = TableResource(
        path=path.name,
        basepath=str(path.parent),
        dialect=frictionless.Dialect.from_descriptor(
            {key: value for key, value in module.csv_dialect().items() if key != "$schema"}
        ),
        schema=frictionless.Schema.from_descriptor(table_schema(contract)),
    )
    report = resource.validate()
    return [f"{error.type}:{getattr(error, 'field_name', '')}" for task in report.tasks for error in task.errors]


def test_a_published_row_passes_an_independent_validator(tmp_path: Path, dose: Contract) -> None:
    write_row(tmp_path / "dose.csv", dose, {"co_lote_vacina": '\'=1+1;"A"'})
    assert validate(tmp_path / "dose.csv", dose) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("co_cnes_estabelecimento", "19"),
        ("co_vacina_fabricante", "152x"),
        ("dt_vacina", "10/03/2026"),
        ("dt_entrada_rnds", "ontem"),
        ("nu_idade_paciente", "61.0"),
        ("sg_uf_estabelecimento", "XX"),
        ("co_vacina", ""),
    ],
)
def test_a_bad_row_fails_an_independent_validator(tmp_path: Path, dose: Contract, column: str, value: str) -> None:
    write_row(tmp_path / "dose.csv", dose, {column: value})
    errors = validate(tmp_path / "dose.csv", dose)
    assert errors, f"{column}={value!r} passed"
    assert all(error.endswith(f":{column}") for error in errors), errors


def test_dialect_is_declared_in_full() -> None:
    dialect = module.csv_dialect()
    assert dialect["delimiter"] == ";"
    assert dialect["lineTerminator"] == "\n"
    assert dialect["quoteChar"] == '"'
    assert dialect["doubleQuote"] is True
    assert dialect["header"] is True


def test_dictionary_page_is_current() -> None:
    page = (ROOT / "docs/dados/dicionario.md").read_text(encoding="utf-8")
    assert page == module.dictionary_page(), (
        "docs/dados/dicionario.md is stale: run `python -m imunizacao.contract > docs/dados/dicionario.md`."
    )


@pytest.mark.parametrize("name", CONTRACTS)
def test_dictionary_has_every_column_once(name: str) -> None:
    contract = load_contract(name)
    text = module.dictionary_markdown(contract)
    for number, column in enumerate(contract.columns, start=1):
        assert text.count(f"### {number}. `{column.name}`\n") == 1
        assert column.description in text


def test_every_origin_has_columns(dose: Contract) -> None:
    origins: set[Origin] = {column.origin for column in dose.columns}
    assert origins == {"document", "registry", "reference", "derived", "empty"}
