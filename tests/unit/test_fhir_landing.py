"""Landing files: parts of a fixed number of lines, the same bytes for the same pages, memory that does not grow."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imunizacao.errors import StorageUnavailable
from imunizacao.fhir import LandedWalk, LandingWriter, Page
from imunizacao.fhir.landing import encode_page, keys_of_log
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
    ("count", "expected"), [(1, [1]), (39, [39]), (40, [40]), (41, [41]), (46, [45, 1]), (205, [45, 45, 45, 45, 25])]
)
def test_a_part_ends_with_the_page_that_fills_it(tmp_path: Path, count: int, expected: list[int]) -> None:
    walk = write(tmp_path / "a", count, 15, 40)
    assert [part.lines for part in walk.parts] == expected
    assert [part.path.name for part in walk.parts] == [f"part-{n:04d}.ndjson.zst" for n in range(1, len(expected) + 1)]
    lines = b"".join(read_zstd(part.path.read_bytes()) for part in walk.parts).splitlines()
    assert lines == [make_document(n, DAY.start).entry for n in range(count)]
    assert (walk.lines, walk.distinct, walk.rejected, walk.rejects) == (count, count, 0, None)


def test_a_page_is_never_cut(tmp_path: Path) -> None:
    assert [part.lines for part in write(tmp_path / "a", 50, 25, 10).parts] == [25, 25]


def test_the_log_of_a_page_names_its_entries_as_the_walk_counts_them(tmp_path: Path) -> None:
    entries = [b'{"resource":{"id":"a","meta":{"versionId":"2"}}}', b'{"resource":{"id":"b"}}', b'{"resource":{}}']
    body = b'{"resourceType":"Bundle","type":"searchset","entry":[' + b",".join(entries) + b"]}"
    page = replace(next(pages_of(1, 1)), content=read_page(body))
    block = encode_page(page)
    assert block.keys == ["a|2", "b|", hashlib.sha256(entries[2]).hexdigest()]
    assert keys_of_log(block.log) == block.keys


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
            writer, "_append", lambda block: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(StorageUnavailable, match="No space left on device"):
            writer.write_page(next(pages_of(1, 1)))


def test_a_page_that_comes_after_the_end_opens_no_file(tmp_path: Path) -> None:
    """A cancelled walk leaves its `with` block while its last page may still be on the way in a thread."""
    page = next(pages_of(1, 1))
    with LandingWriter(tmp_path) as writer:
        pass
    with pytest.raises(ValueError, match="broken off"):
        writer.write_page(page)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pages.ndjson"]


def test_memory_does_not_hold_the_slice(tmp_path: Path) -> None:
    """20,000 documents of 440 bytes are 8.8 MB: what stays is the keys (about 130 bytes each)."""
    tracemalloc.start()
    try:
        write(tmp_path / "a", 20_000, 500, 50_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000
