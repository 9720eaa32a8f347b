"""`python -m tests.protocol --schedules 200 --seed 1`: random schedules of real publishers, with a S3 server of its own."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from imunizacao_local.seaweed import SeaweedPorts, SeaweedServer
from tests.protocol.soak import make_schedule, run_schedules, summary
from tests.support.buckets import fresh_buckets


def main(arguments: Sequence[str] | None = None) -> int:
    """Play all schedules; returns 1 when one went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.protocol", description=__doc__)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule; the next one has the next seed")
    parser.add_argument("--lanes", type=int, default=3, help="schedules at a time")
    options = parser.parse_args(arguments)
    schedules = [make_schedule(seed) for seed in range(options.seed, options.seed + options.schedules)]
    told = []
    with tempfile.TemporaryDirectory(prefix="imunizacao-soak-") as folder:
        with SeaweedServer(state_dir=Path(folder) / "s3", ports=SeaweedPorts.free()) as server:
            with fresh_buckets(server) as storage:
                (Path(folder) / "schedules").mkdir()
                for one in run_schedules(schedules, storage, Path(folder) / "schedules", lanes=options.lanes):
                    told.append(one)
                    if one.wrong or len(told) % 10 == 0:
                        print(f"{len(told)}/{len(schedules)} {one.wrong and one.schedule} {one.wrong}", flush=True)
    print(f"{time.process_time():.0f} CPU s here. {summary(told)}")
    return 1 if any(one.wrong for one in told) else 0


if __name__ == "__main__":
    sys.exit(main())
