"""A run that is killed anywhere: readers see nothing or a whole day, and the same run, started again, ends as if nothing had happened.

The product runs as a process of its own and gets SIGKILL, so that no `finally` of it helps. One run is killed again and again, in
every stage, while files are uploaded and right after the head has moved; each start goes on from what the one before left.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imunizacao.settings import StorageSettings, storage_settings
from imunizacao.signing import new_key
from imunizacao.storage import ObjectStore, open_public_store
from imunizacao_local.mirror import MirrorServer, MirrorSettings
from imunizacao_local.ports import free_ports
from imunizacao_local.seaweed import SeaweedServer
from tests.integration.conftest import DAY, ROOT
from tests.support.reader import read_day

pytestmark = pytest.mark.servers
DOCUMENTS = 300
HEAD = f"v1/days/{DAY}/head.json"
SIGNING_KEY = new_key()[0].decode()
BEGINS = {
    "extract": r"event=resolve_day\.done",
    "flatten": r"event=extract\.done",
    "validate": r"event=flatten\.(done|reused)",
    "split": r"event=validate\.(done|reused)",
    "publish": r"event=split\.(done|reused)",
    "reconcile": r"event=publish\.done",
}
"""The event line after which a stage works."""
FEW = ("validate", "upload", "head", "reconcile")
ORDER = ("extract", "extract", "flatten", "validate", "validate", "split", "upload", "publish", "head", "reconcile")
"""Where one run is killed, one start after the other: the few in CI, all of them with `-m slow`."""
Condition = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A running command and where its standard error goes."""

    process: subprocess.Popen[bytes]
    errors: Path

    @property
    def text(self) -> str:
        """Standard error so far."""
        return self.errors.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, condition: Condition, what: str) -> None:
        """Wait until `condition` holds; that the command ends before is a failure of the test."""
        deadline = time.monotonic() + 90
        while not condition():
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.text}"
            assert time.monotonic() < deadline, f"no {what} within 90 s:\n{self.text}"
            time.sleep(0.002)

    def kill(self) -> int:
        """SIGKILL; the exit code is -9 unless the command was just done."""
        self.process.send_signal(signal.SIGKILL)
        return self.process.wait(30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Two buckets and the environment of a run that publishes there."""

    env: dict[str, str]
    public: ObjectStore
    folder: Path

    def start(self) -> Started:
        """Start (again) the run `killed`."""
        errors = self.folder / f"stderr-{secrets.token_hex(4)}"
        command = [sys.executable, "-m", "imunizacao", "--plain", "run-day", str(DAY), "--run-id", "killed"]
        with errors.open("wb") as file:
            process = subprocess.Popen(
                command, env=self.env, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=file, stdin=subprocess.DEVNULL
            )
        return Started(process=process, errors=errors)

    def finish(self) -> Started:
        """Start the run and let it end."""
        started = self.start()
        code = started.process.wait(120)
        assert code == 0, f"exit code {code}:\n{started.text}"
        return started

    def uploaded(self) -> int:
        """Objects of contents, whole days or not."""
        return sum("/c-" in info.key for info in self.public.list(f"v1/days/{DAY}/"))

    def objects(self) -> dict[str, bytes]:
        """Everything public, but for the objects of the store's probe."""
        keys = [info.key for info in self.public.list("v1/") if not info.key.startswith("v1/probe/")]
        return {key: self.public.get(key).body for key in keys}

    def require_nothing_or_a_whole_day(self) -> None:
        """What a reader finds at this moment."""
        if self.public.get_or_none(HEAD) is not None:
            read = read_day(lambda key: self.public.get(key).body, str(DAY))
            assert read.head["revision"] == len(read.head["history"]) == 1
            return
        for key in (f"v1/months/{DAY.month}/index.json", "v1/catalog.json"):
            assert self.public.get_or_none(key) is None, f"{key} tells of a day that has no head"


@pytest.fixture(scope="module")
def mirror() -> Iterator[MirrorServer]:
    """The simulator with 300 documents a day."""
    with tempfile.TemporaryDirectory(prefix="imunizacao-mirror-") as folder:
        settings = MirrorSettings(seed=7, docs_per_day=DOCUMENTS, auth="none")
        with MirrorServer(state_dir=Path(folder), root=ROOT, port=free_ports(1)[0], settings=settings) as server:
            yield server


@contextmanager
def _bench(server: SeaweedServer, mirror: MirrorServer, storage: StorageSettings, rules: Path) -> Iterator[Bench]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("IMUNIZACAO_")}
    with tempfile.TemporaryDirectory(prefix="imunizacao-kill-") as folder:
        env |= {
            "PYTHONPATH": str(ROOT / "include"),
            "IMUNIZACAO_MIRROR_URL": mirror.base_url,
            "IMUNIZACAO_MIRROR_PAGE_SIZE": "50",
            "IMUNIZACAO_S3_ENDPOINT": storage.endpoint_url,
            "IMUNIZACAO_S3_ACCESS_KEY": storage.access_key,
            "IMUNIZACAO_S3_SECRET_KEY": storage.secret_key,
            "IMUNIZACAO_WORK_BUCKET": storage.work_bucket,
            "IMUNIZACAO_PUBLIC_BUCKET": storage.public_bucket,
            "IMUNIZACAO_PSEUDONYM_KEY": "a key for tests only, thirty-two characters",
            "IMUNIZACAO_SIGNING_KEY": SIGNING_KEY,
            "IMUNIZACAO_SCRATCH_DIR": folder,
            "IMUNIZACAO_EXPECTATIONS": str(rules),
        }
        yield Bench(env=env, public=open_public_store(storage), folder=Path(folder))


