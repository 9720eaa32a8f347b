"""Named faults and events of the mirror, by name.

A scenario is written `name` or `name:argument`. It may answer instead of the server (`interfere`), change a finished page
(`page`), what is announced (`total`) or how it is sent (`send`), hide what is newer than an instant (`horizon`), or edit days
(`prepare`, `visit`, `after_page`). To add one, write a class in `tests/mirror/faults/` and name it in SCENARIOS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

from tests.mirror.calendar import DAY_MS, local_date
from tests.mirror.documents import Archive
from tests.mirror.faults import bodies, documents, exports, links, movement, statuses
from tests.mirror.faults.base import BadScenario, Body, Catalogue, Fault, Hang, Hit, Page, Scenario, Wire
from tests.mirror.faults.mix import describe, read_mix
from tests.mirror.search import Search

__all__ = [
    "SCENARIOS",
    "Active",
    "BadScenario",
    "Body",
    "Fault",
    "Hang",
    "Hit",
    "Page",
    "Scenario",
    "Wire",
    "describe",
    "read_scenario",
    "read_scenarios",
]

SCENARIOS: Final[dict[str, Callable[[str, int], Scenario]]] = {
    "http-5xx": statuses.ServerErrors,
    "http-5xx-page": statuses.PageErrors,
    "refuse": statuses.Refuse,
    "reset": bodies.Reset,
    "http-429": statuses.TooManyRequests,
    "http-429-date": statuses.TooManyUntil,
    "http-429-huge": statuses.huge_retry_after,
    "http-429-negative": statuses.negative_retry_after,
    "http-429-absent": statuses.absent_retry_after,
    "http-429-garbage": statuses.garbage_retry_after,
    "timeout": statuses.Timeout,
    "slow-loris": bodies.SlowLoris,
    "stall": bodies.Stall,
    "truncated": bodies.Truncated,
    "html-200": bodies.Html,
    "wrong-length": bodies.WrongLength,
    "wrong-type": bodies.WrongType,
    "gzip-broken": bodies.GzipBroken,
    "duplicate-page": links.DuplicatePage,
    "lost-page": links.LostPage,
    "wrong-total": links.WrongTotal,
    "next-self": links.NextSelf,
    "next-cycle": links.NextCycle,
    "next-endless": links.NextEndless,
    "next-foreign": links.NextForeign,
    "next-long": links.next_long,
    "next-after-last": links.NextAfterLast,
    "next-relative": links.next_relative,
    "cap": links.Cap,
    "drift": movement.Drift,
    "drift-always": movement.DriftAlways,
    "drift-out": movement.DriftOut,
    "offset-paging": movement.OffsetPaging,
    "same-id": movement.SameId,
    "late": movement.Late,
    "changed": movement.Changed,
    "empty": movement.Empty,
    "frozen": movement.Frozen,
    "behind": movement.Behind,
    "token-expired": statuses.TokenExpired,
    "token-never": statuses.TokenNever,
    "clock-skew": statuses.ClockSkew,
    "cycle": documents.Cycle,
    "replaces-unknown": documents.ReplacesUnknown,
    "error-chain": documents.ErrorChain,
    "huge": documents.Huge,
    "deep": documents.Deep,
    "surrogate": documents.Surrogate,
    "nul": documents.Nul,
    "bad-utf8": documents.BadUtf8,
    "bad-json": documents.BadJson,
    "export-no-counts": exports.ExportNoCounts,
    "export-until-ignored": exports.ExportUntilIgnored,
    "export-error-file": exports.ExportErrorFile,
    "export-outcome": exports.ExportOutcome,
    "export-other-host": exports.ExportOtherHost,
    "export-truncated": exports.ExportTruncated,
    "export-429": exports.ExportThrottled,
    "export-progress": exports.ExportProgress,
    "export-split": exports.ExportSplit,
    "export-post-only": exports.ExportPostOnly,
    "export-file-lines": exports.ExportFileLines,
    "export-expired": exports.ExportExpired,
    "export-lost": exports.ExportLost,
    "export-deleted": exports.ExportDeleted,
}


@dataclass(slots=True)
class Active:
    """The scenarios that are switched on, and what they changed."""

    archive: Archive
    seed: int
    names: tuple[str, ...] = ()
    scenarios: tuple[Scenario, ...] = ()
    catalogue: Catalogue = field(init=False)
    _visited: set[date] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.catalogue = Catalogue(self.archive)

    def switch(self, names: Sequence[str]) -> None:
        """Replace all scenarios. A name that cannot be read raises BadScenario and changes nothing."""
        scenarios = tuple(scenario for name in names for scenario in read_scenarios(name, self.seed))
        catalogue = Catalogue(self.archive)
        for scenario in scenarios:
            scenario.prepare(catalogue)
        self.names, self.scenarios, self.catalogue = tuple(names), scenarios, catalogue
        self._visited = set()

    def visit(self, search: Search) -> None:
        """Let scenarios edit the days that a search is about to look at; a search over more than three days changes none."""
        low, high = search.low, search.high
        if not self.scenarios or low is None or high is None or not low < high <= low + 3 * DAY_MS:
            return
        day, last = local_date(low), local_date(high - 1)
        while day <= last:
            if day not in self._visited:
                self._visited.add(day)
                for scenario in self.scenarios:
                    scenario.visit(day, self.catalogue)
            day += timedelta(days=1)


def read_scenarios(text: str, seed: int) -> list[Scenario]:
    """Make the scenario that `name[:argument]` names, or all those of `mix:<seed>`."""
    name, _, argument = text.partition(":")
    if name != "mix":
        return [read_scenario(text, seed)]
    mix, names = read_mix(argument)
    return [read_scenario(part, mix) for part in names]


def read_scenario(text: str, seed: int) -> Scenario:
    """Make the scenario that `name[:argument]` names."""
    name, _, argument = text.partition(":")
    make = SCENARIOS.get(name)
    if make is None:
        raise BadScenario(f"No scenario {name!r}. There are: {', '.join(SCENARIOS)}, mix")
    return make(argument, seed)
