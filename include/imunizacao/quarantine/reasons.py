"""A Portuguese sentence for every reason code: what is wrong, and what to correct. `include/contract/motivos.csv` has them."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.paths import CONTRACT

REASONS: Final = CONTRACT / "motivos.csv"
_COLUMNS: Final = ["co_motivo", "ds_motivo", "ds_correcao"]
_CODE: Final = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
_CORRECT_BY_RULE: Final = "Corrigir o registro na origem de modo que atenda à regra e enviá-lo novamente."


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One reason code for people."""

    code: str
    sentence: str
    correction: str


def load_reasons(path: Path = REASONS) -> dict[str, Reason]:
    """Read and check the table: code → reason. A table that cannot be used is a `ConfigurationError`."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            columns = reader.fieldnames
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(
            f"Table of reasons {path.name} cannot be read ({type(error).__name__}). Restore it."
        ) from error
    if columns != _COLUMNS:
        raise ConfigurationError(f"Table of reasons {path.name} has columns {columns}, expected {_COLUMNS}. Mend it.")
    found: dict[str, Reason] = {}
    for row in rows:
        code = row["co_motivo"] or ""
        if (
            not _CODE.fullmatch(code)
            or code in found
            or None in row
            or not all((value or "").strip() for value in row.values())
        ):
            raise ConfigurationError(
                f"Table of reasons {path.name}: the line of {code!r} is no code, repeats one, or has an empty or a surplus field. Mend it."
            )
        found[code] = Reason(code=code, sentence=row["ds_motivo"], correction=row["ds_correcao"])
    return found


def reason_of(code: str, rule: str, *, table: Mapping[str, Reason], notes: Mapping[str, str]) -> Reason:
    """The reason of a code; of a rule that the table does not know yet, what its note (rule id → note) demands.

    Neither is a `ContractViolation`: nobody is told of a rejection that nobody explains.
    """
    if code in table:
        return table[code]
    if note := notes.get(rule):
        return Reason(code=code, sentence=f"Não atende à regra {rule}: {note}.", correction=_CORRECT_BY_RULE)
    raise ContractViolation(
        f"Reason {code} has no sentence in include/contract/{REASONS.name}. Add its line, then run the task again."
    )
