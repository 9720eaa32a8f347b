"""How new the mirror is, and whether its totals and its search by time can be trusted."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from imunizacao.errors import MirrorProtocolError, MirrorUnavailable
from imunizacao.fhir import Window, instant_text, parse_instant
from imunizacao.fhir.capability import ways
from imunizacao.mirror_check.asking import Finding, NotChecked, Reply
from imunizacao.mirror_check.found import Found
from imunizacao.reference_day import SAO_PAULO, ReferenceDay

FRESHNESS: Final = "Freshness"
TOTALS: Final = "Totals"
SEARCH: Final = "Search"
LARGE_PAGE: Final = 1000
SMALL_PAGE: Final = 50
FROZEN_AFTER: Final = timedelta(days=3)
"""A national mirror without a new document for so long has stopped."""
_SORTED: Final = 20
_BEGINNING: Final = "ge1900-01-01T00:00:00Z"
_UNKNOWN: Final = ("imunizacao-unknown", "1")


async def check_newest(found: Found) -> None:
    """Sort and newest document; moves the window to that document's day when the day of the check is empty."""
    reply = await found.asker.search([("_sort", "-_lastUpdated"), ("_count", str(_SORTED))], where="newest documents")
    instants = _check_sort(found, reply)
    if instants is not None:
        found.newest = max(instants, default=None)
        if found.newest is None:
            raise _empty(found)
        _tell_newest(found, found.newest)
        if found.total == 0:
            await _move_window(found, found.newest)
        return
    if found.total is None:
        raise NotChecked("there is no total")
    end = found.day.end
    later = await found.asker.count([f"ge{instant_text(end)}"], where="count since the end of the day")
    if later:
        found.add(FRESHNESS, "newest document", f"after the end of {found.day} ({later:,} {found.noun} since)")
        return
    if not await found.asker.count([_BEGINNING], where="count of everything"):
        raise _empty(found)
    found.add(
        FRESHNESS,
        "newest document",
        f"before the end of {found.day}",
        "warn",
        "A run waits until the mirror has something newer: docs/runbook/mirror-behind.md. To check a day that has documents, "
        "use --day.",
    )


def _check_sort(found: Found, reply: Reply) -> list[datetime] | None:
    """Instants of the newest documents; None when the mirror does not sort."""
    if reply.content is None and found.total is None:
        raise NotChecked("there is no search")
    without = "The newest document is then found by counting, which works as well."
    if reply.content is None:
        found.add(FRESHNESS, "sort", f"refused: {reply.problem}", "warn", without)
        return None
    if "-_lastUpdated" not in reply.self_values("_sort"):
        found.add(FRESHNESS, "sort", "ignored: the link `self` has no _sort", "warn", without)
        return None
    instants = [entry.last_updated for entry in reply.content.entries if entry.last_updated]
    if instants != sorted(instants, reverse=True):
        raise Finding(
            "the mirror says that it sorts by -_lastUpdated and does not",
            "A run would take the wrong document for the newest and believe an unfinished day. The mirror must sort, or leave "
            "_sort out of its link `self`.",
        )
    found.add(FRESHNESS, "sort", "by -_lastUpdated")
    return instants


def _tell_newest(found: Found, newest: datetime) -> None:
    age = found.now() - newest
    told = f"{newest.astimezone(SAO_PAULO).isoformat(timespec='seconds')}, {_age_text(age)}"
    if age > FROZEN_AFTER:
        found.add(
            FRESHNESS,
            "newest document",
            told,
            "fail",
            "The load of the mirror has stopped: no later day can be published. Tell those who run it; see "
            "docs/runbook/mirror-behind.md.",
        )
    elif age < timedelta(minutes=-5):
        found.add(FRESHNESS, "newest document", told, "warn", "A document of the future: compare the clocks.")
    elif newest < found.day.end:
        found.add(
            FRESHNESS,
            "newest document",
            f"{told}: before the end of {found.day}",
            "warn",
            "A run would wait until the mirror has something newer: docs/runbook/mirror-behind.md.",
        )
    else:
        found.add(FRESHNESS, "newest document", told)


