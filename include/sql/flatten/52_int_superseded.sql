-- Documents that another document of the same day takes the place of. In a cycle (A replaces B, B replaces A) the newest one
-- stays, unless a document outside the cycle replaces it.
-- reads:  stg_document, int_replaces, int_reach
-- writes: int_superseded
-- grain:  nu_documento
create or replace temp table int_superseded as
with document as (select * from stg_document),

edge as (
    select
        int_replaces.nu_novo,
        int_replaces.nu_antigo,
        back.nu_de is not null as in_ciclo
    from int_replaces
    left join int_reach as back
        on int_replaces.nu_antigo = back.nu_de and int_replaces.nu_novo = back.nu_ate
),

replaced_from_outside as (
    select nu_antigo as nu_documento
    from edge
    where not in_ciclo
),

in_cycle as (
    select nu_de as nu_documento
    from int_reach
    where nu_de = nu_ate
),

-- Every pair of the same cycle: each reaches the other.
beaten_in_cycle as (
    select este.nu_documento
    from in_cycle
    inner join document as este on in_cycle.nu_documento = este.nu_documento
    inner join int_reach as there on este.nu_documento = there.nu_de
    inner join int_reach as back on there.nu_ate = back.nu_de and back.nu_ate = este.nu_documento
    inner join document as outro on there.nu_ate = outro.nu_documento
    where
        outro.nu_documento <> este.nu_documento
        and (coalesce(outro.dt_instante, '-infinity'), outro.nu_versao, outro.co_chave)
        > (coalesce(este.dt_instante, '-infinity'), este.nu_versao, este.co_chave)
)

select nu_documento from replaced_from_outside
union
select nu_documento from beaten_in_cycle
