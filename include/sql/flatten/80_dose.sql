-- The table of doses that the rules judge: contract columns in contract order, then flags that are never published (`in_`).
-- Everything that must not leave this step (CNS, CPF, birth date, full CEP, local document id) is used here and only here.
-- The wide side streams: every join builds its table on the small side, as it is written here (run with `stream`).
-- reads:  $raw_document, raw_any_shape_document, raw_any_shape_dose, int_dose_key, reference tables
-- writes: $destination (Parquet)
-- grain:  nu_parte, nu_linha, nu_dose (physical key); co_documento (business key, judged by a rule)
-- params: $raw_document text[], $destination text, $chave_i blob, $chave_o blob, $chave_anterior_i blob, $chave_anterior_o blob (null
--         outside of a change of keys), and one path per reference table
copy (
    with raw_document as (
        select *, (cast(nu_parte as bigint) << 32) + file_row_number as nu_documento
        from read_parquet($raw_document, file_row_number = true)
        where in_forma
    ),

    dose_key as (select * from int_dose_key where len(ds_motivos) = 0),

    cnes as (select * from read_parquet($cnes)),
    municipio as (select * from read_parquet($municipios)),
    imunobiologico as (select * from read_parquet($imunobiologico)),
    dose as (select * from read_parquet($dose)),
    local_aplicacao as (select * from read_parquet($local_aplicacao)),
    via_administracao as (select * from read_parquet($via_administracao)),
    estrategia as (select * from read_parquet($estrategia_vacinacao)),
    origem_registro as (select * from read_parquet($origem_registro)),
    grupo as (select * from read_parquet($grupo_atendimento)),
    fabricante as (select * from read_parquet($fabricante)),
    condicao_maternal as (select * from read_parquet($condicao_maternal)),
    pais as (select * from read_parquet($pais)),
    raca_cor as (select * from read_parquet($raca_cor)),
    etnia as (select * from read_parquet($etnia_indigena)),
    tipo_estabelecimento as (select * from read_parquet($tipo_estabelecimento)),
    natureza as (select * from read_parquet($natureza_estabelecimento)),
    sistema_origem as (select * from read_parquet($sistema_origem)),

    -- Old campaign documents name the manufacturer in words; the table's own spelling is what we publish, where it is one.
    -- Codes of one company differ by plant (PFIZER, PFIZER-BELGICA): the company is what stands before the hyphen.
    fabricante_nome as (
        select
            upper(nome) as nome,
            case when count(distinct ds_vacina_fabricante) = 1 then min(ds_vacina_fabricante) end as ds_vacina_fabricante,
            case when count(distinct empresa) = 1 then min(empresa) end as empresa
        from (
            select
                unnest([ds_vacina_fabricante, sg_vacina_fabricante]) as nome,
                ds_vacina_fabricante,
                split_part(sg_vacina_fabricante, '-', 1) as empresa
            from fabricante
        )
        where nome is not null
        group by upper(nome)
    ),

    -- Groups of care that are an age band by their names.
    faixa_etaria as (
        select faixa.co_vacina_grupo_atendimento, faixa.nu_idade_minima, faixa.nu_idade_maxima
        from (
            values
            ('000201', 18, 64),
            ('000202', 65, 69),
            ('000203', 70, 74),
            ('000204', 75, 79),
            ('000205', 80, null),
            ('000206', 12, 17),
            ('000207', 5, 11),
            ('000208', 3, 4),
            ('000209', 0, 2),
            ('000301', 60, null)
        ) as faixa (co_vacina_grupo_atendimento, nu_idade_minima, nu_idade_maxima)
    ),

    pais_nome as (
        select no_pais, min(co_pais) as co_pais
        from pais
        group by no_pais
        having count(*) = 1
    ),

    canonical as (
        select
            dose_key.*,
            raw_document.tx_identifier_system,
            raw_document.tx_identifier_value,
            raw_document.tx_perfil_composition,
            raw_document.st_composition,
            raw_document.tx_paciente,
            raw_document.tx_date,
            raw_document.tp_relates_to,
            raw_document.tx_relates_to,
            raw_document.pat_gender,
            raw_document.pat_birth,
            raw_document.pat_ibge,
            raw_document.pat_cep,
            raw_document.pat_pais,
            raw_document.pat_extension,
            raw_document.tx_perfil_immunization,
            raw_document.tx_vacina,
            raw_document.tx_paciente_immunization,
            raw_document.tx_occurrence,
            raw_document.tx_primary_source,
            raw_document.tx_report_origin,
            raw_document.tx_pais,
            raw_document.tx_fabricante,
            raw_document.tx_fabricante_reference,
            raw_document.tx_fabricante_display,
            raw_document.tx_lote,
            raw_document.tx_validade,
            raw_document.tx_local,
            raw_document.tx_via,
            coalesce(raw_document.tx_dose, raw_document.tx_dose_numero) as tx_dose,
            raw_document.tx_status,
            case
                when e_extensao(ext0_url, 'BRGrupoAtendimento') then ext0_code
                when e_extensao(ext1_url, 'BRGrupoAtendimento') then ext1_code
                when e_extensao(ext2_url, 'BRGrupoAtendimento') then ext2_code
            end as tx_grupo,
            case
                when e_extensao(ext0_url, 'BRCondicaoMaternal') then ext0_code
                when e_extensao(ext1_url, 'BRCondicaoMaternal') then ext1_code
                when e_extensao(ext2_url, 'BRCondicaoMaternal') then ext2_code
                when e_extensao(pext0_url, 'BRCondicaoMaternal') then pext0_code
                when e_extensao(pext1_url, 'BRCondicaoMaternal') then pext1_code
            end as tx_condicao_maternal,
            case
                when e_extensao(ext0_url, 'BRContatoHanseniase') then ext0_bool
                when e_extensao(ext1_url, 'BRContatoHanseniase') then ext1_bool
                when e_extensao(ext2_url, 'BRContatoHanseniase') then ext2_bool
            end as tx_hanseniase,
            case
                when e_extensao(pext0_url, 'BREstrategiaVacinacao') then pext0_code
                when e_extensao(pext1_url, 'BREstrategiaVacinacao') then pext1_code
            end as tx_estrategia
        from raw_document
        inner join dose_key on raw_document.nu_documento = dose_key.nu_documento
    ),

    any_shape as (
        select
            dose_key.*,
            landed.tx_identifier_system,
            landed.tx_identifier_value,
            documento.tx_perfil_composition,
            documento.st_composition,
            documento.tx_paciente,
            documento.tx_date,
            documento.tp_relates_to,
            documento.tx_relates_to,
            documento.pat_gender,
            documento.pat_birth,
            documento.pat_ibge,
            documento.pat_cep,
            documento.pat_pais,
            documento.pat_extension,
            aplicada.tx_perfil_immunization,
            aplicada.tx_vacina,
            aplicada.tx_paciente_immunization,
            aplicada.tx_occurrence,
            aplicada.tx_primary_source,
            aplicada.tx_report_origin,
            aplicada.tx_pais,
            aplicada.tx_fabricante,
            aplicada.tx_fabricante_reference,
            aplicada.tx_fabricante_display,
            aplicada.tx_lote,
            aplicada.tx_validade,
            aplicada.tx_local,
            aplicada.tx_via,
            aplicada.tx_dose,
            aplicada.tx_status,
            aplicada.tx_grupo,
            aplicada.tx_condicao_maternal,
            aplicada.tx_hanseniase,
            aplicada.tx_estrategia
        from dose_key
        inner join raw_any_shape_dose as aplicada
            on dose_key.nu_documento = aplicada.nu_documento and dose_key.nu_dose = aplicada.nu_dose
        inner join raw_any_shape_document as documento on dose_key.nu_documento = documento.nu_documento
        inner join (
            select (cast(nu_parte as bigint) << 32) + file_row_number as nu_documento, tx_identifier_system, tx_identifier_value
            from read_parquet($raw_document, file_row_number = true)
            where not in_forma
        ) as landed on dose_key.nu_documento = landed.nu_documento
    ),

    source as (
        select * from canonical
        union all by name
        select * from any_shape
    ),

    typed as (
        select
            source.*,
            regexp_replace(coalesce(tx_paciente, tx_paciente_immunization, ''), '[^0-9]', '', 'g') as nu_pessoa,
            data_civil(trim(tx_occurrence)) as dt_vacina,
            data_civil(trim(pat_birth)) as dt_nascimento,
            data_civil(trim(tx_validade)) as dt_validade_lote,
            case
                when regexp_full_match(trim(pat_ibge), '53[0-9]{4,5}') then '530010'
                when regexp_full_match(trim(pat_ibge), '[0-9]{6,7}') then trim(pat_ibge)[:6]
            end as co_municipio_residencia,
            codigo(tx_vacina) as co_vacina,
            codigo(tx_dose) as co_dose_vacina,
            codigo(tx_local) as co_local_aplicacao,
            codigo(tx_via) as co_via_administracao,
            codigo(tx_estrategia) as co_estrategia_vacinacao,
            codigo(tx_grupo) as co_vacina_grupo_atendimento,
            codigo(tx_condicao_maternal) as co_condicao_maternal,
            -- Old campaign documents point to the CNPJ of the manufacturer instead of its PNI code.
            coalesce(
                codigo(tx_fabricante), nullif(regexp_extract(tx_fabricante_reference, '/([0-9]{12,14})$', 1), '')
            ) as co_vacina_fabricante,
            codigo(tx_pais) as co_pais_aplicacao,
            -- The legacy code system says 01 and 02, the new one 1 and 2.
            case
                when regexp_full_match(trim(tx_report_origin), '[0-9]') then '0' || trim(tx_report_origin)
                else codigo(tx_report_origin)
            end as co_origem_registro,
            regexp_extract(tx_identifier_system, '/BRRNDS-([0-9]+)$', 1) as tx_sistema_origem,
            case when pat_extension is not null then extensao(pat_extension, 'BRRacaCorEtnia') end as js_raca_cor,
            texto(tx_lote) as co_lote_vacina,
            texto(tx_status) as in_st_imunizacao,
            texto(tx_fabricante_display) as no_fabricante,
            instante(trim(tx_date)) as dt_registro,
            split_part(tx_perfil_composition, '/', -1) as in_perfil
        from source
    ),

    person as (
        select
            *,
            case
                when dt_nascimento <= dt_vacina then cast(date_sub('year', dt_nascimento, dt_vacina) as integer)
            end as nu_idade_paciente,
            try_cast(nu_pessoa as bigint) as nu_pessoa_numero,
            case
                when length(nu_pessoa) = 15 then 'cns:' || nu_pessoa
                when length(nu_pessoa) = 11 then 'cpf:' || nu_pessoa
            end as tx_pessoa,
            json_extract_string(
                list_filter(
                    cast(json_extract(js_raca_cor, '$.extension[*]') as json[]),
                    lambda e: json_extract_string(e, '$.url') = 'race'
                )[1],
                '$.valueCodeableConcept.coding[0].code'
            ) as co_raca_cor,
            json_extract_string(
                list_filter(
                    cast(json_extract(js_raca_cor, '$.extension[*]') as json[]),
                    lambda e: json_extract_string(e, '$.url') = 'indigenousEthnicity'
                )[1],
                '$.valueCodeableConcept.coding[0].code'
            ) as co_etnia
        from typed
    )

    select
        person.nu_parte,
        person.nu_linha,
        cast(person.nu_dose as integer) as nu_dose,
        id_dose(person.id_documento, person.nu_dose) as co_documento,
        pseudonimo(person.tx_pessoa, $chave_i, $chave_o) as co_paciente,
        case person.pat_gender
            when 'female' then 'F' when 'male' then 'M' when 'unknown' then 'I' when 'other' then 'I'
        end as tp_sexo_paciente,
        raca_cor.co_raca_cor_paciente,
        raca_cor.no_raca_cor_dados as no_raca_cor_paciente,
        residencia.co_ibge_6 as co_municipio_paciente,
        coalesce(pais_codigo.co_pais, pais_nome.co_pais) as co_pais_paciente,
        residencia.no_municipio as no_municipio_paciente,
        coalesce(pais_codigo.no_pais, pais_nome.no_pais) as no_pais_paciente,
        residencia.sg_uf as sg_uf_paciente,
        case
            when regexp_matches(person.pat_cep, '^[0-9]{5}') and not starts_with(person.pat_cep, '00000')
                then person.pat_cep[:5]
        end as nu_cep_paciente,
        cast(null as varchar) as ds_nacionalidade_paciente,
        etnia.no_etnia_indigena_paciente,
        etnia.co_etnia_indigena_paciente,
        person.co_cnes as co_cnes_estabelecimento,
        texto(cnes.no_razao_social) as no_razao_social_estabelecimento,
        texto(cnes.no_fantasia) as no_fantasia_estalecimento,
        municipio.co_ibge_6 as co_municipio_estabelecimento,
        municipio.no_municipio as no_municipio_estabelecimento,
        municipio.sg_uf as sg_uf_estabelecimento,
        case
            when person.tp_relates_to = 'replaces' and not id_com_identificador(person.tx_relates_to)
                then
                    id_dose(
                        texto(ultimo_segmento(person.tx_relates_to)), 0
                    )
        end as co_troca_documento,
        person.co_vacina,
        imunobiologico.sg_vacina,
        person.dt_vacina,
        person.co_dose_vacina,
        dose.ds_dose_vacina,
        person.co_local_aplicacao,
        local_aplicacao.ds_local_aplicacao,
        person.co_via_administracao,
        via_administracao.ds_via_administracao,
        -- A lot with somebody's number in it is told by its flag alone (the rule quarantines the dose): the table has no identifiers.
        case when not contem_identificador(person.co_lote_vacina) then person.co_lote_vacina end as co_lote_vacina,
        coalesce(fabricante.ds_vacina_fabricante, fabricante_nome.ds_vacina_fabricante) as ds_vacina_fabricante,
        data_hora(person.dt_instante) as dt_entrada_rnds,
        nullif(person.tx_sistema_origem, '') as co_sistema_origem,
        sistema_origem.ds_sistema_origem,
        person.st_composition as st_documento,
        person.co_estrategia_vacinacao,
        estrategia.ds_estrategia_vacinacao,
        person.co_origem_registro,
        origem_registro.ds_origem_registro,
        person.co_vacina_grupo_atendimento,
        grupo.ds_vacina_grupo_atendimento,
        -- Category of care: the first four digits of the group; 999999 ("others") is category 114 in the open data.
        case
            when person.co_vacina_grupo_atendimento = '999999' then '114'
            when grupo.co_vacina_grupo_atendimento is not null and length(grupo.co_vacina_grupo_atendimento) = 6
                then cast(try_cast(grupo.co_vacina_grupo_atendimento[:4] as integer) as varchar)
        end as co_vacina_categoria_atendimento,
        grupo.ds_vacina_categoria_atendimento,
        person.co_vacina_fabricante,
        imunobiologico.ds_vacina,
        condicao_maternal.ds_condicao_maternal,
        cnes.co_tipo_estabelecimento,
        tipo_estabelecimento.ds_tipo_estabelecimento,
        cnes.co_natureza_estabelecimento,
        natureza.ds_natureza_estabelecimento,
        person.nu_idade_paciente,
        person.co_condicao_maternal,
        residencia.no_uf as no_uf_paciente,
        municipio.no_uf as no_uf_estabelecimento,
        cast(null as varchar) as dt_deletado_rnds,
        case
            when person.tx_identifier_value <> ''
                then
                    pseudonimo(
                        'local:' || coalesce(person.tx_identifier_system, '') || '|' || person.tx_identifier_value,
                        $chave_i,
                        $chave_o
                    )
        end as co_identificador_sistema,
        cast(null as varchar) as dt_entrada_datalake,
        data_hora(person.dt_registro) as dt_registro_origem,
        person.dt_validade_lote,
        case lower(person.tx_hanseniase) when 'true' then 'S' when 'false' then 'N' end as st_contato_hanseniase,
        person.co_pais_aplicacao,
        residencia.co_ibge_7 as co_ibge_municipio_paciente,
        municipio.co_ibge_7 as co_ibge_municipio_estabelecimento,
        case
            when residencia.co_uf = municipio.co_uf then 'S'
            when residencia.co_uf is not null then 'N'
        end as st_residente_uf,
        case
            when $chave_anterior_i is not null
                then pseudonimo(person.tx_pessoa, $chave_anterior_i, $chave_anterior_o)
        end as co_paciente_anterior,
        municipio.co_uf as in_co_uf_estabelecimento,
        case
            when length(person.nu_pessoa) = 15 then cns_numero_valido(person.nu_pessoa_numero)
            when length(person.nu_pessoa) = 11 then cpf_numero_valido(person.nu_pessoa_numero)
            else false
        end as in_id_paciente_valido,
        case length(person.nu_pessoa) when 15 then 'cns' when 11 then 'cpf' else 'outro' end as in_id_paciente_tipo,
        person.dt_vacina < person.dt_nascimento as in_vacina_antes_nascimento,
        coalesce(person.co_origem_registro = '01' or person.tx_primary_source = 'false', false) as in_transcricao,
        person.in_perfil,
        cast(
            date_diff('day', person.dt_vacina, cast(timezone('America/Sao_Paulo', person.dt_instante) as date)) as integer
        ) as in_qt_dias_atraso,
        person.in_st_imunizacao,
        imunobiologico.no_categoria as in_vacina_categoria,
        imunobiologico.st_ativo as in_vacina_ativa,
        estrategia.st_ativo as in_estrategia_ativa,
        grupo.st_ativo as in_grupo_ativo,
        coalesce(contains(person.in_perfil, 'Carga-'), false) as in_carga,
        case when person.co_pais_aplicacao is not null then pais_aplicacao.co_pais is not null end as in_pais_aplicacao_conhecido,
        person.co_vacina_fabricante is not null or person.no_fabricante is not null as in_fabricante_informado,
        split_part(fabricante.sg_vacina_fabricante, '-', 1) <> fabricante_nome.empresa as in_fabricante_divergente,
        case
            when person.no_fabricante is not null and fabricante.co_vacina_fabricante is null
                then fabricante_nome.nome is not null
        end as in_fabricante_texto_conhecido,
        case
            when faixa_etaria.co_vacina_grupo_atendimento is not null
                then
                    person.nu_idade_paciente >= faixa_etaria.nu_idade_minima
                    and person.nu_idade_paciente <= coalesce(faixa_etaria.nu_idade_maxima, person.nu_idade_paciente)
        end as in_idade_no_grupo,
        case
            when not contem_identificador(person.co_lote_vacina) then lote_normalizado(person.co_lote_vacina)
        end as in_lote_normalizado,
        contem_identificador(person.co_lote_vacina) as in_lote_identificador,
        cast(date_diff('day', person.dt_vacina, person.dt_validade_lote) as integer) as in_qt_dias_validade,
        cast(
            date_diff('day', person.dt_vacina, cast(timezone('America/Sao_Paulo', person.dt_registro) as date)) as integer
        ) as in_qt_dias_registro
    from person
    left join cnes on person.co_cnes = cnes.co_cnes
    left join municipio on cnes.co_municipio_6 = municipio.co_ibge_6
    left join municipio as residencia on person.co_municipio_residencia = residencia.co_ibge_6
    left join imunobiologico on person.co_vacina = imunobiologico.co_vacina
    left join dose on person.co_dose_vacina = dose.co_dose_vacina
    left join local_aplicacao on person.co_local_aplicacao = local_aplicacao.co_local_aplicacao
    left join via_administracao on person.co_via_administracao = via_administracao.co_via_administracao
    left join estrategia on person.co_estrategia_vacinacao = estrategia.co_estrategia_vacinacao
    left join origem_registro on person.co_origem_registro = origem_registro.co_origem_registro
    left join grupo on person.co_vacina_grupo_atendimento = grupo.co_vacina_grupo_atendimento
    left join fabricante on person.co_vacina_fabricante = fabricante.co_vacina_fabricante
    left join fabricante_nome on upper(person.no_fabricante) = fabricante_nome.nome
    left join faixa_etaria on person.co_vacina_grupo_atendimento = faixa_etaria.co_vacina_grupo_atendimento
    left join pais as pais_aplicacao on person.co_pais_aplicacao = pais_aplicacao.co_pais
    left join condicao_maternal on person.co_condicao_maternal = condicao_maternal.co_condicao_maternal
    left join pais as pais_codigo on texto(person.pat_pais) = pais_codigo.co_pais
    left join pais_nome on upper(texto(person.pat_pais)) = pais_nome.no_pais
    left join raca_cor on person.co_raca_cor = raca_cor.co_raca_cor_paciente
    left join etnia on person.co_etnia = etnia.co_etnia_indigena_paciente
    left join tipo_estabelecimento on cnes.co_tipo_estabelecimento = tipo_estabelecimento.co_tipo_estabelecimento
    left join natureza on cnes.co_natureza_estabelecimento = natureza.co_natureza_estabelecimento
    left join sistema_origem on person.tx_sistema_origem = sistema_origem.co_sistema_origem
)
to $destination (format parquet, compression zstd, compression_level 1, row_group_size 40000)
