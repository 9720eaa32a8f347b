"""The publication protocol of one day in a hundred lines, its invariants, and the ways to get it wrong.

A model of `publish.py`, `reconcile.py`, `indexes.py` and of a person who withdraws a day and gives it back, small enough to be walked
with several writers (`explorer.py`). That the product does the same is shown by `product.py`, which walks the product's own code.
Every rule of the protocol is a switch of `Rules`: a walk with one of them off must find a violation, or the rule is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from tests.protocol.explorer import Again, GivesUp, Invariant, Lost, Refused, Stage, Store, World, Writer

BAD: Final = "bad"
"""A content whose files do not add up when a reader counts them."""


class Entry(NamedTuple):
    """One revision."""

    reason: str
    """`publish`, `withdraw` (by a person), `restore` (by a person), `back` (by reconcile; without content: a withdrawal)."""
    content: str
    """Empty: withdrawn."""
    through: int
    token: str
    verdict: str = ""
    cnes: int = 1
    """References that it was made with."""


class Head(NamedTuple):
    """`head.json`: the last entry is what readers see."""

    entries: tuple[Entry, ...]
    through: int
    """`current.dataThrough`: moves on without a new revision when the same content is found again."""

    @property
    def shown(self) -> tuple[int, str]:
        """Revision and content, as the month index has them."""
        return len(self.entries), self.entries[-1].content


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The protocol. Each field switched is a known way to get it wrong."""

    fence: bool = True
    """An extract that is older than what was published changes nothing, unless a person restores it."""
    fence_on_references: bool = True
    """Of one extract the one that was made with older references changes nothing."""
    fence_over_history: bool = True
    """The fence looks at all revisions, not at the last one only."""
    token: bool = True
    """A writer looks for its own revision before it makes one."""
    compare_and_swap: bool = True
    """The head is written on condition that it is what was read."""
    head_last: bool = True
    """Files first, then the manifest, then the head."""
    read_back: bool = True
    """After a lost response the head is read again; else the same bytes are sent again without a condition."""
    keep_files: bool = True
    """After a lost response nothing is deleted."""
    own_folders: bool = True
    """Each content has its own folder; else all overwrite one."""
    withdrawal_binds: bool = True
    """A run does not publish what a person withdrew."""
    withdrawal_unjudged: bool = True
    """Reconcile writes no verdict on a withdrawn day."""
    back_stops_at_withdrawal: bool = True
    """Reconcile does not go back behind a withdrawal."""
    back_moves_index: bool = True
    """Reconcile brings the month index along when the head went back."""
    late_index_is_mended: bool = True
    """A month index that is behind is brought up to date; else it counts as a gap."""
    index_after_head: bool = True
    """The index is read before the head that it is made from."""


def swap(store: Store, key: str, decide: Callable[[Any], tuple[Any, Any]], rules: Rules, *, lost: str = "") -> Any:
    """`storage.swap`, one to a stage. `lost`: a key that the writer deletes when it believes that it failed.

    Trying again is starting the stage again: what was read before does not matter any more, and the eight tries of the product are
    more than two or three writers can use up.
    """
    there = store.get(key)
    new, answer = decide(there)
    if new is None or new == there:
        return answer
    try:
        store.put(key, new, only_if=there if rules.compare_and_swap else ...)
    except Refused:
        raise Again from None
    except Lost:
        if lost and not rules.keep_files:
            store.delete(lost)
            raise GivesUp from None
        if rules.read_back:
            raise Again from None
        store.put(key, new)
    return answer


