"""The day, end to end. Start reading here.

    resolve_day → extract → flatten → validate (→ decide) → split → publish → reconcile

Each function below runs one stage with what the stages before left in the work bucket, and writes one outcome. Airflow calls
them one task each; `run_day` calls them all in a row, without Airflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from imunizacao import docs_index
from imunizacao import extract as extract_stage
from imunizacao import flatten as flatten_stage
from imunizacao import nominal as nominal_stage
from imunizacao import publish as publish_stage
from imunizacao import quarantine as quarantine_stage
from imunizacao import reconcile as reconcile_stage
from imunizacao import split as split_stage
from imunizacao import validate as validate_stage
from imunizacao.claims import latest_stamp
from imunizacao.controle import BucketOutcomeLog, OutcomeLog, PostgresOutcomeLog, migrate, record_quarantine
from imunizacao.decision import Decision, check_reason
from imunizacao.errors import ConfigurationError, ContractViolation, DayHeld, StorageUnavailable
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.findings import short_list
from imunizacao.models import (
    ExtractReceipt,
    FlattenReceipt,
    LandingManifest,
    PublishInputs,
    PublishReceipt,
    ReconcileReceipt,
    RunContext,
    SplitReceipt,
    ValidateReceipt,
    to_json,
)
from imunizacao.reference import ReferenceSet, export_references
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import Settings
from imunizacao.signing import load_signer
from imunizacao.storage import ObjectStore, open_nominal_store, open_public_store, open_work_store, read_object

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
    nominal: ObjectStore | None = None
    """Bucket of files with identifiers; None where that profile is off."""


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
        settings=settings,
        work=work,
        public=public,
        outcomes=outcomes,
        connect=connect,
        now=now,
        progress=progress,
        nominal=open_nominal_store(settings.storage, settings.nominal) if settings.nominal is not None else None,
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
    """Refuse a day that is not over, bring `controle` up to date, and fix the reference snapshots that the day is made with.

    A signing key that cannot sign is told here, not after hours of work.
    """
    context.day.require_over(services.now())
    load_signer(services.settings.signing)
    connection = services.connect() if services.connect is not None else None
    try:
        if connection is not None:
            migrate(connection)
        references = export_references(services.work, connection, cnes=cnes, day=context.day)
    finally:
        if connection is not None:
            connection.close()
    log_event("resolve_day.done", day=str(context.day), cnes=references.versions.cnes_competencia)
    return references


def mirror_freshness(context: RunContext, services: Services) -> extract_stage.Freshness:
    """Ask whether the mirror has received the day to its end. Raises `MirrorUnavailable` when it does not answer."""
    settings = services.settings
    return extract_stage.mirror_freshness(context, settings=settings.mirror, engine=settings.engine, now=services.now)


def recount(context: RunContext, services: Services, landing: ExtractReceipt | None) -> extract_stage.Recount:
    """Count the day at the mirror and compare it with a landing, window by window; without one, only as a whole."""
    slices = read_object(services.work, landing.manifest, LandingManifest).slices if landing is not None else []
    return extract_stage.recount_day(context, slices, settings=services.settings.mirror, now=services.now)


def plan_slices(context: RunContext, services: Services, *, slices: int) -> list[dict[str, Any]]:
    """Share the day between at most `slices` tasks: JSON-able parts for `extract_slice`, each with a name for people; at least one."""
    parts = extract_stage.plan_day(context, settings=services.settings.mirror, now=services.now, parts=slices)
    log_event("extract.parts", day=str(context.day), parts=len(parts))
    return [part.to_dict() for part in parts]


def extract_slice(context: RunContext, services: Services, part: dict[str, Any], *, attempt: int = 1) -> str:
    """Land the windows of one part; JSON with counts. `extract` takes them over and closes the day."""
    chosen = extract_stage.SlicePart.from_dict(part)
    with _local_disk(services):
        counts = extract_stage.extract_part(
            context,
            chosen,
            settings=services.settings.mirror,
            work=services.work,
            engine=services.settings.engine,
            now=services.now,
            progress=services.progress,
        )
    return to_json({"day": str(context.day), "part": chosen.name, "attempt": attempt, **counts})


def extract(
    context: RunContext, services: Services, *, attempt: int = 1, accept_stale: bool = False, fresh: bool = False
) -> ExtractReceipt:
    """Land every document version of the day; `fresh` takes nothing over from earlier runs."""
    with services.outcomes.stage(context, "extract", attempt) as record, _local_disk(services):
        receipt = extract_stage.extract_day(
            context,
            settings=services.settings.mirror,
            work=services.work,
            engine=services.settings.engine,
            now=services.now,
            accept_stale=accept_stale,
            fresh=fresh,
            progress=services.progress,
        )
        record.counts = {
            "announced": receipt.announced,
            "fetched": receipt.fetched,
            "rejected": receipt.rejected,
            "slices": receipt.slices,
            "slices_reused": receipt.slices_reused,
            "pages": receipt.pages,
            "pages_resumed": receipt.pages_resumed,
            "retries": receipt.retries,
            "unknown_elements": len(receipt.unknown_elements),
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
            "unknown_profiles": len(receipt.unknown_profiles),
        }
        record.bytes = receipt.dose.bytes
    return receipt


def validate(
    context: RunContext, services: Services, *, flattened: FlattenReceipt, attempt: int = 1
) -> ValidateReceipt:
    """Judge the doses and keep the bad ones. A held day ends here with `DayHeld`, after quarantine and Data Docs were written."""
    with services.outcomes.stage(context, "validate", attempt) as record, _local_disk(services):
        receipt = validate_stage.validate_day(
            context,
            flatten=flattened,
            work=services.work,
            engine=services.settings.engine,
            expectations=services.settings.expectations,
            progress=services.progress,
        )
        record.counts = {
            "checked": receipt.checked,
            "quarantined": receipt.quarantined,
            "quarantined_by_rules": receipt.quarantined_by_rules,
            "rules": len(receipt.rules),
            "rules_failed": sum(1 for rule in receipt.rules if not rule.success),
            "warnings": len(receipt.warnings),
            "asks": len(receipt.asks),
            # What each rule that was not kept found: doses, or the number that a rule about the day judges.
            **{
                rule.rule: rule.failed if rule.observed is None else rule.observed
                for rule in receipt.rules
                if not rule.success
            },
        }
        kept = quarantine_stage.quarantine_day(
            context,
            flatten=flattened,
            validate=receipt,
            work=services.work,
            engine=services.settings.engine,
            progress=services.progress,
        )
        record.counts = {**record.counts, "quarantined_documents": kept.documents, "quarantined_rejects": kept.rejected}
        record.bytes = kept.dataset.bytes
        if services.connect is not None:
            connection = services.connect()
            try:
                record_quarantine(
                    connection, context, quarantined_by_uf=receipt.quarantined_by_uf, rules_version=receipt.suite_sha256
                )
            finally:
                connection.close()
        docs_index.note_verdict(services.work, services.public, receipt)
        validate_stage.require_publishable(receipt)
    return receipt


def acknowledge(
    context: RunContext,
    services: Services,
    *,
    flattened: FlattenReceipt,
    validated: ValidateReceipt,
    attempt: int = 1,
) -> quarantine_stage.AckReceipt:
    """Write for each establishment which of its doses were not published, and why. Never of a held day."""
    with services.outcomes.stage(context, "acknowledge", attempt) as record, _local_disk(services):
        receipt = quarantine_stage.acknowledge_day(
            context,
            flatten=flattened,
            validate=validated,
            work=services.work,
            engine=services.settings.engine,
            progress=services.progress,
        )
        record.counts = {"files": receipt.files, "doses": receipt.doses, "lines": receipt.lines}
    return receipt


def nominal(
    context: RunContext,
    services: Services,
    *,
    inputs: PublishInputs,
    references: ReferenceSet,
    published: PublishReceipt,
    reconciled: ReconcileReceipt,
    reason: str = "",
    attempt: int = 1,
) -> nominal_stage.NominalReceipt | None:
    """Publish the day with identifiers, into the bucket of the managers. None where that is off, or where readers see another version.

    Never before `reconcile` has counted it well: persons of a content that is taken back would stay there.
    """
    settings, store = services.settings, services.nominal
    if store is None or published.outcome not in {"published", "unchanged"} or reconciled.verdict != "ok":
        return None
    with services.outcomes.stage(context, "nominal", attempt) as record, _local_disk(services):
        receipt = nominal_stage.nominal_day(
            context,
            inputs=inputs,
            references=references,
            pseudonym=settings.pseudonym,
            work=services.work,
            public=services.public,
            nominal=store,
            engine=settings.engine,
            now=services.now,
            reason=reason,
            signer=load_signer(settings.signing),
            progress=services.progress,
        )
        if receipt is not None:
            record.counts = {"rows": receipt.rows, "files": receipt.files}
            record.bytes, record.revision = receipt.bytes, receipt.revision
    return receipt


def decision_about(
    validated: ValidateReceipt, services: Services, *, choice: Literal["publish", "hold"], reason: str, decided_by: str
) -> Decision:
    """A person's answer to the verdict that was shown to them. A reason that must not become public is a `ConfigurationError`."""
    return Decision(
        choice=choice,
        reason=check_reason(reason),
        rules=validated.asks,
        verdict=validated.fingerprint,
        decided_by=decided_by,
        decided_at=services.now().astimezone(UTC).isoformat(timespec="seconds"),
    )


