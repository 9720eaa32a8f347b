-- Keys of the rows of the table of doses that must not be published.
-- reads:  dose_reprovada
-- writes: $destination (Parquet)
-- grain:  nu_parte, nu_linha, nu_dose
-- params: $destination text
copy (
    select nu_parte, nu_linha, nu_dose
    from dose_reprovada
    order by nu_parte, nu_linha, nu_dose
)
to $destination (format parquet, compression zstd)
