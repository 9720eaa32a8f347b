"""The CapabilityStatement: read whatever its shape, and the way into the mirror that follows from it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.responses import Response

from imunizacao.errors import ConfigurationError, MirrorUnavailable
from imunizacao.fhir import Transport
from imunizacao.fhir.capability import Capability, choose_way, decide_way, parse_capability, read_capability, ways
from imunizacao.settings import MirrorWay
from tests.integration.extract_support import FakeMirror, Seen, SleepLog, running_mirror


def resource(name: str, *parameters: str, **more: Any) -> dict[str, Any]:
    return {
        "type": name,
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "searchParam": [{"name": parameter, "type": "date"} for parameter in parameters],
        **more,
    }


def statement(*resources: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {
        "resourceType": "CapabilityStatement",
        "fhirVersion": "4.0.1",
        "software": {"name": "HAPI FHIR Server", "version": "7.4.0"},
        "rest": [{"mode": "server", "resource": list(resources), **rest}],
    }


DOCUMENTS = resource("Bundle", "type", "_lastUpdated")
IMMUNIZATION = resource("Immunization", "_lastUpdated")
EXPORT = {"operation": [{"name": "export", "definition": "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export"}]}


def read(body: object) -> Any:
    found = parse_capability(json.dumps(body).encode())
    assert found is not None
    return found


def possible(body: object) -> set[str]:
    return {way for way, problem in ways(read(body)).items() if not problem}


# ---------------------------------------------------------------- reading


def test_what_matters_is_read() -> None:
    found = read(
        statement(
            resource("Bundle", "type", searchInclude=["a"], searchRevInclude=["b"], operation=[{"name": "$validate"}]),
            security={"service": [{"coding": [{"code": "SMART-on-FHIR"}]}, {"text": "Token in a header"}]},
            searchParam=[{"name": "_lastUpdated"}],
            **EXPORT,
        )
        | {"instantiates": ["http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data|2.0.0"]}
    )
    assert (found.fhir_version, found.software, found.has_rest) == ("4.0.1", "HAPI FHIR Server 7.4.0", True)
    bundle = found.resources["Bundle"]
    assert bundle.interactions == {"read", "search-type"}
    assert bundle.search_params == {"type", "_lastUpdated"}, "parameters of the whole server hold for each type"
    assert (bundle.includes, bundle.revincludes, bundle.operations) == ({"a"}, {"b"}, {"validate"})
    assert "export" in found.operations
    assert found.security == ("SMART-on-FHIR", "Token in a header")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>login</html>",
        b'{"resourceType":"Bundle"}',
        b"[1,2]",
        b"[" * 100_000,
        b'{"resourceType":"CapabilityStatement"',
        b'{"resourceType":["CapabilityStatement"]}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_statement_is_none(body: bytes) -> None:
    assert parse_capability(body) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"rest": None},
        {"rest": "server"},
        {"rest": []},
        {"rest": [{"mode": "client", "resource": [DOCUMENTS]}]},
        {"rest": [None, 7]},
    ],
)
def test_a_statement_without_a_server_says_so(damage: dict[str, Any]) -> None:
    assert not read(statement() | damage).has_rest


def test_one_member_of_another_type_spoils_nothing_else() -> None:
    body = statement(DOCUMENTS, {"type": 7}, {"type": "../../x"}, {"type": "Patient", "searchParam": "name"})
    body |= {"software": "HAPI", "fhirVersion": 4, "instantiates": {"a": 1}, "implementation": []}
    body["rest"][0] |= {"security": [1], "operation": {"name": "export"}, "searchParam": [3, {"name": None}]}
    found = read(body)
    assert (found.software, found.fhir_version) == ("", "")
    assert set(found.resources) == {"Bundle", "Patient"}
    assert ways(found)["documents"] == ""
    assert ways(found)["export"] == "", "one operation outside a list is still an operation"


def test_names_of_the_server_are_shown_without_what_could_be_an_identifier_or_a_second_line() -> None:
    body = statement() | {"software": {"name": "HAPI\nevent=x 700000000000005", "version": "111.444.777-35" + "9" * 99}}
    assert read(body).software == "HAPI event=x …"


# ---------------------------------------------------------------- ways


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (statement(DOCUMENTS), {"documents"}),
        (statement(resource("Bundle", "type"), searchParam=[{"name": "_lastUpdated"}]), {"documents"}),
        (statement({**IMMUNIZATION, "searchRevInclude": ["Composition:entry"]}), {"resources"}),
        (statement({**IMMUNIZATION, "searchRevInclude": ["*"]}), {"resources"}),
        (statement(IMMUNIZATION, resource("Composition", "_lastUpdated")), {"resources"}),
        (statement(**EXPORT), {"export"}),
        (statement(operation=[{"name": "$export"}]), {"export"}),
        (statement(operation=[{"definition": {"reference": "http://x/OperationDefinition/export"}}]), {"export"}),
        (
            statement() | {"instantiates": ["http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"]},
            {"export"},
        ),
        (
            statement(DOCUMENTS, {**IMMUNIZATION, "searchRevInclude": ["*"]}, **EXPORT),
            {"documents", "resources", "export"},
        ),
    ],
)
def test_a_way_is_possible_when_all_it_needs_is_declared(body: object, expected: set[str]) -> None:
    assert possible(body) == expected


@pytest.mark.parametrize(
    ("body", "way", "reason"),
    [
        (statement(), "documents", "Bundle is not served"),
        (statement(DOCUMENTS | {"interaction": [{"code": "read"}]}), "documents", "Bundle cannot be searched"),
        (statement(resource("Bundle", "type")), "documents", "Bundle cannot be searched by _lastUpdated"),
        (statement(), "resources", "Immunization is not served"),
        (statement(IMMUNIZATION), "resources", "the Composition cannot be had"),
        (
            statement(IMMUNIZATION, resource("Composition", "subject")),
            "resources",
            "Composition cannot be searched by _lastUp",
        ),
        (statement(), "export", "no operation $export"),
        (statement(resource("Patient", operation=[{"name": "patient-export"}])), "export", "$export only of Patient"),
    ],
)
def test_a_way_that_is_not_possible_says_why(body: object, way: Any, reason: str) -> None:
    assert reason in ways(read(body))[way]


# ---------------------------------------------------------------- choosing


@pytest.fixture
def mirror() -> Iterator[FakeMirror]:
    with running_mirror() as mirror:
        yield mirror


def choose(mirror: FakeMirror, setting: MirrorWay = "auto", **changes: Any) -> str:
    async def run() -> str:
        async with Transport(mirror.settings(**changes), sleep=SleepLog()) as transport:
            return await choose_way(transport, setting)

    return asyncio.run(run())


def serve(mirror: FakeMirror, body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    mirror.before = lambda seen: (
        Response(content, status_code=status, headers=headers) if seen.path.endswith("/metadata") else None
    )


@pytest.mark.parametrize("setting", ["documents", "resources", "export"])
def test_a_setting_wins_and_costs_no_request(mirror: FakeMirror, setting: MirrorWay) -> None:
    serve(mirror, statement(DOCUMENTS))
    assert choose(mirror, setting) == setting
    assert mirror.seen == []


@pytest.mark.parametrize(
    ("body", "way"),
    [
        (statement(DOCUMENTS, **EXPORT), "documents"),
        (statement({**IMMUNIZATION, "searchRevInclude": ["*"]}, **EXPORT), "resources"),
        (statement(IMMUNIZATION, **EXPORT), "export"),
    ],
)
def test_the_first_possible_way_is_taken_with_one_request(mirror: FakeMirror, body: object, way: str) -> None:
    serve(mirror, body)
    assert choose(mirror) == way
    assert len(mirror.seen) == 1


@pytest.mark.parametrize("status", [204, 301, 403, 404, 405, 410, 501])
def test_a_statement_that_cannot_be_had_means_documents_after_one_request(
    mirror: FakeMirror, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    serve(mirror, b"", status=status, headers={"Retry-After": "9"})
    with caplog.at_level(logging.INFO, logger="imunizacao"):
        assert choose(mirror) == "documents"
    assert len(mirror.seen) == 1
    assert (
        f'event=mirror.way way=documents because="the CapabilityStatement does not help: the mirror answers {status}"'
        in caplog.text
    )


@pytest.mark.parametrize(
    ("body", "because"),
    [
        (b"<html>", "not a CapabilityStatement"),
        ({"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"}, "describes no server"),
    ],
)
def test_a_statement_that_says_nothing_means_documents(
    mirror: FakeMirror, caplog: pytest.LogCaptureFixture, body: object, because: str
) -> None:
    serve(mirror, body)
    with caplog.at_level(logging.INFO, logger="imunizacao"):
        assert choose(mirror) == "documents"
    assert because in caplog.text


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_statement_that_is_not_given_now_is_asked_for_again(mirror: FakeMirror, status: int) -> None:
    body = json.dumps(statement({**IMMUNIZATION, "searchRevInclude": ["*"]}))
    mirror.before = lambda seen: Response(status_code=status) if seen.attempt < 3 else Response(body)
    assert choose(mirror) == "resources"
    assert len(mirror.seen) == 3


def test_a_mirror_that_never_gives_its_statement_is_waited_for_and_not_guessed(mirror: FakeMirror) -> None:
    serve(mirror, b"", status=503)
    with pytest.raises(MirrorUnavailable, match=r"did not give metadata.*IMUNIZACAO_MIRROR_WAY.* needs no metadata"):
        choose(mirror, retry_budget=2.0)
    mirror.delay = 3.0
    with pytest.raises(MirrorUnavailable):
        choose(mirror, connect_timeout=0.1, read_timeout=0.1, retry_budget=0.1)


def test_a_huge_statement_is_not_read_to_its_end(mirror: FakeMirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imunizacao.fhir.transport.MAX_BODY_BYTES", 1000)
    serve(mirror, statement(*[DOCUMENTS] * 100))
    assert choose(mirror) == "documents"


def test_a_large_statement_is_read(mirror: FakeMirror) -> None:
    others = [resource(f"Type{'x' * (n % 50)}", *(f"p{k}" for k in range(50))) for n in range(300)]
    serve(mirror, statement(*others, {**IMMUNIZATION, "searchRevInclude": ["*"]}))
    assert choose(mirror) == "resources"


def test_a_search_of_bundles_that_declares_no_time_is_tried_all_the_same(
    mirror: FakeMirror, caplog: pytest.LogCaptureFixture
) -> None:
    """`_lastUpdated` is a parameter of all resources; each answer of a search has to show that it was heard."""
    serve(mirror, statement(resource("Bundle", "type", "identifier")))
    with caplog.at_level(logging.INFO, logger="imunizacao"):
        assert choose(mirror) == "documents"
    assert "_lastUpdated is not declared" in caplog.text


def test_a_declared_way_goes_before_one_that_is_only_tried(mirror: FakeMirror) -> None:
    serve(mirror, statement(resource("Bundle", "type"), {**IMMUNIZATION, "searchRevInclude": ["Composition:entry"]}))
    assert choose(mirror) == "resources"


@pytest.mark.parametrize(
    ("bundles", "doses", "way"),
    [
        ({"total": 0}, {"total": 5}, "resources"),
        ({"total": 0}, {"entry": [{"resource": {"resourceType": "Immunization", "id": "a"}}]}, "resources"),
        ({"total": 0}, {"total": 0}, "documents"),
        ({"total": 3}, {"total": 5}, "documents"),
        (None, {"total": 5}, "documents"),
    ],
)
def test_where_documents_and_their_parts_are_declared_the_ones_that_are_there_are_taken(
    mirror: FakeMirror,
    caplog: pytest.LogCaptureFixture,
    bundles: dict[str, Any] | None,
    doses: dict[str, Any],
    way: str,
) -> None:
    """Some servers declare every type, whatever they hold."""
    metadata = statement(DOCUMENTS, {**IMMUNIZATION, "searchRevInclude": ["Composition:entry"]})
    pages = {"metadata": metadata, "Immunization": {"resourceType": "Bundle", "type": "searchset", **doses}}
    if bundles is not None:
        pages["Bundle"] = {"resourceType": "Bundle", "type": "searchset", **bundles}

    def answer(seen: Seen) -> Response:
        page = pages.get(seen.path.rpartition("/")[2])
        return Response(status_code=400) if page is None else Response(json.dumps(page))

    mirror.before = answer
    with caplog.at_level(logging.INFO, logger="imunizacao"):
        assert choose(mirror) == way
    assert ("has none, but has Immunizations" in caplog.text) == (way == "resources")


def test_a_mirror_without_any_way_is_a_setting_to_mend_with_all_three_reasons(mirror: FakeMirror) -> None:
    serve(mirror, statement(resource("Patient", "name")))
    with pytest.raises(ConfigurationError) as failure:
        choose(mirror)
    for part in ("documents: Bundle is not served", "resources: Immunization is not served", "export: no operation"):
        assert part in str(failure.value)
    assert "docs/runbook/mirror-check.md" in str(failure.value)


def test_an_unknown_mirror_is_asked_with_our_identity(mirror: FakeMirror) -> None:
    serve(mirror, statement(DOCUMENTS))
    assert choose(mirror, auth="basic", login="user", password="secret") == "documents"
    assert mirror.seen[0].headers["authorization"].startswith("Basic ")


def test_the_problem_of_a_capability_is_told(mirror: FakeMirror) -> None:
    async def run() -> Capability:
        async with Transport(mirror.settings(), sleep=SleepLog()) as transport:
            return await read_capability(transport)

    def refuse(seen: Seen) -> Response:
        return Response("no", status_code=404)

    mirror.before = refuse
    capability = asyncio.run(run())
    assert capability == Capability(statement=None, problem="the mirror answers 404")
    assert decide_way("auto", capability)[0] == "documents"
