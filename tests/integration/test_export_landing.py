"""A day landed over `$export`: against the simulator as a process, and against a mirror that answers as a test says."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import httpx
import msgspec
import pytest
from starlette.responses import Response

from imunizacao.errors import MirrorProtocolError, MirrorUnavailable, StorageUnavailable
from imunizacao.extract import extract_day
from imunizacao.extract.export import land_export
from imunizacao.fhir import Transport, Window
from imunizacao.flatten import flatten_day
from imunizacao.models import ExtractReceipt, FlattenReceipt, LandingManifest, LandingSlice, ObjectRef
from imunizacao.reference import export_references
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings, MirrorSettings, mirror_settings, pseudonym_settings
from imunizacao.storage import ObjectStore, sha256_of
from imunizacao_local.mirror import MirrorServer
from imunizacao_local.mirror import MirrorSettings as SimulatorSettings
from imunizacao_local.ports import free_ports
from tests.integration.export_support import (
    FakeExport,
    accepted,
    manifest,
    ndjson,
    problem,
    running_export,
    waiting,
)
from tests.integration.extract_support import CANARY_TEXT, SleepLog, context, read_zstd

pytestmark = pytest.mark.servers

SEED, DOCUMENTS = 11, 500
DAY = ReferenceDay.parse("2026-03-14")
WINDOW = Window(start=DAY.start, end=DAY.end)
NOW = datetime(2026, 3, 16, 12, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]
PREFIX = f"v1/day={DAY}/run=run-1/extract/slice={WINDOW.name}/"
FILES = 3
"""Of a day, with 200 lines each."""


class ExportServer(MirrorServer):
    """The simulator with both ways in, at a clock that stands still."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--ways", "documents,export", "--now", NOW.isoformat().replace("+00:00", "Z")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirrorServer]:
    served = SimulatorSettings(seed=SEED, docs_per_day=DOCUMENTS, auth="none")
    folder = tmp_path_factory.mktemp("simulator")
    with ExportServer(state_dir=folder, root=ROOT, port=free_ports(1)[0], settings=served) as server:
        yield server


class Simulator:
    """The running simulator and its controls."""

    def __init__(self, server: MirrorServer) -> None:
        self.base_url = server.base_url

    def play(self, *scenarios: str) -> None:
        """Replace all scenarios; files are small in every one."""
        self._admin("PUT", "scenario", {"scenarios": ["export-file-lines:200", *scenarios]})

    def requests(self) -> dict[str, dict[str, int]]:
        """Requests by route and status since the last reset."""
        found: dict[str, dict[str, int]] = self._admin("GET", "stats")["requests"]
        return found

    def reset(self) -> None:
        self._admin("DELETE", "stats")

    def _admin(self, method: str, name: str, body: object = None) -> Any:
        address = f"{self.base_url.removesuffix('/fhir/r4')}/_admin/{name}"
        return httpx.request(method, address, json=body, timeout=30, trust_env=False).raise_for_status().json()


@pytest.fixture
def simulator(server: MirrorServer) -> Iterator[Simulator]:
    simulator = Simulator(server)
    simulator.play()
    simulator.reset()
    yield simulator
    simulator.play()


@dataclass
class Lander:
    """Lands the day by `$export`."""

    base_url: str
    work: ObjectStore
    folder: Path
    now: datetime = NOW
    sleeps: SleepLog = field(default_factory=SleepLog)
    steps: list[tuple[str, int, int | None]] = field(default_factory=list)

    def land(self, expected: int | None = None, *, run_id: str = "run-1", **settings: Any) -> LandingSlice:
        values = {"connect_timeout": 2.0, "read_timeout": 5.0, "max_connections": 1, **settings}

        async def main() -> LandingSlice:
            transport = Transport(
                MirrorSettings(base_url=self.base_url, **values), sleep=self.sleeps, now=lambda: self.now
            )
            async with transport:
                return await land_export(
                    context(run_id, day=DAY),
                    transport=transport,
                    work=self.work,
                    folder=self.folder,
                    now=lambda: self.now,
                    progress=lambda *step: self.steps.append(step),
                    window=WINDOW,
                    expected=expected,
                )

        return asyncio.run(main())

    def lines(self, piece: LandingSlice) -> list[bytes]:
        return [line for part in piece.parts for line in read_zstd(self.work.get(part.key).body).splitlines()]

    def rejects(self, piece: LandingSlice) -> list[dict[str, Any]]:
        assert piece.rejects is not None
        return [json.loads(line) for line in read_zstd(self.work.get(piece.rejects.key).body).splitlines()]

    def objects(self) -> list[str]:
        """Objects of the slice, without what is random in them."""
        return sorted(found.key.removeprefix(PREFIX) for found in self.work.list("v1/day="))


