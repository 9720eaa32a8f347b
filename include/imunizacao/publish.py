"""Publish: immutable files first, then one pointer moved by compare-and-swap.

Order of writes: CSVs → outcome.json and one descriptor per UF → day.json (the root that names them all by hash) → its signature →
diff against the revision that the head has → head.json (the commit) → month index, `$bulk-publish` manifest → catalog, DCAT. Until the head moves, no reader can see anything of it;
after it has moved, everything it names is there. Kill it anywhere and run it again: the files are the same, and a head that already
moved is recognised.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow

from imunizacao.bulk_publish import update_bulk
from imunizacao.claims import CLOCKS_APART, begin_publication, store_clock
from imunizacao.contract import Contract, csv_dialect, load_contract, require_may_leave, table_schema
from imunizacao.dcat import update_dcat
from imunizacao.decision import check_reason
from imunizacao.derived import follow_head
from imunizacao.describe import (
    describe_day,
    describe_decision,
    describe_outcome,
    describe_pseudonym,
    describe_quarantined,
    describe_references,
    describe_rules,
    describes_the_same,
    find_reason,
    json_bytes,
    uf_descriptor,
)
from imunizacao.dictionary import publish_dictionary
from imunizacao.diff import DiffMaker
from imunizacao.errors import ContractViolation, DayHeld, PublicationConflict
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.heads import Commit, followed
from imunizacao.indexes import update_catalog, update_month
from imunizacao.manifests import (
    Account,
    Current,
    Day,
    Diff,
    Entry,
    Head,
    OutcomeFile,
    Signature,
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
    ObjectRef,
    PublishInputs,
    PublishReceipt,
    RunContext,
    fingerprint,
)
from imunizacao.reference import NEWEST
from imunizacao.residents import gather_residents
from imunizacao.settings import EngineSettings
from imunizacao.signing import Signer, is_signed, known_signature, receipts_vouch, sign_root, with_signature
from imunizacao.storage import (
    FileSlice,
    ObjectStore,
    Stored,
    create_once,
    probe_store,
    put_once,
    put_receipt,
    read_object,
    require_room,
    sha256_of,
    swap,
)

STAGE = "publish"
RESTORE = "restore"
"""Reason of a run that publishes again what a person withdrew: the day, and every withdrawn UF of it."""
_UPLOADS_AT_ONCE = 16
_CSV = "text/csv; charset=utf-8"
_JSON = "application/json"


def publish_day(
    context: RunContext,
    *,
    inputs: PublishInputs,
    work: ObjectStore,
    public: ObjectStore,
    engine: EngineSettings,
    now: Callable[[], datetime],
    reason: str = "",
    signer: Signer | None = None,
    progress: Progress = no_progress,
) -> PublishReceipt:
    """Make a day readable, or leave it as it is when the same content is already there.

    The account is checked before the head can move: a gap is a `ContractViolation` and nothing changes for readers. A store that
    ignores conditional writes is refused. A newer extract that is already published wins, and of one extract the newer CNES: the
    outcome is then `superseded`, unless `reason` is `restore`.
    `reason` is one of the head's reasons; empty lets the publication find it by comparing with the revision before. UFs that are
    withdrawn stay so, and their files are not written once they were purged; `restore` brings them and their files back.
    Without `signer` the day has no signature, and the log says so; one that the same content has already stays.
    """
    started = time.monotonic()
    require_closed_account(inputs)
    require_open_gate(inputs)
    probe_store(public)
    require_past(inputs, begin_publication(work, context, inputs.split.content_id) + CLOCKS_APART)
    cuts = read_object(work, inputs.split.cuts, CutList)
    require_residents(inputs, cuts)
    head = _head_or_none(public, str(context.day))
    left_out = head.purged_ufs if head is not None and reason != RESTORE else frozenset()
    folder = Path(tempfile.mkdtemp(prefix="publish-", dir=engine.scratch_dir))
    try:
        plain = cuts.body_bytes + sum(file.length for file in cuts.residents)
        require_room(folder, inputs.split.body.bytes + plain, what=f"publish of {context.day}")
        body = _Body(folder, inputs=inputs, cuts=cuts, work=work)
        contract = load_contract("dose")
        try:
            content = _write_content(
                context,
                inputs=inputs,
                cuts=cuts,
                body=body,
                contract=contract,
                work=work,
                public=public,
                head=head,
                signer=signer,
                left_out=left_out,
                progress=progress,
            )
        except ContractViolation:
            # The run before may have been killed between head and index, and nobody else comes to it. A head that names what was
            # refused is not followed: it may have been planted.
            if head is not None and not _shows(head, inputs.split.content_id):
                follow_head(public, str(context.day))
            raise
        root = content.root
        signature = _sign(context, inputs=inputs, root=root, public=public, signer=signer, now=now)
        diffs = _diff_maker(context, cuts=cuts, body=body, public=public)
        commit = _commit(
            context,
            inputs=inputs,
            root=root,
            diffs=diffs,
            work=work,
            public=public,
            now=now,
            reason=reason,
            left_out=left_out,
            signature=signature,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    month = update_month(public, str(context.day))
    update_bulk(public, str(context.day))
    ufs = [(file.uf, file.sg_uf) for file in cuts.files if not file.municipio]
    page = publish_dictionary(public)
    update_catalog(public, month.month, contract=load_contract("dose"), ufs=ufs, dictionary=page)
    update_dcat(public)
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
        root_sha256=content.vouched_sha256,
        head_path=head_key(str(context.day)),
        doses=inputs.account,
        documents=inputs.flatten.documents,
        files=len(cuts.files) + len(cuts.residents) + 1,
        bytes=sum(file.bytes for file in (*cuts.files, *cuts.residents)) + inputs.split.removed.bytes,
        reason=commit.reason,
        cnes=inputs.flatten.references.cnes_competencia,
        news=inputs.news,
        diff=commit.diff,
        decision=inputs.decision if inputs.validate.asks else None,
        signed_by=signature.key_id if signature is not None else "",
        withdrawn_ufs=commit.withdrawn_ufs,
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


def publish_elsewhere(
    context: RunContext,
    *,
    inputs: PublishInputs,
    cuts: CutList,
    body: Path,
    contract: Contract,
    work: ObjectStore,
    store: ObjectStore,
    stage: str,
    now: Callable[[], datetime],
    reason: str = "",
    leader: Head | None = None,
    signer: Signer | None = None,
    progress: Progress = no_progress,
) -> Published:
    """Publish the cuts of another contract into another bucket by the same protocol: content folder first, then the head by CAS.

    `inputs.split` describes these cuts; `removed.csv` is the day's own. `stage` names the receipts of its publications. There are no
    diffs, no month index and no catalog. CSVs of UFs that are withdrawn in the head `leader` of the other bucket are not written, and
    the new head has them withdrawn as well.
    """
    probe_store(store)
    local = _LocalBody(body)
    head = _head_or_none(store, str(context.day))
    purged = head.purged_ufs if head is not None and reason != RESTORE else frozenset()
    left_out = purged | (frozenset() if leader is None else frozenset(leader.withdrawn_ufs))
    content = _write_content(
        context,
        inputs=inputs,
        cuts=cuts,
        body=local,
        contract=contract,
        work=work,
        public=store,
        head=head,
        signer=signer,
        stage=stage,
        left_out=left_out,
        progress=progress,
    )
    root = content.root
    signature = _sign(context, inputs=inputs, root=root, public=store, signer=signer, now=now)
    folder = content_prefix(str(context.day), inputs.split.content_id)
    away = (file for file in cuts.files if file.uf in left_out and store.info(folder + file.path) is None)
    commit = _commit(
        context,
        inputs=inputs,
        root=root,
        diffs=None,
        work=work,
        public=store,
        now=now,
        reason=reason,
        signature=signature,
        left_out=frozenset(file.uf for file in away),
        leader=leader,
    )
    return Published(outcome=commit.outcome, revision=commit.revision, state=commit.state, content=content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A content folder that is complete."""

    root: Stored
    vouched_sha256: str
    """sha256 of the root that a receipt may confirm: this run made it, or a run before has confirmed it. Empty when neither is so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What became of a publication elsewhere."""

    outcome: str
    revision: int
    state: str
    content: Content


