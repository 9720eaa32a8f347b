"""Diff: which doses a new revision of a day adds, changes and removes, against the revision that readers have now.

Both revisions are sorted by municipality and document, so one pass over both, line by line, finds what differs; only doses that left
their municipality are matched by document afterwards. The rows before come from the public bucket, checked by their manifests; a UF
whose file is the same in both revisions is not read. The bytes are a function of the two contents, and the folder is named after the
bytes: whoever writes there writes the same. Why: docs/adr/0029-differences-between-revisions.md.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import logging
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from imunizacao.errors import ContractViolation
from imunizacao.events import log_event
from imunizacao.manifests import Current, Diff, DiffFile, DiffFiles, DiffUf, Head
from imunizacao.models import CutFile, CutList
from imunizacao.storage import FileSlice, ObjectMissing, ObjectStore, sha256_of

PLACE, DOCUMENT, RESIDENCE = "co_municipio_estabelecimento", "co_documento", "co_municipio_paciente"
BEFORE_COLUMNS = (f"{PLACE}_anterior", f"{RESIDENCE}_anterior")
"""Last columns of changed.csv: where the dose was in the revision before."""
REMOVED_COLUMNS = (DOCUMENT, PLACE, RESIDENCE)
"""Columns of removed.csv: the dose and where it was."""
_BLOCK = 1 << 20
_WHOLE_UF = "imunizacao-total-"
S = TypeVar("S", bound=msgspec.Struct)

Put = Callable[[str, FileSlice, str], object]
"""Creates an immutable object: key, body, sha256."""


class RevisionUnreadable(ContractViolation):
    """The revision before is not in the bucket as its manifests name it: nobody can tell what differs from it."""


@dataclass(slots=True, kw_only=True)
class DiffMaker:
    """Makes the diff against whatever revision the head turns out to have; the same revision is not read twice."""

    day: str
    public: ObjectStore
    cuts: CutList
    body: Callable[[], Path]
    """The rows of the new content in a local file, as the cut list cuts them; asked for only when rows are compared."""
    folder: Path
    """Scratch folder."""
    put: Put
    _made: dict[tuple[int, str, tuple[str, ...]], tuple[Diff | None, str | None]] = field(default_factory=dict)

    def against(self, head: Head) -> tuple[Diff | None, str | None]:
        """Write the files of the diff from the head's revision to the next one: what the next history entry says of it.

        A withdrawn day has nothing to compare with: no diff. A revision that is not in the bucket as it was published cannot be
        compared either: then there is no diff, and the second value says so to readers. A UF that is withdrawn is in no diff: a dose
        that comes from there is added, one that goes there is removed.
        """
        if head.current is None:
            return None, None
        without = tuple(sorted(head.withdrawn_ufs))
        mark = (head.revision, head.current.sha256, without)
        if mark not in self._made:
            self._made[mark] = self._make(head.revision, head.current, frozenset(without))
        return self._made[mark]

    def _make(self, revision: int, current: Current, without: frozenset[str]) -> tuple[Diff | None, str | None]:
        folder = Path(tempfile.mkdtemp(prefix=f"diff-{revision}-", dir=self.folder))
        try:
            before = read_before(self.public, current)
            found = compare(self.public, before=before, cuts=self.cuts, body=self.body, folder=folder, without=without)
            diff = describe(self.day, revision, found)
            for name, file in found.files.items():
                with FileSlice(b"", file.path, offset=0, length=file.bytes) as body:
                    self.put(f"{diff.path}/{name}.csv", body, file.sha256)
        except RevisionUnreadable as error:
            log_event("publish.no_diff", level=logging.WARNING, day=self.day, revision=revision, why=str(error))
            return None, (
                f"Sem diferença por dose: o conteúdo da revisão {revision} não está no bucket como foi publicado. "
                "Quem tem essa revisão deve baixar o dia inteiro."
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        log_event(
            "publish.diff",
            day=self.day,
            from_revision=revision,
            added=diff.added,
            changed=diff.changed,
            removed=diff.removed,
            ufs=len(diff.ufs),
        )
        return diff, None


def describe(day: str, revision: int, found: Found) -> Diff:
    """What the history says of a diff. The folder's name ends in the hash of its three files: other bytes have another name."""
    digest = hashlib.sha256()
    for name, file in sorted(found.files.items()):
        digest.update(f"{name}.csv\0{file.sha256}\n".encode())
    counts = found.counts.values()
    return Diff(
        path=f"v1/days/{day}/diff/{revision}-{revision + 1}-{digest.hexdigest()}",
        added=sum(count.added for count in counts),
        changed=sum(count.changed for count in counts),
        removed=sum(count.removed for count in counts),
        files=DiffFiles(
            **{name: DiffFile(bytes=file.bytes, sha256=file.sha256) for name, file in sorted(found.files.items())}
        ),
        ufs={
            uf: DiffUf(
                added=count.added,
                changed=count.changed,
                removed=count.removed,
                moved_in=count.moved_in,
                moved_out=count.moved_out,
            )
            for uf, count in sorted(found.counts.items())
            if count != Counts()
        },
    )