def publisher(name: str, content: str, through: int, rules: Rules, *, reason: str = "publish", cnes: int = 1) -> Writer:
    """A run: content folder, head, month index, reconcile. Returns its outcome."""
    data, manifest = (f"data {content}", f"manifest {content}") if rules.own_folders else ("data", "manifest")

    def write(store: Store, deaths: int, carry: Any) -> Any:
        for key in (data, manifest):
            if not rules.own_folders:
                store.put(key, content)
            else:
                _create(store, key, content)
        return None

    def commit(store: Store, deaths: int, carry: Any) -> Any:
        def decide(head: Head | None) -> tuple[Head | None, str]:
            entries = head.entries if head is not None else ()
            if head is not None:
                last = entries[-1]
                if rules.token and any(entry.token == name for entry in entries):
                    return None, "published"
                if rules.withdrawal_binds and _by_person(last) and reason != "restore":
                    raise GivesUp
                seen = [
                    (entry.through, entry.cnes) for entry in (entries if rules.fence_over_history else entries[-1:])
                ]
                newest = max(*seen, (head.through, last.cnes))
                mine = (through, cnes if rules.fence_on_references else newest[1])
                if rules.fence and reason != "restore" and newest > mine:
                    return None, "superseded"
                if last.content == content:
                    return head._replace(through=through), "unchanged"
            return Head((*entries, Entry(reason, content, through, name, cnes=cnes)), through), "published"

        return swap(store, "head", decide, rules, lost=manifest)

    def index(store: Store, deaths: int, carry: Any) -> Any:
        update_index(store, rules)
        return carry

    if rules.head_last:
        return Writer(name, [write, commit, index, *_reconcile(name, rules)], (content,))
    return Writer(name, [_after(commit), _after(write), index, *_reconcile(name, rules)], (content,))


def _after(stage: Stage) -> Stage:
    """The stage, with the outcome of the commit passed on."""

    def run(store: Store, deaths: int, carry: Any) -> Any:
        return stage(store, deaths, carry) or carry

    return run


def _create(store: Store, key: str, content: str) -> None:
    try:
        store.put(key, content, only_if=None)
    except Refused:
        return
    except Lost:
        if store.get(key) is None:
            raise GivesUp from None


def _by_person(entry: Entry) -> bool:
    return entry.reason == "withdraw" and entry.verdict != "ok"


class _Seen(NamedTuple):
    """What reconcile found."""

    outcome: str
    """Of the run."""
    revision: int
    judged: bool
    gap: bool
    behind: bool


def _reconcile(name: str, rules: Rules) -> list[Stage]:
    """Look, bring the index up to date, write the verdict or go back, and bring the index along."""

    def look(store: Store, deaths: int, carry: Any) -> _Seen:
        head: Head = store.get("head")
        content = head.entries[-1].content
        behind = bool(content) and store.get("index") != head.shown
        gap = content == BAD or (behind and not rules.late_index_is_mended)
        judged = bool(content) or not rules.withdrawal_unjudged
        return _Seen(carry, len(head.entries), judged, gap, behind and rules.late_index_is_mended)

    def mend(store: Store, deaths: int, seen: _Seen) -> _Seen:
        if seen.behind:
            update_index(store, rules)
        return seen

    def judge(store: Store, deaths: int, seen: _Seen) -> Any:
        if not seen.judged:
            return seen
        decide = _go_back if seen.gap else _annotate
        swap(store, "head", lambda head: decide(head, seen.revision, f"back {name}{deaths}", rules), rules)
        return seen

    def follow(store: Store, deaths: int, seen: _Seen) -> str:
        if seen.gap:
            if rules.back_moves_index:
                update_index(store, rules)
            raise GivesUp  # the run is red
        return seen.outcome

    return [look, mend, judge, follow]


def _annotate(head: Head, revision: int, token: str, rules: Rules) -> tuple[Head | None, None]:
    entries = list(head.entries)
    if entries[revision - 1].verdict:
        return None, None
    entries[revision - 1] = entries[revision - 1]._replace(verdict="ok")
    return head._replace(entries=tuple(entries)), None


