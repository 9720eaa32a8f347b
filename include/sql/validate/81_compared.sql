-- What the day rules compare with earlier days, by column.
-- reads:  resumo_dia
-- writes: (rows)
-- grain:  ds_coluna
select
    unnest([
        'pc_historico_doses',
        'pc_historico_distancia_vacina',
        'pc_historico_distancia_estrategia',
        'pc_historico_distancia_dose',
        'pc_historico_distancia_uf'
    ]) as ds_coluna,
    unnest([
        pc_historico_doses,
        pc_historico_distancia_vacina,
        pc_historico_distancia_estrategia,
        pc_historico_distancia_dose,
        pc_historico_distancia_uf
    ]) as pc_valor
from resumo_dia
