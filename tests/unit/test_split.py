"""The published bytes: one sorted body, cut into UFs and municipalities, with hashes that are true."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pyarrow.parquet
import pytest

from imunizacao.contract import Column, csv_dialect, load_contract
from imunizacao.errors import ContractViolation
from imunizacao.models import CutFile
from imunizacao.settings import EngineSettings
from imunizacao.split import SplitOutcome, content_id, csv_header, cut_body, run_split
from imunizacao.sql import open_engine
from imunizacao.sql.compile_csv import csv_header_copy
from tests.unit.fhir_documents import write_references

DAY = "2026-03-14"
CONTRACT = load_contract("dose")
REMOVED = load_contract("removed")
PLACES = [("35", "SP", "355030"), ("35", "SP", "350010"), ("12", "AC", "120040"), ("53", "DF", "530010")]
HEADER = csv_header(CONTRACT)

Row = dict[str, Any]
_TYPES = {
    "string": pyarrow.string(),
    "date": pyarrow.date32(),
    "datetime": pyarrow.string(),
    "integer": pyarrow.int32(),
}


@pytest.fixture(scope="module")
def ufs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of UFs as Parquet."""
    return write_references(tmp_path_factory.mktemp("references"))["ufs"]


def row(number: int, place: tuple[str, str, str] = PLACES[0], **values: Any) -> Row:
    """A row of the table of doses: required columns filled, the others empty unless given."""
    uf, sg_uf, municipio = place
    required = {
        "co_documento": f"00000000-0000-4000-8000-{number:012d}-i0b0",
        "co_paciente": hashlib.sha256(str(number).encode()).hexdigest(),
        "co_cnes_estabelecimento": "2077485",
        "co_municipio_estabelecimento": municipio,
        "no_municipio_estabelecimento": "Município",
        "sg_uf_estabelecimento": sg_uf,
        "co_vacina": "33",
        "dt_vacina": date(2026, 3, 10),
        "co_dose_vacina": "1",
        "dt_entrada_rnds": "2026-03-14T10:00:00.000-03:00",
        "st_documento": "final",
        "no_uf_estabelecimento": "UF",
        "co_ibge_municipio_estabelecimento": municipio + "0",
        "in_co_uf_estabelecimento": uf,
        "nu_parte": 1,
        "nu_linha": number + 1,
        "nu_dose": 0,
    }
    return dict.fromkeys(CONTRACT.names) | required | values


def _write(path: Path, columns: Sequence[tuple[str, Any]], rows: Sequence[Row]) -> None:
    schema = pyarrow.schema(columns)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), str(path))


def _typed(columns: Sequence[Column]) -> list[tuple[str, Any]]:
    return [(column.name, _TYPES[column.type]) for column in columns]


@pytest.fixture
def split(tmp_path: Path, ufs: Path) -> Callable[..., SplitOutcome]:
    """Write the three inputs of the stage into a new folder and run it."""

    def run(
        rows: Sequence[Row],
        *,
        bad: Sequence[Row] = (),
        removed: Sequence[Row] = (),
        threads: int = 2,
        memory: str = "512MB",
    ) -> SplitOutcome:
        folder = tmp_path / f"run-{len(list(tmp_path.glob('run-*'))):03d}"
        folder.mkdir()
        physical = [(name, pyarrow.int32()) for name in ("nu_parte", "nu_linha", "nu_dose")]
        _write(
            folder / "dose.parquet",
            [*_typed(CONTRACT.columns), ("in_co_uf_estabelecimento", pyarrow.string()), *physical],
            rows,
        )
        _write(folder / "bad_keys.parquet", physical, bad)
        _write(folder / "removed.parquet", _typed(REMOVED.columns), removed)
        with open_engine(EngineSettings(threads=threads, memory_limit=memory), folder) as duck:
            return run_split(duck, day=DAY, ufs=ufs, folder=folder)

    return run


def published(outcome: SplitOutcome, file: CutFile) -> bytes:
    """Bytes of a published file: the header, then its slice of the body."""
    body = outcome.body.read_bytes()
    return outcome.cuts.header.encode() + body[file.offset : file.offset + file.length]


def file_of(outcome: SplitOutcome, uf: str, municipio: str = "") -> CutFile:
    """The file of a UF, or of one of its municipalities."""
    (found,) = [file for file in outcome.cuts.files if (file.uf, file.municipio) == (uf, municipio)]
    return found


