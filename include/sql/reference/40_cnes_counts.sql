-- What was read: lines, lines without a usable CNES, establishments and what is known of them.
-- reads:  raw_cnes, stg_cnes, int_cnes
-- writes: (one row)
-- grain:  one row
with raw_cnes as (select count(*) as qt from main.raw_cnes),

stg_cnes as (select count(*) as qt from main.stg_cnes),

int_cnes as (
    select
        count(*) as qt,
        count(*) filter (co_motivo_desab is null) as qt_ativos,
        count(*) filter (co_municipio_6 is null) as qt_sem_municipio,
        count(*) filter (in_municipio_do_gestor) as qt_municipio_do_gestor
    from main.int_cnes
)

select
    raw_cnes.qt as qt_linhas,
    raw_cnes.qt - stg_cnes.qt as qt_sem_cnes,
    stg_cnes.qt - int_cnes.qt as qt_repetidos,
    int_cnes.qt as qt_estabelecimentos,
    int_cnes.qt_ativos,
    int_cnes.qt_sem_municipio,
    int_cnes.qt_municipio_do_gestor
from raw_cnes, stg_cnes, int_cnes
