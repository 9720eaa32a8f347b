"""Nominal: the published doses of a day with the identifiers that their documents carry, for managers, in a bucket of its own.

Off by default. Who the persons are is read from the landing once more, inside this stage: it lies on the local disk while the stage
runs and in the nominal bucket afterwards, never in the work bucket. Receipts, logs and outcomes have counts only.
"""

from __future__ import annotations

import hmac
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet

from imunizacao.contract import csv_header, load_contract
from imunizacao.errors import ContractViolation
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.flatten import download_landing, run_flatten
from imunizacao.heads import Commit, followed
from imunizacao.manifests import Head, decode, encode, head_key
from imunizacao.models import CutList, LandingManifest, PublishInputs, Receipt, RunContext, SplitReceipt, fingerprint
from imunizacao.publish import publish_elsewhere
from imunizacao.reference import ReferenceSet, load_references
from imunizacao.settings import EngineSettings, PseudonymSettings
from imunizacao.signing import Signer
from imunizacao.split import Facts, content_id, cut_body, write_body
from imunizacao.sql import Engine, open_engine
from imunizacao.storage import ObjectStore, put_receipt, read_object, sha256_of, swap

STAGE = "nominal"


@dataclass(frozen=True, slots=True, kw_only=True)
class NominalReceipt(Receipt):
    """What the managers' bucket has now: counts, no content."""

    outcome: str
    revision: int
    state: str
    rows: int
    files: int
    bytes: int
    root_path: str = ""
    """Key of `day.json` in the nominal bucket."""
    root_sha256: str = ""


def nominal_day(
    context: RunContext,
    *,
    inputs: PublishInputs,
    references: ReferenceSet,
    pseudonym: PseudonymSettings,
    work: ObjectStore,
    public: ObjectStore,
    nominal: ObjectStore,
    engine: EngineSettings,
    now: Callable[[], datetime],
    reason: str = "",
    signer: Signer | None = None,
    progress: Progress = no_progress,
) -> NominalReceipt | None:
    """Write one file per UF with the rows that were published, and move the head of the nominal bucket.

    None when readers see another version of the day by now, or none. A UF that is withdrawn in public is withdrawn here too, and its
    file is not written; `reason` is that of the publication (`restore` brings back what is not withdrawn in public any more).

    Exactly the published rows: each of them must find its person in the landing that `flatten` read, and the number of that person must
    give its pseudonym, or a `ContractViolation` stops the stage.
    """
    started = time.monotonic()
    _require_same_landing(inputs)
    nominal.require_bucket()
    if _seen(public, inputs) is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="nominal-", dir=engine.scratch_dir))
    try:
        for name, ref in (("published", inputs.flatten.dose), ("bad_keys", inputs.validate.bad_keys)):
            work.download(ref.key, folder / f"{name}.parquet", sha256=ref.sha256)
        landed = download_landing(work, read_object(work, inputs.extract.manifest, LandingManifest), folder, progress)
        tables = load_references(work, references, folder)
        with open_engine(engine, folder) as duck:
            run_flatten(
                duck,
                parts=landed.parts,
                lines=landed.lines,
                rejects=landed.rejects,
                tables=tables,
                pseudonym=pseudonym,
                day_start=context.day.start.isoformat(),
                day_end=context.day.end.isoformat(),
                folder=folder,
                threads=engine.threads,
                identity=folder / "identity.parquet",
                progress=progress,
            )
        with open_engine(engine, folder) as duck:
            cuts, facts = _cut(duck, day=str(context.day), ufs=tables["ufs"], folder=folder)
        _require_own_persons(folder / "nominal.parquet", pseudonym.key, day=str(context.day))
        rows = sum(file.rows for file in cuts.files)
        if rows != inputs.split.rows:
            raise ContractViolation(
                f"{rows} rows of {context.day} found their person in the landing, {inputs.split.rows} were published. Nothing nominal was "
                "published. Clear `flatten` and run the day again; see docs/runbook/account-gap.md."
            )
        leader = _seen(public, inputs)
        if leader is None:
            return None
        identity = content_id(
            [*((file.path, file.sha256) for file in cuts.files), ("removed.csv", inputs.split.removed.sha256)]
        )
        published = publish_elsewhere(
            context,
            inputs=replace(inputs, split=_described(inputs, facts, content=identity)),
            cuts=cuts,
            body=folder / "body.csv",
            contract=load_contract("nominal"),
            work=work,
            store=nominal,
            stage=STAGE,
            now=now,
            reason=reason,
            leader=leader,
            signer=signer,
            progress=progress,
        )
        _follow(context, public=public, nominal=nominal, now=now)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    receipt = NominalReceipt(
        stage=STAGE,
        day=str(context.day),
        run_id=context.run_id,
        code_version=context.code_version,
        fingerprint=fingerprint(STAGE, context.code_version, {"split": inputs.split.fingerprint}),
        seconds=round(time.monotonic() - started, 3),
        outcome=published.outcome,
        revision=published.revision,
        state=published.state,
        rows=rows,
        files=len(cuts.files),
        bytes=sum(file.bytes for file in cuts.files),
        root_path=published.content.root.path,
        root_sha256=published.content.vouched_sha256,
    )
    put_receipt(work, context.prefix(STAGE), receipt)
    log_event(
        "nominal.done",
        day=str(context.day),
        outcome=receipt.outcome,
        revision=receipt.revision,
        rows=rows,
        files=receipt.files,
        seconds=receipt.seconds,
    )
    return receipt


