-- Document level of the documents that are not in the canonical shape, found by resource type and not by position.
-- reads:  $raw_document (Parquet of 20_raw_document)
-- writes: raw_any_shape_document
-- grain:  landed line that is JSON and not `in_forma`
-- params: $raw_document text
create or replace temp table raw_any_shape_document as
with landed as (
    select file_row_number as nu_documento, json
    from read_parquet($raw_document, file_row_number = true)
    where in_json and not in_forma
),

entry as (
    select
        nu_documento,
        unnest(cast(json_extract(json, '$.resource.entry[*].resource') as json[])) as resource
    from landed
),

typed as (
    select nu_documento, json_extract_string(resource, '$.resourceType') as tp_recurso, resource
    from entry
),

composition as (
    select nu_documento, first(resource order by cast(resource as varchar)) as resource, count(*) as qt_composition
    from typed
    where tp_recurso = 'Composition'
    group by nu_documento
),

patient as (
    select nu_documento, first(resource order by cast(resource as varchar)) as resource
    from typed
    where tp_recurso = 'Patient'
    group by nu_documento
),

immunization as (
    select nu_documento, count(*) as qt_doses
    from typed
    where tp_recurso = 'Immunization'
    group by nu_documento
)

select
    landed.nu_documento,
    coalesce(composition.qt_composition, 0) as qt_composition,
    coalesce(immunization.qt_doses, 0) as qt_doses,
    json_extract_string(composition.resource, '$.id') as id_composition,
    json_extract_string(composition.resource, '$.meta.profile[0]') as tx_perfil_composition,
    json_extract_string(composition.resource, '$.status') as st_composition,
    json_extract_string(composition.resource, '$.subject.identifier.value') as tx_paciente,
    json_extract_string(composition.resource, '$.date') as tx_date,
    json_extract_string(composition.resource, '$.author[0].identifier.value') as tx_cnes,
    json_extract_string(composition.resource, '$.relatesTo[0].code') as tp_relates_to,
    json_extract_string(composition.resource, '$.relatesTo[0].targetReference.reference') as tx_relates_to,
    json_extract_string(patient.resource, '$.gender') as pat_gender,
    json_extract_string(patient.resource, '$.birthDate') as pat_birth,
    json_extract_string(patient.resource, '$.address[0]._city.extension[0].valueString') as pat_ibge,
    json_extract_string(patient.resource, '$.address[0].postalCode') as pat_cep,
    json_extract_string(patient.resource, '$.address[0].country') as pat_pais,
    json_extract_string(patient.resource, '$.extension') as pat_extension
from landed
left join composition on landed.nu_documento = composition.nu_documento
left join patient on landed.nu_documento = patient.nu_documento
left join immunization on landed.nu_documento = immunization.nu_documento
