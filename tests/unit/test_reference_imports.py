"""Reading the CNES of the open data, tables of the IBGE and of the PNI, and CodeSystems; nothing is stored here."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.paths import REFERENCE
from imunizacao.reference import guess_kind, import_cnes, import_ibge, import_pni, import_reference
from imunizacao.reference import ibge as ibge_module
from imunizacao.reference import pni as pni_module
from imunizacao.reference.code_system import CODE_SYSTEMS, fill_rows, read_code_systems
from imunizacao.reference.common import compare_rows, count_changes, read_table
from imunizacao.reference.pni import pni_columns
from tests.unit.test_reference import CAPITALS, Line, country, table

OPEN_LAYOUT = [
    row["coluna"]
    for row in csv.DictReader(
        (REFERENCE / "cnes_layout" / "cnes_estabelecimentos.csv").read_text(encoding="utf-8").splitlines(), strict=True
    )
]
SYSTEM = "http://www.saude.gov.br/fhir/r4/CodeSystem/"


def open_line(cnes: str, municipio: str, **others: str) -> Line:
    """One line of the file of the open data."""
    return {
        "CO_CNES": cnes,
        "CO_UNIDADE": municipio + cnes.zfill(7),
        "CO_UF": municipio[:2],
        "CO_IBGE": municipio,
        "NO_RAZAO_SOCIAL": "SÃO JOÃO",
        "NO_FANTASIA": "UBS CENTRO",
        "TP_UNIDADE": "2",
        "NO_EMAIL": "someone@example.org",
        "CO_NATUREZA_JUR": "1244",
        **others,
    }


def open_country() -> list[Line]:
    """Twenty establishments in each capital, the numbers without their zeros."""
    return [open_line(f"{1000 + 20 * n + k}", place) for n, place in enumerate(CAPITALS) for k in range(20)]


def open_zip(lines: list[Line]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        content = table(lines, columns=OPEN_LAYOUT).encode("latin-1")
        archive.writestr(zipfile.ZipInfo("cnes_estabelecimentos.csv", (2026, 2, 1, 0, 0, 0)), content)
    return out.getvalue()


# CNES of the open data


def test_the_file_of_the_open_data_has_its_36_columns() -> None:
    assert len(OPEN_LAYOUT) == len(set(OPEN_LAYOUT)) == 36


def test_both_official_files_give_the_same_establishments() -> None:
    monthly = import_cnes(table(country()).encode(), file_name="tbEstabelecimento202602.csv")
    opened = import_cnes(open_zip(open_country()), competencia="202602", file_name="cnes_estabelecimentos_csv.zip")
    assert (opened.competencia, opened.rows, opened.active, opened.by_uf) == ("202602", 540, 540, monthly.by_uf)
    assert (opened.encoding, opened.unreadable, opened.without_cnes, opened.without_municipality) == (
        "latin-1",
        0,
        0,
        0,
    )


def test_the_month_of_the_open_data_must_be_said() -> None:
    lines = open_country()
    with pytest.raises(ContractViolation, match=r"not in its name, expected one AAAAMM.*--competencia AAAAMM"):
        import_cnes(open_zip(lines), file_name="cnes_estabelecimentos_csv.zip")
    assert import_cnes(open_zip(lines), file_name="cnes_estabelecimentos_202602.zip").competencia == "202602"
    with pytest.raises(ContractViolation, match="202601 or 202602"):
        import_cnes(open_zip(lines), file_name="cnes_estabelecimentos_202602.zip", competencia="202601")


@pytest.mark.parametrize(
    ("line", "uf"),
    [
        (open_line("9000001", "355030", CO_UNIDADE="4106909000001"), "35"),
        (open_line("9000001", "3550308"), "35"),
        (open_line("9000001", "530040"), "53"),
        (open_line("9000001", "999999", CO_UNIDADE="4106909000001"), "41"),
        (open_line("9000001", "999999"), ""),
    ],
)
def test_the_municipality_is_the_one_that_the_file_states_then_that_of_the_unit(line: Line, uf: str) -> None:
    found = import_cnes(open_zip([*open_country(), line]), competencia="202602")
    gained = {code for code, count in found.by_uf.items() if count == 21}
    assert gained == ({uf} if uf else set())
    assert (found.rows, found.without_municipality, found.municipality_of_manager) == (541, 0 if uf else 1, 0)


def test_a_missing_column_of_the_open_data_is_named() -> None:
    columns = [column for column in OPEN_LAYOUT if column != "CO_UNIDADE"]
    content = table(open_country(), columns=columns).encode()
    with pytest.raises(ContractViolation, match=r"lacks .*CO_UNIDADE"):
        import_cnes(content, file_name="cnes_estabelecimentos_202602.csv", force=True)


# IBGE


def _ibge() -> str:
    return (REFERENCE / "ibge" / "ibge_municipios.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_the_table_of_municipalities_is_read_as_people_save_it(encoding: str) -> None:
    text = _ibge().replace(",", ";") if encoding == "cp1252" else _ibge()
    found = import_ibge(text.encode(encoding), version="DTB 2025")
    assert (found.rows, found.version, found.stored, found.previous) == (5571, "DTB 2025", False, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("3550308,355030,", "3550308,355031,", "3550308.*disagree"),
        ("3550308,355030,", "355030,355030,", "'355030' disagree or are malformed"),
        ("3550308,355030,São Paulo,35,SP", "3550308,355030,São Paulo,35,RJ", "3550308.*disagree"),
        (
            "3550308,355030,São Paulo,35,SP,São Paulo,Sudeste",
            "3304557,330455,Rio,33,RJ,Rio de Janeiro,Sudeste",
            "2 times",
        ),
        ("3550308,355030,São Paulo,", "3550308,355030,,", "has no name"),
        ("co_ibge_7,co_ibge_6,", "co_ibge_7,codigo,", "lacks co_ibge_6"),
    ],
)
def test_a_wrong_table_of_municipalities_is_refused_also_by_force(old: str, new: str, message: str) -> None:
    text = _ibge()
    assert old in text
    with pytest.raises(ContractViolation, match=message):
        import_ibge(text.replace(old, new, 1).encode(), force=True)


def test_a_table_that_is_not_the_whole_country_needs_force() -> None:
    lines = _ibge().splitlines(keepends=True)
    without = "".join(line for line in lines if "3550308" not in line)
    with pytest.raises(ContractViolation, match=r"5570 municipalities, fewer than before in SP 644 < 645"):
        import_ibge(without.encode())
    assert import_ibge(without.encode(), force=True).rows == 5570
    wrong_digit = _ibge().replace("3550308,355030,", "3550307,355030,", 1)
    with pytest.raises(ContractViolation, match="check digits of 3550307 are wrong"):
        import_ibge(wrong_digit.encode())
    many = _ibge() + "".join(
        f"35{n:04d}{_digit(f'35{n:04d}')},35{n:04d},Novo,35,SP,São Paulo,Sudeste\n" for n in range(9000, 9011)
    )
    with pytest.raises(ContractViolation, match="5582 municipalities, the table in use has 5571"):
        import_ibge(many.encode())
    one = _ibge() + f"359000{_digit('359000')},359000,Novo,35,SP,São Paulo,Sudeste\n"
    assert import_ibge(one.encode()).rows == 5572, "the country may gain a municipality"


def _digit(code6: str) -> str:
    products = [int(digit) * weight for digit, weight in zip(code6, (1, 2, 1, 2, 1, 2), strict=True)]
    return str(-sum(product // 10 + product % 10 for product in products) % 10)


# PNI


def _pni(name: str) -> str:
    return (REFERENCE / "pni" / f"pni_{name}.csv").read_text(encoding="utf-8")


def test_a_code_table_is_read_by_its_name_or_by_the_table_that_is_given() -> None:
    (found,) = import_pni(_pni("dose").encode(), file_name="pni_dose.csv")
    assert (found.name, found.rows, found.active) == ("dose", 82, 82)
    (given,) = import_pni(_pni("dose").encode("cp1252"), file_name="x.csv", table="dose", version="1.02")
    assert (given.name, given.rows, given.version) == ("dose", 82, "1.02")
    with pytest.raises(ConfigurationError, match=r"x\.csv does not say which PNI table"):
        import_pni(_pni("dose").encode(), file_name="x.csv")
    with pytest.raises(ContractViolation, match="expected co_condicao_maternal, ds_condicao_maternal"):
        import_pni(_pni("dose").encode(), file_name="pni_condicao_maternal.csv")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("raca_cor", "01,Branca", "1,Branca", "zeros lost"),
        ("dose", "\n2,2ª", "\n1,2ª", "repeats co_dose_vacina 1"),
        ("dose", "\n2,2ª", "\n ,2ª", "blank or padded"),
        ("dose", "\n2,2ª", '\n"2\n",2ª', "blank or padded"),
        ("dose", "\n2,2ª", '\n"2\x002",2ª', "with a line break"),
    ],
)
def test_a_wrong_code_table_is_refused_also_by_force(name: str, old: str, new: str, message: str) -> None:
    assert old in _pni(name)
    with pytest.raises(ContractViolation, match=message):
        import_pni(_pni(name).replace(old, new, 1).encode(), file_name=f"pni_{name}.csv", force=True)


def test_a_code_table_that_lost_codes_needs_force() -> None:
    lines = _pni("dose").splitlines(keepends=True)
    nine = "".join(lines[:-9]).encode()
    with pytest.raises(ContractViolation, match="9 of 82 codes of PNI table dose are gone"):
        import_pni(nine, file_name="pni_dose.csv")
    assert import_pni(nine, file_name="pni_dose.csv", force=True)[0].rows == 73
    assert import_pni("".join(lines[:-8]).encode(), file_name="pni_dose.csv")[0].rows == 74


@pytest.mark.parametrize("sign", ["\n", "\r\n", "\r", "\t", "\x0b", "\x85", "\u2028", "\x00"])
def test_no_name_of_a_table_keeps_a_sign_that_breaks_a_line(
    sign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []
    guard = pni_module.guard_pni

    def look(table: str, rows: list[dict[str, str]], *others: Any, **more: Any) -> None:
        kept.extend(value for row in rows for value in row.values())
        guard(table, rows, *others, **more)

    monkeypatch.setattr(pni_module, "guard_pni", look)
    table = _pni("dose").replace("1ª Dose", f'"1ª{sign}Dose{sign}"', 1)
    assert sign in table
    import_pni(table.encode(), file_name="pni_dose.csv")
    path = tmp_path / "system.json"
    path.write_text(json.dumps(code_system("BRPais", [{"code": "1", "display": f"Costa{sign}Rica"}])), "utf-8")
    import_pni(path, force=True)
    assert {"1ª Dose", "Costa Rica"} <= set(kept)
    municipios = tmp_path / "ibge_municipios.csv"
    municipios.write_bytes(_ibge().replace(",São Paulo,35", f',"São{sign}Paulo",35', 1).encode())
    kept += [row["no_municipio"] for row in ibge_module._read_municipios(municipios, municipios.name)]
    assert not [value for value in kept if not value.isprintable()]


# CodeSystems


def code_system(name: str, concepts: list[dict[str, Any]], **others: Any) -> dict[str, Any]:
    """A CodeSystem as the guide RIA publishes it."""
    return {
        "resourceType": "CodeSystem",
        "id": name,
        "url": SYSTEM + name,
        "version": "1.0.0-release",
        "name": name,
        "status": "active",
        "content": "complete",
        "concept": concepts,
        **others,
    }


def concepts_of(name: str) -> list[dict[str, Any]]:
    """The project's own table, as the CodeSystem that fills it."""
    mapped = next(mapped for mapped in CODE_SYSTEMS.values() if mapped.table == name)
    found = []
    for row in read_table(REFERENCE / "pni" / f"pni_{name}.csv"):
        concept: dict[str, Any] = {"code": next(iter(row.values())), "display": row[mapped.display]}
        if mapped.definition:
            concept["definition"] = row[mapped.definition]
        properties = [
            {"code": code, "valueString": row[column]} for code, column in mapped.properties.items() if row[column]
        ]
        if row.get("st_ativo") == "N":
            properties.append({"code": "inactive", "valueBoolean": True})
        found.append(concept | ({"property": properties} if properties else {}))
    return found


