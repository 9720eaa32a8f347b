"""Judge dose rows by the rule table alone.

Written from `docs/dados/regras.md` and from nothing else: it shares no code, no constant and no file with the
suites or with the SQL that is compiled from them. A defect here or there shows as a disagreement.

What the page leaves open, and how it is read here:

- A text starts with the empty text (IMU-053, IMU-055, IMU-056): the empty prefix keeps the rule.
- `não é igual a X` and `não é um destes valores` have a null policy of their own ("Nulo: ..."), so the sentence
  about comparisons with null ("também ≠") is read as being about the conditions of "Só se avaliam" only.
- A column that is "nunca nulo" may still be null here: then the line "Nulo" of the rule, or the sentence about
  null in "Só se avaliam", decides.
- IMU-003 and IMU-062: two empty texts are the same value and repeat like any other; two values that differ in
  case, accents, spaces or Unicode normalization are different.
- IMU-065: the two columns are texts, so texts of another form than the usual are still compared, by code point.
- The share is compared exactly: a share equal to the tolerance is within it. No evaluated row is within it, too
  (the page shows that only for the rules of filling).
- A row rule counts as evaluated the rows that its filter and its null policy leave.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Value = str | int | datetime.date | None
Row = Mapping[str, Value]
Verdict = bool | None  # kept, broken, not evaluated
Judge = Callable[[Row], Verdict]
Test = Callable[[Row], bool]
Treatment = Literal["quarantine", "flag", "fill"]
Severity = Literal["critical", "warning", "info"]

BROKEN: Verdict = False
SKIPPED: Verdict = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Say who is judged and how; `unique` names the columns of a rule over the whole table."""

    treatment: Treatment
    severity: Severity
    reason: str
    tolerance: int  # percent of the evaluated rows
    judge: Judge | None = None
    unique: tuple[str, ...] = ()


@dataclass(slots=True)
class Outcome:
    """Hold the positions of the rows that break a rule, and how many were evaluated."""

    evaluated: int = 0
    broken: set[int] = field(default_factory=set)


# Conditions of "Só se avaliam": a comparison with null is false.


def equal(column: str, wanted: Value) -> Test:
    return lambda row: row[column] is not None and row[column] == wanted


def among(column: str, wanted: Iterable[str]) -> Test:
    values = frozenset(wanted)
    return lambda row: row[column] is not None and row[column] in values


def filled(column: str) -> Test:
    return lambda row: row[column] is not None


def where(judge: Judge, *tests: Test) -> Judge:
    """Judge only the rows that pass every test."""

    def judge_some(row: Row) -> Verdict:
        for test in tests:
            if not test(row):
                return SKIPPED
        return judge(row)

    return judge_some


# Conditions of one column.


def is_filled(column: str) -> Judge:
    return lambda row: row[column] is not None


def is_equal(column: str, wanted: Value, *, null: Verdict) -> Judge:
    return lambda row: null if row[column] is None else row[column] == wanted


def is_not_equal(column: str, unwanted: Value, *, null: Verdict) -> Judge:
    return lambda row: null if row[column] is None else row[column] != unwanted


def is_among(column: str, wanted: Iterable[str], *, null: Verdict) -> Judge:
    values = frozenset(wanted)
    return lambda row: null if row[column] is None else row[column] in values


def is_not_among(column: str, unwanted: Iterable[str], *, null: Verdict) -> Judge:
    values = frozenset(unwanted)
    return lambda row: null if row[column] is None else row[column] not in values


def matches(column: str, pattern: str, *, null: Verdict) -> Judge:
    full_match = re.compile(pattern).fullmatch

    def judge(row: Row) -> Verdict:
        value = row[column]
        return null if value is None else full_match(_text(value)) is not None

    return judge


def has_length(column: str, least: int, most: int, *, null: Verdict) -> Judge:
    def judge(row: Row) -> Verdict:
        value = row[column]
        return null if value is None else least <= len(_text(value)) <= most

    return judge


def is_number(column: str, *, least: int | None = None, most: int | None = None, null: Verdict) -> Judge:
    def judge(row: Row) -> Verdict:
        value = row[column]
        if value is None:
            return null
        if not isinstance(value, int):
            raise TypeError(f"{column} must be a number")
        return (least is None or value >= least) and (most is None or value <= most)

    return judge


def is_date(
    column: str, *, least: datetime.date | None = None, most: datetime.date | None = None, null: Verdict
) -> Judge:
    def judge(row: Row) -> Verdict:
        value = row[column]
        if value is None:
            return null
        return (least is None or _date(value) >= least) and (most is None or _date(value) <= most)

    return judge


