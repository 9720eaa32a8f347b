"""The columns that rules judge and nobody publishes, in Portuguese: what each one holds and how it is made.

A test compares these names with the tables that flatten and validate write.
"""

from __future__ import annotations

from typing import Final

DOSE_COLUMNS: Final = {
    "nu_parte": ("inteiro", "Parte da extração em que o documento está. Com `nu_linha` e `nu_dose`, a chave física da linha: única, nunca nula."),
    "nu_linha": ("inteiro", "Linha do documento na parte."),
    "nu_dose": ("inteiro", "Número da dose no documento, a partir de 0."),
    "in_co_uf_estabelecimento": ("texto", "Código da UF (2 dígitos) do município do estabelecimento, da tabela do IBGE."),
    "in_id_paciente_valido": ("lógico", "Nunca nulo. Dos caracteres do identificador do paciente (`Composition.subject`, na falta dele `Immunization.patient`) ficam só os algarismos: com 15, se é um CNS válido; com 11, se é um CPF válido; com qualquer outro número, falso. CNS válido: ou começa com 7, 8 ou 9, ou é 1 ou 2, dez algarismos, `000` ou `001` e um algarismo; e a soma dos algarismos com pesos de 15 a 1 é divisível por 11; e, quando começa com 1 ou 2 e os algarismos 12 a 14 são `001`, a soma dos onze primeiros com pesos de 15 a 5 deixa resto 1 por 11. CPF válido: os onze algarismos não são todos iguais; a soma dos nove primeiros com pesos de 10 a 2, vezes 10, módulo 11, módulo 10, é o décimo; a dos dez primeiros com pesos de 11 a 2, do mesmo modo, é o décimo primeiro."),
    "in_id_paciente_tipo": ("texto", "`cns` com 15 algarismos, `cpf` com 11, senão `outro`."),
    "in_vacina_antes_nascimento": ("lógico", "Se `dt_vacina` é anterior ao nascimento do cadastro; nulo quando falta um dos dois."),
    "in_transcricao": ("lógico", "Nunca nulo. Verdadeiro quando `co_origem_registro` é `01` ou `Immunization.primarySource` é falso."),
    "in_perfil": ("texto", "Último trecho do endereço do primeiro perfil da Composition; vazio quando não há."),
    "in_qt_dias_atraso": ("inteiro", "Dias de `dt_vacina` até o dia (em Brasília) da última alteração do documento na RNDS; negativo quando a vacinação é posterior."),
    "in_st_imunizacao": ("texto", "`Immunization.status` como veio, com caracteres de controle trocados por um espaço e sem espaços nas pontas; nulo quando não há ou fica vazio."),
    "in_vacina_categoria": ("texto", "Categoria do imunobiológico na tabela do PNI (`Vacina`, `Soro`, `Imunoglobulina`, `Anticorpo Monoclonal`, `Diluente` e outras); nula quando o código não está na tabela."),
    "in_vacina_ativa": ("texto", "`S` ou `N`, a situação do imunobiológico na tabela do PNI; nula quando o código não está nela."),
    "in_estrategia_ativa": ("texto", "`S` ou `N`, a situação da estratégia na tabela do PNI; nula quando o código não está nela."),
    "in_grupo_ativo": ("texto", "`S` ou `N`, a situação do grupo de atendimento na tabela do PNI; nula quando o código não está nela."),
    "in_carga": ("lógico", "Nunca nulo. Verdadeiro quando `in_perfil` contém `Carga-`: documento de carga de um sistema antigo."),
    "in_pais_aplicacao_conhecido": ("lógico", "Se `co_pais_aplicacao` está na tabela de países; nulo quando o código é nulo."),
    "in_fabricante_informado": ("lógico", "Nunca nulo. Verdadeiro quando `co_vacina_fabricante` não é nulo ou o documento traz o nome do fabricante em texto que não é vazio."),
    "in_fabricante_divergente": ("lógico", "Verdadeiro quando o código e o nome em texto são de empresas diferentes da tabela; falso quando são da mesma; nulo quando o código ou o nome não está na tabela. O nome é comparado em maiúsculas com a sigla e com a descrição; a empresa é o que vem antes do primeiro hífen da sigla (`PFIZER-BELGICA` e `PFIZER` são a mesma). Um nome que a tabela dá a duas empresas não é comparado."),
    "in_fabricante_texto_conhecido": ("lógico", "Se o nome do fabricante em texto, em maiúsculas, é uma sigla ou descrição da tabela; nulo quando não há texto ou quando o código está na tabela."),
    "in_idade_no_grupo": ("lógico", "Se `nu_idade_paciente` está na faixa do nome do grupo: 000201 de 18 a 64, 000202 de 65 a 69, 000203 de 70 a 74, 000204 de 75 a 79, 000205 de 80 em diante, 000206 de 12 a 17, 000207 de 5 a 11, 000208 de 3 a 4, 000209 de 0 a 2, 000301 de 60 em diante; nulo para os outros grupos e quando a idade é nula."),
    "in_lote_normalizado": ("texto", "`co_lote_vacina` com as letras de `a` a `z` em maiúsculas, as letras ÁÀÂÃÄÉÈÊËÍÌÎÏÓÒÔÕÖÚÙÛÜÇ (e as minúsculas delas) sem acento e em maiúsculas, e sem nenhum outro caractere que não seja de `A` a `Z` ou de `0` a `9`; pode ficar vazio; nulo quando o lote é nulo."),
    "in_lote_identificador": ("lógico", "Nunca nulo. Verdadeiro quando, em uma de quatro leituras do lote como veio (como está; sem `.`, `/` e `-`; sem estes e sem espaços; só os algarismos de 0 a 9, todos juntos), alguma sequência máxima de algarismos de 0 a 9 é um CNS ou CPF válido pelas contas de `in_id_paciente_valido`."),
    "in_qt_dias_validade": ("inteiro", "Dias de `dt_vacina` até `dt_validade_lote`, negativo quando a validade é anterior; nulo quando falta uma das duas."),
    "in_qt_dias_registro": ("inteiro", "Dias de `dt_vacina` até o dia (em Brasília) do registro na origem, negativo quando a vacinação é posterior; nulo quando falta uma das duas."),
}  # fmt: skip
"""Table `imunizacao_dose`, besides the columns of the contract: name → type, what it holds."""

