"""Page checkpoints: what a walk has brought so far, in the work bucket, so that a killed task goes on from its last page.

One object per page, beside the slice it belongs to: a line of JSON (where the walk stands), then the compressed frames of the page
as landing keeps them. The address of the next page is kept as the mirror gave it, since only that leads on; it may carry a cursor
that is as good as a key, so it stands here and in no log. Checkpoints go when their slice has its receipt.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from imunizacao.errors import StorageUnavailable
from imunizacao.events import log_event
from imunizacao.fhir import Cursor, PageBlock, Window, keys_of_log
from imunizacao.models import RunContext
from imunizacao.storage import ObjectStore

_FORMAT: Final = 2
_KEY: Final = re.compile(r"/slice=([0-9TZ_]+)/walk-([0-9a-f]+)/page-([0-9]{6})$")


class _Head(msgspec.Struct):
    format: int
    page: int
    mark: str
    """`visited_mark` of the page's address."""
    following: str
    announced: int
    """Total of the window before the walk."""
    way: str
    mirror: str
    """`Source.mark`; another mirror's pages and addresses are of no use."""
    lines: int
    rejected: int
    size: int
    frames: tuple[int, int, int]
    """Bytes of the frames: landing, rejects, included."""
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPage:
    """One page of a walk that did not come to its end."""

    block: PageBlock
    page: int
    mark: str
    following: str
    announced: int
    way: str
    mirror: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedWalk:
    """The pages of one unfinished walk, from the first on without a gap."""

    walk: str
    pages: list[SavedPage]

    @property
    def announced(self) -> int:
        """Total of the window before that walk."""
        return self.pages[0].announced

    @property
    def cursor(self) -> Cursor:
        """Where it goes on."""
        last = self.pages[-1]
        return Cursor(
            url=last.following,
            number=last.page,
            visited=frozenset(page.mark for page in self.pages),
            entries=sum(page.block.lines + page.block.rejected for page in self.pages),
        )


@dataclass(slots=True)
class Checkpoints:
    """The checkpoints of one run: those found when the task began, and those written since."""

    work: ObjectStore
    prefix: str
    """Of the stage in this run, ending in `/`."""
    found: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Window name → walk → keys in order of pages."""

    @classmethod
    def find(cls, work: ObjectStore, context: RunContext, stage: str, keys: Iterable[str]) -> Checkpoints:
        """Sort the keys of a day: checkpoints of this run, others are left alone."""
        prefix = context.prefix(stage)
        found: dict[str, dict[str, list[str]]] = {}
        for key in sorted(keys):
            match = _KEY.search(key)
            if match is not None and key.startswith(prefix):
                found.setdefault(match[1], {}).setdefault(match[2], []).append(key)
        return cls(work=work, prefix=prefix, found=found)

    def save(self, window: Window, walk: str, page: SavedPage) -> None:
        """Keep a page before the next one is asked for."""
        key = f"{self.prefix}slice={window.name}/walk-{walk}/page-{page.page:06d}"
        self.work.put(key, _encode(page))
        self.found.setdefault(window.name, {}).setdefault(walk, []).append(key)

    def load(self, window: Window, *, announced: int, way: str, mirror: str) -> SavedWalk | None:
        """The walk of a window that got furthest, if the same mirror still announces the total that it began with."""
        walks = sorted(self.found.get(window.name, {}).items(), key=lambda item: (-len(item[1]), item[0]))
        for walk, keys in walks:
            pages = list(self._pages(keys))
            if pages and (pages[0].announced, pages[0].way, pages[0].mirror) == (announced, way, mirror):
                return SavedWalk(walk=walk, pages=pages)
        return None

    def drop(self, window: Window) -> None:
        """Remove the checkpoints of a window. What cannot be removed only takes room: it is told, and left."""
        keys = [key for walk in self.found.pop(window.name, {}).values() for key in walk]
        try:
            self.work.delete_many(keys)
        except StorageUnavailable as error:
            log_event(
                "extract.checkpoints_stay",
                level=logging.WARNING,
                slice=str(window),
                objects=len(keys),
                reason=str(error),
            )

    def _pages(self, keys: Sequence[str]) -> Iterator[SavedPage]:
        """Pages 1, 2, 3 … as far as they can be read without a gap."""
        for number, key in enumerate(keys, 1):
            stored = self.work.get_or_none(key)
            page = _decode(stored.body) if stored is not None else None
            if page is None or page.page != number:
                log_event("extract.checkpoint_unreadable", level=logging.WARNING, key=key)
                return
            yield page


def _encode(page: SavedPage) -> bytes:
    block = page.block
    head = _Head(
        format=_FORMAT,
        page=page.page,
        mark=page.mark,
        following=page.following,
        announced=page.announced,
        way=page.way,
        mirror=page.mirror,
        lines=block.lines,
        rejected=block.rejected,
        size=block.size,
        frames=(len(block.landing), len(block.rejects), len(block.included)),
        log=block.log.decode(),
    )
    return msgspec.json.encode(head) + b"\n" + block.landing + block.rejects + block.included


def _decode(body: bytes) -> SavedPage | None:
    """Read what `_encode` wrote; None for anything else, which only costs the pages from there on."""
    line, _, frames = body.partition(b"\n")
    try:
        head = msgspec.json.decode(line, type=_Head)
        log = head.log.encode()
        keys = keys_of_log(log)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    first, second, third = head.frames
    if head.format != _FORMAT or len(frames) != first + second + third or len(keys) != head.lines + head.rejected:
        return None
    return SavedPage(
        block=PageBlock(
            log=log,
            keys=keys,
            lines=head.lines,
            rejected=head.rejected,
            size=head.size,
            landing=frames[:first],
            rejects=frames[first : first + second],
            included=frames[first + second :],
        ),
        page=head.page,
        mark=head.mark,
        following=head.following,
        announced=head.announced,
        way=head.way,
        mirror=head.mirror,
    )
