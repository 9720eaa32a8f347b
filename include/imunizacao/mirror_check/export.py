"""The way `export`: does the mirror start an export, and does it take the order back."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from urllib.parse import urlencode

from imunizacao.fhir import instant_text
from imunizacao.mirror_check.access import check_clock, tell_access
from imunizacao.mirror_check.asking import Finding, NotChecked
from imunizacao.mirror_check.found import Found

EXPORT: Final = "Export"
_SINCE: Final = timedelta(minutes=5)
"""The order is taken back at once; should the mirror carry it out, it is small."""


async def check_access(found: Found) -> None:
    """Order an export of the last minutes."""
    since = instant_text((found.now() - _SINCE).replace(microsecond=0))
    query = urlencode([("_since", since), ("_outputFormat", "application/fhir+ndjson")], safe=":-")
    found.kick_off = await found.asker.get(
        f"{found.settings.base_url.rstrip('/')}/$export?{query}",
        where="start of an export",
        headers={"Prefer": "respond-async"},
    )
    tell_access(found, "not refused")
    check_clock(found)


async def check_start(found: Found) -> None:
    """The order was accepted with a status address, and can be taken back."""
    reply = found.kick_off
    if reply is None:
        raise NotChecked("no export was ordered")
    status = reply.answer.headers.get("content-location", "")
    if reply.answer.status != 202:
        raise Finding(
            f"an export is answered {reply.status} instead of 202",
            "May we export everything ($export of the whole system)? Ask those who run the mirror, or set another way.",
        )
    if not status:
        raise Finding(
            "an export is accepted without Content-Location", "Nobody can fetch its files: ask for the header."
        )
    url = found.asker.transport.follow(reply.url, status, "the export")
    found.add(EXPORT, "start", "accepted, with a status address on the same host")
    cancelled = await found.asker.get(url, where="end of the export", method="DELETE")
    taken = cancelled.answer.status in {200, 202, 204}
    found.add(
        EXPORT,
        "take back",
        "accepted" if taken else f"answered {cancelled.status}",
        "ok" if taken else "warn",
        ""
        if taken
        else "Exports stay in the mirror until it removes them: ask how long, and whether there is a limit.",
    )
    found.not_checked.append(("totals, paging, documents", "an export has none before it is complete: run one day"))
