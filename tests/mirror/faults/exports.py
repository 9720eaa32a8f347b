"""Exports that are special: what the manifest says, where files are, what is missing from them."""

from __future__ import annotations

from tests.mirror import identifiers
from tests.mirror.faults.base import Catalogue, Scenario, no_argument, one_day, positive


class ExportOption(Scenario):
    """Something special about exports."""

    def __init__(self, argument: str, seed: int) -> None:
        no_argument(argument)
        self._used = 0

    def use(self) -> int:
        """How often it was used, this time included."""
        self._used += 1
        return self._used


class ExportNumber(ExportOption):
    """Something special about exports that has a number."""

    def __init__(self, argument: str, seed: int) -> None:
        super().__init__("", seed)
        self.number = positive(argument)


class ExportNoCounts(ExportOption):
    """`export-no-counts`: the manifest does not say how many lines a file has."""


class ExportUntilIgnored(ExportOption):
    """`export-until-ignored`: `_until` is ignored; the export ends six hours later, to stay small."""


class ExportErrorFile(ExportOption):
    """`export-error-file`: the manifest names a file of problems with an error in it."""


class ExportOutcome(ExportOption):
    """`export-outcome`: the manifest is that of STU4: `outcome` in place of `error`, with a note, and no `request`."""


class ExportOtherHost(ExportOption):
    """`export-other-host`: files are on the second port, without a token."""


class ExportTruncated(ExportNumber):
    """`export-truncated:<n>`: the n-th file is cut in the middle of a line when it is fetched for the first time."""


class ExportThrottled(ExportOption):
    """`export-429`: the first question for the status is answered 429 with `Retry-After: 1`."""


class ExportProgress(ExportNumber):
    """`export-progress:<n>`: a job is done after n questions for its status."""


class ExportSplit(ExportOption):
    """`export-split`: the mirror has no Bundles, only the resources of its documents."""


class ExportPostOnly(ExportOption):
    """`export-post-only`: the kick-off by GET is refused, as STU4 has it."""


class ExportFileLines(ExportNumber):
    """`export-file-lines:<n>`: lines of a file."""


class ExportExpired(ExportNumber):
    """`export-expired:<n>`: the files of the next n jobs are gone when they are asked for."""


class ExportLost(ExportNumber):
    """`export-lost:<n>`: the last n documents are missing from every export, without a word."""


class ExportDeleted(Scenario):
    """`export-deleted:<day>:<n>`: n documents of that day were deleted: no search finds them, an export names them as deleted.

    Of every second one the mirror states the instant, an hour before the end of its day.
    """

    def __init__(self, argument: str, seed: int) -> None:
        text, _, amount = argument.partition(":")
        self._day, self._amount = one_day(text), positive(amount)
        self.documents: list[tuple[str, int, bool]] = []
        """Id, instant, and whether the mirror states it."""

    def prepare(self, catalogue: Catalogue) -> None:
        day = catalogue.archive.day(self._day)
        positions = catalogue.ordinary(self._day, low=day.clock.start + 12 * 3_600_000)[: self._amount]
        catalogue.remove(self._day, positions)
        instant = day.clock.end - 3_600_000
        self.documents = [
            (day.uuid(k) + identifiers.SUFFIX, instant + number, number % 2 == 0) for number, k in enumerate(positions)
        ]
