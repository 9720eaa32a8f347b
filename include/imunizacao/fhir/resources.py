"""Documents as the separate resources that a mirror stores: search of Immunization, then of Composition."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from imunizacao.errors import ConfigurationError, MirrorProtocolError, MirrorRefused
from imunizacao.events import log_event
from imunizacao.fhir.assemble import Assembler
from imunizacao.fhir.pages import BadPage, PageContent, read_page
from imunizacao.fhir.search import MAX_EMPTY, Search, SearchClient, self_values, visited_mark
from imunizacao.fhir.window import Window, instant_text

FETCH_BATCH: Final = 50
"""Ids of one request: 2 KB of address for UUIDs."""
ENTRY_BATCH: Final = 25
"""The same of references, which are longer."""

COMPOSITION_OF_DOSE: Final = ("_revinclude", "Composition:entry")
_IMMUNIZATION_INCLUDES: Final = (
    ("_include", "Immunization:patient"),
    ("_include", "Immunization:performer:Organization"),
    ("_include", "Immunization:reason-reference"),
    COMPOSITION_OF_DOSE,
)
_COMPOSITION_INCLUDES: Final = (
    ("_include", "Composition:entry"),
    ("_include", "Composition:subject"),
    ("_include", "Composition:author:Organization"),
)
_LABELS: Final = {"Immunization": " (Immunization)", "Composition": " (Composition)"}
_REFERENCE: Final = re.compile(r"(Immunization|Composition)/([A-Za-z0-9.-]{1,64})")
_NOT_SERVED: Final = frozenset({400, 404, 405, 406, 410, 422, 501})
"""Ways in which servers say that they have no such address, type or parameter."""


class _Parameter(Struct):
    name: str | None = None


class _Interaction(Struct):
    code: str | None = None


class _Type(Struct):
    type: str | None = None
    interaction: list[_Interaction] | None = None
    searchParam: list[_Parameter] | None = None  # noqa: N815 (FHIR)
    searchInclude: list[str] | None = None  # noqa: N815 (FHIR)
    searchRevInclude: list[str] | None = None  # noqa: N815 (FHIR)


class _Rest(Struct):
    mode: str | None = None
    resource: list[_Type] | None = None
    searchParam: list[_Parameter] | None = None  # noqa: N815 (FHIR)


class _Statement(Struct):
    resourceType: str = ""  # noqa: N815 (FHIR)
    rest: list[_Rest] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the mirror can do with one resource type."""

    by_time: bool
    """Search by `_lastUpdated`."""
    includes: frozenset[tuple[str, str]]
    """Pairs of `_include` or `_revinclude` and what may follow it; `*` = anything."""

    def offers(self, include: tuple[str, str]) -> bool:
        """Tell whether an include may be asked for; a target type (`Composition:author:Organization`) needs no word of its own."""
        name, value = include
        return any((name, text) in self.includes for text in (value, ":".join(value.split(":")[:2]), "*"))


