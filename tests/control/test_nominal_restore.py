"""A restoration in the bucket of files with identifiers: nothing is readable there that is withdrawn in public."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imunizacao.errors import StorageUnavailable
from imunizacao.manifests import head_key
from tests.support.control import MemoryDay
from tests.support.memory_bucket import MemoryBucket
from tests.support.small_day import dose

DAY = "2026-03-14"
ROWS = [dose("a", "355030"), dose("b", "530010")]


@pytest.fixture
def nominal(tmp_path: Path) -> tuple[MemoryDay, MemoryBucket]:
    """A day that is published in both buckets, counted in the public one."""
    day = MemoryDay(DAY, tmp_path)
    bucket = MemoryBucket("nominal", day.clock)
    run = day.inputs(ROWS)
    day.reconcile(run[0], day.publish(*run))
    day.publish(*run, bucket)
    day.nominal = bucket
    return day, bucket


def _head(bucket: MemoryBucket) -> dict[str, Any]:
    head: dict[str, Any] = json.loads(bucket.get(head_key(DAY)).body)
    return head


def _restore_in_public_alone(day: MemoryDay, bucket: MemoryBucket) -> None:
    """Withdraw the day in both buckets and restore it while the nominal one takes no writes."""
    day.change("withdraw")

    def away(verb: str, key: str) -> None:
        if verb == "put":
            raise StorageUnavailable("The store is away.")

    bucket.before = away
    assert "stays as it is" in day.change("restore").notes[-1]
    bucket.before = lambda verb, key: None


def test_a_day_comes_back_without_the_ufs_that_are_withdrawn_in_public(
    nominal: tuple[MemoryDay, MemoryBucket],
) -> None:
    day, bucket = nominal
    _restore_in_public_alone(day, bucket)
    day.change("withdraw", "53")
    planned, done = (day.change("restore", dry_run=dry).notes[-1] for dry in (True, False))
    assert planned == done
    assert planned.endswith("publicado, 1 dose, sem 53")
    assert _head(bucket)["withdrawnUfs"]["53"]["reason"] == day.head()["withdrawnUfs"]["53"]["reason"]
    assert day.change("restore").notes[-1].startswith("nominal bucket: unchanged")
    planned, done = (day.change("restore", "DF", dry_run=dry).notes[-1] for dry in (True, False))
    assert planned == done
    assert planned.endswith("publicado, 2 doses")


def test_a_day_that_is_withdrawn_again_meanwhile_does_not_come_back(nominal: tuple[MemoryDay, MemoryBucket]) -> None:
    """Another person withdraws it after it was restored in public and before it is restored in the nominal bucket."""
    day, bucket = nominal
    day.change("withdraw")

    def meanwhile(verb: str, key: str) -> None:
        if day.head()["state"] == "published":
            bucket.before = lambda verb, key: None
            day.change("withdraw")

    bucket.before = meanwhile
    day.change("restore")
    assert (day.head()["state"], _head(bucket)["state"]) == ("withdrawn", "withdrawn")
