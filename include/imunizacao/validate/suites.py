"""The suites of `expectations/`: read, checked, filled. Nothing here needs Great Expectations.

A suite is hand-edited JSON in the format of Great Expectations, without generated ids. What the library would accept in
silence (a rule without tolerance, a regular expression that matches anywhere, a mistyped key) is refused here by name.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imunizacao.errors import ContractViolation

ROW_SUITE: Final = "dose"
DAY_SUITE: Final = "dia"
UF_SUITE: Final = "uf"
TABLES: Final = {ROW_SUITE: "imunizacao_dose", DAY_SUITE: "resumo_dia", UF_SUITE: "resumo_uf"}
"""Suite → the table that it judges."""
PARAMETERS: Final = {"reference_day": "dia de referência", "candidates": "doses contadas na preparação"}
"""Names that `{"$PARAMETER": name}` may use, and what people read for them."""

_SEVERITIES: Final = ("critical", "warning", "info")
_SUITE_KEYS: Final = frozenset({"name", "notes", "meta", "expectations"})
_RULE_KEYS: Final = frozenset({"type", "kwargs", "severity", "meta"})
_TEXT_KEYS: Final = frozenset({"rule", "scope", "on_fail", "reason", "note", "source", "rationale"})
_EXAMPLE_KEYS: Final = ("pass", "fail")
_META_KEYS: Final = _TEXT_KEYS | set(_EXAMPLE_KEYS)
_HISTORY: Final = ("qt_historico_", "pc_historico")
"""How the columns begin that compare the day with earlier ones; they are null where there is nothing to compare with."""
_RULE_ID: Final = re.compile(r"IMU-[0-9]{3}")
_REASON: Final = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule as written in a suite, its parameters not filled yet."""

    rule: str
    """`IMU-nnn`, never used again for something else."""
    suite: str
    type: str
    kwargs: dict[str, Any]
    severity: str
    scope: str
    """`row` or `day`."""
    on_fail: str
    """`quarantine` or `flag` (row rules); `gate` or `ask` (day rules): the pipeline decides, or a person."""
    reason: str
    """Reason code of a row that breaks the rule; empty for day rules."""
    note: str
    source: str
    rationale: str
    """Why the rule is there, in Portuguese."""
    passes: tuple[dict[str, Any], ...]
    """Examples that keep the rule: what differs from a good row (or summary); run by the tests."""
    fails: tuple[dict[str, Any], ...]
    """Examples that break it."""

    @property
    def columns(self) -> frozenset[str]:
        """Columns that the rule reads, by its arguments or its row condition."""
        named = {str(self.kwargs[key]) for key in ("column", "column_A", "column_B") if key in self.kwargs}
        listed = {str(name) for name in self.kwargs.get("column_list", [])}
        return frozenset(named | listed | set(_condition_columns(self.kwargs.get("row_condition"))))

    @property
    def compares_history(self) -> bool:
        """Whether the rule compares the day with earlier ones: without them it judges nothing."""
        return any(column.startswith(_HISTORY) for column in self.columns)

    @property
    def mostly(self) -> float:
        """Share of the judged rows (0–1) that must keep a row rule."""
        return float(self.kwargs.get("mostly", 1))

    @property
    def tolerance(self) -> str:
        """How much the day bears, in Portuguese: for reports and messages."""
        if self.scope == "row":
            return f"tolerância do dia: {_percent(1 - self.mostly)} das linhas avaliadas"
        if self.suite == ROW_SUITE and "mostly" in self.kwargs:
            return f"mínimo: {_percent(self.mostly)} das linhas avaliadas"
        exact = self.kwargs.get("value")
        least, most = self.kwargs.get("min_value", exact), self.kwargs.get("max_value", exact)
        if least is not None and least == most:
            return f"valor exigido: {_number(least)}"
        if least is not None and most is not None:
            return f"limites: de {_number(least)} a {_number(most)}"
        if most is not None:
            return f"limite: até {_number(most)}"
        if least is not None:
            return f"limite: a partir de {_number(least)}"
        return "sem tolerância"

    @property
    def text(self) -> str:
        """Note and tolerance in one sentence."""
        return f"{self.note} ({self.tolerance})"

    def text_with(self, history: str) -> str:
        """The same, and for a rule that compares with earlier days how much of them there was."""
        return f"{self.note} ({self.tolerance}; {history})" if self.compares_history and history else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One file of rules."""

    name: str
    table: str
    notes: str
    rules: tuple[Rule, ...]
    sha256: str

    def with_parameters(self, values: Mapping[str, str | int], *, history: str = "") -> dict[str, Any]:
        """The suite as Great Expectations reads it: parameters filled, descriptions for people added.

        Filled here and not by the library, so that the counts and the compiled quarantine see the same literals.
        """
        return {
            "name": self.name,
            "notes": html.escape(self.notes, quote=False),
            "expectations": [
                {
                    "type": rule.type,
                    "kwargs": _fill(rule.kwargs, values),
                    "severity": rule.severity,
                    # Great Expectations writes it into its pages as it is.
                    "description": html.escape(f"{rule.rule} [{rule.severity}] {rule.text_with(history)}", quote=False),
                    "meta": {"rule": rule.rule, "scope": rule.scope, "on_fail": rule.on_fail, "reason": rule.reason},
                }
                for rule in self.rules
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Suites:
    """All rules of a day."""

    row: Suite
    day: Suite
    uf: Suite

    @property
    def all(self) -> tuple[Suite, ...]:
        """The suites in the order in which they are judged."""
        return (self.row, self.day, self.uf)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Row rules first, each suite in the order of its file."""
        return tuple(rule for suite in self.all for rule in suite.rules)

    @property
    def sha256(self) -> str:
        """Identity of the rules: the bytes of all files."""
        return hashlib.sha256("".join(f"{suite.sha256}\n" for suite in self.all).encode()).hexdigest()