# --- the revision before --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class UfBefore:
    """The file of a UF in the revision before."""

    key: str
    sha256: str
    rows: int


class _DayUf(msgspec.Struct, frozen=True):
    uf: str
    path: str
    sha256: str


class _DayFiles(msgspec.Struct, frozen=True):
    ufs: list[_DayUf]


class _Day(msgspec.Struct, frozen=True):
    """Of a day.json, whatever version of the code wrote it, only what is needed here."""

    files: _DayFiles


class _Resource(msgspec.Struct, frozen=True):
    name: str
    path: str
    hash: str
    rows: int = msgspec.field(name="rnds:rows")


class _Package(msgspec.Struct, frozen=True):
    resources: list[_Resource]


def read_before(public: ObjectStore, current: Current) -> dict[str, UfBefore]:
    """The UF files of the revision that the head points to, by UF code; hashes are checked from the head down."""
    base = current.path.rpartition("/")[0]
    found: dict[str, UfBefore] = {}
    for uf in _checked(public, current.path, current.sha256, _Day).files.ufs:
        package = _checked(public, f"{base}/{uf.path}", uf.sha256, _Package)
        whole = next((resource for resource in package.resources if resource.name.startswith(_WHOLE_UF)), None)
        if whole is None:
            raise RevisionUnreadable(f"{base}/{uf.path} names no file of the whole UF.")
        folder = uf.path.rpartition("/")[0]
        found[uf.uf] = UfBefore(
            key=f"{base}/{folder}/{whole.path}", sha256=whole.hash.removeprefix("sha256:"), rows=whole.rows
        )
    return found


def _checked(public: ObjectStore, key: str, sha256: str, kind: type[S]) -> S:
    stored = public.get_or_none(key)
    if stored is None:
        raise RevisionUnreadable(f"{key} does not exist.")
    if sha256_of(stored.body) != sha256:
        raise RevisionUnreadable(f"{key} has another sha256 than the manifest above it says.")
    try:
        return msgspec.json.decode(stored.body, type=kind)
    except msgspec.MsgspecError as error:
        raise RevisionUnreadable(f"{key} does not have the form of a manifest: {error}.") from error


# --- comparing ------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Counts:
    """Doses of one UF: added and changed where they are now, removed where they were."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    moved_in: int = 0
    """Changed doses that were in another UF."""
    moved_out: int = 0
    """Doses that are in another UF now, where they count as changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A finished file of the diff."""

    path: Path
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The three files of a diff, by name, and the counts by UF."""

    files: dict[str, LocalFile]
    counts: dict[str, Counts]


def compare(
    public: ObjectStore,
    *,
    before: dict[str, UfBefore],
    cuts: CutList,
    body: Callable[[], Path],
    folder: Path,
    without: frozenset[str] = frozenset(),
) -> Found:
    """Compare the UFs whose files differ, but for those `without`, and write `added.csv`, `changed.csv` and `removed.csv` into `folder`.

    Rows of a shorter contract of the same beginning are read with empty columns at the end; between contracts of other columns
    every dose that both have is changed. Rows now = rows before + added − removed + moved in − moved out is checked for every
    UF. Raises `RevisionUnreadable` when the revision before is not what its manifests say.
    """
    now = {file.uf: file for file in cuts.files if not file.municipio and _WHOLE_UF in file.path}
    if set(now) != set(before):
        raise RevisionUnreadable(f"It has {len(before)} UFs, the new revision has {len(now)}.")
    header = cuts.header.encode().removesuffix(b"\n")
    new_columns = _Columns(header, "The new content", ContractViolation)
    rows: dict[str, tuple[int, int]] = {}
    with _Differences(folder) as differences:
        for uf in sorted(set(now) - without):
            if now[uf].sha256 == before[uf].sha256:
                continue
            lines = _lines(_cut(body(), now[uf]))
            seen = _compare_uf(public, before[uf], new=lines, columns=new_columns, differences=differences)
            rows[uf] = (seen, now[uf].rows)
    found = differences.write(header)
    for uf, (old, new) in rows.items():
        count = found.counts[uf]
        expected = old + count.added - count.removed + count.moved_in - count.moved_out
        if expected != new:
            raise ContractViolation(
                f"The diff of UF {uf} does not add up: {old} rows before + {count.added} added − {count.removed} removed + "
                f"{count.moved_in} moved in − {count.moved_out} moved out = {expected}, the new file has {new}. Nothing was "
                "published; see docs/runbook/account-gap.md."
            )
    return found


