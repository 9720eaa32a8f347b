-- The whole quarantine of the day: what could not enter the table of doses, and what a rule took out of it.
-- reads:  $structural, dose_reprovada
-- writes: $destination (Parquet)
-- grain:  nu_parte, nu_linha, nu_dose
-- params: $structural text, $destination text
copy (
    select
        nu_parte,
        nu_linha,
        nu_dose,
        co_documento,
        co_cnes_estabelecimento,
        in_co_uf_estabelecimento,
        ds_motivos,
        cast([] as varchar[]) as ds_regras
    from read_parquet($structural)

    union all

    select
        nu_parte,
        nu_linha,
        nu_dose,
        co_documento,
        co_cnes_estabelecimento,
        in_co_uf_estabelecimento,
        ds_motivos,
        ds_regras
    from dose_reprovada

    order by nu_parte, nu_linha, nu_dose
)
to $destination (format parquet, compression zstd)
