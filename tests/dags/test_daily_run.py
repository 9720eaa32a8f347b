"""One real run of `imunizacao_daily`: Airflow on PostgreSQL, its connections, the mirror simulator and a real S3 server."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from imunizacao.controle import connect, migrate
from imunizacao.models import RunContext
from imunizacao.paths import REFERENCE
from imunizacao.reference import import_cnes
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import StorageSettings
from imunizacao.storage import ObjectStore, open_public_store, open_work_store
from imunizacao_local.mirror import MirrorServer, MirrorSettings
from imunizacao_local.ports import free_ports
from tests.dags.conftest import ROOT, connection_json
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
DOCUMENTS, SEED = 500, 7
STAGES = ("extract", "flatten", "validate", "split", "publish", "reconcile")
LINKS = {
    ("resolve_day", "_link_PublicationLink"): f"/imunizacao/day/{DAY}",
    ("validate", "_link_DataDocsLink"): f"/imunizacao/objects/work/v1/docs/day={DAY}/index.html",
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


@pytest.fixture(scope="module")
def mirror() -> Iterator[MirrorServer]:
    """The simulator with 500 documents a day."""
    with tempfile.TemporaryDirectory(prefix="imunizacao-mirror-") as folder:
        settings = MirrorSettings(seed=SEED, docs_per_day=DOCUMENTS, auth="none")
        with MirrorServer(state_dir=Path(folder), root=ROOT, port=free_ports(1)[0], settings=settings) as server:
            yield server


@pytest.fixture
def connections(
    monkeypatch: pytest.MonkeyPatch, mirror: MirrorServer, s3_settings: StorageSettings, controle_dsn: str
) -> None:
    """The connections of docs/connections.md as environment variables; `imunizacao_airflow` (run notes) is left out."""
    from psycopg.conninfo import conninfo_to_dict

    database = conninfo_to_dict(controle_dsn)
    fields: dict[str, dict[str, Any]] = {
        "MIRROR": {"conn_type": "http", "host": mirror.base_url, "extra": {"page_size": 200}},
        "S3": {
            "conn_type": "aws",
            "login": s3_settings.access_key,
            "password": s3_settings.secret_key,
            "extra": {
                "endpoint_url": s3_settings.endpoint_url,
                "work_bucket": s3_settings.work_bucket,
                "public_bucket": s3_settings.public_bucket,
            },
        },
        "CONTROLE": {
            "conn_type": "postgres",
            "host": database["host"],
            "port": int(str(database["port"])),
            "login": database["user"],
            "password": database.get("password"),
            "schema": database["dbname"],
        },
        "PSEUDONYM": {
            "conn_type": "generic",
            "login": "test",
            "password": "a key for tests only, thirty-two characters",
        },
    }
    for name, values in fields.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_IMUNIZACAO_{name}", connection_json(**values))


@pytest.fixture
def daily_run(
    airflow_database: None,
    dag_bag: Any,
    connections: None,
    s3_settings: StorageSettings,
    controle_dsn: str,
) -> DailyRun:
    """Import the CNES snapshot, then run the DAG once, as a person who asks for the day in the form does."""
    with connect(controle_dsn) as connection:
        migrate(connection)
        import_cnes(REFERENCE / "cnes" / "BASE_DE_DADOS_CNES_202602.ZIP", connection)
    run = dag_bag.dags[DAG_ID].test(run_conf={"reference_day": DAY})
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
    assert daily_run.tasks == dict.fromkeys(("resolve_day", *STAGES), "success")
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
        assert cursor.fetchall() == [(stage, "done", 1, run_id, DAY) for stage in STAGES]
        cursor.execute("select counts->>'published', revision from controle.outcome where stage = 'publish'")
        assert cursor.fetchone() == (str(len(read.rows)), 1)

    returned = {task: value for (task, key), value in daily_run.xcoms.items() if key == "return_value"}
    assert set(returned) == {"resolve_day", *STAGES}
    for task, value in returned.items():
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
