"""How the servers are wired to each other and to the product."""

from __future__ import annotations

import base64
import json
import stat
from datetime import date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imunizacao.paths import ROOT
from imunizacao.reference_day import from_airflow_context
from imunizacao.settings import settings_from_env
from imunizacao.signing import load_signer
from imunizacao_airflow.connections import settings_from_connections
from imunizacao_local import preflight
from imunizacao_local.airflow_api import run_reference_day, yesterday
from imunizacao_local.airflow_server import AirflowServer
from imunizacao_local.console import Console
from imunizacao_local.errors import LocalError
from imunizacao_local.files import read_or_create_secret
from imunizacao_local.mirror import MirrorSettings
from imunizacao_local.stack import MARK, Stack, StackPorts, load_mirror, load_ports, save_mirror, save_ports


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    made = Stack(
        root=ROOT,
        state_dir=tmp_path / "state",
        ports=StackPorts(airflow=18080, postgres=15432, s3=18333, mirror=18090),
        mirror=MirrorSettings(auth="rnds"),
    )
    # Only the first start makes a cluster; its password is all that the wiring needs.
    read_or_create_secret(made.postgres.state_dir / "password")
    return made


def connection(text: str) -> Any:
    """What Airflow makes of AIRFLOW_CONN_<ID> in its JSON form, as far as the product reads it."""
    fields = json.loads(text)
    names = ("host", "port", "login", "password", "schema")
    return SimpleNamespace(**{name: fields.get(name) for name in names}, extra_dejson=fields.get("extra", {}))


def test_the_product_accepts_the_environment_of_the_local_stack(stack: Stack) -> None:
    environment = stack.pipeline_environment()
    settings = settings_from_env(environment)
    assert settings.mirror.base_url == "http://127.0.0.1:18090/fhir/r4"
    assert settings.mirror.auth == "rnds"
    assert settings.mirror.token_url == "http://127.0.0.1:18090/api/token"
    assert settings.storage.endpoint_url == "http://127.0.0.1:18333"
    assert settings.storage.access_key == stack.seaweed.pipeline_credentials.access_key
    assert settings.controle_dsn.endswith("@127.0.0.1:15432/imunizacao")


def test_the_tasks_get_the_same_settings_from_their_connections(stack: Stack) -> None:
    environment = stack.airflow().environment()
    listed = stack.airflow().listed_connections()
    assert set(listed) == {"imunizacao_mirror"}
    assert "AIRFLOW_CONN_IMUNIZACAO_MIRROR" not in environment, "it would win over what a person changes in the UI"

    def from_airflow_connection(name: str) -> Any:
        return connection(json.dumps(listed[name]) if name in listed else environment[f"AIRFLOW_CONN_{name.upper()}"])

    from_airflow = settings_from_connections(from_airflow_connection)
    from_shell = settings_from_env(stack.pipeline_environment())
    assert from_airflow.mirror == from_shell.mirror
    assert from_airflow.storage == from_shell.storage
    assert from_airflow.pseudonym == from_shell.pseudonym
    assert from_airflow.signing == from_shell.signing
    made, kept = (load_signer(from_shell.signing), load_signer(settings_from_env(stack.pipeline_environment()).signing))
    assert made is not None
    assert kept is not None
    assert made.key_id == kept.key_id, "the key is made once"
    controle = connection(environment["AIRFLOW_CONN_IMUNIZACAO_CONTROLE"])
    assert f"{controle.login}:{controle.password}@{controle.host}:{controle.port}/{controle.schema}" in (
        from_shell.controle_dsn
    )
    own = connection(environment["AIRFLOW_CONN_IMUNIZACAO_AIRFLOW"])
    assert (own.host, own.login) == ("http://127.0.0.1:18080", "admin")


