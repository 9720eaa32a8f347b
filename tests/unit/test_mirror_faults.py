"""Every named fault of the simulator does what its name says, seen from the other end of the wire."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.mirror.calendar import parse_ms
from tests.mirror.faults.base import BadScenario
from tests.mirror.faults.mix import LYING, MOVING, PASSING, POISON
from tests.mirror.oracle import version_of
from tests.mirror.scenarios import SCENARIOS, describe, read_scenario, read_scenarios
from tests.support.simulator import ROOT, Simulator, running_simulator

pytestmark = pytest.mark.servers
DAY, NOW, DOCS = "2026-03-13", "2026-03-15T02:10:00Z", 60
BOUNDS = f"type=document&_lastUpdated=ge{DAY}T00:00:00-03:00&_lastUpdated=lt2026-03-14T00:00:00-03:00"
COUNT, PAGES = 10, 6
EXAMPLES = {
    "http-5xx": "0.5", "http-5xx-page": "2:3", "refuse": "2", "reset": "0.5", "http-429": "1", "http-429-date": "2",
    "timeout": "1", "slow-loris": "1", "stall": "1", "truncated": "1:2", "html-200": "1", "wrong-length": "1:more:2",
    "wrong-type": "1", "gzip-broken": "1:1", "duplicate-page": "1", "lost-page": "1", "wrong-total": "-2", "next-self": "1",
    "next-cycle": "1", "next-endless": "1", "next-foreign": "1", "cap": "10", "drift": "2", "drift-out": "2", "same-id": "2",
    "late": f"{DAY}:2", "changed": f"{DAY}:2", "empty": DAY, "frozen": "2026-03-13T12:00:00-03:00", "behind": "60",
    "token-expired": "2", "clock-skew": "-300", "cycle": "1", "replaces-unknown": "1", "error-chain": "1", "huge": "1:3",
    "deep": "200", "surrogate": "1", "nul": "2", "bad-utf8": "1", "bad-json": "1", "export-truncated": "1",
    "export-progress": "2", "export-file-lines": "50", "export-expired": "1", "export-lost": "1", "export-deleted": f"{DAY}:2",
}  # fmt: skip


class Client:
    """Asks the simulator as it is: no retries, no checks."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.http = httpx.Client(timeout=5, trust_env=False)
        self.first = f"{simulator.base_url}/Bundle?{BOUNDS}&_count={COUNT}"

    def get(self, url: str | None = None, **headers: str) -> httpx.Response:
        return self.http.get(url or self.first, headers=headers)

    def address(self, number: int) -> str:
        """Address of page `number`, of a mirror without faults."""
        self.simulator.play()
        url = self.first
        for _ in range(number - 1):
            url = following(self.get(url)) or ""
        return url

    def count(self) -> int:
        total: int = self.get(f"{self.simulator.base_url}/Bundle?{BOUNDS}&_summary=count").json()["total"]
        return total

    def walk(self, most: int = 20) -> list[httpx.Response]:
        """Pages by `next`, until there is none or `most`."""
        pages, url = [], self.first
        while url and len(pages) < most:
            pages.append(self.get(url))
            url = following(pages[-1]) or ""
        return pages


def following(answer: httpx.Response) -> str | None:
    """Address of the next page; the page need not be JSON."""
    found = re.search(rb'"relation":"next","url":"([^"]+)"', answer.content)
    return found[1].decode() if found else None


def is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def versions(answer: httpx.Response) -> list[str]:
    """Versions of the entries, whatever state these are in."""
    text = answer.content.decode(errors="surrogateescape")
    return [version_of(part) for part in text.split('{"fullUrl":')[1:] if '"resource":{"resourceType":"Bundle"' in part]


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    options = ("--seed", "11", "--docs-per-day", str(DOCS), "--now", NOW)
    with running_simulator(tmp_path_factory.mktemp("simulator"), *options) as simulator:
        yield simulator


