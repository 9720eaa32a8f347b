"""State files and ports of the local stack."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from imunizacao_local.errors import LocalError, tail
from imunizacao_local.files import exclusive, read_json, read_or_create_secret, write_json, write_private
from imunizacao_local.ports import describe_owner, free_ports, is_free, require_free
from imunizacao_local.seaweed import GRPC_OFFSET, SeaweedPorts


def test_a_private_file_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "secrets" / "key", "value\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secrets" / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["key"], "a temporary file was left behind"


def test_a_secret_is_made_once_and_differs_between_state_folders(tmp_path: Path) -> None:
    first = read_or_create_secret(tmp_path / "a" / "key", characters=64)
    assert len(first) == 64
    assert read_or_create_secret(tmp_path / "a" / "key", characters=64) == first
    assert read_or_create_secret(tmp_path / "b" / "key", characters=64) != first


def test_a_damaged_state_file_names_itself_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    assert read_json(path) is None
    write_json(path, {"airflow": 8080})
    assert read_json(path) == {"airflow": 8080}
    for damaged in ("{", "[]"):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(LocalError, match=r"ports\.json") as caught:
            read_json(path)
        assert "reset --yes" in caught.value.next_step


def test_two_commands_at_once_are_refused(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock", what="Starting"):
        second = exclusive(tmp_path / "lock", what="Starting")
        with pytest.raises(LocalError, match="Starting is already being done"):
            second.__enter__()
    with exclusive(tmp_path / "lock", what="Starting"):
        pass


def test_an_error_shows_the_end_of_the_log_and_the_next_step(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)), encoding="utf-8")
    text = str(LocalError("It ended", next_step="read on", log=log))
    assert "  | line 99999" in text
    assert "line 99000" not in text
    assert text.splitlines()[0] == "It ended"
    assert text.splitlines()[-1] == "Next step: read on"
    assert tail(tmp_path / "absent.log") == []


def test_free_ports_differ_and_can_be_listened_on() -> None:
    ports = free_ports(8, also=(GRPC_OFFSET,))
    assert len(set(ports)) == 8
    assert all(is_free(port) and is_free(port + GRPC_OFFSET) for port in ports)


def test_the_object_store_needs_ten_different_ports() -> None:
    for ports in (SeaweedPorts.free(), SeaweedPorts.following(8333)):
        assert len(set(ports.listeners())) == 10
        assert max(ports.listeners()) <= 65535


def test_a_busy_port_is_reported_with_its_owner_and_the_option_to_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imunizacao_local.ports._RELEASE_SECONDS", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not is_free(port)
        assert describe_owner(port).startswith(f"pid {os.getpid()}")
        with pytest.raises(LocalError) as caught:
            require_free(port, what="Airflow", option="--port-airflow")
    message = str(caught.value)
    assert f"Port {port} for Airflow is taken by pid {os.getpid()}" in message
    assert "--port-airflow" in message
    assert is_free(port)
    require_free(port, what="Airflow", option="--port-airflow")


def test_a_port_that_its_last_owner_is_about_to_release_is_waited_for() -> None:
    import threading

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    port = listener.getsockname()[1]
    timer = threading.Timer(0.3, listener.close)
    timer.start()
    require_free(port, what="the mirror", option="--port-mirror")
    timer.join()
