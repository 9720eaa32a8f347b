"""One real run of `imunizacao_daily`: Airflow on PostgreSQL, its connections, the mirror simulator and a real S3 server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from imunizacao.controle import connect
from imunizacao.models import RunContext
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import StorageSettings
from imunizacao.storage import ObjectStore, open_public_store, open_work_store
from tests.dags.conftest import DOCUMENTS, SEED, run_dag
from tests.mirror.documents import document
from tests.support.reader import read_day

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.servers,
    # Airflow, alembic and starlette warn about one another; warnings that our own modules cause stay errors.
    pytest.mark.filterwarnings("ignore", "error:::imunizacao"),
]
DAG_ID = "imunizacao_daily"
DAY = "2026-03-14"
BEFORE_EXTRACT = ("wait_for_mirror", "plan_slices", "extract_slice")
STAGES = ("extract", "flatten", "validate", "acknowledge", "split", "publish", "reconcile")
LINKS = {
    ("resolve_day", "_link_PublicationLink"): f"/imunizacao/day/{DAY}",
    ("validate", "_link_DataDocsLink"): f"/imunizacao/objects/work/v1/docs/day={DAY}/index.html",
    ("validate", "_link_DocsIndexLink"): "/imunizacao/objects/work/v1/docs/index.html",
    ("decide", "_link_DataDocsLink"): f"/imunizacao/objects/work/v1/docs/day={DAY}/index.html",
    ("decide", "_link_DocsIndexLink"): "/imunizacao/objects/work/v1/docs/index.html",
    ("publish", "_link_ManifestLink"): f"/imunizacao/objects/public/v1/days/{DAY}/head.json",
    ("publish", "_link_PublicationLink"): f"/imunizacao/day/{DAY}",
    ("reconcile", "_link_ManifestLink"): f"/imunizacao/objects/public/v1/days/{DAY}/head.json",
    ("reconcile", "_link_PublicationLink"): f"/imunizacao/day/{DAY}",
}
"""Task and XCom key → address that the button opens."""
OBJECTS = "/imunizacao/objects/"


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyRun:
    """What a run left behind."""

    run_id: str
    state: str
    tasks: dict[str, str]
    xcoms: dict[tuple[str, str], Any]
    dsn: str
    work: ObjectStore
    public: ObjectStore


@pytest.fixture
def daily_run(
    airflow_database: None,
    dag_bag: Any,
    connections: None,
    cnes: None,
    s3_settings: StorageSettings,
    controle_dsn: str,
) -> DailyRun:
    """Run the DAG once, as a person who asks for the day in the form does."""
    run = run_dag(dag_bag.dags[DAG_ID], reference_day=DAY)
    return DailyRun(
        run_id=run.run_id,
        state=str(run.state),
        tasks={ti.task_id: str(ti.state) for ti in run.get_task_instances()},
        xcoms=_xcoms(run.run_id),
        dsn=controle_dsn,
        work=open_work_store(s3_settings),
        public=open_public_store(s3_settings),
    )


def _xcoms(run_id: str) -> dict[tuple[str, str], Any]:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.execute(
            select(XComModel.task_id, XComModel.key, XComModel.value).where(
                XComModel.dag_id == DAG_ID, XComModel.run_id == run_id
            )
        ).all()
    return {(task, key): value for task, key, value in found}


def _people() -> set[str]:
    """CNS and CPF of everybody whom the simulator serves on the day."""
    people = set()
    for k in range(DOCUMENTS):
        for entry in json.loads(document(SEED, date.fromisoformat(DAY), k, docs_per_day=DOCUMENTS))["entry"]:
            resource = entry["resource"]
            if resource["resourceType"] == "Composition":
                value = (resource.get("subject") or {}).get("identifier", {}).get("value")
                if value and len(value) in (11, 15):
                    people.add(value)
    return people


def test_a_run_of_the_dag_publishes_the_day_and_leaves_its_traces(daily_run: DailyRun) -> None:
    made = dict.fromkeys(("resolve_day", *BEFORE_EXTRACT, *STAGES, "decide"), "success")
    assert daily_run.tasks == made | {"nominal": "skipped"}, "without its setting, nothing nominal is made"
    assert daily_run.state == "success"

    read = read_day(lambda key: daily_run.public.get(key).body, DAY)
    entry = read.head["history"][-1]
    assert (read.head["state"], read.head["revision"]) == ("published", 1)
    run_id = RunContext.create(day=ReferenceDay.parse(DAY), run_id=daily_run.run_id, code_version="any").run_id
    assert (entry["runId"], entry["source"]["fetched"]) == (run_id, DOCUMENTS)
    assert entry["reconciliation"]["verdict"] == "ok"
    assert len(read.rows) > 0.9 * DOCUMENTS

    with connect(daily_run.dsn) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select stage, state, attempt, run_id, to_char(reference_day, 'YYYY-MM-DD') "
            "from controle.outcome order by started_at"
        )
        assert sorted(cursor.fetchall()) == sorted((stage, "done", 1, run_id, DAY) for stage in STAGES)
        cursor.execute("select counts->>'published', revision from controle.outcome where stage = 'publish'")
        assert cursor.fetchone() == (str(len(read.rows)), 1)

    returned = {task: value for (task, key), value in daily_run.xcoms.items() if key == "return_value"}
    assert set(returned) == {"resolve_day", *BEFORE_EXTRACT, *STAGES, "decide"}
    for task, value in returned.items():
        if task == "plan_slices":
            continue
        receipt = json.loads(json.loads(value) if isinstance(value, str) and value.startswith('"') else value)
        assert receipt["day"] == DAY, f"the XCom of {task} is about another day"

    links = {name: value.strip('"') for name, value in daily_run.xcoms.items() if name[1].startswith("_link_")}
    assert links == LINKS
    stores = {"work": daily_run.work, "public": daily_run.public}
    for address in links.values():
        if address.startswith(OBJECTS):
            bucket, key = address.removeprefix(OBJECTS).split("/", 1)
            assert stores[bucket].get(key).body, f"the button opens {address}, where there is nothing"

    people = _people()
    assert len(people) > 100
    everything = "\n".join(value if isinstance(value, str) else json.dumps(value) for value in daily_run.xcoms.values())
    assert sum(person in everything for person in people) == 0, "an XCom holds the identifier of a person"
