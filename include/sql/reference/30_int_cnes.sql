-- One line per establishment. Of several, the one with a municipality, then an active one, then the greatest CO_UNIDADE; the
-- other columns only make the order total.
-- reads:  stg_cnes
-- writes: int_cnes
-- grain:  co_cnes
create or replace table int_cnes as
with stg_cnes as (select * from main.stg_cnes),

ranked as (
    select
        *,
        row_number() over (
            partition by co_cnes
            order by
                co_municipio_6 is null asc,
                co_motivo_desab is not null asc,
                co_unidade desc,
                co_municipio_6 asc,
                co_motivo_desab asc,
                no_razao_social asc,
                no_fantasia asc,
                co_tipo_estabelecimento asc,
                co_natureza_juridica asc
        ) as nu_ordem
    from stg_cnes
)

select
    co_cnes,
    co_municipio_6,
    no_razao_social,
    no_fantasia,
    co_tipo_estabelecimento,
    co_natureza_juridica,
    co_motivo_desab,
    in_municipio_do_gestor
from ranked
where nu_ordem = 1
