"""Elements that no known profile has are named and counted, and nothing else about a document changes."""

from __future__ import annotations

import copy
import csv
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imunizacao.errors import ConfigurationError
from imunizacao.fhir.elements import (
    ILLEGIBLE,
    MAX_PATHS,
    OTHERS,
    TABLE,
    KnownElements,
    known_elements,
    merge_unknown,
    read_elements,
)
from imunizacao.fhir.landing import LandingWriter, PageBlock, encode_page
from imunizacao.fhir.pages import Page, Reject, is_too_deep, read_page
from tests.mirror import cnes
from tests.mirror.content import Country
from tests.mirror.documents import Archive, Settings
from tests.unit.fhir_documents import BASE, KINDS, Json, build_entry, changed, invent_person, line_of, resources

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "fhir_examples").glob("*.json"))
KNOWN = known_elements()
DOCS = 20_000
"""Of the simulator's day: enough for every trap and every kind of document."""


def document(seed: int = 1, **options: Any) -> Json:
    """A document of the shapes that the RNDS has used."""
    rng = random.Random(seed)
    return build_entry(rng, identifier=f"doc-{seed}", person=invent_person(rng), **options)


def page_of(*entries: bytes) -> bytes:
    return b'{"resourceType":"Bundle","type":"searchset","entry":[' + b",".join(entries) + b"]}"


def is_taken(line: bytes) -> bool:
    """Whether the decoder of known elements takes a document: the fast way."""
    try:
        KNOWN.decoder.decode(line)
    except msgspec.ValidationError:
        return False
    return True


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


# --- the table knows what has been seen -----------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> list[bytes]:
    """Search entries of a day of the simulator, one of seven."""
    day = Archive(Country.read(), Settings(seed=7, docs_per_day=DOCS)).day(date(2026, 3, 14))
    lines = []
    for k in range(0, DOCS, 7):
        text = day.document(k)
        lines.append(
            b'{"fullUrl":"https://mirror.example.org/fhir/r4/Bundle/x","resource":'
            + text.encode()
            + b',"search":{"mode":"match"}}'
        )
    return lines


def test_every_shape_of_the_simulator_is_known_and_read_the_fast_way_except_the_planted_fields(
    served: list[bytes],
) -> None:
    odd = [line for line in served if not is_taken(line)]
    assert all(b"campoNovo" in line for line in odd)
    assert len(odd) == sum(b"campoNovo" in line for line in served) > 2
    for line in odd:
        assert sorted(KNOWN.unknown(line)) == ["Composition.campoNovo", "Immunization.extension[CampoNovo]"]
    assert not any(KNOWN.unknown(line) for line in served if line not in odd)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_known(path: Path) -> None:
    found = json.loads(path.read_bytes())
    entries = found["entry"] if found["type"] == "searchset" else [{"resource": found}]
    entries = [entry for entry in entries if entry["resource"]["resourceType"] != "OperationOutcome"]
    assert entries
    for entry in entries:
        assert KNOWN.unknown(json.dumps(entry).encode()) == []


def test_the_elements_of_the_official_examples_are_in_the_table() -> None:
    lines = (Path(cnes.__file__).parent / "known_elements.txt").read_text(encoding="utf-8").splitlines()
    official = {line for line in lines if line and not line.startswith("#")}
    flat = {re.sub(r"\[[^]]*\]", "", element) for element in read_elements()}
    implied = {path for path in official if path.endswith((".resourceType", "extension.url"))}
    assert official - implied <= flat


@pytest.mark.parametrize("kind", KINDS)
def test_the_documents_of_the_other_tests_are_known(kind: Any) -> None:
    for seed in range(40):
        assert is_taken(line_of(document(seed, kind=kind, doses=1 + seed % 3, with_patient=bool(seed % 2))))


