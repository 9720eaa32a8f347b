-- Doses of the day by UF, vaccine, strategy and dose code. A code that its table does not have is counted, not named: it is text
-- from outside.
-- reads:  imunizacao_dose
-- writes: contagem
-- grain:  ds_dimensao, co_valor
create or replace temp table contagem as
with dose as (
    select
        coalesce(in_co_uf_estabelecimento, '-') as co_uf,
        case when sg_vacina is not null then co_vacina when co_vacina is null then '-' else '?' end as co_vacina,
        case
            when ds_estrategia_vacinacao is not null then co_estrategia_vacinacao
            when co_estrategia_vacinacao is null then '-'
            else '?'
        end as co_estrategia,
        case when ds_dose_vacina is not null then co_dose_vacina when co_dose_vacina is null then '-' else '?' end as co_dose
    from imunizacao_dose
),

counted as (
    select 'uf' as ds_dimensao, co_uf as co_valor, count(*) as qt_doses
    from dose
    group by co_uf
    union all
    select 'vacina' as ds_dimensao, co_vacina as co_valor, count(*) as qt_doses
    from dose
    group by co_vacina
    union all
    select 'estrategia' as ds_dimensao, co_estrategia as co_valor, count(*) as qt_doses
    from dose
    group by co_estrategia
    union all
    select 'dose' as ds_dimensao, co_dose as co_valor, count(*) as qt_doses
    from dose
    group by co_dose
)

select ds_dimensao, coalesce(co_valor, '-') as co_valor, cast(sum(qt_doses) as bigint) as qt_doses
from counted
group by ds_dimensao, coalesce(co_valor, '-')
