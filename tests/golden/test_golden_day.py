"""One seed, one exact published tree. Every file of the immutable folder is compared by hash with `day-2026-03-14.json`.

A difference is either a defect or a change that every reader of the bucket will notice: then write the tree again with
`python -m pytest tests/golden --write-golden`, and say in the *Data* section of the CHANGELOG what changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from imunizacao import pipeline
from imunizacao.models import RunContext
from imunizacao.paths import EXPECTATIONS
from tests.integration.conftest import DAY, mirror, run_context, services, settings

pytestmark = pytest.mark.servers
GOLDEN = Path(__file__).with_name("day-2026-03-14.json")

__all__ = ["mirror", "run_context", "services", "settings"]


@pytest.fixture(scope="session")
def expectations() -> Path:
    """All rules: what they find is in the files that are compared."""
    return EXPECTATIONS


def test_the_golden_day_is_published_byte_for_byte(
    services: pipeline.Services, run_context: Callable[..., RunContext], pytestconfig: pytest.Config
) -> None:
    published = pipeline.run_day(run_context("golden"), services).published
    folder = published.root_path.removesuffix("day.json")
    found = {
        info.key.removeprefix(folder): hashlib.sha256(services.public.get(info.key).body).hexdigest()
        for info in services.public.list(folder)
    }
    tree = {"day": str(DAY), "contentId": published.content_id, "files": dict(sorted(found.items()))}
    if pytestconfig.getoption("--write-golden"):
        GOLDEN.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    names = set(found) ^ set(golden["files"])
    assert not names, f"files that came or went: {sorted(names)[:10]}"
    changed = [name for name, sha in found.items() if golden["files"][name] != sha]
    assert not changed, f"files with other bytes: {changed[:10]}"
    assert published.content_id == golden["contentId"]