def read_csv(raw: bytes) -> list[dict[str, str]]:
    """Rows as a reader sees them, by the dialect of the contract."""
    dialect = csv_dialect()
    text = io.StringIO(raw.decode("utf-8"), newline="")
    reader = csv.DictReader(text, delimiter=dialect["delimiter"], quotechar=dialect["quoteChar"], strict=True)
    return list(reader)


def _many(seed: int, count: int = 400) -> list[Row]:
    rng = random.Random(seed)
    return [row(number, rng.choice(PLACES), co_lote_vacina=rng.choice(["L1", "=2", None])) for number in range(count)]


# --- files -------------------------------------------------------------------------------------------


def test_a_day_has_one_file_per_uf_and_one_per_municipality_with_doses(split: Callable[..., SplitOutcome]) -> None:
    outcome = split(_many(1))
    ufs = [file for file in outcome.cuts.files if not file.municipio]
    assert len(ufs) == 27
    assert [file.uf for file in ufs] == sorted(file.uf for file in ufs)
    assert sorted(file.municipio for file in outcome.cuts.files if file.municipio) == sorted(m for _, _, m in PLACES)
    assert file_of(outcome, "35").path == "uf=35/imunizacao-total-sp_2026-03-14.csv"
    assert file_of(outcome, "35", "355030").path == "uf=35/mun=355030/imunizacao-355030_2026-03-14.csv"


def test_a_uf_without_doses_is_a_header(split: Callable[..., SplitOutcome]) -> None:
    outcome = split([row(1)])
    empty = file_of(outcome, "11")
    assert published(outcome, empty).decode() == HEADER
    assert (empty.rows, empty.length, empty.bytes) == (0, 0, len(HEADER.encode()))
    assert empty.sha256 == hashlib.sha256(HEADER.encode()).hexdigest()


def test_a_day_without_doses_is_27_headers(split: Callable[..., SplitOutcome]) -> None:
    outcome = split([])
    assert [file.bytes for file in outcome.cuts.files] == [len(HEADER.encode())] * 27
    assert (outcome.rows, outcome.cuts.body_bytes) == (0, 0)
    assert outcome.removed.read_bytes() == csv_header(REMOVED).encode()


def test_sizes_hashes_and_rows_are_those_of_the_bytes(split: Callable[..., SplitOutcome]) -> None:
    rows = _many(2)
    bad = rows[::7]
    outcome = split(rows, bad=bad)
    good = [item for item in rows if item not in bad]
    for file in outcome.cuts.files:
        raw = published(outcome, file)
        assert (len(raw), hashlib.sha256(raw).hexdigest()) == (file.bytes, file.sha256), file.path
        assert len(read_csv(raw)) == file.rows, file.path
        assert raw.startswith(HEADER.encode())
        assert raw.endswith(b"\n")
        assert b"\r" not in raw
    assert outcome.rows == len(good)
    counted = Counter(item["co_municipio_estabelecimento"] for item in good)
    assert {file.municipio: file.rows for file in outcome.cuts.files if file.municipio} == dict(counted)
    with pyarrow.CompressedInputStream(str(outcome.packed_body), "zstd") as packed:
        assert packed.read() == outcome.body.read_bytes()


def test_the_files_of_the_municipalities_are_slices_of_the_file_of_the_uf(split: Callable[..., SplitOutcome]) -> None:
    outcome = split(_many(3))
    for uf in [file for file in outcome.cuts.files if not file.municipio]:
        parts = [file for file in outcome.cuts.files if file.uf == uf.uf and file.municipio]
        assert uf.rows == sum(file.rows for file in parts)
        joined = b"".join(published(outcome, file)[len(HEADER.encode()) :] for file in parts)
        assert published(outcome, uf) == HEADER.encode() + joined
    assert outcome.cuts.body_bytes == sum(file.length for file in outcome.cuts.files if file.municipio)


def test_rows_are_in_the_order_of_the_contract(split: Callable[..., SplitOutcome]) -> None:
    rows = _many(4)
    rows[0]["co_documento"], rows[1]["co_documento"], rows[2]["co_documento"] = "Z-i0b0", "a-i0b0", "a-i10b0"
    outcome = split(rows)
    for uf in [file for file in outcome.cuts.files if not file.municipio]:
        keys = [
            (item["co_municipio_estabelecimento"], item["co_documento"]) for item in read_csv(published(outcome, uf))
        ]
        assert keys == sorted(keys, key=lambda key: [part.encode() for part in key])


