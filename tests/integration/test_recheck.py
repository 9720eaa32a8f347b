"""Published days counted again at a mirror that moves: what is asked, what is fetched, and what readers get."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from imunizacao import pipeline
from imunizacao.cli import main
from imunizacao.errors import MirrorUnavailable
from imunizacao.manifests import Head, decode
from imunizacao.models import ExtractReceipt, RunContext
from imunizacao.recheck import RecheckedDay, recheck_day, summary
from imunizacao.recheck.recheck import _count
from imunizacao.settings import Settings
from tests.integration.conftest import DAY, NOW
from tests.support.reader import read_day
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.servers
LATE = 4


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """A mirror with few documents, whose scenarios change while it runs."""
    with running_simulator(tmp_path_factory.mktemp("mirror"), "--docs-per-day", "150") as running:
        yield running


@pytest.fixture
def services(settings: Settings, simulator: Simulator) -> Iterator[pipeline.Services]:
    """A run that asks this mirror."""
    simulator.play()
    mirror = replace(settings.mirror, base_url=simulator.base_url, page_size=50)
    yield pipeline.open_services(replace(settings, mirror=mirror), now=lambda: NOW)
    simulator.play()


def _run(run_id: str) -> RunContext:
    return RunContext.create(day=DAY, run_id=run_id, code_version="test")


def _head(services: pipeline.Services) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(services.public.get(f"v1/days/{DAY}/head.json").body)
    return found


def _walks(simulator: Simulator) -> int:
    return sum(request.page > 0 for request in simulator.requests())


def test_only_a_day_that_moved_is_extracted_again_and_only_its_parts_that_moved(
    services: pipeline.Services, simulator: Simulator
) -> None:
    assert recheck_day(_run("early"), services).state == "pending"
    pipeline.run_day(_run("first"), services)
    pages = _walks(simulator)

    simulator.play()
    looked = recheck_day(_run("same"), services, dry_run=False)
    assert (looked.state, looked.revision, looked.moved) == ("same", 1, 0)
    assert looked.announced == looked.landed > 0
    assert _walks(simulator) == 0, "counting fetches nothing"

    simulator.play(f"late:{DAY}:{LATE}")
    looked = recheck_day(_run("looks"), services)
    assert looked.state == "moved"
    assert looked.announced == looked.landed + LATE
    assert 0 < looked.moved <= LATE
    assert _walks(simulator) == 0
    assert _head(services)["revision"] == 1

    later = pipeline.open_services(services.settings, now=lambda: NOW + timedelta(hours=1))
    done = recheck_day(_run("again"), later, dry_run=False)
    assert (done.state, done.revision) == ("published", 2)
    assert done.added + done.changed + done.removed > 0
    assert 0 < _walks(simulator) < pages
    head = _head(services)
    assert [entry["reason"] for entry in head["history"]] == ["initial", "late-arrivals"]
    read_day(lambda key: services.public.get(key).body, str(DAY))
    assert recheck_day(_run("after"), later, dry_run=False).state == "same"

    # A landing whose run failed later is told, and made into a day without another fetch.
    latest = pipeline.open_services(services.settings, now=lambda: NOW + timedelta(hours=2))
    pipeline.extract(_run("failed"), latest)
    assert recheck_day(_run("sees"), latest).state == "unpublished"
    simulator.play(f"late:{DAY}:{LATE}")
    assert recheck_day(_run("makes"), latest, dry_run=False).state == "unchanged"
    assert _walks(simulator) == 0
    assert recheck_day(_run("then"), latest).state == "same"

    # Thorough: fetched again from the first page to the last, and the same.
    simulator.play(f"late:{DAY}:{LATE}")
    whole = recheck_day(_run("thorough"), latest, dry_run=False, thorough=True)
    assert (whole.state, whole.revision) == ("unchanged", 2)
    assert _walks(simulator) >= pages


def test_a_document_that_moved_within_its_day_is_seen_though_the_total_is_the_same(
    services: pipeline.Services, simulator: Simulator
) -> None:
    pipeline.extract(_run("first"), services)
    landing = pipeline.newest_landing(DAY, services.work)
    assert pipeline.recount(_run("before"), services, landing).same
    simulator.play(f"changed:{DAY}:{LATE}")
    found = pipeline.recount(_run("after"), services, landing)
    assert found.announced == found.landed
    assert found.moved > 0
    assert not found.same
    head = decode(Head, json.dumps(_withdrawn() | {"current": _current(landing)}).encode(), "head.json")
    assert _count(_run("looks"), services, head).state == "moved"


def _current(landing: ExtractReceipt) -> dict[str, Any]:
    return {
        "contentId": "0" * 64,
        "path": "v1/x",
        "sha256": "0" * 64,
        "bytes": 1,
        "rows": 1,
        "publishedAt": landing.extracted_at,
        "dataThrough": landing.extracted_at,
    }


def test_the_command_only_counts_unless_told_and_names_what_it_cannot_do(
    services: pipeline.Services, simulator: Simulator
) -> None:
    storage, settings = services.settings.storage, services.settings
    env = {
        "IMUNIZACAO_MIRROR_URL": simulator.base_url,
        "IMUNIZACAO_S3_ENDPOINT": storage.endpoint_url,
        "IMUNIZACAO_S3_ACCESS_KEY": storage.access_key,
        "IMUNIZACAO_S3_SECRET_KEY": storage.secret_key,
        "IMUNIZACAO_WORK_BUCKET": storage.work_bucket,
        "IMUNIZACAO_PUBLIC_BUCKET": storage.public_bucket,
        "IMUNIZACAO_PSEUDONYM_KEY": settings.pseudonym.key.decode(),
        "IMUNIZACAO_SCRATCH_DIR": str(settings.engine.scratch_dir),
    }
    out = io.StringIO()
    assert main(["--plain", "recheck", "--from", "2026-03-13", "--to", str(DAY)], env=env, out=out) == 0
    assert out.getvalue().count("pending") == 2
    assert "2 dias recontados · 2 ainda não publicados · 2026-03-13, 2026-03-14" in out.getvalue()
    assert main(["--plain", "recheck", "--thorough"], env=env, out=out) == 2
    assert main(["--plain", "recheck", "--from", "2026-03-14", "--to", "2026-03-13"], env=env, out=out) == 2


def test_a_mirror_that_is_not_there_fails_the_day_that_it_was_asked_about(
    services: pipeline.Services, settings: Settings
) -> None:
    services.public.put(
        f"v1/days/{DAY}/head.json",
        json.dumps(_withdrawn()).encode(),
        content_type="application/json",
    )
    gone = replace(settings, mirror=replace(settings.mirror, base_url="http://127.0.0.1:9/fhir", retry_budget=0.1))
    alone = pipeline.open_services(gone, now=lambda: NOW)
    assert recheck_day(_run("left-alone"), alone, dry_run=False).state == "withdrawn"
    with pytest.raises(MirrorUnavailable):
        pipeline.recount(_run("asks"), alone, None)


def _withdrawn() -> dict[str, Any]:
    entry = {
        "revision": 1,
        "state": "withdrawn",
        "contentId": None,
        "path": None,
        "sha256": None,
        "bytes": None,
        "publishedAt": "2026-03-15T05:00:00+00:00",
        "dataThrough": "2026-03-15T05:00:00+00:00",
        "reason": "withdrawal",
        "supersedes": None,
        "commitToken": "0" * 32,
        "runId": "by-hand",
        "codeVersion": "test",
    }
    return {
        "schema": "imunizacao.head/1",
        "day": str(DAY),
        "revision": 1,
        "state": "withdrawn",
        "current": None,
        "history": [entry],
    }


def test_the_sum_of_days_names_those_that_a_person_should_know() -> None:
    days = [
        RecheckedDay(day="2026-03-12", state="same", landed=5, announced=5, revision=1),
        RecheckedDay(day="2026-03-13", state="published", revision=2, added=3, changed=1, removed=2),
        RecheckedDay(day="2026-03-14", state="pending"),
    ]
    assert summary(days, dry_run=False) == (
        "3 dias recontados · 1 sem mudança no espelho · 1 com nova revisão · 1 ainda não publicados · "
        "doses: 3 incluídas, 1 alteradas, 2 retiradas · 2026-03-13, 2026-03-14"
    )
