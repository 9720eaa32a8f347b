"""Three judges of the same rows: Great Expectations, the compiled rules and the oracle that knows only the rule table.

Parity of the first two is asserted on every run of a day, but both come from one suite: a rule that is written wrongly
passes. The oracle was written from the page by itself, so a disagreement is a defect of the page, of the suite or of
the oracle, and the page decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imunizacao import paths
from imunizacao.settings import EngineSettings
from imunizacao.sql import open_engine
from imunizacao.sql.compile import RowRule, counts_select, reasons_select
from imunizacao.validate.gx import run_suites
from imunizacao.validate.stage import make_summary, make_tables
from imunizacao.validate.suites import ROW_SUITE, TABLES, load_suites
from tests.expectations.tables import DAY, DOSE_SCHEMA, closed_account, write_tables
from tests.oracle.rules import Outcome, Value, is_within_tolerance, judge_rows, list_rules
from tests.oracle.traps import BASE, REFERENCE_DAY, make_rows

DOSES = TABLES[ROW_SUITE]
ROWS_OF_A_FILE = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What a judge says of a rule over all rows."""

    evaluated: int
    broken: int
    within_tolerance: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What the project says of a table."""

    counts: dict[str, Count]
    """By Great Expectations, the rules on the table of doses."""
    quarantined: dict[str, int]
    """By the statement that makes the quarantine."""
    flagged: dict[str, int]
    """By the statement that counts the flags."""
    broken: dict[int, set[str]]
    """Row to all the rules that it breaks."""
    reasons: dict[int, set[str]]
    """Row to the reasons for which it is in quarantine."""


def test_the_three_judges_agree_on_every_rule_and_every_row(tmp_path: Path) -> None:
    require_agreement(20_000, seed=20260314, folder=tmp_path)


@pytest.mark.slow
def test_the_three_judges_agree_on_two_hundred_thousand_rows(tmp_path: Path) -> None:
    require_agreement(200_000, seed=1, folder=tmp_path)


def test_the_oracle_knows_every_rule_on_doses_and_no_other() -> None:
    suite = load_suites(paths.EXPECTATIONS).row
    known = list_rules(REFERENCE_DAY)
    assert set(known) | {"IMU-001"} == {rule.rule for rule in suite.rules}
    treatment = {"quarantine": "quarantine", "flag": "flag", "gate": "fill"}
    ours = {code: (rule.treatment, rule.severity, rule.reason, rule.tolerance) for code, rule in known.items()}
    theirs = {
        rule.rule: (treatment[rule.on_fail], rule.severity, rule.reason, round(100 * (1 - rule.mostly), 9))
        for rule in suite.rules
        if rule.rule in known
    }
    assert theirs == ours


def test_the_traps_keep_and_break_every_rule_many_times() -> None:
    rules = list_rules(REFERENCE_DAY)
    assert [code for code, found in judge_rows([BASE | _own_keys()], rules=rules).items() if found.broken] == []
    outcomes = judge_rows(make_rows(20_000, seed=20260314), rules=rules)
    rarely = {
        code: (len(found.broken), found.evaluated - len(found.broken))
        for code, found in outcomes.items()
        if not 20 <= len(found.broken) <= found.evaluated - 20
    }
    assert rarely == {}, "broken and kept fewer than 20 times: add rows for these rules in tests/oracle/traps.py"
    skipping = {code for code, found in outcomes.items() if found.evaluated < 20_000}
    assert {"IMU-003", "IMU-013", "IMU-029", "IMU-051", "IMU-062"} <= skipping


def require_agreement(count: int, *, seed: int, folder: Path) -> None:
    """Let the three judge `count` rows; differing rules and the first differing rows are in the message."""
    rules = list_rules(REFERENCE_DAY)
    outcomes = judge_rows(make_rows(count, seed=seed), rules=rules)
    project = ask_project(make_rows(count, seed=seed), count=count, folder=folder)
    ours = {
        code: Count(
            evaluated=found.evaluated,
            broken=len(found.broken),
            within_tolerance=is_within_tolerance(found, rules[code]),
        )
        for code, found in outcomes.items()
    }
    apart = {code: (project.counts.get(code), ours[code]) for code in ours if project.counts.get(code) != ours[code]}
    assert apart == {}, f"Great Expectations and the oracle, first the library: {apart}"
    taken = {code: ours[code].broken for code, rule in rules.items() if rule.treatment == "quarantine"}
    flagged = {code: ours[code].broken for code, rule in rules.items() if rule.treatment == "flag"}
    assert (project.quarantined, project.flagged) == (taken, flagged)
    by_row = _by_row(outcomes, [*taken, *flagged])
    differing = sorted(
        row for row in project.broken.keys() | by_row.keys() if project.broken.get(row) != by_row.get(row)
    )
    assert not differing, f"{len(differing)} rows; the first ones: " + "; ".join(
        f"row {row}: {sorted(project.broken.get(row, set()) ^ by_row.get(row, set()))}" for row in differing[:10]
    )
    reasons = {row: {rules[code].reason for code in codes} for row, codes in _by_row(outcomes, taken).items()}
    assert project.reasons == reasons


def ask_project(rows: Iterable[Mapping[str, Value]], *, count: int, folder: Path) -> Project:
    """Judge the rows as the stage does: one run of the library, one table of bad rows, one count of the flags."""
    dose = folder / "doses.parquet"
    write_doses(dose, rows)
    _, structural = write_tables(folder, [])
    suites = load_suites(paths.EXPECTATIONS)
    taking = {rule.rule for rule in suites.row.rules if rule.on_fail == "quarantine"}
    with open_engine(EngineSettings(threads=2, memory_limit="1GB", scratch_dir=folder), folder) as duck:
        make_tables(duck, dose=dose)

        def take_rows_out(compiled: list[RowRule], _: object) -> None:
            quarantine = [rule for rule in compiled if rule.rule in taking]
            make_summary(duck, compiled=quarantine, structural=structural, account=closed_account(count))

        found = run_suites(
            duck,
            suites,
            parameters={"reference_day": str(DAY), "candidates": count},
            day=DAY,
            site=folder / "site",
            after_rows=take_rows_out,
        )
        flags = [rule for rule in found.row_rules if rule.rule not in taking]
        counted = {str(rule): int(rows) for rule, rows in duck.rows("validate/50_rule_counts")}
        flagged = duck.execute("test/flags", counts_select(flags, relation=DOSES)).fetchall()[0]
        every = reasons_select(found.row_rules, relation=DOSES, key=("nu_linha",), carry=())
        broken = {line: set(codes) for line, _, codes in duck.execute("test/rows", every).fetchall()}
        bad = duck.execute("test/reasons", "select nu_linha, ds_motivos from dose_reprovada").fetchall()
    return Project(
        counts={
            rule.rule: Count(evaluated=verdict.checked, broken=verdict.failed, within_tolerance=verdict.success)
            for rule in suites.row.rules
            if (verdict := found.verdicts[rule.rule]).evaluated
        },
        quarantined=dict.fromkeys(taking, 0) | counted,
        flagged={rule.rule: int(rows) for rule, rows in zip(flags, flagged, strict=True)},
        broken=broken,
        reasons={line: set(reasons) for line, reasons in bad},
    )


def write_doses(path: Path, rows: Iterable[Mapping[str, Value]]) -> None:
    """The rows as flatten hands them over, `nu_linha` being their position; columns of no rule stay null."""
    with pq.ParquetWriter(path, DOSE_SCHEMA, compression="zstd") as writer:
        numbers = itertools.count()
        for part in _parts(iter(rows)):
            keyed = [row | {"nu_parte": 1, "nu_linha": next(numbers), "nu_dose": 0} for row in map(dict, part)]
            writer.write_table(
                pa.table(
                    [pa.array([row.get(field.name) for row in keyed], type=field.type) for field in DOSE_SCHEMA],
                    schema=DOSE_SCHEMA,
                )
            )


def _parts(rows: Iterator[Mapping[str, Value]]) -> Iterator[list[Mapping[str, Value]]]:
    while part := list(itertools.islice(rows, ROWS_OF_A_FILE)):
        yield part


def _by_row(outcomes: Mapping[str, Outcome], codes: Iterable[str]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for code in codes:
        for row in outcomes[code].broken:
            found.setdefault(row, set()).add(code)
    return found


def _own_keys() -> dict[str, Value]:
    return {"co_documento": "a-i0b0", "co_paciente": "0" * 64}