def test_every_line_of_the_table_is_one_element_with_its_origin() -> None:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert len({row["elemento"] for row in rows}) == len(rows) > 200
    assert {row["origem"] for row in rows} == {
        "RIA-R 2.0",
        "RIA-C 1.0",
        "Carga 1.0",
        "rascunhos 2020",
        "leitura RNDS",
        "espelho",
        "R4",
        "BR-Core",
    }


@pytest.mark.parametrize(
    "wrong",
    ["Immunization.", "Immunization.site[].coding", "Immunization.extension.url", "Immunization.site[X].coding"],
)
def test_a_line_that_is_no_path_is_refused_with_the_next_step(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is not the path of an element.*docs/runbook/new-fields\.md"):
        KnownElements([*read_elements(), wrong])


# --- what is new is named -------------------------------------------------------------------------


def test_a_new_element_is_named_wherever_it_stands() -> None:
    made = document(3, with_patient=True)
    for number in range(sum(1 for _ in nodes(made))):
        twin = copy.deepcopy(made)
        list(nodes(twin))[number]["novo"] = {"abaixo": [{"mais": 1}]}
        line = line_of(twin)
        (path,) = KNOWN.unknown(line)
        assert path.endswith(".novo"), path
        assert not is_taken(line)


def nest(element: str) -> bytes:
    """An entry with one element of a resource in it."""
    kind, *steps = element.split(".")
    value: Any = "x"
    for step in reversed(steps):
        name, _, extension = step.rstrip("]").partition("[")
        value = {name: [{"url": f"{BASE}StructureDefinition/{extension}", **value}] if extension else value}
    return json.dumps({"resource": {"resourceType": kind, **value}}).encode()


def test_every_element_of_the_table_is_known_and_its_neighbour_is_not() -> None:
    for element in read_elements():
        if not element.startswith("Bundle.entry."):
            assert KNOWN.unknown(nest(element)) == [], element
            assert KNOWN.unknown(nest(element + "X")) == [element + "X"]


def test_extensions_are_told_apart_by_name_whatever_their_address_and_version() -> None:
    def with_address(address: Any) -> bytes:
        def change(made: Json) -> None:
            resources(made)[1]["resource"]["extension"][0]["url"] = address

        return line_of(changed(document(1), change))

    for address in (
        f"{BASE}StructureDefinition/BRGrupoAtendimento",
        f"{BASE}StructureDefinition/BRGrupoAtendimento-2.7",
        "https://fhir.saude.gov.br/r5/StructureDefinition/BRGrupoAtendimento-1.0|1.0.3",
    ):
        assert KNOWN.unknown(with_address(address)) == []
    assert KNOWN.unknown(with_address(f"{BASE}StructureDefinition/BRGrupoNovo-1.0")) == [
        "Immunization.extension[BRGrupoNovo]"
    ]
    assert (
        KNOWN.unknown(with_address(None)) == KNOWN.unknown(with_address(7)) == [f"Immunization.extension[{ILLEGIBLE}]"]
    )


def test_a_resource_of_a_new_type_is_one_name() -> None:
    made = document(1)
    resources(made).append({"resource": {"resourceType": "Observation", "status": "final"}})
    resources(made).append({"resource": {"status": "final"}})
    assert sorted(KNOWN.unknown(line_of(made))) == ["Bundle.entry.resource.resourceType", "Observation"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("campoNovo", "campoNovo"),
        ("_birthDate", "_birthDate"),
        ("x" * 64, "x" * 64),
        ("x" * 65, ILLEGIBLE),
        ("MARIA DA SILVA", ILLEGIBLE),
        ("nome=Maria", ILLEGIBLE),
        ("70000000000000", ILLEGIBLE),
        ("cns700000000000005", "cns***"),
        ("cpf.123.456.789-09.x", "cpf.***.x"),
        ("v1234567", "v1234567"),
        ("", ILLEGIBLE),
        ("linha\nnova", ILLEGIBLE),
        ("ção", ILLEGIBLE),
    ],
)
def test_names_from_outside_are_cut_and_masked(name: str, shown: str) -> None:
    made = document(1)
    resources(made)[0]["resource"][name] = "700000000000005"
    assert KNOWN.unknown(line_of(made)) == [f"Composition.{shown}"]
    made = document(1)
    resources(made)[1]["resource"]["extension"][0]["url"] = f"http://example.org/{name}"
    assert KNOWN.unknown(line_of(made)) == [f"Immunization.extension[{shown}]"]