@pytest.mark.parametrize("name", sorted(CODE_SYSTEMS))
def test_a_code_system_fills_every_column_of_its_table(name: str, tmp_path: Path) -> None:
    table_name = CODE_SYSTEMS[name].table
    own = read_table(REFERENCE / "pni" / f"pni_{table_name}.csv")
    columns = pni_columns(table_name)
    before = {row[columns[0]]: row for row in own}
    path = tmp_path / "system.json"
    path.write_text(json.dumps(code_system(name, concepts_of(table_name)), ensure_ascii=False), encoding="utf-8")
    (system,) = read_code_systems(path, path.name)
    rows = fill_rows(system, columns, before)
    changes = compare_rows(before, {row[columns[0]]: row for row in rows}, label=columns[1])
    assert [change for change in changes if change.change != "renamed"] == []
    # Double spaces of a display are one: the only difference to the tables, which keep what the CodeSystem of 2020 wrote.
    assert all(" ".join(str(change.before).split()) == change.after for change in changes)


def test_the_origin_of_a_record_has_two_digits_in_either_generation_of_its_codes(tmp_path: Path) -> None:
    """The guide of 2020 says 01 and 02, the national package 1.1.0 says 1 and 2; flatten makes both 01 and 02."""
    path = tmp_path / "bundle.json"
    systems = [
        code_system("BRRegistroOrigem", [{"code": code, "display": "x"} for code in ("1", "02")]),
        code_system("BRRacaCor", [{"code": "1", "display": "Branca"}]),
    ]
    path.write_text(json.dumps(systems[0]), encoding="utf-8")
    (system,) = read_code_systems(path, path.name)
    assert [row["code"] for row in system.rows] == ["01", "02"]
    (found,) = import_pni(path)
    assert found.rows == 2
    path.write_text(json.dumps(systems[1]), encoding="utf-8")
    with pytest.raises(ContractViolation, match="zeros lost"):
        import_pni(path, force=True)


