-- Document level of the documents that are not in the canonical shape, found by resource type and not by position.
-- A line without a resource that tells of a DELETE is no document: it says that one was deleted (Bulk Data `deleted`).
-- Each resource is parsed once, whatever its type: of several of a type the one whose text sorts first is taken. A document is of
-- the type RIA when any coding of its type says so.
-- reads:  $raw_document (Parquet files of 20_raw_document)
-- writes: raw_any_shape_document
-- grain:  landed line that is JSON and not `in_forma`
-- params: $raw_document text[]
create or replace temp table raw_any_shape_document as
with landed as (
    select
        (cast(nu_parte as bigint) << 32) + file_row_number as nu_documento,
        json,
        json_extract_string(json, ['$.request.method', '$.response.lastModified']) as v
    from read_parquet($raw_document, file_row_number = true)
    where in_json and not in_forma
),

entry as (
    select nu_documento, unnest(json_extract(json, '$.resource.entry[*].resource')) as resource
    from landed
),

typed as (
    select
        nu_documento,
        cast(resource as varchar) as tx_recurso,
        json_extract_string(resource, [
            '$.resourceType',
            '$.id',
            '$.meta.profile[0]',
            '$.status',
            '$.subject.identifier.value',
            '$.date',
            '$.author[0].identifier.value',
            '$.relatesTo[0].code',
            '$.relatesTo[0].targetReference.reference',
            '$.gender',
            '$.birthDate',
            '$.address[0]._city.extension[0].valueString',
            '$.address[0].postalCode',
            '$.address[0].country',
            '$.extension',
            '$.type.coding'
        ]) as v
    from entry
),

document as (
    select
        nu_documento,
        count(*) filter (v[1] = 'Composition') as qt_composition,
        count(*) filter (v[1] = 'Immunization') as qt_doses,
        arg_min(v, tx_recurso) filter (v[1] = 'Composition') as composition,
        arg_min(v, tx_recurso) filter (v[1] = 'Patient') as patient
    from typed
    group by nu_documento
)

select
    landed.nu_documento,
    coalesce(landed.v[1] = 'DELETE' and json_extract(landed.json, '$.resource') is null, false) as in_excluido,
    landed.v[2] as tx_excluido,
    coalesce(document.qt_composition, 0) as qt_composition,
    coalesce(document.qt_doses, 0) as qt_doses,
    document.composition[2] as id_composition,
    document.composition[3] as tx_perfil_composition,
    case
        when list_has_any(list_transform(codificacoes(document.composition[16]), lambda c: upper(trim(c.code))), ['RIA']) then 'RIA'
        else list_filter(codificacoes(document.composition[16]), lambda c: c.code is not null)[1].code
    end as tp_documento,
    document.composition[4] as st_composition,
    document.composition[5] as tx_paciente,
    document.composition[6] as tx_date,
    document.composition[7] as tx_cnes,
    document.composition[8] as tp_relates_to,
    document.composition[9] as tx_relates_to,
    document.patient[10] as pat_gender,
    document.patient[11] as pat_birth,
    document.patient[12] as pat_ibge,
    document.patient[13] as pat_cep,
    document.patient[14] as pat_pais,
    document.patient[15] as pat_extension
from landed
left join document on landed.nu_documento = document.nu_documento
