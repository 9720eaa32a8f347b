"""The stage over a real object store: gate, quarantine, report, reuse."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imunizacao import paths
from imunizacao.errors import ContractViolation, DayHeld, StorageUnavailable
from imunizacao.models import (
    DocumentAccount,
    FlattenReceipt,
    ReferenceVersions,
    RuleResult,
    RunContext,
    ValidateReceipt,
)
from imunizacao.settings import EngineSettings
from imunizacao.sql.compile import RowRule
from imunizacao.storage import ObjectStore, file_ref
from imunizacao.validate import docs_key, require_publishable, validate_day
from imunizacao.validate import stage as module
from imunizacao.validate.assets import static_files, static_version
from imunizacao.validate.gx import load_library
from imunizacao.validate.history import profile_key
from imunizacao.validate.pages import foreign_loads
from imunizacao.validate.suites import load_suites
from tests.expectations.tables import DAY, closed_account, good_row, judge, read_rows, structural_row, write_tables
from tests.support.rules import SUITE_FILES, suites_with

FEW = frozenset(
    f"IMU-{number:03d}"
    for number in (1, 2, 3, 8, 9, 10, 12, 16, 17, 18, 19, 22, 101, 102, 103, 104, 105, 110, 190, 191, 201, 202)
)
CANARY = "MARIA DA SILVA 700000000000005"
Rows = Sequence[Mapping[str, Any]]


def run_context(run_id: str = "r1") -> RunContext:
    return RunContext.create(day=DAY, run_id=run_id, code_version="c0ffee000000")


def flatten_receipt(work: ObjectStore, folder: Path, rows: Rows, structural: Rows = ()) -> FlattenReceipt:
    """Upload the tables as flatten does."""
    context = run_context()
    dose, quarantine = write_tables(folder, rows, structural)
    account = closed_account(len(rows), len(structural))
    prefix = context.prefix("flatten")
    return FlattenReceipt(
        stage="flatten",
        day=str(DAY),
        run_id=context.run_id,
        code_version=context.code_version,
        fingerprint="f",
        dose=file_ref(work, prefix + "dose.parquet", dose, rows=len(rows)),
        quarantine=file_ref(work, prefix + "quarantine_dose.parquet", quarantine, rows=len(structural)),
        removed=file_ref(work, prefix + "removed.parquet", quarantine),
        documents=DocumentAccount(
            fetched=account["fetched"], unique=account["unique_documents"], duplicates=account["duplicates"]
        ),
        doses=account["doses"],
        candidates=account["candidates"],
        quarantined=account["quarantined"],
        superseded=0,
        removed_doses=0,
        slow_path=0,
        pseudonym_key_id="k1",
        references=ReferenceVersions(cnes_competencia="202602", cnes_sha256="", ibge_sha256="", pni_sha256=""),
    )


@pytest.fixture
def validated(work: ObjectStore, tmp_path: Path, few: Path) -> Callable[..., ValidateReceipt]:
    """Run the stage over made rows."""

    def run(rows: Rows, structural: Rows = (), **options: Any) -> ValidateReceipt:
        receipt = flatten_receipt(work, tmp_path, rows, structural)
        return validate_day(
            run_context(),
            flatten=receipt,
            work=work,
            engine=EngineSettings(scratch_dir=tmp_path),
            **{"expectations": few, **options},
        )

    return run


def few_rules(name: str) -> str:
    """The text of a suite with few rules: what the stage does with a rule does not depend on how many there are."""
    with tempfile.TemporaryDirectory() as folder:
        return (suites_with(Path(folder), FEW) / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of suites with few rules."""
    return suites_with(tmp_path_factory.mktemp("few"), FEW)


def bad_day() -> list[dict[str, Any]]:
    """100 good rows and 20 of the future: above the tolerance of IMU-009."""
    return [good_row(n) for n in range(100)] + [good_row(n, dt_vacina=date(2030, 1, 1)) for n in range(100, 120)]