def test_airflow_listens_on_loopback_and_every_secret_is_its_own(stack: Stack, tmp_path: Path) -> None:
    environment = stack.airflow().environment()
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    # With only the port changed, every task fails with "connection refused".
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:18080/execution/"
    assert environment["AIRFLOW__CORE__DEFAULT_TIMEZONE"] == "America/Sao_Paulo"
    assert len(environment["AIRFLOW__API_AUTH__JWT_SECRET"]) >= 64
    assert len(base64.urlsafe_b64decode(environment["AIRFLOW__CORE__FERNET_KEY"])) == 32
    assert stack.airflow().environment() == environment, "secrets must not change between commands"

    other = Stack(root=ROOT, state_dir=tmp_path / "other", ports=stack.ports, mirror=stack.mirror.settings)
    read_or_create_secret(other.postgres.state_dir / "password")
    secret = (
        "AIRFLOW__API__SECRET_KEY",
        "AIRFLOW__API_AUTH__JWT_SECRET",
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
        "AIRFLOW_CONN_IMUNIZACAO_PSEUDONYM",
        "AIRFLOW_CONN_IMUNIZACAO_S3",
        "AIRFLOW_CONN_IMUNIZACAO_AIRFLOW",
    )
    for name in secret:
        assert other.airflow().environment()[name] != environment[name], name


def test_everything_in_the_state_folder_is_for_its_owner_alone(stack: Stack) -> None:
    stack.airflow()._write_home()
    stack.airflow().environment()
    for path in stack.state_dir.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert json.loads((stack.state_dir / "airflow" / "passwords.json").read_text()) == {
        "admin": stack.airflow().password
    }


def test_log_servers_are_off_because_they_listen_on_every_interface() -> None:
    from imunizacao_local.airflow_server import COMPONENTS

    for name in ("scheduler", "triggerer"):
        assert "--skip-serve-logs" in COMPONENTS[name]


