"""Reconcile: read the day as a reader does, from the head down, and count again.

Nothing here is shared with the code that wrote the day: JSON is read with the standard library, rows with `csv`, hashes are
taken from the bytes that come back. One row too many or too few turns the run red and the head goes back to the revision
before (or to `withdrawn`), by compare-and-swap.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from imunizacao.errors import ContractViolation, PublicationConflict
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.models import PublishReceipt, ReconcileReceipt, RunContext, fingerprint
from imunizacao.storage import ObjectStore, put_receipt, swap

STAGE = "reconcile"
_MUNICIPIO = "co_municipio_estabelecimento"
_DOCUMENTO = "co_documento"


@dataclass(slots=True, kw_only=True)
class _Findings:
    gaps: list[str] = field(default_factory=list)
    rows: int = 0
    files: int = 0
    bytes: int = 0

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
    progress: Progress = no_progress,
) -> ReconcileReceipt:
    """Count the day again from the public side and write the verdict into the head's history.

    Checks every hash and size on the way head → day → UF → CSV, rows per municipality and UF, order and uniqueness of the keys,
    and the account. On a gap: the head goes back, and `ContractViolation` says where. A head that another run moved meanwhile is
    judged as it is now.
    """
    started = time.monotonic()
    key = f"v1/days/{context.day}/head.json"
    head = _json(public.get(key).body, key)
    findings = _Findings()
    entry = head["history"][-1]
    if head["current"] is not None:
        _check_head(head, findings)
        _check_day(public, head, findings, progress)
        if published.outcome in {"published", "unchanged"} and head["revision"] == published.revision:
            findings.expect("content of the head", published.content_id, head["current"]["contentId"])
            findings.expect("rows of the head", published.doses.published, head["current"]["rows"])
        _check_month(public, head, findings)
    checked_at = now().astimezone(UTC).isoformat(timespec="seconds")
    if findings.gaps:
        detail = "; ".join(findings.gaps[:5]) + (
            f"; and {len(findings.gaps) - 5} more" if len(findings.gaps) > 5 else ""
        )
        went = _go_back(
            public, key, revision=int(head["revision"]), detail=detail[:900], context=context, at=checked_at
        )
        raise ContractViolation(
            f"What readers would count for {context.day} revision {head['revision']} does not agree with its account: {detail}. "
            f"{went} See docs/runbook/account-gap.md."
        )
    _annotate(public, key, revision=int(head["revision"]), at=checked_at)
    receipt = ReconcileReceipt(
        stage=STAGE,
        day=str(context.day),
        run_id=context.run_id,
        code_version=context.code_version,
        fingerprint=fingerprint(STAGE, context.code_version, {"root": str(entry["sha256"])}),
        seconds=round(time.monotonic() - started, 3),
        verdict="ok",
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
    for number, uf in enumerate(ufs, 1):
        municipios += _check_uf(public, folder, uf, findings, hashes)
        progress("reconcile", number, len(ufs))
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


def _check_uf(
    public: ObjectStore, folder: str, uf: dict[str, Any], findings: _Findings, hashes: list[tuple[str, str]]
) -> int:
    """Count one UF from its CSV; its municipalities' files must hold exactly the same bytes. Returns the number of municipalities."""
    package = _fetch_json(public, folder + uf["path"], uf["sha256"], int(uf["bytes"]), findings)
    if package is None:
        return 0
    base = uf["path"].rpartition("/")[0] + "/"
    whole, *parts = package["resources"]
    digest, size = hashlib.sha256(), 0

    def lines() -> Iterator[bytes]:
        nonlocal size
        rest = b""
        for block in public.stream(folder + base + whole["path"]):
            digest.update(block)
            size += len(block)
            pieces = (rest + block).split(b"\n")
            rest = pieces.pop()
            yield from (piece + b"\n" for piece in pieces)
        if rest:
            yield rest

    counted = _Counted()
    try:
        _count_places(lines(), str(uf["uf"]), findings, counted)
    except (csv.Error, UnicodeDecodeError) as error:
        findings.gaps.append(f"row {counted.rows + 1} of UF {uf['uf']} cannot be read as CSV ({type(error).__name__})")
    findings.files += 1
    findings.bytes += size
    findings.rows += counted.rows
    name = f"{base}{whole['path']}"
    findings.expect(f"bytes of {name}", whole["bytes"], size)
    findings.expect(f"sha256 of {name}", whole["hash"], f"sha256:{digest.hexdigest()}")
    findings.expect(f"rows of {name}", whole["rnds:rows"], counted.rows)
    findings.expect(f"rows of UF {uf['uf']}", uf["rows"], counted.rows)
    findings.expect(f"municipalities of UF {uf['uf']}", uf["municipalities"], len(parts))
    findings.expect(
        f"municipalities counted in {name}", sorted(counted.places), sorted(part["rnds:municipio"] for part in parts)
    )
    hashes.append((name, digest.hexdigest()))
    for part in parts:
        place = counted.places.get(part["rnds:municipio"])
        if place is None:
            continue
        path = base + part["path"]
        found = public.info(folder + path)
        findings.files += 1
        if found is None:
            findings.gaps.append(f"{path} does not exist")
            continue
        findings.bytes += found.bytes
        findings.expect(f"rows of {path}", part["rnds:rows"], place.rows)
        findings.expect(f"bytes of {path}", part["bytes"], found.bytes)
        findings.expect(f"sha256 of {path}", part["hash"], f"sha256:{place.digest.hexdigest()}")
        findings.expect(f"stored sha256 of {path}", place.digest.hexdigest(), found.sha256)
        hashes.append((path, place.digest.hexdigest()))
    return len(parts)


