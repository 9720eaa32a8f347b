"""Files of an export on local disk: checked to their last line, kept compressed, read line by line."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
import pyarrow
from msgspec import Struct

from imunizacao.errors import MirrorProtocolError
from imunizacao.fhir.pages import Entry
from imunizacao.fhir.transport import MAX_BODY_BYTES
from imunizacao.fhir.window import Window, instant_text, parse_instant

_BOM: Final = b"\xef\xbb\xbf"
_BUFFER: Final = 1 << 20
_BLANK: Final = b" \t\r\n"
_DELETED: Final = re.compile(r"(?:^|/)([A-Z][A-Za-z]{1,63})/([A-Za-z0-9.-]{1,64})$")
_DOCUMENTS: Final = frozenset({"Bundle", "Composition"})


class CutShort(Exception):
    """The file ends in the middle of a line: fetching it again may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletions:
    """What files of deletions say, for one window."""

    documents: list[Entry]
    """One landing line per deleted document, in order of its id; `last_updated` is the instant that the mirror states, else None."""
    others: dict[str, int]
    """Deletions of other resources by type: no document goes with them."""
    outside: int
    """Deletions whose stated instant lies outside the window: they belong to another day."""


class _Request(Struct):
    method: str = ""
    url: str = ""


class _Deleted(Struct):
    request: _Request | None = None


class _Meta(Struct):
    lastUpdated: str | None = None  # noqa: N815 (FHIR)


class _Transaction(Struct):
    resourceType: str  # noqa: N815 (FHIR)
    type: str
    entry: list[_Deleted]
    meta: _Meta | None = None


_JSON: Final = msgspec.json.Decoder(msgspec.Raw)
_TRANSACTION: Final = msgspec.json.Decoder(_Transaction)


def pack_lines(source: Path, target: Path, *, where: str) -> int:
    """Compress an NDJSON file and return its lines; blank ones are left out.

    Raises `CutShort` when the last line is not whole, `MirrorProtocolError` for a line that fits no memory.
    """
    lines = 0
    with source.open("rb", buffering=_BUFFER) as file, pyarrow.CompressedOutputStream(str(target), "zstd") as packed:
        while line := file.readline(MAX_BODY_BYTES + 1):
            if len(line) > MAX_BODY_BYTES:
                raise MirrorProtocolError(
                    f"A line of {where} is larger than {MAX_BODY_BYTES >> 20} MiB. Nothing was published. A vaccination has 3–5 KB: ask "
                    "those who run the mirror what this file holds; see docs/runbook/mirror-export.md."
                )
            text = line.removeprefix(_BOM).strip(_BLANK) if not lines else line.strip(_BLANK)
            if not text:
                continue
            if not line.endswith(b"\n") and not _is_json(text):
                raise CutShort
            packed.write(text + b"\n")
            lines += 1
    return lines


def read_lines(path: Path) -> Iterator[bytes]:
    """Lines of a packed file, without their line break."""
    with pyarrow.CompressedInputStream(str(path), "zstd") as packed, io.BufferedReader(packed, _BUFFER) as lines:
        for line in lines:
            yield line[:-1]


def read_deletions(
    paths: list[tuple[Path, str]], *, window: Window, transaction_time: datetime, base_url: str
) -> Deletions:
    """Read packed files (with their names for messages) of transaction Bundles that say what was deleted.

    The Bundle's own `lastUpdated` is the instant of the deletion where it lies before the manifest's transaction time; a later one
    is when the list was written. Raises `MirrorProtocolError` for a line that cannot be read: it may hide a removal.
    """
    latest: dict[str, datetime | None] = {}
    others: Counter[str] = Counter()
    outside = 0
    for path, where in paths:
        for number, line in enumerate(read_lines(path), 1):
            try:
                bundle = _TRANSACTION.decode(line)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                bundle = _Transaction(resourceType="", type="", entry=[])
            requests = [entry.request or _Request() for entry in bundle.entry]
            names = [_DELETED.search(request.url) for request in requests if request.method == "DELETE"]
            if (
                (bundle.resourceType, bundle.type) != ("Bundle", "transaction")
                or len(names) < len(requests)
                or None in names
            ):
                raise MirrorProtocolError(
                    f"Line {number} of {where} is no transaction Bundle that deletes resources by id, so a removal may be hidden in it. "
                    "Nothing was published. See docs/runbook/mirror-export.md."
                )
            stated = parse_instant(bundle.meta.lastUpdated if bundle.meta else None)
            if stated is not None and stated >= transaction_time:
                stated = None
            for name in filter(None, names):
                if name[1] not in _DOCUMENTS:
                    others[name[1]] += 1
                elif stated is not None and stated not in window:
                    outside += 1
                else:
                    known = latest.get(name[2])
                    latest[name[2]] = max(known, stated) if known and stated else stated or known
    documents = [_deletion(identity, stated, transaction_time, base_url) for identity, stated in sorted(latest.items())]
    return Deletions(documents=documents, others=dict(sorted(others.items())), outside=outside)


def _deletion(identity: str, stated: datetime | None, transaction_time: datetime, base_url: str) -> Entry:
    """The landing line of a deleted document."""
    line = msgspec.json.encode(
        {
            "fullUrl": f"{base_url}/Bundle/{identity}",
            "request": {"method": "DELETE", "url": f"Bundle/{identity}"},
            "response": {"lastModified": instant_text(stated or transaction_time)},
        }
    )
    return Entry(line=line, id=identity, version="deleted", last_updated=stated)


def _is_json(text: bytes) -> bool:
    try:
        _JSON.decode(text)
    except msgspec.DecodeError:
        return False
    except RecursionError:
        # Too deep to read, which is for whoever lands it to say. A cut one would not end like this.
        return text.endswith(b"}")
    return True