def test_nested_and_inactive_concepts_and_groups_are_told_apart(tmp_path: Path) -> None:
    concepts = concepts_of("imunobiologico")
    retired = {"code": "900", "display": "X", "property": [{"code": "status", "valueCode": "retired"}]}
    child = {
        "code": "901",
        "display": "VIP  NOVA",
        "definition": "vacina nova",
        "property": [{"code": "Name", "valueString": "N"}],
    }
    group = {
        "code": "grupo",
        "display": "Grupo",
        "property": [{"code": "notSelectable", "valueBoolean": True}],
        "concept": [child],
    }
    nested = {**concepts[0], "concept": [retired]}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(code_system("BRImunobiologico", [nested, *concepts[1:], group])), encoding="utf-8")
    (found,) = import_pni(path)
    assert (found.name, found.version, found.rows) == ("imunobiologico", "1.0.0-release", 120)
    (system,) = read_code_systems(path, "x.json")
    rows = {row["co_vacina"]: row for row in fill_rows(system, pni_columns("imunobiologico"), {})}
    assert rows["901"] == {
        "co_vacina": "901",
        "sg_vacina": "VIP NOVA",
        "ds_vacina": "vacina nova",
        "no_vacina": "N",
        "no_categoria": "",
        "st_ativo": "S",
    }
    assert (rows["900"]["st_ativo"], "grupo" in rows) == ("N", False)
    inactive = {code for code, row in rows.items() if row["st_ativo"] == "N"}
    assert inactive == {"18", "95", "96", "105", "900"}