def load_suites(folder: Path) -> Suites:
    """Read and check every suite; rule ids and reasons are unique over all of them. Raises `ContractViolation`."""
    suites = Suites(
        row=load_suite(folder / f"{ROW_SUITE}.json"),
        day=load_suite(folder / f"{DAY_SUITE}.json"),
        uf=load_suite(folder / f"{UF_SUITE}.json"),
    )
    _require_unique("rule id", [rule.rule for rule in suites.rules], folder)
    _require_unique("reason", [rule.reason for rule in suites.rules if rule.reason], folder)
    return suites


def load_suite(path: Path) -> Suite:
    """Read and check one suite; everything that is wrong with it is a `ContractViolation` that names file and rule."""
    try:
        text = path.read_bytes()
        document = json.loads(text, object_pairs_hook=_no_repeated_key)
    except OSError as error:
        raise ContractViolation(f"Suite {path} cannot be read ({type(error).__name__}). Restore the file.") from error
    except ValueError as error:
        raise ContractViolation(f"Suite {path} is not JSON: {error}. Mend the file.") from error
    if not isinstance(document, dict):
        raise ContractViolation(f"Suite {path} is not a JSON object. Mend the file.")
    _require_keys(document, _SUITE_KEYS, {"name", "expectations"}, str(path))
    name = document["name"]
    if name != path.stem or name not in TABLES:
        raise ContractViolation(
            f"Suite {path} is named {name!r}: the name must be the file name, and one of {', '.join(TABLES)}."
        )
    rules = tuple(_rule(entry, name, path) for entry in document["expectations"])
    if not rules:
        raise ContractViolation(f"Suite {path} has no rules: a day without rules would always pass.")
    _require_unique("rule id", [rule.rule for rule in rules], path)
    _require_unique("reason", [rule.reason for rule in rules if rule.reason], path)
    return Suite(
        name=name,
        table=TABLES[name],
        notes=str(document.get("notes", "")),
        rules=rules,
        sha256=hashlib.sha256(text).hexdigest(),
    )