@pytest.mark.servers
def test_a_good_day_may_be_published(
    validated: Callable[..., ValidateReceipt], work: ObjectStore, tmp_path: Path
) -> None:
    rows = [good_row(n) for n in range(100)]
    rows += [
        good_row(100, co_vacina=None, sg_vacina=None, in_co_uf_estabelecimento=None),
        good_row(101, co_lote_vacina=None),
    ]
    receipt = validated(rows, [structural_row(1, uf="35"), structural_row(2, "JSON_INVALID")])
    assert receipt.publish
    assert (receipt.checked, receipt.quarantined_by_rules, receipt.quarantined) == (102, 1, 3)
    assert receipt.quarantined_by_reason == {"CNES_UNKNOWN": 1, "JSON_INVALID": 1, "VACCINE_MISSING": 1}
    assert receipt.quarantined_by_uf == {"00": {"JSON_INVALID": 1, "VACCINE_MISSING": 1}, "35": {"CNES_UNKNOWN": 1}}
    assert (receipt.bad_keys.rows, receipt.quarantine.rows) == (1, 3)
    lot = next(rule for rule in receipt.rules if rule.rule == "IMU-016")
    assert (lot.on_fail, lot.failed, lot.checked, lot.success) == ("flag", 1, 102, True)
    require_publishable(receipt)
    for ref, name in ((receipt.bad_keys, "keys"), (receipt.quarantine, "quarantine")):
        work.download(ref.key, tmp_path / name, sha256=ref.sha256)
    assert read_rows(tmp_path / "keys") == [{"nu_parte": 1, "nu_linha": 100, "nu_dose": 0}]
    assert [(row["nu_parte"], row["nu_linha"], row["ds_motivos"], row["ds_regras"]) for row in read_rows(tmp_path / "quarantine")] == [
        (1, 100, ["VACCINE_MISSING"], ["IMU-012"]),
        (2, 1, ["CNES_UNKNOWN"], []),
        (2, 2, ["JSON_INVALID"], []),
    ]  # fmt: skip


@pytest.mark.servers
def test_a_held_day_still_has_its_receipt_quarantine_and_report(
    validated: Callable[..., ValidateReceipt], work: ObjectStore
) -> None:
    receipt = validated(bad_day())
    assert not receipt.publish
    assert receipt.held_because == ["IMU-009", "IMU-191"]
    assert receipt.warnings == ["IMU-017"]
    assert (receipt.quarantined_by_rules, receipt.quarantined_by_reason) == (20, {"DATE_FUTURE": 20})
    assert work.info(receipt.quarantine.key) is not None
    assert work.info(receipt.docs_key) is not None
    assert receipt.docs_key == docs_key(str(DAY)) == "v1/docs/day=2026-03-14/index.html"
    with pytest.raises(DayHeld) as held:
        require_publishable(receipt)
    for part in (
        "2026-03-14 is held by 2 rule(s)",
        "IMU-009 failed on 20 of 120 doses checked (16.67 %): A vacinação não é posterior ao dia de referência "
        "(tolerância do dia: 5 % das linhas avaliadas).",
        "IMU-191 failed at 16.6667: Percentual das doses avaliadas que está em quarentena",
        receipt.docs_key,
        "docs/runbook/day-held.md",
    ):
        assert part in str(held.value)
    assert (paths.ROOT / "docs/runbook/day-held.md").is_file()
    assert held.value.note == (
        "2026-03-14 retido, nada mudou para quem lê: IMU-009 A vacinação não é posterior ao dia de referência (tolerância do dia: 5 % "
        "das linhas avaliadas): 20 de 120 doses; IMU-191 Percentual das doses avaliadas que está em quarentena: "
        "acima deste limite, o dia não sai (limite: até 10): 16,67. O que fazer: docs/runbook/day-held.md"
    )


@pytest.mark.servers
def test_a_share_between_the_two_limits_asks_a_person_and_holds_nothing(
    validated: Callable[..., ValidateReceipt], work: ObjectStore
) -> None:
    """Two of the five are structural, three a row rule takes out: only together they pass the limit of 3 %."""
    rows = [good_row(n) for n in range(95)] + [good_row(n, co_vacina=None, sg_vacina=None) for n in range(95, 98)]
    receipt = validated(rows, [structural_row(1, uf="35"), structural_row(2, uf="35")])
    assert (receipt.publish, receipt.held_because, receipt.asks) == (True, [], ["IMU-190"])
    (asking,) = receipt.failed(receipt.asks)
    assert (asking.on_fail, asking.observed, asking.checked, asking.failed) == ("ask", 5.0, 1, 1)
    require_publishable(receipt)


