"""What the mirror says it can do, and the way in that follows from it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from imunizacao.errors import ConfigurationError, MirrorProtocolError, MirrorUnavailable
from imunizacao.events import log_event
from imunizacao.fhir.loose import items, read_json, shown_name, text
from imunizacao.fhir.pages import BadPage, read_page
from imunizacao.fhir.transport import Transport
from imunizacao.settings import MirrorWay

Way = Literal["documents", "resources", "export"]
WAYS: Final[tuple[Way, ...]] = ("documents", "resources", "export")
"""In the order in which they are preferred: the first one keeps a document as it was signed, the second asks for its parts, the third
makes the mirror write files."""

_ANY_STATUS: Final = frozenset(range(200, 600))
_SETTLED: Final = (frozenset(range(200, 500)) | {501}) - {408, 425, 429}
"""Answers that another try would not change."""
_REFUSED: Final = frozenset({400, 403, 404, 405, 406, 410, 415, 422, 501})
_EXPORT: Final = re.compile(r"/OperationDefinition/export(\||$)")
_BULK_DATA: Final = re.compile(r"/CapabilityStatement/bulk-data(\||$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What can be done with one resource type."""

    interactions: frozenset[str] = frozenset()
    search_params: frozenset[str] = frozenset()
    """Those of all resources included."""
    includes: frozenset[str] = frozenset()
    revincludes: frozenset[str] = frozenset()
    operations: frozenset[str] = frozenset()
    """Names, without `$`, and canonical addresses of their definitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityStatement:
    """The part of a CapabilityStatement that matters to us."""

    fhir_version: str = ""
    software: str = ""
    """Name and version."""
    has_rest: bool = False
    """False: it says nothing about a server."""
    resources: Mapping[str, Resource] = field(default_factory=dict)
    operations: frozenset[str] = frozenset()
    """Of the whole server: names, without `$`, and canonical addresses of their definitions."""
    instantiates: frozenset[str] = frozenset()
    security: tuple[str, ...] = ()
    """Names of the services that it asks to identify with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """What came of asking for it."""

    statement: CapabilityStatement | None
    problem: str = ""
    """Why there is none."""


async def read_capability(transport: Transport, *, patient: bool = False) -> Capability:
    """Ask for `<base>/metadata`, once. Whatever is wrong with the answer is a `problem`, never an error.

    A `patient` caller has a mirror that is busy, broken or silent asked again, within the retry budget, and gets `MirrorUnavailable`.
    Else raises `ConfigurationError` alone: an authority that is not trusted, or a token service that refuses us.
    """
    settings = transport.settings
    url = f"{settings.base_url.rstrip('/')}/metadata"
    try:
        async with asyncio.timeout(None if patient else settings.connect_timeout + settings.read_timeout):
            received = await transport.ask(url, where="metadata", expected=_SETTLED if patient else _ANY_STATUS)
    except TimeoutError:
        return Capability(statement=None, problem="no answer in time")
    except (MirrorUnavailable, MirrorProtocolError) as error:
        if patient and isinstance(error, MirrorUnavailable):
            raise
        return Capability(statement=None, problem="it cannot be fetched")
    answer = received.answer
    if answer.status != 200:
        return Capability(statement=None, problem=f"the mirror answers {answer.status}")
    statement = parse_capability(answer.body)
    if statement is None:
        return Capability(statement=None, problem="the answer is not a CapabilityStatement")
    return Capability(statement=statement, problem="" if statement.has_rest else "it describes no server (no `rest`)")


def parse_capability(body: bytes) -> CapabilityStatement | None:
    """Read a CapabilityStatement of any version of FHIR, however damaged; None when it is not one."""
    document = read_json(body)
    if text(document, "resourceType") != "CapabilityStatement":
        return None
    servers = [rest for rest in items(document, "rest") if text(rest, "mode") in {"", "server"} and _is_object(rest)]
    software = f"{text(document, 'software', 'name')} {text(document, 'software', 'version')}".strip()
    return CapabilityStatement(
        fhir_version=shown_name(text(document, "fhirVersion"), 20),
        software=shown_name(software),
        has_rest=bool(servers),
        resources=_resources(servers),
        operations=frozenset(name for rest in servers for name in _operations(rest)),
        instantiates=frozenset(_texts(document, "instantiates")),
        security=tuple(dict.fromkeys(name for rest in servers for name in _security(rest))),
    )


def ways(statement: CapabilityStatement) -> dict[Way, str]:
    """Why each way in is not possible; an empty text where it is."""
    return {
        "documents": _search_problem(statement, "Bundle"),
        "resources": _resources_problem(statement),
        "export": _export_problem(statement),
    }


def decide_way(setting: MirrorWay, capability: Capability) -> tuple[Way, str]:
    """The way in and why: the setting, else the first possible one. Raises `ConfigurationError` when none is possible."""
    if setting != "auto":
        return setting, "it is set"
    statement = capability.statement
    if statement is None or not statement.has_rest:
        return "documents", f"the CapabilityStatement does not help: {capability.problem}"
    reasons = ways(statement)
    for way in WAYS:
        if not reasons[way]:
            return way, "first one that the CapabilityStatement offers"
    if "search-type" in statement.resources.get("Bundle", Resource()).interactions:
        # It is a parameter of all resources, and many statements leave those out: `self` of each first page tells.
        return "documents", "Bundle can be searched; _lastUpdated is not declared, each answer has to show it"
    raise ConfigurationError(
        "The mirror offers no way in that we know. "
        + " ".join(f"{way}: {reasons[way]}." for way in WAYS)
        + " Ask those who run it which one it serves, or, if its CapabilityStatement is incomplete, set the way yourself "
        "(IMUNIZACAO_MIRROR_WAY, or `way` of the Airflow connection). See docs/runbook/mirror-check.md."
    )


