-- Establishments with codes in their official widths and the municipality where the building is.
-- CO_UNIDADE is municipality (6) + CNES (7) in 184,301 of 184,351 lines of 202607; CO_MUNICIPIO_GESTOR tells who manages the
-- establishment, not where it is, and sometimes holds only a UF: it is asked last. The file of the open data states the municipality
-- (CO_IBGE, 6 digits in all of its 635,786 lines) and has no manager: it is asked first. The Distrito Federal is one municipality.
-- reads:  raw_cnes, raw_municipio
-- writes: stg_cnes
-- grain:  line of the file with a CNES of 1 to 7 digits
create or replace table stg_cnes as
with raw_cnes as (select * from main.raw_cnes),

raw_municipio as (select * from main.raw_municipio),

coded as (
    select
        lpad(trim(co_cnes), 7, '0') as co_cnes,
        trim(co_unidade) as co_unidade,
        trim(co_municipio_gestor) as co_municipio_gestor,
        trim(co_ibge) as co_ibge,
        nullif(trim(regexp_replace(no_razao_social, '[[:cntrl:][:space:]]+', ' ', 'g')), '') as no_razao_social,
        nullif(trim(regexp_replace(no_fantasia, '[[:cntrl:][:space:]]+', ' ', 'g')), '') as no_fantasia,
        case when regexp_full_match(trim(tp_unidade), '[0-9]{1,2}') then lpad(trim(tp_unidade), 2, '0') end
            as co_tipo_estabelecimento,
        case when regexp_full_match(trim(co_natureza_jur), '[0-9]{4}') then trim(co_natureza_jur) end as co_natureza_juridica,
        nullif(left(trim(co_motivo_desab), 2), '') as co_motivo_desab
    from raw_cnes
    where regexp_full_match(trim(co_cnes), '[0-9]{1,7}')
),

placed as (
    select
        *,
        case
            when not regexp_full_match(co_unidade, '[0-9]{13}') then null
            when left(co_unidade, 2) = '53' then '530010'
            else left(co_unidade, 6)
        end as co_municipio_unidade,
        case
            when not regexp_full_match(co_municipio_gestor, '[0-9]{2}|[0-9]{6,7}') then null
            when left(co_municipio_gestor, 2) = '53' then '530010'
            else left(co_municipio_gestor, 6)
        end as co_municipio_gestor_6,
        case
            when not regexp_full_match(co_ibge, '[0-9]{6,7}') then null
            when left(co_ibge, 2) = '53' then '530010'
            else left(co_ibge, 6)
        end as co_municipio_ibge
    from coded
)

select
    placed.co_cnes,
    placed.co_unidade,
    coalesce(ibge.co_ibge_6, unidade.co_ibge_6, gestor.co_ibge_6) as co_municipio_6,
    ibge.co_ibge_6 is null and unidade.co_ibge_6 is null and gestor.co_ibge_6 is not null as in_municipio_do_gestor,
    placed.no_razao_social,
    placed.no_fantasia,
    placed.co_tipo_estabelecimento,
    placed.co_natureza_juridica,
    placed.co_motivo_desab
from placed
left join raw_municipio as unidade on placed.co_municipio_unidade = unidade.co_ibge_6
left join raw_municipio as gestor on placed.co_municipio_gestor_6 = gestor.co_ibge_6
left join raw_municipio as ibge on placed.co_municipio_ibge = ibge.co_ibge_6