def test_a_bundle_fills_several_tables_and_leaves_the_rest_out(tmp_path: Path) -> None:
    resources = [
        code_system("BRDose", concepts_of("dose")),
        code_system("BRCBO", [{"code": "1", "display": "x"}]),
        {"resourceType": "ValueSet"},
        code_system(
            "BRPais", concepts_of("pais"), url="https://terminologia.saude.gov.br/fhir/CodeSystem/BRPais|201701A"
        ),
    ]
    path = tmp_path / "bundle.json"
    path.write_text(
        json.dumps({"resourceType": "Bundle", "entry": [{"resource": each} for each in resources]}), encoding="utf-8"
    )
    assert [(found.name, found.rows) for found in import_pni(path)] == [("dose", 82), ("pais", 345)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        (json.dumps(code_system("BRCBO", [])), r"no CodeSystem of a PNI table \(CodeSystems in it: .*BRCBO"),
        (json.dumps({"resourceType": "ValueSet"}), "CodeSystems in it: none"),
        (json.dumps(code_system("BRDose", [], content="fragment")), "content 'fragment'"),
        (json.dumps(code_system("BRDose", [{"display": "x"}])), "a concept without code"),
        (json.dumps(code_system("BRDose", [])), "pni_dose is empty"),
        (
            json.dumps({"resourceType": "Bundle", "entry": [{"resource": code_system("BRDose", [])}] * 2}),
            "two CodeSystems for one table",
        ),
    ],
)
def test_json_that_is_something_else_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ContractViolation, match=message):
        import_pni(path, force=True)


