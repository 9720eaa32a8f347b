"""
### Publishes

Past days again whose doses lie elsewhere in a newer CNES snapshot: establishments that moved to another municipality, that the CNES knows
by now, or that are gone from it. A day whose content changes gets a new revision with the reason `references`; others none.

### Runs (Brasília time)

By hand only, after `imunizacao_reference_refresh` has stored a new month. Without unticking `dry_run` it only lists.

### Reads

Two CNES snapshots (`from`, `to`) in `controle` (connection `imunizacao_controle`), the month indexes of the public bucket, the index of
places of each day and its landing in the work bucket (`imunizacao_s3`). The mirror is not asked.

### Type

Now: the days that are affected when `find_days` runs. To look again **start a new run**; to repeat a failed day **clear its task**.

### If it fails

The day that failed keeps the revision that it had, the others are made all the same. A day whose rules ask for a person is published
only with a reason in `decide_publish`. Note of the run and last lines of the task log say
what to do; `docs/runbook/reference-republish.md` has the rest.

### Re-running

Always safe: a day that was made with the newer snapshot is not affected any more, and the same content is no new revision.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, get_current_context, task

import imunizacao_common as common

with DAG(
    dag_id="imunizacao_reference_republish",
    dag_display_name="Imunização: dias afetados por um novo CNES",
    doc_md=__doc__,
    schedule=None,
    max_active_runs=1,
    params=common.CNES_CHANGE_PARAMS,
    default_args=common.DEFAULT_ARGS,
    tags=["imunizacao", "referências"],
) as dag:

    @task(
        doc_md="Lists the published days that the newer snapshot changes: in the log, the note and the XCom `affected` (counts only)."
    )
    def find_days(params: dict[str, Any]) -> list[dict[str, str]]:
        from imunizacao_airflow import references

        with common.readable_errors():
            found = references.find_days(common.open_services(), params)
            references.log_affected(found)
            common.set_run_note(references.affected_note(found, dry_run=params["dry_run"]))
            get_current_context()["ti"].xcom_push(key="affected", value=found.to_json())
        return [] if params["dry_run"] else [{"day": day.day, "cnes": found.choice} for day in found.days]

    @task(
        doc_md="Makes one day again from its landing, with the newer snapshot.",
        map_index_template="{{ task.op_kwargs['affected']['day'] }}",
        max_active_tis_per_dag=2,
    )
    def remake_day(affected: dict[str, str], params: dict[str, Any]) -> str:
        from imunizacao_airflow import references

        run_id = str(get_current_context()["dag_run"].run_id)
        with common.readable_errors():
            return references.remake(common.open_services(), affected, params, run_id)

    @task(doc_md="Writes into the note of the run which days have a new revision.")
    def tell(remade: list[str]) -> None:
        from imunizacao_airflow import references

        common.set_run_note(references.remade_note(list(remade)))

    tell(remake_day.expand(affected=find_days()))
