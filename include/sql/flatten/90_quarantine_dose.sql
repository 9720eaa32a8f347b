-- Doses that cannot enter the table, each with all its structural reason codes.
-- reads:  int_dose_key, raw_rejected
-- writes: $destination (Parquet)
-- grain:  nu_parte, nu_linha, nu_dose (nu_parte 0 = entry rejected before landing)
-- params: $destination text
copy (
    select
        int_dose_key.nu_parte,
        int_dose_key.nu_linha,
        cast(int_dose_key.nu_dose as integer) as nu_dose,
        id_dose(int_dose_key.id_documento, int_dose_key.nu_dose) as co_documento,
        int_dose_key.co_cnes as co_cnes_estabelecimento,
        int_dose_key.co_municipio_6[:2] as in_co_uf_estabelecimento,
        int_dose_key.ds_motivos
    from int_dose_key
    where len(int_dose_key.ds_motivos) > 0

    union all

    select
        0 as nu_parte,
        nu_linha,
        0 as nu_dose,
        null as co_documento,
        null as co_cnes_estabelecimento,
        null as in_co_uf_estabelecimento,
        [reason] as ds_motivos
    from raw_rejected
    where not in_repetido

    order by nu_parte, nu_linha, nu_dose
)
to $destination (format parquet, compression zstd)