def _compare_uf(
    public: ObjectStore,
    before: UfBefore,
    *,
    new: Iterator[bytes],
    columns: _Columns,
    differences: _Differences,
) -> int:
    """Merge the file of one UF before with its rows now. Returns the number of rows before."""
    digest = hashlib.sha256()
    rows = 0

    def blocks() -> Iterator[bytes]:
        try:
            for block in public.stream(before.key):
                digest.update(block)
                yield block
        except ObjectMissing as error:
            raise RevisionUnreadable(f"{before.key} does not exist.") from error

    def count(lines: Iterator[bytes], end: bytes) -> Iterator[bytes]:
        nonlocal rows
        for line in lines:
            rows += 1
            yield line + end

    lines = _lines(blocks())
    old_columns = _Columns(next(lines, b""), before.key, RevisionUnreadable)
    missing = len(columns.names) - len(old_columns.names)
    grown = missing >= 0 and columns.names[: len(old_columns.names)] == old_columns.names
    _merge(
        count(lines, b";" * missing if grown else b""),
        new,
        old_key=_Columns(columns.header, before.key, RevisionUnreadable).key if grown else old_columns.key,
        new_key=columns.key,
        comparable=grown,
        differences=differences,
    )
    if digest.hexdigest() != before.sha256 or rows != before.rows:
        raise RevisionUnreadable(f"{before.key} has other rows or another sha256 than its descriptor says.")
    return rows


Key = tuple[bytes, bytes, bytes]
"""Municipality of the establishment, document, municipality of residence."""


def _merge(
    old: Iterator[bytes],
    new: Iterator[bytes],
    *,
    old_key: Callable[[bytes], Key],
    new_key: Callable[[bytes], Key],
    comparable: bool,
    differences: _Differences,
) -> None:
    """Walk two sorted sides in step. Equal lines cost one comparison; only lines that differ are taken apart."""
    a, b = next(old, None), next(new, None)
    key_a: Key | None = None
    key_b: Key | None = None
    while a is not None and b is not None:
        if comparable and a == b:
            a, b, key_a, key_b = next(old, None), next(new, None), None, None
            continue
        key_a, key_b = key_a or old_key(a), key_b or new_key(b)
        if key_a[:2] == key_b[:2]:
            differences.change(key_b, b, before=key_a)
            a, b, key_a, key_b = next(old, None), next(new, None), None, None
        elif key_a[:2] < key_b[:2]:
            differences.leave(key_a)
            a, key_a = next(old, None), None
        else:
            differences.arrive(key_b, b)
            b, key_b = next(new, None), None
    while a is not None:
        differences.leave(old_key(a))
        a = next(old, None)
    while b is not None:
        differences.arrive(new_key(b), b)
        b = next(new, None)


class _Columns:
    """Takes the key out of a line of CSV."""

    def __init__(self, header: bytes, where: str, error: type[ContractViolation]) -> None:
        self.header, self._where, self._error = header, where, error
        self.names = self._fields(header)
        if PLACE not in self.names or DOCUMENT not in self.names:
            raise error(f"{where} has no header with {DOCUMENT} and {PLACE}.")
        self._place, self._document = self.names.index(PLACE), self.names.index(DOCUMENT)
        self._residence = self.names.index(RESIDENCE) if RESIDENCE in self.names else None
        self._plain = _plain_start(self._place, self._document, self._residence)

    def key(self, line: bytes) -> Key:
        """Where the row of `line` belongs."""
        plain = self._plain.match(line)
        if plain is not None:
            return plain["place"] or b"", plain["document"] or b"", plain["residence"] or b""
        fields = self._fields(line)
        if len(fields) != len(self.names):
            raise self._error(f"A row of {self._where} has {len(fields)} fields instead of {len(self.names)}.")
        residence = fields[self._residence].encode() if self._residence is not None else b""
        return fields[self._place].encode(), fields[self._document].encode(), residence

    def _fields(self, line: bytes) -> list[str]:
        try:
            return next(csv.reader((line.decode(),), delimiter=";", strict=True), [])
        except (csv.Error, UnicodeDecodeError) as error:
            raise self._error(f"A row of {self._where} is not CSV ({type(error).__name__}).") from None


def _plain_start(place: int, document: int, residence: int | None) -> re.Pattern[bytes]:
    """Matches the columns up to the last of the key where no value has a quote inside; any other row is for `csv` to read."""
    names = {place: b"place", document: b"document", residence: b"residence"}
    fields = [
        b'(?:"(?P<%b>[^"]*+)")?+' % names[number] if number in names else b'(?:"[^"]*+")?+'
        for number in range(max(place, document, residence or 0) + 1)
    ]
    return re.compile(b";".join(fields) + (b"(?:;|$)" if residence is not None else b"(?:;|$)(?P<residence>)"))


