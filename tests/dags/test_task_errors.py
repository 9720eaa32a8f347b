"""What the log of a failed task ends with."""

from __future__ import annotations

import asyncio
import logging
import traceback

import pytest

from imunizacao.errors import ConfigurationError, MirrorProtocolError, MirrorUnavailable, PipelineError
from imunizacao.fhir import MirrorClient
from imunizacao.settings import MirrorSettings
from imunizacao_local.ports import free_ports
from tests.integration.extract_support import DAY

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("ignore", "error:::imunizacao")]


async def _no_sleep(seconds: float) -> None:
    await asyncio.sleep(0)


async def _ask_dead_mirror() -> None:
    settings = MirrorSettings(base_url=f"http://127.0.0.1:{free_ports(1)[0]}/fhir/r4")
    async with MirrorClient(settings, sleep=_no_sleep) as client:
        async with asyncio.TaskGroup() as group:
            group.create_task(client.count_since(DAY.start))


def ask_dead_mirror() -> None:
    """Fail as `extract` does: one of our errors, with those of the HTTP client and of asyncio below it."""
    try:
        asyncio.run(_ask_dead_mirror())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group


def test_the_error_of_a_dead_mirror_leaves_the_task_as_itself_without_what_is_below(
    airflow_env: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    from imunizacao_airflow.tasks import readable_errors

    with pytest.raises(MirrorUnavailable) as before:
        ask_dead_mirror()
    assert "asyncio" in "".join(traceback.format_exception(before.value)), "this test must have something to hide"

    with caplog.at_level(logging.INFO, logger="imunizacao"), pytest.raises(MirrorUnavailable) as after:
        with readable_errors():
            ask_dead_mirror()
    printed = "".join(traceback.format_exception(after.value))
    for wall in ("httpx", "asyncio", "transport.py", "another exception", "direct cause"):
        assert wall not in printed
    assert "connection refused" in str(after.value)
    assert "docs/runbook/mirror-unavailable.md" in str(after.value)
    (event,) = [line for record in caplog.records if (line := record.getMessage()).startswith("event=task.error")]
    assert "raised_at=imunizacao/fhir/transport.py:" in event
    assert "caused_by=" in event
    assert "ExceptionGroup" in event


def test_an_error_keeps_its_class_and_what_it_carries(airflow_env: dict[str, str]) -> None:
    from imunizacao_airflow.tasks import readable_errors

    class Special(MirrorProtocolError):
        pass

    thrown = Special("what happened")
    thrown.window = "10h"  # type: ignore[attr-defined]
    with pytest.raises(Special, match="^what happened$") as caught, readable_errors():
        raise thrown
    assert caught.value.window == "10h"  # type: ignore[attr-defined]


def test_a_defect_keeps_its_traceback(airflow_env: dict[str, str]) -> None:
    from imunizacao_airflow.tasks import readable_errors

    def broken() -> None:
        raise KeyError("x") from ValueError("y")

    with pytest.raises(KeyError) as caught, readable_errors():
        broken()
    assert "broken" in "".join(traceback.format_exception(caught.value))
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("error", "again", "lines"),
    [
        (
            MirrorUnavailable(
                "Cannot reach the mirror at http://a: refused. Check it. See docs/runbook/mirror-unavailable.md."
            ),
            True,
            [
                "extract failed in try 2: MirrorUnavailable",
                "Cannot reach the mirror at http://a: refused.",
                "Check it.",
                "Next: Airflow tries extract again by itself. What was published before stays.",
                "Runbook: docs/runbook/mirror-unavailable.md",
            ],
        ),
        (
            ConfigurationError("Missing:\n  a: b; see docs/runbook/full-disk.md."),
            False,
            [
                "extract failed in try 2: ConfigurationError",
                "Missing:",
                "  a: b",
                "Next: mend the cause, then clear extract in this run. What was published before stays.",
                "Runbook: docs/runbook/full-disk.md",
            ],
        ),
        (
            KeyError("a value of a patient"),
            False,
            [
                "extract failed in try 2: KeyError",
                "This is not one of the known errors: the traceback above is for those who maintain the code.",
                "Next: mend the cause, then clear extract in this run. What was published before stays.",
            ],
        ),
    ],
)
def test_the_last_lines_say_what_where_what_to_do_and_what_comes_next(
    airflow_env: dict[str, str], error: BaseException, again: bool, lines: list[str]
) -> None:
    from imunizacao_airflow.tasks import explanation

    assert explanation(error, task="extract", attempt=2, again=again) == lines


def test_no_line_is_wider_than_the_log_viewer(airflow_env: dict[str, str]) -> None:
    from imunizacao_airflow.tasks import explanation

    error = PipelineError(
        "What happened here. " + "And a long sentence about it " * 20 + ". See docs/runbook/day-held.md."
    )
    assert max(map(len, explanation(error, task="extract", attempt=1, again=False))) <= 110
