"""The stage: evaluate, quarantine, report, decide. A day is never held by raising here: what was found is written first."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imunizacao import paths
from imunizacao.docs_index import DOCS, docs_key
from imunizacao.errors import ContractViolation, DayHeld
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.findings import short_list
from imunizacao.models import FlattenReceipt, RuleResult, RunContext, ValidateReceipt, fingerprint
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine
from imunizacao.sql.compile import RowRule, bad_rows_table, counts_select, reasons_select, view_on_parquet
from imunizacao.storage import ObjectStore, file_ref, put_receipt, read_receipt
from imunizacao.validate.assets import content_type, put_static
from imunizacao.validate.gx import run_suites
from imunizacao.validate.history import (
    NO_HISTORY,
    History,
    Profile,
    load_history,
    profile_of,
    put_profile,
    read_history,
)
from imunizacao.validate.pages import localise_site
from imunizacao.validate.suites import ROW_SUITE, TABLES, UF_SUITE, Rule, Suite, Suites, load_suites

if TYPE_CHECKING:
    from imunizacao.validate.gx_run import Verdict

STAGE: Final = "validate"

_KEY: Final = ("nu_parte", "nu_linha", "nu_dose")
_CARRY: Final = ("co_documento", "co_cnes_estabelecimento", "in_co_uf_estabelecimento")
_BAD_ROWS: Final = "dose_reprovada"
_RUNBOOK: Final = "docs/runbook/day-held.md"


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
    when a critical rule failed or when any rule could not be evaluated; with `asks`, a person decides. Raises
    `ContractViolation` when a suite is unsound, when the physical key is not unique, or when a rule quarantined another number of rows than Great Expectations counted.
    A valid receipt of the same inputs (tables, account, rules, code, counts of earlier days) is returned as it is. A day that may
    be published leaves its own counts for the weeks after it.
    """
    suites = load_suites(expectations)
    account = _account(flatten)
    history = read_history(work, context.day)
    mark = fingerprint(
        STAGE,
        context.code_version,
        {
            "dose": flatten.dose.sha256,
            "quarantine": flatten.quarantine.sha256,
            "account": repr(sorted(account.items())),
            "suites": suites.sha256,
            "history": history.sha256,
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
                history=history,
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
            asks=outcome.asks,
        )
        if receipt.publish:
            put_profile(work, outcome.profile)
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
        asks=",".join(receipt.asks) or None,
        seconds=receipt.seconds,
    )
    return receipt


