"""CNES snapshots in a real PostgreSQL, and the export of references to a real S3 server."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import psycopg2
import pytest

from imunizacao import reference
from imunizacao.controle import Connection, connect, migrate, newest_cnes, stored_snapshots
from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.paths import REFERENCE
from imunizacao.reference import ReferenceSet, affected_days, export_references, import_cnes, load_references
from imunizacao.storage import ObjectStore, file_sha256
from tests.support.memory_bucket import Clock, MemoryBucket
from tests.unit.test_reference import cnes_zip, country, establishment

pytestmark = pytest.mark.servers

SHIPPED = next((REFERENCE / "cnes").glob("BASE_DE_DADOS_CNES_*.ZIP"))
TEXT = 'CLINICA "SÃO JOÃO; B", CENTRO'


@pytest.fixture(params=[connect, psycopg2.connect], ids=["psycopg", "psycopg2"])
def connection(request: pytest.FixtureRequest, controle_dsn: str) -> Iterator[Any]:
    """A migrated database through either driver."""
    opened = request.param(controle_dsn)
    migrate(opened)
    yield opened
    opened.close()


def _rows(connection: Any, statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        found = [tuple(row) for row in cursor.fetchall()]
    connection.rollback()
    return found


def _query(statement: str, **parameters: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as own:
        return own.execute(statement, parameters).fetchall()


def _read(path: Path) -> list[tuple[Any, ...]]:
    return _query("select * from read_parquet($path)", path=str(path))


def _columns(path: Path) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in _query("describe select * from read_parquet($path)", path=str(path))]


def test_a_snapshot_is_stored_once(connection: Connection) -> None:
    lines = [
        *country(),
        establishment("0000019", "530040", NO_RAZAO_SOCIAL="", NO_FANTASIA=TEXT, TP_UNIDADE="1", CO_NATUREZA_JUR=""),
        establishment("0000027", "999999", CO_MUNICIPIO_GESTOR="", CO_MOTIVO_DESAB="01"),
    ]
    first = import_cnes(cnes_zip(lines), connection)
    assert (first.stored, first.rows, first.active, first.previous) == (True, 542, 541, None)
    again = import_cnes(cnes_zip(lines), connection)
    assert (again.stored, again.rows) == (False, 542)
    assert _rows(connection, "select kind, version, sha256, rows, rows_active from controle.reference_snapshot") == [
        ("cnes", "202601", first.sha256, 542, 541)
    ]
    columns = "co_cnes, co_municipio_6, no_razao_social, no_fantasia, co_tipo_estabelecimento, co_natureza_juridica, co_motivo_desab"
    assert _rows(
        connection, f"select {columns} from controle.cnes_estabelecimento where co_cnes < '0001' order by 1"
    ) == [
        ("0000019", "530010", None, TEXT, "01", None, None),
        ("0000027", None, "PREFEITURA", "UBS CENTRO", "02", "1244", "01"),
    ]
    assert _rows(connection, "select count(*) from controle.cnes_estabelecimento") == [(542,)]


def test_the_next_snapshot_tells_what_changed_and_the_old_one_stays(connection: Connection) -> None:
    before = country()
    import_cnes(cnes_zip(before), connection)
    after = [dict(line) for line in before[2:]]  # two gone
    after[0]["CO_UNIDADE"] = "350010" + after[0]["CO_CNES"]
    after[1]["CO_MOTIVO_DESAB"] = "05"
    after += [establishment(f"90000{k:02d}", "355030") for k in range(3)]
    found = import_cnes(cnes_zip(after, competencia="202602"), connection)
    assert (found.previous, found.stored) == ("202601", True)
    difference = found.difference
    assert difference is not None
    assert (difference.added, difference.moved, difference.closed, difference.reopened, difference.gone) == (
        3,
        1,
        1,
        0,
        2,
    )
    back = import_cnes(cnes_zip(before, competencia="202603"), connection).difference
    assert back is not None
    assert (back.added, back.moved, back.closed, back.reopened, back.gone) == (2, 1, 0, 1, 3)
    assert _rows(connection, "select version, rows from controle.reference_snapshot order by id") == [
        ("202601", 540),
        ("202602", 541),
        ("202603", 540),
    ]


def test_a_corrected_file_of_the_same_month_is_compared_by_id(connection: Connection) -> None:
    before = country()
    after = [dict(line) for line in before]
    after[0]["CO_UNIDADE"] = "350010" + after[0]["CO_CNES"]
    for lines in (before, after):
        assert import_cnes(cnes_zip(lines), connection).stored
    new, old = stored_snapshots(connection, "cnes")
    bucket = MemoryBucket("both", Clock())
    with pytest.raises(ConfigurationError, match=rf"one snapshot.*202601 \(#{new.id}\), 202601 \(#{old.id}\)"):
        affected_days(bucket, bucket, connection, earlier="202601", later="202601")
    found = affected_days(bucket, bucket, connection, earlier=f"#{old.id}", later=f"#{new.id}")
    assert (found.difference.moved, found.difference.total) == (1, 1)
    assert (found.earlier, found.later, found.choice) == (f"202601 (#{old.id})", f"202601 (#{new.id})", "202601")
    back = affected_days(bucket, bucket, connection, earlier="202601", later=f"#{old.id}")
    assert back.choice == f"#{old.id}"
    made = export_references(bucket, connection, cnes=back.choice)
    assert (made.versions.cnes_sha256, made.versions.cnes_choice) == (old.sha256, back.choice)
    with pytest.raises(ConfigurationError, match=r"No CNES snapshot is #99\. There are: 202601"):
        affected_days(bucket, bucket, connection, earlier="#99", later="202601")


def test_a_snapshot_that_shrank_is_refused_and_nothing_is_stored(connection: Connection) -> None:
    import_cnes(cnes_zip(country()), connection)
    small = [line for number, line in enumerate(country()) if number % 20]  # 5 % less: accepted
    smaller = small[1:]
    with pytest.raises(ContractViolation, match="512 establishments, snapshot 202601 had 540"):
        import_cnes(cnes_zip(smaller, competencia="202602"), connection)
    assert _rows(connection, "select version from controle.reference_snapshot") == [("202601",)]
    assert import_cnes(cnes_zip(small, competencia="202602"), connection).stored
    assert import_cnes(cnes_zip(smaller[10:], competencia="202603"), connection, force=True).stored


def test_an_older_month_may_come_late_and_is_not_the_newest(connection: Connection) -> None:
    import_cnes(cnes_zip(country(), competencia="202603"), connection)
    older = import_cnes(cnes_zip(country()[1:], competencia="202601"), connection)
    assert (older.stored, older.previous) == (True, None)
    newest, only = newest_cnes(connection), newest_cnes(connection, only="202601")
    assert newest is not None
    assert only is not None
    assert (newest.version, only.version) == ("202603", "202601")


def test_the_same_month_published_again_replaces_the_earlier_one_for_new_runs(connection: Connection) -> None:
    for number in range(4):
        found = import_cnes(cnes_zip(country()[number:], competencia="202603"), connection)
        assert (found.stored, found.previous) == (True, "202603" if number else None)
        newest = newest_cnes(connection)
        assert newest is not None
        assert newest.sha256 == found.sha256


def test_the_same_file_read_by_other_rules_is_another_snapshot(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = cnes_zip(country())  # made once: a zip holds the time at which it was made
    import_cnes(file, connection)
    monkeypatch.setattr(reference.cnes, "import_rules", lambda _: "f" * 64)
    assert import_cnes(file, connection).stored
    assert _rows(connection, "select count(*), count(distinct sha256) from controle.reference_snapshot") == [(2, 1)]


def test_a_stored_snapshot_cannot_be_changed(connection: Any) -> None:
    import_cnes(cnes_zip(country()), connection)
    for statement in (
        "update controle.cnes_estabelecimento set co_municipio_6 = '355030'",
        "update controle.reference_snapshot set version = '202612'",
    ):
        with pytest.raises(connection.Error, match="never changed"), connection.cursor() as cursor:
            cursor.execute(statement)
        connection.rollback()


def test_two_imports_at_once_store_one_snapshot(controle_dsn: str) -> None:
    with connect(controle_dsn) as opened:
        migrate(opened)
    stored: list[bool] = []

    def work() -> None:
        with connect(controle_dsn) as own:
            stored.append(import_cnes(cnes_zip(country()), own).stored)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stored) == [False, False, True]


# Export


def test_the_shipped_references_are_exported_and_read_back(work: ObjectStore, tmp_path: Path) -> None:
    refs = export_references(work)
    assert ReferenceSet.from_json(refs.to_json()) == refs
    tables = load_references(work, refs, tmp_path)
    assert set(tables) == {"cnes", "municipios", "ufs", *refs.pni}
    assert refs.versions.cnes_competencia == SHIPPED.stem[-6:]
    assert refs.cnes.key.startswith(f"v1/references/cnes/{refs.versions.cnes_competencia}-")
    assert (refs.municipios.rows, refs.ufs.rows) == (5571, 27)
    for name, path in tables.items():
        ref = {"cnes": refs.cnes, "municipios": refs.municipios, "ufs": refs.ufs}.get(name) or refs.pni[name]
        assert len(_read(path)) == ref.rows, name
    assert _columns(tables["cnes"]) == [
        ("co_cnes", "VARCHAR"),
        ("co_municipio_6", "VARCHAR"),
        ("no_razao_social", "VARCHAR"),
        ("no_fantasia", "VARCHAR"),
        ("co_tipo_estabelecimento", "VARCHAR"),
        ("co_natureza_estabelecimento", "VARCHAR"),
        ("st_ativo", "BOOLEAN"),
    ]
    assert {row[5] for row in _read(tables["cnes"])} <= {"1", "2", "3", "4", "5", None}
    municipios = {row[0]: row for row in _read(tables["municipios"])}
    assert municipios["355030"] == ("355030", "3550308", "SAO PAULO", "35", "SP", "SAO PAULO")
    assert municipios["220191"] == ("220191", "2201919", "BOM PRINCIPIO DO PIAUI", "22", "PI", "PIAUI")
    assert municipios["110001"][2] == "ALTA FLORESTA D'OESTE"


def test_every_pni_table_is_exported_as_it_is(work: ObjectStore, tmp_path: Path) -> None:
    refs = export_references(work)
    tables = load_references(work, refs, tmp_path)
    files = sorted((REFERENCE / "pni").glob("pni_*.csv"))
    assert {f"pni_{name}" for name in refs.pni} == {path.stem for path in files}
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file))
        exported = tables[path.stem.removeprefix("pni_")]
        described = _columns(exported)
        assert [row[0] for row in described] == header
        assert {row[1] for row in described} == {"VARCHAR"}
        assert sorted(_read(exported), key=repr) == sorted(
            (tuple(cell or None for cell in row) for row in rows), key=repr
        )


def test_an_export_that_is_there_is_used_as_it_is(work: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = export_references(work)
    before = {info.key: info.etag for info in work.list("v1/references/")}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the CNES file was read again")

    monkeypatch.setattr(reference.export, "read_cnes", refuse)
    assert export_references(work) == first
    assert {info.key: info.etag for info in work.list("v1/references/")} == before


def test_an_export_that_died_halfway_is_finished(work: ObjectStore) -> None:
    first = export_references(work)
    prefix = first.cnes.key.rsplit("/", 1)[0]
    work.delete(f"{prefix}/index.json")
    work.delete(first.pni["dose"].key)
    second = export_references(work)
    assert second.cnes == first.cnes
    assert second == first
    assert work.info(first.pni["dose"].key) is not None


def test_an_object_that_was_there_first_is_kept(work: ObjectStore, tmp_path: Path) -> None:
    first = export_references(work)
    tables = load_references(work, first, tmp_path)
    other = tmp_path / "other.parquet"
    _query(
        "copy (from read_parquet($source)) to $target (format parquet, compression gzip)",
        source=str(tables["ufs"]),
        target=str(other),
    )
    work.put(first.ufs.key, other.read_bytes())
    work.delete(first.ufs.key.replace("ufs.parquet", "index.json"))
    second = export_references(work)
    assert second.ufs.sha256 == file_sha256(other) != first.ufs.sha256, "whoever was first may be in use already"
    assert (second.ufs.bytes, second.ufs.rows) == (other.stat().st_size, 27)
    assert _read(load_references(work, second, tmp_path)["ufs"]) == _read(tables["ufs"])


def test_a_damaged_export_is_never_used(work: ObjectStore, tmp_path: Path) -> None:
    first = export_references(work)
    work.put(first.ufs.key, b"x" * first.ufs.bytes)
    with pytest.raises(ContractViolation, match="changed or damaged"):
        load_references(work, first, tmp_path)


def test_two_exports_at_once_agree(work: ObjectStore) -> None:
    found: list[ReferenceSet] = []
    threads = [threading.Thread(target=lambda: found.append(export_references(work))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert found[0] == found[1] == found[2]


def test_the_database_and_the_file_give_the_same_table(
    connection: Connection, work: ObjectStore, tmp_path: Path
) -> None:
    lines = [
        *country(),
        establishment("0000019", "530040", NO_RAZAO_SOCIAL="", NO_FANTASIA=TEXT, CO_NATUREZA_JUR=""),
        establishment("0000027", "999999", CO_MUNICIPIO_GESTOR="", CO_MOTIVO_DESAB="01"),
    ]
    source = tmp_path / "BASE_DE_DADOS_CNES_202601.ZIP"
    source.write_bytes(cnes_zip(lines))
    import_cnes(source, connection)
    from_database = export_references(work, connection)
    rows = _read(load_references(work, from_database, tmp_path)["cnes"])
    assert rows[:2] == [
        ("0000019", "530010", None, TEXT, "02", None, True),
        ("0000027", None, "PREFEITURA", "UBS CENTRO", "02", "1", False),
    ]
    assert rows == sorted(rows)
    for info in list(work.list("v1/references/cnes/")):
        work.delete(info.key)
    from_file = export_references(work, source=source)
    assert from_file.versions == from_database.versions
    assert from_file.cnes.key == from_database.cnes.key
    assert _read(load_references(work, from_file, tmp_path)["cnes"]) == rows


def test_a_run_chooses_its_month_and_the_versions_are_noted(connection: Connection, work: ObjectStore) -> None:
    import_cnes(cnes_zip(country(), competencia="202601"), connection)
    import_cnes(cnes_zip(country()[1:], competencia="202602"), connection)
    newest, chosen = export_references(work, connection), export_references(work, connection, cnes="202601")
    assert (newest.versions.cnes_competencia, newest.cnes.rows) == ("202602", 539)
    assert (chosen.versions.cnes_competencia, chosen.cnes.rows) == ("202601", 540)
    assert newest.municipios == chosen.municipios
    assert _rows(
        connection, "select kind, sha256, rows from controle.reference_snapshot where kind <> 'cnes' order by 1"
    ) == [
        ("ibge", newest.versions.ibge_sha256, 5571),
        ("pni", newest.versions.pni_sha256, sum(ref.rows for ref in newest.pni.values())),
    ]
    with pytest.raises(ConfigurationError, match=r"no CNES snapshot 202512.*import-cnes"):
        export_references(work, connection, cnes="202512")


def test_a_database_without_a_snapshot_says_how_to_import_one(connection: Connection, work: ObjectStore) -> None:
    with pytest.raises(ConfigurationError, match=r"import-cnes.*docs/runbook/cnes-import\.md"):
        export_references(work, connection)
    assert not list(work.list("v1/references/"))


def test_a_month_that_is_not_to_be_had_is_told(work: ObjectStore) -> None:
    with pytest.raises(ConfigurationError, match="no CNES file 199901"):
        export_references(work, cnes="199901")
    with pytest.raises(ConfigurationError, match="neither `newest` nor"):
        export_references(work, cnes="latest")
    with pytest.raises(ConfigurationError, match="is not there"):
        export_references(work, source=Path("BASE_DE_DADOS_CNES_202601.ZIP"))


def test_the_database_refuses_what_the_code_should_never_write(controle_dsn: str) -> None:
    with connect(controle_dsn) as opened:
        migrate(opened)
    with psycopg.connect(controle_dsn) as opened, pytest.raises(psycopg.errors.CheckViolation):
        opened.execute(
            "insert into controle.reference_snapshot (kind, version, sha256, import_rules, origin, rows, rows_active) "
            "values ('cnes', '202613', repeat('0', 64), repeat('0', 64), 'x', 1, 1)"
        )