def decide(
    context: RunContext,
    services: Services,
    *,
    validated: ValidateReceipt,
    decision: Decision | None,
    attempt: int = 1,
) -> Decision | None:
    """Let a day pass that asks nothing (None), or that a person decided to publish; any other ends here with `DayHeld`."""
    if not validated.asks:
        return None
    asked = validated.failed(validated.asks)
    with services.outcomes.stage(context, "decide", attempt) as record:
        record.counts = {"asks": len(asked)}
        if decision is None:
            raise DayHeld(
                f"{context.day} needs the decision of a person. Nothing was published; what readers see stays as it was.\n"
                + "\n".join(validate_stage.sentence(rule) for rule in asked)
                + f"\nReport: {validated.docs_key} in the work bucket. To publish it all the same, run it again with "
                '--decide-publish "why" (of a DAG that makes many days: decide_publish); see docs/runbook/day-asks.md.',
                note=f"{context.day} aguarda decisão: {short_list(asked)}",
            )
        docs_index.note_verdict(services.work, services.public, validated, decision)
        by = f" by {decision.decided_by}" if decision.decided_by else ""
        if decision.choice != "publish":
            raise DayHeld(
                f"{context.day} is held{by or ': nobody decided in time'}. Nothing was published; what readers see stays as it was.\n"
                f"Reason: {decision.reason}\n"
                + "\n".join(validate_stage.sentence(rule) for rule in asked)
                + "\nTo be asked again, clear the task decide; see docs/runbook/day-asks.md.",
                note=f"{context.day} retido por {decision.decided_by or 'falta de decisão'}: {decision.reason} · {short_list(asked)}",
            )
        record.message = f"Published{by}: {decision.reason} ({', '.join(decision.rules)})"
    log_event("decide.done", day=str(context.day), choice=decision.choice, rules=",".join(decision.rules))
    return decision


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
            signer=load_signer(services.settings.signing),
            progress=services.progress,
        )
        if receipt.outcome in {"published", "unchanged"}:
            quarantine_stage.publish_quarantine(
                context,
                flatten=inputs.flatten,
                validate=inputs.validate,
                content_id=inputs.split.content_id,
                work=services.work,
            )
        record.counts = {
            "doses": receipt.doses.doses,
            "published": receipt.doses.published,
            "quarantined": receipt.doses.quarantined,
            "superseded": receipt.doses.superseded,
            "removed": receipt.doses.removed,
            "files": receipt.files,
            **{f"diff_{name}": count for name, count in receipt.diff.items()},
        }
        record.bytes = receipt.bytes
        record.revision = receipt.revision
        docs_index.update_index(services.work, services.public, str(context.day))
    return receipt


