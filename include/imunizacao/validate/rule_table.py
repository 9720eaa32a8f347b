"""`docs/dados/regras.md`, the rules for people who use the data: `python -m imunizacao.validate.rule_table` writes it to stdout.

The page is a specification: whoever reads only it can program the rules again and must find the same rows (tested).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

from imunizacao.paths import EXPECTATIONS
from imunizacao.validate.columns import DAY_COLUMNS, DOSE_COLUMNS, UF_COLUMNS
from imunizacao.validate.suites import DAY_SUITE, ROW_SUITE, UF_SUITE, Rule, Suites, load_suites
from imunizacao.validate.words import condition_in_words, nulls_in_words, scope_in_words, value_in_words

_SEVERITY: Final = {"critical": "crítica", "warning": "alerta", "info": "informação"}
_HEAD: Final = """\
# Regras de validação

<!-- Gerado por `python -m imunizacao.validate.rule_table`; não editar à mão. -->

Todo dia é avaliado por estas regras antes de ser publicado. O código de uma regra (`IMU-nnn`) nunca é reaproveitado. As regras estão
nos arquivos `expectations/*.json`, de onde esta página é gerada.

- **Quarentena**: a dose que viola a regra não é publicada; ela é contada no dia, por motivo e por UF.
- **Sinalização**: a dose é publicada assim mesmo; as ocorrências são contadas no `outcome.json` do dia.
- **Tolerância**: quanto das linhas avaliadas pode violar a regra. Acima disso, uma regra *crítica* retém o dia inteiro até que
  alguém verifique, e a publicação anterior continua valendo; um *alerta* avisa na nota da execução; uma *informação* só é contada.
- Uma regra do dia *crítica* **retém** o dia; algumas, em vez disso, **perguntam** a uma pessoa, que decide se ele é publicado e por quê:
  o motivo fica no histórico (`decision` em `head.json`). Sem resposta no prazo, o dia fica retido.
- Uma regra que não pôde ser avaliada retém o dia, qualquer que seja a sua gravidade.

## Como ler as condições

As regras valem sobre três tabelas: `imunizacao_dose` (uma linha por dose), `resumo_dia` (uma linha) e `resumo_uf` (27 linhas).

- A **condição** diz o que a linha que cumpre a regra satisfaz. A linha viola a regra quando é avaliada e não satisfaz a condição.
- **Só se avaliam**: as outras linhas não violam a regra e não contam entre as avaliadas. Uma comparação com um valor nulo (também `≠`)
  é falsa, e a linha não é avaliada.
- **Nulo** é a falta de valor. O texto vazio não é nulo: é um valor como outro qualquer.
- Textos se comparam caractere a caractere, pelo ponto de código Unicode, com diferença de maiúsculas, de acentos e de espaços. `≥` entre textos é essa
  ordem. Datas se comparam como datas, números como números.
- Códigos são textos: `01` não é `1`.
- Uma **expressão regular** tem de corresponder ao valor inteiro (em Python, `re.fullmatch`; `$` não deixa passar uma quebra de linha no
  fim). `[:cntrl:]` são os caracteres de U+0000 a U+001F e U+007F; `[0-9]` são só os algarismos ASCII. `\\x80` e `\\u2028` são o caractere com esse
  ponto de código, em hexadecimal.
- A ordem das linhas não importa. Cada regra vê todas as linhas da tabela, também as que outra regra põe em quarentena.
- *Dia de referência* é a data do dia publicado; *doses contadas na preparação* é a contagem da etapa anterior.

Os **exemplos** de uma regra por dose são o que muda em uma linha que cumpre todas as regras; os de uma mesma lista estão juntos na mesma
tabela. Os das regras do dia e da UF são o que muda no resumo; nos de preenchimento, `rows` são linhas com valor e `empty` são linhas com nulo.
"""
_TAIL: Final = """\
## Motivos estruturais

