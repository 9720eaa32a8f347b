"""Withdraw, restore and tidy up small days, as the command line does it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imunizacao.controle import BucketOutcomeLog
from imunizacao.events import no_progress
from imunizacao.housekeeping import Report, housekeep
from imunizacao.models import RunContext
from imunizacao.pipeline import Services
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import (
    EngineSettings,
    HousekeepingSettings,
    Settings,
    StorageSettings,
    mirror_settings,
    pseudonym_settings,
)
from imunizacao.storage import ObjectStore
from imunizacao.withdrawal import Action, Change, change_day
from tests.support.memory_bucket import START, Clock, MemoryBucket
from tests.support.small_day import SmallDay

REASON = "Lote de documentos com municípios trocados pelo remetente."


def services_of(
    work: ObjectStore,
    public: ObjectStore,
    folder: Path,
    *,
    keep: HousekeepingSettings | None = None,
    now: datetime = START,
    nominal: ObjectStore | None = None,
) -> Services:
    """Services over two buckets, or three, without a database."""
    settings = Settings(
        mirror=mirror_settings(base_url="http://127.0.0.1:9/fhir"),
        storage=StorageSettings(endpoint_url="http://127.0.0.1:9", access_key="none", secret_key="none"),
        pseudonym=pseudonym_settings(key="a key for tests only, thirty-two characters", key_id="test"),
        engine=EngineSettings(scratch_dir=folder),
        housekeeping=keep or HousekeepingSettings(),
    )
    return Services(
        settings=settings,
        work=work,
        public=public,
        outcomes=BucketOutcomeLog(work),
        connect=None,
        now=lambda: now,
        progress=no_progress,
        nominal=nominal,
    )


class ControlledDay(SmallDay):
    """A small day that a person may withdraw and restore."""

    nominal: ObjectStore | None = None
    """Bucket of files with identifiers, where the profile is on."""

    def change(
        self, action: Action, *ufs: str, run_id: str = "", dry_run: bool = False, now: datetime | None = None
    ) -> Change:
        """Withdraw or restore; a new run each time unless one is named."""
        self.changes = getattr(self, "changes", 0) + 1
        services = services_of(
            self.work, self.public, self.engine.scratch_dir, now=now or self.now(), nominal=self.nominal
        )
        return change_day(
            self.context(run_id or f"{action}-{self.changes}"),
            services,
            action=action,
            ufs=ufs,
            reason=REASON,
            dry_run=dry_run,
        )

    def head(self) -> dict[str, Any]:
        """The head as a reader has it."""
        head: dict[str, Any] = json.loads(self.get(f"v1/days/{self.day}/head.json"))
        return head

    def month_row(self) -> dict[str, Any]:
        """The day in its month index."""
        index = json.loads(self.get(f"v1/months/{self.day[:7]}/index.json"))
        (row,) = [row for row in index["days"] if row["day"] == self.day]
        return dict(row)


class MemoryDay(ControlledDay):
    """The same in memory: time passes when the test says so, and processes die or meet where it wants."""

    def __init__(self, day: str, folder: Path, *, keep: HousekeepingSettings | None = None) -> None:
        self.clock = Clock()
        self.own_work, self.own_public = MemoryBucket("work", self.clock), MemoryBucket("public", self.clock)
        self.keep = keep or HousekeepingSettings()
        super().__init__(day, self.own_work, self.own_public, folder)

    def now(self) -> datetime:
        """The same clock as the store's."""
        return self.clock.now.astimezone(UTC)

    def tidy(self, *, delete: bool = True, only: Collection[str] = (), run_id: str = "") -> Report:
        """One housekeeping."""
        self.tidied = getattr(self, "tidied", 0) + 1
        return tidy(
            self.work,
            self.public,
            self.engine.scratch_dir,
            keep=self.keep,
            delete=delete,
            only=only,
            run_id=run_id or f"tidy-{self.tidied}",
        )

    def listing(self) -> dict[str, str]:
        """Everything in both buckets but the object that tells the time."""
        found = {f"work:{key}": sha for key, sha in self.own_work.listing().items() if not key.endswith("/clock.json")}
        return found | {f"public:{key}": sha for key, sha in self.own_public.listing().items()}

    def snapshot(self) -> Callable[[], None]:
        """Remember everything; the answer brings it back."""
        work, public = dict(self.own_work.objects), dict(self.own_public.objects)
        now, hour = self.clock.now, self.hour

        def back() -> None:
            self.own_work.objects, self.own_public.objects = dict(work), dict(public)
            self.clock.now, self.hour = now, hour
            self.watch(lambda verb, key: None)

        return back

    def watch(self, hook: Callable[[str, str], None]) -> None:
        """Call `hook` with (verb, bucket and key) before every request to either bucket."""
        for bucket in (self.own_work, self.own_public):
            bucket.before = lambda verb, key, name=bucket.bucket: hook(verb, f"{name}:{key}")  # type: ignore[misc]


def tidy(
    work: ObjectStore,
    public: ObjectStore,
    folder: Path,
    *,
    keep: HousekeepingSettings | None = None,
    delete: bool,
    only: Collection[str] = (),
    run_id: str = "tidy",
) -> Report:
    """One housekeeping over two buckets."""
    context = RunContext.create(day=ReferenceDay.parse("2026-01-01"), run_id=run_id, code_version="test")
    return housekeep(context, services_of(work, public, folder, keep=keep), delete=delete, only=only)


def broken_promises(public: ObjectStore, days: Sequence[str]) -> list[str]:
    """What a head names and does not have: the rule of the contract about `purgedAt` and `purgedUfs`, told from the JSON alone."""
    found = []
    there = {info.key for info in public.list("")}
    for day in days:
        key = f"v1/days/{day}/head.json"
        if key not in there:
            continue
        head = json.loads(public.get(key).body)
        gone = {uf for uf, said in head.get("withdrawnUfs", {}).items() if "purgedAt" in said}
        for entry in head["history"]:
            if entry["path"] and "purgedAt" not in entry:
                found += _missing(public, there, entry["path"], set(entry.get("purgedUfs", ())))
            if "diff" in entry and "purgedAt" not in entry["diff"]:
                names = (f"{entry['diff']['path']}/{name}.csv" for name in ("added", "changed", "removed"))
                found += [name for name in names if name not in there]
        if head["current"] is not None:
            found += _missing(public, there, head["current"]["path"], gone)
    return found


def _missing(public: ObjectStore, there: set[str], root: str, without: set[str]) -> list[str]:
    if root not in there:
        return [root]
    folder, day = root.rpartition("/")[0], json.loads(public.get(root).body)
    names = [day["files"]["removed"]["path"], day["files"]["outcome"]["path"]]
    for uf in day["files"]["ufs"]:
        names.append(uf["path"])
        base = uf["path"].rpartition("/")[0]
        if f"{folder}/{uf['path']}" not in there:
            continue
        package = json.loads(public.get(f"{folder}/{uf['path']}").body)
        names += [f"{base}/{part['path']}" for part in package["rnds:parts"]]
        if uf["uf"] not in without:
            names += [f"{base}/{resource['path']}" for resource in package["resources"]]
    return [f"{folder}/{name}" for name in names if f"{folder}/{name}" not in there]
