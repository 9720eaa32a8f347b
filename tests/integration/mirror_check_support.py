"""A well-behaved mirror of real vaccination documents over FakeMirror, and the places where a test makes it lie."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.responses import Response

from imunizacao.mirror_check import MirrorReport, Row, check_mirror
from imunizacao.reference_day import ReferenceDay
from tests.integration.extract_support import DAY, NOW, Document, FakeMirror, Seen, SleepLog, outcome, running_mirror

STRUCTURE = "http://www.saude.gov.br/fhir/r4/StructureDefinition/"
ROUTINE = "BRRegistroImunobiologicoAdministradoRotina-2.0"
CANARIES = (
    "700000000000005",
    "11144477735",
    "Canario da Silva",
    "1984-02-29",
    "LOTECANARIO",
    "980016",
    "01310-100",
    "canario-documento",
)
"""Identifiers, a name, a birth date, a lot, a practitioner and a postal code that all documents carry, and part of every document id."""
KNOWN = ("type", "_lastUpdated", "_count", "_summary", "_total", "_sort", "_bookmark", "_include", "_revinclude")

Json = dict[str, Any]


def vaccination(
    number: int,
    moment: datetime,
    *,
    profile: str = STRUCTURE + ROUTINE,
    cnes: str = "2269945",
    patient: bool = True,
    residence: Json | None = None,
    version: str = "1",
    dated: bool = True,
    vaccine: str = "33",
) -> Document:
    """A document Bundle with a fictional person in it."""
    identity = f"canario-documento-{number:06d}-i0b0"
    stamp = moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    meta: Json = ({"versionId": version} if version else {}) | ({"lastUpdated": stamp} if dated else {})
    resources = split_resources(number, profile=profile, cnes=cnes, vaccine=vaccine, residence=residence)
    body = {
        "fullUrl": f"http://mirror.example.org/Bundle/{identity}",
        "resource": {
            "resourceType": "Bundle",
            "id": identity,
            "meta": meta,
            "type": "document",
            "entry": [{"resource": found} for found in resources[: 3 if patient else 2]],
        },
        "search": {"mode": "match"},
    }
    return Document(id=identity, version=version or stamp, last_updated=moment, entry=json.dumps(body).encode())


def split_resources(
    number: int,
    *,
    profile: str = STRUCTURE + ROUTINE,
    cnes: str = "2269945",
    vaccine: str = "33",
    residence: Json | None = None,
) -> list[Json]:
    """Composition, Immunization and Patient of one vaccination."""
    city = {"_city": {"extension": [{"url": f"{STRUCTURE}codigo-ibge", "valueString": "355030"}]}}
    return [
        {
            "resourceType": "Composition",
            "id": f"canario-documento-c{number}",
            "meta": {"profile": [profile]},
            "subject": {"identifier": {"value": "700000000000005"}},
            "author": [{"identifier": {"value": cnes}}],
            "section": [{"entry": [{"reference": f"Immunization/canario-documento-i{number}"}]}],
        },
        {
            "resourceType": "Immunization",
            "id": f"canario-documento-i{number}",
            "vaccineCode": {"coding": [{"code": vaccine}] if vaccine else []},
            "occurrenceDateTime": "2026-03-12",
            "lotNumber": "LOTECANARIO",
            "patient": {"reference": f"Patient/canario-documento-p{number}"},
            "performer": [{"actor": {"reference": "Practitioner/980016"}}],
        },
        {
            "resourceType": "Patient",
            "id": f"canario-documento-p{number}",
            "identifier": [{"value": "11144477735"}, {"value": "700000000000005"}],
            "name": [{"text": "Canario da Silva"}],
            "birthDate": "1984-02-29",
            "address": [{"postalCode": "01310-100", **(city if residence is None else residence)}],
        },
    ]


def day_of(count: int, day: ReferenceDay = DAY, **changes: Any) -> list[Document]:
    """Documents at even distances over the day."""
    return [vaccination(n, day.start + timedelta(seconds=86_400 * n // count), **changes) for n in range(count)]


def split_entry(document: Document) -> bytes:
    """The Immunization of a document, as a search of Immunization gives it."""
    bundle = json.loads(document.entry)["resource"]
    immunization = bundle["entry"][1]["resource"] | {"meta": bundle["meta"]}
    return json.dumps({"resource": immunization, "search": {"mode": "match"}}).encode()


def statement(*types: str, export: bool = False, **changes: Any) -> Json:
    """A CapabilityStatement that declares searches of these types by `_lastUpdated`."""
    return {
        "resourceType": "CapabilityStatement",
        "fhirVersion": "4.0.1",
        "software": {"name": "Espelho", "version": "1.2"},
        "rest": [
            {
                "mode": "server",
                "resource": [
                    {
                        "type": name,
                        "interaction": [{"code": "search-type"}],
                        "searchParam": [{"name": "_lastUpdated"}],
                        "searchRevInclude": ["Composition:entry"] if name == "Immunization" else [],
                    }
                    for name in types
                ],
                "operation": [{"name": "export"}] if export else [],
            }
        ],
        **changes,
    }


@dataclass
class Mirror:
    """The mirror of a test: everything is right until the test says otherwise."""

    server: FakeMirror
    metadata: Any = field(default_factory=lambda: statement("Bundle"))
    """JSON, bytes, a status, or None for 404."""
    intercept: Callable[[Seen], Response | None] = lambda seen: None
    """May answer in place of the mirror."""
    edit: Callable[[Seen, Json], None] = lambda seen, body: None
    """May change a search page."""
    compress: bool = True
    etag: Callable[[bytes], str] = lambda body: f'W/"{hash(body)}"'
    clock: datetime | None = NOW
    honour_strict: bool = True
    along: bool = True
    """Whether a search of Immunization brings Composition and Patient along."""
    serves: tuple[str, ...] = ("Bundle",)
    settings: Json = field(default_factory=lambda: {"page_size": 100})

    def check(self, day: ReferenceDay = DAY, now: datetime = NOW, **changes: Any) -> MirrorReport:
        """Run the check."""
        settings = self.server.settings(**(self.settings | changes))
        return check_mirror(settings, day=day, now=lambda: now, sleep=SleepLog())

    def answer(self, seen: Seen) -> Response:
        """Every request comes here first."""
        return self._dated(self.intercept(seen) or self._route(seen))

    def _dated(self, response: Response) -> Response:
        if self.clock is not None:
            response.headers["Date"] = format_datetime(self.clock, usegmt=True)
        return response

    def _route(self, seen: Seen) -> Response:
        name = seen.path.rpartition("/")[2]
        if name == "metadata":
            return self._metadata()
        if name not in self.serves:
            return outcome(404, "(EHR-ERR861) 700000000000005", code="not-found")
        unknown = [parameter for parameter, _ in seen.query if parameter not in KNOWN]
        if unknown and self.honour_strict and seen.headers.get("prefer") == "handling=strict":
            return outcome(400, "(EHR-ERR851) 700000000000005", code="not-supported")
        return self._page(seen, name)

    def _metadata(self) -> Response:
        if self.metadata is None or isinstance(self.metadata, int):
            return Response("Canario da Silva", status_code=self.metadata or 404)
        body = self.metadata if isinstance(self.metadata, bytes) else json.dumps(self.metadata).encode()
        return Response(body, media_type="application/fhir+json")

    def _page(self, seen: Seen, name: str) -> Response:
        if seen.value("_count") == "0":
            seen = replace(seen, query=[pair for pair in seen.query if pair[0] != "_count"] + [("_summary", "count")])
        body: Json = json.loads(self.server._bundle(seen, ""))
        if name == "Immunization":
            self._split(seen, body)
        if name == "Composition":
            body["entry"] = []
        for link in body["link"]:
            url = urlsplit(link["url"])
            query = [pair for pair in parse_qsl(url.query) if pair[0] in KNOWN]
            link["url"] = f"{self.server.base}/{name}?{urlencode(query, safe=':-')}"
        self.edit(seen, body)
        content = json.dumps(body).encode()
        headers = {"ETag": self.etag(content)}
        if self.compress:
            content, headers = gzip.compress(content), headers | {"Content-Encoding": "gzip"}
        return Response(content, media_type="application/fhir+json", headers=headers)

    def _split(self, seen: Seen, body: Json) -> None:
        documents = [entry["resource"] for entry in body["entry"]]
        body["entry"] = [
            {"resource": found["entry"][1]["resource"] | {"meta": found["meta"]}, "search": {"mode": "match"}}
            for found in documents
        ]
        if seen.value("_revinclude") and self.along:
            others = [entry["resource"] for found in documents for entry in found["entry"]]
            body["entry"] += [
                {"resource": other, "search": {"mode": "include"}}
                for other in others
                if other["resourceType"] != "Immunization"
            ]


@contextlib.contextmanager
def checked_mirror(documents: list[Document] | None = None) -> Iterator[Mirror]:
    """The mirror on a free port, with a day of 240 documents and the beginning of the next one."""
    later = [vaccination(900_000 + n, DAY.end + timedelta(hours=3, seconds=n)) for n in range(30)]
    with running_mirror(day_of(240) + later if documents is None else documents) as server:
        mirror = Mirror(server)
        server.before = mirror.answer
        yield mirror


def row(report: MirrorReport, topic: str) -> Row:
    """The row of a check; it must be there once."""
    found = [candidate for candidate in report.rows if candidate.topic == topic]
    assert len(found) == 1, f"{topic}: {len(found)} rows among {[candidate.topic for candidate in report.rows]}"
    return found[0]


def verdicts(report: MirrorReport) -> dict[str, str]:
    """Every row that is not good."""
    return {found.topic: found.verdict for found in report.rows if found.verdict != "ok"}