# Conditions of two columns: with a null in either, the row is not evaluated.


def starts_with(column: str, prefix: str) -> Judge:
    def judge(row: Row) -> Verdict:
        value, start = row[column], row[prefix]
        if value is None or start is None:
            return SKIPPED
        return _text(value)[: len(_text(start))] == start

    return judge


def is_pair(first: str, second: str, pairs: Iterable[tuple[str, str]]) -> Judge:
    known = frozenset(pairs)

    def judge(row: Row) -> Verdict:
        if row[first] is None or row[second] is None:
            return SKIPPED
        return (row[first], row[second]) in known

    return judge


def is_text_at_least(column: str, other: str) -> Judge:
    def judge(row: Row) -> Verdict:
        value, least = row[column], row[other]
        if value is None or least is None:
            return SKIPPED
        return _text(value) >= _text(least)  # Python orders texts by code point

    return judge


def is_date_at_least(column: str, other: str) -> Judge:
    def judge(row: Row) -> Verdict:
        value, least = row[column], row[other]
        if value is None or least is None:
            return SKIPPED
        return _date(value) >= _date(least)

    return judge


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


def _date(value: Value) -> datetime.date:
    if not isinstance(value, datetime.date):
        raise TypeError("a date is expected")
    return value


UF_CODES = (
    ("RO", "11"), ("AC", "12"), ("AM", "13"), ("RR", "14"), ("PA", "15"), ("AP", "16"), ("TO", "17"),
    ("MA", "21"), ("PI", "22"), ("CE", "23"), ("RN", "24"), ("PB", "25"), ("PE", "26"), ("AL", "27"), ("SE", "28"),
    ("BA", "29"), ("MG", "31"), ("ES", "32"), ("RJ", "33"), ("SP", "35"), ("PR", "41"), ("SC", "42"), ("RS", "43"),
    ("MS", "50"), ("MT", "51"), ("GO", "52"), ("DF", "53"),
)  # fmt: skip

PLACEHOLDER_LOTS = (
    "SEMLOTE", "SEMREGISTRO", "SEMINFORMACAO", "SEMINF", "SL", "SN", "SR", "NAOINFORMADO", "NAOINFORMADA",
    "NAOIDENTIFICADO", "NAOCONSTA", "NAOTEM", "NAOSEI", "NI", "NA", "ND", "NC", "NT", "NENHUM", "IGNORADO",
    "DESCONHECIDO", "INDISPONIVEL", "LOTE", "TESTE", "NULL", "NULO", "NONE", "UNDEFINED", "X", "XX", "XXX", "XXXX",
    "XXXXX", "0", "00", "000", "0000", "00000", "000000",
)  # fmt: skip

NOT_TRANSCRIBED = equal("in_transcricao", False)
NOT_LOADED = equal("in_carga", False)


def _quarantine(reason: str, judge: Judge, *, tolerance: int = 5) -> Rule:
    return Rule(treatment="quarantine", severity="critical", reason=reason, tolerance=tolerance, judge=judge)


def _flag(reason: str, tolerance: int, judge: Judge, *, severity: Severity = "warning") -> Rule:
    return Rule(treatment="flag", severity=severity, reason=reason, tolerance=tolerance, judge=judge)


def _fill(least: int, column: str) -> Rule:
    return Rule(treatment="fill", severity="warning", reason="", tolerance=100 - least, judge=is_filled(column))


def _known(reason: str, code: str, name: str, *, tolerance: int = 2) -> Rule:
    return _flag(reason, tolerance, where(is_filled(name), filled(code)))