def _rule(entry: Any, suite: str, path: Path) -> Rule:
    where = f"Suite {path}, rule {_id_of(entry)}"
    if not isinstance(entry, dict):
        raise ContractViolation(f"{where}: not a JSON object.")
    _require_keys(entry, _RULE_KEYS, _RULE_KEYS, where)
    meta, kwargs = entry["meta"], entry["kwargs"]
    if not isinstance(meta, dict) or not isinstance(kwargs, dict):
        raise ContractViolation(f"{where}: `meta` and `kwargs` must be JSON objects.")
    _require_keys(meta, _META_KEYS, {"rule", "scope", "note", "source", "rationale", *_EXAMPLE_KEYS}, f"{where}, meta")
    if not all(isinstance(meta[key], str) and meta[key].strip() for key in _TEXT_KEYS & set(meta)):
        raise ContractViolation(f"{where}: {', '.join(sorted(_TEXT_KEYS))} of `meta` must be texts that are not empty.")
    for key in _EXAMPLE_KEYS:
        examples = meta[key]
        if not isinstance(examples, list) or not examples or not all(isinstance(one, dict) and one for one in examples):
            raise ContractViolation(
                f"{where}: `{key}` of `meta` must list at least one example, each an object of columns and values."
            )
    if not _RULE_ID.fullmatch(meta["rule"]):
        raise ContractViolation(f"{where}: the rule id must be IMU- and three digits.")
    if entry["severity"] not in _SEVERITIES:
        raise ContractViolation(f"{where}: severity {entry['severity']!r} is not one of {', '.join(_SEVERITIES)}.")
    _check_scope(meta, suite, where)
    _check_expectation(str(entry["type"]), kwargs, where)
    rule = Rule(
        rule=meta["rule"],
        suite=suite,
        type=str(entry["type"]),
        kwargs=kwargs,
        severity=entry["severity"],
        scope=meta["scope"],
        on_fail=meta.get("on_fail", "gate"),
        reason=meta.get("reason", ""),
        note=meta["note"],
        source=meta["source"],
        rationale=meta["rationale"],
        passes=tuple(meta["pass"]),
        fails=tuple(meta["fail"]),
    )
    if rule.on_fail == "ask" and rule.severity != "critical":
        raise ContractViolation(
            f"{where}: a rule that asks a person stops the day until then; its severity is critical."
        )
    mostly = kwargs.get("mostly", 1)
    if isinstance(mostly, bool) or not isinstance(mostly, int | float) or not 0 < mostly <= 1:
        raise ContractViolation(f"{where}: `mostly` must be a number above 0 and up to 1.")
    if rule.scope == "row" and rule.severity == "critical" and mostly >= 1:
        raise ContractViolation(
            f"{where}: a critical row rule needs `mostly` below 1; as it is, one bad row would hold a whole day."
        )
    return rule


def _check_scope(meta: Mapping[str, Any], suite: str, where: str) -> None:
    if meta["scope"] == "row":
        if suite != ROW_SUITE:
            raise ContractViolation(f"{where}: only the suite {ROW_SUITE} has rows to quarantine; use scope `day`.")
        if meta.get("on_fail") not in {"quarantine", "flag"}:
            raise ContractViolation(f"{where}: a row rule needs `on_fail`: quarantine or flag.")
        if not _REASON.fullmatch(meta.get("reason", "")):
            raise ContractViolation(f"{where}: a row rule needs a `reason` such as DATE_FUTURE.")
    elif meta["scope"] == "day":
        if meta.get("on_fail", "ask") != "ask" or "reason" in meta:
            raise ContractViolation(
                f"{where}: a day rule opens or closes the gate; it has no `reason`, and `on_fail` only as `ask`: a person decides."
            )
    else:
        raise ContractViolation(f"{where}: scope {meta['scope']!r} is neither row nor day.")


