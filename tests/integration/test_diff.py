"""Differences between revisions, through the real S3 server: a reader with revision n gets to n + 1 by the diff alone."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from imunizacao.contract import load_schema
from imunizacao.diff_check import SeenUf, check_diff
from imunizacao.errors import ContractViolation, PublicationConflict, StorageUnavailable
from imunizacao.settings import StorageSettings
from imunizacao.storage import ObjectStore, open_public_store, open_work_store
from imunizacao_local.seaweed import SeaweedServer
from tests.support.buckets import fresh_buckets
from tests.support.reader import DayRead, apply_diff, read_day, read_diff
from tests.support.small_day import CONTRACT, SmallDay, dose

pytestmark = pytest.mark.servers
PLACES = ("120040", "350010", "355030", "355031", "530010")
HOMES = ("", "355030", "530010")
Rows = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def buckets(s3_server: SeaweedServer) -> Iterator[StorageSettings]:
    """Two buckets for all tests of this file: each has a day of its own."""
    with fresh_buckets(s3_server) as settings:
        yield settings


@pytest.fixture(scope="module")
def dates() -> Iterator[str]:
    """Days that nothing was published for."""
    return (str(date(2026, 1, 1) + timedelta(days=n)) for n in count())


@pytest.fixture
def day(buckets: StorageSettings, dates: Iterator[str], tmp_path: Path) -> SmallDay:
    """A day without revisions."""
    return SmallDay(next(dates), open_work_store(buckets), open_public_store(buckets), tmp_path)


def _key(number: int) -> str:
    # Ids of different lengths with common beginnings: the order is that of bytes.
    return f"{'abc'[number % 3]}{'-' * (number % 2)}{number:0{1 + number % 4}d}-i0b0"


def _some(dice: random.Random, numbers: range) -> Rows:
    return {
        _key(number): dose(
            _key(number),
            dice.choice(PLACES),
            residence=dice.choice(HOMES),
            no_fantasia_estalecimento=dice.choice(("", 'Posto "A"; sala 1', "Posto\tB", "'=1+1", "Saúde")),
        )
        for number in numbers
    }


def _next(dice: random.Random, rows: Rows, new: range) -> Rows:
    """Rows of the next revision: some removed, changed, moved, added."""
    left: Rows = {}
    for key, row in rows.items():
        fate = dice.random()
        if fate < 0.12:
            continue
        other = {"co_lote_vacina": f"L{dice.randrange(1000)}"} if fate < 0.24 else {}
        place = dice.choice(PLACES) if fate > 0.85 else row["co_municipio_estabelecimento"]
        home = dice.choice(HOMES) if fate > 0.95 else row.get("co_municipio_paciente", "")
        left[key] = dose(
            key, place, residence=home, no_fantasia_estalecimento=row["no_fantasia_estalecimento"], **other
        )
    return left | _some(dice, new)


def _head(day: SmallDay) -> dict[str, Any]:
    head: dict[str, Any] = json.loads(day.get(f"v1/days/{day.day}/head.json"))
    return head


def _entry(day: SmallDay) -> dict[str, Any]:
    entry: dict[str, Any] = _head(day)["history"][-1]
    return entry


def _csvs(read: DayRead) -> dict[str, bytes]:
    return {path: body for path, body in read.files.items() if path != "removed.csv"}


def _expected(before: Rows, after: Rows) -> dict[str, Counter[str]]:
    """Counts by UF, told from the rows themselves."""
    counts: dict[str, Counter[str]] = {}

    def note(uf: str, name: str) -> None:
        counts.setdefault(uf, Counter())[name] += 1

    for key in before.keys() | after.keys():
        old, new = (rows[key]["co_municipio_estabelecimento"][:2] if key in rows else "" for rows in (before, after))
        if not old:
            note(new, "added")
        elif not new:
            note(old, "removed")
        elif before[key] != after[key]:
            note(new, "changed")
            if old != new:
                note(new, "movedIn")
                note(old, "movedOut")
    return counts


def _require_step(day: SmallDay, before: DayRead, rows: Rows, rows_before: Rows) -> DayRead:
    """The head's last revision is reached from `before` by its diff, and its counts are those of the rows."""
    entry = _entry(day)
    diff = read_diff(day.get, entry)
    after = read_day(day.get, day.day)
    assert apply_diff(_csvs(before), diff) == _csvs(after)
    expected = _expected(rows_before, rows)
    assert {uf: Counter(said) for uf, said in entry["diff"]["ufs"].items()} == expected
    for name in ("added", "changed", "removed"):
        assert entry["diff"][name] == sum(count[name] for count in expected.values())
    assert entry["reconciliation"]["verdict"] == "ok"
    return after


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_reader_gets_from_any_revision_to_the_next_by_its_diff(day: SmallDay, seed: int) -> None:
    dice = random.Random(seed)
    rows = _some(dice, range(60))
    day.revise(rows.values())
    before = read_day(day.get, day.day)
    steps: list[Callable[[], Rows]] = [
        lambda: _next(dice, rows, range(60, 70)),
        lambda: _next(dice, rows, range(70, 71)),
        lambda: {},
        lambda: {key: dose(key, "530010") for key in (*rows, "d")},
        lambda: _some(dice, range(100, 110)),
    ]
    for step in dice.sample(steps, 3):
        after = step()
        published = day.revise(after.values())
        before = _require_step(day, before, after, rows)
        assert published.diff == {name: _entry(day)["diff"][name] for name in ("added", "changed", "removed")}
        rows = after
    head = _head(day)
    assert [error.message for error in Draft202012Validator(load_schema("head")).iter_errors(head)] == []
    assert [("diff" in entry) for entry in head["history"]] == [False, True, True, True]