# --- same rows, same bytes ---------------------------------------------------------------------------


@pytest.mark.parametrize(("threads", "memory"), [(1, "128MB"), (2, "256MB"), (4, "1GB")])
def test_threads_and_input_order_do_not_change_a_byte(
    split: Callable[..., SplitOutcome], threads: int, memory: str
) -> None:
    rows = _many(5, count=3000)
    expected = split(rows, threads=1, memory="1GB")
    shuffled = list(rows)
    random.Random(threads).shuffle(shuffled)
    moved = [item | {"nu_parte": 1 + number % 3, "nu_linha": number + 1} for number, item in enumerate(shuffled)]
    found = split(moved, threads=threads, memory=memory)
    assert found.body.read_bytes() == expected.body.read_bytes()
    assert found.cuts == expected.cuts
    assert found.content_id == expected.content_id


def test_the_content_id_sees_every_row_and_every_removal(split: Callable[..., SplitOutcome]) -> None:
    rows = [row(number) for number in range(3)]
    gone = dict.fromkeys(REMOVED.names) | {
        "co_documento": "doc-a-i0b0",
        "st_documento": "entered-in-error",
        "co_motivo": "entered-in-error",
        "dt_entrada_rnds": "2026-03-14T10:00:00.000-03:00",
    }
    changed = [rows[0], rows[1], rows[2] | {"co_lote_vacina": "L"}]
    ids = [split(rows).content_id, split(rows[:2]).content_id, split(changed).content_id]
    ids += [split(rows, removed=[gone]).content_id, split(rows, bad=rows[:1]).content_id]
    assert len(set(ids)) == len(ids)
    assert split(list(reversed(rows)), removed=[gone]).content_id == ids[3]


def test_the_content_id_is_the_hash_of_sorted_paths_and_hashes() -> None:
    files = [("uf=12/b.csv", "2" * 64), ("removed.csv", "3" * 64), ("uf=11/a.csv", "1" * 64)]
    lines = f"removed.csv\0{'3' * 64}\nuf=11/a.csv\0{'1' * 64}\nuf=12/b.csv\0{'2' * 64}\n"
    assert content_id(files) == content_id(reversed(files)) == hashlib.sha256(lines.encode()).hexdigest()


def test_the_content_id_of_a_day_covers_all_its_files(split: Callable[..., SplitOutcome]) -> None:
    outcome = split(_many(6))
    files = [(file.path, hashlib.sha256(published(outcome, file)).hexdigest()) for file in outcome.cuts.files]
    removed = ("removed.csv", hashlib.sha256(outcome.removed.read_bytes()).hexdigest())
    assert outcome.content_id == content_id([*files, removed])


# --- values ------------------------------------------------------------------------------------------

_HOSTILE = [
    'aspas " no meio',
    '"',
    '""";"""',
    "ponto; e; vírgula",
    "vacina 💉🧬 \U0001f1e7\U0001f1f7",
    "da direita: \u202eabc\u202c שלום مرحبا",
    "e\u0301 combinado",
    "\ufeffBOM no meio",
    "\\n não é quebra",
    "NULL",
    "'já tem apóstrofo",
    "a\u00a0b",
    "0007",
    "1e5",
]


def test_hostile_values_survive_a_round_trip(split: Callable[..., SplitOutcome], tmp_path: Path) -> None:
    rows = [row(number, no_fantasia_estalecimento=value, co_lote_vacina=None) for number, value in enumerate(_HOSTILE)]
    outcome = split(rows)
    raw = published(outcome, file_of(outcome, "35", "355030"))
    assert [item["no_fantasia_estalecimento"] for item in read_csv(raw)] == _HOSTILE
    path = tmp_path / "published.csv"
    path.write_bytes(raw)
    with duckdb.connect() as connection:
        answer = connection.execute(
            "select no_fantasia_estalecimento, co_lote_vacina from read_csv($path, delim = ';', quote = '\"', escape = '\"', "
            "header = true, all_varchar = true, strict_mode = true) order by co_documento",
            {"path": str(path)},
        ).fetchall()
    assert answer == [(value, None) for value in _HOSTILE]
    assert outcome.neutralised == {}
    assert outcome.blanked == {}


