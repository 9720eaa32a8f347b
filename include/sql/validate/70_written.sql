-- Rows of the files that the stage wrote, counted in the files themselves.
-- writes: (one row)
-- params: $quarantine text, $bad_keys text
select
    (select count(*) from read_parquet($quarantine)) as qt_quarantine,
    (select count(*) from read_parquet($bad_keys)) as qt_bad_keys,
    (select count(*) from read_parquet($quarantine) where len(ds_motivos) = 0) as qt_sem_motivo
