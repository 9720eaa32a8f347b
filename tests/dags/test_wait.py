"""One look of `wait_for_mirror`: what may be over at the next look, and what a person must mend."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.responses import Response

from imunizacao.errors import ConfigurationError, MirrorProtocolError, MirrorUnavailable, PipelineError
from imunizacao.fhir import transport
from imunizacao.fhir.export import ExportRefused
from imunizacao.pipeline import Services
from imunizacao.settings import MirrorSettings, Settings, StorageSettings, pseudonym_settings
from tests.integration.extract_support import DAY, NOW, FakeMirror, context, outcome, running_mirror
from tests.support.memory_store import MemoryStore

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("ignore", "error:::imunizacao")]


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeMirror]:
    with running_mirror() as mirror:
        yield mirror


class Look:
    """`execute` outside of Airflow, with what it wrote."""

    def __init__(self, mirror: FakeMirror, monkeypatch: pytest.MonkeyPatch) -> None:
        from imunizacao_airflow import operators, tasks

        self.mirror = mirror
        self.notes: list[str] = []
        store = MemoryStore()
        settings = Settings(
            mirror=mirror.settings(),
            storage=StorageSettings(endpoint_url="http://127.0.0.1:9", access_key="a", secret_key="b"),
            pseudonym=pseudonym_settings(key="a key for tests only, thirty-two characters", key_id="test"),
        )
        services = Services(
            settings=settings,
            work=store,
            public=store,
            outcomes=None,  # type: ignore[arg-type]
            connect=None,
            now=lambda: NOW,
            progress=lambda what, done, total: None,
        )

        @contextmanager
        def stage() -> Iterator[tasks.Stage]:
            yield tasks.Stage(context=context(), services=services, attempt=1)

        monkeypatch.setattr(tasks, "stage", stage)
        monkeypatch.setattr(tasks, "set_run_note", self.notes.append)
        monkeypatch.setattr(tasks, "call_for_help", self.notes.append)
        monkeypatch.setattr(operators.Connection, "get", lambda name: SimpleNamespace(extra_dejson={}))
        monkeypatch.setattr(transport, "backoff_seconds", lambda tries: 0.0)
        self.operator = operators.WaitForMirror(task_id="wait_for_mirror")

    def __call__(self, **params: Any) -> str:
        run = SimpleNamespace(start_date=NOW - timedelta(minutes=5))
        return self.operator.execute({"params": params, "dag_run": run})


@pytest.fixture
def look(shared: FakeMirror, airflow_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Look]:
    yield Look(shared, monkeypatch)
    shared.before = lambda seen: None
    shared.forget()


def html(status: int) -> Response:
    return Response("<html>Em manutenção</html>", status_code=status, media_type="text/html")


@pytest.mark.parametrize("status", [404, 403, 200])
def test_a_mirror_that_is_being_redeployed_is_looked_at_again(
    look: Look, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    look.mirror.before = lambda seen: html(status)
    with caplog.at_level(logging.INFO, "imunizacao"), pytest.raises(TaskDeferred):
        look()
    (note,) = look.notes
    assert note.startswith("aguardando o espelho, que não atende (recusa ou página que não é FHIR); nova consulta às")
    (told,) = [line for line in caplog.messages if "event=wait_for_mirror.waits" in line]
    assert {404: "no such address: 404", 403: "refuses us: 403", 200: "with something that is no page"}[status] in told

    look.mirror.before = lambda seen: None
    assert '"accepted_stale": false' in look()


def test_what_came_is_told_at_the_deadline(look: Look) -> None:
    look.mirror.before = lambda seen: html(404)
    with pytest.raises(MirrorUnavailable, match=r"has no such address: 404 .* Waited from"):
        look(freshness_deadline_hours=0)
    (alert,) = look.notes
    assert "o espelho não atende" in alert
    assert f"O dia {DAY} continua pendente" in alert


@pytest.mark.parametrize(
    ("status", "kind"), [(401, ConfigurationError), (302, ConfigurationError), (422, MirrorProtocolError)]
)
def test_what_no_redeployment_explains_fails_at_once(look: Look, status: int, kind: type[PipelineError]) -> None:
    look.mirror.before = lambda seen: outcome(status, "(EHR-ERR882) x")
    with pytest.raises(kind, match=str(status)):
        look()
    assert look.notes == []


def test_a_mirror_that_can_only_export_is_waited_for_too_and_no_job_holds_a_worker_for_hours(
    airflow_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from imunizacao import pipeline
    from imunizacao_airflow import operators, tasks

    def refused(_: object, services: Services) -> None:
        asked.append(services.settings.mirror.export_deadline)
        raise ExportRefused("404 of the ingress")

    asked: list[float] = []
    mirror = MirrorSettings(base_url="http://127.0.0.1:9/fhir", way="export")
    storage = StorageSettings(endpoint_url="http://127.0.0.1:9", access_key="a", secret_key="b")
    settings = Settings(mirror=mirror, storage=storage, pseudonym=pseudonym_settings(key="x" * 40, key_id="test"))
    services = Services(
        settings=settings,
        work=MemoryStore(),
        public=MemoryStore(),
        outcomes=None,  # type: ignore[arg-type]
        connect=None,
        now=lambda: NOW,
        progress=lambda what, done, total: None,
    )
    monkeypatch.setattr(pipeline, "mirror_freshness", refused)
    seen, failure = operators._look(tasks.Stage(context=context(), services=services, attempt=1))
    assert (seen, str(failure)) == (None, "404 of the ingress")
    assert asked == [operators.EXPORT_DEADLINE] != [mirror.export_deadline]
