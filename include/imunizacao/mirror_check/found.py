"""What a check has found out so far: each step may use what earlier steps learned, and adds its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from imunizacao.errors import MirrorProtocolError
from imunizacao.fhir import Way, Window
from imunizacao.fhir.capability import Capability
from imunizacao.mirror_check.asking import Asker, Finding, NotChecked, Reply
from imunizacao.mirror_check.report import Row, Verdict
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import MirrorSettings


@dataclass(slots=True)
class Found:
    """The state of one check."""

    settings: MirrorSettings
    day: ReferenceDay
    window: Window
    """Of the day; of the newest document's day when there is nothing in it."""
    asker: Asker
    way: Way
    because: str
    capability: Capability
    now: Callable[[], datetime]
    total: int | None = None
    total_problem: Finding | None = None
    """Why there is none."""
    exported_types: tuple[str, ...] = ()
    """Way `export`: what an export was accepted for."""
    export_status: str = ""
    """Its status address, a secret; empty when none was accepted."""
    export_problem: MirrorProtocolError | None = None
    """Why not."""
    newest: datetime | None = None
    large: Reply | None = None
    """First page of the window, as large as the mirror gives it."""
    large_size: int = 0
    """What was asked for."""
    refused_sizes: dict[int, str] = field(default_factory=dict)
    """Larger pages that did not come, and why."""
    later: Reply | None = None
    """First page of its second half."""
    page_limit: int | None = None
    """Most documents that the mirror puts on a page, where it is less than was asked for."""
    depth_limit: int | None = None
    """Documents after which paging ends, where it ends before they do."""
    rows: list[Row] = field(default_factory=list)
    not_checked: list[tuple[str, str]] = field(default_factory=list)
    """Topic and reason."""

    def add(self, section: str, topic: str, result: str, verdict: Verdict = "ok", advice: str = "") -> None:
        """Add a row."""
        self.rows.append(Row(section=section, topic=topic, result=result, verdict=verdict, advice=advice))

    @property
    def noun(self) -> str:
        """What the matches of the search are called."""
        return self.asker.collection.noun

    def require_total(self) -> int:
        """The total of the window; `NotChecked` when there is none, or nothing to count."""
        if self.total is None:
            raise NotChecked("there is no total")
        if self.total == 0:
            raise NotChecked("there are no documents")
        return self.total

    def require_large(self) -> Reply:
        """The first page of the window; `NotChecked` without one."""
        if self.large is None or self.large.content is None or not self.large.content.entries:
            raise NotChecked("there is no page of documents")
        return self.large
