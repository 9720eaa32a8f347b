"""The simulator over separate resources: searches, what comes beside matches, single reads, scenarios."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.simulator import running_simulator
from tests.mirror.cnes import PROJECT
from tests.mirror.documents import expected
from tests.mirror.resources import TYPES

pytestmark = pytest.mark.servers

DAY, DOCS = "2026-03-14", 600
OPTIONS = ("--docs-per-day", str(DOCS), "--now", "2026-03-16T12:00:00Z")
WINDOW = [("_lastUpdated", f"ge{DAY}T00:00:00-03:00"), ("_lastUpdated", "lt2026-03-15T00:00:00-03:00")]
COUNT = ("_summary", "count")
Json = dict[str, Any]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with running_simulator(tmp_path_factory.mktemp("mirror"), *OPTIONS, "--ways", "resources") as client:
        yield client


@pytest.fixture
def mirror(shared: httpx.Client) -> Iterator[httpx.Client]:
    switch(shared)
    yield shared
    switch(shared)


@pytest.fixture(scope="module")
def planted() -> dict[str, int]:
    """What the oracle says that a day holds."""
    found = [one for one in expected(7, date.fromisoformat(DAY), DOCS) if one.traps != ("copy",)]
    return {"Composition": len(found), "Immunization": sum(one.doses for one in found)}


def switch(client: httpx.Client, *scenarios: str) -> None:
    client.put("/_admin/scenario", json={"scenarios": list(scenarios)}).raise_for_status()


def get(client: httpx.Client, kind: str, *more: tuple[str, str], window: bool = True) -> Json:
    answer = client.get(f"/fhir/r4/{kind}", params=[*(WINDOW if window else []), *more])
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    assert (body["resourceType"], body["type"]) == ("Bundle", "searchset")
    return body


def link(page: Json, relation: str) -> str | None:
    return next((one["url"] for one in page["link"] if one["relation"] == relation), None)


def walk(client: httpx.Client, kind: str, *more: tuple[str, str]) -> list[Json]:
    """All entries of the day."""
    page = get(client, kind, ("_count", "150"), *more)
    entries: list[Json] = page["entry"]
    while (following := link(page, "next")) is not None:
        page = client.get(following).json()
        entries += page.get("entry", [])
        assert len(entries) < 5000, "the walk does not end"
    return entries


def of(entries: list[Json], mode: str = "match") -> list[Json]:
    return [entry["resource"] for entry in entries if entry["search"]["mode"] == mode]


def key(resource: Json) -> tuple[str, str, str]:
    meta = resource["meta"]
    return resource["resourceType"], resource["id"], meta.get("versionId") or meta["lastUpdated"]


def test_resources_are_served_only_where_they_are_asked_for(tmp_path: Path, mirror: httpx.Client) -> None:
    with running_simulator(tmp_path, "--docs-per-day", "20") as documents:
        for kind in TYPES:
            assert documents.get(f"/fhir/r4/{kind}").status_code == 400
        statement = documents.get("/fhir/r4/metadata").json()
    assert [one["type"] for one in statement["rest"][0]["resource"]] == ["Bundle"]
    assert mirror.get("/fhir/r4/Bundle").status_code == 400
    statement = mirror.get("/fhir/r4/metadata").json()
    served = {one["type"]: one for one in statement["rest"][0]["resource"]}
    assert set(served) == set(TYPES)
    assert "Immunization:patient" in served["Immunization"]["searchInclude"]
    assert served["Immunization"]["searchRevInclude"] == ["Composition:entry"]
    assert "_lastUpdated" in {one["name"] for one in served["Composition"]["searchParam"]}


def test_an_unknown_way_is_refused_at_the_start() -> None:
    command = [sys.executable, "-m", "tests.mirror", "serve", "--ways", "documents,telepathy"]
    finished = subprocess.run(command, check=False, cwd=PROJECT, capture_output=True, text=True, timeout=30)
    assert finished.returncode == 2
    assert "telepathy" in finished.stderr


@pytest.mark.parametrize("kind", ["Immunization", "Composition"])
def test_every_version_of_the_oracle_is_there_once(mirror: httpx.Client, planted: dict[str, int], kind: str) -> None:
    found = of(walk(mirror, kind))
    assert len(found) == planted[kind]
    assert max(Counter(map(key, found)).values()) == 1, "copies are repeated bytes, hence one resource"
    assert get(mirror, kind, COUNT)["total"] == planted[kind]
    assert {one["resourceType"] for one in found} == {kind}


def test_references_lead_from_the_composition_to_its_doses_and_neighbours(mirror: httpx.Client) -> None:
    includes = [("_include", f"Composition:{name}") for name in ("entry", "subject", "author:Organization")]
    entries = walk(mirror, "Composition", *includes)
    beside = {f"{one['resourceType']}/{one['id']}" for one in of(entries, "include")}
    kinds = Counter(one.partition("/")[0] for one in beside)
    assert set(kinds) == {"Immunization", "Patient", "Organization"}
    named = set()
    for one in of(entries):
        named |= {dose["reference"] for dose in one["section"][0]["entry"]}
        named |= {who["reference"] for who in (one["subject"], one["author"][0]) if "reference" in who}
        assert one["identifier"]["value"]
    assert named == beside


def test_a_dose_brings_its_composition_patient_and_reason(mirror: httpx.Client) -> None:
    includes = [("_include", "Immunization:patient"), ("_include", "Immunization:reason-reference")]
    entries = walk(mirror, "Immunization", *includes, ("_revinclude", "Composition:entry"))
    beside = Counter(one["resourceType"] for one in of(entries, "include"))
    assert set(beside) == {"Composition", "Patient", "Condition"}
    with_patient = [one for one in of(entries) if "reference" in one["patient"]]
    assert 0.2 < len(with_patient) / len(of(entries)) < 0.5
    assert {one["meta"].get("versionId") for one in of(entries)} == {None, "1", "2"}


def test_includes_that_are_not_known_are_told_and_not_echoed(mirror: httpx.Client) -> None:
    page = get(mirror, "Immunization", ("_include", "Immunization:performer:Practitioner"), ("type", "document"))
    assert "_include" not in (link(page, "self") or "")
    told = [
        entry["resource"]["issue"][0]["diagnostics"] for entry in page["entry"] if entry["search"]["mode"] == "outcome"
    ]
    assert [text.rpartition(" ")[2] for text in told] == ["_include", "type"]
    honest = get(mirror, "Immunization", ("_revinclude", "Composition:entry"))
    assert "_revinclude=Composition:entry" in (link(honest, "self") or "")


def test_resources_are_found_by_id_in_their_newest_version(mirror: httpx.Client) -> None:
    found = of(walk(mirror, "Immunization"))
    several = next(one["id"] for one in found if "." in one["id"])
    ids = [found[0]["id"], several, "nobody", found[1]["id"]]
    read = of(get(mirror, "Immunization", ("_id", ",".join(ids)), window=False)["entry"])
    assert [one["id"] for one in read] == [ids[0], ids[1], ids[3]]
    assert read[0] == found[0]
    assert get(mirror, "Immunization", ("_id", "nobody"), COUNT, window=False)["total"] == 0
    outside = [("_id", ids[0]), ("_lastUpdated", "lt2026-03-01")]
    assert get(mirror, "Immunization", *outside, COUNT, window=False)["total"] == 0


def test_an_old_version_is_not_read_by_id(mirror: httpx.Client) -> None:
    found = of(walk(mirror, "Composition"))
    twice = next(name for name, times in Counter(one["id"] for one in found).items() if times == 2)
    (read,) = of(get(mirror, "Composition", ("_id", twice), window=False)["entry"])
    assert read["meta"]["versionId"] == "2"


@pytest.mark.parametrize("kind", ["Patient", "Condition"])
def test_neighbours_have_searches_of_their_own(mirror: httpx.Client, kind: str) -> None:
    found = of(walk(mirror, kind))
    assert len(found) == get(mirror, kind, COUNT)["total"] > 10
    assert {one["resourceType"] for one in found} == {kind}
    (read,) = of(get(mirror, kind, ("_id", found[0]["id"]), window=False)["entry"])
    assert read["id"] == found[0]["id"]


def test_establishments_are_found_by_id_and_by_time(mirror: httpx.Client) -> None:
    first = of(get(mirror, "Organization", ("_count", "3"), window=False)["entry"])
    assert len(first) == 3
    ids = ",".join(one["id"] for one in first)
    assert of(get(mirror, "Organization", ("_id", ids), window=False)["entry"]) == first
    assert get(mirror, "Organization", COUNT)["total"] == 0, "they did not change on that day"


def test_the_newest_comes_first_when_asked(mirror: httpx.Client) -> None:
    page = get(mirror, "Immunization", ("_sort", "-_lastUpdated"), ("_count", "2"), window=False)
    newest = of(page["entry"])[0]["meta"]["lastUpdated"]
    assert newest.startswith("2026-03-16")
    assert "_sort=-_lastUpdated" in (link(page, "self") or "")
    assert get(mirror, "Immunization", COUNT, window=False)["total"] > 1000 * DOCS


@pytest.mark.parametrize("kind", ["Immunization", "Composition"])
def test_scenarios_hold_for_resources_too(mirror: httpx.Client, planted: dict[str, int], kind: str) -> None:
    switch(mirror, "lost-page:2")
    assert len(of(walk(mirror, kind))) == planted[kind] - 150
    switch(mirror, "duplicate-page:2")
    assert len(of(walk(mirror, kind))) == planted[kind] + 150
    switch(mirror, "wrong-total:3")
    assert get(mirror, kind, COUNT)["total"] == planted[kind] + 3
    switch(mirror, f"empty:{DAY}")
    assert get(mirror, kind, COUNT)["total"] == 0
    switch(mirror, "drift:4")
    assert get(mirror, kind, COUNT)["total"] == planted[kind]
    walk(mirror, kind)
    assert get(mirror, kind, COUNT)["total"] >= planted[kind] + 4
    switch(mirror, f"frozen:{DAY}T12:00:00-03:00")
    assert 0 < get(mirror, kind, COUNT)["total"] < planted[kind]
    switch(mirror, f"changed:{DAY}:6")
    assert get(mirror, kind, COUNT)["total"] == planted[kind]
    switch(mirror, "http-5xx:1")
    answers = [mirror.get(f"/fhir/r4/{kind}", params=[*WINDOW, COUNT]).status_code for _ in range(2)]
    assert answers[0] in {502, 503}
    assert answers[1] == 200


def test_a_late_document_is_found_by_id(mirror: httpx.Client) -> None:
    before = {one["id"] for one in of(walk(mirror, "Composition"))}
    switch(mirror, f"late:{DAY}:2")
    new = {one["id"] for one in of(walk(mirror, "Composition"))} - before
    assert len(new) == 2
    assert len(of(get(mirror, "Composition", ("_id", ",".join(new)), window=False)["entry"])) == 2
