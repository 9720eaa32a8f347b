"""Bulk Data `$export` of the mirror: kick-off, status, files, and the ways in which an export can be special.

A job sees the archive as it was at its kick-off. Files hold what a search of the same bounds lists; their addresses carry a token that
nobody can guess, and on the second port (`export-other-host`) they are given to those only who do not say who they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, TypeVar
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from tests.mirror.calendar import utc_text
from tests.mirror.documents import Archive
from tests.mirror.faults.base import Scenario
from tests.mirror.faults.exports import (
    ExportDeleted,
    ExportErrorFile,
    ExportExpired,
    ExportFileLines,
    ExportLost,
    ExportNoCounts,
    ExportOtherHost,
    ExportOutcome,
    ExportPostOnly,
    ExportProgress,
    ExportSplit,
    ExportThrottled,
    ExportTruncated,
    ExportUntilIgnored,
)
from tests.mirror.resources import split_document
from tests.mirror.scenarios import Active
from tests.mirror.search import Search, SearchRefused, find_matches, read_instant

NDJSON: Final = "application/fhir+ndjson"
FILE_LINES: Final = 5000
"""Lines of a file unless `export-file-lines` says otherwise."""
OVERSHOOT_MS: Final = 6 * 3_600_000
SPLIT: Final = ("Composition", "Immunization", "Patient", "Organization", "Condition")
OPERATION: Final = {"name": "export", "definition": "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export"}
_IDENTITY: Final = ("authorization", "x-authorization-server")

Outcome = Callable[..., Response]


S = TypeVar("S", bound=Scenario)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a job, not made before it is asked for."""

    kind: str
    """`output`, `deleted` or `error`."""
    type: str
    name: str
    lines: int
    make: Callable[[], Iterable[str]]


@dataclass(slots=True, kw_only=True)
class Job:
    """One export."""

    id: str
    token: str
    expired: bool
    transaction_time: int
    files: list[File]
    asked: int = 0
    cut: set[str] = field(default_factory=set)
    """Names of files that were given cut once."""


