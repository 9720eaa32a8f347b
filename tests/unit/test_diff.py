"""Comparing two revisions: many random days against an oracle that knows the rows, and the reader that applies the diff."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from imunizacao.contract import load_contract
from imunizacao.diff import RevisionUnreadable, UfBefore, compare, describe
from imunizacao.models import CutList
from imunizacao.split import cut_body, municipio_path, uf_path
from imunizacao.storage import ObjectMissing
from tests.support.reader import apply_diff
from tests.support.small_day import csv_line, dose, ufs

DAY = "2026-03-14"
NAMES = load_contract("dose").names
PLACES = ("120040", "350010", "355030", "355031", "530010")
HOMES = ("", "355030", "530010")
TEXTS = ("", 'Posto "A"; sala 1', "Posto\tB", "'=1+1", "Saúde", '"', ";", "\r")
Rows = dict[str, dict[str, str]]


class Files:
    """Objects in memory, read as a bucket is: in blocks that end anywhere."""

    def __init__(self, objects: dict[str, bytes], dice: random.Random) -> None:
        self.objects, self.dice, self.read = objects, dice, list[str]()

    def stream(self, key: str) -> Iterator[bytes]:
        """Blocks of an object."""
        if key not in self.objects:
            raise ObjectMissing(f"{key} does not exist.")
        self.read.append(key)
        body = self.objects[key]
        while body:
            size = self.dice.randint(1, 2000)
            yield body[:size]
            body = body[size:]


def _content(rows: Rows, folder: Path, names: Sequence[str] = NAMES) -> tuple[CutList, Path, dict[str, bytes]]:
    """Cut list, body and files of a revision."""
    folder.mkdir()
    ordered = sorted(rows.values(), key=lambda row: (row["co_municipio_estabelecimento"], row["co_documento"]))
    places = sorted(Counter(row["co_municipio_estabelecimento"] for row in ordered).items())
    body, header = folder / "body.csv", ";".join(f'"{name}"' for name in names) + "\n"
    body.write_text("".join(csv_line(row, names) for row in ordered), encoding="utf-8", newline="")
    cuts = cut_body(
        body,
        packed=folder / "packed",
        day=DAY,
        header=header,
        ufs=ufs(),
        places=[(place[:2], place, count) for place, count in places],
    )
    text = body.read_bytes()
    files = {file.path: header.encode() + text[file.offset : file.offset + file.length] for file in cuts.files}
    return cuts, body, files


def _before(cuts: CutList) -> dict[str, UfBefore]:
    return {
        file.uf: UfBefore(key=file.path, sha256=file.sha256, rows=file.rows)
        for file in cuts.files
        if not file.municipio
    }


def _some(dice: random.Random, keys: Sequence[str]) -> Rows:
    return {
        key: dose(
            key,
            dice.choice(PLACES),
            residence=dice.choice(HOMES),
            co_lote_vacina=dice.choice(TEXTS),
        )
        for key in keys
    }


def _key(dice: random.Random) -> str:
    # Ids of different lengths with common beginnings: the order is that of bytes.
    return "".join(dice.choice("Aa-.0") for _ in range(dice.randint(1, 5)))


def _two(dice: random.Random) -> tuple[Rows, Rows]:
    """Two revisions: doses that stay, change, move, come and go, with other shares in every pair."""
    some = _some(dice, [_key(dice) for _ in range(dice.choice((0, 1, 30, 120)))])
    gone, changed, moved = (dice.choice((0, 0, 0.1, 0.5, 1)) for _ in range(3))
    after: Rows = {}
    for key, row in some.items():
        if dice.random() < gone:
            continue
        place = dice.choice(PLACES) if dice.random() < moved else row["co_municipio_estabelecimento"]
        home = dice.choice(HOMES) if dice.random() < moved else row.get("co_municipio_paciente", "")
        text = dice.choice(TEXTS) if dice.random() < changed else row["co_lote_vacina"]
        after[key] = dose(key, place, residence=home, co_lote_vacina=text)
    fresh = _some(dice, [_key(dice) for _ in range(dice.choice((0, 1, 30)))])
    return some, after | fresh


def _counts(before: Rows, after: Rows) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}

    def note(uf: str, name: str) -> None:
        counts.setdefault(uf, Counter())[name] += 1

    for key in before.keys() | after.keys():
        old, new = (rows[key]["co_municipio_estabelecimento"][:2] if key in rows else "" for rows in (before, after))
        if not old or not new:
            note(old or new, "removed" if old else "added")
        elif before[key] != after[key]:
            note(new, "changed")
            if old != new:
                note(new, "moved_in")
                note(old, "moved_out")
    names = ("added", "changed", "removed", "moved_in", "moved_out")
    return {uf: {name: count[name] for name in names} for uf, count in counts.items()}


def _read(found: Any) -> dict[str, bytes]:
    return {name: file.path.read_bytes() for name, file in found.files.items()}


@pytest.mark.parametrize("seed", range(40))
def test_the_diff_of_two_random_revisions_leads_from_one_to_the_other(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    before, after = _two(dice)
    names = dice.choice((NAMES, NAMES, NAMES[:-1], NAMES[:-3]))
    old_cuts, _, old_files = _content(before, tmp_path / "old", names)
    cuts, body, files = _content(after, tmp_path / "new")
    found = compare(Files(old_files, dice), before=_before(old_cuts), cuts=cuts, body=lambda: body, folder=tmp_path)  # type: ignore[arg-type]
    diff = _read(found)
    own = {path: text for path, text in apply_diff(old_files, diff).items() if "residentes" not in path}
    assert own == files
    said = describe(DAY, 4, found)
    assert said.path.startswith(f"v1/days/{DAY}/diff/4-5-")
    written = {key: {name: value for name, value in row.items() if name in names} for key, row in before.items()}
    expected = _counts(written, after)
    assert {uf: {name: getattr(count, name) for name in expected[uf]} for uf, count in said.ufs.items()} == expected
    for name, text in diff.items():
        assert (found.files[name].bytes, found.files[name].sha256) == (len(text), hashlib.sha256(text).hexdigest())


def test_between_contracts_of_other_columns_every_dose_of_both_is_changed(tmp_path: Path) -> None:
    dice = random.Random(5)
    rows = _some(dice, ["a", "b", "c"])
    old_cuts, _, old_files = _content(rows, tmp_path / "old", [*reversed(NAMES[1:]), NAMES[0], "extinta"])
    cuts, body, files = _content({key: rows[key] for key in "bc"}, tmp_path / "new")
    found = compare(Files(old_files, dice), before=_before(old_cuts), cuts=cuts, body=lambda: body, folder=tmp_path)  # type: ignore[arg-type]
    own = {path: text for path, text in apply_diff(old_files, _read(found)).items() if "residentes" not in path}
    assert own == files
    assert [sum(getattr(count, name) for count in found.counts.values()) for name in ("changed", "removed")] == [2, 1]


def test_each_file_of_the_diff_is_in_the_order_of_the_published_files(tmp_path: Path) -> None:
    dice = random.Random(3)
    keys = sorted({_key(dice) for _ in range(600)})[:200]
    before, after = _some(dice, keys[:150]), _some(dice, keys[50:])
    old_cuts, _, old_files = _content(before, tmp_path / "old")
    cuts, body, _ = _content(after, tmp_path / "new")
    found = compare(Files(old_files, dice), before=_before(old_cuts), cuts=cuts, body=lambda: body, folder=tmp_path)  # type: ignore[arg-type]
    for name, rows, some in (
        ("added", after, keys[150:]),
        ("changed", after, keys[50:150]),
        ("removed", before, keys[:50]),
    ):
        own = [rows[key] for key in some if before.get(key) != after.get(key)]
        order = sorted((row["co_municipio_estabelecimento"], row["co_documento"]) for row in own)
        lines = _read(found)[name].decode().split("\n")[1:-1]
        assert len(order) > 10
        assert [next(key for _, key in [place] if f'"{key}"' in line) for place, line in zip(order, lines, strict=True)]


def test_ufs_with_the_same_file_are_not_read_and_the_body_is_not_asked_for(tmp_path: Path) -> None:
    rows = _some(random.Random(1), ["a", "b", "c"])
    cuts, _, files = _content(rows, tmp_path / "same")
    store = Files(files, random.Random(1))

    def body() -> Path:
        raise AssertionError("nothing differs, and the rows were asked for")

    found = compare(store, before=_before(cuts), cuts=cuts, body=body, folder=tmp_path)  # type: ignore[arg-type]
    assert store.read == []
    assert describe(DAY, 1, found).ufs == {}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda body: body.replace(b'"a"', b'"b"'), "another sha256"),
        (lambda body: body + body.split(b"\n")[1] + b"\n", "another sha256"),
        (lambda body: b"", "no header"),
        (lambda body: body.replace(b'"a"', b'"a'), "is not CSV"),
        (lambda body: body.replace(b'"a"', b'"a""";'), "fields instead of"),
        (lambda body: body.replace(b'"a"', b'"\xff"'), "another sha256"),
        (None, "does not exist"),
    ],
)
def test_a_revision_that_is_not_as_it_was_published_gives_no_diff(spoil: Any, why: str, tmp_path: Path) -> None:
    old_cuts, _, old_files = _content({"a": dose("a", "355030")}, tmp_path / "old")
    cuts, body, _ = _content({"c": dose("c", "355030")}, tmp_path / "new")
    path = uf_path("35", "SP", DAY)
    if spoil is None:
        del old_files[path]
    else:
        old_files[path] = spoil(old_files[path])
    with pytest.raises(RevisionUnreadable, match=why) as caught:
        compare(
            Files(old_files, random.Random(1)),  # type: ignore[arg-type]
            before=_before(old_cuts),
            cuts=cuts,
            body=lambda: body,
            folder=tmp_path,
        )
    assert '"a' not in str(caught.value), "an error says where a row is, never what it says"


def test_other_contents_have_another_folder(tmp_path: Path) -> None:
    """Two runs that race for the same step write beside each other."""
    dice = random.Random(1)
    old_cuts, _, old_files = _content({"a": dose("a", "355030")}, tmp_path / "old")
    paths = set()
    for name in ("b", "c"):
        cuts, body, _ = _content({name: dose(name, "355030")}, tmp_path / name)
        (tmp_path / f"diff-{name}").mkdir()
        found = compare(
            Files(old_files, dice),  # type: ignore[arg-type]
            before=_before(old_cuts),
            cuts=cuts,
            body=lambda body=body: body,  # type: ignore[misc]
            folder=tmp_path / f"diff-{name}",
        )
        paths.add(describe(DAY, 1, found).path)
    assert len(paths) == 2
    assert municipio_path("35", "355030", DAY) in old_files
