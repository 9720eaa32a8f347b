"""A walk that was cut off goes on from its last page; parts of a day may be walked by several tasks."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from imunizacao.errors import ContractViolation, MirrorProtocolError
from imunizacao.extract import SlicePart, extract_day, extract_part, plan_day
from imunizacao.extract.walks import Landed
from imunizacao.fhir import Window
from imunizacao.fhir.transport import mirror_mark
from imunizacao.models import ExtractReceipt, LandingManifest
from imunizacao.settings import EngineSettings
from imunizacao.storage import ObjectStore, read_object
from tests.integration.extract_support import (
    DAY,
    LATER,
    NOW,
    FakeMirror,
    Seen,
    SleepLog,
    clear,
    context,
    make_document,
    outcome,
    read_zstd,
    running_mirror,
    spread,
)

pytestmark = pytest.mark.servers
HOURS = timedelta(hours=1)


class Killed(BaseException):
    """The process is gone: nothing between here and the task catches it."""


@pytest.fixture
def mirror() -> Iterator[FakeMirror]:
    with running_mirror() as mirror:
        mirror.documents += [make_document(n, DAY.start + timedelta(seconds=n)) for n in range(73)]
        yield mirror


class Runs:
    """Tries of one run over one work bucket."""

    def __init__(self, mirror: FakeMirror, work: ObjectStore, scratch: Path) -> None:
        self.mirror = mirror
        self.work = work
        self.scratch = scratch

    def run(self, run_id: str = "run-1", *, part: SlicePart | None = None, **settings: Any) -> Any:
        self.mirror.forget()
        arguments: dict[str, Any] = {
            "settings": self.mirror.settings(**settings),
            "work": self.work,
            "engine": EngineSettings(scratch_dir=self.scratch),
            "now": lambda: NOW,
            "sleep": SleepLog(),
        }
        if part is not None:
            return extract_part(context(run_id), part, **arguments)
        return extract_day(context(run_id), **arguments)

    def killed_after(self, requests: int, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        """Die right before the n-th request for a page goes out."""
        from imunizacao.fhir import Transport

        ask, asked = Transport.ask, [0]

        async def die(self: Transport, url: str, **options: Any) -> Any:
            if "/Bundle" in url and "_summary" not in url and "_sort" not in url:
                asked[0] += 1
                if asked[0] > requests:
                    raise Killed
            return await ask(self, url, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Transport, "ask", die)
            with pytest.raises(BaseException, match=r"^$") as failure:
                self.run(**settings)
        assert isinstance(failure.value, Killed), failure.value

    def lines(self, receipt: ExtractReceipt) -> list[bytes]:
        manifest = read_object(self.work, receipt.manifest, LandingManifest)
        parts = [part for piece in manifest.slices for part in piece.parts]
        return [line for part in parts for line in read_zstd(self.work.get(part.key).body).splitlines()]

    def checkpoints(self) -> list[str]:
        return [found.key for found in self.work.list("v1/") if "/walk-" in found.key]


@pytest.fixture
def runs(mirror: FakeMirror, work: ObjectStore, tmp_path: Path) -> Runs:
    return Runs(mirror, work, tmp_path)


@pytest.mark.parametrize("page", [1, 4, 8, *(pytest.param(page, marks=pytest.mark.slow) for page in (2, 3, 5, 6, 7))])
def test_a_task_killed_at_any_page_asks_again_for_no_page_that_it_had(
    runs: Runs, mirror: FakeMirror, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    undisturbed = runs.run("run-0")
    assert len(mirror.pages_seen) == 8

    runs.killed_after(page - 1, monkeypatch)
    receipt = runs.run()

    assert len(mirror.pages_seen) == 9 - page, "pages before the one at which it died came from the work bucket"
    assert receipt.pages_resumed == page - 1
    assert receipt.landing_sha256 == undisturbed.landing_sha256, "the same bytes as without the kill"
    assert runs.lines(receipt) == [document.entry for document in mirror.documents if document is not LATER]
    assert runs.checkpoints() == []


@pytest.fixture(autouse=True)
def _no_reuse_between_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of other runs would be taken over: here every run has to fetch its own."""
    from imunizacao.extract import walks

    finished = walks._finished_windows

    def ours(keys: Any, run_id: str) -> dict[str, list[str]]:
        return finished([key for key in keys if f"/run={run_id}/" in key], run_id)

    monkeypatch.setattr(walks, "_finished_windows", ours)


