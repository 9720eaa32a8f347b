-- Doses in quarantine by place of vaccination and reason; a dose with two reasons counts under each. UF `00` = unknown.
-- reads:  $quarantine
-- writes: (rows)
-- grain:  co_uf, ds_motivo
-- params: $quarantine text
with reason as (
    select
        case
            when regexp_full_match(in_co_uf_estabelecimento, '[1-5][0-9]') then in_co_uf_estabelecimento
            else '00'
        end as co_uf,
        unnest(ds_motivos) as ds_motivo
    from read_parquet($quarantine)
)

select co_uf, ds_motivo, count(*) as qt
from reason
group by co_uf, ds_motivo
order by co_uf, ds_motivo
