-- Municipalities of the IBGE, names as the published columns write them: upper case, no accents.
-- reads:  $source (include/reference/ibge/ibge_municipios.csv)
-- writes: $destination (Parquet)
-- grain:  co_ibge_6
-- params: $source text, $destination text
copy (
    with municipio as (
        select *
        from read_csv($source, header = true, all_varchar = true, delim = ',', quote = '"', escape = '"', strict_mode = true)
    )

    select
        co_ibge_6,
        co_ibge_7,
        upper(strip_accents(no_municipio)) as no_municipio,
        co_uf,
        sg_uf,
        upper(strip_accents(no_uf)) as no_uf
    from municipio
    order by co_ibge_6
)
to $destination (format parquet, compression zstd)
