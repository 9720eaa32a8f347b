"""One simulator for all tests of faults, one with the token of the RNDS, and a fresh work bucket each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imunizacao.storage import ObjectStore
from tests.faults.support import DOCUMENTS, NOW_TEXT, SEED, Stage
from tests.support.simulator import Simulator, running_simulator

_OPTIONS = ("--seed", str(SEED), "--docs-per-day", str(DOCUMENTS), "--now", NOW_TEXT)


@pytest.fixture(scope="session")
def plain_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator"), *_OPTIONS) as simulator:
        yield simulator


@pytest.fixture(scope="session")
def rnds_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    folder = tmp_path_factory.mktemp("simulator-rnds")
    with running_simulator(folder, *_OPTIONS, "--auth", "rnds") as simulator:
        yield simulator


@pytest.fixture(scope="session")
def larger_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    options = ("--seed", str(SEED), "--docs-per-day", "200", "--now", NOW_TEXT)
    with running_simulator(tmp_path_factory.mktemp("simulator-larger"), *options) as simulator:
        yield simulator


@pytest.fixture
def stage(plain_simulator: Simulator, work: ObjectStore, tmp_path: Path) -> Iterator[Stage]:
    """The day from a mirror that asks nobody who they are."""
    plain_simulator.play()
    yield Stage(plain_simulator, work, tmp_path)
    plain_simulator.play()


@pytest.fixture
def rnds_stage(rnds_simulator: Simulator, work: ObjectStore, tmp_path: Path) -> Iterator[Stage]:
    """The day from a mirror that asks for the token of the RNDS."""
    rnds_simulator.play()
    yield Stage(rnds_simulator, work, tmp_path)
    rnds_simulator.play()


@pytest.fixture
def larger_stage(larger_simulator: Simulator, work: ObjectStore, tmp_path: Path) -> Stage:
    """Days with documents in every hour, on the first and on the last millisecond."""
    return Stage(larger_simulator, work, tmp_path)
