"""Rows with text that breaks careless readers, written by the product's own `split`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow
import pyarrow.parquet

from imunizacao.contract import load_contract
from imunizacao.settings import EngineSettings
from imunizacao.split import SplitOutcome, run_split
from imunizacao.sql import open_engine
from tests.unit.fhir_documents import write_references
from tests.unit.test_split import DAY, PLACES, _typed, row

CONTRACT: Final = load_contract("dose")
TEXTS: Final = tuple(CONTRACT.text_columns)
STARTS: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""Signs by which a spreadsheet takes a cell for a formula."""
PIECES: Final = (
    *STARTS,
    *(
        '"',
        '""',
        ";",
        ",",
        "'",
        "\\",
        "\\n",
        "|",
        "`",
        "{{ 7*7 }}",
        "{% raw %}",
        "<script>alert(1)</script>",
        "&lt;",
        "%00",
    ),
    *(
        "\u202e",
        "\u202d",
        "\u2066",
        "\u200f",
        "\ufeff",
        "\u200b",
        "\u00a0",
        "e\u0301",
        "שלום",
        "مرحبا",
        "💉",
        "🇧🇷",
        "👩🏽‍⚕️",
        "\U0010ffff",
    ),
    *(
        "NULL",
        "N/A",
        "nan",
        "inf",
        "1e5",
        "0007",
        "true",
        "2026-03-14",
        "#REF!",
        "cmd|' /C calc'!A0",
        "HYPERLINK(",
        "dose",
        " ",
    ),
)


def hostile_text(dice: random.Random) -> str:
    """A few pieces; never empty, never with blanks at its ends, at most 60 characters: what flatten lets through."""
    text = "".join(dice.choice(PIECES) for _ in range(dice.randint(1, 6)))[:60].strip()
    return text or '"'


def hostile_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with hostile values in their columns of typed text."""
    dice = random.Random(seed)
    return [
        row(number, dice.choice(PLACES)) | {column: hostile_text(dice) for column in TEXTS} for number in range(count)
    ]


def split_rows(rows: Sequence[dict[str, Any]], folder: Path) -> SplitOutcome:
    """Write the three inputs of the stage and run it."""
    folder.mkdir()
    physical = [(name, pyarrow.int32()) for name in ("nu_parte", "nu_linha", "nu_dose")]
    columns = [*_typed(CONTRACT.columns), ("in_co_uf_estabelecimento", pyarrow.string()), *physical]
    tables = {
        "dose": (columns, rows),
        "bad_keys": (physical, []),
        "removed": (_typed(load_contract("removed").columns), []),
    }
    for name, (schema, content) in tables.items():
        table = pyarrow.Table.from_pylist(list(content), schema=pyarrow.schema(schema))
        pyarrow.parquet.write_table(table, str(folder / f"{name}.parquet"))
    ufs = write_references(folder)["ufs"]
    with open_engine(EngineSettings(threads=2, memory_limit="512MB"), folder) as duck:
        return run_split(duck, day=DAY, ufs=ufs, folder=folder)
