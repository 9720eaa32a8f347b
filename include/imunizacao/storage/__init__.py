"""The only door to the object store (boto3). Errors of the client become ours here."""

from imunizacao.storage.immutable import IMMUTABLE, Stored, create_once, put_once
from imunizacao.storage.pointer import swap
from imunizacao.storage.probe import probe_store
from imunizacao.storage.receipts import file_ref, file_sha256, put_receipt, read_object, read_receipt
from imunizacao.storage.room import require_room
from imunizacao.storage.slices import FileSlice
from imunizacao.storage.store import (
    ObjectInfo,
    ObjectMissing,
    ObjectStore,
    PreconditionLost,
    StoredObject,
    check_key,
    open_nominal_store,
    open_public_store,
    open_work_store,
    sha256_of,
)

__all__ = [
    "IMMUTABLE",
    "FileSlice",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "PreconditionLost",
    "Stored",
    "StoredObject",
    "check_key",
    "create_once",
    "file_ref",
    "file_sha256",
    "open_nominal_store",
    "open_public_store",
    "open_work_store",
    "probe_store",
    "put_once",
    "put_receipt",
    "read_object",
    "read_receipt",
    "require_room",
    "sha256_of",
    "swap",
]
