"""How tasks fail: which errors are tried again, and when."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from airflow.sdk import Context, ExceptionRetryPolicy, RetryAction, RetryDecision, RetryRule

from imunizacao_airflow.tasks import explain_failure

MIRROR_RETRIES: Final = 6
"""Of ten minutes each: a mirror that breaks off for up to an hour costs no person's time. Lateness is the matter of `wait_for_mirror`."""
PARTS_AT_ONCE: Final = 4
"""Parts of days that are extracted at once, over all runs of a DAG and all its backfills. The parts of one day share the
`max_connections` of the connection (4): four parts keep one day at full speed, and four days of one part each show the mirror 16
connections, not the 40 of a backfill of ten."""
WHOLE_DAYS_AT_ONCE: Final = 2
"""Closing `extract` tasks at once: they count again, and fetch only what has changed since its part was landed."""
PLANS_AT_ONCE: Final = 1
"""Days that are counted for their parts at once: it takes seconds, on all connections."""
EACH_DAY: Final = {"max_active_tis_per_dag": 2, "map_index_template": "{{ task.op_kwargs['day'] }}"}
"""Of a mapped task that makes one day of a range again: each takes the memory and the disk of a whole day, so two at once."""
PART_OF_DAY: Final = {
    "retries": MIRROR_RETRIES,
    "max_active_tis_per_dag": PARTS_AT_ONCE,
    "map_index_template": "{{ task.op_kwargs['part']['name'] }}",
}
"""Of the mapped task that extracts a part of a day."""
PLAN_OF_DAY: Final = {"retries": MIRROR_RETRIES, "max_active_tis_per_dag": PLANS_AT_ONCE}
"""Of the task that counts a day and shares it."""
WHOLE_DAY: Final = {"retries": MIRROR_RETRIES, "max_active_tis_per_dag": WHOLE_DAYS_AT_ONCE}
"""Of the task that extracts what is missing of a day."""
_ERRORS: Final = "imunizacao.errors."

_STORAGE: Final = RetryRule(
    exception=_ERRORS + "StorageUnavailable",
    action=RetryAction.RETRY,
    retry_delay=timedelta(minutes=10),
    reason="the other side may be back later",
)
_MIRROR: Final = RetryRule(
    exception=_ERRORS + "MirrorUnavailable",
    action=RetryAction.RETRY,
    retry_delay=timedelta(minutes=10),
    reason="the mirror may be back later",
)
_CONFLICT: Final = RetryRule(
    exception=_ERRORS + "PublicationConflict",
    action=RetryAction.RETRY,
    retry_delay=timedelta(seconds=20),
    reason="another run moved the same pointer",
)
_DOUBTFUL: Final = RetryRule(
    exception=[_ERRORS + "MirrorProtocolError", _ERRORS + "MirrorRefused"],
    action=RetryAction.RETRY,
    retry_delay=timedelta(minutes=10),
    reason="a mirror that is being redeployed or written to answers like this for some minutes",
)
DOUBTFUL_TRIES: Final = 3
"""First tries of a task after which such an answer is given another chance; later on a person must look."""
_REST: Final = RetryRule(
    exception=_ERRORS + "PipelineError",
    action=RetryAction.FAIL,
    reason="the same input would fail again: a person must look",
)


class StagePolicy(ExceptionRetryPolicy):
    """Transient errors are tried again, doubtful answers of the mirror a few times; whatever else is wrong fails at once."""

    def __init__(self) -> None:
        super().__init__(rules=[_MIRROR, _STORAGE, _CONFLICT, _REST])

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Decide by the class of an error, and by the try where it is doubtful."""
        if try_number <= DOUBTFUL_TRIES and _DOUBTFUL.matches(exception):
            return RetryDecision.retry(_DOUBTFUL.retry_delay, _DOUBTFUL.reason)
        return super().evaluate(exception, try_number, max_tries, context)


RETRY_POLICY: Final = StagePolicy()

WAIT_POLICY: Final = ExceptionRetryPolicy(rules=[_STORAGE, _REST])
"""Of `wait_for_mirror`: it has waited for the mirror itself, until its deadline."""

DEFAULT_ARGS: Final = {
    "retries": 3,
    "retry_delay": timedelta(minutes=2),
    "retry_policy": RETRY_POLICY,
    "on_failure_callback": explain_failure,
    "on_retry_callback": explain_failure,
}
"""How every task of every DAG fails."""
