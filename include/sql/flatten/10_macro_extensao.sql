-- First extension of a JSON list whose address ends in `/<nome>` or `/<nome>-<version>`; null when there is none or when the list
-- is not a list.
-- writes: macro extensao(lista, nome)
create or replace temp macro extensao(lista, nome) as
list_filter(
    cast(case when json_type(lista) = 'ARRAY' then lista end as json[]),
    lambda e: regexp_matches(json_extract_string(e, '$.url'), '/' || nome || '(-[0-9.]+)?$')
)[1]