def _check_expectation(kind: str, kwargs: Mapping[str, Any], where: str) -> None:
    if "z_score" in kind:
        raise ContractViolation(
            f"{where}: a z-score depends on the other rows of the day, so a row has no verdict of its own."
        )
    if "unexpected_rows" in kind or "unexpected_rows_query" in kwargs:
        raise ContractViolation(f"{where}: no SQL in a suite; write the condition as an expectation on a column.")
    for key, value in kwargs.items():
        if "regex" in key:
            for pattern in value if isinstance(value, list) else [value]:
                if not is_anchored(pattern):
                    raise ContractViolation(
                        f"{where}: regular expression {pattern!r} must be anchored as a whole (^…$, alternatives in brackets)."
                    )
    for name in _parameters(kwargs):
        if name not in PARAMETERS:
            raise ContractViolation(
                f"{where}: unknown $PARAMETER {name!r}. There are: {', '.join(sorted(PARAMETERS))}."
            )


def is_anchored(pattern: object) -> bool:
    """Whether a regular expression can only match a whole value, in every dialect."""
    if not isinstance(pattern, str) or not pattern.startswith("^") or not pattern.endswith("$"):
        return False
    body, depth, in_class, escaped = pattern[1:-1], 0, False, False
    for position, sign in enumerate(body):
        if escaped:
            escaped = False
        elif sign == "\\":
            escaped = True
        elif in_class:
            # `[` opens a named class such as [:cntrl:] inside a class; its own `]` does not close the outer one.
            in_class = sign != "]" or body[position - 1] == ":"
        elif sign == "[":
            in_class = True
        elif sign == "(":
            # A flag such as (?m) would change what the anchors mean.
            if body.startswith("(?", position) and not body.startswith("(?:", position):
                return False
            depth += 1
        elif sign == ")":
            depth -= 1
            if depth < 0:
                return False
        elif sign == "|" and depth == 0:
            return False
    return not escaped and not in_class and depth == 0


def _fill(node: Any, values: Mapping[str, str | int]) -> Any:
    if isinstance(node, dict):
        if set(node) == {"$PARAMETER"}:
            return values[node["$PARAMETER"]]
        return {key: _fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(value, values) for value in node]
    return node


def _parameters(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$PARAMETER":
                yield str(value) if len(node) == 1 else "$PARAMETER beside other keys"
            else:
                yield from _parameters(value)
    elif isinstance(node, list):
        for value in node:
            yield from _parameters(value)


def _condition_columns(node: Any) -> Iterator[str]:
    """Names of the columns in a row condition."""
    if isinstance(node, dict):
        if isinstance(node.get("column"), dict):
            yield str(node["column"].get("name", ""))
        for part in node.get("conditions", []):
            yield from _condition_columns(part)


def _no_repeated_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} appears twice in one object")
        found[key] = value
    return found


def _require_keys(
    node: Mapping[str, Any], known: frozenset[str], needed: set[str] | frozenset[str], where: str
) -> None:
    unknown, missing = sorted(set(node) - known), sorted(needed - set(node))
    if unknown:
        raise ContractViolation(f"{where}: unknown key(s) {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")
    if missing:
        raise ContractViolation(f"{where}: missing key(s) {', '.join(missing)}.")


def _require_unique(what: str, values: Sequence[str], where: Path) -> None:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ContractViolation(f"{where}: {what} used more than once: {', '.join(repeated)}.")


def _id_of(entry: Any) -> str:
    meta = entry.get("meta") if isinstance(entry, dict) else None
    return str(meta.get("rule", "without id")) if isinstance(meta, dict) else "without id"


def _percent(share: float) -> str:
    return f"{_number(round(share * 100, 4))} %"


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return PARAMETERS[value["$PARAMETER"]]
    return f"{value:g}".replace(".", ",") if isinstance(value, int | float) else str(value)
