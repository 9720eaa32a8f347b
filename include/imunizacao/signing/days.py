"""Signatures of days: made before a head names them, and made again for days that are published already."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import msgspec

from imunizacao.errors import ContractViolation
from imunizacao.manifests import (
    CATALOG_KEY,
    Catalog,
    Day,
    Entry,
    Head,
    Month,
    Signature,
    decode,
    encode,
    head_key,
    signature_key,
)
from imunizacao.signing.envelope import Signed, make_envelope
from imunizacao.signing.keys import Signer
from imunizacao.signing.ring import publish_key
from imunizacao.storage import ObjectStore, Stored, put_once, sha256_of, swap

_JSON = "application/json"


def sign_root(
    store: ObjectStore, signer: Signer, *, root: Stored, day: str, content_id: str, rows: int, now: datetime
) -> Signature:
    """Publish the key and the signature of a root that is there. Until a head names the signature, nobody has to know of it."""
    publish_key(store, signer, now=now)
    body = _envelope(signer, root=root, day=day, content_id=content_id, rows=rows)
    stored = put_once(store, signature_key(root.path, signer.key_id), body, content_type=_JSON)
    return Signature(path=stored.path, sha256=stored.sha256, bytes=stored.bytes, key_id=signer.key_id)


def is_signed(store: ObjectStore, signer: Signer, *, root: Stored, day: str, content_id: str, rows: int) -> bool:
    """Whether this key has signed exactly this root."""
    stored = store.get_or_none(signature_key(root.path, signer.key_id))
    own = _envelope(signer, root=root, day=day, content_id=content_id, rows=rows)
    return stored is not None and stored.body == own


def _envelope(signer: Signer, *, root: Stored, day: str, content_id: str, rows: int) -> bytes:
    return make_envelope(signer, Signed(root=root.path, sha256=root.sha256, day=day, content_id=content_id, rows=rows))


def with_signature(head: Head, root: str, signature: Signature | None) -> Head:
    """The head with this signature wherever it names the root. None changes nothing: a signature that is there stays."""
    if signature is None:
        return head
    current = head.current
    if current is not None and current.path == root:
        current = msgspec.structs.replace(current, signature=signature)
    history = [
        msgspec.structs.replace(entry, signature=signature) if entry.path == root else entry for entry in head.history
    ]
    return msgspec.structs.replace(head, current=current, history=history)


def known_signature(head: Head, root: str) -> Signature | None:
    """The newest signature that the history names for a root: a content that comes back brings it along."""
    return next((entry.signature for entry in reversed(head.history) if entry.path == root and entry.signature), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsigned:
    """A root that was not signed, and why."""

    root: str
    reason: str


Vouch = Callable[[Head, Entry], bool]
"""Whether something outside of the bucket says that this root is the one that was published."""


def receipts_vouch(work: ObjectStore, stage: str) -> Vouch:
    """Confirm a root by the receipt of a run that published it: the work bucket is not the one that readers, and others, may reach."""

    def vouched(head: Head, entry: Entry) -> bool:
        for other in head.history:
            if other.path != entry.path:
                continue
            stored = work.get_or_none(f"v1/day={head.day}/run={other.run_id}/{stage}/receipt.json")
            receipt = json.loads(stored.body) if stored is not None else {}
            if (receipt.get("root_path"), receipt.get("root_sha256")) == (entry.path, entry.sha256):
                return True
        return False

    return vouched


def resign_day(
    store: ObjectStore, day: str, signer: Signer, *, vouched: Vouch, now: datetime
) -> tuple[int, list[Unsigned]]:
    """Sign every content that the history of a day names, and let the head name the signatures: no new revision.

    Only what `vouched` confirms is signed: a signature over what somebody else has put into the bucket would make it look good.
    Answers how many contents are signed by this key now, and which are not. A day without head is (0, []).
    """
    stored = store.get_or_none(head_key(day))
    if stored is None:
        return 0, []
    head = decode(Head, stored.body, head_key(day))
    signatures: dict[str, Signature] = {}
    left: dict[str, Unsigned] = {}
    for entry in head.history:
        if entry.path is None or entry.sha256 is None or entry.purged_at is not None or entry.path in signatures:
            continue
        done = _sign_entry(store, signer, head, entry, vouched=vouched, now=now)
        if isinstance(done, Unsigned):
            left[entry.path] = done
        else:
            signatures[entry.path] = done

    def decide(body: bytes | None) -> tuple[bytes | None, None]:
        if body is None:
            return None, None
        moved = decode(Head, body, head_key(day))
        for root, signature in signatures.items():
            moved = with_signature(moved, root, signature)
        return encode(moved), None

    if signatures:
        swap(store, head_key(day), decide)
    return len(signatures), [left[root] for root in left if root not in signatures]


def _sign_entry(
    store: ObjectStore, signer: Signer, head: Head, entry: Entry, *, vouched: Vouch, now: datetime
) -> Signature | Unsigned:
    path, sha256 = str(entry.path), str(entry.sha256)
    root = store.get_or_none(path)
    if root is None:
        return Unsigned(root=path, reason="it is not there any more")
    if sha256_of(root.body) != sha256:
        return Unsigned(root=path, reason="its sha256 is not the one in the head; see docs/runbook/damaged-manifest.md")
    if not vouched(head, entry):
        return Unsigned(root=path, reason="no receipt of a run says that it was published like this")
    manifest = decode(Day, root.body, path)
    if manifest.day != head.day:
        raise ContractViolation(
            f"{path} describes {manifest.day}, and the head of {head.day} names it. See docs/runbook/damaged-manifest.md."
        )
    return sign_root(
        store,
        signer,
        root=Stored(path=path, sha256=sha256, bytes=len(root.body)),
        day=head.day,
        content_id=str(entry.content_id),
        rows=manifest.rows,
        now=now,
    )


def published_days(store: ObjectStore) -> Iterator[str]:
    """Days with a head, oldest first: from the catalog, or by a list of keys in a bucket that has none."""
    catalog = store.get_or_none(CATALOG_KEY)
    if catalog is None:
        yield from sorted(info.key.split("/")[2] for info in store.list("v1/days/") if info.key.endswith("/head.json"))
        return
    for month in decode(Catalog, catalog.body, CATALOG_KEY).months:
        for day in decode(Month, store.get(month.path).body, month.path).days:
            yield day.day