Além destes, há os motivos estruturais (por exemplo `CNES_UNKNOWN`, `JSON_INVALID`): documentos que não puderam ser lidos ou situados e, por
isso, nem chegaram à tabela de doses. Estão na mesma quarentena e na mesma conta.
"""
_HISTORY: Final = """\
As que comparam com o histórico leem as contagens guardadas dos mesmos dias da semana anteriores (D-7, D-14, D-21 e D-28), só os que puderam ser publicados. Com pouco
histórico não se avalia nada e a regra passa; o relatório diz quantos dias havia. A regra só decide se o dia é publicado: o
conteúdo publicado nunca depende do histórico.
"""


def rule_table(suites: Suites) -> str:
    """The whole page, in Portuguese; same suites, same text."""
    row = _sorted(rule for rule in suites.rules if rule.scope == "row")
    day = _sorted(rule for rule in suites.rules if rule.scope == "day" and rule.suite != UF_SUITE)
    uf = _sorted(suites.uf.rules)
    parts = [
        _HEAD,
        "## Resumo\n",
        "| regra | o que exige | se violar | motivo | gravidade | tolerância ou limite |",
        "|---|---|---|---|---|---|",
        *(_summary(rule) for rule in (*row, *day, *uf)),
        "",
        "## Regras por dose\n",
        *(_section(rule) for rule in row),
        "## Regras do dia\n",
        _HISTORY,
        *(_section(rule) for rule in day),
        "## Regras por UF\n",
        *(_section(rule) for rule in uf),
        "## Colunas\n",
        "As colunas publicadas estão no [dicionário](dicionario.md). As regras leem também estas, que nunca são publicadas.\n",
        *_columns("imunizacao_dose", DOSE_COLUMNS),
        *_columns("resumo_dia", DAY_COLUMNS),
        *_columns("resumo_uf", UF_COLUMNS),
        _TAIL,
    ]
    return "\n".join(parts)


def _sorted(rules: Iterable[Rule]) -> list[Rule]:
    return sorted(rules, key=lambda rule: rule.rule)


def _summary(rule: Rule) -> str:
    action = {"quarantine": "quarentena", "flag": "sinalização"}.get(rule.on_fail) or _day_action(rule)
    tolerance = rule.tolerance.removeprefix("tolerância do dia: ").removesuffix(" das linhas avaliadas")
    reason = f"`{rule.reason}`" if rule.reason else ""
    return _line(f"[{rule.rule}](#{rule.rule.lower()})", rule.note, action, reason, _SEVERITY[rule.severity], tolerance)


def _day_action(rule: Rule) -> str:
    return "pergunta" if rule.on_fail == "ask" else "retém o dia" if rule.severity == "critical" else "avisa"


def _section(rule: Rule) -> str:
    table = {ROW_SUITE: "imunizacao_dose", DAY_SUITE: "resumo_dia", UF_SUITE: "resumo_uf"}[rule.suite]
    action = {"quarantine": "quarentena", "flag": "sinalização"}.get(rule.on_fail)
    severity = _SEVERITY[rule.severity] + ("; uma pessoa decide se o dia é publicado" if rule.on_fail == "ask" else "")
    decision = f"{action}, motivo `{rule.reason}`; {severity}" if action else severity
    lines = [
        f"### {rule.rule}\n",
        f"{rule.note}.\n",
        f"- Tabela: `{table}`",
        f"- Condição: {condition_in_words(rule)}.",
    ]
    if scope := scope_in_words(rule):
        lines.append(f"- Só se avaliam as linhas em que {scope}.")
    lines += [
        f"- Nulo: {nulls_in_words(rule)}.",
        f"- Decisão: {decision}; {rule.tolerance}.",
        f"- Por quê: {rule.rationale}",
        f"- Fonte: {rule.source}.",
        f"- Cumprem: {_examples(rule.passes)}.",
        f"- Violam: {_examples(rule.fails)}.",
        "",
    ]
    return "\n".join(lines)


def _examples(examples: Iterable[Mapping[str, Any]]) -> str:
    return " · ".join(
        ", ".join(f"`{column}` {value_in_words(value)}" for column, value in example.items()) for example in examples
    )


def _columns(table: str, columns: Mapping[str, tuple[str, str]]) -> list[str]:
    return [
        f"### Tabela {table}\n",
        "| coluna | tipo | conteúdo |",
        "|---|---|---|",
        *(_line(f"`{name}`", kind, meaning) for name, (kind, meaning) in columns.items()),
        "",
    ]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(rule_table(load_suites(EXPECTATIONS)))
