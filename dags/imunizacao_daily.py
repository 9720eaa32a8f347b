"""
### Publishes

The doses whose RNDS documents **entered or changed on one day** (America/Sao_Paulo): one CSV per UF and per municipality with doses,
manifests and a closed account, under `v1/days/<day>/` of the public bucket. Readers see the day at once, when its `head.json` moves.

### Runs (Brasília time)

Every day at 00:00, for the day that has just ended. `airflow backfill create --dag-id imunizacao_daily --from-date 2024-01-01
--to-date 2024-01-31` publishes exactly January. A manual run covers yesterday, or the day in the param `reference_day`.

### Reads

The FHIR mirror (connection `imunizacao_mirror`), the CNES snapshot in `controle` (`imunizacao_controle`), the work bucket
(`imunizacao_s3`), the rules in `expectations/*.json`.

### Type

Interval: one run per day. To repeat a failed day **clear the failed task**; to publish what the mirror has now **start a new run**.

### If it fails

The note of the run and the last line of the task log say what, where and what to do; `docs/runbook/` has the rest. Transient errors
are retried; a broken contract, a held day or a wrong setting fails at once. What was published before stays.

### Re-running

Always safe: a stage with a valid receipt is skipped, files are immutable, and the head moves by compare-and-swap.
"""

from __future__ import annotations

from datetime import datetime
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
    max_active_runs=2,
    params=common.DAY_PARAMS,
    default_args=common.DEFAULT_ARGS,
    tags=["imunizacao", "D-1"],
) as dag:

    @task(doc_md="Which day, and which reference tables. Refuses a day that is not over.")
    def resolve_day(params: dict[str, str] | None = None) -> str:
        from imunizacao import pipeline

        context = common.run_context()
        common.link_publication()
        cnes = (params or {}).get("cnes", "newest")
        return pipeline.resolved_json(context, pipeline.resolve_day(context, common.open_services(), cnes=cnes))

    @task(
        retries=common.MIRROR_RETRIES,
        doc_md="All document versions of the day, as bytes, slice by slice, counted before and after.",
    )
    def extract() -> str:
        from imunizacao import pipeline

        return pipeline.extract(common.run_context(), common.open_services(), attempt=common.attempt()).to_json()

    @task(
        doc_md="Documents become doses: repeated, superseded and removed ones told apart, identifiers replaced by pseudonyms."
    )
    def flatten(resolved: str, extracted: str) -> str:
        from imunizacao import models, pipeline

        return pipeline.flatten(
            common.run_context(),
            common.open_services(),
            extracted=models.ExtractReceipt.from_json(extracted),
            references=pipeline.references_from_json(resolved),
            attempt=common.attempt(),
        ).to_json()

    @task(
        doc_md="The rules of `expectations/`: bad rows to quarantine, the day published or held. Data Docs are linked above."
    )
    def validate(flattened: str) -> str:
        from imunizacao import models, pipeline

        context = common.run_context()
        common.set_links(docs=f"{common.OBJECTS}/work/{pipeline.docs_key(context)}")
        return pipeline.validate(
            context,
            common.open_services(),
            flattened=models.FlattenReceipt.from_json(flattened),
            attempt=common.attempt(),
        ).to_json()

    @task(
        doc_md="One sorted body, cut into 27 UF files and one per municipality with doses; the hashes make the content id."
    )
    def split(resolved: str, flattened: str, validated: str) -> str:
        from imunizacao import models, pipeline

        return pipeline.split(
            common.run_context(),
            common.open_services(),
            flattened=models.FlattenReceipt.from_json(flattened),
            validated=models.ValidateReceipt.from_json(validated),
            references=pipeline.references_from_json(resolved),
            attempt=common.attempt(),
        ).to_json()

    @task(doc_md="Immutable files first, then `head.json` by compare-and-swap. The account must close before.")
    def publish(extracted: str, flattened: str, validated: str, cut: str) -> str:
        from imunizacao import pipeline

        common.link_publication()
        return pipeline.publish(
            common.run_context(),
            common.open_services(),
            inputs=pipeline.publish_inputs(extracted, flattened, validated, cut),
            attempt=common.attempt(),
        ).to_json()

    @task(doc_md="Reads the day as a reader does and counts again; a gap takes the head back and fails the run.")
    def reconcile(published: str, validated: str) -> str:
        from imunizacao import models, pipeline

        common.link_publication()
        receipt = models.PublishReceipt.from_json(published)
        reconciled = pipeline.reconcile(
            common.run_context(), common.open_services(), published=receipt, attempt=common.attempt()
        )
        common.set_run_note(pipeline.run_note(receipt, models.ValidateReceipt.from_json(validated)))
        return reconciled.to_json()

    resolved = common.with_links(resolve_day(), common.PublicationLink())
    extracted = extract()
    resolved >> extracted
    flattened = flatten(resolved, extracted)
    validated = common.with_links(validate(flattened), common.DataDocsLink())
    cut = split(resolved, flattened, validated)
    publication = (common.ManifestLink(), common.PublicationLink())
    published = common.with_links(publish(extracted, flattened, validated, cut), *publication)
    common.with_links(reconcile(published, validated), *publication)
