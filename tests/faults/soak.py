"""Random mixes of faults, one seed each: a day is whole to the last document version, or it fails and says where.

`python -m tests.faults --seeds 501-10000` runs more of them than the tests do.
"""

from __future__ import annotations

import logging
import multiprocessing
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from imunizacao.errors import PipelineError
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import StorageSettings
from imunizacao.storage import ObjectStore, open_work_store
from tests.faults.support import DOCUMENTS, NOW_TEXT, SEED, Stage
from tests.mirror.faults.mix import describe
from tests.support.simulator import Simulator, running_simulator

FIRST_DAY: Final = date(2018, 2, 1)
DAYS: Final = 2900
"""Each seed has a day of its own, so that no seed takes over what another one landed."""
WHERE: Final = re.compile(
    r"(?i)\b(slice \S+Z/\S+Z|count of \S+Z/\S+Z|count since \S+Z|newest document|whole day \d{4}-\d\d-\d\d|access token)\b"
)
_PATIENCE: Final = {"connect_timeout": 0.5, "read_timeout": 2.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one seed."""

    seed: int
    verdict: str
    """`whole`, `refused` (by one of our errors, which names where) or `wrong`."""
    text: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"seed {self.seed} {self.verdict} in {self.seconds:.1f} s: {self.text}\n    {' '.join(describe(self.seed))}"
        )


def day_of(seed: int) -> ReferenceDay:
    """The day that a seed extracts."""
    return ReferenceDay(FIRST_DAY + timedelta(days=seed % DAYS))


def run_seed(seed: int, simulator: Simulator, work: ObjectStore, scratch: Path) -> Outcome:
    """Extract the day of a seed through its mix."""
    started = time.monotonic()
    stage = Stage(simulator, work, scratch)
    simulator.play(f"mix:{seed}")
    try:
        landed = stage.whole(stage.rnds_settings(**_PATIENCE), day=day_of(seed), run_id=f"seed-{seed}")
        verdict, text = "whole", f"{landed.receipt.fetched} entries, {landed.receipt.retries} retries"
    except PipelineError as error:
        named = WHERE.search(str(error)) is not None
        verdict, text = ("refused" if named else "wrong"), f"{type(error).__name__}: {error}"
        prefix = f"v1/day={day_of(seed)}/"
        if [found.key for found in work.list(prefix) if found.key.endswith(("/receipt.json", "/manifest.json"))]:
            verdict, text = "wrong", f"a day that failed left a receipt; {text}"
    except AssertionError as error:
        verdict, text = "wrong", str(error).partition("\n")[0]
    return Outcome(seed=seed, verdict=verdict, text=text, seconds=time.monotonic() - started)


def run_seeds(seeds: Iterable[int], storage: StorageSettings, *, processes: int) -> list[Outcome]:
    """Run seeds in several processes, each with a simulator of its own; all of them use the work bucket of `storage`."""
    wanted = sorted(seeds)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        shares = [wanted[start::processes] for start in range(processes)]
        found = pool.map(_run_share, shares, [storage] * processes)
        return sorted((outcome for outcomes in found for outcome in outcomes), key=lambda outcome: outcome.seed)


def _run_share(seeds: Sequence[int], storage: StorageSettings) -> list[Outcome]:
    logging.disable(logging.CRITICAL)  # what goes wrong is in the outcome
    options = ("--seed", str(SEED), "--docs-per-day", str(DOCUMENTS), "--now", NOW_TEXT, "--auth", "rnds")
    with tempfile.TemporaryDirectory(prefix="imunizacao-soak-") as folder:
        (Path(folder) / "simulator").mkdir()
        (Path(folder) / "scratch").mkdir()
        with running_simulator(Path(folder) / "simulator", *options) as simulator:
            work = open_work_store(storage)
            return [run_seed(seed, simulator, work, Path(folder) / "scratch") for seed in seeds]


def summary(outcomes: Sequence[Outcome]) -> str:
    """Counts, then every seed that went wrong with its mix."""
    counts = {
        verdict: sum(outcome.verdict == verdict for outcome in outcomes) for verdict in ("whole", "refused", "wrong")
    }
    head = f"{len(outcomes)} mixes of faults: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return "\n".join([head, *(str(outcome) for outcome in outcomes if outcome.verdict == "wrong")])
