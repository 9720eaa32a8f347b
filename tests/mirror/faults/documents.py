"""Documents that are odd in themselves: huge, deep, not text, not JSON, or in a knot of replacements (rows 10, 18 and 19).

They are chosen among the ordinary documents of each day, by the seed. Totals, ids and versions are as they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from typing import Final

from tests.mirror.faults.base import BadScenario, Catalogue, Hit, Page, Scenario, draw, positive, whole
from tests.mirror.identifiers import SUFFIX

_ID: Final = re.compile(r'"fullUrl":"[^"]*/Bundle/([^"/]+)"')
Change = Callable[[str], str]


class _Odd(Scenario):
    """Documents that are rendered otherwise than the archive has them."""

    def __init__(self, amount: int, seed: int) -> None:
        self._amount = amount
        self._seed = seed
        self._changes: dict[str, Change] = {}

    def choose(self, day: date, catalogue: Catalogue) -> Sequence[int]:
        """Positions of the documents of a day."""
        name = type(self).__name__
        ordinary = catalogue.ordinary(day)
        return sorted(ordinary, key=lambda k: draw(self._seed, f"{name}|{day}|{k}"))[: self._amount]

    def changes(self, ids: Sequence[str]) -> Sequence[Change]:
        """What becomes of each of the chosen documents."""
        raise NotImplementedError

    def visit(self, day: date, catalogue: Catalogue) -> None:
        archive = catalogue.archive.day(day)
        ids = [archive.uuid(k) + SUFFIX for k in self.choose(day, catalogue)]
        self._changes |= dict(zip(ids, self.changes(ids), strict=True))

    def page(self, hit: Hit, page: Page) -> Page:
        return replace(page, entries=[self._change(entry) for entry in page.entries])

    def _change(self, entry: str) -> str:
        found = _ID.search(entry, 0, 200)
        change = self._changes.get(found[1]) if found else None
        return change(entry) if change else entry


class Huge(_Odd):
    """`huge:<mebibytes>[:<position>]`: one document of each day has a narrative of that size."""

    def __init__(self, argument: str, seed: int) -> None:
        size, given, position = argument.partition(":")
        super().__init__(1, seed)
        self._size = positive(size) << 20
        self._position = whole(position) if given else None

    def choose(self, day: date, catalogue: Catalogue) -> Sequence[int]:
        if self._position is None:
            return super().choose(day, catalogue)
        if self._position not in catalogue.ordinary(day):
            raise BadScenario(f"position {self._position} of {day} is not an ordinary document")
        return [self._position]

    def changes(self, ids: Sequence[str]) -> Sequence[Change]:
        return [self._blow_up for _ in ids]

    def _blow_up(self, entry: str) -> str:
        div = '<div xmlns=\\"http://www.w3.org/1999/xhtml\\">' + "vacina " * (self._size // 7) + "</div>"
        return _in_composition(entry, f'"text":{{"status":"generated","div":"{div}"}},')


class Deep(_Odd):
    """`deep:<levels>`: one document of each day nests arrays that deep."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__(1, seed)
        self._levels = positive(argument)

    def changes(self, ids: Sequence[str]) -> Sequence[Change]:
        nested = "[" * self._levels + "]" * self._levels
        return [lambda entry: _in_composition(entry, f'"campoFundo":{nested},') for _ in ids]


class Surrogate(_Odd):
    """`surrogate:<n>`: n documents have the escape of a lone surrogate in their lot: JSON, but no Unicode text."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__(positive(argument), seed)

    def changes(self, ids: Sequence[str]) -> Sequence[Change]:
        return [lambda entry: _in_lot(entry, "\\ud800") for _ in ids]


class Nul(_Odd):
    """`nul:<n>`: n documents have a NUL in their lot, the first a raw one (no JSON), the second an escaped one, and so on."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__(positive(argument), seed)

    def changes(self, ids: Sequence[str]) -> Sequence[Change]:
        raw: Change = lambda entry: _in_lot(entry, "\x00")  # noqa: E731
        escaped: Change = lambda entry: _in_lot(entry, "\\u0000")  # noqa: E731
        return [escaped if number % 2 else raw for number, _ in enumerate(ids)]


class BadUtf8(_Odd):
    """`bad-utf8:<n>`: n documents have bytes in their lot that are Latin-1."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__(positive(argument), seed)

    def changes(self, ids: Sequence[str]) -> Sequence[Change]:
        return [lambda entry: _in_lot(entry, b"\xe7\xe3o".decode(errors="surrogateescape")) for _ in ids]


class BadJson(_Odd):
    """`bad-json:<n>`: n documents are not JSON, though their brackets close."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__(positive(argument), seed)

    def changes(self, ids: Sequence[str]) -> Sequence[Change]:
        return [lambda entry: entry.replace('"type":"document"', '"type":document', 1) for _ in ids]


class Cycle(_Odd):
    """`cycle:<n>`: n pairs of documents of each day replace each other."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__(2 * positive(argument), seed)

    def changes(self, ids: Sequence[str]) -> Sequence[Change]:
        pairs = len(ids) // 2
        others = [ids[number ^ 1] for number in range(2 * pairs)]
        return [*(_replaces(other) for other in others), *(str for _ in ids[2 * pairs :])]


class ReplacesUnknown(_Odd):
    """`replaces-unknown:<n>`: n documents replace one that never was."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__(positive(argument), seed)

    def changes(self, ids: Sequence[str]) -> Sequence[Change]:
        return [_replaces(f"00000000-0000-4000-8000-{number:012d}{SUFFIX}") for number, _ in enumerate(ids)]


class ErrorChain(_Odd):
    """`error-chain:<n>`: n chains R ← S ← T (each replaces the one before), of which one is entered-in-error: R, S, T in turn."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__(3 * positive(argument), seed)

    def changes(self, ids: Sequence[str]) -> Sequence[Change]:
        found: list[Change] = []
        for number, _ in enumerate(ids[: len(ids) // 3 * 3]):
            chain, member = divmod(number, 3)
            link: Change = _replaces(ids[number - 1]) if member else str
            found.append(_cancelled(link) if chain % 3 == member else link)
        return [*found, *(str for _ in ids[len(found) :])]


def _in_composition(entry: str, text: str) -> str:
    return entry.replace('"resourceType":"Composition",', f'"resourceType":"Composition",{text}', 1)


def _in_lot(entry: str, text: str) -> str:
    """Put text into the first lot, or into the title of a document that has none."""
    name = '"lotNumber":"' if '"lotNumber":"' in entry else '"title":"'
    return entry.replace(name, name + text, 1)


def _replaces(target: str) -> Change:
    link = f'"relatesTo":[{{"code":"replaces","targetReference":{{"reference":"Composition/{target}"}}}}],'
    return lambda entry: entry.replace('"section":[', f'{link}"section":[', 1)


def _cancelled(change: Change) -> Change:
    return lambda entry: change(entry).replace('"status":"final"', '"status":"entered-in-error"', 1)