@pytest.fixture
def bench(
    s3_server: SeaweedServer, mirror: MirrorServer, s3_settings: StorageSettings, expectations: Path
) -> Iterator[Bench]:
    """Fresh buckets for a run that is killed."""
    with _bench(s3_server, mirror, s3_settings, expectations) as made:
        yield made


@dataclass(frozen=True, slots=True, kw_only=True)
class Undisturbed:
    """What the run leaves when nobody kills it, and how long each stage took then."""

    objects: dict[str, bytes]
    seconds: dict[str, float]


@pytest.fixture(scope="module")
def undisturbed(s3_server: SeaweedServer, mirror: MirrorServer, expectations: Path) -> Iterator[Undisturbed]:
    """One run to the end in buckets of its own."""
    keys, mark = s3_server.pipeline_credentials, secrets.token_hex(4)
    storage = storage_settings(
        endpoint_url=s3_server.endpoint,
        access_key=keys.access_key,
        secret_key=keys.secret_key,
        work_bucket=f"work-{mark}",
        public_bucket=f"public-{mark}",
    )
    client = s3_server.client(keys)
    for bucket in (storage.work_bucket, storage.public_bucket):
        client.create_bucket(Bucket=bucket)
    with _bench(s3_server, mirror, storage, expectations) as made:
        started = made.start()
        begun: dict[str, float] = {}
        for stage, line in BEGINS.items():
            started.wait_for(lambda line=line: re.search(line, started.text) is not None, line)  # type: ignore[misc]
            begun[stage] = time.monotonic()
        assert started.process.wait(60) == 0, started.text
        ends = [*list(begun.values())[1:], time.monotonic()]
        yield Undisturbed(
            objects=made.objects(),
            seconds={stage: end - begin for (stage, begin), end in zip(begun.items(), ends, strict=True)},
        )
    for bucket in (storage.work_bucket, storage.public_bucket):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            found = [{"Key": item["Key"]} for item in page.get("Contents", [])]
            if found:
                client.delete_objects(Bucket=bucket, Delete={"Objects": found, "Quiet": True})
        client.delete_bucket(Bucket=bucket)


def _kill_at(bench: Bench, point: str, dice: random.Random, seconds: dict[str, float]) -> bool:
    """Start the run, kill it at `point`, and tell whether it was still alive then."""
    before = bench.uploaded()
    started = bench.start()
    if point == "upload":
        some = dice.randint(1, 60)
        started.wait_for(lambda: bench.uploaded() >= before + some, f"{some} uploaded objects")
    elif point == "head":
        started.wait_for(lambda: bench.public.get_or_none(HEAD) is not None, "the head")
    else:
        line = BEGINS[point]
        started.wait_for(lambda: re.search(line, started.text) is not None, line)
        # Somewhere inside, on this machine; the last stage must not be over by then.
        time.sleep(dice.uniform(0, 0.4 if point == "reconcile" else 0.9) * seconds[point])
    return started.kill() == -signal.SIGKILL


CLOCK = {"publishedAt", "dataThrough", "commitToken", "checkedAt", "transactionTime", "since"}
"""Fields of pointers and indexes that two runs of the same day cannot share."""


def _without_clock(body: bytes) -> Any:
    """A pointer or index but for `CLOCK`."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in CLOCK}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return strip(json.loads(body))


@pytest.mark.parametrize(
    ("seed", "order"),
    [(1, FEW), *(pytest.param(seed, ORDER, marks=pytest.mark.slow) for seed in (1, 2))],
    ids=["few", "all-1", "all-2"],
)
def test_a_run_killed_in_every_stage_ends_like_one_that_was_left_alone(
    bench: Bench, undisturbed: Undisturbed, seed: int, order: tuple[str, ...]
) -> None:
    dice = random.Random(seed)
    whole = sum("/c-" in key for key in undisturbed.objects)
    for place, point in enumerate(order):
        assert _kill_at(bench, point, dice, undisturbed.seconds), f"the run was over before it was killed in {point}"
        bench.require_nothing_or_a_whole_day()
        if place <= order.index("upload"):
            assert bench.public.get_or_none(HEAD) is None, f"killed in {point}, and a head is there"
        if point == "upload":
            assert 0 < bench.uploaded() < whole, "killed during the uploads, and none or all of them are there"
    last = bench.finish()
    for stage in ("flatten", "validate", "split"):
        assert f"event={stage}.reused" in last.text, f"{stage} was done again although it had finished"
    objects = bench.objects()
    assert set(objects) == set(undisturbed.objects)
    for key, body in undisturbed.objects.items():
        if "/c-" in key or not key.endswith(".json"):
            assert objects[key] == body, key
        else:
            assert _without_clock(objects[key]) == _without_clock(body), key
    head = json.loads(objects[HEAD])
    assert (head["revision"], head["state"], len(head["history"])) == (1, "published", 1)
    assert head["current"]["contentId"] == json.loads(undisturbed.objects[HEAD])["current"]["contentId"]
    assert head["history"][0]["reconciliation"]["verdict"] == "ok"
    assert head["current"]["signature"]["path"] in objects
    read_day(lambda key: objects[key], str(DAY))