def reconcile(
    context: RunContext, services: Services, *, published: PublishReceipt, attempt: int = 1
) -> ReconcileReceipt:
    """Count again what a reader sees."""
    with services.outcomes.stage(context, "reconcile", attempt) as record, _local_disk(services):
        try:
            receipt = reconcile_stage.reconcile_day(
                context,
                published=published,
                public=services.public,
                work=services.work,
                now=services.now,
                recorded=services.outcomes.counts(context),
                progress=services.progress,
            )
        except ContractViolation:
            # The head may have gone back.
            docs_index.update_index(services.work, services.public, str(context.day))
            raise
        record.counts = {"rows": receipt.rows, "files": receipt.files}
        record.bytes = receipt.bytes
        record.revision = receipt.revision
        record.message = f"verdict: {receipt.verdict}"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What `decide` hands to the other tasks of a run."""

    day: str
    decision: Decision | None = None
    """None when nothing was asked."""


def decided_json(context: RunContext, decision: Decision | None) -> str:
    """The XCom of `decide`."""
    return to_json(Decided(day=str(context.day), decision=decision))


def publish_inputs(extracted: str, flattened: str, validated: str, cut: str, decided: str) -> PublishInputs:
    """The receipts of the stages before, from their JSON."""
    return PublishInputs(
        extract=ExtractReceipt.from_json(extracted),
        flatten=FlattenReceipt.from_json(flattened),
        validate=ValidateReceipt.from_json(validated),
        split=SplitReceipt.from_json(cut),
        decision=msgspec.json.decode(decided, type=Decided).decision,
    )


def docs_key(context: RunContext) -> str:
    """Key of the day's Data Docs page in the work bucket; known before the rules run."""
    return docs_index.docs_key(str(context.day))


