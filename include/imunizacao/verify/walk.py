"""From the catalog down: months, days, and whether what was derived agrees with what it was derived from."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imunizacao.errors import ConfigurationError, StorageUnavailable
from imunizacao.verify import forms
from imunizacao.verify.bulk import check_bulk
from imunizacao.verify.content import SMALL, Root, fetch
from imunizacao.verify.day import Checked, DayCheck
from imunizacao.verify.dcat import check_dcat
from imunizacao.verify.forms import Json, Malformed
from imunizacao.verify.found import Findings
from imunizacao.verify.heads import Head
from imunizacao.verify.layout import CATALOG, DCAT, KEYS, UFS, bulk_key, head_key, month_key
from imunizacao.verify.readers import Missing, Reader, TooLarge, read_small
from imunizacao.verify.report import DayReport, Report
from imunizacao.verify.signatures import Keys, load_keys

Progress = Callable[[DayReport], None]
WAITS: Final = (1.0, 3.0, 8.0)
"""Seconds between looks at an index that does not agree with its heads: it is written after them, and a cache may keep it for ten."""
_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What to verify: one day, one month, or (both empty) everything."""

    day: str = ""
    month: str = ""

    def __post_init__(self) -> None:
        if self.day and not forms.is_day(self.day):
            raise ConfigurationError(f"{self.day!r} is no day. Write it as YYYY-MM-DD.")
        if self.month and not _MONTH.fullmatch(self.month):
            raise ConfigurationError(f"{self.month!r} is no month. Write it as YYYY-MM.")

    def months(self, named: Sequence[str]) -> list[str]:
        """Months to look at, of those that the catalog names."""
        asked = self.day[:7] or self.month
        return [asked] if asked else list(named)

    def days(self, month: str) -> list[str]:
        """Days of the calendar in a month, of those asked for."""
        if self.day:
            return [self.day]
        last = calendar.monthrange(int(month[:4]), int(month[5:]))[1]
        return [f"{month}-{number:02d}" for number in range(1, last + 1)]


def verify_bucket(
    reader: Reader,
    *,
    selection: Selection = Selection(),
    ufs: Sequence[str] = (),
    keys: Sequence[Path] = (),
    require_signature: bool = False,
    thorough: bool = False,
    jobs: int = 4,
    waits: Sequence[float] = WAITS,
    sleep: Callable[[float], None] = time.sleep,
    progress: Progress | None = None,
) -> Report:
    """Check everything that a reader of the bucket may rely on, by GETs alone, and report what is not so.

    From `v1/catalog.json` over month index and head to day.json, descriptors and files: sizes, hashes, form and every cell of the
    CSVs, order and uniqueness of keys, sums of municipalities, UFs and residents, the content id, accounts, history, diffs, signatures,
    withdrawals. `ufs` (IBGE codes) reads only those: sums of the whole day are then left out, and the report says so. `keys` are
    files with public keys to believe; without them the bucket's own index is believed. With `require_signature` an unsigned day is a finding. `thorough` applies
    every difference of the history to the files of the revision before it, where both are still there: all revisions are read then.

    A head that moves meanwhile is read again; an index that lags behind its heads is looked at again after each of `waits` seconds. Days
    without a head between published ones are reported as pending. Memory is that of a few batches of rows and 8 bytes per row of the
    largest day, whatever the size of the bucket; nothing is written. When the bucket stops answering, the report says what was reached
    (`unreachable`). Raises `StorageUnavailable` when not even the catalog can be read, `ConfigurationError` for a key that is none.
    """
    unknown = sorted(set(ufs) - set(UFS))
    if unknown:
        raise ConfigurationError(
            f"{', '.join(unknown)} is no IBGE code of a UF. The Federal District is 53, São Paulo 35."
        )
    report = Report(address=reader.address)
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        walk = _Walk(reader=reader, report=report, waits=tuple(waits) if reader.moves else (), sleep=sleep)
        catalog = walk.catalog(selection)
        known = walk.keys(catalog, keys)
        if require_signature and not known.library:
            raise ConfigurationError(
                "--require-signature needs the Python package cryptography: pip install cryptography."
            )
        walk.days = DayCheck(
            reader=reader,
            pool=pool,
            keys=known,
            ufs=tuple(ufs),
            require_signature=require_signature,
            thorough=thorough,
            sleep=sleep,
        )
        try:
            walk.run(selection, catalog, progress or (lambda day: None))
        except StorageUnavailable as error:
            report.unreachable = str(error)
    report.notes += known.notes
    used = {day.signed_by for day in report.days if day.signed_by}
    for key in known.known.values():
        if key.key_id in used and not key.given:
            report.notes.append(
                f"key {key.key_id} was taken from the bucket itself (trust on first use). Compare its fingerprint, sha256 "
                f"{key.fingerprint}, with one that you got from the publisher in another way, or give the key with --key."
            )
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Catalog:
    months: dict[str, Json]
    keys: str


