"""What the contract says and what is made of it agree: SQL, header, types, schema, dictionary, page, rules."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import frictionless
import pytest
from frictionless.resources import TableResource

from imunizacao.contract import (
    Column,
    Contract,
    csv_dialect,
    dictionary_markdown,
    duckdb_types,
    known_codes,
    load_contract,
    table_schema,
)
from imunizacao.dictionary import dictionary_html, dictionary_key
from imunizacao.errors import ContractViolation
from imunizacao.paths import EXPECTATIONS, SQL
from imunizacao.settings import EngineSettings
from imunizacao.split import _MACROS, csv_header, require_types
from imunizacao.sql import open_engine
from imunizacao.sql.compile_csv import csv_body_copy

CONTRACTS = ("dose", "removed")


@pytest.fixture(scope="module")
def dose() -> Contract:
    return load_contract()


def _aliases(statement: str) -> list[str]:
    """Names of the columns of the last `select` of a file, in order: the last word of each of its expressions."""
    text = re.sub(r"--[^\n]*", "", statement)
    select = text[text.rindex("\n    select\n") : text.rindex("\n    from ")]
    names, depth, start = [], 0, len("\n    select\n")
    for at, sign in enumerate(select):
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            names.append(select[start:at])
            start = at + 1
    names.append(select[start:])
    return [re.split(r"[\s.]+", name.strip())[-1] for name in names]


@pytest.mark.parametrize(("name", "file"), [("dose", "80_dose"), ("removed", "91_removed")])
def test_the_sql_of_a_table_writes_the_columns_of_its_contract_in_order(name: str, file: str) -> None:
    names = load_contract(name).names
    found = _aliases((SQL / "flatten" / f"{file}.sql").read_text(encoding="utf-8"))
    key = ["nu_parte", "nu_linha", "nu_dose"] if name == "dose" else []
    assert found[: len(key)] == key or name == "removed"
    columns = [column for column in found if column not in key]
    assert columns[: len(names)] == list(names), f"sql/flatten/{file}.sql and include/contract/{name}.yaml differ"
    assert all(column.startswith("in_") for column in columns[len(names) :]), "an internal column is named in_…"


def test_the_statement_that_writes_the_files_has_the_columns_and_types_of_the_contract(
    dose: Contract, tmp_path: Path
) -> None:
    types = duckdb_types(dose)
    with open_engine(EngineSettings(), tmp_path) as duck:
        connection = duck.connection
        for macro in _MACROS:
            duck.run(macro)
        columns = ", ".join(f"cast(null as {kind}) as {name}" for name, kind in types.items())
        keys = "1 as nu_parte, 1 as nu_linha, 0 as nu_dose"
        connection.execute(
            f"copy (select {columns}, '53' as in_co_uf_estabelecimento, {keys}) to '{tmp_path}/dose.parquet'"
        )
        connection.execute(f"copy (select {keys} where false) to '{tmp_path}/bad.parquet'")
        require_types(duck, f"{tmp_path}/dose.parquet", dose)
        statement = csv_body_copy(dose, first_by="in_co_uf_estabelecimento")
        query = statement[statement.index("(") + 1 : statement.rindex(")\nto ")]
        answer = connection.execute(query, {"dose": f"{tmp_path}/dose.parquet", "bad_keys": f"{tmp_path}/bad.parquet"})
        assert [(column[0], str(column[1])) for column in answer.description or []] == list(types.items())


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("replace(dt_vacina as dt_vacina)", ""),
        ("replace(cast(dt_vacina as timestamp) as dt_vacina)", r"dt_vacina DATE \(found dt_vacina TIMESTAMP\)"),
        ("replace(cast(nu_idade_paciente as bigint) as nu_idade_paciente)", "nu_idade_paciente INTEGER"),
        ("exclude (co_vacina)", r"co_vacina VARCHAR \(found sg_vacina VARCHAR\)"),
        ("exclude (co_paciente_anterior)", r"co_paciente_anterior VARCHAR \(found nothing\)"),
        ("rename (co_vacina as sg_vacina, sg_vacina as co_vacina)", r"co_vacina VARCHAR \(found sg_vacina VARCHAR\)"),
        ("exclude (in_co_uf_estabelecimento), 'x' as no_mae", "no_mae is neither published nor internal"),
    ],
)
def test_a_table_of_doses_that_is_not_the_contract_is_refused(
    dose: Contract, tmp_path: Path, change: str, fault: str
) -> None:
    with open_engine(EngineSettings(), tmp_path) as duck:
        columns = ", ".join(f"cast(null as {kind}) as {name}" for name, kind in duckdb_types(dose).items())
        duck.connection.execute(f"create table t as select 1 as nu_linha, {columns}, '53' as in_co_uf_estabelecimento")
        duck.connection.execute(f"copy (select * {change} from t) to '{tmp_path}/dose.parquet'")
        if not fault:
            require_types(duck, f"{tmp_path}/dose.parquet", dose)
            return
        with pytest.raises(ContractViolation, match=fault):
            require_types(duck, f"{tmp_path}/dose.parquet", dose)


@pytest.mark.parametrize("name", CONTRACTS)
def test_header_schema_and_types_have_the_columns_of_the_contract(name: str) -> None:
    contract = load_contract(name)
    assert next(csv.reader([csv_header(contract)], delimiter=";")) == list(contract.names)
    fields = table_schema(contract)["fields"]
    assert [(field["name"], field["type"]) for field in fields] == [
        (column.name, column.type) for column in contract.columns
    ]
    assert tuple(duckdb_types(contract)) == contract.names == contract.may_leave


def test_the_rules_speak_of_columns_of_the_contract_and_of_internal_columns(dose: Contract) -> None:
    internal = {"nu_parte", "nu_linha", "nu_dose"}
    suite = json.loads((EXPECTATIONS / "dose.json").read_text(encoding="utf-8"))
    kwargs = [expectation["kwargs"] for expectation in suite["expectations"]]
    named = {str(value) for one in kwargs for key, value in one.items() if key in ("column", "column_A", "column_B")}
    named |= {str(name) for one in kwargs for name in (*one.get("column_list", ()), *one.get("column_set", ()))}
    unknown = {name for name in named if name not in dose.names and not name.startswith("in_")} - internal
    assert named, "the suite names no column"
    assert not unknown, f"expectations/dose.json names columns that the contract does not have: {sorted(unknown)}"


# --- codes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTRACTS)
def test_closed_lists_are_categories_and_open_lists_are_not(name: str) -> None:
    contract = load_contract(name)
    for column, field in zip(contract.columns, table_schema(contract)["fields"], strict=True):
        assert ("categories" in field) == bool(column.enum), column.name
        assert ("rnds:codes" in field) == (column.codes is not None and not column.enum), column.name
        if column.enum:
            values = [item["value"] if isinstance(item, dict) else item for item in field["categories"]]
            assert values == list(column.enum) == field["constraints"]["enum"], column.name
        for code in known_codes(column):
            assert column.accepts(code.value), f"{column.name} has the code {code.value}, which it refuses"
            assert code.label or column.labels is None, f"{column.name}: code {code.value} has no label"


def test_every_column_of_codes_of_ours_says_what_they_mean(dose: Contract) -> None:
    without = {column.name for column in dose.columns if column.codes is not None and column.labels is None}
    assert without == {
        "co_municipio_paciente",
        "co_municipio_estabelecimento",
        "co_ibge_municipio_paciente",
        "co_ibge_municipio_estabelecimento",
    }


def _validate(folder: Path, contract: Contract, values: dict[str, str]) -> list[str]:
    row = {column.name: "" if column.example is None else str(column.example) for column in contract.columns} | values
    path = folder / "dose.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(csv_header(contract))
        csv.writer(file, delimiter=";", lineterminator="\n").writerow(row.values())
    dialect = {key: value for key, value in csv_dialect().items() if key != "$schema"}
    report = TableResource(
        path=path.name,
        basepath=str(folder),
        dialect=frictionless.Dialect.from_descriptor(dialect),
        schema=frictionless.Schema.from_descriptor(table_schema(contract)),
    ).validate()
    return [f"{error.type}:{getattr(error, 'field_name', '')}" for task in report.tasks for error in task.errors]


def _open_lists(contract: Contract) -> Iterator[tuple[Column, str]]:
    """Each column with an open list, and a code that its form allows and no table has."""
    for column in contract.columns:
        if column.codes is None or column.enum:
            continue
        known = {code.value for code in known_codes(column)}
        for candidate in ("9", "98", "987", "9876", "987654", "9876543"):
            if column.accepts(candidate) and candidate not in known:
                yield column, candidate
                break


def test_a_code_that_no_table_knows_is_valid_where_the_list_is_open(tmp_path: Path, dose: Contract) -> None:
    unknown = {column.name: code for column, code in _open_lists(dose)}
    assert len(unknown) >= 18
    assert _validate(tmp_path, dose, unknown) == []


@pytest.mark.parametrize("name", ["tp_sexo_paciente", "sg_uf_paciente", "st_residente_uf", "st_documento"])
def test_a_code_outside_a_closed_list_is_not_valid(tmp_path: Path, dose: Contract, name: str) -> None:
    assert _validate(tmp_path, dose, {name: "Z"}) == [f"constraint-error:{name}"]


# --- the page --------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Counts what a reader of the page, or of its accessibility tree, depends on."""

    void = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.language = ""
        self.headings: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        self.language = values.get("lang", self.language)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[key] for key in ("href", "src", "action") if key in values]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "th":
            assert values.get("scope") in {"row", "col"}, "a header cell without scope"
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"


