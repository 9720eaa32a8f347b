"""
### Publishes

A withdrawal or a restoration: readers no longer see a day, or UFs of a day, or see them again. The head gets a new revision with the
reason `withdrawal` or `restore` and the text of `reason`, **which is public**; month index and catalog follow. No file is removed: that is
what `imunizacao_housekeeping` does after the grace period, 30 days unless set otherwise.

### Runs (Brasília time)

By hand only. `dry_run` is on by default: the run then tells what readers see and would see.

### Reads

The head of the day and the manifests below it in the public bucket (connection `imunizacao_s3`). A restore looks at every file of the
revision that it goes back to, by size and hash. With `remake`: the newest landing of the day in the work bucket, through all stages.

### Type

Now: for another day, or to undo it, **start a new run**. A task that is tried again finds its own commit.

### If it fails

Readers see what they saw. The note of the run says why: no such day or UF, files that were purged or are damaged. What to do is in
`docs/runbook/withdraw.md`.

### Re-running

Always safe: what is withdrawn already stays as it is, and the run says so. Daily runs and replays do not publish a withdrawn day again.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

import imunizacao_common as common

with DAG(
    dag_id="imunizacao_withdrawal",
    dag_display_name="Imunização: retirar ou restaurar um dia",
    doc_md=__doc__,
    schedule=None,
    max_active_runs=1,
    params=common.WITHDRAWAL_PARAMS,
    default_args=common.DEFAULT_ARGS,
    tags=["imunizacao", "publicação"],
) as dag:

    @task(doc_md="Shows what readers see and would see, and with `dry_run` off moves the head of the day once.")
    def change_day(params: dict[str, Any]) -> str:
        from imunizacao_airflow import control

        return control.change(params)

    common.with_links(change_day(), common.PublicationLink(), common.ManifestLink())
