-- Establishments as a CSV that PostgreSQL's `copy` takes: null = empty unquoted field.
-- reads:  int_cnes
-- writes: $destination (CSV, no header)
-- grain:  co_cnes
-- params: $destination text
copy (
    select
        co_cnes,
        co_municipio_6,
        no_razao_social,
        no_fantasia,
        co_tipo_estabelecimento,
        co_natureza_juridica,
        co_motivo_desab
    from int_cnes
    order by co_cnes
)
to $destination (format csv, header false, delimiter ',', quote '"', escape '"', nullstr '')
