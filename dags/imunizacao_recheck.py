"""
### Publishes

Published days that have changed at the mirror since: late documents, corrections, deletions. A day whose totals moved is extracted
again (only the parts that moved are fetched) and goes through all stages; other content is a new revision with a diff. Days that did not
move cost a few counts and are left alone.

### Runs (Brasília time)

Every night at 04:00 over the last 15 days (`days`). By hand with `from` and `to` for any range; `dry_run` then only counts. `thorough`
fetches every day of the range again: totals do not tell that one document left while another came within the same hour.

### Reads

The mirror (`imunizacao_mirror`): about 25 counts per day. The landing of the days in the work bucket (`imunizacao_s3`); a day whose
landing is gone by retention is counted as a whole against the history of its head.

### Type

Now: to count again **start a new run**. One task per day, two at once.

### If it fails

Note of the run and last lines of the task log say which day, what and where; the other days are done. A held day (`DayHeld`) stays as
it was for readers. Clear the failed day once the cause is mended. `docs/runbook/recheck.md` has the rest.

### Re-running

Always safe: a day that was brought up to date is the same on the next look.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from airflow.sdk import DAG, CronTriggerTimetable, task

import imunizacao_common as common

with DAG(
    dag_id="imunizacao_recheck",
    dag_display_name="Imunização: recontagem dos últimos dias",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("0 4 * * *", timezone="America/Sao_Paulo"),
    start_date=datetime(2020, 1, 1, tzinfo=ZoneInfo("America/Sao_Paulo")),
    catchup=False,
    max_active_runs=1,
    params=common.RECHECK_PARAMS,
    default_args=common.DEFAULT_ARGS,
    tags=["imunizacao", "publicação"],
) as dag:

    @task(doc_md="Days that are looked at.")
    def plan_days(params: dict[str, Any]) -> list[str]:
        from imunizacao_airflow import rechecks

        return rechecks.days_to_recheck(params)

    @task(
        doc_md="One day: counts it at the mirror, and runs it again if a total moved.",
        retries=common.MIRROR_RETRIES,
        **common.EACH_DAY,
    )
    def recheck_day(day: str, params: dict[str, Any]) -> str:
        from imunizacao_airflow import rechecks

        return rechecks.recheck_one(day, params)

    @task(doc_md="Sums up all days in the note of the run; fails when a day did.", trigger_rule="all_done")
    def report(planned: list[str], done: list[str], params: dict[str, Any]) -> str:
        from imunizacao_airflow import rechecks

        return rechecks.report_recheck(planned, done, params)

    planned = plan_days()
    report(planned, recheck_day.expand(day=planned))
