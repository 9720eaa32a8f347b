-- Doses of the documents that are not in the canonical shape. The order of the doses is the order in which the Composition's
-- sections name them (a reference by id, by relative or by absolute address), then their place in the document.
-- reads:  $raw_document (Parquet of 20_raw_document)
-- writes: raw_any_shape_dose
-- grain:  nu_documento, nu_dose
-- params: $raw_document text
create or replace temp table raw_any_shape_dose as
with landed as (
    select file_row_number as nu_documento, json
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
        ) as references
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
                            named.references,
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
)

select
    nu_documento,
    cast(nu_dose as integer) as nu_dose,
    json_extract_string(resource, '$.meta.profile[0]') as tx_perfil_immunization,
    coalesce(
        json_extract_string(
            list_filter(
                cast(json_extract(resource, '$.vaccineCode.coding[*]') as json[]),
                lambda c: ends_with(json_extract_string(c, '$.system'), '/BRImunobiologico')
            )[1],
            '$.code'
        ),
        json_extract_string(resource, '$.vaccineCode.coding[0].code')
    ) as tx_vacina,
    json_extract_string(resource, '$.patient.identifier.value') as tx_paciente_immunization,
    json_extract_string(resource, '$.occurrenceDateTime') as tx_occurrence,
    json_extract_string(resource, '$.primarySource') as tx_primary_source,
    json_extract_string(resource, '$.reportOrigin.coding[0].code') as tx_report_origin,
    json_extract_string(resource, '$.location.identifier.value') as tx_pais,
    json_extract_string(resource, '$.manufacturer.identifier.value') as tx_fabricante,
    json_extract_string(resource, '$.manufacturer.reference') as tx_fabricante_reference,
    json_extract_string(resource, '$.manufacturer.display') as tx_fabricante_display,
    json_extract_string(resource, '$.lotNumber') as tx_lote,
    json_extract_string(resource, '$.expirationDate') as tx_validade,
    json_extract_string(resource, '$.site.coding[0].code') as tx_local,
    json_extract_string(resource, '$.route.coding[0].code') as tx_via,
    coalesce(
        json_extract_string(resource, '$.protocolApplied[0].doseNumberString'),
        json_extract_string(resource, '$.protocolApplied[0].doseNumberPositiveInt')
    ) as tx_dose,
    json_extract_string(
        extensao(resource, '$.extension[*]', 'BRGrupoAtendimento'), '$.valueCodeableConcept.coding[0].code'
    ) as tx_grupo,
    coalesce(
        json_extract_string(
            extensao(resource, '$.extension[*]', 'BRCondicaoMaternal'), '$.valueCodeableConcept.coding[0].code'
        ),
        json_extract_string(
            extensao(resource, '$.protocolApplied[0].extension[*]', 'BRCondicaoMaternal'),
            '$.valueCodeableConcept.coding[0].code'
        )
    ) as tx_condicao_maternal,
    json_extract_string(extensao(resource, '$.extension[*]', 'BRContatoHanseniase'), '$.valueBoolean') as tx_hanseniase,
    json_extract_string(
        extensao(resource, '$.protocolApplied[0].extension[*]', 'BREstrategiaVacinacao'),
        '$.valueCodeableConcept.coding[0].code'
    ) as tx_estrategia
from ordered
