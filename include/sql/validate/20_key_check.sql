-- Whether the physical key names one row: the table of doses and the structural quarantine share one key space.
-- reads:  imunizacao_dose, $quarantine
-- writes: (one row)
-- params: $quarantine text
with every_key as (
    select nu_parte, nu_linha, nu_dose from imunizacao_dose
    union all
    select nu_parte, nu_linha, nu_dose from read_parquet($quarantine)
),

repeated as (
    select nu_parte, nu_linha, nu_dose
    from every_key
    group by nu_parte, nu_linha, nu_dose
    having count(*) > 1
)

select
    (select count(*) from every_key where nu_parte is null or nu_linha is null or nu_dose is null) as qt_sem_chave,
    (select count(*) from repeated) as qt_repetidas
