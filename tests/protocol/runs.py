"""Processes that publish small days to a real S3 server, try again as Airflow does, and can be killed at any instant."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from imunizacao.errors import ContractViolation, PipelineError, PublicationConflict, StorageUnavailable
from imunizacao.models import RunContext
from imunizacao.publish import publish_day
from imunizacao.reconcile import reconcile_day
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings, StorageSettings
from imunizacao.storage import ObjectStore, open_public_store
from tests.protocol.telling import judge_history, tell_head, tell_index
from tests.support.memory_store import MemoryStore
from tests.support.reader import read_day
from tests.support.small_day import dose, make_inputs
from tests.support.withdrawal import withdraw

TRIES: Final = 25
PLACES: Final = ("120040", "350010", "355030", "530010")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run, or a person (`content` is empty)."""

    name: str
    day: str
    content: int = -1
    through: int = 0
    """Hour of the extract."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a task ended."""

    outcome: str
    """`published`, `unchanged`, `superseded`; `red` (the day did not add up), `withdrawn` (by a person, who is obeyed); `tired`; `wrong`."""
    revision: int = 0
    text: str = ""
    tries: int = 0


def rows_of(day: str, content: int) -> list[dict[str, str]]:
    """The doses of a content; contents of a day differ in some of them."""
    numbers = [0, 1, *([content + 2] if content else [])]
    return [
        dose(f"{day}-{number:02d}-i0b0", PLACES[(number + content) % len(PLACES)], co_lote_vacina=f"L{number}")
        for number in numbers
    ]


def run_task(task: Task, storage: StorageSettings, result: Path) -> None:
    """Carry a task out and write its `Ended` to `result`; a process that is killed before writes nothing."""
    logging.disable(logging.CRITICAL)
    public = open_public_store(storage)
    with tempfile.TemporaryDirectory(dir=result.parent) as scratch:
        ended = _try(task, public, Path(scratch))
    write_result(result, ended)


def write_result(result: Path, ended: Ended) -> None:
    """Write it at once."""
    part = result.with_suffix(".part")
    part.write_text(json.dumps([ended.outcome, ended.revision, ended.text, ended.tries]), encoding="utf-8")
    part.rename(result)


def read_result(result: Path) -> Ended | None:
    """What a task wrote, or None."""
    if not result.exists():
        return None
    outcome, revision, text, tries = json.loads(result.read_text(encoding="utf-8"))
    return Ended(outcome=outcome, revision=revision, text=text, tries=tries)


def _try(task: Task, public: ObjectStore, scratch: Path) -> Ended:
    error: Exception = AssertionError("never tried")
    for number in range(1, TRIES + 1):
        try:
            if task.content < 0:
                return Ended(outcome=withdraw(public, task.day, token=task.name), tries=number)
            return _publish(task, public, scratch, number)
        except PublicationConflict as conflict:
            if "withdrawn by a person" in str(conflict):
                return Ended(outcome="withdrawn", tries=number)
            error = conflict
        except StorageUnavailable as trouble:
            error = trouble
        except ContractViolation as gap:
            return Ended(outcome="red", text=str(gap), tries=number)
        except Exception as wrong:  # noqa: BLE001 - whatever it is, it is no error of ours that says what to do
            return Ended(outcome="wrong", text=f"{type(wrong).__name__}: {wrong}", tries=number)
        time.sleep(0.05)
    return Ended(outcome="tired", text=str(error), tries=TRIES)


def _publish(task: Task, public: ObjectStore, scratch: Path, number: int) -> Ended:
    work = MemoryStore()
    context = RunContext.create(day=ReferenceDay.parse(task.day), run_id=task.name, code_version="test")
    published = publish_day(
        context,
        inputs=make_inputs(context, rows_of(task.day, task.content), work, hour=task.through),
        work=work,
        public=public,
        engine=EngineSettings(scratch_dir=scratch),
        now=lambda: datetime.now(UTC),
        reason=task.reason,
    )
    reconcile_day(context, published=published, public=public, work=work, now=lambda: datetime.now(UTC))
    return Ended(outcome=published.outcome, revision=published.revision, tries=number)


class Reader:
    """Follows head and month index to every file, again and again, and remembers what it saw."""

    def __init__(
        self, storage: StorageSettings, day: str, names: dict[str, str], returning: Sequence[str], damaged: str
    ) -> None:
        self._public = open_public_store(storage)
        self._day, self._names, self._returning, self._damaged = day, names, returning, damaged
        self._head: Any = None
        self._index: tuple[int, str] | None = None
        self._whole: dict[str, int] = {}
        self.reads = 0

    def look(self) -> str:
        """Read once. Empty, or what was wrong."""
        index = self._public.get_or_none(f"v1/months/{self._day[:7]}/index.json")
        row = tell_index(index.body, self._day, names=self._names) if index is not None else None
        if self._index is not None and (row is None or row[0] < self._index[0]):
            return f"the month index went back from {self._index} to {row}"
        self._index = row
        stored = self._public.get_or_none(f"v1/days/{self._day}/head.json")
        if stored is None:
            return f"the month index knows {row}, and there is no head" if row is not None else ""
        head = tell_head(stored.body, names=self._names, returning=self._returning)
        wrong = judge_history(self._head, head)
        if wrong:
            return wrong
        self._head = head
        if row is not None and (row[0] > len(head.entries) or head.entries[row[0] - 1].content != row[1]):
            return f"the month index has {row}, the history does not"
        self.reads += 1
        for content in {head.shown[1], row[1] if row is not None else ""} - {"", self._damaged}:
            if self._whole.get(content, 0) < 3:  # whole three times is enough for one that never changes
                wrong = self._follow(stored.body)
                if wrong:
                    return wrong
                self._whole[content] = self._whole.get(content, 0) + 1
        return ""

    def _follow(self, body: bytes) -> str:
        head = json.loads(body)
        if head["current"] is None or self._names[head["current"]["contentId"]] == self._damaged:
            return ""

        def get(key: str) -> bytes:
            return body if key.endswith("/head.json") else self._public.get(key).body

        try:
            read_day(get, self._day)
        except (AssertionError, PipelineError, ValueError, LookupError) as error:
            return f"torn read of revision {head['revision']}: {type(error).__name__}: {error}"
        return ""


def read_on(reader: tuple[Any, ...], stop: Path, result: Path) -> None:
    """Read until `stop` exists; write how often, and what was wrong."""
    logging.disable(logging.CRITICAL)
    eye, wrong = Reader(*reader), ""
    while not wrong and not stop.exists() and os.getppid() != 1:
        wrong = eye.look()
        time.sleep(0.15)
    result.write_text(json.dumps([eye.reads, wrong]), encoding="utf-8")
