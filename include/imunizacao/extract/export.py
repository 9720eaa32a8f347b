"""The way in over Bulk Data `$export`: a day in one job, landed as one slice, with the proof that it is all of it.

The status address of the job and every file that came are checkpoints in the work bucket: a task that was killed goes on waiting for the
same job and fetches no file again that it had. All of them go once the slice has its receipt.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from imunizacao.errors import MirrorProtocolError, PipelineError
from imunizacao.events import Progress, log_event
from imunizacao.extract.export_checkpoints import ExportCheckpoints, FileCheckpoint, Job
from imunizacao.extract.export_lines import LandedExport, LocalFile, write_export
from imunizacao.extract.walks import STAGE, upload_walk
from imunizacao.fhir import MirrorClient, Transport, Window, instant_text, parse_instant
from imunizacao.fhir.export import (
    SPLIT,
    WHOLE,
    ExportClient,
    ExportFile,
    ExportGone,
    ExportManifest,
    ExportRefused,
    ExportSpent,
    judge_outcomes,
)
from imunizacao.fhir.ndjson import CutShort, pack_lines, read_lines
from imunizacao.fhir.pace import backoff_seconds
from imunizacao.fhir.transport import mirror_mark, shown
from imunizacao.models import LandingSlice, RunContext
from imunizacao.storage import ObjectStore, file_ref

EXPORT_ATTEMPTS: Final = 3
"""Exports whose documents are not the mirror's own total before the day fails."""
FILE_ATTEMPTS: Final = 3
"""Times a file is fetched that does not come whole."""
KICK_OFFS_AGAIN: Final = 1
"""Jobs of this task that may vanish (404 or 410) before it gives up; one that an earlier task left is not counted."""

WAY: Final = "export"
_RUNBOOK: Final = "docs/runbook/mirror-export.md"


async def land_export(
    context: RunContext,
    *,
    transport: Transport,
    work: ObjectStore,
    folder: Path,
    now: Callable[[], datetime],
    progress: Progress,
    window: Window,
    expected: int | None,
) -> LandingSlice:
    """Land one window by `$export` and return its slice, uploaded and with its receipt.

    `expected` is the mirror's own total by search, None where it cannot count; a total of 0 says nothing of a mirror that stores the
    resources of its documents one by one. Deleted documents land as lines of their own (`request`, no `resource`): they are in `lines`,
    not in `announced` or `distinct`. Raises `MirrorUnavailable` when an export may be whole later, `MirrorProtocolError` when it is not
    whole, or when nobody could tell.
    """
    export = _Export(context, transport=transport, work=work, folder=folder, now=now, progress=progress, window=window)
    return await export.land(expected)


