"""The way `export`: does the mirror start an export, and does it take the order back."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from imunizacao.errors import MirrorProtocolError
from imunizacao.fhir import Window
from imunizacao.fhir.export import ExportClient
from imunizacao.mirror_check.access import check_clock, tell_access
from imunizacao.mirror_check.found import Found

EXPORT: Final = "Export"
_SINCE: Final = timedelta(minutes=5)
"""The order is taken back at once; should the mirror carry it out, it is small."""


async def check_access(found: Found) -> None:
    """Order an export of the last minutes, as a run would."""
    end = found.now().replace(microsecond=0)
    client = ExportClient(found.asker.transport)
    try:
        found.exported_types, found.export_status = await client.start(Window(start=end - _SINCE, end=end))
    except MirrorProtocolError as error:
        found.export_problem = error
    tell_access(found, "not refused")
    check_clock(found)


async def check_start(found: Found) -> None:
    """The order was accepted with a status address, and can be taken back."""
    if found.export_problem is not None:
        raise found.export_problem
    what = ", ".join(found.exported_types) or "everything: it takes no `_type`"
    found.add(EXPORT, "start", f"accepted ({what}), with a status address on the same host")
    taken = await ExportClient(found.asker.transport).clean_up(found.export_status)
    found.add(
        EXPORT,
        "take back",
        "accepted" if taken else "not accepted",
        "ok" if taken else "warn",
        ""
        if taken
        else "Exports stay in the mirror until it removes them: ask how long, and whether there is a limit.",
    )
    found.not_checked.append(("totals, paging, documents", "an export has none before it is complete: run one day"))
