"""The day, end to end. Start reading here.

    resolve_day → extract → flatten → validate → split → publish → reconcile

Each function below runs one stage with what the stages before left in the work bucket, and writes one outcome. Airflow calls
them one task each; `run_day` calls them all in a row, without Airflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from imunizacao import extract as extract_stage
from imunizacao import flatten as flatten_stage
from imunizacao import publish as publish_stage
from imunizacao import reconcile as reconcile_stage
from imunizacao import split as split_stage
from imunizacao import validate as validate_stage
from imunizacao.controle import BucketOutcomeLog, OutcomeLog, PostgresOutcomeLog, migrate, record_quarantine
from imunizacao.errors import StorageUnavailable
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.models import (
    ExtractReceipt,
    FlattenReceipt,
    PublishInputs,
    PublishReceipt,
    ReconcileReceipt,
    RunContext,
    SplitReceipt,
    ValidateReceipt,
    to_json,
)
from imunizacao.reference import ReferenceSet, export_references
from imunizacao.settings import Settings
from imunizacao.storage import ObjectStore, open_public_store, open_work_store

Connect = Callable[[], Any]
"""Opens a DB-API connection to the database that holds the schema `controle`."""


def utc_now() -> datetime:
    """The clock of production."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything outside that a stage may touch."""

    settings: Settings
    work: ObjectStore
    public: ObjectStore
    outcomes: OutcomeLog
    connect: Connect | None
    now: Callable[[], datetime]
    progress: Progress


def open_services(
    settings: Settings,
    *,
    connect: Connect | None = None,
    now: Callable[[], datetime] = utc_now,
    progress: Progress = no_progress,
) -> Services:
    """Open both buckets and the log of outcomes; a missing or closed bucket is a `ConfigurationError` right here."""
    work, public = open_work_store(settings.storage), open_public_store(settings.storage)
    work.require_bucket()
    public.require_bucket()
    outcomes: OutcomeLog = PostgresOutcomeLog(connect) if connect is not None else BucketOutcomeLog(work)
    return Services(
        settings=settings, work=work, public=public, outcomes=outcomes, connect=connect, now=now, progress=progress
    )


