"""The same day by a backfill, a second backfill and two triggered runs at once, in a real Airflow with its scheduler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imunizacao.paths import ROOT
from imunizacao.settings import settings_from_env
from imunizacao.storage import open_public_store
from imunizacao_local.ports import free_ports
from imunizacao_local.seaweed import SeaweedPorts
from tests.support.reader import read_day

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.airflow, pytest.mark.timeout(2400)]
DAY, OTHER = "2026-03-14", "2026-03-12"
DAG = "imunizacao_daily"


def _run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=ROOT)


def _runs_of_the_day(airflow: Callable[..., subprocess.CompletedProcess[str]]) -> list[dict[str, Any]]:
    listed = airflow("dags", "list-runs", DAG, "-o", "json")
    runs: list[dict[str, Any]] = json.loads(listed.stdout[listed.stdout.index('[{"') :])
    return [run for run in runs if DAY in json.dumps(run) or "same-day" in run["run_id"]]


def test_one_day_by_every_way_at_once_is_one_revision_per_content(tmp_path: Path) -> None:
    ports = free_ports(3)
    s3 = next(port for port in iter(lambda: SeaweedPorts.free().s3, 0) if not _clash(port, ports))
    state = str(tmp_path / "state")
    plain = {**os.environ, "PYTHONPATH": str(ROOT / "include")}

    def local(*arguments: str) -> subprocess.CompletedProcess[str]:
        return _run([sys.executable, "-m", "imunizacao_local", *arguments, "--state", state], plain)

    names = ("--port-airflow", "--port-postgres", "--port-mirror", "--port-s3")
    given = [text for name, port in zip(names, (*ports, s3), strict=True) for text in (name, str(port))]
    try:
        up = local("up", "--day", OTHER, "--docs-per-day", "300", *given)
        assert up.returncode == 0, up.stdout + up.stderr
        told = local("env").stdout
        shell = _run(["bash", "-c", f"{told}\nenv -0"], plain)
        env = dict(line.split("=", 1) for line in shell.stdout.split("\0") if "=" in line)
        airflow_command = str(Path(sys.executable).parent / "airflow")

        def airflow(*arguments: str) -> subprocess.CompletedProcess[str]:
            return _run([airflow_command, *arguments], env)

        dates = ("--dag-id", DAG, "--from-date", DAY, "--to-date", DAY, "--reprocess-behavior", "completed")
        conf = json.dumps({"reference_day": DAY})
        started = [
            subprocess.Popen([airflow_command, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for arguments in (
                ("backfill", "create", *dates),
                ("backfill", "create", *dates),
                ("dags", "trigger", DAG, "--conf", conf, "--run-id", "same-day-1"),
                ("dags", "trigger", DAG, "--conf", conf, "--run-id", "same-day-2"),
            )
        ]
        outputs = [one.communicate()[0].decode() for one in started]
        codes = [one.returncode for one in started]
        print(codes, [text[-300:] for text in outputs if "Error" in text])
        assert codes[2:] == [0, 0]
        assert 0 in codes[:2], "Airflow may refuse the second backfill while the first one runs"

        deadline = time.monotonic() + 1500
        while True:
            runs = _runs_of_the_day(airflow)
            if len(runs) >= 3 and all(run["state"] in {"success", "failed"} for run in runs):
                break
            assert time.monotonic() < deadline, runs
            time.sleep(10)
        print([(run["run_id"], run["state"]) for run in runs])
        assert {run["state"] for run in runs} == {"success"}
        public = open_public_store(settings_from_env(env).storage)
        read = read_day(lambda key: public.get(key).body, DAY)
        contents = [entry["contentId"] for entry in read.head["history"]]
        assert len(contents) == len(set(contents)) == 1, "all of them found the same documents"
        assert read.head["history"][-1]["reconciliation"]["verdict"] == "ok"
    finally:
        reset = local("reset", "--yes")
    assert reset.returncode == 0, reset.stdout + reset.stderr


def _clash(s3: int, ports: tuple[int, ...] | list[int]) -> bool:
    return bool(set(SeaweedPorts.following(s3).listeners()) & set(ports))
