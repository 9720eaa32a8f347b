-- The same weekdays before, with their number of doses; a day without doses is there with 0.
-- writes: historico_dia
-- grain:  dt_dia
-- params: $dias text[], $doses text[] (numbers)
create or replace temp table historico_dia as
with historico as (
    select
        unnest(cast($dias as varchar[])) as dt_dia,
        unnest(cast($doses as varchar[])) as qt_doses
)

select dt_dia, cast(qt_doses as bigint) as qt_doses
from historico
