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

shared_identifier as (
    select co_linhagem
    from document
    where co_linhagem is not null
    group by co_linhagem
    having count(*) > 1
),

lineage as (
    select
        document.nu_documento as nu_antigo,
        lead(document.nu_documento) over (
            partition by document.co_linhagem
            order by document.dt_instante nulls first, document.nu_versao, document.co_chave
        ) as nu_novo
    from document
    inner join shared_identifier on document.co_linhagem = shared_identifier.co_linhagem
),

-- A lineage pair that contradicts a named replacement of the same two documents gives way to it.
lineage_only as (
    select lineage.nu_novo, lineage.nu_antigo
    from lineage
    anti join named on lineage.nu_novo = named.nu_antigo and lineage.nu_antigo = named.nu_novo
    where lineage.nu_novo is not null
)

select nu_novo, nu_antigo from named
union
select nu_novo, nu_antigo from lineage_only