async def _move_window(found: Found, newest: datetime) -> None:
    day = ReferenceDay(newest.astimezone(SAO_PAULO).date())
    end = min(day.end, newest.replace(microsecond=0) + timedelta(seconds=1))
    found.window = Window(start=day.start, end=end)
    found.total = await found.asker.count_window(found.window, where=f"count of {day}")
    found.add(
        FRESHNESS,
        "day",
        f"{found.day} has no documents: the checks below are about {day}, the day of the newest one",
        "warn",
        "An empty day is published as empty once the mirror has later documents. Is that what you expect of this day?",
    )


def _empty(found: Found) -> Finding:
    reasons = ways(found.capability.statement) if found.capability.statement else {}
    others = [f"IMUNIZACAO_MIRROR_WAY={way}" for way, problem in reasons.items() if way != found.way and not problem]
    return Finding(
        f"the mirror has no {found.noun} at all",
        "It was rebuilt, the load has not begun, the address is that of another environment, or we may not see any: ask those "
        f"who run it.{' Or it keeps them another way: try ' + ' or '.join(others) + '.' if others else ''}",
    )


def _age_text(age: timedelta) -> str:
    seconds = age.total_seconds()
    if seconds < 0:
        return f"{-seconds:,.0f} s in the future"
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit} old"
    return f"{seconds:.0f} seconds old"


def check_total(found: Found) -> None:
    """The total of the window, asked for when access was checked."""
    if found.total is None:
        raise found.total_problem or NotChecked("there is no total")
    day = f"{found.window.start.astimezone(SAO_PAULO):%Y-%m-%d}"
    found.add(
        TOTALS,
        "total",
        f"{found.total:,} {found.noun} on {day}",
        "ok" if found.total else "warn",
        "" if found.total else "Nothing below can be checked without documents: use --day with a day that has some.",
    )


async def check_total_twice(found: Found) -> None:
    """A day that is over has one total."""
    first = found.require_total()
    second = await found.asker.count_window(found.window, where="the same count again")
    if second == first:
        found.add(TOTALS, "total twice", "the same")
        return
    third = await found.asker.count_window(found.window, where="the same count once more")
    if third != second:
        raise Finding(
            f"{first:,}, {second:,} and {third:,} for the same window",
            "A run compares totals before and after each walk and would never finish. Ask for exact totals (HAPI: count mode "
            "ACCURATE), or whether several servers with different contents answer.",
        )
    found.total = second
    found.add(
        TOTALS,
        "total twice",
        f"{first:,}, then {second:,}",
        "warn",
        "Documents of a day that is over changed just now. A run walks such a slice again, up to three times.",
    )


async def check_halves(found: Found) -> None:
    """Two halves have together what the whole has."""
    total = found.require_total()
    halves = _halves(found.window)
    if halves is None:
        raise NotChecked("the window is one second")
    first = await found.asker.count_window(halves[0], where="count of the first half")
    second = await found.asker.count_window(halves[1], where="count of the second half")
    if first + second != total:
        total = await found.asker.count_window(found.window, where="count of both halves")
        found.total = total
    if first + second == total:
        found.add(TOTALS, "halves", f"{first:,} + {second:,} = {total:,}")
        return
    raise Finding(
        f"{first:,} + {second:,} are not {total:,}",
        "Totals, or the search by _lastUpdated, cannot be trusted: a run would refuse the day. If both halves are as large as the "
        "whole, _lastUpdated is ignored.",
    )


async def read_pages(found: Found) -> None:
    """A large page of the window and a small one of its second half, for the checks that look at documents.

    A mirror that does not give a thousand is asked for the page size of the settings, then for a small one.
    """
    found.require_total()
    sizes = dict.fromkeys((LARGE_PAGE, min(found.settings.page_size, LARGE_PAGE), SMALL_PAGE))
    for size in sorted(sizes, reverse=True):
        try:
            reply = await found.asker.read_window(found.window, size, where=f"a page of {size}")
            if reply.content is not None or size == SMALL_PAGE:
                found.large, found.large_size = reply, size
                _ = reply.page
                break
            found.refused_sizes[size] = reply.problem
        except (MirrorProtocolError, MirrorUnavailable) as error:
            if size == SMALL_PAGE:
                raise
            found.refused_sizes[size] = (
                "too large or too slow" if isinstance(error, MirrorProtocolError) else "no answer"
            )
    halves = _halves(found.window)
    if halves is not None:
        found.later = await found.asker.read_window(halves[1], 25, where="a page of the second half")
        _ = found.later.page


