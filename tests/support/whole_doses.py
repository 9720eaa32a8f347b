"""Doses that keep every constraint of the contract, for readers who look at every cell."""

from __future__ import annotations

from imunizacao.contract import load_contract
from tests.support.small_day import dose, ufs

_CONTRACT = load_contract("dose")
_INITIALS = dict(ufs())


def whole_dose(document: str, municipio: str, day: str, *, residence: str = "", **values: str) -> dict[str, str]:
    """A row whose required columns have the contract's examples, in the right place and on the right day."""
    required = {column.name: str(column.example) for column in _CONTRACT.columns if column.required}
    place = {
        "co_documento": f"{document}-i0b0",
        "co_municipio_estabelecimento": municipio,
        "sg_uf_estabelecimento": _INITIALS[municipio[:2]],
        "dt_entrada_rnds": f"{day}T08:15:30.123-03:00",
    }
    return dose(place["co_documento"], municipio, residence=residence, **(required | place | values))
