"""Stores that ignore conditions, all or one of them. Figure: 100 % refused, before anything is published."""

from __future__ import annotations

from pathlib import Path

import pytest

from imunizacao.errors import ConfigurationError
from imunizacao.settings import storage_settings
from imunizacao.storage import ObjectStore, open_public_store, probe_store
from tests.support.forgetful_s3 import KINDS, forgetful_s3
from tests.support.memory_store import MemoryStore
from tests.support.small_day import SmallDay, dose

SAYS = {
    "all": "If-None-Match",
    "create": "If-None-Match",
    "match": "no longer true",
    "absent": "does not exist",
    "race": "simultaneous",
    "checksum": "does not have the sha256",
    "stale": "did not give what was written",
    "refuses": "whose condition was true",
}


def _store(endpoint: str) -> ObjectStore:
    return open_public_store(storage_settings(endpoint_url=endpoint, access_key="a", secret_key="b"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_forgets_something_is_refused_and_told_what(kind: str) -> None:
    with forgetful_s3(kind) as endpoint:
        with pytest.raises(ConfigurationError, match=rf"{SAYS[kind]}.*storage-probe\.md"):
            probe_store(_store(endpoint))


def test_the_same_server_with_its_memory_passes() -> None:
    """So it is the forgetting that is found."""
    with forgetful_s3("nothing") as endpoint:
        probe_store(_store(endpoint))


def test_nothing_is_published_on_such_a_store(tmp_path: Path) -> None:
    with forgetful_s3("match") as endpoint:
        day = SmallDay("2026-03-14", MemoryStore(), _store(endpoint), tmp_path)
        with pytest.raises(ConfigurationError):
            day.publish(*day.inputs([dose("a", "355030")]))
        assert day.public.get_or_none("v1/days/2026-03-14/head.json") is None