class _Place:
    __slots__ = ("digest", "rows")

    def __init__(self, header: bytes) -> None:
        self.rows = 0
        self.digest = hashlib.sha256(header)


@dataclass(slots=True, kw_only=True)
class _Counted:
    rows: int = 0
    places: dict[str, _Place] = field(default_factory=dict)


def _count_places(lines: Iterator[bytes], uf: str, findings: _Findings, counted: _Counted) -> None:
    header = next(lines, b"")
    names = next(csv.reader([header.decode()], delimiter=";"), [])
    if _MUNICIPIO not in names or _DOCUMENTO not in names:
        findings.gaps.append(f"the file of UF {uf} has no header with {_DOCUMENTO} and {_MUNICIPIO}")
        return
    at_place, at_document = names.index(_MUNICIPIO), names.index(_DOCUMENTO)
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
        counted.rows += 1
    if disorder:
        findings.gaps.append(f"{disorder} rows of UF {uf} are repeated, out of order or of another UF")


def _check_month(public: ObjectStore, head: dict[str, Any], findings: _Findings) -> None:
    key = f"v1/months/{head['day'][:7]}/index.json"
    index = _json(public.get(key).body, key)
    rows = [row for row in index["days"] if row["day"] == head["day"]]
    findings.expect(f"rows of {head['day']} in the month index", 1, len(rows))
    for row in rows:
        findings.expect("revision in the month index", head["revision"], row["revision"])
        findings.expect("rows in the month index", findings.rows, row["rows"])
        findings.expect("rows by UF in the month index", findings.rows, sum(row["ufs"].values()))


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
        good = next((entry for entry in reversed(history[:-1]) if entry["path"] and _is_good(entry, bad)), None)
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
        for name in ("source", "account", "quarantinedByReason", "references", "rules"):
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
            }
            if good
            else None
        )
        head["revision"], head["state"] = revision + 1, entry["state"]
        history.append(entry)
        return _dump(head), _sentence(head)

    return swap(public, key, decide)


def _is_good(entry: dict[str, Any], bad: dict[str, Any]) -> bool:
    return bool(entry["contentId"] != bad["contentId"] and entry.get("reconciliation", {}).get("verdict") == "ok")


def _sentence(head: dict[str, Any]) -> str:
    if head["state"] == "withdrawn":
        return f"The day is withdrawn (revision {head['revision']}): no earlier revision was good."
    return f"The head went back to the revision before (as revision {head['revision']})."