class ResourceClient(SearchClient):
    """The way in over mirrors that keep the parts of documents. `Assembler` puts them together.

    Matches are Immunizations, then Compositions: a document may be cancelled without its Immunization being touched. What the
    pages include beside them saves requests: what a document needs and no page has is asked for (`fetch`, `compositions_of`), so that a
    document does not depend on where windows are cut.
    """

    way = "resources"
    _by_entry: bool | None = None
    """Whether Compositions can be searched by what they name, once it is known."""

    async def require_usable(self) -> None:
        """Raise `ConfigurationError`, with the reason, when this mirror cannot be read this way."""
        await self.searches()

    async def assembler(self, folder: Path) -> Assembler:
        """An assembler for what this mirror gives."""
        return Assembler(folder, compositions_searched=len(await self.searches()) == 2)

    async def fetch(self, references: Sequence[str]) -> list[bytes]:
        """Read resources by reference (`Immunization/<id>`), as landed lines with what they include.

        Those that the mirror does not have stay away. The includes are those of a walk: whatever the windows of a document's parts, the
        same stands beside them.
        """
        wanted: dict[str, list[str]] = {}
        for reference in dict.fromkeys(references):
            if match := _REFERENCE.fullmatch(reference):
                wanted.setdefault(match[1], []).append(match[2])
        lines: list[bytes] = []
        for name, ids in wanted.items():
            search = await self._known(name)
            beside = [include for include in search.includes if include != COMPOSITION_OF_DOSE]
            for batch in _batches(ids, FETCH_BATCH):
                url = self._url(search, [("_id", ",".join(batch)), *beside, ("_count", str(len(batch)))])
                where = f"read of {len(batch)} by id{search.label}"
                lines += await self._read_all(url, search, {f"{name}/{one}" for one in batch}, where=where)
        return lines

    async def compositions_of(self, doses: Sequence[str]) -> list[bytes]:
        """Search the Compositions that name doses (`Immunization/<id>`), as landed lines with what they include.

        None from a mirror that cannot be asked so, which is told once, or whose Compositions come beside their doses only.
        """
        lines: list[bytes] = []
        for batch in _batches(doses, ENTRY_BATCH) if len(await self.searches()) == len(_LABELS) else []:
            search = await self._known("Composition")
            url = self._url(search, [("entry", ",".join(batch)), *search.includes, ("_count", str(FETCH_BATCH))])
            if not await self._finds_by_entry(url, search):
                break
            where = f"search of the documents of {len(batch)} doses{search.label}"
            lines += await self._read_all(url, search, None, where=where)
        return lines

    async def _known(self, name: str) -> Search:
        """The search of a type, with its includes; without, where its walk is not known."""
        found = (search for search in await self.searches() if search.type == name)
        return next(found, Search(type=name, label=_LABELS[name]))

    async def _finds_by_entry(self, url: str, search: Search) -> bool:
        """Tell whether the mirror searches Composition by `entry`, asked once."""
        async with self._lock:
            if self._by_entry is None:
                self._by_entry = await self._try_entry(f"{url.rpartition('&')[0]}&_count=1", search)
        return self._by_entry

    async def _try_entry(self, url: str, search: Search) -> bool:
        received = await self.transport.ask(url, where=f"trial by entry{search.label}", expected=_NOT_SERVED | {200})
        status = received.answer.status
        try:
            page = read_page(received.answer.body) if status == 200 else None
        except BadPage:
            page = None
        heard = page is not None and bool(self_values(page.self_url, "entry"))
        if not heard:
            log_event(
                "mirror.no_search_by_entry",
                level=logging.WARNING,
                status=status,
                effect="doses that are apart from their Composition go to quarantine",
                runbook="docs/runbook/mirror-ways.md",
            )
        return heard

    def check_page(self, search: Search, content: PageContent, window: Window, *, where: str, first: bool) -> None:
        """Refuse a page whose search dropped its bounds, or the Composition of its doses when there is no other way to it."""
        super().check_page(search, content, window, where=where, first=first)
        if not first:
            return
        dropped = [include for include in search.includes if include not in _honoured(content)]
        for name, value in dropped:
            log_event("mirror.include_dropped", level=logging.WARNING, where=where, include=f"{name}={value}")
        if COMPOSITION_OF_DOSE in dropped and len(self.known_searches) == 1:
            raise self._refusal("its CapabilityStatement offers the first, but the link `self` of its answer drops it")

    async def _read_all(self, url: str, search: Search, asked: set[str] | None, *, where: str) -> list[bytes]:
        """All pages of a small search; with `asked`, matches with other references are refused."""
        following: str | None = url
        visited: set[str] = set()
        lines: list[bytes] = []
        empty = 0
        while following is not None and visited_mark(following) not in visited:
            url = following
            visited.add(visited_mark(url))
            content, _ = await self._page(url, search, where=where, cursor=len(visited) > 1)
            strangers = 0 if asked is None else sum(entry.id not in asked for entry in content.entries)
            if strangers:
                raise MirrorProtocolError(
                    f"The mirror did not search what it was asked ({where}): {strangers} of {len(content.entries)} entries have other "
                    "ids. Nothing was published. The mirror must support `_id`; see docs/runbook/mirror-protocol.md."
                )
            lines += [entry.line for entry in [*content.entries, *content.included] if entry.reject is None]
            empty = 0 if content.entries else empty + 1
            follows = content.next_url is not None and empty <= MAX_EMPTY
            following = self.transport.follow(url, content.next_url or "", where) if follows else None
        return lines

    async def find_searches(self) -> tuple[Search, ...]:
        """Immunization and, where the mirror can search it by time, Composition, each with the includes that the mirror knows."""
        statement = await self._statement()
        if statement is None:
            doses, compositions = await self._try()
        else:
            doses, compositions = (_served(statement, name) for name in _LABELS)
        if not doses.by_time:
            raise self._refusal(
                "Immunization cannot be searched by `_lastUpdated`", ConfigurationError if statement else MirrorRefused
            )
        if not doses.offers(COMPOSITION_OF_DOSE):
            if statement is None:
                raise self._refusal("it has no CapabilityStatement, and the link `self` of its answer drops the first")
            if not compositions.by_time:
                raise self._refusal("its CapabilityStatement offers neither")
        if not compositions.by_time:
            # Cancellations of documents whose doses stay as they are cannot be seen here.
            log_event("mirror.compositions_not_searched", level=logging.WARNING)
        found = [_search("Immunization", _IMMUNIZATION_INCLUDES, doses)]
        if compositions.by_time:
            found.append(_search("Composition", _COMPOSITION_INCLUDES, compositions))
        return tuple(found)

    async def _statement(self) -> _Statement | None:
        url = f"{self._settings.base_url.rstrip('/')}/metadata"
        received = await self.transport.ask(url, where="metadata", expected=_NOT_SERVED | {200})
        try:
            statement = msgspec.json.decode(received.answer.body, type=_Statement)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            statement = _Statement()
        if statement.resourceType == "CapabilityStatement" and statement.rest:
            return statement
        log_event("mirror.no_capability_statement", level=logging.WARNING, status=received.answer.status)
        return None

    async def _try(self) -> tuple[Served, Served]:
        """Without a CapabilityStatement, ask for one entry of each type and see what the mirror says that it searched."""
        found = []
        for name, includes in (("Immunization", _IMMUNIZATION_INCLUDES), ("Composition", _COMPOSITION_INCLUDES)):
            bound = ("_lastUpdated", f"ge{instant_text(self.transport.now() - timedelta(days=1))}")
            url = self._url(Search(type=name), [bound, *includes, ("_count", "1")])
            received = await self.transport.ask(url, where=f"trial{_LABELS[name]}", expected=_NOT_SERVED | {200})
            try:
                content = read_page(received.answer.body) if received.answer.status == 200 else None
            except BadPage:
                content = None
            by_time = content is not None and bool(self_values(content.self_url, "_lastUpdated"))
            found.append(Served(by_time=by_time, includes=_honoured(content) if content else frozenset()))
        return found[0], found[1]

    def _refusal(self, reason: str, kind: type[ConfigurationError] = ConfigurationError) -> ConfigurationError:
        """`MirrorRefused` where nothing at all was served: a mirror that is being redeployed looks like that."""
        return kind(
            f"The mirror at {self.transport.shown_base} cannot be read by its resources: {reason}. A dose needs its Composition, which "
            "names the establishment: by `_revinclude=Composition:entry` in searches of Immunization, or by a search of Composition "
            "with `_lastUpdated`. Nothing was taken. Choose another way (IMUNIZACAO_MIRROR_WAY, or `way` of the Airflow connection); "
            "see docs/runbook/mirror-ways.md."
        )


def _batches(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _search(name: str, includes: Iterable[tuple[str, str]], served: Served) -> Search:
    return Search(type=name, includes=tuple(filter(served.offers, includes)), label=_LABELS[name])


def _served(statement: _Statement, name: str) -> Served:
    """What a CapabilityStatement says of a type."""
    by_time = False
    includes: set[tuple[str, str]] = set()
    for rest in statement.rest or []:
        for found in rest.resource or []:
            if found.type != name or rest.mode not in {None, "server"}:
                continue
            codes = {interaction.code for interaction in found.interaction or []}
            parameters = {one.name for one in [*(found.searchParam or []), *(rest.searchParam or [])]}
            by_time = by_time or ("search-type" in codes and "_lastUpdated" in parameters)
            includes |= {("_include", text) for text in found.searchInclude or []}
            includes |= {("_revinclude", text) for text in found.searchRevInclude or []}
    return Served(by_time=by_time, includes=frozenset(includes))


def _honoured(content: PageContent) -> frozenset[tuple[str, str]]:
    return frozenset(
        (name, value) for name in ("_include", "_revinclude") for value in self_values(content.self_url, name)
    )