DAY_COLUMNS: Final = {
    "qt_documentos": ("inteiro", "Documentos recebidos."),
    "qt_documentos_unicos": ("inteiro", "Documentos recebidos, sem as repetições."),
    "qt_duplicados": ("inteiro", "Repetições."),
    "qt_doses": ("inteiro", "Doses dos documentos únicos; um documento sem dose legível conta 1."),
    "qt_candidatas": ("inteiro", "Linhas da tabela de doses: as que as regras avaliam."),
    "qt_quarentena_estrutural": ("inteiro", "Doses que não puderam ser lidas ou situadas."),
    "qt_quarentena_regras": ("inteiro", "Doses que as regras por dose põem em quarentena."),
    "qt_cnes_desconhecido": ("inteiro", "Das doses da quarentena estrutural, as de CNES fora da tabela do mês."),
    "qt_substituidas": ("inteiro", "Doses de documentos substituídos por outro do mesmo dia."),
    "qt_removidas": ("inteiro", "Doses de documentos anulados ou removidos."),
    "pc_quarentena_estrutural": ("número", "100 × `qt_quarentena_estrutural` ÷ `qt_doses`; 0 quando não há doses."),
    "pc_quarentena": (
        "número",
        "100 × (`qt_quarentena_estrutural` + `qt_quarentena_regras`) ÷ (`qt_candidatas` + `qt_quarentena_estrutural`); 0 quando não há doses.",
    ),
    "pc_cnes_desconhecido": ("número", "100 × `qt_cnes_desconhecido` ÷ `qt_doses`; 0 quando não há doses."),
    "pc_duplicados": ("número", "100 × `qt_duplicados` ÷ `qt_documentos`; 0 quando não há documentos."),
    "qt_falta_na_conta": ("inteiro", "Soma das diferenças, sem sinal, entre documentos recebidos e únicos + repetidos, entre doses e candidatas + quarentena estrutural + substituídas + removidas, e entre o contado na preparação e nas tabelas."),
    "qt_historico_dias": ("inteiro", "Quantos dos quatro mesmos dias da semana anteriores (D-7, D-14, D-21, D-28) puderam ser publicados e têm contagem guardada: de 0 a 4."),
    "qt_historico_mediana": ("número", "Mediana do número de linhas da tabela de doses nesses dias (a média das duas do meio quando são 2 ou 4); nula quando não há nenhum."),
    "pc_historico_doses": ("número", "100 × `qt_candidatas` ÷ `qt_historico_mediana`; nulo sem histórico ou com mediana 0."),
    "pc_historico_distancia_vacina": ("número", "Distância de variação total, de 0 a 100, entre a distribuição de `co_vacina` no dia e a da soma desses dias: 50 × a soma, sobre todos os códigos, do módulo da diferença entre as duas proporções. O nulo e o código fora da tabela contam cada um como um código. Nula quando um dos lados não tem doses."),
    "pc_historico_distancia_estrategia": ("número", "A mesma distância para `co_estrategia_vacinacao`."),
    "pc_historico_distancia_dose": ("número", "A mesma distância para `co_dose_vacina`."),
    "pc_historico_distancia_uf": ("número", "A mesma distância para a UF do estabelecimento."),
}  # fmt: skip
"""Table `resumo_dia`, one row."""

UF_COLUMNS: Final = {
    "co_uf": ("texto", "Código da UF, 2 dígitos."),
    "sg_uf": ("texto", "Sigla da UF."),
    "qt_doses": ("inteiro", "Linhas da tabela de doses com estabelecimento na UF; 0 quando não há nenhuma."),
    "qt_historico_dias": ("inteiro", "Como em `resumo_dia`."),
    "qt_historico_mediana": ("número", "Mediana das doses da UF nesses dias (um dia sem doses na UF conta 0); nula sem histórico."),
    "pc_historico": ("número", "100 × `qt_doses` ÷ `qt_historico_mediana`; nulo sem histórico ou com mediana 0."),
}  # fmt: skip
"""Table `resumo_uf`, one row per UF, all 27 of them."""
