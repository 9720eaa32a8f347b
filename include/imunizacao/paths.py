"""Where the files of the product are, and which code they are."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

INCLUDE = Path(__file__).resolve().parent.parent
ROOT = INCLUDE.parent
SQL = INCLUDE / "sql"
CONTRACT = INCLUDE / "contract"
REFERENCE = INCLUDE / "reference"
EXPECTATIONS = ROOT / "expectations"

_CODE_SUFFIXES = {".py", ".sql", ".yaml", ".json"}
_READING = REFERENCE / "rnds"
"""Which profiles and elements of documents are known: it decides what a receipt counts."""


@cache
def code_version() -> str:
    """First 12 hex digits of the sha256 over the product's code, SQL, contract, rules and tables of known elements.

    It needs no git: an image, a wheel and a checkout of the same files give the same version. A receipt made by
    another version is not reused.
    """
    digest = hashlib.sha256()
    for folder in (INCLUDE / "imunizacao", SQL, CONTRACT, EXPECTATIONS, _READING):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and (path.suffix in _CODE_SUFFIXES or folder == _READING):
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]
