"""Publishing a day through Airflow's REST API: never twice, never blind to a failure."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from imunizacao_local.airflow_api import AirflowApi, yesterday
from imunizacao_local.console import Console
from imunizacao_local.day import DAG_ID, error_lines, publish_day
from imunizacao_local.errors import LocalError
from imunizacao_local.publication import PublicBucket
from imunizacao_local.seaweed import SeaweedServer

DAY = date(2026, 3, 14)
USER, PASSWORD = "admin", "a password"


class FakeAirflow(ThreadingHTTPServer):
    """The REST calls of `airflow_api`, with runs that end after a given number of looks."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.known = True
        self.paused = False
        self.schedules: date | None = None
        self.import_errors: list[dict[str, str]] = []
        self.runs: list[dict[str, Any]] = []
        self.ends_as = "success"
        self.looks = 0
        self.token = "first"
        self.requests: list[str] = []

    def add_run(self, kind: str, day: date, state: str) -> str:
        run_id = f"{kind}__{len(self.runs)}"
        run = {
            "dag_run_id": run_id,
            "state": state,
            "run_type": kind,
            "conf": {"reference_day": day.isoformat()} if kind == "manual" else {},
            "data_interval_start": None if kind == "manual" else f"{day}T03:00:00Z",
            "run_after": f"{day}T03:00:00Z",
        }
        self.runs.insert(0, run)
        return run_id