def _go_back(head: Head, revision: int, token: str, rules: Rules) -> tuple[Head | None, None]:
    entries = list(head.entries)
    if any(entry.token == f"{token} {revision}" for entry in entries):
        return None, None
    if len(entries) != revision:
        raise GivesUp
    entries[-1] = bad = entries[-1]._replace(verdict="gap")
    good = None
    for entry in reversed(entries[:-1]):
        if _by_person(entry) and rules.back_stops_at_withdrawal:
            break
        if entry.content not in ("", bad.content) and entry.verdict == "ok":
            good = entry
            break
    through = good.through if good is not None else bad.through
    content, verdict = (good.content, "ok") if good is not None else ("", "gap")
    entries.append(Entry("back", content, through, f"{token} {revision}", verdict))
    return Head(tuple(entries), through), None


def update_index(store: Store, rules: Rules) -> None:
    """`indexes.update_month` for one day."""
    early = None if rules.index_after_head else store.get("head")

    def decide(index: Any) -> tuple[Any, None]:
        head = early if early is not None else store.get("head")
        return head.shown, None

    swap(store, "index", decide, rules)


def withdrawal(name: str, rules: Rules) -> Writer:
    """A person takes the day back."""

    def commit(store: Store, deaths: int, carry: Any) -> Any:
        def decide(head: Head | None) -> tuple[Head | None, str]:
            if head is None:
                return None, "nothing there"
            if any(entry.token == name for entry in head.entries):
                return None, "withdrawn"
            if not head.entries[-1].content and head.entries[-1].reason == "withdraw":
                return None, "unchanged"
            entry = Entry("withdraw", "", head.entries[-1].through, name, cnes=head.entries[-1].cnes)
            return Head((*head.entries, entry), head.through), "withdrawn"

        return swap(store, "head", decide, rules)

    return Writer(name, [commit, _index_if_any(rules)])


def restoration(name: str, rules: Rules) -> Writer:
    """A person gives back what was withdrawn: the last content with a good verdict or none yet."""

    def commit(store: Store, deaths: int, carry: Any) -> Any:
        def decide(head: Head | None) -> tuple[Head | None, str]:
            if head is None:
                return None, "nothing there"
            if any(entry.token == name for entry in head.entries):
                return None, "restored"
            found = [entry for entry in head.entries if entry.content and entry.verdict != "gap"]
            if head.entries[-1].content or not found:
                return None, "nothing to restore"
            entry = found[-1]._replace(reason="restore", token=name)
            return Head((*head.entries, entry), entry.through), "restored"

        return swap(store, "head", decide, rules)

    return Writer(name, [commit, _index_if_any(rules)])


def _index_if_any(rules: Rules) -> Stage:
    def run(store: Store, deaths: int, carry: Any) -> Any:
        if carry != "nothing there":
            update_index(store, rules)
        return carry

    return run


# --- what must hold in every state ---------------------------------------------------------------------


def no_torn_read(world: World) -> str:
    """Whatever head or index point to is there, whole."""
    for pointer in ("head", "index"):
        value = world.stored[pointer]
        content = "" if value is None else (value.shown if pointer == "head" else value)[1]
        if not content:
            continue
        for kind in ("manifest", "data"):
            found = world.stored.get(f"{kind} {content}", world.stored.get(kind))
            if found != content:
                return f"torn read: {pointer} → {content}, whose {kind} is {found}"
    return ""


def history_only_grows(world: World) -> str:
    """No revision is lost or changed, but for its verdict; `dataThrough` of a revision only moves on."""
    before, after = world.before["head"], world.stored["head"]
    if before is None or before == after:
        return ""
    if after is None or len(after.entries) < len(before.entries):
        return "a revision was lost"
    for old, new in zip(before.entries, after.entries, strict=False):
        if old._replace(verdict="") != new._replace(verdict=""):
            return f"a revision was overwritten: {old} by {new}"
        if old.verdict and new.verdict not in {old.verdict, "gap"}:
            return f"a verdict was overwritten: {old} by {new}"
    return ""


def each_run_once(world: World) -> str:
    """No run has two revisions, and a run that was told that it published is in the history."""
    head = world.stored["head"]
    tokens = [entry.token for entry in head.entries] if head is not None else []
    if len(set(tokens)) != len(tokens):
        return f"duplicate commit: {tokens}"
    gone = [name for name, outcome in world.ended.items() if outcome == "published" and name not in tokens]
    return f"acknowledged commit lost: {gone}" if gone else ""


