"""The mirror check against the simulator: the whole table, and the command line."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imunizacao.cli import main
from imunizacao.mirror_check import MirrorReport, check_mirror, render_text
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import mirror_settings
from imunizacao_airflow.connections import mirror_from_connection
from imunizacao_local.mirror import MirrorServer
from tests.integration.conftest import DAY
from tests.integration.mirror_check_support import CANARIES, Mirror, checked_mirror, verdicts
from tests.unit.test_docs import as_connection

pytestmark = pytest.mark.servers
ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "mirror-check.txt"
VOLATILE = ("address", "clock", "newest document", "next", "compression", "speed", "a day, a year")
"""Rows whose numbers depend on the moment and on this machine."""


@pytest.fixture(scope="module")
def report(mirror: MirrorServer) -> MirrorReport:
    return check_mirror(mirror_settings(base_url=mirror.base_url), day=DAY)


@pytest.fixture
def liar() -> Iterator[Mirror]:
    with checked_mirror() as mirror:
        yield mirror


def masked(report: MirrorReport) -> MirrorReport:
    """The report with signs for what changes from run to run."""

    def mask(text: str) -> str:
        text = re.sub(r"(seconds|minutes|hours) old", "… old", text)
        return re.sub(r"\d[\d.,:T-]*", "#", text)

    rows = tuple(replace(row, result=mask(row.result)) if row.topic in VOLATILE else row for row in report.rows)
    return replace(report, base_url="http://mirror", checked_at="#", seconds=0.0, rows=rows)


def test_the_table_of_a_good_mirror(report: MirrorReport, pytestconfig: pytest.Config) -> None:
    """A difference is a defect, or a better table: then `python -m pytest tests/integration -k good_mirror --write-golden`."""
    text = render_text(masked(report)) + "\n"
    if pytestconfig.getoption("--write-golden"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_the_simulator_is_good_in_every_row(report: MirrorReport) -> None:
    assert verdicts(report) == {}
    assert report.requests <= 50


def test_the_settings_that_are_recommended_are_accepted(report: MirrorReport) -> None:
    lines = render_text(report).splitlines()
    first = next(n for n, line in enumerate(lines) if "extra of the Airflow connection" in line) + 1
    extra = json.loads(" ".join(lines[first : lines.index("", first)]))
    connection = as_connection({"host": "http://mirror.example.org/fhir/r4", "extra": extra})
    settings = mirror_from_connection(connection)
    assert (settings.way, settings.page_size, settings.slice_cap) == ("documents", 500, 50_000)
    assert list(extra) == [found.setting.removeprefix("IMUNIZACAO_MIRROR_").lower() for found in report.recommended]


def test_every_row_is_explained_in_the_runbook(report: MirrorReport) -> None:
    page = (ROOT / "docs" / "runbook" / "mirror-check.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `+ ?(.+?) ?`+ \|", page, re.MULTILINE))
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "include/imunizacao/mirror_check").glob("*.py")
    )
    written = (
        {row.topic for row in report.rows}
        | set(re.findall(r"EXPORT, \"([a-z ]+)\"", code))
        | {"day", "left out", "client certificate"}
    )
    assert written <= explained, f"explain {sorted(written - explained)} in docs/runbook/mirror-check.md"


# ---------------------------------------------------------------- command line


def run(base_url: str, *arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    code = main(["mirror-check", *arguments], env={"IMUNIZACAO_MIRROR_URL": base_url}, out=out)
    return code, out.getvalue()


def test_the_command_needs_the_settings_of_the_mirror_alone(mirror: MirrorServer) -> None:
    code, text = run(mirror.base_url, "--day", str(DAY))
    assert code == 0
    assert text.splitlines()[-1].startswith("Mirror usable by way documents")


def test_without_a_day_the_command_looks_at_yesterday(mirror: MirrorServer) -> None:
    code, text = run(mirror.base_url, "--json")
    told = json.loads(text)
    assert (code, told["day"]) == (0, str(ReferenceDay.yesterday(datetime.now(UTC))))


def test_a_mirror_that_cannot_be_used_ends_with_4_and_the_table(liar: Mirror) -> None:
    liar.edit = lambda seen, body: body.pop("total")
    liar.clock = None
    code, text = run(liar.server.base, "--day", "2026-03-13")
    assert code == 4
    assert "✗ FAIL  total" in text
    assert [canary for canary in CANARIES if canary in text] == []


def test_a_mirror_that_is_not_there_ends_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run("http://127.0.0.1:9/fhir/r4", "--day", "2026-03-13")
    assert (code, "connection refused" in text) == (3, True)


@pytest.mark.parametrize(
    ("env", "arguments", "text"),
    [
        ({}, [], "Missing setting IMUNIZACAO_MIRROR_URL"),
        ({"IMUNIZACAO_MIRROR_URL": "ftp://x"}, [], "is not an http(s) address"),
        ({"IMUNIZACAO_MIRROR_URL": "http://127.0.0.1:9", "IMUNIZACAO_MIRROR_URI": "x"}, [], "Unknown setting(s)"),
        ({"IMUNIZACAO_MIRROR_URL": "http://127.0.0.1:9"}, ["--day", "2026-3-1"], "is not a date"),
        ({"IMUNIZACAO_MIRROR_URL": "http://127.0.0.1:9"}, ["--day", "2999-01-01"], "is not over yet"),
    ],
)
def test_wrong_settings_end_with_2(
    env: dict[str, str], arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mirror-check", *arguments], env=env, out=io.StringIO()) == 2
    assert text in capsys.readouterr().err
