-- Documents by profile generation, by the name of each profile that the table of generations does not know, and those of other
-- types than RIA by type. Repeated documents count once; a document that waits in quarantine counts like any other: a new profile
-- may be the reason.
-- Names come from outside: what is no name is not shown, long numbers are masked, the 50 most frequent profiles have a line.
-- reads:  $raw_document, raw_any_shape_document, raw_any_shape_dose, int_fate
-- writes: (rows)
-- grain:  ds_contagem
-- params: $raw_document text[], $perfis text[] and $geracoes text[] (pairs, the first of a name counts)
with known as (
    select no_perfil, first(ds_geracao order by nu_ordem) as ds_geracao
    from (
        select
            unnest(cast($perfis as varchar[])) as no_perfil,
            unnest(cast($geracoes as varchar[])) as ds_geracao,
            unnest(range(len(cast($perfis as varchar[])))) as nu_ordem
    )
    group by no_perfil
),

raw_document as (
    select (cast(nu_parte as bigint) << 32) + file_row_number as nu_documento, tx_perfil_immunization
    from read_parquet($raw_document, file_row_number = true)
),

document as (
    select nu_documento, in_forma, tx_perfil_composition
    from int_fate
    where
        tp_destino not in ('duplicate', 'other')
        and not list_has_any(ds_motivos, ['JSON_INVALID', 'NOT_A_DOCUMENT', 'COMPOSITION_INVALID'])
),

any_shape as (
    select nu_documento, list(distinct tx_perfil_immunization order by tx_perfil_immunization) as tx_perfis
    from raw_any_shape_dose
    group by nu_documento
),

-- Few different pairs, whatever the number of documents.
pair as (
    select document.tx_perfil_composition, [raw_document.tx_perfil_immunization] as tx_perfis, count(*) as qt
    from document
    inner join raw_document on document.nu_documento = raw_document.nu_documento
    where document.in_forma
    group by document.tx_perfil_composition, raw_document.tx_perfil_immunization

    union all

    select document.tx_perfil_composition, any_shape.tx_perfis, count(*) as qt
    from document
    left join any_shape on document.nu_documento = any_shape.nu_documento
    where not document.in_forma
    group by document.tx_perfil_composition, any_shape.tx_perfis
),

numbered as materialized (
    select
        row_number() over () as nu_par,
        qt,
        tx_perfil_composition,
        list_distinct([tx_perfil_composition] || coalesce(tx_perfis, [])) as tx_perfis
    from pair
),

named as (
    select
        nu_par,
        qt,
        coalesce(tx_perfil = tx_perfil_composition, false) as in_composition,
        -- `https://…/<name>|<version>`: the address and a pinned version are not part of the name.
        regexp_extract(tx_perfil, '([^/|]*)(\|[^/]*)?$', 1) as no_perfil
    from (
        select nu_par, qt, tx_perfil_composition, unnest(tx_perfis) as tx_perfil
        from numbered
    )
),

judged as (
    select
        named.nu_par,
        named.qt,
        named.in_composition,
        known.ds_geracao,
        case
            when known.no_perfil is not null then null
            when regexp_full_match(named.no_perfil, '[A-Za-z][A-Za-z0-9_.:-]{0,63}')
                then regexp_replace(named.no_perfil, '[0-9]([._:-]?[0-9]){7,}', '***', 'g')
            else '(ilegível)'
        end as no_desconhecido
    from named
    left join known on named.no_perfil = known.no_perfil
),

generation as (
    select
        numbered.nu_par,
        any_value(numbered.qt) as qt,
        min(judged.ds_geracao) as ds_geracao
    from numbered
    -- The Composition says which generation it is; only where it says nothing, the doses do.
    left join judged
        on numbered.nu_par = judged.nu_par and (judged.in_composition or numbered.tx_perfil_composition is null)
    group by numbered.nu_par
),

ranked as (
    select no_desconhecido, qt, row_number() over (order by qt desc, no_desconhecido asc) as nu_ordem
    from (
        select no_desconhecido, sum(qt) as qt
        from (select distinct nu_par, qt, no_desconhecido from judged where no_desconhecido is not null)
        group by no_desconhecido
    )
),

-- Codes of BRTipoDocumento are a few letters.
other_type as (
    select
        case when regexp_full_match(tp_documento, '[A-Za-z]{1,8}') then tp_documento else '(ilegível)' end as no_tipo,
        count(*) as qt,
        row_number() over (order by count(*) desc, no_tipo) as nu_ordem
    from int_fate
    where tp_destino = 'other'
    group by no_tipo
),

counted as (
    select 'geração ' || coalesce(ds_geracao, 'desconhecida') as ds_contagem, qt
    from generation

    union all

    select 'perfil desconhecido ' || case when nu_ordem <= 50 then no_desconhecido else '(outros)' end as ds_contagem, qt
    from ranked

    union all

    select 'documento de outro tipo ' || case when nu_ordem <= 50 then no_tipo else '(outros)' end as ds_contagem, qt
    from other_type
)

select ds_contagem, cast(sum(qt) as bigint) as qt
from counted
group by ds_contagem
order by ds_contagem
