"""Background processes: found again by pid and start time, never mistaken for another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imunizacao_local.errors import LocalError
from imunizacao_local.files import read_json, write_json
from imunizacao_local.process import (
    ManagedProcess,
    ProcessInfo,
    _describe_by_proc,
    _describe_by_ps,
    describe_process,
    inherited_environment,
    send_signal,
    session_members,
)

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
]
# A parent and a child in one session, as the scheduler and its workers; the child does not notice the parent's death.
PARENT = [
    sys.executable,
    "-c",
    f"import subprocess, time; subprocess.Popen({SLEEP!r}); print('ready', flush=True); time.sleep(600)",
]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ManagedProcess]:
    managed = ManagedProcess(name="server", folder=tmp_path.resolve())
    yield managed
    managed.stop(seconds=10)


def start(process: ManagedProcess, command: list[str], **settings: str) -> bool:
    return process.start(command, settings=settings, stop_seconds=10)


def wait_for_text(log: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in log.read_text(encoding="utf-8").splitlines():
        assert time.monotonic() < deadline, f"{text!r} did not appear in {log}"
        time.sleep(0.05)


def wait_gone(info: ProcessInfo) -> None:
    deadline = time.monotonic() + 20
    while describe_process(info.pid) == info:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_starting_twice_with_the_same_settings_changes_nothing(process: ManagedProcess, tmp_path: Path) -> None:
    assert start(process, SLEEP, SIZE="1")
    first = process.find()
    assert not start(process, SLEEP, SIZE="1")
    assert process.find() == first
    # Another command of the same user, later: only the state folder tells it.
    assert ManagedProcess(name="server", folder=tmp_path.resolve()).find() == first


def test_other_settings_restart_the_process(process: ManagedProcess) -> None:
    start(process, SLEEP, SIZE="1")
    first = process.find()
    assert start(process, SLEEP, SIZE="2")
    assert process.find() != first
    assert first is not None
    assert describe_process(first.pid) != first


def test_the_record_keeps_no_secret(process: ManagedProcess, tmp_path: Path) -> None:
    start(process, SLEEP, PASSWORD="correct horse battery staple")
    for path in tmp_path.iterdir():
        assert "staple" not in path.read_text(encoding="utf-8"), path


def test_a_recycled_pid_is_never_signalled(process: ManagedProcess, tmp_path: Path) -> None:
    """Accident prevented: after a crash the pid in the file belongs to somebody's editor, and `down` kills it."""
    stranger = subprocess.Popen(SLEEP)
    try:
        write_json(
            tmp_path / "server.pid.json", {"pid": stranger.pid, "start": "another time", "fingerprint": "whatever"}
        )
        assert process.find() is None
        assert not process.stop(seconds=1)
        assert stranger.poll() is None
        info = describe_process(stranger.pid)
        assert info is not None
        other = ProcessInfo(pid=info.pid, start="another time", session=info.session)
        assert not send_signal(other, signal.SIGKILL)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_stopping_ends_what_the_process_started(process: ManagedProcess) -> None:
    start(process, PARENT)
    wait_for_text(process.log, "ready")
    info = process.find()
    assert info is not None
    assert len(session_members(info.session)) == 2
    assert process.stop(seconds=10)
    assert session_members(info.session) == []
    assert not process.stop(seconds=10)


def test_children_that_outlive_a_killed_leader_are_ended_too(process: ManagedProcess) -> None:
    """Accident prevented: a killed scheduler leaves its workers, which hold memory and database connections for ever."""
    start(process, PARENT)
    wait_for_text(process.log, "ready")
    info = process.find()
    assert info is not None
    os.kill(info.pid, signal.SIGKILL)
    wait_gone(info)
    assert process.find() is None
    assert len(session_members(info.session)) == 1
    assert process.stop(seconds=10)
    assert session_members(info.session) == []


def test_a_process_that_ignores_the_request_is_killed(process: ManagedProcess) -> None:
    start(process, DEAF)
    wait_for_text(process.log, "deaf")
    began = time.monotonic()
    assert process.stop(seconds=1)
    assert 1 <= time.monotonic() - began < 8
    assert process.find() is None


def test_a_process_that_dies_is_reported_with_its_exit_code_and_last_words(process: ManagedProcess) -> None:
    try:
        start(process, [sys.executable, "-c", "import sys; sys.exit('no such option')"])
    except LocalError as died_at_once:
        error = died_at_once
    else:
        deadline = time.monotonic() + 20
        while process.find() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        found = process.died()
        assert isinstance(found, LocalError)
        error = found
    assert "server ended with exit code 1" in str(error)
    assert "no such option" in str(error)


def test_a_damaged_record_is_named(process: ManagedProcess, tmp_path: Path) -> None:
    record = tmp_path / "server.pid.json"
    write_json(record, {"pid": "12", "start": "1", "fingerprint": ""})
    with pytest.raises(LocalError, match=r"server\.pid\.json"):
        process.find()
    record.unlink()
    assert read_json(record) is None


def test_a_large_log_is_put_aside_once(
    process: ManagedProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imunizacao_local.process.LOG_LIMIT_BYTES", 100)
    process.log.write_text("x" * 200, encoding="utf-8")
    start(process, SLEEP)
    assert (tmp_path / "server.log.1").read_text(encoding="utf-8") == "x" * 200
    assert process.log.stat().st_size < 200


def test_the_callers_environment_cannot_reconfigure_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_ACCESS_KEY_ID would make an administrator in the object store; a proxy would catch calls to loopback."""
    for name in ("AWS_ACCESS_KEY_ID", "S3_BUCKET", "PGHOST", "PYTHONPATH", "AIRFLOW__CORE__EXECUTOR", "AIRFLOW_HOME"):
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("IMUNIZACAO_S3_ENDPOINT", "http://elsewhere.example")
    monkeypatch.setenv("NO_PROXY", "theirs")
    monkeypatch.setenv("HOME", "/home/ana")
    found = inherited_environment()
    assert "theirs" not in found.values()
    assert "IMUNIZACAO_S3_ENDPOINT" not in found
    assert found["NO_PROXY"] == found["no_proxy"] == "127.0.0.1,localhost"
    assert found["HOME"] == "/home/ana"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="compares with /proc, which only Linux has")
def test_the_way_without_proc_sees_the_same_processes() -> None:
    child = subprocess.Popen(SLEEP, start_new_session=True)
    try:
        by_proc, by_ps = _describe_by_proc(child.pid), _describe_by_ps(child.pid)
        assert by_proc is not None
        assert by_ps is not None
        assert (by_ps.pid, by_ps.session) == (by_proc.pid, by_proc.session) == (child.pid, child.pid)
        assert _describe_by_ps(child.pid) == by_ps, "the start time must not change between two looks"
    finally:
        child.kill()
    deadline = time.monotonic() + 20
    while _describe_by_proc(child.pid) is not None or _describe_by_ps(child.pid) is not None:
        assert time.monotonic() < deadline, "a zombie is not a live process"
        time.sleep(0.02)
    child.wait()
