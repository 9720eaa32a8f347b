"""Scripts, styles and fonts of the Data Docs: in one folder of the work bucket whose name is their hash, written once."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from pathlib import Path
from typing import Final

from imunizacao.storage import ObjectStore

STATIC: Final = Path(__file__).resolve().parent / "static"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
}


def static_files() -> list[Path]:
    """All files of `static/`, licences included, in name order."""
    return sorted(path for path in STATIC.rglob("*") if path.is_file())


@cache
def static_version() -> str:
    """First 12 hex digits of the sha256 over names and bytes."""
    digest = hashlib.sha256()
    for path in static_files():
        digest.update(path.relative_to(STATIC).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def content_type(path: Path) -> str:
    """What a browser is told that a file is."""
    return _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def put_static(work: ObjectStore, prefix: str) -> int:
    """Write what is missing under `prefix` (ending in `/`) and return how many files that were."""
    folder = f"{prefix}{static_version()}/"
    there = {item.key: item.bytes for item in work.list(folder)}
    written = 0
    for path in static_files():
        key = folder + path.relative_to(STATIC).as_posix()
        if there.get(key) != path.stat().st_size:
            work.put(key, path.read_bytes(), content_type=content_type(path))
            written += 1
    return written
