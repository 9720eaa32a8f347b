"""Reading the official CNES file, and the checks of the tables that the project carries."""

from __future__ import annotations

import csv
import io
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.models import ObjectRef, ReferenceVersions
from imunizacao.paths import REFERENCE
from imunizacao.reference import (
    MONTHLY_COLUMNS,
    OPEN_COLUMNS,
    CnesImport,
    ReferenceSet,
    ibge_check_digit,
    import_cnes,
    require_ibge,
    require_pni,
)
from imunizacao.settings import EngineSettings

LAYOUT = [
    row["coluna"]
    for row in csv.DictReader(
        (REFERENCE / "cnes_layout" / "tbEstabelecimento.csv").read_text(encoding="utf-8").splitlines(), strict=True
    )
]
CAPITALS = [
    "110020",
    "120040",
    "130260",
    "140010",
    "150140",
    "160030",
    "172100",
    "211130",
    "221100",
    "230440",
    "240810",
    "250750",
    "261160",
    "270430",
    "280030",
    "292740",
    "310620",
    "320530",
    "330455",
    "355030",
    "410690",
    "420540",
    "431490",
    "500270",
    "510340",
    "520870",
    "530010",
]
CPF = "00000000191"
Line = dict[str, str]


def establishment(cnes: str, municipio: str, **others: str) -> Line:
    """One line of the official file; names of columns as in the layout."""
    return {
        "CO_UNIDADE": municipio + cnes,
        "CO_CNES": cnes,
        "NO_RAZAO_SOCIAL": "PREFEITURA",
        "NO_FANTASIA": "UBS CENTRO",
        "NU_CPF": CPF,
        "TP_UNIDADE": "02",
        "CO_MUNICIPIO_GESTOR": municipio,
        "CO_NATUREZA_JUR": "1244",
        **others,
    }


def country() -> list[Line]:
    """Twenty establishments in each capital: what an import accepts."""
    return [
        establishment(f"{1000 + 20 * number + k:07d}", municipio)
        for number, municipio in enumerate(CAPITALS)
        for k in range(20)
    ]


def table(lines: Iterable[Line], *, columns: list[str] | None = None) -> str:
    """`tbEstabelecimentoAAAAMM.csv` as the DATASUS writes it."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(
        out,
        columns or LAYOUT,
        restval="",
        delimiter=";",
        quoting=csv.QUOTE_ALL,
        lineterminator="\n",
        extrasaction="ignore",
    )
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def cnes_zip(lines: Iterable[Line], *, competencia: str = "202601", encoding: str = "latin-1") -> bytes:
    """`BASE_DE_DADOS_CNES_AAAAMM.ZIP` with the table and another member."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in (("tbMunicipio", b"x"), ("tbEstabelecimento", table(lines).encode(encoding))):
            # A member holds the time at which it was written: a fixed one, so that the same lines are the same file.
            archive.writestr(zipfile.ZipInfo(f"{name}{competencia}.csv", (2026, 2, 1, 0, 0, 0)), content)
    return out.getvalue()


def read(lines: Iterable[Line], **options: bool) -> CnesImport:
    return import_cnes(cnes_zip(lines), **options)


def test_the_shipped_snapshot_is_whole() -> None:
    (path,) = (REFERENCE / "cnes").glob("BASE_DE_DADOS_CNES_*.ZIP")
    found = import_cnes(path)
    assert found.competencia == path.stem[-6:]
    assert len(found.by_uf) == 27
    assert found.rows == sum(found.by_uf.values()) == found.lines
    assert 0 < found.active < found.rows
    assert (found.unreadable, found.without_cnes, found.duplicates, found.without_municipality) == (0, 0, 0, 0)


def test_needed_columns_are_the_ones_that_the_layout_marks_and_none_is_personal() -> None:
    with (REFERENCE / "cnes_layout" / "tbEstabelecimento.csv").open(encoding="utf-8", newline="") as file:
        used = {row["coluna"] for row in csv.DictReader(file) if row["usar_no_pipeline"] == "S"}
    assert set(MONTHLY_COLUMNS) <= used
    assert not [column for column in (*MONTHLY_COLUMNS, *OPEN_COLUMNS) if "CPF" in column]


