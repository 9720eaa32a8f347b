"""A third party's reader agrees: what `datapackage.json` of a UF says holds for its CSVs, and a damaged CSV is noticed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imunizacao import pipeline
from imunizacao.errors import ContractViolation
from imunizacao.models import RunContext
from imunizacao.settings import Settings
from imunizacao_local.mirror import MirrorServer, MirrorSettings
from imunizacao_local.ports import free_ports
from tests.integration.conftest import DAY, NOW, ROOT
from tests.support.control import MemoryDay
from tests.support.reader import DayRead, read_day
from tests.support.small_day import ufs
from tests.support.whole_doses import whole_dose

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


@pytest.mark.slow
def test_the_packages_of_a_day_are_valid_in_every_state_that_readers_meet(tmp_path: Path) -> None:
    """First, revised, without a UF, with it again, gone back after a gap; and at any moment of a publication."""
    day = MemoryDay(str(DAY), tmp_path)
    reader = _Reader(str(DAY), tmp_path / "download")
    first = [_whole("a", "355030", "530010"), _whole("b", "530010", ""), _whole("c", "120040", "355030")]
    second = [*first[1:], _whole("d", "350010", "120040"), _whole("e", "530010", "530010")]

    day.revise(first)
    assert reader.read(day) == _ALL
    day.revise(second)
    assert reader.read(day) == _ALL, "revised"
    day.change("withdraw", "53", "12")
    assert reader.read(day) == _ALL - {"53", "12"}, "two UFs withdrawn"
    day.revise(first)
    assert reader.read(day) == _ALL - {"53", "12"}, "revised while UFs are withdrawn"
    day.clock.forward(days=60)
    day.tidy()
    assert reader.read(day) == _ALL - {"53", "12"}, "their files removed"
    context, inputs = day.inputs(second)
    day.reconcile(context, day.publish(context, inputs, reason="restore"))
    assert reader.read(day) == _ALL, "published again with all UFs"
    day.change("withdraw", "35")
    day.change("restore", "35")
    assert reader.read(day) == _ALL, "a UF restored"
    day.change("withdraw")
    assert reader.read(day) == set(), "the day withdrawn"
    day.change("restore")
    assert reader.read(day) == _ALL, "the day restored"

    context, inputs = day.inputs([*second, _whole("g", "530010", "")])
    published = day.publish(context, inputs)
    day.public.delete(f"{published.root_path.removesuffix('day.json')}uf=53/imunizacao-total-df_{DAY}.csv")
    with pytest.raises(ContractViolation, match="went back"):
        day.reconcile(context, published)
    assert reader.read(day) == _ALL, "gone back after a gap"

    moments = _moments(day, [*first, _whole("f", "120040", "")])
    seen = [json.loads(moment[_HEAD].body)["revision"] for moment in moments]
    assert (seen[0], seen[-1], len(set(seen))) == (seen[0], seen[0] + 1, 2), "before and after the head moved"
    for number, moment in enumerate(moments):
        day.own_public.objects = moment
        assert reader.read(day) == _ALL, f"moment {number} of {len(moments)} of a publication"
    assert reader.validated == 3 * 27, "packages of three contents"


_HEAD = f"v1/days/{DAY}/head.json"
_ALL = {uf for uf, _ in ufs()}


def _whole(document: str, municipio: str, residence: str) -> dict[str, str]:
    return whole_dose(document, municipio, str(DAY), residence=residence)


def _moments(day: MemoryDay, rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The public bucket at every tenth request of a publication, right before its head moves, and at all requests after that."""
    moments: list[dict[str, Any]] = []
    requests = [0]

    def look(verb: str, key: str) -> None:
        requests[0] += 1
        now = dict(day.own_public.objects)
        moved = bool(moments) and now[_HEAD] != moments[0][_HEAD]
        if requests[0] % 10 == 1 or moved or (verb, key) == ("put", f"public:{_HEAD}"):
            moments.append(now)

    context, inputs = day.inputs(rows)
    day.watch(look)
    published = day.publish(context, inputs)
    day.watch(lambda verb, key: None)
    assert published.outcome == "published"
    return moments


class _Reader:
    """Downloads the packages of the UFs that may be read, and lets frictionless judge those that it has not judged yet."""

    def __init__(self, day: str, target: Path) -> None:
        self._day, self._target = day, target
        self._judged: set[tuple[tuple[str, str], ...]] = set()

    @property
    def validated(self) -> int:
        """Packages with bytes of their own."""
        return len(self._judged)

    def read(self, day: MemoryDay) -> set[str]:
        """UFs whose packages are valid; any fault fails the test."""
        objects = day.own_public.objects
        head = json.loads(objects[_HEAD].body)
        if head["current"] is None:
            return set()
        base = head["current"]["path"].removesuffix("day.json")
        root = json.loads(objects[head["current"]["path"]].body)
        readable = [uf for uf in root["files"]["ufs"] if uf["uf"] not in head.get("withdrawnUfs", {})]
        for uf in readable:
            folder = base + uf["path"].removesuffix("datapackage.json")
            files = {key: found for key, found in objects.items() if key.startswith(folder)}
            mark = tuple(sorted((key, found.sha256) for key, found in files.items()))
            if mark in self._judged:
                continue
            target = self._target / str(len(self._judged))
            for key, found in files.items():
                path = target / key.removeprefix(folder)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(found.body)
            report = _validate(target / "datapackage.json")
            assert _faults(report) == [], f"{uf['uf']} of revision {head['revision']}"
            assert report.stats["tasks"] == 1 + uf["municipalities"] + 1
            self._judged.add(mark)
        return {uf["uf"] for uf in readable}
