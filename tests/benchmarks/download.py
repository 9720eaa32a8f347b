"""The peer of extract: fetch the same pages over the same connections and throw them away.

`python -m tests.benchmarks.download <fhir-base> <start> <end> <page-size> <connections>`
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import time
from datetime import datetime, timedelta

import httpx

_NEXT = re.compile(rb'"relation":"next","url":"([^"]+)"')


async def _walk(client: httpx.AsyncClient, gate: asyncio.Semaphore, url: str) -> tuple[int, int]:
    pages = size = 0
    async with gate:
        while url:
            answer = await client.get(url)
            answer.raise_for_status()
            pages, size = pages + 1, size + len(answer.content)
            found = _NEXT.search(answer.content[:4000])
            url = json.loads(b'"' + found.group(1) + b'"') if found else ""
    return pages, size


async def _run(base: str, start: datetime, end: datetime, count: int, connections: int) -> tuple[int, int]:
    gate = asyncio.Semaphore(connections)
    limits = httpx.Limits(max_connections=connections)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        walks = []
        at = start
        while at < end:
            until = min(at + timedelta(hours=1), end)
            query = f"type=document&_lastUpdated=ge{at:%Y-%m-%dT%H:%M:%S}Z&_lastUpdated=lt{until:%Y-%m-%dT%H:%M:%S}Z&_count={count}"
            walks.append(_walk(client, gate, f"{base}/Bundle?{query}"))
            at = until
        done = await asyncio.gather(*walks)
    return sum(pages for pages, _ in done), sum(size for _, size in done)


def main(base: str, start: str, end: str, count: str, connections: str) -> None:
    """Download everything and print the figures as one JSON line."""
    began = time.monotonic()
    pages, size = asyncio.run(
        _run(base, datetime.fromisoformat(start), datetime.fromisoformat(end), int(count), int(connections))
    )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "cpu": usage.ru_utime + usage.ru_stime,
                "wall": time.monotonic() - began,
                "peak_mb": usage.ru_maxrss / 1024,
                "pages": pages,
                "bytes": size,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:6])
