-- First extension of a JSON list whose address ends in `/<nome>` or `/<nome>-<version>`; null when there is none. What is no list
-- (an object, a plain text, not even JSON) has no extensions: TRY makes null of it.
-- writes: macro extensao(lista, nome)
create or replace temp macro extensao(lista, nome) as
list_filter(
    try(cast(cast(lista as json) as json[])),
    lambda e: e_extensao(json_extract_string(e, '$.url'), nome)
)[1]