def require_closed_account(inputs: PublishInputs) -> None:
    """Every document and every dose is in exactly one place, or nothing is published (design: account)."""
    fetched = inputs.flatten.documents.fetched
    gaps = [gap for gap in (inputs.flatten.documents.gap(), inputs.account.gap()) if gap]
    if inputs.extract.fetched != fetched:
        gaps.append(f"extract fetched {inputs.extract.fetched}, flatten read {fetched}")
    known, unknown = inputs.split.residence_known, inputs.split.residence_unknown
    if known + unknown != inputs.split.rows:
        gaps.append(f"published {inputs.split.rows} ≠ residence known {known} + unknown {unknown}")
    if gaps:
        raise ContractViolation(
            f"The account of {inputs.flatten.day} does not close: {'; '.join(gaps)}. Nothing was published. "
            "See docs/runbook/account-gap.md."
        )


def require_past(inputs: PublishInputs, latest: datetime) -> None:
    """No extract of the future: it would be the fence for all later ones. `latest` is the time of the store, with some room."""
    stamped = inputs.extract.extracted_at
    if _instant(stamped) > latest:
        raise ContractViolation(
            f"The extract of {inputs.extract.day} by run {inputs.extract.run_id} is stamped {stamped}, after the time of the store "
            f"({(latest - CLOCKS_APART).isoformat(timespec='seconds')}): the clock of its worker was ahead. Nothing was published. Repair that clock, then start a "
            "new run of the day; see docs/runbook/worker-clock.md."
        )


