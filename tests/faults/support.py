"""A small day, extracted from the simulator while a scenario plays, and what must be true of it afterwards."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from pyarrow import parquet

from imunizacao.errors import PipelineError
from imunizacao.extract import extract_day
from imunizacao.flatten import flatten_day
from imunizacao.models import ExtractReceipt, FlattenReceipt, LandingManifest, ObjectRef, RunContext
from imunizacao.reference import export_references
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings, MirrorSettings, pseudonym_settings
from imunizacao.storage import ObjectStore, read_object
from tests.integration.extract_support import SleepLog, read_zstd
from tests.mirror.oracle import version_of
from tests.support.simulator import Simulator

SEED: Final = 11
DOCUMENTS: Final = 60
"""Half of a day this small comes in one batch: its hour has eight pages, the other hours one or two."""
PAGE_SIZE: Final = 4
DAY: Final = ReferenceDay.parse("2026-03-13")
NOW_TEXT: Final = "2026-03-15T02:10:00Z"
NOW: Final = datetime(2026, 3, 15, 2, 10, tzinfo=UTC)
"""Already the 15th in UTC, still the 14th in Brasília. The simulator's clock stands there too."""
REQUESTER_CNS: Final = "700000000000005"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """An entry that could not be a landing line."""

    reason: str
    page: int
    body: bytes

    @property
    def version(self) -> str:
        return version_of(self.body.decode(errors="surrogateescape"))


@dataclass(slots=True, kw_only=True)
class Landed:
    """A day that was taken for whole."""

    receipt: ExtractReceipt
    lines: list[bytes]
    rejects: list[Reject]

    @property
    def versions(self) -> set[str]:
        """`id|version` of every document that landed, rejected ones included."""
        lines = {version_of(line.decode(errors="surrogateescape")) for line in self.lines}
        return lines | {reject.version for reject in self.rejects}

    def documents(self) -> list[dict[str, Any]]:
        """The Bundles among the lines that are JSON."""
        found = []
        for line in self.lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line)["resource"])
        return found


@dataclass(slots=True)
class Stage:
    """One work bucket and one simulator."""

    simulator: Simulator
    work: ObjectStore
    scratch: Path
    sleeps: SleepLog = field(default_factory=SleepLog)
    seconds: float = 0.0
    """Of the last extract, real time."""

    def settings(self, **changes: object) -> MirrorSettings:
        """Settings with short patience."""
        values: dict[str, object] = {
            "base_url": self.simulator.base_url,
            "way": "documents",  # the only requests are searches
            "page_size": PAGE_SIZE,
            "connect_timeout": 2.0,
            "read_timeout": 5.0,
        }
        return MirrorSettings(**(values | changes))  # type: ignore[arg-type]

    def rnds_settings(self, **changes: object) -> MirrorSettings:
        """The same with the token and the two headers of the RNDS."""
        own = {"auth": "rnds", "token_url": self.simulator.token_url, "requester_cns": REQUESTER_CNS}
        return self.settings(**(own | changes))

    def extract(
        self,
        settings: MirrorSettings | None = None,
        *,
        day: ReferenceDay = DAY,
        run_id: str = "run-1",
        now: datetime = NOW,
        real_time: bool = False,
    ) -> Landed:
        """Extract the day and read back what landed."""
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep if real_time else self.sleeps
        started = time.monotonic()
        try:
            receipt = extract_day(
                RunContext.create(day=day, run_id=run_id, code_version="c0de"),
                settings=settings or self.settings(),
                work=self.work,
                engine=EngineSettings(scratch_dir=self.scratch),
                now=lambda: now,
                sleep=sleep,
            )
        finally:
            self.seconds = time.monotonic() - started
        return read_landing(self.work, receipt)

    def whole(self, settings: MirrorSettings | None = None, **options: object) -> Landed:
        """Extract a day that must be whole in spite of the scenario."""
        landed = self.extract(settings, **options)  # type: ignore[arg-type]
        day = options.get("day", DAY)
        assert_whole(landed, self.simulator.oracle(day))
        return landed

    def fails(self, kind: type[PipelineError], *, names: str, settings: MirrorSettings | None = None) -> PipelineError:
        """Extract a day that must fail with this class, a message that matches `names`, and no receipt."""
        with pytest.raises(PipelineError) as failure:
            self.extract(settings)
        error = failure.value
        assert type(error) is kind, f"{type(error).__name__}: {error}"
        assert re.search(names, str(error)), f"the message does not match {names!r}: {error}"
        assert "docs/runbook/" in str(error), f"no next step: {error}"
        self.require_no_receipt()
        return error

    def flatten(self, landed: Landed, *, run_id: str = "run-1") -> FlattenReceipt:
        """Make doses of what landed."""
        return flatten_day(
            RunContext.create(day=ReferenceDay.parse(landed.receipt.day), run_id=run_id, code_version="c0de"),
            extract=landed.receipt,
            references=export_references(self.work),
            pseudonym=pseudonym_settings(key="a key for tests only, thirty-two characters", key_id="test"),
            work=self.work,
            engine=EngineSettings(scratch_dir=self.scratch),
        )

    def rows(self, table: ObjectRef, *columns: str) -> list[dict[str, Any]]:
        """Some columns of a Parquet object."""
        source = io.BytesIO(self.work.get(table.key).body)
        rows: list[dict[str, Any]] = parquet.read_table(source, columns=list(columns)).to_pylist()
        return rows

    def require_no_receipt(self) -> None:
        """Nothing that a later stage would read."""
        written = [found.key for found in self.work.list("v1/")]
        assert not [key for key in written if key.endswith(("extract/receipt.json", "extract/manifest.json"))], written


def read_landing(work: ObjectStore, receipt: ExtractReceipt) -> Landed:
    """All lines and rejects of a receipt."""
    landed = Landed(receipt=receipt, lines=[], rejects=[])
    for piece in read_object(work, receipt.manifest, LandingManifest).slices:
        for part in piece.parts:
            # Not `splitlines`: a document may hold any control character but a line break.
            landed.lines += [line for line in read_zstd(work.get(part.key).body).split(b"\n") if line]
        if piece.rejects is not None:
            landed.rejects += [_read_reject(line) for line in read_zstd(work.get(piece.rejects.key).body).splitlines()]
    return landed


def _read_reject(line: bytes) -> Reject:
    record = json.loads(line)
    return Reject(reason=record["reason"], page=record["page"], body=base64.b64decode(record["body_base64"]))


def assert_whole(landed: Landed, oracle: set[str]) -> None:
    """Every document version of the day landed, none else did, and the account closes."""
    missing, foreign = oracle - landed.versions, landed.versions - oracle
    assert not missing, f"{len(missing)} document versions were lost in silence"
    assert not foreign, f"{len(foreign)} document versions landed that are not in the day"
    receipt = landed.receipt
    account = (receipt.announced, receipt.fetched, receipt.rejected)
    counted = (len(oracle), len(landed.lines) + len(landed.rejects), len(landed.rejects))
    assert account == counted, f"the account says {account} of announced, fetched and rejected; counted were {counted}"
