"""`python -m imunizacao`."""

from __future__ import annotations

import os
import sys

from imunizacao.cli import main

if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # DuckDB's binding writes a page of "leaked instances" when the interpreter tears down after Great Expectations has used it
    # (duckdb 2.0.0, harmless). Everything is closed by now: leave without the tear-down.
    os._exit(code)
