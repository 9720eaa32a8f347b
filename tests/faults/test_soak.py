"""Mixes of faults, fixed seeds: 40 in CI, 500 with `-m slow` and in `make soak`. Figure: 0 silent losses; at least 60 % of the days are whole."""

from __future__ import annotations

import pytest

from imunizacao.settings import StorageSettings
from tests.faults.soak import run_seeds, summary

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]
PROCESSES = 3
"""For two cores: now and then each of them waits for a mirror that hangs."""


@pytest.mark.parametrize("seeds", [range(1, 41), pytest.param(range(1, 501), marks=pytest.mark.slow)], ids=len)
def test_a_day_is_whole_or_says_where_it_is_not(s3_settings: StorageSettings, seeds: range) -> None:
    outcomes = run_seeds(seeds, s3_settings, processes=PROCESSES)
    told = summary(outcomes)
    print(told)
    assert [outcome.seed for outcome in outcomes] == list(seeds)
    assert not [outcome for outcome in outcomes if outcome.verdict == "wrong"], told
    whole = sum(outcome.verdict == "whole" for outcome in outcomes)
    refused = len(outcomes) - whole
    assert whole >= 0.6 * len(outcomes), told
    assert refused >= 0.1 * len(outcomes), f"the mixes are too mild to show anything: {told}"
