"""Two buckets for more than one test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from imunizacao.settings import StorageSettings, storage_settings
from imunizacao_local.seaweed import SeaweedServer


@contextmanager
def fresh_buckets(server: SeaweedServer) -> Iterator[StorageSettings]:
    """Settings for two buckets that go at the end: each holds volumes, and those are few."""
    keys, mark = server.pipeline_credentials, secrets.token_hex(4)
    settings = storage_settings(
        endpoint_url=server.endpoint,
        access_key=keys.access_key,
        secret_key=keys.secret_key,
        work_bucket=f"work-{mark}",
        public_bucket=f"public-{mark}",
    )
    client = server.client(keys)
    buckets = (settings.work_bucket, settings.public_bucket)
    for bucket in buckets:
        client.create_bucket(Bucket=bucket)
    try:
        yield settings
    finally:
        for bucket in buckets:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                found = [{"Key": item["Key"]} for item in page.get("Contents", [])]
                if found:
                    client.delete_objects(Bucket=bucket, Delete={"Objects": found, "Quiet": True})
            client.delete_bucket(Bucket=bucket)
