"""Reading over http when the other side is slow, broken, moved or closed; and sums and order that later tests stand on."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imunizacao.errors import StorageUnavailable
from imunizacao.verify import FolderReader, HttpReader, Missing, open_reader, verify_bucket
from imunizacao.verify.found import Findings, RowFindings, safe
from imunizacao.verify.layout import is_inside
from imunizacao.verify.readers import read_small
from imunizacao.verify.schema import Column, Schema
from imunizacao.verify.sums import Keys, RowSum
from imunizacao.verify.tables import Order, Table, canonical

BODY = bytes(range(256)) * 4096
Answer = Callable[[BaseHTTPRequestHandler, int], None]


@contextmanager
def serve(answer: Answer) -> Iterator[str]:
    """A server that answers GET number n by `answer(request, n)`."""
    count = iter(range(1_000_000))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, next(count))

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def send(
    request: BaseHTTPRequestHandler, status: int, body: bytes = b"", *, cut: int | None = None, **headers: str
) -> None:
    """Answer; with `cut` the connection breaks after that many bytes of the body."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body if cut is None else body[:cut])
    if cut is not None:
        request.wfile.flush()
        request.close_connection = True


def read(address: str, key: str = "v1/x") -> tuple[bytes, list[float]]:
    """What a reader gets, and how long it slept."""
    slept: list[float] = []
    with closing(HttpReader(address, sleep=slept.append)) as reader:
        return b"".join(reader.stream(key)), slept


@pytest.mark.parametrize("ranges", [True, False])
def test_a_body_that_is_cut_off_goes_on_where_it_ended(ranges: bool) -> None:
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        wanted = request.headers.get("Range", "")
        asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and ranges else 0
        send(request, 206 if start else 200, BODY[start:], cut=300_000 if number < 2 else None, ETag='"1"')

    with serve(answer) as address:
        body, slept = read(address)
    assert body == BODY
    assert len(slept) == 2
    assert asked[0] == ""
    assert all(wanted.startswith("bytes=") for wanted in asked[1:])


def test_an_object_that_is_replaced_while_it_is_read_is_not_put_together_from_two() -> None:
    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        if number == 0:
            send(request, 200, BODY, cut=300_000, ETag='"1"')
        else:
            assert request.headers["If-Match"] == '"1"'
            send(request, 412, b"replaced")

    with serve(answer) as address, pytest.raises(StorageUnavailable, match="replaced while it was read"):
        read(address)


def test_what_passes_is_asked_again_as_late_as_the_server_wants() -> None:
    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        if number == 0:
            send(request, 503, b"later", Retry_After="7")
        elif number == 1:
            send(request, 429, b"later", Retry_After="100000")
        else:
            send(request, 200, b"{}")

    with serve(answer) as address:
        assert read(address) == (b"{}", [7.0, 30.0])


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_there_or_closed_is_missing_at_once(status: int) -> None:
    with (
        serve(lambda request, number: send(request, status, b"no")) as address,
        pytest.raises(Missing, match=str(status)),
    ):
        read(address)


def test_a_server_that_never_recovers_and_one_that_moved_are_unreachable_with_the_next_step() -> None:
    with serve(lambda request, number: send(request, 500, b"no")) as address:
        with pytest.raises(StorageUnavailable, match=r"in 5 tries: HTTP 500. Check address"):
            read(address)
    with pytest.raises(StorageUnavailable, match="in 5 tries"):
        read(address)
    moved = "https://elsewhere.example/bucket"
    with serve(lambda request, number: send(request, 301, b"", Location=moved)) as address:
        with pytest.raises(StorageUnavailable, match=f"points to {moved}"):
            read(address)


def test_a_token_in_the_address_goes_with_every_get_and_into_no_report() -> None:
    paths: list[str] = []

    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        paths.append(request.path)
        send(request, 200, b"{}")

    with serve(answer) as address, closing(open_reader(f"{address}/bucket/v1/catalog.json?token=secret", {})) as reader:
        assert read_small(reader, "v1/uf=53/x", most=10) == b"{}"
        assert "secret" not in reader.address
    assert paths == ["/bucket/v1/uf%3D53/x?token=secret"]