def list_rules(reference_day: datetime.date) -> dict[str, Rule]:
    """List the rules over the doses by code: those of a row, of a repeated key and of filling."""
    return {
        "IMU-002": _quarantine(
            "ID_INVALID",
            matches("co_documento", r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}-i[0-9]{1,3}b[0-9]{1,3}", null=BROKEN),
        ),
        "IMU-003": Rule(
            treatment="quarantine", severity="critical", reason="ID_REPEATED", tolerance=5, unique=("co_documento",)
        ),
        "IMU-004": _quarantine("PATIENT_ID_INVALID", is_equal("in_id_paciente_valido", True, null=BROKEN)),
        "IMU-005": _quarantine("CNES_INVALID", matches("co_cnes_estabelecimento", r"[0-9]{7}", null=BROKEN)),
        "IMU-006": _quarantine(
            "MUNICIPIO_INVALID", matches("co_municipio_estabelecimento", r"[1-5][0-9]{5}", null=BROKEN)
        ),
        "IMU-007": _quarantine(
            "UF_INVALID", is_among("sg_uf_estabelecimento", (sigla for sigla, _ in UF_CODES), null=BROKEN)
        ),
        "IMU-008": _quarantine("DATE_MISSING", is_filled("dt_vacina")),
        "IMU-009": _quarantine("DATE_FUTURE", is_date("dt_vacina", most=reference_day, null=SKIPPED)),
        "IMU-010": _quarantine("DATE_TOO_OLD", is_date("dt_vacina", least=datetime.date(1900, 1, 1), null=SKIPPED)),
        "IMU-011": _quarantine("DATE_BEFORE_BIRTH", is_equal("in_vacina_antes_nascimento", False, null=SKIPPED)),
        "IMU-012": _quarantine("VACCINE_MISSING", is_filled("co_vacina")),
        "IMU-013": _known("VACCINE_UNKNOWN", "co_vacina", "sg_vacina"),
        "IMU-014": _quarantine("DOSE_CODE_MISSING", is_filled("co_dose_vacina"), tolerance=2),
        "IMU-015": _known("DOSE_CODE_UNKNOWN", "co_dose_vacina", "ds_dose_vacina"),
        "IMU-016": _flag("LOT_MISSING", 5, where(is_filled("co_lote_vacina"), NOT_TRANSCRIBED)),
        "IMU-017": _flag("EXPIRED_LOT", 2, is_date_at_least("dt_validade_lote", "dt_vacina")),
        "IMU-018": _quarantine("STATUS_INVALID", is_equal("st_documento", "final", null=BROKEN)),
        "IMU-019": _quarantine(
            "LOT_CONTROL_CHARACTER",
            matches("co_lote_vacina", "[^\\x00-\\x1f\\x7f\\x80-\\x9f\\u2028\\u2029]*", null=SKIPPED),
        ),
        "IMU-020": _quarantine("PATIENT_MISSING", matches("co_paciente", r"[0-9a-f]{64}", null=BROKEN)),
        "IMU-021": _quarantine("ENTRY_DATE_MISSING", is_filled("dt_entrada_rnds")),
        "IMU-022": _quarantine("VACCINE_INVALID", matches("co_vacina", r"[0-9]{1,6}", null=SKIPPED)),
        "IMU-023": _quarantine("DOSE_CODE_INVALID", matches("co_dose_vacina", r"[0-9]{1,6}", null=SKIPPED)),
        "IMU-024": _quarantine(
            "MUNICIPIO_IBGE7_INVALID", matches("co_ibge_municipio_estabelecimento", r"[1-5][0-9]{6}", null=BROKEN)
        ),
        "IMU-025": _quarantine("MUNICIPIO_NAME_MISSING", is_filled("no_municipio_estabelecimento")),
        "IMU-026": _quarantine("UF_NAME_MISSING", is_filled("no_uf_estabelecimento")),
        "IMU-027": _quarantine("DOSE_STATUS_INVALID", is_equal("in_st_imunizacao", "completed", null=SKIPPED)),
        "IMU-028": _flag("DOSE_STATUS_MISSING", 2, is_filled("in_st_imunizacao")),
        "IMU-029": _flag("VACCINE_INACTIVE", 2, where(is_equal("in_vacina_ativa", "S", null=SKIPPED), NOT_TRANSCRIBED)),
        "IMU-030": _flag("PRODUCT_IS_DILUENT", 1, is_not_equal("in_vacina_categoria", "Diluente", null=SKIPPED)),
        "IMU-031": _known("STRATEGY_UNKNOWN", "co_estrategia_vacinacao", "ds_estrategia_vacinacao"),
        "IMU-032": _known("GROUP_UNKNOWN", "co_vacina_grupo_atendimento", "ds_vacina_grupo_atendimento"),
        "IMU-033": _known("ROUTE_UNKNOWN", "co_via_administracao", "ds_via_administracao"),
        "IMU-034": _known("SITE_UNKNOWN", "co_local_aplicacao", "ds_local_aplicacao"),
        "IMU-035": _known("MANUFACTURER_UNKNOWN", "co_vacina_fabricante", "ds_vacina_fabricante", tolerance=20),
        "IMU-036": _known("MATERNAL_CONDITION_UNKNOWN", "co_condicao_maternal", "ds_condicao_maternal"),
        "IMU-037": _known("ORIGIN_UNKNOWN", "co_origem_registro", "ds_origem_registro"),
        "IMU-038": _flag("COUNTRY_UNKNOWN", 2, is_equal("in_pais_aplicacao_conhecido", True, null=SKIPPED)),
        "IMU-039": _flag(
            "STRATEGY_INACTIVE",
            5,
            where(is_equal("in_estrategia_ativa", "S", null=SKIPPED), NOT_TRANSCRIBED, NOT_LOADED),
        ),
        "IMU-040": _flag(
            "GROUP_INACTIVE", 20, where(is_equal("in_grupo_ativo", "S", null=SKIPPED), NOT_TRANSCRIBED, NOT_LOADED)
        ),
        "IMU-041": _flag(
            "MANUFACTURER_MISSING", 5, where(is_equal("in_fabricante_informado", True, null=SKIPPED), NOT_TRANSCRIBED)
        ),
        "IMU-042": _flag("MANUFACTURER_CONFLICT", 2, is_equal("in_fabricante_divergente", False, null=SKIPPED)),
        "IMU-043": _flag(
            "MANUFACTURER_TEXT_UNKNOWN",
            50,
            is_equal("in_fabricante_texto_conhecido", True, null=SKIPPED),
            severity="info",
        ),
        "IMU-044": _flag(
            "STRATEGY_PRODUCT_MISMATCH",
            10,
            where(
                is_among("in_vacina_categoria", ("Soro", "Imunoglobulina", "Anticorpo Monoclonal"), null=SKIPPED),
                equal("co_estrategia_vacinacao", "7"),
            ),
        ),
        "IMU-045": _flag(
            "DOSE_CODE_PRODUCT_MISMATCH",
            10,
            where(
                is_not_equal("in_vacina_categoria", "Vacina", null=SKIPPED),
                among("co_dose_vacina", (str(code) for code in range(59, 83))),
            ),
        ),
        "IMU-046": _flag(
            "GROUP_PREGNANT_MISMATCH",
            10,
            where(is_equal("co_condicao_maternal", "2", null=SKIPPED), equal("co_vacina_grupo_atendimento", "001801")),
        ),
        "IMU-047": _flag(
            "GROUP_PUERPERAL_MISMATCH",
            10,
            where(is_equal("co_condicao_maternal", "3", null=SKIPPED), equal("co_vacina_grupo_atendimento", "001901")),
        ),
        "IMU-048": _flag(
            "MATERNAL_CONDITION_SEX_MISMATCH",
            10,
            where(is_not_equal("tp_sexo_paciente", "M", null=SKIPPED), among("co_condicao_maternal", ("2", "3"))),
        ),
        "IMU-049": _flag(
            "GROUP_SEX_MISMATCH",
            10,
            where(
                is_not_equal("tp_sexo_paciente", "M", null=SKIPPED),
                among("co_vacina_grupo_atendimento", ("001801", "001901")),
            ),
        ),
        "IMU-050": _flag("GROUP_AGE_MISMATCH", 10, is_equal("in_idade_no_grupo", True, null=SKIPPED)),
        "IMU-051": _flag(
            "LEPROSY_CONTACT_MISSING",
            30,
            where(is_filled("st_contato_hanseniase"), equal("co_vacina", "15"), NOT_TRANSCRIBED, NOT_LOADED),
        ),
        "IMU-052": _flag(
            "ORIGIN_COUNTRY_MISMATCH",
            10,
            where(is_not_equal("co_pais_aplicacao", "10", null=SKIPPED), equal("co_origem_registro", "02")),
        ),
        "IMU-053": _quarantine(
            "MUNICIPIO_UF_MISMATCH", starts_with("co_municipio_estabelecimento", "in_co_uf_estabelecimento")
        ),
        "IMU-054": _quarantine(
            "UF_CODE_MISMATCH", is_pair("sg_uf_estabelecimento", "in_co_uf_estabelecimento", UF_CODES)
        ),
        "IMU-055": _quarantine(
            "MUNICIPIO_CODES_MISMATCH",
            starts_with("co_ibge_municipio_estabelecimento", "co_municipio_estabelecimento"),
        ),
        "IMU-056": _flag(
            "RESIDENCE_CODES_MISMATCH", 2, starts_with("co_ibge_municipio_paciente", "co_municipio_paciente")
        ),
        "IMU-057": _flag("LOT_PLACEHOLDER", 5, is_not_among("in_lote_normalizado", PLACEHOLDER_LOTS, null=SKIPPED)),
        "IMU-058": _flag("LOT_WITHOUT_CONTENT", 2, matches("in_lote_normalizado", r"[A-Z0-9]+", null=SKIPPED)),
        "IMU-059": _flag("LOT_TOO_LONG", 2, has_length("co_lote_vacina", 1, 30, null=SKIPPED)),
        "IMU-060": _quarantine("LOT_IS_PERSON_ID", is_equal("in_lote_identificador", False, null=BROKEN)),
        "IMU-061": _flag("EXPIRY_IMPLAUSIBLE", 2, is_number("in_qt_dias_validade", most=3653, null=SKIPPED)),
        "IMU-062": Rule(
            treatment="flag",
            severity="warning",
            reason="PROBABLE_DUPLICATE",
            tolerance=5,
            unique=("co_paciente", "co_vacina", "dt_vacina", "co_dose_vacina"),
        ),
        "IMU-063": _flag(
            "DATE_BEFORE_RNDS",
            5,
            where(is_date("dt_vacina", least=datetime.date(2020, 1, 1), null=SKIPPED), NOT_TRANSCRIBED, NOT_LOADED),
        ),
        "IMU-064": _flag(
            "DATE_LATE_WITHOUT_TRANSCRIPTION",
            20,
            where(is_number("in_qt_dias_atraso", most=731, null=SKIPPED), NOT_TRANSCRIBED, NOT_LOADED),
        ),
        "IMU-065": _flag("REGISTRATION_FUTURE", 5, is_text_at_least("dt_entrada_rnds", "dt_registro_origem")),
        "IMU-066": _flag("VACCINATION_AFTER_REGISTRATION", 2, is_number("in_qt_dias_registro", least=-1, null=SKIPPED)),
        "IMU-067": _flag("AGE_OUT_OF_RANGE", 2, is_number("nu_idade_paciente", least=0, most=120, null=SKIPPED)),
        "IMU-110": _fill(85, "co_lote_vacina"),
        "IMU-111": _fill(85, "co_vacina_fabricante"),
        "IMU-112": _fill(70, "ds_vacina_fabricante"),
        "IMU-113": _fill(75, "co_local_aplicacao"),
        "IMU-114": _fill(75, "co_via_administracao"),
        "IMU-115": _fill(75, "co_estrategia_vacinacao"),
        "IMU-116": _fill(70, "co_vacina_grupo_atendimento"),
        "IMU-117": _fill(40, "co_condicao_maternal"),
        "IMU-118": _fill(40, "co_vacina_categoria_atendimento"),
        "IMU-119": _fill(95, "dt_registro_origem"),
        "IMU-120": _fill(90, "co_tipo_estabelecimento"),
        "IMU-121": _fill(90, "co_natureza_estabelecimento"),
        "IMU-122": _fill(90, "no_fantasia_estalecimento"),
        "IMU-123": _fill(95, "sg_vacina"),
        "IMU-124": _fill(95, "ds_dose_vacina"),
        "IMU-125": _fill(90, "co_sistema_origem"),
    }


