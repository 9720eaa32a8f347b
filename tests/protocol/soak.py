"""Random schedules of real processes around one day: concurrent runs, a person, kill -9, a bad network; a reader looks all the while.

`python -m tests.protocol --schedules 200 --seed 1` runs more of them than the tests do. A schedule is told by its seed; what the
operating system makes of it is not, so a schedule that went wrong may need a few tries to go wrong again.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

from imunizacao.models import RunContext
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import StorageSettings
from imunizacao.storage import ObjectStore, open_public_store
from tests.protocol.model import BAD
from tests.protocol.proxy import Weather, proxy
from tests.protocol.runs import Ended, Reader, Task, read_on, read_result, rows_of, run_task, write_result
from tests.protocol.telling import judge_history, tell_head, tell_index
from tests.support.memory_store import MemoryStore
from tests.support.small_day import make_inputs

FIRST_DAY: Final = date(2001, 1, 1)
_STEP, _DAYS = 37, 9000
"""Neighbouring seeds have days of different months: what they share is the catalog."""
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_PATIENCE: Final = 120.0
_ENDS_OF_THE_KILLED: Final = {-signal.SIGKILL, 255}
"""255: the fork server saw the end of a process before it could tell its signal. A process that fails by itself ends with 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Who does what to a day."""

    seed: int
    day: str
    tasks: tuple[Task, ...]
    starts: tuple[float, ...]
    """Second at which each task starts."""
    kills: tuple[tuple[int, float], ...]
    """Task, and seconds after its start at which it is killed; it starts again at once."""
    shared: float
    files: float
    damaged: int
    """Content whose file is changed from outside once it is there; -1: none."""

    def __str__(self) -> str:
        tasks = ", ".join(
            f"{task.name} {f'content {task.content} of hour {task.through}' if task.content >= 0 else 'withdraws'}"
            for task in self.tasks
        )
        return f"seed {self.seed}, {self.day}: {tasks}; kills {list(self.kills)}; damaged {self.damaged}"


@dataclass(slots=True, kw_only=True)
class Told:
    """What became of a schedule."""

    schedule: Schedule
    wrong: str
    outcomes: Counter[str] = field(default_factory=Counter)
    revisions: int = 0
    reads: int = 0
    killed: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def make_schedule(seed: int, *, small: bool = False) -> Schedule:
    """Draw a schedule. `small`: two runs and no more."""
    dice = random.Random(seed)
    day = str(FIRST_DAY + timedelta(days=seed * _STEP % _DAYS))
    contents = dice.randint(1, 2 if small else 3)
    runs = 2 if small else dice.randint(2, 4)
    tasks = [
        Task(
            name=f"run-{number}",
            day=day,
            content=dice.randrange(contents),
            through=dice.randint(1, 4),
            reason="restore" if dice.random() < 0.1 else "",
        )
        for number in range(runs)
    ]
    if dice.random() < 0.25:
        tasks.append(Task(name="person", day=day))
    starts = tuple(round(dice.uniform(0, 0.8), 2) for _ in tasks)
    kills = [(number, round(dice.uniform(0.05, 1.5), 2)) for number in range(len(tasks)) for _ in range(2)]
    return Schedule(
        seed=seed,
        day=day,
        tasks=tuple(tasks),
        starts=starts,
        kills=tuple(kill for kill in kills if dice.random() < 0.35),
        shared=dice.choice((0.0, 0.15, 0.3, 0.5)),
        files=dice.choice((0.0, 0.01, 0.03)),
        damaged=dice.randrange(contents) if dice.random() < 0.15 else -1,
    )


def run_schedule(schedule: Schedule, storage: StorageSettings, folder: Path) -> Told:
    """Play a schedule to its end and judge what is left."""
    started = time.monotonic()
    told = Told(schedule=schedule, wrong="")
    names = _names(schedule)
    returning = [task.name for task in schedule.tasks if task.reason == "restore"]
    eye = (storage, schedule.day, names, returning, BAD if schedule.damaged >= 0 else "-")
    weather = Weather(seed=schedule.seed, shared=schedule.shared, files=schedule.files)
    stop, seen = folder / "stop", folder / "seen"
    reader = _CONTEXT.Process(target=read_on, args=(eye, stop, seen), daemon=True)
    reader.start()
    try:
        with proxy(storage.endpoint_url, weather) as address:
            away = replace(storage, endpoint_url=address)
            ends = _play(schedule, away, open_public_store(storage), folder, told, weather)
    finally:
        stop.touch()
        reader.join(60)
        if reader.is_alive():
            reader.kill()
    told.reads, told.wrong = json.loads(seen.read_text(encoding="utf-8"))
    told.outcomes.update(ended.outcome for ended in ends.values())
    told.faults = weather.seen
    told.wrong = told.wrong or _judge(schedule, ends, storage, eye, told)
    told.seconds = time.monotonic() - started
    return told


def _names(schedule: Schedule) -> dict[str, str]:
    """Content id → name."""
    context = RunContext.create(day=ReferenceDay.parse(schedule.day), run_id="names", code_version="test")
    return {
        make_inputs(context, rows_of(schedule.day, content), MemoryStore()).split.content_id: BAD
        if content == schedule.damaged
        else f"content-{content}"
        for content in range(4)
    }


class _Running:
    """A task and its present process."""

    def __init__(self, number: int, schedule: Schedule, away: StorageSettings, folder: Path) -> None:
        self.task, self.result = schedule.tasks[number], folder / f"result-{number}"
        self.kills = sorted(second for task, second in schedule.kills if task == number)
        self._arguments = (self.task, away, self.result)
        self.process: Any = None
        self.born = 0.0

    def start(self) -> None:
        """Start it (again)."""
        self.process, self.born = _CONTEXT.Process(target=run_task, args=self._arguments, daemon=True), time.monotonic()
        self.process.start()

    def step(self) -> int:
        """Kill it when it is time, and start it again when it died. How many times it was killed just now."""
        if self.result.exists():
            return 0
        if self.kills and self.process.is_alive() and time.monotonic() - self.born >= self.kills[0]:
            self.kills.pop(0)
            self.process.kill()
            self.process.join()
            killed = int(self.process.exitcode in _ENDS_OF_THE_KILLED)
        else:
            killed = 0
        if not self.process.is_alive() and not self.result.exists():
            if self.process.exitcode not in _ENDS_OF_THE_KILLED:
                write_result(self.result, Ended(outcome="wrong", text=f"ended with {self.process.exitcode}"))
            else:
                self.start()
        return killed


def _play(
    schedule: Schedule, away: StorageSettings, public: ObjectStore, folder: Path, told: Told, weather: Weather
) -> dict[str, Ended]:
    running = [_Running(number, schedule, away, folder) for number in range(len(schedule.tasks))]
    waiting = sorted(zip(schedule.starts, range(len(running)), strict=True))
    began = time.monotonic()
    whole = schedule.damaged >= 0
    while not all(one.result.exists() for one in running):
        now = time.monotonic() - began
        while waiting and waiting[0][0] <= now:
            running[waiting.pop(0)[1]].start()
        told.killed += sum(one.step() for one in running if one.process is not None)
        if whole and now > 0.5:
            whole = not _damage(schedule, public)
        if now > _PATIENCE / 2:
            weather.calm()
        if now > _PATIENCE:
            break
        time.sleep(0.01)
    for one in running:
        if one.process is not None:
            one.process.join(5)
            if one.process.is_alive():
                one.process.kill()
    ends = {one.task.name: read_result(one.result) or Ended(outcome="hangs") for one in running}
    weather.calm()
    for one in running:
        # What Airflow gave up a person clears, when the network is well again.
        if ends[one.task.name].outcome == "tired":
            run_task(one.task, away, one.result)
            ends[one.task.name] = read_result(one.result) or Ended(outcome="hangs")
    return ends


def _damage(schedule: Schedule, public: ObjectStore) -> bool:
    """Take the last row out of a file of the damaged content, when it is there."""
    context = RunContext.create(day=ReferenceDay.parse(schedule.day), run_id="damage", code_version="test")
    rows = rows_of(schedule.day, schedule.damaged)
    content = make_inputs(context, rows, MemoryStore()).split.content_id
    uf = rows[0]["co_municipio_estabelecimento"][:2]
    initials = {"12": "ac", "35": "sp", "53": "df"}[uf]
    base = f"v1/days/{schedule.day}/c-{content}/"
    key = f"{base}uf={uf}/imunizacao-total-{initials}_{schedule.day}.csv"
    stored = public.get_or_none(key) if public.get_or_none(base + "day.json") is not None else None
    if stored is None:
        return False
    public.put(key, b"".join(stored.body.splitlines(keepends=True)[:-1]), content_type="text/csv")
    return True


def _judge(
    schedule: Schedule, ends: dict[str, Ended], storage: StorageSettings, eye: tuple[Any, ...], told: Told
) -> str:
    """What is wrong at the end."""
    bad = {name: ended for name, ended in ends.items() if ended.outcome in {"wrong", "hangs", "tired"}}
    if bad:
        return f"tasks that did not end as they should: {bad}"
    if schedule.damaged < 0 and any(ended.outcome == "red" for ended in ends.values()):
        return f"red without damage: {ends}"
    public = open_public_store(storage)
    stored = public.get_or_none(f"v1/days/{schedule.day}/head.json")
    if stored is None:
        return "no head at the end" if any(end.outcome == "published" for end in ends.values()) else ""
    head = tell_head(stored.body, names=eye[2], returning=eye[3])
    told.revisions = len(head.entries)
    wrong = judge_history(None, head, {name: ended.outcome for name, ended in ends.items()})
    if wrong:
        return wrong
    for name, ended in ends.items():
        if ended.outcome == "published" and head.entries[ended.revision - 1].token != name:
            return f"{name} was told of revision {ended.revision}, which is {head.entries[ended.revision - 1]}"
    twice = [one for one, other in zip(head.entries, head.entries[1:], strict=False) if one.content == other.content]
    if any(entry.content for entry in twice):
        return f"two revisions of one content, one after the other: {twice}"
    index = public.get(f"v1/months/{schedule.day[:7]}/index.json").body
    if tell_index(index, schedule.day, names=eye[2]) != head.shown:
        return f"stale index: {tell_index(index, schedule.day, names=eye[2])} beside {head.shown}"
    rows = json.loads(index)["days"]
    (month,) = [
        row for row in json.loads(public.get("v1/catalog.json").body)["months"] if row["month"] == schedule.day[:7]
    ]
    if (month["rows"], month["days"]) != (sum(row["rows"] for row in rows), len(rows)):
        return f"stale catalog: {month}"
    return Reader(*eye).look()


def run_schedules(
    schedules: Sequence[Schedule], storage: StorageSettings, folder: Path, *, lanes: int = 1
) -> Iterator[Told]:
    """Play schedules, `lanes` of them at a time. Processes are forked from one that has the product loaded."""
    _CONTEXT.set_forkserver_preload(["tests.protocol.runs"])

    def play(schedule: Schedule) -> Told:
        own = folder / f"schedule-{schedule.seed}"
        own.mkdir()
        return run_schedule(schedule, storage, own)

    with ThreadPoolExecutor(lanes) as pool:
        yield from pool.map(play, schedules)


def summary(told: Sequence[Told]) -> str:
    """Counts, then every schedule that went wrong."""
    outcomes, faults = Counter[str](), Counter[str]()
    for one in told:
        outcomes += one.outcomes
        faults += one.faults
    wrong = [one for one in told if one.wrong]
    lines = [
        f"{len(told)} schedules, {len(wrong)} violations; {outcomes.total()} tasks: {dict(outcomes.most_common())}; "
        f"{sum(one.revisions for one in told)} revisions, {sum(one.killed for one in told)} kills, "
        f"{faults.total()} faults {dict(faults.most_common())}, {sum(one.reads for one in told)} reads, "
        f"{sum(one.seconds for one in told):.0f} s"
    ]
    lines += [f"VIOLATION {one.schedule}\n    {one.wrong}" for one in wrong]
    return "\n".join(lines)
