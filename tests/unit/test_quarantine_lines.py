"""Lines are picked out of a compressed part by number, wherever blocks and frames end."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow
import pytest

from imunizacao.errors import ContractViolation
from imunizacao.quarantine import lines as module
from imunizacao.quarantine.lines import pick_lines


def write(path: Path, lines: list[bytes], *, frames: int = 3) -> Path:
    """A part as landing writes it: several frames, one after another."""
    with path.open("wb") as out:
        size = -(-len(lines) // frames) or 1
        for start in range(0, len(lines), size):
            plain = b"\n".join(lines[start : start + size]) + b"\n"
            out.write(pyarrow.compress(plain, codec="zstd", asbytes=True))
    return path


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_any_choice_of_lines_is_found_with_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    dice = random.Random(block)
    lines = [bytes(dice.choices(b"abc{}", k=dice.randint(1, 40))) for _ in range(200)]
    path = write(tmp_path / "part.ndjson.zst", lines)
    for wanted in ([1], [200], [1, 2, 3], list(range(1, 201)), sorted(dice.sample(range(1, 201), 20))):
        assert list(pick_lines(path, wanted)) == [(number, lines[number - 1]) for number in wanted]


def test_a_last_line_without_a_line_break_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "part.ndjson.zst"
    path.write_bytes(pyarrow.compress(b"one\ntwo", codec="zstd", asbytes=True))
    assert list(pick_lines(path, [2])) == [(2, b"two")]


def test_a_line_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "part.ndjson.zst", [b"one", b"two"])
    with pytest.raises(ContractViolation, match="has no line 3"):
        list(pick_lines(path, [1, 3]))
