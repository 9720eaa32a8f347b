-- Removals that the documents of the day state: documents cancelled (entered-in-error), and documents that one of the day replaces,
-- whatever the day in which those were published. One row per document (its first dose names it); where both are said of one
-- document, "replaced" wins, because it also tells which document took the place.
-- reads:  int_fate
-- writes: $destination (Parquet, contract order of removed.csv)
-- grain:  co_documento
-- params: $destination text
copy (
    with fate as (
        select * from int_fate where tp_destino <> 'duplicate' and id_documento is not null
    ),

    cancelled as (
        select
            id_dose(id_documento, 0) as co_documento,
            cast(null as varchar) as co_troca_documento,
            'entered-in-error' as co_motivo,
            dt_instante
        from fate
        where tp_destino = 'removed'
    ),

    replaced as (
        select
            id_dose(regexp_extract(regexp_replace(tx_substitui, '/_history/.*$', ''), '([^/]+)$', 1), 0) as co_documento,
            id_dose(id_documento, 0) as co_troca_documento,
            'replaced' as co_motivo,
            dt_instante
        from fate
        where tx_substitui is not null and co_chave <> co_chave_substituida and dt_instante is not null
    ),

    stated as (
        select *, 2 as nu_preferencia from cancelled
        union all
        select *, 1 as nu_preferencia from replaced
    ),

    ranked as (
        select
            co_documento,
            co_troca_documento,
            co_motivo,
            dt_instante,
            row_number() over (
                partition by co_documento
                order by nu_preferencia asc, dt_instante desc, co_troca_documento asc
            ) as nu_ordem
        from stated
        where regexp_full_match(co_documento, '[A-Za-z0-9][A-Za-z0-9.-]{0,63}-i[0-9]{1,3}b[0-9]{1,3}')
    )

    select
        co_documento,
        co_troca_documento,
        'entered-in-error' as st_documento,
        data_hora(dt_instante) as dt_deletado_rnds,
        co_motivo,
        data_hora(dt_instante) as dt_entrada_rnds
    from ranked
    where nu_ordem = 1
    order by co_documento
)
to $destination (format parquet, compression zstd)
