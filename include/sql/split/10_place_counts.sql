-- Rows to publish per place of vaccination, in the order of the body.
-- reads:  $dose, $bad_keys
-- writes: (rows)
-- grain:  co_uf, co_municipio
-- params: $dose text, $bad_keys text
with dose as (
    select in_co_uf_estabelecimento, co_municipio_estabelecimento, nu_parte, nu_linha, nu_dose
    from read_parquet($dose)
),

bad_key as (select nu_parte, nu_linha, nu_dose from read_parquet($bad_keys)),

good as (
    select * from dose anti join bad_key using (nu_parte, nu_linha, nu_dose)
)

select
    in_co_uf_estabelecimento as co_uf,
    co_municipio_estabelecimento as co_municipio,
    count(*) as qt
from good
group by in_co_uf_estabelecimento, co_municipio_estabelecimento
order by co_uf, co_municipio
