"""Which CNES snapshot a day is made with: the newest, a month by name, one of them by `#id`, or the one in force on the day."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from imunizacao.controle import Connection, Snapshot, newest_cnes, stored_snapshots
from imunizacao.errors import ConfigurationError
from imunizacao.paths import REFERENCE
from imunizacao.reference.cnes_file import COMPETENCIA, COMPETENCIA_IN_NAME, open_cnes
from imunizacao.reference.common import some
from imunizacao.reference_day import ReferenceDay

NEWEST: Final = "newest"
OF_THE_DAY: Final = "of-the-day"
"""The snapshot with the highest competência that is not after the month of the reference day."""

_ID: Final = re.compile(r"#[0-9]+")
"""Of a stored snapshot, as `reference list` shows it: a month that was imported twice, because it was corrected, has two."""


def require_choice(cnes: str) -> None:
    """Refuse a choice that is none."""
    if cnes not in (NEWEST, OF_THE_DAY) and not COMPETENCIA.fullmatch(cnes) and not _ID.fullmatch(cnes):
        raise ConfigurationError(
            f"CNES snapshot {cnes!r} is neither `newest` nor `of-the-day` nor a competência AAAAMM, for example 202602, nor the #id of a "
            "stored one (see: python -m imunizacao reference list)."
        )


def stored_cnes(connection: Connection, cnes: str, day: ReferenceDay | None) -> Snapshot:
    """The snapshot of `controle` that a choice names; of two of the same month the one imported last."""
    if _ID.fullmatch(cnes):
        known = stored_snapshots(connection, "cnes")
        found = next((snapshot for snapshot in known if f"#{snapshot.id}" == cnes), None)
        if found is None:
            raise ConfigurationError(f"No CNES snapshot is {cnes}. There are: {names_of(known)}.")
        return found
    if cnes == OF_THE_DAY:
        month = _month(day)
        snapshot = newest_cnes(connection, until=month)
        if snapshot is None:
            _refuse_day(month, sorted({found.version for found in stored_snapshots(connection, "cnes")}))
    else:
        snapshot = newest_cnes(connection, only="" if cnes == NEWEST else cnes)
    if snapshot is None:
        which = "no CNES snapshot" if cnes in (NEWEST, OF_THE_DAY) else f"no CNES snapshot {cnes}"
        raise ConfigurationError(
            f"PostgreSQL (schema controle) has {which}. Import the monthly file: python -m imunizacao import-cnes "
            "BASE_DE_DADOS_CNES_AAAAMM.ZIP (for a demonstration the one in include/reference/cnes); see docs/runbook/cnes-import.md."
        )
    return snapshot


def name_of(snapshot: Snapshot) -> str:
    """Version and id: what tells two of one name apart."""
    return f"{snapshot.version} (#{snapshot.id})"


def names_of(snapshots: Sequence[Snapshot]) -> str:
    """For messages: the first few."""
    return some([name_of(snapshot) for snapshot in snapshots]) or "none"


def shipped_cnes(cnes: str, day: ReferenceDay | None) -> Path:
    """The CNES file of the project that a choice names."""
    found = {
        match["competencia"]: path
        for path in sorted((REFERENCE / "cnes").iterdir())
        if (match := COMPETENCIA_IN_NAME.search(path.name))
    }
    if cnes == OF_THE_DAY:
        month = _month(day)
        competencia = max((known for known in found if known <= month), default="")
        if not competencia:
            _refuse_day(month, sorted(found))
    else:
        competencia = max(found, default="") if cnes == NEWEST else cnes
    if competencia not in found:
        raise ConfigurationError(
            f"There is no CNES file {cnes} in include/reference/cnes (there: {', '.join(sorted(found)) or 'none'}). "
            "Put it there, or import it into PostgreSQL (IMUNIZACAO_CONTROLE_DSN); see docs/runbook/cnes-import.md."
        )
    return found[competencia]


def competencia_of(source: Path, cnes: str) -> str:
    """Month of a file that a choice led to."""
    if not source.is_file():
        raise ConfigurationError(f"CNES file {source} is not there. Give the path of BASE_DE_DADOS_CNES_AAAAMM.ZIP.")
    return open_cnes(source, source.name, "" if cnes in (NEWEST, OF_THE_DAY) else cnes).competencia


def _month(day: ReferenceDay | None) -> str:
    if day is None:
        raise ConfigurationError(
            "`of-the-day` needs a reference day. Name the CNES snapshot: `newest` or a competência AAAAMM."
        )
    return f"{day.value:%Y%m}"


def _refuse_day(month: str, known: list[str]) -> None:
    if known:
        raise ConfigurationError(
            f"No CNES snapshot was in force in {month}: the oldest is {known[0]} (there: {some(known)}). Import the file of that month "
            "or of an earlier one, or make the day with `newest`; see docs/runbook/cnes-import.md."
        )
