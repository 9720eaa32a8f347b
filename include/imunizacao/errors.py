"""The errors of the pipeline, sorted by what the caller can do about them.

A message says what happened, where, what was expected and found, and the next step. It never carries a resource, a name,
a CPF or a CNS: it says where they are.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of every error that the pipeline raises on purpose."""

    exit_code = 1


class ConfigurationError(PipelineError):
    """A setting is missing or wrong: mend it, then run again. Retrying does not help."""

    exit_code = 2


class MirrorRefused(ConfigurationError):
    """The mirror, or a proxy before it, has no such address or forbids it: a wrong setting, or a mirror that is just being redeployed."""


class MirrorUnavailable(PipelineError):
    """The mirror did not answer, or answered with a transient error until the budget was used up: retry later."""

    exit_code = 3


class MirrorProtocolError(PipelineError):
    """The mirror answered something that cannot be trusted to be the whole day: nothing is published."""

    exit_code = 4


class MirrorUnreadable(MirrorProtocolError):
    """In place of a page came something else, again and again: a login or maintenance page, or half a body."""


class StorageUnavailable(PipelineError):
    """The object store, the database or the local disk cannot be used right now: retry after mending it."""

    exit_code = 5


class ContractViolation(PipelineError):
    """Data or files disagree with what we promise to readers: a person must look. Retrying does not help."""

    exit_code = 6


class DayHeld(ContractViolation):
    """A critical rule failed, or nobody decided to publish: the day is held, the previous publication stays."""

    exit_code = 7

    def __init__(self, message: str, *, note: str = "") -> None:
        super().__init__(message)
        self.note = note
        """The same in one Portuguese sentence, for the note of a run."""


class PublicationConflict(PipelineError):
    """Another writer moved the same pointer, or a newer extract is already published: run the day again."""

    exit_code = 8
