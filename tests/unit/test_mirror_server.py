"""The simulator as a process, over real HTTP: search semantics, walks, tokens, and every scenario."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.simulator import running_simulator
from tests.mirror.calendar import parse_ms
from tests.mirror.cnes import PROJECT

pytestmark = pytest.mark.servers

DAY = "2026-03-14"
NOW = "2026-03-16T12:00:00Z"
DOCS = 600
"""Entries of a day."""
COPIES = 2
"""Of them repeated: a server gives them twice and counts them once."""
TOTAL = DOCS - COPIES
WINDOW = [
    ("type", "document"),
    ("_lastUpdated", f"ge{DAY}T00:00:00-03:00"),
    ("_lastUpdated", "lt2026-03-15T00:00:00-03:00"),
]

Start = Callable[..., httpx.Client]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("mirror")
    with running_simulator(folder, "--docs-per-day", str(DOCS), "--now", NOW) as client:
        yield client


@pytest.fixture
def mirror(shared: httpx.Client) -> Iterator[httpx.Client]:
    """The shared mirror, without scenarios before and after."""
    _switch(shared)
    shared.delete("/_admin/stats")
    yield shared
    _switch(shared)


def _switch(client: httpx.Client, *scenarios: str) -> None:
    answer = client.put("/_admin/scenario", json={"scenarios": list(scenarios)})
    assert answer.json() == {"scenarios": list(scenarios)}


def _get(client: httpx.Client, *more: tuple[str, str], window: list[tuple[str, str]] | None = None) -> dict[str, Any]:
    answer = client.get("/fhir/r4/Bundle", params=[*(WINDOW if window is None else window), *more])
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert (body["resourceType"], body["type"]) == ("Bundle", "searchset")
    return body


def _link(page: dict[str, Any], relation: str) -> str | None:
    return next((link["url"] for link in page["link"] if link["relation"] == relation), None)


def _walk(client: httpx.Client, count: int = 100) -> list[dict[str, Any]]:
    """All pages of the day."""
    pages = [_get(client, ("_count", str(count)))]
    while (following := _link(pages[-1], "next")) is not None:
        assert len(pages) < 50, "the walk does not end"
        answer = client.get(following)
        assert answer.status_code == 200, answer.text
        pages.append(answer.json())
    return pages


def _matches(page: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in page.get("entry", []) if entry["search"]["mode"] == "match"]


def _total(client: httpx.Client) -> int:
    total: int = _get(client, ("_summary", "count"))["total"]
    return total


def _diagnostics(answer: httpx.Response) -> str:
    assert answer.headers["content-type"].startswith("application/fhir+json")
    body = answer.json()
    assert body["resourceType"] == "OperationOutcome"
    text: str = body["issue"][0]["diagnostics"]
    return text


def test_the_capability_statement_names_what_the_server_does(mirror: httpx.Client) -> None:
    body = mirror.get("/fhir/r4/metadata").json()
    assert (body["resourceType"], body["fhirVersion"]) == ("CapabilityStatement", "4.0.1")
    [resource] = body["rest"][0]["resource"]
    assert resource["type"] == "Bundle"
    assert [one["code"] for one in resource["interaction"]] == ["read", "search-type"]
    names = {one["name"] for one in resource["searchParam"]}
    assert names == {"type", "_lastUpdated", "_count", "_summary", "_total", "_sort", "_bookmark"}


def test_a_full_walk_finds_as_many_entries_as_announced(mirror: httpx.Client) -> None:
    pages = _walk(mirror, 100)
    assert [page["total"] for page in pages] == [TOTAL] * 6
    assert [len(_matches(page)) for page in pages] == [100] * 6
    assert all(entry["fullUrl"].endswith(f"/Bundle/{entry['resource']['id']}") for p in pages for entry in p["entry"])
    updated = [one["meta"]["lastUpdated"] for page in pages for one in _matches(page)]
    assert len(updated) == DOCS == _total(mirror) + COPIES


def test_time_slices_add_up_to_the_day_whatever_the_offset(mirror: httpx.Client) -> None:
    found = []
    for hour in range(24):
        low = f"ge{DAY}T{hour + 3:02d}:00:00Z" if hour < 21 else f"ge2026-03-15T{hour - 21:02d}:00:00.000+00:00"
        high = f"lt{DAY}T{hour + 1:02d}:00:00-03:00" if hour < 23 else "lt2026-03-15"
        body = _get(mirror, ("_count", "1000"), window=[("_lastUpdated", low), ("_lastUpdated", high)])
        assert len({one["id"] for one in _matches(body)}) <= body["total"] <= len(_matches(body))
        found += [one["id"] for one in _matches(body)]
    day = [one["id"] for page in _walk(mirror, 500) for one in _matches(page)]
    assert found == day


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((f"eq{DAY}",), TOTAL),
        ((DAY,), TOTAL),
        ((f"ge{DAY}", f"le{DAY}"), TOTAL),
        ((f"gt{DAY}", "lt2026-03-15"), 0),
        ((f"gt{DAY}T00:00:00.000-03:00", "lt2026-03-15T00:00:00-03:00"), TOTAL - 1),
        ((f"ge{DAY}T00:00:00-03:00", f"lt{DAY}T23:59:59.999-03:00"), TOTAL - 1),
        ((f"eq{DAY}T23:59:59.999-03:00",), 1),
        ((f"le{DAY}T00:00:00.000-03:00", f"ge{DAY}T00:00:00.000-03:00"), 1),
        (("ge2026-03-15", f"lt{DAY}"), 0),
        (("ge2026-03-13", "lt2026-03-16"), 3 * DOCS - 6),
        (("ge2030-01-01",), 0),
    ],
)
def test_prefixes_follow_the_precision_of_the_value(
    mirror: httpx.Client, values: tuple[str, ...], expected: int
) -> None:
    window = [("_lastUpdated", value) for value in values]
    assert _get(mirror, ("_summary", "count"), window=window)["total"] == expected


def test_counts_come_without_entries(mirror: httpx.Client) -> None:
    for parameter in (("_summary", "count"), ("_count", "0")):
        body = _get(mirror, parameter)
        assert body["total"] == TOTAL
        assert "entry" not in body
        assert _link(body, "next") is None


def test_total_is_left_out_on_request_and_other_types_do_not_match(mirror: httpx.Client) -> None:
    assert "total" not in _get(mirror, ("_total", "none"), ("_count", "1"))
    assert _get(mirror, ("_total", "accurate"), ("_count", "1"))["total"] == TOTAL
    assert _get(mirror, window=[("type", "transaction")])["total"] == 0


def test_a_page_holds_at_most_a_thousand_and_self_says_so(mirror: httpx.Client) -> None:
    window = [("type", "document"), ("_lastUpdated", "ge2026-03-13"), ("_lastUpdated", "lt2026-03-16")]
    body = _get(mirror, ("_count", "5000"), window=window)
    assert len(_matches(body)) == 1000
    assert "_count=1000" in (_link(body, "self") or "")


def test_an_unknown_parameter_is_reported_not_echoed_and_refused_when_strict(mirror: httpx.Client) -> None:
    body = _get(mirror, ("_count", "2"), ("patient", "x"), ("_sort", "status"))
    outcomes = [entry for entry in body["entry"] if entry["search"]["mode"] == "outcome"]
    texts = [one["resource"]["issue"][0]["diagnostics"] for one in outcomes]
    assert texts == ["(EHR-ERR851) Parâmetro ignorado: patient", "(EHR-ERR995) Ordenação requisitada não é suportada"]
    assert len(_matches(body)) == 2
    assert body["total"] == TOTAL
    assert "patient" not in (_link(body, "self") or "")
    assert "_sort" not in (_link(body, "self") or "")
    refused = mirror.get("/fhir/r4/Bundle", params=[*WINDOW, ("patient", "x")], headers={"Prefer": "handling=strict"})
    assert refused.status_code == 400
    assert _diagnostics(refused).startswith("(EHR-ERR851)")


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("_lastUpdated", "ge2026-13-01", "ERR850"),
        ("_lastUpdated", "yesterday", "ERR850"),
        ("_lastUpdated", "ge2026-03-14T25:00:00Z", "ERR850"),
        ("_count", "-1", "ERR893"),
        ("_count", "many", "ERR893"),
    ],
)
def test_unreadable_values_are_refused(mirror: httpx.Client, name: str, value: str, code: str) -> None:
    answer = mirror.get("/fhir/r4/Bundle", params=[(name, value)])
    assert answer.status_code == 400
    assert _diagnostics(answer).startswith(f"(EHR-{code}) ")


def test_a_cursor_is_opaque_and_a_forged_one_is_refused(mirror: httpx.Client) -> None:
    following = _link(_get(mirror, ("_count", "10")), "next") or ""
    token = following.partition("_bookmark=")[2]
    for forged in (token[:-2] + ("AA" if token[-2:] != "AA" else "BB"), "OPACO-0001", "é", ""):
        answer = mirror.get("/fhir/r4/Bundle", params={"_bookmark": forged})
        assert answer.status_code == 404
        assert _diagnostics(answer).startswith("(EHR-ERR848) ")


def test_an_old_cursor_has_expired(tmp_path: Path) -> None:
    with running_simulator(tmp_path, "--docs-per-day", "50", "--bookmark-seconds", "1") as client:
        following = _link(_get(client, ("_count", "10")), "next")
        assert following is not None
        assert client.get(following).status_code == 200
        time.sleep(1.1)
        answer = client.get(following)
        assert answer.status_code == 410
        assert _diagnostics(answer).startswith("(EHR-ERR848) ")


def test_an_unchanged_page_is_not_sent_again(mirror: httpx.Client) -> None:
    first = mirror.get("/fhir/r4/Bundle", params=[*WINDOW, ("_count", "5")])
    headers = {"If-None-Match": first.headers["etag"]}
    again = mirror.get("/fhir/r4/Bundle", params=[*WINDOW, ("_count", "5")], headers=headers)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert "date" in again.headers
    _switch(mirror, f"late:{DAY}:1")
    changed = mirror.get("/fhir/r4/Bundle", params=[*WINDOW, ("_count", "5")], headers=headers)
    assert changed.status_code == 200


def test_pages_are_compressed_only_when_asked(mirror: httpx.Client) -> None:
    plain = mirror.get("/fhir/r4/Bundle", params=[*WINDOW, ("_count", "100")], headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    before = mirror.get("/_admin/stats").json()["bytes"]
    packed = mirror.get("/fhir/r4/Bundle", params=[*WINDOW, ("_count", "100")], headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["entry"] == plain.json()["entry"]
    assert mirror.get("/_admin/stats").json()["bytes"] - before < len(plain.content) / 5


def test_the_newest_document_tells_how_fresh_the_mirror_is(mirror: httpx.Client) -> None:
    newest = _get(mirror, ("_sort", "-_lastUpdated"), ("_count", "1"), window=[("type", "document")])
    [document] = _matches(newest)
    assert document["meta"]["lastUpdated"].startswith("2026-03-16T")
    assert document["meta"]["lastUpdated"] <= "2026-03-16T12:00:00"
    _switch(mirror, "frozen:2026-03-14T18:00:00-03:00")
    newest = _get(mirror, ("_sort", "-_lastUpdated"), ("_count", "1"), window=[("type", "document")])
    [document] = _matches(newest)
    instant = parse_ms(document["meta"]["lastUpdated"])
    assert parse_ms("2026-03-14T17:30:00-03:00") < instant <= parse_ms("2026-03-14T18:00:00-03:00")
    assert 0 < _total(mirror) < DOCS


def test_both_orders_list_the_same_documents(mirror: httpx.Client) -> None:
    _switch(mirror, f"late:{DAY}:7", f"changed:{DAY}:4")
    forward = [one["id"] for one in _matches(_get(mirror, ("_sort", "_lastUpdated"), ("_count", "1000")))]
    backward = [one["id"] for one in _matches(_get(mirror, ("_sort", "-_lastUpdated"), ("_count", "1000")))]
    assert forward == backward[::-1]
    assert len(forward) == DOCS + 7


def test_every_served_document_can_be_read(mirror: httpx.Client) -> None:
    newest = {}
    for page in _walk(mirror, 300):
        for one in _matches(page):
            newest[one["id"]] = one
    dropped = 0
    for identity, wanted in list(newest.items())[::3]:
        answer = mirror.get(f"/fhir/r4/Bundle/{identity}")
        if answer.status_code == 410:  # replaced on a later day and no longer shown
            dropped += 1
            continue
        assert answer.status_code == 200, answer.text
        if wanted != answer.json():  # touched again on a later day
            assert answer.json()["id"] == identity
            assert answer.json()["meta"]["lastUpdated"] > "2026-03-15"
    assert dropped <= 2
    missing = mirror.get("/fhir/r4/Bundle/00000000-0000-4000-8000-000000000060-i0b0")
    assert missing.status_code == 404
    assert "is not known" in _diagnostics(missing)


def test_other_operations_are_refused_as_the_rnds_does(mirror: httpx.Client) -> None:
    for path in ("/fhir/r4/Immunization", "/fhir/r4/$export", "/fhir/r4/Bundle/x/_history"):
        answer = mirror.get(path)
        assert answer.status_code == 400
        assert _diagnostics(answer).startswith("(EHR-ERR861) ")


def test_the_same_seed_serves_the_same_bytes_on_another_port(mirror: httpx.Client, tmp_path: Path) -> None:
    with running_simulator(tmp_path, "--docs-per-day", str(DOCS), "--now", NOW) as other:
        assert _get(other, ("_count", "50"))["entry"] == _get(mirror, ("_count", "50"))["entry"]


def test_statistics_count_requests_by_route_and_status(mirror: httpx.Client) -> None:
    _walk(mirror, 300)
    _total(mirror)
    mirror.get("/fhir/r4/Bundle", params={"_count": "x"})
    body = mirror.get("/_admin/stats").json()
    assert body["requests"] == {"search": {"200": 2, "400": 1}, "count": {"200": 1}}
    assert body["bytes"] > 100_000
    assert body["max_in_flight"] == 1


def test_basic_authentication(tmp_path: Path) -> None:
    options = ("--docs-per-day", "20", "--auth", "basic", "--login", "leitor", "--password", "s3nha")
    with running_simulator(tmp_path, *options) as client:
        assert client.get("/fhir/r4/metadata").status_code == 200
        refused = client.get("/fhir/r4/Bundle")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        wrong = base64.b64encode(b"leitor:outra").decode()
        assert client.get("/fhir/r4/Bundle", headers={"Authorization": f"Basic {wrong}"}).status_code == 401
        assert client.get("/fhir/r4/Bundle", auth=("leitor", "s3nha")).status_code == 200
        assert client.get("/api/token").status_code == 404


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--auth", "basic", "--login", "leitor"), "needs a login and a password"),
        (("--auth", "oauth2", "--client-id", "c"), "needs --client-id, and --client-secret or MIRROR_CLIENT_SECRET"),
        (("--auth", "smart", "--client-id", "c"), "needs --client-id, and --client-keys"),
        (("--auth", "smart", "--client-id", "c", "--client-keys", "README.md"), "neither a JWKS nor a public key"),
        (("--auth-port", "0"), "TLS needs both --tls-cert and --tls-key"),
    ],
)
def test_half_an_identity_does_not_start(options: tuple[str, ...], told: str) -> None:
    command = [sys.executable, "-m", "tests.mirror", "serve", *options]
    finished = subprocess.run(
        command, check=False, cwd=PROJECT, capture_output=True, text=True, timeout=30, env={"PATH": ""}
    )
    assert finished.returncode == 2
    assert told in finished.stderr


def test_the_token_of_the_rnds(tmp_path: Path) -> None:
    with running_simulator(tmp_path, "--docs-per-day", "20", "--auth", "rnds", "--token-seconds", "2") as client:
        for method in ("GET", "POST"):
            token = client.request(method, "/api/token").json()
            assert {name: token[name] for name in ("scope", "token_type", "expires_in")} == {
                "scope": "read write",
                "token_type": "jwt",
                "expires_in": 2000,
            }
        claims = json.loads(base64.urlsafe_b64decode(token["access_token"].split(".")[1] + "=="))
        assert claims["exp"] - claims["iat"] == 2
        headers = {"X-Authorization-Server": f"Bearer {token['access_token']}", "Authorization": "200000000000003"}
        assert client.get("/fhir/r4/Bundle", headers=headers).status_code == 200
        for missing in headers:
            partial = {name: value for name, value in headers.items() if name != missing}
            answer = client.get("/fhir/r4/Bundle", headers=partial)
            assert answer.status_code == 401
            assert _diagnostics(answer).startswith("(EHR-ERR882) ")
        forged = headers["X-Authorization-Server"][:-3] + "abc"
        assert client.get("/fhir/r4/Bundle", headers={**headers, "X-Authorization-Server": forged}).status_code == 401
        time.sleep(2.1)
        expired = client.get("/fhir/r4/Bundle", headers=headers)
        assert expired.status_code == 401
        assert _diagnostics(expired).startswith("(EHR-ERR882) ")


def test_server_errors_hit_a_share_of_the_requests_once(mirror: httpx.Client) -> None:
    _switch(mirror, "http-5xx:0.5")
    failed = 0
    url, pages = mirror.build_request("GET", "/fhir/r4/Bundle", params=[*WINDOW, ("_count", "20")]).url, 0
    while True:
        answer = mirror.get(url)
        if answer.status_code != 200:
            assert answer.status_code in {502, 503}
            assert _diagnostics(answer).startswith("(EHR-ERR999) ")
            failed += 1
            answer = mirror.get(url)
        assert answer.status_code == 200
        pages += 1
        following = _link(answer.json(), "next")
        if following is None:
            break
        url = httpx.URL(following)
    assert pages == 30
    assert 6 <= failed <= 24


def test_too_many_requests_asks_to_wait_and_means_it(mirror: httpx.Client) -> None:
    _switch(mirror, "http-429:1")
    params = httpx.QueryParams([*WINDOW, ("_count", "5")])
    first = mirror.get("/fhir/r4/Bundle", params=params)
    assert (first.status_code, first.headers["retry-after"]) == (429, "1")
    assert mirror.get("/fhir/r4/Bundle", params=params).status_code == 429
    time.sleep(1.05)
    assert mirror.get("/fhir/r4/Bundle", params=params).status_code == 200


def test_a_hanging_page_answers_the_second_time(mirror: httpx.Client) -> None:
    _switch(mirror, "timeout:2")
    following = _link(_get(mirror, ("_count", "100")), "next") or ""
    with pytest.raises(httpx.ReadTimeout):
        mirror.get(following, timeout=0.5)
    assert mirror.get(following).status_code == 200


def test_a_duplicated_page_is_served_twice_and_then_the_walk_goes_on(mirror: httpx.Client) -> None:
    plain = [one["id"] for page in _walk(mirror, 100) for one in _matches(page)]
    _switch(mirror, "duplicate-page:2")
    pages = [[one["id"] for one in _matches(page)] for page in _walk(mirror, 100)]
    assert len(pages) == 7
    assert pages[1] == pages[2] == plain[100:200]
    assert [identity for page in pages[:2] + pages[3:] for identity in page] == plain


def test_a_lost_page_is_silent(mirror: httpx.Client) -> None:
    _switch(mirror, "lost-page:3")
    pages = _walk(mirror, 100)
    assert [len(_matches(page)) for page in pages] == [100, 100, 0, 100, 100, 100]
    assert {page["total"] for page in pages} == {TOTAL} == {_total(mirror)}


@pytest.mark.parametrize("delta", [-7, 12])
def test_a_wrong_total_is_wrong_everywhere(mirror: httpx.Client, delta: int) -> None:
    _switch(mirror, f"wrong-total:{delta}")
    pages = _walk(mirror, 200)
    assert {page["total"] for page in pages} == {TOTAL + delta} == {_total(mirror)}
    assert sum(len(_matches(page)) for page in pages) == DOCS


def test_drift_changes_the_total_once_while_a_walk_is_under_way(mirror: httpx.Client) -> None:
    _switch(mirror, "drift")
    before = _total(mirror)
    first = _walk(mirror, 100)
    assert (before, _total(mirror)) == (TOTAL, TOTAL + 3)
    assert len({one["id"] for page in first for one in _matches(page)}) < DOCS + 3
    second = _walk(mirror, 100)
    assert sum(len(_matches(page)) for page in second) == DOCS + 3 == _total(mirror) + COPIES


def test_late_documents_join_their_day_and_only_theirs(mirror: httpx.Client) -> None:
    before = {one["id"] for page in _walk(mirror, 500) for one in _matches(page)}
    _switch(mirror, f"late:{DAY}:30")
    pages = _walk(mirror, 500)
    after = [one for page in pages for one in _matches(page)]
    new = [one for one in after if one["id"] not in before]
    assert (len(after), len(new)) == (DOCS + 30, 30)
    assert all(one["meta"]["lastUpdated"].startswith(DAY) for one in new)
    assert mirror.get(f"/fhir/r4/Bundle/{new[0]['id']}").json() == new[0]
    other = _get(mirror, ("_summary", "count"), window=[("_lastUpdated", "eq2026-03-13")])
    assert other["total"] == TOTAL


def test_changed_documents_come_back_later_on_the_same_day(mirror: httpx.Client) -> None:
    before = {one["id"]: one for page in _walk(mirror, 500) for one in _matches(page)}
    _switch(mirror, f"changed:{DAY}")
    after = {one["id"]: one for page in _walk(mirror, 500) for one in _matches(page)}
    assert _total(mirror) == TOTAL
    assert set(before) == set(after)
    changed = [identity for identity, one in after.items() if before[identity] != one]
    assert len(changed) == 5
    for identity in changed:
        assert after[identity]["meta"]["lastUpdated"] > f"{DAY}T23:59"
        assert parse_ms(after[identity]["timestamp"]) == parse_ms(before[identity]["meta"]["lastUpdated"])
        assert mirror.get(f"/fhir/r4/Bundle/{identity}").json() == after[identity]


def test_an_empty_day_has_nothing_and_the_days_around_it_do(mirror: httpx.Client) -> None:
    _switch(mirror, f"empty:{DAY}")
    body = _get(mirror, ("_count", "10"))
    assert body["total"] == 0
    assert "entry" not in body
    around = [("_lastUpdated", "ge2026-03-13"), ("_lastUpdated", "lt2026-03-16")]
    assert _get(mirror, ("_summary", "count"), window=around)["total"] == 2 * TOTAL


def test_scenarios_can_be_given_at_the_start_and_bad_ones_change_nothing(tmp_path: Path) -> None:
    options = ("--docs-per-day", "100", "--now", NOW, "--scenario", f"late:{DAY}:5", "--scenario", "wrong-total:1")
    with running_simulator(tmp_path, *options) as client:
        assert client.get("/_admin/scenario").json() == {"scenarios": [f"late:{DAY}:5", "wrong-total:1"]}
        assert _total(client) == 106
        for bad in ("nonsense", "lost-page:x", "late:2026-02-30:1", "http-5xx:2", "frozen:2026-03-14"):
            refused = client.put("/_admin/scenario", json={"scenarios": [bad]})
            assert refused.status_code == 422, bad
        assert client.put("/_admin/scenario", content=b"{").status_code == 422
        assert _total(client) == 106


def test_a_scenario_that_does_not_exist_stops_the_start() -> None:
    command = [sys.executable, "-m", "tests.mirror", "serve", "--scenario", "nonsense"]
    finished = subprocess.run(command, check=False, cwd=PROJECT, capture_output=True, text=True, timeout=30)
    assert finished.returncode == 2
    assert "No scenario 'nonsense'" in finished.stderr
