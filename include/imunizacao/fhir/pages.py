"""A page of a search: checked as a whole, cut into entries without changing a byte of them."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Raw, Struct

from imunizacao.fhir.window import parse_instant

MAX_ENTRY_BYTES: Final = 16 * 1024 * 1024
"""A larger entry is not landed: DuckDB reads lines of 16 MiB, and a vaccination has 3–5 KB."""
MAX_DEPTH: Final = 120
"""A deeper entry is not landed: DuckDB gives up at 128 levels, a served document has about 12."""

_BOM: Final = b"\xef\xbb\xbf"
_CONTROL: Final = re.compile(rb"[\x00-\x1f]")
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_STRINGS: Final = re.compile(_STRING, re.DOTALL)
_TOKENS: Final = re.compile(_STRING + rb"|[{}\[\]]", re.DOTALL)
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")
_ONE_BRACKET: Final = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_RNDS_CODE: Final = re.compile(r"^\(((?:EHR|EDS)-(?:ERR|MSG)\d+)\)")
_ISSUE_CODE: Final = re.compile(r"^[a-z][a-z-]{0,31}$")


class Reject(StrEnum):
    """Why an entry cannot be a landing line. It is kept beside landing and counted."""

    DOC_TOO_LARGE = "DOC_TOO_LARGE"
    DEPTH = "DEPTH"
    UTF8_INVALID = "UTF8_INVALID"
    JSON_INVALID = "JSON_INVALID"
    """Not JSON, with raw control characters: replacing its line breaks could make another document of it."""


class BadPage(Exception):
    """The body is not a search page: worth asking for once more, never worth taking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One `match` entry of a page."""

    line: bytes
    """The entry as received; line breaks outside strings are spaces. Of a rejected entry: exactly as received."""
    id: str
    """Resource id, else fullUrl; empty when the entry names none."""
    version: str
    """`meta.versionId`, else `meta.lastUpdated`; may be empty."""
    last_updated: datetime | None
    reject: Reject | None = None

    @property
    def key(self) -> str:
        """Identity of the document version. An entry without an id is its own bytes."""
        if self.id:
            return f"{self.id}|{self.version}"
        return hashlib.sha256(self.line).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class PageContent:
    """What the body of a page says."""

    total: int | None
    self_url: str | None
    next_url: str | None
    entries: list[Entry]
    outcomes: list[str]
    """Codes of the server's messages about the search (`search.mode` = `outcome`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page as it came over the wire."""

    number: int
    """From 1, in the order of the walk."""
    url: str
    """Without user, password and parameters that look like secrets."""
    etag: str
    sha256: str
    """Of the body, decompressed."""
    bytes: int
    seconds: float
    attempts: int
    content: PageContent


class _Link(Struct):
    relation: str = ""
    url: str = ""


class _Head(Struct):
    resourceType: str = ""  # noqa: N815 (FHIR)
    type: str | None = None
    total: int | None = None
    link: list[_Link] | None = None
    entry: list[Raw] | None = None


class _Meta(Struct):
    versionId: str | int | None = None  # noqa: N815 (FHIR)
    lastUpdated: str | None = None  # noqa: N815 (FHIR)


class _Coding(Struct):
    code: str | None = None
    diagnostics: str | None = None


class _Resource(Struct):
    id: str | None = None
    meta: _Meta | None = None


class _Outcome(Struct):
    resourceType: str = ""  # noqa: N815 (FHIR)
    issue: list[_Coding] | None = None


class _Search(Struct):
    mode: str | None = None


class _EntryHead(Struct):
    fullUrl: str | None = None  # noqa: N815 (FHIR)
    search: _Search | None = None
    resource: _Resource | None = None


class _OutcomeEntry(Struct):
    resource: _Outcome | None = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_ENTRY: Final = msgspec.json.Decoder(_EntryHead)
_OUTCOME: Final = msgspec.json.Decoder(_Outcome)
_OUTCOME_ENTRY: Final = msgspec.json.Decoder(_OutcomeEntry)
_ANY: Final = msgspec.json.Decoder(Raw)


def read_page(body: bytes) -> PageContent:
    """Check a search page and cut it into entries; raises `BadPage`.

    One entry that is not UTF-8, not JSON, too large or too deep does not spoil its page. A body whose brackets do not
    close is truncated and is refused as a whole.
    """
    body = body.removeprefix(_BOM)
    raws: list[Raw] | list[bytes]
    try:
        head = _HEAD.decode(body)
        raws, sound = head.entry or [], True
    except msgspec.ValidationError as error:
        raise BadPage(f"not a FHIR Bundle ({error})") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        # One entry may be to blame: nested 200,000 deep, a lone surrogate, a raw control character.
        cut = _cut_entries(body)
        if cut is None:
            raise BadPage("truncated or not JSON") from error
        head, raws, sound = cut[0], cut[1], False
    if head.resourceType != "Bundle" or head.type != "searchset":
        code = outcome_code(body)
        raise BadPage(
            f"expected a Bundle of type searchset, got {_word(head.resourceType)}/{_word(head.type)}"
            + (f" ({code})" if code else "")
        )
    links = {link.relation: link.url for link in head.link or []}
    entries: list[Entry] = []
    outcomes: list[str] = []
    ascii_only = body.isascii()
    for raw in raws:
        _add_entry(bytes(raw), sound=sound, ascii_only=ascii_only, entries=entries, outcomes=outcomes)
    return PageContent(
        total=head.total,
        self_url=links.get("self") or None,
        next_url=links.get("next") or None,
        entries=entries,
        outcomes=outcomes,
    )


