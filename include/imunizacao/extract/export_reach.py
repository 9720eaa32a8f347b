"""Has a mirror that can only export anything from after a day? Asked by small exports of their own, before that of the day.

Before, because a document that came between the export of the day and the question would prove nothing about that export. On its own,
because a day's export that reached further would list deletions of the next day, which state no instant (ADR 0018).
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from imunizacao.events import log_event
from imunizacao.fhir import Transport, Window, instant_text
from imunizacao.fhir.export import (
    SPLIT,
    WHOLE,
    ExportClient,
    ExportFile,
    ExportGone,
    ExportManifest,
    ExportRefused,
    ExportSpent,
)
from imunizacao.fhir.pages import wrap_resource
from imunizacao.fhir.transport import MAX_BODY_BYTES

STEPS: Final = (timedelta(hours=1), timedelta(days=1))
"""How far after the day is looked before everything until now: a backfill must not make a mirror export the months since."""
_DECISIVE: Final = frozenset({"Bundle", "Composition", "Immunization"})
"""What makes a document, whichever way the mirror stores it; the others only stand beside it."""


async def exports_later(transport: Transport, end: datetime, *, now: datetime, folder: Path) -> bool:
    """Tell whether the mirror has a document from `end` until `now`, by exports of an hour, of a day and of all that is left.

    Raises `MirrorUnavailable` when an export is not done in time or vanishes, `ExportRefused` when the mirror takes none.
    """
    moment = now.replace(microsecond=0)
    look = _Look(transport, end, moment, folder)
    for until in dict.fromkeys([*(min(end + step, moment) for step in STEPS), moment]):
        if until > end and await look.finds(Window(start=end, end=until)):
            log_event("extract.export_reached", since=instant_text(end), until=instant_text(until))
            return True
    return False


class _Look:
    """The exports of one question."""

    def __init__(self, transport: Transport, end: datetime, moment: datetime, folder: Path) -> None:
        self._deadline = transport.settings.export_deadline
        self._client = ExportClient(transport)
        self._end = end
        self._moment = moment
        self._path = folder / "look.ndjson"
        self._whole_only = False

    async def finds(self, window: Window) -> bool:
        """Export a window until a line of it proves something: whole documents, then their parts where there were none."""
        types, status_url = await self._client.start(window)
        if await self._is_in(status_url):
            return True
        if types != WHOLE or self._whole_only:
            return False
        try:
            status_url = await self._client.kick_off(SPLIT, window)
        except ExportRefused:
            self._whole_only = True
            return False
        return await self._is_in(status_url)

    async def _is_in(self, status_url: str) -> bool:
        try:
            manifest = await self._client.wait(status_url, seconds=self._deadline)
            files = [file for file in manifest.output if file.type in _DECISIVE]
            for number, file in enumerate(files, 1):
                if await self._proves(
                    file, manifest, where=f"file {number} of {len(files)} of the export after the day"
                ):
                    return True
        except ExportGone as error:
            raise ExportSpent(str(error)) from error
        finally:
            await self._client.clean_up(status_url)
        return False

    async def _proves(self, file: ExportFile, manifest: ExportManifest, *, where: str) -> bool:
        await self._client.fetch(file, manifest, self._path, where=where)
        try:
            return await asyncio.to_thread(self._has_line)
        finally:
            self._path.unlink()

    def _has_line(self) -> bool:
        """Bounds are looked at here: `_since` and `_until` may have been ignored. An instant still to come proves nothing."""
        with self._path.open("rb") as lines:
            while line := lines.readline(MAX_BODY_BYTES):
                instant = wrap_resource(line, "").last_updated
                if instant is not None and self._end <= instant <= self._moment:
                    return True
        return False
