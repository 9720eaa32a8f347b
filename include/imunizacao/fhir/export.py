"""Bulk Data `$export`: a job that the mirror works on, a manifest when it is done, and files that must come whole.

Source: HL7 Bulk Data Access, STU1 to the STU4 ballot. What the versions changed is taken either way: a kick-off by GET or by POST, problems
in `error` or in `outcome`, a manifest in one piece or as a chain of `link[next]`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from imunizacao.errors import MirrorProtocolError, MirrorUnavailable, PipelineError
from imunizacao.events import log_event
from imunizacao.fhir.addresses import resolve_address
from imunizacao.fhir.pace import retry_after_seconds
from imunizacao.fhir.pages import BadPage, outcome_code
from imunizacao.fhir.transport import Answer, Downloaded, Transport, origin, shown_origin
from imunizacao.fhir.window import Window, instant_text, parse_instant

WHOLE: Final = ("Bundle",)
"""What a mirror of whole documents is asked for."""
SPLIT: Final = ("Composition", "Immunization", "Patient", "Organization", "Condition")
"""What is asked for where it stores their resources one by one."""
ALL: Final[tuple[str, ...]] = ()
"""What is asked for where it knows no `_type`: everything; files of other types are not fetched."""
NDJSON: Final = "application/fhir+ndjson"
SINCE_MARGIN: Final = timedelta(seconds=1)
"""`_since` means later than: a document of the first instant of a window would be missing without a margin."""
RUNBOOK: Final = "docs/runbook/mirror-export.md"

_FIRST_POLL_SECONDS: Final = 2.0
_LONGEST_POLL_SECONDS: Final = 60.0
_SHORTEST_POLL_SECONDS: Final = 1.0
"""Also where the mirror asks for less."""
_FAULTS_IN_A_ROW: Final = 8
"""Polls in a row that may end in a server error without an OperationOutcome, which is none of the job's own."""
_MANIFESTS: Final = 10_000
_CLEAN_UP_SECONDS: Final = 60.0

_REFUSED: Final = frozenset({400, 404, 405, 410, 415, 422, 501})
_TRY_POST: Final = frozenset({400, 405, 501})
_BAD_PARAMETER: Final = frozenset({400, 422})
"""Refusals that may be of a parameter, not of the export."""
_SERVER_ERRORS: Final = frozenset({500, 501, 502, 503, 504})
_STATUS: Final = frozenset({200, 202, 400, 404, 405, 409, 410, 422}) | _SERVER_ERRORS
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_GONE: Final = frozenset({404, 410})
_NO_ADMITTANCE: Final = frozenset({400, 401, 403})
"""How a store of signed addresses says that a signature has expired."""
_TRANSIENT: Final = frozenset({"transient", "lock-error", "no-store", "timeout", "incomplete", "throttled"})
"""Codes of `issue.code` under `transient`; not `exception`, which servers use for every crash."""
_PERCENT: Final = re.compile(r"\b(\d{1,3})(?:[.,]\d+)?\s*%")
_TYPE: Final = re.compile(r"[A-Z][A-Za-z]{1,63}")


class ExportRefused(MirrorProtocolError):
    """The mirror does not take the kick-off: it has no `$export`, or none of these types."""


class ExportGone(MirrorProtocolError):
    """The job or one of its files is no longer there: another kick-off may help."""


class ExportSpent(MirrorUnavailable):
    """The job will not give the whole day, though a later one may: nothing is gained by asking for it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFile:
    """One file that the manifest names."""

    type: str
    url: str
    """Absolute, as the mirror gave it: it may be a secret of its own."""
    count: int | None
    """Lines that the mirror says it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportManifest:
    """What a finished job has to offer, over all its parts."""

    transaction_time: datetime
    requires_access_token: bool
    output: list[ExportFile]
    deleted: list[ExportFile]
    outcomes: list[ExportFile]
    """`error` and `outcome`."""


class _File(Struct):
    type: str
    url: str
    count: int | None = None


class _Link(Struct):
    relation: str = ""
    url: str = ""


class _Manifest(Struct):
    transactionTime: str  # noqa: N815 (Bulk Data)
    requiresAccessToken: bool  # noqa: N815 (Bulk Data)
    output: list[_File]
    deleted: list[_File] | None = None
    error: list[_File] | None = None
    outcome: list[_File] | None = None
    link: list[_Link] | None = None


class _Issue(Struct):
    severity: str = ""
    code: str = ""


class _Outcome(Struct):
    resourceType: str = ""  # noqa: N815 (FHIR)
    issue: list[_Issue] | None = None


_MANIFEST: Final = msgspec.json.Decoder(_Manifest)
_OUTCOME: Final = msgspec.json.Decoder(_Outcome)


