"""A published bucket in memory, to be damaged: and sealed again, level by level, as somebody would who hides the damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from imunizacao.verify import Missing

Json = dict[str, Any]
LEVELS = ("nothing", "descriptor", "root", "head", "id", "counts")
"""What is made to agree with the damaged file: each level includes those before it."""


class Tree:
    """Objects by key; a `Reader` as well."""

    address, moves = "memory", False

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.read: list[str] = []

    def stream(self, key: str) -> Iterator[bytes]:
        """An object in blocks so small that rows are cut."""
        self.read.append(key)
        if key not in self.files:
            raise Missing(key, "not there")
        body = self.files[key]
        yield from (body[start : start + 1000] for start in range(0, len(body), 1000))

    def close(self) -> None:
        """Nothing is held."""

    def json(self, key: str) -> Json:
        """A manifest."""
        document: Json = json.loads(self.files[key])
        return document

    def edit(self, key: str, change: Callable[[Json], object]) -> None:
        """Change a manifest in place."""
        document = self.json(key)
        change(document)
        self.files[key] = json.dumps(document, ensure_ascii=False, indent=2).encode() + b"\n"

    def change(self, key: str, change: Callable[[bytes], bytes]) -> None:
        """Change a file; a change that changes nothing is a mistake in the test."""
        before = self.files[key]
        self.files[key] = change(before)
        assert self.files[key] != before, f"{key} was not damaged"

    def folder(self, day: str) -> str:
        """Content folder of the present revision, with its final slash."""
        path: str = self.json(head(day))["current"]["path"]
        return path.rpartition("/")[0] + "/"

    def seal(self, day: str, level: str) -> None:
        """Make manifests agree with the files, up to a level."""
        upto = LEVELS.index(level)
        counts = level == "counts"
        for step, work in enumerate((self._seal_descriptors, self._seal_root, self._seal_head, self._seal_id), 1):
            if step <= upto:
                work(day, counts)
        if counts:
            self.seal(day, "id")

    def seal_above(self, day: str) -> None:
        """Make root and head agree with the descriptors, and leave those as they are."""
        self._seal_root(day, False)
        self._seal_head(day, False)

    def _seal_descriptors(self, day: str, counts: bool) -> None:
        for key in [
            key for key in self.files if key.startswith(self.folder(day)) and key.endswith("/datapackage.json")
        ]:
            here = key.rpartition("/")[0] + "/"

            def seal(document: Json, here: str = here) -> None:
                for node in (*document["resources"], *document["rnds:parts"]):
                    body = self.files.get(here + node["path"])
                    if body is None:
                        continue
                    node["bytes"], node["hash"] = len(body), f"sha256:{sha256(body)}"
                    if counts and "rnds:rows" in node:
                        node["rnds:rows"] = body.count(b"\n") - 1

            self.edit(key, seal)

    def _seal_root(self, day: str, counts: bool) -> None:
        folder = self.folder(day)

        def seal(document: Json) -> None:
            files = document["files"]
            for node in (*files["ufs"], files["removed"], files["outcome"]):
                body = self.files.get(folder + node["path"])
                if body is None:
                    continue
                node["bytes"], node["sha256"] = len(body), sha256(body)
                if counts and "uf" in node:
                    node["rows"] = json.loads(body)["resources"][0]["rnds:rows"]
            if counts:
                document["rows"] = sum(node["rows"] for node in files["ufs"])

        self.edit(folder + "day.json", seal)

    def _seal_head(self, day: str, counts: bool) -> None:
        body = self.files[self.folder(day) + "day.json"]
        rows = json.loads(body)["rows"]

        def seal(document: Json) -> None:
            last = document["history"][-1]
            same = [entry for entry in document["history"] if entry["path"] == last["path"]]
            for node in (document["current"], *same):
                node["bytes"], node["sha256"] = len(body), sha256(body)
            if counts:
                document["current"]["rows"] = last["account"]["published"] = rows

        self.edit(head(day), seal)
        self.index(day)

    def _seal_id(self, day: str, counts: bool) -> None:
        folder = self.folder(day)
        csvs = [key for key in self.files if key.startswith(folder) and key.endswith(".csv")]
        lines = sorted(f"{key.removeprefix(folder)}\0{sha256(self.files[key])}\n" for key in csvs)
        content = sha256("".join(lines).encode())
        new = f"v1/days/{day}/c-{content}/"
        for key in [key for key in self.files if key.startswith(folder)]:
            self.files[new + key.removeprefix(folder)] = self.files.pop(key)

        def seal(document: Json) -> None:
            for node in (document["current"], document["history"][-1]):
                node["contentId"], node["path"] = content, new + "day.json"

        self.edit(head(day), seal)
        self.index(day)

    def index(self, day: str) -> None:
        """Make month index, `$bulk-publish` manifest and catalog agree with a head, as the contract says."""
        document = self.json(head(day))
        self._bulk(day, document)
        current, away = document["current"], set(document.get("withdrawnUfs", {}))
        ufs: list[Json] = []
        known = 0
        if current is not None:
            root = self.json(current["path"])
            ufs = [uf for uf in root["files"]["ufs"] if uf["uf"] not in away]
            known = root["residence"]["known"]
        row: Json = {
            "day": day,
            "state": document["state"],
            "revision": document["revision"],
            "rows": sum(uf["rows"] for uf in ufs),
            "path": head(day),
            "root": {name: current[name] for name in ("path", "sha256")} if current is not None else None,
            "ufs": {uf["uf"]: uf["rows"] for uf in ufs},
            "residents": {uf["uf"]: uf["residents"] for uf in ufs} if known else {},
        }
        if away and current is not None:
            row["withdrawnUfs"] = sorted(away)
        month = f"v1/months/{day[:7]}/index.json"

        def put(document: Json) -> None:
            document["days"] = [row if old["day"] == day else old for old in document["days"]]

        self.edit(month, put)
        days = self.json(month)["days"]

        def count(document: Json) -> None:
            for node in (*(node for node in document["months"] if node["month"] == day[:7]), document["totals"]):
                node["days"] = len(days)
                node["rows"] = sum(row["rows"] for row in days)
                node["residents"] = sum(sum(row["residents"].values()) for row in days)

        self.edit("v1/catalog.json", count)

    def _bulk(self, day: str, document: Json) -> None:
        current, last = document["current"], document["history"][-1]
        entry = {"revision": document["revision"], "dataThrough": (current or last)["dataThrough"]}
        output: list[Json] = []
        deleted: list[Json] = []
        if current is not None:
            entry["contentId"] = current["contentId"]
            folder = self.folder(day)
            files = self.json(current["path"])["files"]
            address = "../../" + folder.removeprefix("v1/")
            for uf in files["ufs"]:
                package = json.loads(self.files.get(f"{folder}uf={uf['uf']}/datapackage.json", b"{}"))
                if not uf["rows"] or uf["uf"] in document.get("withdrawnUfs", {}) or not package.get("resources"):
                    continue
                whole = package["resources"][0]
                facts = {"rnds:sha256": whole["hash"][7:], "rnds:day": day, "rnds:operation": whole["name"]}
                where = {"type": "Immunization", "url": f"{address}uf={uf['uf']}/{whole['path']}"}
                output.append(where | {"count": uf["rows"], "fileSize": whole["bytes"], "extension": facts})
            gone = files["removed"]
            if gone["rows"]:
                facts = {"rnds:sha256": gone["sha256"], "rnds:day": day}
                where = {"url": f"{address}removed.csv", "count": gone["rows"], "fileSize": gone["bytes"]}
                deleted.append(where | {"extension": facts})

        def put(month: Json) -> None:
            days = month["extension"]["rnds:days"]
            days[day] = entry
            month["transactionTime"] = max((one["dataThrough"] for one in days.values()), key=datetime.fromisoformat)
            for name, files in (("output", output), ("deleted", deleted)):
                others = [file for file in month[name] if file["extension"]["rnds:day"] != day]
                month[name] = sorted([*others, *files], key=lambda file: file["extension"]["rnds:day"])

        self.edit(f"v1/months/{day[:7]}/bulk-publish.json", put)


def head(day: str) -> str:
    """Key of a head."""
    return f"v1/days/{day}/head.json"


def sha256(body: bytes) -> str:
    """Hex."""
    return hashlib.sha256(body).hexdigest()