@pytest.fixture(scope="module")
def page() -> _Page:
    parsed = _Page()
    parsed.feed(dictionary_html().decode())
    parsed.close()
    return parsed


def test_the_page_is_whole_accessible_and_needs_nothing_from_elsewhere(page: _Page) -> None:
    assert page.open == []
    assert page.language == "pt-BR"
    assert all(link.startswith("#") for link in page.links), "the page asks for something outside itself"
    assert not {"script", "img", "link", "iframe", "form"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert page.tags.count("caption") == page.tags.count("table")
    assert page.tags.count("main") == 1
    style = dictionary_html().decode().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_page_and_dictionary_have_every_column_and_every_code(page: _Page) -> None:
    text = dictionary_html().decode()
    for contract in map(load_contract, CONTRACTS):
        markdown = dictionary_markdown(contract)
        for number, column in enumerate(contract.columns, 1):
            assert page.ids.count(f"{contract.name}-{column.name}") == 1
            article = text.split(f'<article id="{contract.name}-{column.name}">')[1].split("</article>")[0]
            assert f"### {number}. `{column.name}`" in markdown
            assert f"{number}. <code>{column.name}</code>" in article
            if column.codes is not None:
                assert all(f"<code>{code.value}</code>" in article for code in known_codes(column)), column.name
    ids = [name for name in page.ids if name.startswith(("dose-", "removed-"))]
    assert len(ids) == sum(len(load_contract(name).columns) for name in CONTRACTS)


def test_the_name_of_the_page_comes_from_its_bytes(dose: Contract) -> None:
    body = dictionary_html()
    assert body == dictionary_html()
    assert dictionary_key(dose.version, body).startswith(f"v1/dados/dicionario-{dose.version}-")
    assert dictionary_key(dose.version, body) != dictionary_key(dose.version, body + b" ")
