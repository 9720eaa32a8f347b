-- Entries that could not become a landing line (too large, too deep, not UTF-8): kept beside landing, counted like any other.
-- reads:  reject files ($rejects)
-- writes: raw_rejected
-- grain:  nu_linha; in_repetido marks another copy of the same bytes
-- params: $rejects text[]
create or replace temp table raw_rejected as
with rejected as (
    select reason, sha256, page, position, filename
    from
        read_json(
            $rejects,
            format = 'newline_delimited',
            columns = {'reason': 'varchar', 'sha256': 'varchar', 'page': 'bigint', 'position': 'bigint'},
            compression = 'zstd',
            maximum_object_size = 134217728,
            filename = true
        )
)

select
    cast(row_number() over (order by filename, page, position) as integer) as nu_linha,
    reason,
    row_number() over (partition by sha256 order by filename, page, position) > 1 as in_repetido
from rejected