def test_columns_are_found_by_name_in_any_order_and_case() -> None:
    columns = [column.lower() for column in reversed(LAYOUT)]
    lines = [{key.lower(): value for key, value in line.items()} for line in country()]
    content = table(lines, columns=columns).encode()
    found = import_cnes(content, file_name="tbEstabelecimento202601.csv")
    assert (found.rows, found.by_uf["53"]) == (540, 20)


def test_nothing_of_the_other_columns_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    real = shutil.rmtree

    def look_first(path: Path, **options: bool) -> None:
        seen.extend(file.read_bytes() for file in Path(path).rglob("*") if file.is_file())
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", look_first)
    original = Path.unlink

    def keep(path: Path, missing_ok: bool = False) -> None:
        if path.name != "cnes_columns.csv":
            original(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", keep)
    source = tmp_path / "BASE_DE_DADOS_CNES_202601.ZIP"
    source.write_bytes(cnes_zip(country()))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    import_cnes(source, engine=EngineSettings(scratch_dir=scratch))
    assert any(b"UBS CENTRO" in content for content in seen), "the projection was not looked at: rename it in this test"
    assert not any(CPF.encode() in content for content in seen)
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("line", "municipality"),
    [
        (establishment("9000001", "355030", CO_MUNICIPIO_GESTOR="35"), "unit"),
        (establishment("9000001", "355030", CO_MUNICIPIO_GESTOR="350010"), "unit"),
        (establishment("9000001", "530040", CO_MUNICIPIO_GESTOR="530040"), "53"),
        (establishment("9000001", "999999", CO_MUNICIPIO_GESTOR="53"), "53"),
        (establishment("9000001", "000000", CO_MUNICIPIO_GESTOR="355030"), "manager"),
        (establishment("9000001", "", CO_UNIDADE="3550301", CO_MUNICIPIO_GESTOR="355030"), "manager"),
        (establishment("9000001", "999999", CO_MUNICIPIO_GESTOR="35"), "none"),
        (establishment("9000001", "350000", CO_MUNICIPIO_GESTOR=""), "none"),
    ],
)
def test_the_municipality_is_that_of_the_building_then_the_manager_then_none(line: Line, municipality: str) -> None:
    before, found = read(country()), read([*country(), line])
    gained = {uf: count - before.by_uf[uf] for uf, count in found.by_uf.items() if count != before.by_uf[uf]}
    assert found.rows == before.rows + 1, "an establishment without municipality is kept, never dropped"
    assert gained == {"unit": {"35": 1}, "manager": {"35": 1}, "53": {"53": 1}, "none": {}}[municipality]
    assert found.without_municipality == (municipality == "none")
    manager = municipality == "manager" or (line["CO_MUNICIPIO_GESTOR"] == "53")
    assert found.municipality_of_manager == manager


def test_a_repeated_cnes_is_one_establishment_whatever_the_order() -> None:
    closed = establishment("9000001", "410690", CO_MOTIVO_DESAB="01")
    moved = establishment("9000001", "355030")
    for lines in ([closed, moved], [moved, closed]):
        found = read([*country(), *lines])
        assert (found.rows, found.duplicates, found.by_uf["35"], found.by_uf["41"]) == (541, 1, 21, 20)
        assert found.active == 541


def test_a_cnes_without_its_zeros_is_the_same_establishment() -> None:
    found = read([*country(), establishment("0000019", "530010"), establishment("19", "530010")])
    assert (found.rows, found.duplicates) == (541, 1)


