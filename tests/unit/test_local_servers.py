"""PostgreSQL and the object store of the local stack, for real: crash, restart, who may do what."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from botocore.exceptions import ClientError

from imunizacao_local.errors import LocalError
from imunizacao_local.ports import free_ports
from imunizacao_local.postgres import PostgresServer
from imunizacao_local.seaweed import S3Credentials, SeaweedPorts, SeaweedServer

pytestmark = pytest.mark.servers


@pytest.fixture
def postgres_server(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(state_dir=tmp_path / "postgres", port=free_ports(1)[0])
    yield server
    server.remove()


@pytest.fixture
def seaweed_server(tmp_path: Path) -> Iterator[SeaweedServer]:
    with SeaweedServer(state_dir=tmp_path / "s3", ports=SeaweedPorts.free(), buckets=["work", "public"]) as server:
        yield server


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_postgres_life_cycle(postgres_server: PostgresServer) -> None:
    """One cluster through every event: cheaper than one per test, and the order is what happens on a machine."""
    server = postgres_server
    assert not server.is_running()
    assert not server.exists()
    with pytest.raises(LocalError, match="no PostgreSQL cluster"):
        server.dsn("postgres")

    assert server.start()
    assert not server.start(), "a second start must change nothing"
    assert server.is_running()
    assert server.is_healthy()
    assert stat.S_IMODE((server.state_dir / "password").stat().st_mode) == 0o600
    assert server.query("postgres", "show fsync") == ["on"]
    assert server.query("postgres", "show listen_addresses") == ["127.0.0.1"]
    assert server.query("postgres", "select lower('ÁÇÃO'), current_setting('server_encoding')") == ["áção|UTF8"]

    assert server.create_database('odd "name"')
    assert not server.create_database('odd "name"')
    server.query('odd "name"', "create table dose (n int); insert into dose select generate_series(1, 1000)")

    with pytest.raises(LocalError, match="dose_missing"):
        server.query("postgres", "select * from dose_missing")

    # Killed: the data is there after the next start.
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running(), "the postmaster survived SIGKILL")
    assert server.start()
    assert server.query('odd "name"', "select count(*) from dose") == ["1000"]

    # Stopped, then a lock file whose pid belongs to another program (this one): PostgreSQL alone would refuse for ever.
    assert server.stop()
    assert not server.stop()
    lock = server._data / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{server._data}\n1\n{server.port}\n\n\n", encoding="utf-8")
    assert not server.is_running()
    assert server.start()

    # Another port: the same cluster moves there.
    moved = PostgresServer(state_dir=server.state_dir, port=free_ports(1)[0])
    assert moved.start()
    assert moved.query('odd "name"', "select count(*) from dose") == ["1000"]

    # A lost password file must not cost the data.
    password = moved.state_dir / "password"
    kept = password.read_text(encoding="utf-8")
    password.unlink()
    with pytest.raises(LocalError, match="password file"):
        moved.start()
    password.write_text(kept, encoding="utf-8")
    assert moved.query('odd "name"', "select count(*) from dose") == ["1000"]

    home = moved._home
    moved.remove()
    assert not home.exists()
    assert not moved.state_dir.exists()


def test_postgres_refuses_a_wrong_password_and_none(postgres_server: PostgresServer) -> None:
    server = postgres_server
    server.start()
    password = server.state_dir / "password"
    kept = password.read_text(encoding="utf-8")
    password.write_text("not the password\n", encoding="utf-8")
    with pytest.raises(LocalError, match="password authentication failed"):
        server.query("postgres", "select 1")
    password.write_text(kept, encoding="utf-8")
    assert server.query("postgres", "select 1") == ["1"]


def test_postgres_on_a_busy_port_names_the_owner(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imunizacao_local.ports._RELEASE_SECONDS", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", postgres_server.port))
        listener.listen()
        with pytest.raises(LocalError, match=f"PostgreSQL is taken by pid {os.getpid()}"):
            postgres_server.start()
    assert postgres_server.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps the cluster outside the state folder")
def test_postgres_of_a_state_folder_deleted_by_hand_is_replaced(postgres_server: PostgresServer) -> None:
    server = postgres_server
    server.start()
    old = server.pid()
    shutil.rmtree(server.state_dir)
    assert server.start()
    assert server.pid() != old
    assert server.query("postgres", "select 1") == ["1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps the cluster outside the state folder")
def test_postgres_refuses_a_folder_that_somebody_else_put_at_its_place(postgres_server: PostgresServer) -> None:
    """Anyone may write in that place: a link planted there must not be followed."""
    postgres_server._home.symlink_to("/etc")
    try:
        with pytest.raises(LocalError, match="not a folder of ours"):
            postgres_server.start()
    finally:
        postgres_server._home.unlink()
    assert Path("/etc/passwd").exists()


def test_the_object_store_lets_each_identity_do_its_part(seaweed_server: SeaweedServer) -> None:
    server = seaweed_server
    writer, reader = server.client(server.pipeline_credentials), server.client(server.portal_credentials)
    writer.put_object(Bucket="public", Key="a.csv", Body=b"1")
    assert reader.get_object(Bucket="public", Key="a.csv")["Body"].read() == b"1"
    for attempt in (
        lambda: reader.put_object(Bucket="public", Key="a.csv", Body=b"2"),
        lambda: reader.delete_object(Bucket="public", Key="a.csv"),
        lambda: reader.create_bucket(Bucket="mine"),
        lambda: server.client(
            S3Credentials(access_key=server.portal_credentials.access_key, secret_key="wrong")
        ).get_object(Bucket="public", Key="a.csv"),
    ):
        with pytest.raises(ClientError) as caught:
            attempt()
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert httpx.get(f"{server.endpoint}/public/a.csv", trust_env=False).status_code == 403, "anonymous read"
    assert httpx.put(f"{server.endpoint}/public/b.csv", content=b"1", trust_env=False).status_code == 403
    link = reader.generate_presigned_url("get_object", Params={"Bucket": "public", "Key": "a.csv"}, ExpiresIn=60)
    assert httpx.get(link, trust_env=False).content == b"1"
    assert httpx.get(link[:-3] + "000", trust_env=False).status_code == 403


def test_the_object_store_honours_conditions_and_makes_no_bucket_by_accident(seaweed_server: SeaweedServer) -> None:
    client = seaweed_server.client(seaweed_server.pipeline_credentials)
    client.put_object(Bucket="public", Key="head.json", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket="public", Key="head.json", Body=b"2", IfNoneMatch="*")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket="publik", Key="head.json", Body=b"1")
    assert caught.value.response["Error"]["Code"] == "NoSuchBucket"


def test_the_inner_ports_of_the_object_store_do_not_bypass_its_keys(seaweed_server: SeaweedServer) -> None:
    """The filer's HTTP port takes unauthenticated writes unless it is switched off."""
    for port in (seaweed_server.ports.filer, seaweed_server.ports.master):
        for path in ("/buckets/public/a.csv", "/dir/assign"):
            answer = httpx.post(f"http://127.0.0.1:{port}{path}", content=b"x", trust_env=False)
            assert answer.status_code == 404, (port, path)


def test_the_object_store_keeps_its_data_and_keys_over_a_crash(seaweed_server: SeaweedServer) -> None:
    server = seaweed_server
    keys = server.pipeline_credentials
    assert "secret" not in repr(keys).replace("secret_key=…", "")
    assert keys.secret_key not in repr(keys)
    server.client(keys).put_object(Bucket="work", Key="kept", Body=b"bytes")
    assert not server.start(), "a second start must change nothing"
    info = server.find()
    assert info is not None
    os.kill(info.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running(), "weed survived SIGKILL")
    assert server.start()
    assert server.pipeline_credentials == keys
    assert server.client(keys).get_object(Bucket="work", Key="kept")["Body"].read() == b"bytes"
    assert server.is_healthy()
    assert server.stop()
    assert not server.is_healthy()
    assert not server.stop()


def test_an_object_store_without_a_bucket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one bucket"):
        SeaweedServer(state_dir=tmp_path, ports=SeaweedPorts.free(), buckets=[])
