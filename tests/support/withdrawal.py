"""A person takes a day back: one new revision without content, then the month index."""

from __future__ import annotations

import json
from typing import Any

from imunizacao.derived import follow_head
from imunizacao.storage import ObjectStore, swap


def withdraw(public: ObjectStore, day: str, *, token: str, at: str = "2026-03-16T12:00:00+00:00") -> str:
    """Withdraw the day; what was done, in a word."""
    key = f"v1/days/{day}/head.json"

    def decide(body: bytes | None) -> tuple[bytes | None, str]:
        if body is None:
            return None, "nothing there"
        head: dict[str, Any] = json.loads(body)
        last = head["history"][-1]
        if any(entry["commitToken"] == token for entry in head["history"]):
            return None, "withdrawn"
        if last["reason"] == "withdrawal" and head["current"] is None and "reconciliation" not in last:
            return None, "unchanged"
        entry = {
            "revision": head["revision"] + 1,
            "state": "withdrawn",
            "contentId": None,
            "path": None,
            "sha256": None,
            "bytes": None,
            "publishedAt": at,
            "dataThrough": last["dataThrough"],
            "reason": "withdrawal",
            "supersedes": head["revision"],
            "commitToken": token,
            "runId": "person",
            "codeVersion": "test",
            "note": "Retirado a pedido do estado.",
        }
        head |= {"revision": entry["revision"], "state": "withdrawn", "current": None}
        head["history"].append(entry)
        return json.dumps(head, ensure_ascii=False, indent=2).encode() + b"\n", "withdrawn"

    done = swap(public, key, decide)
    if done != "nothing there":
        follow_head(public, day)
    return done