def outcome_code(body: bytes) -> str:
    """The code of an OperationOutcome (`EHR-ERR882`, else the FHIR issue code), or an empty text.

    Never the diagnostics text: it may quote identifiers.
    """
    try:
        outcome = _OUTCOME.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return ""
    return _code_of(outcome)


def reject_record(entry: Entry, *, page: int, position: int) -> bytes:
    """One line of the rejects file."""
    return msgspec.json.encode(
        {
            "reason": str(entry.reject),
            "page": page,
            "position": position,
            "bytes": len(entry.line),
            "sha256": hashlib.sha256(entry.line).hexdigest(),
            "body_base64": base64.b64encode(entry.line).decode(),
        }
    )


def is_too_deep(entry: bytes, limit: int = MAX_DEPTH) -> bool:
    """Tell whether JSON nests deeper than `limit`, without recursion.

    An entry with at most `limit` opening brackets cannot. For the others the innermost pairs are peeled off level by level.
    """
    if entry.count(b"{") + entry.count(b"[") <= limit:
        return False
    skeleton = _STRINGS.sub(b"", entry).translate(_ONE_BRACKET, _NO_BRACKETS)
    for _ in range(limit):
        if not skeleton:
            return False
        skeleton = skeleton.replace(b"{}", b"")
    return bool(skeleton)


def _add_entry(raw: bytes, *, sound: bool, ascii_only: bool, entries: list[Entry], outcomes: list[str]) -> None:
    reject = None if sound else _damage(raw)
    if len(raw) > MAX_ENTRY_BYTES:
        reject = Reject.DOC_TOO_LARGE
    elif reject is None and not ascii_only and not _is_utf8(raw):
        reject = Reject.UTF8_INVALID
    elif reject is not Reject.DEPTH and is_too_deep(raw):
        reject = Reject.DEPTH
    try:
        head = _ENTRY.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # Unreadable, or FHIR names with values of another type: landed as it is, flatten says why it is unusable.
        head = _EntryHead()
    mode = head.search.mode if head.search else None
    if mode == "outcome":
        outcomes.append(_entry_outcome(raw))
        return
    if mode == "include":
        return
    resource = head.resource or _Resource()
    meta = resource.meta or _Meta()
    version = meta.lastUpdated if meta.versionId is None else str(meta.versionId)
    line = raw
    if reject is None and (b"\n" in raw or b"\r" in raw):
        line = raw.translate(_LINE_BREAKS)
    entries.append(
        Entry(
            line=line,
            id=resource.id or head.fullUrl or "",
            version=version or "",
            last_updated=parse_instant(meta.lastUpdated),
            reject=reject,
        )
    )


def _damage(raw: bytes) -> Reject | None:
    """What is wrong with an entry of a page that is not JSON as a whole; None when it can be landed as it is."""
    try:
        _ANY.decode(raw)
    except RecursionError:
        return Reject.DEPTH
    except msgspec.DecodeError:
        # Flatten names the defect, unless the bytes could not stand on one line of their own.
        return Reject.JSON_INVALID if _CONTROL.search(raw) else None
    return None


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _entry_outcome(raw: bytes) -> str:
    try:
        entry = _OUTCOME_ENTRY.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return "unreadable"
    return _code_of(entry.resource or _Outcome()) or "no-code"


def _code_of(outcome: _Outcome) -> str:
    if outcome.resourceType != "OperationOutcome":
        return ""
    fallback = ""
    for issue in outcome.issue or []:
        if match := _RNDS_CODE.match((issue.diagnostics or "").strip()):
            return match[1]
        if not fallback and issue.code and _ISSUE_CODE.match(issue.code):
            fallback = issue.code
    return fallback


def _word(text: str | None) -> str:
    """Something a server sent as a name, only when it is one."""
    return text if text and re.fullmatch(r"[A-Za-z-]{1,40}", text) else "nothing"


def _cut_entries(body: bytes) -> tuple[_Head, list[bytes]] | None:
    """Cut a page by its brackets alone, without recursion; None when they do not close.

    Slow path (about 20 MB/s) for pages that the JSON decoder refuses. The entries may be anything with balanced brackets.
    """
    depth, closed = 0, 0
    entry_start, array_start, array_end = 0, 0, 0
    in_entries, name = False, None
    entries: list[bytes] = []
    for token in _TOKENS.finditer(body):
        kind = body[token.start()]
        if kind == 0x22:
            if depth == 1:
                name = token
        elif kind in b"{[":
            depth += 1
            if depth == 2 and kind == 0x5B and name is not None and name[0] == b'"entry"':
                in_entries = not array_end and body[name.end() : token.start()].strip() == b":"
                array_start = token.end() if in_entries else array_start
            elif depth == 3 and in_entries:
                entry_start = token.start()
        else:
            depth -= 1
            if depth == 2 and in_entries:
                entries.append(body[entry_start : token.end()])
            elif depth == 1 and in_entries:
                in_entries, array_end = False, token.start()
            elif depth == 0 and not closed:
                closed = token.end()
    if depth or not closed or body[closed:].strip() or not array_end:
        return None
    try:
        return _HEAD.decode(body[:array_start] + body[array_end:]), entries
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