@pytest.mark.parametrize(
    ("text", "encoding", "detected"),
    [
        ("SÃO JOÃO", "latin-1", "latin-1"),
        ("SÃO JOÃO – CENTRO", "cp1252", "cp1252"),
        ("SÃO JOÃO – CENTRO", "utf-8", "utf-8"),
        ("SÃO JOÃO", "utf-8-sig", "utf-8"),
        ("SAO JOAO", "ascii", "utf-8"),
    ],
)
def test_the_encoding_is_found(text: str, encoding: str, detected: str) -> None:
    content = cnes_zip([*country(), establishment("9000001", "355030", NO_FANTASIA=text)], encoding=encoding)
    found = import_cnes(content)
    assert (found.encoding, found.rows, found.unreadable) == (detected, 541, 0)


def test_a_mixture_of_encodings_is_refused() -> None:
    text = table([*country(), *(establishment(f"90000{k:02d}", "355030", NO_FANTASIA="SÃO JOÃO") for k in range(20))])
    content = text.encode().replace(b"PREFEITURA", b"PREFEITURA\xc9", 1)
    with pytest.raises(ContractViolation, match="mixes encodings"):
        import_cnes(content, file_name="tbEstabelecimento202601.csv")


def test_a_few_broken_lines_are_counted_and_many_are_refused() -> None:
    good = [line for number in range(4) for line in _renumbered(country(), number)]
    text = table(good)
    one = text + '"355030900";"broken\n'
    found = import_cnes(one.encode(), file_name="tbEstabelecimento202601.csv")
    assert (found.rows, found.unreadable) == (4 * 540, 1)
    many = text + '"355030900";"x" y";\n' * 10 + '"1";"2"\n' * 10
    with pytest.raises(ContractViolation, match="20 unreadable lines"):
        import_cnes(many.encode(), file_name="tbEstabelecimento202601.csv")
    assert import_cnes(many.encode(), file_name="tbEstabelecimento202601.csv", force=True).unreadable == 20


def _renumbered(lines: list[Line], number: int) -> list[Line]:
    return [
        establishment(f"{int(line['CO_CNES']) + 100_000 * number:07d}", line["CO_MUNICIPIO_GESTOR"]) for line in lines
    ]


def test_a_name_may_hold_quotes_semicolons_and_line_breaks() -> None:
    name = 'CLINICA "A; B"\nCENTRO'
    found = read([*country(), establishment("9000001", "355030", NO_FANTASIA=name)])
    assert (found.rows, found.unreadable) == (541, 0)


def test_a_missing_column_is_named_and_cannot_be_forced() -> None:
    columns = [column for column in LAYOUT if column not in {"CO_NATUREZA_JUR", "TP_UNIDADE"}]
    content = table(country(), columns=columns).encode()
    with pytest.raises(ContractViolation, match=r"lacks .*TP_UNIDADE, CO_NATUREZA_JUR"):
        import_cnes(content, file_name="tbEstabelecimento202601.csv", force=True)


def test_a_file_of_part_of_the_country_is_refused_unless_forced() -> None:
    lines = [line for line in country() if line["CO_MUNICIPIO_GESTOR"] not in {"110020", "530010"}]
    with pytest.raises(ContractViolation, match="no establishment in UF 11, 53"):
        read(lines)
    assert read(lines, force=True).rows == 500


def test_a_layout_whose_codes_are_no_municipalities_is_refused() -> None:
    lines = [*country(), *(establishment(f"91{k:05d}", "999999") for k in range(30))]
    with pytest.raises(ContractViolation, match="30 of 570 establishments in no known municipality"):
        read(lines)


def test_an_empty_table_cannot_be_forced() -> None:
    with pytest.raises(ContractViolation, match="no establishment"):
        read([], force=True)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "tbEstabelecimento202601.csv", "lacks"),
        (b"PK\x05\x06" + bytes(18), "BASE_DE_DADOS_CNES_202601.ZIP", "0 members"),
        (cnes_zip([])[:-30], "BASE_DE_DADOS_CNES_202601.ZIP", "lacks|damaged"),
        (cnes_zip([], competencia="202601"), "BASE_DE_DADOS_CNES_202602.ZIP", "202601 or 202602"),
        (table([]).encode(), "establishments.csv", "not in its name"),
        (table([]).encode(), "tbEstabelecimento202613.csv", "202613"),
    ],
)
def test_a_file_that_is_something_else_is_refused(content: bytes, name: str, message: str) -> None:
    with pytest.raises(ContractViolation, match=message):
        import_cnes(content, file_name=name)


