-- Landed lines that are another copy or an older version of a document that is there with a newer one.
-- A version from outside the day never hides one of the day. The order is total: instant, version, then content; equal content
-- in two lines is decided by the landing order.
-- Only keys seen twice are sorted.
-- reads:  stg_document
-- writes: int_duplicate
-- grain:  nu_documento of the losers
create or replace temp table int_duplicate as
with document as (select * from stg_document),

seen_twice as (
    select co_chave
    from document
    group by co_chave
    having count(*) > 1
),

ranked as (
    select
        document.nu_documento,
        row_number() over (
            partition by document.co_chave
            order by
                list_contains(document.ds_motivos, 'LAST_UPDATED_OUTSIDE_DAY') asc,
                document.dt_instante desc nulls last,
                document.nu_versao desc,
                document.nu_hash desc,
                document.nu_documento asc
        ) as nu_ordem
    from document
    inner join seen_twice on document.co_chave = seen_twice.co_chave
)

select nu_documento
from ranked
where nu_ordem > 1
