"""Lint all SQL: `python -m tests.lint_sql`.

sqlfluff 4.5 cannot parse DuckDB's `copy (query) to $parameter`, so of such a file the query is linted; everything else of the
file, header comments included, stays in its place, and so do the line numbers.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sqlfluff.core import FluffConfig, Linter

ROOT = Path(__file__).resolve().parents[1]
_COPY = re.compile(r"\A(?P<head>(?:--[^\n]*\n)*)copy \(\n(?P<query>.*)\n\)\nto \$\w+ \([^)]*\)\n\Z", re.S)


def lintable(text: str) -> str:
    """The file itself, or the query inside its `copy`, one indent to the left, on the same lines."""
    found = _COPY.match(text)
    if found is None:
        return text
    lines = [line.removeprefix("    ") for line in found["query"].split("\n")]
    return found["head"] + "--\n" + "\n".join(lines) + "\n"


def main() -> int:
    """Print every fault and return 1 if there is one."""
    linter = Linter(config=FluffConfig.from_path(str(ROOT / "pyproject.toml")))
    faults = 0
    files = sorted((ROOT / "include" / "sql").rglob("*.sql"))
    for path in files:
        for fault in linter.lint_string(lintable(path.read_text(encoding="utf-8")), fname=str(path)).get_violations():
            faults += 1
            print(
                f"{path.relative_to(ROOT)}:{fault.line_no}:{fault.line_pos}: {fault.rule_code()} {fault.desc()[:160]}"
            )
    print(f"{len(files)} SQL files, {faults} faults")
    return 1 if faults or not files else 0


if __name__ == "__main__":
    sys.exit(main())
