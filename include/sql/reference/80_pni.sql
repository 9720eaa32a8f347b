-- One code table of the PNI with its own columns, all text; an empty cell is null.
-- reads:  $source (include/reference/pni/pni_*.csv)
-- writes: $destination (Parquet)
-- grain:  first column
-- params: $source text, $destination text
copy (
    with pni as (
        select *
        from read_csv(
            $source,
            header = true,
            all_varchar = true,
            delim = ',',
            quote = '"',
            escape = '"',
            nullstr = '',
            strict_mode = true
        )
    )

    select * from pni
    order by all
)
to $destination (format parquet, compression zstd)
