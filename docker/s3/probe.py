"""Health check: the object store takes a write and gives the same bytes back.

Its own health address answers 200 before writes work: after a crash the first write was seen to stall 13 s.
"""

from __future__ import annotations

import os
import secrets

import boto3  # noqa: TID253 - a script of its own image
from botocore.config import Config

KEY = "health/compose"

if __name__ == "__main__":
    client = boto3.client(
        "s3",
        endpoint_url=os.environ.get("S3_PROBE_ENDPOINT", "http://127.0.0.1:8333"),
        region_name="us-east-1",
        aws_access_key_id=os.environ["S3_PIPELINE_ACCESS_KEY"],
        aws_secret_access_key=os.environ["S3_PIPELINE_SECRET_KEY"],
        config=Config(
            s3={"addressing_style": "path"},
            connect_timeout=3,
            read_timeout=10,
            retries={"total_max_attempts": 1},
            proxies={},
        ),
    )
    bucket = os.environ["S3_WORK_BUCKET"]
    body = secrets.token_bytes(32)
    client.put_object(Bucket=bucket, Key=KEY, Body=body)
    if client.get_object(Bucket=bucket, Key=KEY)["Body"].read() != body:
        raise SystemExit("the object store gave back other bytes than were written")
