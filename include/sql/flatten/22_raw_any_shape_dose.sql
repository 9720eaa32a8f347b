-- Doses of the documents that are not in the canonical shape. The order of the doses is the order in which the Composition's
-- sections name them (a reference by id, by relative or by absolute address), then their place in the document.
-- Of several codings of one element the national one counts, wherever it stands; a code of another system is none of ours.
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

listed as (
    select nu_documento, json_extract(json, '$.resource.entry[*]') as ds_entradas
    from landed
),

entry as (
    select nu_documento, unnest(ds_entradas) as entry, generate_subscripts(ds_entradas, 1) as nu_posicao
    from listed
),

-- One call with all plain paths per entry: separate calls would parse it again each time.
typed as (
    select
        nu_documento,
        nu_posicao,
        entry,
        json_extract_string(entry, ['$.resource.resourceType', '$.fullUrl', '$.resource.id']) as v
    from entry
),

named as (
    select
        nu_documento,
        first(
            json_extract_string(entry, '$.resource.section[*].entry[*].reference') order by nu_posicao
        ) as ds_referencias
    from typed
    where v[1] = 'Composition'
    group by nu_documento
),

ordered as (
    select
        typed.nu_documento,
        typed.entry,
        row_number() over (
            partition by typed.nu_documento
            order by
                coalesce(
                    list_position(
                        list_transform(
                            named.ds_referencias,
                            lambda r:
                            r = typed.v[2]
                            or split_part(r, '/', -1) = typed.v[3]
                            or split_part(r, '/', -1) = split_part(typed.v[2], '/', -1)
                        ),
                        true
                    ),
                    1000000
                ),
                typed.nu_posicao
        ) - 1 as nu_dose
    from typed
    left join named on typed.nu_documento = named.nu_documento
    where typed.v[1] = 'Immunization'
),

picked as (
    select
        nu_documento,
        nu_dose,
        json_extract_string(entry, [
            '$.resource.meta.profile[0]',
            '$.resource.patient.identifier.value',
            '$.resource.occurrenceDateTime',
            '$.resource.primarySource',
            '$.resource.location.identifier.value',
            '$.resource.manufacturer.identifier.value',
            '$.resource.manufacturer.reference',
            '$.resource.manufacturer.display',
            '$.resource.lotNumber',
            '$.resource.expirationDate',
            '$.resource.protocolApplied[0].doseNumberString',
            '$.resource.protocolApplied[0].doseNumberPositiveInt',
            '$.resource.status'
        ]) as v,
        json_extract(entry, [
            '$.resource.vaccineCode.coding',
            '$.resource.site.coding',
            '$.resource.route.coding',
            '$.resource.reportOrigin.coding',
            '$.resource.extension',
            '$.resource.protocolApplied[0].extension',
            '$.resource.reasonCode'
        ]) as l
    from ordered
),

-- Each list is read once. What is no list of such objects is empty.
listed_values as (
    select
        nu_documento,
        nu_dose,
        v,
        codificacoes(l[1]) as ds_vacina,
        codificacoes(l[2]) as ds_local,
        codificacoes(l[3]) as ds_via,
        codificacoes(l[4]) as ds_origem,
        extensoes(l[5]) as ds_extensoes,
        extensoes(l[6]) as ds_extensoes_protocolo,
        case when l[7] is not null then codificacoes(json_extract(l[7], '$[*].coding[*]')) end as ds_razoes
    from picked
)

select
    nu_documento,
    cast(nu_dose as integer) as nu_dose,
    v[1] as tx_perfil_immunization,
    codigo_nacional(ds_vacina, 'BRImunobiologico') as tx_vacina,
    v[2] as tx_paciente_immunization,
    v[3] as tx_occurrence,
    v[4] as tx_primary_source,
    codigo_nacional(ds_origem, 'BRRegistroOrigem') as tx_report_origin,
    v[5] as tx_pais,
    v[6] as tx_fabricante,
    v[7] as tx_fabricante_reference,
    v[8] as tx_fabricante_display,
    v[9] as tx_lote,
    v[10] as tx_validade,
    codigo_nacional(ds_local, 'BRLocalAplicacao') as tx_local,
    codigo_nacional(ds_via, 'BRViaAdministracao') as tx_via,
    coalesce(v[11], v[12]) as tx_dose,
    v[13] as tx_status,
    codigo_de_extensao(ds_extensoes, 'BRGrupoAtendimento') as tx_grupo,
    coalesce(
        codigo_de_extensao(ds_extensoes, 'BRCondicaoMaternal'),
        codigo_de_extensao(ds_extensoes_protocolo, 'BRCondicaoMaternal')
    ) as tx_condicao_maternal,
    list_filter(ds_extensoes, lambda e: e_extensao(e.url, 'BRContatoHanseniase'))[1].valueboolean as tx_hanseniase,
    -- BR-Core has no extension for the strategy: it is the reason of the vaccination there.
    coalesce(
        codigo_de_extensao(ds_extensoes_protocolo, 'BREstrategiaVacinacao'),
        list_filter(ds_razoes, lambda c: e_extensao(c.system, 'BREstrategiaVacinacao'))[1].code
    ) as tx_estrategia
from listed_values
