"""Bulk Data `$export` over real HTTP: the kick-off, the wait, the manifest, the files, and what is never taken for granted."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from starlette.responses import Response

from imunizacao.errors import ConfigurationError, MirrorProtocolError, MirrorUnavailable
from imunizacao.fhir import Downloaded, Transport, Window, parse_instant
from imunizacao.fhir.export import (
    ExportClient,
    ExportGone,
    ExportManifest,
    ExportRefused,
    ExportSpent,
    judge_outcomes,
)
from imunizacao.settings import MirrorSettings
from tests.integration.export_support import (
    TRANSACTION,
    Asked,
    FakeExport,
    accepted,
    manifest,
    ndjson,
    outcome_line,
    problem,
    running_export,
    waiting,
)
from tests.integration.extract_support import CANARY_TEXT, DAY, NOW, SleepLog

pytestmark = pytest.mark.servers

WINDOW = Window(start=DAY.start, end=DAY.end)
SECRET = "canary-status-secret"
T = TypeVar("T")


@pytest.fixture
def mirror() -> Iterator[FakeExport]:
    with running_export() as mirror:
        yield mirror


@pytest.fixture
def other() -> Iterator[FakeExport]:
    with running_export() as other:
        yield other


class Client:
    """Runs one step of the protocol, and keeps how long it slept."""

    def __init__(self, mirror: FakeExport) -> None:
        self._mirror = mirror
        self.sleeps = SleepLog()

    def run(self, step: Callable[[ExportClient], Awaitable[T]], **settings: Any) -> T:
        async def main() -> T:
            transport = Transport(self._mirror.settings(**settings), sleep=self.sleeps, now=lambda: NOW)
            async with transport:
                return await step(ExportClient(transport))

        return asyncio.run(main())

    def kick_off(self, *types: str, **settings: Any) -> str:
        return self.run(lambda client: client.kick_off(types or ("Bundle",), WINDOW), **settings)

    def wait(self, path: str = "/status/1", *, seconds: float = 3600.0, **settings: Any) -> ExportManifest:
        return self.run(lambda client: client.wait(self._mirror.origin + path, seconds=seconds), **settings)

    def fetch(self, folder: Path, *output: dict[str, Any], token: bool = False, **settings: Any) -> Downloaded:
        self._mirror.on("GET /status/1", manifest(*output, requiresAccessToken=token))

        async def step(client: ExportClient) -> Downloaded:
            found = await client.wait(f"{self._mirror.origin}/status/1", seconds=60)
            return await client.fetch(found.output[0], found, folder / "file", where="output file 1 of 1 (Bundle)")

        return self.run(step, **settings)


@pytest.fixture
def client(mirror: FakeExport) -> Client:
    return Client(mirror)


# --- the kick-off ----------------------------------------------------------------------------------------


def test_a_job_is_asked_for_with_its_window_and_a_second_before_it(mirror: FakeExport, client: Client) -> None:
    mirror.on("GET /fhir/$export", accepted("/status/1"))
    assert client.kick_off() == f"{mirror.origin}/status/1"
    (asked,) = mirror.asked
    assert asked.query == {
        "_type": "Bundle",
        "_since": "2026-03-13T02:59:59Z",
        "_until": "2026-03-14T03:00:00Z",
        "_outputFormat": "application/fhir+ndjson",
    }
    assert asked.headers["prefer"] == "respond-async, handling=lenient"
    assert asked.headers["accept"] == "application/fhir+json"


@pytest.mark.parametrize(
    "refusal", [problem(405, "not-supported"), problem(400, "not-supported"), Response(status_code=405)]
)
def test_where_get_is_refused_the_parameters_are_posted(mirror: FakeExport, client: Client, refusal: Response) -> None:
    mirror.on("GET /fhir/$export", refusal)
    mirror.on("POST /fhir/$export", accepted("/status/2"))
    assert client.kick_off("Composition", "Immunization") == f"{mirror.origin}/status/2"
    posted = mirror.asked[-1]
    assert posted.query == {}
    assert posted.headers["content-type"] == "application/fhir+json"
    assert posted.headers["prefer"] == "respond-async, handling=lenient"
    assert json.loads(posted.body) == {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "_type", "valueString": "Composition"},
            {"name": "_type", "valueString": "Immunization"},
            {"name": "_since", "valueInstant": "2026-03-13T02:59:59Z"},
            {"name": "_until", "valueInstant": "2026-03-14T03:00:00Z"},
            {"name": "_outputFormat", "valueString": "application/fhir+ndjson"},
        ],
    }


def test_a_mirror_that_takes_no_kick_off_is_told_with_both_answers(mirror: FakeExport, client: Client) -> None:
    text = f"(EHR-ERR861) {CANARY_TEXT}"
    mirror.on("GET /fhir/$export", problem(400, "not-supported", diagnostics=text))
    mirror.on("POST /fhir/$export", problem(422, "invalid"))
    with pytest.raises(
        ExportRefused, match=r"GET 400 EHR-ERR861, POST 422 invalid; without `_until` GET 400 .*mirror-export\.md"
    ) as caught:
        client.kick_off()
    assert CANARY_TEXT not in str(caught.value)


@pytest.mark.parametrize("status", [400, 422])
def test_a_mirror_that_does_not_know_until_is_asked_without(mirror: FakeExport, client: Client, status: int) -> None:
    def answer(asked: Asked) -> Response:
        return problem(status, "not-supported") if "_until" in asked.query else accepted("/status/3")

    mirror.on("GET /fhir/$export", answer)
    mirror.on("POST /fhir/$export", problem(405, "not-supported"))
    assert client.kick_off() == f"{mirror.origin}/status/3"
    assert mirror.asked[-1].query == {
        "_type": "Bundle",
        "_since": "2026-03-13T02:59:59Z",
        "_outputFormat": "application/fhir+ndjson",
    }


def test_a_mirror_that_knows_no_type_is_asked_for_everything_at_last(mirror: FakeExport, client: Client) -> None:
    def answer(asked: Asked) -> Response:
        return problem(400, "not-supported") if {"_type", "_until"} & set(asked.query) else accepted("/status/4")

    mirror.on("GET /fhir/$export", answer)
    assert client.run(lambda export: export.start(WINDOW)) == ((), f"{mirror.origin}/status/4")


def test_a_mirror_without_export_is_not_posted_to(mirror: FakeExport, client: Client) -> None:
    with pytest.raises(ExportRefused, match="GET 404 not-found"):
        client.kick_off()
    assert [asked.method for asked in mirror.asked] == ["GET"]


@pytest.mark.parametrize("location", [None, ""])
def test_a_job_without_an_address_is_refused(mirror: FakeExport, client: Client, location: str | None) -> None:
    mirror.on("GET /fhir/$export", accepted(location))
    with pytest.raises(MirrorProtocolError, match="without Content-Location"):
        client.kick_off()


def test_a_status_address_on_another_host_is_not_followed(
    mirror: FakeExport, other: FakeExport, client: Client
) -> None:
    mirror.on("GET /fhir/$export", accepted(f"{other.origin}/status/{SECRET}"))
    with pytest.raises(MirrorProtocolError, match="status address .* leads to .* It was not followed") as caught:
        client.kick_off()
    assert SECRET not in str(caught.value)
    assert other.asked == []


def test_an_address_that_is_none_is_the_mirrors_fault_wherever_it_stands(mirror: FakeExport, client: Client) -> None:
    broken = f"http://[fd00::1/{SECRET}"
    mirror.on("GET /fhir/$export", accepted(broken))
    with pytest.raises(MirrorProtocolError, match="status address .* is not an address") as caught:
        client.kick_off()
    assert SECRET not in str(caught.value)
    mirror.on("GET /status/1", manifest({"type": "Bundle", "url": broken}))
    with pytest.raises(MirrorProtocolError, match="a file of the export manifest that is not an address") as caught:
        client.wait()
    assert SECRET not in str(caught.value)


def test_a_busy_mirror_is_asked_again_for_a_job(mirror: FakeExport, client: Client) -> None:
    mirror.on("GET /fhir/$export", problem(429, "throttled", Retry_After="7"), problem(503, "transient"), accepted())
    client.kick_off()
    assert len(mirror.asked) == 3
    assert client.sleeps.seconds[0] == 7.0


# --- the wait --------------------------------------------------------------------------------------------


def test_the_mirror_says_how_long_to_wait(mirror: FakeExport, client: Client) -> None:
    later = format_datetime(NOW + timedelta(seconds=90), usegmt=True)
    mirror.on(
        "GET /status/1",
        waiting(Retry_After="12"),
        waiting(Retry_After=later, Date=format_datetime(NOW, usegmt=True)),
        waiting(Retry_After="0"),
        waiting(Retry_After="999999"),
        manifest(),
    )
    client.wait()
    assert client.sleeps.seconds == [12.0, 90.0, 1.0, 300.0]


def test_without_a_hint_the_waits_grow_to_a_minute(mirror: FakeExport, client: Client) -> None:
    mirror.on("GET /status/1", *[waiting() for _ in range(12)], manifest())
    client.wait()
    waits = client.sleeps.seconds
    assert waits[:3] == [2.0, 3.0, 4.5]
    assert waits == sorted(waits)
    assert waits[-1] == 60.0


def test_progress_is_told_in_percent_and_its_text_to_nobody(
    mirror: FakeExport, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = [f"{CANARY_TEXT}: 50% done", CANARY_TEXT, "99,5 %"]
    mirror.on(f"GET /status/{SECRET}", *[waiting(X_Progress=text) for text in texts], manifest())
    told: list[int | None] = []
    client.run(lambda export: export.wait(f"{mirror.origin}/status/{SECRET}", seconds=600, told=told.append))
    assert told == [50, None, 99]
    assert "percent=50" in caplog.text
    assert CANARY_TEXT not in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "hiccup",
    [
        problem(429, "throttled", Retry_After="3"),
        problem(500, "transient"),
        problem(503, "timeout"),
        problem(400, "lock-error"),
        Response("<html>", status_code=502),
        Response(status_code=500),
    ],
)
def test_a_failure_that_passes_costs_a_wait(mirror: FakeExport, client: Client, hiccup: Response) -> None:
    mirror.on("GET /status/1", waiting(), hiccup, hiccup, manifest())
    assert client.wait().output == []
    assert len(mirror.asked) == 4
    assert len(client.sleeps.seconds) >= 3


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (problem(500, "exception"), "500 exception"),
        (problem(500, "processing", diagnostics=f"(EHR-ERR990) {CANARY_TEXT}"), "500 EHR-ERR990"),
        (problem(422, "too-costly"), "422 too-costly"),
        (Response("no", status_code=400), "400"),
    ],
)
def test_a_job_that_failed_is_told_with_its_code(
    mirror: FakeExport, client: Client, answer: Response, told: str
) -> None:
    mirror.on("GET /status/1", answer)
    with pytest.raises(MirrorProtocolError, match=f"The export failed at the mirror .*: {told}. Nothing") as caught:
        client.wait()
    assert CANARY_TEXT not in str(caught.value)
    assert len(mirror.asked) == 1


def test_a_proxy_that_keeps_failing_ends_the_wait_and_not_the_job(mirror: FakeExport, client: Client) -> None:
    mirror.on("GET /status/1", Response("<html>", status_code=502))
    with pytest.raises(MirrorUnavailable, match="9 times in a row with 502") as caught:
        client.wait()
    assert not isinstance(caught.value, ExportSpent)


@pytest.mark.parametrize("status", [404, 410])
def test_a_job_that_the_mirror_forgot_is_gone(mirror: FakeExport, client: Client, status: int) -> None:
    mirror.on("GET /status/1", problem(status, "not-found"))
    with pytest.raises(ExportGone, match=f"no longer knows the export job \\({status} not-found\\)"):
        client.wait()


def test_a_job_that_takes_too_long_is_given_up(mirror: FakeExport, client: Client) -> None:
    mirror.on("GET /status/1", waiting(Retry_After="100"))
    with pytest.raises(ExportSpent, match=r"not done after 300 s and 4 polls; this run waits 350 s"):
        client.wait(seconds=350)
    assert client.sleeps.seconds == [100.0, 100.0, 100.0]


def test_refused_credentials_are_no_failed_job(mirror: FakeExport, client: Client) -> None:
    mirror.on("GET /status/1", problem(403, "forbidden"))
    with pytest.raises(ConfigurationError, match="refuses us: 403 forbidden on export status"):
        client.wait()


# --- the manifest ----------------------------------------------------------------------------------------


def file(url: str = "/files/1", kind: str = "Bundle", **more: Any) -> dict[str, Any]:
    return {"type": kind, "url": url, **more}


def test_a_manifest_names_its_files_by_what_they_are_for(mirror: FakeExport, client: Client) -> None:
    mirror.on(
        "GET /status/1",
        manifest(
            file(count=3),
            file(f"{mirror.origin}/files/2"),
            deleted=[file("/files/d")],
            error=[file("/files/e", "OperationOutcome")],
            outcome=[file("/files/o", "OperationOutcome")],
            request="ignored",
            extension={"any": "thing"},
        ),
    )
    found = client.wait()
    assert found.transaction_time == parse_instant(TRANSACTION)
    assert [(item.type, item.url.removeprefix(mirror.origin), item.count) for item in found.output] == [
        ("Bundle", "/files/1", 3),
        ("Bundle", "/files/2", None),
    ]
    assert [item.url.removeprefix(mirror.origin) for item in [*found.deleted, *found.outcomes]] == [
        "/files/d",
        "/files/e",
        "/files/o",
    ]


def test_a_manifest_without_the_optional_lists_or_with_null_for_them_has_none(
    mirror: FakeExport, client: Client
) -> None:
    mirror.on("GET /status/1", manifest(deleted=None, error=None))
    found = client.wait()
    assert (found.output, found.deleted, found.outcomes) == ([], [], [])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (manifest(drop="transactionTime"), "no export manifest .*transactionTime"),
        (manifest(drop="requiresAccessToken"), "no export manifest .*requiresAccessToken"),
        (manifest(drop="output"), "no export manifest .*output"),
        (manifest(output={}), "no export manifest"),
        (manifest(file(count="3")), "no export manifest"),
        (manifest(requiresAccessToken="no"), "no export manifest"),
        (Response('{"transactionTime":"2026'), "truncated or not JSON"),
        (Response("<html>login</html>"), "truncated or not JSON"),
        (Response(outcome_line("processing")), "no export manifest .processing"),
        (manifest(transactionTime="2026-03-14"), "transactionTime that is no instant"),
        (manifest(file(count=-1)), "negative count"),
        (manifest(file(kind="")), "without a proper type"),
        (manifest(file("ftp://mirror.example.org/1")), "no http address"),
        (manifest(file(), file()), "names a file twice"),
        (manifest(file(), deleted=[file()]), "names a file twice"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused(
    mirror: FakeExport, client: Client, answer: Response, told: str
) -> None:
    mirror.on("GET /status/1", answer)
    with pytest.raises(MirrorProtocolError, match=told):
        client.wait()


def test_a_manifest_that_came_damaged_once_is_asked_for_again(mirror: FakeExport, client: Client) -> None:
    mirror.on("GET /status/1", Response('{"transactionTime":"2026'), manifest(file()))
    assert len(client.wait().output) == 1


def test_the_parts_of_a_manifest_are_put_together(mirror: FakeExport, client: Client) -> None:
    def link(path: str) -> list[dict[str, str]]:
        return [{"relation": "next", "url": path}]

    mirror.on("GET /status/1", manifest(file("/files/1"), link=link("/status/1/b")))
    mirror.on(
        "GET /status/1/b",
        waiting(Retry_After="5"),
        manifest(file("/files/2"), link=link(f"{mirror.origin}/status/1/c")),
    )
    mirror.on("GET /status/1/c", manifest(deleted=[file("/files/3")], outcome=[file("/files/4", "OperationOutcome")]))
    found = client.wait()
    assert [item.url[-1] for item in [*found.output, *found.deleted, *found.outcomes]] == ["1", "2", "3", "4"]
    assert client.sleeps.seconds == [5.0]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"transactionTime": "2026-03-14T12:00:01Z"}, "differ in transactionTime"),
        ({"requiresAccessToken": True}, "differ in transactionTime or requiresAccessToken"),
        ({"link": [{"relation": "next", "url": "/status/1"}]}, "lead in a circle"),
        ({"link": [{"relation": "next", "url": "http://127.0.0.1:9/x"}]}, "leads to http://127.0.0.1:9"),
    ],
)
def test_parts_of_a_manifest_that_do_not_fit_are_refused(
    mirror: FakeExport, client: Client, more: dict[str, Any], told: str
) -> None:
    mirror.on("GET /status/1", manifest(file("/files/1"), link=[{"relation": "next", "url": "/status/2"}]))
    mirror.on("GET /status/2", manifest(file("/files/2"), **more))
    with pytest.raises(MirrorProtocolError, match=told):
        client.wait()


def test_our_identification_is_asked_for_elsewhere_and_not_given(
    mirror: FakeExport, other: FakeExport, client: Client
) -> None:
    mirror.on("GET /status/1", manifest(file(f"{other.origin}/files/{SECRET}"), requiresAccessToken=True))
    with pytest.raises(MirrorProtocolError, match="asks for our identification .* which is not the mirror") as caught:
        client.wait()
    assert SECRET not in str(caught.value)
    assert other.asked == []


def test_files_without_encryption_are_refused_where_the_mirror_has_it(mirror: FakeExport) -> None:
    settings = replace(mirror.settings(), base_url="https://mirror.example.org/fhir")

    async def check() -> None:
        async with Transport(settings) as transport:
            from imunizacao.fhir.export import _read_manifest

            part = _read_manifest(manifest(file("http://files.example.org/1")).body)
            ExportClient(transport)._whole("https://mirror.example.org/status/1", [part])

    with pytest.raises(MirrorProtocolError, match="without encryption"):
        asyncio.run(check())


# --- the files -------------------------------------------------------------------------------------------

BASIC: dict[str, Any] = {"auth": "basic", "login": "imunizacao", "password": "canary-password"}


@pytest.mark.parametrize("token", [True, False])
def test_we_say_who_we_are_only_where_the_manifest_asks_for_it(
    mirror: FakeExport, client: Client, tmp_path: Path, token: bool
) -> None:
    mirror.on("GET /files/1", ndjson('{"a":1}'))
    done = client.fetch(tmp_path, file(), token=token, **BASIC)
    assert done.path.read_bytes() == b'{"a":1}\n'
    (asked,) = mirror.asked_for("GET /files/1")
    assert ("authorization" in asked.headers) is token
    assert "authorization" in mirror.asked_for("GET /status/1")[0].headers
    assert asked.headers["accept-encoding"] == "gzip"


def test_a_file_on_another_host_is_fetched_without_our_headers(
    mirror: FakeExport, other: FakeExport, client: Client, tmp_path: Path
) -> None:
    other.on("GET /files/1", ndjson('{"a":1}', '{"a":2}'))
    assert client.fetch(tmp_path, file(f"{other.origin}/files/1"), **BASIC).bytes == 16
    (asked,) = other.asked
    assert not {"authorization", "x-authorization-server", "cookie"} & set(asked.headers)


@pytest.mark.parametrize(
    ("status", "token"), [(404, True), (410, True), (404, False), (403, False), (401, False), (400, False)]
)
def test_a_file_that_is_no_longer_given_is_gone(
    mirror: FakeExport, client: Client, tmp_path: Path, status: int, token: bool
) -> None:
    mirror.on("GET /files/1", problem(status, "expired", diagnostics=CANARY_TEXT))
    with pytest.raises(
        ExportGone, match=rf"no longer gives output file 1 of 1 \(Bundle\): .* answers {status}"
    ) as caught:
        client.fetch(tmp_path, file(), token=token)
    assert CANARY_TEXT not in str(caught.value)


def test_a_file_that_redirects_is_not_followed(
    mirror: FakeExport, other: FakeExport, client: Client, tmp_path: Path
) -> None:
    mirror.on("GET /files/1", Response(status_code=302, headers={"Location": f"{other.origin}/files/{SECRET}"}))
    with pytest.raises(MirrorProtocolError, match="redirects .302.*the final address"):
        client.fetch(tmp_path, file())
    assert other.asked == []


def test_a_file_whose_length_is_not_as_announced_is_fetched_again(
    mirror: FakeExport, client: Client, tmp_path: Path
) -> None:
    short = Response(b'{"a":1}\n', headers={"Content-Length": "4000"})
    mirror.on("GET /files/1", short, problem(503, "transient", Retry_After="4"), ndjson('{"a":1}', '{"a":2}'))
    assert client.fetch(tmp_path, file()).path.read_bytes() == b'{"a":1}\n{"a":2}\n'
    assert len(mirror.asked_for("GET /files/1")) == 3


# --- what went wrong -------------------------------------------------------------------------------------


def test_notes_and_warnings_do_not_spoil_an_export() -> None:
    lines = [outcome_line("informational", severity="information"), outcome_line("not-supported", severity="warning")]
    assert judge_outcomes([line.encode() for line in lines], where="x") == ["informational", "not-supported"]


@pytest.mark.parametrize(
    ("lines", "codes", "kind"),
    [
        ([outcome_line("exception", f"(EHR-ERR990) {CANARY_TEXT}")], "EHR-ERR990", MirrorProtocolError),
        ([outcome_line("processing", CANARY_TEXT, "fatal")], "processing", MirrorProtocolError),
        ([outcome_line("timeout"), outcome_line("throttled")], "throttled, timeout", ExportSpent),
        ([outcome_line("timeout"), outcome_line("exception")], "exception, timeout", MirrorProtocolError),
        ([CANARY_TEXT], "no-code", MirrorProtocolError),
        ([json.dumps({"resourceType": "Patient", "id": CANARY_TEXT})], "no-code", MirrorProtocolError),
    ],
)
def test_an_error_in_the_file_of_problems_fails_the_day_with_its_codes(
    lines: list[str], codes: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=rf"errors in error file 1 \({codes}\)") as caught:
        judge_outcomes([line.encode() for line in lines], where="error file 1")
    assert CANARY_TEXT not in str(caught.value)


# --- the end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [Response(status_code=202), Response(status_code=204), problem(404, "not-found")])
def test_a_job_that_is_done_is_taken_away(mirror: FakeExport, client: Client, answer: Response) -> None:
    mirror.on("DELETE /status/1", answer)
    assert client.run(lambda export: export.clean_up(f"{mirror.origin}/status/1"))
    assert [asked.method for asked in mirror.asked] == ["DELETE"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (problem(500, "exception"), "500 exception"),
        (problem(405, "not-supported"), "405 not-supported"),
        (problem(403, "forbidden"), "MirrorRefused"),
    ],
)
def test_a_job_that_stays_is_told_and_nothing_more(
    mirror: FakeExport, client: Client, caplog: pytest.LogCaptureFixture, answer: Response, reason: str
) -> None:
    mirror.on(f"DELETE /status/{SECRET}", answer)
    assert not client.run(lambda export: export.clean_up(f"{mirror.origin}/status/{SECRET}"))
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "event=export.not_cleaned_up" in record.getMessage()
    assert reason in record.getMessage()
    assert SECRET not in caplog.text


def test_a_mirror_that_is_away_does_not_keep_us_from_ending(caplog: pytest.LogCaptureFixture) -> None:
    settings = MirrorSettings(base_url="http://127.0.0.1:9/fhir")

    async def clean_up() -> bool:
        async with Transport(settings, sleep=SleepLog()) as transport:
            return await ExportClient(transport).clean_up("http://127.0.0.1:9/status/1")

    assert not asyncio.run(clean_up())
    assert "reason=MirrorUnavailable" in caplog.text