def judge_rows(rows: Iterable[Row], *, rules: Mapping[str, Rule]) -> dict[str, Outcome]:
    """Judge every row by every rule; a row's position is its place in `rows`, from 0."""
    outcomes = {code: Outcome() for code in rules}
    judges = [(rule.judge, outcomes[code]) for code, rule in rules.items() if rule.judge is not None]
    keys: list[tuple[tuple[str, ...], dict[tuple[Hashable, ...], int], Outcome]] = [
        (rule.unique, {}, outcomes[code]) for code, rule in rules.items() if rule.unique
    ]
    for position, row in enumerate(rows):
        for judge, outcome in judges:
            verdict = judge(row)
            if verdict is SKIPPED:
                continue
            outcome.evaluated += 1
            if not verdict:
                outcome.broken.add(position)
        for columns, first_seen, outcome in keys:
            key = tuple(row[column] for column in columns)
            if None in key:
                continue
            outcome.evaluated += 1
            first = first_seen.setdefault(key, position)
            if first != position:
                outcome.broken.add(first)
                outcome.broken.add(position)
    return outcomes


def is_within_tolerance(outcome: Outcome, rule: Rule) -> bool:
    """Say whether the share of broken rows is at most the tolerance, in whole numbers."""
    return 100 * len(outcome.broken) <= rule.tolerance * outcome.evaluated
