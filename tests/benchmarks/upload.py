"""The peer of publish: the same CSVs put into a bucket by 16 threads and nothing else. `python -m tests.benchmarks.upload <state.json>`.

The files lie ready on the local disk before the clock starts; no condition, no hash, no manifest, no check.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pyarrow
from botocore.config import Config

from imunizacao.models import CutFile, CutList, SplitReceipt
from imunizacao.residents import gather_residents
from imunizacao.settings import storage_settings
from imunizacao.storage import open_work_store, read_object

THREADS = 16


def main(state_file: Path) -> None:
    """Upload once and tell what it cost."""
    state: dict[str, Any] = json.loads(state_file.read_text())
    settings = storage_settings(**state["storage"])
    split = SplitReceipt.from_json(state["receipts"]["split"])
    work = open_work_store(settings)
    cuts = read_object(work, split.cuts, CutList)
    with tempfile.TemporaryDirectory(dir=state["scratch"]) as scratch:
        folder = Path(scratch)
        body = folder / "body.csv"
        work.download(split.body.key, folder / "body.zst")
        with pyarrow.CompressedInputStream(str(folder / "body.zst"), "zstd") as packed, body.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
        files = [(file, body) for file in cuts.files]
        if split.residents is not None:
            residents = folder / "residents.csv"
            work.download(split.residents.key, folder / "residents.zst")
            gather_residents(body, pieces=folder / "residents.zst", destination=residents)
            files += [(file, residents) for file in cuts.residents]
        clients = threading.local()
        bucket = f"{settings.public_bucket}-bare"
        _client(state).create_bucket(Bucket=bucket)

        def put(one: tuple[CutFile, Path]) -> int:
            if not hasattr(clients, "s3"):
                clients.s3 = _client(state)
            file, source = one
            with source.open("rb") as whole:
                whole.seek(file.offset)
                data = cuts.header.encode() + whole.read(file.length)
            clients.s3.put_object(Bucket=bucket, Key=f"bare/{file.path}", Body=data)
            return len(data)

        before = resource.getrusage(resource.RUSAGE_SELF)
        began = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            size = sum(pool.map(put, sorted(files, key=lambda one: -one[0].bytes)))
        wall = time.monotonic() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu": cpu, "wall": wall, "peak_mb": usage.ru_maxrss / 1024, "bytes": size, "files": len(files)}))


def _client(state: dict[str, Any]) -> Any:
    storage = state["storage"]
    return boto3.session.Session().client(
        "s3",
        endpoint_url=storage["endpoint_url"],
        aws_access_key_id=storage["access_key"],
        aws_secret_access_key=storage["secret_key"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3}),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
