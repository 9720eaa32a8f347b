"""Documents in quarantine judged again: a newer CNES snapshot releases exactly the doses of the establishments that it knows."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from imunizacao import pipeline
from imunizacao.cli import main
from imunizacao.controle import connect, migrate, open_quarantine
from imunizacao.manifests import Head, decode
from imunizacao.models import RunContext
from imunizacao.quarantine import QuarantineRow, raw_document, read_pointer, read_published, read_rows
from imunizacao.reference import import_cnes
from imunizacao.reference_day import ReferenceDay, days_between
from imunizacao.replay import ReplayedDay, days_with_quarantine, replay_day, summary
from imunizacao.replay import replay as module
from imunizacao.settings import EngineSettings, Settings, mirror_settings, pseudonym_settings
from imunizacao_local.mirror import MirrorServer, MirrorSettings
from imunizacao_local.ports import free_ports
from imunizacao_local.postgres import PostgresServer
from imunizacao_local.seaweed import SeaweedServer
from tests.integration.conftest import DAY, NOW, ROOT
from tests.support.buckets import fresh_buckets
from tests.support.cnes import SNAPSHOT, snapshot_with
from tests.support.quarantine import quarantine_rows
from tests.support.reader import read_day

pytestmark = pytest.mark.servers
BEFORE = ReferenceDay(DAY.value - timedelta(days=1))
FIRST, OF_DAY, OF_BEFORE = "202602", "202603", "202604"
"""Snapshots: the shipped one; one that knows some of the establishments of DAY; one that knows some of the day before."""
KEY = "a key for tests only, thirty-two characters"


class Killed(BaseException):
    """No handler of the product catches it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Two published days, and what each newer snapshot must release."""

    services: pipeline.Services
    dsn: str
    env: dict[str, str]
    chosen: dict[ReferenceDay, set[str]]
    """Day → ids of the doses that its snapshot must release."""

    def replay(self, day: ReferenceDay, run_id: str, *, cnes: str, dry_run: bool = False, **more: Any) -> ReplayedDay:
        context = RunContext.create(day=day, run_id=run_id, code_version="test")
        return replay_day(context, self.services, cnes=cnes, dry_run=dry_run, **more)

    def head(self, day: ReferenceDay) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.services.public.get(f"v1/days/{day}/head.json").body)
        return found

    def rows(self, day: ReferenceDay) -> list[QuarantineRow]:
        return quarantine_rows(self.services.work, day)

    def published_ids(self, day: ReferenceDay) -> set[str]:
        """Ids in the files of the UFs that the head names."""
        folder = self.head(day)["current"]["path"].rpartition("/")[0]
        found: set[str] = set()
        for info in self.services.public.list(folder + "/"):
            if "/imunizacao-total-" in info.key:
                text = self.services.public.get(info.key).body.decode()
                found |= {row["co_documento"] for row in csv.DictReader(io.StringIO(text), delimiter=";")}
        return found

    def counts(self, day: ReferenceDay) -> list[tuple[Any, ...]]:
        with connect(self.dsn) as connection, connection.cursor() as cursor:
            cursor.execute(
                "select run_id, state, sum(qt_doses), sum(qt_replayed), max(replayed_by) from controle.quarantine "
                "where reference_day = %s group by 1, 2 order by 1, 2",
                (day.value,),
            )
            return [(run, state, int(doses), int(again), by) for run, state, doses, again, by in cursor.fetchall()]


@pytest.fixture(scope="module")
def mirror() -> Iterator[MirrorServer]:
    """The simulator with 500 documents a day, two of them of unknown establishments: four different ones in two days."""
    with tempfile.TemporaryDirectory(prefix="imunizacao-mirror-") as folder:
        settings = MirrorSettings(seed=9, docs_per_day=500, auth="none")
        with MirrorServer(state_dir=Path(folder), root=ROOT, port=free_ports(1)[0], settings=settings) as server:
            yield server


@pytest.fixture(scope="module")
def bench(
    s3_server: SeaweedServer, postgres: PostgresServer, mirror: MirrorServer, expectations: Path
) -> Iterator[Bench]:
    """Two days published with the first snapshot, before the other two came."""
    postgres.create_database("controle_replay")
    dsn = postgres.dsn("controle_replay")
    with fresh_buckets(s3_server) as storage, tempfile.TemporaryDirectory(prefix="imunizacao-r-") as scratch:
        settings = Settings(
            mirror=mirror_settings(base_url=mirror.base_url, page_size=200),
            storage=storage,
            pseudonym=pseudonym_settings(key=KEY, key_id="test"),
            engine=EngineSettings(scratch_dir=Path(scratch)),
            expectations=expectations,
        )
        services = pipeline.open_services(settings, connect=lambda: connect(dsn), now=lambda: NOW)
        env = {
            "IMUNIZACAO_MIRROR_URL": "http://127.0.0.1:9/fhir",
            "IMUNIZACAO_S3_ENDPOINT": storage.endpoint_url,
            "IMUNIZACAO_S3_ACCESS_KEY": storage.access_key,
            "IMUNIZACAO_S3_SECRET_KEY": storage.secret_key,
            "IMUNIZACAO_WORK_BUCKET": storage.work_bucket,
            "IMUNIZACAO_PUBLIC_BUCKET": storage.public_bucket,
            "IMUNIZACAO_PSEUDONYM_KEY": KEY,
            "IMUNIZACAO_PSEUDONYM_KEY_ID": "test",
            "IMUNIZACAO_CONTROLE_DSN": dsn,
            "IMUNIZACAO_SCRATCH_DIR": scratch,
            "IMUNIZACAO_EXPECTATIONS": str(expectations),
        }
        with connect(dsn) as connection:
            migrate(connection)
            import_cnes(SNAPSHOT, connection)
        chosen: dict[ReferenceDay, set[str]] = {}
        made = Bench(services=services, dsn=dsn, env=env, chosen=chosen)
        unknown: dict[ReferenceDay, list[QuarantineRow]] = {}
        for day in (DAY, BEFORE):
            pipeline.run_day(RunContext.create(day=day, run_id="first", code_version="test"), services, cnes=FIRST)
            unknown[day] = [row for row in made.rows(day) if row.ds_motivos == ["CNES_UNKNOWN"]]
        for day, other, competencia in ((DAY, BEFORE, OF_DAY), (BEFORE, DAY, OF_BEFORE)):
            elsewhere = {row.co_cnes_estabelecimento for row in unknown[other]}
            known = {str(row.co_cnes_estabelecimento) for row in unknown[day][::2]} - elsewhere
            chosen[day] = {str(row.co_documento) for row in unknown[day] if row.co_cnes_estabelecimento in known}
            assert 0 < len(chosen[day]) < len(unknown[day]), "too few unknown establishments for this test"
            with connect(dsn) as connection:
                import_cnes(snapshot_with(known, competencia, Path(scratch)), connection)
        yield made


def test_a_newer_cnes_releases_exactly_the_doses_of_the_establishments_it_knows(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    before, quarantined = bench.published_ids(DAY), bench.rows(DAY)
    documents = documents_in(bench, DAY)
    look = bench.replay(DAY, "look", cnes=OF_DAY, dry_run=True)
    assert (look.state, look.released, look.considered) == ("would-release", len(bench.chosen[DAY]), len(quarantined))
    assert look.released_by_reason == {"CNES_UNKNOWN": len(bench.chosen[DAY])}
    assert bench.head(DAY)["revision"] == 1

    done = bench.replay(DAY, "again", cnes=OF_DAY)
    assert (done.state, done.revision, done.released) == ("replayed", 2, len(bench.chosen[DAY]))
    assert done.still == len(quarantined) - done.released == len(bench.rows(DAY))
    head = bench.head(DAY)
    first, second = head["history"]
    assert (second["reason"], second["runId"], second["references"]["cnes"]["competencia"]) == (
        "quarantine-replay",
        "again",
        OF_DAY,
    )
    assert second["source"] == first["source"]
    account = second["account"]
    assert account["doses"] == sum(account[name] for name in ("published", "quarantined", "superseded", "removed"))
    assert second["reconciliation"]["verdict"] == "ok"
    read = read_day(lambda key: bench.services.public.get(key).body, str(DAY))
    assert len(read.rows) == account["published"]
    assert bench.published_ids(DAY) == before | bench.chosen[DAY]
    assert not before & bench.chosen[DAY]
    assert {row.identity for row in bench.rows(DAY)} == {row.identity for row in quarantined} - bench.chosen[DAY]
    seen = decode(Head, json.dumps(head).encode(), "head.json")
    assert read_published(bench.services.work, str(DAY), seen) == read_pointer(bench.services.work, str(DAY))

    released = len(bench.chosen[DAY])
    assert [row for row in bench.counts(DAY) if row[1] == "replayed"] == [
        (
            "first",
            "replayed",
            sum(n for _, state, n, _, _ in bench.counts(DAY) if state == "replayed"),
            released,
            "again",
        )
    ]
    with connect(bench.dsn) as connection:
        left = open_quarantine(connection, DAY)
    assert sum(doses for reasons in left.values() for doses in reasons.values()) == sum(
        len(row.ds_motivos) for row in bench.rows(DAY)
    )

    body = bench.services.public.get(f"v1/days/{DAY}/head.json").body
    again = bench.replay(DAY, "third", cnes=OF_DAY)
    assert (again.state, again.released, again.revision) == ("nothing", 0, None)
    assert bench.services.public.get(f"v1/days/{DAY}/head.json").body == body
    assert bench.services.work.get_or_none(f"v1/quarantine/day={DAY}/replay.json") is None
    assert_no_canary(bench, documents, caplog.text)


def test_a_day_where_nothing_would_be_released_is_not_made_again(bench: Bench) -> None:
    runs = {info.key.split("/")[2] for info in bench.services.work.list(f"v1/day={BEFORE}/")}
    head = bench.services.public.get(f"v1/days/{BEFORE}/head.json").body
    done = bench.replay(BEFORE, "nothing", cnes=OF_DAY)
    assert (done.state, done.released, done.revision) == ("nothing", 0, None)
    assert bench.services.public.get(f"v1/days/{BEFORE}/head.json").body == head
    assert {info.key.split("/")[2] for info in bench.services.work.list(f"v1/day={BEFORE}/")} == runs


def test_only_the_reasons_asked_for_bring_a_day_to_be_made_again(bench: Bench) -> None:
    look = bench.replay(BEFORE, "look", cnes=OF_BEFORE, dry_run=True, reasons=["PATIENT_ID_INVALID"])
    assert (look.state, look.released) == ("nothing", 0)
    look = bench.replay(BEFORE, "look", cnes=OF_BEFORE, dry_run=True, reasons=["CNES_UNKNOWN"])
    assert look.released == len(bench.chosen[BEFORE])


def test_a_day_without_a_quarantine_is_told_apart(bench: Bench) -> None:
    done = bench.replay(ReferenceDay.parse("2026-01-01"), "x", cnes=FIRST)
    assert done == ReplayedDay(day="2026-01-01", state="no-quarantine")


def test_the_command_lists_shows_and_looks(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    listed = run(bench, "quarantine", "list", "--from", str(BEFORE), "--to", str(BEFORE), "--json")
    pointer = read_pointer(bench.services.work, str(BEFORE))
    assert pointer is not None
    counts: dict[str, dict[str, int]] = {}
    for row in json.loads(listed):
        counts.setdefault(row["uf"], {})[row["reason"]] = row["doses"]
    assert counts == pointer.by_uf
    table = run(bench, "quarantine", "list", "--from", str(BEFORE), "--to", str(BEFORE), "--reason", "CNES_UNKNOWN")
    assert "CNES_UNKNOWN" in table
    assert "PATIENT_ID_INVALID" not in table

    dose = sorted(bench.chosen[BEFORE])[0]
    (row,) = [row for row in bench.rows(BEFORE) if row.co_documento == dose]
    shown = run(bench, "quarantine", "show", str(BEFORE), dose)
    for part in (row.ds_objeto, "CNES_UNKNOWN", "O CNES informado não está na tabela mensal", FIRST):
        assert part in shown
    assert '"resourceType"' not in shown
    place = f"{row.ds_objeto}:{row.nu_linha_objeto}"
    assert place in run(bench, "quarantine", "show", str(BEFORE), "--reason", "CNES_UNKNOWN")
    capsys.readouterr()
    raw = run(bench, "quarantine", "show", str(BEFORE), place, "--raw")
    assert dose.removesuffix("-i0b0") in raw
    assert '"resourceType"' in raw
    assert "identified data of a patient" in capsys.readouterr().err

    looked = json.loads(
        run(bench, "quarantine", "replay", "--from", str(BEFORE), "--to", str(BEFORE), "--cnes", OF_BEFORE, "--json")
    )
    assert [(day["state"], day["released"]) for day in looked["days"]] == [("would-release", len(bench.chosen[BEFORE]))]
    assert bench.head(BEFORE)["revision"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "--reason", "CNES_UNKNOW"), "Unknown reason"),
        (("list", "--from", "2026-03-14", "--to", "2026-03-13"), "0 days"),
        (("show", "2026-03-13", "nobody"), "has no document of this id"),
        (("show", "2025-01-01", "nobody"), "has no quarantine of 2025-01-01"),
        (("show", "2026-03-13", "--raw"), "name it"),
    ],
)
def test_what_does_not_exist_is_said_in_one_message(
    bench: Bench, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert main(["quarantine", *arguments], env=bench.env, out=io.StringIO()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_replay_that_is_cut_off_anywhere_is_brought_to_its_end_by_the_next_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Last, because it publishes: BEFORE is made again here alone."""
    for number, (place, name) in enumerate(
        (
            (pipeline.flatten_stage, "flatten_day"),
            (pipeline.split_stage, "split_day"),
            (pipeline.publish_stage, "publish_day"),
            (pipeline.reconcile_stage, "reconcile_day"),
            (module, "record_replay"),
        )
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, killed)
            with pytest.raises(Killed):
                bench.replay(BEFORE, f"try-{number}", cnes=OF_BEFORE)
        assert len(bench.head(BEFORE)["history"]) == (1 if name in ("flatten_day", "split_day", "publish_day") else 2)
        assert bench.replay(BEFORE, "look", cnes=OF_BEFORE, dry_run=True).state == "pending"
    done = bench.replay(BEFORE, "last", cnes=OF_BEFORE)
    assert (done.state, done.revision, done.resumed, done.run_id) == ("replayed", 2, True, "try-0")
    assert done.released == len(bench.chosen[BEFORE])
    assert bench.chosen[BEFORE] <= bench.published_ids(BEFORE)
    assert [entry["reason"] for entry in bench.head(BEFORE)["history"]] == ["initial", "quarantine-replay"]
    assert {(run, state, again) for run, state, _, again, _ in bench.counts(BEFORE) if state == "replayed"} == {
        ("first", "replayed", done.released)
    }
    assert bench.replay(BEFORE, "after", cnes=OF_BEFORE).state == "nothing"