def test_a_null_is_an_empty_unquoted_field_and_every_value_is_quoted(split: Callable[..., SplitOutcome]) -> None:
    outcome = split([row(1, nu_idade_paciente=7)])
    (line,) = outcome.body.read_text(encoding="utf-8").splitlines()
    cells = line.split(";")
    assert len(cells) == len(CONTRACT.names)
    values = dict(zip(CONTRACT.names, cells, strict=True))
    assert values["nu_idade_paciente"] == '"7"'
    assert values["dt_vacina"] == '"2026-03-10"'
    assert values["co_lote_vacina"] == ""
    assert all(cell == "" or (cell[0] == cell[-1] == '"' and len(cell) > 2) for cell in cells)


def test_a_cell_that_a_spreadsheet_would_run_gets_an_apostrophe_and_is_counted(
    split: Callable[..., SplitOutcome],
) -> None:
    # OWASP, CSV injection; the full-width signs are folded to ASCII by some spreadsheets.
    runs = [f'{sign}HYPERLINK("http://example.org";"x")' for sign in "=+-@＝＋－＠"]
    values = [*runs, *(f"a{value}" for value in runs), None]
    outcome = split([row(n) | dict.fromkeys(CONTRACT.text_columns, value) for n, value in enumerate(values)])
    rows = read_csv(published(outcome, file_of(outcome, "35")))
    for column in CONTRACT.text_columns:
        assert [item[column] for item in rows] == [
            *("'" + value for value in runs),
            *(f"a{value}" for value in runs),
            "",
        ]
        assert outcome.completeness[column] == 16
    assert outcome.neutralised == dict.fromkeys(CONTRACT.text_columns, len(runs))


def test_a_value_outside_the_contract_of_an_optional_column_is_left_empty_and_counted(
    split: Callable[..., SplitOutcome],
) -> None:
    values: Row = {
        "co_lote_vacina": "L" * 101,
        "no_razao_social_estabelecimento": "R" * 201,
        "co_vacina_fabricante": "PFIZER",
        "co_local_aplicacao": "braço",
        "co_troca_documento": "João da Silva-i0b0",
        "co_etnia_indigena_paciente": "1",
        "co_pais_aplicacao": "BRASIL",
        "co_origem_registro": "1",
        "st_contato_hanseniase": "talvez",
    }
    outcome = split([row(n) | {column: value} for n, (column, value) in enumerate(values.items())])
    rows = read_csv(published(outcome, file_of(outcome, "35")))
    assert len(rows) == outcome.rows == len(values)
    assert all(item[column] == "" for item in rows for column in values)
    assert outcome.blanked == dict.fromkeys(values, 1)
    assert [outcome.completeness[column] for column in values] == [0] * len(values)


CPF, CNS = "12345678909", "700000000000005"


def test_a_cns_or_cpf_in_a_text_does_not_leave_and_is_counted(split: Callable[..., SplitOutcome]) -> None:
    planted = [CPF, f"lote {CNS}", "=123.456.789-09", f"{CPF}{'L' * 95}", "L-4120Z005", None]
    rows = [row(n) | dict.fromkeys(CONTRACT.text_columns, value) for n, value in enumerate(planted)]
    outcome = split([*rows, row(90, co_troca_documento=f"{CNS}-i0b0")])
    raw = published(outcome, file_of(outcome, "35"))
    for column in CONTRACT.text_columns:
        assert [item[column] for item in read_csv(raw)] == ["", "", "", "", "L-4120Z005", "", ""]
        assert (outcome.identifying[column], outcome.blanked[column], outcome.completeness[column]) == (4, 4, 1)
    assert outcome.identifying["co_troca_documento"] == outcome.blanked["co_troca_documento"] == 1
    assert outcome.neutralised == {}
    assert not [text for text in (CPF, CNS, "456.789") if text.encode() in outcome.body.read_bytes()]


def test_a_document_id_that_is_a_cpf_stops_the_day(split: Callable[..., SplitOutcome]) -> None:
    """Flatten keeps such documents back; this is the last look before files."""
    with pytest.raises(ContractViolation, match=r"hold a CNS or CPF in co_documento \(1 rows\)") as error:
        split([row(1), row(2, co_documento=f"{CPF}-i0b0")])
    assert CPF not in str(error.value)
    assert split([row(1), row(2, co_documento=f"{CPF}-i0b0")], bad=[row(2)]).rows == 1


