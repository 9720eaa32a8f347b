"""Replays in `controle.quarantine`: what a run found in quarantine, and how much of it was published since."""

from __future__ import annotations

from collections.abc import Mapping

from imunizacao.controle.connection import Connection, transaction
from imunizacao.reference_day import ReferenceDay


def record_replay(
    connection: Connection,
    day: ReferenceDay,
    *,
    of_run: str,
    by_run: str,
    released: Mapping[str, Mapping[str, int]],
) -> int:
    """Write how many doses (UF code or `00` → reason → doses) of the quarantine of `of_run` the replay `by_run` published.

    Their rows become `replayed`; rows of which nothing was released stay `superseded`. Written again, the same. Returns the rows
    that were changed: 0 when `of_run` had no database.
    """
    changed = 0
    with transaction(connection, f"record the replay of {day}") as cursor:
        for uf, reasons in sorted(released.items()):
            for reason, doses in sorted(reasons.items()):
                cursor.execute(
                    "update controle.quarantine set state = 'replayed', qt_replayed = least(%s, qt_doses), replayed_by = %s, "
                    "replayed_at = coalesce(case when replayed_by = %s then replayed_at end, now()) "
                    "where reference_day = %s and run_id = %s and reason = %s and co_uf = %s and run_id <> %s",
                    (doses, by_run, by_run, day.value, of_run, reason, uf, by_run),
                )
                changed += cursor.rowcount
    return changed
