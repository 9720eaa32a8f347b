"""The only door to the object store (boto3). Errors of the client become ours here."""

from imunizacao.storage.pointer import swap
from imunizacao.storage.probe import probe_store
from imunizacao.storage.receipts import file_ref, file_sha256, put_receipt, read_object, read_receipt
from imunizacao.storage.slices import FileSlice
from imunizacao.storage.store import (
    ObjectInfo,
    ObjectMissing,
    ObjectStore,
    PreconditionLost,
    StoredObject,
    open_public_store,
    open_work_store,
    sha256_of,
)

__all__ = [
    "FileSlice",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "PreconditionLost",
    "StoredObject",
    "file_ref",
    "file_sha256",
    "open_public_store",
    "open_work_store",
    "probe_store",
    "put_receipt",
    "read_object",
    "read_receipt",
    "sha256_of",
    "swap",
]
