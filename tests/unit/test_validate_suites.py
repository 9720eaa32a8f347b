"""The loader refuses, by name, every suite that Great Expectations would take in silence or that would not protect a day."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imunizacao import paths
from imunizacao.errors import ContractViolation
from imunizacao.validate.rule_table import rule_table
from imunizacao.validate.suites import is_anchored, load_suite, load_suites

Change = Callable[[dict[str, Any]], object]
SUITE_FILES = ("dose.json", "dia.json", "uf.json")


ABOUT: dict[str, Any] = {"rationale": "r", "pass": [{"co_vacina": "1"}], "fail": [{"co_vacina": "x"}]}


def suite() -> dict[str, Any]:
    """A sound suite with one row rule and one day rule."""
    return {
        "name": "dose",
        "notes": "x",
        "expectations": [
            {
                "type": "expect_column_values_to_match_regex",
                "kwargs": {"column": "co_vacina", "regex": "^[0-9]+$", "mostly": 0.9},
                "severity": "critical",
                "meta": {
                    "rule": "IMU-900",
                    "scope": "row",
                    "on_fail": "quarantine",
                    "reason": "X_BAD",
                    "note": "n",
                    "source": "s",
                    **ABOUT,
                },
            },
            {
                "type": "expect_table_row_count_to_equal",
                "kwargs": {"value": {"$PARAMETER": "candidates"}},
                "severity": "critical",
                "meta": {"rule": "IMU-901", "scope": "day", "note": "n", "source": "s", **ABOUT},
            },
        ],
    }


def write(folder: Path, document: dict[str, Any], name: str = "dose.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def row(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["expectations"][0]
    return found


def day(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["expectations"][1]
    return found


def test_a_sound_suite_loads(tmp_path: Path) -> None:
    loaded = load_suite(write(tmp_path, suite()))
    assert [(rule.rule, rule.scope, rule.on_fail, rule.mostly) for rule in loaded.rules] == [
        ("IMU-900", "row", "quarantine", 0.9),
        ("IMU-901", "day", "gate", 1.0),
    ]
    filled = loaded.with_parameters({"candidates": 7, "reference_day": "2026-03-14"})
    assert filled["expectations"][1]["kwargs"] == {"value": 7}
    assert (
        filled["expectations"][0]["description"]
        == "IMU-900 [critical] n (tolerância do dia: 10 % das linhas avaliadas)"
    )


REFUSED: dict[str, tuple[Change, str]] = {
    "name is not the file name": (lambda d: d.update(name="dia"), "must be the file name"),
    "no rules": (lambda d: d.update(expectations=[]), "no rules"),
    "generated id": (lambda d: d.update(id="0f8f"), "unknown key.*id"),
    "id of a rule": (lambda d: row(d).update(id="0f8f"), "unknown key.*id"),
    "rule id twice": (lambda d: day(d)["meta"].update(rule="IMU-900"), "rule id used more than once: IMU-900"),
    "rule id of another form": (lambda d: row(d)["meta"].update(rule="IMU-1"), "IMU- and three digits"),
    "unknown key in meta": (lambda d: row(d)["meta"].update(rule_id="x"), "unknown key.*rule_id"),
    "missing note": (lambda d: row(d)["meta"].pop("note"), "missing key.*note"),
    "missing rationale": (lambda d: row(d)["meta"].pop("rationale"), "missing key.*rationale"),
    "missing example that passes": (lambda d: row(d)["meta"].pop("pass"), "missing key.*pass"),
    "missing example that fails": (lambda d: day(d)["meta"].pop("fail"), "missing key.*fail"),
    "no example": (lambda d: row(d)["meta"].update({"pass": []}), "at least one example"),
    "empty example": (lambda d: row(d)["meta"].update({"fail": [{}]}), "at least one example"),
    "example of another form": (lambda d: day(d)["meta"].update({"fail": "x"}), "at least one example"),
    "empty source": (lambda d: row(d)["meta"].update(source=" "), "not empty"),
    "unknown scope": (lambda d: row(d)["meta"].update(scope="table"), "neither row nor day"),
    "row rule without on_fail": (lambda d: row(d)["meta"].pop("on_fail"), "needs `on_fail`"),
    "unknown on_fail": (lambda d: row(d)["meta"].update(on_fail="drop"), "needs `on_fail`"),
    "row rule without reason": (lambda d: row(d)["meta"].pop("reason"), "needs a `reason`"),
    "reason in words": (lambda d: row(d)["meta"].update(reason="bad date"), "needs a `reason`"),
    "day rule with reason": (lambda d: day(d)["meta"].update(reason="X"), "no `reason`"),
    "day rule with on_fail of rows": (lambda d: day(d)["meta"].update(on_fail="flag"), "a person decides"),
    "warning that asks": (
        lambda d: (day(d)["meta"].update(on_fail="ask"), day(d).update(severity="warning")),
        "its severity is critical",
    ),
    "severity missing": (lambda d: row(d).pop("severity"), "missing key.*severity"),
    "unknown severity": (lambda d: row(d).update(severity="fatal"), "severity 'fatal'"),
    "critical row rule without mostly": (lambda d: row(d)["kwargs"].pop("mostly"), "below 1"),
    "critical row rule with mostly 1": (lambda d: row(d)["kwargs"].update(mostly=1.0), "below 1"),
    "mostly above 1": (lambda d: row(d)["kwargs"].update(mostly=95), "above 0 and up to 1"),
    "mostly true": (lambda d: row(d)["kwargs"].update(mostly=True), "above 0 and up to 1"),
    "open regex": (lambda d: row(d)["kwargs"].update(regex="[0-9]+"), "anchored"),
    "half-open alternative": (lambda d: row(d)["kwargs"].update(regex="^a|b$"), "anchored"),
    "open regex in a list": (lambda d: row(d)["kwargs"].update(regex_list=["^a$", "b"]), "anchored"),
    "unknown parameter": (lambda d: day(d)["kwargs"].update(value={"$PARAMETER": "day"}), "unknown .PARAMETER 'day'"),
    "parameter with company": (
        lambda d: day(d)["kwargs"].update(value={"$PARAMETER": "candidates", "x": 1}),
        "unknown .PARAMETER",
    ),
    "z-score": (lambda d: row(d).update(type="expect_column_value_z_scores_to_be_less_than"), "a z-score"),
    "SQL": (lambda d: row(d).update(type="unexpected_rows_expectation"), "no SQL in a suite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsound_suite_is_refused(name: str, tmp_path: Path) -> None:
    change, message = REFUSED[name]
    document = suite()
    change(document)
    with pytest.raises(ContractViolation, match=message):
        load_suite(write(tmp_path, document))


def test_a_row_rule_in_the_suite_of_the_day_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractViolation, match="only the suite dose"):
        load_suite(write(tmp_path, suite() | {"name": "dia"}, "dia.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ('{"name": "dose", "name": "dose"}', "appears twice"), ("[]", "not a JSON object")],
)
def test_a_broken_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "dose.json").write_text(text)
    with pytest.raises(ContractViolation, match=message):
        load_suite(tmp_path / "dose.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContractViolation, match=r"dose\.json cannot be read"):
        load_suites(tmp_path)


def test_rule_ids_are_unique_over_all_suites(tmp_path: Path) -> None:
    document = suite()
    write(tmp_path, document)
    write(tmp_path, {"name": "dia", "expectations": [day(document)]}, "dia.json")
    (tmp_path / "uf.json").write_bytes((paths.EXPECTATIONS / "uf.json").read_bytes())
    with pytest.raises(ContractViolation, match="IMU-901"):
        load_suites(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "anchored"),
    [
        ("^a$", True), ("^(a|b)$", True), ("^[|]$", True), (r"^\|$", True), ("^[^[:cntrl:]|]*$", True), ("^$", True),
        ("a", False), ("^a", False), ("a$", False), ("^a|b$", False), (r"^a\$", False), ("^(a$", False), ("^[a$", False),
        ("^a)|(b$", False), ("^(?m)a$", False), ("^(?:a|b)$", True), (r"^\\|a$", False), ("", False), (None, False),
    ],
)  # fmt: skip
def test_anchored_means_the_whole_value(pattern: object, anchored: bool) -> None:
    assert is_anchored(pattern) is anchored


def test_the_rule_page_is_the_one_of_the_suites() -> None:
    page = (paths.ROOT / "docs/dados/regras.md").read_text(encoding="utf-8")
    assert page == rule_table(load_suites(paths.EXPECTATIONS)), (
        "docs/dados/regras.md is stale: run `python -m imunizacao.validate.rule_table > docs/dados/regras.md`."
    )


def test_the_same_suites_have_the_same_identity_and_others_another(tmp_path: Path) -> None:
    one = load_suites(paths.EXPECTATIONS)
    for name in SUITE_FILES:
        (tmp_path / name).write_bytes((paths.EXPECTATIONS / name).read_bytes())
    assert load_suites(tmp_path).sha256 == one.sha256
    for name in SUITE_FILES:
        (tmp_path / name).write_bytes((paths.EXPECTATIONS / name).read_bytes() + b"\n")
        assert load_suites(tmp_path).sha256 != one.sha256, name
        (tmp_path / name).write_bytes((paths.EXPECTATIONS / name).read_bytes())