class _Handler(BaseHTTPRequestHandler):
    server: FakeAirflow

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PATCH = do_GET

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        self.server.requests.append(f"{self.command} {self.path}")
        status, answer = self._route(self.path.split("?")[0], body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _route(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        fake = self.server
        if path == "/auth/token":
            good = body == {"username": USER, "password": PASSWORD}
            return (201, {"access_token": fake.token}) if good else (401, {})
        if self.headers["Authorization"] != f"Bearer {fake.token}":
            return 401, {}
        if path == "/api/v2/importErrors":
            return 200, {"import_errors": fake.import_errors}
        dag = f"/api/v2/dags/{DAG_ID}"
        if path == dag and self.command == "PATCH":
            fake.paused = bool(body["is_paused"])
            if fake.schedules is not None:
                fake.add_run("scheduled", fake.schedules, "queued")
            return 200, {}
        if path == dag:
            return (200, {"is_paused": fake.paused}) if fake.known else (404, {})
        if path == f"{dag}/dagRuns" and self.command == "POST":
            assert body["logical_date"] is None
            return 200, {
                "dag_run_id": fake.add_run("manual", date.fromisoformat(body["conf"]["reference_day"]), "queued")
            }
        if path == f"{dag}/dagRuns":
            return 200, {"dag_runs": fake.runs}
        match = re.fullmatch(rf"{dag}/dagRuns/([^/]+)(/taskInstances)?", path)
        assert match is not None, path
        run = next(run for run in fake.runs if run["dag_run_id"] == match[1])
        if match[2]:
            return 200, {"task_instances": [_task("extract", "success"), _task("publish", run["state"])]}
        fake.looks += 1
        run["state"] = "running" if fake.looks < 3 else fake.ends_as
        return 200, run


def _task(task_id: str, state: str) -> dict[str, Any]:
    started = "2026-03-15T02:10:00Z"
    return {
        "task_id": task_id,
        "map_index": -1,
        "state": state,
        "try_number": 1,
        "duration": 1.5,
        "start_date": started,
    }


class LocalAirflow:
    """What `publish_day` uses of an AirflowServer."""

    def __init__(self, fake: FakeAirflow, folder: Path) -> None:
        self.base_url = f"http://127.0.0.1:{fake.server_address[1]}"
        self.task_logs = folder
        self.dags_folder = folder
        self.dead = False

    def api(self) -> AirflowApi:
        return AirflowApi(base_url=self.base_url, user=USER, password=PASSWORD)

    def check_alive(self) -> None:
        if self.dead:
            raise LocalError("Airflow's scheduler is not running any more", next_step="run `up` again")

    def component_log(self, name: str) -> Path:
        return self.task_logs / f"{name}.log"


class Bucket:
    """A public bucket of which only the state of the day matters."""

    def __init__(self, state: str | None) -> None:
        self.state = state

    def head_state(self, day: date) -> str | None:
        return self.state


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAirflow]:
    monkeypatch.setattr("imunizacao_local.day.POLL_SECONDS", 0.02)
    monkeypatch.setattr("imunizacao_local.day.SCHEDULED_RUN_SECONDS", 0.3)
    monkeypatch.setattr("imunizacao_local.day.DAG_SECONDS", 0.3)
    with FakeAirflow() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def airflow(fake: FakeAirflow, tmp_path: Path) -> LocalAirflow:
    return LocalAirflow(fake, tmp_path)


def publish(airflow: LocalAirflow, *, state: str | None = None, day: date = DAY, wait: float = 30) -> tuple[bool, str]:
    out = io.StringIO()
    bucket: Any = Bucket(state)
    server: Any = airflow
    done = publish_day(console=Console(out), airflow=server, bucket=bucket, day=day, wait_seconds=wait)
    return done, out.getvalue()


def posts(fake: FakeAirflow) -> list[str]:
    return [request for request in fake.requests if request.startswith("POST /api")]


def test_a_day_without_a_run_gets_one_and_every_task_is_shown(fake: FakeAirflow, airflow: LocalAirflow) -> None:
    done, text = publish(airflow)
    assert done
    assert [run["conf"] for run in fake.runs] == [{"reference_day": "2026-03-14"}]
    assert re.search(r"extract +success +1\.5 s", text)
    assert re.search(r"publish +running", text)
    assert re.search(r"publish +success +1\.5 s", text)
    assert "success, 2 of 2 tasks" in text


@pytest.mark.parametrize("state", ["published", "empty"])
def test_a_day_that_a_successful_run_published_is_not_run_again(
    fake: FakeAirflow, airflow: LocalAirflow, state: str
) -> None:
    fake.add_run("manual", DAY, "success")
    done, text = publish(airflow, state=state)
    assert not done
    assert posts(fake) == []
    assert f"Day 2026-03-14 is already {state}" in text


@pytest.mark.parametrize(("run", "state"), [("success", None), ("success", "withdrawn"), ("failed", "published")])
def test_run_and_head_must_both_say_published(
    fake: FakeAirflow, airflow: LocalAirflow, run: str, state: str | None
) -> None:
    fake.add_run("manual", DAY, run)
    done, _ = publish(airflow, state=state)
    assert done
    assert len(posts(fake)) == 1


@pytest.mark.parametrize(("kind", "state"), [("manual", "queued"), ("scheduled", "running"), ("backfill", "queued")])
def test_a_run_of_the_day_under_way_is_followed_not_doubled(
    fake: FakeAirflow, airflow: LocalAirflow, kind: str, state: str
) -> None:
    run_id = fake.add_run(kind, DAY, state)
    done, text = publish(airflow)
    assert done
    assert posts(fake) == []
    assert f"Following run {run_id}" in text


def test_a_run_of_another_day_is_no_run_of_this_day(fake: FakeAirflow, airflow: LocalAirflow) -> None:
    fake.add_run("manual", date(2026, 3, 13), "running")
    publish(airflow)
    assert len(posts(fake)) == 1


def test_unpausing_makes_a_run_of_yesterday_which_is_then_followed(fake: FakeAirflow, airflow: LocalAirflow) -> None:
    """Accident prevented: the scheduled run of the last day and a triggered one work on the same day side by side."""
    fake.paused, fake.schedules = True, yesterday()
    done, text = publish(airflow, day=yesterday())
    assert done
    assert posts(fake) == []
    assert "was paused; it is on now" in text
    assert not fake.paused


def test_a_paused_dag_that_schedules_nothing_gets_a_triggered_run(fake: FakeAirflow, airflow: LocalAirflow) -> None:
    fake.paused = True
    publish(airflow, day=yesterday())
    assert len(posts(fake)) == 1


def test_a_failed_run_names_the_task_its_log_and_its_reason(fake: FakeAirflow, airflow: LocalAirflow) -> None:
    fake.ends_as = "failed"
    run_id = fake.add_run("manual", DAY, "queued")
    log = airflow.task_logs / f"dag_id={DAG_ID}" / f"run_id={run_id}" / "task_id=publish" / "attempt=1.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        '{"level": "info", "event": "started"}\nplain words of a library\n'
        '{"level": "error", "event": "Task failed with exception", '
        '"error_detail": [{"exc_type": "DayHeld", "exc_value": "IMU-004 failed for 3 rows", "frames": []}]}\n',
        encoding="utf-8",
    )
    with pytest.raises(LocalError) as caught:
        publish(airflow)
    text = str(caught.value)
    assert f"Run {run_id} failed at publish" in text
    assert "Task failed with exception - DayHeld: IMU-004 failed for 3 rows" in text
    assert f"Log: {log}" in text
    assert f"/dags/{DAG_ID}/runs/{run_id}" in text
    assert "started" not in text


def test_only_errors_are_quoted_from_a_task_log(tmp_path: Path) -> None:
    log = tmp_path / "attempt=1.log"
    log.write_text(
        "".join(f'{{"level": "error", "event": "error {n}"}}\n' for n in range(20)) + "[1, 2]\n", encoding="utf-8"
    )
    assert error_lines(log) == [f"error {n}" for n in range(14, 20)]


