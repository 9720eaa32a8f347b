"""An independent reader of the public bucket: standard library only, follows head → day → UF → CSV and checks every promise.

Shares no code with the product on purpose.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Get = Callable[[str], bytes]


@dataclass
class DayRead:
    """What a reader has after following a head."""

    head: dict[str, Any]
    root: dict[str, Any]
    rows: list[dict[str, str]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    removed: list[dict[str, str]] = field(default_factory=list)
    outcome: dict[str, Any] = field(default_factory=dict)


def _checked(body: bytes, size: int, sha: str, what: str) -> bytes:
    assert len(body) == size, f"{what}: {len(body)} bytes, manifest says {size}"
    assert hashlib.sha256(body).hexdigest() == sha, f"{what}: hash differs from the manifest"
    return body


def _table(body: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(body.decode("utf-8"), newline=""), delimiter=";", strict=True))


def read_day(get: Get, day: str) -> DayRead:
    """Follow everything that the head of `day` names, checking bytes, hashes and counts on the way."""
    head = json.loads(get(f"v1/days/{day}/head.json"))
    current, entry = head["current"], head["history"][-1]
    root = json.loads(_checked(get(current["path"]), current["bytes"], current["sha256"], "day.json"))
    base = current["path"].rsplit("/", 1)[0] + "/"
    read = DayRead(head=head, root=root)
    for uf in root["files"]["ufs"]:
        package = json.loads(_checked(get(base + uf["path"]), uf["bytes"], uf["sha256"], uf["path"]))
        folder = uf["path"].rsplit("/", 1)[0] + "/"
        whole, *parts = package["resources"]
        body = _checked(get(base + folder + whole["path"]), whole["bytes"], whole["hash"].split(":")[1], whole["path"])
        read.files[folder + whole["path"]] = body
        rows = _table(body)
        assert len(rows) == uf["rows"] == whole["rnds:rows"]
        assert len(parts) == uf["municipalities"]
        together = []
        for part in parts:
            piece = _checked(get(base + folder + part["path"]), part["bytes"], part["hash"].split(":")[1], part["path"])
            read.files[folder + part["path"]] = piece
            own = _table(piece)
            assert len(own) == part["rnds:rows"]
            assert {row["co_municipio_estabelecimento"] for row in own} == {part["rnds:municipio"]}
            together += own
        assert together == rows, f"the municipalities of UF {uf['uf']} are not its rows"
        assert all(row["co_municipio_estabelecimento"].startswith(uf["uf"]) for row in rows)
        read.rows += rows
    removed = root["files"]["removed"]
    body = _checked(get(base + removed["path"]), removed["bytes"], removed["sha256"], "removed.csv")
    read.files["removed.csv"] = body
    read.removed = _table(body)
    assert len(read.removed) == removed["rows"]
    named = root["files"]["outcome"]
    read.outcome = json.loads(_checked(get(base + named["path"]), named["bytes"], named["sha256"], "outcome.json"))
    account, source = entry["account"], entry["source"]
    assert len(read.rows) == root["rows"] == current["rows"] == account["published"]
    assert account["doses"] == sum(account[name] for name in ("published", "quarantined", "superseded", "removed"))
    assert source["fetched"] == source["unique"] + source["duplicates"]
    assert {key: read.outcome["account"][key] for key in account} == account
    text = "".join(f"{path}\0{hashlib.sha256(body).hexdigest()}\n" for path, body in sorted(read.files.items()))
    assert hashlib.sha256(text.encode()).hexdigest() == current["contentId"]
    assert len({row["co_documento"] for row in read.rows}) == len(read.rows), "a key is repeated"
    return read