def require_residents(inputs: PublishInputs, cuts: CutList) -> None:
    """The files of residents hold every dose with a known residence: all 27 when there is one, else none."""
    rows, files = sum(file.rows for file in cuts.residents), len(cuts.residents)
    if rows != inputs.split.residence_known or files != (27 if rows else 0):
        raise ContractViolation(
            f"The residents of {inputs.split.day} do not add up: {rows} doses in {files} files, {inputs.split.residence_known} doses have a "
            "known residence. Nothing was published. See docs/runbook/account-gap.md."
        )


def require_open_gate(inputs: PublishInputs) -> None:
    """No held day, and no day that asks without an answer to exactly this verdict, whoever calls."""
    validated, decision = inputs.validate, inputs.decision
    if not validated.publish:
        raise DayHeld(
            f"{validated.day} is held by {', '.join(validated.held_because)}, so it is not published. "
            "See docs/runbook/day-held.md."
        )
    if not validated.asks:
        return
    if (
        decision is None
        or decision.choice != "publish"
        or decision.verdict != validated.fingerprint
        or not set(validated.asks) <= set(decision.rules)
    ):
        raise DayHeld(
            f"{validated.day} is not published without the decision of a person about {', '.join(validated.asks)}, and there is "
            "none about this verdict. What to do: docs/runbook/day-asks.md."
        )
    check_reason(decision.reason)


class _LocalBody:
    """Rows that are on the local disk already and must not be anywhere else."""

    def __init__(self, body: Path) -> None:
        self.folder, self._body = body.parent, body

    def file(self) -> Path:
        """The whole body."""
        return self._body


class _Body:
    """The rows of the day in a local file, unpacked when they are first asked for."""

    def __init__(self, folder: Path, *, inputs: PublishInputs, cuts: CutList, work: ObjectStore) -> None:
        self.folder, self._inputs, self._cuts, self._work = folder, inputs, cuts, work

    def file(self) -> Path:
        """The whole body; it goes with its folder."""
        body, packed = self.folder / "body.csv", self.folder / "body.csv.zst"
        if body.exists():
            return body
        self._work.download(self._inputs.split.body.key, packed, sha256=self._inputs.split.body.sha256)
        with pyarrow.CompressedInputStream(str(packed), "zstd") as source, body.open("wb") as plain:
            shutil.copyfileobj(source, plain, 1 << 20)
        packed.unlink()
        if body.stat().st_size != self._cuts.body_bytes:
            raise ContractViolation(
                f"The body of {self._cuts.day} has {body.stat().st_size} bytes, its cut list says {self._cuts.body_bytes}. "
                "Clear `split` and run again."
            )
        return body


