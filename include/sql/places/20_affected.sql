-- Doses that another CNES snapshot would publish elsewhere, no longer, or at last; and doses at establishments that closed.
-- reads:  $places (index files, named by day), $changes (CSV: one change per establishment)
-- writes: (rows)
-- grain:  reference_day, tp_mudanca
-- params: $places text[], $changes text
with place as (
    select
        regexp_extract(filename, '([0-9]{4}-[0-9]{2}-[0-9]{2})\.parquet$', 1) as reference_day,
        co_cnes,
        co_municipio,
        qt_doses
    from read_parquet($places, filename = true)
),

change as (
    select *
    from read_csv(
        $changes,
        auto_detect = false,
        header = false,
        delim = ',',
        quote = '"',
        escape = '"',
        new_line = '\n',
        nullstr = '',
        columns = {'co_cnes': 'varchar', 'tp_mudanca': 'varchar', 'co_municipio': 'varchar'}
    )
)

select
    place.reference_day,
    change.tp_mudanca,
    count(distinct place.co_cnes) as qt_estabelecimentos,
    cast(sum(place.qt_doses) as bigint) as qt_doses
from place
inner join change on place.co_cnes = change.co_cnes
where
    place.co_municipio is distinct from change.co_municipio
    or (change.tp_mudanca = 'closed' and place.co_municipio is not null)
group by place.reference_day, change.tp_mudanca
order by place.reference_day, change.tp_mudanca