def test_a_heartbeat_from_before_the_start_is_not_health(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accident prevented: for half a minute Airflow reports a killed scheduler as healthy, and `up` says it is ready."""
    began = datetime.fromisoformat("2026-03-15T02:10:00+00:00")
    report = {
        "metadatabase": {"status": "healthy"},
        "scheduler": {"status": "healthy", "latest_scheduler_heartbeat": "2026-03-15T02:09:59+00:00"},
        "dag_processor": {"status": "healthy", "latest_dag_processor_heartbeat": "2026-03-15T02:10:01+00:00"},
        "triggerer": {"status": "unhealthy", "latest_triggerer_heartbeat": "2026-03-15T02:10:01+00:00"},
    }
    monkeypatch.setattr("imunizacao_local.airflow_api.AirflowApi.health", lambda self: report)
    server: AirflowServer = stack.airflow()
    components = ("scheduler", "dag-processor", "triggerer", "api-server")
    assert server._unhealthy(dict.fromkeys(components, began)) == ["scheduler", "triggerer"]
    assert server._unhealthy({}) == ["triggerer"]
    monkeypatch.setattr("imunizacao_local.airflow_api.AirflowApi.health", lambda self: {})
    assert server._unhealthy({}) == ["metadatabase", "scheduler", "dag_processor", "triggerer"]


@pytest.mark.parametrize(
    ("conf", "kind", "start", "run_after"),
    [
        ({"reference_day": "2026-03-10"}, "manual", None, "2026-03-15T02:10:00+00:00"),
        ({}, "scheduled", "2026-03-13T03:00:00+00:00", "2026-03-14T03:00:00+00:00"),
        ({}, "backfill", "2018-11-03T03:00:00+00:00", "2018-11-04T03:00:00+00:00"),
        # 02:10 UTC of the 15th is still the 14th in São Paulo: the last day that is over is the 13th.
        ({}, "manual", None, "2026-03-15T02:10:00+00:00"),
        ({}, "manual", "2026-01-01T03:00:00+00:00", "2026-03-15T12:00:00+00:00"),
    ],
)
def test_runs_are_matched_to_days_by_the_rule_of_the_product(
    conf: dict[str, str], kind: str, start: str | None, run_after: str
) -> None:
    instant = None if start is None else datetime.fromisoformat(start)
    after = datetime.fromisoformat(run_after)
    context = {
        "params": {"reference_day": conf.get("reference_day")},
        "dag_run": SimpleNamespace(run_type=kind, run_after=after),
        "data_interval_start": instant,
    }
    found = run_reference_day(conf=conf, kind=kind, data_interval_start=instant, run_after=after)
    assert str(found) == str(from_airflow_context(context))


def test_yesterday_is_that_of_sao_paulo() -> None:
    assert yesterday(datetime.fromisoformat("2026-03-15T02:10:00+00:00")) == date(2026, 3, 13)
    assert yesterday(datetime.fromisoformat("2026-03-15T03:00:00+00:00")) == date(2026, 3, 14)


def test_ports_come_from_the_option_then_the_environment_then_the_last_time(tmp_path: Path) -> None:
    assert load_ports(tmp_path, {}, {}) == StackPorts()
    save_ports(tmp_path, StackPorts(airflow=9001, postgres=9002, s3=9010, mirror=9003))
    found = load_ports(tmp_path, {"airflow": 9901, "s3": None}, {"LOCAL_PORT_AIRFLOW": "9801", "LOCAL_PORT_S3": "9810"})
    assert found == StackPorts(airflow=9901, postgres=9002, s3=9810, mirror=9003)
    with pytest.raises(LocalError, match="LOCAL_PORT_S3 says 'many'"):
        load_ports(tmp_path, {}, {"LOCAL_PORT_S3": "many"})
    for ports in ({"airflow": 80}, {"s3": 60_000}, {"mirror": 70_000}):
        with pytest.raises(LocalError, match="is not between"):
            load_ports(tmp_path, ports, {})


def test_the_size_of_the_simulated_day_is_remembered(tmp_path: Path) -> None:
    assert load_mirror(tmp_path, docs_per_day=None, auth=None) == MirrorSettings()
    save_mirror(tmp_path, MirrorSettings(docs_per_day=500, auth="rnds"))
    assert load_mirror(tmp_path, docs_per_day=None, auth=None) == MirrorSettings(docs_per_day=500, auth="rnds")
    assert load_mirror(tmp_path, docs_per_day=7, auth="none") == MirrorSettings(docs_per_day=7, auth="none")
    with pytest.raises(LocalError, match="not a number of documents"):
        load_mirror(tmp_path, docs_per_day=0, auth=None)


def test_a_folder_with_other_things_is_neither_used_nor_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter-1.txt").write_text("years of work", encoding="utf-8")
    stack = Stack(root=ROOT, state_dir=folder, ports=StackPorts(), mirror=MirrorSettings())
    with pytest.raises(LocalError, match="holds other files"):
        stack.start(Console())
    with pytest.raises(LocalError, match="nothing was deleted"):
        stack.remove(Console())
    assert [path.name for path in folder.iterdir()] == ["chapter-1.txt"]
    assert not (folder / MARK).exists()


def test_too_little_of_the_machine_is_said_with_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("imunizacao_local.preflight.available_memory", lambda: 1024**3)
    with pytest.raises(LocalError, match=r"1\.0 GiB of memory are available; 3\.0 GiB are needed"):
        preflight.check_memory()
    monkeypatch.setattr("imunizacao_local.preflight.available_memory", lambda: None)
    preflight.check_memory()
    monkeypatch.setattr("imunizacao_local.preflight.DISK_BYTES", 1 << 60)
    with pytest.raises(LocalError, match="--state DIR"):
        preflight.check_disk(tmp_path / "not" / "yet" / "there")
    monkeypatch.setattr("imunizacao_local.preflight.PYTHON", (3, 12))
    with pytest.raises(LocalError, match=r"Python 3\.11 is needed"):
        preflight.check_python()


def test_the_limit_of_a_container_counts_as_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("imunizacao_local.preflight._CGROUP", tmp_path)
    monkeypatch.setattr("imunizacao_local.preflight._kernel_memory", lambda: 8 * 1024**3)
    assert preflight.available_memory() == 8 * 1024**3
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("1000\n", encoding="ascii")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 500\nactive_file 100\n", encoding="ascii")
    assert preflight.available_memory() == 8 * 1024**3
    (tmp_path / "memory.max").write_text("5000\n", encoding="ascii")
    assert preflight.available_memory() == 5000 - 1000 + 600
