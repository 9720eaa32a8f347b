"""The wait for a mirror that is late: a look in a worker, then a pause in the triggerer, and so on until a deadline."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator, Connection

from imunizacao.errors import MirrorRefused, MirrorUnavailable, MirrorUnreadable, PipelineError
from imunizacao.events import log_event
from imunizacao.reference_day import SAO_PAULO
from imunizacao_airflow import tasks
from imunizacao_airflow.connections import MIRROR, freshness_deadline

if TYPE_CHECKING:
    from imunizacao.extract import Freshness
    from imunizacao.pipeline import Services

RETRY_BUDGET: Final = 60.0
"""Seconds of retries within one look: whoever can wait in the triggerer must not wait in a worker."""
EXPORT_DEADLINE: Final = 1800.0
"""Seconds that a small export of a look may take, in a queue of the mirror as well; after that it is not there yet."""
RUNBOOK: Final = "docs/runbook/mirror-behind.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """The XCom of the wait."""

    day: str
    newest: str
    """As the mirror's newest document is shown, or `unknown`."""
    documents: int
    accepted_stale: bool
    """The mirror has nothing newer than the day, and a person said that the day is whole all the same."""


def waited_from_json(text: str) -> Waited:
    """Read the XCom of `WaitForMirror`."""
    return Waited(**json.loads(text))


class WaitForMirror(BaseOperator):
    """Hold the run until the mirror has reached the end of the day; give up at a deadline, with an alert.

    Each look happens in a worker, with the connections of the task. In between, only a stock time trigger waits: no worker slot is
    held, and nothing of the connection reaches the triggerer's database row. The pause grows from `first_wait` to `longest_wait`
    with the time waited, and ends at the deadline at the latest. That lies `freshness_deadline_hours` (param, else extra of the
    mirror's connection, else 6) after the end of the day or the start of the run, whichever is later.
    """

    ui_color = "#fff3c4"

    def __init__(
        self,
        *,
        first_wait: timedelta = timedelta(minutes=5),
        longest_wait: timedelta = timedelta(minutes=15),
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.first_wait = first_wait
        self.longest_wait = longest_wait

    def execute(self, context: Any, event: Any = None) -> str:
        """Look once; return what was seen, or leave for the triggerer and look again afterwards."""
        with tasks.stage() as stage:
            day, params, now = stage.context.day, context["params"], stage.services.now()
            since = max(day.end, context["dag_run"].start_date.astimezone(UTC))
            deadline = since + freshness_deadline(Connection.get(MIRROR), params.get("freshness_deadline_hours"))
            resumed = event is not None
            seen, failure = _look(stage)
            now = stage.services.now()
            if seen is not None and (seen.reached or params.get("accept_stale")):
                return self._go_on(str(day), seen, resumed=resumed)
            if now >= deadline:
                raise self._too_late(str(day), seen, failure, since, now)
            pause = min(max(self.first_wait, (now - since) / 4), self.longest_wait, deadline - now)
            state = f"que {_trouble(failure)}" if seen is None else f"documento mais novo: {_shown(seen.newest)}"
            log_event(
                "wait_for_mirror.waits",
                day=str(day),
                newest="no answer" if seen is None else seen.newest,
                documents=None if seen is None else seen.documents,
                came=None if failure is None else str(failure),
                looks_again=_local(now + pause),
                gives_up=_local(deadline),
            )
            tasks.set_run_note(
                f"aguardando o espelho, {state}; nova consulta às {_local(now + pause)}, desiste às {_local(deadline)}"
            )
        self.defer(trigger=TimeDeltaTrigger(pause), method_name="execute")
        raise AssertionError("defer returns to nobody")

    def _go_on(self, day: str, seen: Freshness, *, resumed: bool) -> str:
        waited = Waited(day=day, newest=seen.newest, documents=seen.documents, accepted_stale=not seen.reached)
        if waited.accepted_stale:
            log_event("wait_for_mirror.stale_accepted", level=logging.WARNING, day=day, newest=seen.newest)
            tasks.set_run_note(f"{STALE_NOTE}; documento mais novo: {_shown(seen.newest)}")
        else:
            log_event("wait_for_mirror.reached", day=day, newest=seen.newest, documents=seen.documents)
            if resumed:
                tasks.set_run_note(
                    f"o espelho chegou ao fim do dia (documento mais novo: {_shown(seen.newest)}); extraindo"
                )
        return json.dumps(asdict(waited), ensure_ascii=False)

    def _too_late(
        self, day: str, seen: Freshness | None, failure: PipelineError | None, since: datetime, now: datetime
    ) -> MirrorUnavailable:
        """Call for a person, and return what the task fails with."""
        state = (
            _trouble(failure)
            if seen is None
            else f"não chegou ao fim do dia (documento mais novo: {_shown(seen.newest)})"
        )
        tasks.call_for_help(
            f"{self.dag_id}: o espelho {state} depois de {_lasted(now - since)} de espera. O dia {day} continua pendente. "
            f"O que fazer: {RUNBOOK}"
        )
        waited = f"Waited from {_local(since)} to {_local(now)} (freshness_deadline_hours). The day stays pending."
        if seen is None:
            return MirrorUnavailable(f"{failure} {waited} Clear {self.task_id} once the mirror answers.")
        return MirrorUnavailable(
            f"{seen.sentence} {waited} Nothing was published. Clear {self.task_id} once the mirror has caught up; if you know that the day is "
            f"whole, start a run with accept_stale. See {RUNBOOK}."
        )


STALE_NOTE: Final = "espelho parado aceito por decisão de um engenheiro (accept_stale)"


def _look(stage: tasks.Stage) -> tuple[Freshness | None, PipelineError | None]:
    """Ask the mirror once: what was seen, or the failure of a mirror that is not there yet.

    While a mirror is redeployed, its ingress answers 404, its firewall 403, its proxy a page in HTML: all of these may be over at the
    next look, and are told at the deadline if they are not. What is wrong whatever the mirror does is raised.
    """
    from imunizacao import pipeline
    from imunizacao.fhir.export import ExportRefused

    try:
        return pipeline.mirror_freshness(stage.context, _impatient(stage.services)), None
    except (MirrorUnavailable, MirrorRefused, MirrorUnreadable, ExportRefused) as error:
        return None, error


def _trouble(failure: PipelineError | None) -> str:
    return "não responde" if isinstance(failure, MirrorUnavailable) else "não atende (recusa ou página que não é FHIR)"


def _impatient(services: Services) -> Services:
    """The same services, with a retry budget and a patience with export jobs that suit a look: between looks no worker is held."""
    mirror = services.settings.mirror
    patient = replace(
        mirror,
        retry_budget=min(mirror.retry_budget, RETRY_BUDGET),
        export_deadline=min(mirror.export_deadline, EXPORT_DEADLINE),
    )
    return replace(services, settings=replace(services.settings, mirror=patient))


def _shown(newest: str) -> str:
    """The instant of the newest document, as `Freshness.newest` gives it, for a note."""
    return "desconhecido" if newest == "unknown" else _local(datetime.fromisoformat(newest))


def _lasted(time: timedelta) -> str:
    minutes = round(time / timedelta(minutes=1))
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _local(moment: datetime) -> str:
    return moment.astimezone(SAO_PAULO).strftime("%d/%m %H:%M")
