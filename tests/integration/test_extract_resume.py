"""What a second look at the same day costs, and what it may take over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.responses import Response

from imunizacao.errors import ConfigurationError, MirrorUnavailable, StorageUnavailable
from imunizacao.extract import extract_day
from imunizacao.models import ExtractReceipt, LandingManifest
from imunizacao.settings import EngineSettings
from imunizacao.storage import ObjectStore, read_object
from tests.integration.extract_support import (
    DAY,
    NOW,
    FakeMirror,
    Seen,
    SleepLog,
    clear,
    context,
    make_document,
    running_mirror,
    spread,
)

pytestmark = pytest.mark.servers


@pytest.fixture
def mirror() -> Iterator[FakeMirror]:
    with running_mirror() as mirror:
        mirror.documents += spread(48)
        yield mirror


class Runs:
    """Several runs of the same day."""

    def __init__(self, mirror: FakeMirror, work: ObjectStore, scratch: Path) -> None:
        self._mirror = mirror
        self._work = work
        self._scratch = scratch

    def run(
        self,
        run_id: str,
        *,
        now: datetime = NOW,
        code_version: str = "c0de",
        work: ObjectStore | None = None,
        **settings: Any,
    ) -> ExtractReceipt:
        """Extract with a fresh record of requests."""
        self._mirror.forget()
        return extract_day(
            context(run_id, code_version=code_version),
            settings=self._mirror.settings(**settings),
            work=work or self._work,
            engine=EngineSettings(scratch_dir=self._scratch),
            now=lambda: now,
            sleep=SleepLog(),
        )

    def manifest(self, receipt: ExtractReceipt) -> LandingManifest:
        return read_object(self._work, receipt.manifest, LandingManifest)

    def part_keys(self, receipt: ExtractReceipt) -> set[str]:
        return {part.key for piece in self.manifest(receipt).slices for part in piece.parts}


@pytest.fixture
def runs(mirror: FakeMirror, work: ObjectStore, tmp_path: Path) -> Runs:
    return Runs(mirror, work, tmp_path)


def objects(work: ObjectStore) -> dict[str, str]:
    return {found.key: found.etag for found in work.list("v1/day=")}


def test_a_retry_of_a_finished_run_only_counts(runs: Runs, mirror: FakeMirror, work: ObjectStore) -> None:
    first = runs.run("run-1")
    before = objects(work)

    again = runs.run("run-1", now=NOW + timedelta(hours=1))

    assert again == first, "the receipt stays, its fence included"
    assert objects(work) == before, "nothing is written"
    assert mirror.pages_seen == []
    assert len(mirror.counts_seen) == 26, "one per window, and the day twice"


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(runs: Runs, mirror: FakeMirror) -> None:
    def fail_in_the_evening(seen: Seen) -> Response | None:
        return Response(status_code=503) if seen.is_page and "ge2026-03-13T22:00:00Z" in str(seen.query) else None

    mirror.before = fail_in_the_evening
    with pytest.raises(MirrorUnavailable):
        runs.run("run-1", retry_budget=1.0, max_connections=1)
    done = {seen.value("_lastUpdated") for seen in mirror.pages_seen}

    mirror.before = lambda seen: None
    receipt = runs.run("run-1", max_connections=1)

    assert receipt.fetched == 48
    assert receipt.slices_reused == len(done) - 1 == 19
    assert len(mirror.pages_seen) == 5, "the window that failed and the four after it"


def test_a_new_run_takes_unchanged_windows_over_by_reference(runs: Runs, mirror: FakeMirror) -> None:
    first = runs.run("run-1")
    mirror.documents.append(make_document(900, DAY.start + timedelta(hours=5, minutes=1)))

    second = runs.run("run-2", now=NOW + timedelta(hours=1))

    assert (second.announced, second.fetched, second.slices, second.slices_reused) == (49, 49, 24, 23)
    assert len(mirror.pages_seen) == 1, "only the window that changed"
    assert len(runs.part_keys(first) & runs.part_keys(second)) == 23
    assert [piece.run_id for piece in runs.manifest(second).slices].count("run-2") == 1
    assert second.landing_sha256 != first.landing_sha256
    assert second.extracted_at > first.extracted_at


def test_unchanged_landing_has_the_same_identity_in_another_run(runs: Runs, mirror: FakeMirror) -> None:
    first, second = runs.run("run-1"), runs.run("run-2")
    assert second.landing_sha256 == first.landing_sha256
    assert second.fingerprint == first.fingerprint
    assert mirror.pages_seen == []


def test_other_code_writes_a_receipt_of_its_own_over_the_same_landing(runs: Runs, mirror: FakeMirror) -> None:
    first = runs.run("run-1")
    second = runs.run("run-1", code_version="beef")
    assert second.landing_sha256 == first.landing_sha256
    assert second.fingerprint != first.fingerprint
    assert mirror.pages_seen == []


def test_the_newest_landing_with_the_right_total_is_taken(runs: Runs, mirror: FakeMirror, work: ObjectStore) -> None:
    extra = make_document(900, DAY.start + timedelta(minutes=2))
    runs.run("run-c", now=NOW)
    mirror.documents.append(extra)
    runs.run("run-a", now=NOW + timedelta(hours=1))
    mirror.documents.remove(extra)

    receipt = runs.run("run-b", now=NOW + timedelta(hours=2))

    first, *others = runs.manifest(receipt).slices
    assert first.run_id == "run-c", "run-a has one document too many there"
    assert {piece.run_id for piece in others} == {"run-c"}, "run-a took these over itself"
    assert mirror.pages_seen == []


def test_a_window_whose_objects_are_gone_is_walked_again(runs: Runs, mirror: FakeMirror, work: ObjectStore) -> None:
    first = runs.run("run-1")
    work.delete(runs.manifest(first).slices[3].parts[0].key)
    damaged = runs.manifest(first).slices[5].parts[0].key
    work.put(damaged, b"other bytes")

    second = runs.run("run-2")

    assert (second.fetched, second.slices_reused) == (48, 22)
    assert len(mirror.pages_seen) == 2
    assert work.info(runs.manifest(second).slices[3].parts[0].key) is not None


def test_a_window_of_another_format_is_walked_again(runs: Runs, mirror: FakeMirror, work: ObjectStore) -> None:
    runs.run("run-1")
    keys = sorted(key for key in objects(work) if key.endswith("/slice.json"))
    work.put(keys[0], work.get(keys[0]).body.replace(b'"format":1', b'"format":2'))
    work.put(keys[1], b"{}")

    assert runs.run("run-2").slices_reused == 22
    assert len(mirror.pages_seen) == 2


def test_a_new_walk_never_touches_the_parts_of_an_older_one(runs: Runs, mirror: FakeMirror, work: ObjectStore) -> None:
    first = runs.run("run-1")
    parts = {key: etag for key, etag in objects(work).items() if "/part-" in key}
    mirror.documents[:] = [document for document in mirror.documents if document.last_updated != DAY.start]

    second = runs.run("run-1")

    now = objects(work)
    assert second.announced == first.announced - 1
    assert all(now[key] == etag for key, etag in parts.items())
    assert len(runs.part_keys(second) - set(parts)) == 1


def test_a_window_that_lost_all_documents_leaves_the_manifest(runs: Runs, mirror: FakeMirror) -> None:
    runs.run("run-1")
    mirror.documents[:] = [
        document
        for document in mirror.documents
        if not DAY.start <= document.last_updated < DAY.start + timedelta(hours=1)
    ]
    receipt = runs.run("run-2")
    assert receipt.slices == 23
    assert runs.manifest(receipt).slices[0].start == "2026-03-13T04:00:00Z"


@pytest.mark.parametrize(
    "last_write", ["part-0001.ndjson.zst", "pages.ndjson", "slice.json", "manifest.json", "receipt.json"]
)
def test_a_task_killed_at_any_write_converges_to_the_same_landing(
    runs: Runs, work: ObjectStore, monkeypatch: pytest.MonkeyPatch, last_write: str
) -> None:
    put = ObjectStore.put

    def die(self: ObjectStore, key: str, *args: Any, **kwargs: Any) -> str:
        if key.endswith(last_write):
            raise StorageUnavailable("killed here")
        return put(self, key, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", die)
        with pytest.raises(StorageUnavailable):
            runs.run("run-1")
    assert not any(key.endswith("/extract/receipt.json") for key in objects(work))

    receipt = runs.run("run-1")
    clear(work)
    untouched = runs.run("run-1")
    assert receipt.landing_sha256 == untouched.landing_sha256
    assert (receipt.fetched, receipt.announced, receipt.slices) == (48, 48, 24)


def test_a_missing_bucket_is_told_before_any_document_is_fetched(
    runs: Runs, mirror: FakeMirror, work: ObjectStore
) -> None:
    absent = ObjectStore(work._client, "no-such-bucket", work.endpoint_url)
    with pytest.raises(ConfigurationError, match="no-such-bucket does not exist"):
        runs.run("run-1", work=absent)
    assert mirror.pages_seen == []


def test_the_manifest_is_json_that_others_can_read(runs: Runs, work: ObjectStore) -> None:
    receipt = runs.run("run-1")
    plain = msgspec.json.decode(work.get(receipt.manifest.key).body)
    assert plain["day"] == "2026-03-13"
    assert receipt.manifest.rows == len(plain["slices"]) == 24
    assert plain["slices"][0]["parts"][0]["key"].startswith(
        "v1/day=2026-03-13/run=run-1/extract/slice=20260313T030000Z_20260313T040000Z/attempt-1-"
    )
