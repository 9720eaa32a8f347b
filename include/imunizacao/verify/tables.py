"""A CSV as it streams by: its bytes, its form, its rows in batches, its cells. Memory is that of one batch.

Work is done column by column over a few hundred rows, because most columns have few different values: each of them is looked at once.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from operator import lt
from typing import Final

from imunizacao.verify.found import Findings, RowFindings
from imunizacao.verify.layout import DOCUMENT, FORMULA_STARTS, TEXT_COLUMNS
from imunizacao.verify.readers import Reader
from imunizacao.verify.schema import Column, Schema

_BOM: Final = b"\xef\xbb\xbf"
_LONGEST_LINE: Final = 1 << 20
_REMEMBERED: Final = 4096
"""Good values of a column that are not looked at again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows that have the right form."""

    first: int
    """Number of the first row, from 1. Exact while the file is sound."""
    lines: Sequence[bytes]
    """Without their line breaks."""
    columns: Sequence[Sequence[str]]


class Table:
    """Reads one file once. `batches` must be read to its end; then `rows`, `bytes`, `sha256`, `filled` are known."""

    def __init__(self, key: str, schema: Schema, *, cells: bool = True) -> None:
        self.key, self._schema, self._cells = key, schema, cells
        self.rows = 0
        self.bytes = 0
        self.header = b""
        """First line as it is, without a BOM."""
        self.notes = RowFindings(key)
        self.filled = [0] * len(schema.columns)
        self._digest = hashlib.sha256()
        self._good: list[set[str]] = [set() for _ in schema.columns]

    @property
    def names(self) -> tuple[str, ...]:
        """Columns."""
        return self._schema.names

    @property
    def sha256(self) -> str:
        """Of the bytes that have been read."""
        return self._digest.hexdigest()

    def batches(self, blocks: Iterator[bytes], findings: Findings) -> Iterator[Batch]:
        """Rows in batches; what is wrong with them goes to `findings` at the end."""
        header_seen = False
        for lines in self._lines(blocks):
            if not header_seen:
                header_seen = True
                self._check_header(lines.pop(0), findings)
            batch = self._batch(lines)
            if batch is not None:
                yield batch
        if not header_seen:
            findings.add("header", self.key, "the file is empty", expected="a header", found="nothing")
        self.notes.close(findings)

    def _lines(self, blocks: Iterator[bytes]) -> Iterator[list[bytes]]:
        rest = b""
        for block in blocks:
            self._digest.update(block)
            self.bytes += len(block)
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            if lines:
                yield lines
            if len(rest) > _LONGEST_LINE:
                self.notes.add("fields", "a line longer than a megabyte: the rest was not read", row=self.rows + 1)
                rest = b""
                for more in blocks:
                    self._digest.update(more)
                    self.bytes += len(more)
        if rest:
            self.notes.add("line-end", "the last line has no line break", row=self.rows + 1)
            yield [rest]

    def _check_header(self, line: bytes, findings: Findings) -> None:
        if line.startswith(_BOM):
            findings.add("bom", self.key, "the file starts with a byte order mark", expected="UTF-8 without BOM")
            line = line.removeprefix(_BOM)
        if line.endswith(b"\r"):
            findings.add("line-end", self.key, "the header ends with CR LF", expected="LF")
            line = line.removesuffix(b"\r")
        self.header = line
        wanted = header_line(self._schema.names)
        if line == wanted:
            return
        names = line.replace(b'"', b"").decode(errors="replace").split(";")
        # The names that were found are not told: where the header is lacking they are values of a row.
        known = [name for name in names if name in self._schema.names]
        findings.add(
            "header",
            self.key,
            "the header is not that of the schema",
            expected=f"{len(self._schema.names)} quoted names in their order",
            found=f"{len(names)} names, {len(known)} of them known",
        )

    def _batch(self, lines: list[bytes]) -> Batch | None:
        if not lines:
            return None
        first = self.rows + 1
        self.rows += len(lines)
        try:
            text = b"\n".join(lines).decode()
        except UnicodeDecodeError:
            for number, line in enumerate(lines, first):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    self.notes.add("encoding", "not UTF-8", row=number)
            text = b"\n".join(lines).decode(errors="replace")
        texts = text.split("\n")
        rows = self._rows(texts)
        if rows is None:
            rows, lines = self._rows_one_by_one(texts, lines, first)
        if not rows:
            return None
        columns = list(zip(*rows, strict=True))
        filled = [len(rows) - column.count("") for column in columns]
        if not _is_canonical(texts, text, rows, sum(filled)):
            self._find_odd_rows(texts, first)
        self.filled = [before + now for before, now in zip(self.filled, filled, strict=True)]
        if self._cells:
            self._check_cells(columns, first)
        return Batch(first=first, lines=lines, columns=columns)

    def _rows(self, texts: list[str]) -> list[list[str]] | None:
        """All rows, when every line is a row with the right number of fields."""
        try:
            rows = list(csv.reader(texts, delimiter=";", strict=True))
        except csv.Error:
            return None
        if len(rows) != len(texts) or set(map(len, rows)) != {len(self._schema.columns)}:
            return None
        return rows

    def _rows_one_by_one(self, texts: list[str], lines: list[bytes], first: int) -> tuple[list[list[str]], list[bytes]]:
        rows: list[list[str]] = []
        kept: list[bytes] = []
        wanted = len(self._schema.columns)
        for number, (text, line) in enumerate(zip(texts, lines, strict=True), first):
            try:
                row = next(csv.reader([text], delimiter=";", strict=True), [])
            except csv.Error:
                self.notes.add("dialect", "no row of CSV: a quote is open, or stands where none may stand", row=number)
                continue
            if len(row) != wanted:
                found = "more" if len(row) > wanted else "fewer"
                self.notes.add("fields", f"{found} fields than columns", row=number, expected=f"{wanted} fields")
                continue
            rows.append(row)
            kept.append(line)
        return rows, kept

    def _find_odd_rows(self, texts: list[str], first: int) -> None:
        for number, text in enumerate(texts, first):
            try:
                row = next(csv.reader([text], delimiter=";", strict=True), [])
            except csv.Error:
                continue
            if text == canonical(row) and "\r" not in text:
                continue
            if text.endswith("\r"):
                self.notes.add("line-end", "the line ends with CR LF", row=number, expected="LF")
            elif "\r" in text:
                self.notes.add("line-end", "a line break inside a value", row=number)
            else:
                self.notes.add(
                    "dialect", "quotes are not as promised", row=number, expected="every value quoted, null empty"
                )

    def _check_cells(self, columns: Sequence[Sequence[str]], first: int) -> None:
        for column, values, good in zip(self._schema.columns, columns, self._good, strict=True):
            if not column.tests:
                continue
            new = set(values) - good
            bad = {value: label for value in new if (label := column.broken(value))}
            if bad:
                for offset, value in enumerate(values):
                    if value in bad:
                        formula = column.name in TEXT_COLUMNS and value.startswith(FORMULA_STARTS)
                        self.notes.add(
                            "formula" if formula else "cell",
                            f"a value of {column.name} is not what the schema allows",
                            row=first + offset,
                            expected=bad[value],
                        )
            if len(good) < _REMEMBERED:
                good.update(new - bad.keys())


class Order:
    """Rows must be in the order of their keys, each key once."""

    def __init__(self, notes: RowFindings, what: str = f"municipality and {DOCUMENT}") -> None:
        self._notes, self._what = notes, what
        self._last: tuple[str, ...] | None = None

    def check(self, keys: list[tuple[str, ...]], first: int) -> None:
        """Go on with the keys of the next rows."""
        if not keys:
            return
        chained = keys if self._last is None else [self._last, *keys]
        if not all(map(lt, chained, chained[1:])):
            shift = first + 1 if self._last is None else first
            for number, (before, after) in enumerate(pairwise(chained), shift):
                if before == after:
                    self._notes.add("duplicate-key", f"the same {self._what} as the row before", row=number)
                elif after < before:
                    self._notes.add("order", f"out of order by {self._what}", row=number)
        self._last = keys[-1]


def header_of(reader: Reader, key: str) -> Schema:
    """Columns as the header names them, without tests."""
    first = b""
    for block in reader.stream(key):
        first += block
        if b"\n" in first or len(first) > _LONGEST_LINE:
            break
    line = first.partition(b"\n")[0].decode(errors="replace")
    try:
        names = next(csv.reader([line], delimiter=";", strict=True), [])
    except csv.Error:
        names = []
    return Schema(columns=tuple(Column(name=name, tests=()) for name in names))


def header_line(names: Sequence[str]) -> bytes:
    """First line of a file, without its line break."""
    return canonical(names).encode()


def canonical(row: Sequence[str]) -> str:
    """A row as the contract writes it, without its line break."""
    return ";".join('"' + value.replace('"', '""') + '"' if value else "" for value in row)


def _is_canonical(texts: list[str], text: str, rows: list[list[str]], filled: int) -> bool:
    """Whether all lines are as the contract writes them, without a CR anywhere. `filled` counts the values that are not empty.

    Of lines without doubled quotes it is enough to compare the length of all together: `csv` has refused anything around quotes, so a
    value without them can only make the text shorter. The few others are written again and compared.
    """
    if "\r" in text or len(rows) != len(texts):
        return False
    if '""' in text:
        doubled = [number for number, line in enumerate(texts) if '""' in line]
        if any(texts[number] != canonical(rows[number]) for number in doubled):
            return False
        others = sorted(set(range(len(texts))) - set(doubled))
        texts, rows = [texts[number] for number in others], [rows[number] for number in others]
        filled = sum(len(row) - row.count("") for row in rows)
    values = len("".join(chain.from_iterable(rows)))
    separators = sum(map(len, rows)) - len(rows)
    return sum(map(len, texts)) == values + 2 * filled + separators
