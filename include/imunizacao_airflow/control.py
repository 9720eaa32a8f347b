"""Withdrawal and housekeeping as tasks: what a person asked for, done or only shown, and the note of the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from airflow.sdk import get_current_context

from imunizacao_airflow.tasks import OBJECTS, answer, attempt, open_services, readable_errors, set_links, set_run_note

_LOG = logging.getLogger("imunizacao")
SCHEDULED: Final = "scheduled"


def change(params: Mapping[str, Any]) -> str:
    """Withdraw or restore the day of the params, or only show what readers would see; the answer becomes the note of the run."""
    from imunizacao import pipeline
    from imunizacao.decision import check_reason
    from imunizacao.models import RunContext, to_json
    from imunizacao.paths import code_version
    from imunizacao.reference_day import ReferenceDay
    from imunizacao.withdrawal import change_day, describe_change

    with readable_errors():
        run_id = str(get_current_context()["dag_run"].run_id)
        context = RunContext.create(day=ReferenceDay.parse(params["day"]), run_id=run_id, code_version=code_version())
        reason = check_reason(params["reason"])
        services = open_services()
        set_links(day=f"/imunizacao/day/{context.day}", head=f"{OBJECTS}/public/v1/days/{context.day}/head.json")
        if params["remake"] and params["action"] == "restore":
            landing = pipeline.newest_landing(context.day, services.work)
            if params["dry_run"]:
                set_run_note(
                    f"{context.day}: seria refeito de landing da execução {landing.run_id}, {landing.fetched} documentos, e publicado "
                    "inteiro (simulação)"
                )
                return to_json({"day": str(context.day), "landing_run": landing.run_id, "fetched": landing.fetched})
            result = pipeline.remake_day(context, services, reason="restore", **answer(params))
            set_run_note(pipeline.run_note(result.published, result.validated))
            return result.published.to_json()
        done = change_day(
            context,
            services,
            action=params["action"],
            ufs=params["ufs"],
            reason=reason,
            dry_run=params["dry_run"],
            attempt=attempt(),
        )
        grace = services.settings.housekeeping.withdrawn_days
        for line in describe_change(done, reason=reason, grace_days=grace):
            _LOG.info("%s", line)
        set_run_note(done.note)
        return done.to_json()


def list_leftovers(params: Mapping[str, Any]) -> str:
    """List what would be removed, into log and note; counts as XCom."""
    return _housekeep(params, delete=False)


def delete_leftovers(params: Mapping[str, Any]) -> str:
    """Look again and remove, in scheduled runs always, in others only when `dry_run` is off; counts as XCom."""
    run = get_current_context()["dag_run"]
    scheduled = str(getattr(run.run_type, "value", run.run_type)) == SCHEDULED
    if params["dry_run"] and not scheduled:
        _LOG.info("Only listed: untick `dry_run` to remove it.")
        return "{}"
    return _housekeep(params, delete=True)


def _housekeep(params: Mapping[str, Any], *, delete: bool) -> str:
    from imunizacao.controle import migrate
    from imunizacao.housekeeping import describe_report, housekeep, report_note
    from imunizacao.models import RunContext
    from imunizacao.paths import code_version
    from imunizacao.reference_day import ReferenceDay

    with readable_errors():
        run = get_current_context()["dag_run"]
        context = RunContext.create(
            day=ReferenceDay.yesterday(run.run_after), run_id=str(run.run_id), code_version=code_version()
        )
        services = open_services()
        if delete and services.connect is not None:
            connection = services.connect()
            try:
                migrate(connection)
            finally:
                connection.close()
        report = housekeep(context, services, delete=delete, only=params["only"], attempt=attempt())
        for line in describe_report(report):
            _LOG.info("%s", line)
        set_run_note(report_note(report))
        return report.to_json()
