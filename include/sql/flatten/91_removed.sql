-- Removals that the source states on the day: documents deleted, cancelled (entered-in-error), or replaced by one of the day,
-- whatever the day in which those were published. One row per document (its first dose names it). Where several are said of one
-- document, "deleted" wins, then "replaced", because it also tells which document took the place.
-- reads:  int_fate
-- writes: $destination (Parquet, contract order of removed.csv)
-- grain:  co_documento
-- params: $destination text
copy (
    with fate as (
        select * from int_fate where tp_destino <> 'duplicate' and id_documento is not null
    ),

    deleted as (
        select
            id_dose(id_documento, 0) as co_documento,
            cast(null as varchar) as co_troca_documento,
            'deleted' as co_motivo,
            cast(null as varchar) as st_documento,
            dt_exclusao,
            dt_instante
        from fate
        where tp_destino = 'removed' and st_composition = 'deleted'
    ),

    cancelled as (
        select
            id_dose(id_documento, 0) as co_documento,
            cast(null as varchar) as co_troca_documento,
            'entered-in-error' as co_motivo,
            'entered-in-error' as st_documento,
            dt_instante as dt_exclusao,
            dt_instante
        from fate
        where tp_destino = 'removed' and st_composition is distinct from 'deleted'
    ),

    -- Of documents that replace each other the newest stays: readers must not be told to remove it.
    living as (
        select co_chave from fate where tp_destino = 'alive'
    ),

    replaced as (
        select
            id_dose(ultimo_segmento(tx_substitui), 0) as co_documento,
            id_dose(id_documento, 0) as co_troca_documento,
            'replaced' as co_motivo,
            'entered-in-error' as st_documento,
            dt_instante as dt_exclusao,
            dt_instante
        from fate
        anti join living on fate.co_chave_substituida = living.co_chave
        where tx_substitui is not null and co_chave <> co_chave_substituida and dt_instante is not null
    ),

    stated as (
        select *, 0 as nu_preferencia from deleted
        union all
        select *, 2 as nu_preferencia from cancelled
        union all
        select *, 1 as nu_preferencia from replaced
    ),

    ranked as (
        select
            co_documento,
            case when not id_com_identificador(co_troca_documento) then co_troca_documento end as co_troca_documento,
            co_motivo,
            st_documento,
            dt_exclusao,
            dt_instante,
            row_number() over (
                partition by co_documento
                order by nu_preferencia asc, dt_instante desc, stated.co_troca_documento asc
            ) as nu_ordem
        from stated
        -- A document whose id is somebody's number was never published, so there is nothing to remove.
        where
            regexp_full_match(co_documento, '[A-Za-z0-9][A-Za-z0-9.-]{0,63}-i[0-9]{1,3}b[0-9]{1,3}')
            and not id_com_identificador(co_documento)
    )

    select
        co_documento,
        co_troca_documento,
        st_documento,
        data_hora(dt_exclusao) as dt_deletado_rnds,
        co_motivo,
        data_hora(dt_instante) as dt_entrada_rnds
    from ranked
    where nu_ordem = 1
    order by co_documento
)
to $destination (format parquet, compression zstd)
