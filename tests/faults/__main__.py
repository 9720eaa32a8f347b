"""`python -m tests.faults --seeds 501-10000`: a longer run of random fault mixes, with a S3 server of its own."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from imunizacao.settings import storage_settings
from imunizacao_local.seaweed import SeaweedPorts, SeaweedServer
from tests.faults.soak import DAYS, run_seeds, summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all seeds; returns 1 when one went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seeds", default="1-5000", help="the first and the last one, like 501-10000")
    parser.add_argument("--procs", type=int, default=3)
    options = parser.parse_args(arguments)
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="imunizacao-soak-") as folder:
        with SeaweedServer(state_dir=Path(folder), ports=SeaweedPorts.free()) as server:
            for start in range(seeds.start, seeds.stop, DAYS):
                wrong += _run(range(start, min(start + DAYS, seeds.stop)), server, options.procs)
    return 1 if wrong else 0


def _run(seeds: range, server: SeaweedServer, processes: int) -> int:
    """Run at most one seed a day, in a bucket of their own; returns how many went wrong."""
    keys, mark = server.pipeline_credentials, secrets.token_hex(4)
    storage = storage_settings(
        endpoint_url=server.endpoint,
        access_key=keys.access_key,
        secret_key=keys.secret_key,
        work_bucket=f"soak-{mark}",
        public_bucket=f"soak-{mark}-unused",
    )
    server.client(keys).create_bucket(Bucket=storage.work_bucket)
    started = time.monotonic()
    outcomes = run_seeds(seeds, storage, processes=processes)
    print(f"seeds {seeds.start}-{seeds.stop - 1}, {time.monotonic() - started:.0f} s. {summary(outcomes)}", flush=True)
    return sum(outcome.verdict == "wrong" for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