@pytest.mark.servers
def test_the_report_needs_no_other_host_and_shows_no_value(
    validated: Callable[..., ValidateReceipt], work: ObjectStore
) -> None:
    rows = [*bad_day(), good_row(500, co_documento=CANARY, co_lote_vacina=CANARY + "\n", co_vacina=CANARY)]
    receipt = validated(rows)
    keys = [item.key for item in work.list("v1/docs/day=2026-03-14/")]
    assert len(keys) == 7
    for key in keys:
        page = work.get(key).body.decode()
        assert foreign_loads(page) == set()
        assert f"static/{static_version()}/jquery.min.js" in page
        assert "MARIA" not in page
        info = work.info(key)
        assert info is not None
        assert info.content_type == "text/html; charset=utf-8"
    folder = f"v1/docs/static/{static_version()}/"
    assert {item.key.removeprefix(folder) for item in work.list(folder)} == {
        path.relative_to(path.parents[len(path.parts) - 2 - path.parts.index("static")]).as_posix()
        for path in static_files()
    }
    for key in ("result.json", "receipt.json"):
        body = work.get(run_context().prefix("validate") + key).body.decode()
        assert "IMU-009" in body
        assert "MARIA" not in body
    assert "MARIA" not in receipt.to_json()


@pytest.mark.servers
def test_a_valid_receipt_is_returned_and_another_account_is_not(
    work: ObjectStore, tmp_path: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flatten = flatten_receipt(work, tmp_path, [good_row(1)])
    engine = EngineSettings(scratch_dir=tmp_path)
    first = validate_day(run_context(), flatten=flatten, work=work, engine=engine, expectations=few)
    monkeypatch.setattr(module, "run_validate", lambda *_, **__: pytest.fail("the rules ran again"))
    assert validate_day(run_context(), flatten=flatten, work=work, engine=engine, expectations=few) == first
    own = work.get(profile_key(str(DAY))).body
    assert json.loads(own)["counts"]["uf"] == {"53": 1}
    work.delete(profile_key(str(DAY)))
    # Counts of an earlier weekday that came since make it another piece of work.
    work.put(profile_key("2026-03-07"), own.replace(b"2026-03-14", b"2026-03-07"))
    with pytest.raises(pytest.fail.Exception, match="the rules ran again"):
        validate_day(run_context(), flatten=flatten, work=work, engine=engine, expectations=few)
    monkeypatch.undo()
    changed = validate_day(run_context(), flatten=replace(flatten, doses=2), work=work, engine=engine, expectations=few)
    assert changed.held_because == ["IMU-101"]
    assert changed.fingerprint != first.fingerprint
    assert work.info(profile_key(str(DAY))) is None, "a day that is held is no measure for others"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("validate-")], "scratch folder left behind"


@pytest.mark.slow
def test_an_empty_day_passes(tmp_path: Path) -> None:
    """Under all rules."""
    outcome = judge([], folder=tmp_path)
    assert outcome.held_because == []
    assert outcome.warnings == []
    assert all(rule.evaluated and rule.success and rule.failed == 0 for rule in outcome.rules)
    assert (outcome.checked, outcome.quarantined, outcome.by_reason, outcome.by_uf) == (0, 0, {}, {})
    assert read_rows(outcome.bad_keys) == []


