"""Lines of export files: wrapped without a changed byte, whole to their last one, deletions read or refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imunizacao.errors import MirrorProtocolError
from imunizacao.fhir import MAX_DEPTH, MAX_ENTRY_BYTES, Reject, Window, parse_instant
from imunizacao.fhir import ndjson as module
from imunizacao.fhir.ndjson import CutShort, pack_lines, read_deletions, read_lines
from imunizacao.fhir.pages import wrap_resource

BASE = "https://mirror.example.org/fhir/r4"
WINDOW = Window(start=datetime(2026, 3, 14, 3, tzinfo=UTC), end=datetime(2026, 3, 15, 3, tzinfo=UTC))
TRANSACTION = datetime(2026, 3, 16, 12, tzinfo=UTC)
CANARY = "Canario da Silva"


def bundle(**members: object) -> bytes:
    return json.dumps({"resourceType": "Bundle", "id": "doc-a", **members}, ensure_ascii=False).encode()


# --- a resource becomes an entry -------------------------------------------------------------------------


def test_a_resource_is_wrapped_with_its_bytes_as_they_came() -> None:
    raw = b'{ "resourceType":"Bundle",\t"id":"doc-a-i0b0", "meta":{"versionId":"2","lastUpdated":"2026-03-14T10:00:00Z"},"x":"\xc3\xa9"}'
    entry = wrap_resource(raw, BASE)
    assert entry.line == (
        b'{"fullUrl":"' + BASE.encode() + b'/Bundle/doc-a-i0b0","resource":' + raw + b',"search":{"mode":"match"}}'
    )
    assert (entry.id, entry.version, entry.reject) == ("doc-a-i0b0", "2", None)
    assert entry.last_updated == parse_instant("2026-03-14T10:00:00Z")


def test_a_resource_of_another_type_has_its_own_address() -> None:
    raw = b'{"resourceType":"Composition","id":"c-1","meta":{"lastUpdated":"2026-03-14T10:00:00Z"}}'
    assert json.loads(wrap_resource(raw, BASE).line)["fullUrl"] == f"{BASE}/Composition/c-1"


@pytest.mark.parametrize("raw", [b'{"resourceType":"Bundle"}', bundle(id=7), bundle(id=None), bundle(meta="x")])
def test_a_resource_whose_id_cannot_be_read_has_no_address_and_lands(raw: bytes) -> None:
    entry = wrap_resource(raw, BASE)
    assert entry.reject is None
    assert list(json.loads(entry.line)) == ["resource", "search"]
    assert entry.last_updated is None


def test_an_id_cannot_break_out_of_its_address() -> None:
    entry = wrap_resource(bundle(id='x","resource":{},"y":"'), BASE)
    assert json.loads(entry.line)["resource"]["id"] == 'x","resource":{},"y":"'


@pytest.mark.parametrize(
    ("raw", "reject"),
    [
        (b'{"a":1},"search":{"mode":"include"},"x":{"y":2}', Reject.JSON_INVALID),
        (b'{"a":1}{"b":2}', Reject.JSON_INVALID),
        (b'{"a":', Reject.JSON_INVALID),
        (b'{"a":"\x01"}', Reject.JSON_INVALID),
        (b'["a"]', Reject.JSON_INVALID),
        (b"null", Reject.JSON_INVALID),
        (b'{"a":"\\ud800"}', Reject.JSON_INVALID),
        (b'{"a":"\xff"}', Reject.UTF8_INVALID),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, Reject.DEPTH),
        (b'{"a":' * (MAX_DEPTH - 1) + b"1" + b"}" * (MAX_DEPTH - 1), None),
        (b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH, Reject.DEPTH),
        (b'{"a":"' + b"x" * MAX_ENTRY_BYTES + b'"}', Reject.DOC_TOO_LARGE),
    ],
    ids=str,
)
def test_a_line_that_cannot_land_is_kept_as_it_is_with_the_reason(raw: bytes, reject: Reject | None) -> None:
    entry = wrap_resource(raw, BASE)
    assert entry.reject == reject
    if reject is not None:
        assert entry.line == raw


# --- files -----------------------------------------------------------------------------------------------


def packed(folder: Path, body: bytes) -> tuple[int, list[bytes]]:
    source, target = folder / "file.ndjson", folder / "file.ndjson.zst"
    source.write_bytes(body)
    lines = pack_lines(source, target, where="output file 1")
    return lines, list(read_lines(target))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1}\n{"a":2}\n',
        b'{"a":1}\n{"a":2}',
        b'{"a":1}\r\n{"a":2}\r\n',
        b'\xef\xbb\xbf{"a":1}\n\n  \n{"a":2} \n\n',
    ],
    ids=["as it should be", "no break at the end", "breaks of Windows", "mark and blank lines"],
)
def test_lines_are_counted_without_the_blank_ones(tmp_path: Path, body: bytes) -> None:
    assert packed(tmp_path, body) == (2, [b'{"a":1}', b'{"a":2}'])


def test_a_file_may_be_empty(tmp_path: Path) -> None:
    assert packed(tmp_path, b"") == (0, [])


@pytest.mark.parametrize("body", [b'{"a":1}\n{"a":', b'{"a":1}\n{"a":"{', b'{"a":1', b'{"a":1}\n{"a":2}\n{'])
def test_a_file_that_ends_in_the_middle_of_a_line_is_not_whole(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(CutShort):
        packed(tmp_path, body)


def test_a_line_that_is_no_json_is_for_landing_to_judge(tmp_path: Path) -> None:
    assert packed(tmp_path, b'{"a":\n{"a":2}\n') == (2, [b'{"a":', b'{"a":2}'])


def test_a_deep_last_line_without_a_break_is_whole(tmp_path: Path) -> None:
    line = b'{"a":' * 200_000 + b"1" + b"}" * 200_000
    assert packed(tmp_path, line)[0] == 1


def test_a_line_that_fits_no_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 100)
    with pytest.raises(MirrorProtocolError, match="A line of output file 1 is larger than"):
        packed(tmp_path, b'{"a":1}\n{"a":"' + b"x" * 200 + b'"}\n')


# --- deletions -------------------------------------------------------------------------------------------


def transaction(*urls: str, instant: str | None = None, **more: object) -> bytes:
    meta = {"meta": {"lastUpdated": instant}} if instant else {}
    entries = [{"request": {"method": "DELETE", "url": url}} for url in urls]
    return json.dumps({"resourceType": "Bundle", **meta, "type": "transaction", "entry": entries, **more}).encode()


def deletions(folder: Path, *lines: bytes) -> module.Deletions:
    source, target = folder / "deleted.ndjson", folder / "deleted.ndjson.zst"
    source.write_bytes(b"\n".join(lines) + b"\n")
    pack_lines(source, target, where="deleted file 1 of 1")
    return read_deletions([(target, "deleted file 1 of 1")], window=WINDOW, transaction_time=TRANSACTION, base_url=BASE)


def test_a_deleted_document_has_a_landing_line(tmp_path: Path) -> None:
    found = deletions(
        tmp_path,
        transaction("Composition/doc-b", f"{BASE}/Bundle/doc-a-i0b0", instant="2026-03-14T12:00:00Z"),
        transaction("Bundle/doc-c"),
    )
    assert [json.loads(entry.line) for entry in found.documents] == [
        {
            "fullUrl": f"{BASE}/Bundle/{identity}",
            "request": {"method": "DELETE", "url": f"Bundle/{identity}"},
            "response": {"lastModified": instant},
        }
        for identity, instant in [
            ("doc-a-i0b0", "2026-03-14T12:00:00Z"),
            ("doc-b", "2026-03-14T12:00:00Z"),
            ("doc-c", "2026-03-16T12:00:00Z"),
        ]
    ]
    assert found.others == {}


def test_a_document_deleted_twice_is_one_line_with_the_later_instant(tmp_path: Path) -> None:
    found = deletions(
        tmp_path,
        transaction("Bundle/doc-a", instant="2026-03-14T13:00:00Z"),
        transaction("Bundle/doc-a", instant="2026-03-14T12:00:00Z"),
        transaction("Composition/doc-a"),
    )
    (entry,) = found.documents
    assert json.loads(entry.line)["response"]["lastModified"] == "2026-03-14T13:00:00Z"


def test_deletions_of_other_resources_are_counted_by_type(tmp_path: Path) -> None:
    found = deletions(tmp_path, transaction("Patient/1", "Immunization/2", "Patient/3", "Bundle/doc-a"))
    assert found.others == {"Immunization": 1, "Patient": 2}
    assert [entry.id for entry in found.documents] == ["doc-a"]


@pytest.mark.parametrize(
    ("instant", "outside"),
    [
        ("2026-03-14T02:59:59.999Z", True),
        ("2026-03-14T03:00:00Z", False),
        ("2026-03-15T02:59:59.999Z", False),
        ("2026-03-15T03:00:00Z", True),
        ("2026-03-16T11:59:59Z", True),
        ("2026-03-16T12:00:00Z", False),
        ("not an instant", False),
    ],
)
def test_a_deletion_of_another_day_is_left_to_that_day(tmp_path: Path, instant: str, outside: bool) -> None:
    found = deletions(tmp_path, transaction("Bundle/doc-a", instant=instant))
    assert (found.outside, len(found.documents)) == ((1, 0) if outside else (0, 1))


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b'{"resourceType":"Bundle","type":"transaction"}',
        transaction("Bundle/doc-a", type="collection"),
        transaction("Bundle/doc-a", resourceType="Patient"),
        transaction(f"Patient?name={CANARY}"),
        transaction("Bundle/doc-a", "Bundle/doc a"),
        transaction(entry=[{"request": {"method": "PUT", "url": "Bundle/doc-a"}}]),
        transaction(entry=[{"resource": {}}]),
    ],
    ids=str,
)
def test_a_line_of_deletions_that_cannot_be_read_may_hide_one(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(MirrorProtocolError, match=r"Line 2 of deleted file 1 of 1 .*mirror-export\.md") as caught:
        deletions(tmp_path, transaction("Bundle/doc-b"), line)
    assert CANARY not in str(caught.value)