def _write_content(
    context: RunContext,
    *,
    inputs: PublishInputs,
    cuts: CutList,
    body: _Body | _LocalBody,
    contract: Contract,
    work: ObjectStore,
    public: ObjectStore,
    head: Head | None,
    signer: Signer | None,
    stage: str = STAGE,
    left_out: frozenset[str] = frozenset(),
    progress: Progress,
) -> Content:
    """Write everything under `c-<contentId>/` that is not there yet, day.json last. A folder with its day.json was complete once:
    CSVs that left it since (a purged UF) are written again. CSVs of the UFs `left_out` are not written.

    A folder that is complete is looked through before a head may name it again: sizes by the list, manifests by hash, and every CSV to
    its last byte after a reader's count of this content did not add up. What was changed from outside is a `ContractViolation`. In one
    that the head names now readers see it already: the run goes on to the index, and `reconcile` takes the day back.
    """
    require_may_leave(contract, cuts.header)
    prefix = content_prefix(str(context.day), inputs.split.content_id)
    removed = work.get(inputs.split.removed.key).body
    there = {info.key: info.bytes for info in public.list(prefix)}
    stored = public.get_or_none(prefix + "day.json")
    wanted = [file for file in (*cuts.files, *cuts.residents) if file.uf not in left_out]
    content: Content | None = None
    if stored is not None:
        day = decode(Day, stored.body, prefix + "day.json")
        _require_same_content(day, inputs, prefix)
        own = _describe_content(lambda name, made: made, inputs=inputs, cuts=cuts, contract=contract, removed=removed)
        root = Stored(path=prefix + "day.json", sha256=sha256_of(stored.body), bytes=len(stored.body))
        known = own == stored.body or _receipt_names(root, head, work=work, stage=stage)
        if signer is not None and not known:
            _require_own_signature(context, root, inputs=inputs, head=head, public=public, signer=signer)
            known = True
        content = Content(root=root, vouched_sha256=root.sha256 if known else "")
        if head is not None and _shows(head, inputs.split.content_id):
            wanted = [file for file in wanted if prefix + file.path not in there]
        else:
            _require_manifests(day, prefix, public=public)
            whole = [file for file in wanted if there.get(prefix + file.path) == file.bytes]
            if _did_not_add_up(head, inputs.split.content_id):
                _require_bytes(whole, prefix, public=public)
            wanted = [file for file in wanted if there.get(prefix + file.path) != file.bytes]
    of_residents = set(map(id, cuts.residents))
    by_place = [file for file in wanted if id(file) not in of_residents]
    living = [file for file in wanted if id(file) in of_residents]
    upload = _Upload(prefix, header=cuts.header, there=there, public=public, progress=progress)
    if by_place:
        upload.files(by_place, body.file())
    if living and inputs.split.residents is not None:
        residents = _gather(inputs.split.residents, cuts, body=body.file(), folder=body.folder, work=work)
        upload.files(living, residents)
        residents.unlink()
    put_once(public, prefix + "removed.csv", removed, content_type=_CSV)
    if content is not None:
        return content
    derived = _Derived(public, prefix, strict=signer is not None)
    made = _describe_content(derived.put, inputs=inputs, cuts=cuts, contract=contract, removed=removed)
    root = put_once(public, prefix + "day.json", made, content_type=_JSON, differing_is_a_race=True)
    return Content(root=root, vouched_sha256="" if derived.taken_over else root.sha256)


def _shows(head: Head, content_id: str) -> bool:
    """Whether readers see a content now."""
    return head.current is not None and head.current.path == content_prefix(head.day, content_id) + "day.json"


