"""What all reference tables share: scratch space, hashes, reading and comparing small tables."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import msgspec

from imunizacao.controle import Change, Difference, Snapshot
from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.settings import EngineSettings
from imunizacao.storage import file_sha256

Row = dict[str, str]
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
"""As in the macro `texto`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableImport:
    """What an import of a small table found: municipalities of the IBGE, or one code table of the PNI."""

    kind: str
    name: str
    """Table of the PNI without `pni_`; empty for the IBGE."""
    version: str
    sha256: str
    """Of the file as received."""
    origin: str
    rows: int
    active: int
    stored: bool
    """False without a connection, and for a file that was imported before."""
    previous: str | None
    """Version compared with: of the last snapshot, or `project` for the table that the project carries."""
    difference: Difference | None
    """Against `previous`; None where nothing new was stored."""

    def to_json(self) -> str:
        """Text for logs and XCom: counts only."""
        return msgspec.json.encode(self).decode()


def require_same_validity(stored: Snapshot, valid_from: date | None) -> None:
    """Refuse to find a file that was imported before with another date than is given now: a snapshot never changes."""
    if valid_from is not None and stored.valid_from != valid_from:
        before = f"in force from {stored.valid_from}" if stored.valid_from else "without a date"
        raise ConfigurationError(
            f"{stored.origin} was imported before as {stored.kind.upper()} {stored.version} (#{stored.id}), {before}, now it is said to be "
            f"in force from {valid_from}. Nothing was stored. Delete that snapshot first; see docs/runbook/reference-import.md."
        )


@contextmanager
def scratch(engine: EngineSettings | None) -> Iterator[tuple[EngineSettings, Path]]:
    """A folder for the block, and the settings of an engine in it."""
    settings = engine or EngineSettings()
    folder = Path(tempfile.mkdtemp(prefix="reference-", dir=settings.scratch_dir))
    try:
        yield settings, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def local_file(source: Path | bytes, file_name: str, folder: Path) -> tuple[Path, str]:
    """A source as a file that is there, and the name that it came with."""
    if isinstance(source, Path):
        if not source.is_file():
            raise ConfigurationError(f"Reference file {source} is not there. Give the path of the file to import.")
        return source, file_name or source.name
    path = folder / "source"
    path.write_bytes(source)
    return path, file_name or path.name


def files_sha256(paths: Sequence[Path]) -> str:
    """sha256 over names and contents."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{file_sha256(path)}\0".encode())
    return digest.hexdigest()


def content_id(*hashes: str) -> str:
    """Short name of several hashes together."""
    return hashlib.sha256("\0".join(hashes).encode()).hexdigest()[:12]


def read_table(path: Path) -> list[Row]:
    """Rows of a small table of the project; a line with other columns than the header is a `ContractViolation`."""
    try:
        return _rows(path.read_text(encoding="utf-8"), ",", path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise ContractViolation(
            f"Reference table {path.name} cannot be read ({type(error).__name__}). Restore it as in include/reference/SOURCES.md."
        ) from error


def read_given_table(path: Path, name: str) -> list[Row]:
    """Rows of a small table that somebody saved: UTF-8 or a Windows encoding, `,` or `;` between columns."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        if "\ufffd" in text:
            text = content.decode("latin-1")
    first = text.split("\n", 1)[0]
    return _rows(text, ";" if first.count(";") > first.count(",") else ",", name)


def clean_text(text: str) -> str:
    """A text as flatten cleans those of documents: control characters and line breaks are a blank, outer blanks go.

    A line break in a name would reach every file, where one line is one row.
    """
    return _CONTROL.sub(" ", text).strip()


def _rows(text: str, delimiter: str, name: str) -> list[Row]:
    try:
        header, *lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)) or [[]]
    except csv.Error as error:
        raise ContractViolation(
            f"Reference table {name} is no CSV ({error}). Restore it, or save it as CSV again."
        ) from error
    odd = [number for number, line in enumerate(lines, 2) if len(line) != len(header)]
    if odd:
        raise ContractViolation(
            f"Reference table {name} has other columns than its header in line {some(odd)}. Restore it."
        )
    repeated = [column for column, count in Counter(header).items() if count > 1]
    if repeated:
        raise ContractViolation(f"Reference table {name} has column {some(repeated)} twice. Restore it.")
    return [dict(zip(header, line, strict=True)) for line in lines]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]], *, header: bool) -> None:
    """Write a CSV as the project's own tables are: UTF-8, `,`, LF; without a header and all quoted, as `store_snapshot` takes it."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_MINIMAL if header else csv.QUOTE_ALL)
        if header:
            writer.writerow(columns)
        writer.writerows(rows)


def read_stored(path: Path, columns: Sequence[str]) -> list[Row]:
    """Rows of a CSV without header, as `write_snapshot` writes it."""
    with path.open(encoding="utf-8", newline="") as file:
        return [dict(zip(columns, line, strict=True)) for line in csv.reader(file, strict=True)]


def compare_rows(
    before: Mapping[str, Row], after: Mapping[str, Row], *, label: str, place: str = "", active: str = "st_ativo"
) -> list[Change]:
    """Each change between two versions of a small table, by kind and code. `label` is the column to show, `place` moves a row."""
    found = [
        Change(code=code, change="added", before=None, after=after[code][label])
        for code in after.keys() - before.keys()
    ]
    found += [
        Change(code=code, change="gone", before=before[code][label], after=None)
        for code in before.keys() - after.keys()
    ]
    for code in before.keys() & after.keys():
        old, new = before[code], after[code]
        if place and old[place] != new[place]:
            found.append(Change(code=code, change="moved", before=old[place], after=new[place]))
        if (old.get(active), new.get(active)) in {("S", "N"), ("N", "S")}:
            change = "closed" if new[active] == "N" else "reopened"
            found.append(Change(code=code, change=change, before=old[label], after=new[label]))
        for column in [label, *(name for name in new if name not in {label, place, active})]:
            if old.get(column) != new[column]:
                found.append(Change(code=code, change="renamed", before=old.get(column), after=new[column]))
                break
    return sorted(found, key=lambda change: (change.change, change.code))


def count_changes(changes: Iterable[Change]) -> Difference:
    """How many of each kind."""
    return Difference(**Counter(change.change for change in changes))


def some(values: Sequence[object]) -> str:
    """The first five, and how many more."""
    shown = ", ".join(str(value) for value in values[:5])
    return f"{shown} and {len(values) - 5} more" if len(values) > 5 else shown
