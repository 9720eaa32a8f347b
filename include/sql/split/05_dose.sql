-- The columns of the table of doses; no rows.
-- reads:  $dose
-- writes: (rows)
-- grain:  nu_parte, nu_linha, nu_dose
-- params: $dose text
select *
from read_parquet($dose)
where false