def never_older(world: World) -> str:
    """A run never publishes an older extract than one that was published or confirmed before, nor the same made with older references."""
    before, after = world.before["head"], world.stored["head"]
    if before is None or len(after.entries) == len(before.entries):
        return ""
    newest = max((before.through, before.entries[-1].cnes), *((entry.through, entry.cnes) for entry in before.entries))
    new = after.entries[-1]
    older = (new.through, new.cnes) < newest
    return f"older over newer: {new} after {newest}" if new.reason == "publish" and older else ""


def withdrawn_stays_withdrawn(world: World) -> str:
    """After a person took the day back, only somebody who says so gives it back, and nobody gives back what was there before."""
    head = world.stored["head"]
    banned: set[str] = set()
    seen: set[str] = set()
    withdrawn = False
    for entry in head.entries if head is not None else ():
        if withdrawn and entry.content and entry.reason != "restore":
            return f"published although withdrawn: {entry}"
        if entry.reason == "restore":
            banned.discard(entry.content)
        if entry.reason == "back" and entry.content in banned:
            return f"reconcile brought back what a person withdrew: {entry}"
        withdrawn = entry.reason == "withdraw" or (withdrawn and not entry.content)
        seen |= {entry.content} - {""}
        if entry.reason == "withdraw":
            banned |= seen
    return ""


def good_days_stay(world: World) -> str:
    """Reconcile finds gaps in bad contents alone (their names begin with `bad`)."""
    head = world.stored["head"]
    wrong = [entry for entry in (head.entries if head is not None else ()) if entry.verdict == "gap"]
    wrong = [entry for entry in wrong if entry.content and not entry.content.startswith(BAD)]
    return f"a good revision was judged bad: {wrong[0]}" if wrong else ""


def index_is_the_head(world: World) -> str:
    """When all writers have ended, the month index shows the head."""
    head, index = world.stored["head"], world.stored["index"]
    if not world.final or head is None or index == head.shown:
        return ""
    return f"stale index: {index} beside {head.shown}"


def no_bad_day_is_left(world: World) -> str:
    """When all writers have ended, readers do not see a content that does not add up."""
    head = world.stored["head"]
    return f"left: {head.entries[-1]}" if world.final and head is not None and head.shown[1] == BAD else ""


INVARIANTS: Final[Sequence[Invariant]] = (
    no_torn_read,
    history_only_grows,
    each_run_once,
    never_older,
    withdrawn_stays_withdrawn,
    good_days_stay,
    index_is_the_head,
    no_bad_day_is_left,
)


# --- who meets whom ------------------------------------------------------------------------------------