def require_publishable(receipt: ValidateReceipt) -> None:
    """Raise `DayHeld`, with one sentence per rule that holds the day, unless the day may be published."""
    if receipt.publish:
        return
    held = receipt.failed(receipt.held_because)
    sentences = [sentence(rule) for rule in held]
    raise DayHeld(
        f"{receipt.day} is held by {len(sentences)} rule(s). Nothing was published; what readers see stays as it was.\n"
        + "\n".join(sentences)
        + f"\nReport: {receipt.docs_key} in the work bucket. What to do: {_RUNBOOK}.",
        note=f"{receipt.day} retido, nada mudou para quem lê: {short_list(held)}. O que fazer: {_RUNBOOK}",
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
    asks: list[str]
    quarantine: Path
    bad_keys: Path
    site: Path
    pages: list[Path]
    """Data Docs below `site`, the index last."""
    results: dict[str, Any]
    profile: Profile
    """Counts of the day, for the weeks after it."""


def run_validate(
    duck: Engine,
    *,
    suites: Suites,
    day: ReferenceDay,
    dose: Path,
    structural: Path,
    account: Mapping[str, int],
    folder: Path,
    history: History = NO_HISTORY,
    progress: Progress = no_progress,
) -> ValidateOutcome:
    """Judge local Parquet files and write `quarantine.parquet`, `bad_keys.parquet` and `site/` into `folder`.

    `account` holds the counts of flatten under the parameter names of `sql/validate/10_resumo_dia.sql`, `history` what the
    day is compared with.
    """
    progress("validate", 0, 4)
    make_tables(duck, dose=dose, history=history)
    without_key, repeated = duck.row("validate/20_key_check", quarantine=str(structural))
    if without_key or repeated:
        raise ContractViolation(
            f"{without_key} rows of {day} have no physical key and {repeated} keys are used more than once. Nothing was "
            "published. This is a defect of flatten; see docs/runbook/account-gap.md."
        )
    _require_columns(duck, suites.row)
    _require_columns(duck, suites.uf)
    progress("validate", 1, 4)
    own: dict[str, int] = {}

    def take_rows_out(compiled: Sequence[RowRule], verdicts: Mapping[str, Verdict]) -> None:
        evaluated = [rule for rule in compiled if verdicts[rule.rule].evaluated]
        own.update(_take_rows_out(duck, evaluated, suites.row.rules, structural=structural, account=account))
        _require_columns(duck, suites.day)
        progress("validate", 2, 4)

    site = folder / "site"
    outcome = run_suites(
        duck,
        suites,
        parameters={"reference_day": str(day), "candidates": account["candidates"]},
        day=day,
        site=site,
        history=history.text,
        after_rows=take_rows_out,
    )
    pages = localise_site(site, suites=len(suites.all))
    uf_rules = [rule for rule in outcome.uf_rules if outcome.verdicts[rule.rule].evaluated]
    places = _bad_ufs(duck, uf_rules)
    own |= {rule.rule: len(places.get(rule.rule, [])) for rule in uf_rules}
    compared = _compared(duck)
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
            note=rule.text_with(history.text) + _places(places.get(rule.rule, [])),
            observed=_observed(rule, outcome.verdicts[rule.rule], compared),
            compares_history=rule.compares_history,
        )
        for rule in suites.rules
    ]
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
        held_because=[rule.rule for rule in results if rule.holds],
        warnings=[rule.rule for rule in results if not rule.success and not rule.holds and rule.severity == "warning"],
        asks=[rule.rule for rule in results if rule.asks],
        quarantine=quarantine,
        bad_keys=bad_keys,
        site=site,
        pages=pages,
        results=outcome.results,
        profile=profile_of(duck, day, account["candidates"]),
    )


def make_tables(duck: Engine, *, dose: Path, history: History = NO_HISTORY) -> None:
    """Make what the suites on rows and UFs judge: the view on the doses, and the summary of the UFs."""
    duck.execute("validate/view", view_on_parquet(TABLES[ROW_SUITE], [str(dose)]))
    load_history(duck, history.profiles)
    duck.run("validate/04_contagem")
    duck.run("validate/11_resumo_uf")


def make_summary(duck: Engine, *, compiled: Sequence[RowRule], structural: Path, account: Mapping[str, int]) -> None:
    """Take out the rows that break a rule of `compiled`, and make the summary of the day, which counts them."""
    duck.execute(
        "validate/bad rows", bad_rows_table(_BAD_ROWS, compiled, relation=TABLES[ROW_SUITE], key=_KEY, carry=_CARRY)
    )
    duck.run("validate/10_resumo_dia", quarantine=str(structural), **account)


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


def _require_columns(duck: Engine, suite: Suite) -> None:
    """A rule on a column that does not exist would take all the other rules of its query with it; name it instead."""
    there = {str(name) for (name,) in duck.rows("validate/80_columns", name=suite.table)}
    for rule in suite.rules:
        absent = sorted(rule.columns - there)
        if absent:
            raise ContractViolation(
                f"Rule {rule.rule} needs column(s) {', '.join(absent)}, which {suite.table} does not have. "
                f"Mend expectations/{suite.name}.json, or the SQL that makes the table."
            )


def _bad_ufs(duck: Engine, compiled: Sequence[RowRule]) -> dict[str, list[str]]:
    """Rule per UF → the UFs that break it. (A UF is a public name: it may stand in a note.)"""
    found: dict[str, list[str]] = {}
    if compiled:
        select = reasons_select(compiled, relation=TABLES[UF_SUITE], key=("sg_uf",), carry=())
        for uf, _, rules in sorted(duck.execute("validate/ufs", select).fetchall()):
            for rule in rules:
                found.setdefault(rule, []).append(str(uf))
    return found