def _require_manifests(day: Day, prefix: str, *, public: ObjectStore) -> None:
    """What `day.json` names by hash, and what the descriptors name besides CSVs, is there with these bytes."""
    outcome, ufs = day.files.outcome, day.files.ufs
    named = [(prefix + outcome.path, outcome.sha256), *((prefix + uf.path, uf.sha256) for uf in ufs)]
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
        bodies = list(pool.map(lambda one: _manifest(public, *one), named))
        parts = [
            (f"{key.rpartition('/')[0]}/{part['path']}", str(part["hash"]).removeprefix("sha256:"))
            for (key, _), body in zip(named[1:], bodies[1:], strict=True)
            for part in msgspec.json.decode(body)["rnds:parts"]
        ]
        list(pool.map(lambda one: _manifest(public, *one), parts))


def _manifest(public: ObjectStore, key: str, sha256: str) -> bytes:
    stored = public.get_or_none(key)
    if stored is None or sha256_of(stored.body) != sha256:
        raise _changed(public, key)
    return stored.body


def _did_not_add_up(head: Head | None, content_id: str) -> bool:
    """Whether the last verdict on a content was a gap."""
    verdicts = [
        entry.reconciliation.verdict
        for entry in (head.history if head is not None else [])
        if entry.content_id == content_id and entry.reconciliation is not None
    ]
    return verdicts[-1:] == ["gap"]


def _require_bytes(files: list[CutFile], prefix: str, *, public: ObjectStore) -> None:
    """Read CSVs that are there to the end."""

    def read(file: CutFile) -> None:
        if public.measure(prefix + file.path) != (file.bytes, file.sha256):
            raise _changed(public, prefix + file.path)

    with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
        list(pool.map(read, files))


def _changed(public: ObjectStore, key: str) -> ContractViolation:
    return ContractViolation(
        f"{public.bucket}/{key} is missing, or has other bytes than when it was published: it was changed from outside. Nothing was published. "
        "Restore it from the bucket's versions or a backup, then run the task again; without a copy see docs/runbook/damaged-manifest.md."
    )


def _receipt_names(root: Stored, head: Head | None, *, work: ObjectStore, stage: str) -> bool:
    """Whether a run that the history names wrote into its receipt that it published exactly this root."""
    entries, vouched = head.history if head is not None else [], receipts_vouch(work, stage)
    return head is not None and any(
        vouched(head, entry) for entry in entries if (entry.path, entry.sha256) == (root.path, root.sha256)
    )


def _require_own_signature(
    context: RunContext,
    root: Stored,
    *,
    inputs: PublishInputs,
    head: Head | None,
    public: ObjectStore,
    signer: Signer,
) -> None:
    """The last that can vouch for a root: whoever can write to the bucket could have put another one there."""
    if is_signed(
        public,
        signer,
        root=root,
        day=str(context.day),
        content_id=inputs.split.content_id,
        rows=inputs.split.rows,
    ):
        return
    if all(entry.path != root.path for entry in (head.history if head is not None else [])):
        raise ContractViolation(
            f"{public.bucket}/{root.path} is not what this run would write, and neither a receipt nor a signature by key {signer.key_id} "
            "says whose it is: a run left it before its head moved, or it was planted. Nobody was told of it: no history names it. Nothing "
            "was signed or published. When no other run of the day is at work, delete it with the manifests that it names, then run the "
            "task again, which writes them anew; see docs/runbook/damaged-manifest.md."
        )
    raise ContractViolation(
        f"{public.bucket}/{root.path} is not what this run would write, and neither a receipt nor a signature by key {signer.key_id} says "
        "that it was published like this: it may have been planted. Nothing was signed or published. Compare it with a backup; if it is "
        f"the same: python -m imunizacao keys sign --day {context.day} --without-receipt, then run the task again. If not: "
        "docs/runbook/damaged-manifest.md."
    )


def _gather(pieces: ObjectRef, cuts: CutList, *, body: Path, folder: Path, work: ObjectStore) -> Path:
    """Write the rows of residents, UF after UF, from the body."""
    residents = folder / "residents.csv"
    work.download(pieces.key, folder / "residents.zst", sha256=pieces.sha256)
    written = gather_residents(body, pieces=folder / "residents.zst", destination=residents)
    if written != sum(file.length for file in cuts.residents):
        raise ContractViolation(
            f"The rows of residents of {cuts.day} have {written} bytes, their cut list says "
            f"{sum(file.length for file in cuts.residents)}. Clear `split` and run again."
        )
    return residents


