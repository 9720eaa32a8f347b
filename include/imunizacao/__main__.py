"""`python -m imunizacao`."""

from __future__ import annotations

import os
import sys


def _run(argv: list[str]) -> int:
    """Run one command. `verify` is run without loading the rest: it needs no package, and a fraction of the memory."""
    if argv[:1] == ["verify"]:
        from imunizacao.verify.command import main as verify  # noqa: PLC0415

        return verify(argv[1:], env=os.environ, out=sys.stdout, errors=sys.stderr)
    from imunizacao.cli import main  # noqa: PLC0415

    return main(argv)


if __name__ == "__main__":
    code = _run(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # DuckDB's binding writes a page of "leaked instances" when the interpreter tears down after Great Expectations has used it
    # (duckdb 2.0.0, harmless). Everything is closed by now: leave without the tear-down.
    os._exit(code)
