"""The files of one UF: as its descriptor names them, and as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from imunizacao.verify import forms
from imunizacao.verify.forms import Json, Malformed
from imunizacao.verify.found import Findings, RowFindings
from imunizacao.verify.layout import DOCUMENT, PLACE, RESIDENCE, UFS, is_inside
from imunizacao.verify.readers import Missing, Reader
from imunizacao.verify.schema import Schema
from imunizacao.verify.sums import Keys, RowSum
from imunizacao.verify.tables import Batch, Order, Table

_LAST_DAYLIGHT_SAVING = "2019-02-17"
"""From this day on Brasília's clock is always -03:00, so an instant in the files shows its reference day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileNamed:
    """A CSV as its descriptor names it."""

    path: str
    """Relative to the folder of the UF."""
    bytes: int
    sha256: str
    rows: int


@dataclass(slots=True, kw_only=True)
class UfFiles:
    """A descriptor."""

    uf: str
    key: str
    whole: FileNamed
    municipalities: dict[str, FileNamed]
    residents: FileNamed | None
    parts: dict[str, Json]
    schema: Schema | None = None

    @property
    def folder(self) -> str:
        """Folder of the UF, with its final slash."""
        return self.key.rpartition("/")[0] + "/"

    def all(self) -> list[FileNamed]:
        """Every CSV of the UF."""
        return [self.whole, *self.municipalities.values(), *([self.residents] if self.residents is not None else [])]

    @classmethod
    def read(cls, document: Json, *, uf: str, key: str, day: str, findings: Findings) -> UfFiles | None:
        """Take the descriptor apart. A path that leads elsewhere is a finding and is not followed."""
        initials = UFS[uf].lower()
        parts = {forms.text(node, "path"): node for node in forms.children(document, "rnds:parts")}
        for node in parts.values():
            forms.text(node, "hash", r"sha256:[0-9a-f]{64}")
            forms.count(node, "bytes")
        wholes: list[FileNamed] = []
        residents: list[FileNamed] = []
        municipalities: dict[str, FileNamed] = {}
        names = set()
        for node in forms.children(document, "resources"):
            names.add(forms.text(node, "name"))
            place = node.get("rnds:municipio")
            if place is not None:
                place = forms.text(node, "rnds:municipio", r"[0-9]{6}")
                wanted = f"mun={place}/imunizacao-{place}_{day}.csv"
            elif node.get("rnds:partitionBy") == "residence":
                wanted = f"imunizacao-residentes-{initials}_{day}.csv"
            else:
                wanted = f"imunizacao-total-{initials}_{day}.csv"
            path = forms.text(node, "path")
            if not is_inside(path) or path != wanted:
                findings.add("path", key, "a resource", expected=wanted, found=path)
                continue
            for name, expected in (("schema", "tableschema.json"), ("dialect", "dialect.json"), ("encoding", "utf-8")):
                findings.expect("form", key, f"{name} of {path}", expected=expected, found=node.get(name))
            file = FileNamed(
                path=path,
                bytes=forms.count(node, "bytes"),
                sha256=forms.text(node, "hash", r"sha256:[0-9a-f]{64}").removeprefix("sha256:"),
                rows=forms.count(node, "rnds:rows"),
            )
            if place is not None:
                if place[:2] != uf:
                    findings.add("path", key, "a municipality of another UF", expected=uf, found=place)
                    continue
                municipalities[place] = file
            else:
                (residents if wanted.startswith("imunizacao-residentes") else wholes).append(file)
        findings.expect("form", key, "names of resources", expected=len(document["resources"]), found=len(names))
        findings.expect(
            "form", key, "order of municipalities", expected=sorted(municipalities), found=list(municipalities)
        )
        if len(wholes) != 1 or len(residents) > 1:
            raise Malformed("resources", "one file of the UF, at most one of its residents")
        return cls(
            uf=uf,
            key=key,
            whole=wholes[0],
            municipalities=municipalities,
            residents=residents[0] if residents else None,
            parts=parts,
        )


@dataclass(slots=True)
class Run:
    """The rows of one municipality inside the file of its UF, as a file of their own would be."""

    digest: hashlib._Hash
    rows: int = 0


