"""The mirror check against a mirror that is good, and against one that lies in each way a check looks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from imunizacao.errors import ConfigurationError, MirrorProtocolError, MirrorUnavailable
from imunizacao.mirror_check import render_text, require_usable
from imunizacao.reference_day import ReferenceDay
from tests.integration.extract_support import DAY, NOW, Seen, outcome
from tests.integration.mirror_check_support import (
    CANARIES,
    STRUCTURE,
    Json,
    Mirror,
    checked_mirror,
    day_of,
    row,
    statement,
    vaccination,
    verdicts,
)
from tests.support.certificates import new_authority


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with checked_mirror() as mirror:
        yield mirror


def is_page(seen: Seen) -> bool:
    return seen.is_page and not seen.is_newest


# ---------------------------------------------------------------- a good mirror


def test_a_good_mirror_is_usable_and_every_row_is_good(mirror: Mirror) -> None:
    report = mirror.check()
    assert verdicts(report) == {}
    assert (report.state, report.exit_code, report.verdict, report.way) == ("usable", 0, "ok", "documents")
    assert report.summary == f"Mirror usable by way documents: {len(report.rows)} checks, 0 to look at"
    assert len(report.rows) == 30
    require_usable(report)


def test_the_check_is_polite(mirror: Mirror) -> None:
    report = mirror.check(max_connections=8)
    assert report.requests == len(mirror.server.seen) <= 40
    assert mirror.server.most_at_once == 1
    assert max(int(seen.value("_count") or 0) for seen in mirror.server.seen) == 1000


def test_requests_per_second_hold_for_the_check_too(mirror: Mirror) -> None:
    assert "at most 2 requests/s" in row(mirror.check(requests_per_second=2.0), "a day, a year").result


def test_the_report_names_nobody_and_no_document(mirror: Mirror, caplog: pytest.LogCaptureFixture) -> None:
    odd = STRUCTURE + "Perfil-700000000000005"
    mirror.server.documents += day_of(40, profile=odd, residence={"_city": {"extension": [{"url": "x/11144477735"}]}})
    mirror.metadata = statement("Bundle", software={"name": "Espelho 11144477735"})
    report = mirror.check()
    for text in (render_text(report), report.to_json(), caplog.text):
        assert [canary for canary in CANARIES if canary in text] == []


def test_the_report_as_json_says_what_the_table_says(mirror: Mirror) -> None:
    report = mirror.check()
    told = json.loads(report.to_json())
    assert told["schema"] == "imunizacao.mirror-check/1"
    assert (told["verdict"], told["state"], told["way"], told["summary"]) == (
        "ok",
        "usable",
        "documents",
        report.summary,
    )
    assert [found["topic"] for found in told["rows"]] == [found.topic for found in report.rows]
    assert told["recommended"][0] == {"setting": "IMUNIZACAO_MIRROR_WAY", "value": "documents", "now": "auto"}


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_its_width(mirror: Mirror, width: int) -> None:
    mirror.metadata, mirror.compress = None, False
    table = render_text(mirror.check(), width=width)
    assert max(map(len, table.splitlines())) <= max(width, 104), (
        "only the line of JSON to copy is longer than a terminal"
    )
    assert "! warn  compression" in table
    assert "Mirror usable by way documents: 28 checks, 2 to look at (metadata, compression)." in " ".join(table.split())


def test_a_day_that_is_not_over_is_refused(mirror: Mirror) -> None:
    with pytest.raises(ConfigurationError, match="not over yet"):
        mirror.check(day=ReferenceDay.parse("2026-03-15"))
    assert mirror.server.seen == []


# ---------------------------------------------------------------- access


def test_a_mirror_that_is_not_there_is_unreachable(mirror: Mirror) -> None:
    report = mirror.check(base_url="http://127.0.0.1:9/fhir/r4")
    assert (report.state, report.exit_code) == ("unreachable", 3)
    assert "connection refused" in row(report, "access").result
    assert "docs/runbook/mirror-unavailable.md" in row(report, "access").advice
    with pytest.raises(MirrorUnavailable, match="Mirror unreachable: 1 of 2 checks failed"):
        require_usable(report)


@pytest.mark.parametrize("status", [401, 403])
def test_a_mirror_that_refuses_us_says_so_and_nothing_else_is_asked(mirror: Mirror, status: int) -> None:
    mirror.intercept = lambda seen: None if "metadata" in seen.path else outcome(status, "(EHR-ERR882) 700000000000005")
    report = mirror.check()
    assert (report.state, report.exit_code) == ("refused", 2)
    assert f"{status} EHR-ERR882" in row(report, "access").result
    assert "Check the credentials" in row(report, "access").advice
    assert len(mirror.server.seen) == 2
    with pytest.raises(ConfigurationError, match="Mirror refused"):
        require_usable(report)


def test_a_token_service_that_refuses_us_is_a_row_too(mirror: Mirror) -> None:
    mirror.intercept = lambda seen: outcome(401, "no") if "token" in seen.path else None
    report = mirror.check(auth="rnds", token_url=f"{mirror.server.base}/token", requester_cns="700000000000005")
    assert report.state == "refused"
    assert "refuses us: 401 processing on access token" in row(report, "access").result


def test_a_token_that_is_accepted_is_told(mirror: Mirror) -> None:
    token = Response('{"access_token":"abc","expires_in":1800000}')
    mirror.intercept = lambda seen: token if "token" in seen.path else None
    report = mirror.check(auth="rnds", token_url=f"{mirror.server.base}/token", requester_cns="700000000000005")
    assert row(report, "access").result == "`rnds` accepted"
    assert verdicts(report) == {}


@pytest.mark.parametrize(("days", "verdict"), [(29, "warn"), (31, "ok")])
def test_a_client_certificate_that_ends_soon_is_a_warning(
    mirror: Mirror, tmp_path: Path, days: int, verdict: str
) -> None:
    real = datetime.now(UTC)
    validity = {"start": NOW - timedelta(days=1) - real, "end": NOW + timedelta(days=days, hours=1) - real}
    certificate, key = new_authority().issue("canario", **validity).write(tmp_path, "canario")
    report = mirror.check(client_certificate_file=str(certificate), client_key_file=str(key))
    found = row(report, "client certificate")
    assert (found.verdict, found.result) == (verdict, f"{days} days left")
    assert "canario" not in report.to_json()


def test_an_address_without_tls_is_a_warning_except_on_this_machine(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    assert row(mirror.check(), "address").verdict == "ok"
    outside = mirror.server.base.replace("127.0.0.1", "0.0.0.0")  # noqa: S104  an address of this machine that is not loopback
    found = row(mirror.check(base_url=outside), "address")
    assert (found.verdict, "without TLS" in found.result) == ("warn", True)


@pytest.mark.parametrize(("seconds", "text"), [(-400, "s ahead of the mirror's"), (400, "s behind the mirror's")])
def test_clocks_that_differ_are_told(mirror: Mirror, seconds: int, text: str) -> None:
    mirror.clock = NOW + timedelta(seconds=seconds)
    found = row(mirror.check(), "clock")
    assert (found.verdict, "NTP" in found.advice) == ("warn", True)
    assert text in found.result


def test_a_mirror_without_a_clock_is_a_warning(mirror: Mirror) -> None:
    mirror.clock = None
    assert row(mirror.check(), "clock").verdict == "warn"


# ---------------------------------------------------------------- what it says of itself


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        (None, "the mirror answers 404"),
        (500, "the mirror answers 500"),
        (b"<html>", "not a CapabilityStatement"),
        ({"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"}, "describes no server"),
    ],
)
def test_a_mirror_that_says_nothing_of_itself_can_be_used(mirror: Mirror, metadata: Any, text: str) -> None:
    mirror.metadata = metadata
    report = mirror.check()
    assert (report.state, verdicts(report)) == ("usable", {"metadata": "warn"})
    assert text in row(report, "metadata").result
    assert "IMUNIZACAO_MIRROR_WAY=documents" in row(report, "metadata").advice


@pytest.mark.parametrize(
    ("version", "verdict"), [("3.0.2", "fail"), ("5.0.0", "fail"), ("4.3.0", "warn"), ("", "warn")]
)
def test_another_version_of_fhir_is_told(mirror: Mirror, version: str, verdict: str) -> None:
    mirror.metadata = statement("Bundle", fhirVersion=version)
    assert row(mirror.check(), "FHIR version").verdict == verdict


def test_a_way_that_is_set_and_not_declared_is_a_warning(mirror: Mirror) -> None:
    mirror.metadata = statement("Immunization")
    report = mirror.check(way="documents")
    assert verdicts(report) == {"ways in": "warn"}
    assert "documents: Bundle is not served · resources: possible" in row(report, "ways in").result


def test_a_statement_without_any_way_fails_though_the_search_works(mirror: Mirror) -> None:
    mirror.metadata = statement("Patient")
    report = mirror.check()
    assert (report.state, report.exit_code) == ("not usable", 4)
    assert row(report, "way").verdict == "fail"
    assert "IMUNIZACAO_MIRROR_WAY=documents" in row(report, "way").advice
    assert row(report, "walk").verdict == "ok", "the engineer sees that the statement alone is wrong"


# ---------------------------------------------------------------- no search at all


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda: Response("<html>Canario da Silva</html>", media_type="text/html"), "truncated or not JSON"),
        (lambda: Response('{"resourceType":"Bundle","type":"searchset"'), "truncated or not JSON"),
        (lambda: Response('{"resourceType":"Patient","id":"canario-documento"}'), "got Patient/nothing"),
        (lambda: outcome(404, "(EHR-ERR861) x"), "the mirror answers 404 EHR-ERR861"),
        (lambda: outcome(400, "(EHR-ERR851) x"), "the mirror answers 400 EHR-ERR851"),
    ],
)
def test_a_search_that_gives_no_page_is_one_failure_and_not_twenty(
    mirror: Mirror, answer: Callable[[], Response], text: str
) -> None:
    mirror.intercept = lambda seen: None if "metadata" in seen.path else answer()
    report = mirror.check()
    assert (report.state, report.exit_code) == ("not usable", 4)
    assert text in row(report, "total").result
    assert verdicts(report) == {"total": "fail", "left out": "warn"}
    assert report.recommended == ()
    assert "No settings are recommended" in render_text(report)
    assert "walk" in row(report, "left out").result
    assert len(mirror.server.seen) == 3
    with pytest.raises(MirrorProtocolError, match="Mirror not usable"):
        require_usable(report)


def test_a_mirror_that_stops_answering_is_not_asked_on(mirror: Mirror) -> None:
    mirror.intercept = lambda seen: Response(status_code=503) if len(mirror.server.seen) > 5 else None
    report = mirror.check()
    assert report.state == "not usable"
    assert "the mirror stopped answering" in row(report, "left out").result
    assert len(mirror.server.seen) < 40


# ---------------------------------------------------------------- totals and time


def test_a_mirror_without_totals_fails(mirror: Mirror) -> None:
    mirror.edit = lambda seen, body: body.pop("total")
    found = row(mirror.check(), "total")
    assert (found.verdict, found.result) == ("fail", "no total with `_summary=count`")


def test_totals_that_change_with_every_question_fail(mirror: Mirror) -> None:
    asked: list[int] = []

    def estimate(seen: Seen, body: Json) -> None:
        asked.append(1)
        body["total"] += len(asked)

    mirror.edit = estimate
    report = mirror.check()
    assert row(report, "total twice").verdict == "fail"
    assert report.state == "not usable"


def test_documents_that_move_during_the_check_are_a_warning(mirror: Mirror) -> None:
    mirror.edit = lambda seen, body: (
        mirror.server.documents.append(vaccination(777_777, DAY.start + timedelta(hours=5))) if seen.is_newest else None
    )
    found = row(mirror.check(), "total twice")
    assert (found.verdict, found.result) == ("warn", "240, then 241")


@pytest.mark.parametrize("delta", [-1, 1, 1000])
def test_totals_that_are_off_fail(mirror: Mirror, delta: int) -> None:
    mirror.edit = lambda seen, body: body.update(total=max(0, body["total"] + delta))
    report = mirror.check()
    assert row(report, "halves").verdict == "fail"
    if abs(delta) == 1:
        assert row(report, "walk").verdict == "fail"


def test_other_totals_that_differ_are_a_warning(mirror: Mirror) -> None:
    mirror.edit = lambda seen, body: body.update(total=None) if is_page(seen) else None
    report = mirror.check()
    assert verdicts(report) == {"other totals": "warn"}
    assert "on a page: none" in row(report, "other totals").result


def ignore_time(mirror: Mirror, *, say_so: bool) -> None:
    """Answer every search with all documents."""

    def everything(seen: Seen) -> Response | None:
        if "metadata" in seen.path:
            return None
        kept = [pair for pair in seen.query if pair[0] != "_lastUpdated"]
        bare = Seen(at=0, path=seen.path, query=kept, headers=seen.headers, attempt=1)
        return mirror._page(bare, "Bundle")

    def repeat(seen: Seen, body: Json) -> None:
        if say_so:
            return
        body["link"][0]["url"] += (
            f"&_lastUpdated=ge{DAY.start:%Y-%m-%dT%H:%M:%SZ}&_lastUpdated=lt{DAY.end:%Y-%m-%dT%H:%M:%SZ}"
        )

    mirror.intercept, mirror.edit = everything, repeat


def test_a_mirror_that_ignores_the_time_and_says_so_fails(mirror: Mirror) -> None:
    ignore_time(mirror, say_so=True)
    report = mirror.check()
    for topic in ("halves", "bounds in `self`", "inside the window"):
        assert row(report, topic).verdict == "fail", topic


def test_a_mirror_that_ignores_the_time_and_claims_the_contrary_fails(mirror: Mirror) -> None:
    ignore_time(mirror, say_so=False)
    report = mirror.check()
    assert row(report, "bounds in `self`").verdict == "ok"
    for topic in ("halves", "inside the window"):
        assert row(report, topic).verdict == "fail", topic


def test_an_unknown_parameter_that_is_refused_or_left_out_is_good(mirror: Mirror) -> None:
    assert "refuses it (400 EHR-ERR851)" in row(mirror.check(), "unknown parameter").result
    mirror.honour_strict = False
    found = row(mirror.check(), "unknown parameter")
    assert (found.verdict, found.result) == ("ok", "ignored, and left out of `self`; handling=strict is ignored")


def test_a_mirror_that_repeats_what_it_cannot_know_is_a_warning(mirror: Mirror) -> None:
    def parrot(seen: Seen, body: Json) -> None:
        if seen.value("imunizacao-unknown"):
            body["link"][0]["url"] += "&imunizacao-unknown=1"

    mirror.edit = parrot
    assert verdicts(mirror.check()) == {"unknown parameter": "warn"}


# ---------------------------------------------------------------- freshness


def test_a_mirror_that_refuses_to_sort_can_be_used(mirror: Mirror) -> None:
    mirror.intercept = lambda seen: outcome(422, "(EHR-ERR995) x") if seen.is_newest else None
    report = mirror.check()
    assert verdicts(report) == {"sort": "warn"}
    assert "422 EHR-ERR995" in row(report, "sort").result
    assert "30 documents since" in row(report, "newest document").result


def test_a_mirror_that_ignores_sorting_can_be_used(mirror: Mirror) -> None:
    mirror.server.honour_sort = False
    assert verdicts(mirror.check()) == {"sort": "warn"}


def test_a_mirror_that_claims_to_sort_and_does_not_fails(mirror: Mirror) -> None:
    mirror.edit = lambda seen, body: body["entry"].reverse() if seen.is_newest else None
    found = row(mirror.check(), "newest document")
    assert found.verdict == "fail"
    assert "says that it sorts by -_lastUpdated and does not" in found.result


def test_a_mirror_that_has_not_reached_the_end_of_the_day_is_a_warning(mirror: Mirror) -> None:
    mirror.server.documents = day_of(240)
    found = row(mirror.check(), "newest document")
    assert (found.verdict, "before the end of 2026-03-13" in found.result) == ("warn", True)


def test_a_frozen_mirror_fails(mirror: Mirror) -> None:
    report = mirror.check(now=NOW + timedelta(days=4))
    assert "5 days old" in row(report, "newest document").result
    assert verdicts(report)["newest document"] == "fail"


def test_a_document_of_the_future_is_a_warning(mirror: Mirror) -> None:
    mirror.server.documents.append(vaccination(888_888, NOW + timedelta(hours=2)))
    found = row(mirror.check(), "newest document")
    assert (found.verdict, "in the future" in found.result) == ("warn", True)


@pytest.mark.parametrize("sorts", [True, False])
def test_an_empty_mirror_fails(mirror: Mirror, sorts: bool) -> None:
    mirror.server.documents, mirror.server.honour_sort = [], sorts
    report = mirror.check()
    assert report.state == "not usable"
    assert row(report, "newest document").result == "the mirror has no documents at all"


def test_a_day_without_documents_is_replaced_by_the_day_of_the_newest_one(mirror: Mirror) -> None:
    mirror.server.documents = day_of(200, ReferenceDay.parse("2026-03-12"))
    report = mirror.check()
    assert "the checks below are about 2026-03-12" in row(report, "day").result
    assert row(report, "total").result == "200 documents on 2026-03-12"
    assert verdicts(report) == {"newest document": "warn", "day": "warn"}


def test_without_sorting_an_empty_day_leaves_nothing_to_check(mirror: Mirror) -> None:
    mirror.server.documents, mirror.server.honour_sort = day_of(20, ReferenceDay.parse("2026-03-10")), False
    report = mirror.check()
    assert report.state == "usable"
    assert "--day" in row(report, "newest document").advice
    assert "there are no documents" in row(report, "left out").result


# ---------------------------------------------------------------- paging


def test_a_smaller_page_than_the_setting_is_a_warning_and_recommended(mirror: Mirror) -> None:
    mirror.server.page_limit = 60
    report = mirror.check()
    found = row(report, "page size")
    assert (found.verdict, found.result) == ("warn", "60 come when 1,000 are asked for, though `self` says 1,000")
    assert {found.setting: found.value for found in report.recommended}["IMUNIZACAO_MIRROR_PAGE_SIZE"] == "60"
    assert report.state == "usable"


def test_a_smaller_page_that_the_setting_respects_is_good(mirror: Mirror) -> None:
    mirror.server.page_limit = 150
    assert row(mirror.check(page_size=150), "page size").verdict == "ok"


def refuse_pages_above(mirror: Mirror, most: int) -> None:
    """As the RNDS does: EHR-ERR894."""
    mirror.intercept = lambda seen: outcome(400, "(EHR-ERR894) x") if int(seen.value("_count") or 0) > most else None


def test_a_mirror_that_refuses_a_thousand_and_gives_what_is_set_is_good(mirror: Mirror) -> None:
    refuse_pages_above(mirror, 100)
    report = mirror.check()
    assert verdicts(report) == {}
    assert row(report, "page size").result == (
        "1,000: the mirror answers 400 EHR-ERR894; 100 come when 100 are asked for"
    )


def test_a_mirror_that_refuses_the_page_size_that_is_set_fails_and_names_one_that_works(mirror: Mirror) -> None:
    refuse_pages_above(mirror, 60)
    report = mirror.check()
    assert {topic: verdict for topic, verdict in verdicts(report).items() if verdict == "fail"} == {"page size": "fail"}
    assert "50 works" in row(report, "page size").advice
    assert {found.setting: found.value for found in report.recommended}["IMUNIZACAO_MIRROR_PAGE_SIZE"] == "50"


def test_a_thousand_documents_that_are_too_much_for_an_answer_are_not_the_end_of_the_check(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imunizacao.fhir.transport.MAX_BODY_BYTES", 200_000)
    report = mirror.check()
    assert "1,000: too large or too slow; 100 come" in row(report, "page size").result
    assert row(report, "walk").verdict == "ok"


@pytest.mark.parametrize("host", ["http://other.example.org", "http://127.0.0.1:1"])
def test_a_next_on_another_host_fails_and_is_not_followed(mirror: Mirror, host: str) -> None:
    def lead_away(seen: Seen, body: Json) -> None:
        for link in body["link"][1:]:
            link["url"] = link["url"].replace(mirror.server.base, host + "/fhir/r4")

    mirror.edit = lead_away
    report = mirror.check()
    assert row(report, "next").result == "leads to another host"
    assert "walk" in row(report, "left out").result
    assert report.state == "not usable"


def test_a_long_next_is_a_warning(mirror: Mirror) -> None:
    def lengthen(seen: Seen, body: Json) -> None:
        for link in body["link"][1:]:
            link["url"] += "&_include=" + "x" * 2500

    mirror.edit = lengthen
    assert row(mirror.check(), "next").verdict == "warn"


def test_a_relative_next_is_followed(mirror: Mirror) -> None:
    def shorten(seen: Seen, body: Json) -> None:
        for link in body["link"][1:]:
            link["url"] = link["url"].removeprefix(mirror.server.base.removesuffix("/fhir/r4"))

    mirror.edit = shorten
    report = mirror.check()
    assert "relative" in row(report, "next").result
    assert verdicts(report) == {}


def test_a_cursor_that_works_once_is_a_warning(mirror: Mirror) -> None:
    mirror.intercept = lambda seen: (
        outcome(410, "(EHR-ERR848) x") if seen.value("_bookmark") and seen.attempt > 1 else None
    )
    found = row(mirror.check(), "same page twice")
    assert (found.verdict, found.result) == ("warn", "not possible: the mirror answers 410 EHR-ERR848")


def test_a_page_that_differs_the_second_time_fails(mirror: Mirror) -> None:
    mirror.edit = lambda seen, body: body["entry"].reverse() if seen.value("_bookmark") and seen.attempt > 1 else None
    assert row(mirror.check(), "same page twice").verdict == "fail"


@pytest.mark.parametrize(
    ("etag", "text"), [(lambda body: "", "without ETag"), (lambda body: str(id(object())), "ETag")]
)
def test_what_the_etag_does_is_told(mirror: Mirror, etag: Callable[[bytes], str], text: str) -> None:
    mirror.etag = etag
    found = row(mirror.check(), "same page twice")
    assert (found.verdict, text in found.result) == ("ok", True)


def lose(mirror: Mirror, *, page: str) -> None:
    mirror.edit = lambda seen, body: body["entry"].pop() if seen.value("_bookmark") == page else None


def test_a_walk_that_brings_less_than_announced_fails(mirror: Mirror) -> None:
    lose(mirror, page="1")
    found = row(mirror.check(), "walk")
    assert (found.verdict, found.result) == ("fail", "119 documents in 3 pages, 120 announced")


def test_documents_that_come_twice_in_a_walk_are_counted_once(mirror: Mirror) -> None:
    mirror.edit = lambda seen, body: body["entry"].append(body["entry"][0]) if seen.value("_bookmark") else None
    found = row(mirror.check(), "walk")
    assert (found.verdict, found.result) == ("ok", "120 documents in 3 pages, 120 announced, 2 came twice")


def test_two_searches_of_the_same_moment_that_disagree_fail(mirror: Mirror) -> None:
    """The narrow window has as many documents as announced, but not those that a page of the day showed."""

    def swap(seen: Seen, body: Json) -> None:
        if is_page(seen) and seen.value("_count") == "1000":
            body["entry"][100]["resource"]["id"] = "canario-documento-outro"

    mirror.edit = swap
    found = row(mirror.check(), "walk")
    assert (found.verdict, "1 documents of a page of the day are missing" in found.result) == ("fail", True)


def test_one_second_with_too_many_documents_is_left_out(mirror: Mirror) -> None:
    mirror.server.documents += [vaccination(10_000 + n, DAY.start + timedelta(hours=1)) for n in range(900)]
    mirror.server.documents.sort(key=lambda document: document.last_updated)
    report = mirror.check()
    assert "901 documents in 0:00:01: too many to walk" in row(report, "left out").result
    assert report.state == "usable"


def test_a_page_of_three_when_hundreds_are_asked_for_still_ends(mirror: Mirror) -> None:
    mirror.server.page_limit = 3
    report = mirror.check()
    assert row(report, "page size").verdict == "warn"
    assert report.requests <= 50


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ({"link": True}, "paging ends after 150 of 240 documents, on page 3: no `next`"),
        ({"entry": True}, "paging ends after 190 of 240 documents, on page 5: no `next`"),
    ],
)
def test_the_depth_at_which_paging_ends_is_told_with_the_setting_that_fits(
    mirror: Mirror, ends: Json, told: str
) -> None:
    def cut(seen: Seen, body: Json) -> None:
        if seen.value("_count") == "50" and seen.value("_bookmark") == "2":
            body.update({name: body[name][:1] if name == "link" else [] for name in ends})

    mirror.edit = cut
    report = mirror.check()
    found = row(report, "depth")
    assert (found.verdict, found.result) == ("fail", told)
    limit = told.split()[3]
    assert f"IMUNIZACAO_MIRROR_SLICE_CAP={limit}" in found.advice
    assert {one.setting: one.value for one in report.recommended}["IMUNIZACAO_MIRROR_SLICE_CAP"] == limit
    assert row(mirror.check(slice_cap=int(limit)), "depth").verdict == "ok"


def test_a_page_that_is_refused_deep_in_the_day_is_where_paging_ends(mirror: Mirror) -> None:
    mirror.intercept = lambda seen: (
        outcome(400, "(EHR-ERR893)") if seen.value("_count") == "50" and seen.value("_bookmark") == "4" else None
    )
    assert (
        "after 200 of 240 documents, on page 4: the mirror answers 400 EHR-ERR893"
        in row(mirror.check(), "depth").result
    )


def test_paging_that_holds_is_told_as_deep_as_it_was_tried(mirror: Mirror) -> None:
    assert row(mirror.check(), "depth").result == (
        "paging works for 240 documents in 5 pages; no slice has more than 240"
    )


def test_a_deep_slice_is_a_warning_with_the_setting_that_avoids_it(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imunizacao.mirror_check.paging._DEPTH_PAGES", 2)
    mirror.edit = lambda seen, body: body.update(total=body["total"] * 100)
    report = mirror.check()
    assert row(report, "depth").verdict == "warn"
    assert {found.setting: found.value for found in report.recommended}["IMUNIZACAO_MIRROR_SLICE_CAP"] == "10000"
    assert row(mirror.check(slice_cap=10_000), "depth").verdict == "ok"


# ---------------------------------------------------------------- transfer and documents


def test_pages_that_come_plain_are_a_warning(mirror: Mirror) -> None:
    mirror.compress = False
    report = mirror.check()
    assert verdicts(report) == {"compression": "warn"}
    assert "GB over the wire" in row(report, "compression").advice


def test_a_mirror_too_slow_for_a_national_day_is_a_warning(mirror: Mirror) -> None:
    report = mirror.check(requests_per_second=0.4)
    assert row(report, "a day, a year").verdict == "warn"


def test_pages_that_are_too_large_or_too_slow_make_a_smaller_page_size(mirror: Mirror) -> None:
    mirror.server.documents = [document for document in mirror.server.documents if document.last_updated >= DAY.end]
    mirror.server.documents += day_of(120, residence={"line": ["x" * 400_000]})
    report = mirror.check()
    assert int({found.setting: found.value for found in report.recommended}["IMUNIZACAO_MIRROR_PAGE_SIZE"]) <= 21


def test_documents_without_an_instant_fail(mirror: Mirror) -> None:
    mirror.server.documents[:240] = day_of(240, dated=False)
    report = mirror.check()
    assert "240 of 240 documents have no readable meta.lastUpdated" in row(report, "identity").result
    assert row(report, "identity").verdict == "fail"


def test_documents_without_versions_are_told_apart_by_their_instant(mirror: Mirror) -> None:
    mirror.server.documents[:240] = day_of(240, version="")
    found = row(mirror.check(), "identity")
    assert (found.verdict, found.result) == (
        "ok",
        "240 with lastUpdated, 0 % with versionId: lastUpdated tells versions apart",
    )


def test_entries_that_cannot_be_landed_are_a_warning(mirror: Mirror) -> None:
    def deepen(seen: Seen, body: Json) -> None:
        if is_page(seen) and seen.value("_count") == "1000":
            body["entry"][0]["resource"]["text"] = json.loads("[" * 150 + "]" * 150)

    mirror.edit = deepen
    found = row(mirror.check(), "identity")
    assert (found.verdict, "1 DEPTH" in found.result) == ("warn", True)


@pytest.mark.parametrize(
    ("changes", "topic", "verdict", "text"),
    [
        ({"vaccine": ""}, "content", "fail", "0 % with vaccine and date"),
        ({"cnes": "69"}, "CNES", "fail", "0 % with 7 digits"),
        ({"profile": STRUCTURE + "PerfilNovo-1.0"}, "profiles", "warn", "PerfilNovo-1.0 ×"),
        ({"profile": STRUCTURE + "Perfil-700000000000005"}, "profiles", "warn", "Perfil-… ×"),
        ({"profile": "Canario da Silva"}, "profiles", "warn", "(unreadable) ×"),
        ({"patient": False}, "neighbours", "warn", "Patient 0 %"),
        ({"residence": {"city": "355030"}}, "IBGE of residence", "warn", "address[0].city ×"),
        ({"residence": {"city": "Canario da Silva"}}, "IBGE of residence", "warn", "nowhere ×"),
        (
            {"residence": {"extension": [{"url": "http://x/municipio", "valueCoding": {"code": "3550308"}}]}},
            "IBGE of residence",
            "warn",
            "address[0], extension municipio ×",
        ),
    ],
)
def test_documents_that_are_not_what_is_needed_are_told(
    mirror: Mirror, changes: Json, topic: str, verdict: str, text: str
) -> None:
    mirror.server.documents[:240] = day_of(240, **changes)
    report = mirror.check()
    assert row(report, topic).verdict == verdict
    assert text in row(report, topic).result
    assert [canary for canary in CANARIES if canary in report.to_json()] == []


def test_a_bundle_that_is_no_document_fails(mirror: Mirror) -> None:
    def empty(seen: Seen, body: Json) -> None:
        for entry in body["entry"]:
            entry["resource"]["entry"] = []

    mirror.edit = empty
    assert row(mirror.check(), "content").verdict == "fail"


def test_a_few_documents_without_cnes_are_a_warning(mirror: Mirror) -> None:
    mirror.server.documents[:240] = [
        document
        for n, pair in enumerate(zip(day_of(240), day_of(240, cnes="69"), strict=True))
        for document in [pair[n % 3 == 0]]
    ]
    assert row(mirror.check(), "CNES").verdict == "warn"


# ---------------------------------------------------------------- other ways


def test_a_mirror_of_split_resources_is_checked_by_its_own_search(mirror: Mirror) -> None:
    mirror.metadata, mirror.serves = statement("Immunization"), ("Immunization",)
    report = mirror.check()
    assert (report.way, report.state, verdicts(report)) == ("resources", "usable", {})
    assert "240 immunizations" in row(report, "total").result
    assert "100 % with Composition and Immunization" in row(report, "content").result
    assert not [seen for seen in mirror.server.seen if "/Bundle" in seen.path]


def test_split_resources_without_their_composition_fail(mirror: Mirror) -> None:
    mirror.metadata, mirror.serves, mirror.along = statement("Immunization"), ("Immunization",), False
    found = row(mirror.check(), "content")
    assert (found.verdict, "no search of Composition" in found.result) == ("fail", True)


def test_compositions_that_have_a_search_of_their_own_are_a_warning(mirror: Mirror) -> None:
    mirror.metadata, mirror.along = statement("Immunization"), False
    mirror.serves = ("Immunization", "Composition")
    found = row(mirror.check(), "content")
    assert (found.verdict, "240 Compositions by their own search" in found.result) == ("warn", True)


def test_documents_that_are_declared_and_not_there_give_way_to_their_parts(mirror: Mirror) -> None:
    mirror.metadata, mirror.serves = statement("Bundle", "Immunization"), ("Bundle", "Immunization")

    def empty(seen: Seen, body: Json) -> None:
        if seen.path.endswith("/Bundle"):
            body.update(entry=[], total=0)

    mirror.edit = empty
    report = mirror.check()
    assert (report.way, "has none, but has Immunizations" in row(report, "way").result) == ("resources", True)
    assert report.recommended[0].value == "resources"
    told = row(mirror.check(way="documents"), "newest document").advice
    assert "IMUNIZACAO_MIRROR_WAY=resources" in told


class Exporter:
    """Accepts exports and takes them back."""

    def __init__(self, mirror: Mirror, *, status: int = 202, location: str | None = "", ends: int = 202) -> None:
        self.mirror, self.status, self.ends = mirror, status, ends
        self.location = f"{mirror.server.base}/status/1" if location == "" else location
        self.orders: list[Seen] = []
        self.refuses: Callable[[Seen], bool] = lambda seen: False
        self.ended = 0
        mirror.metadata, mirror.serves, mirror.intercept = statement(export=True), (), self

    def __call__(self, seen: Seen) -> Response | None:
        if seen.path.endswith("/$export"):
            self.orders.append(seen)
            if self.refuses(seen):
                return Response(status_code=400)
            headers = {"Content-Location": self.location} if self.location else {}
            return Response(status_code=self.status, headers=headers)
        if "/status/" in seen.path:
            self.ended += 1
            return Response(status_code=self.ends)
        return None


def test_an_export_is_ordered_for_five_minutes_and_taken_back(mirror: Mirror) -> None:
    exporter = Exporter(mirror)
    report = mirror.check()
    assert (report.way, report.state, verdicts(report)) == ("export", "usable", {"left out": "warn"})
    assert (len(exporter.orders), exporter.ended, report.requests) == (1, 1, 3)
    assert exporter.orders[0].value("_since") == "2026-03-15T02:04:59Z", "a second early, as in a run"
    assert exporter.orders[0].value("_type") == "Bundle"


def test_a_mirror_that_takes_orders_by_post_alone_is_usable(mirror: Mirror) -> None:
    exporter = Exporter(mirror)
    exporter.refuses = lambda seen: bool(seen.query)
    report = mirror.check()
    assert (report.state, row(report, "start").result) == (
        "usable",
        "accepted (Bundle), with a status address on the same host",
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"status": 400},
            "refuses the export kick-off of all types: GET 400, POST 400; without `_until` GET 400, POST 400",
        ),
        ({"status": 200}, "with something that is no page: 200 instead of 202"),
        ({"location": None}, "without Content-Location"),
        ({"location": "http://other.example.org/status/1"}, "leads to http://other.example.org"),
    ],
)
def test_an_export_that_is_not_accepted_properly_fails(mirror: Mirror, changes: Json, text: str) -> None:
    Exporter(mirror, **changes)
    report = mirror.check()
    assert (report.state, text in row(report, "start").result) == ("not usable", True)


def test_an_export_that_cannot_be_taken_back_is_a_warning(mirror: Mirror) -> None:
    Exporter(mirror, ends=405)
    assert row(mirror.check(), "take back").verdict == "warn"


def test_an_export_that_we_may_not_order_is_refused(mirror: Mirror) -> None:
    Exporter(mirror, status=403)
    assert mirror.check().state == "refused"


def test_a_mirror_that_fails_every_first_request_can_be_used(mirror: Mirror) -> None:
    mirror.intercept = lambda seen: (
        Response(status_code=503) if seen.attempt == 1 and "metadata" not in seen.path else None
    )
    report = mirror.check()
    assert report.state == "usable"
    assert report.requests <= 40
