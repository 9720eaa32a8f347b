"""Publish: immutable files first, then one pointer moved by compare-and-swap.

Order of writes: CSVs → outcome.json and one descriptor per UF → day.json (the root that names them all by hash) → head.json (the
commit) → month index → catalog. Until the head moves, no reader can see anything of it; after it has moved, everything it
names is there. Kill it anywhere and run it again: the files are the same, and a head that already moved is recognised.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow

from imunizacao.contract import csv_dialect, load_contract, table_schema
from imunizacao.describe import (
    describe_day,
    describe_outcome,
    describe_references,
    describe_rules,
    find_reason,
    json_bytes,
    uf_descriptor,
)
from imunizacao.errors import ContractViolation, PublicationConflict
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.indexes import update_catalog, update_month
from imunizacao.manifests import (
    Account,
    Current,
    Day,
    Entry,
    Head,
    OutcomeFile,
    Source,
    UfFile,
    content_prefix,
    decode,
    encode,
    head_key,
)
from imunizacao.models import (
    CutFile,
    CutList,
    PublishInputs,
    PublishReceipt,
    RunContext,
    fingerprint,
)
from imunizacao.settings import EngineSettings
from imunizacao.storage import (
    FileSlice,
    ObjectStore,
    PreconditionLost,
    probe_store,
    put_receipt,
    read_object,
    sha256_of,
    swap,
)

STAGE = "publish"
_IMMUTABLE = "max-age=31536000, immutable"
_UPLOADS_AT_ONCE = 16
_CSV = "text/csv; charset=utf-8"
_JSON = "application/json"
_SOURCE = "Rede Nacional de Dados em Saúde (RNDS), Ministério da Saúde"


def publish_day(
    context: RunContext,
    *,
    inputs: PublishInputs,
    work: ObjectStore,
    public: ObjectStore,
    engine: EngineSettings,
    now: Callable[[], datetime],
    reason: str = "",
    progress: Progress = no_progress,
) -> PublishReceipt:
    """Make a day readable, or leave it as it is when the same content is already there.

    The account is checked before the head can move: a gap is a `ContractViolation` and nothing changes for readers. A store that
    ignores conditional writes is refused. A newer extract that is already published wins: the outcome is then `superseded`.
    `reason` is one of the head's reasons; empty lets the publication find it by comparing with the revision before.
    """
    started = time.monotonic()
    require_closed_account(inputs)
    if not inputs.validate.publish:
        raise ContractViolation(
            f"{context.day} is held by {', '.join(inputs.validate.held_because)}, so it is not published. "
            "See docs/runbook/day-held.md."
        )
    probe_store(public)
    cuts = read_object(work, inputs.split.cuts, CutList)
    root = _write_content(context, inputs=inputs, cuts=cuts, work=work, public=public, engine=engine, progress=progress)
    commit = _commit(context, inputs=inputs, root=root, public=public, now=now, reason=reason)
    month = update_month(public, str(context.day))
    ufs = [(file.uf, file.sg_uf) for file in cuts.files if not file.municipio]
    update_catalog(public, month.month, contract=load_contract("dose"), ufs=ufs)
    receipt = PublishReceipt(
        stage=STAGE,
        day=str(context.day),
        run_id=context.run_id,
        code_version=context.code_version,
        fingerprint=fingerprint(STAGE, context.code_version, {"split": inputs.split.fingerprint}),
        seconds=round(time.monotonic() - started, 3),
        outcome=commit.outcome,
        revision=commit.revision,
        state=commit.state,
        content_id=inputs.split.content_id,
        root_path=root.path,
        root_sha256=root.sha256,
        head_path=head_key(str(context.day)),
        doses=inputs.account,
        documents=inputs.flatten.documents,
        files=len(cuts.files) + 1,
        bytes=sum(file.bytes for file in cuts.files) + inputs.split.removed.bytes,
        reason=commit.reason,
    )
    put_receipt(work, context.prefix(STAGE), receipt)
    log_event(
        "publish.done",
        day=str(context.day),
        outcome=receipt.outcome,
        revision=receipt.revision,
        rows=inputs.account.published,
        files=receipt.files,
        bytes=receipt.bytes,
        seconds=receipt.seconds,
    )
    return receipt


def require_closed_account(inputs: PublishInputs) -> None:
    """Every document and every dose is in exactly one place, or nothing is published (design: account)."""
    fetched = inputs.flatten.documents.fetched
    gaps = [gap for gap in (inputs.flatten.documents.gap(), inputs.account.gap()) if gap]
    if inputs.extract.fetched != fetched:
        gaps.append(f"extract fetched {inputs.extract.fetched}, flatten read {fetched}")
    if gaps:
        raise ContractViolation(
            f"The account of {inputs.flatten.day} does not close: {'; '.join(gaps)}. Nothing was published. "
            "See docs/runbook/account-gap.md."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    path: str
    sha256: str
    bytes: int


def _write_content(
    context: RunContext,
    *,
    inputs: PublishInputs,
    cuts: CutList,
    work: ObjectStore,
    public: ObjectStore,
    engine: EngineSettings,
    progress: Progress,
) -> _Stored:
    """Write everything under `c-<contentId>/` that is not there yet, day.json last. A folder with its day.json is complete."""
    prefix = content_prefix(str(context.day), inputs.split.content_id)
    stored = public.get_or_none(prefix + "day.json")
    if stored is not None:
        _require_same_content(decode(Day, stored.body, prefix + "day.json"), inputs, prefix)
        return _Stored(path=prefix + "day.json", sha256=sha256_of(stored.body), bytes=len(stored.body))
    folder = Path(tempfile.mkdtemp(prefix="publish-", dir=engine.scratch_dir))
    try:
        body = folder / "body.csv"
        work.download(inputs.split.body.key, folder / "body.csv.zst", sha256=inputs.split.body.sha256)
        with pyarrow.CompressedInputStream(str(folder / "body.csv.zst"), "zstd") as packed, body.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
        if body.stat().st_size != cuts.body_bytes:
            raise ContractViolation(
                f"The body of {context.day} has {body.stat().st_size} bytes, its cut list says {cuts.body_bytes}. Clear `split` and run again."
            )
        _upload_csvs(prefix, cuts=cuts, body=body, public=public, progress=progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    removed = work.get(inputs.split.removed.key).body
    _put_once(public, prefix + "removed.csv", removed, content_type=_CSV)
    outcome = _put_derived(public, prefix + "outcome.json", encode(describe_outcome(inputs)))
    ufs = [
        _put_uf(
            public, prefix, uf, [file for file in cuts.files if file.uf == uf.uf and file.municipio], str(context.day)
        )
        for uf in cuts.files
        if not uf.municipio
    ]
    outcome_file = OutcomeFile(path=outcome.path, sha256=outcome.sha256, bytes=outcome.bytes)
    day = describe_day(inputs, ufs=ufs, removed=removed, outcome=outcome_file)
    root = _put_once(public, prefix + "day.json", encode(day), content_type=_JSON, differing_is_a_race=True)
    for derived in (outcome, *(_Stored(path=uf.path, sha256=uf.sha256, bytes=uf.bytes) for uf in ufs)):
        found = public.info(prefix + derived.path)
        if found is None or found.sha256 != derived.sha256:
            raise PublicationConflict(
                f"{prefix}{derived.path} changed while {context.day} was being published: another version of the code publishes "
                "the same content at the same time. Nothing was published; run the task again."
            )
    return root


def _upload_csvs(prefix: str, *, cuts: CutList, body: Path, public: ObjectStore, progress: Progress) -> None:
    header = cuts.header.encode()
    there = {info.key: info.bytes for info in public.list(prefix)}

    def upload(file: CutFile) -> None:
        key = prefix + file.path
        if there.get(key) == file.bytes:
            found = public.info(key)
            if found is not None and found.sha256 == file.sha256:
                return
        with FileSlice(header, body, offset=file.offset, length=file.length) as part:
            _put_once(
                public,
                key,
                part,
                sha256=file.sha256,
                content_type=_CSV,
                disposition=f'attachment; filename="{Path(file.path).name}"',
            )

    done = 0
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
        for _ in pool.map(upload, sorted(cuts.files, key=lambda file: -file.bytes)):
            done += 1
            if done % 50 == 0 or done == len(cuts.files):
                progress("publish", done, len(cuts.files))


def _put_once(
    public: ObjectStore,
    key: str,
    body: bytes | FileSlice,
    *,
    sha256: str = "",
    content_type: str,
    disposition: str = "",
    differing_is_a_race: bool = False,
) -> _Stored:
    """Create an immutable object; the same bytes already there are fine, other bytes are an error."""
    digest = sha256 or sha256_of(body if isinstance(body, bytes) else b"".join(_blocks(body)))
    size = len(body)
    try:
        public.put(
            key,
            body,
            sha256=digest,
            content_type=content_type,
            cache_control=_IMMUTABLE,
            disposition=disposition,
            only_if_absent=True,
        )
    except PreconditionLost:
        found = public.info(key)
        if found is None or found.sha256 != digest or found.bytes != size:
            if differing_is_a_race:
                raise PublicationConflict(
                    f"{key} was written by another run with other contents. Run the task again."
                ) from None
            raise ContractViolation(
                f"{public.bucket}/{key} exists with other bytes than its content id says: it was changed from outside. "
                "Readers still see the revision before; see docs/runbook/damaged-manifest.md."
            ) from None
    return _Stored(path=key, sha256=digest, bytes=size)


def _blocks(body: FileSlice) -> Iterator[bytes]:
    body.seek(0)
    while block := body.read(1 << 20):
        yield block
    body.seek(0)


def _put_derived(public: ObjectStore, key: str, body: bytes) -> _Stored:
    """Write a manifest that depends on code and rules as well as on the CSVs.

    Only called while the folder has no day.json, so nobody can have been told of it: what an interrupted run of another version
    left there is replaced. The caller checks it once more after day.json is written.
    """
    digest = sha256_of(body)
    found = public.info(key)
    if found is None or found.sha256 != digest:
        public.put(key, body, sha256=digest, content_type=_JSON, cache_control=_IMMUTABLE)
    name = key.split("/c-", 1)[1].split("/", 1)[1]
    return _Stored(path=name, sha256=digest, bytes=len(body))


def _put_uf(public: ObjectStore, prefix: str, uf: CutFile, municipios: list[CutFile], day: str) -> UfFile:
    """Write what describes one UF: Table Schema, CSV dialect and the Frictionless descriptor over its files."""
    contract = load_contract("dose")
    folder = f"uf={uf.uf}/"
    _put_derived(public, prefix + folder + "tableschema.json", json_bytes(table_schema(contract)))
    _put_derived(public, prefix + folder + "dialect.json", json_bytes(csv_dialect()))
    stored = _put_derived(
        public, prefix + folder + "datapackage.json", json_bytes(uf_descriptor(contract, uf, municipios, day))
    )
    return UfFile(
        uf=uf.uf,
        sg_uf=uf.sg_uf,
        path=stored.path,
        sha256=stored.sha256,
        bytes=stored.bytes,
        rows=uf.rows,
        municipalities=len(municipios),
    )


def _require_same_content(day: Day, inputs: PublishInputs, prefix: str) -> None:
    if day.rows != inputs.split.rows or day.files.removed.sha256 != inputs.split.removed.sha256:
        raise ContractViolation(
            f"{prefix}day.json does not describe the content that its folder is named after. It was changed from outside; "
            "see docs/runbook/damaged-manifest.md."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Commit:
    outcome: str
    revision: int
    state: str
    reason: str


def _commit(
    context: RunContext,
    *,
    inputs: PublishInputs,
    root: _Stored,
    public: ObjectStore,
    now: Callable[[], datetime],
    reason: str,
) -> _Commit:
    """Move the head. Same content: no new revision, only `dataThrough` moves on. Our own lost success is recognised by its token."""
    key = head_key(str(context.day))
    content, through = inputs.split.content_id, inputs.extract.extracted_at
    token = hashlib.sha256(f"{context.run_id}\0{content}\0{through}".encode()).hexdigest()[:32]
    published_at = now().astimezone(UTC).isoformat(timespec="seconds")

    def decide(body: bytes | None) -> tuple[bytes | None, _Commit]:
        head = decode(Head, body, key) if body is not None else None
        last = head.history[-1] if head is not None else None
        if head is not None and last is not None:
            mine = next((entry for entry in head.history if entry.commit_token == token), None)
            if mine is not None:
                return None, _Commit(outcome="published", revision=mine.revision, state=mine.state, reason=mine.reason)
            if last.reason == "withdrawal" and last.reconciliation is None and reason != "restore":
                raise PublicationConflict(
                    f"{context.day} was withdrawn by a person in revision {last.revision}: a run does not publish it again by itself. "
                    "Publish it with the reason `restore` when that is meant."
                )
            if _instant(last.data_through) > _instant(through) or (
                head.current is not None and _instant(head.current.data_through) > _instant(through)
            ):
                return None, _Commit(outcome="superseded", revision=head.revision, state=head.state, reason=last.reason)
            if head.current is not None and head.current.content_id == content:
                moved = msgspec.structs.replace(
                    head, current=msgspec.structs.replace(head.current, data_through=through)
                )
                return encode(moved), _Commit(
                    outcome="unchanged", revision=head.revision, state=head.state, reason=last.reason
                )
        why = reason or find_reason(last, inputs)
        entry = _entry(context, inputs=inputs, root=root, head=head, token=token, published_at=published_at, reason=why)
        current = Current(
            content_id=content,
            path=root.path,
            sha256=root.sha256,
            bytes=root.bytes,
            rows=inputs.split.rows,
            published_at=published_at,
            data_through=through,
        )
        new = Head(
            schema="imunizacao.head/1",
            day=str(context.day),
            revision=entry.revision,
            state=entry.state,
            current=current,
            history=[*(head.history if head is not None else []), entry],
        )
        return encode(new), _Commit(outcome="published", revision=entry.revision, state=entry.state, reason=why)

    return swap(public, key, decide)


def _entry(
    context: RunContext,
    *,
    inputs: PublishInputs,
    root: _Stored,
    head: Head | None,
    token: str,
    published_at: str,
    reason: str,
) -> Entry:
    account, documents = inputs.account, inputs.flatten.documents
    return Entry(
        revision=1 if head is None else head.revision + 1,
        state="published" if inputs.split.rows else "empty",
        content_id=inputs.split.content_id,
        path=root.path,
        sha256=root.sha256,
        bytes=root.bytes,
        published_at=published_at,
        data_through=inputs.extract.extracted_at,
        reason=reason,
        supersedes=None if head is None else head.revision,
        commit_token=token,
        run_id=context.run_id,
        code_version=context.code_version,
        source=Source(
            announced=inputs.extract.announced,
            fetched=documents.fetched,
            duplicates=documents.duplicates,
            unique=documents.unique,
        ),
        account=Account(
            doses=account.doses,
            published=account.published,
            quarantined=account.quarantined,
            superseded=account.superseded,
            removed=account.removed,
        ),
        quarantined_by_reason=dict(sorted(inputs.validate.quarantined_by_reason.items())),
        references=describe_references(inputs),
        rules=describe_rules(inputs),
    )


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
