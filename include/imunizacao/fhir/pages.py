"""A page of a search: checked as a whole, cut into entries without changing a byte of them."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from imunizacao.fhir.elements import MAX_PATHS, KnownElements, known_elements, merge_unknown
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
_INCLUDED: Final = re.compile(rb'"search"\s*:\s*\{[^{}"]*"mode"\s*:\s*"include"')
"""How an entry that cannot be read says that it is no match. A text inside an entry cannot: its quotes are escaped."""


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
    """One entry of a page that carries a resource."""

    line: bytes
    """The entry as received; line breaks outside strings are spaces. Of a rejected entry: exactly as received."""
    id: str
    """Resource id (`Immunization/<id>` in a search of several types), else fullUrl; empty when the entry names none."""
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
    """The matches: what the total counts."""
    outcomes: list[str]
    """Codes of the server's messages about the search (`search.mode` = `outcome`)."""
    included: list[Entry] = field(default_factory=list)
    """What came beside the matches (`search.mode` = `include`)."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Element that no known profile has → entries of the page with it; see `merge_unknown` for the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page as it came over the wire."""

    number: int
    """From 1, in the order of the walk."""
    url: str
    """As it may be shown: without user, password and the values of parameters that are not ours."""
    etag: str
    sha256: str
    """Of the body, decompressed."""
    bytes: int
    seconds: float
    attempts: int
    content: PageContent
    mark: str = ""
    """`visited_mark` of its address as the mirror gave it: a walk that comes here again goes in circles."""
    following: str | None = None
    """Address of the next page, absolute and as the mirror gave it: it may carry a cursor that is nobody else's business."""


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
    resourceType: str | None = None  # noqa: N815 (FHIR)
    id: str | None = None
    meta: _Meta | None = None


class _Line(Struct):
    resourceType: str = "Bundle"  # noqa: N815 (FHIR)
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
_LINE: Final = msgspec.json.Decoder(_Line)
_OUTCOME: Final = msgspec.json.Decoder(_Outcome)
_OUTCOME_ENTRY: Final = msgspec.json.Decoder(_OutcomeEntry)
_ANY: Final = msgspec.json.Decoder(Raw)


def read_page(body: bytes, *, of: str = "") -> PageContent:
    """Check a search page and cut it into entries; raises `BadPage`.

    One entry that is not UTF-8, not JSON, too large or too deep does not spoil its page. A body whose brackets do not
    close is truncated and is refused as a whole. With `of`, the type that was searched where pages hold several, ids carry their
    type, and an entry of another type is no match unless it says that it is one.
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
    content = PageContent(
        total=head.total,
        self_url=links.get("self") or None,
        next_url=links.get("next") or None,
        entries=[],
        outcomes=[],
    )
    known = known_elements()
    for raw in raws:
        _add_entry(bytes(raw), known, sound=sound, of=of, content=content)
    if len(content.unknown) > MAX_PATHS:
        return replace(content, unknown=merge_unknown({}, content.unknown))
    return content


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


def wrap_resource(raw: bytes, base_url: str) -> Entry:
    """Make a search entry of a resource that came on a line of its own, its bytes as received.

    A line that is not JSON is always a reject: inside the entry it could read as another document. A rejected line keeps its own
    bytes.
    """
    try:
        head = _LINE.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        head = _Line()
    full_url = msgspec.json.encode(f"{base_url}/{head.resourceType}/{head.id}")
    line = (
        (b'{"fullUrl":' + full_url + b"," if head.id else b"{") + b'"resource":' + raw + b',"search":{"mode":"match"}}'
    )
    reject = None
    if len(line) > MAX_ENTRY_BYTES:
        reject = Reject.DOC_TOO_LARGE
    elif not _is_utf8(raw):
        reject = Reject.UTF8_INVALID
    elif is_too_deep(line):
        reject = Reject.DEPTH
    elif not _is_object(raw):
        reject = Reject.JSON_INVALID
    meta = head.meta or _Meta()
    version = meta.lastUpdated if meta.versionId is None else str(meta.versionId)
    return Entry(
        line=line if reject is None else raw,
        id=head.id or "",
        version=version or "",
        last_updated=parse_instant(meta.lastUpdated),
        reject=reject,
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


def cut_entry(raw: bytes, *, reject: Reject | None = None) -> tuple[bytes, Reject | None]:
    """The line of an entry, and why it cannot be one: too large, not UTF-8, too deep, or the reason given."""
    if len(raw) > MAX_ENTRY_BYTES:
        reject = Reject.DOC_TOO_LARGE
    elif reject is None and not raw.isascii() and not _is_utf8(raw):
        reject = Reject.UTF8_INVALID
    elif reject is not Reject.DEPTH and is_too_deep(raw):
        reject = Reject.DEPTH
    return (_one_line(raw), None) if reject is None else (raw, reject)


def _one_line(raw: bytes) -> bytes:
    return raw.translate(_LINE_BREAKS) if b"\n" in raw or b"\r" in raw else raw


def _add_entry(raw: bytes, known: KnownElements, *, sound: bool, of: str, content: PageContent) -> None:
    # Separate resources are looked at when they have become documents.
    head, is_known = (_read_head(raw), False) if of else _head_of(raw, known)
    if is_known and len(raw) <= MAX_ENTRY_BYTES:
        # A document of known elements only has been read to its last text: it is JSON, UTF-8 and as deep as the table at most.
        line, reject = _one_line(raw), None
    else:
        line, reject = cut_entry(raw, reject=None if sound else _damage(raw))
    mode = head.search.mode if head.search else None
    if mode == "outcome":
        content.outcomes.append(_entry_outcome(raw))
        return
    if not (is_known or of) and reject is None:
        for element in known.unknown(raw):
            content.unknown[element] = content.unknown.get(element, 0) + 1
    if of and mode is None and head.resource and head.resource.resourceType not in {None, of}:
        mode = "include"
    entry = _entry(head, line, typed=bool(of), reject=reject)
    (content.included if mode == "include" else content.entries).append(entry)


def read_line(line: bytes) -> Entry:
    """The entry of a landed line; its id carries the type of the resource."""
    return _entry(_read_head(line), line, typed=True, reject=None)


def _read_head(raw: bytes) -> _EntryHead:
    try:
        return _ENTRY.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # Unreadable, or FHIR names with values of another type: landed as it is, flatten says why it is unusable.
        return _EntryHead(search=_Search(mode="include" if _INCLUDED.search(raw) else None))


def _entry(head: _EntryHead, line: bytes, *, typed: bool, reject: Reject | None) -> Entry:
    resource = head.resource or _Resource()
    meta = resource.meta or _Meta()
    identity = resource.id
    if typed and identity and resource.resourceType:
        identity = f"{resource.resourceType}/{identity}"
    version = meta.lastUpdated if meta.versionId is None else str(meta.versionId)
    return Entry(
        line=line,
        id=identity or head.fullUrl or "",
        version=version or "",
        last_updated=parse_instant(meta.lastUpdated),
        reject=reject,
    )


def _head_of(raw: bytes, known: KnownElements) -> tuple[Any, bool]:
    """What a page needs of an entry (see `_EntryHead`), and whether all its elements are known to us."""
    try:
        return known.decoder.decode(raw), True
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _read_head(raw), False


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


def _is_object(raw: bytes) -> bool:
    """Tell whether a line is one JSON object and nothing else."""
    try:
        return bytes(_ANY.decode(raw)).startswith(b"{")
    except (msgspec.DecodeError, RecursionError):
        return False


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