class _Differences:
    """Collects what differs, in the order of the files, on disk: `<municipality> TAB <document> TAB <rest>` sorts as the files do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._streams = {name: (folder / name).open("wb") for name in ("changed-here", "arrived", "left")}
        self._count = dict.fromkeys(self._streams, 0)

    def __enter__(self) -> _Differences:
        return self

    def __exit__(self, *error: object) -> None:
        for stream in self._streams.values():
            stream.close()

    def change(self, key: Key, line: bytes, *, before: Key) -> None:
        """The dose is where it was, with other values."""
        self._note("changed-here", key, _with_before(line, before[0], before[2]))

    def arrive(self, key: Key, line: bytes) -> None:
        """The dose was not in this municipality before: it is added, or came from another one."""
        self._note("arrived", key, line)

    def leave(self, key: Key) -> None:
        """The dose is not in this municipality any more: it is removed, or went to another one."""
        self._note("left", key, key[2])

    def _note(self, name: str, key: Key, rest: bytes) -> None:
        self._streams[name].write(b"%b\t%b\t%b\n" % (key[0], key[1], rest))
        self._count[name] += 1

    def write(self, header: bytes) -> Found:
        """Match the doses that moved, and write the three files. After the collection has been closed."""
        moved = self._moved()
        counts: dict[str, Counts] = defaultdict(Counts)
        added = _File(self._folder / "added.csv", header)
        removed = _File(self._folder / "removed.csv", b";".join(_value(name.encode()) for name in REMOVED_COLUMNS))
        for place, document, residence in self._read("left"):
            if document in moved:
                continue
            removed.write(b";".join((_value(document), _value(place), _value(residence))))
            counts[_uf(place)].removed += 1
        names = b";".join(_value(name.encode()) for name in BEFORE_COLUMNS)
        changed = _File(self._folder / "changed.csv", header + b";" + names)
        with (self._folder / "changed-here").open("rb") as here:
            for record in heapq.merge(here, self._came(moved, counts, added)):
                place, _, line = record.removesuffix(b"\n").split(b"\t", 2)
                changed.write(line)
                counts[_uf(place)].changed += 1
        files = {"added": added.close(), "changed": changed.close(), "removed": removed.close()}
        return Found(files=files, counts=counts)

    def _came(
        self, moved: dict[bytes, tuple[bytes, bytes]], counts: dict[str, Counts], added: _File
    ) -> Iterator[bytes]:
        """Write the arrived doses that nobody knew to `added`; give the others, as changed ones."""
        for place, document, line in self._read("arrived"):
            if document not in moved:
                added.write(line)
                counts[_uf(place)].added += 1
                continue
            old, residence = moved[document]
            if _uf(old) != _uf(place):
                counts[_uf(place)].moved_in += 1
                counts[_uf(old)].moved_out += 1
            yield b"%b\t%b\t%b\n" % (place, document, _with_before(line, old, residence))

    def _moved(self) -> dict[bytes, tuple[bytes, bytes]]:
        """Documents that left one municipality and arrived in another → where they were. Holds the documents of the shorter list."""
        if not self._count["left"] or not self._count["arrived"]:
            return {}
        short, long = sorted(("left", "arrived"), key=self._count.__getitem__)
        some = {document for _, document, _ in self._read(short)}
        both = {document for _, document, _ in self._read(long) if document in some}
        return {document: (place, rest) for place, document, rest in self._read("left") if document in both}

    def _read(self, name: str) -> Iterator[Sequence[bytes]]:
        with (self._folder / name).open("rb") as records:
            for record in records:
                yield record.removesuffix(b"\n").split(b"\t", 2)


class _File:
    """A CSV that is hashed while it is written."""

    def __init__(self, path: Path, header: bytes) -> None:
        self._path, self._stream, self._digest, self._bytes = path, path.open("wb"), hashlib.sha256(), 0
        self.write(header)

    def write(self, line: bytes) -> None:
        line += b"\n"
        self._digest.update(line)
        self._bytes += len(line)
        self._stream.write(line)

    def close(self) -> LocalFile:
        self._stream.close()
        return LocalFile(path=self._path, sha256=self._digest.hexdigest(), bytes=self._bytes)


def _with_before(line: bytes, place: bytes, residence: bytes) -> bytes:
    return b"%b;%b;%b" % (line, _value(place), _value(residence))


def _value(value: bytes) -> bytes:
    return b'"' + value.replace(b'"', b'""') + b'"' if value else b""


def _uf(place: bytes) -> str:
    return place[:2].decode()


def _cut(body: Path, file: CutFile) -> Iterator[bytes]:
    with FileSlice(b"", body, offset=file.offset, length=file.length) as part:
        while block := part.read(_BLOCK):
            yield block


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines without their line ends."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest
