"""A day in landing: what comes in, what is refused, and what proves that it is whole."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from imunizacao.errors import (
    ConfigurationError,
    ContractViolation,
    MirrorProtocolError,
    MirrorUnavailable,
    StorageUnavailable,
)
from imunizacao.extract import extract_day
from imunizacao.fhir import LandingWriter
from imunizacao.models import ExtractReceipt, LandingManifest
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings
from imunizacao.storage import ObjectStore, read_object
from tests.integration.extract_support import (
    CANARY_CNS,
    CANARY_TEXT,
    DAY,
    LATER,
    NOW,
    FakeMirror,
    Seen,
    SleepLog,
    context,
    make_document,
    outcome,
    read_zstd,
    running_mirror,
    spread,
)

pytestmark = pytest.mark.servers


@pytest.fixture
def mirror() -> Iterator[FakeMirror]:
    with running_mirror() as mirror:
        yield mirror


class Stage:
    """Runs extract with the settings of these tests."""

    def __init__(self, mirror: FakeMirror, work: ObjectStore, scratch: Path) -> None:
        self.mirror = mirror
        self.work = work
        self.scratch = scratch
        self.sleep = SleepLog()
        self.progress: list[tuple[str, int, int | None]] = []

    def run(
        self,
        run_id: str = "run-1",
        *,
        day: ReferenceDay = DAY,
        now: datetime = NOW,
        accept_stale: bool = False,
        **settings: Any,
    ) -> ExtractReceipt:
        return extract_day(
            context(run_id, day=day),
            settings=self.mirror.settings(**settings),
            work=self.work,
            engine=EngineSettings(scratch_dir=self.scratch),
            now=lambda: now,
            accept_stale=accept_stale,
            progress=lambda what, done, total: self.progress.append((what, done, total)),
            sleep=self.sleep,
        )

    def lines(self, receipt: ExtractReceipt) -> list[bytes]:
        """All landed lines, in order of the manifest."""
        found: list[bytes] = []
        for piece in self.manifest(receipt).slices:
            for part in piece.parts:
                body = self.work.get(part.key).body
                assert hashlib.sha256(body).hexdigest() == part.sha256
                lines = read_zstd(body).splitlines()
                assert len(lines) == part.rows
                found += lines
        return found

    def manifest(self, receipt: ExtractReceipt) -> LandingManifest:
        return read_object(self.work, receipt.manifest, LandingManifest)

    def rejects(self, receipt: ExtractReceipt) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for piece in self.manifest(receipt).slices
            if piece.rejects
            for line in read_zstd(self.work.get(piece.rejects.key).body).splitlines()
        ]

    def written(self) -> list[str]:
        return [found.key for found in self.work.list("v1/day=")]


@pytest.fixture
def stage(mirror: FakeMirror, work: ObjectStore, tmp_path: Path) -> Stage:
    return Stage(mirror, work, tmp_path)


def test_every_version_of_the_day_lands_byte_for_byte_in_order_of_time(stage: Stage) -> None:
    documents = spread(95)
    stage.mirror.documents += documents

    receipt = stage.run()

    assert stage.lines(receipt) == [document.entry for document in documents]
    assert (receipt.announced, receipt.fetched, receipt.rejected) == (95, 95, 0)
    assert receipt.slices == 24
    assert receipt.extracted_at == "2026-03-15T02:10:00.000Z"
    assert list(stage.scratch.iterdir()) == [], "the scratch folder is emptied"
    assert stage.progress[-1] == ("extract", 95, 95)


def test_the_bounds_of_the_day_are_half_open_in_brasilia(stage: Stage) -> None:
    first = make_document(1, DAY.start)
    last = make_document(2, DAY.end - timedelta(milliseconds=1))
    too_early = make_document(3, DAY.start - timedelta(milliseconds=1))
    too_late = make_document(4, DAY.end)
    stage.mirror.documents += [first, last, too_early, too_late]

    assert stage.lines(stage.run()) == [first.entry, last.entry]


@pytest.mark.parametrize(("day", "hours"), [("2018-11-04", 23), ("2018-02-17", 25), ("2024-02-29", 24)])
def test_a_day_of_another_length_is_covered_without_gap_or_overlap(stage: Stage, day: str, hours: int) -> None:
    reference = ReferenceDay.parse(day)
    documents = spread(100, reference)
    stage.mirror.documents += documents

    receipt = stage.run(day=reference)

    assert receipt.slices == hours
    assert stage.lines(receipt) == [document.entry for document in documents]
    pieces = stage.manifest(receipt).slices
    assert [piece.end for piece in pieces[:-1]] == [piece.start for piece in pieces[1:]]


def test_line_breaks_between_tokens_become_spaces_and_nothing_else_changes(stage: Stage) -> None:
    plain = make_document(1, DAY.start, extra=',"note":"a\\n\\u2028b"')
    pretty = json.dumps(json.loads(plain.entry), indent=2).replace("\n", "\r\n").encode()
    stage.mirror.documents.append(replace(plain, entry=pretty))

    (line,) = stage.lines(stage.run())

    assert line == pretty.replace(b"\r", b" ").replace(b"\n", b" ")
    assert json.loads(line) == json.loads(plain.entry)


def test_a_page_that_repeats_is_counted_once(stage: Stage) -> None:
    stage.mirror.documents += [make_document(n, DAY.start + timedelta(seconds=n)) for n in range(25)]

    def serve_second_page_twice(seen: Seen, entries: list[bytes], links: list[dict[str, str]]) -> None:
        if seen.page_number == 2 and not seen.value("again"):
            links[1]["url"] = f"{stage.mirror.base}/Bundle?" + "&".join(
                f"{name}={value}" for name, value in [*seen.query, ("again", "1")]
            )

    stage.mirror.edit_page = serve_second_page_twice
    receipt = stage.run()

    (piece,) = stage.manifest(receipt).slices
    assert (receipt.announced, receipt.fetched) == (25, 35)
    assert (piece.announced, piece.distinct, piece.lines, piece.pages, piece.attempts) == (25, 25, 35, 4, 1)


def test_two_versions_of_one_document_are_two_entries(stage: Stage) -> None:
    stage.mirror.documents += [
        make_document(1, DAY.start, version="1"),
        make_document(1, DAY.start + timedelta(seconds=1), version="2"),
    ]
    receipt = stage.run()
    assert (receipt.announced, receipt.fetched) == (2, 2)


def test_messages_and_included_resources_of_a_page_are_not_documents(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.mirror.documents.append(make_document(1, DAY.start))
    message = json.dumps(
        {
            "resource": {
                "resourceType": "OperationOutcome",
                "issue": [{"severity": "warning", "diagnostics": f"(EHR-ERR851) parameter of {CANARY_CNS}"}],
            },
            "search": {"mode": "outcome"},
        }
    ).encode()
    included = make_document(7, DAY.start, mode="include").entry

    stage.mirror.edit_page = lambda seen, entries, links: entries.extend([message, included])
    with caplog.at_level(logging.DEBUG):
        receipt = stage.run()

    assert receipt.fetched == 1
    assert "code=EHR-ERR851" in caplog.text
    assert CANARY_CNS not in caplog.text


def test_entries_that_cannot_be_a_line_are_kept_beside_landing_and_the_page_goes_on(stage: Stage) -> None:
    deep = b',"deep":' + b"[" * 200_000 + b"]" * 200_000
    shallow_enough = b',"deep":' + b"[" * 100 + b"]" * 100 + b',"many":[' + b"{}," * 200 + b"{}]"
    bad = {
        "DEPTH": make_document(1, DAY.start, raw_extra=deep),
        "DOC_TOO_LARGE": make_document(2, DAY.start, raw_extra=b',"big":"' + b"x" * (16 * 1024 * 1024) + b'"'),
        "UTF8_INVALID": make_document(3, DAY.start, raw_extra=b',"lot":"\xff\xfe"'),
        "JSON_INVALID": make_document(4, DAY.start, raw_extra=b',"lot":"a\nb"'),
    }
    good = [
        make_document(5, DAY.start),
        make_document(6, DAY.start, raw_extra=shallow_enough),
        make_document(7, DAY.start, raw_extra=b',"lot":"\\ud800"'),
        make_document(8, DAY.start, raw_extra=',"lot":"ação 💉 ]}[{"'.encode()),
    ]
    stage.mirror.documents += [good[0], *bad.values(), *good[1:]]

    receipt = stage.run(read_timeout=30.0)

    assert stage.lines(receipt) == [document.entry for document in good]
    assert (receipt.announced, receipt.fetched, receipt.rejected) == (8, 8, 4)
    found = {record["reason"]: record for record in stage.rejects(receipt)}
    assert set(found) == set(bad)
    for reason, document in bad.items():
        record = found[reason]
        assert base64.b64decode(record["body_base64"]) == document.entry
        assert record["sha256"] == hashlib.sha256(document.entry).hexdigest()
        assert (record["page"], record["position"], record["bytes"]) == (
            1,
            2 + list(bad).index(reason),
            len(document.entry),
        )


def test_an_hour_over_the_cap_is_cut_down_to_seconds(stage: Stage) -> None:
    burst = DAY.start + timedelta(hours=9, minutes=41, seconds=7)
    documents = [make_document(n, burst + timedelta(milliseconds=n)) for n in range(30)]
    documents += [make_document(100 + n, burst + timedelta(minutes=5, seconds=n)) for n in range(3)]
    stage.mirror.documents += documents

    receipt = stage.run(slice_cap=20)

    pieces = stage.manifest(receipt).slices
    assert stage.lines(receipt) == [document.entry for document in documents]
    assert [(piece.start, piece.end, piece.announced) for piece in pieces] == [
        ("2026-03-13T12:41:07Z", "2026-03-13T12:41:08Z", 30),
        ("2026-03-13T12:46:00Z", "2026-03-13T12:47:00Z", 3),
    ]


def test_a_lost_page_stops_the_day_with_the_figures(stage: Stage) -> None:
    stage.mirror.documents += [make_document(n, DAY.start + timedelta(seconds=n)) for n in range(45)]

    def lose_page(seen: Seen, entries: list[bytes], links: list[dict[str, str]]) -> None:
        if seen.page_number == 3:
            del entries[1:]

    stage.mirror.edit_page = lose_page
    with pytest.raises(MirrorProtocolError) as failure:
        stage.run()

    text = str(failure.value)
    assert "Slice 2026-03-13T03:00:00Z/2026-03-13T04:00:00Z of 2026-03-13" in text
    assert "announced 45 documents before and 45 after" in text
    assert "36 different ones came (36 entries in 5 pages)" in text
    assert "docs/runbook/bundle-total-mismatch.md" in text
    assert len(stage.mirror.pages_seen) == 15, "three walks of five pages"
    logs = stage.written()
    assert len(logs) == 3
    assert all(key.endswith("/pages.ndjson") for key in logs), "nothing that another stage reads"
    assert any(key in text for key in logs), "the message names the page log"


def test_a_document_that_comes_during_the_walk_is_waited_for(stage: Stage) -> None:
    stage.mirror.documents += [make_document(n, DAY.start + timedelta(seconds=n)) for n in range(25)]
    newcomer = make_document(500, DAY.start + timedelta(seconds=3, milliseconds=1))

    def drift(seen: Seen, entries: list[bytes], links: list[dict[str, str]]) -> None:
        if seen.page_number == 2 and newcomer not in stage.mirror.documents:
            stage.mirror.documents.insert(1, newcomer)

    stage.mirror.edit_page = drift
    receipt = stage.run()

    (piece,) = stage.manifest(receipt).slices
    assert (receipt.announced, piece.attempts) == (26, 2)
    assert newcomer.entry in stage.lines(receipt)


def test_a_document_that_changes_during_the_walk_does_not_end_the_day(stage: Stage) -> None:
    old = make_document(1, DAY.start + timedelta(seconds=1))
    stage.mirror.documents += [make_document(2, DAY.start), old]
    moved = make_document(1, NOW, version="2")

    def serve_the_new_version(seen: Seen, entries: list[bytes], links: list[dict[str, str]]) -> None:
        if old in stage.mirror.documents:
            entries[entries.index(old.entry)] = moved.entry
            stage.mirror.documents.remove(old)

    stage.mirror.edit_page = serve_the_new_version
    receipt = stage.run()
    assert (receipt.announced, receipt.fetched) == (1, 1)


def test_a_mirror_that_serves_other_days_is_refused(stage: Stage) -> None:
    stage.mirror.documents.append(make_document(1, DAY.start))
    stage.mirror.edit_page = lambda seen, entries, links: entries.append(LATER.entry)
    with pytest.raises(MirrorProtocolError, match=r"1 documents .* lastUpdated lies outside"):
        stage.run()


def test_a_window_that_grows_after_its_walk_is_walked_again(stage: Stage) -> None:
    stage.mirror.documents += spread(48)
    late = make_document(700, DAY.start + timedelta(minutes=1))
    day_counts = 0

    def add_before_the_last_count(seen: Seen) -> None:
        nonlocal day_counts
        bounds = [value for name, value in seen.query if name == "_lastUpdated"]
        if seen.is_count and bounds == ["ge2026-03-13T03:00:00Z", "lt2026-03-14T03:00:00Z"]:
            day_counts += 1
            if day_counts == 2:
                stage.mirror.documents.append(late)

    stage.mirror.before = add_before_the_last_count
    receipt = stage.run()

    assert day_counts == 3
    assert (receipt.announced, receipt.fetched) == (49, 49)
    assert late.entry in stage.lines(receipt)
    walked = [seen.value("_lastUpdated") for seen in stage.mirror.pages_seen if seen.page_number == 1]
    assert len(walked) == 25, "24 windows, one of them twice"


def test_a_day_whose_parts_never_add_up_is_refused(stage: Stage) -> None:
    stage.mirror.documents += spread(24)

    def one_more_for_the_day(seen: Seen, total: int) -> int:
        bounds = [value for name, value in seen.query if name == "_lastUpdated"]
        return total + 1 if bounds == ["ge2026-03-13T03:00:00Z", "lt2026-03-14T03:00:00Z"] else total

    stage.mirror.edit_total = one_more_for_the_day
    with pytest.raises(
        MirrorProtocolError, match="announces 25 documents for the whole day 2026-03-13, the sum of its parts is 24"
    ):
        stage.run()
    assert not any(key.endswith("receipt.json") for key in stage.written())


def test_a_server_that_ignores_the_filter_is_refused(stage: Stage) -> None:
    stage.mirror.documents.append(make_document(1, DAY.start))

    def forget_bounds(seen: Seen, entries: list[bytes], links: list[dict[str, str]]) -> None:
        links[0]["url"] = f"{stage.mirror.base}/Bundle?type=document"

    stage.mirror.edit_page = forget_bounds
    with pytest.raises(MirrorProtocolError, match=r"lacks _lastUpdated=ge2026-03-13T03:00:00Z, lt2026-03-13T04:00:00Z"):
        stage.run()


def test_an_empty_day_is_believed_once_the_mirror_is_past_it(stage: Stage) -> None:
    receipt = stage.run()
    assert (receipt.announced, receipt.fetched, receipt.slices) == (0, 0, 0)
    assert stage.manifest(receipt).slices == []
    assert stage.mirror.pages_seen == [], "windows without documents are not walked"


@pytest.mark.parametrize("sorts", [True, False])
def test_a_frozen_mirror_never_yields_an_empty_day(stage: Stage, sorts: bool) -> None:
    stage.mirror.documents = [make_document(1, DAY.start - timedelta(hours=5))]
    stage.mirror.honour_sort = sorts
    with pytest.raises(MirrorUnavailable, match="has not reached the end of the day 2026-03-13 yet") as failure:
        stage.run(now=NOW + timedelta(days=30))
    shown = "2026-03-12T19:00:00-03:00" if sorts else "unknown"
    assert f"newest document at {shown}" in str(failure.value)
    assert "docs/runbook/mirror-behind.md" in str(failure.value)
    assert stage.written() == []


def test_half_a_day_is_never_taken_without_a_word_from_a_person(stage: Stage) -> None:
    stage.mirror.documents = [make_document(1, DAY.start + timedelta(hours=5))]
    with pytest.raises(MirrorUnavailable, match="1 documents so far") as failure:
        stage.run(now=DAY.end + timedelta(days=9))
    assert "run the task again then" in str(failure.value)

    receipt = stage.run(now=DAY.end + timedelta(hours=6), accept_stale=True)
    assert (receipt.announced, receipt.accepted_stale) == (1, True)


def test_a_fresh_mirror_needs_no_word_and_the_receipt_says_so(stage: Stage) -> None:
    assert stage.run(accept_stale=True).accepted_stale is False


def test_a_document_from_the_future_does_not_make_the_mirror_fresh(stage: Stage) -> None:
    stage.mirror.documents = [
        make_document(1, DAY.start + timedelta(hours=5)),
        make_document(2, DAY.end + timedelta(days=300)),
    ]
    with pytest.raises(MirrorUnavailable, match="has not reached the end of the day"):
        stage.run(now=DAY.end + timedelta(hours=2))
    stage.mirror.documents.append(make_document(3, DAY.end + timedelta(minutes=1)))
    assert stage.run(now=DAY.end + timedelta(hours=2)).announced == 1


def test_a_mirror_that_cannot_sort_is_asked_for_later_documents(stage: Stage) -> None:
    stage.mirror.before = lambda seen: outcome(422, "(EHR-ERR995) sort") if seen.is_newest else None
    stage.mirror.documents.append(make_document(1, DAY.start))
    assert stage.run(now=DAY.end + timedelta(minutes=1)).announced == 1


def test_a_day_that_is_not_over_is_refused_without_a_request(stage: Stage) -> None:
    with pytest.raises(ConfigurationError, match="not over yet"):
        stage.run(now=DAY.end - timedelta(seconds=1))
    assert stage.mirror.seen == []


def test_a_mirror_without_totals_is_refused(stage: Stage) -> None:
    stage.mirror.edit_body = lambda seen, body: body.replace(b'"total"', b'"totals"')
    with pytest.raises(MirrorProtocolError, match="gave no total for the count of 2026-03-13"):
        stage.run()


def test_a_slice_fails_alone_by_name_when_the_budget_is_used_up(stage: Stage) -> None:
    stage.mirror.documents += spread(48)
    stage.mirror.before = lambda seen: (
        Response(status_code=503) if seen.is_page and "ge2026-03-13T07:00:00Z" in str(seen.query) else None
    )
    with pytest.raises(MirrorUnavailable) as failure:
        stage.run(retry_budget=60.0)
    text = str(failure.value)
    assert "did not give slice 2026-03-13T07:00:00Z/2026-03-13T08:00:00Z page 1: last status 503" in text
    assert "slices that are complete are kept" in text
    assert "docs/runbook/mirror-unavailable.md" in text
    assert sum(stage.sleep.seconds) < 60


def test_a_full_scratch_disk_is_a_storage_error(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    stage.mirror.documents.append(make_document(1, DAY.start))
    monkeypatch.setattr(LandingWriter, "_append", full)
    with pytest.raises(StorageUnavailable, match=r"No space left on device.*IMUNIZACAO_SCRATCH_DIR"):
        stage.run()
    assert not any(key.endswith("receipt.json") for key in stage.written())
    assert list(stage.scratch.iterdir()) == []


def test_no_log_line_message_or_key_carries_a_person_or_a_secret(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.mirror.documents += [make_document(n, DAY.start + timedelta(seconds=n)) for n in range(25)]
    stage.mirror.before = lambda seen: (
        outcome(503, f"(EHR-ERR999) {CANARY_TEXT} {CANARY_CNS}") if seen.is_page and seen.attempt == 1 else None
    )
    with caplog.at_level(logging.DEBUG):
        receipt = stage.run(auth="basic", login="leitor", password="segredo-canario")

    assert "event=mirror.retry" in caplog.text
    assert "EHR-ERR999" in caplog.text
    page_log = stage.work.get(stage.manifest(receipt).slices[0].page_log.key).body.decode()
    for text in (caplog.text, receipt.to_json(), page_log, " ".join(stage.written())):
        for canary in (
            CANARY_TEXT,
            CANARY_CNS,
            "segredo-canario",
            base64.b64encode(b"leitor:segredo-canario").decode(),
        ):
            assert canary not in text


def test_the_page_log_tells_what_each_page_was(stage: Stage) -> None:
    documents = [make_document(n, DAY.start + timedelta(seconds=n)) for n in range(12)]
    stage.mirror.documents += documents
    bodies: list[bytes] = []

    def remember(seen: Seen, body: bytes) -> bytes:
        if seen.is_page:
            bodies.append(body)
        return body

    stage.mirror.edit_body = remember
    receipt = stage.run()

    (piece,) = stage.manifest(receipt).slices
    pages = [json.loads(line) for line in stage.work.get(piece.page_log.key).body.splitlines()]
    assert [page["page"] for page in pages] == [1, 2]
    assert [page["sha256"] for page in pages] == [hashlib.sha256(body).hexdigest() for body in bodies]
    assert [page["count"] for page in pages] == [10, 2]
    assert [tuple(entry) for page in pages for entry in page["entries"]] == [(d.id, d.version) for d in documents]
    assert all(page["etag"] and page["attempts"] == 1 and page["total"] == 12 for page in pages)
    assert pages[1]["url"].endswith("_bookmark=…"), "a cursor may be as good as a key"
    assert len({page["mark"] for page in pages}) == len(pages), "its hash tells pages apart"


def test_a_changed_manifest_is_not_read(stage: Stage) -> None:
    stage.mirror.documents.append(make_document(1, DAY.start))
    receipt = stage.run()
    stage.work.put(receipt.manifest.key, b'{"day":"2026-03-13","slices":[]}')
    with pytest.raises(ContractViolation, match="not what its receipt says"):
        read_object(stage.work, receipt.manifest, LandingManifest)


def test_windows_are_asked_for_with_utc_instants_and_the_page_size(stage: Stage) -> None:
    stage.mirror.documents.append(make_document(1, DAY.start))
    stage.run(page_size=77)
    (page,) = stage.mirror.pages_seen
    assert page.query == [
        ("type", "document"),
        ("_lastUpdated", "ge2026-03-13T03:00:00Z"),
        ("_lastUpdated", "lt2026-03-13T04:00:00Z"),
        ("_count", "77"),
    ]
    count = stage.mirror.counts_seen[0]
    assert ("_summary", "count") in count.query
    assert ("_total", "accurate") in count.query


@pytest.mark.parametrize("connections", [1, 3])
def test_connections_are_all_used_and_never_more(stage: Stage, connections: int) -> None:
    stage.mirror.documents += spread(60)
    stage.mirror.delay = 0.005
    assert stage.run(max_connections=connections).announced == 60
    assert stage.mirror.most_at_once == connections


def test_instants_of_the_receipt_are_utc(stage: Stage) -> None:
    receipt = stage.run(now=NOW.astimezone())
    assert datetime.fromisoformat(receipt.extracted_at) == NOW
    assert datetime.fromisoformat(receipt.extracted_at).tzinfo == UTC
