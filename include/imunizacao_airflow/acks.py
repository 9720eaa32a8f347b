"""The acknowledgements of a day as a task."""

from __future__ import annotations

from airflow.sdk import task

from imunizacao_airflow.tasks import stage


@task(
    doc_md="One file per establishment: which of its doses were not published, and why. Nothing clinical. Never of a held day."
)
def acknowledge(flattened: str, validated: str, decided: str) -> str:
    """Beside `publish`, after the gate and the decision of a person: what readers get does not wait for it."""
    from imunizacao import models, pipeline

    doses, verdict = models.FlattenReceipt.from_json(flattened), models.ValidateReceipt.from_json(validated)
    with stage() as s:
        return pipeline.acknowledge(
            s.context, s.services, flattened=doses, validated=verdict, attempt=s.attempt
        ).to_json()
