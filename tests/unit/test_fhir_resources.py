"""The way in over separate resources, over real HTTP: what is asked of which mirror, and which mirror is refused."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

import pytest
from starlette.responses import JSONResponse, Response

from imunizacao.errors import ConfigurationError, MirrorProtocolError, MirrorRefused
from imunizacao.extract.assembly import assemble_walk
from imunizacao.fhir import (
    Cursor,
    LandingWriter,
    Page,
    ResourceClient,
    WalkBroken,
    Window,
    instant_text,
    parse_instant,
    read_lines,
)
from imunizacao.fhir.pages import read_page
from tests.integration.extract_support import DAY, FakeMirror, Seen, SleepLog, outcome, running_mirror

T = TypeVar("T")
HOUR = Window(start=DAY.start, end=DAY.start + timedelta(hours=1))
Json = dict[str, Any]
ALL_INCLUDES = ("Immunization:patient", "Immunization:performer", "Immunization:reason-reference")
COMPOSITION_INCLUDES = ("Composition:entry", "Composition:subject", "Composition:author")


def resource(kind: str, number: int, minutes: float = 1, **more: Any) -> Json:
    updated = instant_text(DAY.start + timedelta(minutes=minutes))
    return {"resourceType": kind, "id": f"r{number}", "meta": {"lastUpdated": updated}, **more}


def instant(one: Json) -> datetime:
    found = parse_instant(one["meta"]["lastUpdated"])
    assert found is not None
    return found


def named_by(one: Json) -> set[str]:
    return {entry["reference"] for section in one.get("section", []) for entry in section["entry"]}


def capability(
    *,
    includes: tuple[str, ...] = ALL_INCLUDES,
    revincludes: tuple[str, ...] = ("Composition:entry",),
    composition: tuple[str, ...] = ("_lastUpdated",),
    immunization: tuple[str, ...] = ("_lastUpdated",),
    common: tuple[str, ...] = (),
) -> Json:
    """A CapabilityStatement; an empty `composition` serves none."""

    def served(kind: str, parameters: tuple[str, ...], **more: Any) -> Json:
        names = [{"name": name, "type": "date"} for name in parameters]
        return {"type": kind, "interaction": [{"code": "search-type"}], "searchParam": names, **more}

    resources = [served("Immunization", immunization, searchInclude=includes, searchRevInclude=revincludes)]
    if composition:
        resources.append(served("Composition", composition, searchInclude=COMPOSITION_INCLUDES))
    rest = {"mode": "server", "resource": resources, "searchParam": [{"name": name} for name in common]}
    return {"resourceType": "CapabilityStatement", "rest": [rest]}


@dataclass
class Resources:
    """Separate resources behind a fake mirror."""

    mirror: FakeMirror
    held: list[Json] = field(default_factory=list)
    statement: Json | None = field(default_factory=capability)
    deaf_to: tuple[str, ...] = ()
    """Parameters that searches drop, as servers do that do not know them."""
    opaque: bool = False
    """Addresses of further pages lie at the base and say nothing, as those of HAPI."""
    own_mode: bool = True
    """Entries say whether they are matches."""
    sends_on: Callable[[str, int], int] = lambda kind, start: start
    """Where the next page of a search really leads."""

    def __post_init__(self) -> None:
        self.mirror.before = self.answer

    @property
    def walked(self) -> list[Seen]:
        return [seen for seen in self.mirror.seen if not seen.is_count and not seen.path.endswith("/metadata")]

    def answer(self, seen: Seen) -> Response | None:
        kind = seen.path.rpartition("/")[2]
        query = [(name, value) for name, value in seen.query if name not in self.deaf_to]
        if kind == "metadata":
            return outcome(404, "no") if self.statement is None else JSONResponse(self.statement)
        if token := seen.value("_getpages"):
            kind, start, rest = token.split("|", 2)
            return self.page(kind, int(start), parse_qsl(rest))
        if kind not in {"Immunization", "Composition"}:
            return outcome(404, "no")
        return self.page(kind, int(seen.value("_offset") or 0), query)

    def page(self, kind: str, start: int, query: list[tuple[str, str]]) -> Response:
        values = dict(query)
        found = [one for one in self.held if one["resourceType"] == kind and self.holds(one, query)]
        if "_sort" in values:
            found.sort(key=instant, reverse=True)
        plain = [(name, value) for name, value in query if name != "_offset"]
        links = [{"relation": "self", "url": f"{self.mirror.base}/{kind}?{urlencode(plain)}"}]
        entries: list[Json] = []
        if "_summary" not in values:
            size = int(values.get("_count", 10))
            entries = [self.entry(one, "match") for one in found[start : start + size]]
            if start + size < len(found):
                links.append(
                    {"relation": "next", "url": self.following(kind, self.sends_on(kind, start + size), plain)}
                )
            if ("_revinclude", "Composition:entry") in query:
                entries += [self.entry(one, "include") for one in self.held if one["resourceType"] == "Composition"]
        return JSONResponse(
            {"resourceType": "Bundle", "type": "searchset", "total": len(found), "link": links, "entry": entries}
        )

    def following(self, kind: str, start: int, query: list[tuple[str, str]]) -> str:
        if self.opaque:
            return f"{self.mirror.base}?{urlencode({'_getpages': f'{kind}|{start}|{urlencode(query)}'})}"
        return f"{self.mirror.base}/{kind}?{urlencode([*query, ('_offset', str(start))])}"

    def entry(self, one: Json, mode: str) -> Json:
        return {"resource": one, **({"search": {"mode": mode}} if self.own_mode else {})}

    def holds(self, one: Json, query: list[tuple[str, str]]) -> bool:
        for name, value in query:
            if name == "_id" and one["id"] not in value.split(","):
                return False
            if name == "entry" and not named_by(one) & set(value.split(",")):
                return False
            if name == "_lastUpdated":
                bound = parse_instant(value[2:])
                assert bound is not None
                if (instant(one) < bound) if value.startswith("ge") else (instant(one) >= bound):
                    return False
        return True


@pytest.fixture
def resources() -> Iterator[Resources]:
    with running_mirror() as mirror:
        held = [resource("Immunization", n) for n in range(25)] + [resource("Composition", n) for n in range(12)]
        yield Resources(mirror, held)


def ask(resources: Resources, call: Callable[[ResourceClient], Awaitable[T]]) -> T:
    async def run() -> T:
        async with ResourceClient(resources.mirror.settings(), sleep=SleepLog()) as client:
            return await call(client)

    return asyncio.run(run())


def walk(resources: Resources, resume: Cursor | None = None) -> list[Page]:
    async def collect(client: ResourceClient) -> list[Page]:
        async with aclosing(client.walk(HOUR, resume=resume)) as pages:
            return [page async for page in pages]

    return ask(resources, collect)


def require_usable(resources: Resources) -> None:
    ask(resources, lambda client: client.require_usable())


def sizes(pages: list[Page]) -> list[tuple[str, int]]:
    """Type and number of the matches of each page."""
    return [(page.content.entries[0].id.partition("/")[0], len(page.content.entries)) for page in pages]


# ---------------------------------------------------------------- totals and walks


def test_the_total_is_that_of_doses_and_compositions(resources: Resources) -> None:
    assert ask(resources, lambda client: client.count(HOUR)) == 25 + 12
    assert [seen.path.rpartition("/")[2] for seen in resources.mirror.counts_seen] == ["Immunization", "Composition"]
    assert ask(resources, lambda client: client.count_since(HOUR.end)) == 0


def test_a_walk_goes_through_doses_and_then_through_compositions(resources: Resources) -> None:
    pages = walk(resources)
    assert sizes(pages) == [("Immunization", n) for n in (10, 10, 5)] + [("Composition", n) for n in (10, 2)]
    assert [page.number for page in pages] == [1, 2, 3, 4, 5]
    keys = {entry.key for page in pages for entry in page.content.entries}
    assert len(keys) == 25 + 12, "a dose and a Composition of one id are two"
    following = pages[2].following
    assert following is not None
    assert following.startswith(f"{resources.mirror.base}/Composition?_lastUpdated=ge")
    assert pages[-1].following is None
    assert len({page.mark for page in pages}) == 5


def test_what_comes_beside_the_matches_is_kept_apart(resources: Resources) -> None:
    first = walk(resources)[0].content
    assert {entry.id.partition("/")[0] for entry in first.entries} == {"Immunization"}
    assert [entry.id for entry in first.included] == [f"Composition/r{n}" for n in range(12)]


def test_an_entry_of_another_type_that_does_not_say_what_it_is_is_no_match(resources: Resources) -> None:
    resources.own_mode = False
    first = walk(resources)[0].content
    assert (len(first.entries), len(first.included)) == (10, 12)


def test_no_dose_at_all_still_leads_to_the_compositions(resources: Resources) -> None:
    resources.held = [one for one in resources.held if one["resourceType"] == "Composition"]
    pages = walk(resources)
    assert sizes(pages) == [("Composition", 10), ("Composition", 2)]
    assert [page.number for page in pages] == [1, 2]


def test_an_empty_window_is_two_requests_and_no_page(resources: Resources) -> None:
    resources.held.clear()
    assert walk(resources) == []
    assert len(resources.walked) == 2


def test_doses_that_go_in_circles_do_not_keep_us_from_the_compositions(resources: Resources) -> None:
    resources.sends_on = lambda kind, start: 10 if kind == "Immunization" else start
    assert sizes(walk(resources)) == [("Immunization", 10)] * 2 + [("Composition", 10), ("Composition", 2)]


@pytest.mark.parametrize("opaque", [False, True])
def test_a_walk_goes_on_in_its_phase_where_it_broke_off(resources: Resources, opaque: bool) -> None:
    resources.opaque = opaque
    pages = walk(resources)
    for place, page in enumerate(pages[:-1]):
        assert page.following is not None
        visited = frozenset(one.mark for one in pages[: place + 1])
        rest = walk(resources, Cursor(url=page.following, number=page.number, visited=visited))
        assert sizes(rest) == sizes(pages)[place + 1 :]
        assert [one.number for one in rest] == [one.number for one in pages[place + 1 :]]


def test_an_opaque_address_is_asked_for_as_it_was_given(resources: Resources) -> None:
    resources.opaque = True
    pages = walk(resources)
    assert [(page.following or "").partition("#")[2] for page in pages] == ["Immunization"] * 2 + [
        "",
        "Composition",
        "",
    ]
    assert not any("#" in page.url for page in pages)
    assert len(resources.walked) == 5


def test_a_cursor_of_another_search_is_no_cursor(resources: Resources) -> None:
    with pytest.raises(WalkBroken, match="belongs to none of its searches"):
        walk(resources, Cursor(url=f"{resources.mirror.base}/Bundle?x=1", number=1, visited=frozenset()))


def test_a_search_that_drops_its_bounds_is_refused(resources: Resources) -> None:
    resources.deaf_to = ("_lastUpdated",)
    with pytest.raises(MirrorProtocolError, match=r"\(count of .* \(Immunization\)\)"):
        ask(resources, lambda client: client.count(HOUR))
    with pytest.raises(MirrorProtocolError, match=r"page 1 \(Immunization\)"):
        walk(resources)


def test_an_entry_outside_the_window_breaks_the_walk(resources: Resources) -> None:
    resources.held.append(resource("Composition", 99, 5))
    resources.held[-1]["meta"]["lastUpdated"] = instant_text(HOUR.end)
    resources.holds = lambda one, query: True  # type: ignore[method-assign]
    with pytest.raises(WalkBroken, match=r"page 5 \(Composition\)"):
        walk(resources)


def test_the_newest_is_that_of_both_types(resources: Resources) -> None:
    resources.held.append(resource("Composition", 99, 300))
    assert ask(resources, lambda client: client.newest()) == DAY.start + timedelta(minutes=300)
    resources.held = [resource("Immunization", 1, 400)]
    assert ask(resources, lambda client: client.newest()) == DAY.start + timedelta(minutes=400)
    resources.held = []
    assert ask(resources, lambda client: client.newest()) is None
    resources.deaf_to = ("_sort",)
    assert ask(resources, lambda client: client.newest()) is None


# ---------------------------------------------------------------- what the mirror can do


def asked_includes(resources: Resources) -> dict[str, list[tuple[str, str]]]:
    walk(resources)
    found: dict[str, list[tuple[str, str]]] = {}
    for seen in resources.walked:
        includes = [pair for pair in seen.query if pair[0] in {"_include", "_revinclude"}]
        found.setdefault(seen.path.rpartition("/")[2], includes)
    return found


def test_only_what_the_mirror_offers_is_included(resources: Resources) -> None:
    resources.statement = capability(includes=("Immunization:patient",))
    assert asked_includes(resources) == {
        "Immunization": [("_include", "Immunization:patient"), ("_revinclude", "Composition:entry")],
        "Composition": [
            ("_include", "Composition:entry"),
            ("_include", "Composition:subject"),
            ("_include", "Composition:author:Organization"),
        ],
    }


def test_an_asterisk_offers_everything(resources: Resources) -> None:
    resources.statement = capability(includes=("*",), revincludes=("*",))
    assert len(asked_includes(resources)["Immunization"]) == 4


def test_the_statement_is_read_once(resources: Resources) -> None:
    async def call(client: ResourceClient) -> None:
        await asyncio.gather(*(client.count(HOUR) for _ in range(5)))
        await client.require_usable()

    ask(resources, call)
    assert sum(seen.path.endswith("/metadata") for seen in resources.mirror.seen) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"revincludes": (), "composition": ()}, "offers neither"),
        ({"revincludes": (), "composition": ("subject",)}, "offers neither"),
        ({"revincludes": ("Provenance:target",), "composition": ()}, "offers neither"),
        ({"immunization": ("patient",)}, "Immunization cannot be searched by `_lastUpdated`"),
    ],
)
def test_a_mirror_without_a_way_to_the_composition_is_refused_with_the_reason(
    resources: Resources, changes: Json, reason: str
) -> None:
    resources.statement = capability(**changes)
    with pytest.raises(ConfigurationError) as failure:
        require_usable(resources)
    text = str(failure.value)
    assert reason in text
    assert "IMUNIZACAO_MIRROR_WAY" in text
    assert "docs/runbook/mirror-ways.md" in text
    assert len(resources.mirror.seen) == 1, "nothing but the statement was asked for"


@pytest.mark.parametrize(
    "changes",
    [
        {"revincludes": ()},
        {"composition": ()},
        {"immunization": (), "composition": ("type",), "common": ("_lastUpdated",)},
    ],
)
def test_one_way_to_the_composition_is_enough(resources: Resources, changes: Json) -> None:
    resources.statement = capability(**changes)
    require_usable(resources)


def test_where_compositions_cannot_be_searched_only_doses_are(
    resources: Resources, caplog: pytest.LogCaptureFixture
) -> None:
    resources.statement = capability(composition=())
    with caplog.at_level(logging.WARNING, logger="imunizacao"):
        assert ask(resources, lambda client: client.count(HOUR)) == 25
    assert "event=mirror.compositions_not_searched" in caplog.text
    pages = walk(resources)
    assert sizes(pages) == [("Immunization", n) for n in (10, 10, 5)]
    assert pages[-1].following is None


def test_a_promised_composition_that_does_not_come_is_refused_where_nothing_else_gives_it(
    resources: Resources, caplog: pytest.LogCaptureFixture
) -> None:
    resources.deaf_to = ("_revinclude",)
    with caplog.at_level(logging.WARNING, logger="imunizacao"):
        assert len(walk(resources)) == 5
    assert "event=mirror.include_dropped" in caplog.text
    resources.statement = capability(composition=())
    with pytest.raises(ConfigurationError, match="the link `self` of its answer drops it"):
        walk(resources)


@pytest.mark.parametrize("status", [404, 200])
def test_a_mirror_without_statement_is_tried(resources: Resources, status: int) -> None:
    resources.statement = None if status == 404 else {"resourceType": "OperationOutcome"}
    resources.deaf_to = ("_include",)
    require_usable(resources)
    pages = walk(resources)
    assert len(pages) == 5
    assert [seen.query[2:] for seen in resources.walked][-5:][0] == [
        ("_revinclude", "Composition:entry"),
        ("_count", "10"),
    ]


def test_without_statement_a_dropped_revinclude_is_refused(resources: Resources) -> None:
    resources.statement = None
    resources.deaf_to = ("_revinclude",)
    with pytest.raises(ConfigurationError, match="it has no CapabilityStatement, and the link `self`"):
        require_usable(resources)


def test_without_statement_and_without_immunizations_the_reason_is_said(resources: Resources) -> None:
    resources.mirror.before = lambda seen: outcome(400, "(EHR-ERR861) x", code="not-supported")
    with pytest.raises(MirrorRefused, match="Immunization cannot be searched by `_lastUpdated`"):
        require_usable(resources)


def test_without_statement_a_mirror_without_search_of_compositions_gives_the_doses(resources: Resources) -> None:
    resources.statement = None
    answer = resources.answer
    resources.mirror.before = lambda seen: outcome(404, "x") if seen.path.endswith("/Composition") else answer(seen)
    assert ask(resources, lambda client: client.count(HOUR)) == 25


# ---------------------------------------------------------------- single reads


def fetch(resources: Resources, *references: str) -> list[str]:
    lines = ask(resources, lambda client: client.fetch(references))
    return [json.loads(line)["resource"]["id"] for line in lines]


def test_resources_are_read_by_id_in_batches(resources: Resources) -> None:
    resources.held = [resource("Immunization", n, -500) for n in range(130)]
    wanted = [f"Immunization/r{n}" for n in range(120)]
    assert fetch(resources, *wanted, *wanted[:5]) == [f"r{n}" for n in range(120)]
    assert [len(seen.value("_id").split(",")) for seen in resources.walked] == [50, 50, 20]


HOURS = [Window(start=DAY.start + timedelta(hours=n), end=DAY.start + timedelta(hours=n + 1)) for n in range(3)]


def assembled(resources: Resources, folder: Path, windows: list[Window]) -> dict[str, list[str]]:
    """The documents of windows walked one by one: id, and types of what is in it."""
    found: dict[str, list[str]] = {}

    async def land(client: ResourceClient) -> None:
        for number, window in enumerate(windows):
            place = folder / f"{len(windows)}-{number}"
            place.mkdir()
            with LandingWriter(place) as writer:
                async for page in client.walk(window):
                    writer.write_page(page)
                walk = await assemble_walk(client, writer.finish(), window, place)
            for part in walk.parts:
                for line in read_lines(part.path):
                    bundle = json.loads(line)["resource"]
                    assert bundle["id"] not in found, "a document is given once"
                    found[bundle["id"]] = [entry["resource"]["resourceType"] for entry in bundle["entry"]]

    ask(resources, land)
    return found


APART = [
    resource("Immunization", 1, minutes=60.01),
    resource("Immunization", 2, minutes=125),
    resource(
        "Composition",
        3,
        minutes=59.99,
        section=[{"entry": [{"reference": "Immunization/r1"}, {"reference": "Immunization/r2"}]}],
    ),
    resource("Immunization", 4, minutes=10),
    resource("Composition", 5, minutes=70, section=[{"entry": [{"reference": "Immunization/r4"}]}]),
    resource("Immunization", 6, minutes=70),
]
"""A document over three hours, one over two, and a dose that nobody vouches for."""


@pytest.mark.parametrize("revincludes", [(), ("Composition:entry",)], ids=["two searches", "_revinclude"])
def test_a_document_does_not_depend_on_where_windows_are_cut(
    resources: Resources, tmp_path: Path, revincludes: tuple[str, ...]
) -> None:
    resources.held, resources.statement = APART, capability(revincludes=revincludes)
    whole = assembled(resources, tmp_path, [Window(start=HOURS[0].start, end=HOURS[-1].end)])
    assert whole == {
        "r3": ["Composition", "Immunization", "Immunization"],
        "r5": ["Composition", "Immunization"],
        "Immunization-r6": ["Immunization"],
    }
    assert assembled(resources, tmp_path, HOURS) == whole


@pytest.mark.parametrize("deaf", [True, False])
def test_a_mirror_that_cannot_be_asked_by_entry_is_told_once(
    resources: Resources, tmp_path: Path, caplog: pytest.LogCaptureFixture, deaf: bool
) -> None:
    resources.held, resources.statement = APART, capability(revincludes=())
    answer = resources.answer

    def refuse(seen: Seen) -> Response | None:
        return outcome(400, "no") if seen.value("entry") and not deaf else answer(seen)

    resources.mirror.before = refuse
    resources.deaf_to = ("entry",) if deaf else ()
    found = assembled(resources, tmp_path, HOURS)
    assert found.keys() >= {"Immunization-r1", "Immunization-r2"}
    assert caplog.text.count("event=mirror.no_search_by_entry") == 1
    assert len([seen for seen in resources.walked if seen.value("entry")]) == 1


def test_what_does_not_exist_and_what_is_no_id_stays_missing(resources: Resources) -> None:
    assert fetch(resources, "Immunization/r1", "Immunization/none", "Immunization/a,r2", "Patient/r3", "") == ["r1"]
    assert fetch(resources) == []


def test_a_read_may_take_several_pages(resources: Resources) -> None:
    answer = resources.answer

    def short(seen: Seen) -> Response | None:
        query = [(name, "1" if name == "_count" else value) for name, value in seen.query]
        return answer(Seen(at=0, path=seen.path, query=query, headers={}, attempt=1))

    resources.mirror.before = short
    assert fetch(resources, "Immunization/r1", "Immunization/r2", "Composition/r3") == ["r1", "r2", "r3"]


def test_a_read_goes_on_after_an_empty_page(resources: Resources) -> None:
    def empty_first(seen: Seen) -> Response | None:
        if seen.value("_id") is None or seen.value("empty") is not None:
            return resources.answer(seen)
        again = [
            {
                "relation": "next",
                "url": f"{resources.mirror.base}/Immunization?{urlencode([*seen.query, ('empty', '1')])}",
            }
        ]
        return JSONResponse({"resourceType": "Bundle", "type": "searchset", "link": again, "entry": []})

    resources.mirror.before = empty_first
    assert fetch(resources, "Immunization/r1", "Immunization/r2") == ["r1", "r2"]


def test_a_mirror_that_ignores_the_ids_is_refused(resources: Resources) -> None:
    resources.deaf_to = ("_id",)
    with pytest.raises(MirrorProtocolError, match="have other ids") as failure:
        fetch(resources, "Immunization/r7", "Immunization/r8")
    assert "r7" not in str(failure.value)


# ---------------------------------------------------------------- entries


def test_an_included_entry_that_cannot_be_read_is_no_match() -> None:
    broken = b'{"resource":{"resourceType":"Patient","id":"p","name":"\\ud800"},"search": {"mode" : "include"}}'
    match = b'{"resource":{"resourceType":"Immunization","id":"d","note":"\\ud800"},"search":{"mode":"match"}}'
    body = b'{"resourceType":"Bundle","type":"searchset","entry":[' + broken + b"," + match + b"]}"
    content = read_page(body, of="Immunization")
    assert [entry.line for entry in content.included] == [broken]
    assert [entry.line for entry in content.entries] == [match]


def test_keys_of_documents_do_not_carry_a_type() -> None:
    entry = b'{"fullUrl":"x/Bundle/b","resource":{"resourceType":"Bundle","id":"b","meta":{"versionId":"3"}}}'
    body = b'{"resourceType":"Bundle","type":"searchset","entry":[' + entry + b"]}"
    assert [one.key for one in read_page(body).entries] == ["b|3"]
    assert [one.key for one in read_page(body, of="Bundle").entries] == ["Bundle/b|3"]