def test_a_code_system_of_another_name_is_read_for_the_table_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(code_system("Doses", concepts_of("dose"))), encoding="utf-8")
    with pytest.raises(ContractViolation, match="--table"):
        import_pni(path)
    assert import_pni(path, table="dose")[0].name == "dose"


# Any file


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("codes.json", b' {"resourceType": "CodeSystem"}', "pni"),
        ("pni_dose.csv", b"x", "pni"),
        ("anything.zip", open_zip([]), "cnes"),
        ("tbEstabelecimento202601.csv", b"x", "cnes"),
        ("cnes_estabelecimentos.csv", b"x", "cnes"),
        ("ibge_municipios.csv", b"x", "ibge"),
    ],
)
def test_the_kind_of_a_file_is_told_by_name_and_content(name: str, content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert guess_kind(path) == kind


def test_a_file_that_does_not_say_what_it_is_needs_a_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(_ibge(), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="--kind"):
        import_reference(path)
    assert import_reference(path, kind="ibge")[0].rows == 5571
    with pytest.raises(ConfigurationError, match="is not there"):
        import_reference(tmp_path / "missing.csv")


def test_changes_of_a_small_table_are_counted_by_kind() -> None:
    def row(name: str, active: str = "S", uf: str = "SP", more: str = "") -> dict[str, str]:
        return {"name": name, "st_ativo": active, "uf": uf, "more": more}

    before = {"1": row("a"), "2": row("b"), "3": row("c"), "4": row("d", "N"), "5": row("e"), "6": row("f")}
    after = {
        "1": row("a", "N"),
        "2": row("B", "S", "RJ"),
        "4": row("d"),
        "5": row("e", more="x"),
        "6": row("f"),
        "7": row("g"),
    }
    changes = compare_rows(before, after, label="name", place="uf")
    assert [(change.change, change.code, change.before, change.after) for change in changes] == [
        ("added", "7", None, "g"),
        ("closed", "1", "a", "a"),
        ("gone", "3", "c", None),
        ("moved", "2", "SP", "RJ"),
        ("renamed", "2", "b", "B"),
        ("renamed", "5", "", "x"),
        ("reopened", "4", "d", "d"),
    ]
    difference = count_changes(changes)
    assert (difference.added, difference.renamed, difference.total) == (1, 2, 7)
