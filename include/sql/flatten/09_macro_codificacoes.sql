-- A list of FHIR codings (JSON) as a list of structs; what is no such list is null.
-- writes: macro codificacoes(lista)
create or replace temp macro codificacoes(lista) as
try(json_transform(cast(lista as json), '[{"system": "VARCHAR", "code": "VARCHAR"}]'))
