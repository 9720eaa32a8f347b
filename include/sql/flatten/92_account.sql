-- The account of the day before any rule: documents and doses, each in exactly one place.
-- reads:  int_fate, int_dose_key, raw_rejected
-- writes: (one row)
select
    (select count(*) from int_fate) + (select count(*) from raw_rejected) as qt_fetched,
    (select count(*) from int_fate where tp_destino <> 'duplicate')
    + (select count(*) from raw_rejected where not in_repetido) as qt_unique,
    (select count(*) from int_fate where tp_destino = 'duplicate')
    + (select count(*) from raw_rejected where in_repetido) as qt_duplicates,
    (select coalesce(sum(qt_doses), 0) from int_fate where tp_destino <> 'duplicate')
    + (select count(*) from raw_rejected where not in_repetido) as qt_doses,
    (select count(*) from int_dose_key where len(ds_motivos) = 0) as qt_candidates,
    (select count(*) from int_dose_key where len(ds_motivos) > 0)
    + (select count(*) from raw_rejected where not in_repetido) as qt_quarantined,
    (select coalesce(sum(qt_doses), 0) from int_fate where tp_destino = 'superseded') as qt_superseded,
    (select coalesce(sum(qt_doses), 0) from int_fate where tp_destino = 'removed') as qt_removed,
    (select count(*) from int_fate where not in_forma) as qt_any_shape
