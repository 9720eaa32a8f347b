"""`python -m tests.mirror`."""

from __future__ import annotations

import sys

from tests.mirror.cli import main

if __name__ == "__main__":
    sys.exit(main())
