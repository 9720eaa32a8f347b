"""The protocol, walked to the end: no violation as it is, and one for every rule that is taken away."""

from __future__ import annotations

import pytest

from tests.protocol.explorer import Explorer, Report
from tests.protocol.model import INVARIANTS, MUTANTS, THREE, TWO, Rules, Scene, keys, private


def _walk(scene: Scene, rules: Rules, *, alone: bool = False) -> Report:
    """All states, with one death and one lost response per writer. `alone`: folders of one writer are walked in one order."""
    writers = scene.writers(rules)
    return Explorer(
        writers,
        INVARIANTS,
        keys=keys(rules),
        stored=scene.stored(rules),
        private=private(writers) if alone else (),
        limit=8_000_000,
    ).run()


@pytest.mark.parametrize("name", TWO)
def test_two_writers_never_break_a_promise(name: str) -> None:
    report = _walk(TWO[name], Rules())
    print(f"{name}: {report}")
    assert not report.violation, str(report)
    assert report.finals > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", THREE)
def test_three_writers_never_break_a_promise(name: str) -> None:
    report = _walk(THREE[name], Rules(), alone=True)
    print(f"{name}: {report}")
    assert not report.violation, str(report)
    assert report.finals > 0


GUILTY = {
    "no fence": ("older and newer", "older over newer"),
    "fence on the extract alone": ("two remakes", "older over newer"),
    "fence on the last revision only": ("late and bad", "older over newer"),
    "no commit token": ("bad return", "duplicate commit"),
    "no compare-and-swap": ("older and newer", "was overwritten"),
    "head before the files": ("older and newer", "torn read"),
    "manifest last, no compare-and-swap": ("older and newer", "was overwritten"),
    "blind retry": ("older and newer", "was lost"),
    "own files deleted after a lost response": ("older and newer", "torn read"),
    "overwriting in place": ("older and newer", "torn read"),
    "runs ignore a withdrawal": ("run and withdrawal", "published although withdrawn"),
    "reconcile judges a withdrawn day": ("two days and withdrawal", "published although withdrawn"),
    "reconcile goes behind a withdrawal": ("bad return", "brought back what a person withdrew"),
    "reconcile leaves the index": ("late and bad", "stale index"),
    "a late index is a gap": ("older and newer", "a good revision was judged bad"),
    "head read before the index": ("run and withdrawal", "stale index"),
}
"""Rule that is missing → who is found with it, and the shortest violation."""


@pytest.mark.parametrize("name", MUTANTS)
def test_a_protocol_without_one_of_its_rules_is_found_guilty(name: str) -> None:
    """That the walk can fail, and that no rule is there for nothing. The violation that is found first is the shortest."""
    scene, sin = GUILTY[name]
    report = _walk(TWO[scene], MUTANTS[name])
    print(f"{name}: {report}")
    assert sin in report.violation, str(report)
    assert report.trace
