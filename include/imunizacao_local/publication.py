"""What a reader of the public bucket sees of one day: plain GETs with the read-only identity, never LIST."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from imunizacao_local.errors import LocalError

LINK_SECONDS: Final = 12 * 3600
_SAMPLE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """First rows of one published file."""

    key: str
    rows: int
    header: Sequence[str]
    first_rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDay:
    """Head and root manifest of one day. `doses` are rows of the CSVs, `quarantined` doses kept back."""

    day: date
    state: str
    revision: int
    published_at: str
    doses: int
    quarantined: int
    ufs: int
    municipalities: int
    head_key: str
    manifest_key: str | None
    sample: Sample | None


class PublicBucket:
    """A reader of the public bucket. `client` is a boto3 S3 client with the read-only identity."""

    def __init__(self, *, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def head_state(self, day: date) -> str | None:
        """Return the state of a day (published, empty, withdrawn); None while nothing was published."""
        head = self._get_json(_head_key(day))
        return None if head is None else str(head["state"])

    def read_day(self, day: date) -> PublishedDay | None:
        """Read head and manifest of a day and the first lines of its smallest UF; None when nothing was published."""
        head = self._get_json(_head_key(day))
        if head is None:
            return None
        latest = head["history"][-1]
        current = head["current"]
        manifest_key = None if current is None else str(current["path"])
        manifest = None if manifest_key is None else self._require_json(manifest_key)
        ufs = [] if manifest is None else [uf for uf in manifest["files"]["ufs"] if uf["rows"] > 0]
        return PublishedDay(
            day=day,
            state=head["state"],
            revision=head["revision"],
            published_at=latest["publishedAt"],
            doses=0 if manifest is None else manifest["rows"],
            quarantined=latest.get("account", {}).get("quarantined", 0),
            ufs=len(ufs),
            municipalities=0 if manifest is None else manifest["municipalities"],
            head_key=_head_key(day),
            manifest_key=manifest_key,
            sample=None if manifest_key is None or not ufs else self._sample(manifest_key, ufs),
        )

    def link(self, key: str) -> str:
        """Return an address that opens one object without credentials for 12 hours."""
        return str(
            self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=LINK_SECONDS
            )
        )

    def _sample(self, manifest_key: str, ufs: list[dict[str, Any]]) -> Sample:
        smallest = min(ufs, key=lambda uf: (uf["rows"], uf["uf"]))
        descriptor_key = posixpath.join(posixpath.dirname(manifest_key), smallest["path"])
        descriptor = self._require_json(descriptor_key)
        # The first resource is the file of the whole UF, those of its municipalities follow.
        key = posixpath.join(posixpath.dirname(descriptor_key), descriptor["resources"][0]["path"])
        body = self._get(key, byte_range=f"bytes=0-{_SAMPLE_BYTES - 1}")
        if body is None:
            raise self._missing(key)
        text = body.decode("utf-8", "ignore")  # the range may cut a character at its end
        rows = list(csv.reader(io.StringIO(text), delimiter=";"))
        return Sample(key=key, rows=smallest["rows"], header=rows[0], first_rows=rows[1:4])

    def _require_json(self, key: str) -> dict[str, Any]:
        value = self._get_json(key)
        if value is None:
            raise self._missing(key)
        return value

    def _get_json(self, key: str) -> dict[str, Any] | None:
        body = self._get(key)
        if body is None:
            return None
        try:
            value = json.loads(body)
        except ValueError as error:
            raise LocalError(
                f"{key} in bucket {self._bucket} is not JSON: {error}",
                next_step="start a new run of the day in Airflow; it publishes the day again",
            ) from error
        if not isinstance(value, dict):
            raise LocalError(
                f"{key} in bucket {self._bucket} is not a JSON object",
                next_step="start a new run of the day in Airflow; it publishes the day again",
            )
        return value

    def _get(self, key: str, *, byte_range: str = "") -> bytes | None:
        extra = {"Range": byte_range} if byte_range else {}
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **extra)
            return bytes(answer["Body"].read())
        except ClientError as error:
            if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
                return None
            raise self._unreadable(key, error) from error
        except BotoCoreError as error:
            raise self._unreadable(key, error) from error

    def _unreadable(self, key: str, error: Exception) -> LocalError:
        return LocalError(
            f"{key} in bucket {self._bucket} could not be read: {error}",
            next_step="check `status`; `up` starts what is missing",
        )

    def _missing(self, key: str) -> LocalError:
        return LocalError(
            f"{key} is named by a manifest of bucket {self._bucket} but is not there",
            next_step="start a new run of the day in Airflow; it publishes the day again",
        )


def _head_key(day: date) -> str:
    return f"v1/days/{day.isoformat()}/head.json"
