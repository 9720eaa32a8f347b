"""One run of Great Expectations over a day. Importing this module imports the library: only inside a task.

The context lives in memory only; results leave it as counts. What a rule raised is reduced to the name of its exception
before a page or a file is written, because the text of a database error can quote the value that it stumbled over.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import great_expectations as gx
import sqlalchemy as sa
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import DataContextConfig, ProgressBarsConfig
from great_expectations.exceptions import GreatExpectationsError

from imunizacao.errors import ContractViolation, StorageUnavailable
from imunizacao.reference_day import ReferenceDay
from imunizacao.sql import Engine
from imunizacao.sql.compile import RowRule
from imunizacao.validate import gx_expectations
from imunizacao.validate.gx_kwargs import configuration_read_once
from imunizacao.validate.gx_rules import compile_row_rules
from imunizacao.validate.gx_source import add_duckdb
from imunizacao.validate.suites import Suite, Suites

_SOURCE: Final = "duckdb"
_SITE: Final = "docs"
_RESULT_FORMAT: Final = {"result_format": "SUMMARY", "partial_unexpected_count": 0}
"""Counts and shares; not one value of a row."""
_NUMBERS: Final = (
    "element_count",
    "unexpected_count",
    "unexpected_percent",
    "unexpected_percent_total",
    "unexpected_percent_nonmissing",
    "missing_count",
    "missing_percent",
    "observed_value",
)
_OUT_OF_RESOURCES: Final = frozenset({"OutOfMemoryException", "IOException", "MemoryError"})
_EXCEPTION: Final = re.compile(r"\b([A-Za-z]+(?:Exception|Error))\b")
_OWN_EXPECTATIONS: Final = (
    gx_expectations.ExpectColumnValuesToBeFilledAndMatchRegex,
    gx_expectations.ExpectColumnValuesToBeFilledAndInSet,
    gx_expectations.ExpectColumnPairValuesAToStartWithB,
)
"""Named here so that their registration cannot be lost with an import that looks unused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the library found about one rule: counts only."""

    success: bool
    evaluated: bool
    checked: int
    failed: int
    exception: str
    """Class name of what was raised; empty when the rule was evaluated."""
    observed: float | None = None
    """What a rule on a whole column or table found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GxOutcome:
    """A run over all suites."""

    verdicts: dict[str, Verdict]
    row_rules: list[RowRule]
    """All row rules as SQL, flags included."""
    uf_rules: list[RowRule]
    """The rules per UF as SQL: which UFs break them."""
    results: dict[str, Any]
    """Suite → the library's result, scrubbed, ready for JSON."""


def run_suites(
    duck: Engine,
    suites: Suites,
    *,
    parameters: Mapping[str, str | int],
    day: ReferenceDay,
    site: Path,
    history: str = "",
    after_rows: Callable[[list[RowRule], Mapping[str, Verdict]], None] | None = None,
) -> GxOutcome:
    """Judge the tables of all suites in `duck`, compile the row rules, and build the Data Docs of the day in `site`.

    `after_rows` is called between the suites, with the compiled row rules and their verdicts: it makes the table that the day
    rules judge, which counts what the row rules take out. `history` says in the pages how much there was to compare the day
    with. Nothing is decided here. Raises `ContractViolation` when a suite cannot be loaded or compiled, `StorageUnavailable` when
    the machine ran out of memory or disk while a rule was evaluated.
    """
    try:
        with _quiet(), configuration_read_once():
            return _run_suites(
                duck, suites, parameters=parameters, day=day, site=site, history=history, after_rows=after_rows
            )
    except (GreatExpectationsError, sa.exc.SQLAlchemyError) as error:
        # Their texts can quote values: only the kind may leave.
        raise ContractViolation(
            f"Great Expectations failed with {type(error).__name__} on {day}. Nothing was published. This is a defect of a "
            "suite or of the pipeline; see docs/runbook/day-held.md."
        ) from None


