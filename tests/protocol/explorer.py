"""Every interleaving of a few writers of one object store, with crashes and lost responses, walked breadth first.

A writer is plain code that calls a store: the small protocol of `model.py`, or the product itself (`product.py`). It is deterministic, so
what it does next depends only on the answers that it had. It is therefore run again from its beginning with the answers so far, up
to the first call without an answer; that call is its next step. A state is what the store holds and the answers that each writer had;
states that meet again are walked once. So the walk is exhaustive without threads and without a second description of the code.

Faults: a writer may die before any call and starts once more from its beginning; the response of a conditional write may be lost, with
the write applied or not. ETags are those of content, as S3 servers make them: the same bytes again have the same ETag again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

ABSENT: Final = -1
"""Value number of a key that does not exist."""
ANY: Final = -2
"""Condition of a write that has none."""


class Refused(Exception):
    """A conditional write was refused."""


class Lost(Exception):
    """No response came: the write was applied, or it was not."""


class GivesUp(Exception):
    """The writer ends without success; it may start once more."""


class Again(Exception):
    """The writer starts its present part from the beginning and forgets the answers that it had there."""


class _Pause(BaseException):
    """The code has come to its next call."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a writer; `value` and `condition` are numbers of values."""

    verb: str
    key: str
    value: int = ABSENT
    condition: int = ANY


Answer = tuple[str, int]
"""`read` with the number of the value, `done`, `refused` or `lost`."""


class Values:
    """Gives equal values one number."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._values: list[Any] = []

    def number(self, value: Hashable) -> int:
        """The number of a value; None is absence."""
        if value is None:
            return ABSENT
        found = self._numbers.get(value)
        if found is None:
            found = self._numbers[value] = len(self._values)
            self._values.append(value)
        return found

    def of(self, number: int) -> Any:
        """The value of a number."""
        return None if number < 0 else self._values[number]


class Store:
    """What a writer calls. Answers come from the history; the first call without one stops the writer."""

    def __init__(self, values: Values, history: tuple[Answer, ...]) -> None:
        self._values, self._history, self._at = values, history, 0
        self.pending: Call | None = None

    def get(self, key: str) -> Any:
        """The value of a key, or None."""
        return self._values.of(self._answer(Call("get", key))[1])

    def put(self, key: str, value: Hashable, *, only_if: Hashable = ...) -> None:
        """Write; `only_if` is the value that must be there (None: nothing). Raises `Refused` or `Lost`."""
        condition = ANY if only_if is ... else self._values.number(only_if)
        kind = self._answer(Call("put", key, self._values.number(value), condition))[0]
        if kind == "refused":
            raise Refused
        if kind == "lost":
            raise Lost

    def delete(self, key: str) -> None:
        """Remove."""
        self._answer(Call("put", key))

    def _answer(self, call: Call) -> Answer:
        if self.pending is not None:
            raise _Pause
        if self._at == len(self._history):
            self.pending = call
            raise _Pause
        self._at += 1
        return self._history[self._at - 1]


Stage = Callable[[Store, int, Any], Any]
"""One part of a writer: (store, how often it died before, what the part before returned) → what the next part needs, hashable."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A name and its parts. Between two parts only what the first one returned is remembered."""

    name: str
    stages: Sequence[Stage]
    contents: tuple[str, ...] = ()
    """What it publishes."""


@dataclass(frozen=True, slots=True)
class _Local:
    stage: int = 0
    carry: Any = None
    deaths: int = 0
    losses: int = 0
    history: tuple[Answer, ...] = ()


@dataclass(slots=True)
class World:
    """A state, as an invariant sees it."""

    stored: Mapping[str, Any]
    before: Mapping[str, Any]
    """The store one step earlier."""
    ended: Mapping[str, Any]
    """Writer → what it returned; a writer that gave up has None."""
    final: bool
    """Every writer has ended."""


Invariant = Callable[[World], str]
"""Empty, or what is wrong."""


