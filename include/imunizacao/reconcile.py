"""Reconcile: read the day as a reader does, from the head down, and count again.

Nothing here is shared with the code that wrote the day: JSON is read with the standard library, rows with `csv`, hashes are
taken from the bytes that come back. One row too many or too few turns the run red and the head goes back to the revision
before (or to `withdrawn`), by compare-and-swap. Only what is derived from the head is brought up to date by the code that writes it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from imunizacao.derived import follow_head
from imunizacao.diff_check import SeenUf, check_diff
from imunizacao.errors import ContractViolation, PublicationConflict
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.models import PublishReceipt, ReconcileReceipt, RunContext, fingerprint
from imunizacao.outcome_check import check_outcomes
from imunizacao.signature_check import check_signature
from imunizacao.storage import ObjectMissing, ObjectStore, put_receipt, swap

STAGE = "reconcile"
_MUNICIPIO = "co_municipio_estabelecimento"
_DOCUMENTO = "co_documento"
_RESIDENCE = "co_municipio_paciente"
_RESIDENCE_UF = "sg_uf_paciente"


@dataclass(slots=True, kw_only=True)
class _Findings:
    gaps: list[str] = field(default_factory=list)
    rows: int = 0
    residents: int = 0
    files: int = 0
    bytes: int = 0
    ufs: dict[str, SeenUf] = field(default_factory=dict)
    rows_by_uf: dict[str, int] = field(default_factory=dict)
    residents_by_uf: dict[str, int] = field(default_factory=dict)
    purged: frozenset[str] = frozenset()
    """Withdrawn UFs whose CSVs may be gone."""
    unseen: set[str] = field(default_factory=set)
    """Those of them whose rows are gone indeed."""

    def expect(self, what: str, expected: object, found: object) -> None:
        """Note a difference between what a manifest says and what is there."""
        if expected != found:
            self.gaps.append(f"{what}: expected {expected}, found {found}")


def reconcile_day(
    context: RunContext,
    *,
    published: PublishReceipt,
    public: ObjectStore,
    work: ObjectStore,
    now: Callable[[], datetime],
    recorded: Mapping[str, Mapping[str, int | float]] | None = None,
    progress: Progress = no_progress,
) -> ReconcileReceipt:
    """Count the day again from the public side and write the verdict into the head's history.

    Checks every hash and size on the way head → day → UF → CSV, rows per municipality and UF, order and uniqueness of the keys,
    that the files of residents are the same rows, the account, the diff to the revision before, the signature, and what the stages of this
    run recorded (`recorded`: stage → counts of its outcome) when its revision is the one to be read. On a gap: the head goes back, and `ContractViolation` says where. A head that another run moved meanwhile is judged as it is now: of a withdrawn UF that was
    purged the files may be gone, of a day that a person took back there is nothing to count and no verdict. What is derived from the head
    (month index, catalog) follows it: one that is behind is brought up to date and is no gap.
    """
    started = time.monotonic()
    key = f"v1/days/{context.day}/head.json"
    head = _json(public.get(key).body, key)
    _require_not_taken_back(head, published, key)
    withdrawn = head.get("withdrawnUfs", {})
    findings = _Findings(purged=frozenset(uf for uf, said in withdrawn.items() if "purgedAt" in said))
    entry = head["history"][-1]
    if head["current"] is not None:
        _check_head(head, findings)
        _check_day(public, head, findings, progress)
        if published.outcome in {"published", "unchanged"} and head["revision"] == published.revision:
            findings.expect("content of the head", published.content_id, head["current"]["contentId"])
            findings.expect("rows of the head", published.doses.published, head["current"]["rows"])
            said = entry.get("diff") or {}
            findings.expect("diff of the head", published.diff, {name: said[name] for name in published.diff if said})
        no_diff = {*withdrawn, *entry.get("ufs", ())}
        check_diff(public, head, {uf: seen for uf, seen in findings.ufs.items() if uf not in no_diff}, findings.expect)
        check_signature(public, head, findings.expect)
        if recorded is not None and _is_own(entry, context, published):
            check_outcomes(recorded, entry, day=str(context.day), rows=findings.rows, expect=findings.expect)
    if not findings.gaps:
        # The run that moved the head may not have come to the index yet: that is no gap of the day.
        follow_head(public, str(context.day))
        if head["current"] is not None:
            _check_month(public, head, findings)
    checked_at = now().astimezone(UTC).isoformat(timespec="seconds")
    if findings.gaps:
        detail = "; ".join(findings.gaps[:5]) + (
            f"; and {len(findings.gaps) - 5} more" if len(findings.gaps) > 5 else ""
        )
        went = _go_back(
            public, key, revision=int(head["revision"]), detail=detail[:900], context=context, at=checked_at
        )
        follow_head(public, str(context.day))
        raise ContractViolation(
            f"What readers would count for {context.day} revision {head['revision']} does not agree with its account: {detail}. "
            f"{went} See docs/runbook/account-gap.md."
        )
    if head["current"] is not None:
        # A day without content was not counted: a verdict would look as if reconcile had withdrawn it, not a person.
        _annotate(public, key, revision=int(head["revision"]), at=checked_at)
    receipt = ReconcileReceipt(
        stage=STAGE,
        day=str(context.day),
        run_id=context.run_id,
        code_version=context.code_version,
        fingerprint=fingerprint(STAGE, context.code_version, {"root": str(entry["sha256"])}),
        seconds=round(time.monotonic() - started, 3),
        verdict="ok" if head["current"] is not None else "withdrawn",
        revision=int(head["revision"]),
        rows=findings.rows,
        files=findings.files,
        bytes=findings.bytes,
    )
    put_receipt(work, context.prefix(STAGE), receipt)
    log_event(
        "reconcile.done",
        day=str(context.day),
        verdict=receipt.verdict,
        revision=receipt.revision,
        rows=receipt.rows,
        files=receipt.files,
        seconds=receipt.seconds,
    )
    return receipt


def _is_own(entry: dict[str, Any], context: RunContext, published: PublishReceipt) -> bool:
    """Whether the revision to be read was made by this run, all of it: of a UF that was purged meanwhile fewer rows are counted."""
    made = published.outcome == "published" and entry["revision"] == published.revision
    return made and entry["runId"] == context.run_id and "purgedUfs" not in entry


def _require_not_taken_back(head: dict[str, Any], published: PublishReceipt, key: str) -> None:
    """A run whose revision did not add up stays red, also when its task is tried again after the head went back."""
    own: dict[str, Any] = next((row for row in head["history"] if row["revision"] == published.revision), {})
    verdict = own.get("reconciliation", {})
    if published.outcome == "published" and own.get("path") and verdict.get("verdict") == "gap":
        raise ContractViolation(
            f"Revision {published.revision} of {key} was counted before and does not agree with its account: {verdict.get('detail', '')}. "
            "The head went back then. See docs/runbook/account-gap.md."
        )


def _check_head(head: dict[str, Any], findings: _Findings) -> None:
    entry, current = head["history"][-1], head["current"]
    findings.expect("revision of the last history entry", head["revision"], entry["revision"])
    findings.expect("content of the last history entry", current["contentId"], entry["contentId"])
    findings.expect("state of the head", "published" if current["rows"] else "empty", head["state"])
    source, account = entry.get("source"), entry.get("account")
    if source is not None:
        findings.expect("documents: unique + duplicates", source["fetched"], source["unique"] + source["duplicates"])
    if account is not None:
        fates = account["published"] + account["quarantined"] + account["superseded"] + account["removed"]
        findings.expect("doses: published + quarantined + superseded + removed", account["doses"], fates)
        findings.expect("rows of the head against the account", account["published"], current["rows"])


def _check_day(public: ObjectStore, head: dict[str, Any], findings: _Findings, progress: Progress) -> None:
    current = head["current"]
    day = _fetch_json(public, current["path"], current["sha256"], int(current["bytes"]), findings)
    folder = current["path"].rpartition("/")[0] + "/"
    if day is None:
        return
    ufs = day["files"]["ufs"]
    findings.expect("number of UFs", 27, len({uf["uf"] for uf in ufs}))
    hashes: list[tuple[str, str]] = []
    municipios = 0
    residence = _Residence(initials={uf["sg_uf"]: uf["uf"] for uf in ufs})
    resources: dict[str, dict[str, Any]] = {}
    for number, uf in enumerate(ufs, 1):
        municipios += _check_uf(public, folder, uf, findings, hashes, residence, resources)
        progress("reconcile", number, len(ufs))
    _check_residents(public, folder, day, findings, hashes, residence, resources)
    removed = day["files"]["removed"]
    body = _fetch(public, folder + removed["path"], removed["sha256"], int(removed["bytes"]), findings)
    if body is not None:
        findings.expect(
            "rows of removed.csv",
            removed["rows"],
            sum(1 for _ in csv.reader(io.StringIO(body.decode()), delimiter=";")) - 1,
        )
        hashes.append((removed["path"], hashlib.sha256(body).hexdigest()))
    findings.expect("municipalities of the day", day["municipalities"], municipios)
    findings.expect("rows of the day (sum of UFs)", day["rows"], findings.rows)
    findings.expect("rows of the head", current["rows"], findings.rows)
    text = "".join(f"{path}\0{sha}\n" for path, sha in sorted(hashes))
    findings.expect("content id from the files", current["contentId"], hashlib.sha256(text.encode()).hexdigest())
    named = day["files"]["outcome"]
    outcome = _fetch_json(public, folder + named["path"], named["sha256"], int(named["bytes"]), findings)
    if outcome is not None:
        account = outcome["account"]
        findings.expect("published in outcome.json", findings.rows, account["published"])
        findings.expect(
            "doses in outcome.json",
            account["doses"],
            account["published"] + account["quarantined"] + account["superseded"] + account["removed"],
        )


@dataclass(slots=True, kw_only=True)
class _Lines:
    """Rows, and a sum over them that does not depend on their order."""

    rows: int = 0
    total: int = 0

    def add(self, line: bytes) -> None:
        self.rows += 1
        self.total = (self.total + hash(line)) & 0xFFFF_FFFF_FFFF_FFFF


@dataclass(slots=True, kw_only=True)
class _Residence:
    """Rows of the files by establishment that name a residence, by code of its UF."""

    initials: dict[str, str]
    by_uf: dict[str, _Lines] = field(default_factory=dict)
    unknown: int = 0
    disagree: int = 0

    def add(self, municipio: str, sg_uf: str, line: bytes) -> None:
        if self.initials.get(sg_uf, "") != municipio[:2]:
            self.disagree += 1
        if not municipio:
            self.unknown += 1
            return
        lines = self.by_uf.get(municipio[:2])
        if lines is None:
            lines = self.by_uf[municipio[:2]] = _Lines()
        lines.add(line)


def _check_uf(
    public: ObjectStore,
    folder: str,
    uf: dict[str, Any],
    findings: _Findings,
    hashes: list[tuple[str, str]],
    residence: _Residence,
    resources: dict[str, dict[str, Any]],
) -> int:
    """Count one UF from its CSV; its municipalities' files must hold exactly the same bytes. Returns the number of municipalities.

    Notes the residences of its rows, and the resource of its residents.
    """
    package = _fetch_json(public, folder + uf["path"], uf["sha256"], int(uf["bytes"]), findings)
    if package is None:
        return 0
    base = uf["path"].rpartition("/")[0] + "/"
    for part in package.get("rnds:parts", ()):
        _fetch(public, folder + base + part["path"], part["hash"].removeprefix("sha256:"), int(part["bytes"]), findings)
    whole, *others = package["resources"]
    parts = [part for part in others if "rnds:municipio" in part]
    of_residents = [part for part in others if part.get("rnds:partitionBy") == "residence"]
    findings.expect(
        f"resources of UF {uf['uf']} that are neither a municipality nor residents",
        0,
        len(others) - len(parts) - len(of_residents),
    )
    findings.expect(f"more than one file of residents of UF {uf['uf']}", False, len(of_residents) > 1)
    if of_residents:
        resources[str(uf["uf"])] = {**of_residents[0], "path": base + of_residents[0]["path"]}
    if uf["uf"] in findings.purged and public.info(folder + base + whole["path"]) is None:
        _believe_uf(uf, base, whole, parts, findings, hashes)
        return len(parts)
    file = _File()
    counted = _Counted()
    try:
        _count_places(file.lines(public, folder + base + whole["path"]), str(uf["uf"]), findings, counted, residence)
    except (csv.Error, UnicodeDecodeError) as error:
        findings.gaps.append(f"row {counted.rows + 1} of UF {uf['uf']} cannot be read as CSV ({type(error).__name__})")
    except ObjectMissing:
        findings.gaps.append(f"{base}{whole['path']} does not exist")
    findings.files += 1
    findings.bytes += file.bytes
    findings.rows += counted.rows
    name = f"{base}{whole['path']}"
    findings.expect(f"bytes of {name}", whole["bytes"], file.bytes)
    findings.expect(f"sha256 of {name}", whole["hash"], f"sha256:{file.digest.hexdigest()}")
    findings.ufs[str(uf["uf"])] = SeenUf(
        sha256=file.digest.hexdigest(), rows=counted.rows, row_sum=counted.row_sum, header=counted.header
    )
    findings.expect(f"rows of {name}", whole["rnds:rows"], counted.rows)
    findings.expect(f"rows of UF {uf['uf']}", uf["rows"], counted.rows)
    findings.expect(f"municipalities of UF {uf['uf']}", uf["municipalities"], len(parts))
    findings.expect(
        f"municipalities counted in {name}", sorted(counted.places), sorted(part["rnds:municipio"] for part in parts)
    )
    findings.rows_by_uf[str(uf["uf"])] = counted.rows
    hashes.append((name, file.digest.hexdigest()))
    for part in parts:
        place = counted.places.get(part["rnds:municipio"])
        if place is None:
            continue
        path = base + part["path"]
        found = public.info(folder + path)
        if found is None and uf["uf"] in findings.purged:
            hashes.append((path, part["hash"].removeprefix("sha256:")))
            continue
        findings.files += 1
        if found is None:
            findings.gaps.append(f"{path} does not exist")
            continue
        stored = (found.bytes, found.sha256)
        if stored != (part["bytes"], place.digest.hexdigest()):
            # What a store says about an object may be cut short on its way; what it holds decides.
            stored = public.measure(folder + path)
        findings.bytes += stored[0]
        findings.expect(f"rows of {path}", part["rnds:rows"], place.rows)
        findings.expect(f"bytes of {path}", part["bytes"], stored[0])
        findings.expect(f"sha256 of {path}", part["hash"], f"sha256:{place.digest.hexdigest()}")
        findings.expect(f"stored sha256 of {path}", place.digest.hexdigest(), stored[1])
        hashes.append((path, place.digest.hexdigest()))
    return len(parts)


def _believe_uf(
    uf: dict[str, Any],
    base: str,
    whole: dict[str, Any],
    parts: list[dict[str, Any]],
    findings: _Findings,
    hashes: list[tuple[str, str]],
) -> None:
    """Take the numbers of a UF that was withdrawn and purged from its descriptor, whose hash was checked: its rows are gone."""
    findings.unseen.add(str(uf["uf"]))
    findings.expect(f"rows of UF {uf['uf']}", uf["rows"], whole["rnds:rows"])
    findings.expect(f"rows of UF {uf['uf']} by municipality", uf["rows"], sum(part["rnds:rows"] for part in parts))
    findings.rows += uf["rows"]
    findings.rows_by_uf[str(uf["uf"])] = uf["rows"]
    hashes += [(base + part["path"], part["hash"].removeprefix("sha256:")) for part in (whole, *parts)]


def _check_residents(
    public: ObjectStore,
    folder: str,
    day: dict[str, Any],
    findings: _Findings,
    hashes: list[tuple[str, str]],
    residence: _Residence,
    resources: dict[str, dict[str, Any]],
) -> None:
    """The files of residents hold, UF by UF, exactly the rows that name it as residence, and the account of residence closes.

    A day without a known residence has none of these files; a day written before they existed says nothing of residence. Where the
    rows of a purged UF cannot be seen, the files of residents may have more rows than were counted.
    """
    said = day.get("residence")
    if said is None:
        findings.expect("files of residents in a day that says nothing of residence", 0, len(resources))
        return
    whole = not findings.unseen
    known = sum(lines.rows for lines in residence.by_uf.values()) if whole else said["known"]
    findings.expect("doses with a known residence", said["known"], known)
    findings.expect("doses without a known residence", said["unknown"], residence.unknown if whole else said["unknown"])
    findings.expect("doses by residence: known + unknown", day["rows"], said["known"] + said["unknown"])
    findings.expect("rows whose UF and municipality of residence disagree", 0, residence.disagree)
    findings.expect("files of residents", 27 if known else 0, len(resources))
    ufs = {str(uf["uf"]): uf for uf in day["files"]["ufs"]}
    findings.expect("UFs of residence that are no UF", [], sorted(set(residence.by_uf) - set(ufs)))
    for code, uf in ufs.items():
        expected = residence.by_uf.get(code, _Lines())
        if whole:
            findings.expect(f"residents of UF {code}", uf.get("residents"), expected.rows)
        resource = resources.get(code)
        if resource is None:
            continue
        if code in findings.purged and public.info(folder + resource["path"]) is None:
            findings.residents += uf["residents"]
            findings.residents_by_uf[code] = uf["residents"]
            hashes.append((resource["path"], resource["hash"].removeprefix("sha256:")))
            continue
        file, found = _File(), _Lines()
        name = resource["path"]
        try:
            disorder = _count_residents(file.lines(public, folder + name), code, found)
        except ObjectMissing:
            findings.gaps.append(f"{name} does not exist")
            continue
        findings.files += 1
        findings.bytes += file.bytes
        findings.residents += found.rows
        findings.residents_by_uf[code] = found.rows
        findings.expect(f"residents of UF {code} in its file", uf.get("residents"), found.rows)
        findings.expect(f"bytes of {name}", resource["bytes"], file.bytes)
        findings.expect(f"sha256 of {name}", resource["hash"], f"sha256:{file.digest.hexdigest()}")
        findings.expect(f"rows of {name}", resource["rnds:rows"], found.rows)
        if whole:
            findings.expect(f"rows of {name} against the doses of these residents", expected.rows, found.rows)
        else:
            findings.expect(f"{name} has fewer rows than doses of these residents", False, found.rows < expected.rows)
        if whole and found.rows == expected.rows and found.total != expected.total:
            findings.gaps.append(f"{name} has other rows than the files by establishment")
        if disorder:
            findings.gaps.append(f"{disorder} rows of {name} are repeated, out of order or of other residents")
        hashes.append((name, file.digest.hexdigest()))


def _count_residents(lines: Iterator[bytes], uf: str, found: _Lines) -> int:
    """Add the rows to `found`; returns how many are out of place. That they are sound rows was seen in the files by establishment."""
    names = next(csv.reader([next(lines, b"").decode(errors="replace")], delimiter=";"), [])
    if _RESIDENCE not in names or _DOCUMENTO not in names:
        return 1
    at_place, at_document = names.index(_RESIDENCE), names.index(_DOCUMENTO)
    fields = max(at_place, at_document) + 1
    start = f'"{uf}'.encode()
    before = (b"", b"")
    disorder = 0
    for line in lines:
        row = line.split(b";", fields)
        if len(row) <= fields or len(row[at_place]) != 8:
            # A `;` inside a value before the two that are looked for: this line the long way.
            text = next(csv.reader([line.decode(errors="replace")], delimiter=";"), [])
            row = [f'"{value}"'.encode() for value in text] if len(text) == len(names) else [b""] * len(names)
        key = (row[at_place], row[at_document])
        disorder += key <= before or not key[0].startswith(start)
        before = key
        found.add(line)
    return disorder


class _File:
    """Reads one object line by line, and knows its size and hash at the end."""

    __slots__ = ("bytes", "digest")

    def __init__(self) -> None:
        self.bytes = 0
        self.digest = hashlib.sha256()

    def lines(self, public: ObjectStore, key: str) -> Iterator[bytes]:
        """The lines with their line breaks."""
        rest = b""
        for block in public.stream(key):
            self.digest.update(block)
            self.bytes += len(block)
            pieces = (rest + block).split(b"\n")
            rest = pieces.pop()
            yield from (piece + b"\n" for piece in pieces)
        if rest:
            yield rest


class _Place:
    __slots__ = ("digest", "rows")

    def __init__(self, header: bytes) -> None:
        self.rows = 0
        self.digest = hashlib.sha256(header)


@dataclass(slots=True, kw_only=True)
class _Counted:
    rows: int = 0
    row_sum: int = 0
    header: bytes = b""
    places: dict[str, _Place] = field(default_factory=dict)


def _count_places(
    lines: Iterator[bytes], uf: str, findings: _Findings, counted: _Counted, residence: _Residence
) -> None:
    header = counted.header = next(lines, b"")
    names = next(csv.reader([header.decode()], delimiter=";"), [])
    needed = (_MUNICIPIO, _DOCUMENTO, _RESIDENCE, _RESIDENCE_UF)
    if not set(needed) <= set(names):
        findings.gaps.append(f"the file of UF {uf} has no header with {', '.join(needed)}")
        return
    at_place, at_document, at_residence, at_residence_uf = (names.index(name) for name in needed)
    before = ("", "")
    disorder = 0
    line = b""

    def text() -> Iterator[str]:
        nonlocal line
        for line in lines:
            yield line.decode()

    for row in csv.reader(text(), delimiter=";", strict=True):
        if len(row) != len(names):
            findings.gaps.append(f"row {counted.rows + 1} of UF {uf} has {len(row)} fields instead of {len(names)}")
            return
        key = (row[at_place], row[at_document])
        disorder += key <= before or not key[0].startswith(uf)
        before = key
        place = counted.places.get(key[0])
        if place is None:
            place = counted.places[key[0]] = _Place(header)
        place.rows += 1
        place.digest.update(line)
        counted.row_sum += hash(line)
        residence.add(row[at_residence], row[at_residence_uf], line)
        counted.rows += 1
    if disorder:
        findings.gaps.append(f"{disorder} rows of UF {uf} are repeated, out of order or of another UF")


def _check_month(public: ObjectStore, head: dict[str, Any], findings: _Findings) -> None:
    """The row of the day is that of its head, and counts what may be read: nothing of a withdrawn UF."""
    key = f"v1/months/{head['day'][:7]}/index.json"
    index = _json(public.get(key).body, key)
    rows = [row for row in index["days"] if row["day"] == head["day"]]
    findings.expect(f"rows of {head['day']} in the month index", 1, len(rows))
    withdrawn = sorted(head.get("withdrawnUfs", {}))
    readable = findings.rows - sum(findings.rows_by_uf.get(uf, 0) for uf in withdrawn)
    residents = findings.residents - sum(findings.residents_by_uf.get(uf, 0) for uf in withdrawn)
    for row in rows:
        findings.expect("revision in the month index", head["revision"], row["revision"])
        findings.expect("withdrawn UFs in the month index", withdrawn, row.get("withdrawnUfs", []))
        findings.expect("rows in the month index", readable, row["rows"])
        findings.expect("rows by UF in the month index", readable, sum(row["ufs"].values()))
        findings.expect("withdrawn UFs among the UFs of the month index", [], sorted(set(withdrawn) & set(row["ufs"])))
        if "residents" in row:
            findings.expect("doses of residents in the month index", residents, sum(row["residents"].values()))


def _fetch(public: ObjectStore, key: str, sha256: str, size: int, findings: _Findings) -> bytes | None:
    stored = public.get_or_none(key)
    if stored is None:
        findings.gaps.append(f"{key} does not exist")
        return None
    findings.files += 1
    findings.bytes += len(stored.body)
    findings.expect(f"bytes of {key}", size, len(stored.body))
    findings.expect(f"sha256 of {key}", sha256, hashlib.sha256(stored.body).hexdigest())
    return stored.body


def _fetch_json(public: ObjectStore, key: str, sha256: str, size: int, findings: _Findings) -> dict[str, Any] | None:
    body = _fetch(public, key, sha256, size, findings)
    if body is None:
        return None
    try:
        return _json(body, key)
    except ContractViolation:
        findings.gaps.append(f"{key} is not JSON")
        return None


def _json(body: bytes, key: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError as error:
        raise ContractViolation(f"{key} is not JSON. See docs/runbook/damaged-manifest.md.") from error
    if not isinstance(document, dict):
        raise ContractViolation(f"{key} is not a JSON object. See docs/runbook/damaged-manifest.md.")
    return document


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, indent=2).encode() + b"\n"


def _annotate(public: ObjectStore, key: str, *, revision: int, at: str) -> None:
    """Write the verdict `ok` beside the revision; one that is already there stays as it is."""

    def decide(body: bytes | None) -> tuple[bytes | None, None]:
        head = _json(body or b"", key)
        for entry in head["history"]:
            if entry["revision"] == revision and "reconciliation" not in entry:
                entry["reconciliation"] = {"verdict": "ok", "checkedAt": at}
                return _dump(head), None
        return None, None

    swap(public, key, decide)


def _go_back(public: ObjectStore, key: str, *, revision: int, detail: str, context: RunContext, at: str) -> str:
    """Point the head to the last revision with a good verdict, or withdraw the day. Answers what was done, as a sentence."""
    token = hashlib.sha256(f"{context.run_id}\0back\0{revision}\0{at}".encode()).hexdigest()[:32]

    def decide(body: bytes | None) -> tuple[bytes | None, str]:
        head = _json(body or b"", key)
        history = head["history"]
        if any(entry["commitToken"] == token for entry in history):
            return None, _sentence(head)
        if head["revision"] != revision:
            raise PublicationConflict(
                f"{key} moved to revision {head['revision']} while revision {revision} was being checked. Run the task again."
            )
        bad = history[-1]
        bad["reconciliation"] = {"verdict": "gap", "checkedAt": at, "detail": detail}
        purged = {uf for uf, said in head.get("withdrawnUfs", {}).items() if "purgedAt" in said}
        good = _last_good(history[:-1], bad, purged)
        entry = {
            "revision": revision + 1,
            "state": good["state"] if good else "withdrawn",
            "contentId": good["contentId"] if good else None,
            "path": good["path"] if good else None,
            "sha256": good["sha256"] if good else None,
            "bytes": good["bytes"] if good else None,
            "publishedAt": at,
            "dataThrough": good["dataThrough"] if good else bad["dataThrough"],
            "reason": "restore" if good else "withdrawal",
            "supersedes": revision,
            "commitToken": token,
            "runId": context.run_id,
            "codeVersion": context.code_version,
            "note": f"Reconciliação encontrou diferença na revisão {revision}.",
            "reconciliation": {"verdict": "gap", "checkedAt": at, "detail": detail},
        }
        for name in (
            "source",
            "account",
            "quarantinedByReason",
            "references",
            "rules",
            "pseudonym",
            "signature",
            "purgedUfs",
        ):
            if good is not None and name in good:
                entry[name] = good[name]
        if good is not None:
            entry["reconciliation"] = good["reconciliation"]
        head["current"] = (
            {
                "contentId": good["contentId"],
                "path": good["path"],
                "sha256": good["sha256"],
                "bytes": good["bytes"],
                "rows": good["account"]["published"],
                "publishedAt": at,
                "dataThrough": good["dataThrough"],
                **({"signature": good["signature"]} if "signature" in good else {}),
            }
            if good
            else None
        )
        head["revision"], head["state"] = revision + 1, entry["state"]
        history.append(entry)
        return _dump(head), _sentence(head)

    return swap(public, key, decide)


def _last_good(history: list[dict[str, Any]], bad: dict[str, Any], purged: set[str]) -> dict[str, Any] | None:
    """The last revision that readers can be led back to: another content, counted well, of which nothing is gone that may be read.

    None from before a person took the day back.
    """
    for entry in history[::-1]:
        verdict = entry.get("reconciliation", {}).get("verdict")
        if not entry["path"]:
            if verdict != "gap":
                return None
            continue
        there = "purgedAt" not in entry and set(entry.get("purgedUfs", ())) <= purged
        if verdict == "ok" and there and entry["contentId"] != bad["contentId"]:
            return entry
    return None


def _sentence(head: dict[str, Any]) -> str:
    if head["state"] == "withdrawn":
        return f"The day is withdrawn (revision {head['revision']}): no earlier revision was good."
    return f"The head went back to the revision before (as revision {head['revision']})."
