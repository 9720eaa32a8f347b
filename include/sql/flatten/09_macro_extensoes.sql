-- A list of FHIR extensions (JSON) as a list of structs with the values that we read; what is no such list is null.
-- writes: macro extensoes(lista)
create or replace temp macro extensoes(lista) as
try(
    json_transform(
        cast(lista as json),
        '[{"url": "VARCHAR", "valueBoolean": "VARCHAR", "valueCodeableConcept": {"coding": [{"code": "VARCHAR"}]}}]'
    )
)
