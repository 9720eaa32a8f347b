-- Establishments as the stages read them.
-- reads:  int_cnes
-- writes: $destination (Parquet)
-- grain:  co_cnes
-- params: $destination text
copy (
    select
        co_cnes,
        co_municipio_6,
        no_razao_social,
        no_fantasia,
        co_tipo_estabelecimento,
        left(co_natureza_juridica, 1) as co_natureza_estabelecimento,
        co_motivo_desab is null as st_ativo
    from int_cnes
    order by co_cnes
)
to $destination (format parquet, compression zstd)
