"""Small objects that change by compare-and-swap: read, decide, write only if nobody was faster, read back when unsure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from imunizacao.errors import PublicationConflict, StorageUnavailable
from imunizacao.storage.store import ObjectStore, PreconditionLost

R = TypeVar("R")
_TRIES = 8


def swap(
    store: ObjectStore,
    key: str,
    decide: Callable[[bytes | None], tuple[bytes | None, R]],
    *,
    cache_control: str = "max-age=10",
    content_type: str = "application/json",
) -> R:
    """Move the pointer `key` to what `decide` wants, and return what it answers.

    `decide` gets the present body (None = absent) and returns (new body, answer); a new body of None leaves the pointer as it
    is. It may be called several times and must recognise its own earlier success by itself (a commit token in the body): after
    a refused write or a lost response the pointer is read again and `decide` is asked again. Nothing is ever deleted.
    Raises `PublicationConflict` when others win too often, `StorageUnavailable` when the store does not answer.
    """
    unsure: StorageUnavailable | None = None
    for _ in range(_TRIES):
        stored = store.get_or_none(key)
        body, answer = decide(stored.body if stored else None)
        if body is None or (stored is not None and body == stored.body):
            return answer
        try:
            store.put(
                key,
                body,
                content_type=content_type,
                cache_control=cache_control,
                only_if_absent=stored is None,
                only_if_match=stored.etag if stored else "",
            )
        except PreconditionLost:
            unsure = None
            continue
        except StorageUnavailable as error:
            unsure = error
            continue
        return answer
    if unsure is not None:
        raise unsure
    raise PublicationConflict(
        f"{store.bucket}/{key} was moved by others {_TRIES} times while this run tried. Nothing was lost; run the task again."
    )
