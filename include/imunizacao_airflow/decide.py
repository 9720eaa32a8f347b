"""The question to a person, between the rules and the publication: Airflow's human-in-the-loop operator, asked only when a rule wants it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import TaskAwaitingInput
from airflow.sdk.timezone import utcnow

from imunizacao.decision import REASON_LEAST, REASON_MOST, reason_problem
from imunizacao.events import log_event
from imunizacao.findings import number, short, short_list
from imunizacao.reference_day import SAO_PAULO
from imunizacao_airflow import tasks
from imunizacao_airflow.links import DataDocsLink, DocsIndexLink

if TYPE_CHECKING:
    from imunizacao.models import ValidateReceipt

PUBLISH: Final = "Publicar"
HOLD: Final = "Reter"
_CHOICES: Final[dict[str, Literal["publish", "hold"]]] = {PUBLISH: "publish", HOLD: "hold"}
_REASON: Final = "motivo"
_ROWS: Final = 10

REASON_PARAMS: Final = {
    _REASON: Param(
        "",
        type="string",
        maxLength=REASON_MOST,
        title="Motivo",
        description="Obrigatório; fica no histórico público do dia. Sem nomes nem números de pessoas.",
    )
}
"""The form of the question. Given as `params` of the task: an operator cannot add its own to those of its DAG. No `minLength`: Airflow
checks the default, too, before there is an answer."""


class DecideDay(HITLOperator):
    """Pass a day that asks nothing; else wait, without a worker slot, for a person who publishes or holds it and says why.

    The wait is Airflow's own state `awaiting_input`: no trigger, no triggerer. It ends `decision_deadline_hours` (param) after the
    question; then the day is held. A reason that must not become public is refused, and the same question stands again.
    """

    ui_color = "#ffd9b3"
    template_fields = ("validated",)

    def __init__(self, *, validated: Any, **arguments: Any) -> None:
        super().__init__(
            subject="Publicar ou reter o dia?",
            options=list(_CHOICES),
            **arguments,
        )
        self.validated = validated
        self.operator_extra_links = (DataDocsLink(), DocsIndexLink())

    def execute(self, context: Any) -> str:
        """Ask, or let the day pass."""
        from imunizacao import pipeline

        run, validated = tasks.run_context(), self._receipt()
        tasks.docs_links(run)
        if not validated.asks:
            return pipeline.decided_json(run, None)
        deadline = utcnow() + timedelta(hours=float(context["params"]["decision_deadline_hours"]))
        log_event("decide.asks", day=str(run.day), rules=",".join(validated.asks), until=_local(deadline))
        tasks.tell(f"{run.day} aguarda decisão até {_local(deadline)}: {short_list(validated.failed(validated.asks))}")
        self._ask(context, validated, deadline)
        raise AssertionError("a question returns to nobody")

    def execute_complete(self, context: Any, event: dict[str, Any], deadline: str = "") -> str:
        """Take the answer, or the silence."""
        from imunizacao import pipeline

        run, validated, until = tasks.run_context(), self._receipt(), datetime.fromisoformat(deadline)
        tasks.docs_links(run)
        silence = event.get("error_type") == "timeout"
        if "error" in event and not silence:
            self.process_trigger_event_error(event)
        chosen = HOLD if silence else event["chosen_options"][0]
        by = "" if silence else str((event.get("responded_by_user") or {}).get("name") or "")
        reason = (
            f"ninguém decidiu até {_local(until)}"
            if silence
            else str((event.get("params_input") or {}).get(_REASON) or "")
        )
        if problem := reason_problem(reason):
            tasks.tell(
                f"{validated.day}: resposta de {by or 'alguém'} recusada, {problem}; a pergunta continua até {_local(until)}"
            )
            self._ask(context, validated, until)
        with tasks.stage() as stage:
            decision = pipeline.decision_about(
                validated, stage.services, choice=_CHOICES[chosen], reason=reason, decided_by=by
            )
            return pipeline.decided_json(
                run,
                pipeline.decide(
                    stage.context, stage.services, validated=validated, decision=decision, attempt=stage.attempt
                ),
            )

    def _receipt(self) -> ValidateReceipt:
        from imunizacao.models import ValidateReceipt

        return ValidateReceipt.from_json(self.validated)

    def _ask(self, context: Any, validated: ValidateReceipt, deadline: datetime) -> None:
        self.subject = f"{validated.day}: publicar ou reter?"
        self.body = question(validated, until=_local(deadline))
        self.response_timeout = max(deadline - utcnow(), timedelta(seconds=1))
        try:
            super().execute(context)
        except TaskAwaitingInput as waiting:
            waiting.kwargs = {"deadline": deadline.isoformat()}
            raise


def question(validated: ValidateReceipt, *, until: str) -> str:
    """What a person needs to know to decide, in Markdown: counts only."""
    from imunizacao.docs_index import INDEX_KEY

    judged = validated.checked + validated.quarantined - validated.quarantined_by_rules
    share = number(100 * validated.quarantined / judged) if judged else "0"
    lines = [
        f"**{number(validated.quarantined)} das {number(judged)} doses avaliadas ({share} %) estão em quarentena.** O dia só sai se uma "
        "pessoa decidir.",
        "",
        *(f"- {short(rule)}" for rule in validated.failed(validated.asks)),
        "",
        "| motivo | doses |",
        "|---|--:|",
        *(f"| {reason} | {number(doses)} |" for reason, doses in _largest(validated.quarantined_by_reason)),
        "",
        "| UF (código do IBGE; 00: desconhecida) | ocorrências |",
        "|---|--:|",
        *(
            f"| {uf} | {number(doses)} |"
            for uf, doses in _largest({uf: sum(some.values()) for uf, some in validated.quarantined_by_uf.items()})
        ),
        "",
    ]
    if warned := validated.failed(validated.warnings):
        lines += [*(f"- Alerta: {short(rule)}" for rule in warned), ""]
    lines += [
        f"[Relatório do dia]({tasks.OBJECTS}/work/{validated.docs_key}) · [Todos os dias]({tasks.OBJECTS}/work/{INDEX_KEY})",
        "",
        f"**{PUBLISH}**: o dia sai sem as doses em quarentena, que são contadas por motivo. **{HOLD}**: nada muda para quem lê, e a execução "
        f"falha com o motivo. Sem resposta até {until}, o dia fica retido.",
        "",
        f"O motivo é obrigatório ({REASON_LEAST} a {REASON_MOST} caracteres) e, se o dia sair, público: não escreva nomes, nem números de "
        "pessoas.",
    ]
    return "\n".join(lines)


def _largest(counts: dict[str, int]) -> list[tuple[str, int]]:
    """The ten largest, and the others as one."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ranked[_ROWS:])
    return ranked[:_ROWS] + ([("outros", rest)] if rest else [])


def _local(moment: datetime) -> str:
    return moment.astimezone(SAO_PAULO).strftime("%d/%m %H:%M")
