"""Requests of a mirror check: few, each with a name, and an answer of any kind is a finding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from imunizacao.errors import MirrorUnavailable
from imunizacao.fhir import Answer, Transport, Way, Window
from imunizacao.fhir.addresses import query_of
from imunizacao.fhir.pages import BadPage, PageContent, outcome_code, read_page

MOST_REQUESTS: Final = 60
"""Retries included: a mirror that is in trouble already is not asked more."""
_LOST: Final = 2
"""Requests without an answer after which no other one is sent."""
_TOLD: Final = frozenset({200, 400, 404, 405, 406, 410, 415, 422, 501})
"""Statuses that are answers. The others are retried or refused as in a run."""


class Finding(Exception):
    """A check failed while asking."""

    def __init__(self, result: str, advice: str) -> None:
        super().__init__(result)
        self.result = result
        self.advice = advice


class NotChecked(Exception):
    """A check has nothing to work with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What is searched: the type of the way in, with the parameters that always go with it."""

    type: str
    fixed: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, way: Way) -> Collection:
        """The search of a way; `export` has none, and is checked by that of documents where there is one."""
        return cls(type="Immunization") if way == "resources" else cls(type="Bundle", fixed=(("type", "document"),))

    @property
    def noun(self) -> str:
        """What its matches are called."""
        return "immunizations" if self.type == "Immunization" else "documents"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer of the mirror to a search."""

    url: str
    answer: Answer
    content: PageContent | None
    problem: str
    """Why there is no page."""
    seconds: float
    wire_bytes: int

    @property
    def status(self) -> str:
        """Status and code, fit to be shown."""
        return f"{self.answer.status} {outcome_code(self.answer.body)}".rstrip()

    @property
    def page(self) -> PageContent:
        """The page; `Finding` when there is none."""
        if self.content is None:
            raise Finding(
                f"no search page: {self.problem}",
                "Ask for the same address by hand (docs/runbook/mirror-protocol.md): a proxy, a firewall or a login page may "
                "answer instead of the mirror.",
            )
        return self.content

    def self_values(self, name: str) -> list[str]:
        """Values of a parameter in the link `self`, what the mirror says it searched for."""
        return [value for found, value in query_of(self.content.self_url if self.content else None) if found == name]


class Asker:
    """Sends the requests of a check and stops when the mirror stops answering."""

    def __init__(self, transport: Transport, collection: Collection) -> None:
        self.transport = transport
        self.collection = collection
        self._lost = 0

    @property
    def stopped(self) -> str:
        """Why nothing more is asked; empty while something is."""
        if self._lost >= _LOST:
            return "the mirror stopped answering"
        return f"{MOST_REQUESTS} requests are enough" if self.transport.requests >= MOST_REQUESTS else ""

    def address(self, parameters: Iterable[tuple[str, str]]) -> str:
        """Of a search of the collection."""
        query = urlencode([*self.collection.fixed, *parameters], safe=":-")
        return f"{self.transport.settings.base_url.rstrip('/')}/{self.collection.type}?{query}"

    async def search(
        self, parameters: Iterable[tuple[str, str]], *, where: str, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Search the collection."""
        return await self.get(self.address(parameters), where=where, headers=headers)

    async def get(
        self, url: str, *, where: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> Reply:
        """Ask for an address. Raises what `Transport.ask` raises, and `NotChecked` once the mirror has stopped answering."""
        if self.stopped:
            raise NotChecked(self.stopped)
        before = self.transport.bytes_received
        try:
            received = await self.transport.ask(
                url, where=where, method=method, expected=_TOLD | frozenset({201, 202, 204}), headers=headers
            )
        except MirrorUnavailable:
            self._lost += 1
            raise
        self._lost = 0
        content, problem = (
            None,
            f"the mirror answers {received.answer.status} {outcome_code(received.answer.body)}".rstrip(),
        )
        if received.answer.status == 200:
            try:
                content, problem = read_page(received.answer.body), ""
            except BadPage as error:
                problem = str(error)
        return Reply(
            url=url,
            answer=received.answer,
            content=content,
            problem=problem,
            seconds=received.seconds,
            wire_bytes=self.transport.bytes_received - before,
        )

    async def count(self, bounds: Iterable[str], *, where: str) -> int:
        """The total of a window, as a run asks for it."""
        parameters = [*(("_lastUpdated", bound) for bound in bounds), ("_summary", "count"), ("_total", "accurate")]
        total = (await self.search(parameters, where=where)).page.total
        if total is None or total < 0:
            raise Finding(
                "no total with `_summary=count`",
                "Without totals nobody can tell whether a day is whole, and a run refuses the mirror. Ask for `_summary=count` "
                "(HAPI: count mode ACCURATE).",
            )
        return total

    async def count_window(self, window: Window, *, where: str) -> int:
        """The total of a window."""
        return await self.count(window.bounds, where=where)

    async def read_window(self, window: Window, size: int, *, where: str) -> Reply:
        """First page of a window."""
        parameters = [*(("_lastUpdated", bound) for bound in window.bounds), ("_count", str(size))]
        return await self.search(parameters, where=where)