def _run_suites(
    duck: Engine,
    suites: Suites,
    *,
    parameters: Mapping[str, str | int],
    day: ReferenceDay,
    site: Path,
    history: str,
    after_rows: Callable[[list[RowRule], Mapping[str, Verdict]], None] | None,
) -> GxOutcome:
    context = _open_context(site)
    source = add_duckdb(context, duck, name=_SOURCE)
    identity = RunIdentifier(
        run_name=str(day), run_time=datetime(day.value.year, day.value.month, day.value.day, tzinfo=UTC)
    )
    verdicts: dict[str, Verdict] = {}
    results: dict[str, Any] = {}
    row_rules: list[RowRule] = []
    uf_rules: list[RowRule] = []
    for suite in suites.all:
        asset = source.add_table_asset(name=suite.table, table_name=suite.table)
        batch = asset.add_batch_definition_whole_table("day")
        loaded = context.suites.add(load_into_gx(suite, parameters, history=history))
        if suite is suites.row:
            row_rules = compile_row_rules(loaded, batch.get_batch(), source.get_execution_engine())
        if suite is suites.uf:
            uf_rules = compile_row_rules(loaded, batch.get_batch(), source.get_execution_engine(), scope="day")
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=suite.name, data=batch, suite=loaded)
        )
        result = definition.run(result_format=_RESULT_FORMAT, run_id=identity)
        verdicts |= _verdicts(suite, result)
        _replace_stored_result(context, suite.name, result)
        results[suite.name] = result.to_json_dict()
        source.get_execution_engine().end_transaction()
        if suite is suites.row and after_rows is not None:
            after_rows(row_rules, verdicts)
    context.build_data_docs(site_names=[_SITE])
    source.get_execution_engine().close()
    return GxOutcome(verdicts=verdicts, row_rules=row_rules, uf_rules=uf_rules, results=results)


def judge_suite(
    duck: Engine, suite: Suite, *, parameters: Mapping[str, str | int], day: ReferenceDay
) -> dict[str, Verdict]:
    """Judge one suite without a page: what a rule says of a table that was made for it."""
    with _quiet():
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        source = add_duckdb(context, duck, name=_SOURCE)
        batch = source.add_table_asset(name=suite.table, table_name=suite.table).add_batch_definition_whole_table("day")
        loaded = context.suites.add(load_into_gx(suite, parameters))
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=suite.name, data=batch, suite=loaded)
        )
        verdicts = _verdicts(suite, definition.run(result_format=_RESULT_FORMAT))
        source.get_execution_engine().close()
    return verdicts


def load_into_gx(suite: Suite, parameters: Mapping[str, str | int], *, history: str = "") -> Any:
    """The suite as the library's object. It logs and *drops* what it does not understand, so the rules are counted."""
    document = suite.with_parameters(parameters, history=history)
    try:
        loaded = gx.ExpectationSuite(**document)
    except (GreatExpectationsError, ValueError, TypeError) as error:
        raise ContractViolation(
            f"Suite {suite.name} cannot be loaded: {type(error).__name__}: {error}. Mend expectations/{suite.name}.json."
        ) from error
    known = {one.meta["rule"] for one in loaded.expectations}
    dropped = [rule.rule for rule in suite.rules if rule.rule not in known]
    if dropped or len(loaded.expectations) != len(suite.rules):
        raise ContractViolation(
            f"Great Expectations dropped {', '.join(dropped) or 'a rule'} of suite {suite.name}: mistyped `type` or "
            f"arguments? A day judged without it would look clean. Mend expectations/{suite.name}.json."
        )
    return loaded


def _verdicts(suite: Suite, result: Any) -> dict[str, Verdict]:
    found = {}
    for one in result.results:
        rule = one.expectation_config.meta["rule"]
        exception = _raised(one.exception_info)
        if exception in _OUT_OF_RESOURCES:
            raise StorageUnavailable(
                f"Rule {rule} could not be evaluated: {exception}. Raise IMUNIZACAO_MEMORY_LIMIT or free scratch disk, then "
                "run the task again."
            )
        _scrub(one, exception)
        found[rule] = _verdict(one, exception)
    missing = [rule.rule for rule in suite.rules if rule.rule not in found]
    if missing:
        raise ContractViolation(f"Great Expectations gave no result for {', '.join(missing)} of suite {suite.name}.")
    return found


