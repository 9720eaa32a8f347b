-- The day in one row: what the day rules judge. Shares are percentages from 0 to 100; of nothing they are 0. What compares with
-- earlier days is null where there is nothing to compare with.
-- reads:  imunizacao_dose, dose_reprovada, contagem, historico_dia, historico_contagem, $quarantine
-- writes: resumo_dia (not temporary: Great Expectations reads it over a connection of its own)
-- grain:  the day
-- params: $quarantine text; counts of the receipt of flatten: $fetched, $unique_documents, $duplicates, $doses, $candidates,
--         $quarantined, $superseded, $removed integer
create or replace table resumo_dia as
with written as (
    select
        (select count(*) from imunizacao_dose) as qt_candidatas,
        (select count(*) from read_parquet($quarantine)) as qt_quarentena_estrutural,
        (select count(*) from dose_reprovada) as qt_quarentena_regras,
        (
            select count(*)
            from read_parquet($quarantine)
            where list_contains(ds_motivos, 'CNES_UNKNOWN')
        ) as qt_cnes_desconhecido
),

history as (
    select count(*) as qt_historico_dias, median(qt_doses) as qt_historico_mediana
    from historico_dia
),

today as (
    select ds_dimensao, co_valor, qt_doses / sum(qt_doses) over (partition by ds_dimensao) as nu_proporcao
    from contagem
),

summed as (
    select ds_dimensao, co_valor, sum(qt_doses) as qt_doses
    from historico_contagem
    group by ds_dimensao, co_valor
),

before as (
    select ds_dimensao, co_valor, qt_doses / nullif(sum(qt_doses) over (partition by ds_dimensao), 0) as nu_proporcao
    from summed
),

-- Total variation distance; only of what has doses on both sides.
distance as (
    select
        coalesce(today.ds_dimensao, before.ds_dimensao) as ds_dimensao,
        round(50 * sum(abs(coalesce(today.nu_proporcao, 0) - coalesce(before.nu_proporcao, 0))), 6) as pc_distancia
    from today
    full join before on today.ds_dimensao = before.ds_dimensao and today.co_valor = before.co_valor
    group by coalesce(today.ds_dimensao, before.ds_dimensao)
    having sum(today.nu_proporcao) > 0 and sum(before.nu_proporcao) > 0
)

select
    cast($fetched as bigint) as qt_documentos,
    cast($unique_documents as bigint) as qt_documentos_unicos,
    cast($duplicates as bigint) as qt_duplicados,
    cast($doses as bigint) as qt_doses,
    written.qt_candidatas,
    written.qt_quarentena_estrutural,
    written.qt_quarentena_regras,
    written.qt_cnes_desconhecido,
    cast($superseded as bigint) as qt_substituidas,
    cast($removed as bigint) as qt_removidas,
    case when $doses > 0 then 100.0 * written.qt_quarentena_estrutural / $doses else 0.0 end as pc_quarentena_estrutural,
    -- Of the doses that could be published: neither replaced nor removed ones.
    case
        when written.qt_candidatas + written.qt_quarentena_estrutural > 0
            then
                100.0
                * (written.qt_quarentena_estrutural + written.qt_quarentena_regras)
                / (written.qt_candidatas + written.qt_quarentena_estrutural)
        else 0.0
    end as pc_quarentena,
    case when $doses > 0 then 100.0 * written.qt_cnes_desconhecido / $doses else 0.0 end as pc_cnes_desconhecido,
    case when $fetched > 0 then 100.0 * $duplicates / $fetched else 0.0 end as pc_duplicados,
    -- Every gap counts, whatever its sign: two that cancel each other are still two.
    abs($fetched - $unique_documents - $duplicates)
    + abs($doses - written.qt_candidatas - written.qt_quarentena_estrutural - $superseded - $removed)
    + abs($candidates - written.qt_candidatas)
    + abs($quarantined - written.qt_quarentena_estrutural) as qt_falta_na_conta,
    history.qt_historico_dias,
    history.qt_historico_mediana,
    100.0 * written.qt_candidatas / nullif(history.qt_historico_mediana, 0) as pc_historico_doses,
    (select pc_distancia from distance where ds_dimensao = 'vacina') as pc_historico_distancia_vacina,
    (select pc_distancia from distance where ds_dimensao = 'estrategia') as pc_historico_distancia_estrategia,
    (select pc_distancia from distance where ds_dimensao = 'dose') as pc_historico_distancia_dose,
    (select pc_distancia from distance where ds_dimensao = 'uf') as pc_historico_distancia_uf
from written
cross join history
