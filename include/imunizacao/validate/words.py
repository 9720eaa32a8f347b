"""What a rule requires, word for word in Portuguese: exact enough to be programmed again by somebody who reads only this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from imunizacao.errors import ContractViolation
from imunizacao.validate.suites import PARAMETERS, Rule

_NULL_BREAKS: Final = "viola a regra"
_NULL_IGNORED: Final = "não é avaliado: não viola e não conta entre as linhas avaliadas"
_OPERATORS: Final = {"==": "=", "!=": "≠", "<": "<", "<=": "≤", ">": ">", ">=": "≥"}


def condition_in_words(rule: Rule) -> str:
    """What must be true of a row (or of the summary) that keeps the rule."""
    return _kind(rule)[0](rule.kwargs)


def nulls_in_words(rule: Rule) -> str:
    """What happens to a row in which a column of the condition is null."""
    return _kind(rule)[1](rule.kwargs)


def scope_in_words(rule: Rule) -> str:
    """Which rows are judged at all; empty when all of them are."""
    condition = rule.kwargs.get("row_condition")
    return "" if condition is None else _row_condition(condition)


def value_in_words(value: Any) -> str:
    """A literal as the page shows it."""
    match value:
        case {"$PARAMETER": name}:
            return f"*{PARAMETERS[name]}*"
        case None:
            return "nulo"
        case bool():
            return "verdadeiro" if value else "falso"
        case str():
            return f"`{_visible(value)}`" if value else "o texto vazio"
        case _:
            return f"{value}".replace(".", ",") if isinstance(value, float) else str(value)


def _visible(text: str) -> str:
    """Characters that a page would not show, as escapes."""
    return "".join(
        sign
        if sign.isprintable() and sign != "`"
        else f"\\u{ord(sign):04x}"
        if ord(sign) > 255
        else f"\\x{ord(sign):02x}"
        for sign in text
    )


def _kind(rule: Rule) -> tuple[Callable[[Mapping[str, Any]], str], Callable[[Mapping[str, Any]], str]]:
    try:
        return _KINDS[rule.type]
    except KeyError:
        raise ContractViolation(
            f"Rule {rule.rule}: there are no words for {rule.type}. Add them to validate/words.py, so that the page of the "
            "rules can say exactly what the rule requires."
        ) from None


def _column(kwargs: Mapping[str, Any], key: str = "column") -> str:
    return f"`{kwargs[key]}`"


def _set(kwargs: Mapping[str, Any]) -> str:
    values = kwargs["value_set"]
    listed = ", ".join(value_in_words(value) for value in values)
    return f"igual a {listed}" if len(values) == 1 else f"um destes valores: {listed}"


def _between(kwargs: Mapping[str, Any], what: str) -> str:
    bounds = [
        f"{sign} {value_in_words(kwargs[key])}"
        for key, sign in (
            ("min_value", ">" if kwargs.get("strict_min") else "≥"),
            ("max_value", "<" if kwargs.get("strict_max") else "≤"),
        )
        if kwargs.get(key) is not None
    ]
    return f"{what} é {' e '.join(bounds)}"


def _regex(kwargs: Mapping[str, Any]) -> str:
    return f"o valor inteiro de {_column(kwargs)} corresponde à expressão regular `{_visible(kwargs['regex'])}`"


def _greater(kwargs: Mapping[str, Any]) -> str:
    sign = "≥" if kwargs.get("or_equal") else ">"
    return f"{_column(kwargs, 'column_A')} {sign} {_column(kwargs, 'column_B')}"


def _pairs(kwargs: Mapping[str, Any]) -> str:
    pairs = ", ".join(f"({value_in_words(a)}, {value_in_words(b)})" for a, b in kwargs["value_pairs_set"])
    return f"o par ({_column(kwargs, 'column_A')}, {_column(kwargs, 'column_B')}) é um destes: {pairs}"


def _together(kwargs: Mapping[str, Any]) -> str:
    columns = ", ".join(f"`{name}`" for name in kwargs["column_list"])
    return (
        f"nenhuma outra linha avaliada da tabela tem os mesmos valores em {columns}; "
        "quando um conjunto de valores se repete, todas as linhas que o têm violam a regra"
    )


def _ignored(kwargs: Mapping[str, Any]) -> str:
    match kwargs.get("ignore_row_if"):
        case "either_value_is_missing" | "any_value_is_missing":
            return f"em qualquer uma das colunas: a linha {_NULL_IGNORED}"
        case other:
            raise ContractViolation(f"There are no words for ignore_row_if={other!r}. Add them to validate/words.py.")


def _row_condition(node: Mapping[str, Any]) -> str:
    match node:
        case {"type": "nullity", "column": {"name": name}, "is_null": is_null}:
            return f"`{name}` é nulo" if is_null else f"`{name}` não é nulo"
        case {"type": "comparison", "column": {"name": name}, "operator": "IN", "parameter": values}:
            return f"`{name}` é um destes valores: {', '.join(value_in_words(value) for value in values)}"
        case {"type": "comparison", "column": {"name": name}, "operator": operator, "parameter": value}:
            return f"`{name}` {_OPERATORS[operator]} {value_in_words(value)}"
        case {"type": "and", "conditions": parts}:
            return " e ".join(_row_condition(part) for part in parts)
        case _:
            raise ContractViolation(f"There are no words for the row condition {node}. Add them to validate/words.py.")


def _ignores(_: Mapping[str, Any]) -> str:
    return _NULL_IGNORED


def _breaks(_: Mapping[str, Any]) -> str:
    return _NULL_BREAKS


def _never(_: Mapping[str, Any]) -> str:
    return "não ocorre"


_KINDS: Final[dict[str, tuple[Callable[[Mapping[str, Any]], str], Callable[[Mapping[str, Any]], str]]]] = {
    "expect_table_row_count_to_equal": (
        lambda kwargs: f"o número de linhas da tabela é igual a {value_in_words(kwargs['value'])}",
        _never,
    ),
    "expect_column_max_to_be_between": (lambda kwargs: _between(kwargs, f"o maior valor de {_column(kwargs)}"), _never),
    "expect_column_values_to_not_be_null": (lambda kwargs: f"{_column(kwargs)} não é nulo", _breaks),
    "expect_column_values_to_be_filled_and_match_regex": (_regex, _breaks),
    "expect_column_values_to_be_filled_and_in_set": (lambda kwargs: f"{_column(kwargs)} é {_set(kwargs)}", _breaks),
    "expect_column_values_to_match_regex": (_regex, _ignores),
    "expect_column_values_to_be_in_set": (lambda kwargs: f"{_column(kwargs)} é {_set(kwargs)}", _ignores),
    "expect_column_values_to_not_be_in_set": (lambda kwargs: f"{_column(kwargs)} não é {_set(kwargs)}", _ignores),
    "expect_column_values_to_be_between": (lambda kwargs: _between(kwargs, _column(kwargs)), _ignores),
    "expect_column_value_lengths_to_be_between": (
        lambda kwargs: _between(kwargs, f"o número de caracteres (pontos de código Unicode) de {_column(kwargs)}"),
        _ignores,
    ),
    "expect_column_values_to_be_unique": (
        lambda kwargs: _together({"column_list": [kwargs["column"]]}),
        _ignores,
    ),
    "expect_compound_columns_to_be_unique": (_together, _ignored),
    "expect_column_pair_values_a_to_be_greater_than_b": (_greater, _ignored),
    "expect_column_pair_values_a_to_start_with_b": (
        lambda kwargs: f"o texto de {_column(kwargs, 'column_A')} começa com o texto de {_column(kwargs, 'column_B')}",
        _ignored,
    ),
    "expect_column_pair_values_to_be_in_set": (_pairs, _ignored),
}
"""Type → words for its condition, words for nulls."""
