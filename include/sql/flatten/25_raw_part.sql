-- Where each landed line is: part and line. The physical key of everything that follows.
-- writes: raw_part
-- grain:  nu_parte
-- params: $parts int[], $first_lines bigint[] (position of the first line of the part among all lines)
create or replace temp table raw_part as
select
    unnest(cast($parts as integer[])) as nu_parte,
    unnest(cast($first_lines as bigint[])) as nu_primeiro
