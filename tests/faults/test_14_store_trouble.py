"""The bucket is down, refuses, is full, gets half an upload or a damaged one. Figure: readers never see a change; the next run converges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imunizacao.errors import ConfigurationError, PipelineError, StorageUnavailable
from imunizacao.settings import StorageSettings, storage_settings
from imunizacao.storage import ObjectStore, open_public_store
from imunizacao_local.ports import free_ports
from tests.protocol.proxy import Weather, proxy
from tests.support.reader import read_day
from tests.support.small_day import SmallDay, dose

pytestmark = pytest.mark.servers
TROUBLES: tuple[tuple[str, str, type[PipelineError]], ...] = (
    ("cut upload", r"/imunizacao-total-sp_", StorageUnavailable),
    ("damage", r"/imunizacao-total-sp_", StorageUnavailable),
    ("507", r"/outcome\.json", StorageUnavailable),
    ("403", r"53/datapackage\.json", ConfigurationError),
    ("503 before", r"/day\.json", StorageUnavailable),
    ("cut before", r"/diff/.*/changed\.csv", StorageUnavailable),
    ("403", r"/head\.json", ConfigurationError),
    ("507", r"/head\.json", StorageUnavailable),
)
"""Fault that lasts, what it hits, and how the run ends: from the first file to the commit."""


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of S3 tries again without waiting."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)


def _at(settings: StorageSettings, address: str) -> ObjectStore:
    return open_public_store(
        storage_settings(
            endpoint_url=address,
            access_key=settings.access_key,
            secret_key=settings.secret_key,
            public_bucket=settings.public_bucket,
        )
    )


@pytest.mark.parametrize("troubles", [TROUBLES[:3] + TROUBLES[6:7], pytest.param(TROUBLES, marks=pytest.mark.slow)])
def test_a_store_in_trouble_changes_nothing_for_readers(
    s3_settings: StorageSettings,
    work: ObjectStore,
    public: ObjectStore,
    tmp_path: Path,
    troubles: tuple[tuple[str, str, type[PipelineError]], ...],
) -> None:
    """One day, one trouble after the other, each further on than the one before; then the store is well and the run is run again."""
    day = SmallDay("2026-03-14", work, public, tmp_path)
    day.revise([dose("a", "355030")])
    pointers = {key: public.get(key).body for key in ("v1/days/2026-03-14/head.json", "v1/months/2026-03/index.json")}
    run = day.inputs([dose("a", "355030"), dose("b", "530010")])
    with pytest.raises(StorageUnavailable):
        day.publish(*run, public=_at(s3_settings, f"http://127.0.0.1:{free_ports(1)[0]}"))
    for fault, where, error in troubles:
        weather = Weather(seed=1, script=[("PUT", where, fault)], lasting=frozenset({fault}))
        with proxy(s3_settings.endpoint_url, weather) as address:
            with pytest.raises(error):
                day.publish(*run, public=_at(s3_settings, address))
        assert weather.seen[fault] > 0, f"{fault} at {where} did not happen"
        assert {key: public.get(key).body for key in pointers} == pointers, f"readers see {fault} at {where}"
        assert list(tmp_path.iterdir()) == [], "the scratch folder is left clean"
    read_day(day.get, day.day)
    published = day.publish(*run)
    day.reconcile(run[0], published)
    assert published.revision == 2
    assert len(read_day(day.get, day.day).rows) == 2
    named = {json.loads(pointers["v1/days/2026-03-14/head.json"])["current"]["contentId"], published.content_id}
    there = {info.key.split("/c-")[1][:64] for info in public.list("v1/days/2026-03-14/") if "/c-" in info.key}
    assert there == named, "no orphan: what the troubles left is the content that was published at last"
