"""The public keys of a bucket: one immutable PEM each, and a list of all that says which of them are good."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

import msgspec

from imunizacao.errors import ConfigurationError
from imunizacao.events import log_event
from imunizacao.manifests import CATALOG_KEY, KEYS_KEY, Catalog, Keys, PublicKey, decode, encode, public_key_key
from imunizacao.signing.keys import Signer
from imunizacao.storage import ObjectStore, put_once, sha256_of, swap

SCHEMA: Final = "imunizacao.keys/1"
_PEM: Final = "application/x-pem-file"
EndState = Literal["retired", "revoked"]


def read_keys(store: ObjectStore) -> list[PublicKey]:
    """All keys of a bucket in the order in which they came; none in a bucket where nothing was ever signed."""
    stored = store.get_or_none(KEYS_KEY)
    return decode(Keys, stored.body, KEYS_KEY).keys if stored is not None else []


def publish_key(store: ObjectStore, signer: Signer, *, now: datetime) -> None:
    """See that readers can find the key before anything names it. A key that was retired or revoked is a `ConfigurationError`.

    Two runs that publish the same key at once leave one entry.
    """
    if _require_active(read_keys(store), signer, store):
        return
    key = public_key_key(signer.key_id)
    put_once(store, key, signer.public_pem, content_type=_PEM)
    entry = PublicKey(
        key_id=signer.key_id,
        algorithm="Ed25519",
        path=key,
        sha256=sha256_of(signer.public_pem),
        state="active",
        since=now.isoformat(timespec="seconds"),
    )

    def decide(body: bytes | None) -> tuple[bytes | None, bool]:
        keys = decode(Keys, body, KEYS_KEY).keys if body is not None else []
        if _require_active(keys, signer, store):
            return None, False
        return encode(Keys(schema=SCHEMA, keys=[*keys, entry])), True

    if swap(store, KEYS_KEY, decide):
        log_event("signing.key_published", bucket=store.bucket, key_id=signer.key_id)


def name_keys(store: ObjectStore) -> None:
    """Let the catalog name the list of keys, for keys that come by something else than a publication. Without a catalog there is nothing to do."""

    def decide(body: bytes | None) -> tuple[bytes | None, None]:
        catalog = decode(Catalog, body, CATALOG_KEY) if body is not None else None
        if catalog is None or catalog.keys is not None:
            return None, None
        return encode(msgspec.structs.replace(catalog, keys=KEYS_KEY)), None

    swap(store, CATALOG_KEY, decide)


def set_state(store: ObjectStore, key_id: str, state: EndState, *, now: datetime) -> PublicKey | None:
    """Retire a key (its signatures stay good) or revoke it (none of them is good), and say what it is now; None: no such key here.

    There is no way back: a revoked key stays revoked, and neither signs again.
    """

    def decide(body: bytes | None) -> tuple[bytes | None, PublicKey | None]:
        keys = decode(Keys, body, KEYS_KEY).keys if body is not None else []
        found = next((key for key in keys if key.key_id == key_id), None)
        if found is None or found.state in {state, "revoked"}:
            return None, found
        ended = msgspec.structs.replace(found, state=state, until=now.isoformat(timespec="seconds"))
        return encode(Keys(schema=SCHEMA, keys=[ended if key is found else key for key in keys])), ended

    ended = swap(store, KEYS_KEY, decide)
    log_event("signing.key_ended", bucket=store.bucket, key_id=key_id, state=ended.state if ended else None)
    return ended


def _require_active(keys: list[PublicKey], signer: Signer, store: ObjectStore) -> bool:
    """Whether the key is listed. Raises when it must not sign any more."""
    found = next((key for key in keys if key.key_id == signer.key_id), None)
    if found is not None and found.state != "active":
        raise ConfigurationError(
            f"The signing key {signer.key_id} is {found.state} in {store.bucket} since {found.until}. Nothing was published. Configure the "
            "key that signs now, or none; see docs/runbook/signing-keys.md."
        )
    return found is not None
