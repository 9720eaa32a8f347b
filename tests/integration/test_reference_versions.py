"""Stored versions of all reference tables: real PostgreSQL, and the export of what a day uses to a real S3 server."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import psycopg2
import pytest

from imunizacao.cli import main
from imunizacao.controle import connect, migrate
from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.paths import REFERENCE
from imunizacao.reference import (
    INBOX,
    KEPT,
    CnesImport,
    compare_versions,
    export_references,
    import_cnes,
    import_ibge,
    import_inbox,
    import_pni,
    list_versions,
    load_references,
    require_accepted,
)
from imunizacao.reference_day import ReferenceDay
from imunizacao.storage import ObjectStore
from tests.unit.test_reference import cnes_zip, country, establishment
from tests.unit.test_reference_imports import code_system, concepts_of, open_country, open_zip

pytestmark = pytest.mark.servers
IBGE = (REFERENCE / "ibge" / "ibge_municipios.csv").read_text(encoding="utf-8")
NEW = "3590007,359000,Novo,35,SP,São Paulo,Sudeste\n"


@pytest.fixture(params=[connect, psycopg2.connect], ids=["psycopg", "psycopg2"])
def connection(request: pytest.FixtureRequest, controle_dsn: str) -> Iterator[Any]:
    """A migrated database through either driver."""
    opened = request.param(controle_dsn)
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def own(controle_dsn: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A migrated database through the driver of the command line."""
    with connect(controle_dsn) as opened:
        migrate(opened)
        yield opened