@dataclass(kw_only=True)
class _Walk:
    reader: Reader
    report: Report
    waits: tuple[float, ...]
    sleep: Callable[[float], None]
    days: DayCheck = field(init=False)

    # --- catalog and keys --------------------------------------------------------------------------

    def catalog(self, selection: Selection) -> _Catalog:
        """Read the catalog; without one, a day or month that was asked for can still be found by its address."""
        nothing = _Catalog(months={}, keys="")
        try:
            body = read_small(self.reader, CATALOG, most=SMALL)
        except Missing as error:
            if not selection.day and not selection.month:
                raise StorageUnavailable(
                    f"There is no {CATALOG} at {self.reader.address} ({error.why}): nothing was published there yet, the address is another "
                    "one, or it may not be read without a key. Check the address in a browser. See docs/runbook/verify-findings.md."
                ) from None
            self.report.findings.add("missing", CATALOG, "where a reader starts", expected="an object", found=error.why)
            return nothing
        except TooLarge:
            self.report.findings.add("catalog", CATALOG, "larger than any catalog")
            return nothing
        findings = self.report.findings
        try:
            document = forms.parse(body)
            findings.expect("catalog", CATALOG, "schema", expected="imunizacao.catalog/1", found=document.get("schema"))
            rows = forms.children(document, "months")
            months = {forms.text(row, "month", _MONTH.pattern): row for row in rows}
            findings.expect(
                "catalog",
                CATALOG,
                "months in order, each once",
                expected=sorted(months),
                found=[row["month"] for row in rows],
            )
            for month, row in months.items():
                findings.expect("path", CATALOG, f"index of {month}", expected=month_key(month), found=row.get("path"))
            totals = forms.child(document, "totals")
            for name in ("days", "rows", "residents"):
                found = sum(_number(row, name) for row in rows)
                findings.expect("catalog", CATALOG, f"total of {name}", expected=_number(totals, name), found=found)
            self._check_operations(document)
            self._check_dictionary(document)
            keys = forms.text(document, "keys") if "keys" in document else ""
        except Malformed as error:
            findings.add("catalog", CATALOG, error.member, expected=error.expected)
            return nothing
        if keys and not findings.expect("path", CATALOG, "keys", expected=KEYS, found=keys):
            keys = ""
        return _Catalog(months=months, keys=keys)

    def _check_operations(self, document: Json) -> None:
        """All UFs are offered, by their names."""
        names = [
            (forms.text(node, "slug"), node.get("title"), node.get("uf"), node.get("sg_uf"))
            for node in forms.children(document, "operations")
        ]
        views = [
            "total",
            *(["residentes"] if any(slug.startswith("imunizacao-residentes-") for slug, *_ in names) else []),
        ]
        wanted = [
            (f"imunizacao-{view}-{sg_uf.lower()}", f"imunização-{view}-{sg_uf.lower()}", uf, sg_uf)
            for view in views
            for uf, sg_uf in UFS.items()
        ]
        wrong = set(wanted).symmetric_difference(names)
        self.report.findings.expect(
            "catalog", CATALOG, "operations that lack or are unknown", expected=0, found=len(wrong)
        )

    def _check_dictionary(self, document: Json) -> None:
        if "dictionary" in document:
            named = forms.child(document, "dictionary")
            path = forms.text(named, "path")
            if re.fullmatch(r"v1/dados/dicionario-[0-9.]+-[0-9a-f]{12}\.html", path):
                fetch(self.reader, path, named, self.report.findings)
            else:
                self.report.findings.add(
                    "path", CATALOG, "dictionary", expected="v1/dados/dicionario-….html", found=path
                )

    def keys(self, catalog: _Catalog, given: Sequence[Path]) -> Keys:
        """The keys to believe."""
        index = None
        if catalog.keys:
            try:
                index = forms.parse(read_small(self.reader, KEYS, most=SMALL))
            except Missing as error:
                self.report.findings.add("missing", KEYS, "the catalog names it", expected="an object", found=error.why)
            except (Malformed, TooLarge) as error:
                self.report.findings.add("key", KEYS, "the index of the keys", expected="JSON", found=str(error))
        return load_keys(self.reader, index, given, self.report.findings)

    # --- months and days ---------------------------------------------------------------------------

    def run(self, selection: Selection, catalog: _Catalog, progress: Progress) -> None:
        """Check months in order, then how the catalog is described elsewhere."""
        for month in selection.months(list(catalog.months)):
            rows = self._index(month, Findings())
            listed = set(rows or {})
            checked: dict[str, Checked] = {}
            for day in selection.days(month):
                done = self.days.run(day)
                if done.report.state != "pending" or day in listed or selection.day:
                    checked[day] = done
                    progress(done.report)
            bounds = sorted([*checked, *([f"{month}-00"] if any(other < month for other in catalog.months) else [])])
            end = f"{month}-99" if any(other > month for other in catalog.months) else bounds[-1] if bounds else ""
            pending = [day for day in selection.days(month) if bounds and bounds[0] < day < end and day not in checked]
            for day in pending:
                checked[day] = Checked(report=DayReport(day=day, state="pending"))
            self.report.days += [checked[day].report for day in sorted(checked)]
            self._compare(month, checked, catalog, whole=not selection.day)
        if catalog.months:
            self._dcat()

    def _index(self, month: str, findings: Findings) -> dict[str, Json] | None:
        """Rows of a month index by day; None when there is none that can be followed."""
        key = month_key(month)
        try:
            document = forms.parse(read_small(self.reader, key, most=SMALL))
            findings.expect("month-index", key, "schema", expected="imunizacao.month/1", found=document.get("schema"))
            findings.expect("month-index", key, "month", expected=month, found=document.get("month"))
            rows = forms.children(document, "days")
            by_day = {forms.text(row, "day"): row for row in rows}
        except Missing as error:
            findings.add("missing", key, "the index of a month with heads", expected="an object", found=error.why)
            return None
        except Malformed as error:
            findings.add("month-index", key, error.member, expected=error.expected)
            return None
        except TooLarge:
            findings.add("month-index", key, "larger than any index")
            return None
        findings.expect(
            "month-index", key, "days in order, each once", expected=sorted(by_day), found=[row["day"] for row in rows]
        )
        strange = [day for day in by_day if not forms.is_day(day) or day[:7] != month]
        findings.expect("month-index", key, "days of another month", expected=0, found=len(strange))
        return by_day

    def _compare(self, month: str, checked: dict[str, Checked], catalog: _Catalog, *, whole: bool) -> None:
        """Index against heads, catalog against index; both are written after the heads, so they get a moment."""
        heads = {day: one for day, one in checked.items() if one.head is not None}
        for wait in (*self.waits, None):
            findings = Findings()
            index = self._index(month, findings) if heads or month in catalog.months else {}
            if index is not None:
                self._compare_index(month, index, checked, findings, whole=whole)
                has_bulk = self._compare_bulk(month, checked, findings, whole=whole)
                self._compare_catalog(month, index, catalog, findings, has_bulk=has_bulk)
            if not len(findings) or wait is None:
                break
            self.sleep(wait)
        self.report.findings.take(findings)

    def _compare_index(
        self, month: str, index: dict[str, Json], checked: dict[str, Checked], findings: Findings, *, whole: bool
    ) -> None:
        key = month_key(month)
        if whole:
            absent = sorted(day for day in index if day not in checked)
            findings.expect("month-index", key, "days without a head", expected=[], found=absent)
        for day, one in checked.items():
            row = index.get(day)
            if one.report.state == "pending":
                if row is not None:
                    findings.add("missing", head_key(day), f"{key} has a row for it", expected="a head", found="none")
            elif row is None:
                findings.add("month-index", key, f"rows for {day}", expected=1, found=0)
            elif one.head is not None:
                self._compare_row(key, row, one.head, one.root, one.report, findings)

    def _compare_row(
        self, key: str, row: Json, head: Head, root: Root | None, report: DayReport, findings: Findings
    ) -> None:
        if row.get("revision") != head.revision and self._moved(head, report):
            return
        wanted = {"state": head.state, "revision": head.revision, "path": head.key}
        for name, expected in wanted.items():
            findings.expect("month-index", key, f"{name} of {head.day}", expected=expected, found=row.get(name))
        current = head.current
        root_named = {"path": current["path"], "sha256": current["sha256"]} if current is not None else None
        findings.expect("month-index", key, f"root of {head.day}", expected=root_named, found=row.get("root"))
        if current is None:
            expected_rows: dict[str, int] = {}
            residents: dict[str, int] = {}
        elif root is None:
            return
        else:
            expected_rows = {code: uf.rows for code, uf in root.ufs.items() if code not in head.withdrawn}
            residents = (
                {code: uf.residents for code, uf in root.ufs.items() if code not in head.withdrawn}
                if root.known
                else {}
            )
        findings.expect(
            "month-index", key, f"rows of {head.day}", expected=sum(expected_rows.values()), found=row.get("rows")
        )
        findings.expect("month-index", key, f"rows by UF of {head.day}", expected=expected_rows, found=row.get("ufs"))
        if "residents" in row:
            findings.expect(
                "month-index", key, f"residents by UF of {head.day}", expected=residents, found=row["residents"]
            )
        away = sorted(head.withdrawn) if current is not None else []
        findings.expect(
            "month-index", key, f"withdrawn UFs of {head.day}", expected=away, found=row.get("withdrawnUfs", [])
        )

    def _moved(self, head: Head, report: DayReport) -> bool:
        """Whether the head is another one by now, which is told."""
        try:
            now = forms.parse(read_small(self.reader, head.key, most=SMALL))
        except (Missing, Malformed, TooLarge):
            return False
        if (now.get("revision"), now.get("current")) == (head.revision, head.current):
            return False
        note = "it was published again while the bucket was read: what was there before is what was checked"
        if note not in report.notes:
            report.notes.append(note)
        return True

    def _compare_bulk(self, month: str, checked: dict[str, Checked], findings: Findings, *, whole: bool) -> bool:
        """`$bulk-publish` manifest against heads and descriptors; whether it is there."""
        key = bulk_key(month)
        try:
            document = forms.parse(read_small(self.reader, key, most=SMALL))
            check_bulk(
                document,
                month,
                checked,
                findings,
                whole=whole,
                has_moved=lambda one, head: self._moved(head, one.report),
            )
        except Missing as error:
            # A month whose days are all damaged has none.
            if any(one.head is not None and not len(one.report.findings) for one in checked.values()):
                findings.add("missing", key, "the files of a month with heads", expected="an object", found=error.why)
            return False
        except Malformed as error:
            findings.add("bulk-publish", key, error.member, expected=error.expected)
        except TooLarge:
            findings.add("bulk-publish", key, "larger than any manifest")
        return True

    def _dcat(self) -> None:
        """The description in DCAT against the catalog: both are read here, the description is written last."""
        for wait in (*self.waits, None):
            findings = Findings()
            try:
                catalog = forms.parse(read_small(self.reader, CATALOG, most=SMALL))
                document = forms.parse(read_small(self.reader, DCAT, most=SMALL))
                check_dcat(document, catalog, findings)
            except Missing as error:
                findings.add("missing", error.key, "described by the contract", expected="an object", found=error.why)
            except Malformed as error:
                findings.add("dcat", DCAT, error.member, expected=error.expected)
            except TooLarge:
                findings.add("dcat", DCAT, "larger than any description")
            if not len(findings) or wait is None:
                break
            self.sleep(wait)
        self.report.findings.take(findings)

    def _compare_catalog(
        self, month: str, index: dict[str, Json], catalog: _Catalog, findings: Findings, *, has_bulk: bool
    ) -> None:
        if not catalog.months:
            return
        row = self._catalog_row(month)
        if row is None:
            findings.add("catalog", CATALOG, f"rows for {month}", expected=1, found=0)
            return
        found = {
            "days": len(index),
            "rows": sum(_number(day, "rows") for day in index.values()),
            "residents": sum(sum(day.get("residents", {}).values()) for day in index.values()),
        }
        for name, number in found.items():
            findings.expect("catalog", CATALOG, f"{name} of {month}", expected=number, found=_number(row, name))
        bulk = bulk_key(month) if has_bulk else None
        findings.expect("catalog", CATALOG, f"bulkPublish of {month}", expected=bulk, found=row.get("bulkPublish"))

    def _catalog_row(self, month: str) -> Json | None:
        try:
            rows = forms.children(forms.parse(read_small(self.reader, CATALOG, most=SMALL)), "months")
        except (Missing, Malformed, TooLarge):
            return None
        return next((row for row in rows if row.get("month") == month), None)


def _number(node: Json, name: str) -> int:
    """A count that is left out when it is 0."""
    return forms.count(node, name) if name in node else 0
