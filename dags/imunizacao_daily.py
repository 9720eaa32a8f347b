"""
### Publishes

The doses whose RNDS documents **entered or changed on one day** (America/Sao_Paulo): one CSV per UF and per municipality with doses,
manifests and a closed account, under `v1/days/<day>/` of the public bucket. Readers see the day at once, when its `head.json` moves.

### Runs (Brasília time)

Every day at 00:00, for the day that has just ended; an alert if it is not published 6 hours later. `airflow backfill create --dag-id
imunizacao_daily --from-date 2024-01-01 --to-date 2024-01-31` publishes January. A manual run covers yesterday, or `reference_day`.

### Reads

The FHIR mirror (connection `imunizacao_mirror`), the CNES snapshot in `controle` (`imunizacao_controle`), the work bucket
(`imunizacao_s3`), the rules in `expectations/*.json`. `wait_for_mirror` holds the run, without a worker slot, until the mirror has a
document from after the day, 6 hours at most (`freshness_deadline_hours`). `slices` shares a day between tasks, at most as many as its
`max_connections` (4). Over all runs 4 parts, 2 `extract`, 1 `plan_slices` work at once: at most 7 x 4 connections, and one per look.

### Type

Interval: one run per day. To repeat a failed day **clear the failed task**; to publish what the mirror has now **start a new run**.

### If it fails

Note of the run and last lines of the task log say what, where and what to do; `docs/runbook/` has the rest. Transient errors are retried,
doubtful answers of the mirror 3 times; a broken contract, a held day, a wrong setting fails at once. What was published stays.
`wait_for_mirror` failed: the day is pending; clear it once the mirror has caught up. `accept_stale` takes a day that only you know to be whole.
`decide` waits where a rule asks for a person (*Required Actions*: publish or hold, and why); unanswered after 24 hours, the day is held.

### Re-running

Always safe: a stage with a valid receipt is skipped, files are immutable, and the head moves by compare-and-swap.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from airflow.sdk import DAG, CronDataIntervalTimetable, task

import imunizacao_common as common

with DAG(
    dag_id="imunizacao_daily",
    dag_display_name="Imunização diária (D-1)",
    doc_md=__doc__,
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="America/Sao_Paulo"),
    start_date=datetime(2020, 1, 1, tzinfo=ZoneInfo("America/Sao_Paulo")),
    catchup=False,
    max_active_runs=4,
    params=common.DAY_PARAMS | common.MIRROR_PARAMS,
    default_args=common.DEFAULT_ARGS,
    deadline=common.DEADLINE,
    tags=["imunizacao", "D-1"],
) as dag:

    @task(doc_md="Which day, and which reference tables. Refuses a day that is not over.")
    def resolve_day(params: dict[str, Any]) -> str:
        from imunizacao import pipeline

        common.link_publication()
        with common.stage() as s:
            return pipeline.resolved_json(s.context, pipeline.resolve_day(s.context, s.services, cnes=params["cnes"]))

    @task(doc_md="Shares the day between `slices` tasks, by what the mirror announces.", **common.PLAN_OF_DAY)
    def plan_slices(params: dict[str, Any]) -> list[dict[str, Any]]:
        from imunizacao import pipeline

        with common.stage() as s:
            return pipeline.plan_slices(s.context, s.services, slices=params["slices"])

    @task(doc_md="The documents of one part of the day: bytes, counted before and after.", **common.PART_OF_DAY)
    def extract_slice(part: dict[str, Any]) -> str:
        from imunizacao import pipeline

        with common.stage() as s:
            return pipeline.extract_slice(s.context, s.services, part, attempt=s.attempt)

    @task(doc_md="Counts the whole day again, fetches what is missing, and closes it.", **common.WHOLE_DAY)
    def extract(waited: str) -> str:
        from imunizacao import pipeline

        stale = common.stale_accepted(waited)
        with common.stage() as s:
            return pipeline.extract(s.context, s.services, attempt=s.attempt, accept_stale=stale).to_json()

    @task(doc_md="Documents become doses: repeated and replaced ones told apart, identifiers made pseudonyms.")
    def flatten(resolved: str, extracted: str) -> str:
        from imunizacao import models, pipeline

        documents, references = models.ExtractReceipt.from_json(extracted), pipeline.references_from_json(resolved)
        with common.stage() as s:
            return pipeline.flatten(
                s.context, s.services, extracted=documents, references=references, attempt=s.attempt
            ).to_json()

    @task(doc_md="The rules of `expectations/`: bad rows to quarantine, the day passed or held. See Data Docs.")
    def validate(flattened: str) -> str:
        from imunizacao import models, pipeline

        with common.stage() as s:
            common.link_docs()
            doses = models.FlattenReceipt.from_json(flattened)
            return pipeline.validate(s.context, s.services, flattened=doses, attempt=s.attempt).to_json()

    @task(doc_md="One sorted body, cut into 27 UF files and one per municipality; hashes make the content id.")
    def split(resolved: str, flattened: str, validated: str) -> str:
        from imunizacao import models, pipeline

        doses, verdict = models.FlattenReceipt.from_json(flattened), models.ValidateReceipt.from_json(validated)
        references = pipeline.references_from_json(resolved)
        with common.stage() as s:
            return pipeline.split(
                s.context, s.services, flattened=doses, validated=verdict, references=references, attempt=s.attempt
            ).to_json()

    @task(doc_md="Immutable files first, then `head.json` by compare-and-swap. The account must close before.")
    def publish(extracted: str, flattened: str, validated: str, cut: str, decided: str) -> str:
        from imunizacao import pipeline

        common.link_publication()
        with common.stage() as s:
            inputs = pipeline.publish_inputs(extracted, flattened, validated, cut, decided)
            return pipeline.publish(s.context, s.services, inputs=inputs, attempt=s.attempt).to_json()

    @task(doc_md="Reads the day as a reader does and counts again; a gap takes the head back and fails the run.")
    def reconcile(waited: str, published: str, validated: str) -> str:
        from imunizacao import models, pipeline

        common.link_publication()
        receipt = models.PublishReceipt.from_json(published)
        with common.stage() as s:
            reconciled = pipeline.reconcile(s.context, s.services, published=receipt, attempt=s.attempt)
        common.note_publication(receipt, models.ValidateReceipt.from_json(validated), waited)
        return reconciled.to_json()

    resolved, waiting = common.with_links(resolve_day(), common.PublicationLink()), common.wait_for_mirror()
    extracted = extract(waiting.output)
    resolved >> waiting >> (plan := plan_slices())
    extract_slice.expand(part=plan) >> extracted
    flattened = flatten(resolved, extracted)
    validated = common.with_links(validate(flattened), common.DataDocsLink(), common.DocsIndexLink())
    decided, cut = common.decide_day(validated).output, split(resolved, flattened, validated)
    published = publish(extracted, flattened, validated, cut, decided)
    common.acknowledge(flattened, validated, decided)
    for closing in (published, reconciled := reconcile(waiting.output, published, validated)):
        common.with_links(closing, common.ManifestLink(), common.PublicationLink())
    common.nominal(resolved, extracted, flattened, validated, cut, decided, published, reconciled)
