"""Cutting a page into entries: whatever one entry holds, the others stay as they came."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imunizacao.fhir import pages
from imunizacao.fhir.pages import MAX_DEPTH, BadPage, Reject, is_too_deep, outcome_code, read_page

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=30,
)


def page(*entries: bytes, head: bytes = b'"resourceType":"Bundle","type":"searchset"') -> bytes:
    return b"{" + head + b',"entry":[' + b" , ".join(entries) + b"]}"


@given(st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=4), max_size=5), st.booleans())
def test_entries_come_out_as_the_bytes_that_went_in(values: list[dict[str, object]], ascii_only: bool) -> None:
    raws = [
        json.dumps({"id_": value}, ensure_ascii=ascii_only, allow_nan=False).encode("utf-8", "surrogatepass")
        for value in values
    ]
    content = read_page(page(*raws))
    assert [entry.line for entry in content.entries] == raws
    assert {entry.reject for entry in content.entries} <= {None, Reject.UTF8_INVALID}


@given(st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=4), max_size=5))
def test_the_slow_cutter_finds_the_same_entries_as_the_fast_one(values: list[dict[str, object]]) -> None:
    raws = [json.dumps(value, indent=1).encode() for value in values]
    cut = pages._cut_entries(page(*raws, head=b'"text":{"div":"]}[{"},"resourceType":"Bundle","type":"searchset"'))
    assert cut is not None
    assert cut[1] == raws
    assert (cut[0].resourceType, cut[0].type) == ("Bundle", "searchset")


@given(JSON)
def test_depth_is_counted_as_a_parser_counts_it(value: object) -> None:
    def depth(node: object) -> int:
        if isinstance(node, dict):
            return 1 + max(map(depth, node.values()), default=0)
        if isinstance(node, list):
            return 1 + max(map(depth, node), default=0)
        return 0

    text = json.dumps(value).encode()
    for limit in range(6):
        assert is_too_deep(text, limit) == (depth(value) > limit)


@pytest.mark.parametrize(
    ("levels", "deep"), [(MAX_DEPTH - 1, False), (MAX_DEPTH, False), (MAX_DEPTH + 1, True), (200_000, True)]
)
def test_the_depth_limit_is_exact_and_needs_no_recursion(levels: int, deep: bool) -> None:
    assert is_too_deep(b'{"a":"[[[[\\"",' * 0 + b"[" * levels + b"]" * levels) is deep


def test_brackets_in_strings_are_not_depth() -> None:
    assert not is_too_deep(b'{"a":"' + b"[" * 500 + b'\\"' + b"{" * 500 + b'"}')


def test_many_shallow_elements_are_not_deep() -> None:
    assert not is_too_deep(b"[" + b"{}," * 5000 + b"{}]")


def test_an_entry_too_deep_for_any_parser_spoils_only_itself() -> None:
    deep = b'{"resource":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"
    content = read_page(page(b'{"fullUrl":"a"}', deep, b'{"fullUrl":"b"}'))
    assert [(entry.id, entry.reject) for entry in content.entries] == [("a", None), ("", Reject.DEPTH), ("b", None)]
    assert content.entries[1].line == deep


def test_an_entry_between_the_limit_and_the_parsers_limit_is_too_deep_as_well() -> None:
    entry = b'{"fullUrl":"a","x":' + b"[" * 300 + b"]" * 300 + b"}"
    (found,) = read_page(page(entry)).entries
    assert (found.id, found.reject) == ("a", Reject.DEPTH)


@pytest.mark.parametrize(
    "defect",
    [b'"\\ud800"', b'"\\x"', b"01", b"nul", b'"a":"b"'],
    ids=["lone surrogate", "bad escape", "bad number", "bad literal", "two colons"],
)
def test_an_entry_that_is_not_json_is_left_to_flatten(defect: bytes) -> None:
    broken = b'{"a":' + defect + b"}"
    content = read_page(page(b'{"fullUrl":"x"}', broken))
    assert [(entry.line, entry.reject) for entry in content.entries] == [(b'{"fullUrl":"x"}', None), (broken, None)]


@pytest.mark.parametrize("control", [b"\n", b"\r", b"\x00", b"\x01", b"\t"])
def test_an_entry_with_a_raw_control_character_in_a_string_is_never_repaired(control: bytes) -> None:
    broken = b'{"lot":"a' + control + b'b"}'
    (entry,) = read_page(page(broken)).entries
    assert (entry.line, entry.reject) == (broken, Reject.JSON_INVALID)


@pytest.mark.parametrize("cut", [1, 20, 60, 75, -2, -1])
def test_a_truncated_page_is_refused_as_a_whole(cut: int) -> None:
    with pytest.raises(BadPage):
        read_page(page(b'{"fullUrl":"a","note":"}]}"}', b'{"fullUrl":"b"}')[:cut])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>Bem-vindo</body></html>",
        b"[]",
        b'{"resourceType":"Bundle","type":"document","entry":[]}',
        b'{"resourceType":"Patient"}',
        b'{"resourceType":"Bundle","type":"searchset","entry":{}}',
        b'{"resourceType":"Bundle","type":"searchset","total":"7"}',
        b'{"resourceType":"Bundle","type":"searchset"}{}',
    ],
)
def test_only_a_search_page_is_a_page(body: bytes) -> None:
    with pytest.raises(BadPage):
        read_page(body)


def test_a_page_of_another_kind_is_named_by_code_and_never_quoted() -> None:
    body = json.dumps(
        {
            "resourceType": "OperationOutcome",
            "issue": [{"code": "security", "diagnostics": "(EHR-ERR882) token de 700000000000005"}],
        }
    ).encode()
    with pytest.raises(BadPage) as failure:
        read_page(body)
    assert str(failure.value) == "expected a Bundle of type searchset, got OperationOutcome/nothing (EHR-ERR882)"


@pytest.mark.parametrize(
    ("diagnostics", "code", "expected"),
    [
        ("(EHR-ERR882) Token expirado", "security", "EHR-ERR882"),
        ("(EDS-MSG009) texto", "processing", "EDS-MSG009"),
        ("CNS 700000000000005 (EHR-ERR882)", "processing", "processing"),
        ("", "not-found", "not-found"),
        (None, "CNS 700000000000005", ""),
    ],
)
def test_of_an_outcome_only_a_code_is_kept(diagnostics: str | None, code: str, expected: str) -> None:
    body = json.dumps(
        {"resourceType": "OperationOutcome", "issue": [{"code": code, "diagnostics": diagnostics}]}
    ).encode()
    assert outcome_code(body) == expected


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[" * 5000, b'{"resourceType":"OperationOutcome","issue":3}', b"\xff"]
)
def test_an_error_body_of_any_kind_has_no_code(body: bytes) -> None:
    assert outcome_code(body) == ""


def test_a_byte_order_mark_is_no_part_of_the_page() -> None:
    assert len(read_page(b"\xef\xbb\xbf" + page(b"{}")).entries) == 1


def test_the_identity_of_a_version_is_id_and_version_or_instant_or_the_bytes() -> None:
    def key(entry: object) -> str:
        (found,) = read_page(page(json.dumps(entry).encode())).entries
        return found.key

    assert key({"resource": {"id": "a", "meta": {"versionId": "2", "lastUpdated": "2026-03-13T10:00:00Z"}}}) == "a|2"
    assert key({"resource": {"id": "a", "meta": {"versionId": 2}}}) == "a|2"
    assert key({"resource": {"id": "a", "meta": {"lastUpdated": "2026-03-13T10:00:00Z"}}}) == "a|2026-03-13T10:00:00Z"
    assert key({"fullUrl": "http://m/Bundle/a"}) == "http://m/Bundle/a|"
    assert key({"resource": {"id": 3}}) == key({"resource": {"id": 3}})
    assert key({"resource": {"id": 3}}) != key({"resource": {"id": 4}})


@pytest.mark.parametrize("text", ["2026-03-13", "yesterday", "2026-03-13T10:00:00", "", "2026-13-13T10:00:00Z"])
def test_an_unreadable_instant_is_left_to_flatten(text: str) -> None:
    (entry,) = read_page(page(json.dumps({"resource": {"id": "a", "meta": {"lastUpdated": text}}}).encode())).entries
    assert entry.last_updated is None
    assert entry.reject is None