class _Upload:
    """Puts CSVs into one content folder, several at once."""

    def __init__(
        self, prefix: str, *, header: str, there: dict[str, int], public: ObjectStore, progress: Progress
    ) -> None:
        self._prefix, self._top, self._there = prefix, header.encode(), there
        self._public, self._progress = public, progress

    def files(self, files: list[CutFile], body: Path) -> None:
        """Write pieces of `body` that are not there yet with the same bytes."""
        done = 0
        with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
            for _ in pool.map(lambda file: self._put(file, body), sorted(files, key=lambda file: -file.bytes)):
                done += 1
                if done % 50 == 0 or done == len(files):
                    self._progress("publish", done, len(files))

    def _put(self, file: CutFile, body: Path) -> None:
        key = self._prefix + file.path
        if self._there.get(key) == file.bytes:
            found = self._public.info(key)
            if found is not None and found.sha256 == file.sha256:
                return
        with FileSlice(self._top, body, offset=file.offset, length=file.length) as part:
            put_once(
                self._public,
                key,
                part,
                sha256=file.sha256,
                content_type=_CSV,
                disposition=f'attachment; filename="{Path(file.path).name}"',
            )


Put = Callable[[str, bytes], bytes]
"""Takes name and body of a manifest, and answers with the body that stands under this name."""


class _Derived:
    """Creates manifests that depend on code and rules as well as on the CSVs, or takes those that are there.

    Another run may have written them, with other code or another quarantine, and may be about to name them in day.json. So they are never
    overwritten: whoever comes second describes what is there. One that does not fit the CSVs is a `ContractViolation`. A run that
    signs takes over nothing that it would have written otherwise (`strict`).
    """

    def __init__(self, public: ObjectStore, prefix: str, *, strict: bool) -> None:
        self._public, self._prefix, self._strict = public, prefix, strict
        self.taken_over = False

    def put(self, name: str, body: bytes) -> bytes:
        """Create one, or answer with the one that is there."""
        key = self._prefix + name
        if create_once(self._public, key, body, sha256=sha256_of(body), content_type=_JSON) is None:
            return body
        there = self._public.get(key).body
        if there == body:
            return body
        if not describes_the_same(name, there, body):
            raise ContractViolation(
                f"{self._public.bucket}/{key} was left by another version of the code and does not describe these files. Nobody was told of it: "
                "its folder has no day.json. Delete it and run the task again; see docs/runbook/damaged-manifest.md."
            )
        if self._strict:
            raise PublicationConflict(
                f"{self._public.bucket}/{key} is there with other words than this run would sign: another run is publishing the same content, "
                "or left it, or somebody planted it. Nothing was published. Run the task again; when no other run of the day is at work, "
                "delete it first. See docs/runbook/damaged-manifest.md."
            )
        self.taken_over = True
        return there


def _describe_content(put: Put, *, inputs: PublishInputs, cuts: CutList, contract: Contract, removed: bytes) -> bytes:
    """Hand every manifest of a content folder to `put`; the answer is the `day.json` that names what stands there then."""
    outcome = put("outcome.json", encode(describe_outcome(inputs)))
    parts = {
        "tableschema.json": json_bytes(table_schema(contract)),
        "dialect.json": json_bytes(csv_dialect()),
    }
    ufs = [_describe_uf(put, uf, cuts, contract=contract, parts=parts) for uf in cuts.files if not uf.municipio]
    outcome_file = OutcomeFile(path="outcome.json", sha256=sha256_of(outcome), bytes=len(outcome))
    return encode(describe_day(inputs, contract=contract, ufs=ufs, removed=removed, outcome=outcome_file))