@dataclass(frozen=True, slots=True, kw_only=True)
class DayResult:
    """What `run_day` did."""

    published: PublishReceipt
    reconciled: ReconcileReceipt
    validated: ValidateReceipt


def run_day(
    context: RunContext,
    services: Services,
    *,
    cnes: str = "newest",
    reason: str = "",
    accept_stale: bool = False,
    fresh: bool = False,
    decide_publish: str = "",
    decided_by: str = "",
) -> DayResult:
    """Run all stages for one day. Finished stages of the same run are not done again.

    `decide_publish` is why a day is published whose rules ask for a decision; without it such a day ends as `DayHeld`.
    """
    references = resolve_day(context, services, cnes=cnes)
    extracted = extract(context, services, accept_stale=accept_stale, fresh=fresh)
    return _make_day(
        context,
        services,
        extracted=extracted,
        references=references,
        reason=reason,
        decide_publish=decide_publish,
        decided_by=decided_by,
    )


def _make_day(
    context: RunContext,
    services: Services,
    *,
    extracted: ExtractReceipt,
    references: ReferenceSet,
    reason: str,
    decide_publish: str,
    decided_by: str,
) -> DayResult:
    """All stages after `extract`."""
    flattened = flatten(context, services, extracted=extracted, references=references)
    validated = validate(context, services, flattened=flattened)
    answer = (
        decision_about(validated, services, choice="publish", reason=decide_publish, decided_by=decided_by)
        if decide_publish
        else None
    )
    decision = decide(context, services, validated=validated, decision=answer)
    cut = split(context, services, flattened=flattened, validated=validated, references=references)
    inputs = PublishInputs(extract=extracted, flatten=flattened, validate=validated, split=cut, decision=decision)
    published = publish(context, services, inputs=inputs, reason=reason)
    reconciled = reconcile(context, services, published=published)
    acknowledge(context, services, flattened=flattened, validated=validated)
    nominal(
        context,
        services,
        inputs=inputs,
        references=references,
        published=published,
        reconciled=reconciled,
        reason=reason,
    )
    return DayResult(published=published, reconciled=reconciled, validated=validated)


