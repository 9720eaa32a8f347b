"""Extract against the mirror simulator: the oracle says what was served, the scenarios say what goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from imunizacao.errors import MirrorProtocolError, MirrorUnavailable
from imunizacao.extract import extract_day
from imunizacao.models import ExtractReceipt, LandingManifest
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings, MirrorSettings, mirror_settings
from imunizacao.storage import ObjectStore, read_object
from imunizacao_local.mirror import MirrorServer
from imunizacao_local.mirror import MirrorSettings as SimulatorSettings
from imunizacao_local.ports import free_ports
from tests.integration.extract_support import SleepLog, context, read_zstd
from tests.mirror.documents import Expected, expected

pytestmark = pytest.mark.servers

SEED, DOCUMENTS = 11, 600
DAY = ReferenceDay.parse("2026-03-13")
NOW = datetime(2026, 3, 15, 2, 10, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirrorServer]:
    served = SimulatorSettings(seed=SEED, docs_per_day=DOCUMENTS, auth="none")
    folder = tmp_path_factory.mktemp("simulator")
    with MirrorServer(state_dir=folder, root=ROOT, port=free_ports(1)[0], settings=served) as server:
        yield server


class Simulator:
    """The running simulator and its controls."""

    def __init__(self, server: MirrorServer) -> None:
        self.base_url = server.base_url

    def play(self, *scenarios: str) -> None:
        """Replace all scenarios; none = a mirror without faults."""
        self._admin("PUT", "scenario", {"scenarios": list(scenarios)})

    def requests(self) -> dict[str, dict[str, int]]:
        """Requests by route and status since the last reset."""
        found: dict[str, dict[str, int]] = self._admin("GET", "stats")["requests"]
        return found

    def reset(self) -> None:
        self._admin("DELETE", "stats")

    def _admin(self, method: str, name: str, body: object = None) -> dict[str, dict[str, dict[str, int]]]:
        address = f"{self.base_url.removesuffix('/fhir/r4')}/_admin/{name}"
        answer = httpx.request(method, address, json=body, timeout=30, trust_env=False).raise_for_status()
        found: dict[str, dict[str, dict[str, int]]] = answer.json()
        return found


@pytest.fixture
def simulator(server: MirrorServer) -> Iterator[Simulator]:
    simulator = Simulator(server)
    simulator.play()
    simulator.reset()
    yield simulator
    simulator.play()


Extract = Callable[..., ExtractReceipt]


@pytest.fixture
def extract(simulator: Simulator, work: ObjectStore, tmp_path: Path) -> Extract:
    def run(
        run_id: str = "run-1", *, real_time: bool = False, settings: MirrorSettings | None = None
    ) -> ExtractReceipt:
        return extract_day(
            context(run_id, day=DAY),
            settings=settings or mirror_settings(base_url=simulator.base_url, page_size=20),
            work=work,
            engine=EngineSettings(scratch_dir=tmp_path),
            now=lambda: NOW,
            sleep=asyncio.sleep if real_time else SleepLog(),
        )

    return run


@pytest.fixture(scope="module")
def served() -> list[Expected]:
    return list(expected(SEED, DAY.value, DOCUMENTS))


def landed_versions(work: ObjectStore, receipt: ExtractReceipt) -> list[tuple[str, str]]:
    """Id and instant of every landed line, in order."""
    found = []
    for piece in read_object(work, receipt.manifest, LandingManifest).slices:
        for part in piece.parts:
            for line in read_zstd(work.get(part.key).body).splitlines():
                resource = json.loads(line)["resource"]
                found.append((resource["id"], resource["meta"]["lastUpdated"]))
    return found


def test_every_document_of_the_oracle_lands_once_and_copies_are_counted_apart(
    extract: Extract, work: ObjectStore, served: list[Expected]
) -> None:
    receipt = extract()
    copies = sum("copy" in document.traps for document in served)
    assert copies > 0
    assert receipt.fetched == len(served)
    assert receipt.announced == len(served) - copies
    assert receipt.rejected == 0
    found = landed_versions(work, receipt)
    assert sorted(identity for identity, _ in found) == sorted(document.id for document in served)
    instants = [datetime.fromisoformat(text) for _, text in found]
    assert all(DAY.start <= instant < DAY.end for instant in instants)
    assert instants == sorted(instants)


def test_recounts_through_server_errors_change_nothing(extract: Extract, simulator: Simulator) -> None:
    quiet = extract("run-1")
    simulator.play("http-5xx:0.3")
    simulator.reset()
    assert extract("run-1") == quiet
    assert any(status >= "500" for statuses in simulator.requests().values() for status in statuses)
    assert "search" not in simulator.requests() or sum(simulator.requests()["search"].values()) <= 2, (
        "only the newest document"
    )


@pytest.mark.parametrize(
    "scenario",
    [
        "http-5xx:0.5",
        "timeout:1",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("duplicate-page:1", "http-429:1")),
    ],
)
def test_a_fault_that_passes_costs_time_and_no_document(
    extract: Extract, simulator: Simulator, work: ObjectStore, served: list[Expected], scenario: str
) -> None:
    simulator.play(scenario)
    throttled = scenario.startswith("http-429")
    patient = MirrorSettings(
        base_url=simulator.base_url, page_size=200 if throttled else 20, read_timeout=0.5, connect_timeout=2.0
    )
    receipt = extract(real_time=throttled, settings=patient)
    assert {identity for identity, _ in landed_versions(work, receipt)} == {document.id for document in served}
    assert receipt.announced == sum("copy" not in document.traps for document in served)
    assert receipt.fetched >= len(served)
    if scenario == "duplicate-page:1":
        assert receipt.fetched > len(served)
    else:
        assert receipt.retries > 0


@pytest.mark.parametrize("scenario", ["lost-page:1", "wrong-total:1", "wrong-total:-1"])
def test_a_day_that_is_not_whole_is_refused(
    extract: Extract, simulator: Simulator, work: ObjectStore, scenario: str
) -> None:
    simulator.play(scenario)
    with pytest.raises(MirrorProtocolError, match="does not add up after 3 walks"):
        extract()
    written = [found.key for found in work.list("v1/")]
    assert not any(key.endswith(("extract/receipt.json", "extract/manifest.json")) for key in written)


def test_documents_that_come_during_the_walk_are_in_the_day(
    extract: Extract, simulator: Simulator, work: ObjectStore, served: list[Expected]
) -> None:
    simulator.play("drift:3")
    receipt = extract()
    assert receipt.announced == sum("copy" not in document.traps for document in served) + 3
    attempts = [piece.attempts for piece in read_object(work, receipt.manifest, LandingManifest).slices]
    assert max(attempts) == 2


def test_late_documents_cost_only_their_windows(extract: Extract, simulator: Simulator) -> None:
    first = extract("run-1")
    simulator.play(f"late:{DAY}:4")
    second = extract("run-2")
    assert second.announced == first.announced + 4
    assert first.slices - 4 <= second.slices_reused < first.slices
    assert second.landing_sha256 != first.landing_sha256


def test_changed_documents_are_seen_by_their_windows(extract: Extract, simulator: Simulator, work: ObjectStore) -> None:
    first = extract("run-1")
    simulator.play(f"changed:{DAY}:5")
    second = extract("run-2")
    assert second.landing_sha256 != first.landing_sha256
    assert second.slices_reused < first.slices
    last_minute = DAY.end - timedelta(minutes=1)
    instants = [datetime.fromisoformat(text) for _, text in landed_versions(work, second)]
    assert sum(instant >= last_minute for instant in instants) >= 5


def test_an_empty_day_is_empty_and_a_frozen_mirror_is_not(extract: Extract, simulator: Simulator) -> None:
    simulator.play(f"empty:{DAY}")
    assert extract("run-1").announced == 0
    simulator.play(f"frozen:{(DAY.start - timedelta(hours=2)).isoformat().replace('+00:00', 'Z')}")
    with pytest.raises(MirrorUnavailable, match="has not reached the end of the day"):
        extract("run-2")


def test_the_two_headers_and_the_token_of_the_rnds_are_enough(work: ObjectStore, tmp_path: Path) -> None:
    served = SimulatorSettings(seed=SEED, docs_per_day=100, auth="rnds")
    with MirrorServer(state_dir=tmp_path / "rnds", root=ROOT, port=free_ports(1)[0], settings=served) as server:
        receipt = extract_day(
            context(day=DAY),
            settings=mirror_settings(
                base_url=server.base_url,
                auth="rnds",
                token_url=server.base_url.replace("/fhir/r4", "/api/token"),
                requester_cns="700000000000005",
            ),
            work=work,
            engine=EngineSettings(scratch_dir=tmp_path),
            now=lambda: NOW,
        )
    assert receipt.fetched == 100
