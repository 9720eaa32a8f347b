"""Folders of suites for tests that need a day judged, but are not about the rules.

Great Expectations costs by the rule, not by the row, and most rules only flag. All rules together run in tests/expectations, tests/oracle,
tests/golden and tests/dags.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from imunizacao.paths import EXPECTATIONS

SUITE_FILES = ("dose.json", "dia.json", "uf.json")
FLAGS = {"IMU-016", "IMU-028", "IMU-110"}
"""One flag of each kind, so that flagged rows and completeness are in the account of a lean day too."""


def suites_with(folder: Path, rules: Collection[str]) -> Path:
    """Write the suites of the project with these rules alone; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in _suites().items():
        kept = [one for one in document["expectations"] if one["meta"]["rule"] in rules]
        text = json.dumps({**document, "expectations": kept}, ensure_ascii=False)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def lean_suites(folder: Path) -> Path:
    """Write the suites with every rule that takes a row out, holds a day or asks, and few of those that only warn."""
    rules = {
        one["meta"]["rule"]
        for document in _suites().values()
        for one in document["expectations"]
        if one["severity"] == "critical" or one["meta"]["rule"] in FLAGS
    }
    return suites_with(folder, rules)


def _suites() -> Mapping[str, dict[str, Any]]:
    return {name: json.loads((EXPECTATIONS / name).read_text(encoding="utf-8")) for name in SUITE_FILES}
