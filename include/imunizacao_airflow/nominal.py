"""The task that publishes files with identifiers, where that is switched on."""

from __future__ import annotations

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from imunizacao_airflow.tasks import stage


@task(doc_md="Off unless IMUNIZACAO_NOMINAL=on: the published doses with identifiers, into a bucket of their own.")
def nominal(
    resolved: str,
    extracted: str,
    flattened: str,
    validated: str,
    cut: str,
    decided: str,
    published: str,
    reconciled: str,
) -> str:
    """After `reconcile`, and only for a day that readers see in this version; skipped where the profile is off."""
    from imunizacao import models, pipeline

    with stage() as s:
        receipt = pipeline.nominal(
            s.context,
            s.services,
            inputs=pipeline.publish_inputs(extracted, flattened, validated, cut, decided),
            references=pipeline.references_from_json(resolved),
            published=models.PublishReceipt.from_json(published),
            reconciled=models.ReconcileReceipt.from_json(reconciled),
            attempt=s.attempt,
        )
    if receipt is None:
        raise AirflowSkipException("The nominal profile is off, or readers see another version of the day, or none.")
    return receipt.to_json()
