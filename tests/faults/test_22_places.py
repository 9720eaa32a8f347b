"""Codes that would be paths. Figure: 0 keys outside the allow-list, whatever code a row, a document or a CNES snapshot has."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Final

import pytest

from imunizacao.errors import ContractViolation
from imunizacao.split import cut_body
from tests.faults.hostile import split_rows
from tests.support.memory_store import MemoryStore
from tests.support.small_day import SmallDay, dose, ufs
from tests.unit.fhir_documents import build_entry, flatten_lines, invent_person, line_of, write_references
from tests.unit.test_split import row

HOSTILE: Final = (
    "../../x",
    "a/b",
    "..",
    ".",
    "",
    "3550308",
    "35503",
    "35503\u0660",
    "53001/",
    "５３００１０",
    "3550 0",
    "35%2f0",
    "NULL",
)
KEYS: Final = re.compile(
    r"v1/(catalog\.json(ld)?|months/\d{4}-\d{2}/(index|bulk-publish)\.json|dados/dicionario-[0-9.]+-[0-9a-f]+\.html|days/\d{4}-\d{2}-\d{2}/"
    r"(head\.json|diff/\d+-\d+-[0-9a-f]{64}/(added|changed|removed)\.csv|c-[0-9a-f]{64}/(uf=\d{2}/)?(mun=\d{6}/)?[a-z0-9._-]+))"
)
"""All that a publication may write."""


@pytest.mark.parametrize("code", HOSTILE)
@pytest.mark.parametrize("uf", ["35", "53", "99", ""])
def test_a_place_that_is_no_code_is_cut_into_no_file(tmp_path: Path, code: str, uf: str) -> None:
    body = tmp_path / "body.csv"
    body.write_bytes(b'"x"\n')
    with pytest.raises(ContractViolation, match="which no reference table has"):
        cut_body(body, packed=tmp_path / "x.zst", day="2026-03-14", header="h\n", ufs=ufs(), places=[(uf, code, 1)])


@pytest.mark.parametrize(
    "place", [("35", "SP", "35/../"), pytest.param(("35", "SP", "530010"), marks=pytest.mark.slow)]
)
def test_a_row_of_such_a_place_stops_the_day(tmp_path: Path, place: tuple[str, str, str]) -> None:
    columns = ("in_co_uf_estabelecimento", "sg_uf_estabelecimento", "co_municipio_estabelecimento")
    with pytest.raises(ContractViolation):
        split_rows([row(1), row(2) | dict(zip(columns, place, strict=True))], tmp_path / "split")


def test_a_publication_writes_nothing_outside_the_allow_list(tmp_path: Path) -> None:
    day = SmallDay("2026-03-14", MemoryStore(), MemoryStore(), tmp_path)
    day.revise([dose("../../etc/passwd", "355030", residence="530010"), dose("a/b", "120040")])
    day.revise([dose("..%2f..%2fx", "355030", residence="530010")], removed=["../x", "a/b"])
    keys = list(day.public.objects)  # type: ignore[attr-defined]
    assert len(keys) > 200
    assert [key for key in keys if not KEYS.fullmatch(key)] == []


@pytest.mark.parametrize(
    "key", ["v1/days/../x", "v1/a//b", "/etc/passwd", "v1/uf=35/", "v1/uf=..", "v1/a\\b", "v1/a b", "v1/á"]
)
def test_no_stage_can_write_such_a_key_at_all(key: str) -> None:
    with pytest.raises(ContractViolation, match="not allowed"):
        MemoryStore().put(key, b"")


def test_documents_and_snapshots_with_such_codes_end_in_quarantine(tmp_path: Path) -> None:
    """A document names a hostile CNES: quarantine. The snapshot puts it into a hostile municipality: no municipality, which a critical
    rule of the suite quarantines, and which no file could take."""
    snapshot = {f"{2000000 + n}": (code, "UBS") for n, code in enumerate(HOSTILE)} | {"2077485": ("355030", "UBS")}
    (tmp_path / "references").mkdir()
    tables = write_references(tmp_path / "references", snapshot)
    entries = [
        build_entry(random.Random(n), identifier=f"doc-{n}", person=invent_person(random.Random(n)), cnes=cnes)
        for n, cnes in enumerate([*HOSTILE, *snapshot])
    ]
    flattened = flatten_lines(tmp_path, tables, [[line_of(entry) for entry in entries]])
    found = {row["co_municipio_estabelecimento"] for row in flattened.dose}
    assert found == {None, "355030"}
    assert len(flattened.dose) + len(flattened.quarantine) == len(entries)
    assert len(flattened.quarantine) == len(HOSTILE)
    reasons = {reason for row in flattened.quarantine for reason in row["ds_motivos"]}
    assert reasons <= {"CNES_MALFORMED", "CNES_UNKNOWN", "CNES_MISSING"}