def test_a_walk_whose_last_page_was_there_only_counts(
    runs: Runs, mirror: FakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the last page and the receipt of the window: that one page comes again, no other."""
    put = ObjectStore.put

    def die(self: ObjectStore, key: str, *args: Any, **kwargs: Any) -> str:
        if key.endswith("slice.json"):
            raise Killed
        return put(self, key, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", die)
        with pytest.raises(BaseException, match=r"^$") as failure:
            runs.run()
    assert isinstance(failure.value, Killed)

    receipt = runs.run()
    assert (receipt.fetched, receipt.pages_resumed) == (73, 7)
    assert len(mirror.pages_seen) == 1


def test_a_cursor_that_died_costs_one_window(
    runs: Runs, mirror: FakeMirror, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.documents += spread(24, first=2000)
    runs.killed_after(5, monkeypatch, max_connections=1)
    first = [True]

    def lost(seen: Seen) -> Response | None:
        if seen.is_page and first[0] and seen.value("_bookmark"):
            first[0] = False
            return outcome(410, "(EHR-ERR848) Bookmark expirado")
        return None

    mirror.before = lost
    with caplog.at_level(logging.INFO, "imunizacao"):
        receipt = runs.run(max_connections=1)

    assert receipt.fetched == 97
    assert "event=extract.slice_resumed" in caplog.text
    assert "resumed=True" in caplog.text
    pages_of_the_window = [seen for seen in mirror.pages_seen if "ge2026-03-13T03:00:00Z" in str(seen.query)]
    assert len(pages_of_the_window) == 1 + 8, "one for the cursor, then the window from its start"


def test_a_dead_cursor_is_not_one_of_the_three_walks(
    runs: Runs, mirror: FakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.killed_after(3, monkeypatch)
    walks = [0]

    def broken(seen: Seen) -> Response | None:
        if seen.is_page and seen.page_number == 4:
            walks[0] += 1
            if walks[0] <= 3:
                return outcome(404, "(EHR-ERR848) x")
        return None

    mirror.before = broken
    assert runs.run().fetched == 73


def test_a_window_that_changed_since_is_walked_from_its_start(
    runs: Runs, mirror: FakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.killed_after(6, monkeypatch)
    mirror.documents.append(make_document(500, DAY.start + timedelta(minutes=40)))
    receipt = runs.run()
    assert (receipt.fetched, receipt.pages_resumed) == (74, 0)
    assert len(mirror.pages_seen) == 8
    assert runs.checkpoints() == []


@pytest.mark.parametrize("damage", ["cut", "gap", "junk", "format"])
def test_a_damaged_checkpoint_costs_the_pages_from_there_on(
    runs: Runs, mirror: FakeMirror, work: ObjectStore, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    runs.killed_after(6, monkeypatch)
    third = sorted(runs.checkpoints())[2]
    body = work.get(third).body
    if damage == "gap":
        work.delete(third)
    else:
        work.put(
            third,
            {"cut": body[:-5], "junk": b"{}", "format": body.replace(b'"format":2', b'"format":9', 1)}[damage],
        )
    receipt = runs.run()
    assert (receipt.fetched, receipt.pages_resumed) == (73, 2)
    assert len(mirror.pages_seen) == 6


def test_the_pages_of_another_run_are_not_taken(
    runs: Runs, mirror: FakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.killed_after(6, monkeypatch)
    receipt = runs.run("run-2")
    assert (receipt.fetched, receipt.pages_resumed) == (73, 0)
    assert runs.checkpoints() != [], "they belong to run-1"


def test_rejected_entries_and_repeated_ones_survive_the_kill(
    runs: Runs, mirror: FakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = b',"x":' + b"[" * 300 + b"]" * 300
    mirror.documents[5] = make_document(800, DAY.start + timedelta(seconds=4), raw_extra=deep)
    mirror.documents.append(mirror.documents[3])
    counted = {(document.id, document.version) for document in mirror.documents if document is not LATER}
    mirror.edit_total = lambda seen, total: len(counted) if total == 74 else total
    undisturbed = runs.run("run-0")
    assert (undisturbed.fetched, undisturbed.rejected) == (74, 1)
    runs.killed_after(4, monkeypatch)
    receipt = runs.run()
    assert (receipt.fetched, receipt.rejected, receipt.pages_resumed) == (74, 1, 4)
    assert receipt.landing_sha256 == undisturbed.landing_sha256


def test_a_cursor_with_a_secret_is_kept_for_the_resume_and_shown_nowhere(
    runs: Runs, mirror: FakeMirror, work: ObjectStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def add_secret(seen: Seen, entries: list[bytes], links: list[dict[str, str]]) -> None:
        for link in links:
            if link["relation"] == "next":
                link["url"] += "&access_token=CANARY-SECRET"

    mirror.edit_page = add_secret
    with caplog.at_level(logging.DEBUG):
        runs.killed_after(3, monkeypatch)
        receipt = runs.run()
    assert receipt.pages_resumed == 3
    assert all(seen.value("access_token") == "CANARY-SECRET" for seen in mirror.pages_seen)
    assert "CANARY" not in caplog.text
    assert not any(b"CANARY" in work.get(found.key).body for found in work.list("v1/"))


# ---------------------------------------------------------------- parts


def plan(runs: Runs, parts: int, **settings: Any) -> list[SlicePart]:
    return plan_day(
        context(), settings=runs.mirror.settings(**settings), now=lambda: NOW, parts=parts, sleep=SleepLog()
    )


@pytest.mark.parametrize("connections", [1, 3])
def test_there_are_no_more_parts_than_connections(runs: Runs, mirror: FakeMirror, connections: int) -> None:
    """Each part needs one: four parts of one connection would show the mirror four."""
    mirror.documents[:] = [LATER, *spread(240)]
    parts = plan(runs, 4, max_connections=connections)
    assert [part.of for part in parts] == [connections] * connections


def test_a_day_is_shared_between_tasks_and_closed_by_one(runs: Runs, mirror: FakeMirror) -> None:
    mirror.documents[:] = [LATER, *spread(240)]
    whole = runs.run("run-0")
    parts = plan(runs, 3)
    assert [part.name for part in parts] == [
        "00h–08h · 80 documentos",
        "08h–16h · 80 documentos",
        "16h–24h · 80 documentos",
    ]
    assert json.loads(json.dumps([part.to_dict() for part in parts])) == [part.to_dict() for part in parts]

    for part in parts:
        counts = runs.run(part=SlicePart.from_dict(json.loads(json.dumps(part.to_dict()))))
        assert (counts["fetched"], counts["slices"]) == (80, 8)
        assert mirror.most_at_once <= 4
    receipt = runs.run()

    assert (receipt.fetched, receipt.slices_reused) == (240, 24)
    assert mirror.pages_seen == []
    assert receipt.landing_sha256 == whole.landing_sha256


def test_parts_share_the_connections_of_the_day(runs: Runs, mirror: FakeMirror) -> None:
    mirror.documents[:] = [LATER, *spread(240)]
    mirror.delay = 0.01
    parts = plan(runs, 4)
    mirror.most_at_once = 0
    runs.run(part=parts[0], max_connections=4)
    assert mirror.most_at_once == 1


def test_more_parts_than_windows_are_as_many_as_windows(runs: Runs) -> None:
    assert [part.name for part in plan(runs, 24)] == ["dia inteiro · 73 documentos"]


def test_uneven_hours_make_parts_of_about_the_same_size(runs: Runs, mirror: FakeMirror) -> None:
    busy = [make_document(1000 + n, DAY.start + 9 * HOURS + timedelta(seconds=n)) for n in range(100)]
    mirror.documents[:] = [LATER, *spread(24), *busy]
    sizes = [sum(count for *_, count in part.windows) for part in plan(runs, 3)]
    assert sum(sizes) == 124
    assert len(sizes) == 3
    assert max(sizes) <= 110, "the busy hour cannot be cut, the others are shared"


def test_an_empty_day_is_one_part_with_nothing_to_walk(runs: Runs, mirror: FakeMirror) -> None:
    mirror.documents[:] = [LATER]
    (part,) = plan(runs, 5)
    assert (part.name, part.windows) == ("dia sem documentos", [])
    assert runs.run(part=part)["fetched"] == 0
    assert runs.run().announced == 0


def test_a_document_that_moved_between_parts_is_fetched_again_where_it_is(runs: Runs, mirror: FakeMirror) -> None:
    mirror.documents[:] = [LATER, *spread(48)]
    for part in plan(runs, 2):
        runs.run(part=part)
    moved = mirror.documents.pop(3)
    mirror.documents.append(make_document(2, moved.last_updated + 12 * HOURS, version="2"))
    receipt = runs.run()
    assert (receipt.fetched, receipt.slices_reused) == (48, 22), "the two windows that it touched were walked again"


def test_a_part_that_is_not_one_is_refused() -> None:
    with pytest.raises(ContractViolation, match="Clear `plan_slices`"):
        SlicePart.from_dict({"name": "x"})
    with pytest.raises(ContractViolation, match="not an instant"):
        _ = SlicePart(name="x", windows=[("a", "b", 1)], of=1).plan


def test_a_part_that_does_not_add_up_names_its_window(runs: Runs, mirror: FakeMirror) -> None:
    (part,) = plan(runs, 1)
    mirror.edit_page = lambda seen, entries, links: entries.pop() if seen.page_number == 2 else None
    with pytest.raises(
        MirrorProtocolError, match=r"Slice 2026-03-13T03:00:00Z/2026-03-13T04:00:00Z .* does not add up"
    ):
        runs.run(part=part)


def test_clearing_everything_gives_the_same_landing_again(runs: Runs, work: ObjectStore) -> None:
    first = runs.run()
    clear(work)
    assert runs.run().landing_sha256 == first.landing_sha256


def test_the_pages_of_another_way_or_mirror_are_not_taken(
    runs: Runs, mirror: FakeMirror, work: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings may change between two tries of one run: a cursor of one search means nothing to another."""
    runs.killed_after(6, monkeypatch)
    mark = mirror_mark(mirror.base, "Bundle?type=document")
    hour = Window(start=DAY.start, end=DAY.start + HOURS)
    landed = Landed(work, context()).checkpoints
    assert landed.load(hour, announced=73, way="resources", mirror=mark) is None
    saved = landed.load(hour, announced=73, way="documents", mirror=mark)
    assert landed.load(hour, announced=73, way="documents", mirror=mirror_mark("https://other.example/fhir")) is None
    assert saved is not None
    assert len(saved.pages) == 6
