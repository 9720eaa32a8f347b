-- The counts of the day.
-- reads:  contagem
-- writes: (rows)
-- grain:  ds_dimensao, co_valor
select ds_dimensao, co_valor, qt_doses
from contagem
order by ds_dimensao, co_valor
