"""Landing files: parts of a fixed number of lines, the same bytes for the same pages, memory that does not grow."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from imunizacao.errors import StorageUnavailable
from imunizacao.fhir import LandedWalk, LandingWriter, Page
from imunizacao.fhir.pages import read_page
from tests.integration.extract_support import DAY, make_document, read_zstd


def pages_of(count: int, size: int) -> Iterator[Page]:
    """Pages of fictional documents."""
    for number, first in enumerate(range(0, count, size), 1):
        entries = [make_document(n, DAY.start).entry for n in range(first, min(first + size, count))]
        body = b'{"resourceType":"Bundle","type":"searchset","entry":[' + b",".join(entries) + b"]}"
        yield Page(
            number=number,
            url="http://mirror.example.org/Bundle",
            etag="",
            sha256=hashlib.sha256(body).hexdigest(),
            bytes=len(body),
            seconds=0.5,
            attempts=1,
            content=read_page(body),
        )


def write(folder: Path, count: int, size: int, part_lines: int) -> LandedWalk:
    folder.mkdir()
    with LandingWriter(folder, part_lines=part_lines) as writer:
        for page in pages_of(count, size):
            writer.write_page(page)
        return writer.finish()


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [1]), (39, [39]), (40, [40]), (41, [40, 1]), (205, [40, 40, 40, 40, 40, 5])]
)
def test_a_part_is_full_before_the_next_one_begins(tmp_path: Path, count: int, expected: list[int]) -> None:
    walk = write(tmp_path / "a", count, 15, 40)
    assert [part.lines for part in walk.parts] == expected
    assert [part.path.name for part in walk.parts] == [f"part-{n:04d}.ndjson.zst" for n in range(1, len(expected) + 1)]
    lines = b"".join(read_zstd(part.path.read_bytes()) for part in walk.parts).splitlines()
    assert lines == [make_document(n, DAY.start).entry for n in range(count)]
    assert (walk.lines, walk.distinct, walk.rejected, walk.rejects) == (count, count, 0, None)


def test_a_page_may_fill_several_parts(tmp_path: Path) -> None:
    assert [part.lines for part in write(tmp_path / "a", 25, 25, 10).parts] == [10, 10, 5]


def test_the_same_pages_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, 300, 50, 120) for name in ("a", "b"))
    assert [part.path.read_bytes() for part in first.parts] == [part.path.read_bytes() for part in second.parts]


def test_no_page_at_all_gives_no_part_and_an_empty_log(tmp_path: Path) -> None:
    walk = write(tmp_path / "a", 0, 10, 10)
    assert (walk.parts, walk.lines, walk.distinct) == ([], 0, 0)
    assert walk.page_log.path.read_bytes() == b""


def test_the_log_has_one_line_per_page(tmp_path: Path) -> None:
    walk = write(tmp_path / "a", 25, 10, 100)
    pages = [json.loads(line) for line in walk.page_log.path.read_bytes().splitlines()]
    assert [page["count"] for page in pages] == [10, 10, 5]
    assert walk.page_log.lines == 3
    assert walk.bytes == sum(page["bytes"] for page in pages)


def test_a_disk_that_fails_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LandingWriter(tmp_path) as writer:
        monkeypatch.setattr(
            writer, "_append", lambda lines: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(StorageUnavailable, match="No space left on device"):
            writer.write_page(next(pages_of(1, 1)))


def test_memory_does_not_hold_the_slice(tmp_path: Path) -> None:
    """20,000 documents of 440 bytes are 8.8 MB: what stays is the keys (about 130 bytes each)."""
    tracemalloc.start()
    try:
        write(tmp_path / "a", 20_000, 500, 50_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000
