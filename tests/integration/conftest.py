"""A whole day: real S3 server, real PostgreSQL, the mirror simulator as a process, and settings that join them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imunizacao import pipeline
from imunizacao.controle import connect
from imunizacao.models import RunContext
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings, Settings, StorageSettings, mirror_settings, pseudonym_settings
from imunizacao_local.mirror import MirrorServer, MirrorSettings
from imunizacao_local.ports import free_ports
from tests.support.rules import lean_suites

NOW = datetime(2026, 3, 16, 2, 10, tzinfo=UTC)
"""Already the 16th in UTC, still the 15th in Brasília; the 14th is over and the mirror has newer documents."""
DAY = ReferenceDay.parse("2026-03-14")
DOCUMENTS = 600
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def mirror() -> Iterator[MirrorServer]:
    """The simulator, with a day that is small: most of the cost of a day is not its documents."""
    with tempfile.TemporaryDirectory(prefix="imunizacao-mirror-") as folder:
        settings = MirrorSettings(seed=7, docs_per_day=DOCUMENTS, auth="none")
        with MirrorServer(state_dir=Path(folder), root=ROOT, port=free_ports(1)[0], settings=settings) as server:
            yield server


@pytest.fixture(scope="session")
def expectations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of rules of a day. Modules that are about all rules make their own fixture of this name."""
    return lean_suites(tmp_path_factory.mktemp("expectations"))


@pytest.fixture
def settings(s3_settings: StorageSettings, mirror: MirrorServer, expectations: Path, tmp_path: Path) -> Settings:
    """Settings of a run against the real servers, two fresh buckets."""
    return Settings(
        mirror=mirror_settings(base_url=mirror.base_url, page_size=200),
        storage=s3_settings,
        pseudonym=pseudonym_settings(key="a key for tests only, thirty-two characters", key_id="test"),
        engine=EngineSettings(scratch_dir=tmp_path),
        expectations=expectations,
    )


@pytest.fixture
def services(settings: Settings) -> pipeline.Services:
    """Services without a database: outcomes go to the work bucket."""
    return pipeline.open_services(settings, now=lambda: NOW)


@pytest.fixture
def services_with_controle(settings: Settings, controle_dsn: str) -> pipeline.Services:
    """Services with the schema `controle`."""
    return pipeline.open_services(settings, connect=lambda: connect(controle_dsn), now=lambda: NOW)


@pytest.fixture
def run_context() -> Callable[..., RunContext]:
    """Makes contexts of the test day."""

    def make(run_id: str = "test-run", *, day: ReferenceDay = DAY, code_version: str = "test") -> RunContext:
        return RunContext.create(day=day, run_id=run_id, code_version=code_version)

    return make
