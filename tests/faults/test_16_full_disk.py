"""A local disk that is full or too small. Figure: told before the work begins, no half file, nothing in the bucket, the scratch folder clean."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from imunizacao.errors import StorageUnavailable
from imunizacao.settings import EngineSettings
from imunizacao.sql import open_engine
from imunizacao.storage import require_room
from tests.integration.test_bad_input import small_disk  # noqa: F401 - a fixture
from tests.support.memory_store import MemoryStore
from tests.support.small_day import SmallDay, dose


def test_a_stage_that_cannot_fit_is_told_how_much_it_needs(tmp_path: Path) -> None:
    require_room(tmp_path, 1, what="x")
    with pytest.raises(StorageUnavailable, match=r"^x needs about \d+ MiB .*, \d+ MiB are free\..*full-disk\.md"):
        require_room(tmp_path, shutil.disk_usage(tmp_path).free + (1 << 40), what="x")


def test_a_body_that_does_not_fit_is_not_even_fetched(small_disk: Path) -> None:  # noqa: F811
    """The disk has 2 MB; the body has more. Nothing is uploaded, and the run works where there is room."""
    work, public = MemoryStore(), MemoryStore()
    day = SmallDay("2026-03-14", work, public, small_disk)
    run = day.inputs([dose(f"{n:05d}", "355030", co_lote_vacina="L" * 90) for n in range(20_000)])
    with pytest.raises(StorageUnavailable, match=r"publish of 2026-03-14 needs about \d+ MiB of scratch disk"):
        day.publish(*run)
    assert [key for key in public.objects if not key.startswith("v1/probe/")] == []
    assert list(small_disk.iterdir()) == []


def test_spilling_stops_before_the_disk_is_full(small_disk: Path) -> None:  # noqa: F811
    """DuckDB may use three quarters of what is free: others live on that disk too."""
    folder = small_disk / "stage"
    folder.mkdir()
    with open_engine(EngineSettings(memory_limit="30MB", threads=1), folder) as duck:
        sql = "create table x as select hash(i) as a, repeat(i::varchar, 9) as b from range(2000000) t(i) order by a"
        with pytest.raises(StorageUnavailable, match=r"ran out of memory or scratch disk"):
            duck.execute("spill", sql)
        assert shutil.disk_usage(small_disk).free > 300_000
    shutil.rmtree(folder)
