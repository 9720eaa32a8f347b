-- Establishments per UF.
-- reads:  int_cnes
-- writes: (rows)
-- grain:  co_uf
with int_cnes as (select co_municipio_6 from main.int_cnes where co_municipio_6 is not null)

select
    left(co_municipio_6, 2) as co_uf,
    count(*) as qt
from int_cnes
group by left(co_municipio_6, 2)
order by co_uf
