-- Doses of the documents that are neither repeated, superseded nor removed, with the reasons that keep them from the table of doses.
-- A document without a readable dose counts as one dose.
-- reads:  $raw_document, raw_any_shape_document, raw_any_shape_dose, stg_document, int_fate, $cnes
-- writes: int_dose_key
-- grain:  nu_documento, nu_dose
-- params: $raw_document text[], $cnes text
create or replace temp table int_dose_key as
with alive as (
    select nu_documento, ds_motivos, qt_doses, in_forma
    from int_fate
    where tp_destino = 'alive'
),

raw_document as (
    select (cast(nu_parte as bigint) << 32) + file_row_number as nu_documento, tx_cnes, tx_occurrence
    from read_parquet($raw_document, file_row_number = true)
),

cnes as (select co_cnes, co_municipio_6 from read_parquet($cnes)),

dose as (
    select alive.nu_documento, 0 as nu_dose, raw_document.tx_cnes, raw_document.tx_occurrence, alive.ds_motivos
    from alive
    inner join raw_document on alive.nu_documento = raw_document.nu_documento
    where alive.in_forma

    union all

    select
        alive.nu_documento,
        coalesce(raw_any_shape_dose.nu_dose, 0) as nu_dose,
        raw_any_shape_document.tx_cnes,
        raw_any_shape_dose.tx_occurrence,
        alive.ds_motivos
    from alive
    left join raw_any_shape_document on alive.nu_documento = raw_any_shape_document.nu_documento
    left join raw_any_shape_dose on alive.nu_documento = raw_any_shape_dose.nu_documento
    where not alive.in_forma
),

coded as (
    select
        dose.nu_documento,
        dose.nu_dose,
        dose.ds_motivos,
        texto(dose.tx_cnes) as tx_cnes,
        case
            when regexp_full_match(trim(dose.tx_cnes), '[0-9]{1,7}') then lpad(trim(dose.tx_cnes), 7, '0')
        end as co_cnes,
        dose.tx_occurrence is not null and data_civil(trim(dose.tx_occurrence)) is null as in_data_ilegivel
    from dose
),

judged as (
    select
        coded.nu_documento,
        coded.nu_dose,
        coded.co_cnes,
        cnes.co_municipio_6,
        case
            -- What cannot be read has no CNES or date to judge.
            when len(coded.ds_motivos) > 0 then coded.ds_motivos
            else
                list_filter(
                    [
                        case when coded.tx_cnes is null then 'CNES_MISSING' end,
                        case when coded.tx_cnes is not null and coded.co_cnes is null then 'CNES_MALFORMED' end,
                        case when coded.co_cnes is not null and cnes.co_cnes is null then 'CNES_UNKNOWN' end,
                        case
                            when cnes.co_cnes is not null and cnes.co_municipio_6 is null then 'CNES_WITHOUT_MUNICIPIO'
                        end,
                        case when coded.in_data_ilegivel then 'DATE_UNREADABLE' end
                    ],
                    lambda motivo: motivo is not null
                )
        end as ds_motivos
    from coded
    left join cnes on coded.co_cnes = cnes.co_cnes
)

select
    judged.nu_documento,
    judged.nu_dose,
    cast(judged.nu_documento >> 32 as integer) as nu_parte,
    cast((judged.nu_documento & 4294967295) + 1 as integer) as nu_linha,
    document.id_documento,
    document.dt_instante,
    judged.co_cnes,
    judged.co_municipio_6,
    judged.ds_motivos
from judged
inner join stg_document as document on judged.nu_documento = document.nu_documento
