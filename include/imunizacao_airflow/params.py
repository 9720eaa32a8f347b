"""Params of the DAGs: the form that a person fills in to start a run."""

from __future__ import annotations

from typing import Final

from airflow.sdk import Param

DAY_PARAMS: Final = {
    "reference_day": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Dia de referência",
        description="AAAA-MM-DD, dia em que o documento entrou na RNDS. Vazio: o dia do intervalo; em execução manual, ontem.",
    ),
    "cnes": Param(
        "newest",
        type="string",
        pattern="^(newest|of-the-day|[0-9]{4}(0[1-9]|1[0-2])|#[0-9]+)$",
        title="Competência do CNES",
        description="`newest`: a mais nova; `of-the-day`: a que valia no dia de referência; ou AAAAMM (ou `#id`) de uma "
        "tabela importada. IBGE e PNI: `of-the-day` usa as versões importadas com data que valiam no dia; nos outros casos, as últimas.",
    ),
    "decision_deadline_hours": Param(
        24,
        type="number",
        exclusiveMinimum=0,
        maximum=240,
        title="Prazo da decisão (horas)",
        description="Quanto tempo o dia espera quando as regras perguntam a uma pessoa se ele deve sair. Sem resposta, fica retido.",
    ),
}
"""Of every DAG that works on one day."""

REFERENCE_PARAMS: Final = {
    "file": Param(
        None,
        type=["null", "string"],
        title="Arquivo",
        description="Endereço https ou caminho que os workers veem. Vazio: os arquivos em `v1/inbox/references/` do bucket de trabalho.",
    ),
    "kind": Param(
        None,
        type=["null", "string"],
        enum=[None, "cnes", "ibge", "pni"],
        title="Tipo",
        description="Vazio: pelo nome do arquivo.",
    ),
    "competencia": Param(
        None,
        type=["null", "string"],
        pattern="^[0-9]{4}(0[1-9]|1[0-2])$",
        title="Competência do CNES",
        description="AAAAMM, quando o arquivo não diz (o dos dados abertos não diz).",
    ),
    "table": Param(
        None,
        type=["null", "string"],
        title="Tabela do PNI",
        description="Por exemplo `dose`, quando o arquivo não diz.",
    ),
    "version": Param(
        None,
        type=["null", "string"],
        maxLength=40,
        title="Nome da versão",
        description="De IBGE e PNI, por exemplo `DTB 2025`. Vazio: o do CodeSystem, ou o começo do sha256.",
    ),
    "valid_from": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Vale a partir de",
        description="De IBGE e PNI: primeiro dia de referência para o qual `of-the-day` usa esta versão. Vazio: qualquer dia. Só com `file`.",
    ),
    "force": Param(
        False,
        type="boolean",
        title="Aceitar o que as guardas recusam",
        description="Só com `file`: um engenheiro afirma que o arquivo está certo. Fica no log.",
    ),
}
"""Of the DAG that imports reference tables."""

DECIDE_PUBLISH: Final = Param(
    "",
    type="string",
    maxLength=500,
    title="Publicar dias que pedem decisão",
    description="Motivo, de 10 a 500 caracteres; é público, no histórico do dia. Vale para todos os dias da execução. Vazio: ficam retidos.",
)
"""An answer beforehand, where a run makes many days and `decide` asks nobody."""

CNES_CHANGE_PARAMS: Final = {
    "from": Param(
        None,
        type=["null", "string"],
        pattern="^([0-9]{4}(0[1-9]|1[0-2])|#[0-9]+)$",
        title="CNES de",
        description="AAAAMM de antes; `#id` (de `reference list`) quando um mês foi importado duas vezes.",
    ),
    "to": Param(
        None,
        type=["null", "string"],
        pattern="^([0-9]{4}(0[1-9]|1[0-2])|#[0-9]+)$",
        title="CNES para",
        description="AAAAMM ou `#id` de depois.",
    ),
    "first": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Primeiro dia",
        description="AAAA-MM-DD. Vazio: o primeiro publicado.",
    ),
    "last": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Último dia",
        description="AAAA-MM-DD. Vazio: o último publicado.",
    ),
    "dry_run": Param(
        True,
        type="boolean",
        title="Só listar",
        description="Desmarque para refazer os dias listados: os que mudam ganham nova revisão.",
    ),
    "decide_publish": DECIDE_PUBLISH,
}
"""Of the DAG that makes days again after a new CNES."""

