-- Rows to publish by UF of residence, from the other column that says it; the row without a UF is the unknown residence.
-- reads:  $dose, $bad_keys
-- writes: (rows)
-- grain:  sg_uf_paciente
-- params: $dose text, $bad_keys text
with dose as (
    select sg_uf_paciente, nu_parte, nu_linha, nu_dose
    from read_parquet($dose)
),

bad_key as (select nu_parte, nu_linha, nu_dose from read_parquet($bad_keys)),

good as (
    select * from dose anti join bad_key using (nu_parte, nu_linha, nu_dose)
)

select
    sg_uf_paciente,
    count(*) as qt
from good
group by sg_uf_paciente
order by sg_uf_paciente nulls last