@dataclass(slots=True)
class Report:
    """What a walk found."""

    states: int = 0
    finals: int = 0
    runs: int = 0
    """How often a writer's code was run."""
    violation: str = ""
    trace: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        steps = "".join(f"\n  {number:2}. {step}" for number, step in enumerate(self.trace, 1))
        return f"{self.states} states, {self.finals} ends, {self.runs} runs of code: {self.violation or 'no violation'}{steps}"


class Explorer:
    """Walks all states of some writers. `deaths` and `losses` are per writer, `faults` is the most of both together, over all writers.

    A key in `private` is one that a single writer touches. What happens there can change places with every step of the others, so
    only one order is walked (an ample set in the sense of partial order reduction). Where an invariant looks at such a key, it must
    not matter what it holds before that writer has gone on.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        invariants: Sequence[Invariant],
        *,
        keys: Sequence[str],
        stored: Mapping[str, Hashable] | None = None,
        deaths: int = 1,
        losses: int = 1,
        faults: int | None = None,
        private: Collection[str] = (),
        limit: int = 2_000_000,
    ) -> None:
        self._writers, self._invariants, self._keys = writers, invariants, list(keys)
        self._at = {key: number for number, key in enumerate(self._keys)}
        self._deaths, self._losses, self._limit = deaths, losses, limit
        self._faults = faults
        self._private = frozenset(private)
        self._values = Values()
        self._first = tuple(self._values.number((stored or {}).get(key)) for key in self._keys)
        self._locals: list[tuple[int, _Local, Call | None]] = []
        """Number of a local state → writer, state, its next call (None: it has ended)."""
        self._numbers: dict[tuple[int, _Local], int] = {}
        self._moves: dict[tuple[int, int], list[_Move]] = {}
        self._judged: dict[Any, str] = {}
        self._report = Report()

    def run(self) -> Report:
        """Walk until the end or the first violation, which is then the shortest."""
        first = (self._first, tuple(self._settle(n, _Local()) for n in range(len(self._writers))), self._faults or 0)
        parents: dict[Any, Any] = {first: None}
        queue = deque([first])
        while queue:
            state = queue.popleft()
            stored, writers, faults = state
            self._report.states += 1
            ended = True
            for number, local in self._movers(writers):
                for move in self._moves_of(local, stored):
                    ended = False
                    if move.fault and self._faults is not None and not faults:
                        continue
                    left = faults - 1 if move.fault and self._faults is not None else faults
                    after = stored if move.value == _KEEP else _with(stored, move.at, move.value)
                    successor = (after, _with(writers, number, move.local), left)
                    if successor in parents:
                        continue
                    parents[successor] = state, move.label
                    wrong = self._wrong(stored, after, successor[1])
                    if wrong:
                        self._report.violation = wrong
                        self._report.trace = _trace(parents, successor)
                        return self._report
                    queue.append(successor)
            self._report.finals += ended
            if len(parents) > self._limit:
                raise AssertionError(f"more than {self._limit} states: the walk is too large to be exhaustive")
        return self._report

    def _movers(self, writers: tuple[int, ...]) -> list[tuple[int, int]]:
        """The writers whose next moves are walked: all of them, or one that asks for a key which no other writer knows."""
        every = list(enumerate(writers))
        for number, local in every:
            call = self._locals[local][2]
            if call is not None and call.key in self._private:
                return [(number, local)]
        return every

    # --- one writer -----------------------------------------------------------------------------------

    def _moves_of(self, local: int, stored: tuple[int, ...]) -> list[_Move]:
        """All that a writer may do next; it depends on nothing but the value of the key that it asks for."""
        call = self._locals[local][2]
        if call is None:
            return []
        there = stored[self._at[call.key]]
        known = self._moves.get((local, there))
        if known is None:
            known = self._moves[local, there] = list(self._outcomes(local, call, there))
        return known

    def _outcomes(self, number: int, call: Call, there: int) -> Iterator[_Move]:
        writer, local, _ = self._locals[number]
        name, at = self._writers[writer].name, self._at[call.key]

        def move(label: str, answer: Answer, value: int = _KEEP, lost: int = 0) -> _Move:
            history = (*local.history, answer)
            moved = _Local(local.stage, local.carry, local.deaths, local.losses + lost, history)
            return _Move(f"{name}: {label}", at, value, self._settle(writer, moved), lost > 0)

        if call.verb == "get":
            yield move(f"get {call.key}", ("read", there))
        elif call.condition not in (ANY, there):
            yield move(f"put {call.key} refused", ("refused", 0))
        else:
            yield move(f"{call.verb} {call.key}", ("done", 0), call.value)
            if call.condition != ANY and local.losses < self._losses:
                yield move(f"put {call.key}, applied, response lost", ("lost", 0), call.value, 1)
                yield move(f"put {call.key}, not applied, response lost", ("lost", 0), lost=1)
        if local.deaths < self._deaths and (local.stage or local.history):
            reborn = self._settle(writer, _Local(deaths=local.deaths + 1, losses=local.losses))
            yield _Move(f"{name}: dies before {call.verb} {call.key}", at, _KEEP, reborn, True)

    def _settle(self, writer: int, local: _Local) -> int:
        """Run a writer up to its next call, over the ends of its parts; the number of where it is then."""
        known = self._numbers.get((writer, local))
        if known is None:
            settled, call = self._run(writer, local)
            if settled != local:
                known = self._settle(writer, settled)
            else:
                known = len(self._locals)
                self._locals.append((writer, local, call))
            self._numbers[writer, local] = known
        return known

    def _run(self, writer: int, local: _Local) -> tuple[_Local, Call | None]:
        """The same state with its next call, or the state to go on from."""
        stages = self._writers[writer].stages
        if local.stage == len(stages):
            return local, None
        store = Store(self._values, local.history)
        self._report.runs += 1
        try:
            carry = stages[local.stage](store, local.deaths, local.carry)
        except _Pause:
            return local, store.pending
        except Again:
            return replace(local, history=()), None
        except GivesUp:
            if local.deaths < self._deaths:
                return _Local(deaths=local.deaths + 1, losses=local.losses), None
            return _Local(len(stages), None), None
        if local.stage + 1 == len(stages):
            # A writer that has ended is what it returned, however it got there.
            return _Local(len(stages), carry), None
        return _Local(local.stage + 1, carry, local.deaths, local.losses), None

    # --- what must hold -------------------------------------------------------------------------------

    def _wrong(self, before: tuple[int, ...], after: tuple[int, ...], writers: tuple[int, ...]) -> str:
        over = tuple(local if self._locals[local][2] is None else -1 for local in writers)
        mark = (before, after, over)
        known = self._judged.get(mark)
        if known is None:
            ended = {
                writer.name: self._locals[local][1].carry
                for writer, local in zip(self._writers, over, strict=True)
                if local >= 0
            }
            world = World(
                stored=_View(self._values, self._at, after),
                before=_View(self._values, self._at, before),
                ended=ended,
                final=-1 not in over,
            )
            known = self._judged[mark] = next((wrong for check in self._invariants if (wrong := check(world))), "")
        return known


_KEEP: Final = -3
"""The step changes nothing in the store."""


@dataclass(frozen=True, slots=True)
class _Move:
    label: str
    at: int
    value: int
    local: int
    fault: bool


class _View(Mapping[str, Any]):
    def __init__(self, values: Values, at: Mapping[str, int], stored: tuple[int, ...]) -> None:
        self._values, self._at, self._stored = values, at, stored

    def __getitem__(self, key: str) -> Any:
        return self._values.of(self._stored[self._at[key]])

    def __iter__(self) -> Any:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)


def _with(values: tuple[Any, ...], number: int, value: Any) -> tuple[Any, ...]:
    return (*values[:number], value, *values[number + 1 :])


def _trace(parents: dict[Any, Any], state: Any) -> list[str]:
    steps: list[str] = []
    while parents[state] is not None:
        state, step = parents[state]
        steps.append(step)
    return steps[::-1]