def test_an_empty_table_that_should_have_rows_holds_the_day(tmp_path: Path, few: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = judge([], folder=tmp_path / "empty", suites=load_suites(few))
    assert (empty.held_because, empty.warnings, empty.checked) == ([], [], 0)
    (tmp_path / "lost").mkdir()
    outcome = judge(
        [],
        folder=tmp_path / "lost",
        suites=load_suites(few),
        account={"candidates": 5, "doses": 5, "fetched": 5, "unique_documents": 5},
    )
    assert outcome.held_because == ["IMU-001", "IMU-101"]


def test_the_same_day_gives_the_same_bytes_whatever_the_order_and_threads(tmp_path: Path, few: Path) -> None:
    rows = [good_row(n, **({"co_vacina": None} if n % 3 else {"st_documento": "draft"})) for n in range(3000)]
    found = []
    for number, (order, threads) in enumerate(((rows, 1), (rows[::-1], 2), (rows[1::2] + rows[::2], 3))):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = judge(
            order, [structural_row(7), structural_row(3)], folder=folder, threads=threads, suites=load_suites(few)
        )
        found.append((outcome.bad_keys.read_bytes(), outcome.quarantine.read_bytes()))
        assert [row["nu_linha"] for row in read_rows(outcome.bad_keys)] == list(range(3000))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("rule", "change", "exception"),
    [
        ("IMU-019", {"regex": "^[z-a]$"}, "InvalidInput"),
        ("IMU-010", {"column": "co_vacina", "min_value": 5}, ""),
        (
            "IMU-016",
            {
                "row_condition": {
                    "type": "comparison",
                    "column": {"name": "dt_vacina"},
                    "operator": "==",
                    "parameter": "ontem",
                }
            },
            "Conversion",
        ),
    ],
)
def test_a_rule_that_cannot_be_evaluated_holds_the_day_and_is_named(
    rule: str, change: dict[str, Any], exception: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for name in SUITE_FILES:
        document = json.loads(few_rules(name))
        for one in document["expectations"]:
            if one["meta"]["rule"] == rule:
                one["kwargs"] |= change
                one["severity"] = "info"
        (tmp_path / name).write_text(json.dumps(document), encoding="utf-8")
    outcome = judge([good_row(1), good_row(2, co_lote_vacina=CANARY)], folder=tmp_path, suites=load_suites(tmp_path))
    broken = next(result for result in outcome.rules if result.rule == rule)
    assert not broken.evaluated
    assert not broken.success
    assert outcome.held_because == [rule], "one broken rule takes no other with it"
    assert outcome.quarantine.is_file()
    text = json.dumps(outcome.results)
    assert exception in text
    assert "Traceback" not in text
    pages = "".join(path.read_text(encoding="utf-8") for path in outcome.pages)
    printed = capsys.readouterr()
    for place in (text, pages, printed.out, printed.err, caplog.text):
        assert "MARIA" not in place


@pytest.mark.parametrize(
    ("info", "name"),
    [
        ({}, ""),
        ({"raised_exception": False, "exception_message": None, "exception_traceback": None}, ""),
        ({"raised_exception": True, "exception_message": f"(_duckdb.BinderException) {CANARY}"}, "BinderException"),
        ({"raised_exception": True, "exception_traceback": f"Traceback\n  x\nduckdb.ConversionException: {CANARY}Error"}, "ConversionException"),
        ({"raised_exception": True, "exception_message": CANARY, "exception_traceback": CANARY}, "Exception"),
        (
            {
                "a": {"raised_exception": False},
                "b": {"raised_exception": True, "exception_message": "(x.BinderException) y"},
                "c": {"raised_exception": True, "exception_message": "(x.OutOfMemoryException) y"},
            },
            "OutOfMemoryException",
        ),
    ],
)  # fmt: skip
def test_of_an_exception_only_its_name_is_kept(info: dict[str, Any], name: str) -> None:
    assert load_library()._raised(info) == name


@pytest.mark.parametrize("exception", ["OutOfMemoryException", "IOException"])
def test_a_machine_at_its_limits_is_no_verdict(exception: str) -> None:
    suite = load_suites(paths.EXPECTATIONS).day
    result = SimpleNamespace(
        expectation_config=SimpleNamespace(meta={"rule": "IMU-101"}),
        exception_info={"raised_exception": True, "exception_message": f"(_duckdb.{exception}) {CANARY}"},
        success=False,
        result={},
    )
    with pytest.raises(StorageUnavailable, match=f"IMU-101 could not be evaluated: {exception}") as error:
        load_library()._verdicts(suite, SimpleNamespace(results=[result]))
    assert "MARIA" not in str(error.value)


def test_a_rule_on_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in SUITE_FILES:
        text = few_rules(name)
        (tmp_path / name).write_text(
            text.replace('"column": "st_documento"', '"column": "st_docmento"'), encoding="utf-8"
        )
    with pytest.raises(ContractViolation, match="Rule IMU-018 needs column.* st_docmento"):
        judge([good_row(1)], folder=tmp_path, suites=load_suites(tmp_path))


@pytest.mark.parametrize(("file", "rule"), [("dose.json", "IMU-016"), ("dia.json", "IMU-105"), ("uf.json", "IMU-201")])
def test_a_column_of_a_row_condition_that_is_not_there_is_named(file: str, rule: str, tmp_path: Path) -> None:
    for name in SUITE_FILES:
        document = json.loads(few_rules(name))
        for one in document["expectations"]:
            if one["meta"]["rule"] == rule:
                one["kwargs"]["row_condition"] = {"type": "nullity", "column": {"name": "no_such"}, "is_null": True}
        (tmp_path / name).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ContractViolation, match=rf"Rule {rule} needs column.* no_such.*expectations/{file}"):
        judge([good_row(1)], folder=tmp_path, suites=load_suites(tmp_path))


