"""Documents out of separate resources: which parts, in which order, in which window, and at what cost of memory."""

from __future__ import annotations

import json
import logging
import random
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from imunizacao.errors import StorageUnavailable
from imunizacao.fhir import Assembler, Entry, Reject, Window

BASE = "https://mirror.example.org/fhir/r4"
START = datetime(2026, 3, 14, 3, tzinfo=UTC)
DAY = Window(start=START, end=START + timedelta(days=1))
MORNING, EVENING = DAY.cut(timedelta(hours=12))
RIA = {"coding": [{"code": "RIA"}]}


def at(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def line(kind: str, identity: str | None, updated: str | None, version: str = "", **more: Any) -> bytes:
    """A landed entry of a resource."""
    meta: dict[str, Any] = {"versionId": version} if version else {}
    if updated is not None:
        meta["lastUpdated"] = updated
    resource = {"resourceType": kind, "id": identity, "meta": meta, **more}
    entry = {"fullUrl": f"{BASE}/{kind}/{identity}", "resource": resource, "search": {"mode": "match"}}
    return json.dumps(entry).encode()


def composition(identity: str, updated: str | None, *doses: str, **more: Any) -> bytes:
    section = [{"entry": [{"reference": dose if "/" in dose else f"Immunization/{dose}"} for dose in doses]}]
    return line("Composition", identity, updated, **{"type": RIA, "section": section, **more})


def dose(identity: str, updated: str | None, **more: Any) -> bytes:
    return line("Immunization", identity, updated, **more)


@pytest.fixture
def assembler(tmp_path: Path) -> Assembler:
    return Assembler(tmp_path)


def put(assembler: Assembler, *lines: bytes, matched: bool = True) -> None:
    for one in lines:
        assembler.add(one, matched=matched)


def bundles(assembler: Assembler, window: Window = DAY) -> list[dict[str, Any]]:
    return [json.loads(entry.line)["resource"] for entry in assembler.documents(window)]


def parts(bundle: dict[str, Any]) -> list[str]:
    """`Type/id` and version of the parts of a document."""
    found = []
    for entry in bundle["entry"]:
        resource = entry["resource"]
        version = resource["meta"].get("versionId", "")
        found.append(f"{resource['resourceType']}/{resource['id']}" + (f"@{version}" if version else ""))
    return found


# ---------------------------------------------------------------- one document


def test_a_document_has_its_parts_in_canonical_order_whatever_came_first(assembler: Assembler) -> None:
    put(
        assembler,
        line("Organization", "2077485", at(-9000)),
        line("Patient", "p1", at(-5000)),
        line("Patient", "somebody-else", at(-5000)),
        dose("d2", at(5), patient={"reference": "Patient/p1"}),
        line("Condition", "c1", at(5)),
        dose("d1", at(5), reasonReference=[{"reference": "Condition/c1"}], patient={"reference": f"{BASE}/Patient/p1"}),
        composition("doc", at(5), "d1", "d2", author=[{"reference": "Organization/2077485/_history/3"}]),
    )
    (bundle,) = bundles(assembler)
    assert parts(bundle) == [
        "Composition/doc",
        "Immunization/d1",
        "Immunization/d2",
        "Condition/c1",
        "Patient/p1",
        "Organization/2077485",
    ]


def test_a_document_is_the_search_entry_that_a_mirror_of_documents_gives(assembler: Assembler) -> None:
    identifier = {"system": "http://x/NamingSystem/BRRNDS-12", "value": 'a "local" id'}
    put(assembler, dose("d1", at(5)), composition("doc", at(5), "d1", version="7", identifier=identifier))
    (entry,) = assembler.documents(DAY)
    read = json.loads(entry.line)
    assert list(read) == ["fullUrl", "resource", "search"]
    assert read["fullUrl"] == f"{BASE}/Bundle/doc"
    assert read["search"] == {"mode": "match"}
    bundle = read["resource"]
    assert list(bundle) == ["resourceType", "id", "meta", "identifier", "type", "timestamp", "entry"]
    assert (bundle["resourceType"], bundle["id"], bundle["type"]) == ("Bundle", "doc", "document")
    assert bundle["meta"] == {"versionId": "7", "lastUpdated": at(5)}
    assert bundle["identifier"] == identifier
    assert [one["fullUrl"] for one in bundle["entry"]] == [f"{BASE}/Composition/doc", f"{BASE}/Immunization/d1"]
    assert (entry.id, entry.version, entry.last_updated) == ("doc", "7", START + timedelta(minutes=5))
    assert entry.reject is None


def test_resources_keep_their_bytes(assembler: Assembler) -> None:
    resource = (
        b'{ "id":"d1",  "resourceType" : "Immunization","meta":{"lastUpdated":"%b"},"lotNumber":"\\u00e7\xc3\xa7","n":1.50}'
        % at(5).encode()
    )
    put(assembler, b'{"resource":%b,"search":{"mode":"match"}}' % resource, composition("doc", at(5), "d1"))
    (entry,) = assembler.documents(DAY)
    assert b'{"resource":%b}' % resource in entry.line


def test_a_dose_and_its_composition_may_share_an_id(assembler: Assembler) -> None:
    put(assembler, dose("same", at(5)), composition("same", at(5), "same"))
    assert [parts(one) for one in bundles(assembler)] == [["Composition/same", "Immunization/same"]]


@pytest.mark.parametrize(
    "reference",
    ["Immunization/d1", "/Immunization/d1", f"{BASE}/Immunization/d1", f"{BASE}/Immunization/d1/_history/2"],
)
def test_a_reference_may_have_any_form(assembler: Assembler, reference: str) -> None:
    put(assembler, dose("d1", at(5)), composition("doc", at(5), reference))
    assert [parts(one) for one in bundles(assembler)] == [["Composition/doc", "Immunization/d1"]]


def test_doses_of_inner_sections_belong_to_the_document(assembler: Assembler) -> None:
    inner = [{"section": [{"entry": [{"reference": "Immunization/d1"}]}]}]
    put(assembler, dose("d1", at(5)), composition("doc", at(5), section=inner))
    assert [parts(one) for one in bundles(assembler)] == [["Composition/doc", "Immunization/d1"]]


def test_a_list_of_identifiers_gives_its_first_one(assembler: Assembler) -> None:
    put(assembler, composition("doc", at(5), identifier=[{"value": "a"}, {"value": "b"}]))
    put(assembler, composition("none", at(6), identifier=[]), composition("odd", at(7), identifier="a"))
    assert [one.get("identifier") for one in bundles(assembler)] == [{"value": "a"}, None, None]


# ---------------------------------------------------------------- windows and versions


def test_a_document_comes_only_in_the_window_of_its_newest_part(assembler: Assembler) -> None:
    put(assembler, composition("late-dose", at(60), "d1"), dose("d1", at(800)))
    put(assembler, composition("late-composition", at(900), "d2"), dose("d2", at(30)))
    assert bundles(assembler, MORNING) == []
    evening = bundles(assembler, EVENING)
    assert [(one["id"], one["meta"]["lastUpdated"]) for one in evening] == [
        ("late-dose", at(800)),
        ("late-composition", at(900)),
    ]
    assert len(bundles(assembler)) == 2


def test_the_end_of_a_window_belongs_to_the_next_one(assembler: Assembler) -> None:
    put(assembler, composition("doc", at(720)))
    assert [len(bundles(assembler, window)) for window in (MORNING, EVENING)] == [0, 1]


def test_instants_are_compared_whatever_their_offset(assembler: Assembler) -> None:
    put(assembler, composition("doc", "2026-03-14T00:05:00.000-03:00", "d1"), dose("d1", "2026-03-14T03:04:00.000Z"))
    assert [one["meta"]["lastUpdated"] for one in bundles(assembler)] == ["2026-03-14T00:05:00.000-03:00"]


def test_two_versions_of_a_composition_are_two_documents_with_the_doses_that_fit(assembler: Assembler) -> None:
    put(assembler, dose("d1", at(9), version="2"), dose("d1", at(5), version="1"))
    put(assembler, composition("doc", at(9), "d1", version="2"), composition("doc", at(5), "d1", version="1"))
    found = bundles(assembler)
    assert [parts(one) for one in found] == [
        ["Composition/doc@1", "Immunization/d1@1"],
        ["Composition/doc@2", "Immunization/d1@2"],
    ]
    assert [one["meta"]["versionId"] for one in found] == ["1", "2"]


def test_versions_of_one_instant_stay_apart(assembler: Assembler) -> None:
    put(assembler, composition("doc", at(5), "d1", version="1"), composition("doc", at(5), "d1", version="2"))
    put(assembler, dose("d1", at(5), version="2"), dose("d1", at(5), version="1"))
    assert [parts(one) for one in bundles(assembler)] == [
        ["Composition/doc@1", "Immunization/d1@1"],
        ["Composition/doc@2", "Immunization/d1@2"],
    ]


def test_a_dose_that_is_written_just_after_its_composition_makes_no_second_document(assembler: Assembler) -> None:
    put(assembler, composition("doc", at(5), "d1"), dose("d1", at(5.1)))
    (bundle,) = bundles(assembler)
    assert bundle["meta"]["lastUpdated"] == at(5.1)


def test_a_dose_that_changes_alone_is_a_version_of_the_document(assembler: Assembler) -> None:
    put(assembler, composition("doc", at(5), "d1", version="1"), dose("d1", at(5), version="1"))
    put(assembler, dose("d1", at(50), version="2"))
    entries = list(assembler.documents(DAY))
    assert [parts(json.loads(entry.line)["resource"]) for entry in entries] == [
        ["Composition/doc@1", "Immunization/d1@1"],
        ["Composition/doc@1", "Immunization/d1@2"],
    ]
    assert len({entry.key for entry in entries}) == 2


def test_a_neighbour_is_shown_as_it_was(assembler: Assembler) -> None:
    put(assembler, line("Patient", "p1", at(4), version="1"), line("Patient", "p1", at(90), version="2"))
    put(assembler, composition("early", at(5), subject={"reference": "Patient/p1"}))
    put(assembler, composition("late", at(95), subject={"reference": "Patient/p1"}))
    assert [parts(one)[1] for one in bundles(assembler)] == ["Patient/p1@1", "Patient/p1@2"]


def test_the_same_version_is_kept_once(assembler: Assembler, tmp_path: Path) -> None:
    one = dose("alone", at(5))
    put(assembler, one, one, matched=False)
    assert bundles(assembler) == []
    put(assembler, one)
    assert len(bundles(assembler)) == 1, "what came beside another match may be a match later"
    assert (tmp_path / "resources.ndjson").stat().st_size == len(one)


def test_the_order_is_total_and_does_not_depend_on_arrival(tmp_path: Path) -> None:
    lines = [composition(f"doc-{n % 7}{n}", at(n // 10), f"d{n}") for n in range(60)]
    lines += [dose(f"d{n}", at(n // 10)) for n in range(60)]
    results = []
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assembler = Assembler(folder)
        put(assembler, *random.Random(seed).sample(lines, len(lines)))
        results.append([entry.line for entry in assembler.documents(DAY)])
    assert results[0] == results[1] == results[2]
    order = [
        (json.loads(one)["resource"]["meta"]["lastUpdated"], json.loads(one)["resource"]["id"]) for one in results[0]
    ]
    assert order == sorted(order)
    assert len(order) == 60


def test_where_compositions_are_not_searched_the_doses_decide(tmp_path: Path) -> None:
    assembler = Assembler(tmp_path, compositions_searched=False)
    put(assembler, dose("d1", at(60)))
    put(assembler, composition("doc", at(800), "d1"), matched=False)
    assert bundles(assembler, EVENING) == []
    (bundle,) = bundles(assembler, MORNING)
    assert parts(bundle) == ["Composition/doc", "Immunization/d1"]
    assert bundle["meta"]["lastUpdated"] == at(60)


# ---------------------------------------------------------------- what does not fit together


def test_what_a_composition_names_and_has_not_come_is_missing(assembler: Assembler) -> None:
    put(assembler, dose("d2", at(5)), composition("doc", at(5), "d1", "d2", "d3"))
    assert assembler.missing() == ["Immunization/d1", "Immunization/d3"]
    put(assembler, dose("d3", at(5)), matched=False)
    assert assembler.missing() == ["Immunization/d1"]
    assert [parts(one) for one in bundles(assembler)] == [["Composition/doc", "Immunization/d2", "Immunization/d3"]]


def test_a_composition_without_its_dose_is_a_document_without_dose(
    assembler: Assembler, caplog: pytest.LogCaptureFixture
) -> None:
    put(assembler, composition("doc", at(5), "gone"))
    with caplog.at_level(logging.INFO, logger="imunizacao"):
        assert [parts(one) for one in bundles(assembler)] == [["Composition/doc"]]
    (record,) = [record for record in caplog.records if "assemble.done" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "documents=1 without_composition=0 with_doses_missing=1" in record.getMessage()


def test_a_dose_without_composition_still_lands(assembler: Assembler) -> None:
    put(assembler, dose("d1", at(5)), composition("d1", at(5), "another"))
    alone = [one for one in bundles(assembler) if "Composition/d1" not in parts(one)]
    assert [(one["id"], parts(one)) for one in alone] == [("Immunization-d1", ["Immunization/d1"])]
    assert alone[0]["type"] == "document"


def test_a_dose_that_only_came_beside_others_is_nobody_s_loss(assembler: Assembler) -> None:
    put(assembler, dose("d1", at(5)), matched=False)
    assert bundles(assembler) == []


def test_a_document_of_another_kind_is_counted_and_left_out(
    assembler: Assembler, caplog: pytest.LogCaptureFixture
) -> None:
    other = composition("exam", at(5), "d1", type={"coding": [{"code": "REL"}]})
    put(
        assembler, other, other, composition("untyped", at(6), type={"text": "RIA"}), composition("none", at(7), type=3)
    )
    assert assembler.missing() == []
    with caplog.at_level(logging.INFO, logger="imunizacao"):
        assert [one["id"] for one in bundles(assembler)] == ["untyped", "none"]
    assert assembler.left_out == 1
    assert "other_documents=1" in caplog.text


@pytest.mark.parametrize(
    "broken",
    [
        b'{"resource":{"resourceType":"Immunization","id":"d1"',
        b'{"resource":{"resourceType":"Immunization","meta":{}}}',
        b'{"resource":{"resourceType":"Practitioner","id":"x"}}',
        b"[]",
    ],
)
def test_a_match_that_is_no_resource_of_a_document_stays_the_line_that_it_was(
    assembler: Assembler, broken: bytes
) -> None:
    put(assembler, broken)
    assert [entry.line for entry in assembler.documents(DAY)] == [broken]


def test_a_line_that_came_beside_a_match_and_cannot_be_read_is_counted(assembler: Assembler) -> None:
    put(assembler, b"[]", b'{"resource":{"resourceType":"Practitioner","id":"x"}}', matched=False)
    assert list(assembler.documents(DAY)) == []
    assert assembler.unreadable == 1


def test_a_resource_without_an_instant_is_not_lost(assembler: Assembler) -> None:
    put(assembler, composition("doc", None, "d1"), dose("d1", "yesterday"), dose("alone", None))
    assert sorted(one["id"] for one in bundles(assembler)) == ["Immunization-alone", "doc"]


def test_fields_of_another_shape_do_not_stop_a_document(assembler: Assembler) -> None:
    put(
        assembler,
        composition("doc", at(5), section="x", author="y", subject=[1]),
        dose("d1", at(5), performer={"a": 1}),
    )
    assert len(bundles(assembler)) == 2


def test_a_document_too_large_for_a_line_is_rejected_with_its_bytes(assembler: Assembler) -> None:
    padding = "x" * (9 << 20)
    put(assembler, composition("doc", at(5), "d1", "d2"), *(dose(one, at(5), text=padding) for one in ("d1", "d2")))
    (entry,) = assembler.documents(DAY)
    assert entry.reject is Reject.DOC_TOO_LARGE
    assert len(entry.line) > 18 << 20


def test_a_document_that_nests_too_deep_is_rejected(assembler: Assembler) -> None:
    nested: Any = 1
    for _ in range(118):
        nested = [nested]
    put(assembler, composition("doc", at(5), extra=nested))
    (entry,) = assembler.documents(DAY)
    assert entry.reject is Reject.DEPTH


# ---------------------------------------------------------------- cost


@pytest.mark.slow
def test_the_index_stays_under_250_bytes_per_resource(tmp_path: Path) -> None:
    """6,000 documents of 3 KB: the bytes are on disk, in memory there is only the index."""
    count = 6_000
    padding = "x" * 1000
    tracemalloc.start()
    try:
        assembler = Assembler(tmp_path)
        for n in range(count):
            patient = {"reference": f"Patient/{n}"}
            assembler.add(dose(f"dose-{n}", at(n / 5), patient=patient, note=padding), matched=True)
            assembler.add(composition(f"document-{n}", at(n / 5), f"dose-{n}", note=padding), matched=False)
            assembler.add(line("Patient", str(n), at(-1)), matched=False)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        assert sum(1 for _ in assembler.documents(DAY)) == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 250 * 3 * count + (2 << 20), f"{held / (3 * count):.0f} bytes per resource"
    assert peak < 500 * 3 * count


def test_no_file_stays_open_between_calls(assembler: Assembler, tmp_path: Path) -> None:
    put(assembler, composition("doc", at(5)))
    first = next(assembler.documents(DAY))
    assert isinstance(first, Entry)
    (tmp_path / "resources.ndjson").rename(tmp_path / "moved")
    (tmp_path / "resources.ndjson").mkdir()
    with pytest.raises(StorageUnavailable, match="Cannot keep resources"):
        list(assembler.documents(DAY))


def test_a_disk_that_fails_is_a_storage_error(tmp_path: Path) -> None:
    assembler = Assembler(tmp_path / "nowhere")
    with pytest.raises(StorageUnavailable, match="No such file or directory"):
        assembler.add(dose("d1", at(5), note="x" * (1 << 20)), matched=True)
