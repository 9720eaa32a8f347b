"""
### Publishes

Nothing. Removes what nobody needs any more: contents and diffs that no history names, files of withdrawn days and UFs past their grace
period (the head says so first: `purgedAt`), leftovers of the probe; earlier runs, old landings, quarantine, acknowledgements and Data
Docs past their retention.

### Runs (Brasília time)

Sundays at 03:30: lists, then removes. By hand with `dry_run` on, which is the default: only lists.

### Reads

Both buckets, object by object (connection `imunizacao_s3`), and the head of every day of which something could go. Retentions are
settings in the environment of the workers (`docs/runbook/housekeeping.md`).

### Type

Now: what is there while it runs. To look again **start a new run**.

### If it fails

What was removed is gone, the rest is still there, and no head names anything that is gone without saying so. Clear the task: it goes on.
What it kept in doubt is in the log and counted in the note; `docs/runbook/housekeeping.md` says what to do about it.

### Re-running

Always safe. A run that publishes keeps all files of its day for seven days; folders are claimed before they are emptied.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from airflow.sdk import DAG, CronTriggerTimetable, task

import imunizacao_common as common

with DAG(
    dag_id="imunizacao_housekeeping",
    dag_display_name="Imunização: limpeza",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("30 3 * * 0", timezone="America/Sao_Paulo"),
    start_date=datetime(2020, 1, 1, tzinfo=ZoneInfo("America/Sao_Paulo")),
    catchup=False,
    max_active_runs=1,
    params=common.HOUSEKEEPING_PARAMS,
    default_args=common.DEFAULT_ARGS,
    tags=["imunizacao", "limpeza"],
) as dag:

    @task(
        doc_md="Lists what would be removed, by kind, and what is kept in doubt: in the log and the note. Removes nothing."
    )
    def list_leftovers(params: dict[str, Any]) -> str:
        from imunizacao_airflow import control

        return control.list_leftovers(params)

    @task(doc_md="Looks again and removes. A run by hand does nothing here unless `dry_run` is off.")
    def delete_leftovers(params: dict[str, Any]) -> str:
        from imunizacao_airflow import control

        return control.delete_leftovers(params)

    list_leftovers() >> delete_leftovers()