def _verdict(one: Any, exception: str) -> Verdict:
    numbers = one.result
    elements = int(numbers.get("element_count") or 0)
    if not exception and "element_count" in numbers:
        # Of an empty table the library gives no other number.
        checked, failed = elements - int(numbers.get("missing_count") or 0), int(numbers.get("unexpected_count") or 0)
    else:
        # A rule on a whole column or table judges one thing.
        checked, failed = (0, 0) if exception else (1, 0 if one.success else 1)
    return Verdict(
        success=bool(one.success) and not exception,
        evaluated=not exception,
        checked=checked,
        failed=failed,
        exception=exception,
        observed=None if exception or "observed_value" not in numbers else float(numbers["observed_value"]),
    )


def _raised(info: Any) -> str:
    """Class name of what a rule raised; the library has one or many descriptions, with or without a key per metric."""
    if not info:
        return ""
    parts = [info] if "raised_exception" in info else list(info.values())
    names = [_exception_name(part) for part in parts if part.get("raised_exception")]
    return next((name for name in names if name in _OUT_OF_RESOURCES), names[0] if names else "")


def _exception_name(part: Mapping[str, Any]) -> str:
    message = str(part.get("exception_message") or "")
    # "(_duckdb.BinderException) Binder Error: …": only the class in front, never what follows.
    if front := re.match(r"\((?:\w+\.)*(\w+)\)", message):
        return front.group(1)
    lines = [line for line in str(part.get("exception_traceback") or "").splitlines() if line[:1].isalpha()]
    names = [found.group(1) for line in lines if (found := _EXCEPTION.search(line.partition(":")[0]))]
    return names[-1] if names else "Exception"


def _scrub(one: Any, exception: str) -> None:
    one.result = {
        key: value
        for key in _NUMBERS
        if isinstance(value := one.result.get(key), int | float) and not isinstance(value, bool)
    }
    if "unexpected_count" in one.result:
        one.result["partial_unexpected_list"] = []
    if exception:
        one.exception_info = {
            "raised_exception": True,
            "exception_message": f"Not evaluated: {exception}",
            "exception_traceback": "",
        }


def _replace_stored_result(context: Any, suite: str, result: Any) -> None:
    store = context.validation_results_store
    keys = [key for key in store.list_keys() if key.expectation_suite_identifier.name == suite]
    if len(keys) != 1:
        raise ContractViolation(f"Suite {suite} left {len(keys)} results in memory, expected 1.")
    store.set(keys[0], result)


def _open_context(site: Path) -> Any:
    memory = {"class_name": "InMemoryStoreBackend"}

    def section(store: str, renderer: str) -> dict[str, Any]:
        return {
            "class_name": "DefaultSiteSectionBuilder",
            "source_store_name": store,
            "renderer": {"class_name": renderer},
        }

    config = DataContextConfig(
        store_backend_defaults=None,
        config_version=4,
        analytics_enabled=False,
        expectations_store_name="suites",
        validation_results_store_name="results",
        checkpoint_store_name="checkpoints",
        stores={
            "suites": {"class_name": "ExpectationsStore", "store_backend": dict(memory)},
            "results": {"class_name": "ValidationResultsStore", "store_backend": dict(memory)},
            "checkpoints": {"class_name": "CheckpointStore", "store_backend": dict(memory)},
            "validation_definition_store": {
                "class_name": "ValidationDefinitionStore",
                "store_backend": dict(memory),
            },
        },
        data_docs_sites={
            _SITE: {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,
                "store_backend": {
                    "class_name": "TupleFilesystemStoreBackend",
                    "base_directory": str(site.resolve()),
                },
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "site_section_builders": {
                    "profiling": "None",  # the text: a real None crashes the site builder
                    "expectations": section("suites", "ExpectationSuitePageRenderer"),
                    "validations": section("results", "ValidationResultsPageRenderer"),
                },
            }
        },
    )
    context = gx.get_context(project_config=config, mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the library prints, logs and warns of out of the task log: it prints tracebacks that can quote values."""
    loggers = [logging.getLogger(name) for name in ("great_expectations", "sqlalchemy", "py.warnings")]
    before = [(logger, logger.disabled, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled, level, propagate in before:
            logger.disabled, logger.propagate = disabled, propagate
            logger.setLevel(level)
