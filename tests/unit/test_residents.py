"""The files of residents: the rows of the body in another order, all of those with a residence and no other."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from imunizacao.errors import ContractViolation
from imunizacao.models import CutFile
from imunizacao.residents import cut_residents, gather_residents
from imunizacao.split import SplitOutcome, content_id
from tests.unit.test_split import HEADER, PLACES, Row, read_csv, row, split, ufs

__all__ = ["split", "ufs"]
HOMES = [*PLACES, ("31", "MG", "310620"), None]
"""Four places with doses, one where nobody was vaccinated, and nowhere."""


def living(number: int, home: tuple[str, str, str] | None, place: tuple[str, str, str] = PLACES[0]) -> Row:
    """A row of somebody who lives at `home`."""
    if home is None:
        return row(number, place)
    return row(number, place, co_municipio_paciente=home[2], sg_uf_paciente=home[1])


def _many(seed: int, count: int = 300) -> list[Row]:
    rng = random.Random(seed)
    return [living(number, rng.choice(HOMES), rng.choice(PLACES)) for number in range(count)]


def gathered(outcome: SplitOutcome) -> dict[str, bytes]:
    """The files of residents as a reader gets them, by UF."""
    whole = outcome.body.with_name("gathered.csv")
    written = gather_residents(outcome.body, pieces=outcome.pieces, destination=whole)
    assert written == sum(file.length for file in outcome.cuts.residents)
    raw = whole.read_bytes()
    return {
        file.uf: outcome.cuts.header.encode() + raw[file.offset : file.offset + file.length]
        for file in outcome.cuts.residents
    }


def test_residents_are_the_rows_that_name_the_uf_in_the_order_of_their_homes(
    split: Callable[..., SplitOutcome],
) -> None:
    rows = _many(1)
    bad = rows[::5]
    outcome = split(rows, bad=bad)
    good = [item for item in rows if item not in bad]
    files = gathered(outcome)
    assert len(files) == 27
    for uf, raw in files.items():
        homes = [
            (item["co_municipio_paciente"], item["co_documento"])
            for item in good
            if (item["co_municipio_paciente"] or "").startswith(uf)
        ]
        found = read_csv(raw)
        assert [(item["co_municipio_paciente"], item["co_documento"]) for item in found] == sorted(homes), uf
    assert read_csv(files["31"]), "a UF where nobody was vaccinated has residents"
    assert files["11"].decode() == HEADER
    assert outcome.residence_known == sum(file.rows for file in outcome.cuts.residents)
    assert outcome.residence_unknown == sum(1 for item in good if item["co_municipio_paciente"] is None)
    assert outcome.residence_known + outcome.residence_unknown == outcome.rows == len(good)


def test_a_row_of_residents_has_the_bytes_that_it_has_in_the_body(split: Callable[..., SplitOutcome]) -> None:
    rows = [item | {"co_lote_vacina": "=1", "no_fantasia_estalecimento": 'aspas " e ; nele'} for item in _many(2)]
    outcome = split(rows)
    body = outcome.body.read_bytes().splitlines(keepends=True)
    lines = [line for raw in gathered(outcome).values() for line in raw.splitlines(keepends=True)[1:]]
    assert sorted(lines) == sorted(line for line in body if line.split(b";")[5])


def test_sizes_hashes_and_the_content_id_are_those_of_the_bytes(split: Callable[..., SplitOutcome]) -> None:
    outcome = split(_many(3))
    files = gathered(outcome)
    for file in outcome.cuts.residents:
        assert (len(files[file.uf]), hashlib.sha256(files[file.uf]).hexdigest()) == (file.bytes, file.sha256)
        assert file.path == f"uf={file.uf}/imunizacao-residentes-{file.sg_uf.lower()}_2026-03-14.csv"
    named = [(file.path, file.sha256) for file in (*outcome.cuts.files, *outcome.cuts.residents)]
    removed = ("removed.csv", hashlib.sha256(outcome.removed.read_bytes()).hexdigest())
    assert outcome.content_id == content_id([*named, removed])


def test_a_day_without_residence_has_no_files_of_residents(split: Callable[..., SplitOutcome]) -> None:
    rows = [row(number, place) for number, place in enumerate(PLACES)]
    outcome = split(rows)
    assert outcome.cuts.residents == []
    assert not outcome.pieces.exists()
    assert (outcome.residence_known, outcome.residence_unknown) == (0, len(rows))
    one_home = split([*rows[1:], living(0, PLACES[1], PLACES[0])])
    assert len(one_home.cuts.residents) == 27
    assert one_home.residence_known == 1
    only_bad = split([*rows[1:], living(0, PLACES[1], PLACES[0])], bad=rows[:1])
    assert only_bad.cuts.residents == [], "the only dose with a residence is in quarantine"


def test_threads_memory_and_input_order_do_not_change_the_residents(split: Callable[..., SplitOutcome]) -> None:
    rows = _many(4, count=2000)
    expected = split(rows, threads=1, memory="1GB")
    shuffled = list(rows)
    random.Random(9).shuffle(shuffled)
    moved = [item | {"nu_parte": 1 + number % 3, "nu_linha": number + 1} for number, item in enumerate(shuffled)]
    found = split(moved, threads=4, memory="128MB")
    assert found.cuts.residents == expected.cuts.residents
    assert gathered(found) == gathered(expected)


@pytest.mark.parametrize(
    ("home", "fault"),
    [
        ({"co_municipio_paciente": "355030", "sg_uf_paciente": "DF"}, "do not agree with the UF of residence"),
        ({"co_municipio_paciente": "995030", "sg_uf_paciente": "SP"}, "UF of residence '99'"),
        ({"co_municipio_paciente": "355030", "sg_uf_paciente": "XX"}, "UF of residence 'XX'"),
        ({"co_municipio_paciente": None, "sg_uf_paciente": "SP"}, "do not agree with the UF of residence"),
        ({"co_municipio_paciente": "355030", "sg_uf_paciente": None}, "does not close"),
    ],
)
def test_a_residence_that_contradicts_itself_is_not_published(
    split: Callable[..., SplitOutcome], home: Row, fault: str
) -> None:
    with pytest.raises(ContractViolation, match=fault):
        split([row(1, **home), row(2)])


def _cut(folder: Path, runs: list[tuple[str, int, int]], expected: dict[str, int]) -> list[CutFile]:
    lines = [f"{number}\n".encode() for number in range(6)]
    body = folder / "body.csv"
    body.write_bytes(b"".join(lines))
    return cut_residents(
        body,
        starts=array("Q", range(0, 14, 2)),
        runs=[runs[:1], runs[1:]],
        pieces=folder / "pieces.zst",
        day="2026-03-14",
        header="h\n",
        ufs=[("12", "AC"), ("35", "SP")],
        expected=expected,
    )


def test_runs_become_files(tmp_path: Path) -> None:
    files = _cut(tmp_path, [("12", 4, 2), ("35", 0, 1), ("35", 3, 1)], {"12": 2, "35": 2})
    assert [(file.uf, file.rows, file.offset, file.length) for file in files] == [("12", 2, 0, 4), ("35", 2, 4, 4)]
    assert files[0].sha256 == hashlib.sha256(b"h\n4\n5\n").hexdigest()
    whole = tmp_path / "whole.csv"
    assert gather_residents(tmp_path / "body.csv", pieces=tmp_path / "pieces.zst", destination=whole) == 8
    assert whole.read_bytes() == b"4\n5\n0\n3\n"


def test_a_run_too_few_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractViolation, match="UF 35: 1 rows, 2 by sg_uf_paciente"):
        _cut(tmp_path, [("12", 4, 2), ("35", 0, 1)], {"12": 2, "35": 2})


def test_a_body_that_is_shorter_than_its_residents_is_refused(tmp_path: Path) -> None:
    _cut(tmp_path, [("12", 4, 2), ("35", 0, 1)], {"12": 2, "35": 1})
    (tmp_path / "body.csv").write_bytes(b"0\n1\n2\n3\n")
    with pytest.raises(ContractViolation, match="ends before the rows of its residents"):
        gather_residents(tmp_path / "body.csv", pieces=tmp_path / "pieces.zst", destination=tmp_path / "whole.csv")
