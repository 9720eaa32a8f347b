"""Names and places that readers may rely on: written down here a second time on purpose."""

from __future__ import annotations

import re
from typing import Final

UFS: Final[dict[str, str]] = {
    "11": "RO", "12": "AC", "13": "AM", "14": "RR", "15": "PA", "16": "AP", "17": "TO",
    "21": "MA", "22": "PI", "23": "CE", "24": "RN", "25": "PB", "26": "PE", "27": "AL", "28": "SE", "29": "BA",
    "31": "MG", "32": "ES", "33": "RJ", "35": "SP",
    "41": "PR", "42": "SC", "43": "RS",
    "50": "MS", "51": "MT", "52": "GO", "53": "DF",
}  # fmt: skip
"""IBGE code → initials, in code order."""

CATALOG: Final = "v1/catalog.json"
DCAT: Final = "v1/catalog.jsonld"
KEYS: Final = "v1/keys/index.json"
REASONS: Final = frozenset(
    {
        "initial",
        "late-arrivals",
        "correction",
        "deletion",
        "quarantine-replay",
        "rules",
        "references",
        "pseudonym",
        "schema",
        "manual",
        "withdrawal",
        "restore",
    }
)
DOCUMENT: Final = "co_documento"
PLACE: Final = "co_municipio_estabelecimento"
RESIDENCE: Final = "co_municipio_paciente"
BEFORE: Final = (f"{PLACE}_anterior", f"{RESIDENCE}_anterior")
"""Last columns of changed.csv of a diff."""
GONE: Final = (DOCUMENT, PLACE, RESIDENCE)
"""Columns of removed.csv of a diff."""
TEXT_COLUMNS: Final = (
    "no_razao_social_estabelecimento",
    "no_fantasia_estalecimento",
    "co_lote_vacina",
    "ds_vacina_fabricante",
)
"""Columns with text that somebody typed: no value of theirs starts a formula in a spreadsheet."""
FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
DOCUMENT_FORM: Final = r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}-i[0-9]{1,3}b[0-9]{1,3}"

_INSIDE = re.compile(r"(uf=\d{2}/)?(mun=\d{6}/)?[a-z0-9._=-]+", re.ASCII)


def is_inside(path: str) -> bool:
    """Whether a relative path stays in its folder: known folders, then a plain name that does not start with a dot."""
    return _INSIDE.fullmatch(path) is not None and not path.rpartition("/")[2].startswith(".")


def head_key(day: str) -> str:
    """Head of a day."""
    return f"v1/days/{day}/head.json"


def root_key(day: str, content_id: str) -> str:
    """Root of a content."""
    return f"v1/days/{day}/c-{content_id}/day.json"


def month_key(month: str) -> str:
    """Index of a month."""
    return f"v1/months/{month}/index.json"


def bulk_key(month: str) -> str:
    """`$bulk-publish` manifest of a month."""
    return f"v1/months/{month}/bulk-publish.json"