def test_a_rule_that_the_library_drops_is_named(tmp_path: Path) -> None:
    for name in SUITE_FILES:
        text = few_rules(name)
        (tmp_path / name).write_text(text.replace("values_to_be_unique", "values_to_be_uniq"), encoding="utf-8")
    with pytest.raises(ContractViolation, match="dropped IMU-003"):
        judge([good_row(1)], folder=tmp_path, suites=load_suites(tmp_path))


def test_a_row_rule_that_judges_the_whole_column_is_refused(tmp_path: Path) -> None:
    for name in SUITE_FILES:
        document = json.loads(few_rules(name))
        for one in document["expectations"]:
            if one["meta"]["rule"] == "IMU-008":
                one |= {"type": "expect_column_max_to_be_between", "severity": "info"}
                one["kwargs"] = {"column": "dt_vacina", "max_value": "2026-01-01"}
        (tmp_path / name).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ContractViolation, match="IMU-008.*cannot name bad rows"):
        judge([good_row(1)], folder=tmp_path, suites=load_suites(tmp_path))


def test_a_count_that_differs_from_the_librarys_is_an_error(
    tmp_path: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.run_suites

    def drifted(*args: Any, **kwargs: Any) -> Any:
        after_rows = kwargs.pop("after_rows")

        def changed(compiled: list[RowRule], verdicts: Any) -> None:
            rules = [replace(rule, conditions=("false",)) if rule.rule == "IMU-009" else rule for rule in compiled]
            after_rows(rules, verdicts)

        return real(*args, after_rows=changed, **kwargs)

    monkeypatch.setattr(module, "run_suites", drifted)
    with pytest.raises(ContractViolation, match="Rule IMU-009: 0 rows were found.*counted 20"):
        judge(bad_day(), folder=tmp_path, suites=load_suites(few))


@pytest.mark.parametrize("key", [{"nu_linha": 0}, {"nu_linha": None}, {"nu_parte": 2, "nu_linha": 9}])
def test_a_physical_key_that_names_two_rows_or_none_is_an_error(key: dict[str, Any], tmp_path: Path, few: Path) -> None:
    rows = [good_row(0), good_row(1) | key]
    with pytest.raises(ContractViolation, match="physical key"):
        judge(rows, [structural_row(9)], folder=tmp_path, suites=load_suites(few))


def test_every_rule_that_holds_has_its_sentence() -> None:
    def rule(name: str, **facts: Any) -> RuleResult:
        usual = {"severity": "critical", "scope": "row", "on_fail": "quarantine", "success": False, "evaluated": True}
        return RuleResult(**{"rule": name, "checked": 10, "failed": 4, "note": f"nota {name}"} | usual | facts)

    rules = [
        rule("IMU-001", scope="day", checked=1, failed=1),
        rule("IMU-002"),
        rule("IMU-003", evaluated=False),
        rule("IMU-004", success=True),
    ]
    receipt = ValidateReceipt(
        stage="validate", day="2026-03-14", run_id="r", code_version="c", fingerprint="f", rules=rules, suite_sha256="s",
        quarantine=None, bad_keys=None, checked=10, quarantined_by_rules=4, quarantined=4, quarantined_by_reason={},  # type: ignore[arg-type]
        quarantined_by_uf={}, publish=False, held_because=["IMU-001", "IMU-002", "IMU-003"], warnings=[], docs_key="k",
    )  # fmt: skip
    with pytest.raises(DayHeld) as held:
        require_publishable(receipt)
    assert str(held.value).splitlines() == [
        "2026-03-14 is held by 3 rule(s). Nothing was published; what readers see stays as it was.",
        "IMU-001 failed: nota IMU-001.",
        "IMU-002 failed on 4 of 10 doses checked (40.00 %): nota IMU-002.",
        "IMU-003 could not be evaluated, so the day is not trusted: nota IMU-003.",
        "Report: k in the work bucket. What to do: docs/runbook/day-held.md.",
    ]


def test_importing_the_stage_is_cheap() -> None:
    heavy = ("great_expectations", "pandas", "sqlalchemy", "duckdb_engine", "scipy", "pyarrow")
    code = f"import sys, imunizacao.validate; print([name for name in {heavy!r} if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(paths.INCLUDE)}
    )
    assert answer.stdout.strip() == "[]"
