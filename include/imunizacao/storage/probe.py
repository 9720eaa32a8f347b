"""Prove that the object store keeps the promises that a publication rests on, before anything is published.

Some stores answer 200 to a stale conditional write and lose updates in silence; such a store is refused.
"""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor

from imunizacao.errors import ConfigurationError
from imunizacao.storage.store import ObjectStore, PreconditionLost

_RACERS = 8
_TRIES = 3


def probe_store(store: ObjectStore) -> None:
    """Try create-if-absent, stale and right If-Match, a wrong checksum and an 8-way race (about 20 small requests).

    Raises `ConfigurationError` naming the promise that the store broke. Leaves nothing behind.
    """
    prefix = f"v1/probe/{secrets.token_hex(8)}-"
    keys = [prefix + name for name in ("create", "race", "checksum")]
    try:
        _probe_create_and_swap(store, keys[0])
        _probe_race(store, keys[1])
        _probe_checksum(store, keys[2])
    finally:
        for key in keys:
            store.delete(key)


def _probe_create_and_swap(store: ObjectStore, key: str) -> None:
    first = _write(store, key, b"1", only_if_absent=True)
    if _accepts(store, key, b"2", only_if_absent=True):
        raise _refused(store, "it overwrote an object although the write said If-None-Match: *")
    second = _write(store, key, b"2", only_if_match=first)
    if _accepts(store, key, b"3", only_if_match=first):
        raise _refused(store, "it accepted a write with an If-Match that was no longer true")
    found = store.get(key)
    if found.body != b"2" or found.etag != second:
        raise _refused(store, "a read after a write did not give what was written")
    if _accepts(store, key + "-absent", b"1", only_if_match=first):
        store.delete(key + "-absent")
        raise _refused(store, "it accepted a write with If-Match for an object that does not exist")


def _probe_race(store: ObjectStore, key: str) -> None:
    """Of simultaneous creates one wins. When none was told so, a response was lost, and the object says who it was."""
    with ThreadPoolExecutor(_RACERS) as pool:
        won = list(pool.map(lambda n: _accepts(store, key, str(n).encode(), only_if_absent=True), range(_RACERS)))
    if won.count(True) > 1 or (won.count(True) == 0 and store.get_or_none(key) is None):
        raise _refused(store, f"{won.count(True)} of {_RACERS} simultaneous If-None-Match: * writes won instead of one")


def _write(store: ObjectStore, key: str, body: bytes, *, only_if_absent: bool = False, only_if_match: str = "") -> str:
    """A write that must be accepted: nobody else knows the key.

    One that was sent twice, because its response was lost, is refused the second time and is there all the same. While the first is
    still on its way, the store may also refuse the second (409): then it is sent again.
    """
    for _ in range(_TRIES):
        try:
            return store.put(key, body, only_if_absent=only_if_absent, only_if_match=only_if_match)
        except PreconditionLost:
            found = store.get_or_none(key)
            if found is not None and found.body == body:
                return found.etag
    raise _refused(store, "it refused a conditional write whose condition was true")


def _probe_checksum(store: ObjectStore, key: str) -> None:
    try:
        store.put(key, b"body", sha256="0" * 64)
    except Exception as error:
        if store.info(key) is None:
            return
        raise _refused(store, "it kept an object whose checksum was wrong") from error
    raise _refused(store, "it accepted a body that does not have the sha256 it was sent with")


def _accepts(
    store: ObjectStore, key: str, body: bytes, *, only_if_absent: bool = False, only_if_match: str = ""
) -> bool:
    try:
        store.put(key, body, only_if_absent=only_if_absent, only_if_match=only_if_match)
    except PreconditionLost:
        return False
    return True


def _refused(store: ObjectStore, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"The S3 service at {store.endpoint_url} cannot hold publications: {what} (bucket {store.bucket}). "
        "Two runs could overwrite each other unseen. Use a store with conditional writes; see docs/runbook/storage-probe.md."
    )