@pytest.fixture
def lander(simulator: Simulator, work: ObjectStore, tmp_path: Path) -> Lander:
    return Lander(simulator.base_url, work, tmp_path)


@pytest.fixture(scope="module")
def walked(server: MirrorServer, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What the other way lands: resources of all entries, sorted."""
    url = f"{server.base_url}/Bundle"
    bounds = [("_lastUpdated", bound) for bound in WINDOW.bounds]
    page = httpx.get(url, params=[("type", "document"), *bounds, ("_count", "1000")], trust_env=False).json()
    assert [link["relation"] for link in page["link"]] == ["self"]
    return sorted(json.dumps(entry["resource"]).encode() for entry in page["entry"])


def resources(lines: list[bytes]) -> list[bytes]:
    return sorted(json.dumps(json.loads(line)["resource"]).encode() for line in lines)


def total(simulator: Simulator) -> int:
    bounds = [("_lastUpdated", bound) for bound in WINDOW.bounds]
    query = [("type", "document"), *bounds, ("_summary", "count")]
    found: int = httpx.get(f"{simulator.base_url}/Bundle", params=query, trust_env=False).json()["total"]
    return found


def test_the_simulator_lists_what_it_offers(simulator: Simulator, tmp_path: Path) -> None:
    statement = httpx.get(f"{simulator.base_url}/metadata", trust_env=False).json()
    assert [operation["name"] for operation in statement["rest"][0]["operation"]] == ["export"]
    served = SimulatorSettings(seed=SEED, docs_per_day=10, auth="none")
    with MirrorServer(state_dir=tmp_path / "plain", root=ROOT, port=free_ports(1)[0], settings=served) as plain:
        assert "operation" not in httpx.get(f"{plain.base_url}/metadata", trust_env=False).json()["rest"][0]
        assert httpx.get(f"{plain.base_url}/$export", trust_env=False).status_code == 400


# --- the same day ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenarios",
    [
        [],
        ["export-progress:3"],
        ["export-429"],
        ["export-post-only"],
        ["export-no-counts"],
        ["export-other-host"],
        ["export-truncated:2"],
        ["export-outcome"],
        ["export-until-ignored"],
        ["export-file-lines:50"],
        ["export-progress:1", "export-other-host", "export-outcome", "export-no-counts", "export-truncated:3"],
    ],
    ids=" ".join,
)
def test_every_document_lands_as_it_was_served(
    simulator: Simulator, lander: Lander, walked: list[bytes], scenarios: list[str]
) -> None:
    simulator.play(*scenarios)
    announced = total(simulator)
    piece = lander.land(announced)
    assert resources(lander.lines(piece)) == walked
    assert (piece.announced, piece.distinct, piece.lines, piece.rejected) == (announced, announced, DOCUMENTS, 0)
    assert (piece.way, piece.run_id, piece.attempts, piece.rejects) == ("export", "run-1", 1, None)
    assert (piece.start, piece.end) == ("2026-03-14T03:00:00Z", "2026-03-15T03:00:00Z")
    log = [json.loads(line) for line in lander.work.get(piece.page_log.key).body.splitlines()]
    assert piece.pages == len(log)
    assert sum(line["count"] for line in log) == DOCUMENTS
    left = [key for key in lander.objects() if key.startswith("export-")]
    assert left == [], "job and files are only kept while they are needed"
    assert sum(simulator.requests()["export-delete"].values()) == 1


def test_landing_lines_are_entries_with_the_bytes_of_the_resource(simulator: Simulator, lander: Lander) -> None:
    line = lander.lines(lander.land(total(simulator)))[0]
    identity = json.loads(line)["resource"]["id"]
    head = f'{{"fullUrl":"{simulator.base_url}/Bundle/{identity}","resource":{{"resourceType":"Bundle",'
    assert line.startswith(head.encode())
    assert line.endswith(b',"search":{"mode":"match"}}')


def test_progress_goes_from_the_mirrors_share_to_lines(simulator: Simulator, lander: Lander) -> None:
    simulator.play("export-progress:4")
    lander.land(total(simulator))
    assert [step for step in lander.steps if step[0] == "export"] == [
        ("export", share, 100) for share in (0, 25, 50, 75)
    ]
    assert lander.steps[-1] == ("extract", DOCUMENTS + 1, DOCUMENTS + 1), "one is from the second before the day"


def test_documents_outside_the_window_are_counted_and_left_out(
    simulator: Simulator, lander: Lander, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    simulator.play("export-until-ignored")
    lander.land(total(simulator))
    (told,) = [record.getMessage() for record in caplog.records if "export_left_out" in record.getMessage()]
    outside = int(told.partition("outside=")[2].split()[0])
    assert outside > 1, "more than the one of the second before the day"


def receipt_of(work: ObjectStore, piece: LandingSlice) -> ExtractReceipt:
    """What extract would write of a day with this slice alone."""
    body = msgspec.json.encode(LandingManifest(day=str(DAY), slices=[piece]))
    key = f"v1/day={DAY}/run=run-1/extract/manifest.json"
    work.put(key, body)
    return ExtractReceipt(
        stage="extract",
        day=str(DAY),
        run_id="run-1",
        code_version="c0de",
        fingerprint="0" * 64,
        manifest=ObjectRef(key=key, sha256=sha256_of(body), bytes=len(body)),
        announced=piece.announced,
        fetched=piece.lines + piece.rejected,
        rejected=piece.rejected,
        slices=1,
        slices_reused=0,
        pages=piece.pages,
        requests=0,
        retries=0,
        bytes_received=0,
        extracted_at="2026-03-16T12:00:00.000Z",
        landing_sha256=piece.parts[0].sha256,
    )


Flatten = Callable[[ExtractReceipt, str], tuple[FlattenReceipt, dict[str, list[tuple[Any, ...]]]]]


@pytest.fixture
def flatten(work: ObjectStore, tmp_path: Path) -> Flatten:
    """Run the stage and read its tables, without the place of a row in landing."""

    def run(extracted: ExtractReceipt, run_id: str) -> tuple[FlattenReceipt, dict[str, list[tuple[Any, ...]]]]:
        receipt = flatten_day(
            context(run_id, day=DAY),
            extract=extracted,
            references=export_references(work, None),
            pseudonym=pseudonym_settings(key="a key for tests only, thirty-two characters", key_id="test"),
            work=work,
            engine=EngineSettings(scratch_dir=tmp_path),
        )
        tables = {}
        for name, ref in (("dose", receipt.dose), ("quarantine", receipt.quarantine), ("removed", receipt.removed)):
            path = tmp_path / f"{run_id}-{name}.parquet"
            work.download(ref.key, path)
            with duckdb.connect() as connection:
                found = connection.execute(
                    "select columns(lambda c: c not in ('nu_parte', 'nu_linha')) from read_parquet($path)",
                    {"path": str(path)},
                ).fetchall()
            tables[name] = sorted(found, key=repr)
        return receipt, tables

    return run


def test_a_day_by_export_has_the_doses_of_the_day_by_search(
    simulator: Simulator, lander: Lander, flatten: Flatten, tmp_path: Path
) -> None:
    searched, expected = flatten(
        extract_day(
            context("run-2", day=DAY),
            settings=mirror_settings(base_url=simulator.base_url, page_size=200),
            work=lander.work,
            engine=EngineSettings(scratch_dir=tmp_path),
            now=lambda: NOW,
            sleep=SleepLog(),
        ),
        "run-2",
    )
    exported, found = flatten(receipt_of(lander.work, lander.land(total(simulator))), "run-1")
    assert found == expected
    assert len(found["dose"]) > 400
    assert found["removed"]
    assert found["quarantine"]
    assert exported.documents == searched.documents


def test_a_day_by_export_of_separate_resources_has_the_same_doses(
    simulator: Simulator, lander: Lander, flatten: Flatten
) -> None:
    _, whole = flatten(receipt_of(lander.work, lander.land(total(simulator))), "run-1")
    simulator.play("export-split")
    _, split = flatten(receipt_of(lander.work, lander.land(0, run_id="run-3")), "run-3")
    assert split["dose"] == whole["dose"]
    assert split["removed"] == whole["removed"]


def test_deleted_documents_land_and_become_removals(
    simulator: Simulator, lander: Lander, flatten: Flatten, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = total(simulator)
    simulator.play(f"export-deleted:{DAY}:4")
    announced = total(simulator)
    assert announced == before - 4
    piece = lander.land(announced)
    assert (piece.announced, piece.distinct, piece.lines) == (announced, announced, DOCUMENTS)
    receipt, tables = flatten(receipt_of(lander.work, piece), "run-1")
    deleted = [row for row in tables["removed"] if "deleted" in row]
    assert len(deleted) == 4
    assert sorted(row[3] is None for row in deleted) == [False, False, True, True], "two with an instant of their own"
    assert receipt.documents.fetched == DOCUMENTS
    assert receipt.removed_doses >= 4
    assert not {"NOT_A_DOCUMENT", "LAST_UPDATED_INVALID", "LAST_UPDATED_OUTSIDE_DAY"} & {
        reason for row in tables["quarantine"] for cell in row if isinstance(cell, list) for reason in cell
    }
    assert "deleted_patient=1" in caplog.text
    assert "Patient/p-1" not in caplog.text


# --- resources one by one --------------------------------------------------------------------------------


def test_a_mirror_without_whole_documents_is_asked_for_their_resources(
    simulator: Simulator, lander: Lander, walked: list[bytes]
) -> None:
    simulator.play("export-split")
    announced = total(simulator)
    piece = lander.land(0)
    assert ids_of(lander.lines(piece)) == {json.loads(raw)["id"].removesuffix("-i0b0") for raw in walked}
    assert (piece.announced, piece.distinct, piece.lines) == (announced, announced, announced)
    assert simulator.requests()["export-kick-off"] == {"202": 2}
    assert simulator.requests()["export-delete"] == {"202": 2}


def ids_of(lines: list[bytes]) -> set[str]:
    """Ids of the Compositions of documents."""
    entries = [json.loads(line)["resource"]["entry"] for line in lines]
    return {
        part["resource"]["id"]
        for parts in entries
        for part in parts
        if part["resource"]["resourceType"] == "Composition"
    }


def test_an_empty_day_is_asked_for_both_ways_and_empty(simulator: Simulator, lander: Lander) -> None:
    simulator.play(f"empty:{DAY}")
    # One document of the second before the day is in the export, and left out.
    piece = lander.land(0)
    assert (piece.announced, piece.lines, piece.parts) == (0, 0, [])


# --- what is not the whole day ---------------------------------------------------------------------------


def test_documents_that_are_missing_without_a_word_fail_the_day_after_three_exports(
    simulator: Simulator, lander: Lander
) -> None:
    simulator.play("export-lost:1")
    announced = total(simulator)
    with pytest.raises(MirrorProtocolError, match="does not add up after 3 exports: the mirror counts ") as caught:
        lander.land(announced)
    assert f"{announced} documents, the last export brought {announced - 1} different ones" in str(caught.value)
    assert simulator.requests()["export-kick-off"] == {"202": 3}
    assert lander.objects() == []


def test_an_export_with_errors_fails_the_day_and_quotes_no_text(
    simulator: Simulator, lander: Lander, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    simulator.play("export-error-file")
    with pytest.raises(MirrorProtocolError, match=r"1 errors in outcome file 1 of 1 .*EHR-ERR990") as caught:
        lander.land(total(simulator))
    assert "FULANO" not in str(caught.value) + caplog.text
    assert "export-file" in simulator.requests()
    assert simulator.requests()["export-delete"] == {"202": 1}
    assert lander.objects() == [], "the next run starts another job"


def test_an_export_from_before_the_end_of_the_day_is_not_the_day(simulator: Simulator, lander: Lander) -> None:
    frozen = (DAY.end - timedelta(milliseconds=1)).isoformat().replace("+00:00", "Z")
    simulator.play(f"frozen:{frozen}")
    with pytest.raises(MirrorUnavailable, match="as it was at .*, before the end of the day"):
        lander.land(total(simulator))
    assert lander.objects() == []


def test_nobody_could_tell_whether_an_export_without_any_count_is_whole(simulator: Simulator, lander: Lander) -> None:
    simulator.play("export-no-counts")
    with pytest.raises(MirrorProtocolError, match="gives no `count` for 3 of 3 files, and the mirror cannot count"):
        lander.land(None)
    assert "export-file" not in simulator.requests(), "nothing is fetched of it"


def test_the_counts_of_the_manifest_are_enough(simulator: Simulator, lander: Lander, walked: list[bytes]) -> None:
    piece = lander.land(None)
    assert resources(lander.lines(piece)) == walked
    assert piece.announced == piece.distinct == total(simulator)


def test_files_that_expired_cost_another_export(simulator: Simulator, lander: Lander, walked: list[bytes]) -> None:
    simulator.play("export-expired:1")
    piece = lander.land(total(simulator))
    assert resources(lander.lines(piece)) == walked
    assert piece.attempts == 1, "a job that is gone was no try of its own"
    assert simulator.requests()["export-kick-off"] == {"202": 2}


def test_files_that_expire_again_and_again_fail_the_day(simulator: Simulator, lander: Lander) -> None:
    simulator.play("export-expired:9")
    with pytest.raises(MirrorProtocolError, match="answers 410.* This happened to 2 exports in a row"):
        lander.land(total(simulator))
    assert simulator.requests()["export-kick-off"] == {"202": 2}


def test_documents_that_came_in_between_are_in_the_day(simulator: Simulator, lander: Lander) -> None:
    before = total(simulator)
    simulator.play(f"late:{DAY}:2")
    assert lander.land(before).announced == before + 2


# --- killed and run again --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last_write", "kick_offs", "fetched"),
    [
        ("export-job.json", 2, FILES),
        ("output-00001.ndjson.zst", 1, FILES + 1),
        ("output-00001.json", 1, FILES + 1),
        ("output-00002.json", 1, FILES + 1),
        ("output-00003.json", 1, FILES + 1),
        ("part-0001.ndjson.zst", 1, FILES),
        ("pages.ndjson", 1, FILES),
        ("slice.json", 1, FILES),
        ("DELETE", 1, FILES),
    ],
)
def test_a_task_killed_at_any_write_goes_on_with_its_job(
    simulator: Simulator,
    lander: Lander,
    walked: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    last_write: str,
    kick_offs: int,
    fetched: int,
) -> None:
    announced = total(simulator)
    put = ObjectStore.put

    def die(self: ObjectStore, key: str, *args: Any, **kwargs: Any) -> str:
        if key.endswith(last_write):
            raise StorageUnavailable("killed here")
        return put(self, key, *args, **kwargs)

    def die_deleting(self: ObjectStore, keys: list[str]) -> None:
        raise StorageUnavailable("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", die)
        if last_write == "DELETE":
            patch.setattr(ObjectStore, "delete_many", die_deleting)
        with pytest.raises(StorageUnavailable, match="killed here"):
            lander.land(announced)

    piece = lander.land(announced)

    assert resources(lander.lines(piece)) == walked
    assert piece.distinct == piece.announced == announced
    assert simulator.requests()["export-kick-off"] == {"202": kick_offs}
    assert simulator.requests()["export-file"] == {"200": fetched}
    assert not any(key.startswith("export-") for key in lander.objects())


def test_a_finished_slice_is_not_exported_again(simulator: Simulator, lander: Lander) -> None:
    announced = total(simulator)
    first = lander.land(announced)
    simulator.reset()
    assert lander.land(announced) == first
    assert lander.land(None) == first
    assert simulator.requests() == {}


def test_a_finished_slice_is_exported_again_where_the_mirror_counts_otherwise(
    simulator: Simulator, lander: Lander
) -> None:
    first = lander.land(total(simulator))
    simulator.play(f"late:{DAY}:2")
    assert lander.land(total(simulator)).announced == first.announced + 2


def test_a_job_that_the_mirror_forgot_is_started_again_and_again_if_its_files_expire(
    simulator: Simulator, lander: Lander, walked: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.play("export-progress:2")
    with monkeypatch.context() as patch:
        patch.setattr(
            ObjectStore, "put_file", lambda *args, **kwargs: (_ for _ in ()).throw(StorageUnavailable("killed"))
        )
        with pytest.raises(StorageUnavailable):
            lander.land(total(simulator))
    job = json.loads(lander.work.get(PREFIX + "export-job.json").body)
    assert httpx.delete(job["status_url"], trust_env=False).status_code == 202
    simulator.play("export-expired:1")
    assert resources(lander.lines(lander.land(total(simulator)))) == walked
    assert simulator.requests()["export-kick-off"] == {"202": 3}, (
        "what an earlier task left is not counted against this one"
    )
    assert job["status_url"].startswith(simulator.base_url)


def test_no_address_of_a_job_or_a_file_is_logged(
    simulator: Simulator, lander: Lander, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    simulator.play("export-progress:1", "export-truncated:1", "export-other-host")
    piece = lander.land(total(simulator))
    assert "export_file_redo" in caplog.text
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name == "imunizacao")
    for secret in ("export-status/", "export-files/"):
        assert secret not in ours
    assert b"/export-files/" in lander.work.get(piece.page_log.key).body, (
        "the private page log says where lines came from"
    )


# --- odd lines -------------------------------------------------------------------------------------------


@pytest.fixture
def mirror() -> Iterator[FakeExport]:
    with running_export() as mirror:
        mirror.on("GET /fhir/$export", accepted("/fhir/status/1"))
        mirror.on("DELETE /fhir/status/1", Response(status_code=202))
        yield mirror


def serve(
    mirror: FakeExport, file: Response, *, count: int | None = None, search: int | None = None, **more: Any
) -> None:
    """One file, and a search that counts."""
    item = {"type": "Bundle", "url": "/files/1", **({} if count is None else {"count": count})}
    mirror.on("GET /fhir/status/1", manifest(item, transactionTime="2026-03-16T00:00:00Z", **more))
    mirror.on("GET /files/1", file)
    bundle = {"resourceType": "Bundle", "type": "searchset", "total": search}
    mirror.on("GET /fhir/Bundle", Response(json.dumps(bundle), media_type="application/fhir+json"))


def document(identity: str, instant: str | None = "2026-03-14T12:00:00Z", kind: str = "document") -> str:
    meta = {"meta": {"versionId": "1", "lastUpdated": instant}} if instant else {}
    return json.dumps({"resourceType": "Bundle", "id": identity, **meta, "type": kind, "title": CANARY_TEXT})


@pytest.fixture
def odd(mirror: FakeExport, work: ObjectStore, tmp_path: Path) -> Lander:
    return Lander(mirror.base, work, tmp_path)


def test_what_no_search_would_find_is_left_out_and_what_has_no_instant_is_landed(
    mirror: FakeExport, odd: Lander, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lines = [
        document("a"),
        document("b", "2026-03-14T02:59:59.999Z"),
        document("c", "2026-03-15T03:00:00Z"),
        document("d", kind="collection"),
        document("e", None),
        document("f", "yesterday"),
    ]
    serve(mirror, ndjson(*lines), count=6, search=1)
    piece = odd.land(1)
    assert [json.loads(line)["resource"]["id"] for line in odd.lines(piece)] == ["a", "e", "f"]
    assert (piece.announced, piece.distinct) == (1, 3)
    assert "no_document=1" in caplog.text
    assert "outside=2" in caplog.text
    assert CANARY_TEXT not in caplog.text


@pytest.mark.parametrize(("counted", "whole"), [(0, False), (1, True), (2, True), (3, False)])
def test_documents_without_an_instant_may_or_may_not_be_counted(
    mirror: FakeExport, odd: Lander, counted: int, whole: bool
) -> None:
    serve(mirror, ndjson(document("a"), document("b", None)), count=2, search=counted)
    if whole:
        assert odd.land(counted).lines == 2
        return
    with pytest.raises(MirrorProtocolError, match="2 different ones .1 of them without an instant"):
        odd.land(counted)


def test_a_line_that_is_no_document_is_kept_beside_landing_with_its_bytes(mirror: FakeExport, odd: Lander) -> None:
    broken = b'{"resourceType":"Bundle","id":"x"},"search":{"mode":"include"},"y":{}'
    serve(mirror, ndjson(document("a"), broken, document("b")), count=3, search=3)
    piece = odd.land(3)
    assert (piece.lines, piece.rejected, piece.distinct) == (2, 1, 3)
    (reject,) = odd.rejects(piece)
    assert (reject["reason"], reject["bytes"], reject["position"]) == ("JSON_INVALID", len(broken), 2)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (ndjson(document("a"), document("b")[:40], end=b""), "ends in the middle of a line"),
        (ndjson(document("a")), "has 1 lines, the manifest says 2"),
        (ndjson(document("a"), document("b"), document("c")), "has 3 lines, the manifest says 2"),
    ],
)
def test_a_file_that_never_comes_whole_is_named(mirror: FakeExport, odd: Lander, file: Response, told: str) -> None:
    serve(mirror, file, count=2, search=2)
    with pytest.raises(
        MirrorProtocolError,
        match=rf"The output file 1 of 1 \(Bundle\) of the export is not whole: it {told}, after 3 downloads",
    ):
        odd.land(2)
    assert len(mirror.asked_for("GET /files/1")) == 3
    assert len(mirror.asked_for("DELETE /fhir/status/1")) == 1
    assert odd.objects() == []


def test_a_mirror_that_is_away_keeps_the_job_for_the_next_task(mirror: FakeExport, odd: Lander) -> None:
    serve(mirror, ndjson(document("a")), count=1, search=1)
    mirror.on("GET /files/1", problem(503, "transient"))
    with pytest.raises(MirrorUnavailable, match="did not give output file 1 of 1"):
        odd.land(1, retry_budget=1.0)
    mirror.on("GET /files/1", ndjson(document("a")))
    assert odd.land(1).lines == 1
    assert len(mirror.asked_for("GET /fhir/$export")) == 1


def test_a_job_that_outlives_its_deadline_is_cancelled(mirror: FakeExport, odd: Lander) -> None:
    mirror.on("GET /fhir/status/1", waiting(Retry_After="60"))
    with pytest.raises(MirrorUnavailable, match="this run waits 300 s"):
        odd.land(1, export_deadline=300.0)
    assert len(mirror.asked_for("DELETE /fhir/status/1")) == 1
    assert odd.objects() == []


def test_the_deadline_counts_from_the_kick_off_over_tasks(mirror: FakeExport, odd: Lander) -> None:
    mirror.on("GET /fhir/status/1", Response("", status_code=502))
    with pytest.raises(MirrorUnavailable, match="9 times in a row"):
        odd.land(1, export_deadline=3600.0)
    mirror.on("GET /fhir/status/1", waiting(Retry_After="60"))
    odd.now += timedelta(seconds=3500)
    with pytest.raises(MirrorUnavailable, match="this run waits 100 s"):
        odd.land(1, export_deadline=3600.0)
    assert len(mirror.asked_for("GET /fhir/$export")) == 1


def test_a_failed_job_is_not_asked_for_again(mirror: FakeExport, odd: Lander) -> None:
    mirror.on("GET /fhir/status/1", problem(500, "exception"))
    for _ in range(2):
        with pytest.raises(MirrorProtocolError, match="The export failed"):
            odd.land(1)
    assert len(mirror.asked_for("GET /fhir/$export")) == 2


def test_doses_without_their_composition_are_refused_as_a_way(mirror: FakeExport, odd: Lander) -> None:
    item = {"type": "Immunization", "url": "/files/1", "count": 3}
    mirror.on("GET /fhir/status/1", manifest(item, transactionTime="2026-03-16T00:00:00Z"))
    with pytest.raises(MirrorProtocolError, match="Immunization without Composition"):
        odd.land(0)


def test_a_mirror_that_exports_nothing_and_counts_nothing_proves_nothing(mirror: FakeExport, odd: Lander) -> None:
    mirror.on("GET /fhir/status/1", manifest(transactionTime="2026-03-16T00:00:00Z"))
    with pytest.raises(MirrorProtocolError, match="its manifest names no file, and the mirror cannot count"):
        odd.land(None)


def test_a_day_of_deletions_alone_keeps_them(mirror: FakeExport, odd: Lander) -> None:
    entry = {"request": {"method": "DELETE", "url": "Bundle/gone"}}
    line = json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
    deleted = [{"type": "Bundle", "url": "/files/d", "count": 1}]
    both = manifest(transactionTime="2026-03-16T00:00:00Z", deleted=deleted)
    mirror.on("GET /fhir/status/1", both, manifest(transactionTime="2026-03-16T00:00:00Z"), both)
    mirror.on("GET /files/d", ndjson(line))
    bundle = {"resourceType": "Bundle", "type": "searchset", "total": 0}
    mirror.on("GET /fhir/Bundle", Response(json.dumps(bundle), media_type="application/fhir+json"))
    piece = odd.land(0)
    assert (piece.announced, piece.lines) == (0, 1)
    assert json.loads(odd.lines(piece)[0])["request"]["url"] == "Bundle/gone"
    assert len(mirror.asked_for("GET /fhir/$export")) == 2, "whole documents, then their resources"


def test_a_damaged_checkpoint_only_costs_its_work(mirror: FakeExport, odd: Lander) -> None:
    serve(mirror, ndjson(document("a")), count=1, search=1)
    odd.work.put(PREFIX + "export-job.json", b"{")
    odd.work.put(PREFIX + "slice.json", b'{"format":1}')
    assert odd.land(1).lines == 1
