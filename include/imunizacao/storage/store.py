"""One bucket behind the S3 API: plain and conditional writes with checksums that the server verifies."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from imunizacao.errors import ConfigurationError, ContractViolation, PipelineError, StorageUnavailable
from imunizacao.settings import StorageSettings

_KEY = re.compile(r"[A-Za-z0-9._=/-]+")
_BLOCK = 1 << 20
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
            return StoredObject(key=key, etag=answer["ETag"], body=answer["Body"].read())

        return self._do("read", key, call)

    def get_or_none(self, key: str) -> StoredObject | None:
        """Read a small object, or None when there is none."""
        try:
            return self.get(key)
        except ObjectMissing:
            return None

    def info(self, key: str) -> ObjectInfo | None:
        """Size, type and checksum of an object, or None when there is none."""

        def call() -> ObjectInfo:
            answer = self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
            return ObjectInfo(
                key=key,
                etag=answer["ETag"],
                bytes=int(answer["ContentLength"]),
                content_type=answer.get("ContentType", ""),
                sha256=_hex(answer.get("ChecksumSHA256", "")) or answer.get("Metadata", {}).get("sha256", ""),
            )

        try:
            return self._do("inspect", key, call)
        except ObjectMissing:
            return None

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
            return str(self._client.put_object(Bucket=self.bucket, Key=key, Body=body, **extra)["ETag"])

        return self._do("write", key, call)

    def put_file(self, key: str, path: Path, *, sha256: str, content_type: str = "application/octet-stream") -> None:
        """Write a local file as one object; the server verifies `sha256`."""
        with path.open("rb") as source:
            self.put(key, source, sha256=sha256, content_type=content_type)

    def download(self, key: str, path: Path, *, sha256: str = "") -> None:
        """Write an object to a local file; with `sha256`, other bytes than expected are a `ContractViolation`."""

        def call() -> str:
            digest = hashlib.sha256()
            with path.open("wb") as target:
                for block in self._client.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(_BLOCK):
                    digest.update(block)
                    target.write(block)
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
        blocks = answer["Body"].iter_chunks(_BLOCK)
        while True:
            block = self._do("read", key, lambda: next(blocks, b""))
            if not block:
                return
            yield block

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects under a prefix, in key order. Housekeeping and resume only: readers never list."""
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix))
        while True:
            page = self._do("list", prefix, lambda: next(pages, None))
            if page is None:
                return
            for item in page.get("Contents", []):
                yield ObjectInfo(
                    key=item["Key"], etag=item["ETag"], bytes=int(item["Size"]), content_type="", sha256=""
                )

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        self._do("delete", key, lambda: self._client.delete_object(Bucket=self.bucket, Key=key))

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
                "(IMUNIZACAO_WORK_BUCKET / IMUNIZACAO_PUBLIC_BUCKET, or extras of connection imunizacao_s3)."
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
