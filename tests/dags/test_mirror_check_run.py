"""Real runs of `imunizacao_mirror_check`: Airflow on PostgreSQL, a mirror that is good and one that is not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.dags.conftest import connection_json
from tests.integration.mirror_check_support import CANARIES, Mirror, checked_mirror, vaccination

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.servers,
    # Airflow, alembic and starlette warn about one another; warnings that our own modules cause stay errors.
    pytest.mark.filterwarnings("ignore", "error:::imunizacao"),
]
DAG_ID = "imunizacao_mirror_check"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with checked_mirror() as mirror:
        mirror.clock = None  # Airflow takes its time before the task begins
        mirror.server.documents.append(vaccination(999_999, datetime.now(UTC) - timedelta(minutes=1)))
        value = connection_json(conn_type="http", host=mirror.server.base, extra={"page_size": 100})
        monkeypatch.setenv("AIRFLOW_CONN_IMUNIZACAO_MIRROR", value)
        yield mirror


def run(dag_bag: Any, conf: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """State of a run and the report in its XCom."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    found = dag_bag.dags[DAG_ID].test(run_conf=conf)
    with create_session() as session:
        value = session.execute(
            select(XComModel.value).where(XComModel.dag_id == DAG_ID, XComModel.run_id == found.run_id)
        ).scalar_one()
    text = value if isinstance(value, str) else json.dumps(value)
    assert [canary for canary in CANARIES if canary in text] == [], "an XCom says something of a document"
    report = json.loads(text)
    return str(found.state), json.loads(report) if isinstance(report, str) else report


def test_a_good_mirror_ends_green_with_the_table_in_the_log_and_the_report_in_xcom(
    airflow_database: None, dag_bag: Any, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="imunizacao"):
        state, report = run(dag_bag, {"day": "2026-03-13"})
    assert (state, report["state"], report["day"], report["way"]) == ("success", "usable", "2026-03-13", "documents")
    assert [row["topic"] for row in report["rows"] if row["verdict"] != "ok"] == ["clock"]
    assert "Settings to use" in caplog.messages
    assert any(message.startswith("Mirror usable") for message in caplog.messages)


def test_a_mirror_that_cannot_be_used_ends_red_and_leaves_its_report_all_the_same(
    airflow_database: None, dag_bag: Any, mirror: Mirror
) -> None:
    mirror.edit = lambda seen, body: body.pop("total")
    state, report = run(dag_bag, {"day": "2026-03-13"})
    assert (state, report["state"]) == ("failed", "not usable")
    assert "total" in [row["topic"] for row in report["rows"] if row["verdict"] == "fail"]