async def check_other_totals(found: Found) -> None:
    """`_count=0` and the total on a page are the same total."""
    total = found.require_total()
    bounds = [("_lastUpdated", bound) for bound in found.window.bounds]
    reply = await found.asker.search([*bounds, ("_count", "0"), ("_total", "accurate")], where="count by _count=0")
    told = {
        "_count=0": reply.content.total if reply.content else None,
        "on a page": found.require_large().page.total,
    }
    differing = [
        f"{name}: {'none' if value is None else f'{value:,}'}" for name, value in told.items() if value != total
    ]
    found.add(
        TOTALS,
        "other totals",
        f"{', '.join(differing)}; _summary=count: {total:,}" if differing else "_count=0 and the pages say the same",
        "warn" if differing else "ok",
        "A run only asks with _summary=count and _total=accurate, so this does no harm by itself." if differing else "",
    )


async def check_bounds(found: Found) -> None:
    """The link `self` repeats both bounds, and what comes lies between them."""
    reply = found.require_large()
    values = [value.replace(" ", "+") for value in reply.self_values("_lastUpdated")]
    missing = [bound for bound in found.window.bounds if not any(_same_bound(bound, value) for value in values)]
    if missing:
        found.add(
            SEARCH,
            "bounds in `self`",
            f"{len(missing)} of 2 are missing",
            "fail",
            "A server that drops a parameter it does not know leaves it out of the link `self`; a run refuses such a page. The "
            "mirror must support _lastUpdated and say so: docs/runbook/mirror-protocol.md.",
        )
    else:
        found.add(SEARCH, "bounds in `self`", "both")


async def check_inside(found: Found) -> None:
    """Documents lie inside the window that was asked for."""
    pages = [(found.require_large(), found.window)]
    halves = _halves(found.window)
    if halves is not None and found.later is not None and found.later.content is not None:
        pages.append((found.later, halves[1]))
    seen = outside = unknown = 0
    for reply, window in pages:
        for entry in reply.page.entries:
            seen += 1
            unknown += entry.last_updated is None
            outside += entry.last_updated is not None and entry.last_updated not in window
    if outside:
        raise Finding(
            f"{outside:,} of {seen:,} {found.noun} lie outside the window that was asked for",
            "The filter by _lastUpdated is ignored or its index is wrong; a run refuses such pages. Ask for a new index.",
        )
    found.add(SEARCH, "inside the window", f"{seen - unknown:,} of {seen:,} {found.noun}")


async def check_unknown_parameter(found: Found) -> None:
    """How the mirror treats a parameter that it cannot know."""
    found.require_total()
    parameters = [*(("_lastUpdated", bound) for bound in found.window.bounds), ("_summary", "count"), _UNKNOWN]
    lenient = await found.asker.search(parameters, where="an unknown parameter")
    strict = await found.asker.search(
        parameters, where="an unknown parameter, strictly", headers={"Prefer": "handling=strict"}
    )
    strictly = f"handling=strict {'is ignored' if strict.content else f'refuses it ({strict.status})'}"
    if lenient.content is None:
        found.add(SEARCH, "unknown parameter", f"refused ({lenient.status}); {strictly}")
        return
    if not lenient.self_values(_UNKNOWN[0]):
        found.add(SEARCH, "unknown parameter", f"ignored, and left out of `self`; {strictly}")
        return
    found.add(
        SEARCH,
        "unknown parameter",
        f"ignored, but repeated in `self`; {strictly}",
        "warn",
        "The link `self` does not tell what was searched for. Only totals and instants show whether a filter works: look at "
        "`halves` and `inside the window`.",
    )


def _halves(window: Window) -> tuple[Window, Window] | None:
    """Both halves in whole seconds; None for a window of one second."""
    if window.end - window.start < timedelta(seconds=2):
        return None
    middle = (window.start + (window.end - window.start) / 2).replace(microsecond=0)
    return Window(start=window.start, end=middle), Window(start=middle, end=window.end)


def _same_bound(sent: str, answered: str) -> bool:
    return (sent[:2], parse_instant(sent[2:])) == (answered[:2], parse_instant(answered[2:]))
