"""The command itself, its Makefile and the CI script."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from imunizacao.paths import ROOT
from imunizacao_local.airflow_api import yesterday
from imunizacao_local.cli import main
from imunizacao_local.console import Console
from imunizacao_local.errors import LocalError
from imunizacao_local.ports import free_ports
from imunizacao_local.references import import_snapshot
from imunizacao_local.seaweed import SeaweedPorts


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("command", ["status", "down", "env", "reset"])
def test_a_command_without_state_says_so_and_makes_none(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--state", str(tmp_path / "none")]) == 1
    assert "Nothing was ever started" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_day_that_is_not_over_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    today = yesterday() + timedelta(days=1)
    assert main(["up", "--day", today.isoformat(), "--state", str(tmp_path / "state")]) == 1
    assert f"Day {today} is not over yet in São Paulo" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_day_that_is_no_day_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["up", "--day", "14/03/2026"])
    assert caught.value.code == 2
    assert "'14/03/2026' is not a day such as 2026-03-14" in capsys.readouterr().err


def test_reset_asks_for_confirmation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "imunizacao-local.json").write_text("{}", encoding="utf-8")
    (tmp_path / "data").write_text("kept", encoding="utf-8")
    assert main(["reset", "--state", str(tmp_path)]) == 1
    assert "--yes" in capsys.readouterr().err
    assert (tmp_path / "data").exists()


def test_status_shows_every_server_and_fails_while_one_is_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "imunizacao-local.json").write_text("{}", encoding="utf-8")
    assert main(["status", "--state", str(tmp_path)]) == 1
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("  ")[0] for row in rows[1:5]] == ["PostgreSQL", "Object store", "Mirror", "Airflow"]
    assert all("stopped" in row for row in rows[1:])


def test_an_interrupt_leaves_the_servers_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("imunizacao_local.stack.Stack.start", interrupt)
    assert main(["up", "--state", str(tmp_path / "state")]) == 130
    assert "keeps running; `make down` stops it" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`make env | head -1` must not end in a traceback."""
    command = f"{sys.executable} -m imunizacao_local up --help | head -n 1"
    result = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "include")},
        check=True,
    )
    assert result.stdout.startswith("usage: python -m imunizacao_local up")
    assert result.stderr == ""


def test_progress_is_one_plain_line_per_step_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    console = Console(out)
    with console.step("PostgreSQL") as step:
        step.detail = "127.0.0.1:55432"
    with pytest.raises(LocalError), console.step("Mirror"):
        raise LocalError("It ended", next_step="read its log")
    lines = out.getvalue().splitlines()
    assert re.fullmatch(r"\[  ok  \] PostgreSQL +127\.0\.0\.1:55432 +\d+\.\d s", lines[0])
    assert lines[1].startswith("[failed] Mirror")
    assert "\r" not in out.getvalue()


def test_progress_moves_on_a_terminal() -> None:
    out = Terminal()
    with Console(out).step("PostgreSQL"):
        pass
    assert "\r\x1b[2K" in out.getvalue()
    assert out.getvalue().rstrip().endswith("s")


def test_a_snapshot_that_cannot_be_imported_shows_why(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="There is no CNES snapshot"):
        import_snapshot(root=tmp_path, state_dir=tmp_path, environment={})
    with pytest.raises(LocalError, match="ended with exit code 2") as caught:
        import_snapshot(root=ROOT, state_dir=tmp_path, environment={"PYTHONPATH": str(ROOT / "include")})
    assert "IMUNIZACAO_CONTROLE_DSN" in str(caught.value)
    assert not (tmp_path / "references.json").exists()


def test_make_help_lists_every_command() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(targets) > 10
    assert re.findall(r"^  ([a-z-]+)", listed, re.MULTILINE) == targets


def test_make_names_the_python_it_needs(tmp_path: Path) -> None:
    """A machine whose only Python is another version."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "make", "awk"):
        found = subprocess.run(["bash", "-c", f"command -v {name}"], capture_output=True, text=True, check=True)
        (tools / name).symlink_to(found.stdout.strip())
    for name in ("python3", "python"):
        (tools / name).write_text("#!/bin/bash\nexit 1\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    result = subprocess.run(
        ["make", "up"], cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "Python 3.11 was not found" in result.stderr
    assert "PYTHON=/path/to/python3.11" in result.stderr


def test_the_ci_script_is_executable_and_parses() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "make check" in script.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.airflow
@pytest.mark.timeout(900)
def test_one_command_publishes_a_day_and_a_second_one_changes_nothing(tmp_path: Path) -> None:
    airflow, postgres, mirror = free_ports(3)
    state = str(tmp_path / "state")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "imunizacao_local", *arguments, "--state", state],
            env={**os.environ, "PYTHONPATH": str(ROOT / "include")},
            capture_output=True,
            text=True,
            check=False,
        )

    # Five ports in a row for S3: taken from where the kernel just gave out one.
    for _ in range(50):
        s3 = SeaweedPorts.free().s3
        if len(set(SeaweedPorts.following(s3).listeners()) & {airflow, postgres, mirror}) == 0:
            break
    ports = (
        *("--port-airflow", str(airflow), "--port-postgres", str(postgres)),
        *("--port-mirror", str(mirror), "--port-s3", str(s3)),
    )
    try:
        first = run("up", "--day", "2026-03-14", "--docs-per-day", "300", *ports)
        assert first.returncode == 0, first.stdout + first.stderr
        assert "Day 2026-03-14: published, revision 1" in first.stdout
        assert run("status").returncode == 0

        second = run("up", "--day", "2026-03-14")
        assert second.returncode == 0, second.stdout + second.stderr
        assert "Everything was running: nothing was changed." in second.stdout
        assert "Day 2026-03-14: published, revision 1" in second.stdout

        assert run("down").returncode == 0
        assert run("status").returncode == 1
    finally:
        reset = run("reset", "--yes")
    assert reset.returncode == 0, reset.stdout + reset.stderr
    assert not Path(state).exists()
