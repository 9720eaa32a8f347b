"""One day, published three ways: the mirror asked for whole documents, for their parts, and for an export. Readers see one and the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imunizacao import pipeline
from imunizacao.errors import ConfigurationError, MirrorProtocolError
from imunizacao.fhir import Transport
from imunizacao.models import ExtractReceipt, RunContext
from imunizacao.settings import MirrorSettings, Settings
from imunizacao.storage import ObjectStore
from tests.integration.conftest import DAY, NOW
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.servers
DOCUMENTS = 600
MakeContext = Callable[..., RunContext]


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """A mirror that can be asked in every way."""
    options = ("--docs-per-day", str(DOCUMENTS), "--ways", "documents,resources,export")
    with running_simulator(tmp_path_factory.mktemp("mirror"), *options) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_faults(simulator: Simulator) -> Iterator[None]:
    simulator.play()
    yield
    simulator.play()


Extract = Callable[..., ExtractReceipt]
Publish = Callable[..., tuple[pipeline.DayResult, dict[str, bytes]]]


@pytest.fixture
def publish(simulator: Simulator, settings: Settings, run_context: MakeContext) -> Publish:
    """Publish the day one way, from nothing; what readers find below the content folder."""

    def run(
        way: str, *, run_id: str = "run", accept_stale: bool = False, **changes: object
    ) -> tuple[pipeline.DayResult, dict[str, bytes]]:
        mirror = MirrorSettings(base_url=simulator.base_url, page_size=100, way=way, retry_budget=60.0)  # type: ignore[arg-type]
        services = pipeline.open_services(
            replace(settings, mirror=replace(mirror, **changes)),
            now=lambda: NOW,  # type: ignore[arg-type]
        )
        result = pipeline.run_day(run_context(run_id), services, accept_stale=accept_stale)
        return result, _content(services.public)

    return run


@pytest.fixture
def extract(simulator: Simulator, settings: Settings, run_context: MakeContext) -> Extract:
    """Land the day one way."""

    def run(way: str, *, run_id: str = "run", base_url: str = "") -> ExtractReceipt:
        mirror = MirrorSettings(base_url=base_url or simulator.base_url, page_size=100, way=way, retry_budget=60.0)  # type: ignore[arg-type]
        services = pipeline.open_services(replace(settings, mirror=mirror), now=lambda: NOW)
        return pipeline.extract(run_context(run_id), services)

    return run


def _content(public: ObjectStore) -> dict[str, bytes]:
    return {info.key: public.get(info.key).body for info in public.list(f"v1/days/{DAY}/c-")}


def _empty(store: ObjectStore) -> None:
    store.delete_many([info.key for info in store.list("v1/")])


@pytest.mark.parametrize(
    "scenarios",
    [
        pytest.param((), id="whole"),
        pytest.param(("export-split", "export-no-counts"), id="split", marks=pytest.mark.slow),
    ],
)
def test_three_ways_publish_the_same_bytes(
    publish: Publish, simulator: Simulator, work: ObjectStore, public: ObjectStore, scenarios: tuple[str, ...]
) -> None:
    found, news = {}, {}
    for way in ("documents", "resources", "export"):
        simulator.play(*(name for name in scenarios if way == "export" and name != "export-no-counts"))
        result, found[way] = publish(way)
        assert (result.published.outcome, result.reconciled.verdict) == ("published", "ok")
        assert result.published.doses.published > 0.9 * DOCUMENTS
        receipt = json.loads(work.get(f"v1/day={DAY}/run=run/extract/receipt.json").body)
        assert receipt["way"] == way
        news[way] = receipt["unknown_elements"]
        for store in (work, public):
            _empty(store)
    assert found["resources"].keys() == found["documents"].keys()
    assert found["resources"] == found["documents"]
    assert found["export"] == found["documents"]
    assert news["documents"], "the simulator plants new fields"
    assert news["resources"] == news["export"] == news["documents"]


@pytest.mark.slow
def test_another_way_over_the_same_day_is_no_new_revision(publish: Publish, work: ObjectStore) -> None:
    first, _ = publish("documents", run_id="a")
    for run_id, way in (("b", "resources"), ("c", "export")):
        again, _ = publish(way, run_id=run_id)
        assert (again.published.outcome, again.published.revision) == ("unchanged", first.published.revision)
        receipt = json.loads(work.get(f"v1/day={DAY}/run={run_id}/extract/receipt.json").body)
        assert receipt["slices_reused"] == 0, "landing of one way is never taken over by another"


def test_the_way_is_what_the_mirror_offers_first(extract: Extract, tmp_path: Path) -> None:
    assert extract("auto").way == "documents"
    options = ("--docs-per-day", "60", "--ways", "resources")
    with running_simulator(tmp_path / "other", *options) as other:
        assert extract("auto", run_id="other", base_url=other.base_url).way == "resources"


def test_a_way_that_the_mirror_does_not_have_is_refused(extract: Extract, tmp_path: Path) -> None:
    with running_simulator(tmp_path / "only-documents", "--docs-per-day", "60") as other:
        for way in ("resources", "export"):
            with pytest.raises((ConfigurationError, MirrorProtocolError), match="docs/runbook/mirror-"):
                extract(way, run_id=way, base_url=other.base_url)


def test_an_export_is_taken_over_by_the_next_run(extract: Extract, simulator: Simulator) -> None:
    extract("export", run_id="a")
    simulator.play()
    assert extract("export", run_id="b").slices_reused == 1
    assert [request for request in simulator.requests() if request.route.startswith("export")] == []


def test_an_export_without_a_file_proves_nothing_where_nobody_counts(publish: Publish, tmp_path: Path) -> None:
    options = ("--docs-per-day", "60", "--ways", "export", "--scenario", f"empty:{DAY}")
    with running_simulator(tmp_path / "export-only", *options) as other:
        with pytest.raises(MirrorProtocolError, match="cannot be proved whole: its manifest names no file"):
            publish("export", base_url=other.base_url)


def test_an_empty_day_is_published_where_a_later_export_has_documents(publish: Publish, tmp_path: Path) -> None:
    scenarios = ("--scenario", f"empty:{DAY}", "--scenario", "export-until-ignored")
    options = ("--docs-per-day", "60", "--ways", "export", *scenarios)
    with running_simulator(tmp_path / "export-only", *options) as other:
        result, _ = publish("export", base_url=other.base_url)
    assert result.published.state == "empty"


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("pages", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(9, marks=pytest.mark.slow)])
def test_a_walk_over_resources_goes_on_where_it_was_killed(
    simulator: Simulator,
    settings: Settings,
    work: ObjectStore,
    run_context: MakeContext,
    monkeypatch: pytest.MonkeyPatch,
    pages: int,
) -> None:
    mirror = MirrorSettings(base_url=simulator.base_url, page_size=20, way="resources", max_connections=1)
    services = pipeline.open_services(replace(settings, mirror=mirror), now=lambda: NOW)
    undisturbed = pipeline.extract(run_context("undisturbed"), services)
    _empty(work)
    ask, asked = Transport.ask, [0]

    async def die(self: Transport, url: str, **options: Any) -> Any:
        if "_revinclude" in url or "_bookmark" in url:
            asked[0] += 1
            if asked[0] > pages:
                raise Killed
        return await ask(self, url, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Transport, "ask", die)
        with pytest.raises(BaseException, match=r"^$") as failure:
            pipeline.extract(run_context(), services)
    assert isinstance(failure.value, Killed)
    receipt = pipeline.extract(run_context(), services)
    assert receipt.pages_resumed >= 1
    assert receipt.landing_sha256 == undisturbed.landing_sha256
    assert (receipt.fetched, receipt.announced) == (undisturbed.fetched, undisturbed.announced)
