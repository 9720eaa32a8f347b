"""Two processes meet on one day, in every order of their requests; processes die at every request; and histories at random.

What must hold at every moment: a head names nothing that is gone, unless it says so itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from imunizacao.claims import store_clock
from imunizacao.errors import ConfigurationError, PipelineError, PublicationConflict
from imunizacao.models import PublishInputs, RunContext
from imunizacao.publish import publish_day
from imunizacao.settings import HousekeepingSettings
from tests.support.control import MemoryDay, broken_promises
from tests.support.reader import read_day
from tests.support.small_day import dose, make_inputs

DAY = "2026-03-14"
PLACES = ("350010", "530010", "520110")
A = [dose("a-i0b0", "350010"), dose("b-i0b0", "530010")]
B = [dose("a-i0b0", "350010", co_lote_vacina="L2"), dose("b-i0b0", "530010", co_lote_vacina="L2")]
LONG = HousekeepingSettings(runs_days=365, landing_days=365)
"""A run that waits for a month still has what its stages left."""
Act = Callable[[], object]


class Died(BaseException):
    """The process was killed."""


def _counts(place: str) -> bool:
    """Requests that two processes can see of each other; the many files of a content are alike."""
    return "/uf=" not in place and "v1/probe/" not in place and "v1/dados/" not in place


class Watch:
    """Counts the requests of one process and does something right before the n-th, or lets the process die there."""

    def __init__(self, day: MemoryDay, at: int, what: Act | None = None) -> None:
        self._day, self._at, self._what, self.seen, self.fired = day, at, what, 0, False

    def __call__(self, verb: str, place: str) -> None:
        if self.fired:
            raise Died
        if not _counts(place):
            return
        self.seen += 1
        if self.seen == self._at:
            self.fired = True
            if self._what is None:
                raise Died
            self._day.watch(lambda verb, place: None)
            self._what()


def _quietly(act: Act, *, patient: bool) -> Act:
    """A process that is told to wait: it ends, or tries once more when the other one is done."""

    def go() -> None:
        try:
            act()
        except (PublicationConflict, ConfigurationError):
            if patient:
                with suppress(ConfigurationError):  # a person is told that the files are gone
                    act()

    return go


def _late(day: MemoryDay, rows: list[dict[str, str]]) -> tuple[RunContext, PublishInputs]:
    """A run whose stages before publish were done long ago: it has written nothing since."""
    day.hour += 1
    context = day.context(f"late-{day.hour}")
    return context, make_inputs(context, rows, day.work, hour=day.hour)


def _publisher(day: MemoryDay, run: tuple[RunContext, PublishInputs], reason: str = "") -> Act:
    def publish() -> None:
        context, inputs = run
        done = publish_day(
            context, inputs=inputs, work=day.work, public=day.public, engine=day.engine, now=day.now, reason=reason
        )
        day.reconcile(context, done)

    return publish


def _orphan(day: MemoryDay) -> tuple[Act, Act]:
    """A run publishes a content whose folder is there, whole, old and named by nobody."""
    day.revise(A)
    context = day.context("older")
    assert day.publish(context, make_inputs(context, B, day.work, hour=0)).outcome == "superseded"
    run = _late(day, B)
    day.clock.forward(days=8)
    return _publisher(day, run), day.tidy


def _withdrawn(day: MemoryDay) -> tuple[Act, Act]:
    """A run restores a withdrawn day while its files are removed."""
    day.revise(A)
    day.change("withdraw")
    run = _late(day, A)
    day.clock.forward(days=31)
    return _publisher(day, run, "restore"), day.tidy


def _withdrawn_uf(day: MemoryDay) -> tuple[Act, Act]:
    """A run restores a withdrawn UF, with other content for the rest, while its files are removed."""
    day.revise(A)
    day.change("withdraw", "53")
    run = _late(day, B)
    day.clock.forward(days=31)
    return _publisher(day, run, "restore"), day.tidy


def _run_around_purged_uf(day: MemoryDay) -> tuple[Act, Act]:
    """A run that leaves a purged UF out meets one that restores it with the same content."""
    day.revise(A)
    day.change("withdraw", "53")
    run, other = _late(day, B), _late(day, B)
    day.clock.forward(days=31)
    day.tidy()
    return _publisher(day, run), _publisher(day, other, "restore")


def _person_restores(day: MemoryDay) -> tuple[Act, Act]:
    """A person restores a day on the last day of its grace."""
    day.revise(A)
    day.revise(B)
    day.change("withdraw")
    day.clock.forward(days=31)
    return lambda: day.change("restore", run_id="person"), day.tidy


def _person_withdraws(day: MemoryDay) -> tuple[Act, Act]:
    """A person withdraws a UF while a run publishes."""
    day.revise(A)
    return _publisher(day, _late(day, B)), lambda: day.change("withdraw", "53", run_id="person")


MEETINGS = {
    "orphan": _orphan,
    "withdrawn day": _withdrawn,
    "withdrawn UF": _withdrawn_uf,
    "around a purged UF": _run_around_purged_uf,
    "person restores": _person_restores,
    "person withdraws": _person_withdraws,
}


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("meeting", MEETINGS)
def test_whoever_comes_between_two_requests_of_the_other_no_head_names_what_is_gone(
    meeting: str, order: str, step: int, tmp_path: Path
) -> None:
    day = MemoryDay(DAY, tmp_path, keep=LONG)
    one, other = MEETINGS[meeting](day)
    back = day.snapshot()
    stopped, between = (one, other) if order == "first" else (other, one)
    at = 1 - step
    while True:
        at += step
        back()
        watch = Watch(day, at, _quietly(between, patient=False))
        day.watch(watch)
        _quietly(stopped, patient=False)()
        day.watch(lambda verb, place: None)
        assert broken_promises(day.public, [DAY]) == [], f"{meeting}: at request {at}"
        if not watch.fired:
            break
        # Who was told to wait comes again, and in the end readers can read.
        _quietly(between, patient=False)()
        _quietly(stopped, patient=True)()
        assert broken_promises(day.public, [DAY]) == [], f"{meeting}: after request {at}"
        if day.head()["current"] is not None and "withdrawnUfs" not in day.head():
            read_day(day.get, DAY)
    assert at > 10, "the processes make more requests than that: the watch sees nothing"


def test_these_meetings_would_find_a_publication_that_hides_its_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("imunizacao.publish.begin_publication", lambda work, *_: store_clock(work))
    day = MemoryDay(DAY, tmp_path, keep=LONG)
    publish, tidy = _orphan(day)
    back = day.snapshot()
    broken = 0
    for at in range(1, 60, 2):
        back()
        day.watch(Watch(day, at, tidy))
        with suppress(PipelineError):
            publish()
        day.watch(lambda verb, place: None)
        broken += bool(broken_promises(day.public, [DAY]))
    assert broken


@pytest.mark.parametrize("meeting", ["orphan", "withdrawn day", "withdrawn UF"])
def test_a_housekeeping_that_dies_at_any_request_breaks_nothing_and_is_finished_by_the_next(
    meeting: str, tmp_path: Path
) -> None:
    day = MemoryDay(DAY, tmp_path)
    _, tidy = MEETINGS[meeting](day)
    back = day.snapshot()
    tidy()
    expected = {key for key in day.listing() if key.startswith("public:")}
    at = 0
    while True:
        at += 1
        back()
        watch = Watch(day, at)
        day.watch(watch)
        with suppress(Died):
            day.tidy(run_id="weekly")
        day.watch(lambda verb, place: None)
        assert broken_promises(day.public, [DAY]) == [], f"{meeting}: died at request {at}"
        if at % 2:
            # The same task again.
            day.tidy(run_id="weekly")
        else:
            # Another run finds the claim of a process that may live; two hours later it does not.
            day.tidy()
            assert broken_promises(day.public, [DAY]) == []
            day.clock.forward(hours=3)
            day.tidy()
        assert {key for key in day.listing() if key.startswith("public:")} == expected, f"died at request {at}"
        if not watch.fired:
            break


def test_a_publication_waits_for_a_claim_and_not_for_a_dead_one(tmp_path: Path) -> None:
    day = MemoryDay(DAY, tmp_path)
    publish, _ = _orphan(day)

    dead = False

    def die(verb: str, place: str) -> None:
        nonlocal dead
        dead = dead or (verb == "delete_many" and "/c-" in place)
        if dead:
            raise Died

    day.watch(die)
    with pytest.raises(Died):
        day.tidy(run_id="dies")
    day.watch(lambda verb, place: None)
    with pytest.raises(PublicationConflict, match=r"removing files of the same content.*docs/runbook/housekeeping\.md"):
        publish()
    day.clock.forward(hours=2.1)
    publish()
    assert day.head()["revision"] == 2
    read_day(day.get, DAY)


def _walk(seed: int, folder: Path, steps: int) -> MemoryDay:
    """A history at random: publications of a few contents, withdrawals, restores, deaths, time and housekeeping."""
    dice = random.Random(seed)
    day = MemoryDay(DAY, folder, keep=HousekeepingSettings(withdrawn_days=dice.choice((0, 10, 30))))
    contents = [
        [dose(f"{name}-i0b0", dice.choice(PLACES), residence=dice.choice(("", *PLACES))) for name in "abcd"[: 1 + n]]
        for n in range(3)
    ]

    def publish(reason: str) -> None:
        run = _late(day, dice.choice(contents))
        if dice.random() < 0.3:
            day.clock.forward(days=dice.choice((1, 8)))
        _publisher(day, run, reason)()

    def tidy() -> None:
        if dice.random() < 0.3:
            day.watch(Watch(day, dice.randrange(1, 30)))
        try:
            day.tidy()
        finally:
            day.watch(lambda verb, place: None)

    acts: list[Act] = [
        lambda: publish(""),
        lambda: publish(""),
        lambda: publish("restore"),
        lambda: day.change("withdraw"),
        lambda: day.change("withdraw", dice.choice(PLACES)[:2]),
        lambda: day.change("restore"),
        lambda: day.change("restore", dice.choice(PLACES)[:2]),
        lambda: day.clock.forward(days=dice.choice((1, 8, 31))),
        tidy,
        tidy,
    ]
    done: list[str] = []
    for _ in range(steps):
        act = dice.choice(acts)
        try:
            act()
        except (PipelineError, Died) as stopped:
            done.append(type(stopped).__name__)
        assert broken_promises(day.public, [DAY]) == [], f"seed {seed}, after {len(done)} stops"
    return day


@pytest.mark.parametrize("seeds", [range(6), pytest.param(range(6, 400), marks=pytest.mark.slow)], ids=["few", "many"])
def test_in_any_history_what_a_head_names_is_there_unless_the_head_says_that_it_is_gone(
    seeds: range, tmp_path: Path
) -> None:
    for seed in seeds:
        day = _walk(seed, tmp_path, steps=18)
        if not day.own_public.objects:
            continue
        # Whatever happened: a run that restores leads back to a day that can be read whole.
        day.clock.forward(hours=3)
        rows = [dose("z-i0b0", "530010")]
        _publisher(day, _late(day, rows), "restore")()
        assert len(read_day(day.get, DAY).rows) == 1
