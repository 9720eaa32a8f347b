-- What the engineer wants to know of the day's codes: doses with a code that its table does not have, by column. Counts, no rows.
-- reads:  $dose
-- writes: (rows)
-- grain:  ds_contagem
-- params: $dose text
with dose as (select * from read_parquet($dose)),

counted as (
    select ds_coluna || ' desconhecido' as ds_contagem, count(*) as qt
    from (
        select
            unnest(
                list_filter(
                    [
                        case when co_vacina is not null and sg_vacina is null then 'co_vacina' end,
                        case when co_dose_vacina is not null and ds_dose_vacina is null then 'co_dose_vacina' end,
                        case when co_local_aplicacao is not null and ds_local_aplicacao is null then 'co_local_aplicacao' end,
                        case when co_via_administracao is not null and ds_via_administracao is null then 'co_via_administracao' end,
                        case
                            when co_estrategia_vacinacao is not null and ds_estrategia_vacinacao is null
                                then 'co_estrategia_vacinacao'
                        end,
                        case
                            when co_vacina_grupo_atendimento is not null and ds_vacina_grupo_atendimento is null
                                then 'co_vacina_grupo_atendimento'
                        end,
                        case
                            when co_vacina_fabricante is not null and ds_vacina_fabricante is null then 'co_vacina_fabricante'
                        end
                    ],
                    lambda c: c is not null
                )
            ) as ds_coluna
        from dose
    )
    group by ds_coluna
)

select ds_contagem, qt
from counted
order by ds_contagem
