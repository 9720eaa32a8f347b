"""The last checks before and after publication, each with a case that it must refuse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from imunizacao.errors import ContractViolation
from imunizacao.flatten import _require_closed
from imunizacao.reconcile import _count_places, _Counted, _Findings, _Residence

CLOSED = {
    "fetched": 10,
    "unique": 9,
    "duplicates": 1,
    "doses": 12,
    "candidates": 8,
    "quarantined": 2,
    "superseded": 1,
    "removed": 1,
}


def test_a_closed_account_of_flatten_passes() -> None:
    _require_closed(CLOSED, doses_written=8, quarantined_written=2)


@pytest.mark.parametrize("name", ["fetched", "unique", "doses", "superseded", "removed", "candidates", "quarantined"])
def test_one_document_or_dose_too_many_anywhere_stops_flatten(name: str) -> None:
    with pytest.raises(ContractViolation, match="does not close"):
        _require_closed({**CLOSED, name: CLOSED[name] + 1}, doses_written=8, quarantined_written=2)


@pytest.mark.parametrize(("doses", "quarantined"), [(7, 2), (8, 3)])
def test_a_file_of_flatten_with_other_rows_than_the_account_is_refused(doses: int, quarantined: int) -> None:
    with pytest.raises(ContractViolation, match="rows, account says"):
        _require_closed(CLOSED, doses_written=doses, quarantined_written=quarantined)


def _gaps(*keys: tuple[str, str]) -> list[str]:
    def lines() -> Iterator[bytes]:
        yield b'"co_documento";"co_municipio_estabelecimento";"co_municipio_paciente";"sg_uf_paciente"\n'
        for place, document in keys:
            yield f'"{document}";"{place}";;\n'.encode()

    findings, counted = _Findings(), _Counted()
    _count_places(lines(), "53", findings, counted, _Residence(initials={"": ""}))
    assert counted.rows == len(keys)
    return findings.gaps


def test_rows_in_order_and_once_are_no_gap() -> None:
    assert _gaps(("530010", "a"), ("530010", "b")) == []


@pytest.mark.parametrize("second", [("530010", "b"), ("530010", "a"), ("355030", "c")])
def test_a_repeated_row_a_row_out_of_order_and_a_row_of_another_uf_are_gaps(second: tuple[str, str]) -> None:
    assert _gaps(("530010", "b"), second) == ["1 rows of UF 53 are repeated, out of order or of another UF"]