def newest_landing_or_none(day: ReferenceDay, work: ObjectStore) -> ExtractReceipt | None:
    """What was last landed whole for a day, by any run; not what a worker stamped with the future, which nobody publishes."""
    latest = latest_stamp(work)
    found: list[ExtractReceipt] = []
    for info in work.list(f"v1/day={day}/run="):
        if info.key.endswith("/extract/receipt.json"):
            receipt = ExtractReceipt.from_json(work.get(info.key).body)
            if datetime.fromisoformat(receipt.extracted_at) <= latest:
                found.append(receipt)
    return max(found, key=lambda receipt: (datetime.fromisoformat(receipt.extracted_at), receipt.run_id), default=None)


def newest_landing(day: ReferenceDay, work: ObjectStore) -> ExtractReceipt:
    """What was last landed whole for a day, by any run. Raises `ConfigurationError` when the work bucket has none."""
    found = newest_landing_or_none(day, work)
    if found is None:
        raise ConfigurationError(
            f"The work bucket {work.bucket} has no landing of {day}: it was never extracted, its retention has passed, or the clock "
            "of its worker was ahead. Nothing was changed. Run the day itself, which asks the mirror: python -m imunizacao run-day "
            f"{day}, or imunizacao_daily."
        )
    return found


def remake_day(
    context: RunContext,
    services: Services,
    *,
    reason: str,
    cnes: str = "newest",
    decide_publish: str = "",
    decided_by: str = "",
) -> DayResult:
    """Make a day again from its newest landing, with the rules of today and the references of `cnes`; the mirror is not asked.

    `reason` goes into the head's history when the content changed (`quarantine-replay`, `references`, `rules`); the same content
    is no new revision. A day that was withdrawn stays withdrawn (`PublicationConflict`). Raises `ConfigurationError` when the
    work bucket has no landing of the day any more. `decide_publish` as in `run_day`.
    """
    extracted = newest_landing(context.day, services.work)
    references = resolve_day(context, services, cnes=cnes)
    log_event("remake.from_landing", day=str(context.day), landing_run=extracted.run_id, reason=reason)
    return _make_day(
        context,
        services,
        extracted=extracted,
        references=references,
        reason=reason,
        decide_publish=decide_publish,
        decided_by=decided_by,
    )


def run_note(published: PublishReceipt, validated: ValidateReceipt) -> str:
    """One line about a run for people: `rev 1 · 318.402 doses · 41 em quarentena`."""
    parts = [f"rev {published.revision}"]
    if published.state == "empty":
        parts.append("dia vazio (verificado)")
    else:
        parts.append(f"{_thousands(published.doses.published)} doses")
    parts.append(f"{_thousands(published.doses.quarantined)} em quarentena")
    if published.diff:
        named = zip(("incluídas", "alteradas", "retiradas"), ("added", "changed", "removed"), strict=True)
        parts.append(", ".join(f"{_thousands(published.diff[name])} {word}" for word, name in named))
    if published.cnes:
        parts.append(f"CNES {published.cnes}")
    if published.outcome == "unchanged":
        parts.append("sem mudanças")
    if published.outcome == "superseded":
        parts.append("já havia extração mais nova")
    if not published.signed_by:
        parts.append("sem assinatura")
    if published.withdrawn_ufs:
        parts.append(f"UF retirada: {', '.join(published.withdrawn_ufs)}")
    if published.decision is not None:
        parts.append(f"publicado por decisão de {published.decision.decided_by}: {published.decision.reason}")
    if warned := validated.failed(validated.warnings):
        parts.append(f"{len(warned)} {'alerta' if len(warned) == 1 else 'alertas'}: {short_list(warned)}")
    for name, one, many in (
        ("unknown_profiles", "perfil desconhecido", "perfis desconhecidos"),
        ("unknown_elements", "campo novo", "campos novos"),
    ):
        if count := published.news.get(name, 0):
            parts.append(f"{count} {one if count == 1 else many}")
    return " · ".join(parts)


def _thousands(value: int) -> str:
    return f"{value:,}".replace(",", ".")
