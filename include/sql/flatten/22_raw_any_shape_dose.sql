-- Doses of the documents that are not in the canonical shape. The order of the doses is the order in which the Composition's
-- sections name them (a reference by id, by relative or by absolute address), then their place in the document.
-- reads:  $raw_document (Parquet files of 20_raw_document)
-- writes: raw_any_shape_dose
-- grain:  nu_documento, nu_dose
-- params: $raw_document text[]
create or replace temp table raw_any_shape_dose as
with landed as (
    select (cast(nu_parte as bigint) << 32) + file_row_number as nu_documento, json
    from read_parquet($raw_document, file_row_number = true)
    where in_json and not in_forma
),

entry as (
    select
        nu_documento,
        unnest(cast(json_extract(json, '$.resource.entry[*]') as json[])) as entry,
        generate_subscripts(cast(json_extract(json, '$.resource.entry[*]') as json[]), 1) as nu_posicao
    from landed
),

typed as (
    select
        nu_documento,
        nu_posicao,
        json_extract_string(entry, '$.resource.resourceType') as tp_recurso,
        json_extract_string(entry, '$.fullUrl') as tx_full_url,
        json_extract_string(entry, '$.resource.id') as id_recurso,
        json_extract(entry, '$.resource') as resource
    from entry
),

named as (
    select
        nu_documento,
        first(
            json_extract_string(resource, '$.section[*].entry[*].reference') order by nu_posicao
        ) as ds_referencias
    from typed
    where tp_recurso = 'Composition'
    group by nu_documento
),

ordered as (
    select
        typed.nu_documento,
        typed.resource,
        row_number() over (
            partition by typed.nu_documento
            order by
                coalesce(
                    list_position(
                        list_transform(
                            named.ds_referencias,
                            lambda r:
                            r = typed.tx_full_url
                            or split_part(r, '/', -1) = typed.id_recurso
                            or split_part(r, '/', -1) = split_part(typed.tx_full_url, '/', -1)
                        ),
                        true
                    ),
                    1000000
                ),
                typed.nu_posicao
        ) - 1 as nu_dose
    from typed
    left join named on typed.nu_documento = named.nu_documento
    where typed.tp_recurso = 'Immunization'
),

-- One call with all plain paths per resource: separate calls would parse it again each time.
picked as (
    select
        nu_documento,
        nu_dose,
        json_extract_string(resource, [
            '$.meta.profile[0]',
            '$.vaccineCode.coding[0].code',
            '$.patient.identifier.value',
            '$.occurrenceDateTime',
            '$.primarySource',
            '$.reportOrigin.coding[0].code',
            '$.location.identifier.value',
            '$.manufacturer.identifier.value',
            '$.manufacturer.reference',
            '$.manufacturer.display',
            '$.lotNumber',
            '$.expirationDate',
            '$.site.coding[0].code',
            '$.route.coding[0].code',
            '$.protocolApplied[0].doseNumberString',
            '$.protocolApplied[0].doseNumberPositiveInt',
            '$.status'
        ]) as v,
        json_extract(resource, [
            '$.vaccineCode.coding',
            '$.extension',
            '$.protocolApplied[0].extension'
        ]) as l,
        json_extract(resource, '$.reasonCode[*].coding[*]') as ds_razoes
    from ordered
)

select
    nu_documento,
    cast(nu_dose as integer) as nu_dose,
    v[1] as tx_perfil_immunization,
    coalesce(
        json_extract_string(
            list_filter(
                try(cast(l[1] as json[])),
                lambda c: ends_with(json_extract_string(c, '$.system'), '/BRImunobiologico')
            )[1],
            '$.code'
        ),
        v[2]
    ) as tx_vacina,
    v[3] as tx_paciente_immunization,
    v[4] as tx_occurrence,
    v[5] as tx_primary_source,
    v[6] as tx_report_origin,
    v[7] as tx_pais,
    v[8] as tx_fabricante,
    v[9] as tx_fabricante_reference,
    v[10] as tx_fabricante_display,
    v[11] as tx_lote,
    v[12] as tx_validade,
    v[13] as tx_local,
    v[14] as tx_via,
    coalesce(v[15], v[16]) as tx_dose,
    v[17] as tx_status,
    json_extract_string(extensao(l[2], 'BRGrupoAtendimento'), '$.valueCodeableConcept.coding[0].code') as tx_grupo,
    coalesce(
        json_extract_string(extensao(l[2], 'BRCondicaoMaternal'), '$.valueCodeableConcept.coding[0].code'),
        json_extract_string(extensao(l[3], 'BRCondicaoMaternal'), '$.valueCodeableConcept.coding[0].code')
    ) as tx_condicao_maternal,
    json_extract_string(extensao(l[2], 'BRContatoHanseniase'), '$.valueBoolean') as tx_hanseniase,
    -- BR-Core has no extension for the strategy: it is the reason of the vaccination there.
    coalesce(
        json_extract_string(extensao(l[3], 'BREstrategiaVacinacao'), '$.valueCodeableConcept.coding[0].code'),
        json_extract_string(
            list_filter(
                ds_razoes, lambda c: ends_with(json_extract_string(c, '$.system'), '/BREstrategiaVacinacao')
            )[1],
            '$.code'
        )
    ) as tx_estrategia
from picked