def test_a_document_with_thousands_of_names_has_few_paths() -> None:
    made = document(1)
    resources(made)[0]["resource"].update({f"n{number}": 1 for number in range(5000)})
    found = KNOWN.unknown(line_of(made))
    assert len(found) == MAX_PATHS + 1
    assert found[-1] == OTHERS


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"a":"\\ud800"}', b'"\xff"', b"[" * 100_000, b"[]", b"null", b"7", b'{"resource":[]}']
)
def test_what_is_no_document_names_nothing(text: bytes) -> None:
    assert KNOWN.unknown(text) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["coding", "code", "novo", "url", "extension"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.integers(0, 30), st.randoms(use_true_random=False), JSON)
def test_the_fast_way_never_takes_what_the_walk_would_name(seed: int, rng: random.Random, value: Any) -> None:
    made = document(seed, kind=rng.choice(KINDS), with_patient=seed % 2 == 0)
    node = rng.choice(list(nodes(made)))
    node[rng.choice([*node, "coding", "extension", "novo", "resource", "resourceType"])] = value
    line = line_of(made)
    if is_taken(line):
        assert KNOWN.unknown(line) == []


# --- pages and landing ----------------------------------------------------------------------------


def _new_field(made: Json) -> None:
    resources(made)[0]["resource"]["campoNovo"] = {"versao": 2}


def test_a_document_with_new_elements_lands_as_it_came() -> None:
    lines = [line_of(document(1)), line_of(changed(document(2), _new_field)), line_of(changed(document(3), _new_field))]
    content = read_page(page_of(*lines))
    assert [entry.line for entry in content.entries] == lines
    assert [(entry.id, entry.version, entry.reject) for entry in content.entries] == [
        (f"doc-{n}", "1", None) for n in (1, 2, 3)
    ]
    assert content.entries[1].last_updated == content.entries[0].last_updated is not None
    assert content.unknown == {"Composition.campoNovo": 2}


@pytest.mark.parametrize(
    ("change", "identity", "version"),
    [
        (lambda made: made["resource"].update(id=5), "", ""),
        (lambda made: made["resource"]["meta"].update(versionId=3), "doc-1", "3"),
        (lambda made: made["resource"]["meta"].update(versionId=None), "doc-1", "2026-03-14T10:00:00.000-03:00"),
        (lambda made: made["resource"].update(meta=[]), "", ""),
        (lambda made: made.update(fullUrl={}), "", ""),
        (lambda made: made["resource"].update(status={"a": 1}), "doc-1", "1"),
        (lambda made: made["resource"].update(entry="?"), "doc-1", "1"),
    ],
)
def test_identity_is_read_as_before_whatever_the_shape(change: Any, identity: str, version: str) -> None:
    (entry,) = read_page(page_of(line_of(changed(document(1), change)))).entries
    assert (entry.id, entry.version) == (identity, version)


@given(st.binary(min_size=1, max_size=6), st.sampled_from(["lotNumber", "fullUrl", "div", "display"]))
def test_what_the_fast_way_takes_could_be_landed_by_every_other_check(noise: bytes, place: str) -> None:
    made = document(4, kind="campaign-1")
    immunization = resources(made)[1]["resource"]
    immunization["text"] = {"div": "MARK"} if place == "div" else {"div": "x"}
    immunization["manufacturer"] = {"display": "MARK" if place == "display" else "x"}
    immunization["lotNumber"] = "MARK" if place == "lotNumber" else "x"
    if place == "fullUrl":
        made["fullUrl"] = "MARK"
    line = line_of(made).replace(b"MARK", noise, 1)
    try:
        KNOWN.decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    json.loads(line.decode("utf-8", "strict"))
    assert not is_too_deep(line)


