"""`v1/months/<month>/bulk-publish.json`: the files of a month as HL7's `$bulk-publish` lists them, derived from the heads of its days.

Logical model: http://hl7.org/fhir/uv/bulkdata/StructureDefinition/BulkPublishManifest, Bulk Data Access 4.0.0-ballot. What is ours: the
files are CSV and not NDJSON of resources, addresses are relative to the manifest, and sha256, day and operation stand in `extension`.
`docs/dados/contrato.md` tells readers so; ADR 0031 says why.
"""

from __future__ import annotations

import calendar
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final

from imunizacao.errors import ContractViolation
from imunizacao.events import log_event
from imunizacao.manifests import (
    BulkDay,
    BulkFacts,
    BulkFile,
    BulkMonth,
    BulkPublish,
    Current,
    Day,
    Head,
    UfFile,
    bulk_key,
    decode,
    encode,
    head_key,
)
from imunizacao.storage import ObjectMissing, ObjectStore, sha256_of, swap

MANIFEST_TYPE: Final = "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/BulkPublishManifest"
SCHEMA: Final = "imunizacao.bulk-publish/1"
_UP: Final = "../../"
"""From the folder of the manifest to `v1/`."""
_READS_AT_ONCE: Final = 8


def update_bulk(public: ObjectStore, day: str) -> BulkPublish | None:
    """Bring one day in the manifest of its month up to date with its head; a manifest that is missing is built anew.

    The head is read after the manifest, inside the swap, so the manifest never goes back behind a head. A day that is withdrawn has
    no files here. None while no day of the month has a head.
    """
    month = day[:7]
    key = bulk_key(month)

    def decide(body: bytes | None) -> tuple[bytes | None, BulkPublish | None]:
        kept = decode(BulkPublish, body, key) if body is not None else None
        parts = {} if kept is None else _by_day(kept)
        for name in _days_of(month) if kept is None else [day]:
            stored = public.get_or_none(head_key(name))
            part = _part(public, decode(Head, stored.body, head_key(name)), parts.get(name)) if stored else None
            parts.pop(name, None)
            if part is not None:
                parts[name] = part
        if not parts:
            return None, None
        manifest = _manifest(month, parts)
        return encode(manifest), manifest

    return swap(public, key, decide)


class _Part:
    """What one day puts into the manifest."""

    def __init__(self, day: BulkDay, output: list[BulkFile], deleted: list[BulkFile]) -> None:
        self.day, self.output, self.deleted = day, output, deleted


def _by_day(manifest: BulkPublish) -> dict[str, _Part]:
    return {
        day: _Part(
            entry,
            [file for file in manifest.output if file.extension.day == day],
            [file for file in manifest.deleted if file.extension.day == day],
        )
        for day, entry in manifest.extension.days.items()
    }


def _manifest(month: str, parts: dict[str, _Part]) -> BulkPublish:
    ordered = sorted(parts.items())
    return BulkPublish(
        manifest_type=MANIFEST_TYPE,
        transaction_time=max((part.day.data_through for part in parts.values()), key=datetime.fromisoformat),
        update_cadence="P1D",
        requires_access_token=False,
        output_format="text/csv",
        output=[file for _, part in ordered for file in part.output],
        deleted=[file for _, part in ordered for file in part.deleted],
        extension=BulkMonth(schema=SCHEMA, month=month, days={day: part.day for day, part in ordered}),
    )


def _part(public: ObjectStore, head: Head, kept: _Part | None) -> _Part | None:
    """Files of the current content; those that the manifest has of this very revision are not read again.

    None for a day whose manifests are damaged: it is not listed until they are mended. Whether its head stays is for `reconcile` to say,
    which must not be kept from its work by a file that is derived.
    """
    current = head.current
    if current is None:
        return _Part(BulkDay(revision=head.revision, data_through=head.history[-1].data_through), [], [])
    day = BulkDay(revision=head.revision, content_id=current.content_id, data_through=current.data_through)
    if kept is not None and (kept.day.revision, kept.day.content_id) == (day.revision, day.content_id):
        return _Part(day, kept.output, kept.deleted)
    try:
        manifest = decode(Day, _whole(public, current.path, current.sha256), current.path)
        # UFs that readers must not read are left out, whatever the content has of them.
        closed = head.withdrawn_ufs
        ufs = [uf for uf in manifest.files.ufs if uf.rows and uf.uf not in closed]
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            output = list(pool.map(lambda uf: _output(public, head.day, current, uf), ufs))
    except (ContractViolation, ObjectMissing) as error:
        log_event(
            "bulk_publish.day_left_out",
            level=logging.WARNING,
            day=head.day,
            error=str(error),
            runbook="docs/runbook/damaged-manifest.md",
        )
        return None
    removed = manifest.files.removed
    deleted = BulkFile(
        url=_address(current, removed.path),
        count=removed.rows,
        file_size=removed.bytes,
        extension=BulkFacts(sha256=removed.sha256, day=head.day),
    )
    return _Part(day, output, [deleted] if removed.rows else [])


def _output(public: ObjectStore, day: str, current: Current, uf: UfFile) -> BulkFile:
    """The whole file of a UF, as its descriptor has it."""
    descriptor = _whole(public, f"{current.path.rpartition('/')[0]}/{uf.path}", uf.sha256)
    whole: dict[str, Any] = json.loads(descriptor)["resources"][0]
    return BulkFile(
        type="Immunization",
        url=_address(current, f"{uf.path.rpartition('/')[0]}/{whole['path']}"),
        count=int(whole["rnds:rows"]),
        file_size=int(whole["bytes"]),
        extension=BulkFacts(sha256=str(whole["hash"]).removeprefix("sha256:"), day=day, operation=str(whole["name"])),
    )


def _whole(public: ObjectStore, key: str, sha256: str) -> bytes:
    body = public.get(key).body
    if sha256_of(body) != sha256:
        raise ContractViolation(f"{key} has another sha256 than is said of it")
    return body


def _address(current: Current, path: str) -> str:
    return f"{_UP}{current.path.rpartition('/')[0].removeprefix('v1/')}/{path}"


def _days_of(month: str) -> list[str]:
    return [f"{month}-{day:02d}" for day in range(1, calendar.monthrange(int(month[:4]), int(month[5:7]))[1] + 1)]
