-- Who replaces whom among the unique documents of the day: named by `Composition.relatesTo` (code `replaces`), or by the same
-- `Bundle.identifier` of a requester (BRRNDS-n), where the newer one takes the place of the older.
-- Source: RNDS integration guide, replacement of a clinical document.
-- reads:  stg_document, int_duplicate
-- writes: int_replaces
-- grain:  nu_novo, nu_antigo
create or replace temp table int_replaces as
with document as (
    select * from stg_document anti join int_duplicate using (nu_documento)
),

named as (
    select novo.nu_documento as nu_novo, antigo.nu_documento as nu_antigo
    from document as novo
    inner join document as antigo on novo.co_chave_substituida = antigo.co_chave
    where novo.nu_documento <> antigo.nu_documento
),

-- What is named comes first. Of the documents that nobody names and that are not cancelled, the newest of an identifier stays.
head as (
    select document.*
    from document
    anti join named on document.nu_documento = named.nu_antigo
    where document.co_linhagem is not null and document.st_composition is distinct from 'entered-in-error'
),

shared_identifier as (
    select co_linhagem
    from head
    group by co_linhagem
    having count(*) > 1
),

lineage as (
    select
        head.nu_documento as nu_antigo,
        lead(head.nu_documento) over (
            partition by head.co_linhagem
            order by head.dt_instante nulls first, head.nu_versao, head.co_chave
        ) as nu_novo
    from head
    inner join shared_identifier on head.co_linhagem = shared_identifier.co_linhagem
)

select nu_novo, nu_antigo from named
union
select nu_novo, nu_antigo
from lineage
where nu_novo is not null
