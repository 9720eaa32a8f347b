-- No entry was rejected: the table is there and empty.
-- writes: raw_rejected
-- grain:  nu_linha
create or replace temp table raw_rejected as
select cast(null as integer) as nu_linha, cast(null as varchar) as reason, cast(null as boolean) as in_repetido
where false