def test_a_bucket_that_stops_answering_ends_the_report_early_with_code_5() -> None:
    catalog = b'{"schema": "imunizacao.catalog/1", "operations": [], "months": [{"month": "2026-03", "path": "v1/months/2026-03/index.json", "days": 1, "rows": 1}], "totals": {"days": 1, "rows": 1}}'

    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        if number == 0:
            send(request, 200, catalog)
        else:
            send(request, 503, b"")

    with serve(answer) as address, closing(HttpReader(address, sleep=lambda seconds: None)) as reader:
        report = verify_bucket(reader, waits=())
    report.findings.items.clear()  # The catalog of this test offers nothing.
    assert report.exit_code == 5
    assert "v1/months/2026-03/index.json" in report.unreachable


def test_a_folder_that_may_not_be_read_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        read_small(FolderReader(tmp_path), "v1/catalog.json", most=10)
    (tmp_path / "v1").mkdir()
    with pytest.raises(Missing):
        read_small(FolderReader(tmp_path), "v1", most=10)


@pytest.mark.parametrize(
    "path", ["uf=53/datapackage.json", "mun=530010/imunizacao-530010_2026-03-14.csv", "removed.csv"]
)
def test_paths_of_the_layout_are_inside(path: str) -> None:
    assert is_inside(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "..",
        ".",
        ".x",
        "../x",
        "/x",
        "uf=53/../x",
        "uf=53//x",
        "a/b",
        "uf=5/x",
        "x\n",
        "X.csv",
        "x%2e",
        "mun=530010/",
        "s3://x",
        "uf=53/.x",
    ],
)
def test_other_paths_are_not(path: str) -> None:
    assert not is_inside(path)


def test_repeated_keys_and_rows_in_any_order_are_told() -> None:
    keys, more = Keys(), Keys()
    keys.add(f"d{number}" for number in range(10_000))
    assert keys.repeated() == 0
    more.add(["d5", "d6", "e"])
    keys.take(more)
    assert (keys.repeated(), more.repeated()) == (2, 0)
    lines = [f"row {number}".encode() for number in range(1000)]
    one, other = RowSum(), RowSum()
    one.add(lines)
    random.Random(1).shuffle(lines)
    for line in lines:
        single = RowSum()
        single.add([line])
        other.take(single)
    assert one == other
    other.add([lines[0]])
    assert one != other


def test_order_is_kept_across_batches() -> None:
    def found(*batches: list[tuple[str, ...]]) -> list[tuple[str, str]]:
        notes, findings = RowFindings("x"), Findings()
        order = Order(notes)
        first = 1
        for batch in batches:
            order.check(batch, first)
            first += len(batch)
        notes.close(findings)
        return [(finding.kind, finding.found) for finding in findings.items]

    assert found([("1", "a"), ("1", "b")], [], [("2", "a")]) == []
    assert found([("1", "a"), ("2", "b")], [("2", "a")]) == [("order", "1 row, the first is row 3")]
    assert found([("1", "a")], [("1", "a"), ("1", "a")]) == [("duplicate-key", "2 rows, the first is row 2")]


def test_random_tables_are_read_whatever_the_blocks_are() -> None:
    """Values with separators, quotes and accents; cut anywhere; and one changed byte of quoting is always seen."""
    dice = random.Random(3)
    schema = Schema(columns=tuple(Column(name=name, tests=()) for name in ("a", "b", "c")))
    letters = ["", "x", ";", '"', '""', "é", " ", "'", ",", "\t", "日"]
    for _ in range(150):
        rows = [
            ["".join(dice.choices(letters, k=dice.randrange(4))) for _ in range(3)] for _ in range(dice.randrange(1, 9))
        ]
        body = "".join(canonical(row) + "\n" for row in [list(schema.names), *rows]).encode()
        cuts = sorted(dice.sample(range(len(body) + 1), k=min(5, len(body))))
        blocks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        table, findings = Table("x", schema), Findings()
        seen = [row for batch in table.batches(iter(blocks), findings) for row in zip(*batch.columns, strict=True)]
        assert (seen, findings.items) == ([tuple(row) for row in rows], [])
        assert table.filled == [sum(1 for row in rows if row[number]) for number in range(3)]
        quote = dice.choice([place for place, sign in enumerate(body) if sign == ord('"')])
        broken = Findings()
        for _ in Table("x", schema).batches(iter([body[:quote] + body[quote + 1 :]]), broken):
            pass
        assert len(broken) > 0, body


def test_text_for_a_terminal_is_one_printable_line() -> None:
    assert safe("a\x1b[31m\nb") == "a\\x1b[31m\\x0ab"
    assert len(safe("x" * 1000)) == 160