def _rows(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as engine:
        return engine.execute(statement.replace("TABLE", "read_parquet($path)"), {"path": str(path)}).fetchall()


def test_versions_of_the_ibge_are_stored_once_compared_and_never_changed(connection: Any) -> None:
    first = import_ibge(IBGE.encode(), connection, version="DTB 2025")
    assert (first.stored, first.previous) == (True, "project")
    assert first.difference is not None
    assert first.difference.total == 0
    assert not import_ibge(IBGE.encode(), connection, version="DTB 2025").stored
    later = import_ibge((IBGE.replace(",Assú,", ",Açu,", 1) + NEW).encode(), connection, version="DTB 2026")
    assert later.difference is not None
    assert (later.previous, later.difference.added, later.difference.renamed, later.difference.total) == (
        "DTB 2025",
        1,
        1,
        2,
    )
    with pytest.raises(ContractViolation, match="5571 municipalities, fewer than before in SP 645 < 646"):
        import_ibge((IBGE + "\n").replace("\n\n", "\n").replace("Assú", "Assu").encode(), connection)
    assert [(found.version, found.rows) for found in list_versions(connection, "ibge")] == [
        ("DTB 2026", 5572),
        ("DTB 2025", 5571),
    ]
    compared = compare_versions(connection, "ibge", most=1)
    assert (compared.earlier, compared.later, compared.difference) == ("DTB 2025", "DTB 2026", later.difference)
    assert [(change.change, change.code, change.after) for change in compared.changes] == [("added", "3590007", "Novo")]
    back = compare_versions(connection, "ibge", earlier="DTB 2026", later="project")
    assert (back.later, back.difference.gone, back.difference.renamed) == ("project", 1, 1)
    with pytest.raises(connection.Error, match="never changed"), connection.cursor() as cursor:
        cursor.execute("update controle.ibge_municipio set no_municipio = 'x'")
    connection.rollback()


def test_a_code_system_is_a_version_of_its_table_and_what_it_does_not_say_stays(connection: Any) -> None:
    concepts = concepts_of("raca_cor")
    concepts[0]["display"] = "Branca (nova)"
    source = json.dumps(code_system("BRRacaCor", concepts, version="2.0")).encode()
    (found,) = import_pni(source, connection)
    assert found.difference is not None
    assert (found.name, found.version, found.stored, found.previous) == ("raca_cor", "2.0", True, "project")
    assert (found.difference.renamed, found.difference.total) == (1, 1)
    assert not import_pni(source, connection)[0].stored
    with connection.cursor() as cursor:
        cursor.execute(
            "select valores->>'no_raca_cor_paciente', valores->>'no_raca_cor_dados' from controle.pni_codigo order by co_codigo"
        )
        assert tuple(cursor.fetchall()[0]) == ("Branca (nova)", "BRANCA")
    connection.rollback()
    with pytest.raises(connection.Error, match="never changed"), connection.cursor() as cursor:
        cursor.execute("update controle.pni_codigo set co_codigo = 'x'")
    connection.rollback()
    csv_again = (REFERENCE / "pni" / "pni_raca_cor.csv").read_bytes()
    (older,) = import_pni(csv_again, connection, file_name="pni_raca_cor.csv", version="projeto 2026")
    assert (older.stored, older.previous) == (True, "2.0")
    assert compare_versions(connection, "pni", table="raca_cor").difference.renamed == 1
    with pytest.raises(ConfigurationError, match="is called 9.9"):
        compare_versions(connection, "pni", table="raca_cor", later="9.9")


def test_a_bundle_is_stored_whole_or_found_whole(own: Any) -> None:
    bundle = {
        "resourceType": "Bundle",
        "entry": [
            {"resource": code_system("BRDose", concepts_of("dose"))},
            {"resource": code_system("BRPais", concepts_of("pais"))},
        ],
    }
    source = json.dumps(bundle).encode()
    assert [(found.name, found.stored) for found in import_pni(source, own)] == [("dose", True), ("pais", True)]
    assert [(found.name, found.stored) for found in import_pni(source, own)] == [("dose", False), ("pais", False)]
    refused = {"resourceType": "Bundle", "entry": [*bundle["entry"], {"resource": code_system("BRRacaCor", [])}]}
    with pytest.raises(ContractViolation, match="raca_cor"):
        import_pni(json.dumps(refused).encode(), own)
    assert len(list_versions(own, "pni")) == 2, "nothing of a refused file is stored"


def test_both_files_of_one_month_move_nobody_and_one_file_has_one_month(own: Any) -> None:
    import_cnes(cnes_zip(country(), competencia="202602"), own)
    opened = import_cnes(open_zip(open_country()), own, competencia="202602")
    assert opened.difference is not None
    assert (opened.previous, opened.stored, opened.difference.moved, opened.difference.added) == ("202602", True, 0, 0)
    with pytest.raises(ContractViolation, match="was imported as competência 202602, now it is said to be 202603"):
        import_cnes(open_zip(open_country()), own, competencia="202603")


def test_days_use_what_is_stored_and_name_it(own: Any, work: ObjectStore, tmp_path: Path) -> None:
    import_cnes(cnes_zip(country(), competencia="202601"), own)
    before = export_references(work, own)
    assert (before.versions.ibge_version, before.versions.pni_version, before.versions.cnes_choice) == (
        "",
        "",
        "newest",
    )
    import_ibge((IBGE + NEW).encode(), own, version="DTB 2026")
    concepts = [*concepts_of("dose"), {"code": "99", "display": "Dose nova", "definition": "DN"}]
    import_pni(json.dumps(code_system("BRDose", concepts, version="1.03")).encode(), own)
    moved = [*country(), establishment("9000001", "359000")]
    assert import_cnes(cnes_zip(moved, competencia="202602"), own).without_municipality == 0, (
        "placed by the stored table"
    )

    after = export_references(work, own)
    tables = load_references(work, after, tmp_path)
    assert (after.versions.ibge_version, after.versions.pni_version) == ("DTB 2026", "dose 1.03")
    assert len({before.versions.ibge_sha256, after.versions.ibge_sha256}) == 2
    assert len({before.versions.pni_sha256, after.versions.pni_sha256}) == 2
    assert _rows(tables["municipios"], "select no_municipio, sg_uf from TABLE where co_ibge_6 = '359000'") == [
        ("NOVO", "SP")
    ]
    assert _rows(tables["ufs"], "select qt_municipios from TABLE where co_uf = '35'") == [(646,)]
    assert _rows(tables["dose"], "select ds_dose_vacina, sg_dose_vacina from TABLE where co_dose_vacina = '99'") == [
        ("Dose nova", "DN")
    ]
    assert after.pni["fabricante"].sha256 == before.pni["fabricante"].sha256, "the other tables are the project's"
    assert export_references(work, own) == after
    with own.cursor() as cursor:
        cursor.execute("select origin from controle.reference_snapshot where kind = 'pni' and name = '' order by id")
        assert [row[0] for row in cursor.fetchall()] == ["include/reference/pni", "include/reference/pni; dose 1.03"]


def test_a_day_is_made_with_the_snapshot_in_force_on_it(own: Any, work: ObjectStore) -> None:
    for month in ("202601", "202603"):
        import_cnes(cnes_zip(country(), competencia=month), own)

    def chosen(day: str) -> tuple[str, str]:
        versions = export_references(work, own, cnes="of-the-day", day=ReferenceDay.parse(day)).versions
        return versions.cnes_competencia, versions.cnes_choice

    assert chosen("2026-01-31") == ("202601", "of-the-day")
    assert chosen("2026-02-28")[0] == "202601"
    assert chosen("2026-03-01")[0] == "202603"
    assert chosen("2027-01-01")[0] == "202603"
    with pytest.raises(ConfigurationError, match=r"in force in 202512: the oldest is 202601.*newest"):
        chosen("2025-12-31")
    with pytest.raises(ConfigurationError, match="needs a reference day"):
        export_references(work, own, cnes="of-the-day")


def test_tables_that_were_imported_with_a_date_are_in_force_from_it_on(own: Any, work: ObjectStore) -> None:
    def made(cnes: str, day: str) -> tuple[str, str]:
        versions = export_references(work, own, cnes=cnes, day=ReferenceDay.parse(day)).versions
        return versions.ibge_version, versions.pni_version

    def dose(version: str, since: str) -> bytes:
        concepts = [*concepts_of("dose"), {"code": "99", "display": f"Dose de {since}"}]
        return json.dumps(code_system("BRDose", concepts, version=version)).encode()

    import_cnes(cnes_zip(country(), competencia="202601"), own)
    later = date(2026, 3, 1)
    import_pni(dose("2", "março"), own, valid_from=later)
    import_pni(dose("1", "fevereiro"), own, valid_from=date(2026, 2, 1))  # the older one comes last
    import_ibge((IBGE + NEW).encode(), own, version="DTB 2026", valid_from=later)
    assert made("of-the-day", "2026-01-31") == ("", ""), "the project's own"
    assert made("of-the-day", "2026-02-28") == ("", "dose 1")
    assert made("of-the-day", "2026-03-01") == ("DTB 2026", "dose 2")
    assert made("newest", "2026-01-31") == ("DTB 2026", "dose 2"), (
        "an older one that is imported last takes nobody's place"
    )
    import_pni(dose("undated", "sempre"), own)
    assert made("newest", "2026-01-31")[1] == "dose undated", "without a date, that of the import counts"
    assert made("of-the-day", "2026-01-31") == ("", "dose undated")
    assert made("of-the-day", "2026-03-01") == ("DTB 2026", "dose 2"), "a dated one comes before an undated one"
    assert import_pni(dose("2", "março"), own, valid_from=later)[0].stored is False
    with pytest.raises(
        ConfigurationError, match=r"PNI 2 \(#\d+\), in force from 2026-03-01, now it is said .* 2026-04-01"
    ):
        import_pni(dose("2", "março"), own, valid_from=date(2026, 4, 1))


def test_without_a_database_the_files_of_the_project_have_a_month_of_the_day_too(work: ObjectStore) -> None:
    shipped = export_references(work, cnes="of-the-day", day=ReferenceDay.parse("2026-03-14"))
    assert shipped == export_references(work, cnes="of-the-day", day=ReferenceDay.parse("2026-02-01"))
    assert shipped.versions.cnes_competencia == "202602"
    with pytest.raises(ConfigurationError, match="in force in 202601: the oldest is 202602"):
        export_references(work, cnes="of-the-day", day=ReferenceDay.parse("2026-01-31"))


def test_the_inbox_is_imported_in_order_and_a_refused_file_stays(own: Any, work: ObjectStore) -> None:
    work.put(f"{INBOX}cnes/BASE_DE_DADOS_CNES_202601.ZIP", cnes_zip([*country(), establishment("9000001", "359000")]))
    work.put(f"{INBOX}cnes/broken.zip", b"no zip")
    work.put(f"{INBOX}ibge/ibge_municipios.csv", (IBGE + NEW).encode())
    work.put(f"{INBOX}pni/dose.json", json.dumps(code_system("BRDose", concepts_of("dose"))).encode())
    done = import_inbox(work, own)
    assert [found.origin for found in done.imported] == [
        "ibge_municipios.csv",
        "dose.json",
        "BASE_DE_DADOS_CNES_202601.ZIP",
    ]
    assert [refused.file for refused in done.refused] == ["cnes/broken.zip"]
    (cnes,) = [found for found in done.imported if isinstance(found, CnesImport)]
    assert cnes.without_municipality == 0, "the municipalities were read first"
    assert [info.key for info in work.list(INBOX)] == [f"{INBOX}cnes/broken.zip"]
    kept = {info.key for info in work.list(KEPT)}
    assert kept == {
        f"{KEPT}{kind}/{found.sha256[:12]}-{found.origin}"
        for kind, found in zip(("ibge", "pni", "cnes"), done.imported, strict=True)
    }
    with pytest.raises(ContractViolation, match=r"1 reference file\(s\) refused, 3 imported\. cnes/broken\.zip: "):
        require_accepted(done)
    again = import_inbox(work, own)
    assert (again.imported, len(again.refused)) == ([], 1)


def test_the_command_imports_lists_and_compares(controle_dsn: str, tmp_path: Path) -> None:
    env = {"IMUNIZACAO_CONTROLE_DSN": controle_dsn}

    def run(*arguments: str) -> tuple[int, str]:
        out = io.StringIO()
        return main(["--plain", "reference", *arguments], env=env, out=out), out.getvalue()

    assert run("list")[1].endswith("none: runs use the project's own tables, and no CNES\n")
    first, second = tmp_path / "BASE_DE_DADOS_CNES_202601.ZIP", tmp_path / "cnes_estabelecimentos_csv.zip"
    first.write_bytes(cnes_zip(country()))
    moved = open_country()
    moved[0] |= {"CO_IBGE": "350010", "CO_UNIDADE": "3500100001000"}
    second.write_bytes(open_zip(moved))
    assert (
        run("import", str(first))[1]
        == "CNES 202601: 540 establishments (540 active, 0 without municipality); the first version\n"
    )
    assert run("import", str(second))[0] == 6
    code, text = run("import", str(second), "--competencia", "202602")
    assert (code, text.split("; ")[1]) == (0, "against 202601: 1 moved, 540 renamed\n")
    assert run("import", str(second), "--competencia", "202602")[1].endswith("was imported before, nothing stored\n")
    assert run("import", str(REFERENCE / "pni" / "pni_dose.csv"), "--version", "1.01")[1] == (
        "PNI dose 1.01: 82 codes (82 active); against project: no change\n"
    )
    lines = run("list")[1].splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["cnes", "202602"], ["cnes", "202601"], ["pni", "dose"]]
    code, text = run("diff", "cnes", "--list", "1")
    assert text.splitlines() == [
        "cnes 202601 → 202602: 1 moved, 540 renamed",
        "moved     0001000  110020 → 350010",
        "and 540 more",
    ]
    assert run("diff", "ibge")[0] == 2
