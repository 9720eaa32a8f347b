"""Acknowledgements name documents by their ids, except where an id says who somebody is."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pyarrow
import pyarrow.parquet
import pytest

from imunizacao.claims import CLOCKS_APART, store_clock
from imunizacao.models import RunContext
from imunizacao.quarantine import acknowledge_day
from imunizacao.quarantine.acks import AckIndex, index_key, read_index
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings
from imunizacao.storage import file_ref
from tests.support.memory_store import MemoryStore
from tests.support.small_day import make_inputs

CPF = "52998224725"
_IDS = {
    "doc-1": ["CNES_UNKNOWN"],
    "ria-x": ["ID_IDENTIFIES_PERSON"],
    f"ria-{CPF}": ["CNES_UNKNOWN", "ID_IDENTIFIES_PERSON"],
    f"{CPF}-v2": ["ID_IDENTIFIES_PERSON"],
    "529.982.247-25": ["CNES_UNKNOWN"],
    f"lote.{CPF}": ["DATE_FUTURE"],
}


def _acknowledge(work: MemoryStore, folder: Path) -> AckIndex:
    """The index of the day after its acknowledgements were written."""
    context = RunContext.create(day=ReferenceDay.parse("2026-03-14"), run_id="r", code_version="test")
    keys = range(1, len(_IDS) + 1)
    table = pyarrow.table(
        {
            "nu_parte": [1] * len(_IDS),
            "nu_linha": list(keys),
            "nu_dose": [0] * len(_IDS),
            "co_documento": [f"{document}-i0b0" for document in _IDS],
            "co_cnes_estabelecimento": ["2077485"] * len(_IDS),
            "ds_motivos": list(_IDS.values()),
            "ds_regras": pyarrow.array([[]] * len(_IDS), pyarrow.list_(pyarrow.string())),
        }
    )
    path = folder / "quarantine.parquet"
    pyarrow.parquet.write_table(table, path)
    inputs = make_inputs(context, [], work)
    validated = replace(inputs.validate, quarantine=file_ref(work, "v1/q.parquet", path, rows=len(_IDS)))
    acknowledge_day(
        context, flatten=inputs.flatten, validate=validated, work=work, engine=EngineSettings(scratch_dir=folder)
    )
    index = read_index(work, "2026-03-14")
    assert index is not None
    return index


def test_an_id_with_the_number_of_a_person_is_left_empty_whatever_else_is_in_it(tmp_path: Path) -> None:
    index = _acknowledge(work := MemoryStore(), tmp_path)
    (file,) = index.files
    text = work.get(f"v1/acks/day=2026-03-14/{file.path}").body.decode()
    rows = list(csv.DictReader(io.StringIO(text), delimiter=";"))
    assert file.doses == len(_IDS)
    assert {row["co_documento"] for row in rows} == {"", "doc-1-i0b0"}


@pytest.mark.parametrize(("ahead", "wins"), [(timedelta(0), True), (timedelta(seconds=1), False)])
def test_an_index_of_the_future_is_replaced(tmp_path: Path, ahead: timedelta, wins: bool) -> None:
    """A newer one stays, unless it is of a worker whose clock was ahead."""
    index = _acknowledge(work := MemoryStore(), tmp_path)
    stamp = (store_clock(work) + CLOCKS_APART + ahead).isoformat()
    work.put(index_key("2026-03-14"), msgspec.json.encode(replace(index, extracted_at=stamp)))
    work.delete("v1/day=2026-03-14/run=r/acknowledge/receipt.json")
    assert (_acknowledge(work, tmp_path).extracted_at == stamp) == wins