def test_a_dose_that_moved_says_where_it_was(day: SmallDay) -> None:
    rows = {key: dose(key, place, residence="120040") for key, place in zip("abcd", PLACES, strict=False)}
    day.revise(rows.values())
    after = rows | {"a": dose("a", "530010", residence="530010"), "b": rows["b"] | {"co_lote_vacina": "L1"}}
    del after["d"]
    day.revise(after.values())
    files = read_diff(day.get, _entry(day))
    assert (
        files["changed"]
        .decode()
        .splitlines()[0]
        .endswith('"co_municipio_estabelecimento_anterior";"co_municipio_paciente_anterior"')
    )
    assert [line.rsplit(";", 2)[1:] for line in files["changed"].decode().splitlines()[1:]] == [
        ['"350010"', '"120040"'],
        ['"120040"', '"120040"'],
    ]
    assert files["removed"].decode() == (
        '"co_documento";"co_municipio_estabelecimento";"co_municipio_paciente"\n"d";"355031";"120040"\n'
    )
    assert len(files["added"].decode().splitlines()) == 1


def test_columns_that_are_new_at_the_end_change_only_doses_that_have_a_value_there(
    day: SmallDay, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _some(random.Random(4), range(20))
    older = replace(CONTRACT, version="1.0.0", columns=CONTRACT.columns[:-1])
    with monkeypatch.context() as patch:
        patch.setattr("imunizacao.publish.load_contract", lambda name: older)
        day.revise(rows.values(), names=older.names)
    before = read_day(day.get, day.day)
    key = next(iter(rows))
    after = rows | {key: rows[key] | {CONTRACT.names[-1]: "x"}}
    day.revise(after.values())
    _require_step(day, before, after, rows)
    assert _entry(day)["diff"]["changed"] == 1


def test_when_only_removals_of_the_source_differ_the_diff_is_empty(day: SmallDay) -> None:
    rows = _some(random.Random(6), range(5))
    day.revise(rows.values())
    day.revise(rows.values(), removed=["gone-i0b0"])
    entry = _entry(day)
    assert (entry["revision"], entry["diff"]["ufs"]) == (2, {})
    assert all(len(body.splitlines()) == 1 for body in read_diff(day.get, entry).values())


class _Disturbed(ObjectStore):
    """The public bucket, with something that happens right before or after the first write of the head."""

    def __init__(self, public: ObjectStore, *, before: Callable[[], None] | None = None, lose: bool = False) -> None:
        super().__init__(public._client, public.bucket, public.endpoint_url)
        self._before, self._lose, self.read = before, lose, Counter[str]()

    def put(self, key: str, *arguments: Any, **options: Any) -> str:
        """Write; the head not without the disturbance."""
        if key.endswith("/head.json") and self._before is not None:
            before, self._before = self._before, None
            before()
        etag = super().put(key, *arguments, **options)
        if key.endswith("/head.json") and self._lose:
            self._lose = False
            raise StorageUnavailable("The answer was lost.")
        return etag

    def stream(self, key: str) -> Iterator[bytes]:
        """Note what is read."""
        self.read[key] += 1
        return super().stream(key)


def _diffs(day: SmallDay) -> set[str]:
    return {info.key.split("/")[4] for info in day.public.list(f"v1/days/{day.day}/diff/")}


def test_a_head_that_moved_meanwhile_is_what_the_diff_is_made_against(day: SmallDay) -> None:
    dice = random.Random(7)
    first = _some(dice, range(30))
    other, mine = _next(dice, first, range(30, 35)), _next(dice, first, range(35, 40))
    day.revise(first.values())
    racer, mine_inputs = day.inputs(other.values()), day.inputs(mine.values())
    disturbed = _Disturbed(day.public, before=lambda: day.reconcile(racer[0], day.publish(*racer)))
    published = day.publish(*mine_inputs, public=disturbed)
    assert published.revision == 3
    day.reconcile(mine_inputs[0], published)
    entry = _entry(day)
    named = {row["diff"]["path"].rpartition("/")[2] for row in _head(day)["history"][1:]}
    assert entry["diff"]["path"].rpartition("/")[2].startswith("2-3-")
    assert {uf: Counter(said) for uf, said in entry["diff"]["ufs"].items()} == _expected(other, mine)
    orphans = _diffs(day) - named
    assert len(orphans) == 1, "the diff against revision 1 is there, and nothing names it"
    assert next(iter(orphans)).startswith("1-2-"), "beside the diff 1-2 of the other run, in a folder of its own"


def test_a_lost_answer_of_the_commit_is_found_again_with_its_diff(day: SmallDay) -> None:
    rows = _some(random.Random(8), range(10))
    day.revise(rows.values())
    context, inputs = day.inputs(list(rows.values())[1:])
    published = day.publish(context, inputs, public=_Disturbed(day.public, lose=True))
    assert (published.outcome, published.revision) == ("published", 2)
    assert published.diff == {"added": 0, "changed": 0, "removed": 1}
    day.reconcile(context, published)
    assert len(_head(day)["history"]) == 2


def test_a_run_that_died_before_the_commit_ends_with_the_same_diff(day: SmallDay) -> None:
    rows = _some(random.Random(9), range(30))
    after = _next(random.Random(10), rows, range(30, 33))
    day.revise(rows.values())

    def die() -> None:
        raise KeyboardInterrupt

    run = day.inputs(after.values())
    with pytest.raises(KeyboardInterrupt):
        day.publish(*run, public=_Disturbed(day.public, before=die))
    left = {info.key: info.etag for info in day.public.list(f"v1/days/{day.day}/diff/")}
    assert len(left) == 3
    assert _head(day)["revision"] == 1, "a diff alone is no publication"
    day.reconcile(run[0], day.publish(*run))
    assert {info.key: info.etag for info in day.public.list(f"v1/days/{day.day}/diff/")} == left
    assert _entry(day)["diff"]["path"] in next(iter(left))


def test_a_uf_with_the_same_file_is_not_read(day: SmallDay) -> None:
    rows = _some(random.Random(11), range(40))
    day.revise(rows.values())
    key = next(key for key, row in rows.items() if row["co_municipio_estabelecimento"] == "530010")
    disturbed = _Disturbed(day.public)
    published = day.publish(*day.inputs((rows | {key: rows[key] | {"co_lote_vacina": "L"}}).values()), public=disturbed)
    assert published.diff == {"added": 0, "changed": 1, "removed": 0}
    assert [key.partition("/uf=")[2][:2] for key in disturbed.read] == ["53"]


def test_a_revision_that_was_damaged_is_replaced_without_a_diff_and_says_so(
    day: SmallDay, caplog: pytest.LogCaptureFixture
) -> None:
    rows = _some(random.Random(12), range(10))
    day.revise(rows.values())
    folder = _head(day)["current"]["path"].rpartition("/")[0]
    victim = f"{folder}/uf=35/imunizacao-total-sp_{day.day}.csv"
    body = day.get(victim)
    day.public.put(victim, body.replace(b'"355030"', b'"355031"', 1), content_type="text/csv")
    assert day.revise(list(rows.values())[1:]).diff == {}
    entry = _entry(day)
    assert "diff" not in entry
    assert "deve baixar o dia inteiro" in entry["note"]
    assert _diffs(day) == set()
    assert "event=publish.no_diff" in caplog.text
    day.public.delete(victim)
    assert day.revise(list(rows.values())[2:]).diff == {"added": 0, "changed": 0, "removed": 1}


def test_a_damaged_diff_takes_the_head_back_and_the_next_revision_starts_from_there(day: SmallDay) -> None:
    rows = _some(random.Random(13), range(10))
    day.revise(rows.values())
    context, inputs = day.inputs(list(rows.values())[1:])
    published = day.publish(context, inputs)
    key = _entry(day)["diff"]["path"] + "/removed.csv"
    day.public.put(key, day.get(key) + b'"x";"355030";\n', content_type="text/csv")
    with pytest.raises(ContractViolation, match="went back"):
        day.reconcile(context, published)
    assert _head(day)["history"][1]["reconciliation"]["verdict"] == "gap"
    assert "diff" not in _entry(day), "the way back is the content before, and no new diff"
    assert day.revise(list(rows.values())[2:]).revision == 4
    _require_step(
        day,
        _read_content(day, 1),
        dict(list(rows.items())[2:]),
        rows,
    )


def test_after_a_withdrawn_revision_there_is_no_diff(day: SmallDay) -> None:
    context, inputs = day.inputs([dose("a", "355030")])
    published = day.publish(context, inputs)
    victim = f"{published.root_path.rpartition('/')[0]}/uf=35/imunizacao-total-sp_{day.day}.csv"
    day.public.put(victim, b"", content_type="text/csv")
    with pytest.raises(ContractViolation, match="withdrawn"):
        day.reconcile(context, published)
    assert day.revise([dose("b", "355030")]).revision == 3
    entry = _entry(day)
    assert "diff" not in entry
    assert "note" not in entry


def _read_content(day: SmallDay, revision: int) -> DayRead:
    """The files of a revision that is not current any more."""
    head = _head(day)
    folder = next(entry for entry in head["history"] if entry["revision"] == revision)["path"].rpartition("/")[0]
    read = DayRead(head=head, root={})
    for info in day.public.list(folder + "/uf="):
        if info.key.endswith(".csv"):
            read.files[info.key.removeprefix(folder + "/")] = day.get(info.key)
    return read


@dataclass(slots=True)
class Step:
    """Two revisions with a diff between them, to be spoilt: what the files of the diff and the head say."""

    head: dict[str, Any]
    files: dict[str, bytes]

    @property
    def diff(self) -> dict[str, Any]:
        """What the head says of the diff."""
        diff: dict[str, Any] = self.head["history"][-1]["diff"]
        return diff

    def change(self, name: str, old: bytes, new: bytes) -> None:
        """Change a file as if it had always been so: the head tells its new hash and size."""
        assert self.files[name].count(old) == 1, f"{old!r} is not once in {name}.csv"
        self.files[name] = body = self.files[name].replace(old, new)
        self.diff["files"][name] = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}

    def more(self, name: str) -> None:
        """Let the head tell one dose more of UF 35."""
        self.diff["ufs"]["35"][name] = self.diff["ufs"]["35"].get(name, 0) + 1