async def choose_way(transport: Transport, setting: MirrorWay) -> Way:
    """The way in for this mirror: the setting, else what its CapabilityStatement offers, else `documents`.

    Costs no request with a setting. Raises `ConfigurationError` when the statement offers no way at all, `MirrorUnavailable` when the
    mirror does not give it now: another way on some days would be worse than waiting.
    """
    if setting != "auto":
        way, because = decide_way(setting, Capability(statement=None))
    else:
        try:
            capability = await read_capability(transport, patient=True)
        except MirrorUnavailable as error:
            raise MirrorUnavailable(
                f"{error} A way that is set (IMUNIZACAO_MIRROR_WAY, or `way` of the Airflow connection) needs no metadata."
            ) from error
        way, because = await prefer_filled(transport, *decide_way(setting, capability), capability)
    log_event("mirror.way", way=way, because=because)
    return way


async def prefer_filled(transport: Transport, way: Way, because: str, capability: Capability) -> tuple[Way, str]:
    """Turn to separate resources where those are offered too, and are there while document Bundles are not.

    Many servers declare every type with every parameter, whatever they hold. An export cannot be asked what it would hold.
    """
    statement = capability.statement
    if way != "documents" or statement is None or ways(statement)["resources"]:
        return way, because
    if await _has_any(transport, "Bundle?type=document&") is not False or not await _has_any(
        transport, "Immunization?"
    ):
        return way, because
    return "resources", "the mirror offers documents and has none, but has Immunizations"


async def _has_any(transport: Transport, search: str) -> bool | None:
    """Whether a search has a match, asked for one of them; None where its answer does not tell."""
    url = f"{transport.settings.base_url.rstrip('/')}/{search}_count=1"
    try:
        answer = (await transport.ask(url, where="trial of a way", expected=_REFUSED | {200})).answer
        page = read_page(answer.body) if answer.status == 200 else None
    except (MirrorProtocolError, BadPage):
        return None
    return None if page is None else bool(page.entries or page.total)


def _search_problem(statement: CapabilityStatement, name: str) -> str:
    resource = statement.resources.get(name)
    if resource is None:
        return f"{name} is not served"
    if "search-type" not in resource.interactions:
        return f"{name} cannot be searched"
    if "_lastUpdated" not in resource.search_params:
        return f"{name} cannot be searched by _lastUpdated"
    return ""


def _resources_problem(statement: CapabilityStatement) -> str:
    problem = _search_problem(statement, "Immunization")
    if problem:
        return problem
    if statement.resources["Immunization"].revincludes & {"Composition:entry", "*"}:
        return ""
    composition = _search_problem(statement, "Composition")
    if not composition:
        return ""
    # Without the Composition there is no CNES, and without it no municipality.
    return f"the Composition cannot be had: no _revinclude=Composition:entry, and {composition}"


def _export_problem(statement: CapabilityStatement) -> str:
    if "export" in statement.operations or any(map(_EXPORT.search, statement.operations)):
        return ""
    if any(map(_BULK_DATA.search, statement.instantiates)):
        return ""
    partial = sorted(
        name for name, resource in statement.resources.items() if any("export" in name for name in resource.operations)
    )
    return f"$export only of {' and '.join(partial)}, not of everything" if partial else "no operation $export"


def _resources(servers: list[object]) -> dict[str, Resource]:
    found: dict[str, Resource] = {}
    for rest in servers:
        common = {text(parameter, "name") for parameter in items(rest, "searchParam")} - {""}
        for resource in items(rest, "resource"):
            name = text(resource, "type")
            if not re.fullmatch(r"[A-Z][A-Za-z]{1,63}", name):
                continue
            parameters = {text(parameter, "name") for parameter in items(resource, "searchParam")} - {""}
            found[name] = Resource(
                interactions=frozenset(text(code, "code") for code in items(resource, "interaction")),
                search_params=frozenset(parameters | common),
                includes=frozenset(_texts(resource, "searchInclude")),
                revincludes=frozenset(_texts(resource, "searchRevInclude")),
                operations=frozenset(_operations(resource)),
            )
    return found


def _operations(owner: object) -> list[str]:
    """Names and definitions. Before R4 a definition was a reference, not an address."""
    found = []
    for operation in items(owner, "operation"):
        definition = text(operation, "definition") or text(operation, "definition", "reference")
        found += [text(operation, "name").removeprefix("$"), definition]
    return [name for name in found if name]


def _security(rest: object) -> list[str]:
    names = []
    for service in items(rest, "security", "service"):
        codes = [text(coding, "code") for coding in items(service, "coding")]
        names += [name for name in (*codes, text(service, "text")) if name][:1]
    return [shown_name(name, 40) for name in names]


def _texts(value: object, name: str) -> list[str]:
    return [found for found in items(value, name) if isinstance(found, str)]


def _is_object(value: object) -> bool:
    return isinstance(value, dict)