def test_a_removal_does_not_name_a_person(split: Callable[..., SplitOutcome]) -> None:
    gone = dict.fromkeys(REMOVED.names) | {
        "co_documento": "doc-a-i0b0",
        "co_troca_documento": f"{CPF}-i0b0",
        "co_motivo": "replaced",
        "dt_entrada_rnds": "2026-03-14T10:00:00.000-03:00",
    }
    (item,) = read_csv(split([], removed=[gone]).removed.read_bytes())
    assert (item["co_documento"], item["co_troca_documento"]) == ("doc-a-i0b0", "")


def test_a_column_of_another_profile_is_refused_before_anything_is_written(
    split: Callable[..., SplitOutcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A contract that was put together past the checks of its file."""
    smuggled = dataclasses.replace(CONTRACT.column("co_lote_vacina"), privacy="identifier")
    columns = tuple(smuggled if column.name == smuggled.name else column for column in CONTRACT.columns)
    monkeypatch.setattr("imunizacao.split.load_contract", lambda name: dataclasses.replace(CONTRACT, columns=columns))
    with pytest.raises(ContractViolation, match=r"co_lote_vacina are not on the allow-list .* profile pseudonymised"):
        split([row(1)])
    assert not list(tmp_path.rglob("body.csv"))


def test_a_statement_that_writes_other_columns_than_the_contract_is_refused(
    split: Callable[..., SplitOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = csv_header_copy(CONTRACT)
    for old, new, message in (
        ('as "co_lote_vacina"', 'as "nu_cpf_paciente"', "nu_cpf_paciente are not on the allow-list"),
        ('as "sg_vacina"', 'as "ds_vacina_"', "ds_vacina_ are not on the allow-list"),
        ("limit 0", "limit 0 -- unchanged", ""),
    ):
        monkeypatch.setattr("imunizacao.split.csv_header_copy", lambda _, o=old, n=new: compiled.replace(o, n))
        if message:
            with pytest.raises(ContractViolation, match=message):
                split([row(1)])
        else:
            assert split([row(1)]).rows == 1


def test_a_value_at_the_limit_of_the_contract_is_published(split: Callable[..., SplitOutcome]) -> None:
    outcome = split([row(1, co_lote_vacina="ç" * 100, co_troca_documento="a" * 64 + "-i123b123")])
    (item,) = read_csv(published(outcome, file_of(outcome, "35")))
    assert (item["co_lote_vacina"], item["co_troca_documento"]) == ("ç" * 100, "a" * 64 + "-i123b123")
    assert outcome.blanked == {}


def test_a_blanked_formula_is_not_counted_as_neutralised(split: Callable[..., SplitOutcome]) -> None:
    outcome = split([row(1, co_lote_vacina="=" * 101)])
    assert outcome.blanked == {"co_lote_vacina": 1}
    assert outcome.neutralised == {}


def test_published_values_keep_the_contract(split: Callable[..., SplitOutcome]) -> None:
    _require_contract(split, {"co_lote_vacina": "=" + "L" * 98})


_EPOCH_DAYS_12345, _EPOCH_DAYS_27_BC = 3_789_391, -728_952
"""Days since 1970 that a Python date cannot hold: what `data_civil` makes of 12345-01-1 and -026-03-14."""


@pytest.mark.parametrize(
    "values",
    [
        {"co_lote_vacina": "=" + "L" * 99},
        {"dt_validade_lote": _EPOCH_DAYS_12345},
        {"dt_validade_lote": _EPOCH_DAYS_27_BC},
    ],
    ids=["apostrophe beyond the length", "year of five digits", "before Christ"],
)
def test_an_optional_value_never_breaks_the_contract(split: Callable[..., SplitOutcome], values: Row) -> None:
    _require_contract(split, values)


def _require_contract(split: Callable[..., SplitOutcome], values: Row) -> None:
    outcome = split([row(1, **values)])
    (item,) = read_csv(published(outcome, file_of(outcome, "35")))
    for column in CONTRACT.columns:
        text = item[column.name]
        value = None if text == "" else int(text) if column.type == "integer" else text
        assert column.accepts(value), f"{column.name} is published as {text!r}, which its contract does not allow"


def test_completeness_counts_what_is_published(split: Callable[..., SplitOutcome]) -> None:
    rows = [row(1, co_lote_vacina="L"), row(2, co_lote_vacina="X" * 200), row(3), row(4, co_lote_vacina="=1")]
    outcome = split(rows, bad=rows[:1])
    assert outcome.completeness["co_lote_vacina"] == 1
    assert outcome.completeness["co_documento"] == 3
    assert outcome.completeness["ds_vacina"] == 0
    assert tuple(outcome.completeness) == CONTRACT.names


def test_internal_columns_are_not_published(split: Callable[..., SplitOutcome]) -> None:
    assert split([row(1)]).cuts.header == ";".join(f'"{name}"' for name in CONTRACT.names) + "\n"
    assert not [
        name for name in CONTRACT.names if name.startswith("in_") or name in {"nu_parte", "nu_linha", "nu_dose"}
    ]


def test_removed_is_sorted_and_hostile_reasons_do_not_get_out(split: Callable[..., SplitOutcome]) -> None:
    def gone(name: str, **values: Any) -> Row:
        base = dict.fromkeys(REMOVED.names) | {
            "co_motivo": "replaced",
            "dt_entrada_rnds": "2026-03-14T10:00:00.000-03:00",
        }
        return base | {"co_documento": f"{name}-i0b0"} | values

    outcome = split([], removed=[gone("doc-b"), gone("doc-a", co_troca_documento="doc-b-i0b0"), gone("Doc-c")])
    raw = outcome.removed.read_bytes()
    assert [item["co_documento"] for item in read_csv(raw)] == ["Doc-c-i0b0", "doc-a-i0b0", "doc-b-i0b0"]
    assert raw.split(b"\n")[0] + b"\n" == csv_header(REMOVED).encode()
    assert outcome.removals == 3
    assert outcome.rows == 0


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a\nb", "\n", "a\r\nb"])
def test_a_line_break_in_a_value_is_refused(split: Callable[..., SplitOutcome], text: str) -> None:
    with pytest.raises(ContractViolation, match="a value carries a line break"):
        split([row(1, no_fantasia_estalecimento=text), row(2)])


@pytest.mark.parametrize(
    "place",
    [
        ("99", "XX", "990000"),
        ("35", "SP", "120040"),
        ("35", "SP", "3550308"),
        ("35", "SP", "35"),
        ("35", "SP", "35503０"),
        (None, None, "355030"),
        ("35", "SP", None),
    ],
)
def test_a_place_that_no_table_has_is_refused(split: Callable[..., SplitOutcome], place: tuple[str, str, str]) -> None:
    uf, sg_uf, municipio = place
    wrong = row(2) | {
        "in_co_uf_estabelecimento": uf,
        "sg_uf_estabelecimento": sg_uf,
        "co_municipio_estabelecimento": municipio,
    }
    with pytest.raises(ContractViolation, match="which no reference table has"):
        split([row(1), wrong])


def _cut(folder: Path, body: bytes, places: Sequence[tuple[str, str, int]]) -> list[CutFile]:
    path = folder / "body.csv"
    path.write_bytes(body)
    cuts = cut_body(
        path, packed=folder / "body.zst", day=DAY, header="h\n", ufs=[("12", "AC"), ("35", "SP")], places=places
    )
    return cuts.files


def test_cut_body_reads_many_blocks(tmp_path: Path) -> None:
    lines = [f"{number}\n".encode() for number in range(10_001)]
    files = _cut(tmp_path, b"".join(lines), [("12", "120040", 4096), ("35", "350010", 1), ("35", "355030", 5904)])
    assert [(file.uf, file.municipio, file.rows) for file in files] == [
        ("12", "", 4096),
        ("12", "120040", 4096),
        ("35", "", 5905),
        ("35", "350010", 1),
        ("35", "355030", 5904),
    ]
    assert files[3].sha256 == hashlib.sha256(b"h\n" + lines[4096]).hexdigest()
    assert files[2].sha256 == hashlib.sha256(b"h\n" + b"".join(lines[4096:])).hexdigest()


def test_a_body_that_ends_early_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractViolation, match="ends after 1 of 2 rows of municipality 355030"):
        _cut(tmp_path, b"a\nb\n", [("12", "120040", 1), ("35", "355030", 2)])


def test_a_body_with_lines_left_over_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractViolation, match="more lines than rows"):
        _cut(tmp_path, b"a\nb\nc\n", [("12", "120040", 1), ("35", "355030", 1)])