def _describe_uf(put: Put, uf: CutFile, cuts: CutList, *, contract: Contract, parts: dict[str, bytes]) -> UfFile:
    """Hand over what describes one UF: `parts` (Table Schema, CSV dialect) and the Frictionless descriptor over its files."""
    municipios = [file for file in cuts.files if file.uf == uf.uf and file.municipio]
    residents = next((file for file in cuts.residents if file.uf == uf.uf), None)
    folder = f"uf={uf.uf}/"
    there = {name: put(folder + name, part) for name, part in parts.items()}
    descriptor = put(
        folder + "datapackage.json",
        json_bytes(uf_descriptor(contract, uf, municipios, cuts.day, residents=residents, parts=there)),
    )
    return UfFile(
        uf=uf.uf,
        sg_uf=uf.sg_uf,
        path=folder + "datapackage.json",
        sha256=sha256_of(descriptor),
        bytes=len(descriptor),
        rows=uf.rows,
        municipalities=len(municipios),
        residents=residents.rows if residents is not None else 0,
    )


def _sign(
    context: RunContext,
    *,
    inputs: PublishInputs,
    root: Stored,
    public: ObjectStore,
    signer: Signer | None,
    now: Callable[[], datetime],
) -> Signature | None:
    """The signature of the root, before a head may name it."""
    if signer is None:
        log_event(
            "publish.unsigned",
            level=logging.WARNING,
            day=str(context.day),
            bucket=public.bucket,
            runbook="docs/runbook/unsigned-days.md",
        )
        return None
    return sign_root(
        public,
        signer,
        root=root,
        day=str(context.day),
        content_id=inputs.split.content_id,
        rows=inputs.split.rows,
        now=now().astimezone(UTC),
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
    diff: dict[str, int]
    withdrawn_ufs: list[str] = field(default_factory=list)


def _head_or_none(public: ObjectStore, day: str) -> Head | None:
    stored = public.get_or_none(head_key(day))
    return None if stored is None else decode(Head, stored.body, head_key(day))


def _require_left_out(left_out: frozenset[str], new: Head, day: str) -> None:
    """A UF without files may only be committed with a head that says that they are gone."""
    missing = left_out - new.purged_ufs
    if missing:
        raise PublicationConflict(
            f"UF {', '.join(sorted(missing))} of {day} was restored while this run was publishing without it. Nothing was published; run "
            "the task again."
        )


def _diff_maker(context: RunContext, *, cuts: CutList, body: _Body, public: ObjectStore) -> DiffMaker:
    def put(key: str, part: FileSlice, sha256: str) -> None:
        revisions, name = key.rsplit("/", 2)[1].rsplit("-", 1)[0], Path(key).stem
        disposition = f'attachment; filename="imunizacao-{name}_{context.day}_{revisions}.csv"'
        put_once(public, key, part, sha256=sha256, content_type=_CSV, disposition=disposition)

    return DiffMaker(day=str(context.day), public=public, cuts=cuts, body=body.file, folder=body.folder, put=put)


def _doses(diff: Diff | None) -> dict[str, int]:
    return {"added": diff.added, "changed": diff.changed, "removed": diff.removed} if diff is not None else {}


def _commit(
    context: RunContext,
    *,
    inputs: PublishInputs,
    root: Stored,
    diffs: DiffMaker | None,
    work: ObjectStore,
    public: ObjectStore,
    now: Callable[[], datetime],
    reason: str,
    signature: Signature | None,
    left_out: frozenset[str] = frozenset(),
    leader: Head | None = None,
) -> _Commit:
    """Move the head. Same content: no new revision, only `dataThrough` and a new `signature` move on. Our own lost success is
    recognised by its token.

    What is older than the history changes nothing, unless a person says `restore`: see `_is_older`.

    The diff is made against the head in hand, inside the swap: when another run moves the head, it is made again.
    """
    key = head_key(str(context.day))
    content, through = inputs.split.content_id, inputs.extract.extracted_at
    token = hashlib.sha256(f"{context.run_id}\0{content}\0{through}".encode()).hexdigest()[:32]
    published_at = now().astimezone(UTC).isoformat(timespec="seconds")

    def follow(head: Head) -> Head:
        if leader is None:
            return head
        mark = Commit(token=token, run_id=context.run_id, code_version=context.code_version, at=published_at, reason="")
        return followed(head, leader, mark, absent=left_out)

    def decide(body: bytes | None) -> tuple[bytes | None, _Commit]:
        head = decode(Head, body, key) if body is not None else None
        last = head.history[-1] if head is not None else None
        restored = sorted(head.withdrawn_ufs) if head is not None and reason == RESTORE else []
        same = False
        if head is not None and last is not None:
            mine = next((entry for entry in head.history if entry.commit_token == token), None)
            if mine is not None:
                signed = with_signature(head, root.path, signature)
                return encode(signed) if signed != head else None, _Commit(
                    outcome="published",
                    revision=mine.revision,
                    state=mine.state,
                    reason=mine.reason,
                    diff=_doses(mine.diff),
                    withdrawn_ufs=sorted(head.withdrawn_ufs),
                )
            if head.withdrawn_by_person and reason != RESTORE:
                raise PublicationConflict(
                    f"{context.day} was withdrawn by a person in revision {last.revision}: a run does not publish it again by itself. "
                    "Publish it with the reason `restore` when that is meant."
                )
            # The clock is read after the head: another run may have extracted and published since this one began.
            if reason != RESTORE and _is_older(inputs, head, store_clock(work) + CLOCKS_APART):
                return None, _Commit(
                    outcome="superseded", revision=head.revision, state=head.state, reason=last.reason, diff={}
                )
            same = head.current is not None and head.current.content_id == content
            if head.current is not None and same and not restored:
                moved = msgspec.structs.replace(
                    head, current=msgspec.structs.replace(head.current, data_through=through)
                )
                moved = follow(moved)
                _require_left_out(left_out, moved, str(context.day))
                return encode(with_signature(moved, root.path, signature)), _Commit(
                    outcome="unchanged",
                    revision=moved.revision,
                    state=moved.state,
                    reason=last.reason,
                    diff={},
                    withdrawn_ufs=sorted(moved.withdrawn_ufs),
                )
        why = reason or find_reason(last, inputs)
        entry = _entry(context, inputs=inputs, root=root, head=head, token=token, published_at=published_at, reason=why)
        diff, note = diffs.against(head) if head is not None and diffs is not None and not same else (None, None)
        entry = msgspec.structs.replace(
            entry,
            diff=diff,
            note=note,
            ufs=(restored or None) if head is not None and head.current is not None else None,
            purged_ufs=sorted(left_out) or None,
        )
        withdrawn = head.withdrawn_ufs if head is not None and reason != RESTORE else {}
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
            withdrawn_ufs=withdrawn,
        )
        new = follow(with_signature(new, root.path, signature or known_signature(new, root.path)))
        _require_left_out(left_out, new, str(context.day))
        return encode(new), _Commit(
            outcome="published",
            revision=new.revision,
            state=entry.state,
            reason=why,
            diff=_doses(diff),
            withdrawn_ufs=sorted(new.withdrawn_ufs),
        )

    return swap(public, key, decide)


