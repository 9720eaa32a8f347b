"""One bucket behind the S3 API: plain and conditional writes with checksums that the server verifies."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from imunizacao.errors import ConfigurationError, ContractViolation, PipelineError, StorageUnavailable
from imunizacao.settings import NominalSettings, StorageSettings

_KEY = re.compile(r"[A-Za-z0-9._=/-]+")
_BLOCK = 1 << 20
_DELETE_BATCH = 1000
"""The most that one DeleteObjects request takes."""
T = TypeVar("T")


class ObjectMissing(PipelineError):
    """There is no such object."""


class PreconditionLost(PipelineError):
    """A conditional write was refused: somebody else (or our own lost response) was first. Read back, then decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a HEAD request tells."""

    key: str
    etag: str
    bytes: int
    content_type: str
    sha256: str
    """Hex; empty where the writer stored none."""
    modified: datetime | None = None
    """When it was written, by the clock of the store; None where it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """A small object in memory."""

    key: str
    etag: str
    body: bytes


def sha256_of(data: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(data).hexdigest()


class ObjectStore:
    """One bucket. Safe to share between threads."""

    def __init__(self, client: Any, bucket: str, endpoint_url: str) -> None:
        self._client = client
        self.bucket = bucket
        self.endpoint_url = endpoint_url

    def get(self, key: str) -> StoredObject:
        """Read a small object; `ObjectMissing` when there is none."""

        def call() -> StoredObject:
            answer = self._client.get_object(Bucket=self.bucket, Key=key)
            size, etag = int(self._said(answer, "ContentLength", key)), self._etag(answer, key)
            body: bytes = answer["Body"].read()
            self._require_whole(key, expected=size, found=len(body))
            return StoredObject(key=key, etag=etag, body=body)

        return self._do("read", key, call)

    def get_or_none(self, key: str) -> StoredObject | None:
        """Read a small object, or None when there is none."""
        try:
            return self.get(key)
        except ObjectMissing:
            return None

    def info(self, key: str) -> ObjectInfo | None:
        """Size, type and checksum of an object, or None when there is none.

        An answer to HEAD that was cut has no body to tell by: before size or checksum are taken for a damaged object, `measure` it.
        """

        def call() -> ObjectInfo:
            answer = self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
            return ObjectInfo(
                key=key,
                etag=self._etag(answer, key),
                bytes=int(self._said(answer, "ContentLength", key)),
                content_type=answer.get("ContentType", ""),
                sha256=_hex(answer.get("ChecksumSHA256", "")) or answer.get("Metadata", {}).get("sha256", ""),
                modified=answer.get("LastModified"),
            )

        try:
            return self._do("inspect", key, call)
        except ObjectMissing:
            return None

    def measure(self, key: str) -> tuple[int, str]:
        """Size and hex sha256 of the bytes of an object, read to the end; `ObjectMissing` when there is none."""
        digest, size = hashlib.sha256(), 0
        for block in self.stream(key):
            digest.update(block)
            size += len(block)
        return size, digest.hexdigest()

    def put(
        self,
        key: str,
        body: bytes | IO[bytes] | io.RawIOBase,
        *,
        sha256: str = "",
        content_type: str = "application/octet-stream",
        cache_control: str = "",
        disposition: str = "",
        only_if_absent: bool = False,
        only_if_match: str = "",
    ) -> str:
        """Write one object in a single request and return its ETag.

        `sha256` (hex) is verified by the server before the object becomes visible. With `only_if_absent` or
        `only_if_match` (an ETag) a lost race raises `PreconditionLost`; so does our own earlier success whose response
        was lost: read back before deciding. Keys outside `[A-Za-z0-9._=/-]`, with `..` or with a final `/` are refused.
        """
        check_key(key)
        if isinstance(body, bytes):
            sha256 = sha256 or sha256_of(body)
        extra: dict[str, Any] = {"ContentType": content_type}
        if sha256:
            extra["ChecksumSHA256"] = base64.b64encode(bytes.fromhex(sha256)).decode()
            extra["Metadata"] = {"sha256": sha256}
        if cache_control:
            extra["CacheControl"] = cache_control
        if disposition:
            extra["ContentDisposition"] = disposition
        if only_if_absent:
            extra["IfNoneMatch"] = "*"
        if only_if_match:
            extra["IfMatch"] = only_if_match

        def call() -> str:
            answer = self._client.put_object(Bucket=self.bucket, Key=key, Body=body, **extra)
            return self._etag(answer, key)

        return self._do("write", key, call)

    def put_file(self, key: str, path: Path, *, sha256: str, content_type: str = "application/octet-stream") -> None:
        """Write a local file as one object; the server verifies `sha256`."""
        with path.open("rb") as source:
            self.put(key, source, sha256=sha256, content_type=content_type)

    def download(self, key: str, path: Path, *, sha256: str = "") -> None:
        """Write an object to a local file; with `sha256`, other bytes than expected are a `ContractViolation`."""

        def call() -> str:
            digest, size = hashlib.sha256(), 0
            answer = self._client.get_object(Bucket=self.bucket, Key=key)
            with path.open("wb") as target:
                for block in answer["Body"].iter_chunks(_BLOCK):
                    digest.update(block)
                    target.write(block)
                    size += len(block)
            self._require_whole(key, expected=int(self._said(answer, "ContentLength", key)), found=size)
            return digest.hexdigest()

        found = self._do("read", key, call)
        if sha256 and found != sha256:
            raise ContractViolation(
                f"Object {key} of bucket {self.bucket} has sha256 {found}, expected {sha256}: it was changed or damaged. "
                "Clear the stage that wrote it and run it again."
            )

    def stream(self, key: str) -> Iterator[bytes]:
        """Blocks of an object, in order."""
        answer = self._do("read", key, lambda: self._client.get_object(Bucket=self.bucket, Key=key))
        blocks, size = answer["Body"].iter_chunks(_BLOCK), 0
        while True:
            block = self._do("read", key, lambda: next(blocks, b""))
            if not block:
                break
            size += len(block)
            yield block
        self._require_whole(key, expected=int(self._said(answer, "ContentLength", key)), found=size)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects under a prefix, in key order. Housekeeping and resume only: readers never list."""
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix))
        while True:
            page = self._do("list", prefix, lambda: next(pages, None))
            if page is None:
                return
            self._said(page, "IsTruncated", prefix)
            for item in page.get("Contents", []):
                yield ObjectInfo(
                    key=item["Key"],
                    etag=item["ETag"],
                    bytes=int(item["Size"]),
                    content_type="",
                    sha256="",
                    modified=item.get("LastModified"),
                )

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        self._do("delete", key, lambda: self._client.delete_object(Bucket=self.bucket, Key=key))

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove objects, a thousand in a request; missing ones are no error, one that stays is a `StorageUnavailable`."""
        for start in range(0, len(keys), _DELETE_BATCH):
            batch = keys[start : start + _DELETE_BATCH]
            answer = self._do("delete", batch[0], partial(self._delete_batch, batch))
            left = answer.get("Errors", [])
            if left:
                raise StorageUnavailable(
                    f"{len(left)} of {len(batch)} objects of bucket {self.bucket} could not be deleted, the first of them "
                    f"{left[0].get('Key', '?')} ({left[0].get('Code', '?')}). Check that this identity may delete there."
                )

    def _delete_batch(self, keys: Sequence[str]) -> dict[str, Any]:
        objects = [{"Key": key} for key in keys]
        answer: dict[str, Any] = self._client.delete_objects(
            Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True}
        )
        return answer

    def presign(self, key: str, *, seconds: int = 300) -> str:
        """An address that anybody can GET for `seconds`."""
        return str(
            self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=seconds
            )
        )

    def require_bucket(self) -> None:
        """Fail with the next step when the bucket is missing or closed to us."""
        self._do("inspect", "", lambda: self._client.head_bucket(Bucket=self.bucket))

    def _said(self, answer: Mapping[str, Any], name: str, key: str) -> Any:
        """A field that every answer has. A connection that is cut within the headers looks like an answer without the rest of them."""
        if name not in answer:
            raise StorageUnavailable(
                f"The answer about {self.bucket}/{key} at {self.endpoint_url} broke off: it has no {name}. Run the task again."
            )
        return answer[name]

    def _etag(self, answer: Mapping[str, Any], key: str) -> str:
        etag = str(self._said(answer, "ETag", key))
        if etag.startswith('"') and not etag[1:].endswith('"'):
            self._said({}, "whole ETag", key)
        return etag

    def _require_whole(self, key: str, *, expected: int, found: int) -> None:
        if expected != found:
            raise StorageUnavailable(
                f"The answer with {self.bucket}/{key} at {self.endpoint_url} broke off after {found} of {expected} bytes. Run the task again."
            )

    def _do(self, verb: str, key: str, call: Callable[[], T]) -> T:
        where = f"{self.bucket}/{key}" if key else f"bucket {self.bucket}"
        try:
            return call()
        except ClientError as error:
            raise self._mapped(error, verb, where) from error
        except OSError as error:
            raise StorageUnavailable(
                f"Cannot {verb} {where}: the local disk or the connection failed ({type(error).__name__}: {error.strerror}). "
                "Free scratch disk (IMUNIZACAO_SCRATCH_DIR), then run the task again; see docs/runbook/full-disk.md."
            ) from error
        except ValueError as error:
            # A date or a number in a header that was cut: botocore reads headers as if they were whole.
            raise StorageUnavailable(
                f"The answer about {where} at {self.endpoint_url} cannot be read ({type(error).__name__}): it broke off. Run the task again."
            ) from error
        except BotoCoreError as error:
            raise StorageUnavailable(
                f"Cannot {verb} {where} at {self.endpoint_url}: {type(error).__name__}. "
                "Check that the S3 service is up and its address is right, then run the task again."
            ) from error

    def _mapped(self, error: ClientError, verb: str, where: str) -> PipelineError:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(error.response.get("Error", {}).get("Code", status))
        if code == "NoSuchBucket" or (status == 404 and where.startswith("bucket ")):
            return ConfigurationError(
                f"Bucket {self.bucket} does not exist at {self.endpoint_url}. Create it, or set the right name "
                "(IMUNIZACAO_WORK_BUCKET / IMUNIZACAO_PUBLIC_BUCKET / IMUNIZACAO_NOMINAL_BUCKET, or extras of connections imunizacao_s3, imunizacao_nominal)."
            )
        if verb == "write" and (status in {409, 412} or (status == 404 and code == "NoSuchKey")):
            return PreconditionLost(f"{where}: conditional write refused ({code}).")
        if status == 404:
            return ObjectMissing(f"{where} does not exist.")
        if status in {401, 403}:
            return ConfigurationError(
                f"The S3 service at {self.endpoint_url} refuses to {verb} {where} ({code}). "
                "Check access key, secret key and the permissions of this identity."
            )
        return StorageUnavailable(
            f"Cannot {verb} {where} at {self.endpoint_url}: {code} (HTTP {status}). Run the task again when the service is well."
        )