def test_a_damaged_member_is_refused() -> None:
    content = bytearray(cnes_zip(country()))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(ContractViolation, match="damaged"):
        import_cnes(bytes(content))


def test_a_file_that_is_not_there_is_a_matter_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not there"):
        import_cnes(tmp_path / "BASE_DE_DADOS_CNES_202601.ZIP")


def test_the_project_s_tables_are_whole() -> None:
    require_ibge()
    require_pni()


def test_the_check_digit_rule_and_one_of_its_nine_exceptions() -> None:
    assert ibge_check_digit("355030") == "8"
    assert ibge_check_digit("220191") == "1"  # official: 9


def _copy(folder: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(REFERENCE / folder, tmp_path / folder))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("ibge_municipios.csv", "5101837,510183,Boa", None, "5570 municipalities, expected 5571"),
        ("ibge_municipios.csv", "3550308,355030,", "3550307,355030,", "check digits .* 3550307"),
        ("ibge_municipios.csv", "3550308,355030,", "3550308,355031,", "disagree"),
        ("ibge_municipios.csv", "3550308,355030,", "355030,355030,", "without 7 digits: 355030"),
        ("ibge_municipios.csv", "3550308,355030,", "3304557,330455,", "repeated"),
        ("ibge_excecoes_dv.csv", "2201919,", None, "check digits .* 2201919"),
        ("ibge_ufs.csv", "53,DF", None, "26 UFs"),
        ("ibge_ufs.csv", "Sudeste,645", "Sudeste,644", "differs from ibge_ufs.csv in UF 35"),
    ],
)
def test_a_wrong_ibge_table_is_refused(tmp_path: Path, file: str, old: str, new: str | None, message: str) -> None:
    folder = _copy("ibge", tmp_path)
    _change(folder / file, old, new)
    with pytest.raises(ContractViolation, match=message):
        require_ibge(folder)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("pni_raca_cor.csv", "01,", "1,", "co_raca_cor_paciente 1, expected .* zeros lost"),
        ("pni_etnia_indigena.csv", "0001,", "1,", "zeros lost"),
        ("pni_dose.csv", "2,2ª", "1,2ª", "repeats co_dose_vacina 1"),
        ("pni_dose.csv", "2,2ª", " 2,2ª", "blank or padded"),
        ("pni_dose.csv", "2,2ª", "2,2,ª", "other columns than its header in line 3"),
    ],
)
def test_a_wrong_pni_table_is_refused(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    folder = _copy("pni", tmp_path)
    _change(folder / file, old, new)
    with pytest.raises(ContractViolation, match=message):
        require_pni(folder)


def _change(path: Path, old: str, new: str | None) -> None:
    """Replace the start of one line, or take the line out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    (number,) = [number for number, line in enumerate(lines) if line.startswith(old) or (new and f"{old}\n" in line)]
    lines[number] = lines[number].replace(old, new, 1) if new is not None else ""
    path.write_text("".join(lines), encoding="utf-8")


def test_a_set_of_references_survives_its_json() -> None:
    ref = ObjectRef(key="v1/references/x", sha256="0" * 64, bytes=1, rows=1)
    refs = ReferenceSet(
        versions=ReferenceVersions(cnes_competencia="202601", cnes_sha256="a", ibge_sha256="b", pni_sha256="c"),
        cnes=ref,
        municipios=ref,
        ufs=ref,
        pni={"dose": ref},
    )
    assert ReferenceSet.from_json(refs.to_json()) == refs
    assert ReferenceSet.from_json(msgspec.json.encode(refs)) == refs
    with pytest.raises(ContractViolation, match="Clear `resolve_day`"):
        ReferenceSet.from_json("{}")
