"""One document put together from its resources, byte for byte: the search entry that a mirror of documents would give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from imunizacao.fhir.pages import Entry, cut_entry
from imunizacao.fhir.window import parse_instant

DOCUMENT_TYPE: Final = "RIA"
"""Code of the document type of immunizations (BRTipoDocumento)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """What decides about a Composition before its document is written."""

    is_other_document: bool
    """It states a type, and that is not the one of immunizations."""
    names: tuple[str, ...]
    """References of its sections, in their order."""


class _Coding(Struct):
    code: str | None = None


class _Concept(Struct):
    coding: list[_Coding] | None = None


class _Reference(Struct):
    reference: str | None = None


class _Section(Struct):
    entry: list[_Reference] | None = None
    section: list[_Section] | None = None


class _Type(Struct):
    type: _Concept | None = None


class _Sections(Struct):
    section: list[_Section] | None = None


class _Performer(Struct):
    actor: _Reference | None = None


class _Neighbours(Struct):
    """Where a Composition and an Immunization refer to persons, places and reasons."""

    subject: _Reference | None = None
    author: list[_Reference] | None = None
    patient: _Reference | None = None
    performer: list[_Performer] | None = None
    reasonReference: list[_Reference] | None = None  # noqa: N815 (FHIR)


class _Meta(Struct):
    versionId: str | int | None = None  # noqa: N815 (FHIR)
    lastUpdated: str | None = None  # noqa: N815 (FHIR)


class _Identity(Struct):
    id: str | None = None
    meta: _Meta | None = None


class _Identifier(Struct):
    identifier: Raw = Raw(b"")


class _Line(Struct):
    fullUrl: str | None = None  # noqa: N815 (FHIR)
    resource: Raw = Raw(b"{}")


T = TypeVar("T", bound=Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A resource of a document."""

    full_url: str
    resource: bytes
    """As received."""
    id: str
    version: str
    last_updated: str


def read_composition(line: bytes) -> Composition:
    """Read the entry of a Composition. What is not as FHIR has it reads as absent."""
    resource = _read(line, _Line).resource
    concept = _read(resource, _Type).type
    codes = {coding.code for coding in (concept.coding if concept else None) or [] if coding.code}
    names = tuple(_names(_read(resource, _Sections).section))
    return Composition(is_other_document=bool(codes) and DOCUMENT_TYPE not in codes, names=names)


def read_part(line: bytes) -> Part:
    """Read the entry of any resource."""
    read = _read(line, _Line)
    identity = _read(read.resource, _Identity)
    meta = identity.meta or _Meta()
    return Part(
        full_url=read.fullUrl or "",
        resource=bytes(read.resource),
        id=identity.id or (read.fullUrl or "").rpartition("/")[2],
        version="" if meta.versionId is None else str(meta.versionId),
        last_updated=meta.lastUpdated or "",
    )


def neighbours(parts: Iterable[Part]) -> Iterator[str]:
    """References of a document's parts to other resources than the doses."""
    for part in parts:
        read = _read(part.resource, _Neighbours)
        listed = [*(read.author or []), *(performer.actor for performer in read.performer or [])]
        for one in (read.subject, read.patient, *listed, *(read.reasonReference or [])):
            if one is not None and one.reference:
                yield one.reference


def write_document(parts: Sequence[Part], *, others: Sequence[Part], last_updated: str, is_document: bool) -> Entry:
    """Write the search entry of a document; `parts` are its Composition and doses in their order.

    Without a Composition (`is_document` false) it is a Bundle with a dose that nobody vouches for, under an id that no document has.
    """
    head = parts[0]
    identity = head.id if is_document else f"Immunization-{head.id}"
    base = head.full_url.rpartition("/")[0].rpartition("/")[0]
    meta = {"versionId": head.version} if head.version else {}
    bundle = [
        b'{"resourceType":"Bundle","id":%b,"meta":%b' % (_json(identity), _json({**meta, "lastUpdated": last_updated}))
    ]
    identifier = _identifier(head) if is_document else b""
    if identifier:
        bundle.append(b'"identifier":' + identifier)
    bundle.append(b'"type":"document"')
    if last_updated:
        bundle.append(b'"timestamp":' + _json(last_updated))
    entries = b",".join(map(_entry, [*parts, *others]))
    bundle.append(b'"entry":[' + entries + b"]}")
    full_url = b'"fullUrl":' + _json(f"{base}/Bundle/{identity}") + b"," if base else b""
    raw = b"{" + full_url + b'"resource":' + b",".join(bundle) + b',"search":{"mode":"match"}}'
    line, reject = cut_entry(raw)
    # A document that changed with a dose keeps the version of its Composition; the instant tells the two apart.
    changed = last_updated != head.last_updated or not head.version
    return Entry(
        line=line,
        id=identity,
        version=last_updated if changed else head.version,
        last_updated=parse_instant(last_updated),
        reject=reject,
    )


def _entry(part: Part) -> bytes:
    full_url = b'"fullUrl":' + _json(part.full_url) + b"," if part.full_url else b""
    return b'{%b"resource":%b}' % (full_url, part.resource)


def _identifier(composition: Part) -> bytes:
    """The identifier as received. A list of them (FHIR R5) gives its first one, a document has one only."""
    found = bytes(_read(composition.resource, _Identifier).identifier)
    if found.startswith(b"{"):
        return found
    try:
        first = msgspec.json.decode(found, type=list[Raw])[:1]
    except msgspec.DecodeError:
        return b""
    return bytes(first[0]) if first else b""


def _names(sections: list[_Section] | None) -> Iterator[str]:
    for section in sections or []:
        for one in section.entry or []:
            if one.reference:
                yield one.reference
        yield from _names(section.section)


def _read(raw: bytes | Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return kind()


def _json(value: str | dict[str, str]) -> bytes:
    return msgspec.json.encode(value)