def test_a_day_that_a_person_withdrew_is_left_alone(bench: Bench) -> None:
    key = "v1/days/2026-03-10/head.json"
    head = bench.head(BEFORE)
    entry = head["history"][0] | {"state": "withdrawn", "reason": "withdrawal"}
    entry |= dict.fromkeys(("contentId", "path", "sha256", "bytes"))
    del entry["reconciliation"]
    taken = head | {"day": "2026-03-10", "state": "withdrawn", "current": None, "history": [entry]}
    bench.services.public.put(key, json.dumps(taken).encode())
    pointer = bench.services.work.get(f"v1/quarantine/day={BEFORE}/current.json").body
    bench.services.work.put("v1/quarantine/day=2026-03-10/current.json", pointer)
    done = bench.replay(ReferenceDay.parse("2026-03-10"), "x", cnes=FIRST)
    assert (done.state, done.released) == ("withdrawn", 0)
    bench.services.work.delete("v1/quarantine/day=2026-03-10/current.json")
    bench.services.public.delete(key)


def test_days_of_a_range_and_their_sum(bench: Bench) -> None:
    days = days_between("2026-02-27", "2026-03-15")
    assert (len(days), str(days[0]), str(days[-1])) == (17, "2026-02-27", "2026-03-15")
    assert [pointer.day for pointer in days_with_quarantine(bench.services.work, days)] == [str(BEFORE), str(DAY)]
    some = [
        ReplayedDay(day="2026-03-13", state="nothing", considered=5, still=5),
        ReplayedDay(day="2026-03-14", state="replayed", considered=9, released=3, still=6, revision=2),
    ]
    assert (
        summary(some, dry_run=False)
        == "2 dias avaliados · 3 doses liberadas · 2026-03-14 rev 2 (+3) · 11 ainda em quarentena"
    )
    assert summary(some, dry_run=True) == "2 dias avaliados · 3 doses seriam liberadas em 1 dia (simulação)"
    assert summary([], dry_run=True) == "nada em quarentena no período"
    assert replace(some[1]) == ReplayedDay.from_json(some[1].to_json())


