-- One row per line of one landed part, in its order: the texts that the product needs, read in a single pass over the JSON.
-- The pass looks at fixed positions (Composition first, Immunization second); `in_forma` proves that these positions hold what
-- they should. Any other shape keeps its JSON and takes the order-free path (21, 22). Never guess.
-- TRY turns a line that is not JSON (truncated, lone surrogate, deeper than the parser allows) into a null instead of an error.
-- reads:  one landing part ($part)
-- writes: $destination (Parquet, row order = line order)
-- grain:  landed line
-- params: $part text, $nu_parte int, $destination text
copy (
    with line as (
        select json
        from
            read_csv(
                $part,
                columns = {'json': 'varchar'},
                delim = '\x01',
                quote = '',
                escape = '',
                header = false,
                auto_detect = false,
                compression = 'zstd',
                new_line = '\n',
                max_line_size = 17825792,
                -- The default is 16 lines of the greatest size for every reader: 272 MiB.
                buffer_size = 35651584
            )
    ),

    picked as (
        select
            json,
            try(json_extract_string(json, [
                '$.resource.resourceType',
                '$.resource.type',
                '$.resource.id',
                '$.fullUrl',
                '$.resource.meta.lastUpdated',
                '$.resource.meta.versionId',
                '$.resource.identifier.system',
                '$.resource.identifier.value',
                '$.resource.entry[0].resource.resourceType',
                '$.resource.entry[0].resource.id',
                '$.resource.entry[0].resource.meta.profile[0]',
                '$.resource.entry[0].resource.status',
                '$.resource.entry[0].resource.subject.identifier.value',
                '$.resource.entry[0].resource.date',
                '$.resource.entry[0].resource.author[0].identifier.value',
                '$.resource.entry[0].resource.relatesTo[0].code',
                '$.resource.entry[0].resource.relatesTo[0].targetReference.reference',
                '$.resource.entry[1].resource.resourceType',
                '$.resource.entry[1].resource.meta.profile[0]',
                '$.resource.entry[1].resource.vaccineCode.coding[0].code',
                '$.resource.entry[1].resource.patient.identifier.value',
                '$.resource.entry[1].resource.occurrenceDateTime',
                '$.resource.entry[1].resource.primarySource',
                '$.resource.entry[1].resource.reportOrigin.coding[0].code',
                '$.resource.entry[1].resource.location.identifier.value',
                '$.resource.entry[1].resource.manufacturer.identifier.value',
                '$.resource.entry[1].resource.manufacturer.reference',
                '$.resource.entry[1].resource.manufacturer.display',
                '$.resource.entry[1].resource.lotNumber',
                '$.resource.entry[1].resource.expirationDate',
                '$.resource.entry[1].resource.site.coding[0].code',
                '$.resource.entry[1].resource.route.coding[0].code',
                '$.resource.entry[1].resource.protocolApplied[0].doseNumberString',
                '$.resource.entry[1].resource.protocolApplied[0].doseNumberPositiveInt',
                '$.resource.entry[1].resource.extension[0].url',
                '$.resource.entry[1].resource.extension[0].valueCodeableConcept.coding[0].code',
                '$.resource.entry[1].resource.extension[0].valueBoolean',
                '$.resource.entry[1].resource.extension[1].url',
                '$.resource.entry[1].resource.extension[1].valueCodeableConcept.coding[0].code',
                '$.resource.entry[1].resource.extension[1].valueBoolean',
                '$.resource.entry[1].resource.extension[2].url',
                '$.resource.entry[1].resource.extension[2].valueCodeableConcept.coding[0].code',
                '$.resource.entry[1].resource.extension[2].valueBoolean',
                '$.resource.entry[1].resource.protocolApplied[0].extension[0].url',
                '$.resource.entry[1].resource.protocolApplied[0].extension[0].valueCodeableConcept.coding[0].code',
                '$.resource.entry[1].resource.protocolApplied[0].extension[1].url',
                '$.resource.entry[1].resource.protocolApplied[0].extension[1].valueCodeableConcept.coding[0].code',
                '$.resource.entry[1].resource.extension[3].url',
                '$.resource.entry[1].resource.protocolApplied[0].extension[2].url',
                '$.resource.entry[1].resource.vaccineCode.coding[1].code',
                '$.resource.entry[1].resource.protocolApplied[1].doseNumberString',
                '$.resource.entry[2].resource.resourceType',
                '$.resource.entry[3].resource.resourceType',
                '$.resource.entry[4].resource.resourceType',
                '$.resource.entry[5]',
                '$.resource.entry[2].resource.gender',
                '$.resource.entry[2].resource.birthDate',
                '$.resource.entry[2].resource.address[0]._city.extension[0].valueString',
                '$.resource.entry[2].resource.address[0].postalCode',
                '$.resource.entry[2].resource.address[0].country',
                '$.resource.entry[3].resource.gender',
                '$.resource.entry[3].resource.birthDate',
                '$.resource.entry[3].resource.address[0]._city.extension[0].valueString',
                '$.resource.entry[3].resource.address[0].postalCode',
                '$.resource.entry[3].resource.address[0].country',
                '$.resource.entry[2].resource.extension',
                '$.resource.entry[3].resource.extension',
                '$.resource.entry[1].resource.reasonCode',
                '$.resource.entry[1].resource.status',
                '$.resource.entry[1].resource.vaccineCode.coding[0].system',
                '$.resource.entry[1].resource.site.coding[0].system',
                '$.resource.entry[1].resource.route.coding[0].system',
                '$.resource.entry[1].resource.reportOrigin.coding[0].system'
            ])) as v
        from line
    ),

    judged as (
        select
            *,
            coalesce(
                v[9] = 'Composition'
                and v[18] = 'Immunization'
                and v[48] is null
                and v[49] is null
                and v[50] is null
                and v[51] is null
                and coalesce(v[52], '') in ('', 'Condition', 'Patient', 'Organization')
                and coalesce(v[53], '') in ('', 'Condition', 'Patient', 'Organization')
                and coalesce(v[54], '') in ('', 'Condition', 'Organization')
                and v[55] is null
                and v[68] is null
                -- A code of a system that is not national is none of ours; another coding of the element may be: see codigo_nacional.
                and (v[70] is null or contains(v[70], '/BR') or contains(v[70], 'saude'))
                and (v[71] is null or contains(v[71], '/BR') or contains(v[71], 'saude'))
                and (v[72] is null or contains(v[72], '/BR') or contains(v[72], 'saude'))
                and (v[73] is null or contains(v[73], '/BR') or contains(v[73], 'saude')),
                false
            ) as in_forma
        from picked
    )

    select
        cast($nu_parte as integer) as nu_parte,
        v[1] as tp_recurso,
        v[2] as tp_bundle,
        v[3] as id_bundle,
        v[4] as tx_full_url,
        v[5] as tx_last_updated,
        v[6] as tx_version_id,
        v[7] as tx_identifier_system,
        v[8] as tx_identifier_value,
        v[9] as tp_entrada_0,
        v[10] as id_composition,
        v[11] as tx_perfil_composition,
        v[12] as st_composition,
        v[13] as tx_paciente,
        v[14] as tx_date,
        v[15] as tx_cnes,
        v[16] as tp_relates_to,
        v[17] as tx_relates_to,
        v[18] as tp_entrada_1,
        v[19] as tx_perfil_immunization,
        v[20] as tx_vacina,
        v[21] as tx_paciente_immunization,
        v[22] as tx_occurrence,
        v[23] as tx_primary_source,
        v[24] as tx_report_origin,
        v[25] as tx_pais,
        v[26] as tx_fabricante,
        v[27] as tx_fabricante_reference,
        v[28] as tx_fabricante_display,
        v[29] as tx_lote,
        v[30] as tx_validade,
        v[31] as tx_local,
        v[32] as tx_via,
        v[33] as tx_dose,
        v[34] as tx_dose_numero,
        v[35] as ext0_url,
        v[36] as ext0_code,
        v[37] as ext0_bool,
        v[38] as ext1_url,
        v[39] as ext1_code,
        v[40] as ext1_bool,
        v[41] as ext2_url,
        v[42] as ext2_code,
        v[43] as ext2_bool,
        v[44] as pext0_url,
        v[45] as pext0_code,
        v[46] as pext1_url,
        v[47] as pext1_code,
        v[69] as tx_status,
        v[52] as tp_entrada_2,
        v[53] as tp_entrada_3,
        v[54] as tp_entrada_4,
        v[55] as tp_entrada_5,
        case 'Patient' when v[52] then v[56] when v[53] then v[61] end as pat_gender,
        case 'Patient' when v[52] then v[57] when v[53] then v[62] end as pat_birth,
        case 'Patient' when v[52] then v[58] when v[53] then v[63] end as pat_ibge,
        case 'Patient' when v[52] then v[59] when v[53] then v[64] end as pat_cep,
        case 'Patient' when v[52] then v[60] when v[53] then v[65] end as pat_pais,
        case 'Patient' when v[52] then v[66] when v[53] then v[67] end as pat_extension,
        v is not null as in_json,
        in_forma,
        case when in_forma then hash(v) else hash(json) end as nu_hash,
        case when not in_forma then json end as json
    from judged
)
to $destination (format parquet, compression snappy, row_group_size 20000)
