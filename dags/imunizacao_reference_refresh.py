"""
### Publishes

Nothing for readers. Stores new versions of the reference tables (establishments of the CNES, municipalities of the IBGE, codes of the
PNI) in `controle`; the days that run afterwards are made with them.

### Runs (Brasília time)

On the 15th of every month at 06:00, and by hand: when the DATASUS has published a month, or a table has changed.

### Reads

What somebody put below `v1/inbox/references/` of the work bucket (connection `imunizacao_s3`), in `cnes/`, `ibge/` or `pni/`: the zip or
CSV of the CNES, a CSV of municipalities, a CSV or a FHIR CodeSystem of the PNI. Or one file by the param `file`: an https address (login
in the connection `imunizacao_references`, where one is needed) or a path that every worker sees. No network is needed for the inbox.

### Type

Now: a run imports what is there while it runs. To import more **start a new run**.

### If it fails

Nothing of a refused file was stored, it stays where it is, and days go on with the versions that they had. Note of the run and last lines
of the log say what a guard found and what to do; `docs/runbook/reference-import.md` has the rest. `force` is for one file, by a person who
knows that it is right.

### Re-running

Always safe: the same file again is found, not stored twice. Versions are never changed. Imported files are kept below
`v1/references/files/` under their sha256 and leave the inbox.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from airflow.sdk import DAG, CronTriggerTimetable, get_current_context, task

import imunizacao_common as common

with DAG(
    dag_id="imunizacao_reference_refresh",
    dag_display_name="Imunização: tabelas de referência",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("0 6 15 * *", timezone="America/Sao_Paulo"),
    start_date=datetime(2020, 1, 1, tzinfo=ZoneInfo("America/Sao_Paulo")),
    catchup=False,
    max_active_runs=1,
    params=common.REFERENCE_PARAMS,
    default_args=common.DEFAULT_ARGS,
    tags=["imunizacao", "referências"],
) as dag:

    @task(
        doc_md="Checks each file, compares it with the version in use, and stores it. Fails when a guard refuses one."
    )
    def import_files(params: dict[str, Any]) -> None:
        from airflow.sdk import Connection

        from imunizacao import reference
        from imunizacao_airflow import references

        with common.readable_errors():
            done = references.refresh(common.open_services(), params, Connection.get)
            common.set_run_note(references.refresh_note(done))
            # Not returned: a task that fails returns nothing, and what was imported before the refusal matters, too.
            get_current_context()["ti"].xcom_push(key="return_value", value=done.to_json())
            reference.require_accepted(done)

    import_files()