class Exports:
    """The jobs of one mirror."""

    def __init__(
        self,
        archive: Archive,
        active: Active,
        *,
        base: str,
        files_port: int,
        refuse: Callable[[Request], Response | None],
        guarded: bool,
        horizon: Callable[[], int],
        outcome: Outcome,
    ) -> None:
        self._archive = archive
        self._active = active
        self._base = base
        self._files_port = files_port
        self._refuse = refuse
        self._guarded = guarded
        self._horizon = horizon
        self._outcome = outcome
        self._jobs: dict[str, Job] = {}
        self._number = 0

    async def kick_off(self, request: Request) -> Response:
        """Start a job; GET with a query, or POST with Parameters."""
        request.scope["mirror.route"] = "export-kick-off"
        refused = self._refuse(request)
        if refused is not None:
            return refused
        if request.method == "GET" and self._option(ExportPostOnly) is not None:
            return self._outcome(405, "(EHR-ERR861) Use POST", code="not-supported")
        if "respond-async" not in request.headers.get("prefer", ""):
            return self._outcome(400, "(EHR-ERR851) Prefer: respond-async", code="invalid")
        parameters = (
            _read_parameters(await request.body())
            if request.method == "POST"
            else list(request.query_params.multi_items())
        )
        if parameters is None:
            return self._outcome(400, "(EHR-ERR851) Parameters", code="structure")
        try:
            job = self._start(parameters)
        except SearchRefused as error:
            return self._outcome(error.status, str(error), code="not-supported")
        self._jobs[job.id] = job
        address = f"{request.url.scheme}://{request.url.netloc}{self._base}/$export-status/{job.id}"
        return Response(status_code=202, headers={"Content-Location": address})

    async def status(self, request: Request) -> Response:
        """How a job is getting on, its manifest, or (DELETE) its end."""
        request.scope["mirror.route"] = "export-status" if request.method == "GET" else "export-delete"
        refused = self._refuse(request)
        if refused is not None:
            return refused
        job = self._jobs.get(request.path_params["job"])
        if job is None:
            return self._outcome(404, "No such export", code="not-found")
        if request.method == "DELETE":
            del self._jobs[job.id]
            return Response(status_code=202)
        throttled = self._option(ExportThrottled)
        if throttled is not None and throttled.use() == 1:
            return self._outcome(429, "(EHR-ERR999) Devagar", code="throttled", headers={"Retry-After": "1"})
        progress = self._option(ExportProgress)
        job.asked += 1
        if progress is not None and job.asked <= progress.number:
            share = 100 * (job.asked - 1) // progress.number
            return Response(status_code=202, headers={"X-Progress": f"{share}% done", "Retry-After": "1"})
        return Response(
            json.dumps(self._manifest(request, job)),
            media_type="application/json",
            headers={"Expires": "Wed, 01 Jan 2120 00:00:00 GMT"},
        )

    async def file(self, request: Request) -> Response:
        """One file."""
        request.scope["mirror.route"] = "export-file"
        server = request.scope.get("server") or ("", 0)
        if server[1] == self._files_port:
            if any(request.headers.get(name) for name in _IDENTITY):
                return self._outcome(400, "Identification is not wanted here", code="security")
        elif self._guarded and (refused := self._refuse(request)) is not None:
            return refused
        job = next((job for job in self._jobs.values() if job.token == request.path_params["token"]), None)
        file = next((file for file in job.files if file.name == request.path_params["name"]), None) if job else None
        if job is None or file is None:
            return self._outcome(404, "No such file", code="not-found")
        if job.expired:
            return self._outcome(410, "The file has expired", code="expired")
        body = "".join(f"{line}\n" for line in file.make()).encode("utf-8", "surrogateescape")
        truncated = self._option(ExportTruncated)
        if truncated is not None and file is self._nth(job, truncated.number) and file.name not in job.cut:
            job.cut.add(file.name)
            body = body[: body.rindex(b"\n", 0, -1) + 20]
        return Response(body, media_type=NDJSON)

    def _nth(self, job: Job, number: int) -> File | None:
        output = [file for file in job.files if file.kind == "output"]
        return output[number - 1] if 0 < number <= len(output) else None

    def _start(self, parameters: Sequence[tuple[str, str]]) -> Job:
        types: list[str] = []
        low: int | None = None
        high: int | None = None
        for name, value in parameters:
            if name == "_type":
                types += value.split(",")
            elif name == "_since":
                low = read_instant(value)[1] + 1
            elif name == "_until" and self._option(ExportUntilIgnored) is None:
                high = read_instant(value)[1]
            elif name == "_until":
                high = read_instant(value)[1] + OVERSHOOT_MS
            elif name != "_outputFormat" or value not in {NDJSON, "application/ndjson", "ndjson"}:
                raise SearchRefused("EHR-ERR851", f"Parâmetro não suportado: {name}")
        split = self._option(ExportSplit) is not None
        unknown = [name for name in types if name not in (*SPLIT, "Bundle") or (not split and name != "Bundle")]
        if unknown or not types or low is None:
            raise SearchRefused("EHR-ERR851", "Este servidor exporta Bundle, com _since")
        self._number += 1
        expired = self._option(ExportExpired)
        horizon = self._horizon()
        job_id = blake2b(f"job|{self._archive.settings.seed}|{self._number}".encode(), digest_size=12).hexdigest()
        return Job(
            id=job_id,
            token=blake2b(f"files|{job_id}".encode(), digest_size=12).hexdigest(),
            expired=expired is not None and expired.use() <= expired.number,
            transaction_time=horizon,
            files=[
                *self._outputs(types, Search(low=low, high=high), horizon, split=split),
                *self._deletions(low, high),
                *self._problems(),
            ],
        )

    def _outputs(self, types: Sequence[str], search: Search, horizon: int, *, split: bool) -> Iterator[File]:
        self._active.visit(search)
        matches = find_matches(self._archive, search, horizon=horizon, edits=self._active.catalogue.edits)
        lost = self._option(ExportLost)
        size = len(matches) - (lost.number if lost else 0)
        if split:
            documents = [_document(entry) for entry in matches.page(0, size)]
            found = _split(documents, self._archive.settings.base)
            for name in types:
                yield from self._cut(name, len(found.get(name, [])), lambda a, b, name=name: found[name][a:b])  # type: ignore[misc]
        else:
            yield from self._cut("Bundle", size, lambda a, b: [_document(entry) for entry in matches.page(a, b - a)])

    def _cut(self, kind: str, size: int, make: Callable[[int, int], Iterable[str]]) -> Iterator[File]:
        option = self._option(ExportFileLines)
        step = option.number if option else FILE_LINES
        for number, start in enumerate(range(0, size, step), 1):
            stop = min(start + step, size)
            name = f"{number}.{kind}.ndjson"
            yield File(
                kind="output",
                type=kind,
                name=name,
                lines=stop - start,
                make=lambda a=start, b=stop: make(a, b),  # type: ignore[misc]
            )

    def _deletions(self, low: int, high: int | None) -> Iterator[File]:
        option = self._option(ExportDeleted)
        if option is None:
            return
        lines = [
            _deletion(document, instant if stated else None)
            for document, instant, stated in option.documents
            if instant >= low and (high is None or instant < high)
        ]
        if lines:
            # A resource that is no document goes with the first of them.
            lines[0] = lines[0].replace('"entry":[', '"entry":[{"request":{"method":"DELETE","url":"Patient/p-1"}},')
            yield File(kind="deleted", type="Bundle", name="deleted.ndjson", lines=len(lines), make=lambda: lines)

    def _problems(self) -> Iterator[File]:
        issues = []
        if self._option(ExportOutcome) is not None:
            issues.append(("information", "informational", "Exportação concluída"))
        if self._option(ExportErrorFile) is not None:
            issues.append(("error", "exception", "(EHR-ERR990) Falha no documento de FULANO FICTICIO"))
        lines = [
            json.dumps(
                {
                    "resourceType": "OperationOutcome",
                    "issue": [{"severity": severity, "code": code, "diagnostics": text}],
                },
                ensure_ascii=False,
            )
            for severity, code, text in issues
        ]
        if lines:
            yield File(kind="error", type="OperationOutcome", name="error.ndjson", lines=len(lines), make=lambda: lines)

    def _manifest(self, request: Request, job: Job) -> dict[str, Any]:
        renamed = self._option(ExportOutcome) is not None
        elsewhere = self._option(ExportOtherHost) is not None
        host = f"{request.url.hostname}:{self._files_port}" if elsewhere else request.url.netloc
        counted = self._option(ExportNoCounts) is None

        def listed(kind: str) -> list[dict[str, Any]]:
            return [
                {
                    "type": file.type,
                    "url": f"{request.url.scheme}://{host}/export-files/{job.token}/{quote(file.name)}",
                    **({"count": file.lines} if counted else {}),
                }
                for file in job.files
                if file.kind == kind
            ]

        manifest = {
            "transactionTime": utc_text(job.transaction_time),
            "requiresAccessToken": self._guarded and not elsewhere,
            "output": listed("output"),
            "deleted": listed("deleted"),
            "outcome" if renamed else "error": listed("error"),
        }
        return (
            manifest
            if renamed
            else {**manifest, "request": f"{request.url.scheme}://{request.url.netloc}{self._base}/$export"}
        )

    def _option(self, kind: type[S]) -> S | None:
        return next((scenario for scenario in self._active.scenarios if isinstance(scenario, kind)), None)


