-- Rows that each rule took out: the count that must be the one of Great Expectations.
-- reads:  dose_reprovada
-- writes: (rows)
-- grain:  ds_regra
with broken as (select unnest(ds_regras) as ds_regra from dose_reprovada)

select ds_regra, count(*) as qt
from broken
group by ds_regra
order by ds_regra
