"""
### Publishes

Days whose quarantine gets smaller under today's rules and references, as new revisions with the reason `quarantine-replay`: the
whole day is made again from its landing, with all stages and the closed account. Days that would not change: nothing.

### Runs (Brasília time)

By hand only: after a newer CNES snapshot, a new code table, or a rule that was mended. `dry_run` is on by default: the run then tells
what would be released, and readers notice nothing.

### Reads

The quarantine (`v1/quarantine/`) and the landing of the days `from` to `to` in the work bucket (`imunizacao_s3`), the CNES snapshot in
`controle` (`imunizacao_controle`), the rules in `expectations/*.json`. Not the mirror: what it has meanwhile corrected is on other days.
With `reasons`, only doses with one of these reasons can bring a day to be made again.

### Type

Now: to judge again **start a new run**. One task per day that has a quarantine, two at once.

### If it fails

Note of the run and last lines of the task log say which day, what and where; the other days are done. A held day (`DayHeld`) stays as
it was for readers; one whose rules ask for a person is published only with a reason in `decide_publish`. Clear the failed day once the cause is mended. `docs/runbook/quarantine.md` has the rest.

### Re-running

Always safe: a day that was cut off is brought to its end by the next run, and a second run finds nothing to release.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

import imunizacao_common as common

with DAG(
    dag_id="imunizacao_replay",
    dag_display_name="Imunização: reavaliação da quarentena",
    doc_md=__doc__,
    schedule=None,
    max_active_runs=1,
    params=common.REPLAY_PARAMS,
    default_args=common.DEFAULT_ARGS,
    tags=["imunizacao", "quarentena"],
) as dag:

    @task(doc_md="Days of the range that have a quarantine.")
    def plan_days(params: dict[str, Any]) -> list[str]:
        from imunizacao_airflow import replays

        return replays.days_to_replay(params)

    @task(
        doc_md="One day: looks at its quarantined documents, and makes the day again if one would be released.",
        **common.EACH_DAY,
    )
    def replay_day(day: str, params: dict[str, Any]) -> str:
        from imunizacao_airflow import replays

        return replays.replay_one(day, params)

    @task(doc_md="Sums up all days in the note of the run; fails when a day did.", trigger_rule="all_done")
    def report(planned: list[str], done: list[str], params: dict[str, Any]) -> str:
        from imunizacao_airflow import replays

        return replays.report_replay(planned, done, params)

    planned = plan_days()
    report(planned, replay_day.expand(day=planned))