def _read_parameters(body: bytes) -> list[tuple[str, str]] | None:
    try:
        resource = json.loads(body)
        if resource["resourceType"] != "Parameters":
            return None
        return [
            (item["name"], next(str(value) for name, value in item.items() if name.startswith("value")))
            for item in resource["parameter"]
        ]
    except (ValueError, KeyError, TypeError, StopIteration):
        return None


def _document(entry: str) -> str:
    """The Bundle in the text of a search entry."""
    return entry[entry.index('"resource":') + len('"resource":') : entry.rindex(',"search":')]


def _split(documents: Sequence[str], base: str) -> dict[str, list[str]]:
    """The resources of documents by type, each once."""
    found: dict[str, dict[str, None]] = {}
    for document in documents:
        for kind, entries in split_document(document, base).items():
            resources = (entry[entry.index('"resource":') + len('"resource":') :] for entry in entries)
            found.setdefault(kind, {}).update(dict.fromkeys(resources))
    return {kind: list(resources) for kind, resources in found.items()}


def _deletion(document: str, instant: int | None) -> str:
    stated = f'"meta":{{"lastUpdated":"{utc_text(instant)}"}},' if instant is not None else ""
    return (
        f'{{"resourceType":"Bundle",{stated}"type":"transaction",'
        f'"entry":[{{"request":{{"method":"DELETE","url":"Bundle/{document}"}}}}]}}'
    )
