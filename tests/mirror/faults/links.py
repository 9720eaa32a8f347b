"""Pages and links that lead astray (row 5), and totals that are not true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tests.mirror.faults.base import Hit, OnPage, Page, Scenario, no_argument, positive, whole

FOREIGN: Final = "http://mirror.example.net:8080/fhir/r4/Bundle"
_LONG: Final = "x" * 2500


class DuplicatePage(Scenario):
    """`duplicate-page:<k>`: the `next` of page k leads to the same content once more, then on."""

    def __init__(self, argument: str, seed: int) -> None:
        self._number = whole(argument)

    def page(self, hit: Hit, page: Page) -> Page:
        if hit.cursor.number != self._number or hit.cursor.repeat or page.following is None:
            return page
        return replace(page, following=replace(hit.cursor, repeat=1))


class LostPage(Scenario):
    """`lost-page:<k>`: the entries of page k of every walk are missing; total and links are as if they were there."""

    def __init__(self, argument: str, seed: int) -> None:
        self._number = whole(argument)

    def page(self, hit: Hit, page: Page) -> Page:
        return replace(page, entries=()) if hit.cursor.number == self._number else page


class WrongTotal(Scenario):
    """`wrong-total:<delta>`: every total, of pages and of counts, is off by delta (never below zero)."""

    def __init__(self, argument: str, seed: int) -> None:
        self._delta = whole(argument, signed=True)

    def total(self, total: int) -> int:
        return max(0, total + self._delta)


class NextSelf(OnPage):
    """`next-self:<page>`: the `next` of that page is the address that was asked for."""

    def page(self, hit: Hit, page: Page) -> Page:
        if not self.strikes(hit):
            return page
        return replace(page, following=hit.cursor, link=lambda url: url.partition("/fhir/")[0] + hit.key)


class NextCycle(Scenario):
    """`next-cycle:<page>`: page A leads to B, and B to A again."""

    def __init__(self, argument: str, seed: int) -> None:
        self._number = positive(argument)
        self._first: dict[tuple[object, ...], str] = {}

    def page(self, hit: Hit, page: Page) -> Page:
        walk = (hit.cursor.parameters, hit.cursor.started)
        if hit.walks and hit.cursor.number == self._number:
            self._first.setdefault(walk, hit.key)
        if not hit.walks or hit.cursor.number != self._number + 1 or walk not in self._first:
            return page
        first = self._first[walk]
        return replace(page, following=hit.cursor, link=lambda url: url.partition("/fhir/")[0] + first)


class NextEndless(OnPage):
    """`next-endless:<page>`: the `next` of that page leads to its own content for ever, at a new address each time."""

    def page(self, hit: Hit, page: Page) -> Page:
        return replace(page, following=replace(hit.cursor, repeat=hit.cursor.repeat + 1)) if self.strikes(hit) else page


class NextForeign(OnPage):
    """`next-foreign:<page>`: the `next` of that page leads to another host."""

    def page(self, hit: Hit, page: Page) -> Page:
        if not self.strikes(hit):
            return page
        following = page.following or hit.cursor
        return replace(page, following=following, link=lambda url: f"{FOREIGN}?{url.partition('?')[2]}")


class NextAfterLast(Scenario):
    """`next-after-last`: the last page of a walk leads to an empty one."""

    def __init__(self, argument: str, seed: int) -> None:
        no_argument(argument)

    def page(self, hit: Hit, page: Page) -> Page:
        if not hit.walks or page.following is not None or not page.entries:
            return page
        return replace(page, following=hit.cursor.following(hit.search.count))


class _Links(Scenario):
    """Every `next` in another form."""

    def __init__(self, change: Callable[[str], str]) -> None:
        self._change = change

    def page(self, hit: Hit, page: Page) -> Page:
        before = page.link
        return replace(page, link=lambda url: self._change(before(url)))


def next_long(argument: str, seed: int) -> Scenario:
    """`next-long`: addresses of more than 2 kB."""
    no_argument(argument)
    return _Links(lambda url: f"{url}&_estado={_LONG}")


def next_relative(argument: str, seed: int) -> Scenario:
    """`next-relative`: addresses without scheme and host."""
    no_argument(argument)
    return _Links(lambda url: url[url.index("/Bundle?") + 1 :] if "/Bundle?" in url else url)


class Cap(Scenario):
    """`cap:<n>`: a search gives n entries and then no `next`, without an error; totals are as if it did (as HAPI does)."""

    def __init__(self, argument: str, seed: int) -> None:
        self._most = positive(argument)

    def page(self, hit: Hit, page: Page) -> Page:
        left = self._most - hit.cursor.offset
        if hit.counts or left > hit.search.count:
            return page
        return replace(page, entries=page.entries[: max(left, 0)], following=None)