@contextmanager
def _local_disk(services: Services) -> Iterator[None]:
    """A full or failing local disk in any stage becomes one message with the next step."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(
            f"The local disk under {services.settings.engine.scratch_dir} failed ({type(error).__name__}: {error.strerror}). Free "
            "space there (about four times the day's landing), or set IMUNIZACAO_SCRATCH_DIR, then run the task again; see "
            "docs/runbook/full-disk.md."
        ) from error


def resolve_day(context: RunContext, services: Services, *, cnes: str = "newest") -> ReferenceSet:
    """Refuse a day that is not over, bring `controle` up to date, and fix the reference snapshots that the day is made with."""
    context.day.require_over(services.now())
    connection = services.connect() if services.connect is not None else None
    try:
        if connection is not None:
            migrate(connection)
        references = export_references(services.work, connection, cnes=cnes)
    finally:
        if connection is not None:
            connection.close()
    log_event("resolve_day.done", day=str(context.day), cnes=references.versions.cnes_competencia)
    return references


def extract(context: RunContext, services: Services, *, attempt: int = 1) -> ExtractReceipt:
    """Land every document version of the day."""
    with services.outcomes.stage(context, "extract", attempt) as record, _local_disk(services):
        receipt = extract_stage.extract_day(
            context,
            settings=services.settings.mirror,
            work=services.work,
            engine=services.settings.engine,
            now=services.now,
            progress=services.progress,
        )
        record.counts = {
            "announced": receipt.announced,
            "fetched": receipt.fetched,
            "rejected": receipt.rejected,
            "slices": receipt.slices,
            "slices_reused": receipt.slices_reused,
            "pages": receipt.pages,
            "retries": receipt.retries,
        }
        record.bytes = receipt.bytes_received
    return receipt


def flatten(
    context: RunContext, services: Services, *, extracted: ExtractReceipt, references: ReferenceSet, attempt: int = 1
) -> FlattenReceipt:
    """Make doses of the documents."""
    with services.outcomes.stage(context, "flatten", attempt) as record, _local_disk(services):
        receipt = flatten_stage.flatten_day(
            context,
            extract=extracted,
            references=references,
            pseudonym=services.settings.pseudonym,
            work=services.work,
            engine=services.settings.engine,
            progress=services.progress,
        )
        record.counts = {
            "fetched": receipt.documents.fetched,
            "unique": receipt.documents.unique,
            "duplicates": receipt.documents.duplicates,
            "doses": receipt.doses,
            "candidates": receipt.candidates,
            "quarantined": receipt.quarantined,
            "superseded": receipt.superseded,
            "removed": receipt.removed_doses,
        }
        record.bytes = receipt.dose.bytes
    return receipt


def validate(
    context: RunContext, services: Services, *, flattened: FlattenReceipt, attempt: int = 1
) -> ValidateReceipt:
    """Judge the doses. A held day ends here with `DayHeld`, after quarantine and Data Docs were written."""
    with services.outcomes.stage(context, "validate", attempt) as record, _local_disk(services):
        receipt = validate_stage.validate_day(
            context,
            flatten=flattened,
            work=services.work,
            engine=services.settings.engine,
            progress=services.progress,
        )
        record.counts = {
            "checked": receipt.checked,
            "quarantined": receipt.quarantined,
            "quarantined_by_rules": receipt.quarantined_by_rules,
            "rules": len(receipt.rules),
            "rules_failed": sum(1 for rule in receipt.rules if not rule.success),
        }
        if services.connect is not None:
            connection = services.connect()
            try:
                record_quarantine(
                    connection, context, quarantined_by_uf=receipt.quarantined_by_uf, rules_version=receipt.suite_sha256
                )
            finally:
                connection.close()
        validate_stage.require_publishable(receipt)
    return receipt


def split(
    context: RunContext,
    services: Services,
    *,
    flattened: FlattenReceipt,
    validated: ValidateReceipt,
    references: ReferenceSet,
    attempt: int = 1,
) -> SplitReceipt:
    """Cut the day into files by UF and municipality."""
    with services.outcomes.stage(context, "split", attempt) as record, _local_disk(services):
        receipt = split_stage.split_day(
            context,
            flatten=flattened,
            validate=validated,
            references=references,
            work=services.work,
            engine=services.settings.engine,
            progress=services.progress,
        )
        record.counts = {
            "rows": receipt.rows,
            "ufs": receipt.ufs,
            "municipalities": receipt.municipalities,
            "removals": receipt.removals,
        }
        record.bytes = receipt.body.bytes
    return receipt


def publish(
    context: RunContext,
    services: Services,
    *,
    inputs: PublishInputs,
    reason: str = "",
    attempt: int = 1,
) -> PublishReceipt:
    """Make the day readable."""
    with services.outcomes.stage(context, "publish", attempt) as record, _local_disk(services):
        receipt = publish_stage.publish_day(
            context,
            inputs=inputs,
            work=services.work,
            public=services.public,
            engine=services.settings.engine,
            now=services.now,
            reason=reason,
            progress=services.progress,
        )
        record.counts = {
            "doses": receipt.doses.doses,
            "published": receipt.doses.published,
            "quarantined": receipt.doses.quarantined,
            "superseded": receipt.doses.superseded,
            "removed": receipt.doses.removed,
            "files": receipt.files,
        }
        record.bytes = receipt.bytes
        record.revision = receipt.revision
    return receipt


def reconcile(
    context: RunContext, services: Services, *, published: PublishReceipt, attempt: int = 1
) -> ReconcileReceipt:
    """Count again what a reader sees."""
    with services.outcomes.stage(context, "reconcile", attempt) as record, _local_disk(services):
        receipt = reconcile_stage.reconcile_day(
            context,
            published=published,
            public=services.public,
            work=services.work,
            now=services.now,
            progress=services.progress,
        )
        record.counts = {"rows": receipt.rows, "files": receipt.files}
        record.bytes = receipt.bytes
        record.revision = receipt.revision
    return receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedDay:
    """What `resolve_day` hands to the other tasks of a run."""

    day: str
    references: ReferenceSet


def resolved_json(context: RunContext, references: ReferenceSet) -> str:
    """The XCom of `resolve_day`."""
    return to_json(ResolvedDay(day=str(context.day), references=references))


def references_from_json(text: str) -> ReferenceSet:
    """The references in the XCom of `resolve_day`."""
    return msgspec.json.decode(text, type=ResolvedDay).references


def publish_inputs(extracted: str, flattened: str, validated: str, cut: str) -> PublishInputs:
    """The receipts of the stages before, from their JSON."""
    return PublishInputs(
        extract=ExtractReceipt.from_json(extracted),
        flatten=FlattenReceipt.from_json(flattened),
        validate=ValidateReceipt.from_json(validated),
        split=SplitReceipt.from_json(cut),
    )


def docs_key(context: RunContext) -> str:
    """Key of the day's Data Docs page in the work bucket; known before the rules run."""
    return validate_stage.docs_key(str(context.day))


@dataclass(frozen=True, slots=True, kw_only=True)
class DayResult:
    """What `run_day` did."""

    published: PublishReceipt
    reconciled: ReconcileReceipt
    validated: ValidateReceipt


def run_day(context: RunContext, services: Services, *, cnes: str = "newest", reason: str = "") -> DayResult:
    """Run all stages for one day. Finished stages of the same run are not done again."""
    references = resolve_day(context, services, cnes=cnes)
    extracted = extract(context, services)
    flattened = flatten(context, services, extracted=extracted, references=references)
    validated = validate(context, services, flattened=flattened)
    cut = split(context, services, flattened=flattened, validated=validated, references=references)
    inputs = PublishInputs(extract=extracted, flatten=flattened, validate=validated, split=cut)
    published = publish(context, services, inputs=inputs, reason=reason)
    reconciled = reconcile(context, services, published=published)
    return DayResult(published=published, reconciled=reconciled, validated=validated)


def run_note(published: PublishReceipt, validated: ValidateReceipt) -> str:
    """One line about a run for people: `rev 1 · 318.402 doses · 41 em quarentena`."""
    parts = [f"rev {published.revision}"]
    if published.state == "empty":
        parts.append("dia vazio (verificado)")
    else:
        parts.append(f"{_thousands(published.doses.published)} doses")
    parts.append(f"{_thousands(published.doses.quarantined)} em quarentena")
    if published.outcome == "unchanged":
        parts.append("sem mudanças")
    if published.outcome == "superseded":
        parts.append("já havia extração mais nova")
    if validated.warnings:
        parts.append(f"{len(validated.warnings)} alertas: {', '.join(validated.warnings)}")
    return " · ".join(parts)


def _thousands(value: int) -> str:
    return f"{value:,}".replace(",", ".")