class ExportClient:
    """The protocol of one mirror's `$export`, over a `Transport` that is open."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._base = transport.settings.base_url.rstrip("/")

    async def start(self, window: Window) -> tuple[tuple[str, ...], str]:
        """Start a job for whole documents, else for their resources, else for everything; what it is for, and its status address.

        Raises `ExportRefused` when the mirror takes none of these.
        """
        for types in (WHOLE, SPLIT):
            try:
                return types, await self.kick_off(types, window)
            except ExportRefused:
                log_event("export.refused", types=",".join(types))
        return ALL, await self.kick_off(ALL, window)

    async def kick_off(self, types: Sequence[str], window: Window) -> str:
        """Start a job for resources of a window and return its status address, a secret. No types = all that the mirror has.

        Asks by GET, and by POST where GET is refused; then without `_until`, which the first versions of Bulk Data do not know. Either
        bound may have been ignored: the caller looks at the lines. Raises `ExportRefused` when the mirror takes none of these.
        """
        where = f"export kick-off of {','.join(types) or 'all types'}"
        url = f"{self._base}/$export"
        refusals = []
        for until in (True, False):
            answers = await self._start(url, _parameters(types, window, until=until), where=where)
            accepted = answers.get("POST", answers["GET"])
            if accepted.status == 202:
                status = accepted.headers.get("content-location", "").strip()
                if not status:
                    raise self._broken(
                        f"The {where} was accepted without Content-Location, so nobody can ask for the job"
                    )
                return self._own_address(url, status, what=f"status address of the {where}")
            refusals.append(", ".join(f"{method} {_told(answer)}" for method, answer in answers.items()))
            if not _BAD_PARAMETER & {answer.status for answer in answers.values()}:
                break
        raise ExportRefused(
            f"The mirror at {self._transport.shown_base} refuses the {where}: {'; without `_until` '.join(refusals)}. Nothing was "
            "published. It must offer `$export` of whole documents (Bundle) or of their resources, or another way in must be set "
            f"(IMUNIZACAO_MIRROR_WAY); see {RUNBOOK}."
        )

    async def wait(
        self, status_url: str, *, seconds: float, told: Callable[[int | None], None] = lambda percent: None
    ) -> ExportManifest:
        """Poll a job until it is done and return its manifest, checked; `told` gets the percentage where the mirror gives one.

        Raises `ExportGone` when the mirror no longer knows the job, `ExportSpent` when `seconds` are over, `MirrorUnavailable` when the
        mirror does not answer, `MirrorProtocolError` for a job that failed or a manifest that cannot be trusted.
        """
        transport = self._transport
        started, waited, polls, faults = transport.monotonic(), 0.0, 0, 0
        url, parts, visited = status_url, list[_Manifest](), {status_url}
        while True:
            found: list[_Manifest] = []

            def check(answer: Answer, found: list[_Manifest] = found) -> None:
                if answer.status == 200:
                    found[:] = [_read_manifest(answer.body)]

            received = await transport.ask(
                url,
                where="export status",
                expected=_STATUS,
                accept="application/json, application/fhir+json;q=0.9",
                check=check,
            )
            answer = received.answer
            if found:
                parts += found
                following = next((link.url for link in found[0].link or [] if link.relation == "next"), "")
                if not following:
                    return self._whole(status_url, parts)
                url = self._own_address(url, following, what="next part of the export manifest")
                if url in visited or len(visited) >= _MANIFESTS:
                    raise self._broken(
                        f"The parts of the export manifest lead in a circle after {len(visited)} of them"
                    )
                visited.add(url)
                continue
            faults = faults + 1 if self._is_fault(answer) else 0
            if faults > _FAULTS_IN_A_ROW:
                raise MirrorUnavailable(
                    f"The mirror at {transport.shown_base} answered the export status {faults} times in a row with "
                    f"{answer.status} and no OperationOutcome. Nothing was published; the job goes on. Run the task again when the "
                    f"mirror is well; see {RUNBOOK}."
                )
            polls += 1
            wait = retry_after_seconds(answer.headers.get("retry-after"), server_now=answer.date)
            wait = max(_SHORTEST_POLL_SECONDS, _poll_seconds(polls) if wait is None else wait)
            elapsed = max(transport.monotonic() - started, waited)
            if elapsed + wait > seconds:
                raise ExportSpent(
                    f"The export of the mirror at {transport.shown_base} is not done after {elapsed:.0f} s and {polls} polls; this run "
                    f"waits {seconds:.0f} s (IMUNIZACAO_MIRROR_EXPORT_DEADLINE). Nothing was published. Ask those who run the "
                    f"mirror why it is slow, then run the task again; see {RUNBOOK}."
                )
            percent = _percent(answer.headers.get("x-progress", ""))
            log_event("export.waiting", polls=polls, status=answer.status, percent=percent, wait=wait)
            told(percent)
            await transport.sleep(wait)
            waited += wait

    async def fetch(self, file: ExportFile, manifest: ExportManifest, path: Path, *, where: str) -> Downloaded:
        """Write one file of a manifest to `path`, decompressed; `ExportGone` when it is no longer there.

        We show who we are only where the manifest asks for it, and then only to the mirror itself.
        """
        known = manifest.requires_access_token
        expected = frozenset({200}) | _GONE | _REDIRECTS | (frozenset() if known else _NO_ADMITTANCE)
        done = await self._transport.download(file.url, path, where=where, authenticated=known, expected=expected)
        status = done.received.answer.status
        server = shown_origin(file.url)
        if status in _REDIRECTS:
            raise self._broken(
                f"{where} redirects ({status}) at {server}, which is not followed: the manifest must name the final address"
            )
        if status != 200:
            hint = (
                ""
                if status in _GONE
                else " to a request without identification, as the manifest asks for (requiresAccessToken false)"
            )
            raise ExportGone(
                f"The mirror no longer gives {where}: {server} answers {status}{hint}. Nothing was published. See {RUNBOOK}."
            )
        return done

    async def clean_up(self, status_url: str) -> bool:
        """Tell the mirror that its job is no longer needed; a failure is only logged, for the mirror forgets jobs by itself."""
        expected = frozenset({200, 202, 204, *_STATUS, 501})
        try:
            async with asyncio.timeout(_CLEAN_UP_SECONDS):
                got = await self._transport.ask(status_url, where="export clean-up", method="DELETE", expected=expected)
        except (PipelineError, TimeoutError) as error:
            log_event("export.not_cleaned_up", level=logging.WARNING, reason=type(error).__name__)
            return False
        if got.answer.status not in {200, 202, 204, *_GONE}:
            log_event("export.not_cleaned_up", level=logging.WARNING, reason=_told(got.answer))
            return False
        return True

    def _is_fault(self, answer: Answer) -> bool:
        """Judge a status answer without a manifest: False = the job goes on, True = a server error that says nothing of the job."""
        if answer.status == 202:
            return False
        if answer.status in _GONE:
            raise ExportGone(
                f"The mirror at {self._transport.shown_base} no longer knows the export job ({_told(answer)}). Nothing was published. "
                f"See {RUNBOOK}."
            )
        issues = _issues(answer.body)
        if issues is None and answer.status in _SERVER_ERRORS:
            return True
        if issues and any(issue.code in _TRANSIENT for issue in issues):
            return False
        raise self._broken(f"The export failed at the mirror {self._transport.shown_base}: {_told(answer)}")

    async def _start(self, url: str, parameters: Sequence[tuple[str, str, str]], *, where: str) -> dict[str, Answer]:
        """Ask for a job by GET, and by POST where that is refused; the answers by method."""
        query = urlencode([(name, value) for name, _, value in parameters], safe=":,")
        answers = {"GET": await self._send(f"{url}?{query}", where=where)}
        if answers["GET"].status in _TRY_POST:
            posted = [
                {"name": name, kind: one}
                for name, kind, value in parameters
                for one in (value.split(",") if name == "_type" else [value])
            ]
            content = msgspec.json.encode({"resourceType": "Parameters", "parameter": posted})
            answers["POST"] = await self._send(url, where=where, content=content)
        return answers

    async def _send(self, url: str, *, where: str, content: bytes | None = None) -> Answer:
        headers = {"Prefer": "respond-async, handling=lenient"}
        if content is not None:
            headers["Content-Type"] = "application/fhir+json"
        received = await self._transport.ask(
            url,
            where=where,
            method="GET" if content is None else "POST",
            expected=frozenset({202}) | _REFUSED,
            accept="application/fhir+json",
            headers=headers,
            content=content,
        )
        return received.answer

    def _whole(self, status_url: str, parts: Sequence[_Manifest]) -> ExportManifest:
        """Put the parts of a manifest together and check what they promise."""
        moment = parse_instant(parts[0].transactionTime)
        if moment is None:
            raise self._broken("The export manifest has a transactionTime that is no instant")
        if len({(part.transactionTime, part.requiresAccessToken) for part in parts}) > 1:
            raise self._broken("The parts of the export manifest differ in transactionTime or requiresAccessToken")
        token = parts[0].requiresAccessToken

        def files(name: str) -> list[ExportFile]:
            found = [file for part in parts for file in getattr(part, name) or []]
            return [self._file(status_url, file, token=token) for file in found]

        manifest = ExportManifest(
            transaction_time=moment,
            requires_access_token=token,
            output=files("output"),
            deleted=files("deleted"),
            outcomes=[*files("error"), *files("outcome")],
        )
        urls = [file.url for file in [*manifest.output, *manifest.deleted, *manifest.outcomes]]
        if len(set(urls)) < len(urls):
            raise self._broken("The export manifest names a file twice")
        return manifest

    def _file(self, status_url: str, file: _File, *, token: bool) -> ExportFile:
        url = resolve_address(status_url, file.url, what="a file of the export manifest")
        if not _TYPE.fullmatch(file.type) or (file.count is not None and file.count < 0):
            raise self._broken("The export manifest names a file without a proper type, or with a negative count")
        scheme, host, _ = origin(url)
        if scheme not in {"http", "https"} or not host:
            raise self._broken("The export manifest names a file that has no http address")
        if origin(url) != origin(self._base):
            if token:
                raise self._broken(
                    f"The export manifest asks for our identification (requiresAccessToken) at {shown_origin(url)}, which is not the mirror "
                    f"{self._transport.shown_base}: it is only sent to the mirror itself"
                )
            if scheme == "http" and origin(self._base)[0] == "https":
                raise self._broken(
                    f"The export manifest names files at {shown_origin(url)}, without encryption, though the mirror itself has it"
                )
        return ExportFile(type=file.type, url=url, count=file.count)

    def _own_address(self, current: str, link: str, *, what: str) -> str:
        url = resolve_address(current, link, what=f"a {what}")
        if origin(url) != origin(self._base):
            raise self._broken(
                f"The {what} leads to {shown_origin(url)}, away from {self._transport.shown_base}. It was not followed: identification is "
                "only sent to the mirror itself. If the mirror stands behind a proxy, it must know its public address"
            )
        return url

    @staticmethod
    def _broken(what: str) -> MirrorProtocolError:
        return MirrorProtocolError(f"{what}. Nothing was published. See {RUNBOOK}.")


def judge_outcomes(lines: Iterable[bytes], *, where: str) -> list[str]:
    """Read the OperationOutcomes of a file and return their codes; one of severity error or fatal means that the export is not whole.

    Raises `ExportSpent` when all of those are transient, `MirrorProtocolError` otherwise. Texts are never quoted.
    """
    severe: list[tuple[bool, str]] = []
    codes: list[str] = []
    for line in lines:
        issues, code = _issues(line), outcome_code(line) or "no-code"
        codes.append(code)
        bad = None if issues is None else [issue for issue in issues if issue.severity in {"error", "fatal"}]
        if bad is None or bad:
            severe.append((bool(bad) and all(issue.code in _TRANSIENT for issue in bad or []), code))
    if severe:
        shown = ", ".join(sorted({code for _, code in severe}))
        kind = ExportSpent if all(transient for transient, _ in severe) else MirrorProtocolError
        raise kind(
            f"The mirror says that its export is not whole: {len(severe)} errors in {where} ({shown}). Nothing was published. Ask those "
            f"who run the mirror what these codes mean, then run the task again; see {RUNBOOK}."
        )
    return codes


def _read_manifest(body: bytes) -> _Manifest:
    try:
        return _MANIFEST.decode(body)
    except msgspec.ValidationError as error:
        code = outcome_code(body)
        raise BadPage(f"no export manifest ({code or error})") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadPage("an export manifest that is truncated or not JSON") from error


def _issues(body: bytes) -> list[_Issue] | None:
    """Issues of an OperationOutcome; None for anything else."""
    try:
        outcome = _OUTCOME.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return outcome.issue or [] if outcome.resourceType == "OperationOutcome" else None


def _told(answer: Answer) -> str:
    return f"{answer.status} {outcome_code(answer.body)}".rstrip()


def _poll_seconds(polls: int) -> float:
    """Waits that grow by half, from 2 s to a minute: a job takes minutes to hours."""
    return min(_FIRST_POLL_SECONDS * 1.5 ** min(polls - 1, 20), _LONGEST_POLL_SECONDS)


def _percent(progress: str) -> int | None:
    """The only part of X-Progress that is known to say nothing of a person."""
    match = _PERCENT.search(progress[:100])
    return min(int(match[1]), 100) if match else None


def _parameters(types: Sequence[str], window: Window, *, until: bool) -> list[tuple[str, str, str]]:
    """Name, kind and value of each parameter of a kick-off."""
    return [
        *([("_type", "valueString", ",".join(types))] if types else []),
        ("_since", "valueInstant", instant_text(window.start - SINCE_MARGIN)),
        *([("_until", "valueInstant", instant_text(window.end))] if until else []),
        ("_outputFormat", "valueString", NDJSON),
    ]
