"""Withdrawals as the contract describes them, made by hand on a copy of a bucket."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.tree import Json, Tree, head

AT = "2026-03-20T12:00:00+00:00"
WHY = "Retirado a pedido do órgão responsável."


def _withdrawal(document: Json) -> Json:
    """A new entry after the last."""
    last = document["history"][-1]
    kept = {name: last[name] for name in ("dataThrough", "runId", "codeVersion")}
    return kept | {
        "revision": last["revision"] + 1,
        "supersedes": last["revision"],
        "publishedAt": AT,
        "commitToken": f"withdrawal-{last['revision']}",
        "reason": "withdrawal",
        "note": WHY,
    }


def withdraw_day(tree: Tree, day: str) -> None:
    """The whole day is taken back."""

    def change(document: Json) -> None:
        nothing = dict.fromkeys(("contentId", "path", "sha256", "bytes"))
        document["history"].append(_withdrawal(document) | nothing | {"state": "withdrawn"})
        document |= {"revision": document["revision"] + 1, "state": "withdrawn", "current": None}

    tree.edit(head(day), change)
    tree.index(day)


def withdraw_ufs(tree: Tree, day: str, ufs: Sequence[str]) -> None:
    """Some UFs are taken back, the rest stays."""

    def change(document: Json) -> None:
        last = document["history"][-1]
        same = {name: last[name] for name in ("state", "contentId", "path", "sha256", "bytes", "source", "account")}
        entry = _withdrawal(document) | same | {"ufs": list(ufs), "reconciliation": {"verdict": "ok", "checkedAt": AT}}
        document["history"].append(entry)
        document["revision"] += 1
        notice = {"revision": document["revision"], "reason": WHY, "at": AT}
        document["withdrawnUfs"] = {uf: dict(notice) for uf in ufs}

    tree.edit(head(day), change)
    tree.index(day)


def purge(tree: Tree, day: str, ufs: Sequence[str] = ()) -> None:
    """The grace period is over: files go, and the head says so. Differences with the same rows go as well."""
    gone: list[str] = [] if ufs else [f"v1/days/{day}/diff/"]

    def change(document: Json) -> None:
        if ufs:
            for uf in ufs:
                document["withdrawnUfs"][uf]["purgedAt"] = AT
            for entry in document["history"]:
                if set(ufs) & set(entry.get("diff", {}).get("ufs", {})):
                    entry["diff"]["purgedAt"] = AT
                    gone.append(entry["diff"]["path"] + "/")
            return
        for entry in document["history"]:
            if entry["path"]:
                entry["purgedAt"] = AT
                gone.append(entry["path"].rpartition("/")[0] + "/")

    if ufs:
        gone += [f"{tree.folder(day)}uf={uf}/" for uf in ufs]
    tree.edit(head(day), change)
    for key in [key for key in tree.files if key.startswith(tuple(gone))]:
        if key.endswith(".csv") or not ufs:
            del tree.files[key]
