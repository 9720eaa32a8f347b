-- First extension whose address ends in `/<nome>` or `/<nome>-<version>`, as JSON; null when there is none.
-- writes: macro extensao(recurso, caminho, nome)
create or replace temp macro extensao(recurso, caminho, nome) as
list_filter(
    cast(json_extract(recurso, caminho) as json[]),
    lambda e: regexp_matches(json_extract_string(e, '$.url'), '/' || nome || '(-[0-9.]+)?$')
)[1]