@pytest.mark.parametrize(
    ("noise", "reject"),
    [
        (b"\xff", Reject.UTF8_INVALID),
        (b"\xed\xa0\x80", Reject.UTF8_INVALID),
        (b"\xc0\x80", Reject.UTF8_INVALID),
        (b"\n", Reject.JSON_INVALID),
        (b"\x00", Reject.JSON_INVALID),
        (b"\\x", None),
        (b"\\ud800", None),
        ("é".encode(), None),
    ],
)
def test_defects_of_a_document_of_known_elements_are_seen_as_before(noise: bytes, reject: Reject | None) -> None:
    made = document(4)
    resources(made)[1]["resource"]["lotNumber"] = "MARK"
    line = line_of(made).replace(b"MARK", noise, 1)
    content = read_page(page_of(line_of(document(5)), line))
    assert [(entry.line, entry.reject) for entry in content.entries] == [(line_of(document(5)), None), (line, reject)]
    assert content.unknown == {}


def test_rejected_entries_and_messages_of_the_server_are_not_documents_with_new_elements() -> None:
    deep = b'{"campoNovo":1,"x":' + b"[" * 300 + b"]" * 300 + b"}"
    outcome = b'{"resource":{"resourceType":"OperationOutcome","campoNovo":1},"search":{"mode":"outcome"}}'
    content = read_page(page_of(deep, outcome))
    assert [entry.reject for entry in content.entries] == [Reject.DEPTH]
    assert content.unknown == {}


def test_landing_sums_the_pages_also_those_that_a_checkpoint_kept(tmp_path: Path) -> None:
    def page(number: int, count: int) -> Page:
        body = page_of(*(line_of(changed(document(number * 100 + n), _new_field)) for n in range(count)))
        return Page(
            number=number, url="", etag="", sha256="", bytes=len(body), seconds=0.0, attempts=1, content=read_page(body)
        )

    with LandingWriter(tmp_path) as writer:
        writer.write_page(page(1, 2))
        block = encode_page(page(2, 3))
        writer.write_block(
            PageBlock(
                log=block.log, keys=block.keys, lines=block.lines, rejected=0, size=block.size, landing=block.landing
            )
        )
        walk = writer.finish()
    assert walk.unknown_elements == {"Composition.campoNovo": 5}
    assert walk.lines == 5


# --- sums -----------------------------------------------------------------------------------------


def test_a_sum_keeps_the_most_frequent_names_and_loses_no_count() -> None:
    rng = random.Random(1)
    pages = [{f"A.n{rng.randrange(90)}": rng.randrange(1, 9) for _ in range(30)} | {"A.often": 400} for _ in range(40)]
    total: dict[str, int] = {}
    for page in pages:
        total = merge_unknown(total, page)
    assert total["A.often"] == 16_000
    assert len(total) == MAX_PATHS + 1
    assert sum(total.values()) == sum(sum(page.values()) for page in pages)
    assert list(total)[:-1] == sorted(list(total)[:-1])
    assert list(total)[-1] == OTHERS


def test_a_sum_of_few_names_is_exact_in_any_order_and_changes_neither_side() -> None:
    parts = [{"B": 2, "A": 1}, {"A": 5}, {}, {"C": 1, OTHERS: 4}]
    kept = copy.deepcopy(parts)
    sums = []
    for order in (parts, parts[::-1]):
        total: dict[str, int] = {}
        for part in order:
            total = merge_unknown(total, part)
        sums.append(total)
    assert sums[0] == sums[1] == {"A": 6, "B": 2, "C": 1, OTHERS: 4}
    assert parts == kept
    assert dict(Counter(sums[0])) == sums[0]
