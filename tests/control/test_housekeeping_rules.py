"""What housekeeping removes, and above all what it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.housekeeping import describe_report, report_note
from imunizacao.manifests import Head, decode, head_key
from imunizacao.models import LandingManifest, LandingSlice, ObjectRef, to_json
from imunizacao.publish import publish_day
from imunizacao.signing import new_key, receipts_vouch, resign_day
from imunizacao.storage import sha256_of
from tests.support.control import MemoryDay, broken_promises
from tests.support.reader import read_day
from tests.support.small_day import dose, make_inputs

DAY = "2026-03-14"
A = [dose("a-i0b0", "350010"), dose("b-i0b0", "530010")]
B = [dose("a-i0b0", "350010", co_lote_vacina="L2"), dose("b-i0b0", "530010", co_lote_vacina="L2")]
C = [dose("c-i0b0", "530010", residence="350010")]


@pytest.fixture
def day(tmp_path: Path) -> MemoryDay:
    """A day without revisions, in memory."""
    return MemoryDay(DAY, tmp_path)


def superseded(day: MemoryDay, rows: list[dict[str, str]]) -> str:
    """Leave a whole content that no history names: a run that came second with an older extract. Its content id."""
    context = day.context("late")
    inputs = make_inputs(context, rows, day.work, hour=0)
    assert day.publish(context, inputs).outcome == "superseded"
    return inputs.split.content_id


def keys(day: MemoryDay, part: str) -> list[str]:
    """Keys of both buckets that contain a text."""
    return [key for key in day.listing() if part in key]


def test_listing_changes_nothing_and_tells_what_would_go(day: MemoryDay) -> None:
    day.revise(A)
    orphan = superseded(day, B)
    day.revise(C)
    day.public.put("v1/probe/0123456789abcdef-race", b"1")
    day.change("withdraw", "53")
    day.clock.forward(days=400)
    before = day.listing()
    report = day.tidy(delete=False)
    assert day.listing() == before
    assert set(report.tallies) == {"content", "withdrawn", "probe", "runs"}
    text = "\n".join(describe_report(report))
    assert f"public:v1/days/{DAY}/c-{orphan}/" in text
    assert "would be removed" in text
    assert "(simulação)" in report_note(report)
    done = day.tidy()
    assert {kind: tally.objects for kind, tally in done.tallies.items()} == {
        kind: tally.objects for kind, tally in report.tallies.items()
    }
    assert broken_promises(day.public, [DAY]) == []


def test_a_content_that_no_history_names_goes_after_seven_days_and_not_before(day: MemoryDay) -> None:
    day.revise(A)
    orphan = superseded(day, B)
    day.clock.forward(days=6.9)
    assert day.tidy(only=["content"]).objects == 0
    day.clock.forward(days=0.2)
    assert day.tidy(only=["content"]).tallies["content"].groups == 1
    assert keys(day, orphan) == [f"work:v1/housekeeping/day={DAY}/c-{orphan}.json"]
    assert broken_promises(day.public, [DAY]) == []
    read_day(day.get, DAY)


def test_one_young_object_keeps_a_content_that_no_history_names(day: MemoryDay) -> None:
    day.revise(A)
    orphan = superseded(day, B)
    day.clock.forward(days=8)
    day.public.put(f"v1/days/{DAY}/c-{orphan}/uf=53/dialect.json", b"{}")
    assert day.tidy(only=["content"]).objects == 0


def test_diffs_that_no_history_names_go_when_their_revision_exists(day: MemoryDay) -> None:
    day.revise(A)
    day.revise(B)
    mark = "0" * 64
    for numbers in ("1-2", "2-3"):
        for name in ("added", "changed", "removed"):
            day.public.put(f"v1/days/{DAY}/diff/{numbers}-{mark}/{name}.csv", b"x")
    day.clock.forward(days=8)
    report = day.tidy(only=["diff"])
    assert [name for _, name, _, _ in report.names] == [f"public:v1/days/{DAY}/diff/1-2-{mark}/"]
    assert len(keys(day, f"diff/2-3-{mark}")) == 3, "revision 3 may be on its way"
    assert broken_promises(day.public, [DAY]) == []


@pytest.mark.parametrize("doubt", ["damaged head", "no head", "run at work", "strange key"])
def test_nothing_of_a_day_goes_in_doubt(day: MemoryDay, doubt: str) -> None:
    day.revise(A)
    orphan = superseded(day, B)
    day.clock.forward(days=8)
    if doubt == "damaged head":
        day.public.put(head_key(DAY), b"{}")
    elif doubt == "no head":
        day.public.delete(head_key(DAY))
    elif doubt == "run at work":
        day.work.put(f"v1/day={DAY}/run=new/extract/slice=1/walk-1/page-000001", b"x")
    else:
        day.public.put(f"v1/days/{DAY}/c-{orphan}/notes.txt", b"x")
    before = {key for key in day.listing() if key.startswith("public:")}
    report = day.tidy(only=["content", "diff", "withdrawn"])
    assert {key for key in day.listing() if key.startswith("public:")} == before
    assert report.objects == 0
    if doubt == "strange key":
        assert report.unknown == [f"public:v1/days/{DAY}/c-{orphan}/notes.txt"]
    else:
        assert [kept.name for kept in report.kept] == [f"public:v1/days/{DAY}/"]


def test_a_claim_that_cannot_be_read_keeps_its_folder_and_stops_its_publication(day: MemoryDay) -> None:
    day.revise(A)
    orphan = superseded(day, B)
    run = day.inputs(B)
    day.work.put(f"v1/housekeeping/day={DAY}/c-{orphan}.json", b"?")
    day.clock.forward(days=8)
    report = day.tidy(only=["content"])
    assert report.objects == 0
    assert "is not a claim of housekeeping" in report.kept[0].why
    with pytest.raises(ContractViolation, match=r"not a claim of housekeeping.*docs/runbook/housekeeping\.md"):
        day.publish(*run)


def test_what_has_no_known_form_is_told_and_stays(day: MemoryDay) -> None:
    day.revise(A)
    strange = ["public:README", "public:v1/days/notes.txt", "work:v1/other/x", "work:v1/day=2026-03-14/x"]
    for key in strange:
        bucket, _, name = key.partition(":")
        (day.public if bucket == "public" else day.work).put(name, b"x")
    day.clock.forward(days=4000)
    report = day.tidy()
    assert sorted(report.unknown) == sorted(strange)
    assert set(strange) <= set(day.listing())
    assert f"{report.unknown_objects} objects of no known form" in "\n".join(describe_report(report))


def test_files_of_a_withdrawn_day_go_after_their_grace_and_the_head_says_so_first(day: MemoryDay) -> None:
    day.revise(A)
    day.revise(B)
    day.clock.forward(days=100)
    day.change("withdraw")
    day.clock.forward(days=29)
    assert "withdrawn" not in day.tidy().tallies
    day.clock.forward(days=2)
    report = day.tidy()
    assert report.tallies["withdrawn"].groups == 3, "two contents and the diff between them"
    head = day.head()
    assert [("purgedAt" in entry, "purgedAt" in entry.get("diff", {})) for entry in head["history"]] == [
        (True, False),
        (True, True),
        (False, False),
    ]
    assert keys(day, f"public:v1/days/{DAY}/") == [f"public:{head_key(DAY)}"]
    assert keys(day, "places") == []
    with pytest.raises(ConfigurationError, match=r"no revision left to go back to.*--remake"):
        day.change("restore")
    # A run that restores writes everything again, though the content is the one that was there.
    context, inputs = day.inputs(B)
    published = publish_day(
        context, inputs=inputs, work=day.work, public=day.public, engine=day.engine, now=day.now, reason="restore"
    )
    day.reconcile(context, published)
    assert len(read_day(day.get, DAY).rows) == 2
    day.clock.forward(days=400)
    assert "withdrawn" not in day.tidy().tallies, "the newest entry names the content again"
    assert broken_promises(day.public, [DAY]) == []


def test_files_of_a_withdrawn_uf_go_from_every_content_and_later_runs_leave_them_out(day: MemoryDay) -> None:
    day.revise([*A, *C])
    day.revise([*B, *C])
    day.change("withdraw", "53")
    day.clock.forward(days=31)
    report = day.tidy()
    assert report.tallies["withdrawn"].groups == 3, "the UF in two contents, and the diff that has doses of it"
    head = day.head()
    assert "purgedAt" in head["withdrawnUfs"]["53"]
    assert [entry.get("purgedUfs") for entry in head["history"]] == [["53"]] * 3
    assert "purgedAt" in head["history"][1]["diff"]
    assert [key for key in keys(day, "/uf=53/") if key.endswith(".csv")] == []
    assert len(keys(day, "/uf=53/datapackage.json")) == 2
    assert broken_promises(day.public, [DAY]) == []

    # The same content again, counted again: what is gone is accepted, the rest is checked.
    assert day.revise([*B, *C]).outcome == "unchanged"
    sp = f"{head['current']['path'].rpartition('/')[0]}/uf=35/imunizacao-total-sp_{DAY}.csv"
    body = day.public.get(sp).body
    context, inputs = day.inputs([*B, *C])
    published = day.publish(context, inputs)
    day.public.put(sp, body + b"x")
    with pytest.raises(ContractViolation, match="sha256 of uf=35"):
        day.reconcile(context, published)
    day.public.put(sp, body)

    # Other content: its files of the UF are not written.
    published = day.revise(A)
    assert (published.outcome, published.withdrawn_ufs) == ("published", ["53"])
    assert [key for key in keys(day, "/uf=53/") if key.endswith(".csv")] == []
    assert day.head()["history"][-1]["purgedUfs"] == ["53"]
    assert day.month_row()["rows"] == 1
    assert broken_promises(day.public, [DAY]) == []

    with pytest.raises(ConfigurationError, match=r"files of UF 53 .* were removed .*--remake"):
        day.change("restore", "53")
    context, inputs = day.inputs(A)
    publish_day(
        context, inputs=inputs, work=day.work, public=day.public, engine=day.engine, now=day.now, reason="restore"
    )
    assert len(read_day(day.get, DAY).rows) == 2
    head = day.head()
    assert "withdrawnUfs" not in head
    assert (head["history"][-1]["ufs"], "purgedUfs" in head["history"][-1]) == (["53"], False)
    day.clock.forward(days=60)
    assert "withdrawn" not in day.tidy().tallies
    assert broken_promises(day.public, [DAY]) == []


def test_a_gap_never_leads_back_to_a_content_that_lost_files_which_may_be_read(day: MemoryDay) -> None:
    day.revise(A)
    day.change("withdraw", "53")
    day.clock.forward(days=31)
    day.tidy()
    context, inputs = day.inputs(B)
    published = publish_day(
        context, inputs=inputs, work=day.work, public=day.public, engine=day.engine, now=day.now, reason="restore"
    )
    folder = day.head()["current"]["path"].rpartition("/")[0]
    day.public.delete(f"{folder}/uf=53/imunizacao-total-df_{DAY}.csv")
    with pytest.raises(ContractViolation, match="no earlier revision was good"):
        day.reconcile(context, published)
    assert day.head()["state"] == "withdrawn"


# --- the work bucket ------------------------------------------------------------------------------


def landing(day: MemoryDay, run_id: str, *, hour: int, taken_over: LandingSlice | None = None) -> LandingSlice:
    """What extract leaves: one window of its own, or one that it took over from an earlier run."""
    context = day.context(run_id)
    prefix = context.prefix("extract")
    if taken_over is None:
        slice_ = f"{prefix}slice=20260314T030000Z_20260315T030000Z/"

        def ref(name: str) -> ObjectRef:
            key = f"{slice_}attempt-1-0000/{name}"
            body = f"{run_id} {name}".encode()
            day.work.put(key, body)
            return ObjectRef(key=key, sha256=sha256_of(body), bytes=len(body), rows=1)

        taken_over = LandingSlice(
            start="2026-03-14T03:00:00Z",
            end="2026-03-15T03:00:00Z",
            announced=1,
            distinct=1,
            lines=1,
            rejected=0,
            parts=[ref("part-0001.ndjson.zst")],
            page_log=ref("pages.ndjson"),
            rejects=None,
            pages=1,
            attempts=1,
            run_id=run_id,
        )
        day.work.put(slice_ + "slice.json", b"{}")
        day.work.put(f"{slice_}walk-00ff/page-000001", b"x")
    body = to_json(LandingManifest(day=DAY, slices=[taken_over])).encode()
    day.work.put(prefix + "manifest.json", body)
    receipt = make_inputs(context, [], day.work, hour=hour).extract
    manifest = ObjectRef(key=prefix + "manifest.json", sha256=sha256_of(body), bytes=len(body))
    text = replace(receipt, manifest=manifest).to_json().encode()
    day.work.put(prefix + "receipt.json", text)
    day.work.put(context.prefix("flatten") + "dose.parquet", b"x")
    day.work.put(f"{context.prefix('outcomes')}extract-1.json", b"{}")
    return taken_over


def test_earlier_runs_go_the_newest_landing_stays_with_what_it_took_over_and_goes_last(day: MemoryDay) -> None:
    first = landing(day, "first", hour=1)
    day.clock.forward(days=1)
    landing(day, "second", hour=2)
    day.clock.forward(days=1)
    landing(day, "third", hour=3, taken_over=first)
    day.clock.forward(days=8)
    report = day.tidy()
    assert report.tallies["checkpoints"].objects == 2
    assert set(report.tallies) == {"checkpoints"}
    day.clock.forward(days=25)
    before = set(day.listing())
    day.tidy()
    left = {key for key in day.listing() if "/outcomes/" not in key and "/housekeeping/" not in key}
    expected = {ref.key for ref in first.objects} | {
        first.parts[0].key.rpartition("/attempt")[0] + "/slice.json",
        f"v1/day={DAY}/run=third/extract/receipt.json",
        f"v1/day={DAY}/run=third/extract/manifest.json",
    }
    assert left == {f"work:{key}" for key in expected}
    assert len([key for key in day.listing() if f"day={DAY}" in key and "/outcomes/" in key]) == 3
    assert left < before
    day.clock.forward(days=60)
    report = day.tidy()
    assert report.tallies["landing"].objects == 2
    assert report.tallies["runs"].objects == 3
    day.clock.forward(days=365)
    day.tidy()
    assert keys(day, f"day={DAY}/run=") == []


def test_days_can_be_signed_again_as_long_as_outcomes_are_kept(day: MemoryDay) -> None:
    day.revise(A)
    day.revise(B)
    day.clock.forward(days=300)
    assert "receipts of publications stay as long as Data Docs" in "\n".join(describe_report(day.tidy()))
    left = [key for key in keys(day, "run=run-") if "/outcomes/" not in key]
    assert left == [f"work:v1/day={DAY}/run=run-{number}/publish/receipt.json" for number in (1, 2)]
    sign = partial(resign_day, day.public, DAY, now=day.now())
    assert sign(new_key()[1], vouched=receipts_vouch(day.work, "publish")) == (2, [])
    day.clock.forward(days=70)
    day.tidy()
    assert keys(day, "run=run-") == []
    done, unsigned = sign(new_key()[1], vouched=receipts_vouch(day.work, "publish"))
    assert (done, len(unsigned)) == (0, 2)


def test_a_run_of_the_last_days_keeps_every_run_of_its_day(day: MemoryDay) -> None:
    landing(day, "first", hour=1)
    day.clock.forward(days=60)
    landing(day, "second", hour=2)
    day.clock.forward(days=6)
    before = set(day.listing())
    assert day.tidy(delete=False).objects == 0
    assert set(day.listing()) == before


@pytest.mark.parametrize("damage", ["receipt", "manifest"])
def test_a_landing_that_cannot_be_read_keeps_every_run_of_its_day(day: MemoryDay, damage: str) -> None:
    landing(day, "first", hour=1)
    landing(day, "second", hour=2)
    key = f"v1/day={DAY}/run=second/extract/{damage}.json"
    day.work.put(key, b"{}") if damage == "receipt" else day.work.delete(key)
    day.clock.forward(days=50)
    before = set(day.listing())
    report = day.tidy(delete=False)
    assert (report.objects, set(day.listing())) == (0, before)
    assert [kept.name for kept in report.kept] == [f"work:run of {DAY}"]


def _put_pointer(day: MemoryDay, dataset: str, *, name: str = "current") -> None:
    pointer = {
        "schema": "imunizacao/quarantine/1",
        "day": DAY,
        "run_id": "r",
        "code_version": "c",
        "extracted_at": "2026-03-15T00:00:00+00:00",
        "publish": True,
        "dataset": {"key": dataset, "sha256": "0" * 64, "bytes": 1},
        "doses": 1,
        "documents": 1,
        "by_uf": {},
        "rules_sha256": "0" * 64,
        "references": {"cnes_competencia": "202602", "cnes_sha256": "0", "ibge_sha256": "0", "pni_sha256": "0"},
    }
    day.work.put(f"v1/quarantine/day={DAY}/{name}.json", json.dumps(pointer).encode())


def test_quarantine_and_acknowledgements_that_no_pointer_names_go_and_those_named_with_their_retention(
    day: MemoryDay,
) -> None:
    old, new, seen = (f"v1/quarantine/day={DAY}/q-{mark * 24}.parquet" for mark in "012")
    for key in (old, new, seen):
        day.work.put(key, b"x")
    day.revise(A)
    _put_pointer(day, seen, name=f"published-{day.head()['current']['contentId']}")
    _put_pointer(day, old, name=f"published-{'f' * 64}")
    _put_pointer(day, new)
    acks = f"v1/acks/day={DAY}/"
    names = ["cnes-0000001-000000000000.csv", "sem-cnes-000000000000.csv"]
    for name in (*names, "cnes-0000002-000000000000.csv"):
        day.work.put(acks + name, b"x")
    index = {
        "schema": "imunizacao/acks/1",
        "day": DAY,
        "content_id": "0" * 24,
        "extracted_at": "2026-03-15T00:00:00+00:00",
        "rules_sha256": "0" * 64,
        "files": [{"cnes": "", "path": name, "doses": 1, "lines": 1, "bytes": 1, "sha256": "0" * 64} for name in names],
    }
    day.work.put(acks + "index.json", json.dumps(index).encode())
    day.clock.forward(days=8)
    report = day.tidy()
    assert {kind: tally.objects for kind, tally in report.tallies.items()} == {"quarantine": 2, "acks": 1}
    assert keys(day, old) == keys(day, "f" * 64) == []
    assert len(keys(day, "quarantine/")) == 4
    assert len(keys(day, "acks/")) == 3

    day.clock.forward(days=200)
    day.tidy()
    assert keys(day, "quarantine/") == []
    assert keys(day, "acks/") == []


def test_a_replay_that_was_cut_off_keeps_its_quarantine_until_its_landing_is_gone(day: MemoryDay) -> None:
    pointer, plan = (f"v1/quarantine/day={DAY}/{name}.json" for name in ("current", "replay"))
    _put_pointer(day, f"v1/quarantine/day={DAY}/q-{'0' * 24}.parquet")
    day.work.put(plan, b"{}")
    _, inputs = day.inputs(A)
    landing = day.context("run-1").prefix("extract") + "receipt.json"
    day.work.put(landing, inputs.extract.to_json().encode())
    day.clock.forward(days=200)
    report = day.tidy(only=["quarantine"])
    assert [kept.why.split(":")[0] for kept in report.kept] == ["a replay of it was cut off"]
    assert keys(day, "/quarantine/") == [f"work:{pointer}", f"work:{plan}"]

    day.work.delete(landing)
    _put_pointer(day, f"v1/quarantine/day={DAY}/q-{'0' * 24}.parquet")
    day.tidy(only=["quarantine"])
    assert keys(day, "/quarantine/") == [f"work:{pointer}"]
    day.clock.forward(days=200)
    day.tidy(only=["quarantine"])
    assert keys(day, "/quarantine/") == []


def test_reports_go_after_a_year_and_the_index_of_all_days_with_them(day: MemoryDay) -> None:
    for name in ("index.html", "summary.json", "validations/x.html"):
        day.work.put(f"v1/docs/day={DAY}/{name}", b"{}")
    day.work.put("v1/docs/static/0123456789ab/x.css", b"x")
    day.work.put(f"v1/profiles/day={DAY}.json", b"{}")
    day.clock.forward(days=364)
    assert day.tidy(only=["docs"]).objects == 0
    day.clock.forward(days=2)
    assert day.tidy(only=["docs"]).tallies["docs"].objects == 3
    assert keys(day, "v1/docs/") == ["work:v1/docs/static/0123456789ab/x.css", "work:v1/docs/index.html"]


def test_the_outcome_has_the_counts_and_a_kind_that_does_not_exist_is_refused(day: MemoryDay) -> None:
    day.revise(A)
    superseded(day, B)
    day.clock.forward(days=8)
    day.tidy(run_id="weekly")
    outcome = json.loads(day.work.get("v1/day=2026-01-01/run=weekly/outcomes/housekeeping-1.json").body)
    assert outcome["state"] == "done"
    assert outcome["counts"]["content_groups"] == 1
    assert outcome["bytes"] == outcome["counts"]["content_bytes"] > 0
    with pytest.raises(ConfigurationError, match="nothing is no kind"):
        day.tidy(only=["nothing"])


def test_marks_in_a_head_are_read_by_this_version_alone_as_they_were_written(day: MemoryDay) -> None:
    day.revise(A)
    day.change("withdraw", "53")
    day.clock.forward(days=31)
    day.tidy()
    head = decode(Head, day.get(head_key(DAY)), "head")
    assert head.purged_ufs == {"53"}
    assert datetime.fromisoformat(head.withdrawn_ufs["53"].purged_at or "").tzinfo is not None
    assert day.clock.now.astimezone(UTC).isoformat(timespec="seconds") == head.withdrawn_ufs["53"].purged_at
