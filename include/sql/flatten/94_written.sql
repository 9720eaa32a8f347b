-- Rows of the three files that the stage wrote, counted in the files themselves.
-- writes: (one row)
-- params: $dose text, $quarantine text, $removed text
select
    (select count(*) from read_parquet($dose)) as qt_dose,
    (select count(*) from read_parquet($quarantine)) as qt_quarantine,
    (select count(*) from read_parquet($removed)) as qt_removed
