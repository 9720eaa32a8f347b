"""Documents out of the resources of a mirror that stores them apart.

The bytes of the resources lie in a local file; memory holds an index of fixed size per resource (about 200 bytes).
"""

from __future__ import annotations

import logging
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Final

from imunizacao.errors import StorageUnavailable
from imunizacao.events import log_event
from imunizacao.fhir.document import Part, neighbours, read_composition, read_part, write_document
from imunizacao.fhir.pages import Entry, read_line
from imunizacao.fhir.window import Window

_KINDS: Final = ("Immunization", "Composition", "Condition", "Patient", "Organization")
_IMMUNIZATION, _COMPOSITION = 0, 1
_NEVER: Final = -(2**63)
"""Instant of a resource without a readable `meta.lastUpdated`."""
_FOREVER: Final = 2**63 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_BUFFER_BYTES: Final = 1 << 20
_TAIL: Final = re.compile(r"(?:^|/)([A-Za-z]+/[A-Za-z0-9.-]{1,64})$")


class Assembler:
    """Takes the resources of a walk and gives documents. It keeps one file in `folder` and no open handle.

    A document changes when its Composition or one of its Immunizations does, so its instant is the greatest of theirs. With
    `compositions_searched` off (a mirror that gives Compositions only beside Immunizations) nobody would ask for the window of a
    Composition, and the Immunizations alone decide.
    """

    def __init__(self, folder: Path, *, compositions_searched: bool = True) -> None:
        self.left_out = 0
        """Compositions of other documents than immunizations."""
        self.unreadable = 0
        """Included resources that cannot be read; a match that cannot be read becomes a line of its own."""
        self._path = folder / "resources.ndjson"
        self._by_composition = compositions_searched
        self._buffer = bytearray()
        self._size = 0
        self._left_out: set[int] = set()
        self._unplaced: list[tuple[int, int]] = []
        self._awaited: dict[int, str] = {}
        # A node is a resource of some id; its rows are the versions of it that came, linked from the last one back.
        self._nodes: dict[int, int] = {}
        self._kind = bytearray()
        self._named = bytearray()
        self._last_row = array("i")
        self._node = array("i")
        self._row_before = array("i")
        self._offset = array("q")
        self._bytes = array("i")
        self._instant = array("q")
        self._number = array("q")
        self._version = array("q")
        self._matched = bytearray()
        self._links_at = array("i")
        self._links = array("i")
        """Of each Composition: how many Immunizations it names, then their nodes."""

    def add(self, line: bytes, *, matched: bool) -> None:
        """Take one entry as it was landed. A version that came before is not kept twice."""
        entry = read_line(line)
        reference = _local(entry.id)
        kind = _kind_of(reference)
        if kind not in _KINDS:
            if matched:
                self._unplaced.append(self._write(line))
            elif not reference:
                self.unreadable += 1
            return
        node = self._node_of(reference)
        version = hash(entry.version)
        for row in self._rows(node):
            if self._version[row] == version:
                self._matched[row] |= matched
                return
        names: Iterable[str] = ()
        if kind == _KINDS[_COMPOSITION]:
            composition = read_composition(line)
            if composition.is_other_document:
                self._leave_out(hash((node, version)))
                return
            names = composition.names
        self._awaited.pop(node, None)
        self._append(node, line, entry, matched=matched)
        self._link(names)

    def missing(self) -> list[str]:
        """References to Immunizations that a Composition names and that have not come, in the order in which they were named."""
        return list(self._awaited.values())

    def alone(self) -> list[str]:
        """References of the matched Immunizations that no Composition names."""
        rows = [
            self._last_row[node]
            for node, kind in enumerate(self._kind)
            if kind == _IMMUNIZATION and not self._named[node] and any(self._matched[row] for row in self._rows(node))
        ]
        if not rows:
            return []
        self._flush()
        descriptor = self._open()
        try:
            return [_local(read_line(self._read(row, descriptor)).id) for row in rows]
        finally:
            os.close(descriptor)

    def documents(self, window: Window) -> Iterator[Entry]:
        """The documents whose instant lies in the window, by instant and id, and what came in it without belonging to one.

        An Immunization that no Composition names is a document with nothing else in it, and a match that cannot be read stays the
        line that it was: flatten quarantines both. Resources without a readable instant come with every window.
        """
        self._flush()
        instants, rows, moments = self._plan(_microseconds(window.start), _microseconds(window.end))
        alone = doses_missing = 0
        order = sorted(range(len(rows)), key=instants.__getitem__)
        descriptor = self._open()
        try:
            for offset, size in self._unplaced:
                yield read_line(os.pread(descriptor, size, offset))
            for _, group in groupby(order, key=instants.__getitem__):
                for row, moment in self._in_order([(rows[n], moments[n]) for n in group], descriptor):
                    is_dose = self._kind[self._node[row]] == _IMMUNIZATION
                    doses = [row] if is_dose else self._doses(row, moment)
                    alone += is_dose
                    doses_missing += not is_dose and len(doses) < len(self._named_by(row))
                    yield self._document(None if is_dose else row, doses, descriptor)
        finally:
            os.close(descriptor)
        log_event(
            "assemble.done",
            level=logging.WARNING if alone or doses_missing or self.unreadable or self._unplaced else logging.INFO,
            window=str(window),
            documents=len(order) - alone,
            without_composition=alone,
            with_doses_missing=doses_missing,
            other_documents=self.left_out,
            unreadable=self.unreadable + len(self._unplaced),
        )

    # ---------------------------------------------------------------- the index

    def _node_of(self, reference: str) -> int:
        node = self._nodes.setdefault(_mark(reference), len(self._nodes))
        if node == len(self._last_row):
            self._last_row.append(-1)
            self._kind.append(_KINDS.index(_kind_of(reference)))
            self._named.append(0)
        return node

    def _rows(self, node: int) -> Iterator[int]:
        """Versions of a resource, the last that came first."""
        row = self._last_row[node]
        while row >= 0:
            yield row
            row = self._row_before[row]

    def _append(self, node: int, line: bytes, entry: Entry, *, matched: bool) -> None:
        offset, size = self._write(line)
        self._row_before.append(self._last_row[node])
        self._last_row[node] = len(self._node)
        self._node.append(node)
        self._offset.append(offset)
        self._bytes.append(size)
        self._instant.append(_NEVER if entry.last_updated is None else _microseconds(entry.last_updated))
        self._number.append(int(entry.version) if re.fullmatch(r"[0-9]{1,18}", entry.version) else 0)
        self._version.append(hash(entry.version))
        self._matched.append(matched)

    def _link(self, names: Iterable[str]) -> None:
        """Note what the row that was just added names."""
        references = [name for name in dict.fromkeys(map(_local, names)) if _kind_of(name) == _KINDS[_IMMUNIZATION]]
        if not references:
            self._links_at.append(-1)
            return
        self._links_at.append(len(self._links))
        self._links.append(len(references))
        for reference in references:
            node = self._node_of(reference)
            self._named[node] = 1
            self._links.append(node)
            if self._last_row[node] < 0:
                self._awaited[node] = reference

    def _leave_out(self, mark: int) -> None:
        if mark not in self._left_out:
            self._left_out.add(mark)
            self.left_out = len(self._left_out)

    # ---------------------------------------------------------------- versions

    def _plan(self, start: int, end: int) -> tuple[array[int], array[int], array[int]]:
        """What is to be given: its instant, the row of its Composition (else of its Immunization), the moment that it shows."""
        instants, rows, moments = array("q"), array("i"), array("q")

        def take(instant: int, row: int, moment: int, parts: Iterable[int]) -> None:
            if start <= instant < end or (instant == _NEVER and any(self._matched[part] for part in parts)):
                instants.append(instant)
                rows.append(row)
                moments.append(moment)

        for node, kind in enumerate(self._kind):
            if kind == _COMPOSITION:
                versions = sorted(self._rows(node), key=self._age)
                for place, row in enumerate(versions):
                    until = self._instant[versions[place + 1]] if place + 1 < len(versions) else _FOREVER
                    for moment, doses in self._states(row, until):
                        take(self._instant_of(row, doses), row, moment, [row, *doses])
            elif kind == _IMMUNIZATION and not self._named[node]:
                for row in self._rows(node):
                    if self._matched[row]:
                        take(self._instant[row], row, 0, [row])
        return instants, rows, moments

    def _age(self, row: int) -> tuple[int, int, int]:
        return self._instant[row], self._number[row], row

    def _states(self, row: int, until: int) -> Iterator[tuple[int, list[int]]]:
        """The moments at which a version of a Composition meant something new, until the next version of it came."""
        came = self._instant[row]
        later = {
            self._instant[dose]
            for node in self._named_by(row)
            for dose in self._rows(node)
            if came < self._instant[dose] < until
        }
        before: list[int] | None = None
        for moment in sorted({came, *later}) if came != _NEVER else [_FOREVER]:
            doses = self._doses(row, moment)
            if doses != before:
                yield moment, doses
            before = doses

    def _doses(self, composition: int, moment: int) -> list[int]:
        """The versions of the Immunizations that a Composition names, at a moment; one that never came is left out."""
        found = [self._fitting(node, moment, self._number[composition]) for node in self._named_by(composition)]
        return [row for row in found if row >= 0]

    def _fitting(self, node: int, moment: int, number: int) -> int:
        """The newest version that had come at a moment, else the oldest one; of one instant that with the same version number."""

        def fitness(row: int) -> tuple[bool, int, bool, int, int]:
            instant, mine = self._instant[row], self._number[row]
            if instant > moment:
                return False, -instant, mine == number, -mine, -row
            return True, instant, mine == number, mine, row

        return max(self._rows(node), key=fitness, default=-1)

    def _named_by(self, composition: int) -> array[int]:
        start = self._links_at[composition]
        return array("i") if start < 0 else self._links[start + 1 : start + 1 + self._links[start]]

    def _instant_of(self, composition: int, doses: list[int]) -> int:
        instants = [self._instant[row] for row in doses]
        if self._by_composition or not instants:
            instants.append(self._instant[composition])
        return max(instants)

    # ---------------------------------------------------------------- the documents

    def _in_order(self, found: list[tuple[int, int]], descriptor: int) -> list[tuple[int, int]]:
        """What has one instant, by id and version."""
        if len(found) == 1:
            return found
        names = {row: read_line(self._read(row, descriptor)).id.partition("/")[2] for row, _ in found}
        return sorted(found, key=lambda one: (names[one[0]], self._age(one[0]), one[1]))

    def _document(self, composition: int | None, doses: list[int], descriptor: int) -> Entry:
        rows = [*([] if composition is None else [composition]), *doses]
        parts = [read_part(self._read(row, descriptor)) for row in rows]
        decisive = range(len(rows)) if self._by_composition or len(rows) == 1 else range(1, len(rows))
        newest = max(decisive, key=lambda place: self._instant[rows[place]])
        return write_document(
            parts,
            others=[read_part(self._read(row, descriptor)) for row in self._neighbours(parts, rows[newest])],
            last_updated=parts[newest].last_updated,
            is_document=composition is not None,
        )

    def _neighbours(self, parts: list[Part], newest: int) -> list[int]:
        """What the parts of a document refer to, by kind, as it was when the newest of them came."""
        found: list[int] = []
        for reference in neighbours(parts):
            node = self._nodes.get(_mark(_local(reference)), -1)
            if node < 0 or self._kind[node] in {_IMMUNIZATION, _COMPOSITION}:
                continue
            row = self._fitting(node, self._instant[newest], self._number[newest])
            if row not in found:
                found.append(row)
        return sorted(found, key=lambda row: self._kind[self._node[row]])

    # ---------------------------------------------------------------- the file

    def _write(self, line: bytes) -> tuple[int, int]:
        place = self._size
        self._buffer += line
        self._size += len(line)
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()
        return place, len(line)

    def _flush(self) -> None:
        try:
            with self._path.open("ab") as file:
                file.write(self._buffer)
        except OSError as error:
            raise self._disk_error(error) from error
        self._buffer.clear()

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise self._disk_error(error) from error

    def _read(self, row: int, descriptor: int) -> bytes:
        return os.pread(descriptor, self._bytes[row], self._offset[row])

    def _disk_error(self, error: OSError) -> StorageUnavailable:
        return StorageUnavailable(
            f"Cannot keep resources in {self._path.parent}: {error.strerror or type(error).__name__}. Nothing was published. Make "
            "room on the scratch disk (IMUNIZACAO_SCRATCH_DIR; about 4 GB per million documents that come as separate resources) "
            "and run the task again; see docs/runbook/full-disk.md."
        )


def _local(reference: str) -> str:
    """`Type/id` of a reference of any form, without its version; empty when it names no resource of a server."""
    match = _TAIL.search(reference.partition("/_history/")[0])
    return match[1] if match else ""


def _kind_of(reference: str) -> str:
    return reference.partition("/")[0]


def _mark(reference: str) -> int:
    return int.from_bytes(blake2b(reference.encode(), digest_size=16).digest(), "big")


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
