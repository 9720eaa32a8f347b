"""
### Publishes

Nothing. Tells what the FHIR mirror can do: a table in the log of the task, the same as JSON in its XCom (counts, shares and names of
profiles, nothing of a document), its verdict in the note of the run.

### Runs (Brasília time)

By hand only: before the first day is taken from a mirror, after a change of the mirror or of its connection, and when a day fails
for a reason that lies with the mirror.

### Reads

The FHIR mirror (connection `imunizacao_mirror`), about 40 requests. The param `day` names the day to look at; empty: yesterday.

### Type

Now: to ask again **start a new run**. A run says what was true while it ran.

### If it fails

The mirror cannot be used as it is. The table in the log says what is wrong and what to do for each finding; the last lines are the
settings to use and the verdict. `docs/runbook/mirror-check.md` explains the rows.

### Re-running

Always safe: it only reads, and changes nothing on either side (way `export`: it orders an export of five minutes and takes it back).
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, Param, get_current_context, task

import imunizacao_common as common

with DAG(
    dag_id="imunizacao_mirror_check",
    dag_display_name="Imunização: verificação do espelho FHIR",
    doc_md=__doc__,
    schedule=None,
    max_active_runs=1,
    params={
        "day": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Dia a examinar",
            description="AAAA-MM-DD, um dia já encerrado. Vazio: ontem.",
        ),
    },
    default_args=common.DEFAULT_ARGS,
    tags=["imunizacao", "espelho"],
) as dag:

    @task(
        retries=0,
        doc_md="Asks the mirror what it can do. The table is in the log; fails when no day could be taken from it.",
    )
    def check_mirror(params: dict[str, str] | None = None) -> None:
        from airflow.sdk import Connection

        from imunizacao import mirror_check
        from imunizacao.reference_day import ReferenceDay
        from imunizacao_airflow.connections import MIRROR, mirror_from_connection

        asked = (params or {}).get("day")
        with common.readable_errors():
            report = mirror_check.check_mirror(
                mirror_from_connection(Connection.get(MIRROR)),
                day=ReferenceDay.parse(asked) if asked else ReferenceDay.yesterday(datetime.now(UTC)),
            )
            mirror_check.log_report(report)
            common.set_run_note(report.summary)
            # Not returned: a task that fails returns nothing, and that is when the report matters most.
            get_current_context()["ti"].xcom_push(key="return_value", value=report.to_json())
            mirror_check.require_usable(report)

    check_mirror()