class _Export:
    """One window while it is being exported."""

    def __init__(
        self,
        context: RunContext,
        *,
        transport: Transport,
        work: ObjectStore,
        folder: Path,
        now: Callable[[], datetime],
        progress: Progress,
        window: Window,
    ) -> None:
        self._context = context
        self._transport = transport
        self._client = ExportClient(transport)
        self._work = work
        self._folder = folder
        self._now = now
        self._progress = progress
        self._window = window
        self._base = shown(transport.settings.base_url).rstrip("/")
        self._prefix = f"{context.prefix(STAGE)}slice={window.name}/"
        self._mirror = mirror_mark(transport.settings.base_url)
        self._checkpoints = ExportCheckpoints(work, self._prefix, mirror=self._mirror)
        self._resumed = False

    async def land(self, expected: int | None) -> LandingSlice:
        """Export until the documents are the mirror's own total; see `land_export`."""
        done = await asyncio.to_thread(self._checkpoints.read_slice)
        if done is not None and expected in {None, done.announced}:
            log_event("extract.slice_reused", slice=str(self._window), announced=done.announced, of_run=done.run_id)
            await self._forget()
            return done
        gone, attempt = 0, 1
        while True:
            started = time.monotonic()
            folder = self._folder / f"export-{attempt}-{secrets.token_hex(4)}"
            folder.mkdir()
            try:
                landed, total = await self._export(expected, folder)
            except ExportGone as error:
                gone += not self._resumed
                log_event("extract.export_gone", level=logging.WARNING, slice=str(self._window), resumed=self._resumed)
                await self._forget(clean_up=False)
                if gone > KICK_OFFS_AGAIN:
                    raise MirrorProtocolError(f"{error} This happened to {gone} exports in a row.") from error
                continue
            except (MirrorProtocolError, ExportSpent):
                await self._forget()
                raise
            whole = total is None or landed.documents - landed.undated <= total <= landed.documents
            if whole:
                piece = await asyncio.to_thread(self._upload, landed, total, attempt)
                self._log_done(piece, landed, seconds=time.monotonic() - started)
            await self._forget()
            shutil.rmtree(folder)
            if whole:
                return piece
            log_event(
                "extract.export_redo",
                level=logging.WARNING,
                slice=str(self._window),
                attempt=attempt,
                before=expected,
                after=total,
                distinct=landed.documents,
                undated=landed.undated,
            )
            if attempt == EXPORT_ATTEMPTS:
                raise MirrorProtocolError(
                    f"The export of {self._window} does not add up after {attempt} exports: the mirror counts {total} documents, the last "
                    f"export brought {landed.documents} different ones ({landed.undated} of them without an instant). Nothing was published. "
                    f"See {_RUNBOOK}."
                )
            attempt += 1

    async def _export(self, expected: int | None, folder: Path) -> tuple[LandedExport, int | None]:
        """One export from its kick-off, or from where a killed task left it, to landing files on local disk; and the total to compare."""
        job, manifest = await self._finished_job()
        types = {file.type for file in manifest.output}
        split = "Bundle" not in types and bool(types & set(SPLIT))
        output = [file for file in manifest.output if file.type in (SPLIT if split else WHOLE)]
        known = None if split and expected == 0 else expected
        log_event(
            "extract.export_manifest",
            slice=str(self._window),
            files=len(output),
            deleted=len(manifest.deleted),
            outcomes=len(manifest.outcomes),
            other_types=len(manifest.output) - len(output),
            split=split,
        )
        self._require_end(manifest)
        self._require_compositions(output)
        self._require_proof(output, known)
        for local in await self._fetch_all(job, manifest, manifest.outcomes, "outcome", folder):
            codes = await asyncio.to_thread(judge_outcomes, read_lines(local.path), where=local.where)
            told = ",".join(sorted(set(codes)))
            log_event("extract.export_outcomes", level=logging.WARNING, codes=told, count=len(codes))
        deleted = await self._fetch_all(job, manifest, manifest.deleted, "deleted", folder)
        files = await self._fetch_all(job, manifest, output, "output", folder)
        landed = await asyncio.to_thread(
            write_export,
            files,
            deleted,
            split=split,
            window=self._window,
            transaction_time=manifest.transaction_time,
            base_url=self._base,
            folder=folder,
            advance=self._advance(files),
        )
        if known is None or split:
            # A search for whole documents cannot count again what is stored one by one.
            return landed, known
        client = MirrorClient(self._transport.settings, transport=self._transport)
        return landed, await client.count(self._window)

    def _require_end(self, manifest: ExportManifest) -> None:
        if manifest.transaction_time < self._window.end:
            raise ExportSpent(
                f"The export shows the mirror as it was at {instant_text(manifest.transaction_time)}, before the end of the day "
                f"({instant_text(self._window.end)}): it cannot be the whole day. Nothing was published. Run the task again later; see "
                f"{_RUNBOOK}."
            )

    def _require_compositions(self, output: Sequence[ExportFile]) -> None:
        types = {file.type for file in output}
        if "Immunization" in types and "Composition" not in types:
            raise MirrorProtocolError(
                f"The export of {self._window} has Immunization without Composition, which alone says where a dose was given. Nothing was "
                f"published. The mirror must export Bundle, or Composition too; see {_RUNBOOK}."
            )

    def _require_proof(self, output: Sequence[ExportFile], expected: int | None) -> None:
        """Refuse an export of which nobody could tell whether it is whole."""
        if expected is not None:
            return
        silent = sum(file.count is None for file in output)
        if silent or not output:
            what = f"gives no `count` for {silent} of {len(output)} files" if output else "names no file"
            raise MirrorProtocolError(
                f"The export of {self._window} cannot be proved whole: its manifest {what}, and the mirror cannot count documents by "
                f"search (`_summary=count`). Nothing was published. One of the two is needed; see {_RUNBOOK}."
            )

    # --- the job ---------------------------------------------------------------------------------------

    async def _finished_job(self) -> tuple[Job, ExportManifest]:
        """A job that is done: for whole documents, else for their resources where the mirror has these."""
        job = await self._open_job()
        manifest = await self._wait(job)
        types = {file.type for file in manifest.output}
        if job.types == WHOLE and not types & {"Bundle", "Composition"}:
            # Nothing to say that the day is empty: the mirror may store the resources of its documents one by one.
            try:
                other = self._job(SPLIT, await self._client.kick_off(SPLIT, self._window), before=job)
            except ExportRefused:
                log_event("extract.export_whole_only", slice=str(self._window))
            else:
                job = await self._save_job(other)
                manifest = await self._wait(job)
        if job.before is not None and not any(file.type in SPLIT for file in manifest.output):
            # Neither has documents. The first one says which were deleted.
            manifest = await self._wait(job.before)
        return job, manifest

    async def _wait(self, job: Job) -> ExportManifest:
        kicked_off = parse_instant(job.kicked_off_at) or self._now()
        left = self._transport.settings.export_deadline - (self._now() - kicked_off).total_seconds()
        return await self._client.wait(job.status_url, seconds=max(left, 0.0), told=self._tell)

    def _tell(self, percent: int | None) -> None:
        if percent is not None:
            self._progress("export", percent, 100)

    async def _open_job(self) -> Job:
        """The job that a killed task of this run left at this mirror, or a new one."""
        job = await asyncio.to_thread(self._checkpoints.read_job)
        self._resumed = job is not None
        if job is not None:
            log_event("extract.export_resumed", slice=str(self._window), kicked_off=job.kicked_off_at)
            return job
        return await self._save_job(self._job(*await self._client.start(self._window)))

    def _job(self, types: tuple[str, ...], status_url: str, *, before: Job | None = None) -> Job:
        log_event("extract.export_kicked_off", slice=str(self._window), types=",".join(types) or "all")
        return Job(
            id=secrets.token_hex(4),
            status_url=status_url,
            types=types,
            kicked_off_at=instant_text(self._now()),
            mirror=self._mirror,
            before=before,
        )

    async def _save_job(self, job: Job) -> Job:
        self._resumed = False
        await asyncio.to_thread(self._checkpoints.put_job, job)
        return job

    async def _forget(self, *, clean_up: bool = True) -> None:
        """Tell the mirror that the job is over and remove its checkpoints."""
        job = await asyncio.to_thread(self._checkpoints.read_job)
        while job is not None and clean_up:
            await self._client.clean_up(job.status_url)
            job = job.before
        await asyncio.to_thread(self._checkpoints.remove)

    # --- the files -------------------------------------------------------------------------------------

    async def _fetch_all(
        self, job: Job, manifest: ExportManifest, files: Sequence[ExportFile], kind: str, folder: Path
    ) -> list[LocalFile]:
        """Every file of a list, packed on local disk, in its order; fetched on all connections."""
        found: dict[int, LocalFile] = {}
        queue = iter(enumerate(files, 1))

        async def work_through() -> None:
            for number, file in queue:
                where = f"{kind} file {number} of {len(files)} ({file.type}) of the export"
                found[number] = await self._get_file(job, manifest, file, f"{kind}-{number:05d}", where, folder)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._transport.settings.max_connections, len(files))):
                    group.create_task(work_through())
        except BaseExceptionGroup as several:
            failure = _first(several)
        else:
            return [found[number] for number in sorted(found)]
        raise failure

    async def _get_file(
        self, job: Job, manifest: ExportManifest, file: ExportFile, name: str, where: str, folder: Path
    ) -> LocalFile:
        """A file from its checkpoint, or fetched until it is whole."""
        mark = hashlib.sha256(file.url.encode()).hexdigest()
        path = folder / f"{name}.ndjson.zst"
        checkpoint = await asyncio.to_thread(self._checkpoints.read_file, job, name, mark=mark)
        if checkpoint is not None:
            await asyncio.to_thread(self._work.download, checkpoint.object.key, path, sha256=checkpoint.object.sha256)
            log_event("extract.export_file_reused", file=where, lines=checkpoint.lines)
            return LocalFile(file=file, where=where, path=path, checkpoint=checkpoint)
        plain = folder / f"{name}.ndjson"
        for attempt in range(1, FILE_ATTEMPTS + 1):
            got = await self._client.fetch(file, manifest, plain, where=where)
            try:
                lines = await asyncio.to_thread(pack_lines, plain, path, where=where)
                flaw = "" if file.count in {None, lines} else f"has {lines} lines, the manifest says {file.count}"
            except CutShort:
                flaw = "ends in the middle of a line"
            plain.unlink()
            if not flaw:
                break
            log_event("extract.export_file_redo", level=logging.WARNING, file=where, attempt=attempt, flaw=flaw)
            if attempt < FILE_ATTEMPTS:
                await self._transport.sleep(backoff_seconds(attempt))
        else:
            raise MirrorProtocolError(
                f"The {where} is not whole: it {flaw}, after {FILE_ATTEMPTS} downloads. Nothing was published. See {_RUNBOOK}."
            )
        key = self._checkpoints.file_key(job, name)
        checkpoint = FileCheckpoint(
            mark=mark,
            lines=lines,
            bytes=got.bytes,
            sha256=got.sha256,
            seconds=round(got.received.seconds, 3),
            attempts=attempt,
            object=await asyncio.to_thread(file_ref, self._work, key, path, rows=lines),
        )
        await asyncio.to_thread(self._checkpoints.put_file, job, name, checkpoint)
        log_event("extract.export_file_saved", file=where, lines=lines, bytes=got.bytes, seconds=got.received.seconds)
        return LocalFile(file=file, where=where, path=path, checkpoint=checkpoint)

    def _advance(self, files: Sequence[LocalFile]) -> Callable[[int], None]:
        total, done = sum(local.checkpoint.lines for local in files), 0

        def advance(lines: int) -> None:
            nonlocal done
            done += lines
            self._progress(STAGE, done, total)

        return advance

    # --- the slice -------------------------------------------------------------------------------------

    def _upload(self, landed: LandedExport, total: int | None, attempt: int) -> LandingSlice:
        """Put the landing files into the work bucket, the receipt of the slice last."""
        return upload_walk(
            self._work,
            self._context,
            self._window,
            landed.walk,
            key=f"{self._prefix}attempt-{attempt}-{secrets.token_hex(4)}/",
            announced=landed.documents if total is None else total,
            distinct=landed.documents,
            attempt=attempt,
            way=WAY,
            mirror=self._mirror,
            moment=self._now(),
        )

    def _log_done(self, piece: LandingSlice, landed: LandedExport, *, seconds: float) -> None:
        deletions = landed.deletions
        if landed.left_out or deletions.others or deletions.outside:
            log_event(
                "extract.export_left_out",
                level=logging.WARNING,
                slice=str(self._window),
                **landed.left_out,
                deletions_outside=deletions.outside,
                **{f"deleted_{name.lower()}": count for name, count in deletions.others.items()},
            )
        log_event(
            "extract.slice_done",
            slice=str(self._window),
            announced=piece.announced,
            fetched=piece.lines + piece.rejected,
            rejected=piece.rejected,
            deleted=len(deletions.documents),
            pages=piece.pages,
            attempt=piece.attempts,
            seconds=seconds,
        )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to show of several that came at once: one of ours if there is one."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += [_first(error)] if isinstance(error, BaseExceptionGroup) else [error]
    return next((error for error in leaves if isinstance(error, PipelineError)), leaves[0])