def check_key(key: str) -> None:
    """Refuse a key that a store or a reader could misread."""
    if not _KEY.fullmatch(key) or ".." in key or key.startswith("/") or key.endswith("/") or "//" in key:
        raise ContractViolation(f"Object key {key!r} is not allowed: letters, digits and . _ = / - only.")


def open_work_store(settings: StorageSettings) -> ObjectStore:
    """The private bucket of the stages."""
    return ObjectStore(_client(settings), settings.work_bucket, settings.endpoint_url)


def open_public_store(settings: StorageSettings) -> ObjectStore:
    """The bucket that readers see."""
    return ObjectStore(_client(settings), settings.public_bucket, settings.endpoint_url)


def open_nominal_store(settings: StorageSettings, nominal: NominalSettings) -> ObjectStore:
    """The bucket of files with identifiers, on the same service, by its own identity where there is one."""
    own = replace(settings, access_key=nominal.access_key, secret_key=nominal.secret_key)
    return ObjectStore(_client(own), nominal.bucket, settings.endpoint_url)


def _client(settings: StorageSettings) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.endpoint_url,
        region_name=settings.region,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "total_max_attempts": 4},
            max_pool_connections=settings.max_connections,
            connect_timeout=5,
            read_timeout=60,
        ),
    )


def _hex(checksum: str) -> str:
    return base64.b64decode(checksum).hex() if checksum else ""