@pytest.fixture
def client(simulator: Simulator) -> Iterator[Client]:
    simulator.play()
    client = Client(simulator)
    yield client
    client.http.close()
    simulator.play()


def test_every_scenario_is_in_the_manual_and_can_be_read() -> None:
    manual = (ROOT / "tests" / "mirror" / "README.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([a-z0-9-]+)", manual, re.MULTILINE))
    assert set(SCENARIOS) | {"mix"} <= rows
    for name in SCENARIOS:
        argument = EXAMPLES.get(name)
        assert read_scenario(name if argument is None else f"{name}:{argument}", 7) is not None


@pytest.mark.parametrize(
    "text",
    [
        "nonsense", "reset:2", "refuse:0", "refuse", "http-429-huge:3", "truncated:0", "truncated:x", "truncated:1:0",
        "wrong-length:1", "wrong-length:1:other", "next-long:1", "cap:0", "drift-always:2", "drift-out:0", "offset-paging:1",
        "same-id:", "token-never:1", "clock-skew:0", "clock-skew:soon", "behind:0", "cycle:", "huge:0", "huge:1:x", "deep:-1",
        "mix", "mix:x", "export-429:1", "export-progress", "export-file-lines:0", "export-deleted:2", "export-deleted:2026-03-14:0",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(BadScenario):
        read_scenarios(text, 7)


def test_a_mix_is_one_number_and_every_fault_of_the_tables_can_be_read() -> None:
    assert describe(42) == describe(42)
    assert len({describe(seed) for seed in range(200)}) > 150
    assert all(describe(seed) for seed in range(1000))
    for _, choices in (*PASSING, *POISON, MOVING, LYING):
        for name in choices:
            assert read_scenario(name, 7)
    for seed in range(200):
        mixed = describe(seed)
        assert sum(name in LYING[1] for name in mixed) <= 1
        assert sum(name in MOVING[1] for name in mixed) <= 1
        assert len(read_scenarios(f"mix:{seed}", 7)) == len(mixed)


def test_requests_are_told_one_by_one(client: Client) -> None:
    client.walk()
    client.count()
    asked = client.simulator.requests()
    assert [request.page for request in asked] == [1, 2, 3, 4, 5, 6, 0]
    assert [request.route for request in asked] == ["search"] * 6 + ["count"]
    assert all(request.status == 200 and request.arrived < request.answered for request in asked)
    assert all(one.answered <= other.arrived for one, other in pairwise(asked))


@pytest.mark.parametrize(
    "scenario", ["", "drift:2", "drift-out:3", "same-id:4", "offset-paging", f"late:{DAY}:3", "nul:2"]
)
def test_the_oracle_knows_what_is_in_the_day_after_all_that_happened(client: Client, scenario: str) -> None:
    client.simulator.play(*([scenario] if scenario else []))
    client.walk()
    oracle = client.simulator.oracle(DAY)
    assert oracle == {version for page in client.walk() for version in versions(page)}
    assert len(oracle) == client.count()


def test_the_oracle_is_not_fooled_by_lies(client: Client) -> None:
    plain = client.simulator.oracle(DAY)
    client.simulator.play("lost-page:1", "wrong-total:-3", "cap:10")
    assert client.simulator.oracle(DAY) == plain
    assert httpx.get(
        client.simulator.base_url.replace("/fhir/r4", "/_admin/oracle"), params={"day": "soon"}, trust_env=False
    ).status_code == 422  # fmt: skip


def test_a_page_fails_as_often_as_told_and_only_that_page(client: Client) -> None:
    second = client.address(2)
    client.simulator.play("http-5xx-page:2:3")
    assert client.get().status_code == 200
    assert [client.get(second).status_code for _ in range(4)] == [502, 503, 500, 200]
    client.simulator.play("http-5xx-page:2")
    assert {client.get(second).status_code for _ in range(12)} == {500, 502, 503}


def test_a_server_that_starts_refuses_without_a_body(client: Client) -> None:
    client.simulator.play("refuse:2")
    refused = [client.get(), client.get()]
    assert [(answer.status_code, answer.content) for answer in refused] == [(503, b""), (503, b"")]
    assert client.get().status_code == 200


def raw_answer(url: str, *, seconds: float) -> tuple[bytes, bytes, str]:
    """Head, body and end of an answer on a plain socket."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=seconds) as connection:
        connection.sendall(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        received, end = b"", "open"
        deadline = time.monotonic() + seconds
        try:
            while end == "open" and time.monotonic() < deadline:
                block = connection.recv(65536)
                received += block
                end = end if block else "closed"
        except ConnectionResetError:
            end = "reset"
        except TimeoutError:
            end = "silent"
    head, _, body = received.partition(b"\r\n\r\n")
    return head.lower(), body, end


def declared(head: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", head)
    assert found is not None
    return int(found[1])


def test_a_reset_comes_in_the_middle_of_the_body_once(client: Client) -> None:
    client.simulator.play("reset:1")
    head, body, end = raw_answer(client.first, seconds=3)
    assert end == "reset"
    assert 0 < len(body) < declared(head)
    assert client.get().status_code == 200


def test_a_stalled_page_is_half_a_page_and_silence(client: Client) -> None:
    client.simulator.play("stall:1")
    head, body, end = raw_answer(client.first, seconds=0.5)
    assert (end, len(body)) == ("silent", declared(head) // 2)
    assert len(client.get().content) == declared(head)


def test_a_page_that_drips_never_ends(client: Client) -> None:
    client.simulator.play("slow-loris:1")
    head, body, end = raw_answer(client.first, seconds=0.7)
    assert end == "open"
    assert 5 <= len(body) <= 20
    assert declared(head) > 1_000_000
    assert client.get().status_code == 200


@pytest.mark.parametrize(("kind", "difference"), [("more", 100), ("less", -100)])
def test_a_wrong_length_is_wrong_on_the_wire(client: Client, kind: str, difference: int) -> None:
    client.simulator.play(f"wrong-length:1:{kind}:1")
    head, body, end = raw_answer(client.first, seconds=3)
    assert (end, declared(head) - len(body)) == ("closed", difference)
    assert json.loads(body)["type"] == "searchset"
    assert client.get().status_code == 200


def test_a_truncated_page_says_it_is_all(client: Client) -> None:
    whole = len(client.get().content)
    client.simulator.play("truncated:1")
    for _ in range(5):
        answer = client.get(**{"accept-encoding": "identity"})
        assert answer.status_code == 200
        assert int(answer.headers["content-length"]) == len(answer.content) < whole
        assert not is_json(answer.content)


@pytest.mark.parametrize(
    ("scenario", "media_type", "start"),
    [
        ("html-200:1", "text/html", b"<!doctype"),
        ("wrong-type:1", "application/fhir+json", b'{"resourceType": "CapabilityStatement"'),
    ],
)
def test_another_document_comes_with_status_200(client: Client, scenario: str, media_type: str, start: bytes) -> None:
    client.simulator.play(scenario)
    answer = client.get()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.content.startswith(start)


def test_broken_gzip_is_damaged_or_cut(client: Client) -> None:
    client.simulator.play("gzip-broken:1")
    for kind in (Exception, EOFError):
        with client.http.stream("GET", client.first, headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.headers["content-encoding"] == "gzip"
            packed = b"".join(answer.iter_raw())
        with pytest.raises(kind):
            gzip.decompress(packed)


def test_retry_after_as_a_date_is_that_of_the_mirrors_clock(client: Client) -> None:
    client.simulator.play("http-429-date:2")
    refused = client.get()
    assert refused.status_code == 429
    asked = parsedate_to_datetime(refused.headers["retry-after"]) - parsedate_to_datetime(refused.headers["date"])
    assert asked.total_seconds() == 2
    assert client.get().status_code == 429
    time.sleep(2.05)
    assert client.get().status_code == 200


@pytest.mark.parametrize("kind", ["huge", "negative", "absent", "garbage"])
def test_odd_values_of_retry_after_come_once_for_each_address(client: Client, kind: str) -> None:
    client.simulator.play(f"http-429-{kind}")
    values = []
    for number in range(1, 8):
        address = client.first.replace(f"_count={COUNT}", f"_count={number}")
        refused = client.get(address)
        assert refused.status_code == 429
        values.append(refused.headers.get("retry-after"))
        assert client.get(address).status_code == 200
    assert (set(values) == {None}) == (kind == "absent")
    assert all(not (value or "").isdigit() for value in values) == (kind != "huge")


def test_links_lead_where_their_names_say(client: Client) -> None:
    third = client.address(3)
    client.simulator.play("next-self:3")
    assert following(client.get(third)) == third
    client.simulator.play("next-cycle:1")
    first, second = client.walk(2)
    assert following(second) == str(first.url)
    client.simulator.play("next-endless:2")
    pages = client.walk(6)
    assert len({str(page.url) for page in pages}) == 6
    assert versions(pages[1]) == versions(pages[2]) == versions(pages[5]) != versions(pages[0])
    client.simulator.play("next-foreign:1")
    assert (following(client.get()) or "").startswith("http://mirror.example.net:8080/fhir/r4/Bundle?_bookmark=")
    client.simulator.play("next-relative")
    assert (following(client.get()) or "").startswith("Bundle?_bookmark=")
    client.simulator.play("next-long")
    pages = client.walk()
    assert len(pages) == PAGES
    assert min(len(str(page.url)) for page in pages[1:]) > 2048
    client.simulator.play("next-after-last")
    pages = client.walk()
    assert [len(versions(page)) for page in pages] == [COUNT] * PAGES + [0]


def test_a_cap_ends_a_walk_without_a_word(client: Client) -> None:
    client.simulator.play("cap:25")
    pages = client.walk()
    assert [len(versions(page)) for page in pages] == [10, 10, 5]
    assert {page.json()["total"] for page in pages} == {client.count()}


def test_every_walk_brings_one_document_more(client: Client) -> None:
    client.simulator.play("drift-always")
    totals = []
    for _ in range(3):
        totals.append(client.count())
        client.walk()
    assert totals == [totals[0], totals[0] + 1, totals[0] + 2]


def test_documents_leave_the_day_for_the_next_one(client: Client) -> None:
    before = client.simulator.oracle(DAY)
    client.simulator.play("drift-out:3")
    client.walk()
    gone = before - client.simulator.oracle(DAY)
    ids = {version.partition("|")[0] for version in gone}
    assert len(ids) == 3
    assert ids <= {version.partition("|")[0] for version in client.simulator.oracle("2026-03-14")}
    for identity in ids:
        newest = client.get(f"{client.simulator.base_url}/Bundle/{identity}").json()
        assert newest["meta"]["lastUpdated"].startswith("2026-03-14T03:30:00")


def test_pages_of_an_order_that_changes_repeat_and_skip(client: Client) -> None:
    client.simulator.play("offset-paging")
    first = [version for page in client.walk() for version in versions(page)]
    assert len(set(first)) < len(first)
    assert set(first) != client.simulator.oracle(DAY)
    second = [version for page in client.walk(30) for version in versions(page)]
    assert sorted(second) == sorted(client.simulator.oracle(DAY))


def test_a_document_twice_has_two_versions_in_one_hour(client: Client) -> None:
    client.simulator.play("same-id:3")
    found: dict[str, list[str]] = {}
    for page in client.walk():
        for entry in page.json()["entry"]:
            found.setdefault(entry["resource"]["id"], []).append(entry["resource"]["meta"]["lastUpdated"])
    twice = [sorted(map(parse_ms, instants)) for instants in found.values() if len(instants) > 1]
    assert len(twice) == 3
    assert all(one // 3_600_000 == other // 3_600_000 and one < other for one, other in twice)


def test_a_mirror_that_lags_and_a_clock_that_is_off(client: Client) -> None:
    newest = f"{client.simulator.base_url}/Bundle?type=document&_sort=-_lastUpdated&_count=1"
    client.simulator.play("behind:600")
    [entry] = client.get(newest).json()["entry"]
    assert parse_ms(entry["resource"]["meta"]["lastUpdated"]) <= parse_ms(NOW) - 600 * 60_000
    client.simulator.play("clock-skew:-300")
    date = parsedate_to_datetime(client.get().headers["date"])
    assert round(date.timestamp() * 1000) == parse_ms(NOW) - 300_000


def test_a_token_ends_for_good(tmp_path: Path) -> None:
    with running_simulator(tmp_path, "--docs-per-day", str(DOCS), "--now", NOW, "--auth", "rnds") as simulator:
        client = Client(simulator)
        simulator.play("token-expired:1")

        def ask() -> int:
            return client.get(**{"x-authorization-server": f"Bearer {token}", "authorization": "7" * 15}).status_code

        token = client.get(simulator.token_url).json()["access_token"]
        assert [ask(), ask()] == [401, 401]
        token = client.get(simulator.token_url).json()["access_token"]
        assert [ask(), ask()] == [200, 200]
        simulator.play("token-never")
        token = client.get(simulator.token_url).json()["access_token"]
        assert [ask(), ask()] == [401, 401]
        client.http.close()


@pytest.mark.parametrize(
    ("scenario", "mark", "amount"),
    [
        ("surrogate:3", b"\\ud800", 3),
        ("nul:3", b"\x00", 2),
        ("nul:3", b"\\u0000", 1),
        ("bad-utf8:2", b"\xe7\xe3o", 2),
        ("bad-json:2", b'"type":document', 2),
        ("deep:5000", b"[" * 5000 + b"]" * 5000, 1),
        ("huge:2", b"vacina " * 290_000, 1),
        ("replaces-unknown:2", b'"reference":"Composition/00000000-0000-4000-8000-', 2),
    ],
)
def test_odd_documents_are_as_many_as_told(
    simulator: Simulator, client: Client, scenario: str, mark: bytes, amount: int
) -> None:
    simulator.play(scenario)
    pages = [client.get(url) for url in [client.address(number) for number in range(1, PAGES + 1)]]
    assert not [page for page in pages if mark in page.content], "the mirror without faults has none"
    simulator.play(scenario)
    found = []
    for page in pages:
        content = client.get(str(page.url)).content
        found += [part for part in content.split(b'{"fullUrl":') if mark in part]
        assert content.count(b'"search":{"mode":"match"}') == 10
    assert len(found) == amount


def relations(client: Client) -> dict[str, tuple[str, str]]:
    """Status and replaced document of each document."""
    found: dict[str, tuple[str, str]] = {}
    for page in client.walk():
        for entry in page.json()["entry"]:
            composition: dict[str, Any] = entry["resource"]["entry"][0]["resource"]
            targets = [one["targetReference"]["reference"] for one in composition.get("relatesTo", [])]
            found[entry["resource"]["id"]] = (composition["status"], targets[0].rpartition("/")[2] if targets else "")
    return found


def test_cycles_and_chains_of_replacements(client: Client) -> None:
    client.simulator.play("cycle:2")
    found = relations(client)
    assert sum(found.get(target, ("", ""))[1] == one for one, (_, target) in found.items()) == 4
    client.simulator.play("error-chain:3")
    found = relations(client)
    chains = [
        (found[middle][1], middle, last)
        for last, (_, middle) in found.items()
        if middle in found and found[middle][1] in found
    ]
    states = sorted(tuple(found[member][0] for member in chain) for chain in chains)
    error, final = "entered-in-error", "final"
    assert states == sorted([(error, final, final), (final, error, final), (final, final, error)])


def test_a_huge_document_stands_where_it_was_told(client: Client) -> None:
    client.simulator.play("huge:1:12")
    sizes = [len(page.content) for page in client.walk()]
    assert [size > 1 << 20 for size in sizes] == [False, True, False, False, False, False]
