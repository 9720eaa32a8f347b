-- Where the rows of residents are in the body: runs of neighbouring rows, by UF and municipality of residence and document.
-- reads:  $dose, $bad_keys
-- writes: (rows)
-- grain:  nu_primeira (number of the first row in the body, from 0)
-- params: $dose text, $bad_keys text
with dose as (
    select
        in_co_uf_estabelecimento,
        co_municipio_estabelecimento,
        co_documento,
        co_municipio_paciente,
        nu_parte,
        nu_linha,
        nu_dose
    from read_parquet($dose)
),

bad_key as (select nu_parte, nu_linha, nu_dose from read_parquet($bad_keys)),

good as (
    select * from dose anti join bad_key using (nu_parte, nu_linha, nu_dose)
),

-- The order of the body: see csv_body_copy. Only narrow columns are sorted here, the rows themselves are there already.
numbered as (
    select
        co_municipio_paciente,
        co_documento,
        row_number() over (
            order by
                in_co_uf_estabelecimento, co_municipio_estabelecimento, co_documento, nu_parte, nu_linha, nu_dose
        ) - 1 as nu_linha_corpo
    from good
),

resident as (
    select
        co_municipio_paciente[:2] as co_uf,
        nu_linha_corpo,
        row_number() over (order by co_municipio_paciente, co_documento, nu_linha_corpo) as nu_residente
    from numbered
    where co_municipio_paciente is not null
),

-- A run begins where the row before, of the same UF, is not the row before in the body.
begun as (
    select
        co_uf,
        nu_linha_corpo,
        nu_residente,
        case
            when
                co_uf = lag(co_uf) over (order by nu_residente)
                and nu_linha_corpo = lag(nu_linha_corpo) over (order by nu_residente) + 1
                then 0
            else 1
        end as qt_inicio
    from resident
),

-- A plain sum over rows: `count(*) filter` as a window took 100 times the CPU (DuckDB 2.0.0).
run as (
    select
        co_uf,
        nu_linha_corpo,
        sum(qt_inicio) over (order by nu_residente rows unbounded preceding) as nu_corrida
    from begun
)

select
    co_uf,
    min(nu_linha_corpo) as nu_primeira,
    count(*) as qt
from run
group by co_uf, nu_corrida
order by nu_corrida
