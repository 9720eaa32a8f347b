-- Every landed line with its identity, its version and what it says of other documents. Narrow on purpose: the steps that decide
-- about documents (duplicates, replacements, removals) move keys, never rows.
-- A line that tells of a deleted document has the status `deleted`. Its instant is that of the deletion where the source states
-- one before the end of the day, else the last microsecond of the day: a list of deletions goes on until it was made, and the day
-- must not depend on when it was asked for. Of two lines with one instant the deletion is the later one.
-- A document that says that it is of another type than RIA, and has no Immunization, is none of ours (exams, discharge letters):
-- it holds no dose, so it is in no quarantine and takes nobody's place. Source: BRTipoDocumento of the RNDS.
-- reads:  $raw_document, raw_any_shape_document
-- writes: stg_document
-- grain:  landed line (nu_documento = part in the upper 32 bits, line from 0 in the lower)
-- params: $raw_document text[], $day_start text, $day_end text (instants of the half-open day)
create or replace temp table stg_document as
with raw_document as (
    select *, (cast(nu_parte as bigint) << 32) + file_row_number as nu_documento
    from read_parquet($raw_document, file_row_number = true)
),

any_shape as (select * from raw_any_shape_document),

joined as (
    select
        raw_document.nu_documento,
        raw_document.in_json,
        raw_document.in_forma,
        raw_document.nu_hash,
        raw_document.tp_recurso,
        raw_document.tp_bundle,
        raw_document.tx_identifier_system,
        raw_document.tx_identifier_value,
        coalesce(any_shape.in_excluido, false) as in_excluido,
        case
            when instante(any_shape.tx_excluido) < cast($day_end as timestamptz) then instante(any_shape.tx_excluido)
        end as dt_exclusao,
        case
            when any_shape.in_excluido
                then coalesce(dt_exclusao, cast($day_end as timestamptz) - interval 1 microsecond)
            else instante(raw_document.tx_last_updated)
        end as dt_instante,
        case
            when any_shape.in_excluido then 9223372036854775807
            else coalesce(try_cast(raw_document.tx_version_id as bigint), 0)
        end as nu_versao,
        coalesce(
            case
                when contains(raw_document.tx_full_url, '/')
                    then nullif(ultimo_segmento(raw_document.tx_full_url), '')
            end,
            nullif(raw_document.id_bundle, ''),
            nullif(
                case when raw_document.in_forma then raw_document.id_composition else any_shape.id_composition end, ''
            )
        ) as id_documento,
        case when raw_document.in_forma then 1 else coalesce(any_shape.qt_doses, 0) end as qt_doses,
        case when raw_document.in_forma then 1 else coalesce(any_shape.qt_composition, 0) end as qt_composition,
        coalesce(
            any_shape.qt_composition = 1 and any_shape.qt_doses = 0 and texto(any_shape.tp_documento) <> 'RIA', false
        ) as in_outro_tipo,
        any_shape.tp_documento,
        case
            when raw_document.in_forma then raw_document.st_composition
            when any_shape.in_excluido then 'deleted'
            else any_shape.st_composition
        end as st_composition,
        case when raw_document.in_forma then raw_document.tp_relates_to else any_shape.tp_relates_to end as tp_relates_to,
        case when raw_document.in_forma then raw_document.tx_relates_to else any_shape.tx_relates_to end as tx_relates_to,
        case
            when raw_document.in_forma then raw_document.tx_perfil_composition else any_shape.tx_perfil_composition
        end as tx_perfil_composition
    from raw_document
    left join any_shape on raw_document.nu_documento = any_shape.nu_documento
)

select
    nu_documento,
    nu_hash,
    in_forma,
    dt_instante,
    dt_exclusao,
    nu_versao,
    id_documento,
    -- A line without any id is its own document; two lines with the same bytes are still one.
    coalesce(nullif(base_documento(id_documento), ''), 'sem-id:' || cast(nu_hash as varchar)) as co_chave,
    case when in_outro_tipo then 0 else greatest(qt_doses, 1) end as qt_doses,
    in_outro_tipo,
    case when in_outro_tipo then tp_documento end as tp_documento,
    st_composition,
    tx_perfil_composition,
    case
        when contains(tx_identifier_system, '/BRRNDS-') and tx_identifier_value <> '' and not in_outro_tipo
            then tx_identifier_system || '|' || tx_identifier_value
    end as co_linhagem,
    case when tp_relates_to = 'replaces' and not in_outro_tipo then nullif(texto(tx_relates_to), '') end as tx_substitui,
    case
        when tp_relates_to = 'replaces' and not in_outro_tipo then nullif(base_documento(tx_relates_to), '')
    end as co_chave_substituida,
    list_filter(
        [
            case when not in_json then 'JSON_INVALID' end,
            case
                when in_json and not in_excluido and not coalesce(tp_recurso = 'Bundle' and tp_bundle = 'document', false)
                    then 'NOT_A_DOCUMENT'
            end,
            case when in_json and id_documento is null then 'ID_MISSING' end,
            -- Ids are published and logged. One that is somebody's number stays inside with its document.
            case when id_com_identificador(id_documento) then 'ID_IDENTIFIES_PERSON' end,
            case when in_json and dt_instante is null then 'LAST_UPDATED_INVALID' end,
            case
                when dt_instante < cast($day_start as timestamptz) or dt_instante >= cast($day_end as timestamptz)
                    then 'LAST_UPDATED_OUTSIDE_DAY'
            end,
            case when in_json and not in_excluido and qt_composition <> 1 then 'COMPOSITION_INVALID' end,
            case
                when qt_composition = 1 and coalesce(st_composition, '') not in ('final', 'entered-in-error')
                    then 'STATUS_UNKNOWN'
            end,
            case when in_json and not in_excluido and qt_doses = 0 then 'DOSE_MISSING' end
        ],
        lambda motivo: motivo is not null
    ) as ds_motivos
from joined
