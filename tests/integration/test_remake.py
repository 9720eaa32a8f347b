"""A day made again from its landing: the mirror is not asked, and only other content is a new revision."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from imunizacao import pipeline
from imunizacao.errors import ConfigurationError
from imunizacao.models import RunContext
from imunizacao.settings import PseudonymSettings, Settings
from tests.integration.conftest import DAY, NOW

pytestmark = pytest.mark.servers
MakeContext = Callable[..., RunContext]


def _without_mirror(settings: Settings) -> Settings:
    return replace(settings, mirror=replace(settings.mirror, base_url="http://127.0.0.1:9/fhir"))


@pytest.mark.slow
def test_a_day_is_made_again_without_the_mirror(settings: Settings, run_context: MakeContext) -> None:
    first = pipeline.run_day(run_context("first"), pipeline.open_services(settings, now=lambda: NOW))

    alone = pipeline.open_services(_without_mirror(settings), now=lambda: NOW)
    same = pipeline.remake_day(run_context("second"), alone, reason="rules")
    assert (same.published.outcome, same.published.revision) == ("unchanged", 1)
    assert same.published.content_id == first.published.content_id

    other = replace(_without_mirror(settings), pseudonym=PseudonymSettings(key=b"another key " * 4, key_id="k2"))
    changed = pipeline.remake_day(run_context("third"), pipeline.open_services(other, now=lambda: NOW), reason="rules")
    assert (changed.published.outcome, changed.published.revision) == ("published", 2)
    history = json.loads(alone.public.get(f"v1/days/{DAY}/head.json").body)["history"]
    assert [entry["reason"] for entry in history] == ["initial", "rules"]
    assert history[1]["source"] == history[0]["source"]
    assert history[1]["dataThrough"] == history[0]["dataThrough"]


def test_a_day_without_landing_is_refused_by_name(services: pipeline.Services, run_context: MakeContext) -> None:
    with pytest.raises(ConfigurationError, match=f"no landing of {DAY}.*run-day {DAY}"):
        pipeline.remake_day(run_context(), services, reason="rules")
