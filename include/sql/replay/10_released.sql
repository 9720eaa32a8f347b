-- Doses that would be published today: in the table of doses, and taken out by no rule.
-- reads:  $dose, dose_reprovada
-- writes: (rows)
-- grain:  nu_parte, nu_linha, nu_dose
-- params: $dose text
select dose.nu_parte, dose.nu_linha, dose.nu_dose
from read_parquet($dose) as dose
anti join dose_reprovada as bad
    on dose.nu_parte = bad.nu_parte and dose.nu_linha = bad.nu_linha and dose.nu_dose = bad.nu_dose
order by dose.nu_parte, dose.nu_linha, dose.nu_dose
