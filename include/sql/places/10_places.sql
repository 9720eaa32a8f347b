-- Doses per establishment and the municipality that they are published under; null = they wait for the CNES in quarantine.
-- reads:  $dose, $bad_keys, $quarantine
-- writes: $destination (Parquet)
-- grain:  co_cnes, co_municipio
-- params: $dose text, $bad_keys text, $quarantine text, $destination text
copy (
    with dose as (
        select co_cnes_estabelecimento, co_municipio_estabelecimento, nu_parte, nu_linha, nu_dose
        from read_parquet($dose)
    ),

    bad_key as (select nu_parte, nu_linha, nu_dose from read_parquet($bad_keys)),

    waiting as (
        select co_cnes_estabelecimento
        from read_parquet($quarantine)
        where
            co_cnes_estabelecimento is not null
            and list_has_any(ds_motivos, ['CNES_UNKNOWN', 'CNES_WITHOUT_MUNICIPIO'])
    )

    select
        co_cnes_estabelecimento as co_cnes,
        co_municipio_estabelecimento as co_municipio,
        count(*) as qt_doses
    from dose
    anti join bad_key using (nu_parte, nu_linha, nu_dose)
    group by co_cnes_estabelecimento, co_municipio_estabelecimento

    union all

    select
        co_cnes_estabelecimento as co_cnes,
        null as co_municipio,
        count(*) as qt_doses
    from waiting
    group by co_cnes_estabelecimento

    order by co_cnes, co_municipio
)
to $destination (format parquet, compression zstd)
