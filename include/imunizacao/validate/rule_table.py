"""`docs/dados/regras.md`, the rules for people who use the data: `python -m imunizacao.validate.rule_table` writes it to stdout."""

from __future__ import annotations

import sys
from typing import Final

from imunizacao.paths import EXPECTATIONS
from imunizacao.validate.suites import Rule, Suites, load_suites

_SEVERITY: Final = {"critical": "crítica", "warning": "alerta", "info": "informação"}
_HEAD: Final = """\
# Regras de validação

<!-- Gerado por `python -m imunizacao.validate.rule_table`; não editar à mão. -->

Todo dia é avaliado por estas regras antes de ser publicado. O código de uma regra (`IMU-nnn`) nunca é reaproveitado.

- **Quarentena**: a dose que viola a regra não é publicada; ela é contada no dia, por motivo e por UF.
- **Sinalização**: a dose é publicada assim mesmo; as ocorrências são contadas no `outcome.json` do dia.
- **Tolerância**: quanto das linhas avaliadas pode violar a regra. Acima disso, uma regra *crítica* retém o dia inteiro até que
  alguém verifique, e a publicação anterior continua valendo; um *alerta* só avisa.
- Uma regra que não pôde ser avaliada retém o dia, qualquer que seja a sua gravidade.
"""


def rule_table(suites: Suites) -> str:
    """The whole page, in Portuguese; same suites, same text."""
    row = [rule for rule in suites.rules if rule.scope == "row"]
    day = [rule for rule in suites.rules if rule.scope == "day"]
    parts = [
        _HEAD,
        "## Regras por dose\n",
        "| regra | o que exige | se violar | motivo | gravidade | tolerância | fonte |",
        "|---|---|---|---|---|---|---|",
        *(_row_line(rule) for rule in sorted(row, key=lambda rule: rule.rule)),
        "",
        "## Regras do dia\n",
        "| regra | o que exige | gravidade | limite | fonte |",
        "|---|---|---|---|---|",
        *(_day_line(rule) for rule in sorted(day, key=lambda rule: rule.rule)),
        "",
        "Além destes, há os motivos estruturais (por exemplo `CNES_UNKNOWN`, `JSON_INVALID`): documentos que não puderam ser lidos",
        "ou situados e, por isso, nem chegaram à tabela de doses. Estão na mesma quarentena e na mesma conta.",
    ]
    return "\n".join(parts) + "\n"


def _row_line(rule: Rule) -> str:
    action = "quarentena" if rule.on_fail == "quarantine" else "sinalização"
    tolerance = rule.tolerance.removeprefix("tolerância do dia: ").removesuffix(" das linhas avaliadas")
    return _line(rule.rule, rule.note, action, f"`{rule.reason}`", _SEVERITY[rule.severity], tolerance, rule.source)


def _day_line(rule: Rule) -> str:
    return _line(rule.rule, rule.note, _SEVERITY[rule.severity], rule.tolerance, rule.source)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(rule_table(load_suites(EXPECTATIONS)))
