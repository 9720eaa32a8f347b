-- Entries that could not become a landing line (too large, too deep, not UTF-8): kept beside landing, counted like any other.
-- writes: raw_rejected
-- grain:  nu_linha
-- params: $reasons text[], $sha256 text[] (of the rejected bytes), in landing order; in_repetido marks another copy of the same bytes
create or replace temp table raw_rejected as
with rejected as (
    select
        unnest(cast($reasons as varchar[])) as reason,
        unnest(cast($sha256 as varchar[])) as sha256,
        unnest(range(1, len(cast($reasons as varchar[])) + 1)) as nu_linha
)

select
    cast(nu_linha as integer) as nu_linha,
    reason,
    row_number() over (partition by sha256 order by nu_linha) > 1 as in_repetido
from rejected
