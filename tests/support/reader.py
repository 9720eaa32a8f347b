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
    residents: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """Doses of residents by UF code; empty on a day without residence."""
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
        assert {part["path"] for part in package["rnds:parts"]} == {whole["schema"], whole["dialect"]}
        for part in package["rnds:parts"]:
            _checked(get(base + folder + part["path"]), part["bytes"], part["hash"].split(":")[1], part["path"])
        if parts and parts[-1]["name"].startswith("imunizacao-residentes-"):
            own = parts.pop()
            assert own["name"] == f"imunizacao-residentes-{uf['sg_uf'].lower()}"
            piece = _checked(get(base + folder + own["path"]), own["bytes"], own["hash"].split(":")[1], own["path"])
            read.files[folder + own["path"]] = piece
            read.residents[uf["uf"]] = _table(piece)
            assert len(read.residents[uf["uf"]]) == own["rnds:rows"]
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
    _check_residents(read)
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


def _check_residents(read: DayRead) -> None:
    """Each UF's residents are the doses that name it, in order; they and the doses without residence are all doses."""
    known = [row for row in read.rows if row["co_municipio_paciente"]]
    said = read.root["residence"]
    assert said == {"known": len(known), "unknown": len(read.rows) - len(known)}
    assert sorted(read.residents) == (sorted(uf["uf"] for uf in read.root["files"]["ufs"]) if known else [])
    for uf in read.root["files"]["ufs"]:
        own = [row for row in known if row["co_municipio_paciente"].startswith(uf["uf"])]
        assert {row["sg_uf_paciente"] for row in own} <= {uf["sg_uf"]}
        own.sort(key=lambda row: (row["co_municipio_paciente"].encode(), row["co_documento"].encode()))
        assert read.residents.get(uf["uf"], []) == own, f"the residents of UF {uf['uf']} are not the doses that name it"
        assert uf["residents"] == len(own)
        for row in own:
            same = row["co_municipio_estabelecimento"].startswith(uf["uf"])
            assert row["st_residente_uf"] == ("S" if same else "N")
    assert all(row["st_residente_uf"] == "" for row in read.rows if not row["co_municipio_paciente"])


def read_diff(get: Get, entry: dict[str, Any]) -> dict[str, bytes]:
    """The three files of the diff of a history entry (`added`, `changed`, `removed`), checked against what the entry says."""
    diff = entry["diff"]
    files = {}
    for name in ("added", "changed", "removed"):
        named = diff["files"][name]
        files[name] = _checked(get(f"{diff['path']}/{name}.csv"), named["bytes"], named["sha256"], f"{name}.csv")
        assert len(_table(files[name])) == diff[name]
    return files


def apply_diff(files: dict[str, bytes], diff: dict[str, bytes]) -> dict[str, bytes]:
    """Bring a copy of the files of revision n to revision n + 1.

    `files`: path in the content folder → bytes, of every UF: its file, its municipalities and its residents. `diff`: the three files
    that the entry of revision n + 1 names. Every dose of `changed` and `removed` goes from wherever it is in the copy, then those
    of `added` and `changed` take their places. Columns that are new stay empty in the doses that the diff does not touch.
    """
    header = next(csv.reader(io.StringIO(diff["added"].decode()), delimiter=";"))
    changed, gone = _table(diff["changed"]), {row["co_documento"] for row in _table(diff["removed"])}
    gone |= {row["co_documento"] for row in changed}
    fresh = _table(diff["added"]) + changed
    done: dict[str, bytes] = {}
    views = {"imunizacao-total-": "co_municipio_estabelecimento", "imunizacao-residentes-": "co_municipio_paciente"}
    ufs = {path: path.rpartition("/")[0] for path in files if "/imunizacao-total-" in path}
    residents = 0
    for path, folder in ufs.items():
        for start, place in views.items():
            of_view = path.replace("imunizacao-total-", start)
            rows = [row for row in _table(files.get(of_view, b"")) if row["co_documento"] not in gone]
            rows += [row for row in fresh if row[place].startswith(folder.removeprefix("uf="))]
            rows.sort(key=lambda row: (row[place], row["co_documento"]))
            done[of_view] = _csv(header, rows)
            residents += len(rows) if place == "co_municipio_paciente" else 0
            if place == "co_municipio_estabelecimento":
                for municipio in {row[place] for row in rows}:
                    name = f"{folder}/mun={municipio}/imunizacao-{municipio}_{path.rpartition('_')[2]}"
                    done[name] = _csv(header, [row for row in rows if row[place] == municipio])
    # A day on which no dose has a residence has no files of residents.
    return {path: body for path, body in done.items() if residents or "imunizacao-residentes-" not in path}


def _csv(header: list[str], rows: list[dict[str, str]]) -> bytes:
    """A table as the files have it: every value in quotes, an absent one without."""
    lines = [";".join(f'"{name}"' for name in header)]
    for row in rows:
        values = (row.get(name, "").replace('"', '""') for name in header)
        lines.append(";".join(f'"{value}"' if value else "" for value in values))
    return ("\n".join(lines) + "\n").encode()