A: Final = Head((Entry("publish", "a", 1, "first", "ok"),), 1)
A_CONFIRMED: Final = A._replace(through=5)
"""The same content was found again by a later extract."""
A_WITHDRAWN: Final = Head((*A.entries, Entry("withdraw", "", 1, "person")), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Some writers, and what is there before they start."""

    writers: Callable[[Rules], list[Writer]]
    head: Head | None = None

    def stored(self, rules: Rules) -> dict[str, Any]:
        """The store before the first step."""
        stored: dict[str, Any] = {"head": self.head, "index": self.head.shown if self.head else None}
        for entry in self.head.entries if self.head else ():
            if entry.content:
                folder = f" {entry.content}" if rules.own_folders else ""
                stored |= {f"data{folder}": entry.content, f"manifest{folder}": entry.content}
        return stored


TWO: Final[dict[str, Scene]] = {
    "older and newer": Scene(writers=lambda r: [publisher("x", "a", 1, r), publisher("y", "b", 2, r)]),
    "same content": Scene(writers=lambda r: [publisher("x", "a", 1, r), publisher("y", "a", 2, r)]),
    "two remakes": Scene(writers=lambda r: [publisher("x", "b", 1, r), publisher("y", "c", 1, r, cnes=2)], head=A),
    "good and bad": Scene(writers=lambda r: [publisher("x", "b", 2, r), publisher("y", BAD, 3, r)], head=A),
    "late and bad": Scene(writers=lambda r: [publisher("x", "b", 3, r), publisher("y", BAD, 6, r)], head=A_CONFIRMED),
    "run and withdrawal": Scene(writers=lambda r: [publisher("x", "b", 2, r), withdrawal("person", r)], head=A),
    "first run and withdrawal": Scene(writers=lambda r: [publisher("x", "a", 2, r), withdrawal("person", r)]),
    "withdrawal and return": Scene(writers=lambda r: [withdrawal("person", r), restoration("other", r)], head=A),
    "run and return": Scene(writers=lambda r: [publisher("x", "b", 2, r), restoration("other", r)], head=A_WITHDRAWN),
    "two days and withdrawal": Scene(
        writers=lambda r: [
            Writer("y", [*publisher("x", "b", 2, r).stages, *publisher("y", "c", 3, r).stages], ("b", "c")),
            withdrawal("person", r),
        ]
    ),
    "bad return": Scene(
        writers=lambda r: [publisher("x", BAD, 2, r, reason="restore"), publisher("y", "b", 3, r)], head=A_WITHDRAWN
    ),
}
THREE: Final[dict[str, Scene]] = {
    "three contents": Scene(
        writers=lambda r: [publisher("x", "a", 1, r), publisher("y", "b", 2, r), publisher("z", "c", 3, r)]
    ),
    "two backfills and the schedule": Scene(
        writers=lambda r: [publisher("x", "a", 1, r), publisher("y", "a", 2, r), publisher("z", "b", 3, r)]
    ),
    "good, bad and withdrawal": Scene(
        writers=lambda r: [publisher("x", "b", 2, r), publisher("y", BAD, 3, r), withdrawal("person2", r)], head=A
    ),
    "run, withdrawal and return": Scene(
        writers=lambda r: [publisher("x", "b", 2, r), withdrawal("person2", r), restoration("other", r)], head=A
    ),
}

MUTANTS: Final[dict[str, Rules]] = {
    "no fence": Rules(fence=False),
    "fence on the extract alone": Rules(fence_on_references=False),
    "fence on the last revision only": Rules(fence_over_history=False),
    "no commit token": Rules(token=False),
    "no compare-and-swap": Rules(compare_and_swap=False),
    "head before the files": Rules(head_last=False),
    "manifest last, no compare-and-swap": Rules(compare_and_swap=False, token=False),
    "blind retry": Rules(read_back=False),
    "own files deleted after a lost response": Rules(keep_files=False),
    "overwriting in place": Rules(own_folders=False),
    "runs ignore a withdrawal": Rules(withdrawal_binds=False),
    "reconcile judges a withdrawn day": Rules(withdrawal_unjudged=False),
    "reconcile goes behind a withdrawal": Rules(back_stops_at_withdrawal=False),
    "reconcile leaves the index": Rules(back_moves_index=False),
    "a late index is a gap": Rules(late_index_is_mended=False),
    "head read before the index": Rules(index_after_head=False),
}


def keys(rules: Rules) -> list[str]:
    """All keys that the writers of a scene can touch."""
    folders = [f" {content}" for content in ("a", "b", "c", BAD)] if rules.own_folders else [""]
    return ["head", "index", *(f"{kind}{folder}" for folder in folders for kind in ("data", "manifest"))]


def without(rules: Rules, **changes: bool) -> Rules:
    """The rules with some switched."""
    return replace(rules, **changes)


def private(writers: Sequence[Writer]) -> set[str]:
    """Folders of contents that one writer alone publishes."""
    contents = [content for writer in writers for content in writer.contents]
    return {f"{kind} {one}" for one in contents if contents.count(one) == 1 for kind in ("data", "manifest")}