@pytest.fixture(scope="module")
def step(
    buckets: StorageSettings, dates: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[SmallDay, dict[str, SeenUf]]:
    """Revision 2 without a verdict: a dose removed, changed, kept and added; and what is counted in its files."""
    day = SmallDay(next(dates), open_work_store(buckets), open_public_store(buckets), tmp_path_factory.mktemp("step"))
    rows = [dose(key, "355030") for key in "ckr"]
    day.revise(rows)
    published = day.publish(*day.inputs([rows[0] | {"co_lote_vacina": "L1"}, rows[1], dose("n", "355030")]))
    assert published.diff == {"added": 1, "changed": 1, "removed": 1}
    seen = {}
    for path, body in read_day(day.get, day.day).files.items():
        if "imunizacao-total-" in path:
            header, *lines = body.splitlines(keepends=True)
            seen[path[3:5]] = SeenUf(
                sha256=hashlib.sha256(body).hexdigest(), rows=len(lines), row_sum=sum(map(hash, lines)), header=header
            )
    return day, seen


def _gaps(day: SmallDay, seen: dict[str, SeenUf], spoil: Callable[[Step], None]) -> list[str]:
    """Gaps that reconcile notes about a diff after `spoil`; the bucket is as it was afterwards."""
    head, gaps = _head(day), list[str]()
    whole = read_diff(day.get, head["history"][-1])
    spoilt = Step(head=head, files=dict(whole))
    spoil(spoilt)

    def put(files: dict[str, bytes]) -> None:
        for name in whole:
            key = f"{_entry(day)['diff']['path']}/{name}.csv"
            if name not in files:
                day.public.delete(key)
            elif day.public.get_or_none(key) is None or day.get(key) != files[name]:
                day.public.put(key, files[name], content_type="text/csv")

    def expect(what: str, expected: object, found: object) -> None:
        if expected != found:
            gaps.append(f"{what}: expected {expected}, found {found}")

    put(spoilt.files)
    check_diff(day.public, head, seen, expect)
    put(whole)
    return gaps


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda step: step.files.update(added=step.files["added"].replace(b'"n"', b'"m"')), "sha256 of"),
        (lambda step: step.files.update(changed=b""), "form of"),
        (lambda step: step.files.pop("removed"), "removed.csv exists"),
        (lambda step: step.more("added"), "doses added in the diff of UF 35: expected 2, found 1"),
        (lambda step: step.more("movedOut"), "doses movedOut in the diff of UF 35: expected 1, found 0"),
        (lambda step: step.diff.update(removed=2), "rows of"),
        (lambda step: step.diff.update(path=step.diff["path"].replace("/1-2-", "/2-3-")), "revisions in the path"),
        (lambda step: step.change("changed", b'"L1"', b'"L2"'), "content of the rows of UF 35 after the diff"),
        (lambda step: step.change("changed", b'"L1"', b""), "that are the same in both revisions: expected 0, found 1"),
        (lambda step: step.change("changed", b'"355030";\n', b'"350010";\n'), "with another municipality before"),
        (lambda step: step.change("removed", b'"r"', b'"s"'), "the revision before does not have: expected 0, found 1"),
        (lambda step: step.change("removed", b'"r"', b'"k"'), "content of the rows of UF 35 after the diff"),
        (lambda step: step.change("removed", b'"r"', b'"c"'), "each in one place: expected 3, found 2"),
        (lambda step: step.change("added", b'"n"', b'"k"'), "that the revision before has: expected 0, found 1"),
    ],
)
def test_a_diff_that_is_not_the_difference_is_a_gap(
    step: tuple[SmallDay, dict[str, SeenUf]], spoil: Callable[[Step], None], found: str
) -> None:
    assert _gaps(*step, lambda step: None) == []
    gaps = _gaps(*step, spoil)
    assert any(found in gap for gap in gaps), gaps