def _compared(duck: Engine) -> dict[str, float | None]:
    """What the day rules compare with earlier days: column → value."""
    return {str(name): value for name, value in duck.rows("validate/81_compared")}


def _observed(rule: Rule, verdict: Verdict, compared: Mapping[str, float | None]) -> float | None:
    """What a day rule found: the value of the summary, or the percentage of the column that is filled."""
    if rule.scope == "row" or not verdict.evaluated:
        return None
    if rule.suite == ROW_SUITE and "mostly" in rule.kwargs and verdict.checked:
        return 100 * (verdict.checked - verdict.failed) / verdict.checked
    return compared.get(str(rule.kwargs.get("column")), verdict.observed)


def _places(ufs: Sequence[str]) -> str:
    return f": {', '.join(ufs)}" if ufs else ""


def _take_rows_out(
    duck: Engine,
    compiled: Sequence[RowRule],
    rules: Sequence[Rule],
    *,
    structural: Path,
    account: Mapping[str, int],
) -> dict[str, int]:
    """Make the table of bad rows and the summary of the day, and count per rule: taken-out rows for quarantine rules, broken rows for flags."""
    taking = {rule.rule for rule in rules if rule.on_fail == "quarantine"}
    order = [rule.rule for rule in rules]
    in_order = sorted(compiled, key=lambda rule: order.index(rule.rule))
    quarantine = [rule for rule in in_order if rule.rule in taking]
    flags = [rule for rule in in_order if rule.rule not in taking]
    relation = TABLES[ROW_SUITE]
    make_summary(duck, compiled=quarantine, structural=structural, account=account)
    own = {rule.rule: 0 for rule in quarantine}
    own |= {str(rule): int(count) for rule, count in duck.rows("validate/50_rule_counts")}
    if flags:
        counts = duck.execute("validate/flags", counts_select(flags, relation=relation)).fetchall()[0]
        own |= {rule.rule: int(count) for rule, count in zip(flags, counts, strict=True)}
    return own


def _require_parity(results: Sequence[RuleResult], own: Mapping[str, int]) -> None:
    """What was taken out is what was counted, rule by rule."""
    for rule in results:
        row_by_row = rule.scope == "row" or rule.rule in own
        if row_by_row and rule.evaluated and own.get(rule.rule) != rule.failed:
            raise ContractViolation(
                f"Rule {rule.rule}: {own.get(rule.rule)} rows were found by the compiled rule, Great Expectations counted "
                f"{rule.failed}. Nothing was published. A version of great_expectations, duckdb or SQLAlchemy changed; "
                f"see {_RUNBOOK}."
            )


def sentence(rule: RuleResult) -> str:
    """What a failed rule found, for the one who has to act."""
    if not rule.evaluated:
        return f"{rule.rule} could not be evaluated, so the day is not trusted: {rule.note}."
    if rule.scope == "day" and rule.checked <= 1:
        found = "" if rule.observed is None else f" at {round(rule.observed, 4):.12g}"
        return f"{rule.rule} failed{found}: {rule.note}."
    share = 100 * rule.failed / rule.checked if rule.checked else 0.0
    what = "doses" if rule.scope == "row" else "values"
    return f"{rule.rule} failed on {rule.failed} of {rule.checked} {what} checked ({share:.2f} %): {rule.note}."


def _put_docs(work: ObjectStore, day: str, site: Path, pages: Sequence[Path]) -> None:
    """Copy the pages of a day, the index last: a link never leads to a page that is not there yet."""
    put_static(work, f"{DOCS}static/")
    folder = docs_key(day).rpartition("/")[0]
    for path in pages:
        work.put(f"{folder}/{path.relative_to(site).as_posix()}", path.read_bytes(), content_type=content_type(path))
