"""A day with a dose in every municipality. Figure: 5,571 + 27 files with at most 64 open files, memory bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from imunizacao.paths import ROOT

_CHILD = """
import json, resource, sys, tempfile
from pathlib import Path

import csv
from imunizacao.paths import REFERENCE
from tests.support.memory_store import MemoryStore
from tests.support.small_day import SmallDay, dose

with (REFERENCE / "ibge" / "ibge_municipios.csv").open(encoding="utf-8", newline="") as table:
    places = [row["co_ibge_6"] for row in csv.DictReader(table)]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
day = SmallDay("2026-03-14", MemoryStore(), MemoryStore(), Path(sys.argv[1]))
run = day.inputs([dose(f"{place}-{n}", place) for place in places for n in range(2)])
published = day.publish(*run)
# Not ru_maxrss: a process that was started by a large one begins with the peak of that one.
status = Path("/proc/self/status").read_text()
after = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
files = [key for key in day.public.objects if key.endswith(".csv") and "/uf=" in key]
held = sum(map(len, day.public.objects.values()))
print(json.dumps([len(places), len(files), published.files, after // 1024, held >> 20]))
"""


def test_every_municipality_has_its_file_within_64_open_files(tmp_path: Path) -> None:
    """In a process of its own, whose limit is 64; publish uploads 16 files at once. The store in memory holds the published bytes."""
    ended = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'include'}:{ROOT}"},
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    places, files, told, most, held = json.loads(ended.stdout.splitlines()[-1])
    print(f"{places} places, {files} files, {most} MiB at most, {held} MiB of them in the store")
    assert places == 5571
    assert files == places + 27
    assert told == files + 1
    assert most - held < 400
