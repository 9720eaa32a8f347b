"""Check of a diff, for reconcile: the revision before, changed as the diff says, has exactly the rows that readers count now.

Shares nothing with the code that made the diff: it does not compare the two revisions but applies the diff. Rows are not kept: of every
row only a hash is added to a sum by UF, so that order does not matter and memory is that of the diff's documents.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from imunizacao.events import log_event
from imunizacao.storage import ObjectMissing, ObjectStore

Expect = Callable[[str, object, object], None]
"""Notes a gap: what, expected, found."""


@dataclass(slots=True, kw_only=True)
class SeenUf:
    """What reconcile counted in the file of a UF that readers see now."""

    sha256: str
    rows: int
    row_sum: int
    """Sum of `hash(line)` over the rows, line end included."""
    header: bytes


class _NotReadable(Exception):
    """The revision before is not as it was published, so nothing can be said about the diff from there."""


@dataclass(slots=True, kw_only=True)
class _Uf:
    rows: int = 0
    row_sum: int = 0
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True, kw_only=True)
class _Read:
    """A diff as its three files say it."""

    ufs: dict[str, _Uf] = field(default_factory=dict)
    added: set[str] = field(default_factory=set)
    gone: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    """Document that must be in the revision before → its municipality there, and the hash of its new row if it has one."""

    def uf(self, code: str) -> _Uf:
        return self.ufs.setdefault(code, _Uf())


def check_diff(public: ObjectStore, head: Mapping[str, Any], seen: Mapping[str, SeenUf], expect: Expect) -> None:
    """Check the diff of the head's last revision against the revision before and the rows that were counted.

    Hashes and counts of the three files are always checked. The diff is applied once: until the revision has a verdict; later only
    immutable objects are compared, which their hashes do. A revision before that is damaged by now says nothing
    against the new one: that is an event in the log, no gap.
    """
    entry = head["history"][-1]
    diff = entry.get("diff")
    if diff is None:
        return
    expect(
        "revisions in the path of the diff",
        f"v1/days/{head['day']}/diff/{entry['supersedes']}-{entry['revision']}",
        diff["path"].rpartition("-")[0],
    )
    read = _read_files(public, diff, expect)
    if read is None or "reconciliation" in entry:
        return
    before = [row for row in head["history"] if row["revision"] == entry["supersedes"]]
    try:
        if len(before) != 1 or not before[0]["path"]:
            raise _NotReadable(f"the history has no content for revision {entry['supersedes']}")
        _apply(public, before[0], read, seen, expect)
    except _NotReadable as error:
        log_event(
            "reconcile.diff_not_applied",
            level=logging.WARNING,
            day=head["day"],
            revision=entry["revision"],
            why=str(error),
        )


def _read_files(public: ObjectStore, diff: Mapping[str, Any], expect: Expect) -> _Read | None:
    """Read the three files and compare them with what the history says of them; None when one of them cannot be used."""
    read = _Read()
    totals: Counter[str] = Counter()
    usable = True
    for name in ("added", "changed", "removed"):
        key, named = f"{diff['path']}/{name}.csv", diff["files"][name]
        digest, size = hashlib.sha256(), 0
        disorder, before = 0, ("", "")
        try:
            lines = _lines(public.stream(key))
            header = next(lines, b"")
            digest.update(header)
            size += len(header)
            names = _fields(header)
            place, document = names.index("co_municipio_estabelecimento"), names.index("co_documento")
            old = names.index("co_municipio_estabelecimento_anterior") if name == "changed" else place
            for line in lines:
                digest.update(line)
                size += len(line)
                row = _fields(line)
                here = (row[place], row[document])
                disorder += here <= before
                before = here
                totals[name] += 1
                _note(read, name, line, place=row[place], document=row[document], old=row[old])
        except ObjectMissing:
            expect(f"{key} exists", True, False)
            usable = False
            continue
        except (csv.Error, UnicodeDecodeError, ValueError, IndexError) as error:
            expect(f"form of {key}", "CSV with its columns", type(error).__name__)
            usable = False
            continue
        expect(f"bytes of {key}", named["bytes"], size)
        expect(f"sha256 of {key}", named["sha256"], digest.hexdigest())
        expect(f"rows of {key} that are repeated or out of order", 0, disorder)
        expect(f"rows of {key}", diff[name], totals[name])
    expect("documents in the diff, each in one place", sum(totals.values()), len(read.added | set(read.gone)))
    for uf in sorted({*read.ufs, *diff["ufs"]}):
        said = diff["ufs"].get(uf, {})
        found = read.ufs[uf].counts if uf in read.ufs else Counter[str]()
        for name in ("added", "changed", "removed", "movedIn", "movedOut"):
            expect(f"doses {name} in the diff of UF {uf}", said.get(name, 0), found[name])
    return read if usable else None


def _note(read: _Read, name: str, line: bytes, *, place: str, document: str, old: str) -> None:
    read.uf(place[:2]).counts[name] += 1
    if name == "removed":
        read.gone[document] = (place, None)
        return
    # The two last columns of changed.csv are codes or empty: no separator is inside them.
    published = line if name == "added" else line.rsplit(b";", 2)[0] + b"\n"
    uf = read.uf(place[:2])
    uf.rows += 1
    uf.row_sum += hash(published)
    if name == "added":
        read.added.add(document)
        return
    read.gone[document] = (old, hash(published))
    if old[:2] != place[:2]:
        uf.counts["movedIn"] += 1
        read.uf(old[:2]).counts["movedOut"] += 1


def _apply(
    public: ObjectStore, before: Mapping[str, Any], read: _Read, seen: Mapping[str, SeenUf], expect: Expect
) -> None:
    folder = before["path"].rpartition("/")[0]
    day = _json(public, before["path"], before["sha256"])
    old_ufs = {uf["uf"]: uf for uf in day["files"]["ufs"]}
    left = dict(read.gone)
    added_before = unchanged = elsewhere = 0
    for code, now in sorted(seen.items()):
        if code not in old_ufs:
            raise _NotReadable(f"it has no UF {code}")
        package = _json(public, f"{folder}/{old_ufs[code]['path']}", old_ufs[code]["sha256"])
        whole = next((part for part in package["resources"] if part["name"].startswith("imunizacao-total-")), None)
        if whole is None:
            raise _NotReadable(f"it names no file of UF {code}")
        sha256 = whole["hash"].removeprefix("sha256:")
        if sha256 == now.sha256:
            continue
        key = f"{folder}/{old_ufs[code]['path'].rpartition('/')[0]}/{whole['path']}"
        rows, row_sum = read.uf(code).rows, read.uf(code).row_sum
        for document, line, at_place in _old_rows(public, key, sha256, now.header):
            added_before += document in read.added
            gone = left.pop(document, None)
            if gone is None:
                rows += 1
                row_sum += hash(line)
                continue
            elsewhere += not _is_at(line, at_place, gone[0])
            unchanged += gone[1] == hash(line)
        expect(f"rows of UF {code} after the diff", now.rows, rows)
        expect(f"content of the rows of UF {code} after the diff", "as published", _same(now.row_sum == row_sum))
    expect("doses added by the diff that the revision before has", 0, added_before)
    expect("doses changed or removed by the diff that the revision before does not have", 0, len(left))
    expect("doses changed by the diff that are the same in both revisions", 0, unchanged)
    expect("doses of the diff with another municipality before", 0, elsewhere)


def _is_at(line: bytes, at_place: int, place: str) -> bool:
    """Tell whether a row is of a municipality. A plain cut is right unless a value before has the separator inside: then ask `csv`."""
    return line.split(b";", at_place + 1)[at_place] == f'"{place}"'.encode() or _fields(line)[at_place] == place


def _same(equal: bool) -> str:
    return "as published" if equal else "other rows"


def _old_rows(public: ObjectStore, key: str, sha256: str, header: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Document and line of every row before, as the columns of today write it, and which field is its municipality."""
    digest = hashlib.sha256()
    try:
        lines = _lines(public.stream(key))
        first = next(lines, b"")
        digest.update(first)
        names = _fields(first)
        document, place = names.index("co_documento"), names.index("co_municipio_estabelecimento")
        more = b";" * max(0, len(_fields(header)) - len(names))
        for line in lines:
            digest.update(line)
            # The first column is never empty, so it is quoted, and an id has no quote inside.
            known = line.split(b'"', 2)[1].decode() if document == 0 else _fields(line)[document]
            yield known, line[:-1] + more + b"\n", place
    except ObjectMissing:
        raise _NotReadable(f"{key} does not exist") from None
    except (csv.Error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise _NotReadable(f"{key} is not CSV ({type(error).__name__})") from None
    if digest.hexdigest() != sha256:
        raise _NotReadable(f"{key} has another sha256 than its descriptor says")


def _json(public: ObjectStore, key: str, sha256: str) -> dict[str, Any]:
    stored = public.get_or_none(key)
    if stored is None:
        raise _NotReadable(f"{key} does not exist")
    if hashlib.sha256(stored.body).hexdigest() != sha256:
        raise _NotReadable(f"{key} has another sha256 than the manifest above it says")
    document: dict[str, Any] = json.loads(stored.body)
    return document


def _fields(line: bytes) -> list[str]:
    return next(csv.reader((line.decode(),), delimiter=";", strict=True), [])


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines with their line ends."""
    rest = b""
    for block in blocks:
        *pieces, rest = (rest + block).split(b"\n")
        for piece in pieces:
            yield piece + b"\n"
    if rest:
        yield rest
