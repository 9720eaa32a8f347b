"""A third party's reader agrees: what `datapackage.json` of a UF says holds for its CSVs, and a damaged CSV is noticed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imunizacao import pipeline
from imunizacao.models import RunContext
from imunizacao.settings import Settings
from imunizacao_local.mirror import MirrorServer, MirrorSettings
from imunizacao_local.ports import free_ports
from tests.integration.conftest import DAY, NOW, ROOT
from tests.support.reader import DayRead, read_day

pytestmark = [
    pytest.mark.servers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of frictionless and what it imports
]
DOCUMENTS = 300


@pytest.fixture(scope="module")
def mirror() -> Iterator[MirrorServer]:
    """The simulator with 300 documents a day: some UFs stay without doses."""
    with tempfile.TemporaryDirectory(prefix="imunizacao-mirror-") as folder:
        settings = MirrorSettings(seed=7, docs_per_day=DOCUMENTS, auth="none")
        with MirrorServer(state_dir=Path(folder), root=ROOT, port=free_ports(1)[0], settings=settings) as server:
            yield server


@pytest.fixture
def packages(settings: Settings, run_context: Callable[..., RunContext], tmp_path: Path) -> tuple[DayRead, Path]:
    """A published day, and its UF folders as a reader downloads them."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    engine = replace(settings.engine, scratch_dir=scratch)
    services = pipeline.open_services(replace(settings, engine=engine), now=lambda: NOW)
    pipeline.run_day(run_context(), services)
    read = read_day(lambda key: services.public.get(key).body, str(DAY))
    base = read.head["current"]["path"].rsplit("/", 1)[0] + "/"
    target = tmp_path / "download"
    for info in services.public.list(base + "uf="):
        path = target / info.key.removeprefix(base)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(services.public.get(info.key).body)
    return read, target


def _validate(descriptor: Path) -> Any:
    import frictionless

    return frictionless.validate(str(descriptor))


def _faults(report: Any) -> list[str]:
    """Kinds and places of the errors: values of rows stay out of the test's output."""
    found = [error.type for error in report.errors]
    for task in report.tasks:
        found += [f"{task.place}: {error.type} {getattr(error, 'field_name', '')}" for error in task.errors]
    return found


def test_the_packages_of_ufs_with_and_without_doses_are_valid(packages: tuple[DayRead, Path]) -> None:
    read, folder = packages
    ufs = sorted(read.root["files"]["ufs"], key=lambda uf: int(uf["rows"]))
    chosen = {"empty": ufs[0], "smallest with doses": next(uf for uf in ufs if uf["rows"]), "largest": ufs[-1]}
    assert chosen["empty"]["rows"] == 0, "no UF without doses in this day: lower DOCUMENTS"
    assert chosen["largest"]["municipalities"] > 1
    for what, uf in chosen.items():
        report = _validate(folder / uf["path"])
        assert _faults(report) == [], f"{what}: {uf['path']}"
        assert report.valid, what
        assert report.stats["tasks"] == 1 + uf["municipalities"] + 1
        rows = [task.stats.get("rows") or 0 for task in report.tasks]
        assert rows[0] == sum(rows[1:-1]) == uf["rows"], (
            f"{what}: the UF file and its municipalities hold the same rows"
        )
        assert rows[-1] == uf["residents"], f"{what}: residents"
    assert sum(uf["residents"] for uf in ufs) == read.root["residence"]["known"] > 0
    assert sum(uf["rows"] for uf in ufs) == sum(read.root["residence"].values())


@pytest.mark.slow
def test_a_damaged_csv_is_noticed(packages: tuple[DayRead, Path]) -> None:
    read, folder = packages
    uf = next(uf for uf in sorted(read.root["files"]["ufs"], key=lambda uf: int(uf["rows"])) if uf["rows"])
    descriptor = folder / uf["path"]
    for victim in sorted(descriptor.parent.rglob("*.csv")):
        body = victim.read_bytes()
        # A letter inside a quoted value of the last row: still a fine CSV, only not the one that was published.
        place = max(index for index, byte in enumerate(body) if chr(byte).isalpha() and byte < 128)
        flipped = body[:place] + bytes([body[place] ^ 0x20]) + body[place + 1 :]
        for what, damaged in (("a byte changed", flipped), ("a byte more", body + b"\n"), ("a byte less", body[:-1])):
            victim.write_bytes(damaged)
            report = _validate(descriptor)
            kinds = {error.type for task in report.tasks for error in task.errors}
            assert not report.valid, f"{victim.name}: {what}"
            assert kinds & {"hash-count", "byte-count"}, f"{victim.name}: {what}"
        victim.write_bytes(body)
    assert _validate(descriptor).valid
