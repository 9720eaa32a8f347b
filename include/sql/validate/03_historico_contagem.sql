-- What those days counted, by code.
-- writes: historico_contagem
-- grain:  dt_dia, ds_dimensao, co_valor
-- params: $dias text[], $dimensoes text[], $codigos text[], $doses text[] (numbers)
create or replace temp table historico_contagem as
with historico as (
    select
        unnest(cast($dias as varchar[])) as dt_dia,
        unnest(cast($dimensoes as varchar[])) as ds_dimensao,
        unnest(cast($codigos as varchar[])) as co_valor,
        unnest(cast($doses as varchar[])) as qt_doses
)

select dt_dia, ds_dimensao, co_valor, cast(qt_doses as bigint) as qt_doses
from historico
