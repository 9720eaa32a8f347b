-- The 27 units of the federation, names in upper case without accents.
-- reads:  $source (include/reference/ibge/ibge_ufs.csv)
-- writes: $destination (Parquet)
-- grain:  co_uf
-- params: $source text, $destination text
copy (
    with uf as (
        select *
        from read_csv($source, header = true, all_varchar = true, delim = ',', quote = '"', escape = '"', strict_mode = true)
    )

    select
        co_uf,
        sg_uf,
        upper(strip_accents(no_uf)) as no_uf,
        cast(qt_municipios as integer) as qt_municipios
    from uf
    order by co_uf
)
to $destination (format parquet, compression zstd)
