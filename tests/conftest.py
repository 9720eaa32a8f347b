"""Real servers for the tests that need them: started once per session on free loopback ports, gone at the end."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import hypothesis
import pytest

from imunizacao.settings import StorageSettings, storage_settings
from imunizacao.storage import ObjectStore, open_public_store, open_work_store
from imunizacao_local.ports import free_ports
from imunizacao_local.postgres import PostgresServer
from imunizacao_local.seaweed import SeaweedPorts, SeaweedServer

FROZEN_NOW = datetime(2026, 3, 15, 4, 10, tzinfo=UTC)
"""Already the 15th in Brasília too: the 14th is over."""

# A test says whether something is right, never how fast: machines that run several tests at once are slow now and then.
hypothesis.settings.register_profile("imunizacao", deadline=None)
hypothesis.settings.load_profile("imunizacao")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[SeaweedServer]:
    """One SeaweedFS with the two identities of the product."""
    with tempfile.TemporaryDirectory(prefix="imunizacao-s3-") as folder:
        with SeaweedServer(state_dir=Path(folder), ports=SeaweedPorts.free()) as server:
            yield server


@pytest.fixture
def s3_settings(s3_server: SeaweedServer) -> Iterator[StorageSettings]:
    """Settings for two fresh buckets on the real server. They go at the end: each holds volumes, and those are few."""
    mark = secrets.token_hex(4)
    keys = s3_server.pipeline_credentials
    settings = storage_settings(
        endpoint_url=s3_server.endpoint,
        access_key=keys.access_key,
        secret_key=keys.secret_key,
        work_bucket=f"work-{mark}",
        public_bucket=f"public-{mark}",
    )
    client = s3_server.client(keys)
    buckets = (settings.work_bucket, settings.public_bucket)
    for bucket in buckets:
        client.create_bucket(Bucket=bucket)
    yield settings
    for bucket in buckets:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            found = [{"Key": item["Key"]} for item in page.get("Contents", [])]
            if found:
                client.delete_objects(Bucket=bucket, Delete={"Objects": found, "Quiet": True})
        client.delete_bucket(Bucket=bucket)


@pytest.fixture
def work(s3_settings: StorageSettings) -> ObjectStore:
    """A fresh work bucket."""
    return open_work_store(s3_settings)


@pytest.fixture
def public(s3_settings: StorageSettings) -> ObjectStore:
    """A fresh public bucket."""
    return open_public_store(s3_settings)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL server."""
    with tempfile.TemporaryDirectory(prefix="imunizacao-pg-") as folder:
        with PostgresServer(state_dir=Path(folder), port=free_ports(1)[0]) as server:
            yield server


@pytest.fixture
def controle_dsn(postgres: PostgresServer) -> str:
    """A fresh database for the schema `controle`."""
    name = f"controle_{secrets.token_hex(4)}"
    postgres.create_database(name)
    return postgres.dsn(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--write-golden` writes the golden tree instead of comparing with it."""
    parser.addoption("--write-golden", action="store_true", default=False)
