"""A difference applied: rows of the revision before, without those that leave, with those that come, are the rows of the revision.

One UF at a time. Of the difference 8 bytes per row stay in memory, of the files a sum that does not depend on the order of their rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from imunizacao.verify.content import Root, fetch_json
from imunizacao.verify.files import UfFiles
from imunizacao.verify.forms import Malformed
from imunizacao.verify.found import Findings
from imunizacao.verify.heads import Entry, Head
from imunizacao.verify.layout import DOCUMENT
from imunizacao.verify.readers import Missing, Reader
from imunizacao.verify.sums import MASK, RowSum
from imunizacao.verify.tables import Batch, Table, header_of


class Steps:
    """What a difference does to the file of each UF."""

    def __init__(self) -> None:
        self._gone: dict[str, array[int]] = {}
        self._come: dict[str, RowSum] = {}

    def leave(self, places: Sequence[str], documents: Sequence[str]) -> None:
        """Rows of these documents leave the files of these municipalities."""
        for place, document in zip(places, documents, strict=True):
            self._gone.setdefault(place[:2], array("Q")).append(hash(document) & MASK)

    def come(self, places: Sequence[str], lines: Sequence[bytes]) -> None:
        """These rows come into the files of these municipalities."""
        for place, line in zip(places, lines, strict=True):
            self._come.setdefault(place[:2], RowSum()).add([line])

    def gone(self, uf: str) -> set[int]:
        """Hashes of the documents that leave a UF."""
        return set(self._gone.get(uf, ()))

    def coming(self, uf: str) -> RowSum:
        """Sum of the rows that come into a UF."""
        return self._come.get(uf, RowSum())

    def touch(self, uf: str) -> bool:
        """Whether anything happens to a UF."""
        return uf in self._gone or uf in self._come


def check_applied(
    reader: Reader,
    head: Head,
    path: str,
    sides: tuple[Entry, Entry],
    roots: tuple[Root, Root],
    steps: Steps,
    findings: Findings,
) -> None:
    """Apply the difference `path` between two revisions, UF by UF; those that were ever withdrawn on the day are left out.

    A content that may be gone may be gone in the middle of it. What is wrong with the files of the present revision is told elsewhere.
    """
    old, new = roots
    for code in sorted((old.ufs.keys() & new.ufs.keys()) - head.once_withdrawn):
        if old.ufs[code] == new.ufs[code] and not steps.touch(code):
            continue
        mine = [Findings(), Findings()]
        try:
            files = [_describe(reader, root, code, notes) for root, notes in zip(roots, mine, strict=True)]
            if files[0] is not None and files[1] is not None and not any(map(len, mine)):
                _apply(reader, path, (files[0], files[1]), steps, mine, findings)
        except Missing as error:
            side = sides[0] if error.key.startswith(old.folder) else sides[1]
            mine[side is sides[1]].add(
                "missing", error.key, "its descriptor names it", expected="an object", found=error.why
            )
        for side, notes in zip(sides, mine, strict=True):
            if side.path != head.history[-1].path and not head.may_be_gone(side.path):
                findings.take(notes)


def _describe(reader: Reader, root: Root, code: str, findings: Findings) -> UfFiles | None:
    uf = root.ufs[code]
    key = root.folder + uf.path
    document = fetch_json(reader, key, {"sha256": uf.sha256, "bytes": uf.bytes}, findings)
    if document is None:
        return None
    try:
        return UfFiles.read(document, uf=code, key=key, day=root.day, findings=findings)
    except Malformed as error:
        findings.add("form", key, error.member, expected=error.expected)
        return None


def _apply(
    reader: Reader,
    path: str,
    files: tuple[UfFiles, UfFiles],
    steps: Steps,
    mine: Sequence[Findings],
    findings: Findings,
) -> None:
    old, new = files
    before, after = (
        Table(one.folder + one.whole.path, header_of(reader, one.folder + one.whole.path), cells=False) for one in files
    )
    if DOCUMENT not in before.names:
        mine[0].add("header", before.key, "columns", expected=DOCUMENT)
        return
    # Columns that are new at the end are empty in rows that the difference does not name; between other columns it names every row.
    grown = after.names[: len(before.names)] == before.names
    more = b";" * (len(after.names) - len(before.names)) if grown else b""
    at, gone, left = before.names.index(DOCUMENT), steps.gone(old.uf), 0
    result, wanted = RowSum(), RowSum()
    for batch in _batches(reader, before, old, mine[0]):
        kept = [
            line + more
            for line, document in zip(batch.lines, batch.columns[at], strict=True)
            if hash(document) & MASK not in gone
        ]
        left += len(batch.lines) - len(kept)
        result.add(kept)
    for batch in _batches(reader, after, new, mine[1]):
        wanted.add(batch.lines)
    if any(map(len, mine)):
        return
    findings.expect("diff", path, f"rows that leave UF {old.uf} and were there", expected=len(gone), found=left)
    result.take(steps.coming(old.uf))
    what = f"rows of UF {old.uf} of the revision before with this difference"
    if findings.expect("diff", path, what, expected=wanted.rows, found=result.rows) and result != wanted:
        findings.add("diff", path, what, expected="those of the revision", found="others")


def _batches(reader: Reader, table: Table, files: UfFiles, findings: Findings) -> Iterator[Batch]:
    """All rows, then whether these were the bytes that the descriptor names."""
    yield from table.batches(reader.stream(table.key), findings)
    findings.expect("sha256", table.key, "hash", expected=files.whole.sha256, found=table.sha256)
