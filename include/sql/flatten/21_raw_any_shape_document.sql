-- Document level of the documents that are not in the canonical shape, found by resource type and not by position.
-- A line without a resource that tells of a DELETE is no document: it says that one was deleted (Bulk Data `deleted`).
-- reads:  $raw_document (Parquet files of 20_raw_document)
-- writes: raw_any_shape_document
-- grain:  landed line that is JSON and not `in_forma`
-- params: $raw_document text[]
create or replace temp table raw_any_shape_document as
with landed as (
    select
        (cast(nu_parte as bigint) << 32) + file_row_number as nu_documento,
        json,
        json_extract_string(json, ['$.resource', '$.request.method', '$.response.lastModified']) as v
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
    select
        nu_documento,
        json_extract_string(first(resource order by cast(resource as varchar)), [
            '$.id',
            '$.meta.profile[0]',
            '$.status',
            '$.subject.identifier.value',
            '$.date',
            '$.author[0].identifier.value',
            '$.relatesTo[0].code',
            '$.relatesTo[0].targetReference.reference'
        ]) as v,
        count(*) as qt_composition
    from typed
    where tp_recurso = 'Composition'
    group by nu_documento
),

patient as (
    select
        nu_documento,
        json_extract_string(first(resource order by cast(resource as varchar)), [
            '$.gender',
            '$.birthDate',
            '$.address[0]._city.extension[0].valueString',
            '$.address[0].postalCode',
            '$.address[0].country',
            '$.extension'
        ]) as v
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
    coalesce(landed.v[1] is null and landed.v[2] = 'DELETE', false) as in_excluido,
    landed.v[3] as tx_excluido,
    coalesce(composition.qt_composition, 0) as qt_composition,
    coalesce(immunization.qt_doses, 0) as qt_doses,
    composition.v[1] as id_composition,
    composition.v[2] as tx_perfil_composition,
    composition.v[3] as st_composition,
    composition.v[4] as tx_paciente,
    composition.v[5] as tx_date,
    composition.v[6] as tx_cnes,
    composition.v[7] as tp_relates_to,
    composition.v[8] as tx_relates_to,
    patient.v[1] as pat_gender,
    patient.v[2] as pat_birth,
    patient.v[3] as pat_ibge,
    patient.v[4] as pat_cep,
    patient.v[5] as pat_pais,
    patient.v[6] as pat_extension
from landed
left join composition on landed.nu_documento = composition.nu_documento
left join patient on landed.nu_documento = patient.nu_documento
left join immunization on landed.nu_documento = immunization.nu_documento