def test_a_run_that_takes_too_long_goes_on_and_says_where(fake: FakeAirflow, airflow: LocalAirflow) -> None:
    fake.ends_as = "running"
    with pytest.raises(LocalError, match="is still running after 0 s; it goes on in Airflow"):
        publish(airflow, wait=0.1)


def test_a_component_that_dies_during_the_run_is_reported(fake: FakeAirflow, airflow: LocalAirflow) -> None:
    airflow.dead = True
    with pytest.raises(LocalError, match="scheduler is not running any more"):
        publish(airflow)


def test_a_dag_file_that_does_not_load_is_quoted(fake: FakeAirflow, airflow: LocalAirflow) -> None:
    fake.known = False
    with pytest.raises(LocalError, match=f"found no DAG {DAG_ID}"):
        publish(airflow)
    fake.import_errors = [
        {"filename": "imunizacao_daily.py", "stack_trace": "Traceback ...\nSyntaxError: invalid syntax\n"}
    ]
    with pytest.raises(LocalError, match=r"cannot load imunizacao_daily\.py: SyntaxError: invalid syntax"):
        publish(airflow)


def test_an_expired_login_is_renewed_once_and_a_wrong_one_reported(fake: FakeAirflow, airflow: LocalAirflow) -> None:
    api = airflow.api()
    assert api.is_paused(DAG_ID) is False
    fake.token = "second"
    assert api.is_paused(DAG_ID) is False
    wrong = AirflowApi(base_url=airflow.base_url, user=USER, password="guess")
    with pytest.raises(LocalError, match="refused the login of admin with status 401"):
        wrong.is_paused(DAG_ID)
    nobody = AirflowApi(base_url="http://127.0.0.1:9", user=USER, password=PASSWORD)
    assert nobody.health() == {}
    with pytest.raises(LocalError, match="did not answer"):
        nobody.is_paused(DAG_ID)


@pytest.mark.servers
def test_a_published_day_is_read_as_a_reader_would(s3_server: SeaweedServer) -> None:
    import httpx

    writer = s3_server.client(s3_server.pipeline_credentials)
    writer.create_bucket(Bucket="read-day")
    bucket = PublicBucket(client=s3_server.client(s3_server.portal_credentials), bucket="read-day")
    assert bucket.read_day(DAY) is None
    assert bucket.head_state(DAY) is None

    base = "v1/days/2026-03-14"
    files: dict[str, Any] = {
        f"{base}/c-1/uf=53/datapackage.json": {"resources": [{"path": "imunizacao-total-df_2026-03-14.csv"}]},
        f"{base}/c-1/day.json": {
            "rows": 5,
            "municipalities": 3,
            "files": {
                "ufs": [
                    {"uf": "11", "rows": 0, "path": "uf=11/datapackage.json"},
                    {"uf": "35", "rows": 3, "path": "uf=35/datapackage.json"},
                    {"uf": "53", "rows": 2, "path": "uf=53/datapackage.json"},
                ]
            },
        },
        f"{base}/head.json": {
            "state": "published",
            "revision": 2,
            "current": {"path": f"{base}/c-1/day.json"},
            "history": [
                {"publishedAt": "2026-03-15T03:00:00Z", "account": {"quarantined": 9}},
                {"publishedAt": "2026-03-15T04:00:00Z", "account": {"quarantined": 1}},
            ],
        },
    }
    for key, value in files.items():
        writer.put_object(Bucket="read-day", Key=key, Body=json.dumps(value).encode())
    with pytest.raises(LocalError, match=r"is named by a manifest .* but is not there"):
        bucket.read_day(DAY)
    csv_key = f"{base}/c-1/uf=53/imunizacao-total-df_2026-03-14.csv"
    writer.put_object(Bucket="read-day", Key=csv_key, Body='"co";"no"\n"1";"Brasília; DF"\n"2";\n'.encode())

    found = bucket.read_day(DAY)
    assert found is not None
    assert (found.state, found.revision, found.published_at) == ("published", 2, "2026-03-15T04:00:00Z")
    assert (found.doses, found.quarantined, found.ufs, found.municipalities) == (5, 1, 2, 3)
    assert found.sample is not None
    assert (found.sample.key, found.sample.rows) == (csv_key, 2)
    assert list(found.sample.first_rows) == [["1", "Brasília; DF"], ["2", ""]]
    assert httpx.get(bucket.link(found.head_key), trust_env=False).json()["revision"] == 2

    files[f"{base}/head.json"] |= {"state": "withdrawn", "current": None}
    writer.put_object(Bucket="read-day", Key=f"{base}/head.json", Body=json.dumps(files[f"{base}/head.json"]).encode())
    withdrawn = bucket.read_day(DAY)
    assert withdrawn is not None
    assert (withdrawn.state, withdrawn.doses, withdrawn.manifest_key, withdrawn.sample) == ("withdrawn", 0, None, None)