MIRROR_PARAMS: Final = {
    "slices": Param(
        1,
        type="integer",
        minimum=1,
        maximum=24,
        title="Partes da extração",
        description="Em quantas tarefas dividir a extração do dia, de 1 a 24, cada uma com cerca do mesmo número de documentos.",
    ),
    "accept_stale": Param(
        False,
        type="boolean",
        title="Aceitar espelho parado",
        description="Um engenheiro afirma que o dia está completo, embora o espelho não tenha documento mais novo. Fica na nota da execução.",
    ),
    "freshness_deadline_hours": Param(
        None,
        type=["null", "number"],
        minimum=0,
        maximum=72,
        title="Prazo de espera pelo espelho (horas)",
        description="Contado do fim do dia ou do início da execução, o que vier depois. Vazio: o da conexão do espelho (6 se ela não diz).",
    ),
}
"""Of every DAG that asks the mirror for a day."""

REPLAY_PARAMS: Final = {
    "from": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Primeiro dia",
        description="AAAA-MM-DD, dia de referência. Vazio: 30 dias antes do último dia.",
    ),
    "to": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Último dia",
        description="AAAA-MM-DD, incluído. Vazio: ontem.",
    ),
    "reasons": Param(
        [],
        type="array",
        items={"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$"},
        title="Motivos",
        description="Só doses com um destes motivos fazem um dia ser refeito, por exemplo CNES_UNKNOWN. Vazio: qualquer motivo.",
    ),
    "cnes": DAY_PARAMS["cnes"],
    "dry_run": Param(
        True,
        type="boolean",
        title="Simular",
        description="Ligado: só diz o que seria liberado. Desligado: refaz e publica os dias que mudam.",
    ),
    "decide_publish": DECIDE_PUBLISH,
}
"""Of the DAG that judges quarantined documents again."""

RECHECK_PARAMS: Final = {
    "days": Param(
        15,
        type="integer",
        minimum=1,
        maximum=366,
        title="Dias",
        description="Quantos dias recontar, até ontem. Só vale sem `from`.",
    ),
    "from": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Primeiro dia",
        description="AAAA-MM-DD, dia de referência. Vazio: `days` dias até o último.",
    ),
    "to": REPLAY_PARAMS["to"],
    "thorough": Param(
        False,
        type="boolean",
        title="Buscar tudo de novo",
        description="Também os dias cujos totais não mudaram: só assim se vê documento que saiu enquanto outro entrou na mesma hora.",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Só contar",
        description="Ligado: só diz que dias mudaram no espelho. Desligado: extrai e publica de novo os que mudaram.",
    ),
    "decide_publish": DECIDE_PUBLISH,
}
"""Of the DAG that counts the last days again."""

WITHDRAWAL_PARAMS: Final = {
    "action": Param(
        "withdraw",
        type="string",
        enum=["withdraw", "restore"],
        values_display={"withdraw": "retirar", "restore": "restaurar"},
        title="O que fazer",
        description="Retirar: os leitores deixam de ver. Restaurar: voltam a ver a última versão conferida.",
    ),
    "day": Param(
        "",
        type="string",
        pattern="^([0-9]{4}-[0-9]{2}-[0-9]{2})?$",
        title="Dia",
        description="AAAA-MM-DD, dia de referência publicado. Obrigatório.",
    ),
    "ufs": Param(
        [],
        type="array",
        items={"type": "string", "pattern": "^([0-9]{2}|[A-Za-z]{2})$"},
        title="UFs",
        description="Códigos ou siglas, um por linha, por exemplo 53 ou DF. Vazio: o dia inteiro.",
    ),
    "reason": Param(
        "",
        type="string",
        maxLength=500,
        title="Motivo",
        description="Obrigatório, de 10 a 500 caracteres; é público, no histórico do dia. Sem nomes nem números de pessoas.",
    ),
    "dry_run": Param(
        True,
        type="boolean",
        title="Simular",
        description="Ligado: só diz o que os leitores veem e o que veriam. Desligado: faz.",
    ),
    "remake": Param(
        False,
        type="boolean",
        title="Refazer",
        description="Só para restaurar o que já foi apagado: refaz o dia de landing e o publica inteiro, com as UFs retiradas.",
    ),
    "decide_publish": DECIDE_PUBLISH,
}
"""Of the DAG that withdraws and restores. What has no default is checked by the task: Airflow checks defaults, too."""

HOUSEKEEPING_PARAMS: Final = {
    "only": Param(
        [],
        type="array",
        items={"type": "string", "pattern": "^[a-z]+$"},
        title="Só estes tipos",
        description="Um por linha, por exemplo content, withdrawn, runs, landing. Vazio: todos.",
    ),
    "dry_run": Param(
        True,
        type="boolean",
        title="Só listar",
        description="Vale para execuções manuais; a do horário lista e apaga. Desligado: apaga.",
    ),
}
"""Of the DAG that removes what nobody needs."""
