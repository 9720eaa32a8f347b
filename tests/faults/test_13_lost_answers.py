"""A write that was carried out and whose answer was lost; 409; 412. Figure: 0 duplicates, 0 deletes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from imunizacao.errors import StorageUnavailable
from imunizacao.settings import StorageSettings, storage_settings
from imunizacao.storage import ObjectInfo, ObjectStore, open_public_store, probe_store, swap
from tests.protocol.proxy import Weather, proxy
from tests.support.memory_store import MemoryStore
from tests.support.reader import read_day
from tests.support.small_day import SmallDay, dose

pytestmark = pytest.mark.servers
LOST = (
    "cut after",
    "500 after",
    "412 after",
    "cut answer",
    "409",
    "cut before",
    "500 before",
    "503 before",
    "cut upload",
)


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of S3 tries again without waiting."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)


def _through(settings: StorageSettings, address: str) -> ObjectStore:
    return open_public_store(
        storage_settings(
            endpoint_url=address,
            access_key=settings.access_key,
            secret_key=settings.secret_key,
            work_bucket=settings.work_bucket,
            public_bucket=settings.public_bucket,
        )
    )


def test_a_pointer_moves_once_whatever_becomes_of_the_answer(s3_settings: StorageSettings, public: ObjectStore) -> None:
    """Every fault at the first write of the pointer, and of the next one: each writer is in it once, in order."""
    key, weather = "v1/pointer.json", Weather(seed=1)
    with proxy(s3_settings.endpoint_url, weather) as address:
        store = _through(s3_settings, address)
        for number, fault in enumerate((*LOST, *LOST)):
            weather.script.append(("PUT", "pointer", fault))

            def add(body: bytes | None, me: int = number) -> tuple[bytes | None, str]:
                writers = json.loads(body) if body is not None else []
                return (None, "there") if me in writers else (json.dumps([*writers, me]).encode(), "written")

            swap(store, key, add)
            assert json.loads(public.get(key).body) == list(range(number + 1)), fault
    assert weather.seen.total() == 2 * len(LOST)


def test_a_commit_whose_answers_are_lost_is_one_revision(
    s3_settings: StorageSettings, work: ObjectStore, public: ObjectStore, tmp_path: Path
) -> None:
    """The answers of day.json, head, index, catalog and probe are lost, each in another way; and a 409 at a file."""
    weather = Weather(seed=2)
    weather.script = [
        ("PUT", r"/v1/probe/[0-9a-f]+-create", "cut after"),
        ("PUT", r"/v1/probe/[0-9a-f]+-create", "412 after"),
        *[("PUT", r"/v1/probe/[0-9a-f]+-race", "412 after")] * 8,
        ("PUT", r"/removed\.csv", "409"),
        ("PUT", r"/outcome\.json", "412 after"),
        ("PUT", r"/day\.json", "cut after"),
        ("PUT", r"/head\.json", "412 after"),
        ("PUT", r"/months/", "500 after"),
        ("PUT", r"/catalog\.json", "cut after"),
    ]
    with proxy(s3_settings.endpoint_url, weather) as address:
        day = SmallDay("2026-03-14", work, _through(s3_settings, address), tmp_path)
        run = day.inputs([dose("a", "355030")])
        published = day.publish(*run)
        day.reconcile(run[0], published)
    assert weather.script == []
    assert (published.outcome, published.revision) == ("published", 1)
    read = read_day(lambda key: public.get(key).body, day.day)
    assert len(read.head["history"]) == 1


def test_an_answer_that_breaks_off_anywhere_is_noticed(
    s3_settings: StorageSettings, public: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also within its headers, where it looks like a whole answer without a body."""
    public.put("v1/x", b"a,b\n" * 200)
    cut = [0.02, *(0.05 + 0.03 * n for n in range(12)), 0.6, 0.99]
    now = [0.0]
    monkeypatch.setattr(Weather, "choose", lambda *a, **k: ("cut answer", now[0]))
    with proxy(s3_settings.endpoint_url, Weather(seed=3)) as address:
        store = _through(s3_settings, address)
        reads: list[Any] = [
            lambda: store.get("v1/x"),
            lambda: b"".join(store.stream("v1/x")),
            lambda: store.download("v1/x", tmp_path / "x"),
            lambda: list(store.list("v1/")),
        ]
        for now[0] in cut:
            for read in reads:
                with pytest.raises(StorageUnavailable):
                    read()


def test_a_probe_does_not_blame_the_store_for_the_network(s3_settings: StorageSettings, public: ObjectStore) -> None:
    weather = Weather(seed=4)
    weather.script = [
        *[("PUT", "-race", "500 after")] * 8,
        *[("PUT", "-create", fault) for fault in ("500 after", "409", "500 after")],
    ]
    with proxy(s3_settings.endpoint_url, weather) as address:
        probe_store(_through(s3_settings, address))
    assert list(public.list("v1/probe/")) == []


class _Curt(MemoryStore):
    """What it says about an object is cut: fewer digits of its size, no checksum."""

    def info(self, key: str) -> ObjectInfo | None:
        """Size and checksum, as far as they came."""
        found = super().info(key)
        return found and replace(found, bytes=found.bytes // 10, sha256="")


def test_an_answer_about_an_object_that_was_cut_is_no_damage(tmp_path: Path) -> None:
    """HEAD has no body to tell by: neither `publish` nor `reconcile` blames the object before its bytes are read."""
    public = _Curt()
    day = SmallDay("2026-03-14", MemoryStore(), public, tmp_path)
    run = day.inputs([dose("a", "355030")])
    published = day.publish(*run)
    day.reconcile(run[0], published)
    del public.objects[published.root_path], public.objects[published.head_path]
    day.reconcile(run[0], day.publish(*run))
    assert json.loads(day.get(published.head_path))["history"][0]["reconciliation"]["verdict"] == "ok"


@pytest.mark.parametrize("etag", ['"', '"0cc175b9c0f1'])
def test_half_an_etag_is_a_broken_answer(etag: str) -> None:
    client = mock.Mock()
    client.put_object.return_value = {"ETag": etag}
    with pytest.raises(StorageUnavailable, match="broke off"):
        ObjectStore(client, "bucket", "http://127.0.0.1").put("v1/x", b"a")