def _entry(
    context: RunContext,
    *,
    inputs: PublishInputs,
    root: Stored,
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
        quarantined_by_reason=describe_quarantined(inputs).totals,
        references=describe_references(inputs),
        rules=describe_rules(inputs),
        pseudonym=describe_pseudonym(inputs),
        decision=describe_decision(inputs.decision) if inputs.validate.asks else None,
    )


def _is_older(inputs: PublishInputs, head: Head, latest: datetime) -> bool:
    """Whether something newer was ever published or confirmed here, also in a revision that reconcile took back: a newer extract, or the same
    made with a newer CNES. Who named the CNES wants that one. An instant after `latest` is of a clock that was wrong and keeps nobody out.
    """
    known = [(entry.data_through, entry.references) for entry in head.history]
    known += [(head.current.data_through, head.history[-1].references)] if head.current is not None else []
    fences = [(_instant(text), made.cnes.competencia if made is not None else "") for text, made in known]
    newest, cnes = max(
        (fence for fence in fences if fence[0] <= latest), default=(datetime.min.replace(tzinfo=UTC), "")
    )
    through, references = _instant(inputs.extract.extracted_at), inputs.flatten.references
    if through != newest:
        return through < newest
    return references.cnes_choice in {"", NEWEST} and references.cnes_competencia < cnes


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