def test_damage_of_the_revision_before_is_not_held_against_the_new_one(
    day: SmallDay, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [dose(key, "355030") for key in "abc"]
    day.revise(rows)
    folder = _head(day)["current"]["path"].rpartition("/")[0]
    context, inputs = day.inputs(rows[1:])
    published = day.publish(context, inputs)
    day.public.delete(f"{folder}/uf=35/imunizacao-total-sp_{day.day}.csv")
    day.reconcile(context, published)
    assert _entry(day)["reconciliation"]["verdict"] == "ok"
    assert "event=reconcile.diff_not_applied" in caplog.text


def test_a_diff_folder_with_other_bytes_is_refused(day: SmallDay) -> None:
    rows = [dose(key, "355030") for key in "abc"]
    day.revise(rows)

    def die() -> None:
        raise PublicationConflict("stop here")

    run = day.inputs(rows[1:])
    with pytest.raises(PublicationConflict, match="stop here"):
        day.publish(*run, public=_Disturbed(day.public, before=die))
    victim = next(info.key for info in day.public.list(f"v1/days/{day.day}/diff/") if info.key.endswith("removed.csv"))
    day.public.put(victim, b"other", content_type="text/csv")
    with pytest.raises(ContractViolation, match="exists with other bytes"):
        day.publish(*run)
    assert _head(day)["revision"] == 1
