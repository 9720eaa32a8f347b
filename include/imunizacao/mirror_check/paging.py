"""Pages: how large they may be, where `next` leads, and whether a walk brings what the total says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from imunizacao.errors import MirrorProtocolError
from imunizacao.fhir import Window
from imunizacao.fhir.addresses import query_of, split_address
from imunizacao.fhir.loose import shown_name
from imunizacao.fhir.search import MAX_EMPTY
from imunizacao.mirror_check.asking import Finding, NotChecked, Reply
from imunizacao.mirror_check.found import Found

PAGING: Final = "Paging"
DEEP: Final = 10_000
"""A walk deeper than this is where some servers stop giving `next` without a word (HAPI FHIR issue 3599)."""
_NARROW: Final = 300
"""Documents of the window that is walked to its end."""
_MOST_PAGES: Final = 6
_DEPTH_PAGES: Final = 20
_DEPTH_SIZE: Final = 50
"""20 pages of 50 are 4 MB, 0.5 MB compressed: deep enough for a limit of pages or of a few hundred documents."""
_LONG_ADDRESS: Final = 2000
"""Proxies and firewalls refuse addresses that are longer than a few thousand characters."""


@dataclass(slots=True)
class Walk:
    """A narrow window, walked to its end."""

    window: Window
    total: int
    replies: list[Reply] = field(default_factory=list)
    next_urls: list[str] = field(default_factory=list)
    """As the mirror gave them."""
    following: str = ""
    """Address of the second page."""
    foreign: str = ""
    """What is wrong with a `next` that cannot be followed."""
    unfinished: bool = False

    @property
    def keys(self) -> Counter[str]:
        """Document versions that came."""
        return Counter(entry.key for reply in self.replies for entry in reply.page.entries)


def check_page_size(found: Found) -> None:
    """How many documents come when a thousand are asked for."""
    reply = found.require_large()
    came, asked, wanted = len(reply.page.entries), found.large_size, found.settings.page_size
    told = f"{came:,} come when {asked:,} are asked for"
    if found.refused_sizes:
        told = ", ".join(f"{size:,}: {why}" for size, why in found.refused_sizes.items()) + f"; {told}"
    if asked < wanted and min(found.refused_sizes, default=asked) <= wanted:
        found.page_limit = asked
        raise Finding(
            told,
            f"A run asks for pages of {wanted:,} and would fail. Set IMUNIZACAO_MIRROR_PAGE_SIZE to what the mirror gives; {asked} "
            "works.",
        )
    if came >= min(asked, found.require_total()):
        found.add(PAGING, "page size", told)
        return
    found.page_limit = came
    says = next(iter(reply.self_values("_count")), "")
    if says.isdecimal() and int(says[:9]) != came:
        told += f", though `self` says {int(says[:9]):,}"
    cut = came < wanted
    found.add(
        PAGING,
        "page size",
        told,
        "warn" if cut else "ok",
        f"A page size of {wanted:,} is cut to that in silence; nothing is lost by it." if cut else "",
    )


async def walk_narrow_window(found: Found) -> Walk:
    """Find a window of a few hundred documents and walk it in three pages or so."""
    large = found.require_large()
    most = min(_NARROW, 3 * len(large.page.entries))
    window, total = await _narrow_window(found, large, most)
    walk = Walk(window=window, total=total)
    size = max(1, -(-total // 3))
    url = found.asker.address([*(("_lastUpdated", bound) for bound in window.bounds), ("_count", str(size))])
    visited: set[str] = set()
    empty = 0
    while True:
        reply = await found.asker.get(url, where=f"page {len(walk.replies) + 1} of a narrow window")
        empty = 0 if reply.page.entries else empty + 1
        if empty > MAX_EMPTY or (empty and reply.page.next_url is None):
            return walk
        walk.replies.append(reply)
        visited.add(url)
        if reply.page.next_url is None:
            return walk
        walk.next_urls.append(reply.page.next_url)
        try:
            url = found.asker.transport.follow(url, reply.page.next_url, "a narrow window")
        except MirrorProtocolError as error:
            walk.foreign = str(error).split(". ")[0]
            return walk
        walk.following = walk.following or url
        if url in visited:
            return walk
        if len(walk.replies) == _MOST_PAGES:
            walk.unfinished = True
            return walk


async def _narrow_window(found: Found, large: Reply, most: int) -> tuple[Window, int]:
    """Around documents of the large page, so that there are some in it wherever in the day they lie."""
    dated = [entry.last_updated for entry in large.page.entries if entry.last_updated is not None]
    instants = sorted(moment for moment in dated if moment in found.window)
    if not instants:
        raise NotChecked("the documents of the page have no lastUpdated inside the window")
    wanted = min(most * 2 // 3, max(1, len(instants) // 2))
    for _ in range(3):
        window = _around(instants, wanted)
        total = await found.asker.count_window(window, where="count of a narrow window")
        if total <= most:
            return window, total
        wanted = max(1, wanted * most // (2 * total))
    raise NotChecked(f"{total:,} {found.noun} in {window.end - window.start}: too many to walk in a check")


def _around(instants: list[datetime], wanted: int) -> Window:
    first = instants[len(instants) // 4]
    last = instants[min(len(instants) // 4 + wanted, len(instants)) - 1]
    start = first.replace(microsecond=0)
    return Window(start=start, end=max(last, first).replace(microsecond=0) + timedelta(seconds=1))


async def check_walk(found: Found, walk: Walk) -> None:
    """The walk brings as many document versions as were announced, and those that were seen before."""
    if walk.foreign or walk.unfinished:
        raise NotChecked("the narrow window could not be walked to its end")
    keys = walk.keys
    seen = {
        entry.key
        for entry in found.require_large().page.entries
        if entry.last_updated is not None and entry.last_updated in walk.window
    }
    outside = sum(
        entry.last_updated is not None and entry.last_updated not in walk.window
        for reply in walk.replies
        for entry in reply.page.entries
    )
    total = walk.total
    if len(keys) != total:
        total = await found.asker.count_window(walk.window, where="count of the narrow window again")
    told = f"{len(keys):,} {found.noun} in {len(walk.replies)} pages, {total:,} announced"
    if outside:
        raise Finding(
            f"{outside:,} of {sum(keys.values()):,} {found.noun} lie outside the narrow window",
            "The filter by _lastUpdated is ignored within a day; a run refuses such pages. Ask for a new index.",
        )
    if len(keys) != total:
        raise Finding(
            told,
            "A run would refuse the day (docs/runbook/bundle-total-mismatch.md). Is the total an estimate, or does paging lose "
            "or repeat documents? Ask for exact totals and a stable order.",
        )
    if lost := len(seen - set(keys)):
        raise Finding(
            f"{lost:,} {found.noun} of a page of the day are missing in the narrow window",
            "Two searches of the same moment disagree: is the index of the mirror complete?",
        )
    repeated = sum(keys.values()) - len(keys)
    found.add(PAGING, "walk", told + (f", {repeated:,} came twice" if repeated else ""))


def check_next(found: Found, walk: Walk) -> None:
    """Where `next` leads and what it looks like."""
    if walk.foreign:
        raise Finding(
            "leads to another host",
            "It is not followed: identification is only sent to the mirror itself. Behind a proxy the server must know its "
            "public address (HAPI: server_address); see docs/runbook/mirror-protocol.md.",
        )
    if not walk.next_urls:
        raise NotChecked("no page had a `next`")
    longest = max(map(len, walk.next_urls))
    parameters = sorted({name for url in walk.next_urls for name, _ in query_of(url)})
    names = ", ".join(shown_name(name, 24) for name in parameters[:6]) or "no parameter"
    relative = not split_address(walk.next_urls[0], what="a `next` link").netloc
    told = f"{'relative, ' if relative else 'same host, '}up to {longest:,} characters ({names})"
    if longest > _LONG_ADDRESS:
        found.add(
            PAGING,
            "next",
            told,
            "warn",
            "Proxies cut long addresses: if a walk ends with 414 or 400, look at them first.",
        )
    else:
        found.add(PAGING, "next", told)


async def check_same_page_twice(found: Found, walk: Walk) -> None:
    """An address of `next` may be asked for again, as a resumed walk does."""
    if not walk.following or len(walk.replies) < 2:
        raise NotChecked("no second page")
    first = walk.replies[1]
    again = await found.asker.get(walk.following, where="the second page once more")
    if again.content is None:
        found.add(
            PAGING,
            "same page twice",
            f"not possible: {again.problem}",
            "warn",
            "The cursor can be used once. A walk that breaks off starts its slice again instead of going on: use small slices "
            "(IMUNIZACAO_MIRROR_SLICE_CAP=2000).",
        )
        return
    if [entry.key for entry in again.page.entries] != [entry.key for entry in first.page.entries]:
        raise Finding(
            "other documents, or another order",
            "Paging is not stable: documents are lost and repeated between pages. Slices are walked again until the totals "
            "agree, which may never be. Ask for a stable order (by _lastUpdated and id).",
        )
    etags = {first.answer.etag, again.answer.etag}
    told = "without ETag" if etags == {""} else f"ETag {'the same' if len(etags) == 1 else 'differs'}"
    found.add(PAGING, "same page twice", f"the same {len(again.page.entries):,} {found.noun}, {told}")


async def check_depth(found: Found) -> None:
    """Small pages of the day, one after another: where paging ends before the documents do, and whether slices may be deeper than that."""
    total, cap = found.require_total(), found.settings.slice_cap
    deep = await _walk_deep(found, min(total, _DEPTH_PAGES * _DEPTH_SIZE))
    tried = f"paging works for {deep.documents:,} {found.noun} in {deep.pages} pages"
    short = deep.end and deep.documents < total
    if short and deep.documents < await found.asker.count_window(found.window, where="count of the day again"):
        found.depth_limit = deep.documents
        told = f"paging ends after {deep.documents:,} of {total:,} {found.noun}, on page {deep.pages}: {deep.end}"
        if cap <= deep.documents:
            found.add(PAGING, "depth", f"{told}; no slice is deeper")
            return
        raise Finding(
            told,
            "A run notices by the total and fails wherever an hour has more. Set IMUNIZACAO_MIRROR_SLICE_CAP="
            f"{max(deep.documents, 1)}, and ask those who run the mirror for the limit: if it is one of pages, larger pages go deeper.",
        )
    if total > DEEP and cap > DEEP:
        found.add(
            PAGING,
            "depth",
            f"{tried}; a slice (an hour or less) of this day may have up to {min(total, cap):,}",
            "warn",
            f"No deeper was tried. Many servers stop giving `next` after {DEEP:,} without an error; a run notices by the total and "
            f"fails. IMUNIZACAO_MIRROR_SLICE_CAP={DEEP} costs some more counts and avoids it.",
        )
    else:
        found.add(PAGING, "depth", f"{tried}; no slice has more than {min(total, cap):,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Depth:
    """How far the pages of the day went."""

    documents: int
    pages: int
    end: str
    """Why they ended before they were told to; empty when they did not."""


async def _walk_deep(found: Found, wanted: int) -> _Depth:
    """Follow small pages until so many different documents have come."""
    size = min(_DEPTH_SIZE, found.page_limit or _DEPTH_SIZE)
    url = found.asker.address([*(("_lastUpdated", bound) for bound in found.window.bounds), ("_count", str(size))])
    keys: set[str] = set()
    visited: set[str] = set()
    end, empty = "", 0
    while len(keys) < wanted and len(visited) < _DEPTH_PAGES and not end:
        reply = await found.asker.get(url, where=f"page {len(visited) + 1} of the day")
        if reply.content is None:
            end = reply.problem
            break
        visited.add(url)
        keys |= {entry.key for entry in reply.content.entries}
        empty = 0 if reply.content.entries else empty + 1
        if reply.content.next_url is None or empty > MAX_EMPTY:
            end = "empty pages" if empty > 1 else "an empty page" if empty else "no `next`"
        else:
            try:
                url = found.asker.transport.follow(url, reply.content.next_url, "the day")
            except MirrorProtocolError as error:
                raise NotChecked("`next` cannot be followed") from error
            end = "its `next` was there before" if url in visited else ""
    return _Depth(documents=len(keys), pages=len(visited), end=end)