def _seen(public: ObjectStore, inputs: PublishInputs) -> Head | None:
    """The public head, when it has this content; what is withdrawn there must not be here."""
    stored = public.get_or_none(head_key(inputs.split.day))
    head = decode(Head, stored.body, head_key(inputs.split.day)) if stored is not None else None
    same = head is not None and head.current is not None and head.current.content_id == inputs.split.content_id
    return head if same else None


def _follow(context: RunContext, *, public: ObjectStore, nominal: ObjectStore, now: Callable[[], datetime]) -> None:
    """Withdraw here what was withdrawn in public while this run was writing: its `withdraw` may have found no head here yet."""
    key = head_key(str(context.day))
    leader = decode(Head, public.get(key).body, key)
    at = now().astimezone(UTC).isoformat(timespec="seconds")
    token = sha256_of(f"{context.run_id}\0follow\0{leader.revision}".encode())[:32]
    mark = Commit(token=token, run_id=context.run_id, code_version=context.code_version, at=at, reason="")

    def decide(body: bytes | None) -> tuple[bytes | None, None]:
        if body is None:
            return None, None
        head = decode(Head, body, key)
        new = followed(head, leader, mark)
        return encode(new) if new != head else None, None

    swap(nominal, key, decide)


def _require_same_landing(inputs: PublishInputs) -> None:
    """Rows find their persons by part and line, which mean nothing in another landing."""
    read = inputs.flatten.landing
    if read is None or read.sha256 != inputs.extract.manifest.sha256:
        raise ContractViolation(
            f"The doses of {inputs.flatten.day} were made from another landing than the one of `extract`. Nothing nominal was published. "
            "Clear `flatten` and run the day again; see docs/runbook/account-gap.md."
        )


def _require_own_persons(rows: Path, key: bytes, *, day: str) -> None:
    """The number in each row gives the pseudonym in it, by Python's own HMAC."""
    strangers = 0
    with pyarrow.parquet.ParquetFile(rows) as file:
        for batch in file.iter_batches(columns=["co_paciente", "nu_cns_paciente", "nu_cpf_paciente"]):
            for pseudonym, cns, cpf in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                who = f"cns:{cns}" if cns else f"cpf:{cpf}"
                strangers += hmac.digest(key, who.encode(), "sha256").hex() != pseudonym
    if strangers:
        raise ContractViolation(
            f"{strangers} rows of {day} have the number of another person than their pseudonym says, or pseudonyms by another key than "
            "today's. Nothing nominal was published. Clear `flatten` and run the day again; see docs/runbook/account-gap.md."
        )


def _cut(duck: Engine, *, day: str, ufs: Path, folder: Path) -> tuple[CutList, dict[str, Facts]]:
    """Join the rows with their persons, write them in total order, and cut them by UF; all of it in `folder`."""
    contract = load_contract("nominal")
    dose, bad_keys, body = str(folder / "nominal.parquet"), str(folder / "bad_keys.parquet"), folder / "body.csv"
    duck.run(
        "nominal/10_dose",
        dose=str(folder / "published.parquet"),
        bad_keys=bad_keys,
        identity=str(folder / "identity.parquet"),
        destination=dose,
    )
    places = duck.rows("split/10_place_counts", dose=dose, bad_keys=bad_keys)
    facts = write_body(duck, contract, dose=dose, bad_keys=bad_keys, body=body, day=day)
    cuts = cut_body(
        body,
        packed=folder / "unused.zst",
        day=day,
        header=csv_header(contract),
        ufs=[(str(code), str(sg)) for code, sg in duck.rows("split/20_ufs", ufs=str(ufs))],
        places=[(str(uf), str(municipio), int(count)) for uf, municipio, count in places],
    )
    files = [
        replace(file, path=f"uf={file.uf}/imunizacao-nominal-{file.sg_uf.lower()}_{day}.csv")
        for file in cuts.files
        if not file.municipio
    ]
    return replace(cuts, files=files), facts


def _described(inputs: PublishInputs, facts: dict[str, Facts], *, content: str) -> SplitReceipt:
    """The receipt of split, as if it had made these cuts."""
    return replace(
        inputs.split,
        content_id=content,
        municipalities=0,
        residents=None,
        residence_known=0,
        residence_unknown=inputs.split.rows,
        completeness={name: found.filled for name, found in facts.items()},
        neutralised={name: found.neutralised for name, found in facts.items() if found.neutralised},
        blanked={name: found.read - found.filled for name, found in facts.items() if found.read > found.filled},
    )