def killed(*_: Any, **__: Any) -> None:
    raise Killed


def run(bench: Bench, *arguments: str) -> str:
    """Standard output of a command that ends well."""
    out = io.StringIO()
    assert main(list(arguments), env=bench.env, out=out) == 0
    return out.getvalue()


def documents_in(bench: Bench, day: ReferenceDay) -> list[dict[str, Any]]:
    pointer = read_pointer(bench.services.work, str(day))
    assert pointer is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.parquet"
        bench.services.work.download(pointer.dataset.key, path)
        return [json.loads(raw_document(path, row.line)) for row in read_rows(path)]


def assert_no_canary(bench: Bench, documents: list[dict[str, Any]], log: str) -> None:
    """Identifiers of the patients in quarantine are nowhere but in landing and in the dataset."""
    canaries = {
        value.encode()
        for document in documents
        for entry in document["resource"]["entry"]
        for value in [(entry["resource"].get("subject") or {}).get("identifier", {}).get("value")]
        if value and len(value) in (11, 15)
    }
    assert len(canaries) > 2
    seen = {"log": log.encode()}
    for info in bench.services.work.list("v1/"):
        if f"day={DAY}/" in info.key and not re.search(r"/extract/|v1/quarantine/.*/q-|/docs/", info.key):
            seen[info.key] = bench.services.work.get(info.key).body
    for info in bench.services.public.list(f"v1/days/{DAY}/"):
        if "/mun=" not in info.key:
            seen[info.key] = bench.services.public.get(info.key).body
    assert len(seen) > 30
    assert sorted(key for key, body in seen.items() if any(canary in body for canary in canaries)) == []