@dataclass(slots=True, kw_only=True)
class UfSeen:
    """What the file of a UF holds."""

    uf: str
    rows: int = 0
    places: dict[str, Run] = field(default_factory=dict)
    residence: dict[str, RowSum] = field(default_factory=dict)
    """By UF of residence."""
    without_residence: int = 0
    keys: Keys = field(default_factory=Keys)
    filled: dict[str, int] = field(default_factory=dict)


def check_uf(reader: Reader, files: UfFiles, day: str, findings: Findings) -> UfSeen:
    """Read the file of a UF: bytes, form, every cell, places, order, and what its other files must hold."""
    schema, key = _schema(files), files.folder + files.whole.path
    seen, table = UfSeen(uf=files.uf), Table(key, schema)
    names = schema.names
    at = {name: number for number, name in enumerate(names)}
    if not {DOCUMENT, PLACE, RESIDENCE} <= set(at):
        findings.add("form", files.folder + "tableschema.json", "columns", expected=f"{DOCUMENT}, {PLACE}, {RESIDENCE}")
        return seen
    order = Order(table.notes)
    try:
        for batch in table.batches(reader.stream(key), findings):
            documents, places = batch.columns[at[DOCUMENT]], batch.columns[at[PLACE]]
            order.check(list(zip(places, documents, strict=True)), batch.first)
            seen.keys.add(documents)
            _check_places(batch, at, files.uf, day, table.notes)
            _note_runs(seen, batch, places, table.header)
            _note_residence(seen, batch, batch.columns[at[RESIDENCE]])
    except Missing as error:
        findings.add("missing", key, "its descriptor names it", expected="an object", found=error.why)
        return seen
    _compare(table, files.whole, findings)
    inside = seen.keys.repeated()
    if inside:
        findings.add("duplicate-key", key, f"{DOCUMENT} that stand twice in the file", expected=0, found=inside)
    seen.rows = table.rows
    seen.filled = dict(zip(names, table.filled, strict=True))
    return seen


def check_municipality(reader: Reader, files: UfFiles, code: str, run: Run | None, *, findings: Findings) -> None:
    """The file of a municipality must hold the bytes that its rows in the file of the UF make. Only where it does not, it is taken apart."""
    file = files.municipalities[code]
    key = files.folder + file.path
    table = Table(key, _schema(files))
    size, digest = 0, hashlib.sha256()
    try:
        for block in reader.stream(key):
            digest.update(block)
            size += len(block)
        expected = run.digest.hexdigest() if run is not None else ""
        found = digest.hexdigest()
        findings.expect(
            "rows", files.key, f"rows of municipality {code}", expected=file.rows, found=run.rows if run else 0
        )
        if found == expected == file.sha256 and size == file.bytes:
            return
        at = {name: number for number, name in enumerate(table.names)}
        order = Order(table.notes)
        for batch in table.batches(reader.stream(key), findings):
            places = batch.columns[at[PLACE]]
            order.check(list(zip(places, batch.columns[at[DOCUMENT]], strict=True)), batch.first)
            if set(places) != {code}:
                table.notes.add("place", "rows of another municipality", row=batch.first, rows=_others(places, code))
    except Missing as error:
        findings.add("missing", key, "its descriptor names it", expected="an object", found=error.why)
        return
    _compare(table, file, findings)
    if found != expected:
        findings.add(
            "municipalities", key, "not the rows that the file of the UF has for it",
            expected=f"{run.rows if run else 0} rows, sha256 {expected or 'of nothing'}", found=f"{table.rows} rows, sha256 {found}",
        )  # fmt: skip


