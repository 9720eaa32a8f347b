-- The day in one row: what the day rules judge. Shares are percentages from 0 to 100; of nothing they are 0.
-- reads:  imunizacao_dose, $quarantine
-- writes: resumo_dia (not temporary: Great Expectations reads it over a connection of its own)
-- grain:  the day
-- params: $quarantine text; counts of the receipt of flatten: $fetched, $unique_documents, $duplicates, $doses, $candidates,
--         $quarantined, $superseded, $removed integer
create or replace table resumo_dia as
with written as (
    select
        (select count(*) from imunizacao_dose) as qt_candidatas,
        (select count(*) from read_parquet($quarantine)) as qt_quarentena_estrutural,
        (
            select count(*)
            from read_parquet($quarantine)
            where list_contains(ds_motivos, 'CNES_UNKNOWN')
        ) as qt_cnes_desconhecido
)

select
    cast($fetched as bigint) as qt_documentos,
    cast($unique_documents as bigint) as qt_documentos_unicos,
    cast($duplicates as bigint) as qt_duplicados,
    cast($doses as bigint) as qt_doses,
    qt_candidatas,
    qt_quarentena_estrutural,
    qt_cnes_desconhecido,
    cast($superseded as bigint) as qt_substituidas,
    cast($removed as bigint) as qt_removidas,
    case when $doses > 0 then 100.0 * qt_quarentena_estrutural / $doses else 0.0 end as pc_quarentena_estrutural,
    case when $doses > 0 then 100.0 * qt_cnes_desconhecido / $doses else 0.0 end as pc_cnes_desconhecido,
    case when $fetched > 0 then 100.0 * $duplicates / $fetched else 0.0 end as pc_duplicados,
    -- Every gap counts, whatever its sign: two that cancel each other are still two.
    abs($fetched - $unique_documents - $duplicates)
    + abs($doses - qt_candidatas - qt_quarentena_estrutural - $superseded - $removed)
    + abs($candidates - qt_candidatas)
    + abs($quarantined - qt_quarentena_estrutural) as qt_falta_na_conta
from written
