"""The stage: evaluate, quarantine, report, decide. A day is never held by raising here: what was found is written first."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imunizacao import paths
from imunizacao.errors import ContractViolation, DayHeld
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.models import FlattenReceipt, RuleResult, RunContext, ValidateReceipt, fingerprint
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine
from imunizacao.sql.compile import RowRule, bad_rows_table, counts_select, view_on_parquet
from imunizacao.storage import ObjectStore, file_ref, put_receipt, read_receipt
from imunizacao.validate.assets import content_type, put_static
from imunizacao.validate.gx import run_suites
from imunizacao.validate.pages import localise_site
from imunizacao.validate.suites import ROW_SUITE, TABLES, Rule, Suites, load_suites

STAGE: Final = "validate"
DOCS: Final = "v1/docs/"
"""Prefix of the Data Docs in the work bucket: one folder per day, one for scripts and styles."""

_KEY: Final = ("nu_parte", "nu_linha", "nu_dose")
_CARRY: Final = ("co_documento", "co_cnes_estabelecimento", "in_co_uf_estabelecimento")
_BAD_ROWS: Final = "dose_reprovada"
_RUNBOOK: Final = "docs/runbook/day-held.md"


def docs_key(day: str) -> str:
    """Key of the report of a day (`YYYY-MM-DD`) in the work bucket; a new run of the day overwrites it."""
    return f"{DOCS}day={day}/index.html"


def validate_day(
    context: RunContext,
    *,
    flatten: FlattenReceipt,
    work: ObjectStore,
    engine: EngineSettings,
    expectations: Path = paths.EXPECTATIONS,
    progress: Progress = no_progress,
) -> ValidateReceipt:
    """Judge the doses of a day and write quarantine, bad keys, results, Data Docs and, last, the receipt.

    The receipt says whether the day may be published (`publish`); `require_publishable` turns a no into an error. It is no
    when a critical rule failed or when any rule could not be evaluated. Raises `ContractViolation` when a suite is unsound,
    when the physical key is not unique, or when a rule quarantined another number of rows than Great Expectations counted.
    A valid receipt of the same inputs (tables, account, rules, code) is returned as it is.
    """
    suites = load_suites(expectations)
    account = _account(flatten)
    mark = fingerprint(
        STAGE,
        context.code_version,
        {
            "dose": flatten.dose.sha256,
            "quarantine": flatten.quarantine.sha256,
            "account": repr(sorted(account.items())),
            "suites": suites.sha256,
        },
    )
    done = read_receipt(work, context.prefix(STAGE), ValidateReceipt, mark)
    if done is not None:
        log_event("validate.reused", day=str(context.day), publish=done.publish)
        return done
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="validate-", dir=engine.scratch_dir))
    try:
        dose, structural = folder / "dose.parquet", folder / "structural.parquet"
        work.download(flatten.dose.key, dose, sha256=flatten.dose.sha256)
        work.download(flatten.quarantine.key, structural, sha256=flatten.quarantine.sha256)
        with open_engine(engine, folder) as duck:
            outcome = run_validate(
                duck,
                suites=suites,
                day=context.day,
                dose=dose,
                structural=structural,
                account=account,
                folder=folder,
                progress=progress,
            )
        result = folder / "result.json"
        result.write_text(json.dumps(outcome.results, sort_keys=True, ensure_ascii=False), encoding="utf-8")
        prefix = context.prefix(STAGE)
        file_ref(work, prefix + "result.json", result)
        _put_docs(work, str(context.day), outcome.site, outcome.pages)
        receipt = ValidateReceipt(
            stage=STAGE,
            day=str(context.day),
            run_id=context.run_id,
            code_version=context.code_version,
            fingerprint=mark,
            seconds=round(time.monotonic() - started, 3),
            rules=outcome.rules,
            suite_sha256=suites.sha256,
            quarantine=file_ref(work, prefix + "quarantine.parquet", outcome.quarantine, rows=outcome.quarantined),
            bad_keys=file_ref(work, prefix + "bad_keys.parquet", outcome.bad_keys, rows=outcome.quarantined_by_rules),
            checked=outcome.checked,
            quarantined_by_rules=outcome.quarantined_by_rules,
            quarantined=outcome.quarantined,
            quarantined_by_reason=outcome.by_reason,
            quarantined_by_uf=outcome.by_uf,
            publish=not outcome.held_because,
            held_because=outcome.held_because,
            warnings=outcome.warnings,
            docs_key=docs_key(str(context.day)),
        )
        put_receipt(work, prefix, receipt)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    log_event(
        "validate.done",
        day=str(context.day),
        checked=receipt.checked,
        quarantined_by_rules=receipt.quarantined_by_rules,
        quarantined=receipt.quarantined,
        publish=receipt.publish,
        held_because=",".join(receipt.held_because) or None,
        seconds=receipt.seconds,
    )
    return receipt


def require_publishable(receipt: ValidateReceipt) -> None:
    """Raise `DayHeld`, with one sentence per rule that holds the day, unless the day may be published."""
    if receipt.publish:
        return
    held = set(receipt.held_because)
    sentences = [_sentence(rule) for rule in receipt.rules if rule.rule in held]
    raise DayHeld(
        f"{receipt.day} is held by {len(sentences)} rule(s). Nothing was published; what readers see stays as it was.\n"
        + "\n".join(sentences)
        + f"\nReport: {receipt.docs_key} in the work bucket. What to do: {_RUNBOOK}."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateOutcome:
    """What `run_validate` found and wrote, in local files."""

    rules: list[RuleResult]
    checked: int
    quarantined_by_rules: int
    quarantined: int
    by_reason: dict[str, int]
    by_uf: dict[str, dict[str, int]]
    held_because: list[str]
    warnings: list[str]
    quarantine: Path
    bad_keys: Path
    site: Path
    pages: list[Path]
    """Data Docs below `site`, the index last."""
    results: dict[str, Any]


def run_validate(
    duck: Engine,
    *,
    suites: Suites,
    day: ReferenceDay,
    dose: Path,
    structural: Path,
    account: Mapping[str, int],
    folder: Path,
    progress: Progress = no_progress,
) -> ValidateOutcome:
    """Judge local Parquet files and write `quarantine.parquet`, `bad_keys.parquet` and `site/` into `folder`.

    `account` holds the counts of flatten under the parameter names of `sql/validate/10_resumo_dia.sql`.
    """
    progress("validate", 0, 4)
    duck.execute("validate/view", view_on_parquet(TABLES[ROW_SUITE], [str(dose)]))
    duck.run("validate/10_resumo_dia", quarantine=str(structural), **account)
    without_key, repeated = duck.row("validate/20_key_check", quarantine=str(structural))
    if without_key or repeated:
        raise ContractViolation(
            f"{without_key} rows of {day} have no physical key and {repeated} keys are used more than once. Nothing was "
            "published. This is a defect of flatten; see docs/runbook/account-gap.md."
        )
    _require_columns(duck, suites)
    progress("validate", 1, 4)

    site = folder / "site"
    outcome = run_suites(
        duck,
        suites,
        parameters={"reference_day": str(day), "candidates": account["candidates"]},
        day=day,
        site=site,
    )
    pages = localise_site(site, suites=2)
    progress("validate", 2, 4)
    results = [
        RuleResult(
            rule=rule.rule,
            severity=rule.severity,
            scope=rule.scope,
            on_fail=rule.on_fail,
            success=outcome.verdicts[rule.rule].success,
            evaluated=outcome.verdicts[rule.rule].evaluated,
            checked=outcome.verdicts[rule.rule].checked,
            failed=outcome.verdicts[rule.rule].failed,
            note=rule.text,
        )
        for rule in suites.rules
    ]
    evaluated = [rule for rule in outcome.row_rules if outcome.verdicts[rule.rule].evaluated]
    own = _quarantine_rows(duck, evaluated, suites.row.rules)
    _require_parity(results, own)
    progress("validate", 3, 4)
    quarantine, bad_keys = folder / "quarantine.parquet", folder / "bad_keys.parquet"
    duck.run("validate/30_quarantine", structural=str(structural), destination=str(quarantine))
    duck.run("validate/40_bad_keys", destination=str(bad_keys))
    total, by_rules, without_reason = duck.row(
        "validate/70_written", quarantine=str(quarantine), bad_keys=str(bad_keys)
    )
    if without_reason:
        raise ContractViolation(
            f"{without_reason} doses of {day} are in quarantine without a reason. Defect of flatten."
        )
    by_reason: dict[str, int] = {}
    by_uf: dict[str, dict[str, int]] = {}
    for uf, reason, count in duck.rows("validate/60_quarantine_counts", quarantine=str(quarantine)):
        by_reason[str(reason)] = by_reason.get(str(reason), 0) + int(count)
        by_uf.setdefault(str(uf), {})[str(reason)] = int(count)
    progress("validate", 4, 4)
    return ValidateOutcome(
        rules=results,
        checked=account["candidates"],
        quarantined_by_rules=int(by_rules),
        quarantined=int(total),
        by_reason=dict(sorted(by_reason.items())),
        by_uf=by_uf,
        held_because=[rule.rule for rule in results if holds(rule)],
        warnings=[rule.rule for rule in results if not rule.success and not holds(rule) and rule.severity == "warning"],
        quarantine=quarantine,
        bad_keys=bad_keys,
        site=site,
        pages=pages,
        results=outcome.results,
    )


def holds(rule: RuleResult) -> bool:
    """Whether a rule closes the gate: critical and failed, or not evaluated at all, whatever its severity."""
    return not rule.evaluated or (rule.severity == "critical" and not rule.success)


def _account(flatten: FlattenReceipt) -> dict[str, int]:
    return {
        "fetched": flatten.documents.fetched,
        "unique_documents": flatten.documents.unique,
        "duplicates": flatten.documents.duplicates,
        "doses": flatten.doses,
        "candidates": flatten.candidates,
        "quarantined": flatten.quarantined,
        "superseded": flatten.superseded,
        "removed": flatten.removed_doses,
    }


def _require_columns(duck: Engine, suites: Suites) -> None:
    """A rule on a column that does not exist would take all the other rules of its query with it; name it instead."""
    for suite in (suites.row, suites.day):
        there = {str(name) for (name,) in duck.rows("validate/80_columns", name=suite.table)}
        for rule in suite.rules:
            absent = sorted(_columns(rule) - there)
            if absent:
                raise ContractViolation(
                    f"Rule {rule.rule} needs column(s) {', '.join(absent)}, which {suite.table} does not have. "
                    f"Mend expectations/{suite.name}.json, or the SQL that makes the table."
                )


def _columns(rule: Rule) -> set[str]:
    """Columns that a rule names in the usual arguments; others show up when the rule is evaluated."""
    found = {str(rule.kwargs[key]) for key in ("column", "column_A", "column_B") if key in rule.kwargs}
    return found | {str(name) for name in rule.kwargs.get("column_list", [])}


def _quarantine_rows(duck: Engine, compiled: Sequence[RowRule], rules: Sequence[Rule]) -> dict[str, int]:
    """Make the table of bad rows, and count per rule: taken-out rows for quarantine rules, broken rows for flags."""
    taking = {rule.rule for rule in rules if rule.on_fail == "quarantine"}
    order = [rule.rule for rule in rules]
    in_order = sorted(compiled, key=lambda rule: order.index(rule.rule))
    quarantine = [rule for rule in in_order if rule.rule in taking]
    flags = [rule for rule in in_order if rule.rule not in taking]
    relation = TABLES[ROW_SUITE]
    duck.execute("validate/bad rows", bad_rows_table(_BAD_ROWS, quarantine, relation=relation, key=_KEY, carry=_CARRY))
    own = {rule.rule: 0 for rule in quarantine}
    own |= {str(rule): int(count) for rule, count in duck.rows("validate/50_rule_counts")}
    if flags:
        counts = duck.execute("validate/flags", counts_select(flags, relation=relation)).fetchall()[0]
        own |= {rule.rule: int(count) for rule, count in zip(flags, counts, strict=True)}
    return own


def _require_parity(results: Sequence[RuleResult], own: Mapping[str, int]) -> None:
    """What was taken out is what was counted, rule by rule."""
    for rule in results:
        if rule.scope == "row" and rule.evaluated and own.get(rule.rule) != rule.failed:
            raise ContractViolation(
                f"Rule {rule.rule}: {own.get(rule.rule)} rows were found by the compiled rule, Great Expectations counted "
                f"{rule.failed}. Nothing was published. A version of great_expectations, duckdb or SQLAlchemy changed; "
                f"see {_RUNBOOK}."
            )


def _sentence(rule: RuleResult) -> str:
    if not rule.evaluated:
        return f"{rule.rule} could not be evaluated, so the day is not trusted: {rule.note}."
    if rule.scope == "day":
        return f"{rule.rule} failed: {rule.note}."
    share = 100 * rule.failed / rule.checked if rule.checked else 0.0
    return f"{rule.rule} failed on {rule.failed} of {rule.checked} doses checked ({share:.2f} %): {rule.note}."


def _put_docs(work: ObjectStore, day: str, site: Path, pages: Sequence[Path]) -> None:
    """Copy the pages of a day, the index last: a link never leads to a page that is not there yet."""
    put_static(work, f"{DOCS}static/")
    folder = docs_key(day).rpartition("/")[0]
    for path in pages:
        work.put(f"{folder}/{path.relative_to(site).as_posix()}", path.read_bytes(), content_type=content_type(path))
