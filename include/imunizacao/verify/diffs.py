"""The difference that a revision names: its three files, its counts, and that it leads from the rows before to the rows now."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Final

from imunizacao.verify import forms
from imunizacao.verify.applied import Steps, check_applied
from imunizacao.verify.content import Root
from imunizacao.verify.forms import Json, Malformed
from imunizacao.verify.found import Findings
from imunizacao.verify.heads import Entry, Head
from imunizacao.verify.layout import BEFORE, DOCUMENT, GONE, PLACE, UFS
from imunizacao.verify.readers import Missing, Reader
from imunizacao.verify.schema import Column, Schema
from imunizacao.verify.sums import Keys
from imunizacao.verify.tables import Order, Table, header_of

_COUNTS: Final = ("added", "changed", "removed", "movedIn", "movedOut")
_FILES: Final = ("added", "changed", "removed")


def check_diff(
    reader: Reader,
    head: Head,
    entry: Entry,
    *,
    schema: Schema | None,
    roots: dict[str, Root],
    findings: Findings,
    apply: bool = False,
) -> int:
    """Check the diff of one entry; returns the number of files read. `schema` is that of its content, where it is known.

    With `apply` it is applied to the files of the revision before, where both contents are still there.

    Files may be gone when the diff says so (`purgedAt`), or the content on either side was withdrawn and purged.
    """
    diff, key = entry.diff, head.key
    if diff is None or entry.verdict == "gap":
        # The publisher took this revision back: the contract says that nobody uses its difference.
        return 0
    where = f"diff of revision {entry.revision}"
    try:
        path = forms.text(diff, "path")
        named = {name: forms.child(forms.child(diff, "files"), name) for name in _FILES}
        digest = hashlib.sha256()
        for name in _FILES:
            digest.update(f"{name}.csv\0{forms.sha256(named[name], 'sha256')}\n".encode())
        expected = f"v1/days/{head.day}/diff/{entry.supersedes}-{entry.revision}-{digest.hexdigest()}"
        if not findings.expect("path", key, where, expected=expected, found=path):
            return 0
        said = {uf: forms.counts(forms.child(diff, "ufs"), uf) for uf in forms.child(diff, "ufs")}
        if set(said) - set(UFS):
            raise Malformed("diff.ufs", "codes of UFs")
        totals = {name: forms.count(diff, name) for name in _FILES}
    except Malformed as error:
        findings.add("form", key, f"{where}: {error.member}", expected=error.expected)
        return 0
    for name in _FILES:
        found = sum(counts.get(name, 0) for counts in said.values())
        findings.expect("diff", key, f"{where}: {name} by UF", expected=totals[name], found=found)
    _check_against_rows(head, entry, said, roots, findings)
    before = next((old for old in head.history if old.revision == entry.supersedes), None)
    sides = [side for side in (before, entry) if side is not None]
    may_be_gone = "purgedAt" in diff or any(side.path and head.may_be_gone(side.path) for side in sides)
    steps = Steps() if apply else None
    before_it = len(findings)
    try:
        _check_files(reader, path, named, totals, said, schema, steps, findings)
    except Missing as error:
        if not may_be_gone:
            findings.add("missing", error.key, f"{where} names it", expected="an object", found=error.why)
        return 0
    old, new = (roots.get(side.path) if side is not None else None for side in (before, entry))
    if steps is not None and before is not None and old is not None and new is not None and len(findings) == before_it:
        check_applied(reader, head, path, (before, entry), (old, new), steps, findings)
    return len(_FILES)


def _check_against_rows(
    head: Head, entry: Entry, said: dict[str, dict[str, int]], roots: dict[str, Root], findings: Findings
) -> None:
    """Rows now = rows before + added − removed + moved in − moved out, for every UF whose rows were never taken away."""
    before = next((old.path for old in head.history if old.revision == entry.supersedes), "")
    old, new = roots.get(before), roots.get(entry.path)
    if old is None or new is None:
        return
    for code in (old.ufs.keys() & new.ufs.keys()) - head.once_withdrawn:
        counts = said.get(code, {})
        steps = {name: counts.get(name, 0) for name in _COUNTS}
        found = old.ufs[code].rows + steps["added"] - steps["removed"] + steps["movedIn"] - steps["movedOut"]
        what = f"rows of UF {code} by the diff of revision {entry.revision}"
        findings.expect("diff", head.key, what, expected=new.ufs[code].rows, found=found)


def _check_files(
    reader: Reader,
    path: str,
    named: dict[str, Json],
    totals: dict[str, int],
    said: dict[str, dict[str, int]],
    schema: Schema | None,
    steps: Steps | None,
    findings: Findings,
) -> None:
    found: dict[str, Counter[str]] = {}
    keys = Keys()
    doses = schema
    for name in _FILES:
        key = f"{path}/{name}.csv"
        columns = _schema_of(name, doses if doses is not None else header_of(reader, key))
        if name == "added" and doses is None:
            # The contract of an older revision is what its first file says.
            doses = columns
        if not {DOCUMENT, PLACE} <= set(columns.names):
            findings.add("header", key, "columns", expected=f"{DOCUMENT} and {PLACE}")
            continue
        table = Table(key, columns)
        order = Order(table.notes)
        place, document = columns.names.index(PLACE), columns.names.index(DOCUMENT)
        old = columns.names.index(BEFORE[0]) if name == "changed" else place
        for batch in table.batches(reader.stream(key), findings):
            places, documents = batch.columns[place], batch.columns[document]
            order.check(list(zip(places, documents, strict=True)), batch.first)
            keys.add(documents)
            if steps is not None and name != "added":
                steps.leave(batch.columns[old], documents)
            if steps is not None and name != "removed":
                # The two last columns of changed.csv are not of the file of doses.
                own = batch.lines if name == "added" else [line.rsplit(b";", 2)[0] for line in batch.lines]
                steps.come(places, own)
            for (here, there), rows in Counter(zip(places, batch.columns[old], strict=True)).items():
                found.setdefault(here[:2], Counter())[name] += rows
                if here[:2] != there[:2]:
                    found[here[:2]]["movedIn"] += rows
                    found.setdefault(there[:2], Counter())["movedOut"] += rows
        findings.expect("bytes", key, "size", expected=named[name].get("bytes"), found=table.bytes)
        findings.expect("sha256", key, "hash", expected=named[name]["sha256"], found=table.sha256)
        findings.expect("diff", key, "rows", expected=totals[name], found=table.rows)
    findings.expect("duplicate-key", path, f"{DOCUMENT} in more than one place", expected=0, found=keys.repeated())
    for code in sorted(found.keys() | said.keys()):
        for name in _COUNTS:
            expected = said.get(code, {}).get(name, 0)
            findings.expect(
                "diff", path, f"{name} of UF {code}", expected=expected, found=found.get(code, Counter())[name]
            )


def _schema_of(name: str, doses: Schema) -> Schema:
    """Columns of a file of a diff; those of doses are judged by the schema of their contract."""
    if name == "added":
        return doses
    if name == "removed":
        return Schema(columns=tuple(Column(name=column, tests=()) for column in GONE))
    names = doses.names
    more = tuple(Column(name=column, tests=()) for column in BEFORE if column not in names)
    return Schema(columns=(*doses.columns, *more))
