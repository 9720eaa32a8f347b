-- The day by UF of the establishment, all 27 of them: what the rules per UF judge.
-- reads:  contagem, historico_dia, historico_contagem
-- writes: resumo_uf (not temporary: Great Expectations reads it over a connection of its own)
-- grain:  co_uf
create or replace table resumo_uf as
with uf as (
    select ufs.co_uf, ufs.sg_uf
    from (
        values
        ('11', 'RO'), ('12', 'AC'), ('13', 'AM'), ('14', 'RR'), ('15', 'PA'), ('16', 'AP'), ('17', 'TO'),
        ('21', 'MA'), ('22', 'PI'), ('23', 'CE'), ('24', 'RN'), ('25', 'PB'), ('26', 'PE'), ('27', 'AL'), ('28', 'SE'), ('29', 'BA'),
        ('31', 'MG'), ('32', 'ES'), ('33', 'RJ'), ('35', 'SP'),
        ('41', 'PR'), ('42', 'SC'), ('43', 'RS'),
        ('50', 'MS'), ('51', 'MT'), ('52', 'GO'), ('53', 'DF')
    ) as ufs (co_uf, sg_uf)
),

today as (select co_valor as co_uf, qt_doses from contagem where ds_dimensao = 'uf'),

before as (select dt_dia, co_valor as co_uf, qt_doses from historico_contagem where ds_dimensao = 'uf'),

-- A day on which the UF had no dose counts as 0, it is not left out.
history as (
    select uf.co_uf, count(historico_dia.dt_dia) as qt_historico_dias, median(coalesce(before.qt_doses, 0)) as qt_historico_mediana
    from uf
    cross join historico_dia
    left join before on historico_dia.dt_dia = before.dt_dia and uf.co_uf = before.co_uf
    group by uf.co_uf
)

select
    uf.co_uf,
    uf.sg_uf,
    coalesce(today.qt_doses, 0) as qt_doses,
    coalesce(history.qt_historico_dias, 0) as qt_historico_dias,
    history.qt_historico_mediana,
    100.0 * coalesce(today.qt_doses, 0) / nullif(history.qt_historico_mediana, 0) as pc_historico
from uf
left join today on uf.co_uf = today.co_uf
left join history on uf.co_uf = history.co_uf
order by uf.co_uf
