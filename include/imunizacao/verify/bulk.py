"""`bulk-publish.json` of a month: the files of its days once more, in the form of HL7. It must name what the heads name, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from imunizacao.verify import forms
from imunizacao.verify.day import Checked
from imunizacao.verify.forms import Json
from imunizacao.verify.found import Findings
from imunizacao.verify.heads import Head
from imunizacao.verify.layout import UFS, bulk_key

KIND: Final = "bulk-publish"
_SAYS: Final = {
    "manifestType": "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/BulkPublishManifest",
    "updateCadence": "P1D",
    "requiresAccessToken": False,
    "outputFormat": "text/csv",
}
_UP: Final = "../../"
"""Addresses are relative to the manifest: this leads to `v1/`."""
Files = dict[str, Json]
"""Facts about files, by address."""


def check_bulk(
    document: Json,
    month: str,
    checked: Mapping[str, Checked],
    findings: Findings,
    *,
    whole: bool,
    has_moved: Callable[[Checked, Head], bool],
) -> None:
    """Compare a manifest with the days that were checked; `whole` when these are all days of the month with a head.

    `has_moved` is asked before a day is blamed: it may have got a new revision meanwhile. Raises `Malformed` for a form that cannot be read.
    """
    key = bulk_key(month)
    for name, expected in _SAYS.items():
        findings.expect(KIND, key, name, expected=expected, found=document.get(name))
    extension = forms.child(document, "extension")
    for name, text in (("rnds:schema", "imunizacao.bulk-publish/1"), ("rnds:month", month)):
        findings.expect(KIND, key, name, expected=text, found=extension.get(name))
    days = forms.child(extension, "rnds:days")
    through = {day: forms.instant(forms.child(days, day), "dataThrough") for day in days}
    newest = max(through.values(), default=None)
    findings.expect(KIND, key, "transactionTime", expected=newest, found=forms.instant(document, "transactionTime"))
    output = _by_day(document, "output", key, findings)
    deleted = _by_day(document, "deleted", key, findings)
    nowhere = sorted({*output, *deleted} - set(days))
    findings.expect(KIND, key, "days with files that are not in rnds:days", expected=[], found=nowhere)
    if whole:
        without = sorted(day for day in days if day not in checked or checked[day].report.state == "pending")
        findings.expect(KIND, key, "days without a head", expected=[], found=without)
    for day, one in checked.items():
        if one.head is None:
            continue
        mine = Findings()
        if day in days:
            node = forms.child(days, day)
            _compare_day(one, one.head, node, output.get(day, {}), deleted.get(day, {}), mine)
        elif not len(one.report.findings):
            # The publisher leaves out a day whose manifests are damaged.
            mine.add(KIND, key, f"entries for {day}", expected=1, found=0)
        if len(mine) and not has_moved(one, one.head):
            findings.take(mine)


def _by_day(document: Json, name: str, key: str, findings: Findings) -> dict[str, Files]:
    days: dict[str, Files] = {}
    order, addresses = [], Counter[str]()
    for node in forms.children(document, name):
        extension = forms.child(node, "extension")
        day, url = forms.text(extension, "rnds:day"), forms.text(node, "url")
        order.append(day)
        addresses[url] += 1
        days.setdefault(day, {})[url] = {
            "type": node.get("type"),
            "count": node.get("count"),
            "fileSize": node.get("fileSize"),
            "rnds:sha256": extension.get("rnds:sha256"),
            "rnds:operation": extension.get("rnds:operation"),
        }
    findings.expect(KIND, key, f"days of {name}", expected=sorted(order), found=order)
    twice = sum(times > 1 for times in addresses.values())
    findings.expect(KIND, key, f"files twice in {name}", expected=0, found=twice)
    return days


def _compare_day(one: Checked, head: Head, node: Json, output: Files, deleted: Files, findings: Findings) -> None:
    key, day, current = bulk_key(head.day[:7]), head.day, head.current
    findings.expect(KIND, key, f"revision of {day}", expected=head.revision, found=node.get("revision"))
    named = current["contentId"] if current is not None else None
    findings.expect(KIND, key, f"contentId of {day}", expected=named, found=node.get("contentId"))
    if current is not None:
        wanted = forms.instant(current, "dataThrough")
        findings.expect(KIND, key, f"dataThrough of {day}", expected=wanted, found=forms.instant(node, "dataThrough"))
    if current is not None and one.root is None:
        return
    doses, removed = _expected(one, head)
    for name, files, found in (("output", doses, output), ("deleted", removed, deleted)):
        lacking, unknown = len(files.keys() - found.keys()), len(found.keys() - files.keys())
        findings.expect(KIND, key, f"files of {day} that {name} lacks", expected=0, found=lacking)
        findings.expect(KIND, key, f"files of {day} that {name} should not have", expected=0, found=unknown)
        for url in files.keys() & found.keys():
            for fact, expected in files[url].items():
                findings.expect(KIND, key, f"{fact} of {url}", expected=expected, found=found[url][fact])


def _expected(one: Checked, head: Head) -> tuple[Files, Files]:
    """What the manifest must have of a day: files of UFs with doses that may be read, and removed.csv when it has rows."""
    root = one.root
    if root is None:
        return {}, {}
    folder = _UP + root.folder.removeprefix("v1/")
    doses: Files = {}
    for code, uf in root.ufs.items():
        if not uf.rows or code in head.withdrawn:
            continue
        operation = f"imunizacao-total-{UFS[code].lower()}"
        facts: Json = {"type": "Immunization", "count": uf.rows, "rnds:operation": operation}
        file = one.wholes.get(code)
        if file is not None:
            facts |= {"fileSize": file.bytes, "rnds:sha256": file.sha256}
        doses[f"{folder}uf={code}/{operation}_{head.day}.csv"] = facts
    removed = root.removed
    if not removed.get("rows"):
        return doses, {}
    facts = {"type": None, "count": removed["rows"], "rnds:operation": None}
    facts |= {"fileSize": removed.get("bytes"), "rnds:sha256": removed.get("sha256")}
    return doses, {f"{folder}removed.csv": facts}