def check_residents(reader: Reader, files: UfFiles, given: RowSum, *, read: frozenset[str], findings: Findings) -> None:
    """The file of residents must hold exactly the rows that name the UF as residence in the files by establishment.

    `given` sums those of the UFs in `read`; rows of doses given elsewhere are left alone.
    """
    file = files.residents
    if file is None:
        return
    key = files.folder + file.path
    # Cells were looked at in the files by establishment: the sum says that these are the same rows.
    table = Table(key, _schema(files), cells=False)
    at = {name: number for number, name in enumerate(table.names)}
    order = Order(table.notes, f"{RESIDENCE} and {DOCUMENT}")
    found = RowSum()
    try:
        for batch in table.batches(reader.stream(key), findings):
            homes = batch.columns[at[RESIDENCE]]
            order.check(list(zip(homes, batch.columns[at[DOCUMENT]], strict=True)), batch.first)
            if {home[:2] for home in homes} != {files.uf}:
                strange = [number for number, home in enumerate(homes, batch.first) if home[:2] != files.uf]
                table.notes.add("residents", "rows of other residents", row=strange[0], rows=len(strange))
            places = batch.columns[at[PLACE]]
            found.add([line for line, place in zip(batch.lines, places, strict=True) if place[:2] in read])
    except Missing as error:
        findings.add("missing", key, "its descriptor names it", expected="an object", found=error.why)
        return
    _compare(table, file, findings)
    findings.expect("residents", key, "rows given in the UFs that were read", expected=given.rows, found=found.rows)
    if given.rows == found.rows and given != found:
        findings.add(
            "residents", key, "other rows than in the files by establishment", expected="the same", found="others"
        )


def _schema(files: UfFiles) -> Schema:
    if files.schema is None:
        raise AssertionError(f"UF {files.uf} is read only after its schema")
    return files.schema


def _compare(table: Table, named: FileNamed, findings: Findings) -> None:
    findings.expect("bytes", table.key, "size", expected=named.bytes, found=table.bytes)
    findings.expect("sha256", table.key, "hash", expected=named.sha256, found=table.sha256)
    findings.expect("rows", table.key, "rows", expected=named.rows, found=table.rows)


def _check_places(batch: Batch, at: dict[str, int], uf: str, day: str, notes: RowFindings) -> None:
    """Columns that must agree with the UF, the day and one another."""
    columns = batch.columns

    def each(kind: str, name: str, what: str, is_right: dict[str, bool]) -> None:
        if not all(is_right.values()):
            for number, value in enumerate(columns[at[name]], batch.first):
                if not is_right[value]:
                    notes.add(kind, what, row=number)

    each("place", PLACE, f"{PLACE} outside the UF", {value: value[:2] == uf for value in set(columns[at[PLACE]])})
    if "sg_uf_estabelecimento" in at:
        name = "sg_uf_estabelecimento"
        each("place", name, f"{name} of another UF", {value: value == UFS[uf] for value in set(columns[at[name]])})
    if "dt_entrada_rnds" in at and day >= _LAST_DAYLIGHT_SAVING:
        name = "dt_entrada_rnds"
        each(
            "cell", name, f"{name} of another day", {value: value[:10] in {day, ""} for value in set(columns[at[name]])}
        )
    if {"sg_uf_paciente", "st_residente_uf"} <= set(at):
        homes = list(
            zip(columns[at[RESIDENCE]], columns[at["sg_uf_paciente"]], columns[at["st_residente_uf"]], strict=True)
        )
        odd = {home for home in set(homes) if not _agree(*home, uf)}
        if odd:
            for number, home in enumerate(homes, batch.first):
                if home in odd:
                    notes.add(
                        "residents", "municipality and UF of residence, and whether it is this UF, disagree", row=number
                    )


def _agree(municipality: str, initials: str, is_resident: str, uf: str) -> bool:
    if not municipality:
        return not initials and not is_resident
    return UFS.get(municipality[:2]) == initials and is_resident == ("S" if municipality[:2] == uf else "N")


def _note_runs(seen: UfSeen, batch: Batch, places: Sequence[str], header: bytes) -> None:
    start = 0
    for place, rows in groupby(places):
        end = start + sum(1 for _ in rows)
        run = seen.places.get(place)
        if run is None:
            run = seen.places[place] = Run(hashlib.sha256(header + b"\n"))
        run.rows += end - start
        run.digest.update(b"\n".join(batch.lines[start:end]) + b"\n")
        start = end


def _note_residence(seen: UfSeen, batch: Batch, homes: Sequence[str]) -> None:
    seen.without_residence += homes.count("")
    by_uf: dict[str, list[bytes]] = {}
    for home, line in zip(homes, batch.lines, strict=True):
        if home:
            by_uf.setdefault(home[:2], []).append(line)
    for code, lines in by_uf.items():
        seen.residence.setdefault(code, RowSum()).add(lines)


def _others(places: Sequence[str], code: str) -> int:
    return sum(place != code for place in places)
